package quic

import (
	"context"
	"crypto/rand"
	"net"
	"testing"
	"time"
)

func TestGate(t *testing.T) {
	g := gate{max: 4}
	var ends []context.CancelFunc
	for i := range g.max {
		if full := g.full(2); full != (i >= 2) {
			t.Errorf("with %d of %d the half is full: %v", i, g.max, full)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		ends = append(ends, cancel)
		if _, err := g.enter(ctx, nil); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := g.enter(t.Context(), nil); err == nil {
		t.Error("one too many was let in")
	}
	for _, end := range ends {
		end()
	}
	g.wg.Wait()
	if g.n != 0 {
		t.Errorf("%d are left", g.n)
	}
}

// forgedInitial returns a packet that looks like the first of a new connection (RFC 9000 §17.2.2), until it is opened.
func forgedInitial() []byte {
	b := make([]byte, 1200)
	rand.Read(b)
	b[0] = 0xc3
	copy(b[1:], []byte{0, 0, 0, 1, 8}) // version 1, an ID of eight bytes
	b[14] = 8                          // another one
	b[23] = 0                          // no token
	b[24], b[25] = 0x40|byte((len(b)-26)>>8), byte(len(b)-26)
	return b
}

// TestForgedHandshakes sends the first packets of a thousand connections and never anything more.
func TestForgedHandshakes(t *testing.T) {
	const timeout = 5 * time.Second
	server := newTransport(t, newKey(t), &Config{MaxHandshakes: 40, HandshakeTimeout: timeout})
	l := newListener(t, server, "127.0.0.1:0")
	client := newTransport(t, newKey(t), nil)
	underWay := func() int {
		server.gate.mu.Lock()
		defer server.gate.mu.Unlock()
		return server.gate.n
	}
	flood, err := net.Dial("udp4", l.Addr().HostPort)
	if err != nil {
		t.Fatal(err)
	}
	defer flood.Close()
	burst := time.Now()
	for i := range 1000 {
		if i%100 == 0 {
			burst = time.Now()
		}
		flood.Write(forgedInitial())
		if i%100 == 50 {
			exchange(t, dial(t, client, l.Addr()), accept(t, l))
			// One honest handshake at most is under way.
			if n := underWay(); n > 11 || n < 5 && time.Since(burst) < timeout/2 {
				t.Errorf("%d handshakes are under way, want about a quarter of 40", n)
			}
		}
	}
	for ctx := newContext(t); underWay() > 0; time.Sleep(time.Millisecond) {
		if ctx.Err() != nil {
			t.Fatalf("%d silent handshakes have not been given up", underWay())
		}
	}
	exchange(t, dial(t, client, l.Addr()), accept(t, l))
}
