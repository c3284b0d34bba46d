package tlsnet

import (
	"context"
	"crypto/tls"
	"errors"
	"sync"
	"testing"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/internal/outq"
	"github.com/Blockchain-CN/pheromones/transport"
)

// rawConn is a connection that is nothing but a handshake.
type rawConn struct {
	transport.Conn
	raw  *tls.Conn
	info transport.Info
	done chan struct{}
	once sync.Once
}

func (c *rawConn) Info() transport.Info { return c.info }

func (c *rawConn) Hurry()                {}
func (c *rawConn) Done() <-chan struct{} { return c.done }
func (c *rawConn) CloseWithError(transport.Code, string) error {
	c.raw.NetConn().Close()
	c.once.Do(func() { close(c.done) })
	return nil
}

func newRaw(t *testing.T, key identity.Key) *Transport {
	t.Helper()
	tr, err := New(key, Config{Scheme: "raw", ALPN: "raw/1", Wrap: func(raw *tls.Conn, info transport.Info, _ *outq.Pool) Conn {
		return &rawConn{raw: raw, info: info, done: make(chan struct{})}
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tr.Close() })
	return tr
}

func newKey(t *testing.T) identity.Key {
	t.Helper()
	key, err := identity.Generate()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// dial makes a connection and takes a byte from the other side, and with it the session.
func dial(t *testing.T, from *Transport, l transport.Listener, to transport.Addr) tls.ConnectionState {
	t.Helper()
	c, err := from.Dial(t.Context(), to)
	if err != nil {
		t.Fatal(err)
	}
	other, err := l.Accept(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.(*rawConn).raw.Write([]byte{1}); err != nil {
		t.Fatal(err)
	}
	raw := c.(*rawConn).raw
	if _, err := raw.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	state := raw.ConnectionState()
	if got := c.(*rawConn).info.Resumed; got != state.DidResume {
		t.Errorf("Info says resumed: %v, want %v", got, state.DidResume)
	}
	return state
}

func listen(t *testing.T, tr *Transport, at string) transport.Listener {
	t.Helper()
	l, err := tr.Listen(t.Context(), transport.Addr{Scheme: "raw", HostPort: at})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// TestKeyExchange looks at what keys are agreed on by: a full handshake must never make do with less than it would without
// resumption, also if it takes the place of one that was to resume.
func TestKeyExchange(t *testing.T) {
	serverKey := newKey(t)
	server := newRaw(t, serverKey)
	client := newRaw(t, newKey(t))
	l := listen(t, server, "127.0.0.1:0")
	addr := l.Addr()

	check := func(what string, got tls.ConnectionState, resumed bool, curve tls.CurveID) {
		t.Helper()
		if got.DidResume != resumed || got.CurveID != curve {
			t.Errorf("%s: resumed: %v, by %v; want %v, by %v", what, got.DidResume, got.CurveID, resumed, curve)
		}
	}
	full := dial(t, client, l, addr)
	if full.DidResume || full.CurveID == tls.CurveP256 {
		t.Fatalf("the first: resumed: %v, by %v", full.DidResume, full.CurveID)
	}
	for range 3 {
		check("a later one", dial(t, client, l, addr), true, tls.CurveP256)
	}

	server.Close() // and with it what the sessions are sealed by
	l = listen(t, newRaw(t, serverKey), addr.HostPort)
	check("after a restart", dial(t, client, l, addr), false, full.CurveID)
	check("after that", dial(t, client, l, addr), true, tls.CurveP256)
}

// TestResumptionRefused dials a peer that takes up no session by P-256.
func TestResumptionRefused(t *testing.T) {
	server := newRaw(t, newKey(t))
	client := newRaw(t, newKey(t))
	l := listen(t, server, "127.0.0.1:0")
	first := dial(t, client, l, l.Addr())
	server.server.CurvePreferences = []tls.CurveID{first.CurveID}
	if again := dial(t, client, l, l.Addr()); again.DidResume || again.CurveID != first.CurveID {
		t.Errorf("resumed: %v, by %v, want a full handshake by %v", again.DidResume, again.CurveID, first.CurveID)
	}
}

// TestResumptionAtAnother dials a peer where another one has taken its place.
func TestResumptionAtAnother(t *testing.T) {
	server := newRaw(t, newKey(t))
	client := newRaw(t, newKey(t))
	l := listen(t, server, "127.0.0.1:0")
	addr := l.Addr()
	dial(t, client, l, addr)
	server.Close()
	listen(t, newRaw(t, newKey(t)), addr.HostPort)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if _, err := client.Dial(ctx, addr); !errors.Is(err, identity.ErrWrongPeer) {
		t.Errorf("got %v, want ErrWrongPeer", err)
	}
}
