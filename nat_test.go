package pheromones_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/Blockchain-CN/pheromones"
	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/nat/stun"
	"github.com/Blockchain-CN/pheromones/protocol"
	"github.com/Blockchain-CN/pheromones/transport"
)

// port is where a node's first listener is.
func port(t *testing.T, n *pheromones.Node) netip.AddrPort {
	t.Helper()
	a, err := netip.ParseAddrPort(n.Addrs()[0].HostPort)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// TestNodesAreServers: a node asks two others how it looks from outside, many times at once, by the port over which it talks with
// them meanwhile.
func TestNodesAreServers(t *testing.T) {
	asker, a, b := newNode(t, "asker", nil, "quic"), newNode(t, "a", echo("a"), "quic"), newNode(t, "b", echo("b"), "quic")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, n := range []*pheromones.Node{a, b} {
		if _, err := asker.Add(ctx, addrOf(n)); err != nil {
			t.Fatal(err)
		}
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 50 {
				data := strings.Repeat("x", 100_000)
				reply, err := asker.Dispatch(ctx, "a", protocol.Message{Operation: "echo", Data: []byte(data)})
				if err != nil || string(reply.Data) != "a: "+data {
					t.Errorf("a replied with %d bytes, %v", len(reply.Data), err)
					return
				}
			}
		})
		wg.Go(func() {
			r, err := asker.DiscoverNAT(ctx, port(t, a), port(t, b))
			if err != nil || len(r.Seen) != 2 || r.Mapped != port(t, asker) || r.Seen[1].Mapped != port(t, asker) || r.Mapping != stun.MappingUnknown {
				t.Errorf("found %+v, %v; want to be seen at %s by two, which have one IP", r, err, port(t, asker))
			}
		})
	}
	wg.Wait()
}

// TestNodeAnswers asks nodes from a plain socket.
func TestNodeAnswers(t *testing.T) {
	key, err := identity.Generate()
	if err != nil {
		t.Fatal(err)
	}
	quiet, err := pheromones.New(pheromones.Config{STUN: -1, Transports: []transport.Transport{newTransport(t, "quic", key)}})
	if err != nil {
		t.Fatal(err)
	}
	defer quiet.Close()
	if err := quiet.Start(t.Context(), "quic://127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	n := newNode(t, "n", nil, "quic")

	socket, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
	if err != nil {
		t.Fatal(err)
	}
	prober := stun.NewProber(plainSocket{socket}, &stun.Config{RTO: 100 * time.Millisecond, Requests: 3})
	var reader sync.WaitGroup
	reader.Go(func() {
		b := make([]byte, 2048)
		for {
			size, from, err := socket.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			prober.Receive(b[:size], from)
		}
	})
	defer reader.Wait()
	defer socket.Close()
	for range 3 { // garbage has no effect
		socket.WriteToUDPAddrPort(make([]byte, 30), port(t, n))
		socket.WriteToUDPAddrPort(nil, port(t, n))
	}
	results, err := prober.Ask(t.Context(), port(t, n), port(t, quiet))
	if err != nil || len(results) != 2 {
		t.Fatalf("%+v, %v", results, err)
	}
	if r := results[0]; r.Err != nil || r.Mapped != socket.LocalAddr().(*net.UDPAddr).AddrPort() {
		t.Errorf("the node answered %+v, want %s", r, socket.LocalAddr())
	}
	var silent *stun.NoAnswerError
	if r := results[1]; r.Request.Server != port(t, quiet) || !errors.As(r.Err, &silent) {
		t.Errorf("a node that is not to answer: %+v", r)
	}
}

type plainSocket struct{ *net.UDPConn }

func (s plainSocket) WritePacket(b []byte, to netip.AddrPort) error {
	_, err := s.WriteToUDPAddrPort(b, to)
	return err
}

// TestDiscoverNATFails: no port, no server, and the node's end while it waits.
func TestDiscoverNATFails(t *testing.T) {
	n := newNode(t, "n", nil, "quic")
	if _, err := n.DiscoverNAT(t.Context()); err == nil {
		t.Error("asked nobody")
	}
	if _, err := n.DiscoverNAT(t.Context(), netip.MustParseAddrPort("[::1]:4001")); err == nil || !strings.Contains(err.Error(), "[::1]:4001") {
		t.Errorf("IPv6 from a port of IPv4: %v", err)
	}
	var server *stun.ServerError
	if _, err := n.DiscoverNAT(t.Context(), netip.MustParseAddrPort("127.0.0.1:0")); !errors.As(err, &server) {
		t.Errorf("port 0: %v", err)
	}
	if _, err := newNode(t, "t", nil, "tcp").DiscoverNAT(t.Context(), port(t, n)); err == nil || !strings.Contains(err.Error(), "QUIC") {
		t.Errorf("a node without QUIC: %v", err)
	}

	silent, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	ended := make(chan error, 1)
	go func() {
		_, err := n.DiscoverNAT(t.Context(), silent.LocalAddr().(*net.UDPAddr).AddrPort())
		ended <- err
	}()
	if _, _, err := silent.ReadFromUDPAddrPort(make([]byte, 2048)); err != nil { // it is under way
		t.Fatal(err)
	}
	n.Close()
	if err := <-ended; !errors.Is(err, pheromones.ErrClosed) {
		t.Errorf("the node's end: %v, want %v", err, pheromones.ErrClosed)
	}
	if _, err := n.DiscoverNAT(t.Context(), port(t, newNode(t, "m", nil, "quic"))); !errors.Is(err, pheromones.ErrClosed) {
		t.Errorf("after the end: %v, want %v", err, pheromones.ErrClosed)
	}
}

// TestPortsComeAndGo: a node that stops listening and listens again at the same port, while a connection keeps the socket, asks and
// answers as before.
func TestPortsComeAndGo(t *testing.T) {
	other := newNode(t, "other", nil, "quic")
	key, err := identity.Generate()
	if err != nil {
		t.Fatal(err)
	}
	n, err := pheromones.New(pheromones.Config{Name: "n", Transports: []transport.Transport{newTransport(t, "quic", key)}})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	at := "127.0.0.1:0"
	for i := range 5 {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- n.ListenAndServe(ctx, "quic://"+at) }()
		for len(n.Addrs()) == 0 {
			select {
			case err := <-done:
				t.Fatal(err)
			case <-time.After(time.Millisecond):
			}
		}
		at = n.Addrs()[0].HostPort
		if i == 0 {
			if _, err := n.Add(ctx, addrOf(other)); err != nil {
				t.Fatal(err)
			}
		}
		if r, err := n.DiscoverNAT(ctx, port(t, other)); err != nil || r.Mapped.String() != at {
			t.Errorf("round %d: seen at %s, %v; want %s", i, r.Mapped, err, at)
		}
		if r, err := other.DiscoverNAT(ctx, port(t, n)); err != nil || r.Mapped != port(t, other) {
			t.Errorf("round %d: the other is seen at %s, %v", i, r.Mapped, err)
		}
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
}
