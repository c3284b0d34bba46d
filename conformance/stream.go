package conformance

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/Blockchain-CN/pheromones/transport"
)

// both sends n bytes each way at once and checks them.
func (e *env) both(x, y transport.Stream, n int64, size int) {
	send := func(s transport.Stream, seed uint64) *call {
		return e.start("writing", func() error {
			sent, err := pour(s, seed, n, size)
			e.must(err, "%d bytes each way: Write, after %d bytes", n, sent)
			e.must(s.CloseWrite(), "CloseWrite")
			return nil
		})
	}
	receive := func(s transport.Stream, seed uint64) *call {
		return e.start("reading", func() error {
			got, err := drain(s, seed, n+1)
			if e.must(err, "%d bytes each way: Read, after %d bytes", n, got); got != n {
				e.failf("%d bytes each way: want all of them, got io.EOF after %d", n, got)
			}
			return nil
		})
	}
	for _, c := range []*call{send(x, 1), send(y, 2), receive(y, 1), receive(x, 2)} {
		c.within(time.Hour)
	}
}

func bytesInOrder(e *env) {
	e.eachPipe(func(p *pipe) { e.both(p.x, p.y, 2<<20, 0) })
}

func smallReads(e *env) {
	e.eachPipe(func(p *pipe) {
		want := make([]byte, 3000)
		source(3).Read(want)
		w := e.start("Write", func() error { _, err := p.x.Write(want); return err })
		for i := range want {
			b := []byte{0, 0xee}
			if n, err := p.y.Read(b[:1]); n != 1 || err != nil || b[0] != want[i] || b[1] != 0xee {
				e.failf("Read of one byte, number %d: want %#x, got %d, %#x and %s", i, want[i], n, b[0], describe(err))
			}
		}
		e.must(w.wait(), "Write")
	})
}

func largeWrite(e *env) {
	e.eachPipe(func(p *pipe) {
		want := make([]byte, 8<<20)
		source(4).Read(want)
		kept := bytes.Clone(want)
		w := e.start("Write", func() error {
			n, err := p.x.Write(kept)
			if !bytes.Equal(kept, want) {
				return errors.New("Write changed the slice it was given")
			}
			clear(kept) // the slice is ours again: what is under way must not change
			if err == nil && n != len(want) {
				err = fmt.Errorf("wrote %d bytes of %d and returned no error", n, len(want))
			}
			return err
		})
		got := make([]byte, len(want))
		_, err := io.ReadFull(p.y, got)
		e.must(err, "reading 8 MiB")
		e.must(w.wait(), "one Write of 8 MiB")
		if !bytes.Equal(got, want) {
			e.failf("one Write of 8 MiB: the bytes arrived changed")
		}
	})
}

func closeWriteEOF(e *env) {
	e.eachPipe(func(p *pipe) {
		const n = 300 << 10
		pending := e.start("Read, pending when the peer calls CloseWrite", func() error {
			got, err := drain(p.y, 5, n+1)
			if err == nil && got != n {
				err = fmt.Errorf("io.EOF after %d bytes of %d", got, n)
			}
			return err
		})
		_, err := pour(p.x, 5, n, 0)
		e.must(err, "Write")
		e.must(e.promptly("CloseWrite", p.x.CloseWrite), "CloseWrite")
		e.must(pending.wait(), "reading what was written before CloseWrite, then io.EOF")
		e.must(e.promptly("reading again", func() error { e.expectEOF(p.y); return nil }), "reading again")
		// The other direction.
		w := e.start("Write, in the direction that is still open", func() error { _, err := pour(p.y, 6, n, 0); return err })
		r := e.start("Read, in the direction that is still open", func() error {
			got, err := drain(p.x, 6, n)
			if err == nil && got != n {
				err = fmt.Errorf("io.EOF after %d bytes of %d", got, n)
			}
			return err
		})
		e.must(w.wait(), "writing after the peer's CloseWrite")
		e.must(r.wait(), "reading after our CloseWrite")
		e.must(e.promptly("CloseWrite", p.y.CloseWrite), "CloseWrite of the second side")
		e.must(e.promptly("Read after the second CloseWrite", func() error { e.expectEOF(p.x); return nil }), "Read")
	})
}

