package router

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/protocol"
	"github.com/Blockchain-CN/pheromones/protocol/greeting"
	"github.com/Blockchain-CN/pheromones/transport"
)

// Result is what one peer made of a message to all.
type Result struct {
	Reply   protocol.Message
	Err     error
	Elapsed time.Duration
}

// Dispatch sends a message to a peer and returns its reply, which is none if the peer has nothing to say. It returns when the
// reply is there, when ctx ends, or when it has given up.
//
// A request whose link is lost, or falls silent, before the reply is there is sent again, over a new link or to another
// address, until ctx ends or, if ctx has no deadline, for Config.RetryFor after the first loss. The peer knows the copies of a
// request by its ID and executes it at most once (see [protocol.Replies]): a copy that comes while the handler runs waits for
// its reply, and a later one gets the reply that was kept. If the peer cannot know whether it has executed an earlier copy,
// because it was started again or has forgotten the request, it says so and does not execute this one.
//
// The ID is made here if m.ID is zero. Who wants to send the same request again himself, say after Dispatch has given up, sets
// m.ID to one of [protocol.NewMessageID] from the beginning; an ID that Dispatch has made is forgotten once it has returned.
// Within that, an ID that the caller has set is protected over a restart of the peer as far as this machine's clock is right.
//
// Errors are those of [Router.Open] if nothing was sent, a [*protocol.RemoteError] if the peer answered with an error, and
// otherwise a [*protocol.ExchangeError], which wraps the last loss, the last failure to dial and the reason to give up. The
// request was perhaps executed unless [protocol.NotExecuted] says otherwise. m.Data is not used after Dispatch has returned.
//
// When ctx ends the peer is told, which ends the context of its handler, if a link stands at that moment; else that happens a
// while after it has seen the loss ([protocol.RepliesConfig].Grace).
func (r *Router) Dispatch(ctx context.Context, id identity.ID, m protocol.Message) (protocol.Message, error) {
	return r.request(ctx, id, m, nil)
}

// DispatchAll sends a message to every known peer and returns what each made of it. Peers are talked to at once, as many as
// Config.Parallel; none waits for another's reply. It returns when the last has answered or failed, or soon after ctx has
// ended. Every peer gets an ID of its own for the message, unless m.ID is set.
func (r *Router) DispatchAll(ctx context.Context, m protocol.Message) map[identity.ID]Result {
	var peers []identity.ID
	r.mu.Lock()
	for id, rt := range r.routes {
		if rt.known() {
			peers = append(peers, id)
		}
	}
	r.mu.Unlock()
	var mu sync.Mutex
	results := make(map[identity.ID]Result, len(peers))
	r.each(peers, func(id identity.ID) {
		start := time.Now()
		reply, err := r.Dispatch(ctx, id, m)
		mu.Lock()
		defer mu.Unlock()
		results[id] = Result{Reply: reply, Err: err, Elapsed: time.Since(start)}
	})
	return results
}

// Converse holds a conversation with a peer: it sends first, gives the reply to h, sends what h returns, and so on until
// either side has nothing more to say. Over a link the steps flow on one stream, and the conversation ends with that; over
// connections of one stream each step is an exchange of its own, which survives what a [Router.Dispatch] survives. It returns
// nil at the conversation's end, else what broke it off; ctx bounds all of it.
func (r *Router) Converse(ctx context.Context, id identity.ID, first protocol.Message, h protocol.Handler) error {
	s, oneStream, err := r.Open(ctx, id)
	if err != nil {
		return err
	}
	if !oneStream {
		return protocol.Converse(ctx, s, id, first, h, r.cfg.Protocol)
	}
	return r.converseBy(ctx, id, s, func(ctx context.Context) (transport.Stream, error) {
		s, _, err := r.Open(ctx, id)
		return s, err
	}, first, h)
}

