package tlsnet

import (
	"container/list"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/Blockchain-CN/pheromones/transport"
)

// Listener is a [transport.Listener].
//
// One goroutine takes connections from the system and one each does their handshakes. When more handshakes are under way
// than the bound allows, the oldest is given up: an honest peer needs some milliseconds, so a flood must replace the whole
// bound within those to keep it out.
type Listener struct {
	transport *Transport
	tcp       net.Listener
	addr      transport.Addr
	ctx       context.Context // ends with close
	end       context.CancelFunc
	once      sync.Once
	ready     chan Conn     // handshake done; never closed; has room for every handshake that may be under way
	taken     chan struct{} // capacity 1: something was taken from ready

	mu       sync.Mutex
	open     *list.List                       // of *tls.Conn: the handshakes under way, oldest first
	expected map[netip.AddrPort]chan net.Conn // from where DialFrom takes what comes; capacity 1, never closed

	binding sync.Mutex // held while the port may be shared
}

// Listen is [transport.Transport]'s.
func (t *Transport) Listen(ctx context.Context, addr transport.Addr) (transport.Listener, error) {
	l, err := t.listen(ctx, addr)
	if err != nil {
		return nil, &transport.OpError{Op: "listen", Addr: addr, Err: err}
	}
	return l, nil
}

func (t *Transport) listen(ctx context.Context, addr transport.Addr) (*Listener, error) {
	if err := addr.Check(t.cfg.Scheme); err != nil {
		return nil, err
	}
	cfg := net.ListenConfig{KeepAliveConfig: keepAlive}
	network := "tcp"
	if at, err := netip.ParseAddrPort(addr.HostPort); err == nil && at.Addr().Is4() {
		network = "tcp4" // else 0.0.0.0 would take IPv6 too
	}
	tcp, err := cfg.Listen(ctx, network, addr.HostPort)
	if err != nil {
		return nil, err
	}
	l := &Listener{
		transport: t, tcp: tcp,
		addr:  transport.Addr{Scheme: t.cfg.Scheme, HostPort: tcp.Addr().String(), Peer: t.key.ID()},
		taken: make(chan struct{}, 1), open: list.New(),
		ready: make(chan Conn, t.cfg.backlog()+t.cfg.maxHandshakes()), expected: make(map[netip.AddrPort]chan net.Conn),
	}
	l.ctx, l.end = context.WithCancel(context.Background())
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		tcp.Close()
		return nil, transport.ErrClosed
	}
	t.listeners[l] = struct{}{}
	t.running.Add(1)
	go l.run()
	return l, nil
}

// run takes connections from the system until the listener is closed.
func (l *Listener) run() {
	defer l.transport.running.Done()
	var pause time.Duration
	for {
		if !l.awaitRoom() {
			return
		}
		tcp, err := l.tcp.Accept()
		if err == nil {
			pause = 0
			l.begin(tcp)
			continue
		}
		if errors.Is(err, net.ErrClosed) {
			return
		}
		// Out of file descriptors, most likely, or a connection that ended before we took it. Both pass.
		pause = min(max(2*pause, 5*time.Millisecond), time.Second)
		select {
		case <-time.After(pause):
		case <-l.ctx.Done():
			return
		}
	}
}

// awaitRoom waits until the backlog has room, and reports false when the listener is closed instead. What waits beyond
// the backlog waits in the system's.
func (l *Listener) awaitRoom() bool {
	for len(l.ready) >= l.transport.cfg.backlog() {
		select {
		case <-l.taken:
		case <-l.ctx.Done():
			return false
		}
	}
	return true
}

// begin starts the handshake on tcp, giving up the oldest one if there are too many.
func (l *Listener) begin(tcp net.Conn) {
	if l.handOver(tcp) {
		return
	}
	if !l.transport.begin() {
		tcp.Close()
		return
	}
	raw := tls.Server(newGatherer(tcp), l.transport.server)
	l.mu.Lock()
	if l.open.Len() >= l.transport.cfg.maxHandshakes() {
		l.open.Remove(l.open.Front()).(*tls.Conn).NetConn().Close()
	}
	element := l.open.PushBack(raw)
	l.mu.Unlock()
	go l.finish(raw, element)
}

// finish does the handshake on raw and hands the connection to Accept.
func (l *Listener) finish(raw *tls.Conn, element *list.Element) {
	defer l.transport.running.Done()
	err := l.transport.handshake(l.transport.ctx, raw)
	l.mu.Lock()
	l.open.Remove(element) // does nothing if begin has removed it
	l.mu.Unlock()
	if err != nil {
		raw.NetConn().Close()
		return
	}
	c, err := l.transport.adopt(raw, false, nil)
	if err != nil {
		raw.NetConn().Close()
		return
	}
	select {
	case l.ready <- c:
	default: // cannot be, by the size of ready; but a goroutine must not hang on an error of ours
		c.CloseWithError(transport.CodeLimit, "too many connections wait to be accepted")
	}
	select {
	case <-l.ctx.Done():
		l.refuse()
	default:
	}
}

// refuse closes what nobody will accept any more.
func (l *Listener) refuse() {
	for {
		select {
		case c := <-l.ready:
			c.CloseWithError(transport.CodeRefused, "the listener was closed")
		default:
			return
		}
	}
}

// Accept is [transport.Listener]'s.
func (l *Listener) Accept(ctx context.Context) (transport.Conn, error) {
	c, err := l.accept(ctx)
	if err != nil {
		return nil, &transport.OpError{Op: "accept", Addr: l.addr, Err: err}
	}
	select {
	case l.taken <- struct{}{}:
	default:
	}
	return c, nil
}

func (l *Listener) accept(ctx context.Context) (Conn, error) {
	select {
	case <-l.ctx.Done():
		return nil, transport.ErrClosed
	default:
	}
	select {
	case c := <-l.ready:
		return c, nil
	default:
	}
	select {
	case c := <-l.ready:
		return c, nil
	case <-l.ctx.Done():
		return nil, transport.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Addr is [transport.Listener]'s.
func (l *Listener) Addr() transport.Addr { return l.addr }

// Close is [transport.Listener]'s.
func (l *Listener) Close() error {
	l.close()
	l.transport.mu.Lock()
	delete(l.transport.listeners, l)
	l.transport.mu.Unlock()
	return nil
}

func (l *Listener) close() {
	l.once.Do(func() {
		l.end()
		l.tcp.Close()
		l.mu.Lock()
		for e := l.open.Front(); e != nil; e = e.Next() {
			e.Value.(*tls.Conn).NetConn().Close()
		}
		l.mu.Unlock()
		l.refuse()
	})
}
