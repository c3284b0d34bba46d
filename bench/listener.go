package main

import (
	"context"
	"crypto/tls"
	"net"
	"sync"
)

// listener accepts TCP connections on loopback, over TLS or not, and gives each to handle, in a goroutine of its own.
type listener struct {
	net.Listener
	client *tls.Config // nil: plain TCP

	wait   sync.WaitGroup
	mu     sync.Mutex
	open   map[net.Conn]struct{}
	closed bool
}

// listen returns a listener; handle owns the connections it is given until it returns.
func listen(client, server *tls.Config, handle func(net.Conn)) (*listener, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	if server != nil {
		l = tls.NewListener(l, server)
	}
	ln := &listener{Listener: l, client: client, open: make(map[net.Conn]struct{})}
	ln.wait.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if !ln.keep(c) {
				c.Close()
				return
			}
			ln.wait.Go(func() {
				defer ln.drop(c)
				handle(c)
			})
		}
	})
	return ln, nil
}

func (l *listener) keep(c net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open[c] = struct{}{}
	return !l.closed
}

func (l *listener) drop(c net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.open, c)
	c.Close()
}

// dial connects with the listener, handshake and all.
func (l *listener) dial(ctx context.Context) (net.Conn, error) {
	if l.client != nil {
		d := tls.Dialer{Config: l.client}
		return d.DialContext(ctx, "tcp", l.Addr().String())
	}
	var d net.Dialer
	return d.DialContext(ctx, "tcp", l.Addr().String())
}

// Close ends the connections, too, and waits for those who handle them.
func (l *listener) Close() error {
	err := l.Listener.Close()
	l.mu.Lock()
	l.closed = true
	for c := range l.open {
		if t, ok := c.(*tls.Conn); ok {
			c = t.NetConn() // no farewell
		}
		c.Close()
	}
	l.mu.Unlock()
	l.wait.Wait()
	return err
}

// serveAll gives what accept returns to serve, in goroutines, and waits for them.
func serveAll[S any](accept func() (S, error), serve func(S)) {
	var wait sync.WaitGroup
	defer wait.Wait()
	for {
		st, err := accept()
		if err != nil {
			return
		}
		wait.Go(func() { serve(st) })
	}
}

// resumed tells of a connection over TLS whether its session was resumed.
type resumed struct{ conn net.Conn }

func (r resumed) Resumed() bool { return r.conn.(*tls.Conn).ConnectionState().DidResume }
