package conformance

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"time"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/transport"
)

// closedPort returns the address of a listener that was closed, with the ID of its peer.
func (e *env) closedPort() transport.Addr {
	n := e.node()
	addr := e.listen(n).Addr()
	e.must(e.promptly("Transport.Close", n.Close), "Transport.Close")
	return addr
}

func dialNobody(e *env) {
	n, addr := e.node(), e.closedPort()
	for _, peer := range []identity.ID{addr.Peer, {}} {
		addr.Peer = peer
		ctx := e.after(500 * time.Millisecond)
		err := e.promptly("Dial where nobody listens", func() error { return dialError(n.Dial(ctx, addr)) })
		e.wantOp("Dial where nobody listens", err, "dial", addr)
		if err != nil && !strings.Contains(err.Error(), addr.String()) {
			e.errorf("Dial where nobody listens: want the address in the error, got %v", err)
		}
	}
}

func dialRefused(e *env) {
	n, addr := e.node(), e.closedPort()
	// The context of the check is not what ends the call: promptly would report it first.
	err := e.promptly("Dial at a closed port", func() error { return dialError(n.Dial(e.ctx, addr)) })
	e.wantOp("Dial at a closed port", err, "dial", addr)
}

func dialCancelledBefore(e *env) {
	n, server := e.node(), e.node()
	ln := e.listen(server)
	expired, cancel := context.WithDeadline(e.ctx, past)
	defer cancel()
	caused, because := context.WithCancelCause(e.ctx)
	because(errors.New("the cause is another thing"))
	for _, ctx := range []context.Context{e.cancelled(), expired, caused} {
		err := e.promptly("Dial with an ended context", func() error { return dialError(n.Dial(ctx, ln.Addr())) })
		e.wantContext("Dial with an ended context", err, ctx)
		e.wantOp("Dial with an ended context", err, "dial", ln.Addr())
	}
	e.spawn(func() { // a dial that should not have been may be in the queue
		for {
			if _, err := ln.Accept(e.ctx); err != nil {
				return
			}
		}
	})
	e.must(e.promptly("Dial", func() error { return dialError(n.Dial(e.ctx, ln.Addr())) }), "Dial afterwards")
}

func listenCancelledBefore(e *env) {
	n := e.node()
	ctx := e.cancelled()
	// Listening need not wait, so it may succeed.
	if err := e.promptly("Listen", func() error { return listenError(n.Listen(ctx, e.h.Listen)) }); err != nil {
		e.wantContext("Listen with an ended context", err, ctx)
		e.wantOp("Listen with an ended context", err, "listen", e.h.Listen)
	}
	// A context bounds the call and not the listener.
	ctx, cancel := context.WithCancel(e.ctx)
	ln, err := n.Listen(ctx, e.h.Listen)
	e.must(err, "Listen")
	cancel()
	e.sleep(moment)
	ctx, cancel = context.WithCancel(e.ctx)
	accept := e.start("Accept", func() error { _, err := ln.Accept(ctx); return err })
	c, err := e.node().Dial(ctx, ln.Addr())
	e.must(err, "Dial, when the context of Listen has ended")
	e.must(accept.wait(), "Accept, when the context of Listen has ended")
	cancel()
	e.sleep(moment)
	if c.Context().Err() != nil {
		e.errorf("the connection, when the contexts of Dial and Accept have ended: want it to live on, got %s", describe(context.Cause(c.Context())))
	}
}

func dialCancelledDuring(e *env) {
	n := e.node()
	addr := e.blackHole()
	ctx, cancel := context.WithCancel(e.ctx)
	dial := e.start("Dial at a peer that never answers", func() error { return dialError(n.Dial(ctx, addr)) })
	dial.blocked()
	cancel()
	dial.wait()
	e.wantContext("Dial whose context is cancelled", dial.err, ctx)
	e.wantOp("Dial whose context is cancelled", dial.err, "dial", addr)
}

func dialCancelledAnytime(e *env) {
	n, server := e.node(), e.node()
	ln := e.listen(server)
	accept := e.start("Accept", func() error {
		for {
			if _, err := ln.Accept(e.ctx); err != nil {
				return err
			}
		}
	})
	for i := range 60 {
		ctx, cancel := context.WithTimeout(e.ctx, time.Duration(i)*100*time.Microsecond)
		err := e.promptly("Dial with a short context", func() error { return dialError(n.Dial(ctx, ln.Addr())) })
		if err != nil {
			<-ctx.Done()
			e.wantContext("Dial with a short context", err, ctx)
		}
		cancel()
	}
	e.must(e.promptly("Dial", func() error { return dialError(n.Dial(e.ctx, ln.Addr())) }), "Dial after many that were cancelled")
	ln.Close()
	accept.wait()
}

