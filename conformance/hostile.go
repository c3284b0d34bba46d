package conformance

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/Blockchain-CN/pheromones/transport"
)

// harm is what a network does to one connection.
type harm struct {
	back  bool  // to what flows towards the dialling side, else to what flows from it
	at    int64 // from this byte on
	kind  harmKind
	total [2]atomic.Int64 // bytes that have passed, there and back
}

type harmKind int

const (
	harmless  harmKind = iota
	cutFin             // the connection ends
	cutRST             // the connection is reset
	flipBit            // one bit of the byte is another
	splitStop          // every byte comes for itself, and after the one at the offset none for a while
)

func (k harmKind) String() string {
	return [...]string{"carries everything", "ends", "is reset", "flips a bit", "stops for a while"}[k]
}

// network makes a way to the listener at addr for one TCP connection, with harm h; cut ends it.
func (e *env) network(addr transport.Addr, h *harm) (way transport.Addr, cut func()) {
	var mu sync.Mutex
	var ends []net.Conn
	over := false
	sever := func(reset bool) {
		mu.Lock()
		defer mu.Unlock()
		over = true
		for _, c := range ends {
			if reset {
				c.(*net.TCPConn).SetLinger(0)
			}
			c.Close()
		}
	}
	way = e.listenRaw(func(near net.Conn) {
		far, err := net.Dial("tcp", addr.HostPort)
		if err != nil {
			near.Close()
			return
		}
		mu.Lock()
		ends = append(ends, near, far)
		if over {
			near.Close()
			far.Close()
		}
		mu.Unlock()
		e.spawn(func() { e.carry(far, near, h, 0, sever) })
		e.carry(near, far, h, 1, sever)
	}, nil)
	way.Peer = addr.Peer
	return way, func() { sever(false) }
}

// carry moves bytes one way (0: there, 1: back) and does the harm.
func (e *env) carry(to, from net.Conn, h *harm, way int, sever func(bool)) {
	defer to.Close()
	defer from.Close()
	mine := h.back == (way == 1)
	b := make([]byte, 16<<10)
	for {
		n, err := from.Read(b)
		if err != nil {
			return
		}
		p, done := b[:n], h.total[way].Load()
		h.total[way].Add(int64(n))
		at := int(h.at - done)
		hit := mine && at >= 0 && at < n
		switch {
		case h.kind == splitStop:
			for i := range p {
				if _, err := to.Write(p[i : i+1]); err != nil {
					return
				}
				if hit && i == at {
					e.sleep(10 * moment)
				}
			}
			continue
		case hit && h.kind == flipBit:
			p[at] ^= 4
		case hit && h.kind != harmless:
			to.Write(p[:at])
			sever(h.kind == cutRST)
			return
		}
		if _, err := to.Write(p); err != nil {
			return
		}
	}
}

// query makes a connection at addr and asks something that harmServer answers. It returns the answer as far as it came,
// and why it ended; that is nil at io.EOF.
func (e *env) query(n *node, addr transport.Addr) ([]byte, error) {
	c, err := n.Dial(e.ctx, addr)
	if err != nil {
		return nil, err
	}
	defer c.CloseWithError(transport.CodeNone, "")
	s, err := c.OpenStream(e.ctx)
	if err != nil {
		return nil, err
	}
	if _, err := s.Write(parcel(1, 700)); err != nil {
		return nil, err
	}
	if err := s.CloseWrite(); err != nil {
		return nil, err
	}
	got, err := io.ReadAll(struct{ io.Reader }{s})
	s.Close()
	return got, err
}

