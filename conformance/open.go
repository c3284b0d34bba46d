package conformance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"time"

	"github.com/Blockchain-CN/pheromones/transport"
)

func openBothSides(e *env) {
	const n = 50
	l := e.link()
	sides := []struct{ from, to transport.Conn }{{l.d, l.a}, {l.a, l.d}}
	if e.traits.OneStream {
		e.exchange(e.stream(l.d, l.a))
		return
	}
	for _, side := range sides {
		e.spawn(func() {
			for range n {
				s, err := side.to.AcceptStream(e.ctx)
				if err != nil {
					e.failf("AcceptStream: want success, got %s", describe(err))
				}
				e.spawn(func() {
					b := make([]byte, 16)
					if _, err := io.ReadFull(s, b); err != nil {
						e.failf("Read: want success, got %s", describe(err))
					}
					e.send(s, b)
				})
			}
		})
	}
	e.each(2*n, 2*n, func(i int) {
		s, err := sides[i%2].from.OpenStream(e.ctx)
		e.must(err, "OpenStream")
		b := token()
		e.send(s, b)
		e.expect(s, b)
		e.must(s.Close(), "Close")
	})
}

func visibleAtWrite(e *env) {
	e.eachNewStream(func(s transport.Stream) { e.send(s, []byte("x")) }, func(s transport.Stream) { e.expect(s, []byte("x")) })
}

func visibleAtCloseWrite(e *env) {
	e.eachNewStream(func(s transport.Stream) { e.must(s.CloseWrite(), "CloseWrite") }, e.expectEOF)
}

func visibleAtClose(e *env) {
	e.eachNewStream(func(s transport.Stream) { e.must(s.Close(), "Close") }, e.expectEOF)
}

func visibleAtReset(e *env) {
	e.eachNewStream(
		func(s transport.Stream) { e.must(s.Reset(transport.CodeUser+1), "Reset") },
		func(s transport.Stream) {
			e.wantReset("Read of a stream whose first sign is Reset", e.readFails("Read", s), transport.CodeUser+1, true)
			e.wantReset("Write to a stream whose first sign is Reset", e.writeFails("Write", s), transport.CodeUser+1, true)
		})
}

// eachNewStream has each side that may open a stream, do first on it, and the other accept it and do then.
func (e *env) eachNewStream(first, then func(transport.Stream)) {
	l := e.link()
	sides := [][2]transport.Conn{{l.d, l.a}, {l.a, l.d}}
	if e.traits.OneStream {
		sides = sides[:1]
	}
	for i, side := range sides {
		e.in("opened by the %s side", [...]string{"dialling", "accepting"}[i])
		opened, err := side[0].OpenStream(e.ctx)
		e.must(err, "OpenStream")
		first(opened)
		var accepted transport.Stream
		e.must(e.promptly("AcceptStream", func() (err error) {
			accepted, err = side[1].AcceptStream(e.ctx)
			return err
		}), "AcceptStream")
		e.promptly("the first call of the accepting side", func() error { then(accepted); return nil })
	}
}

func streamContexts(e *env) {
	l := e.link()
	for _, ctx := range []context.Context{e.cancelled(), e.after(2 * moment)} {
		err := e.promptly("AcceptStream", func() error { _, err := l.a.AcceptStream(ctx); return err })
		e.wantContext("AcceptStream whose context has ended", err, ctx)
		if !e.traits.OneStream {
			err = e.promptly("AcceptStream", func() error { _, err := l.d.AcceptStream(ctx); return err })
			e.wantContext("AcceptStream whose context has ended", err, ctx)
		}
	}
	ctx, cancel := context.WithCancel(e.ctx)
	accept := e.start("AcceptStream", func() error { _, err := l.a.AcceptStream(ctx); return err })
	accept.blocked()
	if short := e.cancelled(); !e.traits.OneStream {
		err := e.promptly("AcceptStream beside another", func() error { _, err := l.a.AcceptStream(short); return err })
		e.wantContext("AcceptStream whose context has ended, beside another that waits", err, short)
	}
	cancel()
	accept.wait()
	e.wantContext("AcceptStream whose context ends", accept.err, ctx)
	// OpenStream may succeed, if it need not wait; otherwise the connection must be as it was.
	s, err := l.d.OpenStream(e.cancelled())
	if err == nil {
		e.must(s.Reset(transport.CodeCancelled), "Reset")
		e.promptly("AcceptStream", func() error { _, err := l.a.AcceptStream(e.ctx); return err })
		if e.traits.OneStream {
			return
		}
	} else {
		e.wantContext("OpenStream whose context has ended", err, ctx)
	}
	e.exchange(e.stream(l.d, l.a))
}

