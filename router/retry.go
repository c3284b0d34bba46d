package router

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/protocol"
	"github.com/Blockchain-CN/pheromones/transport"
)

const (
	// retryFirst and retryMost bound the pause before a request is sent again. It doubles, and up to a half of it is random. After a
	// copy that went out and was lost it is at most retryLost: there are ways to the peer, and the longer a request takes the
	// more likely has the peer forgotten that it was executed. A new link ends it at once, or links that do not last long might
	// come and go during one pause after the other.
	retryFirst = 10 * time.Millisecond
	retryLost  = 250 * time.Millisecond
	retryMost  = time.Second
	// patience is for how long the first copy of a request hears nothing before somebody asks whether anybody is there. It
	// doubles up to maxPatience.
	patience    = 2 * time.Second
	maxPatience = 30 * time.Second
	// unbounded is for links that wait for what runs on them: if they are dead indeed, that shows elsewhere.
	unbounded = 100 * 365 * 24 * time.Hour
	// deaf is how long a link may take to give a sign of life until requests prefer another.
	deaf = 2 * time.Second
	// renewals bounds how often one request is given another ID.
	renewals = 4
)

// retryFor is for how long a request without a deadline is sent again.
func (c *Config) retryFor() time.Duration {
	if c.RetryFor == 0 {
		return 30 * time.Second
	}
	return max(c.RetryFor, 0)
}

// request sends a message until it is answered: on streams from open or, if that is nil, as is best.
func (r *Router) request(ctx context.Context, id identity.ID, m protocol.Message, open func(context.Context) (transport.Stream, error)) (protocol.Message, error) {
	q := r.requests.begin(id, m)
	defer r.requests.end(q)
	var lost, dial error
	var since time.Time // the first loss
	wait, silence := retryFirst, patience
	for renewed := 0; ; {
		answer, began, err := r.try(ctx, q, open, silence)
		switch {
		case began:
			if err == nil {
				if !q.own && q.copies == 1 && answer.Code == protocol.CodeForgotten && answer.Kind == protocol.KindError &&
					renewed < renewals && r.requests.renew(q, answer.Horizon) {
					renewed++ // the peer has seen later IDs and cannot know; but there was no other copy
					continue
				}
				return q.outcome(answer)
			}
			silence = min(2*silence, maxPatience)
			switch {
			case ctx.Err() != nil && !errors.Is(err, ctx.Err()):
				return protocol.Message{}, q.failed(err, nil, context.Cause(ctx))
			case ctx.Err() != nil || !r.lossy(err):
				return protocol.Message{}, q.failed(err, nil, nil)
			}
			lost, wait = err, min(wait, retryLost)
		case ctx.Err() != nil || r.ctx.Err() != nil || q.copies == 0 && !r.cut(q, err) || saidGoodbye(lost):
			if lost == nil {
				return protocol.Message{}, err
			}
			return protocol.Message{}, q.failed(lost, err, context.Cause(ctx))
		default:
			dial = err
		}
		if since.IsZero() {
			since = time.Now()
		}
		if _, bounded := ctx.Deadline(); r.cfg.RetryFor < 0 || !bounded && time.Since(since)+wait > r.cfg.retryFor() {
			if lost == nil {
				return protocol.Message{}, dial
			}
			return protocol.Message{}, q.failed(lost, dial, fmt.Errorf("given up after %v", time.Since(since).Round(time.Millisecond)))
		}
		if !r.pause(ctx, id, wait-time.Duration(rand.Int64N(int64(wait)/2))) {
			if lost == nil {
				return protocol.Message{}, dial
			}
			return protocol.Message{}, q.failed(lost, dial, context.Cause(ctx))
		}
		wait = min(2*wait, retryMost)
	}
}

// try sends the next copy of a request and returns the answer. It reports whether it began to.
func (r *Router) try(ctx context.Context, q *request, open func(context.Context) (transport.Stream, error), silence time.Duration) (answer protocol.Frame, began bool, err error) {
	if open == nil {
		if p := r.pipelined(q.peer, &q.m); p != nil {
			if answer, err = r.sendPipelined(ctx, p, q); !errors.Is(err, protocol.ErrPipeline) {
				return answer, true, err
			}
		}
		open = func(ctx context.Context) (transport.Stream, error) {
			s, _, err := r.Open(ctx, q.peer)
			return s, err
		}
	}
	s, err := open(ctx)
	if err != nil {
		return answer, false, err
	}
	answer, err = r.send(ctx, s, q, silence)
	return answer, true, err
}

