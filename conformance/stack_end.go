package conformance

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/Blockchain-CN/pheromones"
	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/protocol"
	"github.com/Blockchain-CN/pheromones/router"
	"github.com/Blockchain-CN/pheromones/transport"
)

func start(e *env) {
	n := e.unbound(e.key(), "n", echoing())
	if got := n.Addrs(); len(got) != 0 {
		e.errorf("before Start: want no addresses, got %v", got)
	}
	any := e.h.Listen.String()
	e.must(n.Start(e.ctx, any, any), "Start at two addresses")
	addrs := n.Addrs()
	if len(addrs) != 2 || addrs[0].HostPort == addrs[1].HostPort {
		e.failf("Start at two addresses: want two of them, got %v", addrs)
	}
	for _, a := range addrs {
		if a.Peer != n.ID() || a.Scheme != e.traits.Scheme {
			e.errorf("want an address of the scheme %q with the ID %v, got %v", e.traits.Scheme, n.ID(), a)
		}
		m := e.stack("m", nil)
		if id, err := m.Add(e.ctx, a.String()); err != nil || id != n.ID() {
			e.errorf("Add(%s): want %v, got %v, %s", a, n.ID(), id, describe(err))
		}
	}
	other := e.unbound(e.key(), "other", nil)
	for _, bad := range [][]string{
		{any, addrs[0].String()}, {any, "no address"}, {any, "other://127.0.0.1:0"}, {any, e.h.Listen.Scheme + "://"}, {},
	} {
		if err := other.Start(e.ctx, bad...); err == nil {
			e.errorf("Start(%q): want an error, got none", bad)
		}
		if got := other.Addrs(); len(got) != 0 {
			e.errorf("after Start(%q) has failed: want no addresses, got %v", bad, got)
		}
	}
	if err := n.Start(e.ctx, addrs[0].String()); err == nil {
		e.errorf("Start at an address where the node listens already: want an error, got none")
	}
	if got := n.Addrs(); !slices.Equal(got, addrs) {
		e.errorf("after Start has failed: want %v still, got %v", addrs, got)
	}
	ctx, cancel := context.WithCancel(e.ctx)
	defer cancel()
	w := n.watching()
	m := e.stack("m", nil)
	serve := e.start("ListenAndServe", func() error { return n.ListenAndServe(ctx, any) })
	e.eventually("ListenAndServe listens", func() bool { return len(n.Addrs()) == 3 })
	third := n.Addrs()[2]
	_, err := m.Add(e.ctx, third.String())
	e.must(err, "Add at the third address")
	e.await(w, "the node that was added by the third address knows who has added it", n.knows(m))
	cancel()
	e.must(serve.wait(), "ListenAndServe, when its context has ended")
	if got := n.Addrs(); !slices.Equal(got, addrs) {
		e.errorf("after ListenAndServe: want %v still, got %v", addrs, got)
	}
	m.works(n) // by the link, or the other addresses
	serve = e.start("ListenAndServe", func() error { return n.ListenAndServe(e.ctx, any) })
	e.eventually("ListenAndServe listens", func() bool { return len(n.Addrs()) == 3 })
	e.must(n.Close(), "Close")
	e.wantIs("ListenAndServe of a node that was closed", serve.wait(), pheromones.ErrClosed)
	e.wantClosed("Start of a closed node", n.Start(e.ctx, any))
}