// serveQueries answers query at every connection of ln, and reports requests that came changed or cut short.
func (e *env) serveQueries(ln transport.Listener) *call {
	return e.start("Accept and the connections that it gave, after Listener.Close and the end of their networks", func() error {
		var all sync.WaitGroup
		defer all.Wait()
		for {
			c, err := ln.Accept(e.ctx)
			if err != nil {
				return err
			}
			all.Add(1)
			e.spawn(func() {
				defer all.Done()
				defer func() { <-c.Context().Done() }()
				s, err := c.AcceptStream(e.ctx)
				if err != nil {
					return
				}
				got, err := io.ReadAll(struct{ io.Reader }{s})
				e.wantPart("the accepting side", got, err, parcel(1, 700))
				if err == nil {
					s.Write(parcel(2, 3000))
					s.Close()
				}
			})
		}
	})
}

// wantPart checks that got is the beginning of want, and all of it if there was no error.
func (e *env) wantPart(side string, got []byte, err error, want []byte) {
	if !bytes.HasPrefix(want, got) {
		e.errorf("%s: want the bytes as they were sent or an error, got others", side)
	} else if err == nil && len(got) != len(want) {
		e.errorf("%s: want all %d bytes or an error, got io.EOF after %d", side, len(want), len(got))
	}
}

// harms makes connections to which a kind of harm is done at offsets all over their life.
func (e *env) harms(kinds ...harmKind) {
	server := e.node()
	ln := e.listen(server)
	serve := e.serveQueries(ln)
	calm := new(harm)
	way, cut := e.network(ln.Addr(), calm)
	got, err := e.query(e.node(), way)
	cut()
	if e.wantPart("over a network that does no harm", got, err, parcel(2, 3000)); err != nil {
		e.failf("over a network that does no harm: %s", describe(err))
	}
	type place struct {
		back bool
		at   int64
		kind harmKind
	}
	var places []place
	for _, kind := range kinds {
		for i, back := range []bool{false, true} {
			total := calm.total[i].Load()
			step := max(1, total/40)
			if e.h.Thorough {
				step = 1
			}
			for at := int64(0); at < total; at += step {
				places = append(places, place{back, at, kind})
			}
		}
	}
	e.each(len(places), 16, func(i int) {
		p := places[i]
		way, cut := e.network(ln.Addr(), &harm{back: p.back, at: p.at, kind: p.kind})
		defer cut()
		n := e.node()
		ask := e.start("Dial and an exchange", func() error {
			got, err := e.query(n, way)
			e.wantPart("the dialling side", got, err, parcel(2, 3000))
			return nil
		})
		select {
		case <-ask.done:
		case <-time.After(10 * moment): // a length that was changed has it wait for more
			cut()
		}
		select {
		case <-ask.done:
		case <-e.ctx.Done():
		case <-time.After(e.soon):
			e.failf("a network that %s at byte %d (back: %v): the dialling side still waits %v after its end", p.kind, p.at, p.back, e.soon)
		}
		n.Close()
	})
	ln.Close()
	serve.wait()
}

func networkCuts(e *env)     { e.harms(cutFin, cutRST) }
func networkCorrupts(e *env) { e.harms(flipBit) }

// networkSplits carries exchanges over networks that bring bytes one by one and stop for a while at all kinds of places.
func networkSplits(e *env) {
	server := e.node()
	ln := e.listen(server)
	serve := e.serveQueries(ln)
	e.each(16, 16, func(i int) {
		way, cut := e.network(ln.Addr(), &harm{back: i%2 == 1, at: int64(i * 150), kind: splitStop})
		defer cut()
		got, err := e.query(e.node(), way)
		if e.wantPart("the dialling side", got, err, parcel(2, 3000)); err != nil {
			e.errorf("over a network that brings bytes one by one and stops for %v at byte %d: want success, got %s", 10*moment, i*150, describe(err))
		}
	})
	ln.Close()
	serve.wait()
}

// networkLoses carries exchanges over networks that lose, double, reorder and change packets, among them the first.
func networkLoses(e *env) {
	server := e.node()
	ln := e.listen(server)
	for _, kind := range []string{"loses the first packets", "loses packets", "doubles packets", "reorders packets", "changes packets"} {
		e.in("over a network that %s", kind)
		n := e.node()
		d, a := e.connectAt(n, ln, e.spoiledPackets(ln.Addr(), kind))
		x, y := e.stream(d, a)
		e.both(x, y, 512<<10, 0)
		e.must(e.promptly("Transport.Close", n.Close), "Transport.Close")
	}
}

