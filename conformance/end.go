package conformance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/Blockchain-CN/pheromones/transport"
)

func isClosed(err error) bool { return errors.Is(err, net.ErrClosed) }

// waits are calls under way at both ends of a connection.
type waits struct{ dialer, acceptor []*call }

// spare are ends of streams that were not used up by calls under way, one of each connection.
type spare struct{ dialer, acceptor transport.Stream }

// occupy brings calls of every kind under way on both ends of l: Read everywhere, and where a connection carries several
// streams also Write and AcceptStream.
func (l *link) occupy() (waits, spare) {
	var w waits
	e := l.env
	x, y := e.stream(l.d, l.a)
	read := func(s transport.Stream) *call {
		c := e.start("Read, under way", func() error { _, err := s.Read(make([]byte, 1)); return err })
		c.blocked()
		return c
	}
	w.dialer = append(w.dialer, read(x))
	w.acceptor = append(w.acceptor, read(y))
	if e.traits.OneStream {
		return w, spare{x, y}
	}
	there, _ := e.stream(l.d, l.a)
	back, _ := e.stream(l.a, l.d)
	f, g := e.flood(there, 40), e.flood(back, 41)
	f.stall()
	g.stall()
	accept := func(c transport.Conn) *call {
		a := e.start("AcceptStream, under way", func() error { _, err := c.AcceptStream(e.ctx); return err })
		a.blocked()
		return a
	}
	w.dialer = append(w.dialer, f.call, accept(l.d))
	w.acceptor = append(w.acceptor, g.call, accept(l.a))
	return w, spare{x, y}
}

// afterwards returns what each call returns on a connection that has ended, by its name.
func (e *env) afterwards(c transport.Conn, s transport.Stream) map[string]error {
	errs := make(map[string]error)
	call := func(name string, f func() error) { errs[name] = e.promptly(name, f) }
	call("Read, later", func() error { _, err := s.Read(make([]byte, 1)); return err })
	call("Write, later", func() error { _, err := s.Write([]byte("late")); return err })
	if !e.traits.OneStream { // else they may as well be errors.ErrUnsupported
		call("OpenStream, later", func() error { _, err := c.OpenStream(e.ctx); return err })
		call("AcceptStream, later", func() error { _, err := c.AcceptStream(e.ctx); return err })
	}
	return errs
}

// closes are codes and reasons to close with.
func closes() []struct {
	code   transport.Code
	reason string
} {
	return []struct {
		code   transport.Code
		reason string
	}{{0, ""}, {1, "plain"}, {255, "größer, 更大, 🐜"}, {transport.CodeUser, strings.Repeat("r", transport.MaxReason)}, {1 << 31, ""}, {1<<32 - 1, "last"}}
}

func closeReaches(e *env) { e.closeConn(true) }
func closeIsLocal(e *env) { e.closeConn(false) }

// closeConn closes connections from either side with all kinds of codes and looks at the closing side or the other.
func (e *env) closeConn(other bool) {
	l := &link{env: e, dialer: e.node(), acceptor: e.node()}
	l.ln = e.listen(l.acceptor)
	for i, c := range closes() {
		l.redial()
		w, s := l.occupy()
		closer, peer, ours, theirs, here, there := l.d, l.a, w.dialer, w.acceptor, s.dialer, s.acceptor
		if i%2 == 1 {
			closer, peer, ours, theirs, here, there = peer, closer, theirs, ours, there, here
		}
		e.in("%s side closes with %d and %.20q", [...]string{"dialling", "accepting"}[i%2], uint32(c.code), c.reason)
		e.must(e.promptly("CloseWithError", func() error { return closer.CloseWithError(c.code, c.reason) }), "CloseWithError")
		conn, calls, stream := closer, ours, here
		if other {
			conn, calls, stream = peer, theirs, there
		}
		for _, call := range calls {
			call.wait()
			e.wantClose(call.name, call.err, c.code, c.reason, other)
		}
		e.wantClose("the cause of the Context's end", e.ends(conn, "the connection"), c.code, c.reason, other)
		for name, err := range e.afterwards(conn, stream) {
			e.wantClose(name, err, c.code, c.reason, other)
		}
		e.must(e.promptly("Close", stream.Close), "Close of a stream of a closed connection")
		e.must(e.promptly("Reset", func() error { return stream.Reset(1) }), "Reset of a stream of a closed connection")
	}
}

