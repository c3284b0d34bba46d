package pheromones_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/Blockchain-CN/pheromones"
	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/mux"
	"github.com/Blockchain-CN/pheromones/nat/relay"
	"github.com/Blockchain-CN/pheromones/protocol"
	"github.com/Blockchain-CN/pheromones/quic"
	"github.com/Blockchain-CN/pheromones/router"
	"github.com/Blockchain-CN/pheromones/transport"
)

// relayNode returns a node with transports of the schemes, which listens with each on loopback.
func relayNode(t *testing.T, cfg pheromones.Config, schemes ...string) *pheromones.Node {
	t.Helper()
	key, err := identity.Generate()
	if err != nil {
		t.Fatal(err)
	}
	var addrs []string
	for _, scheme := range schemes {
		var tr transport.Transport
		if scheme == "quic" {
			tr, err = quic.New(key, nil)
		} else {
			tr, err = mux.New(key, nil)
		}
		if err != nil {
			t.Fatal(err)
		}
		cfg.Transports = append(cfg.Transports, tr)
		addrs = append(addrs, scheme+"://127.0.0.1:0")
	}
	cfg.Handler = protocol.HandlerFunc(func(_ context.Context, m protocol.Message) (protocol.Message, error) {
		return protocol.Message{Operation: "echo", Data: m.Data}, nil
	})
	n, err := pheromones.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	if err := n.Start(t.Context(), addrs...); err != nil {
		t.Fatal(err)
	}
	if err := n.Joined(t.Context()); err != nil {
		t.Fatal(err)
	}
	return n
}

// hidden returns the configuration of a node that is reached, and reaches others, through relays alone.
func hidden(relays ...*pheromones.Node) pheromones.Config {
	cfg := pheromones.Config{Path: pheromones.PathRelayOnly}
	for _, r := range relays {
		cfg.Join = append(cfg.Join, r.Addrs()[0])
	}
	return cfg
}

// through returns the address of the newest link with a peer, and reports whether it goes through a relay.
func through(t *testing.T, n *pheromones.Node, peer identity.ID) (transport.Addr, bool) {
	t.Helper()
	for _, r := range n.Routes() {
		if r.ID == peer && len(r.Links) > 0 {
			at := r.Links[len(r.Links)-1].Addr
			return at, at.Scheme == relay.Scheme
		}
	}
	return transport.Addr{}, false
}

func TestRelayed(t *testing.T) {
	for _, test := range []struct {
		name                string
		relay, caller, peer []string
	}{
		{"quic", []string{"quic"}, []string{"quic"}, []string{"quic"}},
		{"mux", []string{"mux"}, []string{"mux"}, []string{"mux"}},
		{"quic within mux", []string{"mux", "quic"}, []string{"mux", "quic"}, []string{"mux", "quic"}},
		{"both, and a peer with mux alone", []string{"quic", "mux"}, []string{"quic", "mux"}, []string{"mux"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := relayNode(t, pheromones.Config{Relay: &relay.Config{Rate: -1, PeerRate: -1}}, test.relay...)
			peerCfg := hidden(r)
			for _, a := range r.Addrs() {
				if a.Scheme == test.peer[0] {
					peerCfg.Join = []transport.Addr{a}
				}
			}
			b := relayNode(t, peerCfg, test.peer...)
			if at := b.Addrs(); len(at) != 1 || at[0] != relay.Addr(r.ID(), b.ID()) {
				t.Fatalf("the peer is reached at %v", at)
			}
			ups := b.Watch()
			defer ups.Close()
			a := relayNode(t, hidden(r), test.caller...)
			reply, err := a.Dispatch(t.Context(), b.ID().String(), protocol.Message{Operation: "say", Data: []byte("hello")})
			if err != nil || string(reply.Data) != "hello" || reply.From != b.ID() {
				t.Fatalf("%+v, %v", reply, err)
			}
			if at, relayed := through(t, a, b.ID()); !relayed || at.HostPort != r.ID().String()+":1" {
				t.Errorf("the link leads to %v", at)
			}
			for e := range ups.C() {
				if e.Kind == router.LinkUp && e.Route.ID == a.ID() {
					if e.Link.Addr.Scheme != relay.Scheme {
						t.Errorf("at the other side the link leads to %v", e.Link.Addr)
					}
					break
				}
			}
			// And a service, with a good deal of data.
			l, err := b.Listen("echo")
			if err != nil {
				t.Fatal(err)
			}
			go func() {
				c, err := l.Accept()
				if err == nil {
					io.Copy(c, c)
					c.Close()
				}
			}()
			c, err := a.Dial(t.Context(), b.ID().String(), "echo")
			if err != nil {
				t.Fatal(err)
			}
			data := strings.Repeat("0123456789abcdef", 1<<16)
			go func() {
				io.WriteString(c, data)
				c.(transport.Stream).CloseWrite()
			}()
			if back, err := io.ReadAll(c); err != nil || string(back) != data {
				t.Errorf("%d bytes of %d came back: %v", len(back), len(data), err)
			}
			c.Close()
			if f := r.RelayFigures(); f.Circuits != 1 || f.Bytes < uint64(2*len(data)) || f.Reservations != 2 {
				t.Errorf("figures %+v", f)
			}
		})
	}
}