func closeWriteWakes(e *env) {
	e.eachPipe(func(p *pipe) {
		read := e.start("Read", func() error { _, err := p.y.Read(make([]byte, 1)); return err })
		read.blocked()
		e.must(e.promptly("CloseWrite", p.x.CloseWrite), "CloseWrite")
		if err := read.wait(); err != io.EOF {
			e.errorf("Read, pending when the peer calls CloseWrite: want io.EOF, got %s", describe(err))
		}
		e.send(p.y, []byte("back"))
		e.expect(p.x, []byte("back"))
	})
}

func closeWriteBlocked(e *env) {
	e.eachPipe(func(p *pipe) {
		f := e.flood(p.x, 61)
		f.stall()
		e.must(e.promptly("CloseWrite under a Write that waits", p.x.CloseWrite), "CloseWrite")
		var got int64
		e.must(e.promptly("reading after the peer's CloseWrite", func() (err error) {
			got, err = drain(p.y, 61, 3*maxUnderWay)
			return err
		}), "reading after the peer's CloseWrite")
		f.wait()
		if sent := f.n.Load(); f.err == errNotBlocked || got != sent {
			e.errorf("CloseWrite under a Write that waits: want Write to end and the %d bytes that it took to arrive, got %s and %d bytes", sent,
				describe(f.err), got)
		}
	})
}

func writeAfterCloseWrite(e *env) {
	e.eachPipe(func(p *pipe) {
		e.must(e.promptly("CloseWrite", p.x.CloseWrite), "CloseWrite")
		for range 2 {
			e.wantClosed("Write after CloseWrite", e.promptly("Write", func() error { _, err := p.x.Write([]byte("late")); return err }))
			e.must(e.promptly("CloseWrite", p.x.CloseWrite), "CloseWrite again")
		}
		e.must(e.promptly("Read", func() error { e.expectEOF(p.y); return nil }), "Read")
	})
}

func noFalseEOF(e *env) {
	for _, byTransport := range []bool{false, true} {
		l := e.link()
		e.eachOf(l, func(p *pipe) {
			if byTransport {
				e.in("Transport.Close")
			} else {
				e.in("CloseWithError(CodeNone)")
			}
			e.send(p.x, []byte("x"))
			e.expect(p.y, []byte("x"))
			read := e.start("Read", func() error { _, err := p.y.Read(make([]byte, 1)); return err })
			read.blocked()
			if byTransport {
				e.must(e.promptly("Transport.Close", l.dialer.Close), "Transport.Close")
				e.wantClose("Read, pending when the peer's transport is closed", read.wait(), transport.CodeShutdown, closeReason(read.err), true)
			} else {
				e.must(e.promptly("CloseWithError", func() error { return p.xc.CloseWithError(transport.CodeNone, "") }), "CloseWithError")
				e.wantClose("Read, pending when the peer closes the connection without fault", read.wait(), transport.CodeNone, "", true)
			}
			if _, err := p.y.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
				e.errorf("Read after the end of the connection: want its error, got %s", describe(err))
			}
		})
	}
}

// closeReason returns the reason in err, for closes whose reason is the transport's choice.
func closeReason(err error) string {
	var c *transport.CloseError
	if errors.As(err, &c) {
		return c.Reason
	}
	return ""
}

// eachOf calls f with the stream of the link.
func (e *env) eachOf(l *link, f func(p *pipe)) {
	x, y := e.stream(l.d, l.a)
	f(&pipe{x, y, l.d, l.a})
}