// spoiledPackets makes a way to the listener at addr on which packets meet with something of the given kind.
func (e *env) spoiledPackets(addr transport.Addr, kind string) transport.Addr {
	near, err := net.ListenPacket("udp", e.loopback())
	e.must(err, "listening at a UDP port")
	e.cleanup(func() { near.Close() })
	far, err := net.Dial("udp", addr.HostPort)
	e.must(err, "making a UDP socket")
	e.cleanup(func() { far.Close() })
	var client atomic.Pointer[net.Addr]
	carry := func(seed uint64, read func([]byte) (int, error), write func([]byte)) {
		dice := rand.New(rand.NewPCG(seed, 9))
		b := make([]byte, 64<<10)
		var held []byte
		for i := 0; ; i++ {
			n, err := read(b)
			if err != nil {
				if e.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
					return
				}
				continue
			}
			p, hit := b[:n], dice.IntN(20) == 0
			switch {
			case kind == "loses the first packets" && i == 0, kind == "loses packets" && hit:
				continue
			case kind == "doubles packets" && hit:
				write(p)
			case kind == "reorders packets" && hit && held == nil:
				held = bytes.Clone(p)
				continue
			case kind == "changes packets" && hit:
				p[dice.IntN(n)] ^= 4
			}
			write(p)
			if held != nil && dice.IntN(3) == 0 {
				write(held)
				held = nil
			}
		}
	}
	e.spawn(func() {
		carry(1, func(b []byte) (int, error) {
			n, from, err := near.ReadFrom(b)
			if err == nil {
				client.Store(&from)
			}
			return n, err
		}, func(b []byte) { far.Write(b) })
	})
	e.spawn(func() {
		carry(2, far.Read, func(b []byte) {
			if to := client.Load(); to != nil {
				near.WriteTo(b, *to)
			}
		})
	})
	way := e.at(near.LocalAddr())
	way.Peer = addr.Peer
	return way
}

// halfOpen fills a listener with a thousand connections that never say a word.
func halfOpen(e *env) {
	client, server := e.node(), e.node()
	ln := e.listen(server)
	var opened []net.Conn
	for i := range 1000 {
		c, err := net.DialTimeout(e.h.Network, ln.Addr().HostPort, e.soon)
		if err != nil {
			e.failf("connection %d that stays silent: %v", i, err)
		}
		opened = append(opened, c)
		e.cleanup(func() { c.Close() })
		if e.h.Network == "udp" {
			c.Write(noise(1200))
		}
	}
	for range 5 {
		d, a := e.connect(client, ln)
		e.exchange(e.stream(d, a))
	}
	for _, c := range opened {
		c.Close()
	}
}

// abandonedStreams drops streams without a word while others go on.
func abandonedStreams(e *env) {
	l := e.link()
	for _, side := range [][2]transport.Conn{{l.d, l.a}, {l.a, l.d}} {
		for range 60 {
			x, y := e.stream(side[0], side[1])
			e.send(x, make([]byte, 1000))
			e.send(y, make([]byte, 1000))
		}
	}
	for range 5 {
		x, y := e.stream(l.d, l.a)
		e.both(x, y, 1<<20, 0)
		x, y = e.stream(l.a, l.d)
		e.exchange(x, y)
	}
}

// acceptFair has one peer dial again and again while the connection of another waits.
func acceptFair(e *env) {
	busy, quiet, server := e.node(), e.node(), e.node()
	ln := e.listen(server)
	for _, n := range []*node{busy, busy, busy, quiet, busy, busy, busy} {
		e.dial(n, ln.Addr())
	}
	e.sleep(moment)
	for range 40 {
		if c := e.accept(ln); c.Info().RemotePeer == quiet.id {
			return
		}
		e.dial(busy, ln.Addr())
	}
	e.errorf("a connection that waits while another peer dials again and again: want Accept to return it, got 40 others")
}

