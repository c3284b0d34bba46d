package pheromones_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Blockchain-CN/pheromones"
	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/nat/punch"
	"github.com/Blockchain-CN/pheromones/nat/relay"
	"github.com/Blockchain-CN/pheromones/protocol"
	"github.com/Blockchain-CN/pheromones/quic"
	"github.com/Blockchain-CN/pheromones/router"
	"github.com/Blockchain-CN/pheromones/transport"
)

// natNode is a node on the simulated internet.
type natNode struct {
	*pheromones.Node
	watch *router.Watcher
	addr  string
}

func newNATNode(t *testing.T, w *internet, addr string, n *nat, cfg pheromones.Config) natNode {
	t.Helper()
	key, err := identity.Generate()
	if err != nil {
		t.Fatal(err)
	}
	q, err := quic.New(key, &quic.Config{ListenPacket: w.host(addr, n)})
	if err != nil {
		t.Fatal(err)
	}
	cfg.Handler, cfg.Transports = echo(cfg.Name), []transport.Transport{q}
	node, err := pheromones.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { node.Close() })
	if err := node.Start(t.Context(), "quic://"+addr+":4001"); err != nil {
		t.Fatal(err)
	}
	if err := node.Joined(t.Context()); err != nil {
		t.Fatal(err)
	}
	return natNode{node, node.Watch(), addr}
}

// await returns the next event of a kind.
func (n natNode) await(t *testing.T, kind router.Kind) router.Event {
	t.Helper()
	timeout := time.After(2 * time.Minute)
	for {
		select {
		case e := <-n.watch.C():
			if e.Kind == kind {
				return e
			}
		case <-timeout:
			t.Fatalf("%s: no event %q came", n.Name(), kind)
		}
	}
}

// pathOf returns the path of the link with a peer.
func (n natNode) pathOf(peer natNode) string {
	for _, r := range n.Routes() {
		for _, l := range r.Links {
			if r.ID == peer.ID() && l.Preferred {
				return l.Addr.Scheme
			}
		}
	}
	return "none"
}

// natWorld is four nodes: two behind NATs, and two relays that both have joined.
type natWorld struct {
	w          *internet
	natA, natB *nat
	relays     [2]natNode
	a, b       natNode
}

// settle moves the virtual time to where quic-go's clock is positive.
func settle() { time.Sleep(40 * 365 * 24 * time.Hour) }

func newNATWorld(t *testing.T, natA, natB [2]dependence, relays int) *natWorld {
	settle()
	w := newInternet()
	x := &natWorld{w: w, natA: w.addNAT("198.51.100.1", natA[0], natA[1]), natB: w.addNAT("198.51.100.2", natB[0], natB[1])}
	var join []transport.Addr
	for i := range relays {
		x.relays[i] = newNATNode(t, w, fmt.Sprintf("203.0.113.%d", i+1), nil, pheromones.Config{Name: fmt.Sprint("relay ", i), Relay: &relay.Config{Rate: -1, PeerRate: -1}})
		join = append(join, x.relays[i].Addrs()[0])
	}
	x.a = newNATNode(t, w, "10.0.1.2", x.natA, pheromones.Config{Name: "a", Join: join})
	x.b = newNATNode(t, w, "10.0.2.2", x.natB, pheromones.Config{Name: "b", Join: join})
	time.Sleep(time.Second) // of virtual time: the nodes learn how they look from outside
	return x
}

