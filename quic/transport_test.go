package quic

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"

	"github.com/Blockchain-CN/pheromones/transport"
)

func TestListenerLeavesItsSocketToItsConns(t *testing.T) {
	server := newTransport(t, newKey(t), nil)
	l := newListener(t, server, "127.0.0.1:0")
	dialled := dial(t, newTransport(t, newKey(t), nil), l.Addr())
	accepted := accept(t, l)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	exchange(t, dialled, accepted)
	exchange(t, accepted, dialled)

	other := newTransport(t, newKey(t), nil)
	_, err := other.Listen(t.Context(), l.Addr())
	var op *transport.OpError
	if !errors.As(err, &op) || !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("another transport listens at an address in use: %v", err)
	}

	again := newListener(t, server, l.Addr().HostPort)
	if again.Addr() != l.Addr() {
		t.Errorf("the second listener is at %v, want %v", again.Addr(), l.Addr())
	}
	second := dial(t, other, again.Addr())
	exchange(t, second, accept(t, again))
	exchange(t, dialled, accepted)
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}

	// The last connection takes the socket with it, at once on the side that owns it.
	second.CloseWithError(transport.CodeNone, "")
	dialled.CloseWithError(transport.CodeNone, "")
	<-accepted.done
	for c := range conns(server) {
		<-c.done
	}
	if err := newListener(t, other, l.Addr().HostPort).Close(); err != nil {
		t.Error(err)
	}
}

// conns returns the connections that are there now.
func conns(t *Transport) map[*Conn]struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := make(map[*Conn]struct{})
	for c := range t.conns {
		all[c] = struct{}{}
	}
	return all
}

func TestListenerCloseFreesTheAddress(t *testing.T) {
	a, b := newTransport(t, newKey(t), nil), newTransport(t, newKey(t), nil)
	l := newListener(t, a, "127.0.0.1:0")
	for range 5 {
		l.Close()
		l = newListener(t, b, l.Addr().HostPort)
		a, b = b, a
	}
}

func TestListenerCloseRefusesTheUnaccepted(t *testing.T) {
	l := newListener(t, newTransport(t, newKey(t), nil), "127.0.0.1:0")
	c := dial(t, newTransport(t, newKey(t), nil), l.Addr())
	<-c.confirmed // the other side has it now, or will in a moment
	l.Close()
	if err := await(t, c); !errors.Is(err, transport.CodeRefused) {
		t.Errorf("the connection ended with %v, want %v", err, transport.CodeRefused)
	}
	if _, err := l.Accept(newContext(t)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept: %v, want net.ErrClosed", err)
	}
}

func TestBacklogIsBounded(t *testing.T) {
	l := newListener(t, newTransport(t, newKey(t), &Config{AcceptBacklog: 1}), "127.0.0.1:0")
	tr := newTransport(t, newKey(t), nil)
	first := dial(t, tr, l.Addr())
	<-first.confirmed
	second := dial(t, tr, l.Addr())
	if err := await(t, second); !errors.Is(err, transport.CodeRefused) {
		t.Errorf("the connection beyond the backlog ended with %v, want %v", err, transport.CodeRefused)
	}
	exchange(t, first, accept(t, l))
}

func TestSuits(t *testing.T) {
	for _, tt := range []struct {
		local, remote string
		want          bool
	}{
		{"127.0.0.1", "127.0.0.1", true},
		{"127.0.0.1", "192.0.2.1", false},
		{"127.0.0.1", "::1", false},
		{"0.0.0.0", "127.0.0.1", true},
		{"0.0.0.0", "192.0.2.1", true},
		{"0.0.0.0", "2001:db8::1", false},
		{"192.0.2.9", "192.0.2.1", true},
		{"192.0.2.9", "127.0.0.1", false},
		{"::", "2001:db8::1", true},
		{"::", "::1", true},
		{"::", "192.0.2.1", false},
		{"::1", "2001:db8::1", false},
	} {
		s := &socket{local: netip.AddrPortFrom(netip.MustParseAddr(tt.local), 1)}
		if got := s.suits(netip.MustParseAddr(tt.remote)); got != tt.want {
			t.Errorf("a socket at %s suits %s: %v, want %v", tt.local, tt.remote, got, tt.want)
		}
	}
}

