package conformance

import (
	"context"
	"errors"
	"sync/atomic"

	"github.com/Blockchain-CN/pheromones"
	"github.com/Blockchain-CN/pheromones/protocol"
	"github.com/Blockchain-CN/pheromones/transport"
)

// cutAll ends every connection that n has dialled, in the middle of whatever runs on it.
func (n *stackNode) cutAll() {
	for _, c := range n.net.dialled() {
		c.CloseWithError(transport.CodeInternal, "cut")
	}
}

// tallying answers a message with its own data, and counts.
func tallying(calls *atomic.Int64) protocol.Handler {
	return protocol.HandlerFunc(func(_ context.Context, m protocol.Message) (protocol.Message, error) {
		calls.Add(1)
		return protocol.Message{Operation: "done", Data: m.Data}, nil
	})
}

func repeatAnswered(e *env) {
	var calls atomic.Int64
	a, b := e.stack("a", nil), e.stack("b", tallying(&calls))
	a.add(b)
	m := protocol.Message{ID: protocol.NewMessageID(), Operation: "op", Data: []byte("once")}
	for i := range 5 {
		reply, err := a.Dispatch(e.ctx, b.addr, m)
		e.must(err, "Dispatch")
		if string(reply.Data) != "once" || reply.ID != m.ID {
			e.errorf("copy %d of a request: want the reply to the first, got %+v", i+1, reply)
		}
		a.cutAll() // the next copy takes another connection
	}
	if n := calls.Load(); n != 1 {
		e.errorf("5 copies of a request: want one execution, got %d", n)
	}
	a.ask(b.addr, "op", nil)
	if n := calls.Load(); n != 2 {
		e.errorf("another request: want it executed, got %d executions in all", n)
	}
}

func repeatWaits(e *env) {
	h := hold()
	a, b := e.stack("a", nil), e.stack("b", h)
	a.add(b)
	m := protocol.Message{ID: protocol.NewMessageID(), Operation: "op"}
	var calls []*call
	for range 4 {
		calls = append(calls, e.start("Dispatch of a copy", func() error {
			reply, err := a.Dispatch(e.ctx, b.addr, m)
			if err == nil && reply.Operation != "done" {
				err = errors.New("the reply is " + reply.Operation)
			}
			return err
		}))
	}
	receive(e, "the handler's call", h.entered)
	calls[0].blocked()
	h.release <- protocol.Message{Operation: "done"}
	for _, c := range calls {
		e.must(c.wait(), "Dispatch of a copy")
	}
	if n := len(h.entered); n != 0 {
		e.errorf("4 copies of a request at once: want one execution, got %d more", n)
	}
}

func forgotten(e *env) {
	var calls atomic.Int64
	a := e.stack("a", nil)
	b := e.stack("b", tallying(&calls), func(c *pheromones.Config) { c.Replies.SenderEntries = 4 })
	a.add(b)
	first := protocol.Message{ID: protocol.NewMessageID(), Operation: "op"}
	_, err := a.Dispatch(e.ctx, b.addr, first)
	e.must(err, "Dispatch")
	for range 8 {
		_, err := a.Dispatch(e.ctx, b.addr, protocol.Message{ID: protocol.NewMessageID(), Operation: "op"})
		e.must(err, "Dispatch")
	}
	_, err = a.Dispatch(e.ctx, b.addr, first)
	e.wantRemote("a request again that the peer has forgotten", err, protocol.CodeForgotten)
	if protocol.NotExecuted(err) {
		e.errorf("want an error that leaves open whether the request was executed, got %s", describe(err))
	}
	if n := calls.Load(); n != 9 {
		e.errorf("want 9 executions, got %d", n)
	}
	a.works(b) // whose IDs are made for it
}

func restartedInBetween(e *env) {
	var calls atomic.Int64
	key := e.key()
	a, b := e.stack("a", nil), e.stackOf(key, "b", tallying(&calls))
	a.add(b)
	m := protocol.Message{ID: protocol.NewMessageID(), Operation: "op"}
	_, err := a.Dispatch(e.ctx, b.addr, m)
	e.must(err, "Dispatch")
	e.must(b.Close(), "Close")
	again := e.stackOf(key, "b", tallying(&calls))
	a.add(again)
	_, err = a.Dispatch(e.ctx, again.addr, m)
	e.wantRemote("a request again that the peer's former life has executed", err, protocol.CodeRestarted)
	if protocol.NotExecuted(err) {
		e.errorf("want an error that leaves open whether the request was executed, got %s", describe(err))
	}
	if n := calls.Load(); n != 1 {
		e.errorf("want one execution, got %d", n)
	}
	_, err = a.Dispatch(e.ctx, again.addr, protocol.Message{ID: protocol.NewMessageID(), Operation: "op"})
	e.must(err, "Dispatch of a new request to the new life")
}

func lossSurvived(e *env) {
	h := hold()
	a, b := e.stack("a", nil), e.stack("b", h)
	a.add(b)
	call, reply := a.dispatching(e.ctx, b, "wait")
	receive(e, "the handler's call", h.entered)
	for range 3 {
		before := len(a.net.dialled())
		a.cutAll()
		e.eventually("the request is sent again", func() bool { return len(a.net.dialled()) > before })
		call.blocked()
	}
	select {
	case err := <-h.ended:
		e.errorf("the request is being sent again: want the handler's context to live, got %v", err)
	default:
	}
	h.release <- protocol.Message{Operation: "done"}
	if err := call.wait(); err != nil || reply.Operation != "done" {
		e.errorf("want the reply, got %+v, %s", *reply, describe(err))
	}
	if n := len(h.entered); n != 0 {
		e.errorf("want one execution, got %d more", n)
	}
}

func lossCancelled(e *env) {
	h := hold()
	a, b := e.stack("a", nil), e.stack("b", h)
	a.add(b)
	ctx, cancel := context.WithCancel(e.ctx)
	defer cancel()
	call, _ := a.dispatching(ctx, b, "wait")
	receive(e, "the handler's call", h.entered)
	before := len(a.net.dialled())
	a.cutAll()
	e.eventually("the request is sent again", func() bool { return len(a.net.dialled()) > before })
	call.blocked()
	cancel()
	e.wantContext("Dispatch", call.wait(), ctx)
	receive(e, "the end of the handler's context", h.ended)
}

func lossGivenUp(e *env) {
	h := hold()
	a := e.stack("a", nil, func(c *pheromones.Config) { c.RetryFor = moment })
	for _, bounded := range []bool{false, true} {
		ctx, cancel := context.WithCancel(context.Background())
		if bounded {
			ctx, cancel = context.WithTimeout(ctx, e.soon/2)
		}
		defer cancel()
		gone := e.stack("gone", h)
		a.add(gone)
		call, _ := a.dispatching(ctx, gone, "wait")
		receive(e, "the handler's call", h.entered)
		e.must(gone.Close(), "Close")
		err := call.wait()
		e.wantUnanswered("Dispatch to a peer that goes away", err)
		if protocol.NotExecuted(err) {
			e.errorf("want an error that leaves open whether the request was executed, got %s", describe(err))
		}
		receive(e, "the end of the handler's context", h.ended)
	}
}
