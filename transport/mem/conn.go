package mem

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/Blockchain-CN/pheromones/internal/pipe"
	"github.com/Blockchain-CN/pheromones/transport"
)

// conn is one end of a connection: a [transport.Conn].
type conn struct {
	transport *Transport
	peer      *conn // the other end
	link      *link
	info      transport.Info
	ctx       context.Context
	cancel    context.CancelCauseFunc
	incoming  chan *stream  // opened by the peer and not yet accepted; never closed
	places    chan struct{} // one element for each of our streams that has not ended
}

// link is what both ends share.
type link struct {
	mu      sync.Mutex
	ended   bool
	streams map[*stream]struct{} // one end of each that has not ended
}

func newLink(dialer, acceptor *Transport, from, to string) (ours, theirs *conn) {
	l := &link{streams: make(map[*stream]struct{})}
	here := transport.Addr{Scheme: Scheme, HostPort: from, Peer: dialer.id}
	there := transport.Addr{Scheme: Scheme, HostPort: to, Peer: acceptor.id}
	ours = newConn(dialer, acceptor, l, transport.Info{LocalAddr: here, RemoteAddr: there, Dialer: true})
	theirs = newConn(acceptor, dialer, l, transport.Info{LocalAddr: there, RemoteAddr: here})
	ours.peer, theirs.peer = theirs, ours
	return ours, theirs
}

func newConn(t, remote *Transport, l *link, info transport.Info) *conn {
	info.LocalPeer, info.RemotePeer = t.id, remote.id
	c := &conn{
		transport: t, link: l, info: info,
		incoming: make(chan *stream, t.cfg.maxStreams()),
		places:   make(chan struct{}, remote.cfg.maxStreams()),
	}
	c.ctx, c.cancel = context.WithCancelCause(context.Background())
	return c
}

// Info implements [transport.Conn].
func (c *conn) Info() transport.Info { return c.info }

// Context implements [transport.Conn].
func (c *conn) Context() context.Context { return c.ctx }

// OpenStream implements [transport.Conn]. The peer sees the stream at once.
func (c *conn) OpenStream(ctx context.Context) (transport.Stream, error) {
	if err := c.wait(ctx, c.places); err != nil {
		return nil, err
	}
	ours, theirs := c.newStream()
	c.link.mu.Lock()
	defer c.link.mu.Unlock()
	if c.link.ended {
		return nil, context.Cause(c.ctx)
	}
	c.link.streams[ours] = struct{}{}
	c.peer.incoming <- theirs // has room: a place is given back only after the peer took the stream
	return ours, nil
}

