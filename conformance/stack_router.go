package conformance

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/Blockchain-CN/pheromones"
	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/protocol"
	"github.com/Blockchain-CN/pheromones/protocol/greeting"
	"github.com/Blockchain-CN/pheromones/router"
	"github.com/Blockchain-CN/pheromones/transport"
)

// bare returns an address without its ID.
func bare(addr string) string {
	a, _ := transport.ParseAddr(addr)
	a.Peer = identity.ID{}
	return a.String()
}

func namedBy(e *env) {
	b := e.stack("b", echoing())
	for _, withID := range []bool{true, false} {
		a := e.stack("a", nil)
		b = e.stack("b", echoing())
		addr := b.addr
		if !withID {
			addr = bare(addr)
		}
		if reply := a.ask(addr, "op", nil); reply.From != b.ID() {
			e.errorf("by the address %s: want %v to answer, got %v", addr, b.ID(), reply.From)
		}
		a.add(b)
		for _, to := range []string{b.ID().String(), "b", b.addr, bare(b.addr)} {
			if reply := a.ask(to, "op", nil); reply.From != b.ID() {
				e.errorf("by %s: want %v to answer, got %v", to, b.ID(), reply.From)
			}
		}
		if n := len(a.Routes()); n != 1 {
			e.errorf("one peer by all its names: want 1 route, got %d", n)
		}
	}
	// A name that looks like an ID or an address is never taken for a name.
	thief := e.stack(b.ID().String(), echoing())
	a := e.stack("a", nil)
	a.add(thief)
	_, err := a.Dispatch(e.ctx, b.ID().String(), protocol.Message{Operation: "op"})
	e.wantIs("an ID that another peer bears as its name", err, router.ErrUnknownPeer)
}

func unknownPeer(e *env) {
	a := e.stack("a", nil)
	nobody := e.key().ID().String()
	for _, to := range []string{nobody, "nobody", "", "foo://", strings.Repeat("x", 1000)} {
		_, err := a.Dispatch(e.ctx, to, protocol.Message{Operation: "op"})
		e.wantIs(fmt.Sprintf("Dispatch to %.60q", to), err, router.ErrUnknownPeer)
		e.wantIs(fmt.Sprintf("Delete of %.60q", to), a.Delete(to), router.ErrUnknownPeer)
		e.wantIs(fmt.Sprintf("Converse with %.60q", to), a.Converse(e.ctx, to, protocol.Message{Operation: "op"}), router.ErrUnknownPeer)
		_, err = a.Dial(e.ctx, to, "service")
		e.wantIs(fmt.Sprintf("Dial of %.60q", to), err, router.ErrUnknownPeer)
		if _, err := a.Add(e.ctx, to); !errors.Is(err, transport.ErrBadAddr) {
			e.errorf("Add of %.60q: want ErrBadAddr, got %s", to, describe(err))
		}
	}
	_, err := a.Dispatch(e.ctx, "other://127.0.0.1:1", protocol.Message{Operation: "op"})
	e.wantIs("an address of a transport that the node does not have", err, router.ErrNoAddress)
	if n := len(a.DispatchAll(e.ctx, protocol.Message{Operation: "op"})); n != 0 {
		e.errorf("DispatchAll without peers: want no results, got %d", n)
	}
}

func ambiguousName(e *env) {
	a, b1, b2 := e.stack("a", nil), e.stack("b", nil), e.stack("b", nil)
	a.add(b1)
	a.add(b2)
	want := []identity.ID{b1.ID(), b2.ID()}
	slices.SortFunc(want, func(x, y identity.ID) int { return slices.Compare(x[:], y[:]) })
	check := func(what string, err error) {
		var got *router.AmbiguousError
		if !errors.As(err, &got) || got.Name != "b" || !slices.Equal(got.Peers, want) ||
			!strings.Contains(err.Error(), want[0].String()) || !strings.Contains(err.Error(), want[1].String()) {
			e.errorf("%s: want *AmbiguousError that lists %v, got %s", what, want, describe(err))
		}
	}
	_, err := a.Dispatch(e.ctx, "b", protocol.Message{Operation: "x"})
	check("Dispatch to a name that two bear", err)
	check("Delete of a name that two bear", a.Delete("b"))
	e.must(a.Delete(b1.ID().String()), "Delete of one of them by its ID")
	if reply := a.ask("b", "x", nil); reply.From != b2.ID() {
		e.errorf("the name that one bears now: want %v to answer, got %v", b2.ID(), reply.From)
	}
}