func readyStreamWins(e *env) {
	l := e.link()
	s, err := l.d.OpenStream(e.ctx)
	e.must(err, "OpenStream")
	e.send(s, []byte("x"))
	var got transport.Stream
	e.eventually("AcceptStream with an ended context, of a stream that is there: want the stream", func() bool {
		ctx := e.cancelled()
		s, err := l.a.AcceptStream(ctx)
		if err != nil {
			e.wantContext("AcceptStream whose context has ended", err, ctx)
		}
		got = s
		return err == nil
	})
	e.expect(got, []byte("x"))
}

func acceptStreamRace(e *env) {
	const n = 200
	l := e.link()
	opener := e.start("opening", func() error {
		for i := range n {
			s, err := l.d.OpenStream(e.ctx)
			if err != nil {
				return err
			}
			if _, err := s.Write([]byte{byte(i)}); err != nil {
				return err
			}
			if err := s.Close(); err != nil {
				return err
			}
			if i%10 == 0 {
				time.Sleep(time.Millisecond)
			}
		}
		return nil
	})
	for i, last := 0, time.Now(); i < n; {
		ctx, cancel := context.WithTimeout(e.ctx, time.Duration(i%7)*50*time.Microsecond)
		s, err := l.a.AcceptStream(ctx)
		if err != nil {
			e.wantContext("AcceptStream with a short context", err, ctx)
			cancel()
			if e.ctx.Err() != nil || time.Since(last) > e.soon {
				e.failf("AcceptStream with contexts that end as streams come: want all %d streams, got %d", n, i)
			}
			continue
		}
		cancel()
		if e.traits.OneStream {
			return
		}
		b := make([]byte, 1)
		if _, err := io.ReadFull(s, b); err != nil {
			e.failf("Read: want success, got %s", describe(err))
		}
		e.must(s.Close(), "Close")
		i, last = i+1, time.Now()
	}
	e.must(opener.wait(), "opening %d streams", n)
}

// openMany opens streams that the peer does not accept until OpenStream or a first Write runs into its bound, or until
// there are very many.
func (e *env) openMany(c transport.Conn) (open []transport.Stream, limited bool) {
	const bound = 300 * time.Millisecond
	for range 3000 {
		ctx, cancel := context.WithTimeout(e.ctx, bound)
		var s transport.Stream
		err := e.promptly(fmt.Sprintf("OpenStream with a context of %v, with %d streams open", bound, len(open)), func() (err error) {
			s, err = c.OpenStream(ctx)
			return err
		})
		if err != nil {
			e.wantContext(fmt.Sprintf("OpenStream with %d streams open", len(open)), err, ctx)
			cancel()
			return open, true
		}
		cancel()
		open = append(open, s)
		e.must(s.SetWriteDeadline(time.Now().Add(bound)), "SetWriteDeadline")
		err = e.promptly(fmt.Sprintf("Write with a deadline of %v, with %d streams open", bound, len(open)), func() error {
			_, err := s.Write([]byte{prelude})
			return err
		})
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return open, true
		}
		e.must(err, "Write, with %d streams open", len(open))
	}
	return open, false
}