func TestDialUsesTheListenersSocket(t *testing.T) {
	l := newListener(t, newTransport(t, newKey(t), nil), "127.0.0.1:0")
	tr := newTransport(t, newKey(t), nil)

	// Nobody listens: one socket for all dials.
	dial(t, tr, l.Addr())
	first := accept(t, l).Info().RemoteAddr
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() { dial(t, tr, l.Addr()) })
	}
	wg.Wait()
	for range 8 {
		if got := accept(t, l).Info().RemoteAddr; got != first {
			t.Errorf("dialled from %v, want %v as before", got, first)
		}
	}

	wildcard := newListener(t, tr, "0.0.0.0:0")
	dial(t, tr, l.Addr())
	got, want := port(t, accept(t, l).Info().RemoteAddr), port(t, wildcard.Addr())
	if got != want {
		t.Errorf("dialled from port %d, want the listener's, %d", got, want)
	}
	// Its own address, with a host that means "here", can be dialled.
	exchange(t, dial(t, tr, wildcard.Addr()), accept(t, wildcard))

	// A closed listener's socket is not used for new connections.
	wildcard.Close()
	dial(t, tr, l.Addr())
	if got := accept(t, l).Info().RemoteAddr; got != first {
		t.Errorf("dialled from %v, want %v", got, first)
	}
}

func TestDialSocketIsOneForConcurrentDials(t *testing.T) {
	l := newListener(t, newTransport(t, newKey(t), nil), "127.0.0.1:0")
	tr := newTransport(t, newKey(t), nil)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() { dial(t, tr, l.Addr()) })
	}
	wg.Wait()
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if len(tr.sockets) != 1 {
		t.Errorf("%d sockets are open, want 1", len(tr.sockets))
	}
}

func port(t *testing.T, a transport.Addr) uint16 {
	t.Helper()
	ap, err := netip.ParseAddrPort(a.HostPort)
	if err != nil {
		t.Fatal(err)
	}
	return ap.Port()
}

func TestBothFamiliesAtOnePort(t *testing.T) {
	tr := newTransport(t, newKey(t), nil)
	v4 := newListener(t, tr, "0.0.0.0:0")
	_, p, _ := net.SplitHostPort(v4.Addr().HostPort)
	l, err := tr.Listen(t.Context(), transport.Addr{Scheme: scheme, HostPort: "[::]:" + p})
	if errors.Is(err, syscall.EAFNOSUPPORT) || errors.Is(err, syscall.EADDRNOTAVAIL) {
		t.Skip("no IPv6 here")
	}
	if err != nil {
		t.Fatal(err)
	}
	v6 := l.(*Listener)
	exchange(t, dial(t, tr, v6.Addr()), accept(t, v6))
	exchange(t, dial(t, tr, v4.Addr()), accept(t, v4))
}

// TestCloseUnderDial closes transports while others dial them and while they dial.
func TestCloseUnderDial(t *testing.T) {
	for range 5 {
		server, client := newTransport(t, newKey(t), nil), newTransport(t, newKey(t), nil)
		l := newListener(t, server, "127.0.0.1:0")
		ctx, cancel := context.WithCancel(newContext(t))
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for {
					c, err := client.Dial(ctx, l.Addr())
					if err != nil {
						return
					}
					c.OpenStream(ctx)
				}
			})
		}
		for range 3 {
			accept(t, l)
		}
		wg.Go(func() { client.Close() })
		server.Close()
		cancel()
		wg.Wait()
		if _, err := client.Dial(newContext(t), l.Addr()); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Dial after Close: %v, want net.ErrClosed", err)
		}
		for _, tr := range []*Transport{server, client} {
			if len(tr.conns) != 0 || len(tr.sockets) != 0 || tr.gate.n != 0 {
				t.Errorf("left behind: %d connections, %d sockets, %d handshakes", len(tr.conns), len(tr.sockets), tr.gate.n)
			}
		}
	}
}

func TestOtherPackets(t *testing.T) {
	ctx := newContext(t)
	a := newListener(t, newTransport(t, newKey(t), nil), "127.0.0.1:0")
	b := newListener(t, newTransport(t, newKey(t), nil), "127.0.0.1:0")
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if _, _, err := b.ReadPacket(ended, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("ReadPacket: %v, want %v", err, context.Canceled)
	}
	if err := a.WritePacket([]byte{0x01, 2, 3}, b.socket.local); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 10)
	n, from, err := b.ReadPacket(ctx, buf)
	if err != nil || string(buf[:n]) != "\x01\x02\x03" || from != a.socket.local {
		t.Errorf("read %x from %v, %v; want 010203 from %v", buf[:n], from, err, a.socket.local)
	}
	if err := a.WritePacket([]byte{0x40}, b.socket.local); err == nil {
		t.Error("WritePacket sent what looks like QUIC")
	}
	b.Close()
	if _, _, err := b.ReadPacket(ctx, buf); !errors.Is(err, net.ErrClosed) {
		t.Errorf("ReadPacket after Close: %v, want net.ErrClosed", err)
	}
}