func wrongID(e *env) {
	a, b := e.stack("a", nil), e.stack("b", echoing())
	addr := b.Addrs()[0]
	addr.Peer = e.key().ID()
	_, err := a.Dispatch(e.ctx, addr.String(), protocol.Message{Operation: "x"})
	e.wantIs("Dispatch to an address with another's ID", err, identity.ErrWrongPeer)
	_, err = a.Add(e.ctx, addr.String())
	e.wantIs("Add of an address with another's ID", err, identity.ErrWrongPeer)
	_, err = a.Dial(e.ctx, addr.String(), "service")
	e.wantIs("Dial of an address with another's ID", err, identity.ErrWrongPeer)
	if n := len(a.Routes()); n != 0 {
		e.errorf("want nothing to be remembered, got %v", a.Routes())
	}
	// The peer being known changes nothing, and it is still reached where it is.
	a.add(b)
	c := e.stack("c", nil)
	elsewhere := c.Addrs()[0]
	elsewhere.Peer = b.ID()
	_, err = a.Add(e.ctx, elsewhere.String())
	e.wantIs("Add of a known peer at another's address", err, identity.ErrWrongPeer)
	a.works(b)
}

func nobodyThere(e *env) {
	a := e.stack("a", nil)
	closed := e.closedPort()
	withID := closed
	withID.Peer = e.key().ID()
	for _, addr := range []transport.Addr{closed, withID} {
		ctx := e.after(e.soon / 4)
		_, err := a.Dispatch(ctx, addr.String(), protocol.Message{Operation: "x"})
		var dial *router.DialError
		switch {
		case errors.As(err, &dial):
			var op *transport.OpError
			if len(dial.Attempts) != 1 || !errors.As(err, &op) || !strings.Contains(err.Error(), addr.HostPort) {
				e.errorf("Dispatch to %s: want *DialError with that attempt, got %s", addr, describe(err))
			}
		case ctx.Err() == nil:
			e.errorf("Dispatch to %s: want *DialError, got %s", addr, describe(err))
		}
		if _, err := a.Add(e.after(e.soon/4), addr.String()); err == nil {
			e.errorf("Add of %s: want an error, got none", addr)
		}
	}
	if n := len(a.Routes()); n != 0 {
		e.errorf("want nothing to be remembered, got %v", a.Routes())
	}
}

func selfRefused(e *env) {
	a := e.stack("a", nil)
	for _, addr := range []string{a.addr, bare(a.addr)} {
		_, err := a.Add(e.ctx, addr)
		e.wantIs("Add of the node itself at "+addr, err, router.ErrSelf)
		_, err = a.Dispatch(e.ctx, addr, protocol.Message{Operation: "x"})
		e.wantIs("Dispatch to the node itself at "+addr, err, router.ErrSelf)
	}
	_, err := a.Dispatch(e.ctx, a.ID().String(), protocol.Message{Operation: "x"})
	e.wantIs("Dispatch to the node's own ID", err, router.ErrSelf)
	if n := len(a.Routes()); n != 0 {
		e.errorf("want no route, got %v", a.Routes())
	}
}