func addBoth(e *env) {
	a, b := e.stack("a", echoing()), e.stack("b", echoing())
	w := b.watching()
	a.add(b)
	for _, test := range []struct{ n, other *stackNode }{{a, b}, {b, a}} {
		r, known := test.n.route(test.other.ID())
		if !known || r.Name != test.other.Name() || !r.FirstHand || !slices.Contains(r.Addrs, test.other.Addrs()[0]) {
			e.errorf("%s: want a first-hand route to %s at %v, got %+v", test.n.Name(), test.other.Name(), test.other.Addrs(), r)
		}
		if reply := test.n.ask(test.other.Name(), "op", nil); reply.From != test.other.ID() {
			e.errorf("%s: want %s to answer, got %+v", test.n.Name(), test.other.Name(), reply)
		}
	}
	for {
		if ev := receive(e, "the event of the new route", w.C()); ev.Kind == router.RouteAdded {
			if ev.Route.ID != a.ID() || ev.Route.Name != "a" || ev.Route.Addrs[0] != a.Addrs()[0] {
				e.errorf("the event: want the route to a, got %+v", ev)
			}
			break
		}
	}
	// Both at once is no conflict.
	c, d := e.stack("c", echoing()), e.stack("d", echoing())
	e.each(2, 2, func(i int) {
		if i == 0 {
			c.add(d)
		} else {
			d.add(c)
		}
	})
	e.each(32, 32, func(i int) {
		x, y := c, d
		if i%2 == 0 {
			x, y = d, c
		}
		x.ask(y.Name(), "op", nil)
	})
	// A node that does not listen can add another; it is reached as long as its link lives.
	quiet := e.unbound(e.key(), "quiet", echoing())
	_, err := quiet.Add(e.ctx, a.addr)
	e.must(err, "Add by a node that does not listen")
	if e.traits.OneStream {
		if _, known := a.route(quiet.ID()); known {
			e.errorf("a peer that cannot be reached: want no route to it")
		}
		return
	}
	a.ask("quiet", "op", nil)
	wa := a.watching()
	e.must(quiet.Close(), "Close")
	e.await(wa, "a peer that cannot be reached any more is forgotten", a.forgot(quiet))
}

func moved(e *env) {
	a, b := e.stack("a", nil), e.stack("b", nil)
	a.add(b)
	w := a.watching()
	e.must(b.Start(e.ctx, e.h.Listen.String()), "Start at a second address")
	second := b.Addrs()[1]
	e.await(w, "a peer hears of the new address", func() bool {
		r, _ := a.route(b.ID())
		return slices.Contains(r.Addrs, second)
	})
	a.works(b)
}

func farewell(e *env) {
	a, b, c := e.stack("a", nil), e.stack("b", nil), e.stack("c", nil)
	a.add(b)
	c.add(a)
	wa, wc := a.watching(), c.watching()
	e.await(wc, "c hears of b", c.knows(b))
	e.must(b.Shutdown(e.ctx), "Shutdown")
	if _, known := a.route(b.ID()); known {
		e.errorf("after the Shutdown of a peer: want its farewell to have been heard, got the route still")
	}
	for {
		if ev := receive(e, "the event of the peer's farewell", wa.C()); ev.Kind == router.RouteRemoved && ev.Route.ID == b.ID() {
			break
		}
	}
	e.await(wc, "c hears of b's farewell by way of a", c.forgot(b))
	again := e.stack("b", nil)
	a.add(again)
	a.works(again)
}

func shutdown(e *env) {
	for _, how := range []string{"a reply", "none", "an error"} {
		e.in("a handler that ends with %s", how)
		h := hold()
		a, b := e.stack("a", nil), e.stack("b", h)
		a.add(b)
		call, reply := a.dispatching(e.ctx, b, "under way")
		receive(e, "the handler's call", h.entered)
		w := a.watching()
		stop := e.start("Shutdown", func() error { return b.Shutdown(e.ctx) })
		second := e.start("a second Shutdown", func() error { return b.Shutdown(e.ctx) })
		// When the farewell is there b takes nothing new.
		e.await(w, "the farewell", a.forgot(b))
		stop.blocked()
		second.blocked()
		if _, err := a.Dispatch(e.after(e.soon/4), b.addr, protocol.Message{Operation: "new"}); err == nil {
			e.errorf("a new call during Shutdown: want an error, got a reply")
		}
		if n := len(h.entered); n != 0 {
			e.errorf("a new call during Shutdown: want no call of the handler, got %d", n)
		}
		var err error
		switch how {
		case "a reply":
			h.release <- protocol.Message{Operation: "done"}
			if err = call.wait(); err != nil || reply.Operation != "done" {
				e.errorf("want the reply, got %+v, %s", *reply, describe(err))
			}
		case "none":
			h.release <- protocol.Message{}
			if err = call.wait(); err != nil || !reply.IsNone() {
				e.errorf("want none, got %+v, %s", *reply, describe(err))
			}
		case "an error":
			h.fails <- errors.New("as it is")
			e.wantRemote("Dispatch", call.wait(), protocol.CodeFailed)
		}
		e.must(stop.wait(), "Shutdown")
		e.must(second.wait(), "a second Shutdown")
		_, err = b.Dispatch(e.ctx, a.addr, protocol.Message{Operation: "x"})
		e.wantClosed("Dispatch after Shutdown", err)
		if _, err := a.Add(e.after(e.soon/4), b.addr); err == nil {
			e.errorf("Add of a peer that has shut down: want an error, got none")
		}
	}
}