// eofThenClose reads the end of a stream before the connection is closed by either side.
func eofThenClose(e *env) {
	for _, ours := range []bool{false, true} {
		e.eachPipe(func(p *pipe) {
			e.in("%s, closed by the side that read the end: %v", e.where, ours)
			e.must(p.x.CloseWrite(), "CloseWrite")
			e.promptly("Read", func() error { e.expectEOF(p.y); return nil })
			closer := p.xc
			if ours {
				closer = p.yc
			}
			e.must(e.promptly("CloseWithError", func() error { return closer.CloseWithError(303, "over") }), "CloseWithError")
			e.wantClose("the cause", e.ends(p.yc, "the connection"), 303, "over", !ours)
			for range 2 {
				if err := e.promptly("Read", func() error { _, err := p.y.Read(make([]byte, 1)); return err }); err != io.EOF {
					e.wantClose("Read, after io.EOF", err, 303, "over", !ours)
				}
			}
			err := e.promptly("Write", func() error { _, err := p.y.Write([]byte("late")); return err })
			e.wantClose("Write, in the direction that had not ended", err, 303, "over", !ours)
			if err = e.promptly("Write", func() error { _, err := p.x.Write([]byte("late")); return err }); !isClosed(err) {
				e.wantClose("Write, in the direction that had ended", err, 303, "over", ours)
			}
		})
	}
}

func closeBlockedWrites(e *env) {
	// A stream whose two ends both write and do not read: what is under way must not hide the close.
	for _, byAcceptor := range []bool{false, true} {
		l := e.link()
		x, y := e.stream(l.d, l.a)
		xc, yc := l.d, l.a
		if byAcceptor {
			x, y, xc, yc = y, x, yc, xc
		}
		f, g := e.flood(x, 42), e.flood(y, 43)
		f.stall()
		g.stall()
		e.must(e.promptly("CloseWithError", func() error { return xc.CloseWithError(300, "full") }), "CloseWithError")
		f.wait()
		e.wantClose("our Write, blocked at CloseWithError", f.err, 300, "full", false)
		g.wait()
		e.wantClose("the peer's Write, blocked at CloseWithError", g.err, 300, "full", true)
		e.wantClose("the peer's cause", e.ends(yc, "the peer's connection"), 300, "full", true)
	}
}

func closeUnread(e *env) {
	// Bytes that nobody has read, on both sides, must not hide the close.
	e.eachPipe(func(p *pipe) {
		e.send(p.x, make([]byte, 20<<10))
		e.send(p.y, make([]byte, 20<<10))
		e.sleep(moment)
		e.must(e.promptly("CloseWithError", func() error { return p.xc.CloseWithError(301, "unread") }), "CloseWithError")
		e.wantClose("the peer's cause", e.ends(p.yc, "the peer's connection"), 301, "unread", true)
		e.wantClose("the peer's Read", e.readFails("Read", p.y), 301, "unread", true)
		err := e.promptly("Read", func() error { _, err := p.x.Read(make([]byte, 1)); return err })
		e.wantClose("our Read, with bytes unread", err, 301, "unread", false)
	})
}

func closeUnused(e *env) {
	// A connection that never carried a stream.
	for _, byAcceptor := range []bool{false, true} {
		l := e.link()
		closer, peer := l.d, l.a
		if byAcceptor {
			closer, peer = peer, closer
		}
		accept := e.start("AcceptStream, under way", func() error { _, err := l.a.AcceptStream(e.ctx); return err })
		accept.blocked()
		e.must(e.promptly("CloseWithError", func() error { return closer.CloseWithError(302, "unused") }), "CloseWithError")
		e.wantClose("the peer's cause", e.ends(peer, "the peer's connection"), 302, "unused", true)
		accept.wait()
		e.wantClose(accept.name, accept.err, 302, "unused", !byAcceptor)
	}
}

func reasonCut(e *env) {
	l := &link{env: e, dialer: e.node(), acceptor: e.node()}
	l.ln = e.listen(l.acceptor)
	for _, c := range []struct{ reason, want string }{
		{strings.Repeat("r", 3*transport.MaxReason), strings.Repeat("r", transport.MaxReason)},
		{strings.Repeat("é", transport.MaxReason), strings.Repeat("é", transport.MaxReason/2)},
		{"a" + strings.Repeat("é", transport.MaxReason), "a" + strings.Repeat("é", transport.MaxReason/2-1)},
		{"ab" + strings.Repeat("🐜", transport.MaxReason), "ab" + strings.Repeat("🐜", transport.MaxReason/4-1)},
		{strings.Repeat("r", 1<<20), strings.Repeat("r", transport.MaxReason)},
	} {
		l.redial()
		e.must(e.promptly("CloseWithError", func() error { return l.d.CloseWithError(transport.CodeUser, c.reason) }), "CloseWithError")
		err := e.ends(l.a, "the peer's connection")
		got := closeReason(err)
		if got != c.want {
			e.errorf("a reason of %d bytes: want the first %d of it, got %d, valid UTF-8: %v, %s", len(c.reason), len(c.want), len(got),
				utf8.ValidString(got), describe(err))
		}
	}
}

