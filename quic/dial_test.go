package quic

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	quicgo "github.com/quic-go/quic-go"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/transport"
)

func dialFor(t *testing.T, tr *Transport, addr transport.Addr, d time.Duration) (transport.Conn, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	return tr.Dial(ctx, addr)
}

// silentPort returns the address of a port where packets vanish.
func silentPort(t *testing.T) transport.Addr {
	t.Helper()
	pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pc.Close() })
	return transport.Addr{Scheme: scheme, HostPort: pc.LocalAddr().String()}
}

func TestDialIntoSilence(t *testing.T) {
	addr := silentPort(t)
	tr := newTransport(t, newKey(t), &Config{HandshakeTimeout: 100 * time.Millisecond})
	_, err := tr.Dial(newContext(t), addr)
	var op *transport.OpError
	if !errors.As(err, &op) || !op.Timeout() || !errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Dial: %v, want our own time-out", err)
	}

	patient := newTransport(t, newKey(t), nil)
	if _, err := dialFor(t, patient, addr, 10*time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Dial: %v, want %v", err, context.DeadlineExceeded)
	}
	why := errors.New("changed my mind")
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(10*time.Millisecond, func() { cancel(why) })
	if _, err := patient.Dial(ctx, addr); !errors.Is(err, context.Canceled) || !errors.Is(err, why) {
		t.Errorf("Dial: %v, want %v and %v", err, context.Canceled, why)
	}
	time.AfterFunc(10*time.Millisecond, func() { patient.Close() })
	if _, err := patient.Dial(newContext(t), addr); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Dial: %v, want net.ErrClosed", err)
	}
}

func TestInterleave(t *testing.T) {
	parse := func(s ...string) (out []netip.AddrPort) {
		for _, a := range s {
			out = append(out, netip.AddrPortFrom(netip.MustParseAddr(a), 1))
		}
		return out
	}
	got := interleave(parse("192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::1"))
	want := parse("2001:db8::1", "192.0.2.1", "192.0.2.2", "192.0.2.3")
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := interleave(slices.Repeat(want, 10)); len(got) != maxTargets {
		t.Errorf("%d targets, want %d", len(got), maxTargets)
	}
}

func TestRace(t *testing.T) {
	l := newListener(t, newTransport(t, newKey(t), nil), "127.0.0.1:0")
	tr := newTransport(t, newKey(t), &Config{HandshakeTimeout: time.Hour})
	silent := netip.MustParseAddrPort(silentPort(t).HostPort)
	nowhere := netip.MustParseAddrPort("127.0.0.1:0")

	ctx := newContext(t)
	c, err := tr.race(ctx, l.Addr(), []netip.AddrPort{silent, nowhere, l.socket.local})
	if err != nil {
		t.Fatal(err)
	}
	if ctx.Err() != nil {
		t.Error("race waited for an attempt that had lost")
	}
	exchange(t, c, accept(t, l))

	ctx, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	_, err = tr.race(ctx, l.Addr(), []netip.AddrPort{nowhere, silent})
	if err == nil || !strings.Contains(err.Error(), nowhere.String()) || !strings.Contains(err.Error(), silent.String()) {
		t.Errorf("the error does not have both addresses: %v", err)
	}
	if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, transport.ErrBadAddr) {
		t.Errorf("the error does not have both reasons: %v", err)
	}
	if users := dialSocket(t, tr).users; users != 2 {
		t.Errorf("the socket has %d users, want the transport and one connection", users)
	}
}

func dialSocket(t *testing.T, tr *Transport) *socket {
	t.Helper()
	tr.mu.Lock()
	defer tr.mu.Unlock()
	for s := range tr.sockets {
		if s.dialer {
			return s
		}
	}
	t.Fatal("there is no socket for dialling")
	return nil
}

// foreign listens with another TLS configuration than ours.
func foreign(t *testing.T, change func(*tls.Config)) transport.Addr {
	t.Helper()
	conf, err := newKey(t).ServerTLS(alpn)
	if err != nil {
		t.Fatal(err)
	}
	change(conf)
	udp, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	tr := &quicgo.Transport{Conn: newPacketConn(udp, func(netip.AddrPort, error) {})}
	if _, err := tr.Listen(conf, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		tr.Close()
		udp.Close()
	})
	return transport.Addr{Scheme: scheme, HostPort: udp.LocalAddr().String()}
}

func TestForeignServers(t *testing.T) {
	tr := newTransport(t, newKey(t), nil)

	addr := foreign(t, func(c *tls.Config) { c.NextProtos = []string{"h3"} })
	_, err := tr.Dial(newContext(t), addr)
	if !errors.Is(err, identity.ErrProtocol) {
		t.Errorf("dialling another protocol: %v, want %v", err, identity.ErrProtocol)
	}

	addr = foreign(t, func(*tls.Config) {})
	addr.Peer = newKey(t).ID()
	_, err = tr.Dial(newContext(t), addr)
	var verify *identity.VerifyError
	if !errors.Is(err, identity.ErrWrongPeer) || !errors.As(err, &verify) || verify.Want != addr.Peer || verify.Got.IsZero() {
		t.Errorf("dialling another peer: %v, want %v with both IDs", err, identity.ErrWrongPeer)
	}

	// The client's handshake is done before the server has seen its certificate.
	addr = foreign(t, func(c *tls.Config) {
		c.VerifyConnection = func(tls.ConnectionState) error { return errors.New("I do not like you") }
	})
	c := dial(t, tr, addr)
	_, err = c.AcceptStream(newContext(t))
	if !errors.Is(err, transport.ErrLost) || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("after our certificate was refused: %v, want an error that says so", err)
	}
	if errors.Is(err, net.ErrClosed) {
		t.Errorf("%v is net.ErrClosed, as if we had closed it", err)
	}
}
