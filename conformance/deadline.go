package conformance

import (
	"errors"
	"io"
	"os"
	"time"

	"github.com/Blockchain-CN/pheromones/transport"
)

// past is a deadline that has passed.
var past = time.Unix(1, 0)

func deadlinePast(e *env) {
	e.eachPipe(func(p *pipe) {
		e.send(p.y, []byte("abc"))
		e.expect(p.x, []byte("a")) // now bytes are waiting, or come
		for _, set := range []struct {
			name        string
			f           func(time.Time) error
			read, write bool
		}{
			{"SetReadDeadline", p.x.SetReadDeadline, true, false},
			{"SetWriteDeadline", p.x.SetWriteDeadline, false, true},
			{"SetDeadline", p.x.SetDeadline, true, true},
		} {
			for _, at := range []func() time.Time{func() time.Time { return past }, time.Now} {
				e.must(set.f(time.Time{}), "%s to never", set.name)
				e.must(set.f(at()), "%s in the past", set.name)
				if set.read {
					err := e.promptly("Read", func() error { _, err := p.x.Read(make([]byte, 1)); return err })
					e.wantTimeout("Read after "+set.name+" in the past", err)
				}
				if set.write {
					err := e.promptly("Write", func() error { _, err := p.x.Write([]byte("lost")); return err })
					e.wantTimeout("Write after "+set.name+" in the past", err)
				}
			}
			if !set.read {
				e.send(p.y, []byte("r"))
				e.expect(p.x, []byte("b"))
				e.expect(p.x, []byte("cr"))
			}
			if !set.write {
				e.send(p.x, []byte("w"))
				e.expect(p.y, []byte("w"))
			}
			e.must(set.f(time.Time{}), "%s to never", set.name)
			if set.read {
				e.send(p.y, []byte("x"))
			}
			if set.name == "SetReadDeadline" {
				// Nothing was lost: "bc" is still to come, and "x" after it.
				e.promptly("Read", func() error { e.expect(p.x, []byte("bcx")); return nil })
				e.send(p.y, []byte("bc"))
			}
			if set.name == "SetDeadline" {
				e.promptly("Read", func() error { e.expect(p.x, []byte("x")); return nil })
			}
			e.send(p.x, []byte("again"))
			e.promptly("Read", func() error { e.expect(p.y, []byte("again")); return nil })
		}
	})
}

func deadlineEnds(e *env) {
	e.eachPipeN(2, func(ps []*pipe) {
		x := ps[0].x
		e.must(x.SetReadDeadline(time.Now().Add(2*moment)), "SetReadDeadline")
		err := e.promptly("Read", func() error { _, err := x.Read(make([]byte, 1)); return err })
		e.wantTimeout("Read, waiting when the deadline passes", err)
		e.promptly("40 Reads with a deadline of 5 ms each", func() error { // which a coarse clock makes long
			for range 40 {
				e.must(x.SetReadDeadline(time.Now().Add(5*time.Millisecond)), "SetReadDeadline")
				_, err := x.Read(make([]byte, 1))
				e.wantTimeout("Read, waiting when the deadline passes", err)
			}
			return nil
		})
		w := ps[1].x
		e.must(w.SetWriteDeadline(time.Now().Add(4*moment)), "SetWriteDeadline")
		err = e.flood(w, 20).wait()
		if err == errNotBlocked {
			e.errorf("with nobody reading: want Write to block and the deadline to end it, took %d bytes", int64(2*maxUnderWay))
		} else {
			e.wantTimeout("Write, waiting when the deadline passes", err)
		}
		e.wantTimeout("Read after the deadline", e.promptly("Read", func() error { _, err := x.Read(make([]byte, 1)); return err }))
	})
}

func deadlineMovedEarlier(e *env) {
	e.eachPipeN(2, func(ps []*pipe) {
		for _, first := range []time.Time{{}, time.Now().Add(time.Hour)} {
			x := ps[0].x
			e.must(x.SetReadDeadline(first), "SetReadDeadline")
			read := e.start("Read, whose deadline is moved into the past", func() error { _, err := x.Read(make([]byte, 1)); return err })
			read.blocked()
			e.must(x.SetReadDeadline(past), "SetReadDeadline in the past")
			e.wantTimeout(read.name, read.wait())
			w := ps[1].x
			e.must(w.SetWriteDeadline(first), "SetWriteDeadline")
			flood := e.flood(w, 21)
			flood.stall()
			e.must(w.SetWriteDeadline(past), "SetWriteDeadline in the past")
			e.wantTimeout("Write, whose deadline is moved into the past", flood.wait())
		}
	})
}

func deadlineMovedLater(e *env) {
	const first = 800 * time.Millisecond
	type waiting struct {
		kind string
		p    *pipe
		read *call
	}
	var all []waiting // at once: it takes long
	l := e.pipeLink()
	for _, k := range e.pipeKinds() {
		e.in("%s", k.name)
		p := e.pipes(l, k, 1)[0]
		began := time.Now()
		e.must(p.x.SetReadDeadline(began.Add(first)), "SetReadDeadline")
		read := e.start("Read", func() error { _, err := p.x.Read(make([]byte, 1)); return err })
		read.blocked()
		e.must(p.x.SetReadDeadline(time.Time{}), "SetReadDeadline to never")
		if time.Since(began) < first/2 { // else the machine is too busy for this to prove anything
			all = append(all, waiting{k.name, p, read})
		}
	}
	e.sleep(first + 2*moment)
	for _, w := range all {
		e.in("%s", w.kind)
		select {
		case <-w.read.done:
			e.errorf("Read, whose deadline was taken away while it waited: want it to wait on, got %s", describe(w.read.err))
		default:
		}
		e.send(w.p.y, []byte("x"))
		if err := w.read.wait(); err != nil {
			e.errorf("Read, whose deadline was taken away while it waited: want success, got %s", describe(err))
		}
	}
}

