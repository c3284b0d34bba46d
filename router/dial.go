package router

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/protocol/greeting"
	"github.com/Blockchain-CN/pheromones/transport"
)

// Attempt is one address that was tried.
type Attempt struct {
	Addr    transport.Addr
	Elapsed time.Duration
	Err     error
}

// Phase returns how far the attempt came; it is empty if it did not begin, or the transport does not tell.
func (a Attempt) Phase() transport.Phase {
	var p *transport.PhaseError
	if errors.As(a.Err, &p) {
		return p.Phase
	}
	return ""
}

// Fault says whose the failure is, as far as it shows.
type Fault string

// The faults.
const (
	FaultCaller  Fault = "the caller"               // gave up, or its deadline passed
	FaultOurs    Fault = "this side"                // the address cannot be dialled from here
	FaultPeer    Fault = "the peer"                 // it is another than asked for, or refused us
	FaultNetwork Fault = "the network, or the peer" // nobody answered, or what answered was cut off
)

// Fault returns whose the failure is.
func (a Attempt) Fault() Fault {
	var closed *transport.CloseError
	var invalid *identity.VerifyError
	switch {
	case errors.Is(a.Err, context.Canceled), errors.Is(a.Err, context.DeadlineExceeded):
		return FaultCaller
	case errors.Is(a.Err, identity.ErrWrongPeer), errors.As(a.Err, &invalid), errors.As(a.Err, &closed) && closed.Remote:
		return FaultPeer
	case errors.Is(a.Err, transport.ErrBadAddr), errors.Is(a.Err, transport.ErrClosed):
		return FaultOurs
	}
	return FaultNetwork
}

// DialError says that a peer could not be reached: every address that was tried, and why each failed. It wraps all of the
// reasons.
type DialError struct {
	Peer     identity.ID // zero if whoever is at the address was asked for
	Attempts []Attempt
}

func (e *DialError) Error() string {
	var b strings.Builder
	whom := "whoever is there"
	if !e.Peer.IsZero() {
		whom = "peer " + e.Peer.String()
	}
	fmt.Fprintf(&b, "router: %s was not reached; %d addresses were tried", whom, len(e.Attempts))
	for _, a := range e.Attempts {
		fmt.Fprintf(&b, "; after %v", a.Elapsed.Round(time.Millisecond))
		if p := a.Phase(); p != "" {
			fmt.Fprintf(&b, " (%s)", p)
		}
		fmt.Fprintf(&b, ", by fault of %s: %v", a.Fault(), a.Err)
	}
	return b.String()
}

// Unwrap returns the reasons.
func (e *DialError) Unwrap() []error {
	errs := make([]error, len(e.Attempts))
	for i, a := range e.Attempts {
		errs[i] = a.Err
	}
	return errs
}

// dialing is a dial that any number of callers wait for.
type dialing struct {
	cancel context.CancelFunc
	done   chan struct{} // closed when what follows is set

	id   identity.ID // who answered
	link *link       // nil if the connection carries one stream only
	err  error

	met       bool  // the peer has dialled meanwhile, and link is that
	waiters   int   // guarded by Router.mu, as is what follows
	abandoned error // why nobody wants the result any more; nobody joins then
}

// abandon gives up a dial, with Router.mu held.
func (d *dialing) abandon(why error) {
	d.abandoned = why
	d.cancel()
}

