package tcp_test

import (
	"crypto/tls"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/tcp"
	"github.com/Blockchain-CN/pheromones/transport"
)

// newTransport returns a transport with a new key, closed with the test.
func newTransport(t *testing.T) *tcp.Transport {
	t.Helper()
	key, err := identity.Generate()
	if err != nil {
		t.Fatal(err)
	}
	tr, err := tcp.New(key, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tr.Close() })
	return tr
}

// A peer that gives much credit, ends its direction and reads nothing does not keep Close waiting (LI6).
func TestCloseWhilePeerStandsStill(t *testing.T) {
	tr := newTransport(t)
	l, err := tr.Listen(t.Context(), transport.Addr{Scheme: tcp.Scheme, HostPort: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	key, err := identity.Generate()
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := key.ClientTLS(tcp.ALPN, l.Addr().Peer)
	if err != nil {
		t.Fatal(err)
	}
	peer, err := tls.Dial("tcp", l.Addr().HostPort, cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	// SPEC.md, TC2: CREDIT of 1 GiB, then FIN.
	if _, err := peer.Write([]byte{4, 0, 0, 4, 0x40, 0, 0, 0, 1, 0, 0, 0}); err != nil {
		t.Fatal(err)
	}
	c, err := l.Accept(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s, err := c.AcceptStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s.SetWriteDeadline(time.Now().Add(2 * time.Second))
	for err == nil {
		_, err = s.Write(make([]byte, 1<<20))
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("Write to a peer that stands still: %v, want the deadline", err)
	}
	s.Close()
	done := make(chan struct{})
	go func() {
		tr.Close()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatal("Close has not returned after 20 s")
	}
}
