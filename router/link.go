package router

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/transport"
)

// link is a long connection with a peer, dialled by either side. Its fields after conn are guarded by Router.mu.
type link struct {
	r     *Router
	conn  transport.Conn
	since time.Time

	streams  int         // under way, of either side
	draining bool        // takes no new stream of ours, and closes when streams is 0
	deadline *time.Timer // closes a draining link whose streams take too long
	reason   string      // of the close to come
}

// drainTimeout bounds how long a link that is no longer wanted waits for what runs on it.
const drainTimeout = 10 * time.Second

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
		c.CloseWithError(transport.CodeTimeout, "no stream was opened")
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

// attach makes a link of a long connection, and returns nil if the router is closed or the peer is this node.
func (r *Router) attach(c transport.Conn) *link {
	id := c.Info().RemotePeer
	if id == r.self {
		c.CloseWithError(transport.CodeRefused, "the peer is this node itself")
		return nil
	}
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		c.CloseWithError(transport.CodeShutdown, "")
		return nil
	}
	l := &link{r: r, conn: c, since: time.Now()}
	rt := r.get(id)
	rt.links = append(rt.links, l)
	reason := "the peer dialled"
	if c.Info().Dialer {
		reason = "we dialled"
		delete(rt.failed, c.Info().RemoteAddr)
	}
	r.emit(Event{Kind: LinkUp, Route: r.snapshot(rt), Reason: reason})
	r.running.Add(1)
	r.mu.Unlock()
	go l.run()
	return l
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
	if l.deadline != nil {
		l.deadline.Stop()
	}
	id := l.conn.Info().RemotePeer
	rt := r.get(id)
	rt.links = slices.DeleteFunc(rt.links, func(other *link) bool { return other == l })
	r.emit(Event{Kind: LinkDown, Route: r.snapshot(rt), Reason: context.Cause(l.conn.Context()).Error()})
	if len(rt.links) == 0 && rt.known() && len(r.addresses(rt)) == 0 {
		r.emit(Event{Kind: RouteRemoved, Route: r.snapshot(rt), Reason: "its last link has ended, and it listens nowhere"})
		delete(r.routes, id)
	}
	r.sweep(id)
}

// drain makes the link take no new stream of ours and close when those under way have ended.
func (l *link) drain(reason string) {
	l.r.mu.Lock()
	defer l.r.mu.Unlock()
	if l.draining {
		return
	}
	l.draining, l.reason = true, reason
	if l.streams == 0 {
		l.close()
	} else {
		l.deadline = time.AfterFunc(drainTimeout, l.close)
	}
}

func (l *link) close() { l.conn.CloseWithError(transport.CodeNone, l.reason) }

// best returns the link that a new stream to the peer takes, or nil. Both sides choose the same one while they have the same
// ones: that which the smaller ID dialled, and the oldest of those.
func (rt *route) best(self identity.ID) *link {
	weAreSmaller := slices.Compare(self[:], rt.fact.Peer.ID[:]) < 0
	var best *link
	for _, l := range rt.links {
		if l.draining || l.conn.Context().Err() != nil {
			continue
		}
		if best == nil || l.conn.Info().Dialer == weAreSmaller && best.conn.Info().Dialer != weAreSmaller {
			best = l
		}
	}
	return best
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

func (l *link) release() {
	l.r.mu.Lock()
	defer l.r.mu.Unlock()
	l.streams--
	if l.draining && l.streams == 0 {
		l.close()
	}
}

// open opens a stream on the link.
func (l *link) open(ctx context.Context) (transport.Stream, error) {
	s, err := l.conn.OpenStream(ctx)
	if err != nil {
		return nil, err
	}
	l.r.mu.Lock()
	l.streams++
	l.r.mu.Unlock()
	return &linkStream{Stream: s, link: l}, nil
}

// ended reports whether err says that a connection has ended, so that another may do.
func ended(err error) bool {
	var closed *transport.CloseError
	return errors.Is(err, transport.ErrLost) || errors.As(err, &closed)
}