func closeDelivers(e *env) {
	e.eachPipe(func(p *pipe) {
		const n = 48 << 10
		w := e.start("Write", func() error { _, err := pour(p.x, 7, n, 0); return err })
		e.must(w.wait(), "Write of 48 KiB")
		e.must(e.promptly("Close", p.x.Close), "Close")
		e.sleep(moment)
		e.drained(p.y, 7, n, "reading what was written just before Close")
		e.must(e.promptly("Close", p.y.Close), "Close")
	})
}

// drained reads n bytes and the end after them.
func (e *env) drained(s transport.Stream, seed uint64, n int64, what string) {
	var got int64
	err := e.promptly(what, func() (err error) {
		got, err = drain(s, seed, n+1)
		return err
	})
	if err != nil || got != n {
		e.failf("%s: want %d bytes and io.EOF, got %d and %s", what, n, got, describe(err))
	}
	e.expectEOF(s)
}

func closeDeliversAll(e *env) {
	e.eachPipe(func(p *pipe) {
		// As much as fits, until nothing more does.
		e.must(p.x.SetWriteDeadline(time.Now().Add(300*time.Millisecond)), "SetWriteDeadline")
		var n int64
		err := e.promptly("Write, with a deadline", func() (err error) {
			n, err = pour(p.x, 8, 2*maxUnderWay, 32<<10)
			return err
		})
		e.wantTimeout("Write while nobody reads", err)
		e.must(e.promptly("Close", p.x.Close), "Close")
		e.drained(p.y, 8, n, "reading what Write took before Close")
	})
}

func closeWithUnread(e *env) {
	e.eachPipe(func(p *pipe) {
		e.send(p.y, make([]byte, 20<<10)) // which x never reads
		e.sleep(moment)
		e.send(p.x, []byte("farewell"))
		e.must(e.promptly("Close", p.x.Close), "Close with unread bytes")
		err := e.promptly("reading what was written before Close", func() error { e.expect(p.y, []byte("farewell")); return nil })
		e.must(err, "Read")
		e.must(e.promptly("Read", func() error { e.expectEOF(p.y); return nil }), "Read")
	})
}

func closeBoth(e *env) {
	e.eachPipe(func(p *pipe) {
		for _, s := range []transport.Stream{p.x, p.y} {
			e.send(s, []byte("farewell"))
		}
		e.expect(p.y, []byte("fare"))
		e.must(e.promptly("Close", p.x.Close), "Close")
		e.expect(p.y, []byte("well"))
		e.must(e.promptly("Read", func() error { e.expectEOF(p.y); return nil }), "Read")
		e.must(e.promptly("Close", p.y.Close), "Close")
	})
}

func closeLocally(e *env) {
	e.eachPipeN(2, func(ps []*pipe) {
		read := e.start("Read", func() error { _, err := ps[0].x.Read(make([]byte, 1)); return err })
		write := e.flood(ps[1].x, 9)
		read.blocked()
		write.stall()
		for _, p := range ps {
			var all []*call
			for range 4 {
				all = append(all, e.start("Close", p.x.Close))
			}
			for _, c := range all {
				e.must(c.wait(), "Close, four times at once")
			}
		}
		e.wantClosed("Read, under way at Close", read.wait())
		e.wantClosed("Write, under way at Close", write.wait())
		for _, p := range ps {
			e.wantLocallyClosed("Close", p.x)
		}
	})
}

func (e *env) wantLocallyClosed(after string, s transport.Stream) {
	e.wantClosed("Read after "+after, e.promptly("Read", func() error { _, err := s.Read(make([]byte, 1)); return err }))
	e.wantClosed("Write after "+after, e.promptly("Write", func() error { _, err := s.Write([]byte("late")); return err }))
	e.must(e.promptly("Close", s.Close), "Close again")
	e.must(e.promptly("CloseWrite", s.CloseWrite), "CloseWrite after Close")
}

