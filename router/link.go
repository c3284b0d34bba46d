package router

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/Blockchain-CN/pheromones/transport"
)

// link is a long connection with a peer, dialled by either side. Its fields after since are guarded by Router.mu.
type link struct {
	r     *Router
	conn  transport.Conn
	since time.Time

	streams  int         // under way, of either side
	quiet    time.Time   // when streams became 0; zero if there never was one
	gone     bool        // run has ended
	draining bool        // takes no new stream of ours, and closes when it has been quiet
	timer    *time.Timer // of a draining link: calls expire. It is one of Router.running until stopped or run to its end
	deadline time.Time   // when a draining link closes whatever runs on it
	code     transport.Code
	reason   string // of the close to come
}

const (
	// drainTimeout bounds how long a link with a deleted peer waits for what runs on it.
	drainTimeout = 10 * time.Second
	// drainLinger is how long a draining link has had no stream when it closes, since what was written to a stream before it
	// was closed may be on its way still.
	drainLinger = time.Second
	// unbounded is for links that wait for what runs on them as long as it takes.
	unbounded = 100 * 365 * 24 * time.Hour
	// maxLinks bounds the links with one peer. Two are common, if both sides dial at once; more are from restarts.
	maxLinks = 16
)

// Accept takes over a connection that a peer dialled: it serves the streams that the peer opens and, unless the connection
// carries one stream only, uses it to reach the peer.
func (r *Router) Accept(c transport.Conn) {
	t := r.transports[c.Info().LocalAddr.Scheme]
	if t != nil && t.Traits().OneStream {
		if !r.begin() {
			c.CloseWithError(transport.CodeShutdown, "")
			return
		}
		go r.serveOne(c)
		return
	}
	r.attach(c)
}

// oneStreamTimeout bounds how long a peer that dialled for one exchange may take to begin it.
const oneStreamTimeout = 30 * time.Second

func (r *Router) serveOne(c transport.Conn) {
	defer r.running.Done()
	ctx, cancel := context.WithTimeout(r.ctx, oneStreamTimeout)
	s, err := c.AcceptStream(ctx)
	cancel()
	if err != nil {
		code, reason := transport.CodeTimeout, "no stream was opened"
		if r.ctx.Err() != nil {
			code, reason = transport.CodeShutdown, ""
		}
		c.CloseWithError(code, reason)
		return
	}
	if r.isDraining() {
		s.Reset(transport.CodeShutdown)
		return
	}
	r.cfg.Serve(r.ctx, c, s)
}

func (r *Router) isDraining() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.draining
}

// attach makes a link of a long connection. It closes the connection and returns nil if the router is closed or the peer is
// this node.
func (r *Router) attach(c transport.Conn) *link {
	if c.Info().RemotePeer == r.self {
		c.CloseWithError(transport.CodeRefused, "the peer is this node itself")
		return nil
	}
	r.mu.Lock()
	l, surplus := r.attachLocked(c)
	r.mu.Unlock()
	if l == nil {
		c.CloseWithError(transport.CodeShutdown, "")
	}
	if surplus != nil {
		surplus.conn.CloseWithError(transport.CodeSuperseded, "there are too many newer connections")
	}
	return l
}

// attachLocked is attach with mu held, for a connection that another peer dialled or we did. It leaves to the caller to close
// c if it returns no link, and to close a link that has become one too many.
func (r *Router) attachLocked(c transport.Conn) (l, surplus *link) {
	if r.closed {
		return nil, nil
	}
	l = &link{r: r, conn: c, since: time.Now()}
	rt := r.get(c.Info().RemotePeer)
	if len(rt.links) >= maxLinks {
		surplus = rt.links[0]
		rt.links = slices.Delete(rt.links, 0, 1)
	}
	rt.links = append(rt.links, l)
	reason := "the peer dialled"
	if c.Info().Dialer {
		reason = "we dialled"
		delete(rt.failed, c.Info().RemoteAddr)
	}
	r.emit(Event{Kind: LinkUp, Route: r.snapshot(rt), Reason: reason})
	r.running.Add(1)
	go l.run()
	return l, surplus
}