func closeAgain(e *env) {
	l := e.link()
	e.must(e.promptly("CloseWithError", func() error { return l.d.CloseWithError(400, "first") }), "CloseWithError")
	e.ends(l.a, "the peer's connection")
	for range 2 {
		for _, c := range []transport.Conn{l.d, l.a} {
			e.must(e.promptly("CloseWithError", func() error { return c.CloseWithError(401, "second") }), "CloseWithError of an ended connection")
		}
		e.wantClose("the cause, after closing again", context.Cause(l.d.Context()), 400, "first", false)
		e.wantClose("the peer's cause, after closing again", context.Cause(l.a.Context()), 400, "first", true)
	}
}

func closeTogether(e *env) {
	l := &link{env: e, dialer: e.node(), acceptor: e.node()}
	l.ln = e.listen(l.acceptor)
	for range 20 {
		l.redial()
		var calls []*call
		for i, c := range []transport.Conn{l.d, l.a, l.d, l.a} {
			calls = append(calls, e.start("CloseWithError", func() error { return c.CloseWithError(transport.Code(500+i%2), "together") }))
		}
		for _, c := range calls {
			e.must(c.wait(), "CloseWithError, from both sides at once")
		}
		for i, c := range []transport.Conn{l.d, l.a} {
			err := e.ends(c, "the connection")
			var ce *transport.CloseError
			if !errors.As(err, &ce) || ce.Code != transport.Code(500+i) && !ce.Remote || ce.Code != transport.Code(501-i) && ce.Remote {
				e.errorf("both sides close at once: want either's *CloseError, got %s", describe(err))
			}
		}
	}
}

// closeRaces closes connections under goroutines that use them in every way.
func closeRaces(e *env) {
	l := &link{env: e, dialer: e.node(), acceptor: e.node()}
	l.ln = e.listen(l.acceptor)
	for i := range 20 {
		l.redial()
		var calls []*call
		for _, c := range []transport.Conn{l.d, l.a} {
			calls = append(calls, e.start("using a connection until it ends", func() error { return e.use(c, c == l.d) }))
			if c == l.d || !e.traits.OneStream {
				calls = append(calls, e.start("using a connection until it ends", func() error { return e.use(c, c != l.d) }))
			}
		}
		e.sleep(time.Duration(i%10) * 200 * time.Microsecond)
		closer := l.d
		if i%2 == 1 {
			closer = l.a
		}
		e.must(e.promptly("CloseWithError", func() error { return closer.CloseWithError(600, "race") }), "CloseWithError")
		for _, c := range calls {
			e.must(c.wait(), "%s", c.name)
		}
		e.wantClose("the cause", e.ends(closer, "the connection"), 600, "race", false)
	}
}

// use opens or accepts streams and moves bytes until the connection ends, and returns nil if its errors say so.
func (e *env) use(c transport.Conn, open bool) error {
	b := make([]byte, 1000)
	for {
		var s transport.Stream
		var err error
		if open {
			s, err = c.OpenStream(e.ctx)
		} else {
			s, err = c.AcceptStream(e.ctx)
		}
		for err == nil {
			if _, err = s.Write(b); err == nil {
				_, err = io.ReadFull(s, b)
			}
		}
		var ce *transport.CloseError
		if errors.As(err, &ce) || e.traits.OneStream && errors.Is(err, errors.ErrUnsupported) {
			return nil
		}
		return fmt.Errorf("want a *CloseError, got %s", describe(err))
	}
}

func cutReset(e *env)  { e.cutBy("reset", func(c *cable) { c.sever(true) }) }
func cutFIN(e *env)    { e.cutBy("end", func(c *cable) { c.sever(false) }) }
func cutSilent(e *env) { e.cutBy("go silent", (*cable).kill) }