func deadlineOneWay(e *env) {
	e.eachPipeN(2, func(ps []*pipe) {
		read := e.start("Read, with no deadline of its own", func() error { _, err := ps[0].x.Read(make([]byte, 1)); return err })
		write := e.flood(ps[1].x, 22)
		e.must(ps[0].x.SetWriteDeadline(past), "SetWriteDeadline")
		write.stall()
		e.must(ps[1].x.SetReadDeadline(past), "SetReadDeadline")
		read.blocked()
		write.blocked()
		e.send(ps[0].y, []byte("x"))
		e.must(read.wait(), "Read while the write deadline has passed")
	})
}

func readsWithTimeouts(e *env) {
	e.eachPipe(func(p *pipe) {
		const n = 256 << 10
		w := e.start("Write", func() error {
			src, b := source(23), make([]byte, 1<<10)
			for sent := 0; sent < n; sent += len(b) {
				src.Read(b)
				if _, err := p.y.Write(b); err != nil {
					return err
				}
				if sent%(8<<10) == 0 {
					time.Sleep(time.Millisecond) // so that reads meet both bytes and nothing
				}
			}
			return p.y.CloseWrite()
		})
		c, b, timeouts := newCheck(23), make([]byte, 700), 0
		for {
			e.must(p.x.SetReadDeadline(time.Now().Add(200*time.Microsecond)), "SetReadDeadline")
			m, err := p.x.Read(b)
			if _, changed := c.Write(b[:m]); changed != nil {
				e.failf("reading with %d time-outs in between: %v", timeouts, changed)
			}
			if err == io.EOF {
				break
			}
			if errors.Is(err, os.ErrDeadlineExceeded) {
				timeouts++
			} else {
				e.must(err, "Read with a deadline")
			}
			if e.ctx.Err() != nil {
				return
			}
		}
		if e.must(w.wait(), "Write"); c.n != n {
			e.errorf("reading with %d time-outs in between: want %d bytes, got %d", timeouts, n, c.n)
		}
	})
}

func writesWithTimeouts(e *env) {
	e.eachPipe(func(p *pipe) {
		const n = 4 << 20
		var got int64
		r := e.start("Read", func() (err error) {
			time.Sleep(2 * moment) // let the writer run into its deadline
			got, err = drain(&slowReader{r: p.y}, 24, n+1)
			e.must(err, "reading what was written with time-outs in between, after %d bytes", got)
			return nil
		})
		src, b := source(24), make([]byte, 256<<10)
		timeouts := 0
		for sent := 0; sent < n; sent += len(b) {
			src.Read(b)
			for rest := b; len(rest) > 0; {
				e.must(p.x.SetWriteDeadline(time.Now().Add(500*time.Microsecond)), "SetWriteDeadline")
				m, err := p.x.Write(rest)
				if m < 0 || m > len(rest) || err == nil && m < len(rest) {
					e.failf("Write of %d bytes with a deadline: got %d and %s", len(rest), m, describe(err))
				}
				if rest = rest[m:]; errors.Is(err, os.ErrDeadlineExceeded) {
					timeouts++
				} else {
					e.must(err, "Write with a deadline")
				}
				if e.ctx.Err() != nil {
					return
				}
			}
		}
		e.must(p.x.SetWriteDeadline(time.Time{}), "SetWriteDeadline")
		e.must(p.x.CloseWrite(), "CloseWrite")
		r.within(time.Hour)
		if got != n {
			e.errorf("writing with %d time-outs in between: want %d bytes to arrive, got %d", timeouts, n, got)
		}
	})
}

// slowReader now and then rests for a moment.
type slowReader struct {
	r io.Reader
	n int
}

func (s *slowReader) Read(b []byte) (int, error) {
	n, err := s.r.Read(b)
	if s.n += n; s.n > 512<<10 {
		s.n = 0
		time.Sleep(5 * time.Millisecond)
	}
	return n, err
}

func deadlineThenEnd(e *env) {
	e.eachPipe(func(p *pipe) {
		e.must(p.x.SetDeadline(past), "SetDeadline")
		e.wantTimeout("Read", e.promptly("Read", func() error { _, err := p.x.Read(make([]byte, 1)); return err }))
		e.send(p.y, []byte("late"))
		e.must(p.y.CloseWrite(), "CloseWrite")
		e.must(p.x.SetDeadline(time.Now().Add(time.Hour)), "SetDeadline")
		e.promptly("Read", func() error {
			e.expect(p.x, []byte("late"))
			e.expectEOF(p.x)
			return nil
		})
		e.must(e.promptly("Reset", func() error { return p.x.Reset(transport.CodeCancelled) }), "Reset")
	})
}
