package pheromones_test

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/Blockchain-CN/pheromones"
	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/router"
	"github.com/Blockchain-CN/pheromones/transport"
)

// fakeRouter forwards nothing, and says that it does when it is told to.
type fakeRouter struct {
	mu       sync.Mutex
	changed  map[string]func(netip.AddrPort) // by network
	released []string
}

func (r *fakeRouter) Map(network string, local netip.AddrPort, changed func(netip.AddrPort)) (release func(context.Context)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.changed[network] = changed
	return func(ctx context.Context) {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.changed, network)
		r.released = append(r.released, network)
	}
}

func (r *fakeRouter) tell(network, outside string) {
	r.mu.Lock()
	changed := r.changed[network]
	r.mu.Unlock()
	a := netip.AddrPort{}
	if outside != "" {
		a = netip.MustParseAddrPort(outside)
	}
	changed(a)
}

// TestPortMap: what routers forward is among a node's addresses, and an event tells of it; the node's end, or that of a listener, releases it.
func TestPortMap(t *testing.T) {
	key, err := identity.Generate()
	if err != nil {
		t.Fatal(err)
	}
	r := &fakeRouter{changed: make(map[string]func(netip.AddrPort))}
	n, err := pheromones.New(pheromones.Config{PortMap: r, Transports: []transport.Transport{newTransport(t, "quic", key), newTransport(t, "mux", key)}})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	if err := n.Start(t.Context(), "quic://127.0.0.1:0", "mux://127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	if len(r.changed) != 0 {
		t.Errorf("ports at loopback are mapped: %v", r.changed)
	}
	ctx, stop := context.WithCancel(t.Context())
	var serving sync.WaitGroup
	defer serving.Wait()
	defer stop()
	w := n.Watch()
	next := func(want ...string) {
		t.Helper()
		for {
			select {
			case e := <-w.C():
				if e.Kind != router.AddrsChanged {
					continue
				}
				got := n.Addrs()
				for _, s := range want {
					a, err := transport.ParseAddr(s)
					if a.Peer = n.ID(); err != nil || !slices.Contains(got, a) {
						t.Errorf("the addresses are %v, and %s is not there", got, s)
					}
				}
				if !slices.Equal(e.Route.Addrs, got) || e.Route.ID != n.ID() {
					t.Errorf("the addresses are %v; the event says %v", got, e.Route)
				}
				return
			case <-time.After(time.Minute):
				t.Fatal("no event came")
			}
		}
	}
	serving.Go(func() { n.ListenAndServe(ctx, "quic://0.0.0.0:0", "mux://0.0.0.0:0") })
	next()
	plain := n.Addrs()
	r.tell("udp", "203.0.113.5:4001")
	next("quic://203.0.113.5:4001")
	r.tell("tcp", "203.0.113.5:4002")
	next("quic://203.0.113.5:4001", "mux://203.0.113.5:4002")
	r.tell("udp", "203.0.113.9:4001")
	next("quic://203.0.113.9:4001", "mux://203.0.113.5:4002")
	r.tell("udp", "")
	next("mux://203.0.113.5:4002")
	r.tell("tcp", "")
	next()
	if got := n.Addrs(); !slices.Equal(got, plain) {
		t.Errorf("the addresses are %v at the end, want %v", got, plain)
	}
	stop()
	serving.Wait()
	n.Close()
	if slices.Sort(r.released); !slices.Equal(r.released, []string{"tcp", "udp"}) {
		t.Errorf("released: %v", r.released)
	}
}