func oneLink(e *env) {
	for _, how := range []string{"an address without an ID", "an address with the ID", "the ID of a peer that others told of"} {
		e.in("64 calls at once to %s", how)
		a, b := e.stack("a", nil), e.stack("b", echoing())
		to := b.addr
		switch how {
		case "an address without an ID":
			to = bare(b.addr)
		case "the ID of a peer that others told of":
			c := e.stack("c", nil)
			c.told(a, greeting.Arrived, greeting.Peer{ID: b.ID(), Seq: 1, Name: "b", Addrs: b.Addrs()})
			to = b.ID().String()
		}
		// The first dial lasts until all have had the time to begin.
		a.net.gate = make(chan struct{})
		e.spawn(func() {
			e.sleep(moment)
			close(a.net.gate)
		})
		e.each(64, 64, func(i int) {
			if reply := a.ask(to, "op", noise(i)); len(reply.Data) != i {
				e.errorf("want %d bytes back, got %d", i, len(reply.Data))
			}
		})
		if n := len(a.net.dialled()); n != 1 {
			e.errorf("want 1 dial, got %d", n)
		}
		if r, _ := a.route(b.ID()); len(r.Links) != 1 {
			e.errorf("want 1 link, got %d", len(r.Links))
		}
		// The other side has the same link.
		b.ask(a.ID().String(), "op", nil)
		if n := len(b.net.dialled()); n != 0 {
			e.errorf("then the other side calls: want it to use the link, got %d dials", n)
		}
	}
}

func impatientCaller(e *env) {
	b := e.stack("b", echoing())
	for range 5 {
		a := e.stack("a", nil)
		e.each(32, 32, func(i int) {
			ctx, cancel := context.WithCancel(e.ctx)
			defer cancel()
			if i%2 == 0 {
				cancel()
			}
			_, err := a.Dispatch(ctx, bare(b.addr), protocol.Message{Operation: "op"})
			if i%2 != 0 && err != nil {
				e.errorf("a patient caller beside one that gave up: want the reply, got %s", describe(err))
			}
		})
	}
}

func oneDialEach(e *env) {
	a, b := e.stack("a", nil), e.stack("b", echoing())
	a.add(b)
	before := len(a.net.dialled())
	e.each(32, 8, func(int) { a.ask("b", "op", nil) })
	conns := a.net.dialled()
	if n := len(conns) - before; n != 32 {
		e.errorf("32 exchanges: want 32 dials, got %d", n)
	}
	for _, c := range conns {
		e.ends(c, "the connection of an exchange that is over")
	}
	if r, _ := a.route(b.ID()); len(r.Links) != 0 {
		e.errorf("want no links, got %v", r.Links)
	}
}

func deadAddress(e *env) {
	a, b, c := e.stack("a", nil), e.stack("b", echoing()), e.stack("c", nil)
	dead := e.closedPort()
	dead.Peer = b.ID()
	c.told(a, greeting.Arrived, greeting.Peer{ID: b.ID(), Seq: 1, Name: "b", Addrs: []transport.Addr{dead, b.Addrs()[0]}})
	if reply := a.ask("b", "op", nil); reply.From != b.ID() {
		e.errorf("want %v to answer, got %v", b.ID(), reply.From)
	}
	if !e.h.Refuses {
		return
	}
	d := e.key().ID()
	addrs := []transport.Addr{e.closedPort(), e.closedPort(), e.closedPort()}
	for i := range addrs {
		addrs[i].Peer = d
	}
	c.told(a, greeting.Arrived, greeting.Peer{ID: d, Seq: 1, Name: "d", Addrs: addrs})
	_, err := a.Dispatch(e.ctx, "d", protocol.Message{Operation: "op"})
	var dial *router.DialError
	if !errors.As(err, &dial) || dial.Peer != d {
		e.failf("a peer that is at none of its addresses: want *DialError, got %s", describe(err))
	}
	for _, addr := range addrs {
		if !slices.ContainsFunc(dial.Attempts, func(t router.Attempt) bool { return t.Addr == addr && t.Err != nil }) ||
			!strings.Contains(err.Error(), addr.HostPort) {
			e.errorf("a peer that is at none of its addresses: want %s among the attempts, got %v", addr, err)
		}
	}
}

