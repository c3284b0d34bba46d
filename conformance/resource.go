package conformance

import (
	"context"
	"time"

	"github.com/Blockchain-CN/pheromones/internal/leak"
	"github.com/Blockchain-CN/pheromones/transport"
)

// nothingRemains closes transports in the middle of work; the look at what is left is that after every rule.
func nothingRemains(e *env) {
	client, server := e.node(), e.node()
	before := leak.Take()
	dialer, acceptor := e.node(), e.node()
	l := &link{env: e, dialer: dialer, acceptor: acceptor}
	l.ln = e.listen(acceptor)
	for range 3 {
		l.redial()
		w, _ := l.occupy()
		defer func() {
			for _, c := range append(w.dialer, w.acceptor...) {
				c.wait()
			}
		}()
	}
	e.dial(dialer, l.ln.Addr()) // which nobody accepts
	e.must(e.promptly("Transport.Close", dialer.Close), "Transport.Close")
	e.must(e.promptly("Transport.Close", acceptor.Close), "Transport.Close")
	// What Close has waited for may take a moment to be gone.
	e.must(before.Check(min(e.soon, 2*time.Second*slowdown)), "Transport.Close of both sides of busy connections")
	// Others of the same process are not touched.
	ln := e.listen(server)
	e.exchange(e.stream(e.connect(client, ln)))
}

func endsLeaveNothing(e *env) {
	client, server := e.node(), e.node()
	ln := e.listen(server)
	nobody := e.closedPort()
	wrong := ln.Addr()
	wrong.Peer = nobody.Peer
	e.visit(client, ln, ln.Addr()) // what is made once may stay
	before := leak.Take()
	for i := range 20 {
		d, a := e.connect(client, ln)
		for range 5 {
			x, y := e.stream(d, a)
			e.exchange(x, y)
			if i%2 == 0 {
				e.must(x.Reset(1), "Reset")
			} else {
				e.must(x.Close(), "Close")
			}
			e.must(y.Close(), "Close")
			if e.traits.OneStream {
				break
			}
		}
		e.must(e.promptly("CloseWithError", func() error { return d.CloseWithError(0, "") }), "CloseWithError")
		e.ends(a, "the peer's connection")
	}
	drop := e.start("Accept", func() error { // connections of dials that fail may be seen
		for {
			if _, err := ln.Accept(e.ctx); err != nil {
				return err
			}
		}
	})
	for range 5 {
		for _, addr := range []transport.Addr{nobody, wrong} {
			ctx, cancel := context.WithTimeout(e.ctx, 2*moment)
			e.promptly("Dial", func() error { return dialError(client.Dial(ctx, addr)) })
			cancel()
		}
		ctx, cancel := context.WithTimeout(e.ctx, time.Millisecond)
		e.promptly("Dial", func() error { return dialError(client.Dial(ctx, ln.Addr())) })
		cancel()
	}
	e.must(e.promptly("Listener.Close", ln.Close), "Listener.Close")
	drop.wait()
	again := e.listen(server)
	e.visit(client, again, again.Addr())
	e.must(e.promptly("Listener.Close", again.Close), "Listener.Close")
	e.must(before.Check(e.soon), "after connections, streams, dials and listeners that ended, with the transports still there")
}

func nothingPrinted(e *env) {
	var failed bool
	text, err := printed(func() {
		done := e.start("an exchange of every kind", func() error {
			l := e.link()
			x, y := e.stream(l.d, l.a)
			e.exchange(x, y)
			e.must(x.Reset(3), "Reset")
			e.readFails("Read", y)
			l.redial()
			x, y = e.stream(l.d, l.a)
			e.both(x, y, 1<<20, 0)
			e.promptly("CloseWithError", func() error { return l.d.CloseWithError(1, "bye") })
			e.ends(l.a, "the peer's connection")
			wrong := l.ln.Addr()
			wrong.Peer = e.key().ID()
			ctx := e.after(4 * moment)
			dialError(l.dialer.Dial(e.ctx, wrong))
			dialError(l.dialer.Dial(ctx, e.closedPort()))
			if e.h.Network != "" {
				for _, c := range e.crowd(l.ln.Addr()) {
					c.Close()
				}
				cable := e.cable(l.ln.Addr())
				if d, err := l.dialer.Dial(e.ctx, cable.addr); err == nil && e.h.Network == "tcp" {
					cable.sever(true)
					e.ends(d, "a connection that was cut")
				}
				e.sleep(2 * moment)
			}
			l.ln = e.listen(l.acceptor) // with nothing in its queue
			l.redial()
			l.occupy() // the calls end with the connection
			e.must(l.dialer.Close(), "Transport.Close")
			e.must(l.acceptor.Close(), "Transport.Close")
			return nil
		})
		select {
		case <-done.done:
		case <-e.ctx.Done():
			failed = true
		}
	})
	e.must(err, "capturing the output")
	if text != "" && !failed {
		e.errorf("want nothing to be printed or logged, got:\n%.2000s", text)
	}
}