func dialSilent(e *env) {
	n := e.node()
	addr := e.blackHole()
	ctx := e.after(4 * moment)
	err := e.promptly("Dial at a peer that takes the connection and stays silent", func() error { return dialError(n.Dial(ctx, addr)) })
	e.wantContext("Dial at a silent peer", err, ctx)
	e.wantOp("Dial at a silent peer", err, "dial", addr)
}

func dialGarbage(e *env) {
	n := e.node()
	addr := e.babbler()
	ctx := e.after(20 * moment)
	err := e.promptly("Dial at a peer that answers garbage", func() error { return dialError(n.Dial(ctx, addr)) })
	e.wantOp("Dial at a peer that answers garbage", err, "dial", addr)
}

func concurrentDials(e *env) {
	const n = 40
	servers := []*node{e.node(), e.node()}
	clients := []*node{e.node(), e.node()}
	lns := []transport.Listener{e.listen(servers[0]), e.listen(servers[1])}
	nobody := e.closedPort()
	wrong := lns[0].Addr()
	wrong.Peer = nobody.Peer
	for _, ln := range lns {
		e.spawn(func() {
			for {
				c, err := ln.Accept(e.ctx)
				if err != nil {
					return
				}
				e.spawn(func() { e.echo(c) })
			}
		})
	}
	e.each(n, n, func(i int) {
		client, ln := clients[i%2], lns[i/2%2]
		switch i % 8 {
		case 5:
			ctx, cancel := context.WithTimeout(e.ctx, 4*moment)
			defer cancel()
			if err := dialError(client.Dial(ctx, nobody)); err == nil {
				e.errorf("Dial where nobody listens: want an error")
			}
			return
		case 6:
			if err := dialError(client.Dial(e.ctx, wrong)); !errors.Is(err, identity.ErrWrongPeer) {
				e.errorf("Dial with the ID of another peer: want identity.ErrWrongPeer, got %s", describe(err))
			}
			return
		case 7:
			ctx, cancel := context.WithTimeout(e.ctx, time.Millisecond)
			defer cancel()
			if c, err := client.Dial(ctx, ln.Addr()); err == nil {
				c.CloseWithError(0, "")
			}
			return
		}
		c, err := client.Dial(e.ctx, ln.Addr())
		e.must(err, "Dial, beside others")
		e.wantPeers(c.Info(), client.id, ln.Addr().Peer)
		s, err := c.OpenStream(e.ctx)
		e.must(err, "OpenStream")
		b := token()
		e.send(s, b)
		e.expect(s, b)
		e.must(s.Close(), "Close")
	})
	for _, ln := range lns {
		ln.Close()
	}
}

func acceptsAll(e *env) {
	const n = 8
	server := e.node()
	ln := e.listen(server)
	// The dials end before anybody accepts.
	want := make(map[identity.ID]bool)
	for range n {
		client := e.node()
		want[client.id] = true
		c := e.dial(client, ln.Addr())
		s, err := c.OpenStream(e.ctx)
		e.must(err, "OpenStream")
		e.send(s, client.id[:])
	}
	for range n {
		c := e.accept(ln)
		peer := c.Info().RemotePeer
		if !want[peer] {
			e.errorf("Accept: want each of the %d dials once, got one of %s", n, peer.Short())
		}
		delete(want, peer)
		var s transport.Stream
		e.must(e.promptly("AcceptStream", func() (err error) {
			s, err = c.AcceptStream(e.ctx)
			return err
		}), "AcceptStream")
		e.expect(s, peer[:])
	}
	accept := e.start("Accept, when nobody has dialled", func() error { _, err := ln.Accept(e.ctx); return err })
	accept.blocked()
	ln.Close()
	accept.wait()
}

func acceptContext(e *env) {
	client, server := e.node(), e.node()
	ln := e.listen(server)
	for _, ctx := range []context.Context{e.cancelled(), e.after(2 * moment)} {
		err := e.promptly("Accept", func() error { _, err := ln.Accept(ctx); return err })
		e.wantContext("Accept whose context has ended", err, ctx)
	}
	ctx, cancel := context.WithCancel(e.ctx)
	accept := e.start("Accept", func() error { _, err := ln.Accept(ctx); return err })
	accept.blocked()
	short := e.cancelled()
	err := e.promptly("Accept beside another", func() error { _, err := ln.Accept(short); return err })
	e.wantContext("Accept whose context has ended, beside another that waits", err, short)
	cancel()
	accept.wait()
	e.wantContext("Accept whose context ends", accept.err, ctx)
	e.exchange(e.stream(e.connect(client, ln)))
}

func readyConnWins(e *env) {
	client, server := e.node(), e.node()
	ln := e.listen(server)
	e.dial(client, ln.Addr())
	e.eventually("Accept with an ended context, of a connection that is there: want the connection", func() bool {
		ctx := e.cancelled()
		_, err := ln.Accept(ctx)
		if err != nil {
			e.wantContext("Accept whose context has ended", err, ctx)
		}
		return err == nil
	})
}