// pause waits for the time d, or until a link with the peer comes up. It reports false if ctx or the router has ended.
func (r *Router) pause(ctx context.Context, id identity.ID, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err() == nil
	case <-r.nextLink(id):
		return ctx.Err() == nil
	case <-ctx.Done():
	case <-r.ctx.Done():
	}
	return false
}

// nextLink returns a channel that is closed when another link with the peer comes up; nil if nothing is known of the peer.
func (r *Router) nextLink(id identity.ID) <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	rt := r.routes[id]
	if rt == nil {
		return nil
	}
	if rt.next == nil {
		rt.next = make(chan struct{})
	}
	return rt.next
}

// outcome is what Dispatch returns of an answer.
func (q *request) outcome(answer protocol.Frame) (protocol.Message, error) {
	err := answer.Err(q.peer, q.m.Operation)
	if err == nil {
		return answer.Message, nil
	}
	doubtful := errors.Is(err, protocol.CodeForgotten) || errors.Is(err, protocol.CodeRestarted)
	if q.copies > 1 && (doubtful || protocol.NotExecuted(err)) {
		return protocol.Message{}, q.failed(err, nil, nil) // it says nothing of the copies before
	}
	return protocol.Message{}, err
}

// failed is the error of a request without a known outcome: how its last copy was lost, and perhaps why there was no other
// way and why no further copy was sent.
func (q *request) failed(lost, dial, end error) error {
	e := &protocol.ExchangeError{Peer: q.peer, Operation: q.m.Operation, ID: q.m.ID, Sent: q.copies > 0, Err: lost}
	var last *protocol.ExchangeError
	if errors.As(lost, &last) {
		e.Err = last.Err
	}
	if q.copies > 1 {
		e.Copies = q.copies
	}
	if dial != nil {
		e.Err = fmt.Errorf("%w; then %w", e.Err, dial)
	}
	if end != nil {
		e.Err = fmt.Errorf("%w: %w", end, e.Err)
	}
	return e
}

// lossy reports whether an exchange failed because its link ended, was silent, or leads to a node that goes away: then a further
// copy may fare better.
func (r *Router) lossy(err error) bool {
	if r.ctx.Err() != nil {
		return false
	}
	if ended(err) {
		return true
	}
	var reset *transport.ResetError
	if !errors.As(err, &reset) {
		return false
	}
	switch reset.Code {
	case transport.CodeSuperseded: // by us, see listen
		return true
	case transport.CodeTimeout:
		return reset.Remote
	}
	return false
}

// saidGoodbye reports whether a connection ended because the peer went away on purpose. Then one attempt to reach it elsewhere is
// enough: its next life could only answer that it does not know.
func saidGoodbye(lost error) bool {
	var closed *transport.CloseError
	return errors.As(lost, &closed) && closed.Remote && closed.Code == transport.CodeShutdown
}

// turnedAway reports whether the peer has refused a connection, which it may have room for later.
func turnedAway(err error) bool {
	var closed *transport.CloseError
	return errors.As(err, &closed) && closed.Remote && closed.Code == transport.CodeRefused
}

// cut reports whether a dial failed in the middle, so that another may succeed: nothing was sent yet.
func (r *Router) cut(q *request, err error) bool {
	var timeout net.Error
	switch {
	case turnedAway(err), errors.Is(err, transport.ErrLost), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, errDraining),
		errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return true
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return r.requests.heardWithin(q, max(r.cfg.retryFor(), time.Second))
	}
	return false
}

// send sends the next copy of a request and returns the answer. A link that says nothing for the time silence is asked for a sign of
// life, and given up if there is none; a connection of one stream is given up at once.
func (r *Router) send(ctx context.Context, s transport.Stream, q *request, silence time.Duration) (protocol.Frame, error) {
	var l *link
	if ls, ok := s.(*linkStream); ok {
		l = ls.link
	}
	w := &listening{Stream: s}
	stop := r.listen(w, l, silence)
	defer stop()
	return r.exchange(q, func(f protocol.Frame) (protocol.Frame, error) {
		return protocol.ExchangeFrame(ctx, w, q.peer, f, r.cfg.Protocol)
	})
}

