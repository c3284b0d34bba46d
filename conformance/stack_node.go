package conformance

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/Blockchain-CN/pheromones"
	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/protocol"
	"github.com/Blockchain-CN/pheromones/router"
	"github.com/Blockchain-CN/pheromones/transport"
)

// participant is what the rules use of a *pheromones.Node: the suite's own tests put nodes in its place that are broken on
// purpose.
type participant interface {
	ID() identity.ID
	Name() string
	Addrs() []transport.Addr
	Start(ctx context.Context, addrs ...string) error
	ListenAndServe(ctx context.Context, addrs ...string) error
	Add(ctx context.Context, addr string) (identity.ID, error)
	Delete(to string) error
	Routes() []router.Route
	Watch() *router.Watcher
	Ping(ctx context.Context, to string) (time.Duration, error)
	Dispatch(ctx context.Context, to string, m protocol.Message) (protocol.Message, error)
	DispatchAll(ctx context.Context, m protocol.Message) map[identity.ID]router.Result
	Converse(ctx context.Context, to string, first protocol.Message) error
	Broadcast(ctx context.Context, m protocol.Message) error
	Dial(ctx context.Context, peer, service string) (net.Conn, error)
	Listen(service string) (net.Listener, error)
	Shutdown(ctx context.Context) error
	Close() error
}

// stackNode is a node of a check, over the harness's transport.
type stackNode struct {
	participant
	e    *env
	net  *counted
	addr string // where it listens first
}

// stack makes a node that listens where the harness says. change adjusts its configuration.
func (e *env) stack(name string, h protocol.Handler, change ...func(*pheromones.Config)) *stackNode {
	return e.stackOf(e.key(), name, h, change...)
}

func (e *env) stackOf(key identity.Key, name string, h protocol.Handler, change ...func(*pheromones.Config)) *stackNode {
	n := e.unbound(key, name, h, change...)
	e.must(n.Start(e.ctx, e.h.Listen.String()), "Start(%s)", e.h.Listen)
	n.addr = n.Addrs()[0].String()
	return n
}

// unbound makes a node that does not listen.
func (e *env) unbound(key identity.Key, name string, h protocol.Handler, change ...func(*pheromones.Config)) *stackNode {
	tr, err := e.h.New(key)
	e.must(err, "New")
	n := &stackNode{e: e, net: &counted{Transport: tr}}
	cfg := pheromones.Config{Name: name, Handler: h, Transports: []transport.Transport{n.net}}
	for _, f := range change {
		f(&cfg)
	}
	if e.h.node != nil {
		n.participant, err = e.h.node(cfg)
	} else {
		n.participant, err = pheromones.New(cfg)
	}
	if err != nil {
		tr.Close()
		e.failf("pheromones.New: want success, got %v", err)
	}
	e.cleanup(func() {
		if err := n.Close(); err != nil {
			e.errorf("Close of node %s: want success, got %v", name, err)
		}
	})
	return n
}

// add has n add m.
func (n *stackNode) add(m *stackNode) {
	id, err := n.Add(n.e.ctx, m.addr)
	n.e.must(err, "%s: Add(%s)", n.Name(), m.Name())
	if id != m.ID() {
		n.e.failf("%s: Add(%s): want ID %v, got %v", n.Name(), m.Name(), m.ID(), id)
	}
}

// ask has n dispatch a message and returns the reply, or ends the check.
func (n *stackNode) ask(to, operation string, data []byte) protocol.Message {
	reply, err := n.Dispatch(n.e.ctx, to, protocol.Message{Operation: operation, Data: data})
	n.e.must(err, "%s: Dispatch of %q to %s", n.Name(), operation, to)
	return reply
}

// works sees that n gets an answer of m.
func (n *stackNode) works(m *stackNode) {
	if _, err := n.Ping(n.e.ctx, m.ID().String()); err != nil {
		n.e.failf("%s: Ping of %s: want an answer, got %s", n.Name(), m.Name(), describe(err))
	}
}

// tell has n send m, which is no request of the check's but one of the greeting's, and returns the reply.
func (n *stackNode) tell(to *stackNode, m protocol.Message, err error) (protocol.Message, error) {
	n.e.must(err, "making a message of the greeting")
	return n.Dispatch(n.e.ctx, to.addr, m)
}

// route returns n's route to a peer, and whether there is one.
func (n *stackNode) route(id identity.ID) (router.Route, bool) {
	for _, r := range n.Routes() {
		if r.ID == id {
			return r, true
		}
	}
	return router.Route{}, false
}

// knows returns a condition: that n has a route to every one of peers.
func (n *stackNode) knows(peers ...*stackNode) func() bool {
	return func() bool {
		for _, p := range peers {
			if _, ok := n.route(p.ID()); !ok {
				return false
			}
		}
		return true
	}
}