func acceptRace(e *env) {
	const n = 30
	client, server := e.node(), e.node()
	ln := e.listen(server)
	dials := e.start("dialling", func() error {
		for range n {
			if _, err := client.Dial(e.ctx, ln.Addr()); err != nil {
				return err
			}
		}
		return nil
	})
	for i, last := 0, time.Now(); i < n; {
		ctx, cancel := context.WithTimeout(e.ctx, time.Duration(i%7)*100*time.Microsecond)
		_, err := ln.Accept(ctx)
		if err == nil {
			i, last = i+1, time.Now()
		} else {
			e.wantContext("Accept with a short context", err, ctx)
		}
		cancel()
		if e.ctx.Err() != nil || time.Since(last) > e.soon {
			e.failf("Accept with contexts that end as connections come: want all %d, got %d", n, i)
		}
	}
	e.must(dials.wait(), "Dial")
}

func listenerClose(e *env) {
	client, server := e.node(), e.node()
	ln := e.listen(server)
	d, a := e.connect(client, ln)
	x, y := e.stream(d, a)
	accept := e.start("Accept", func() error { _, err := ln.Accept(e.ctx); return err })
	accept.blocked()
	e.must(e.promptly("Listener.Close", ln.Close), "Listener.Close")
	e.wantClosed("Accept, waiting at Listener.Close", accept.wait())
	for range 2 {
		e.wantClosed("Accept after Listener.Close", e.promptly("Accept", func() error { _, err := ln.Accept(e.ctx); return err }))
		e.must(e.promptly("Listener.Close", ln.Close), "Listener.Close again")
	}
	// What was accepted lives on.
	e.exchange(x, y)
	ctx := e.after(500 * time.Millisecond)
	if err := e.promptly("Dial", func() error { return dialError(client.Dial(ctx, ln.Addr())) }); err == nil {
		e.errorf("Dial at a closed listener: want an error")
	}
	e.exchange(x, y)
	// The address is free for the transport that had it.
	again := e.listenAt(server, transport.Addr{Scheme: ln.Addr().Scheme, HostPort: ln.Addr().HostPort})
	e.exchange(e.stream(e.connect(client, again)))
	e.exchange(x, y)
}

func listenerFreesAddress(e *env) {
	server, other, client := e.node(), e.node(), e.node()
	ln := e.listen(server)
	e.must(e.promptly("Listener.Close", ln.Close), "Listener.Close")
	again := e.listenAt(other, transport.Addr{Scheme: ln.Addr().Scheme, HostPort: ln.Addr().HostPort})
	e.exchange(e.stream(e.connect(client, again)))
}

func listenerCloseQueued(e *env) {
	client, server := e.node(), e.node()
	ln := e.listen(server)
	c := e.dial(client, ln.Addr())
	e.must(e.promptly("Listener.Close", ln.Close), "Listener.Close")
	e.ends(c, "the connection that waited to be accepted when the listener was closed")
	// If the handshake had not ended on the other side there was no connection yet to refuse.
	var ce *transport.CloseError
	if err := context.Cause(c.Context()); errors.As(err, &ce) {
		e.wantClose("the cause of its end", err, transport.CodeRefused, ce.Reason, true)
	}
}

// ends waits until c has ended, which must be soon.
func (e *env) ends(c transport.Conn, what string) error {
	e.must(e.promptly(what+": the end of its Context", func() error {
		select {
		case <-c.Context().Done():
		case <-e.ctx.Done():
		}
		return nil
	}), "Context")
	return context.Cause(c.Context())
}

func addressInUse(e *env) {
	server, other, client := e.node(), e.node(), e.node()
	ln := e.listen(server)
	addr := transport.Addr{Scheme: ln.Addr().Scheme, HostPort: ln.Addr().HostPort}
	for _, n := range []*node{other, server} {
		err := e.promptly("Listen", func() error { return listenError(n.Listen(e.ctx, addr)) })
		e.wantOp("Listen at an address in use", err, "listen", addr)
	}
	e.exchange(e.stream(e.connect(client, ln)))
}

func strangers(e *env) {
	client, server := e.node(), e.node()
	ln := e.listen(server)
	crowd := e.crowd(ln.Addr())
	// The honest get in beside them, and nobody else does.
	for range 3 {
		d, a := e.connect(client, ln)
		e.wantPeers(a.Info(), server.id, client.id)
		e.exchange(e.stream(d, a))
	}
	accept := e.start("Accept, with none but strangers", func() error { _, err := ln.Accept(e.ctx); return err })
	accept.blocked()
	ln.Close()
	accept.wait()
	for _, c := range crowd {
		c.Close()
	}
}

