package tlsnet

import (
	"crypto/tls"
	"io"
	"net"
	"sync"

	"github.com/Blockchain-CN/pheromones/internal/outq"
)

// gatherer is the network beneath TLS. crypto/tls makes a system call for each record, of at most 16 KiB; here the records of
// a long write leave together, which makes bulk transfers half as fast again. A short one can be tried: what the network does not take
// at once is held, so that nobody waits.
type gatherer struct {
	net.Conn
	now *tryWriter // nil if Conn cannot be tried

	mu      sync.Mutex // not held while a write waits, unless by crypto/tls's reader or the queue's goroutine
	holding bool
	held    []byte // while holding: what crypto/tls has written
	err     error  // of a write that failed: what follows would not be a record's beginning
}

func newGatherer(c net.Conn) *gatherer { return &gatherer{Conn: c, now: newTryWriter(c)} }

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

// hold makes writes gather in a buffer of pool until release.
func (g *gatherer) hold(pool *outq.Pool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.holding {
		g.holding, g.held = true, pool.Get(0)
	}
}

// release writes what has gathered.
func (g *gatherer) release(pool *outq.Pool) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.holding {
		g.flush()
		pool.Put(g.held)
		g.holding, g.held = false, nil
	}
	return g.err
}

// tryHold is hold, or returns false if a write is under way: crypto/tls's reader may have something to say, too, and wait for the network.
func (g *gatherer) tryHold(pool *outq.Pool) bool {
	if !g.mu.TryLock() {
		return false
	}
	defer g.mu.Unlock()
	if !g.holding {
		g.holding, g.held = true, pool.Get(0)
	}
	return true
}

// tryRelease writes as much of what has gathered as the network takes without waiting. If that is not all, it goes on holding.
func (g *gatherer) tryRelease(pool *outq.Pool) (left bool, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err == nil {
		var n int
		n, g.err = g.now.write(g.held)
		g.held = g.held[:copy(g.held, g.held[n:])]
	}
	if left = g.err == nil && len(g.held) > 0; !left {
		pool.Put(g.held)
		g.holding, g.held = false, nil
	}
	return left, g.err
}

// promptWriter is a writer whose network can be tried.
type promptWriter struct{ writer }

// WriteNow implements [outq.Prompt].
func (w *promptWriter) WriteNow(b []byte) (taken, left bool, err error) {
	if !w.net.tryHold(w.pool) {
		return false, false, nil
	}
	_, err = w.raw.Write(b)
	left, released := w.net.tryRelease(w.pool)
	if err == nil {
		err = released
	}
	return true, left, err
}

// writer writes to a TLS connection over a gatherer, from one goroutine at a time.
type writer struct {
	raw  *tls.Conn
	net  *gatherer
	pool *outq.Pool
}

// newWriter returns a writer to raw, which is over a gatherer; an [outq.Prompt] if the network can be tried.
func newWriter(raw *tls.Conn, pool *outq.Pool) io.Writer {
	w := writer{raw, raw.NetConn().(*gatherer), pool}
	if w.net.now != nil {
		return &promptWriter{w}
	}
	return &w
}

// Write implements [io.Writer]. What WriteNow has left leaves first.
func (w *writer) Write(b []byte) (n int, err error) {
	const record = 16 << 10
	if len(b) > record {
		w.net.hold(w.pool)
	} else if err := w.net.release(w.pool); err != nil {
		return 0, err
	}
	if len(b) > 0 {
		n, err = w.raw.Write(b)
	}
	if released := w.net.release(w.pool); err == nil {
		err = released
	}
	return n, err
}