// join waits for a dial, at addrs, of which the caller is counted as a waiter. When the last one has gone the dial is given up.
// If ctx ends first the error says so of every address.
func (r *Router) join(ctx context.Context, d *dialing, id identity.ID, addrs ...transport.Addr) error {
	start := time.Now()
	var err error
	select {
	case <-d.done:
		err = d.err
	case <-ctx.Done():
		late := &DialError{Peer: id}
		for _, a := range addrs {
			late.Attempts = append(late.Attempts, Attempt{a, time.Since(start), &transport.OpError{Op: "dial", Addr: a, Err: ctx.Err()}})
		}
		err = late
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if d.waiters--; d.waiters == 0 && !d.met {
		d.abandon(errUnwanted)
	}
	return err
}

var errUnwanted = errors.New("router: whoever wanted the connection has gone")

// Open opens a stream to a peer: on a link if there is one, else on a connection dialled for it, which is then kept as a link
// unless it carries one stream only (oneStream). Callers at once share a dial. Open returns when it has the stream, when every
// address has failed, with a [*DialError], or when ctx ends. It fails with [ErrUnknownPeer], [ErrNoAddress] or [ErrSelf] if
// there is nothing to dial. The stream is the caller's, who must close or reset it.
func (r *Router) Open(ctx context.Context, id identity.ID) (s transport.Stream, oneStream bool, err error) {
	// A link may end between being found and being used; the next round dials.
	for range 3 {
		var l *link
		var c transport.Conn
		if l, c, err = r.connect(ctx, id); err != nil {
			return nil, false, err
		}
		if l == nil {
			s, err = openSingle(ctx, c)
			return s, true, err
		}
		if s, err = l.open(ctx); err == nil || !ended(err) {
			return s, false, err
		}
	}
	return nil, false, err
}

// openSingle opens the stream of a connection that was dialled for it.
func openSingle(ctx context.Context, c transport.Conn) (transport.Stream, error) {
	s, err := c.OpenStream(ctx)
	if err != nil {
		c.CloseWithError(transport.CodeCancelled, "")
	}
	return s, err
}

// bound returns ctx, ended also by Close.
func (r *Router) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(r.ctx, cancel)
	return ctx, func() { stop(); cancel() }
}

// connect returns a link with the peer, or a connection for one stream.
func (r *Router) connect(ctx context.Context, id identity.ID) (*link, transport.Conn, error) {
	if id == r.self {
		return nil, nil, ErrSelf
	}
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return nil, nil, ErrClosed
	}
	rt := r.routes[id]
	var l *link
	if rt != nil && !rt.deleted {
		l = rt.best()
	}
	if l != nil || rt == nil || !rt.known() {
		r.mu.Unlock()
		if l == nil {
			return nil, nil, fmt.Errorf("%w: %s", ErrUnknownPeer, id)
		}
		return l, nil, nil
	}
	addrs := r.candidates(rt)
	r.mu.Unlock()
	if len(addrs) == 0 {
		return nil, nil, fmt.Errorf("%w: %s", ErrNoAddress, id)
	}
	var long, short []transport.Addr
	for _, a := range addrs {
		if r.transports[a.Scheme].Traits().OneStream {
			short = append(short, a)
		} else {
			long = append(long, a)
		}
	}
	return r.dialBoth(ctx, id, long, short, len(short) > 0 && addrs[0] == short[0])
}

// outcome is what one of the two dials of dialBoth came to.
type outcome struct {
	link *link
	conn transport.Conn
	err  error
}

// dialBoth races a dial for a long connection, shared with other callers, and one for a single stream, of this caller's own.
// The second starts when the first has failed or has taken Config.RaceDelay.
func (r *Router) dialBoth(ctx context.Context, id identity.ID, long, short []transport.Addr, shortFirst bool) (*link, transport.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	outcomes := make(chan outcome, 2)
	start := []func(){
		func() { outcomes <- r.dialLong(ctx, id, long) },
		func() {
			c, err := r.race(ctx, id, short)
			outcomes <- outcome{conn: c, err: err}
		},
	}
	if shortFirst {
		start[0], start[1] = start[1], start[0]
	}
	if len(long) == 0 || len(short) == 0 {
		if len(long) == 0 {
			c, err := r.race(ctx, id, short)
			return nil, c, err
		}
		o := r.dialLong(ctx, id, long)
		return o.link, nil, o.err
	}
	var failed []error
	running := 0
	next := func() {
		if len(start) > 0 && r.begin() {
			running++
			f := start[0]
			start = start[1:]
			go func() {
				defer r.running.Done()
				f()
			}()
		}
	}
	next()
	timer := time.NewTimer(r.cfg.raceDelay())
	defer timer.Stop()
	for running > 0 {
		select {
		case <-timer.C:
			next()
		case o := <-outcomes:
			running--
			if o.err != nil {
				failed = append(failed, o.err)
				next()
				continue
			}
			if o.conn != nil && !shortFirst {
				// The long connection is on its way or nowhere; until that is known, exchanges do not wait for it first.
				for _, a := range long {
					r.note(id, a, false)
				}
			}
			cancel()
			for ; running > 0; running-- {
				if late := <-outcomes; late.conn != nil {
					late.conn.CloseWithError(transport.CodeCancelled, "another connection was faster")
				}
			}
			return o.link, o.conn, nil
		}
	}
	if len(failed) == 0 {
		return nil, nil, ErrClosed
	}
	return nil, nil, joinDialErrors(id, failed)
}