// converseBy holds a conversation in which each step has a stream of its own: the first one s, the others from open.
func (r *Router) converseBy(ctx context.Context, id identity.ID, s transport.Stream, open func(context.Context) (transport.Stream, error),
	first protocol.Message, h protocol.Handler,
) error {
	next := func(ctx context.Context) (transport.Stream, error) {
		if s == nil {
			return open(ctx)
		}
		first := s
		s = nil
		return first, nil
	}
	exchange := func(ctx context.Context, m protocol.Message) (protocol.Message, error) {
		return r.request(ctx, id, m, next)
	}
	err := protocol.ConverseBy(ctx, exchange, first, h, r.cfg.Protocol)
	if s != nil {
		s.Reset(transport.CodeCancelled)
	}
	return err
}

// Add reaches whoever is at addr (that must be addr.Peer, if it is set), greets it and remembers it. h is the handler of the
// conversation, which must know the greeting. It returns the peer's ID, also with an error if it came that far. ctx bounds
// all of it. When the peer turns the connection away, having more newcomers than it can take at the moment, or it ends under the
// greeting, all is begun anew, up to three times: a greeting said twice does no harm.
func (r *Router) Add(ctx context.Context, addr transport.Addr, h protocol.Handler) (identity.ID, error) {
	t := r.transports[addr.Scheme]
	switch {
	case t == nil:
		return addr.Peer, fmt.Errorf("%w: %s", ErrNoAddress, addr)
	case addr.Peer == r.self:
		return addr.Peer, fmt.Errorf("router: add %s: %w", addr, ErrSelf)
	case !r.begin():
		return addr.Peer, ErrClosed
	}
	defer r.running.Done()
	ctx, cancel := r.bound(ctx)
	defer cancel()
	first, err := greeting.ConnectMessage(r.Self())
	if err != nil {
		return addr.Peer, err
	}
	for try := 1; ; try++ {
		id, again, err := r.add(ctx, t, addr, first, h)
		if err == nil {
			addr.Peer = id
			return id, r.Introduce(addr)
		}
		if try == greetTries || !again || !r.pause(ctx, id, rand.N(greetPause<<try)) {
			return id, err
		}
	}
}

// add is one try of Add. It reports whether another may fare better.
func (r *Router) add(ctx context.Context, t transport.Transport, addr transport.Addr, first protocol.Message, h protocol.Handler) (id identity.ID, again bool, err error) {
	began := time.Now()
	c, err := r.attempt(ctx, addr)
	if err != nil {
		return addr.Peer, turnedAway(err), err
	}
	addr.Peer = c.Info().RemotePeer
	if addr.Peer == r.self {
		c.CloseWithError(transport.CodeRefused, "the peer is this node itself")
		return addr.Peer, false, fmt.Errorf("router: add %s: %w", addr, ErrSelf)
	}
	defer r.adding(addr.Peer)()
	if t.Traits().OneStream {
		err = r.greetBy(ctx, t, c, addr, first, h) // whose requests are sent again as any
	} else {
		err = r.greet(ctx, c, began, first, h)
		again = r.lossy(err) && !saidGoodbye(err)
	}
	if err != nil {
		err = fmt.Errorf("router: greet %s: %w", addr, err)
	}
	return addr.Peer, again, err
}

// adding has the answer of a peer that was deleted count, until done is called.
func (r *Router) adding(id identity.ID) (done func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	rt := r.routes[id]
	if rt == nil {
		return func() {}
	}
	rt.adding++
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		rt.adding--
	}
}

const (
	greetTries = 4
	greetPause = 50 * time.Millisecond // doubled before each further try, and shortened at random
)

// greet holds the greeting over a long connection, which becomes a link: the one in use, if the two nodes agree. It returns
// when that is known, so that a peer that has restarted is not looked for on a link to its former life.
func (r *Router) greet(ctx context.Context, c transport.Conn, began time.Time, first protocol.Message, h protocol.Handler) error {
	l, err := r.attach(c, began)
	if err != nil {
		return err
	}
	id := c.Info().RemotePeer
	s, err := l.open(ctx)
	if errors.Is(err, errDraining) { // the peer has dialled at the same time, and its link has won
		var failed error
		if s, _, failed = r.Open(ctx, id); failed != nil {
			return fmt.Errorf("%w; then %w", cmp.Or(context.Cause(c.Context()), err), failed)
		}
	} else if err != nil {
		return err
	}
	if err := protocol.Converse(ctx, s, id, first, h, r.cfg.Protocol); err != nil {
		return err
	}
	timer := time.NewTimer(settleTimeout)
	defer timer.Stop()
	select {
	case <-l.settled:
	case <-timer.C:
	case <-ctx.Done():
	}
	return nil
}