// acceptStreamFair opens streams one by one and always more of them than are accepted.
func acceptStreamFair(e *env) {
	l := e.link()
	for i := range 5 {
		s, err := l.d.OpenStream(e.ctx)
		e.must(err, "OpenStream")
		e.send(s, []byte{byte(i)})
	}
	e.sleep(moment)
	for i := range 60 {
		var s transport.Stream
		e.must(e.promptly("AcceptStream", func() (err error) {
			s, err = l.a.AcceptStream(e.ctx)
			return err
		}), "AcceptStream")
		b := make([]byte, 1)
		e.must(e.promptly("Read", func() error { _, err := io.ReadFull(s, b); return err }), "Read")
		if b[0] == 0 {
			return
		}
		more, err := l.d.OpenStream(e.ctx)
		e.must(err, "OpenStream")
		e.send(more, []byte{byte(10 + i)})
	}
	e.errorf("the first stream of several that wait: want AcceptStream to return it, got 60 others")
}

// dataBeforeClose closes connections right after writing.
func dataBeforeClose(e *env) {
	e.eachPipe(func(p *pipe) {
		const n = 40 << 10
		var seen atomic.Int64
		read := e.start("Read", func() error {
			got, err := drain(io.TeeReader(p.y, counter{&seen}), 60, n+1)
			if err == nil {
				e.errorf("reading what was written just before CloseWithError: want all %d bytes or an error, and no io.EOF; got io.EOF after %d", n, got)
			} else if errors.Is(err, errChanged) {
				e.errorf("reading what was written just before CloseWithError: %v", err)
			}
			return nil
		})
		// The reader is in the middle of it when the close comes.
		_, err := pour(p.x, 60, n, 0)
		e.must(err, "Write")
		e.eventually("reading a part of what was written", func() bool { return seen.Load() > n/4 })
		e.must(e.promptly("CloseWithError", func() error { return p.xc.CloseWithError(transport.CodeNone, "") }), "CloseWithError")
		read.wait()
	})
}

// counter counts the bytes that are written to it.
type counter struct{ n *atomic.Int64 }

func (c counter) Write(b []byte) (int, error) {
	c.n.Add(int64(len(b)))
	return len(b), nil
}

// closeInHandshake closes transports while connections between them are being made.
func closeInHandshake(e *env) {
	for i := range 12 {
		client, server := e.node(), e.node()
		ln := e.listen(server)
		closing := []*node{client, server}[i%2]
		var calls []*call
		for range 4 {
			calls = append(calls, e.start("Dial, at Transport.Close of either side", func() error {
				ctx, cancel := context.WithTimeout(e.ctx, e.soon/2)
				defer cancel()
				c, err := client.Dial(ctx, ln.Addr())
				if err == nil {
					s, err := c.OpenStream(ctx)
					if err == nil {
						s.Write([]byte("x"))
						s.Close()
					}
					if closing == client {
						e.ends(c, "a connection that was being made when its transport was closed")
					}
				}
				return nil
			}))
		}
		calls = append(calls, e.start("Accept, at Transport.Close", func() error {
			for {
				c, err := ln.Accept(e.ctx)
				if err != nil {
					return err
				}
				if closing == server {
					e.spawn(func() { e.ends(c, "a connection that was being accepted when its transport was closed") })
				}
			}
		}))
		e.sleep(time.Duration(i/2) * 500 * time.Microsecond)
		e.must(e.promptly("Transport.Close", closing.Close), "Transport.Close")
		if closing == client {
			e.wantClosed("Dial after Transport.Close", e.promptly("Dial", func() error { return dialError(client.Dial(e.ctx, ln.Addr())) }))
			e.must(e.promptly("Listener.Close", ln.Close), "Listener.Close")
		}
		for _, c := range calls {
			c.wait()
		}
	}
}