// sendPipelined is send on a pipeline, whose place it gives back. A pipeline that takes no request any more is protocol.ErrPipeline.
func (r *Router) sendPipelined(ctx context.Context, p *pipeline, q *request) (protocol.Frame, error) {
	answer, err := r.exchange(q, func(f protocol.Frame) (protocol.Frame, error) { return p.Exchange(ctx, f) })
	p.l.release(true, !errors.Is(err, protocol.ErrPipeline))
	return answer, err
}

// exchange sends the next copy of a request by means of do, and notes what the answer tells of the peer.
func (r *Router) exchange(q *request, do func(protocol.Frame) (protocol.Frame, error)) (protocol.Frame, error) {
	began := now()
	life, begun := r.lifeOf(q.peer)
	answer, err := do(r.requests.frame(q, life, begun))
	if err == nil {
		r.requests.answered(q, answer.Incarnation, began)
		return answer, nil
	}
	var failed *protocol.ExchangeError
	if errors.As(err, &failed) && protocol.NotExecuted(failed) {
		q.copies-- // as if it had not gone out
	}
	return answer, err
}

// lifeOf returns the incarnation that the latest hello of a peer told, and a time at which it had begun, as IDs have it; or zero.
func (r *Router) lifeOf(id identity.ID) (life, begun uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	rt := r.routes[id]
	if rt == nil {
		return 0, 0
	}
	for _, l := range rt.links {
		if life = rt.tie.incarnation; life != 0 && l.candidate.incarnation == life {
			return life, uint64(l.since.UnixNano())
		}
	}
	return 0, 0
}

// listening is a stream that knows when something went over it.
type listening struct {
	transport.Stream
	writing atomic.Bool
	last    atomic.Int64 // nanoseconds since 1970
}

func (w *listening) heard() { w.last.Store(time.Now().UnixNano()) }

// Read implements [transport.Stream].
func (w *listening) Read(b []byte) (int, error) {
	n, err := w.Stream.Read(b)
	w.heard()
	return n, err
}

// Write implements [transport.Stream]. While it waits the stream does not count as silent: the peer is not asked yet.
func (w *listening) Write(b []byte) (int, error) {
	w.writing.Store(true)
	n, err := w.Stream.Write(b)
	w.heard()
	w.writing.Store(false)
	return n, err
}

// silentFor returns for how long nothing went over the stream.
func (w *listening) silentFor() time.Duration {
	if w.writing.Load() {
		return 0
	}
	return time.Duration(time.Now().UnixNano() - w.last.Load())
}

// listen resets the stream, with CodeSuperseded, when it has been silent and its link, l, gives no sign of life; such a link takes
// no new stream any more. The returned function ends that and waits for it. l is nil if the connection carries one stream.
func (r *Router) listen(w *listening, l *link, silence time.Duration) (stop func()) {
	w.heard()
	quit, done := make(chan struct{}), make(chan struct{})
	timer := time.AfterFunc(silence, func() {
		defer close(done)
		for wait := time.Duration(0); sleep(quit, wait); {
			if quiet := w.silentFor(); quiet < silence {
				wait = silence - quiet
				continue
			}
			if l != nil {
				if l.ask(); !sleep(quit, deaf) {
					return
				}
				if l.unanswered() < deaf {
					silence = min(2*silence, maxPatience)
					wait = silence
					w.heard()
					continue
				}
				l.drain(transport.CodeTimeout, "it was silent", unbounded)
			}
			w.Reset(transport.CodeSuperseded)
			return
		}
	})
	return func() {
		close(quit)
		if !timer.Stop() {
			<-done
		}
	}
}

// ask asks the peer for a sign of life, unless that was done already.
func (l *link) ask() {
	l.r.mu.Lock()
	defer l.r.mu.Unlock()
	l.probe()
}

// unanswered returns for how long the peer has owed a sign of life.
func (l *link) unanswered() time.Duration {
	l.r.mu.Lock()
	defer l.r.mu.Unlock()
	switch {
	case !l.control.greeted:
		return time.Since(l.since)
	case l.control.asked.IsZero():
		return 0
	}
	return time.Since(l.control.asked)
}

// sleep waits, and reports false if quit is closed before.
func sleep(quit <-chan struct{}, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-quit:
		return false
	}
}

// Since returns a time at which the connection of a stream existed already, for a stream that was just given to Config.Serve.
func (r *Router) Since(s transport.Stream) time.Time {
	if ls, ok := s.(*linkStream); ok {
		return ls.link.since
	}
	return time.Now().Add(-oneStreamTimeout) // a connection of one stream is given so long to open it
}
