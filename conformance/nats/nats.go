// Package nats tries a transport behind NATs of every kind of RFC 4787: two nodes that know one public node must talk through it,
// and move to a direct path wherever there can be one. The network is simulated, in virtual time: no root, no sockets, any system.
//
//	func TestNATs(t *testing.T) {
//		nats.Test(t, nats.Harness{Scheme: "quic", New: func(key identity.Key, listen nats.ListenPacket) (transport.Transport, error) {
//			return quic.New(key, &quic.Config{ListenPacket: listen})
//		}})
//	}
//
// # Limitations
//
// The simulation has UDP only, and NATs only; what real kernels do, with TCP, firewalls, NATs behind NATs and all that changes, is
// tried by package internal/natlab. Each pair of NATs runs in a bubble of package testing/synctest: goroutines that the transport
// starts must end when it is closed.
package nats

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Blockchain-CN/pheromones"
	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/nat/relay"
	"github.com/Blockchain-CN/pheromones/nat/stun"
	"github.com/Blockchain-CN/pheromones/transport"
	"github.com/pion/transport/v4/vnet"
)

// ListenPacket opens a UDP socket, of the network "udp4", in the simulation.
type ListenPacket func(ctx context.Context, network, address string) (net.PacketConn, error)

// Harness says how to make the transport.
type Harness struct {
	// New returns a transport that opens all its sockets by listen.
	New func(key identity.Key, listen ListenPacket) (transport.Transport, error)
	// Scheme is that of its addresses.
	Scheme string
}

// node starts a node on a host.
func (h Harness) node(t *testing.T, at host, cfg pheromones.Config) *pheromones.Node {
	t.Helper()
	key, err := identity.Generate()
	if err != nil {
		t.Fatal(err)
	}
	tr, err := h.New(key, at.listen)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Transports = []transport.Transport{tr}
	n, err := pheromones.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	if err := n.Start(t.Context(), h.Scheme+"://"+at.addr+":4001"); err != nil {
		t.Fatal(err)
	}
	return n
}

// bubble runs a test in virtual time, at a moment when the clocks of all libraries are positive.
func bubble(t *testing.T, test func(*testing.T)) {
	synctest.Test(t, func(t *testing.T) {
		<-time.After(40 * 365 * 24 * time.Hour)
		test(t)
	})
}

// Test runs a subtest for each pair of NATs. The transport's port must answer STUN (it shares it, as QUIC does), or it is not reached directly.
func Test(t *testing.T, h Harness) {
	t.Run("verdicts", h.verdicts)
	t.Run("pairs", h.pairs)
}

// direct reports whether two nodes must come to talk directly: each of them, or a packet of it, can be told where to send to, and
// is let in. Where one NAT's outside port depends on whom it sends to, the other one must let it in from a port that nobody knows
// before. If both depend, or that port would have to be guessed, a relay will do.
func direct(a, b Kind) bool {
	independent := func(k Kind) bool { return k.Public || k.Mapping == vnet.EndpointIndependent }
	open := func(k Kind) bool { return k.Public || k.Filtering != vnet.EndpointAddrPortDependent }
	switch {
	case independent(a) && independent(b):
		return true
	case independent(a):
		return open(a)
	case independent(b):
		return open(b)
	}
	return false
}

// In virtual time: a round trip takes twice crossing, and twice that through a relay.
const (
	maxRelayed = 260 * time.Millisecond // until the first reply
	maxDirect  = 400 * time.Millisecond // until the path is direct
	patience   = 5 * time.Second        // how long that is waited for
)

// pairs: two nodes talk through a third at once, and soon directly, whatever stands before them and whoever begins.
func (h Harness) pairs(t *testing.T) {
	for _, a := range Kinds() {
		for _, b := range Kinds() {
			t.Run(a.String()+" → "+b.String(), func(t *testing.T) {
				bubble(t, func(t *testing.T) { h.pair(t, a, b) })
			})
		}
	}
}

func (h Harness) pair(t *testing.T, before, behind Kind) {
	i := newInternet(t)
	hosts := []host{i.add(Kind{Public: true}), i.add(before), i.add(behind)}
	i.start()
	server := h.node(t, hosts[0], pheromones.Config{Relay: &relay.Config{}})
	join := []transport.Addr{server.Addrs()[0]}
	b := h.node(t, hosts[2], pheromones.Config{Join: join})
	if err := b.Joined(t.Context()); err != nil {
		t.Fatal(err)
	}
	a := h.node(t, hosts[1], pheromones.Config{Join: join})
	watch := a.Watch()
	defer watch.Close()
	start := time.Now()
	if _, err := a.Ping(t.Context(), b.ID().String()); err != nil {
		t.Fatal(err)
	}
	first := time.Since(start)
	timeout := time.After(patience)
	for !linked(a, b, h.Scheme) {
		select {
		case <-watch.C():
			continue
		case <-timeout:
		}
		if direct(before, behind) {
			t.Errorf("the path is relayed after %v", patience)
		}
		return
	}
	took := time.Since(start)
	if first > maxRelayed || direct(before, behind) && took > maxDirect {
		t.Errorf("the first reply took %v, and it was direct after %v; want %v and %v", first, took, maxRelayed, maxDirect)
	}
	if rtt, err := a.Ping(t.Context(), b.ID().String()); err != nil || rtt > 3*crossing {
		t.Errorf("a direct exchange took %v, %v; want %v", rtt, err, 2*crossing)
	}
	if !linked(b, a, h.Scheme) {
		t.Error("the other side's path is relayed")
	}
	t.Logf("first reply after %v, direct after %v", first.Round(time.Millisecond), took.Round(time.Millisecond))
}

// linked reports whether the link of a node with a peer has a path without a relay.
func linked(n, peer *pheromones.Node, scheme string) bool {
	for _, r := range n.Routes() {
		for _, l := range r.Links {
			if r.ID == peer.ID() && l.Preferred && l.Addr.Scheme == scheme {
				return true
			}
		}
	}
	return false
}

// verdicts: each node finds out what stands before it, as far as two ordinary servers can tell.
func (h Harness) verdicts(t *testing.T) {
	for _, k := range Kinds() {
		t.Run(k.String(), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				i := newInternet(t)
				a, b, c := i.add(Kind{Public: true}), i.add(Kind{Public: true}), i.add(k)
				i.start()
				h.node(t, a, pheromones.Config{})
				h.node(t, b, pheromones.Config{})
				n := h.node(t, c, pheromones.Config{})
				r, err := n.DiscoverNAT(t.Context(), netip.MustParseAddrPort(a.addr+":4001"), netip.MustParseAddrPort(b.addr+":4001"))
				want := stun.DependentMapping
				if k.Public || k.Mapping == vnet.EndpointIndependent {
					want = stun.EndpointIndependentMapping
				}
				if err != nil || r.Mapping != want {
					t.Errorf("%s, %v; want %s", r.Mapping, err, want)
				}
			})
		})
	}
}
