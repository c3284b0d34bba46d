package quic

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"

	quicgo "github.com/quic-go/quic-go"

	"github.com/Blockchain-CN/pheromones/transport"
)

// Listener implements [transport.Listener]. All methods may be called at once from any goroutine.
type Listener struct {
	t       *Transport
	socket  *socket
	quic    *quicgo.Listener
	queue   chan *Conn    // sent to by take only, never closed
	closing chan struct{} // closed by the first Close
	done    chan struct{} // closed when run has ended and nothing of the listener is left
	once    sync.Once
}

// acceptors is how many goroutines move connections from quic-go's queue, which holds 32 and refuses more, to ours: while one of
// them waits for a busy processor, another may have it.
const acceptors = 4

// run has connections moved from quic-go's queue to ours, until the listener or the socket is closed.
func (l *Listener) run() {
	defer l.t.wg.Done()
	defer close(l.done)
	var wg sync.WaitGroup
	for range acceptors - 1 {
		wg.Go(l.take)
	}
	l.take()
	wg.Wait()
	// Whoever reads from the queue now takes what there is; the rest is refused.
	l.once.Do(func() { close(l.closing) })
	for {
		select {
		case c := <-l.queue:
			c.CloseWithError(transport.CodeRefused, "the listener was closed")
			continue
		default:
		}
		break
	}
	l.t.release(l.socket, l)
}

// take moves connections until the listener or the socket is closed.
func (l *Listener) take() {
	for {
		q, err := l.quic.Accept(context.Background())
		if err != nil {
			return
		}
		l.t.gate.done(q)
		l.add(q)
	}
}

func (l *Listener) add(q *quicgo.Conn) {
	l.t.mu.Lock()
	l.socket.users++
	l.t.mu.Unlock()
	c, err := l.t.newConn(q, l.socket, nil, nil)
	if err != nil {
		l.t.release(l.socket, nil)
		return
	}
	select {
	case l.queue <- c:
	default:
		c.CloseWithError(transport.CodeRefused, "too many connections wait to be accepted")
	}
}

// OpenPacket opens a further UDP socket at the listener's IP, with a port of its own, as the listener's was opened (see
// Config.ListenPacket). It is the caller's, and QUIC has nothing to do with it.
func (l *Listener) OpenPacket(ctx context.Context) (net.PacketConn, error) {
	pc, err := listenPacket(l.t.conf.ListenPacket).open(ctx, netip.AddrPortFrom(l.socket.local.Addr(), 0))
	if err != nil {
		return nil, &transport.OpError{Op: "open a port", Addr: l.Addr(), Err: err}
	}
	return pc, nil
}

// Accept implements [transport.Listener].
func (l *Listener) Accept(ctx context.Context) (transport.Conn, error) {
	select {
	case <-l.closing:
		return nil, l.opError("accept", transport.ErrClosed)
	default:
	}
	select {
	case c := <-l.queue: // ready, whatever ctx says
		return c, nil
	default:
	}
	select {
	case c := <-l.queue:
		return c, nil
	case <-l.closing:
		return nil, l.opError("accept", transport.ErrClosed)
	case <-ctx.Done():
		return nil, l.opError("accept", ctxError(ctx))
	}
}

func (l *Listener) opError(op string, err error) error {
	return &transport.OpError{Op: op, Addr: l.Addr(), Err: err}
}

// Addr implements [transport.Listener].
func (l *Listener) Addr() transport.Addr {
	return transport.Addr{Scheme: scheme, HostPort: l.socket.local.String(), Peer: l.t.id}
}

// Close implements [transport.Listener]. Handshakes under way are refused. The address is free when Close returns, or,
// if connections made with the listener's socket live on, when the last of them has ended; this Transport may listen
// there again at once.
func (l *Listener) Close() error {
	l.once.Do(func() { close(l.closing) })
	l.quic.Close()
	<-l.done
	return nil
}

// ReadPacket reads into b the next packet that came to the listener's port and is not QUIC: one whose first byte is below
// 0x40, as those of STUN (RFC 8489 §5). It returns its length, cut to that of b, and its sender, who may be forged. It
// waits until there is one, ctx ends, or the socket is closed. Packets are kept once ReadPacket has been called, 32 of
// them at most; others are dropped. It may be called from any goroutine.
func (l *Listener) ReadPacket(ctx context.Context, b []byte) (n int, from netip.AddrPort, err error) {
	n, from, err = l.socket.read(ctx, b)
	switch {
	case err == nil:
		return n, from, nil
	case ctx.Err() != nil:
		return 0, from, l.opError("read packet", ctxError(ctx))
	}
	return 0, from, l.opError("read packet", transport.ErrClosed)
}

// WritePacket sends b, which stays the caller's, from the listener's port. The first byte must be below 0x40, so that the
// other side does not take it for QUIC. That it returns nil does not mean that the packet got anywhere. It may be called
// from any goroutine.
func (l *Listener) WritePacket(b []byte, to netip.AddrPort) error {
	if len(b) == 0 || b[0] >= 0x40 {
		return l.opError("write packet", errors.New("its first byte must be below 0x40"))
	}
	if _, err := l.socket.write(b, to); err != nil {
		return l.opError("write packet", err)
	}
	return nil
}