func closedInExchange(e *env) {
	h := hold()
	// a does not send again what is lost, so that what came of it shows.
	a, b := e.stack("a", nil, func(c *pheromones.Config) { c.RetryFor = -1 }), e.stack("b", h)
	a.add(b)
	call := e.start("Dispatch", func() error {
		_, err := a.Dispatch(context.Background(), b.addr, protocol.Message{Operation: "wait"})
		return err
	})
	receive(e, "the handler's call", h.entered)
	a.cutAll()
	err := call.wait()
	e.wantUnanswered("Dispatch", err)
	if protocol.NotExecuted(err) {
		e.errorf("want an error that leaves open whether the request was executed, got %s", describe(err))
	}
	h.release <- protocol.Message{Operation: "for nobody"}
	call, reply := a.dispatching(e.ctx, b, "again")
	m := receive(e, "the handler's call", h.entered)
	if m.Operation != "again" {
		e.errorf("want one execution of each request, got a second one of %q", m.Operation)
	}
	h.release <- protocol.Message{Operation: "done"}
	e.must(call.wait(), "Dispatch, after the connection had ended")
	if reply.Operation != "done" {
		e.errorf("want the reply, got %+v", *reply)
	}
	if n := len(h.entered); n != 0 {
		e.errorf("want one execution of each request, got %d more", n)
	}
}

func lostInExchange(e *env) {
	h := hold()
	a, b := e.stack("a", nil, func(c *pheromones.Config) { c.RetryFor = -1 }), e.stack("b", h)
	for _, reset := range []bool{false, true} {
		cable := e.cable(b.Addrs()[0])
		call := e.start("Dispatch", func() error {
			_, err := a.Dispatch(context.Background(), bare(cable.addr.String()), protocol.Message{Operation: "wait"})
			return err
		})
		receive(e, "the handler's call", h.entered)
		cable.sever(reset)
		err := call.wait()
		e.wantUnanswered("Dispatch", err)
		e.wantLost("Dispatch", err)
		if protocol.NotExecuted(err) {
			e.errorf("want an error that leaves open whether the request was executed, got %s", describe(err))
		}
		h.release <- protocol.Message{Operation: "for nobody"}
		if n := len(h.entered); n != 0 {
			e.errorf("want one execution, got %d more", n)
		}
		e.must(a.Delete(b.ID().String()), "Delete")
	}
	a.add(b)
	a.works(b)
}

func redial(e *env) {
	a, b := e.stack("a", nil), e.stack("b", echoing())
	a.add(b)
	for i := range 5 {
		for _, c := range a.net.dialled() {
			if i%2 == 0 {
				c.CloseWithError(transport.CodeInternal, "cut")
			}
		}
		if i%2 != 0 { // from the other side
			a.add(b)
			e.must(b.Delete(a.ID().String()), "Delete")
			for _, c := range a.net.dialled() {
				e.ends(c, "the link with a peer that was deleted there")
			}
		}
		a.ask("b", "op", nil)
	}
}

func deletePeer(e *env) {
	a, b, c := e.stack("a", nil), e.stack("b", echoing()), e.stack("c", nil)
	a.add(b)
	old := a.net.dialled()
	w := a.watching()
	e.must(a.Delete("b"), "Delete")
	gone := func(when string) {
		if _, known := a.route(b.ID()); known {
			e.errorf("%s: want no route, got %v", when, a.Routes())
		}
		for _, to := range []string{"b", b.ID().String()} {
			_, err := a.Dispatch(e.ctx, to, protocol.Message{Operation: "op"})
			e.wantIs(when+": Dispatch to "+to, err, router.ErrUnknownPeer)
		}
		e.wantIs(when+": Delete again", a.Delete(b.ID().String()), router.ErrUnknownPeer)
		if n := len(a.DispatchAll(e.ctx, protocol.Message{Operation: "op"})); n != 0 {
			e.errorf("%s: DispatchAll: want no results, got %d", when, n)
		}
	}
	gone("after Delete")
	for _, c := range old {
		e.ends(c, "a link with a deleted peer")
	}
	c.told(a, greeting.Arrived, greeting.Peer{ID: b.ID(), Seq: 1 << 62, Name: "b", Addrs: b.Addrs()})
	gone("after a hint")
	a.add(b)
	a.works(b)
	kinds := make(map[router.Kind]bool)
	for len(w.C()) > 0 {
		if ev := <-w.C(); ev.Route.ID == b.ID() {
			kinds[ev.Kind] = true
		}
	}
	if !kinds[router.RouteRemoved] || !kinds[router.RouteAdded] {
		e.errorf("want events of the route's end and return, got %v", kinds)
	}
	e.must(a.Delete(b.ID().String()), "Delete")
	b.add(a)
	if !a.knows(b)() {
		e.errorf("after the deleted peer's own greeting: want a route, got none")
	}
}

