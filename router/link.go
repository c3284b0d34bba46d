package router

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/transport"
)

// link is a long connection with a peer, dialled by either side. Its fields after since are guarded by Router.mu.
type link struct {
	r     *Router
	conn  transport.Conn
	since time.Time

	candidate               // its part in the tie-break, and the count of streams
	control   control       // what it says to the peer about itself
	ended     bool          // run is over
	settled   chan struct{} // closed when the link is proven, or will never be
	quiet     time.Time     // when the last stream ended; zero if there never was one
	pledged   time.Time     // when this side last said its pledge
	draining  bool          // takes no new stream of ours, and closes when it has been quiet
	timer     *time.Timer   // of a draining link: calls expire. It is one of Router.running until stopped or run to its end
	deadline  time.Time     // when a draining link closes whatever runs on it
	code      transport.Code
	reason    string // of the close to come

	pipeline   *pipeline // nil: there is none
	pipelining bool      // there is one, or it is being made
	asks       int       // small requests since there was none
	served     int       // pipelines of the peer's

	why string // why the path is what it is; empty: it has not changed
}

const (
	// drainTimeout bounds how long a link with a deleted peer waits for what runs on it.
	drainTimeout = 10 * time.Second
	// drainLinger is how long a draining link has had no stream when it closes, since what was written to a stream before it
	// was closed may be on its way still.
	drainLinger = time.Second
	// maxLinks bounds the links with one peer. Two are common, if both sides dial at once; more drain.
	maxLinks = 64
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
	r.attach(c, time.Now())
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

// attach makes a link of a long connection, which was dialled, if by us, at the time began. It closes the connection and fails
// with ErrClosed, ErrTooManyLinks, or ErrSelf if the peer is this node.
func (r *Router) attach(c transport.Conn, began time.Time) (*link, error) {
	if c.Info().RemotePeer == r.self {
		c.CloseWithError(transport.CodeRefused, "the peer is this node itself")
		return nil, ErrSelf
	}
	r.mu.Lock()
	l, err := r.attachLocked(c, began)
	r.mu.Unlock()
	switch err {
	case nil:
	case ErrTooManyLinks:
		c.CloseWithError(transport.CodeLimit, "there are too many links")
	default:
		c.CloseWithError(transport.CodeShutdown, "")
	}
	return l, err
}

// attachLocked is attach with mu held, for a connection that another peer dialled or we did. It leaves to the caller to close
// c if it returns an error, which is ErrClosed or ErrTooManyLinks.
func (r *Router) attachLocked(c transport.Conn, began time.Time) (*link, error) {
	info := c.Info()
	switch {
	case r.closed:
		return nil, ErrClosed
	case !r.room() && !info.Dialer:
		return nil, ErrTooManyLinks
	}
	l := &link{r: r, conn: c, since: time.Now(), settled: make(chan struct{})}
	l.candidate.link, l.dialed = l, info.Dialer
	rt := r.get(info.RemotePeer)
	if len(rt.links) >= maxLinks {
		old := rt.surplus()
		if old == nil {
			r.sweep(info.RemotePeer)
			return nil, ErrTooManyLinks
		}
		old.closing = true
		r.closeLink(old, transport.CodeSuperseded, "there are too many newer connections")
	}
	rt.links = append(rt.links, l)
	if rt.next != nil {
		close(rt.next)
		rt.next = nil
	}
	r.links++
	reason := "the peer dialled"
	if l.dialed {
		reason = "we dialled"
		rt.answered(info.RemoteAddr)
		r.saw(rt, info.RemoteAddr)
		r.serial++
		l.rank.generation, l.rank.serial = rt.tie.dialling(rt.proven.Before(began)), r.serial
		l.say(r.helloLocked(l))
		l.offerPipelines()
	}
	r.emit(Event{Kind: LinkUp, Route: r.snapshot(rt), Link: rt.linkSnapshot(l), Reason: reason})
	r.carryOut(rt, rt.tie.up(&l.candidate))
	if !l.dialed {
		rt.meet(r.self, l)
	}
	r.keepLocked()
	r.running.Add(1)
	go l.run()
	if l.dialed {
		r.running.Add(1)
		go l.introduce()
	}
	if r.cfg.Attached != nil {
		r.running.Add(1)
		go func() {
			defer r.running.Done()
			r.cfg.Attached(r.ctx, c)
		}()
	}
	return l, nil
}

// surplus returns the oldest link on which nothing runs and that is not the one in use, or nil.
func (rt *route) surplus() *link {
	for _, l := range rt.links {
		if &l.candidate != rt.tie.winner && l.active == 0 && !l.closing {
			return l
		}
	}
	return nil
}

// meet gives those who wait for a dial the link that the peer has dialled meanwhile. If ours would lose against it, the dial is
// given up.
func (rt *route) meet(self identity.ID, l *link) {
	d := rt.dialing
	if d == nil || d.abandoned != nil {
		return
	}
	rt.dialing = nil
	d.link, d.met = l, true
	close(d.done)
	if peer := rt.fact.Peer.ID; bytes.Compare(self[:], peer[:]) > 0 {
		d.abandon(errUnwanted)
	}
}

// closeLink closes a link in the background, with mu held.
func (r *Router) closeLink(l *link, code transport.Code, reason string) {
	if r.closed {
		return // Close does it
	}
	r.running.Add(1)
	go func() {
		defer r.running.Done()
		l.conn.CloseWithError(code, reason)
	}()
}

// carryOut does what the tie-break wants, with mu held.
func (r *Router) carryOut(rt *route, orders []order) {
	if rt.tie.any && rt.tie.generation != rt.generation || rt.proven.IsZero() && rt.tie.any {
		rt.generation, rt.proven = rt.tie.generation, time.Now()
	}
	if rt.tie.winner != nil {
		rt.tie.winner.link.settle()
	}
	for _, o := range orders {
		l := o.c.link
		switch o.kind {
		case sendReady:
			l.say(appendControl(nil, controlReady))
		case sendPledge:
			l.pledged = time.Now()
			l.say(appendPledge(nil, o.pledge))
		case closeLink:
			r.closeLink(l, o.code, o.reason)
		case prefer:
			if o.reason == "" {
				break // there was nothing to decide
			}
			r.emit(Event{Kind: LinkPreferred, Route: r.snapshot(rt), Link: rt.linkSnapshot(l), Reason: o.reason})
		}
	}
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
		r.mu.Lock()
		l.active++
		draining := r.draining
		r.mu.Unlock()
		if draining {
			s.Reset(transport.CodeShutdown)
			l.release(false, true)
			continue
		}
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
	l.ended = true
	l.settle()
	if l.timer != nil && l.timer.Stop() {
		r.running.Done()
	}
	id := l.conn.Info().RemotePeer
	rt := r.get(id)
	rt.links = slices.DeleteFunc(rt.links, func(other *link) bool { return other == l })
	r.links--
	if addr := l.conn.Info().RemoteAddr; l.dialed && time.Since(l.since) >= lasting {
		delete(rt.failed, addr)
	} else if l.dialed && !l.closing {
		rt.fail(addr)
	}
	r.emit(Event{Kind: LinkDown, Route: r.snapshot(rt), Link: rt.linkSnapshot(l), Reason: context.Cause(l.conn.Context()).Error()})
	r.carryOut(rt, rt.tie.down(&l.candidate))
	if len(rt.links) == 0 && rt.dialing == nil && rt.known() && len(r.addresses(rt)) == 0 {
		r.emit(Event{Kind: RouteRemoved, Route: r.snapshot(rt), Reason: "its last link has ended, and it listens nowhere"})
		r.drop(id)
	}
	r.sweep(id)
	if rt.wanted() && rt.best() == nil {
		r.keepSoon()
	}
}

// settle lets those go on who wait for a link to prove itself, with mu held.
func (l *link) settle() {
	select {
	case <-l.settled:
	default:
		close(l.settled)
	}
}

// drain makes the link take no new stream of ours, and close when it has had none of either side for a moment, or after bound
// at the latest.
func (l *link) drain(code transport.Code, reason string, bound time.Duration) {
	l.r.mu.Lock()
	defer l.r.mu.Unlock()
	l.drainLocked(code, reason, bound)
}

// drainLocked is drain with mu held.
func (l *link) drainLocked(code transport.Code, reason string, bound time.Duration) {
	if l.draining || l.r.closed || l.conn.Context().Err() != nil {
		return
	}
	now := time.Now()
	l.draining, l.code, l.reason, l.deadline = true, code, reason, now.Add(bound)
	wait := bound
	if l.active == 0 {
		wait = max(0, drainLinger-now.Sub(l.quiet))
	}
	l.r.running.Add(1)
	l.timer = time.AfterFunc(wait, l.expire)
}

// expire closes a draining link, unless streams have come and there is still time.
func (l *link) expire() {
	l.r.mu.Lock()
	if now := time.Now(); l.active > 0 && now.Before(l.deadline) && l.conn.Context().Err() == nil {
		l.timer.Reset(l.deadline.Sub(now))
		l.r.mu.Unlock()
		return
	}
	l.r.mu.Unlock()
	defer l.r.running.Done()
	l.conn.CloseWithError(l.code, l.reason)
}

// best returns the link that a new stream to the peer takes, or nil.
func (rt *route) best() *link {
	if c := rt.tie.best(); c != nil && !c.link.draining && c.link.conn.Context().Err() == nil {
		return c.link
	}
	for _, l := range slices.Backward(rt.links) {
		if l.takes() && l.conn.Context().Err() == nil {
			return l
		}
	}
	return nil
}

// takes reports whether a link takes new streams of ours, with mu held.
func (l *link) takes() bool { return !l.draining && !l.consent && !l.leaving && !l.closing }

// linkStream is a stream that its link counts until it is closed or reset.
type linkStream struct {
	transport.Stream
	link *link
	ours bool // this side opened it
	once sync.Once
}

// Close implements [transport.Stream].
func (s *linkStream) Close() error {
	err := s.Stream.Close()
	s.once.Do(func() { s.link.release(s.ours, true) })
	return err
}

// Reset implements [transport.Stream].
func (s *linkStream) Reset(code transport.Code) error {
	err := s.Stream.Reset(code)
	s.once.Do(func() { s.link.release(s.ours, true) })
	return err
}

// release gives back the place of a stream. counts is whether both sides count it, as all but the control stream and those that
// could not be opened.
func (l *link) release(ours, counts bool) {
	l.r.mu.Lock()
	defer l.r.mu.Unlock()
	switch {
	case l.ended:
		return
	case !counts && ours:
		l.opened--
	case !counts:
		l.finished--
	}
	rt := l.r.routes[l.conn.Info().RemotePeer] // it is kept while it has links
	l.r.carryOut(rt, rt.tie.ended(&l.candidate, ours))
	if l.active > 0 {
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
	if !l.takes() {
		l.r.mu.Unlock()
		return nil, errDraining
	}
	l.active++
	l.opened++
	l.r.mu.Unlock()
	s, err := l.conn.OpenStream(ctx)
	if err != nil {
		l.release(true, false)
		return nil, err
	}
	return &linkStream{Stream: s, link: l, ours: true}, nil
}

// errDraining means that a link takes no new stream any more.
var errDraining = errors.New("router: the link is draining")

// ended reports whether err says that a connection has ended, so that another may do.
func ended(err error) bool {
	var closed *transport.CloseError
	return errors.Is(err, errDraining) || errors.Is(err, transport.ErrLost) || errors.As(err, &closed)
}