// writeFails writes until that fails, which must be soon, and returns the error.
func (e *env) writeFails(what string, s transport.Stream) error {
	e.must(s.SetWriteDeadline(time.Now().Add(e.soon/2)), "SetWriteDeadline")
	var err error
	e.promptly(what, func() error {
		for end := time.Now().Add(e.soon / 2); err == nil && time.Now().Before(end); e.sleep(time.Millisecond) {
			_, err = s.Write([]byte("more"))
		}
		return nil
	})
	return err
}

// readFails reads until that fails, which must be soon, and returns the error.
func (e *env) readFails(what string, s transport.Stream) error {
	return e.promptly(what, func() error {
		b := make([]byte, 32<<10)
		for {
			if _, err := s.Read(b); err != nil {
				return err
			}
		}
	})
}

func writeAfterPeerClose(e *env) {
	e.eachPipe(func(p *pipe) {
		e.must(e.promptly("Close", p.x.Close), "Close")
		err := e.writeFails("Write after the peer's Close", p.y)
		e.wantReset("Write after the peer's Close", err, transport.CodeClosed, true)
		err = e.promptly("Write", func() error { _, err := p.y.Write([]byte("more")); return err })
		e.wantReset("Write after the peer's Close, again", err, transport.CodeClosed, true)
		if err := e.readFails("Read after the peer's Close", p.y); err != io.EOF {
			e.errorf("Read after the peer's Close: want io.EOF, got %s", describe(err))
		}
	})
}

func blockedWriteAtPeerClose(e *env) {
	for _, both := range []bool{false, true} {
		e.eachPipe(func(p *pipe) {
			e.in("%s, with our write blocked too: %v", e.where, both)
			w := e.flood(p.y, 10)
			w.stall()
			if both { // what the peer is told must not wait behind it
				e.flood(p.x, 16).stall()
			}
			e.must(e.promptly("Close", p.x.Close), "Close")
			e.wantReset("Write, blocked when the peer calls Close", w.wait(), transport.CodeClosed, true)
		})
	}
}

// resetSituations are the states in which a Reset may find a stream; each returns calls of y that are under way.
func resetSituations() []struct {
	name    string
	arrange func(e *env, p *pipe) (read, write *call)
	eof     bool // y may read io.EOF: x's direction had ended
	closed  bool // y's writes may be net.ErrClosed: y's direction had ended
} {
	type situation = struct {
		name    string
		arrange func(e *env, p *pipe) (read, write *call)
		eof     bool
		closed  bool
	}
	return []situation{
		{name: "idle", arrange: func(*env, *pipe) (*call, *call) { return nil, nil }},
		{name: "the peer is reading", arrange: func(e *env, p *pipe) (*call, *call) {
			read := e.start("Read", func() error { _, err := p.y.Read(make([]byte, 1)); return err })
			read.blocked()
			return read, nil
		}},
		{name: "the peer's write is blocked", arrange: func(e *env, p *pipe) (*call, *call) {
			w := e.flood(p.y, 11)
			w.stall()
			return nil, w.call
		}},
		{name: "the peer has unread data", arrange: func(e *env, p *pipe) (*call, *call) {
			e.send(p.x, make([]byte, 20<<10))
			e.sleep(moment)
			return nil, nil
		}},
		{name: "both have unread data", arrange: func(e *env, p *pipe) (*call, *call) {
			e.send(p.x, make([]byte, 20<<10))
			e.send(p.y, make([]byte, 20<<10))
			e.sleep(moment)
			return nil, nil
		}},
		{name: "our write is blocked", arrange: func(e *env, p *pipe) (*call, *call) {
			w := e.flood(p.x, 12)
			w.stall()
			return nil, nil
		}},
		{name: "both sides' writes are blocked", arrange: func(e *env, p *pipe) (*call, *call) {
			v, w := e.flood(p.x, 17), e.flood(p.y, 18)
			v.stall()
			w.stall()
			return nil, w.call
		}},
		{name: "after our CloseWrite", eof: true, arrange: func(e *env, p *pipe) (*call, *call) {
			e.must(p.x.CloseWrite(), "CloseWrite")
			return nil, nil
		}},
		{name: "after our CloseWrite, which the peer has read", eof: true, arrange: func(e *env, p *pipe) (*call, *call) {
			e.must(p.x.CloseWrite(), "CloseWrite")
			e.promptly("Read", func() error { e.expectEOF(p.y); return nil })
			w := e.flood(p.y, 13)
			w.stall()
			return nil, w.call
		}},
		{name: "after the peer's CloseWrite", closed: true, arrange: func(e *env, p *pipe) (*call, *call) {
			e.must(p.y.CloseWrite(), "CloseWrite")
			read := e.start("Read", func() error { _, err := p.y.Read(make([]byte, 1)); return err })
			read.blocked()
			return read, nil
		}},
		{name: "after the peer's CloseWrite, which we have read", closed: true, arrange: func(e *env, p *pipe) (*call, *call) {
			e.must(p.y.CloseWrite(), "CloseWrite")
			e.promptly("Read", func() error { e.expectEOF(p.x); return nil })
			read := e.start("Read", func() error { _, err := p.y.Read(make([]byte, 1)); return err })
			read.blocked()
			return read, nil
		}},
	}
}