func deleteDrains(e *env) {
	h := hold()
	a, b := e.stack("a", nil), e.stack("b", h)
	a.add(b)
	call, reply := a.dispatching(e.ctx, b, "wait")
	receive(e, "the handler's call", h.entered)
	conns := a.net.dialled()
	e.must(a.Delete("b"), "Delete")
	if err := conns[0].Context().Err(); err != nil {
		e.errorf("Delete with an exchange under way: want the link to live on, got %v", context.Cause(conns[0].Context()))
	}
	_, err := a.Dispatch(e.ctx, b.ID().String(), protocol.Message{Operation: "new"})
	e.wantIs("Dispatch after Delete", err, router.ErrUnknownPeer)
	h.release <- protocol.Message{Operation: "done"}
	if err := call.wait(); err != nil || reply.Operation != "done" {
		e.errorf("the exchange under way: want its reply, got %+v, %s", *reply, describe(err))
	}
	e.wantClose("the link, when nothing ran on it any more", e.ends(conns[0], "a link with a deleted peer"), transport.CodeNone, "deleted", false)
}

func restartedPeer(e *env) {
	key := e.key()
	a, b := e.stack("a", nil), e.stackOf(key, "b", echoing())
	if e.h.Network == "" {
		a.add(b)
	} else {
		// The old link looks alive for ever.
		cable := e.cable(b.Addrs()[0])
		_, err := a.Add(e.ctx, bare(cable.addr.String()))
		e.must(err, "Add")
		cable.kill()
	}
	e.must(b.Close(), "Close")
	again := e.stackOf(key, "b again", echoing())
	a.add(again)
	a.works(again)
	for range 3 {
		if reply := a.ask("b again", "op", nil); reply.Name != "b again" {
			e.errorf("want the new life to answer, got %+v", reply)
		}
	}
	if n := len(a.Routes()); n != 1 {
		e.errorf("want one route for the one key, got %v", a.Routes())
	}
	for range 3 {
		a.add(again)
	}
	a.works(again)
}

func dispatchAll(e *env) {
	a, refuses, dead := e.stack("a", nil), e.stack("refuses", protocol.HandlerFunc(
		func(context.Context, protocol.Message) (protocol.Message, error) {
			return protocol.Message{}, protocol.CodeRefused
		})), e.stack("dead", nil)
	want := make(map[identity.ID]*stackNode)
	for i := range 8 {
		n := e.stack(fmt.Sprint("node ", i), echoing())
		a.add(n)
		want[n.ID()] = n
	}
	a.add(refuses)
	a.add(dead)
	e.must(dead.Close(), "Close")
	results := a.DispatchAll(e.after(e.soon/2), protocol.Message{Operation: "op", Data: []byte("all")})
	if len(results) != len(want)+2 {
		e.errorf("want %d results, got %d", len(want)+2, len(results))
	}
	for id, r := range results {
		switch n := want[id]; {
		case id == dead.ID():
			if r.Err == nil {
				e.errorf("a dead peer: want an error, got %+v", r.Reply)
			}
		case id == refuses.ID():
			e.wantRemote("a peer that refuses", r.Err, protocol.CodeRefused)
		case n == nil || r.Err != nil || r.Reply.From != id || string(r.Reply.Data) != "all":
			e.errorf("peer %v: want its reply, got %+v", id, r)
		case r.Elapsed <= 0:
			e.errorf("peer %v: want to know how long it took, got %v", id, r.Elapsed)
		}
	}
	ctx := e.cancelled()
	for id, r := range a.DispatchAll(ctx, protocol.Message{Operation: "op"}) {
		if r.Err == nil {
			e.errorf("DispatchAll with an ended context: want errors, got a reply of %v", id)
		}
	}
}