func strangersShed(e *env) {
	server := e.node()
	ln := e.listen(server)
	crowd := e.crowd(ln.Addr())
	end := time.Now().Add(e.h.HandshakeTimeout + e.soon)
	held := 0
	for _, c := range crowd {
		c.SetReadDeadline(end)
		if _, err := io.Copy(io.Discard, struct{ io.Reader }{c}); isNetTimeout(err) {
			held++
		}
		c.Close()
	}
	if held > 0 {
		e.errorf("want connections without a handshake to be closed after %v, got %d of %d open %v later", e.h.HandshakeTimeout, held, len(crowd), e.soon)
	}
}

func isNetTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

func transportClose(e *env) {
	client, server, third := e.node(), e.node(), e.node()
	ln := e.listen(server)
	away := e.listen(third)
	l := &link{env: e, dialer: client, acceptor: server, ln: ln}
	l.redial()
	unaccepted := e.dial(client, e.listen(server).Addr()) // before much else, so that the other side is done with it, too
	out, in := e.connect(server, away)                    // a connection that the closing side has dialled
	calls, _ := l.occupy()
	accept := e.start("Accept", func() error { _, err := ln.Accept(e.ctx); return err })
	accept.blocked()
	var dial *call
	if e.h.Network != "" {
		hole := e.blackHole()
		dial = e.start("Dial", func() error { return dialError(server.Dial(e.ctx, hole)) })
		dial.blocked()
	}
	waiting := e.dial(client, ln.Addr()) // perhaps taken by the Accept above, perhaps not
	accept.wait()
	again := e.start("Accept", func() error { _, err := ln.Accept(e.ctx); return err })
	again.blocked()

	closers := []*call{e.start("Transport.Close", server.Close), e.start("Transport.Close", server.Close)}
	for _, c := range closers {
		e.must(c.wait(), "Transport.Close, twice at once")
	}
	e.must(e.promptly("Transport.Close", server.Close), "Transport.Close again")
	e.wantClosed("Accept, waiting at Transport.Close", again.wait())
	if dial != nil {
		e.wantClosed("Dial, waiting at Transport.Close", dial.wait())
	}
	for _, c := range calls.acceptor {
		c.wait()
		e.wantClose(c.name+" at our Transport.Close", c.err, transport.CodeShutdown, closeReason(c.err), false)
	}
	for _, c := range calls.dialer {
		c.wait()
		e.wantClose(c.name+" at the peer's Transport.Close", c.err, transport.CodeShutdown, closeReason(c.err), true)
	}
	for _, c := range []transport.Conn{out, l.a} {
		err := e.ends(c, "a connection of a closed transport")
		e.wantClose("the cause, at our Transport.Close", err, transport.CodeShutdown, closeReason(err), false)
	}
	for _, c := range []transport.Conn{in, l.d, waiting, unaccepted} {
		err := e.ends(c, "a connection whose peer has closed its transport")
		e.wantClose("the cause, at the peer's Transport.Close", err, transport.CodeShutdown, closeReason(err), true)
	}
	e.wantClosed("Dial after Transport.Close", e.promptly("Dial", func() error { return dialError(server.Dial(e.ctx, away.Addr())) }))
	e.wantClosed("Listen after Transport.Close", e.promptly("Listen", func() error { return listenError(server.Listen(e.ctx, e.h.Listen)) }))
	e.wantClosed("Accept after Transport.Close", e.promptly("Accept", func() error { _, err := ln.Accept(e.ctx); return err }))
	e.must(e.promptly("Listener.Close", ln.Close), "Listener.Close after Transport.Close")
	e.must(e.promptly("CloseWithError", func() error { return l.a.CloseWithError(1, "late") }), "CloseWithError after Transport.Close")
}

func listenSeveral(e *env) {
	server, client := e.node(), e.node()
	away := e.listen(client)
	var lns []transport.Listener
	for range 3 {
		lns = append(lns, e.listen(server))
	}
	seen := make(map[transport.Addr]bool)
	for _, ln := range lns {
		if seen[ln.Addr()] {
			e.errorf("listening several times at port 0: want different addresses, got %s twice", ln.Addr())
		}
		seen[ln.Addr()] = true
	}
	for _, ln := range lns {
		e.exchange(e.stream(e.connect(client, ln)))
		e.exchange(e.stream(e.connect(server, away))) // dialling while listening
	}
	e.must(e.promptly("Listener.Close", lns[1].Close), "Listener.Close")
	e.exchange(e.stream(e.connect(client, lns[0])))
	e.exchange(e.stream(e.connect(client, lns[2])))
	e.exchange(e.stream(e.connect(server, away)))
}

// noise is what a stranger might send.
func noise(n int) []byte {
	b := make([]byte, n)
	source(uint64(n)).Read(b)
	if bytes.HasPrefix(b, []byte{0x16}) {
		b[0] = 0
	}
	return b
}
