package tlsnet

import (
	"crypto/tls"
	"net"
	"sync"

	"github.com/Blockchain-CN/pheromones/internal/outq"
)

// gatherer is the network beneath TLS. crypto/tls makes a system call for each record, of at most 16 KiB; here the records of
// a long write leave together, which makes bulk transfers half as fast again.
type gatherer struct {
	net.Conn
	mu      sync.Mutex
	holding bool
	held    []byte // while holding: what crypto/tls has written
	err     error  // of a write that failed: what follows would not be a record's beginning
}

// Write implements [net.Conn].
func (g *gatherer) Write(b []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.holding && g.err == nil {
		var n int
		n, g.err = g.Conn.Write(b)
		return n, g.err
	}
	if len(g.held)+len(b) > cap(g.held) {
		g.flush()
	}
	if g.err != nil {
		return 0, g.err
	}
	g.held = append(g.held, b...)
	return len(b), nil
}

// flush writes what is held, with mu held.
func (g *gatherer) flush() {
	if g.err == nil && len(g.held) > 0 {
		_, g.err = g.Conn.Write(g.held)
	}
	g.held = g.held[:0]
}

// hold makes writes gather in b until release.
func (g *gatherer) hold(b []byte) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.holding, g.held = true, b
}

// release writes what has gathered, and returns the buffer.
func (g *gatherer) release() ([]byte, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.flush()
	b := g.held
	g.holding, g.held = false, nil
	return b, g.err
}

// writer writes to a TLS connection over a gatherer, from one goroutine at a time.
type writer struct {
	raw  *tls.Conn
	net  *gatherer
	pool *outq.Pool
}

// Write implements [io.Writer].
func (w *writer) Write(b []byte) (int, error) {
	const record = 16 << 10
	if len(b) <= record {
		return w.raw.Write(b)
	}
	w.net.hold(w.pool.Get(0))
	n, err := w.raw.Write(b)
	buf, released := w.net.release()
	w.pool.Put(buf)
	if err == nil {
		err = released
	}
	return n, err
}