func openUnaccepted(e *env) {
	for _, byAcceptor := range []bool{false, true} {
		l := e.link()
		from, to := l.d, l.a
		if byAcceptor {
			from, to = to, from
		}
		open, limited := e.openMany(from)
		if limited {
			for range 2 {
				ctx := e.after(moment)
				err := e.promptly("OpenStream beyond the limit", func() error {
					s, err := from.OpenStream(ctx)
					if err == nil {
						open = append(open, s)
					}
					return err
				})
				if err != nil {
					e.wantContext("OpenStream beyond the limit", err, ctx)
				}
			}
		}
		// The peer begins to accept and to close: there is place again.
		e.spawn(func() {
			for {
				s, err := to.AcceptStream(e.ctx)
				if err != nil {
					return
				}
				e.spawn(func() { // ends at io.EOF or with the connection
					io.Copy(io.Discard, struct{ io.Reader }{s})
					s.Close()
				})
			}
		})
		for _, s := range open {
			e.must(e.promptly("Close", s.Close), "Close")
		}
		var s transport.Stream
		e.must(e.promptly("OpenStream, after the peer has begun to accept", func() (err error) {
			s, err = from.OpenStream(e.ctx)
			return err
		}), "OpenStream, after the peer has begun to accept")
		e.must(s.CloseWrite(), "CloseWrite")
		e.must(e.promptly("Read", func() error { e.expectEOF(s); return nil }), "Read")
	}
}

func writeUnaccepted(e *env) {
	l := e.link()
	s, err := l.d.OpenStream(e.ctx)
	e.must(err, "OpenStream")
	e.must(s.SetWriteDeadline(time.Now().Add(4*moment)), "SetWriteDeadline")
	if err := e.flood(s, 35).wait(); err != errNotBlocked {
		e.wantTimeout("Write to a stream that nobody accepts, when the deadline passes", err)
	}
}

func openBlockedEnds(e *env) {
	l := e.link()
	_, limited := e.openMany(l.d)
	if !limited {
		e.skipf("3000 streams could be opened without a limit")
	}
	open := e.start("OpenStream beyond the limit", func() error { _, err := l.d.OpenStream(e.ctx); return err })
	open.blocked()
	e.must(e.promptly("CloseWithError", func() error { return l.a.CloseWithError(transport.CodeUser, "enough") }), "CloseWithError")
	e.wantClose("OpenStream, waiting when the peer closes", open.wait(), transport.CodeUser, "enough", true)

	l.redial()
	e.openMany(l.d)
	open = e.start("OpenStream beyond the limit", func() error { _, err := l.d.OpenStream(e.ctx); return err })
	open.blocked()
	e.must(e.promptly("CloseWithError", func() error { return l.d.CloseWithError(transport.CodeUser, "enough") }), "CloseWithError")
	e.wantClose("OpenStream, waiting when we close", open.wait(), transport.CodeUser, "enough", false)
}

func oneStreamOnly(e *env) {
	l := e.link()
	e.wantUnsupported("OpenStream by the accepting side, before there is a stream",
		e.promptly("OpenStream", func() error { _, err := l.a.OpenStream(e.ctx); return err }))
	ctx, cancel := context.WithCancel(e.ctx)
	first := e.start("AcceptStream", func() error { _, err := l.a.AcceptStream(ctx); return err })
	first.blocked()
	e.wantUnsupported("a second AcceptStream, while the first waits", e.promptly("AcceptStream", func() error { _, err := l.a.AcceptStream(e.ctx); return err }))
	cancel()
	e.wantContext("AcceptStream whose context ends", first.wait(), ctx)
	x, y := e.stream(l.d, l.a)
	for range 2 {
		e.wantUnsupported("AcceptStream by the dialling side", e.promptly("AcceptStream", func() error { _, err := l.d.AcceptStream(e.ctx); return err }))
		e.wantUnsupported("a second OpenStream by the dialling side", e.promptly("OpenStream", func() error { _, err := l.d.OpenStream(e.ctx); return err }))
		e.wantUnsupported("OpenStream by the accepting side", e.promptly("OpenStream", func() error { _, err := l.a.OpenStream(e.ctx); return err }))
		e.wantUnsupported("a second AcceptStream", e.promptly("AcceptStream", func() error { _, err := l.a.AcceptStream(e.ctx); return err }))
		e.exchange(x, y)
	}
}

// serveStreams accepts streams on c until it ends; serve handles each, one after the other.
func (e *env) serveStreams(c transport.Conn, serve func(s transport.Stream) error) *call {
	return e.start("serving streams", func() error {
		for {
			s, err := c.AcceptStream(e.ctx)
			if err != nil {
				return nil
			}
			if err := serve(s); err != nil {
				return err
			}
		}
	})
}