// cutBy makes connections over cables, lets the cables end, and looks at every call on both sides.
func (e *env) cutBy(name string, cut func(c *cable)) {
	dialer, acceptor := e.node(), e.node()
	ln := e.listen(acceptor)
	type situation struct {
		name string
		link
		waits
		spare
		cable *cable
	}
	var all []*situation
	for _, idle := range []bool{false, true} {
		s := &situation{cable: e.cable(ln.Addr()), link: link{env: e, dialer: dialer, acceptor: acceptor, ln: ln}}
		all = append(all, s)
		s.d, s.a = e.connectAt(dialer, ln, s.cable.addr)
		if idle {
			s.name = "the network is made to " + name + " while nothing is under way"
			s.spare.dialer, s.spare.acceptor = e.stream(s.d, s.a)
		} else {
			s.name = "the network is made to " + name + " while calls are under way"
			s.waits, s.spare = s.occupy()
		}
	}
	for _, s := range all {
		cut(s.cable)
	}
	for _, s := range all {
		e.in("%s, dialling side", s.name)
		e.wantAllLost(s.d, s.waits.dialer, s.spare.dialer)
		e.in("%s, accepting side", s.name)
		e.wantAllLost(s.a, s.waits.acceptor, s.spare.acceptor)
	}
}

// quietLives leaves a connection alone, with a call waiting at either side and with none.
func quietLives(e *env) {
	busy, idle := e.link(), e.link()
	x, y := e.stream(busy.d, busy.a)
	read := e.start("Read", func() error { _, err := y.Read(make([]byte, 1)); return err })
	e.sleep(e.h.IdleTimeout + e.h.IdleTimeout/2 + 10*moment)
	for _, c := range []transport.Conn{busy.d, busy.a, idle.d, idle.a} {
		if c.Context().Err() != nil {
			e.errorf("after %v and half as long again in which nothing was sent: want the connection to live, got %s", e.h.IdleTimeout,
				describe(context.Cause(c.Context())))
		}
	}
	e.send(x, []byte("x"))
	e.must(read.wait(), "Read")
	e.exchange(e.stream(idle.d, idle.a))
}

// wantAllLost looks at the calls that were under way on c and at later ones.
func (e *env) wantAllLost(c transport.Conn, calls []*call, s transport.Stream) {
	bound := e.soon + 2*e.h.IdleTimeout
	for _, call := range calls {
		call.within(bound)
		e.wantLost(call.name, call.err)
	}
	e.start("the end of the Context", func() error {
		select {
		case <-c.Context().Done():
		case <-e.ctx.Done():
		}
		return nil
	}).within(bound)
	e.wantLost("the cause of the Context's end", context.Cause(c.Context()))
	for name, err := range e.afterwards(c, s) {
		e.wantLost(name, err)
	}
}

func causeIsError(e *env) {
	l := e.link()
	w, s := l.occupy()
	e.must(e.promptly("CloseWithError", func() error { return l.d.CloseWithError(700, "cause") }), "CloseWithError")
	for i, c := range []transport.Conn{l.d, l.a} {
		cause := e.ends(c, "the connection")
		for _, call := range [...][]*call{w.dialer, w.acceptor}[i] {
			if call.wait(); !sameEnd(call.err, cause) {
				e.errorf("%s: want the error that is the cause (%s), got %s", call.name, describe(cause), describe(call.err))
			}
		}
		for name, err := range e.afterwards(c, [...]transport.Stream{s.dialer, s.acceptor}[i]) {
			if !sameEnd(err, cause) {
				e.errorf("%s: want the error that is the cause (%s), got %s", name, describe(cause), describe(err))
			}
		}
	}
	if err := l.d.Context().Err(); !errors.Is(err, context.Canceled) {
		e.errorf("Context().Err(): want context.Canceled, got %v", err)
	}
}

func causeOfLoss(e *env) {
	l := &link{env: e, dialer: e.node(), acceptor: e.node()}
	l.ln = e.listen(l.acceptor)
	cable := e.cable(l.ln.Addr())
	l.d, l.a = e.connectAt(l.dialer, l.ln, cable.addr)
	w, s := l.occupy()
	cable.sever(true)
	for i, c := range []transport.Conn{l.d, l.a} {
		cause := e.ends(c, "the connection")
		for _, call := range [...][]*call{w.dialer, w.acceptor}[i] {
			if call.wait(); !sameEnd(call.err, cause) {
				e.errorf("%s: want the error that is the cause (%s), got %s", call.name, describe(cause), describe(call.err))
			}
		}
		for name, err := range e.afterwards(c, [...]transport.Stream{s.dialer, s.acceptor}[i]) {
			if !sameEnd(err, cause) {
				e.errorf("%s: want the error that is the cause (%s), got %s", name, describe(cause), describe(err))
			}
		}
		e.must(e.promptly("CloseWithError", func() error { return c.CloseWithError(1, "late") }), "CloseWithError of a lost connection")
		if now := context.Cause(c.Context()); !sameEnd(now, cause) {
			e.errorf("closing a lost connection: want the cause to stay (%s), got %s", describe(cause), describe(now))
		}
	}
}

