package conformance

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"sync/atomic"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/transport"
)

// maxTunnelPacket is the size of the packets that a tunnel carries, in bytes; larger ones are lost.
const maxTunnelPacket = 1400

// wire carries the packets of a tunnel in one direction.
type wire struct {
	bad   bool        // it loses, doubles and swaps packets
	dead  atomic.Bool // it carries nothing
	queue chan []byte // drained by carry
}

// send is a tunnel's: what is too much or too large is lost.
func (w *wire) send(p []byte) error {
	if len(p) > maxTunnelPacket || w.dead.Load() {
		return nil
	}
	select {
	case w.queue <- bytes.Clone(p):
	default:
	}
	return nil
}

// carry delivers until ctx ends.
func (w *wire) carry(ctx context.Context, to transport.Tunnel) {
	var kept []byte // overtaken by the next
	for {
		var p []byte
		select {
		case p = <-w.queue:
		case <-ctx.Done():
			return
		}
		luck := 3
		if w.bad {
			luck = rand.IntN(60)
		}
		switch {
		case luck == 0: // lost
		case luck == 1 && kept == nil:
			kept = p
			continue
		case luck == 2:
			to.Deliver(p)
			fallthrough
		default:
			to.Deliver(p)
		}
		clear(p) // the slice is ours
		if kept != nil {
			to.Deliver(kept)
			kept = nil
		}
	}
}

// detour is a pair of tunnels, the ends of one way between the listeners of two peers.
type detour struct {
	label       transport.Addr // without a peer
	near, far   transport.Tunnel
	there, back *wire
}

// kill has the detour carry nothing any more, revive carry again.
func (d *detour) kill()   { d.there.dead.Store(true); d.back.dead.Store(true) }
func (d *detour) revive() { d.there.dead.Store(false); d.back.dead.Store(false) }

// tunnelled is two peers that both listen, and whose listeners make tunnels.
type tunnelled struct {
	*link                    // without a connection
	near  transport.Listener // of the dialling peer
}

// tunnelled makes two peers, or skips the rule.
func (e *env) tunnelled() *tunnelled {
	t := &tunnelled{link: &link{env: e, dialer: e.node(), acceptor: e.node()}}
	t.ln, t.near = e.listen(t.acceptor), e.listen(t.dialer)
	if _, ok := t.ln.(transport.Tunneler); !ok {
		e.skipf("its listeners make no tunnels")
	}
	return t
}

// detour makes a way between the peers.
func (t *tunnelled) detour(name string, bad bool) *detour {
	d := &detour{label: transport.Addr{Scheme: "detour", HostPort: name + ".example:1"}}
	d.there = &wire{bad: bad, queue: make(chan []byte, 512)}
	d.back = &wire{bad: bad, queue: make(chan []byte, 512)}
	d.near, d.far = t.tunnel(t.near, d.label, d.there), t.tunnel(t.ln, d.label, d.back)
	t.spawn(func() { d.there.carry(t.ctx, d.far) })
	t.spawn(func() { d.back.carry(t.ctx, d.near) })
	return d
}

// tunnel makes one end of a tunnel.
func (e *env) tunnel(ln transport.Listener, label transport.Addr, w *wire) transport.Tunnel {
	tn, err := ln.(transport.Tunneler).NewTunnel(label, w.send)
	e.must(err, "NewTunnel(%s)", label)
	return tn
}

// by connects the peers by the detour.
func (t *tunnelled) by(d *detour) {
	accept := t.start("Accept", func() (err error) {
		t.a, err = t.ln.Accept(t.ctx)
		return err
	})
	dial := t.start("Tunnel.Dial", func() (err error) {
		t.d, err = d.near.Dial(t.ctx, t.acceptor.id)
		return err
	})
	t.must(dial.wait(), "Tunnel.Dial")
	t.must(accept.wait(), "Accept of a connection that was dialled through a tunnel")
}

