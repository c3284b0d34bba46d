package conformance

import (
	"bytes"
	"context"
	"encoding/binary"
	"time"

	"github.com/Blockchain-CN/pheromones/transport"
)

// datagrams returns the two ends of a new link as DatagramConns, or skips the rule.
func (e *env) datagrams() (*link, transport.DatagramConn, transport.DatagramConn) {
	l := e.link()
	d, ok := l.d.(transport.DatagramConn)
	a, ok2 := l.a.(transport.DatagramConn)
	if ok != ok2 {
		e.failf("want both ends of a connection to carry datagrams or neither, got %v on the dialling side and %v on the other", ok, ok2)
	}
	if !ok {
		e.skipf("its connections carry no datagrams")
	}
	return l, d, a
}

// parcel is the i-th datagram of a rule: its number, and bytes that follow from it.
func parcel(i, size int) []byte {
	b := make([]byte, size)
	source(uint64(i)).Read(b)
	binary.BigEndian.PutUint32(b, uint32(i))
	return b
}

func datagramsWhole(e *env) {
	const enough = 40
	_, d, a := e.datagrams()
	for _, ends := range [][2]transport.DatagramConn{{d, a}, {a, d}} {
		ctx, cancel := context.WithCancel(e.ctx)
		size := func(i int) int { return 4 + i*37%900 }
		sent := e.start("SendDatagram", func() error {
			for i := 0; ctx.Err() == nil; i++ {
				b := parcel(i, size(i))
				if err := ends[0].SendDatagram(b); err != nil {
					return err
				}
				clear(b) // the slice is ours
				time.Sleep(200 * time.Microsecond)
			}
			return nil
		})
		seen := make(map[uint32]bool)
		var kept [][]byte
		for len(seen) < enough {
			var b []byte
			e.must(e.promptly("ReceiveDatagram", func() (err error) {
				b, err = ends[1].ReceiveDatagram(e.ctx)
				return err
			}), "ReceiveDatagram")
			if len(b) < 4 {
				e.failf("ReceiveDatagram: want a datagram whole, got %d bytes", len(b))
			}
			i := binary.BigEndian.Uint32(b)
			if seen[i] {
				e.errorf("ReceiveDatagram: want a datagram at most once, got number %d again", i)
			}
			seen[i] = true
			kept = append(kept, b)
		}
		cancel()
		e.must(sent.wait(), "SendDatagram")
		for _, b := range kept {
			i := int(binary.BigEndian.Uint32(b))
			if i > 1<<20 || !bytes.Equal(b, parcel(i, size(i))) {
				e.errorf("ReceiveDatagram: want datagram %d whole and ours to keep, got %d bytes that differ", i, len(b))
			}
		}
	}
}

func datagramTooLarge(e *env) {
	l, d, a := e.datagrams()
	for _, c := range []transport.DatagramConn{d, a} {
		for _, size := range []int{64 << 10, 1 << 20} {
			if err := e.promptly("SendDatagram", func() error { return c.SendDatagram(make([]byte, size)) }); err == nil {
				e.errorf("SendDatagram of %d bytes: want an error, got none", size)
			}
		}
	}
	e.exchange(e.stream(l.d, l.a))
}

func datagramEnds(e *env) {
	l, d, a := e.datagrams()
	ctx, cancel := context.WithCancel(e.ctx)
	for _, c := range []transport.DatagramConn{d, a} {
		for _, ctx := range []context.Context{e.cancelled(), e.after(moment)} {
			err := e.promptly("ReceiveDatagram", func() error { _, err := c.ReceiveDatagram(ctx); return err })
			e.wantContext("ReceiveDatagram whose context has ended", err, ctx)
		}
	}
	wait := e.start("ReceiveDatagram", func() error { _, err := d.ReceiveDatagram(ctx); return err })
	wait.blocked()
	cancel()
	wait.wait()
	e.wantContext("ReceiveDatagram whose context ends", wait.err, ctx)

	receive := func(c transport.DatagramConn) *call {
		w := e.start("ReceiveDatagram", func() error { _, err := c.ReceiveDatagram(e.ctx); return err })
		w.blocked()
		return w
	}
	ours, theirs := receive(d), receive(a)
	e.must(e.promptly("CloseWithError", func() error { return l.d.CloseWithError(800, "no more") }), "CloseWithError")
	ours.wait()
	e.wantClose("ReceiveDatagram, waiting when we close", ours.err, 800, "no more", false)
	theirs.wait()
	e.wantClose("ReceiveDatagram, waiting when the peer closes", theirs.err, 800, "no more", true)
	for i, c := range []transport.DatagramConn{d, a} {
		e.wantClose("SendDatagram after the end", e.promptly("SendDatagram", func() error { return c.SendDatagram([]byte("late")) }), 800, "no more", i == 1)
		e.wantClose("ReceiveDatagram after the end", e.promptly("ReceiveDatagram", func() error { _, err := c.ReceiveDatagram(e.ctx); return err }), 800, "no more", i == 1)
	}
}