func resetRemote(e *env) {
	for _, s := range resetSituations() {
		e.eachPipe(func(p *pipe) {
			e.in("%s, %s", e.where, s.name)
			const code = transport.CodeUser + 7
			read, write := s.arrange(e, p)
			e.must(e.promptly("Reset", func() error { return p.x.Reset(code) }), "Reset")
			if read != nil {
				e.wantReset("Read, under way at the peer's Reset", read.wait(), code, true)
			}
			if write != nil {
				e.wantReset("Write, under way at the peer's Reset", write.wait(), code, true)
			}
			for range 2 {
				if err := e.readFails("Read after the peer's Reset", p.y); !s.eof || err != io.EOF {
					e.wantReset("Read after the peer's Reset", err, code, true)
				}
				err := e.writeFails("Write after the peer's Reset", p.y)
				if !s.closed || !errors.Is(err, net.ErrClosed) {
					e.wantReset("Write after the peer's Reset", err, code, true)
				}
			}
			e.must(e.promptly("Close", p.y.Close), "Close after the peer's Reset")
		})
	}
}

func resetLocal(e *env) {
	e.eachPipeN(2, func(ps []*pipe) {
		const code = transport.CodeUser + 8
		read := e.start("Read", func() error { _, err := ps[0].x.Read(make([]byte, 1)); return err })
		write := e.flood(ps[1].x, 14)
		read.blocked()
		write.stall()
		for _, p := range ps {
			e.must(e.promptly("Reset", func() error { return p.x.Reset(code) }), "Reset")
		}
		e.wantReset("Read, under way at Reset", read.wait(), code, false)
		e.wantReset("Write, under way at Reset", write.wait(), code, false)
		for _, p := range ps {
			for range 2 {
				e.wantReset("Read after Reset", e.promptly("Read", func() error { _, err := p.x.Read(make([]byte, 1)); return err }), code, false)
				e.wantReset("Write after Reset", e.promptly("Write", func() error { _, err := p.x.Write([]byte("x")); return err }), code, false)
				e.must(e.promptly("Reset", func() error { return p.x.Reset(code + 1) }), "Reset again")
			}
			e.must(e.promptly("Close", p.x.Close), "Close after Reset")
			e.wantReset("Read by the peer", e.readFails("Read", p.y), code, true)
		}
	})
}