// wantLabel waits until both ends of the connection show the detour as their path.
func (t *tunnelled) wantLabel(d *detour) {
	for _, end := range []struct {
		name string
		c    transport.Conn
		peer identity.ID
	}{{"dialling", t.d, t.acceptor.id}, {"accepting", t.a, t.dialer.id}} {
		want := d.label
		want.Peer = end.peer
		t.eventually("Info on the "+end.name+" side, the path being a tunnel, to show the peer at "+want.String(), func() bool {
			return end.c.Info().RemoteAddr == want && end.c.Info().RemotePeer == end.peer
		})
	}
}

// pour sends n bytes each way over a stream, and checks them. It returns when they have arrived.
func (e *env) pour(x, y transport.Stream, n int64) {
	var got atomic.Int64
	move := func(from, to transport.Stream, seed uint64) (write, read *call) {
		write = e.start("Write", func() error {
			_, err := pour(from, seed, n, 8<<10)
			return err
		})
		read = e.start("Read", func() error {
			c := newCheck(seed)
			b := make([]byte, 32<<10)
			for c.n < n {
				k, err := to.Read(b[:min(int64(len(b)), n-c.n)])
				got.Add(int64(k))
				if _, differ := c.Write(b[:k]); differ != nil {
					return differ
				}
				if err != nil {
					return err
				}
			}
			return nil
		})
		return write, read
	}
	w1, r1 := move(x, y, 1)
	w2, r2 := move(y, x, 2)
	for _, c := range []*call{r1, r2, w1, w2} {
		e.progress(c, &got, "bytes were read")
		e.must(c.err, "%s of %d bytes", c.name, n)
	}
}

func tunnelCarries(e *env) {
	t := e.tunnelled()
	d := t.detour("first", true)
	t.by(d)
	t.wantLabel(d)
	if !t.d.Info().Dialer || t.a.Info().Dialer {
		e.errorf("Info: want the side that called Tunnel.Dial to be the dialler, and only that one")
	}
	x, y := e.stream(t.d, t.a)
	e.pour(x, y, 128<<10)
	e.must(e.promptly("CloseWithError", func() error { return t.d.CloseWithError(900, "far enough") }), "CloseWithError")
	select {
	case <-t.a.Context().Done(): // if the packet that says so was not lost
	case <-e.ctx.Done():
	}
	if cause := context.Cause(t.a.Context()); !errors.Is(cause, transport.ErrLost) {
		e.wantClose("the cause of the Context's end, after a close through a tunnel", cause, 900, "far enough", true)
	}
}

func tunnelsApart(e *env) {
	t := e.tunnelled()
	first, second := t.detour("first", false), t.detour("second", false)
	type pair struct {
		via  *detour
		d, a transport.Conn
	}
	var all []pair
	for _, d := range []*detour{first, second, nil} {
		if d != nil {
			t.by(d)
		} else {
			t.redial()
		}
		all = append(all, pair{d, t.d, t.a})
	}
	e.must(e.promptly("Tunnel.Close", first.near.Close), "Tunnel.Close")
	for _, p := range all[1:] {
		t.d, t.a = p.d, p.a
		if p.via != nil {
			t.wantLabel(p.via)
		} else if a := t.d.Info().RemoteAddr; a != t.ln.Addr() {
			e.errorf("Info of a connection beside tunnels: want the remote address %s, got %s", t.ln.Addr(), a)
		}
		e.exchange(e.stream(t.d, t.a))
		e.exchange(e.stream(t.a, t.d))
	}
}