// joinDialErrors makes one error of those of several races.
func joinDialErrors(id identity.ID, errs []error) error {
	all := &DialError{Peer: id}
	for _, err := range errs {
		var d *DialError
		if !errors.As(err, &d) {
			return err
		}
		all.Attempts = append(all.Attempts, d.Attempts...)
	}
	return all
}

// dialLong waits for the dial for a long connection that is under way, or starts one.
func (r *Router) dialLong(ctx context.Context, id identity.ID, addrs []transport.Addr) outcome {
	r.mu.Lock()
	rt := r.routes[id]
	switch {
	case r.closed:
		r.mu.Unlock()
		return outcome{err: ErrClosed}
	case rt == nil || !rt.known():
		r.mu.Unlock()
		return outcome{err: fmt.Errorf("%w: %s", ErrUnknownPeer, id)}
	}
	if l := rt.best(); l != nil {
		r.mu.Unlock()
		return outcome{link: l}
	}
	if rt.dialing == nil || rt.dialing.abandoned != nil {
		d := &dialing{done: make(chan struct{}), id: id}
		var dialCtx context.Context
		dialCtx, d.cancel = context.WithCancel(r.ctx)
		rt.dialing = d
		r.running.Add(1)
		go r.dial(dialCtx, d, addrs)
	}
	d := rt.dialing
	d.waiters++
	r.mu.Unlock()
	if err := r.join(ctx, d, id, addrs...); err != nil {
		return outcome{err: err}
	}
	return outcome{link: d.link}
}

// dial is the goroutine of a dial for a long connection.
func (r *Router) dial(ctx context.Context, d *dialing, addrs []transport.Addr) {
	defer r.running.Done()
	defer d.cancel()
	began := time.Now()
	c, err := r.race(ctx, d.id, addrs)
	var l *link
	r.mu.Lock()
	if c != nil && d.abandoned == nil {
		l, err = r.attachLocked(c, began)
	}
	if !d.met {
		d.link, d.err = l, err
		switch rt := r.routes[d.id]; {
		case d.abandoned != nil:
			d.err = d.abandoned
		case err != nil && rt != nil && rt.best() != nil:
			d.link, d.err = rt.best(), nil // the peer has dialled meanwhile
		}
		if rt := r.routes[d.id]; rt != nil && rt.dialing == d {
			rt.dialing = nil
		}
		close(d.done)
	}
	r.sweep(d.id)
	r.mu.Unlock()
	if c != nil && l == nil {
		c.CloseWithError(transport.CodeCancelled, "")
	}
}

// otherTransport is for how long an address has the network to itself before one of another transport is tried beside it, unless
// the peer was ever reached by its own: UDP may be blocked, and then nothing says so.
const otherTransport = 25 * time.Millisecond