func resetUnread(e *env) {
	e.eachPipe(func(p *pipe) {
		e.send(p.y, make([]byte, 20<<10))
		e.expect(p.x, make([]byte, 100)) // the rest has come, or comes
		e.must(e.promptly("Reset", func() error { return p.x.Reset(3) }), "Reset")
		err := e.promptly("Read", func() error { _, err := p.x.Read(make([]byte, 1)); return err })
		e.wantReset("Read after Reset, with bytes unread", err, 3, false)
	})
}

func resetAfterClose(e *env) {
	e.eachPipe(func(p *pipe) {
		e.send(p.x, []byte("farewell"))
		e.must(e.promptly("Close", p.x.Close), "Close")
		e.must(e.promptly("Reset", func() error { return p.x.Reset(3) }), "Reset after Close")
		e.wantLocallyClosed("Close and Reset", p.x)
		e.must(e.promptly("Read", func() error {
			e.expect(p.y, []byte("farewell"))
			e.expectEOF(p.y)
			return nil
		}), "Read")
	})
}

func resetCodes(e *env) {
	codes := []transport.Code{0, 1, 2, transport.CodeClosed, 12, 63, 64, 127, 128, 254, 255, transport.CodeUser, 16383, 16384, 65535, 65536,
		1<<30 - 1, 1 << 30, 1<<31 - 1, 1 << 31, 1<<32 - 1}
	l := e.link()
	for i, code := range codes {
		if i > 0 && e.traits.OneStream {
			l.redial()
		}
		x, y := e.stream(l.d, l.a)
		if i%2 == 1 {
			x, y = y, x
		}
		e.must(e.promptly("Reset", func() error { return x.Reset(code) }), "Reset(%d)", uint32(code))
		what := fmt.Sprintf("Read after the peer's Reset(%d)", uint32(code))
		e.wantReset(what, e.readFails(what, y), code, true)
		what = fmt.Sprintf("Write after the peer's Reset(%d)", uint32(code))
		e.wantReset(what, e.writeFails(what, y), code, true)
	}
}

func emptyWrites(e *env) {
	e.eachPipe(func(p *pipe) {
		for _, b := range [][]byte{nil, {}} {
			if n, err := p.x.Write(b); n != 0 || err != nil {
				e.errorf("Write of no bytes: want 0 and no error, got %d and %s", n, describe(err))
			}
		}
		read := e.start("Read, after the peer's Write of no bytes", func() error { _, err := p.y.Read(make([]byte, 1)); return err })
		read.blocked()
		e.send(p.x, []byte("abc"))
		e.must(read.wait(), "Read")
		if n, err := p.y.Read(nil); n != 0 || err != nil {
			e.errorf("Read into no bytes, with bytes waiting: want 0 and no error, got %d and %s", n, describe(err))
		}
		e.expect(p.y, []byte("bc"))
	})
}

func concurrentWrites(e *env) {
	e.eachPipe(func(p *pipe) {
		const writers, records = 8, 12
		var all sync.WaitGroup
		for w := range writers {
			all.Add(1)
			e.spawn(func() {
				defer all.Done()
				for i := range records {
					n := 1 + (w*7919+i*104729)%(40<<10)
					if i == records-1 {
						n = 400 << 10 // larger than many a window
					}
					b := bytes.Repeat([]byte{byte(w)}, 9+n)
					b[0] = 'R'
					binary.BigEndian.PutUint32(b[1:], uint32(w))
					binary.BigEndian.PutUint32(b[5:], uint32(n))
					if m, err := p.x.Write(b); err != nil || m != len(b) {
						e.failf("Write of %d bytes: want success, got %d and %s", len(b), m, describe(err))
					}
				}
			})
		}
		for range writers * records {
			var head [9]byte
			if _, err := io.ReadFull(p.y, head[:]); err != nil {
				e.failf("Read: want success, got %s", describe(err))
			}
			w, n := binary.BigEndian.Uint32(head[1:]), binary.BigEndian.Uint32(head[5:])
			if head[0] != 'R' || w >= writers || n > 1<<20 {
				e.failf("want the beginning of a record, got %x: the bytes of concurrent Writes are mixed", head)
			}
			body := make([]byte, n)
			if _, err := io.ReadFull(p.y, body); err != nil {
				e.failf("Read: want success, got %s", describe(err))
			}
			if bytes.Count(body, []byte{byte(w)}) != len(body) {
				e.failf("a Write of %d bytes by one goroutine arrived mixed with those of others", n)
			}
		}
		all.Wait()
	})
}