func shutdownBounded(e *env) {
	h := hold()
	a, b := e.stack("a", nil), e.stack("b", h)
	a.add(b)
	call, _ := a.dispatching(e.ctx, b, "under way")
	receive(e, "the handler's call", h.entered)
	ctx, cancel := context.WithCancel(e.ctx)
	stop := e.start("Shutdown", func() error { return b.Shutdown(ctx) })
	stop.blocked()
	cancel()
	e.wantContext("Shutdown whose context ends", stop.wait(), ctx)
	receive(e, "the end of the handler's context", h.ended)
	if err := call.wait(); err == nil {
		e.errorf("the call that was cut: want an error, got none")
	}
	e.must(b.Shutdown(e.ctx), "Shutdown again")
}

func closeNode(e *env) {
	h := hold()
	a, b := e.stack("a", nil), e.stack("b", h)
	a.add(b)
	in, _ := a.dispatching(e.ctx, b, "of the other side")
	receive(e, "the handler's call", h.entered)
	other := hold()
	c := e.stack("c", other)
	b.add(c)
	e.eventually("a has heard of c", a.knows(c))
	out, _ := b.dispatching(e.ctx, c, "of this side")
	receive(e, "the handler's call", other.entered)
	l := c.offer("service")
	conn := b.connectTo(c, "service")
	_, err := l.Accept()
	e.must(err, "Accept")
	read := e.start("Read of a service's connection", func() error { _, err := conn.Read(make([]byte, 1)); return err })
	read.blocked()
	e.each(2, 2, func(int) { e.must(b.Close(), "Close") })
	for name, c := range map[string]*call{"a call of the other side": in, "a call of this side": out, "a read of this side": read} {
		if err := c.wait(); err == nil {
			e.errorf("%s under way: want an error, got none", name)
		}
	}
	receive(e, "the end of the handler's context", h.ended)
	m := protocol.Message{Operation: "x"}
	for name, f := range map[string]func() error{
		"Add":                 func() error { _, err := b.Add(e.ctx, a.addr); return err },
		"Dispatch by address": func() error { _, err := b.Dispatch(e.ctx, a.addr, m); return err },
		"Dispatch by name":    func() error { _, err := b.Dispatch(e.ctx, "c", m); return err },
		"Dispatch to nobody":  func() error { _, err := b.Dispatch(e.ctx, bare(e.closedPort().String()), m); return err },
		"Converse":            func() error { return b.Converse(e.ctx, "c", m) },
		"Ping":                func() error { _, err := b.Ping(e.ctx, "c"); return err },
		"Dial":                func() error { _, err := b.Dial(e.ctx, "c", "service"); return err },
		"Listen":              func() error { _, err := b.Listen("service"); return err },
		"Start":               func() error { return b.Start(e.ctx, e.h.Listen.String()) },
		"DispatchAll":         func() error { return b.DispatchAll(e.ctx, m)[c.ID()].Err },
	} {
		e.wantClosed(name+" of a closed node", e.promptly(name, f))
	}
	e.must(b.Shutdown(e.ctx), "Shutdown of a closed node")
	a.works(c)
}

