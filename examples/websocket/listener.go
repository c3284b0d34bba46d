package websocket

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/Blockchain-CN/pheromones/transport"
	ws "github.com/coder/websocket"
)

// listener is a [transport.Listener]. An http.Server does the handshakes, each in a goroutine that then becomes the
// reader of the connection.
type listener struct {
	transport *Transport
	tcp       net.Listener
	addr      transport.Addr
	server    http.Server
	serving   sync.WaitGroup // TCP connections, from when they are taken until their goroutine ends

	places chan struct{} // one for each connection in ready, or about to be: taken before the WebSocket is opened
	ready  chan *conn    // wait to be accepted; as many as there are places
	closed chan struct{} // closed by close, with mu held

	mu   sync.Mutex
	open []handshake // under way, oldest first
}

// handshake is a TCP connection that is to become a WebSocket.
type handshake struct {
	conn  net.Conn
	timer *time.Timer // hangs up
}

// Listen implements [transport.Transport].
func (t *Transport) Listen(ctx context.Context, addr transport.Addr) (transport.Listener, error) {
	l, err := t.listen(ctx, addr)
	if err != nil {
		return nil, &transport.OpError{Op: "listen", Addr: addr, Err: err} // AD4, LI4
	}
	return l, nil
}

func (t *Transport) listen(ctx context.Context, addr transport.Addr) (*listener, error) {
	if err := addr.Check(Scheme); err != nil {
		return nil, err
	}
	cfg, err := t.key.ServerTLS(alpn)
	if err != nil {
		return nil, err
	}
	tcp, err := new(net.ListenConfig).Listen(ctx, "tcp", addr.HostPort)
	if err != nil {
		return nil, err
	}
	l := &listener{
		transport: t, tcp: tcp,
		addr:   transport.Addr{Scheme: Scheme, HostPort: tcp.Addr().String(), Peer: t.key.ID()}, // AD3
		places: make(chan struct{}, t.cfg.Backlog),
		ready:  make(chan *conn, t.cfg.Backlog),
		closed: make(chan struct{}),
	}
	l.server = http.Server{
		Handler:        http.HandlerFunc(l.serve),
		MaxHeaderBytes: 8 << 10,
		ConnState:      l.track,
		ConnContext:    func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, rawConn{}, c) },
		ErrorLog:       slog.NewLogLogger(slog.DiscardHandler, 0), // RE3
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		tcp.Close()
		return nil, transport.ErrClosed
	}
	t.listeners[l] = struct{}{}
	t.running.Go(func() {
		l.server.Serve(tls.NewListener(tcp, cfg)) // returns when the listener is closed
		l.serving.Wait()
	})
	return l, nil
}

// rawConn is the key, in a request's context, of the [tls.Conn] that it came by.
type rawConn struct{}

// track is told by the server of what becomes of each TCP connection. A handshake that takes too long is given up, and so
// is the oldest when there are too many: strangers who do nothing cannot keep an honest peer out for long, who needs some
// milliseconds (LI5).
func (l *listener) track(c net.Conn, state http.ConnState) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch state {
	case http.StateNew:
		l.serving.Add(1)
		if l.isClosed() { // taken while the server was closing
			hangUp(c)
			return
		}
		timer := time.AfterFunc(l.transport.cfg.HandshakeTimeout, func() { hangUp(c) })
		l.open = append(l.open, handshake{c, timer})
		if len(l.open) > l.transport.cfg.MaxHandshakes {
			hangUp(l.open[0].conn)
			l.drop(0)
		}
	case http.StateHijacked, http.StateClosed:
		if i := slices.IndexFunc(l.open, func(h handshake) bool { return h.conn == c }); i >= 0 {
			l.drop(i)
		}
		if state == http.StateClosed {
			l.serving.Done() // else serve does, when the connection ends
		}
	}
}

// drop takes a handshake off the list, with mu held.
func (l *listener) drop(i int) {
	l.open[i].timer.Stop()
	l.open = slices.Delete(l.open, i, i+1)
}

// hangUp closes a connection without a word; the Close of package tls has one to say and may wait for that.
func hangUp(c net.Conn) { c.(*tls.Conn).NetConn().Close() }

// serve makes a connection of a request and reads it to its end.
func (l *listener) serve(w http.ResponseWriter, r *http.Request) {
	// A place in the queue comes first, so that a connection once opened can be handed over without waiting.
	select {
	case l.places <- struct{}{}:
	case <-r.Context().Done(): // the peer is tired of waiting, or the server is
		return
	}
	raw := r.Context().Value(rawConn{}).(*tls.Conn)
	socket, err := ws.Accept(w, r, nil)
	if err != nil { // which it has answered
		<-l.places
		return
	}
	defer l.serving.Done()
	c, err := l.transport.adopt(socket, raw, false)
	if err != nil {
		<-l.places
		hangUp(raw)
		return
	}
	l.offer(c)
	c.run()
}

// offer hands a connection to Accept (LI1), or refuses it if it comes too late.
func (l *listener) offer(c *conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.isClosed() {
		c.CloseWithError(transport.CodeRefused, "the listener is closed")
		return
	}
	l.ready <- c // has room, by the place taken
}

func (l *listener) isClosed() bool {
	select {
	case <-l.closed:
		return true
	default:
		return false
	}
}

// Accept implements [transport.Listener].
func (l *listener) Accept(ctx context.Context) (transport.Conn, error) {
	c, err := l.accept(ctx)
	if err != nil {
		return nil, &transport.OpError{Op: "accept", Addr: l.addr, Err: err}
	}
	<-l.places
	return c, nil
}

func (l *listener) accept(ctx context.Context) (*conn, error) {
	if l.isClosed() {
		return nil, transport.ErrClosed
	}
	select { // LI2: a connection that is there wins over a context that has ended
	case c := <-l.ready:
		return c, nil
	default:
	}
	select {
	case c := <-l.ready:
		return c, nil
	case <-l.closed: // LI3
		return nil, transport.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Addr implements [transport.Listener].
func (l *listener) Addr() transport.Addr { return l.addr }

// Close implements [transport.Listener].
func (l *listener) Close() error {
	l.transport.mu.Lock()
	delete(l.transport.listeners, l)
	l.transport.mu.Unlock()
	l.close()
	return nil
}

// close closes the listener and what nobody will accept any more (LI3).
func (l *listener) close() {
	l.mu.Lock()
	if !l.isClosed() {
		close(l.closed)
	}
	for {
		select {
		case c := <-l.ready:
			c.CloseWithError(transport.CodeRefused, "the listener is closed")
			continue
		default:
		}
		break
	}
	l.mu.Unlock()
	l.tcp.Close()
	l.server.Close() // handshakes under way; connections already opened are the server's no longer
}
