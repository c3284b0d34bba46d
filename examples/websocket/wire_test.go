package websocket

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/transport"
	ws "github.com/coder/websocket"
)

// What the suite cannot know of: what a peer may do to this wire, and the bounds of this listener.

func newTransport(t *testing.T, cfg *Config) *Transport {
	t.Helper()
	key, err := identity.Generate()
	if err != nil {
		t.Fatal(err)
	}
	tr, err := New(key, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tr.Close() })
	return tr
}

func listen(t *testing.T, tr *Transport) transport.Listener {
	t.Helper()
	ln, err := tr.Listen(t.Context(), transport.Addr{Scheme: Scheme, HostPort: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

// peer is the far end of a connection, for the test to say what it likes.
func peer(t *testing.T, addr transport.Addr) *ws.Conn {
	t.Helper()
	key, err := identity.Generate()
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := key.ClientTLS(alpn, addr.Peer)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := tls.Dial("tcp", addr.HostPort, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { raw.Close() })
	c, _, err := ws.Dial(t.Context(), "wss://peer/", &ws.DialOptions{HTTPClient: &http.Client{Transport: onConn{raw}}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestMessages(t *testing.T) {
	tr := newTransport(t, nil)
	ln := listen(t, tr)
	data := func(n int) []byte { return make([]byte, 1+n) } // msgData is 0
	for name, test := range map[string]struct {
		msgs   [][]byte
		breach bool
	}{
		"empty":                 {[][]byte{{}}, true},
		"too long":              {[][]byte{data(maxMessage)}, true},
		"far too long":          {[][]byte{data(1 << 20)}, true},
		"longest":               {[][]byte{data(maxMessage - 1)}, false},
		"more than credit":      {bytesOf(data(maxMessage-1), window/(maxMessage-1)+1), true},
		"data after the end":    {[][]byte{{msgFin}, data(1)}, true},
		"reset without code":    {[][]byte{{msgReset, 0, 0, 0}}, true},
		"stop without code":     {[][]byte{{msgStop}}, true},
		"credit without number": {[][]byte{{msgCredit, 1}}, true},
		"close without code":    {[][]byte{{msgClose}}, true},
		"unknown type":          {[][]byte{{200, 1, 2, 3}, {6}}, false},
		"bytes behind fields":   {[][]byte{{msgCredit, 0, 0, 0, 1, 9, 9}, {msgFin, 9}}, false},
		"second end":            {[][]byte{{msgFin}, {msgFin}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			p := peer(t, ln.Addr())
			c, err := ln.Accept(ctx)
			if err != nil {
				t.Fatal(err)
			}
			// An honest message comes after, to see whether the connection still takes any.
			for _, msg := range append(test.msgs, []byte{msgClose, 0, 0, 1, 0, 'b', 'y', 'e'}) {
				if err := p.Write(ctx, ws.MessageBinary, msg); err != nil {
					break
				}
			}
			var said []byte
			for err == nil {
				var msg []byte
				if _, msg, err = p.Read(ctx); err == nil {
					said = bytes.Clone(msg)
				}
			}
			<-c.Context().Done()
			var ce *transport.CloseError
			if !errors.As(context.Cause(c.Context()), &ce) {
				t.Fatalf("the cause is %v, want a *CloseError", context.Cause(c.Context()))
			}
			switch {
			case test.breach && (ce.Remote || ce.Code != transport.CodeProtocol):
				t.Errorf("the breach was answered with %v", ce)
			case test.breach && !bytes.HasPrefix(said, []byte{msgClose, 0, 0, 0, 2}):
				t.Errorf("the peer heard %.40q, want a close with code 2", said)
			case !test.breach && (!ce.Remote || ce.Code != transport.CodeUser || ce.Reason != "bye"):
				t.Errorf("the connection ended with %v, want the peer's close", ce)
			}
		})
	}
}

func bytesOf(b []byte, n int) (list [][]byte) {
	for range n {
		list = append(list, b)
	}
	return list
}

// TestStrangers: of handshakes that do not get on, the oldest go first, and the honest get in (LI5).
func TestStrangers(t *testing.T) {
	tr := newTransport(t, &Config{MaxHandshakes: 4, HandshakeTimeout: time.Hour})
	ln := listen(t, tr)
	var strangers []net.Conn
	for range 12 {
		c, err := net.Dial("tcp", ln.Addr().HostPort)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		strangers = append(strangers, c)
	}
	for _, c := range strangers[:8] {
		c.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("a stranger is still there: %v", err)
		}
	}
	peer(t, ln.Addr())
	if _, err := ln.Accept(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// TestBacklog: a dial beyond the backlog waits until there is a place, for as long as it may (LI1, DI2), and does not hold
// up the server's end (LI6).
func TestBacklog(t *testing.T) {
	server, client := newTransport(t, &Config{Backlog: 1, HandshakeTimeout: time.Hour}), newTransport(t, nil)
	ln := listen(t, server)
	dial := func(ctx context.Context) error {
		_, err := client.Dial(ctx, ln.Addr())
		return err
	}
	if err := dial(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := dial(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("a dial beyond the backlog: %v, want the context's error", err)
	}
	waiting := make(chan error)
	go func() { waiting <- dial(t.Context()) }()
	for accepted := false; !accepted; {
		if _, err := ln.Accept(t.Context()); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-waiting:
			if err != nil {
				t.Fatal(err)
			}
			accepted = true
		case <-time.After(100 * time.Millisecond): // what was accepted was not that one
		}
	}
	for range 3 { // of which one or two wait for a place
		go func() { waiting <- dial(t.Context()) }()
	}
	server.Close()
	for range 3 {
		<-waiting
	}
}