// race dials addresses one after the other, each when the one before has failed or has taken Config.RaceDelay (or otherTransport), and returns
// the first connection. The others are given up. Addresses of transports that are Indirect are dialled in the same way beside the others.
func (r *Router) race(ctx context.Context, id identity.ID, addrs []transport.Addr) (transport.Conn, error) {
	type result struct {
		Attempt
		conn transport.Conn
		lane int
	}
	ctx, cancel := r.bound(ctx)
	defer cancel()
	results := make(chan result, len(addrs))
	running := 0
	var lanes [2][]transport.Addr // what is still to be dialled: directly, and through others
	for _, a := range addrs {
		if r.transports[a.Scheme].Traits().Indirect {
			lanes[1] = append(lanes[1], a)
		} else {
			lanes[0] = append(lanes[0], a)
		}
	}
	var last [2]transport.Addr
	delay := func(lane int) time.Duration {
		if rest := lanes[lane]; len(rest) > 0 && rest[0].Scheme != last[lane].Scheme && !r.worked(id, last[lane].Scheme) {
			return min(otherTransport, r.cfg.raceDelay())
		}
		return r.cfg.raceDelay()
	}
	next := func(lane int) {
		if len(lanes[lane]) == 0 {
			return
		}
		a := lanes[lane][0]
		last[lane] = a
		lanes[lane] = lanes[lane][1:]
		running++
		go func() {
			start := time.Now()
			c, err := r.attempt(ctx, a)
			results <- result{Attempt{a, time.Since(start), err}, c, lane}
		}()
	}
	// Every goroutine is waited for: transports return from Dial soon after its context has ended.
	defer func() {
		cancel()
		for ; running > 0; running-- {
			if late := <-results; late.conn != nil {
				late.conn.CloseWithError(transport.CodeCancelled, "another connection was faster")
			}
		}
	}()
	failed := &DialError{Peer: id}
	var timers [2]*time.Timer
	for lane := range lanes {
		next(lane)
		timers[lane] = time.NewTimer(delay(lane))
		defer timers[lane].Stop()
	}
	for running > 0 {
		select {
		case <-timers[0].C:
			next(0)
			timers[0].Reset(delay(0))
		case <-timers[1].C:
			next(1)
			timers[1].Reset(delay(1))
		case res := <-results:
			running--
			if res.Err == nil {
				r.note(id, res.Addr, true)
				return res.conn, nil
			}
			if ctx.Err() == nil {
				r.note(id, res.Addr, false)
				next(res.lane)
				timers[res.lane].Reset(delay(res.lane))
			}
			failed.Attempts = append(failed.Attempts, res.Attempt)
		}
	}
	return nil, failed
}

// worked reports whether a peer was ever reached by a transport.
func (r *Router) worked(id identity.ID, scheme string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	rt := r.routes[id]
	if rt == nil {
		return false
	}
	for a, s := range rt.seen {
		if a.Scheme == scheme && !s.worked.IsZero() {
			return true
		}
	}
	return false
}

// attempt dials one address.
func (r *Router) attempt(ctx context.Context, a transport.Addr) (transport.Conn, error) {
	ctx, stop := r.bound(ctx)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, r.cfg.dialTimeout())
	defer cancel()
	return r.transports[a.Scheme].Dial(ctx, a)
}

// note remembers whether an address worked, for the order in which addresses are tried.
func (r *Router) note(id identity.ID, a transport.Addr, worked bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	rt := r.routes[id]
	switch {
	case rt == nil:
	case worked && r.transports[a.Scheme].Traits().OneStream:
		delete(rt.failed, a)
		r.saw(rt, a)
	case worked:
		rt.answered(a)
	default:
		rt.fail(a)
		if len(rt.failed) > maxFailed {
			addrs := r.addresses(rt)
			maps.DeleteFunc(rt.failed, func(a transport.Addr, _ failures) bool { return !slices.Contains(addrs, a) })
		}
	}
}

// maxFailed is how many failed addresses of a peer are remembered before those are forgotten that are not its addresses any
// more. It has fewer addresses than that at a time.
const maxFailed = 4 * greeting.MaxAddrs