func streamAddrs(e *env) {
	e.eachPipe(func(p *pipe) {
		for _, s := range []struct {
			transport.Stream
			transport.Conn
		}{{p.x, p.xc}, {p.y, p.yc}} {
			i := s.Conn.Info()
			if got, ok := s.Stream.LocalAddr().(transport.Addr); !ok || got != i.LocalAddr {
				e.errorf("LocalAddr: want %T %v, got %T %v", i.LocalAddr, i.LocalAddr, s.Stream.LocalAddr(), s.Stream.LocalAddr())
			}
			if got, ok := s.Stream.RemoteAddr().(transport.Addr); !ok || got != i.RemoteAddr {
				e.errorf("RemoteAddr: want %T %v, got %T %v", i.RemoteAddr, i.RemoteAddr, s.Stream.RemoteAddr(), s.Stream.RemoteAddr())
			}
		}
	})
}

func sixtyFourMiB(e *env) {
	p := e.pipe()
	e.both(p.x, p.y, 64<<20, 64<<10)
}

func thousandStreams(e *env) {
	const n = 1000
	l := &link{env: e, dialer: e.node(), acceptor: e.node()}
	l.ln = e.listen(l.acceptor)
	if !e.traits.OneStream {
		l.redial()
	}
	// The accepting side sends back what comes, on every stream for itself.
	var accepted atomic.Int64
	echoes := e.start("accepting", func() error {
		for range n {
			var c transport.Conn
			var err error
			if c = l.a; e.traits.OneStream {
				if c, err = l.ln.Accept(e.ctx); err != nil {
					return err
				}
			}
			if e.traits.OneStream {
				accepted.Add(1)
				e.spawn(func() { e.echo(c) })
				continue
			}
			s, err := c.AcceptStream(e.ctx)
			if err != nil {
				return err
			}
			accepted.Add(1)
			e.spawn(func() {
				io.Copy(struct{ io.Writer }{s}, struct{ io.Reader }{s})
				s.Close()
			})
		}
		return nil
	})
	streams := make([]transport.Stream, n)
	e.each(n, 64, func(i int) {
		c := l.d
		if e.traits.OneStream {
			var err error
			c, err = l.dialer.Dial(e.ctx, l.ln.Addr())
			e.must(err, "Dial, number %d", i)
		}
		s, err := c.OpenStream(e.ctx)
		e.must(err, "OpenStream, number %d", i)
		first := make([]byte, 100)
		source(uint64(i)).Read(first)
		e.send(s, first)
		streams[i] = s
	})
	e.progress(echoes, &accepted, "streams accepted, of a thousand that were opened and written to")
	e.must(echoes.err, "accepting %d streams", n)
	// All are open now. Each reads back what it has sent, and then moves some more.
	e.each(n, n, func(i int) {
		s, rest := streams[i], int64(16<<10)
		back := e.start("Read", func() error {
			got, err := drain(s, uint64(i), 100+rest+1)
			if err == nil && got != 100+rest {
				err = fmt.Errorf("io.EOF after %d bytes of %d", got, 100+rest)
			}
			return err
		})
		b := make([]byte, 100+rest)
		source(uint64(i)).Read(b)
		e.send(s, b[100:])
		e.must(s.CloseWrite(), "CloseWrite")
		e.must(back.within(time.Hour), "stream %d, reading back its own bytes", i)
		e.must(s.Close(), "Close")
	})
}
