package pheromones_test

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Blockchain-CN/pheromones"
	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/mux"
	"github.com/Blockchain-CN/pheromones/nat/punch"
	"github.com/Blockchain-CN/pheromones/nat/relay"
	"github.com/Blockchain-CN/pheromones/protocol"
	"github.com/Blockchain-CN/pheromones/router"
	"github.com/Blockchain-CN/pheromones/transport"
)

// fenced is a mux transport behind a NAT of sorts: Dial reaches one address only.
type fenced struct {
	*mux.Transport
	to transport.Addr
}

func (f fenced) Dial(ctx context.Context, a transport.Addr) (transport.Conn, error) {
	if a.HostPort != f.to.HostPort {
		return nil, &transport.OpError{Op: "dial", Addr: a, Err: errors.New("a NAT is in the way")}
	}
	return f.Transport.Dial(ctx, a)
}

// fencedNode returns a node that joins another, which is all that it can dial.
func fencedNode(t *testing.T, to *pheromones.Node, handler protocol.HandlerFunc) *pheromones.Node {
	t.Helper()
	key, err := identity.Generate()
	if err != nil {
		t.Fatal(err)
	}
	tr, err := mux.New(key, nil)
	if err != nil {
		t.Fatal(err)
	}
	cfg := pheromones.Config{Transports: []transport.Transport{fenced{tr, to.Addrs()[0]}}, Join: to.Addrs()[:1], Handler: handler}
	n, err := pheromones.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	if err := n.Start(t.Context(), "mux://127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	if err := n.Joined(t.Context()); err != nil {
		t.Fatal(err)
	}
	return n
}

// listensAt returns the address that a node listens at.
func listensAt(t *testing.T, n *pheromones.Node) string {
	t.Helper()
	for _, a := range n.Addrs() {
		if a.Scheme == mux.Scheme {
			return a.HostPort
		}
	}
	t.Fatalf("the node listens at %v", n.Addrs())
	return ""
}

// TestMeet: two nodes that have mux alone, and talk through a relay, get a link from port to port, and no request is lost on the way.
func TestMeet(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("listeners dial from their ports on Linux alone")
	}
	r := relayNode(t, pheromones.Config{Relay: &relay.Config{}}, "mux")
	var runs atomic.Uint64
	a := fencedNode(t, r, nil)
	b := fencedNode(t, r, func(_ context.Context, m protocol.Message) (protocol.Message, error) {
		runs.Add(1)
		return protocol.Message{Operation: "echo", Data: m.Data}, nil
	})
	events := a.Watch()
	defer events.Close()
	var met atomic.Bool
	var asked atomic.Uint64
	var asking sync.WaitGroup
	defer asking.Wait()
	for range 8 {
		asking.Go(func() {
			for after := 0; after < 100; { // and some requests over the new link
				data := binary.BigEndian.AppendUint64(nil, asked.Add(1))
				reply, err := a.Dispatch(context.Background(), b.ID().String(), protocol.Message{Operation: "echo", Data: data})
				if err != nil || string(reply.Data) != string(data) {
					t.Errorf("a request beside the change: %v, %q", err, reply.Data)
					return
				}
				if met.Load() {
					after++
				}
			}
		})
	}
	timeout := time.After(30 * time.Second)
	var preferred router.Link
	for !met.Load() {
		select {
		case e := <-events.C():
			if e.Kind == router.LinkPreferred && e.Route.ID == b.ID() && e.Link.Addr.Scheme == mux.Scheme {
				preferred = e.Link
				met.Store(true)
			}
		case <-timeout:
			met.Store(true)
			t.Fatalf("no direct link; the routes are %+v", a.Routes())
		}
	}
	asking.Wait()
	if runs.Load() != asked.Load() {
		t.Errorf("%d requests were executed %d times", asked.Load(), runs.Load())
	}
	if preferred.Addr.HostPort != listensAt(t, b) || !preferred.Dialer {
		t.Errorf("the link is %+v, want one with the port %s, dialled from here", preferred, listensAt(t, b))
	}
	for _, route := range b.Routes() {
		for _, l := range route.Links {
			if route.ID == a.ID() && l.Preferred && (l.Addr.HostPort != listensAt(t, a) || l.Dialer) {
				t.Errorf("the peer has a link %+v, want one with the port %s, dialled there", l, listensAt(t, a))
			}
		}
	}
}

// portStream opens a stream by which ports are asked about, to a node at an address, and says something on it.
func portStream(t *testing.T, at transport.Addr, say ...punch.Message) (transport.Conn, transport.Stream) {
	t.Helper()
	key, err := identity.Generate()
	if err != nil {
		t.Fatal(err)
	}
	tr, err := mux.New(key, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tr.Close() })
	c, err := tr.Dial(t.Context(), at)
	if err != nil {
		t.Fatal(err)
	}
	s, err := c.OpenStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b, err := protocol.AppendService(nil, punch.PortService)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range say {
		b = m.Append(b)
	}
	if _, err := s.Write(b); err != nil {
		t.Fatal(err)
	}
	s.SetReadDeadline(time.Now().Add(10 * time.Second))
	return c, s
}

// TestPortSeen: a node says from where it sees a connection, to whoever asks on it, and dials nobody for a peer that it does not talk to
// through a relay.
func TestPortSeen(t *testing.T) {
	n := relayNode(t, pheromones.Config{}, "mux")
	c, s := portStream(t, n.Addrs()[0], punch.Message{Type: punch.Ping})
	m, err := punch.Read(s)
	if want := c.Info().LocalAddr.HostPort; err != nil || m.Type != punch.Follows || len(m.Addrs) != 1 || m.Addrs[0].String() != want {
		t.Errorf("got %+v, %v, want the address %s", m, err, want)
	}

	victim, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer victim.Close()
	offer := punch.Message{Type: punch.Offer, Session: punch.Session{0x80}, Addrs: []netip.AddrPort{netip.MustParseAddrPort(victim.Addr().String())}}
	_, s = portStream(t, n.Addrs()[0], offer)
	_, err = punch.Read(s)
	var reset *transport.ResetError
	if !errors.As(err, &reset) || reset.Code != transport.CodeRefused {
		t.Errorf("an offer on a direct link: got %v, want a reset with code refused", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	context.AfterFunc(ctx, func() { victim.Close() })
	if _, err := victim.Accept(); err == nil {
		t.Error("a node dialled an address that a peer named on a direct link")
	}
}