func dispatchAllSlow(e *env) {
	a := e.stack("a", nil)
	slow := hold()
	a.add(e.stack("slow", slow))
	var calls atomic.Int64
	const n = 8
	all := make(chan struct{})
	for i := range n {
		a.add(e.stack(fmt.Sprint("node ", i), protocol.HandlerFunc(func(_ context.Context, m protocol.Message) (protocol.Message, error) {
			if calls.Add(1) == n {
				close(all)
			}
			return protocol.Message{Operation: "done"}, nil
		})))
	}
	var results map[identity.ID]router.Result
	call := e.start("DispatchAll", func() error {
		results = a.DispatchAll(e.ctx, protocol.Message{Operation: "op"})
		return nil
	})
	receive(e, "the slow peer is asked", slow.entered)
	select {
	case <-all:
	case <-e.after(e.soon).Done():
		e.failf("with one slow peer: want the other %d to be asked, got %d", n, calls.Load())
	}
	call.blocked()
	slow.release <- protocol.Message{Operation: "done"}
	call.wait()
	for id, r := range results {
		if r.Err != nil || r.Reply.Operation != "done" {
			e.errorf("peer %v: want its reply, got %+v", id, r)
		}
	}
}

func dispatchAllBounded(e *env) {
	const bound, n = 3, 9
	a := e.stack("a", nil, func(c *pheromones.Config) { c.Parallel = bound })
	h := hold()
	var mu sync.Mutex
	now, most := 0, 0
	for i := range n {
		a.add(e.stack(fmt.Sprint("node ", i), protocol.HandlerFunc(func(ctx context.Context, m protocol.Message) (protocol.Message, error) {
			mu.Lock()
			now++
			most = max(most, now)
			mu.Unlock()
			defer func() {
				mu.Lock()
				defer mu.Unlock()
				now--
			}()
			return h.Handle(ctx, m)
		})))
	}
	call := e.start("DispatchAll", func() error {
		for id, r := range a.DispatchAll(e.ctx, protocol.Message{Operation: "op"}) {
			if r.Err != nil {
				return fmt.Errorf("peer %v: %w", id, r.Err)
			}
		}
		return nil
	})
	for range bound {
		receive(e, "the first peers are asked", h.entered)
	}
	e.sleep(moment)
	for range n {
		h.release <- protocol.Message{Operation: "done"}
	}
	e.must(call.wait(), "DispatchAll")
	if most != bound {
		e.errorf("want %d peers to be talked to at once, got %d", bound, most)
	}
}

func routesCopied(e *env) {
	a := e.stack("a", nil)
	var all []*stackNode
	for _, name := range []string{"c", "b", "d", "b"} {
		n := e.stack(name, nil)
		all = append(all, n)
		a.add(n)
	}
	shown := func() []string {
		var s []string
		for _, r := range a.Routes() {
			s = append(s, fmt.Sprintf("%+v", r))
		}
		return s
	}
	routes, before := a.Routes(), shown()
	if !slices.IsSortedFunc(routes, func(x, y router.Route) int {
		if c := strings.Compare(x.Name, y.Name); c != 0 {
			return c
		}
		return slices.Compare(x.ID[:], y.ID[:])
	}) || len(routes) != len(all) {
		e.errorf("want %d routes, ordered by name and ID, got %v", len(all), routes)
	}
	for i := range routes {
		clear(routes[i].Addrs)
		clear(routes[i].Links)
		routes[i] = router.Route{}
	}
	clear(a.Addrs())
	if after := shown(); !slices.Equal(before, after) {
		e.errorf("after the caller has changed its snapshot: want the routes as before, %v, got %v", before, after)
	}
	for _, n := range all {
		a.works(n)
	}
}