func nothingLeft(e *env) {
	// What remains is looked for after each check; this one leaves all it can behind.
	h := hold()
	a, b := e.stack("a", h), e.stack("b", h)
	a.add(b)
	l := b.offer("service")
	for range 3 {
		a.dispatching(e.ctx, b, "never answered")
		b.dispatching(e.ctx, a, "never answered")
		a.connectTo(b, "service")
		if _, err := l.Accept(); err != nil {
			e.failf("Accept: %v", err)
		}
		a.connectTo(b, "service") // not accepted
		a.raw(b)
	}
	for range 6 {
		receive(e, "the handler's call", h.entered)
	}
	dead := e.closedPort()
	if e.h.Network != "" {
		dead = e.blackHole()
	}
	for range 3 {
		e.start("Add of a peer that does not answer", func() error { _, err := a.Add(e.ctx, dead.String()); return err })
		e.start("Dispatch to a peer that does not answer", func() error {
			_, err := a.Dispatch(e.ctx, dead.String(), protocol.Message{Operation: "x"})
			return err
		})
	}
	a.Watch()
	e.sleep(moment)
	e.must(a.Close(), "Close")
	ctx, cancel := context.WithTimeout(e.ctx, moment)
	defer cancel()
	// What ran on it a has cut already, so it may have nothing to wait for.
	if err := b.Shutdown(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		e.errorf("Shutdown: want success or the end of its context, got %s", describe(err))
	}
}

func hammer(e *env) {
	hub := e.stack("hub", echoing())
	const peers, callers, rounds = 4, 32, 20
	var nodes []*stackNode
	for i := range peers {
		n := e.stack(fmt.Sprint("node ", i), echoing())
		hub.add(n)
		nodes = append(nodes, n)
	}
	done, quit := context.WithCancel(e.ctx)
	defer quit()
	fine := func(what string, err error) {
		var dial *router.DialError
		var closed *transport.CloseError
		var remote *protocol.RemoteError
		switch {
		case err == nil, errors.Is(err, router.ErrUnknownPeer), errors.As(err, &dial), errors.As(err, &closed):
		case errors.As(err, &remote), errors.Is(err, transport.ErrLost), errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		default:
			var reset *transport.ResetError
			if !errors.As(err, &reset) {
				e.errorf("%s: want success or an error that says what was in the way, got %s", what, describe(err))
			}
		}
	}
	var churn []*call
	for _, n := range nodes {
		churn = append(churn, e.start("churn", func() error {
			for done.Err() == nil {
				if _, err := hub.Add(e.ctx, n.addr); err != nil {
					fine("Add", err)
				}
				e.sleep(time.Millisecond)
				fine("Delete", hub.Delete(n.ID().String()))
			}
			return nil
		}))
	}
	churn = append(churn, e.start("looking", func() error {
		for done.Err() == nil {
			w := hub.Watch()
			for _, r := range hub.Routes() {
				if r.ID == (identity.ID{}) {
					e.errorf("a route without an ID: %+v", r)
				}
			}
			for id, r := range hub.DispatchAll(e.ctx, protocol.Message{Operation: "op"}) {
				fine("DispatchAll at "+id.Short(), r.Err)
			}
			w.Close()
		}
		return nil
	}))
	e.each(callers, callers, func(i int) {
		for j := range rounds {
			n := nodes[(i+j)%peers]
			ctx, cancel := context.WithTimeout(e.ctx, e.soon)
			data := noise(100 * j)
			var reply protocol.Message
			var err error
			switch i % 4 {
			case 0:
				reply, err = hub.Dispatch(ctx, n.addr, protocol.Message{Operation: "op", Data: data})
			case 1:
				reply, err = hub.Dispatch(ctx, n.ID().String(), protocol.Message{Operation: "op", Data: data})
			case 2:
				reply, err = n.Dispatch(ctx, hub.addr, protocol.Message{Operation: "op", Data: data})
			case 3:
				reply, err = hub.Dispatch(ctx, n.Name(), protocol.Message{Operation: "op", Data: data})
			}
			cancel()
			fine("Dispatch", err)
			if err == nil && len(reply.Data) != len(data) {
				e.errorf("Dispatch: want %d bytes back, got %d", len(data), len(reply.Data))
			}
			if errors.Is(err, context.DeadlineExceeded) {
				e.errorf("Dispatch: want an end within %v, got none", e.soon)
			}
		}
	})
	quit()
	for _, c := range churn {
		c.wait()
	}
	for _, n := range nodes {
		hub.add(n)
		hub.works(n)
		n.works(hub)
	}
}