// settleTimeout bounds how long Add waits for a peer that has greeted to say its hello, which it may not know of.
const settleTimeout = 2 * time.Second

// greetBy holds the greeting over connections of one stream, of which c is the first.
func (r *Router) greetBy(ctx context.Context, t transport.Transport, c transport.Conn, addr transport.Addr, first protocol.Message, h protocol.Handler) error {
	open := func(ctx context.Context) (transport.Stream, error) {
		next := c
		if c = nil; next == nil {
			var err error
			if next, err = r.attempt(ctx, addr); err != nil {
				return nil, err
			}
		}
		return openSingle(ctx, next)
	}
	err := r.converseBy(ctx, addr.Peer, nil, open, first, h)
	if c != nil {
		c.CloseWithError(transport.CodeCancelled, "")
	}
	return err
}

// Reach makes sure that there is a way to whoever is at addr, without greeting, and returns the peer's ID. It dials, and makes a
// route, unless the peer is known, by its ID in addr or as one that was added at addr, or has a link with us. Callers at once share
// a dial. A failure is a [*DialError], or else [ErrSelf], [ErrNoAddress], [ErrFull], [ErrClosed] or ctx's error; nothing is
// remembered then.
func (r *Router) Reach(ctx context.Context, addr transport.Addr) (identity.ID, error) {
	switch {
	case r.transports[addr.Scheme] == nil:
		return addr.Peer, fmt.Errorf("%w: %s", ErrNoAddress, addr)
	case addr.Peer == r.self:
		return addr.Peer, ErrSelf
	}
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return addr.Peer, ErrClosed
	}
	id := addr.Peer
	if id.IsZero() {
		id = r.introduced(addr)
	}
	rt := r.routes[id]
	if rt != nil && !rt.deleted && !rt.known() && rt.best() != nil {
		r.mu.Unlock()
		return id, nil // a link leads to it, as long as it lives
	}
	if rt != nil && rt.known() {
		have := slices.Contains(r.addresses(rt), transport.Addr{Scheme: addr.Scheme, HostPort: addr.HostPort, Peer: id})
		r.mu.Unlock()
		if have {
			return id, nil
		}
		return id, r.Introduce(addr)
	}
	d := r.reaching[addr]
	if d == nil || d.abandoned != nil {
		d = &dialing{done: make(chan struct{}), id: addr.Peer}
		var dialCtx context.Context
		dialCtx, d.cancel = context.WithCancel(r.ctx)
		r.reaching[addr] = d
		r.running.Add(1)
		go r.reach(dialCtx, d, addr)
	}
	d.waiters++
	r.mu.Unlock()
	err := r.join(ctx, d, addr.Peer, addr)
	if err != nil {
		return addr.Peer, err
	}
	return d.id, nil
}

// reach is the goroutine of a dial at an address of a peer that is not known yet.
func (r *Router) reach(ctx context.Context, d *dialing, addr transport.Addr) {
	defer r.running.Done()
	defer d.cancel()
	start, key := time.Now(), addr
	c, err := r.attempt(ctx, addr)
	if err == nil {
		d.id, addr.Peer = c.Info().RemotePeer, c.Info().RemotePeer
		if err = r.Introduce(addr); err != nil || r.transports[addr.Scheme].Traits().OneStream {
			c.CloseWithError(transport.CodeNone, "")
		} else {
			d.link, err = r.attach(c, start)
		}
	} else {
		err = &DialError{Peer: d.id, Attempts: []Attempt{{addr, time.Since(start), err}}}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	d.err = err
	if r.reaching[key] == d {
		delete(r.reaching, key)
	}
	close(d.done)
}

// introduced returns the peer that was added at the address, whose Peer is not known, or zero; with mu held.
func (r *Router) introduced(addr transport.Addr) identity.ID {
	for id, rt := range r.routes {
		for _, a := range rt.added {
			if a.Scheme == addr.Scheme && a.HostPort == addr.HostPort && rt.known() {
				return id
			}
		}
	}
	return identity.ID{}
}