// TestUpgrade measures how soon two nodes behind NATs talk, and how soon directly.
func TestUpgrade(t *testing.T) {
	cone, restricted, portRestricted := [2]dependence{}, [2]dependence{0, addressDependent}, [2]dependence{0, addressAndPortDependent}
	symmetric := [2]dependence{addressAndPortDependent, addressAndPortDependent}
	for _, tt := range []struct {
		name       string
		natA, natB [2]dependence
		direct     bool
	}{
		{"full cone, full cone", cone, cone, true},
		{"port-restricted, port-restricted", portRestricted, portRestricted, true},
		{"restricted, port-restricted", restricted, portRestricted, true},
		{"symmetric, restricted", symmetric, restricted, true},
		{"restricted, symmetric", restricted, symmetric, true},
		{"symmetric, full cone", symmetric, cone, true},
		{"symmetric, port-restricted", symmetric, portRestricted, true},
		{"port-restricted, symmetric", portRestricted, symmetric, true},
		{"symmetric, symmetric", symmetric, symmetric, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				x := newNATWorld(t, tt.natA, tt.natB, 1)
				start := time.Now()
				m, err := x.a.Dispatch(t.Context(), x.b.ID().String(), protocol.Message{Operation: "echo", Data: []byte("hello")})
				if err != nil || string(m.Data) != "b: hello" {
					t.Fatalf("replied %q, %v", m.Data, err)
				}
				first := time.Since(start)
				if !tt.direct {
					time.Sleep(5 * time.Minute)
					for _, n := range []*nat{x.natA, x.natB} { // ports are guessed twice, and not for ever
						if made := x.mappings(n); made < punch.MaxGuesses || made > 2*(punch.MaxSockets+punch.MaxGuesses)+500 {
							t.Errorf("%d mappings were made", made)
						}
					}
					if p := x.a.pathOf(x.b); p != "relay" {
						t.Errorf("the path is %s, want a relay", p)
					}
					return
				}
				e := x.a.await(t, router.PathChanged)
				direct := time.Since(start)
				t.Logf("first reply after %v, direct after %v: %s", first, direct, e.Reason)
				if e.From.Scheme != "relay" || e.To.Scheme != "quic" || e.Reason == "" || e.To != e.Link.Addr {
					t.Errorf("the event is %+v", e)
				}
				if f := x.b.await(t, router.PathChanged); f.To.Scheme != "quic" || f.Reason == "" {
					t.Errorf("the other side's event is %+v", f)
				}
				most := 400 * time.Millisecond
				if tt.natA == symmetric && tt.natB == portRestricted || tt.natA == portRestricted && tt.natB == symmetric {
					most = 5 * time.Second // ports must be guessed
				}
				if first > 260*time.Millisecond || direct > most {
					t.Errorf("first reply after %v, want 260ms; direct after %v, want %v", first, direct, most)
				}
				if a, b := x.a.pathOf(x.b), x.b.pathOf(x.a); a != "quic" || b != "quic" {
					t.Errorf("the paths are %s and %s", a, b)
				}
				x.relays[0].Close()
				began := time.Now()
				if _, err := x.a.Dispatch(t.Context(), x.b.ID().String(), protocol.Message{Operation: "echo"}); err != nil {
					t.Error(err)
				}
				if d := time.Since(began); d > 3*crossing {
					t.Errorf("a direct exchange took %v", d)
				}
			})
		})
	}
}

// flow sends chunks of the given size both ways over one stream, one every 20 ms, for as long as during runs, compares what came
// with what was sent, and returns the longest silence on either side.
func (x *natWorld) flow(t *testing.T, size int, during func()) time.Duration {
	t.Helper()
	l, err := x.b.Listen("flow")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	near, err := x.a.Dial(t.Context(), x.b.ID().String(), "flow")
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	near.Write([]byte{1})
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	io.ReadFull(far, make([]byte, 1))
	stop := make(chan struct{})
	var silence atomic.Int64
	var wg sync.WaitGroup
	for i, way := range [][2]net.Conn{{near, far}, {far, near}} {
		sums := make(chan [32]byte, 2)
		wg.Go(func() {
			h := sha256.New()
			src := rand.NewChaCha8([32]byte{byte(i)})
			chunk := make([]byte, size)
			for {
				src.Read(chunk)
				h.Write(chunk)
				if _, err := way[0].Write(chunk); err != nil {
					t.Errorf("write: %v", err)
					break
				}
				select {
				case <-stop:
					way[0].(transport.Stream).CloseWrite()
				case <-time.After(20 * time.Millisecond):
					continue
				}
				break
			}
			sums <- [32]byte(h.Sum(nil))
		})
		wg.Go(func() {
			h := sha256.New()
			b := make([]byte, 4096)
			for last := time.Now(); ; last = time.Now() {
				n, err := way[1].Read(b)
				h.Write(b[:n])
				for d := int64(time.Since(last)); ; {
					if old := silence.Load(); d <= old || silence.CompareAndSwap(old, d) {
						break
					}
				}
				if err != nil {
					if err != io.EOF {
						t.Errorf("read: %v", err)
					}
					break
				}
			}
			sums <- [32]byte(h.Sum(nil))
			if <-sums != <-sums {
				t.Error("what came is not what was sent")
			}
		})
	}
	during()
	close(stop)
	wg.Wait()
	return time.Duration(silence.Load())
}