func placesComeBack(e *env) {
	l := e.link()
	server := e.serveStreams(l.a, func(s transport.Stream) error {
		if _, err := io.Copy(io.Discard, struct{ io.Reader }{s}); err != nil {
			return err
		}
		return s.Close()
	})
	const warm, all, most = 1000, 5000, 8 << 20
	var before uint64
	for i := range all {
		if i == warm {
			before = heap()
		}
		e.oneOfMany(server, i, func() error {
			s, err := l.d.OpenStream(e.ctx)
			if err != nil {
				return err
			}
			if _, err := s.Write([]byte{1}); err != nil {
				return err
			}
			if err := s.CloseWrite(); err != nil {
				return err
			}
			if n, err := s.Read(make([]byte, 1)); err != io.EOF {
				return fmt.Errorf("Read: want io.EOF, got %d and %w", n, err)
			}
			return s.Close()
		})
	}
	if after := heap(); after > before+most {
		e.errorf("%d streams, each ended before the next, have left %d KiB in memory, want %d at most", all-warm, (after-before)>>10, most>>10)
	}
}

// heap returns how many bytes are in use.
func heap() uint64 {
	runtime.GC()
	runtime.GC() // what the first one found may have had finalizers
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// oneOfMany runs f, the i-th of many, and ends the check if it fails.
func (e *env) oneOfMany(server *call, i int, f func() error) {
	if err := f(); err != nil {
		select {
		case <-server.done:
			e.failf("stream number %d: want success, got %s; and the accepting side: %s", i+1, describe(err), describe(server.err))
		default:
			e.failf("stream number %d, each ended before the next: want success, got %s", i+1, describe(err))
		}
	}
	if e.ctx.Err() != nil {
		e.failf("stopped at stream number %d", i+1)
	}
}

func placesComeBackRude(e *env) {
	for _, end := range []struct {
		name string
		ours func(s transport.Stream) error // how the opener ends the stream
		peer func(s transport.Stream) error // and the acceptor
	}{
		{"reset by the opener", func(s transport.Stream) error { return s.Reset(1) }, func(s transport.Stream) error {
			io.Copy(io.Discard, struct{ io.Reader }{s})
			return s.Close()
		}},
		{"reset by the acceptor", func(s transport.Stream) error {
			io.Copy(io.Discard, struct{ io.Reader }{s})
			return s.Close()
		}, func(s transport.Stream) error { return s.Reset(1) }},
		{"closed by both with bytes unread", transport.Stream.Close, transport.Stream.Close},
	} {
		e.in("%s", end.name)
		l := e.link()
		server := e.serveStreams(l.a, func(s transport.Stream) error {
			if _, err := s.Write(make([]byte, 6000)); err != nil && !isEnd(err) {
				return err
			}
			return end.peer(s)
		})
		for i := range 1500 {
			e.oneOfMany(server, i, func() error {
				s, err := l.d.OpenStream(e.ctx)
				if err != nil {
					return err
				}
				if _, err := s.Write(make([]byte, 6000)); err != nil && !isEnd(err) {
					return err
				}
				return end.ours(s)
			})
		}
		e.must(e.promptly("CloseWithError", func() error { return l.d.CloseWithError(0, "") }), "CloseWithError")
		e.must(server.wait(), "the accepting side")
	}
}

// isEnd reports whether err is that of a stream or connection which somebody ended.
func isEnd(err error) bool {
	var r *transport.ResetError
	var c *transport.CloseError
	return errors.As(err, &r) || errors.As(err, &c) || errors.Is(err, transport.ErrClosed)
}

func streamOutlivesContext(e *env) {
	l := e.link()
	ctx, cancel := context.WithCancel(e.ctx)
	defer cancel()
	x, err := l.d.OpenStream(ctx)
	e.must(err, "OpenStream")
	e.send(x, []byte{prelude})
	var y transport.Stream
	e.must(e.promptly("AcceptStream", func() (err error) {
		y, err = l.a.AcceptStream(ctx)
		return err
	}), "AcceptStream")
	e.expect(y, []byte{prelude})
	cancel()
	e.sleep(moment)
	e.promptly("an exchange after the end of the contexts of OpenStream and AcceptStream", func() error { e.exchange(x, y); return nil })
}