func tunnelDialFails(e *env) {
	t := e.tunnelled()
	d := t.detour("first", false)
	dial := func(ctx context.Context, peer identity.ID) error {
		return e.promptly("Tunnel.Dial", func() error {
			c, err := d.near.Dial(ctx, peer)
			if err == nil {
				c.CloseWithError(transport.CodeNone, "")
			}
			return err
		})
	}
	label := func(peer identity.ID) transport.Addr { a := d.label; a.Peer = peer; return a }

	stranger := e.key().ID()
	err := dial(e.ctx, stranger)
	if !errors.Is(err, identity.ErrWrongPeer) {
		e.errorf("Tunnel.Dial of another peer than the one at the other end: want identity.ErrWrongPeer, got %s", describe(err))
	}
	e.wantOp("Tunnel.Dial of another peer", err, "dial", label(stranger))
	ctx := e.cancelled()
	e.wantContext("Tunnel.Dial with an ended context", dial(ctx, t.acceptor.id), ctx)
	d.kill()
	ctx = e.after(moment)
	e.wantContext("Tunnel.Dial through a tunnel that carries nothing", dial(ctx, t.acceptor.id), ctx)
	d.revive()

	silent := t.detour("silent", false)
	silent.kill()
	wait := e.start("Tunnel.Dial", func() error { _, err := silent.near.Dial(e.ctx, t.acceptor.id); return err })
	wait.blocked()
	e.must(e.promptly("Transport.Close", t.dialer.Close), "Transport.Close")
	e.wantClosed("Tunnel.Dial, waiting when the transport is closed", wait.wait())
}

func tunnelCloses(e *env) {
	t := e.tunnelled()
	d := t.detour("first", false)
	t.by(d)
	for range 2 {
		e.must(e.promptly("Tunnel.Close", d.near.Close), "Tunnel.Close")
	}
	d.near.Deliver(make([]byte, 100)) // after its end
	e.wantClosed("Tunnel.Dial of a closed tunnel", e.promptly("Tunnel.Dial", func() error {
		_, err := d.near.Dial(e.ctx, t.acceptor.id)
		return err
	}))
	again := t.detour("again", false)
	t.by(again)
	e.exchange(e.stream(t.d, t.a))
	e.must(e.promptly("Listener.Close", t.near.Close), "Listener.Close")
	_, err := t.near.(transport.Tunneler).NewTunnel(again.label, again.there.send)
	e.wantClosed("NewTunnel of a closed listener", err)
}

func tunnelLost(e *env) {
	t := e.tunnelled()
	d := t.detour("first", false)
	t.by(d)
	e.exchange(e.stream(t.d, t.a))
	var waits []*call
	for _, c := range []transport.Conn{t.d, t.a} {
		waits = append(waits, e.start("AcceptStream", func() error { _, err := c.AcceptStream(e.ctx); return err }))
	}
	for _, w := range waits {
		w.blocked()
	}
	e.must(e.promptly("Tunnel.Close", d.near.Close), "Tunnel.Close")
	for _, w := range waits {
		w.within(3*e.h.IdleTimeout + e.soon)
		e.wantLost("AcceptStream of a connection whose tunnel was closed", w.err)
	}
}

func tunnelGarbage(e *env) {
	t := e.tunnelled()
	d := t.detour("first", false)
	t.by(d)
	x, y := e.stream(t.d, t.a)
	e.must(e.promptly("Deliver", func() error {
		for _, tn := range []transport.Tunnel{d.near, d.far} {
			tn.Deliver(nil)
			for i, size := range []int{1, 2, 20, 1200, maxTunnelPacket, 1500, 64 << 10} {
				for _, first := range []byte{0, 0x3f, 0x40, 0xc0, 0xff} {
					p := parcel(i, max(size, 4))[:size]
					p[0] = first
					tn.Deliver(p)
				}
			}
		}
		return nil
	}), "Deliver of garbage")
	e.exchange(x, y)
	e.must(e.promptly("Deliver", func() error {
		p := parcel(7, 1200)
		for range 20_000 { // more than anybody may keep
			p[0] = byte(0x40 | rand.IntN(0x40))
			d.near.Deliver(p)
		}
		return nil
	}), "Deliver of much garbage")
	e.exchange(x, y)
}
