//go:build linux && natlab

package natlab

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"testing"
	"time"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/mux"
	"github.com/Blockchain-CN/pheromones/transport"
)

// TestSimultaneousOpen: two hosts behind NATs that keep ports, or firewalls, get one connection of TCP when both dial from the
// ports that they listen at.
func TestSimultaneousOpen(t *testing.T) {
	lab := newLab(t)
	type side struct {
		host    *Host
		outside netip.Addr
	}
	behind := func(n NAT) side {
		r := must(lab.Router(n))
		h := must(r.Host())
		if n.Mapping == None {
			return side{h, h.Addr()}
		}
		return side{h, r.Outside()}
	}
	for _, test := range []struct {
		name string
		a, b side
	}{
		{"firewall, firewall", behind(firewall), behind(firewall)},
		{"port-restricted, port-restricted", behind(portRestricted), behind(portRestricted)},
		{"firewall, port-restricted", behind(firewall), behind(portRestricted)},
		{"full cone, port-restricted", behind(fullCone), behind(portRestricted)},
		{"UDP blocked, UDP blocked", behind(noUDP), behind(noUDP)},
	} {
		for i, pause := range []time.Duration{0, 5 * time.Millisecond, 50 * time.Millisecond, 200 * time.Millisecond} {
			t.Run(fmt.Sprint(test.name, ", ", pause), func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
				defer cancel()
				var listeners [2]transport.Listener
				var addrs [2]transport.Addr
				for j, s := range []side{test.a, test.b} {
					key := must(identity.Generate())
					m := must(mux.New(key, nil))
					t.Cleanup(func() { m.Close() })
					at := transport.Addr{Scheme: mux.Scheme, HostPort: fmt.Sprintf("%s:%d", s.host.Addr(), 5000+i)}
					if err := s.host.Do(func() (err error) {
						listeners[j], err = m.Listen(ctx, at)
						return err
					}); err != nil {
						t.Fatal(err)
					}
					addrs[j] = transport.Addr{Scheme: mux.Scheme, HostPort: fmt.Sprintf("%s:%d", s.outside, 5000+i), Peer: key.ID()}
				}
				type outcome struct {
					c   transport.Conn
					err error
				}
				start := time.Now()
				var took [2]time.Duration
				var done [2]chan outcome
				for j, s := range []side{test.a, test.b} {
					done[j] = make(chan outcome, 1)
					go func() {
						if j == 1 {
							<-time.After(pause)
						}
						var o outcome
						if err := s.host.Do(func() error {
							o.c, o.err = listeners[j].(transport.PortDialer).DialFrom(ctx, addrs[1-j], j == i%2)
							return nil
						}); err != nil {
							o.err = err
						}
						took[j] = time.Since(start)
						done[j] <- o
					}()
				}
				a, b := <-done[0], <-done[1]
				if b.err != nil && a.err == nil { // the NAT let the other one in as an ordinary dialler
					t.Logf("the second: %v", b.err)
					b.c, b.err = listeners[1].Accept(ctx)
				}
				if a.err != nil || b.err != nil {
					t.Fatalf("%v; %v", a.err, b.err)
				}
				t.Logf("connected after %v and %v", took[0], took[1])
				go func() {
					s, err := a.c.OpenStream(ctx)
					if err == nil {
						s.Write([]byte("hello"))
						s.Close()
					}
				}()
				s, err := b.c.AcceptStream(ctx)
				if err != nil {
					t.Fatal(err)
				}
				if got, err := io.ReadAll(s); string(got) != "hello" || err != nil {
					t.Errorf("read %q, %v", got, err)
				}
			})
		}
	}
}