// TestUpgradeSurvives: a stream lives through whatever happens to the path, and is never silent for long.
func TestUpgradeSurvives(t *testing.T) {
	portRestricted := [2]dependence{independent, addressAndPortDependent}
	for _, tt := range []struct {
		name  string
		fault func(t *testing.T, x *natWorld)
		plus  time.Duration // how long the fault itself lasts
	}{
		{"the relay dies", func(t *testing.T, x *natWorld) { x.relays[0].Close(); x.relays[1].Close() }, 0},
		{"the NAT of the side that dialled rebinds", func(t *testing.T, x *natWorld) { x.w.rebind(x.natA) }, 0},
		{"the NAT of the side that accepted rebinds", func(t *testing.T, x *natWorld) { x.w.rebind(x.natB) }, 0},
		{"both NATs rebind", func(t *testing.T, x *natWorld) { x.w.rebind(x.natA); x.w.rebind(x.natB) }, 0},
		{"the side that dialled moves", func(t *testing.T, x *natWorld) {
			x.w.move("10.0.1.2", x.w.addNAT("198.51.100.11", independent, addressAndPortDependent))
		}, 0},
		{"the side that accepted moves", func(t *testing.T, x *natWorld) {
			x.w.move("10.0.2.2", x.w.addNAT("198.51.100.12", independent, addressAndPortDependent))
		}, 0},
		{"the interface of the side that dialled is down for 3 s", downFor("10.0.1.2", 3*time.Second), 3 * time.Second},
		{"the interface of the side that accepted is down for 3 s", downFor("10.0.2.2", 3*time.Second), 3 * time.Second},
		{"the interface of the side that dialled is down for 6 s", downFor("10.0.1.2", 6*time.Second), 6 * time.Second},
		{"the interface of the side that accepted is down for 6 s", downFor("10.0.2.2", 6*time.Second), 6 * time.Second},
	} {
		for _, size := range []int{2000, 16 << 10} { // the latter fills what QUIC lets be under way
			t.Run(fmt.Sprint(tt.name, ", ", size), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					x := newNATWorld(t, portRestricted, portRestricted, 2)
					silence := x.flow(t, size, func() {
						x.a.await(t, router.PathChanged)
						time.Sleep(5 * time.Second)
						tt.fault(t, x)
						time.Sleep(20 * time.Second)
						if p := x.a.pathOf(x.b); p != "quic" {
							t.Errorf("20 s later the path is %s, want the direct one", p)
						}
					})
					t.Logf("the longest silence was %v", silence)
					if silence > tt.plus+1500*time.Millisecond {
						t.Errorf("the longest silence was %v, the fault took %v", silence, tt.plus)
					}
				})
			})
		}
	}
}

func downFor(host string, d time.Duration) func(*testing.T, *natWorld) {
	return func(t *testing.T, x *natWorld) {
		x.w.setDown(host, true)
		time.Sleep(d)
		x.w.setDown(host, false)
	}
}