func oneStreamEnds(e *env) {
	for i, order := range []string{"dialling side first", "accepting side first", "both at once"} {
		e.in("%s", order)
		l := e.link()
		x, y := e.stream(l.d, l.a)
		e.exchange(x, y)
		e.send(x, []byte("request"))
		e.expect(y, []byte("request"))
		e.send(y, []byte("reply"))
		e.expect(x, []byte("reply"))
		first, second := x, y
		if i == 1 {
			first, second = y, x
		}
		if i == 2 {
			c := e.start("Close", first.Close)
			e.must(e.promptly("Close", second.Close), "Close")
			e.must(c.wait(), "Close")
		} else {
			e.must(e.promptly("Close", first.Close), "Close")
			e.must(e.promptly("Read", func() error { e.expectEOF(second); return nil }), "Read")
			e.must(e.promptly("Close", second.Close), "Close")
		}
		for _, c := range []transport.Conn{l.d, l.a} {
			err := e.ends(c, "the connection whose one stream both sides have closed")
			var ce *transport.CloseError
			if !errors.As(err, &ce) || ce.Code != transport.CodeNone {
				e.errorf("the cause, after both sides have closed the one stream: want a *CloseError of CodeNone, got %s", describe(err))
			}
		}
	}
}

func oneStreamReset(e *env) {
	for _, byAcceptor := range []bool{false, true} {
		l := e.link()
		x, y := e.stream(l.d, l.a)
		if byAcceptor {
			x, y = y, x
		}
		e.must(e.promptly("Reset", func() error { return x.Reset(transport.CodeUser) }), "Reset")
		for _, c := range []transport.Conn{l.d, l.a} {
			e.ends(c, "the connection whose one stream was reset")
		}
		e.wantReset("Read after the peer's Reset and the end of the connection", e.readFails("Read", y), transport.CodeUser, true)
		e.wantReset("Read after our Reset and the end of the connection", e.readFails("Read", x), transport.CodeUser, false)
	}
}

func oneStreamLives(e *env) {
	// A stream closed by one side only does not take the connection with it before the other side is done.
	l := e.link()
	x, y := e.stream(l.d, l.a)
	e.send(x, []byte("request"))
	e.must(x.CloseWrite(), "CloseWrite")
	e.expect(y, []byte("request"))
	e.must(e.promptly("Read", func() error { e.expectEOF(y); return nil }), "Read")
	e.sleep(moment)
	e.oneWay(y, x, 1<<20)
	e.must(e.promptly("Close", y.Close), "Close")
	e.must(e.promptly("Close", x.Close), "Close")
}

// oneWay sends n bytes one way and then the end.
func (e *env) oneWay(from, to transport.Stream, n int64) {
	w := e.start("Write", func() error {
		if _, err := pour(from, 44, n, 0); err != nil {
			return err
		}
		return from.CloseWrite()
	})
	e.drained(to, 44, n, "reading")
	e.must(w.wait(), "Write")
}

func closeSoonFull(e *env) {
	l := e.link()
	x, y := e.stream(l.d, l.a)
	f, g := e.flood(x, 45), e.flood(y, 46)
	f.stall()
	g.stall()
	e.must(e.promptly("CloseWithError while the peer does not read", func() error { return l.d.CloseWithError(1, "full") }), "CloseWithError")
}

func closeSoonDead(e *env) {
	for _, full := range []bool{false, true} {
		l := &link{env: e, dialer: e.node(), acceptor: e.node()}
		l.ln = e.listen(l.acceptor)
		cable := e.cable(l.ln.Addr())
		l.d, l.a = e.connectAt(l.dialer, l.ln, cable.addr)
		x, _ := e.stream(l.d, l.a)
		cable.kill()
		if full {
			e.flood(x, 47).stall()
		}
		e.must(e.promptly("CloseWithError while the peer does not answer", func() error { return l.d.CloseWithError(1, "dead") }), "CloseWithError")
		e.wantClose("our cause", context.Cause(l.d.Context()), 1, "dead", false)
		e.must(e.promptly("Transport.Close while the peer does not answer", l.dialer.Close), "Transport.Close")
	}
}