func watch(e *env) {
	a, b := e.stack("a", nil), e.stack("b", nil)
	w1, w2 := a.watching(), a.watching()
	b.add(a)
	var first []router.Event
	for len(first) == 0 || first[len(first)-1].Kind != router.RouteAdded {
		first = append(first, receive(e, "the event of a new route", w1.C()))
	}
	for i, want := range first {
		for j := range want.Route.Addrs { // the events are each watcher's own
			want.Route.Addrs[j] = transport.Addr{}
		}
		got := receive(e, "the same event at another watcher", w2.C())
		if got.Kind != want.Kind || got.Route.ID != b.ID() || !got.Time.Equal(want.Time) || got.Reason == "" || got.Missed != 0 {
			e.errorf("event %d: want both watchers to get %+v, got %+v", i, want, got)
		}
		if slices.Contains(got.Route.Addrs, transport.Addr{}) {
			e.errorf("event %d: one watcher has changed what the other one gets", i)
		}
		if i > 0 && want.Time.Before(first[i-1].Time) {
			e.errorf("event %d: want times in order, got %v after %v", i, want.Time, first[i-1].Time)
		}
	}
	w1.Close()
	w1.Close()
	drained := 0
	for range w1.C() {
		drained++
	}
	// b has its link with a already, so that the hints are all the events there are.
	w3 := a.watching()
	e.eventually("earlier events are over", func() bool { return len(w3.C()) == 0 })
	const total = 640
	for i := 0; i < total; i += 64 {
		var peers []greeting.Peer
		for j := range 64 {
			peers = append(peers, e.stranger(i+j))
		}
		m, err := hint(greeting.Arrived, peers...)
		e.must(err, "making a message of the greeting")
		_, err = b.Dispatch(e.ctx, a.ID().String(), m)
		e.must(err, "telling of peers")
	}
	var got []router.Event
	for len(w3.C()) > 0 {
		got = append(got, <-w3.C())
	}
	for i, ev := range got {
		if want := e.stranger(i).ID; ev.Kind != router.RouteAdded || ev.Route.ID != want {
			e.failf("event %d of %d: want them in order, of %v, got %+v", i, len(got), want, ev)
		}
	}
	if len(got) == 0 || len(got) >= total {
		e.errorf("a watcher that did not look at %d events: want a bounded number to be kept, got %d", total, len(got))
	}
	e.must(a.Delete(e.stranger(0).ID.String()), "Delete")
	if ev := receive(e, "the event of a deleted route", w3.C()); ev.Missed != total-len(got) || ev.Kind != router.RouteRemoved {
		e.errorf("the event after those that were missed: want %d missed, got %+v", total-len(got), ev)
	}
	e.must(a.Close(), "Close")
	e.promptly("reading from watchers of a closed node", func() error {
		for range w3.C() {
		}
		for range w2.C() {
		}
		for range a.watching().C() {
		}
		return nil
	})
}

func tableBound(e *env) {
	const bound = 16
	a := e.stack("a", nil, func(c *pheromones.Config) { c.MaxRoutes = bound })
	for i := range 4 {
		liar := e.stack("liar", nil)
		for j := range 4 {
			var peers []greeting.Peer
			for k := range 64 {
				peers = append(peers, e.stranger(1000*i+64*j+k))
			}
			liar.told(a, greeting.Arrived, peers...)
		}
		n := len(a.Routes())
		if i == 0 && n > bound/2 {
			e.errorf("256 hints of one peer: want at most half of %d routes to be kept on its word, got %d", bound, n)
		}
		if n > bound {
			e.errorf("%d hints: want at most %d routes, got %d", 256*(i+1), bound, n)
		}
	}
	var all []*stackNode
	for i := range bound {
		n := e.stack(fmt.Sprint("honest ", i), nil)
		a.add(n)
		all = append(all, n)
	}
	if n := len(a.Routes()); n != bound {
		e.errorf("%d peers added to a full table: want them all, and no others, got %d routes", bound, n)
	}
	for _, n := range all {
		a.works(n)
	}
	one := e.stack("one too many", nil)
	_, err := a.Dispatch(e.ctx, one.addr, protocol.Message{Operation: "x"})
	e.wantIs("a peer more than the table holds", err, router.ErrFull)
	e.must(a.Delete(all[0].ID().String()), "Delete")
}