// forgot returns a condition: that n has no route to p.
func (n *stackNode) forgot(p *stackNode) func() bool {
	return func() bool { _, ok := n.route(p.ID()); return !ok }
}

// watching makes a watcher that lives as long as the check.
func (n *stackNode) watching() *router.Watcher {
	w := n.Watch()
	n.e.cleanup(w.Close)
	return w
}

// await looks at a condition, now and after each event of w, until it holds.
func (e *env) await(w *router.Watcher, what string, holds func() bool) {
	timeout := time.After(e.soon)
	for !holds() {
		select {
		case _, ok := <-w.C():
			if !ok {
				e.failf("%s: the watcher's channel was closed before", what)
			}
		case <-timeout:
			e.failf("%s: no event has brought it about within %v", what, e.soon)
		}
	}
}

// receive returns the next value of c, or ends the check.
func receive[T any](e *env, what string, c <-chan T) T {
	select {
	case v, ok := <-c:
		if !ok {
			e.failf("%s: want it to happen, but the channel was closed", what)
		}
		return v
	case <-time.After(e.soon):
	case <-e.ctx.Done():
	}
	e.failf("%s: it has not happened within %v", what, e.soon)
	panic("not reached")
}

// echoing answers with what it was told.
func echoing() protocol.Handler {
	return protocol.HandlerFunc(func(_ context.Context, m protocol.Message) (protocol.Message, error) {
		return protocol.Message{Operation: m.Operation, Data: m.Data}, nil
	})
}

// held is a handler whose calls wait, until they are released or their context ends.
type held struct {
	entered chan protocol.Message // a call has begun
	release chan protocol.Message // what a call answers
	fails   chan error            // … or what it fails with
	ended   chan error            // a call's context has ended: its cause
}

func hold() *held {
	// Calls never wait for the check to look.
	return &held{make(chan protocol.Message, 1024), make(chan protocol.Message), make(chan error), make(chan error, 1024)}
}

func (h *held) Handle(ctx context.Context, m protocol.Message) (protocol.Message, error) {
	h.entered <- m
	select {
	case next := <-h.release:
		return next, nil
	case err := <-h.fails:
		return protocol.Message{}, err
	case <-ctx.Done():
		h.ended <- ctx.Err()
		return protocol.Message{}, ctx.Err()
	}
}

// dispatching begins to dispatch a message from n to m.
func (n *stackNode) dispatching(ctx context.Context, m *stackNode, operation string) (c *call, reply *protocol.Message) {
	reply = new(protocol.Message)
	to := m.ID().String()
	if _, known := n.route(m.ID()); !known {
		to = m.addr
	}
	return n.e.start(n.Name()+": Dispatch to "+m.Name(), func() (err error) {
		*reply, err = n.Dispatch(ctx, to, protocol.Message{Operation: operation})
		return err
	}), reply
}

// counted is a transport that keeps its dialled connections, to count and to break them.
type counted struct {
	transport.Transport
	gate  chan struct{} // if not nil: no dial succeeds before it is closed
	mu    sync.Mutex
	conns []transport.Conn
}

func (c *counted) Dial(ctx context.Context, addr transport.Addr) (transport.Conn, error) {
	conn, err := c.Transport.Dial(ctx, addr)
	if err == nil {
		if c.gate != nil {
			<-c.gate
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.conns = append(c.conns, conn)
	}
	return conn, err
}

// dialled returns the connections dialled so far.
func (c *counted) dialled() []transport.Conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]transport.Conn(nil), c.conns...)
}

// wantRemote checks for a *RemoteError of the code.
func (e *env) wantRemote(what string, err error, code protocol.ErrorCode) {
	var got *protocol.RemoteError
	if !errors.As(err, &got) || got.Code != code || !errors.Is(err, code) {
		e.errorf("%s: want *RemoteError with code %d (%v), got %s", what, uint16(code), code, describe(err))
	}
}

// wantIs checks for a sentinel.
func (e *env) wantIs(what string, err, want error) {
	if !errors.Is(err, want) {
		e.errorf("%s: want an error that is %q, got %s", what, want, describe(err))
	}
}

// wantUnanswered checks for an *ExchangeError because of the end of a stream or connection.
func (e *env) wantUnanswered(what string, err error) {
	var exchange *protocol.ExchangeError
	var closed *transport.CloseError
	var reset *transport.ResetError
	if !errors.As(err, &exchange) || !errors.As(err, &closed) && !errors.As(err, &reset) && !errors.Is(err, transport.ErrLost) {
		e.errorf("%s: want *ExchangeError that wraps the end of the stream or connection, got %s", what, describe(err))
	}
}