// wait puts an element into places, unless the connection or ctx ends first.
func (c *conn) wait(ctx context.Context, places chan struct{}) error {
	if c.ctx.Err() != nil {
		return context.Cause(c.ctx)
	}
	select {
	case places <- struct{}{}:
		return nil
	default:
	}
	select {
	case places <- struct{}{}:
		return nil
	case <-c.ctx.Done():
		return context.Cause(c.ctx)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// AcceptStream implements [transport.Conn].
func (c *conn) AcceptStream(ctx context.Context) (transport.Stream, error) {
	if c.ctx.Err() != nil {
		return nil, context.Cause(c.ctx)
	}
	select {
	case s := <-c.incoming:
		return s.accept(), nil
	default:
	}
	select {
	case s := <-c.incoming:
		return s.accept(), nil
	case <-c.ctx.Done():
		return nil, context.Cause(c.ctx)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// CloseWithError implements [transport.Conn].
func (c *conn) CloseWithError(code transport.Code, reason string) error {
	reason = transport.CutReason(reason)
	c.link.mu.Lock()
	streams := c.link.streams
	if c.link.ended {
		c.link.mu.Unlock()
		return nil
	}
	c.link.ended = true
	c.link.streams = nil
	c.cancel(&transport.CloseError{Code: code, Reason: reason})
	c.peer.cancel(&transport.CloseError{Code: code, Reason: reason, Remote: true})
	c.link.mu.Unlock()
	for s := range streams {
		s.connEnded()
	}
	c.transport.remove(c)
	c.peer.transport.remove(c.peer)
	return nil
}

// stream is one end of a stream: a [transport.Stream].
type stream struct {
	conn    *conn
	in, out *pipe.Pipe
	pair    *pair
	closed  atomic.Bool // Close or Reset was called
}

// pair is what the two ends of a stream share: it gives the place of the stream back at its end.
type pair struct {
	opener *stream
	open   atomic.Int32 // the two directions that have not ended, and the acceptance to come
}

func (c *conn) newStream() (ours, theirs *stream) {
	p := &pair{}
	p.open.Store(3)
	there := pipe.New(c.peer.transport.cfg.window(), p.step)
	back := pipe.New(c.transport.cfg.window(), p.step)
	ours = &stream{conn: c, in: back, out: there, pair: p}
	theirs = &stream{conn: c.peer, in: there, out: back, pair: p}
	p.opener = ours
	return ours, theirs
}

// step counts one of the events that end a stream.
func (p *pair) step() {
	if p.open.Add(-1) != 0 {
		return
	}
	c := p.opener.conn
	c.link.mu.Lock()
	defer c.link.mu.Unlock()
	delete(c.link.streams, p.opener)
	<-c.places
}

func (s *stream) accept() *stream {
	s.pair.step()
	return s
}

// connEnded ends the stream because its connection has ended.
func (s *stream) connEnded() {
	s.conn.link.mu.Lock() // both sides have their cause, or neither
	here, there := context.Cause(s.conn.ctx), context.Cause(s.conn.peer.ctx)
	s.conn.link.mu.Unlock()
	s.breakBoth(here, there)
}

// breakBoth ends both directions at once, with an error for this end and one for the other.
func (s *stream) breakBoth(here, there error) {
	s.in.Break(here, there)
	s.out.Break(there, here)
}

// Read implements [net.Conn].
func (s *stream) Read(b []byte) (int, error) { return s.in.Read(b) }

// Write implements [net.Conn].
func (s *stream) Write(b []byte) (int, error) {
	if s.conn.ctx.Err() != nil {
		s.connEnded() // CloseWithError may not have come to this stream yet
	}
	return s.out.Write(b)
}

// CloseWrite implements [transport.Stream].
func (s *stream) CloseWrite() error {
	s.out.CloseWrite(transport.ErrClosed)
	return nil
}

// Close implements [net.Conn].
func (s *stream) Close() error {
	if s.closed.CompareAndSwap(false, true) {
		s.out.CloseWrite(transport.ErrClosed)
		s.in.CloseRead(transport.ErrClosed, &transport.ResetError{Code: transport.CodeClosed, Remote: true})
	}
	return nil
}

// Reset implements [transport.Stream].
func (s *stream) Reset(code transport.Code) error {
	if s.closed.CompareAndSwap(false, true) {
		s.breakBoth(&transport.ResetError{Code: code}, &transport.ResetError{Code: code, Remote: true})
	}
	return nil
}

// LocalAddr implements [net.Conn].
func (s *stream) LocalAddr() net.Addr { return s.conn.info.LocalAddr }

// RemoteAddr implements [net.Conn].
func (s *stream) RemoteAddr() net.Addr { return s.conn.info.RemoteAddr }

// SetDeadline implements [net.Conn].
func (s *stream) SetDeadline(t time.Time) error {
	s.in.SetReadDeadline(t)
	s.out.SetWriteDeadline(t)
	return nil
}

// SetReadDeadline implements [net.Conn].
func (s *stream) SetReadDeadline(t time.Time) error {
	s.in.SetReadDeadline(t)
	return nil
}

// SetWriteDeadline implements [net.Conn].
func (s *stream) SetWriteDeadline(t time.Time) error {
	s.out.SetWriteDeadline(t)
	return nil
}