// A relay that dies is replaced by another that both know.
func TestRelayDies(t *testing.T) {
	one, two := relayNode(t, pheromones.Config{Relay: new(relay.Config)}, "quic"), relayNode(t, pheromones.Config{Relay: new(relay.Config)}, "quic")
	news := one.Watch()
	defer news.Close()
	b := relayNode(t, hidden(one, two), "quic")
	for len(b.Addrs()) < 2 { // the second may be reached a moment later, and the first is then told
		if _, ok := <-news.C(); !ok {
			t.Fatal("the relay is closed")
		}
	}
	a := relayNode(t, hidden(one, two), "quic")
	say := func() {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		if reply, err := a.Dispatch(ctx, b.ID().String(), protocol.Message{Operation: "say", Data: []byte("hello")}); err != nil || string(reply.Data) != "hello" {
			t.Fatalf("%+v, %v", reply, err)
		}
	}
	say()
	at, relayed := through(t, a, b.ID())
	if !relayed {
		t.Fatalf("the link leads to %v", at)
	}
	dead, alive := one, two
	if strings.HasPrefix(at.HostPort, two.ID().String()) {
		dead, alive = two, one
	}
	dead.Close()
	say()
	// One to the dead relay may be there for a while yet, if both were dialled at once.
	if have := links(a, b.ID()); !slices.ContainsFunc(have, func(l router.Link) bool { return strings.HasPrefix(l.Addr.HostPort, alive.ID().String()) }) {
		t.Errorf("the links are %v, want one by the relay that lives", have)
	}
}

// What cannot be fails soon, and says why.
func TestRelayFailures(t *testing.T) {
	plain := relayNode(t, pheromones.Config{}, "quic")
	r := relayNode(t, pheromones.Config{Relay: new(relay.Config)}, "quic")
	nobody := identity.ID{1, 2, 3}
	for _, test := range []struct {
		name string
		join *pheromones.Node
		want error
	}{
		{"a node that does not relay", plain, relay.NotRelaying},
		{"a peer that is not there", r, relay.NoReservation},
	} {
		a := relayNode(t, hidden(test.join), "quic")
		if at := a.Addrs(); (len(at) == 0) != (test.join == plain) {
			t.Errorf("%s: the node is reached at %v", test.name, at)
		}
		_, err := a.Dispatch(t.Context(), nobody.String(), protocol.Message{Operation: "say"})
		if !errors.Is(err, test.want) || !errors.Is(err, router.ErrUnknownPeer) || !strings.Contains(err.Error(), test.join.Addrs()[0].HostPort) {
			t.Errorf("%s: %v, want %v", test.name, err, test.want)
		}
	}
	// A peer that takes no relays has no reservation.
	shy := relayNode(t, pheromones.Config{Path: pheromones.PathDirectOnly, Join: []transport.Addr{r.Addrs()[0]}}, "quic")
	if f := r.RelayFigures(); f.Reservations != 0 {
		if f.Reservations != 1 { // the caller's of before, whose link may still be there
			t.Errorf("figures %+v", f)
		}
	}
	for _, addr := range []string{
		"relay://" + nobody.String() + "@192.0.2.1:1", "relay://" + r.ID().String() + ":1",
		fmt.Sprintf("relay://%s@%s:1", r.ID(), r.ID()),
	} {
		a := relayNode(t, hidden(r), "quic")
		if _, err := a.Add(t.Context(), addr); !errors.Is(err, transport.ErrBadAddr) {
			t.Errorf("%s: %v", addr, err)
		}
	}
	// It is found by its ID all the same: the node that was joined knows its address.
	a := relayNode(t, pheromones.Config{Join: []transport.Addr{r.Addrs()[0]}}, "quic")
	if _, err := a.Ping(t.Context(), shy.ID().String()); err != nil {
		t.Errorf("by what a node that was joined knows: %v", err)
	}
	if at, relayed := through(t, a, shy.ID()); relayed || at.Scheme != "quic" {
		t.Errorf("the link leads to %v", at)
	}
	// Who is nowhere to be joined says so.
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	gone := plain.Addrs()[0]
	plain.Close()
	key, _ := identity.Generate()
	q, err := quic.New(key, nil)
	if err != nil {
		t.Fatal(err)
	}
	lost, err := pheromones.New(pheromones.Config{Transports: []transport.Transport{q}, Join: []transport.Addr{gone}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { lost.Close() })
	if err := lost.Joined(ctx); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "no node was reached") {
		t.Errorf("nobody to join: %v", err)
	}
}

// TestJoinOneAtTwo: one node that is joined at two addresses is linked once, over the transport that the node likes best.
func TestJoinOneAtTwo(t *testing.T) {
	r := relayNode(t, pheromones.Config{Relay: &relay.Config{}}, "quic", "mux")
	for range 5 {
		a := relayNode(t, pheromones.Config{Join: []transport.Addr{r.Addrs()[1], r.Addrs()[0]}}, "quic", "mux")
		if _, err := a.Dispatch(t.Context(), r.ID().String(), protocol.Message{Operation: "echo"}); err != nil {
			t.Fatal(err)
		}
		for _, route := range a.Routes() {
			if route.ID == r.ID() && (len(route.Links) != 1 || route.Links[0].Addr.Scheme != "quic") {
				t.Errorf("the links are %+v, want one of quic", route.Links)
			}
		}
	}
}