// TestUpgradeSockets is the whole over real sockets: a transfer both ways begins on the relayed path and outlives the relay.
func TestUpgradeSockets(t *testing.T) {
	const size = 24 << 20
	r := relayNode(t, pheromones.Config{Relay: &relay.Config{Rate: -1, PeerRate: -1}}, "quic")
	join := pheromones.Config{Join: r.Addrs()[:1]}
	b := relayNode(t, join, "quic")
	a := relayNode(t, join, "quic")
	watch := a.Watch()
	defer watch.Close()
	l, err := b.Listen("transfer")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	near, err := a.Dial(ctx, relay.Addr(r.ID(), b.ID()).String(), "transfer")
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	near.Write([]byte{1})
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	io.ReadFull(far, make([]byte, 1))
	var wg sync.WaitGroup
	var got atomic.Int64
	for i, way := range [][2]net.Conn{{near, far}, {far, near}} {
		sums := make(chan [32]byte, 2)
		wg.Go(func() {
			h := sha256.New()
			if _, err := io.CopyN(io.MultiWriter(way[0], h), rand.NewChaCha8([32]byte{byte(i)}), size); err != nil {
				t.Errorf("write: %v", err)
			}
			way[0].(transport.Stream).CloseWrite()
			sums <- [32]byte(h.Sum(nil))
		})
		wg.Go(func() {
			h := sha256.New()
			b := make([]byte, 1<<16)
			for {
				n, err := way[1].Read(b)
				h.Write(b[:n])
				got.Add(int64(n))
				if err != nil {
					break
				}
			}
			sums <- [32]byte(h.Sum(nil))
			if <-sums != <-sums {
				t.Error("what came is not what was sent")
			}
		})
	}
	sent := make(chan struct{})
	go func() {
		wg.Wait()
		close(sent)
	}()
	for changed := false; !changed; {
		select {
		case e := <-watch.C():
			if changed = e.Kind == router.PathChanged; changed {
				t.Logf("%d bytes had come when the path changed: %s", got.Load(), e.Reason)
			}
		case <-sent:
			t.Logf("the transfer was over before the path changed") // or the nodes had met directly before
			changed = true
		case <-ctx.Done():
			t.Fatal("neither has the path changed nor is the transfer over")
		}
	}
	r.Close()
	wg.Wait()
	if at := near.RemoteAddr().(transport.Addr); at.Scheme != "quic" {
		t.Errorf("the link ends at %v", at)
	}
}

// TestDirectFromTheStart: a link that began directly gets around a fault, too, if the peer can be reached through a relay.
func TestDirectFromTheStart(t *testing.T) {
	portRestricted := [2]dependence{independent, addressAndPortDependent}
	synctest.Test(t, func(t *testing.T) {
		x := newNATWorld(t, portRestricted, portRestricted, 1)
		c := newNATNode(t, x.w, "203.0.113.50", nil, pheromones.Config{Name: "c", Join: []transport.Addr{x.relays[0].Addrs()[0]}})
		time.Sleep(time.Second)
		x.b = c
		silence := x.flow(t, 2000, func() {
			time.Sleep(5 * time.Second)
			if p := x.a.pathOf(c); p != "quic" {
				t.Errorf("the path is %s, want a direct one", p)
			}
			x.w.move("203.0.113.50", x.w.addNAT("198.51.100.50", independent, addressAndPortDependent))
			if e := x.a.await(t, router.PathChanged); e.To.Scheme != "relay" {
				t.Errorf("the event is %+v", e)
			}
			if e := x.a.await(t, router.PathChanged); e.To.Scheme != "quic" {
				t.Errorf("the event is %+v", e)
			}
		})
		t.Logf("the longest silence was %v", silence)
		if silence > 1500*time.Millisecond {
			t.Errorf("the longest silence was %v", silence)
		}
	})
}

// TestRelayReplaced: where no direct path can be found, a stream outlives its relay if there is another.
func TestRelayReplaced(t *testing.T) {
	symmetric := [2]dependence{addressAndPortDependent, addressAndPortDependent}
	synctest.Test(t, func(t *testing.T) {
		x := newNATWorld(t, symmetric, symmetric, 2)
		silence := x.flow(t, 2000, func() {
			time.Sleep(30 * time.Second)
			for _, r := range x.a.Routes() {
				if r.ID == x.b.ID() && r.Links[0].Addr.HostPort == x.relays[1].ID().String()+":1" {
					x.relays[0], x.relays[1] = x.relays[1], x.relays[0]
				}
			}
			x.w.setDown(x.relays[0].addr, true)
			if e := x.a.await(t, router.PathChanged); e.From.Scheme != "relay" || e.To.Scheme != "relay" || e.From == e.To || e.Reason == "" {
				t.Errorf("the event is %+v", e)
			}
			time.Sleep(5 * time.Second)
		})
		t.Logf("the longest silence was %v", silence)
		if silence > 1500*time.Millisecond {
			t.Errorf("the longest silence was %v", silence)
		}
	})
}