// run serves the streams that the peer opens until the connection ends.
func (l *link) run() {
	r := l.r
	defer r.running.Done()
	for {
		s, err := l.conn.AcceptStream(r.ctx)
		if err != nil {
			break
		}
		if r.isDraining() {
			s.Reset(transport.CodeShutdown)
			continue
		}
		r.mu.Lock()
		l.streams++
		r.mu.Unlock()
		r.running.Add(1) // run itself is registered, so Close is still waiting
		go func() {
			defer r.running.Done()
			r.cfg.Serve(r.ctx, l.conn, &linkStream{Stream: s, link: l})
		}()
	}
	if r.ctx.Err() != nil {
		l.conn.CloseWithError(transport.CodeShutdown, "")
	}
	<-l.conn.Context().Done()
	r.mu.Lock()
	defer r.mu.Unlock()
	l.gone = true
	if l.timer != nil && l.timer.Stop() {
		r.running.Done()
	}
	id := l.conn.Info().RemotePeer
	rt := r.get(id)
	rt.links = slices.DeleteFunc(rt.links, func(other *link) bool { return other == l })
	r.emit(Event{Kind: LinkDown, Route: r.snapshot(rt), Reason: context.Cause(l.conn.Context()).Error()})
	if len(rt.links) == 0 && rt.dialing == nil && rt.known() && len(r.addresses(rt)) == 0 {
		r.emit(Event{Kind: RouteRemoved, Route: r.snapshot(rt), Reason: "its last link has ended, and it listens nowhere"})
		r.drop(id)
	}
	r.sweep(id)
}

// drain makes the link take no new stream of ours, and close when it has had none of either side for a moment, or after bound
// at the latest.
func (l *link) drain(code transport.Code, reason string, bound time.Duration) {
	l.r.mu.Lock()
	defer l.r.mu.Unlock()
	if l.draining || l.gone || l.r.closed {
		return
	}
	now := time.Now()
	l.draining, l.code, l.reason, l.deadline = true, code, reason, now.Add(bound)
	wait := bound
	if l.streams == 0 {
		wait = max(0, drainLinger-now.Sub(l.quiet))
	}
	l.r.running.Add(1)
	l.timer = time.AfterFunc(wait, l.expire)
}

// expire closes a draining link, unless streams have come and there is still time.
func (l *link) expire() {
	l.r.mu.Lock()
	if now := time.Now(); l.streams > 0 && now.Before(l.deadline) && !l.gone {
		l.timer.Reset(l.deadline.Sub(now))
		l.r.mu.Unlock()
		return
	}
	l.r.mu.Unlock()
	defer l.r.running.Done()
	l.conn.CloseWithError(l.code, l.reason)
}

// supersede lets go of older links that we dialled ourselves, now that l has proved to work.
func (l *link) supersede() {
	l.r.mu.Lock()
	var old []*link
	for _, other := range l.r.get(l.conn.Info().RemotePeer).links {
		if other == l {
			break
		}
		if other.conn.Info().Dialer {
			old = append(old, other)
		}
	}
	l.r.mu.Unlock()
	for _, other := range old {
		other.drain(transport.CodeSuperseded, "a newer connection has taken over", unbounded)
	}
}

// best returns the link that a new stream to the peer takes, or nil: the newest, since that is the one most likely to live. Two
// sides that dial each other at once may choose differently; neither link is closed for that.
func (rt *route) best() *link {
	for _, l := range slices.Backward(rt.links) {
		if !l.draining && l.conn.Context().Err() == nil {
			return l
		}
	}
	return nil
}

// linkStream is a stream that its link counts until it is closed or reset.
type linkStream struct {
	transport.Stream
	link *link
	once sync.Once
}

// Close implements [transport.Stream].
func (s *linkStream) Close() error {
	err := s.Stream.Close()
	s.once.Do(s.link.release)
	return err
}

// Reset implements [transport.Stream].
func (s *linkStream) Reset(code transport.Code) error {
	err := s.Stream.Reset(code)
	s.once.Do(s.link.release)
	return err
}

// release gives back the place of a stream.
func (l *link) release() {
	l.r.mu.Lock()
	defer l.r.mu.Unlock()
	if l.streams--; l.streams > 0 {
		return
	}
	l.quiet = time.Now()
	if l.timer != nil && l.timer.Stop() {
		l.timer.Reset(min(drainLinger, time.Until(l.deadline)))
	}
}

// open opens a stream on the link. The link is kept for it from before that.
func (l *link) open(ctx context.Context) (transport.Stream, error) {
	l.r.mu.Lock()
	if l.draining {
		l.r.mu.Unlock()
		return nil, errDraining
	}
	l.streams++
	l.r.mu.Unlock()
	s, err := l.conn.OpenStream(ctx)
	if err != nil {
		l.release()
		return nil, err
	}
	return &linkStream{Stream: s, link: l}, nil
}

// errDraining means that a link takes no new stream any more.
var errDraining = errors.New("router: the link is draining")

// ended reports whether err says that a connection has ended, so that another may do.
func ended(err error) bool {
	var closed *transport.CloseError
	return errors.Is(err, errDraining) || errors.Is(err, transport.ErrLost) || errors.As(err, &closed)
}
