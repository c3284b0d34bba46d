package conformance

import (
	"context"
	"errors"
	"net"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/transport"
)

// port is a listener that dials from its own port, and its peer.
type port struct {
	*node
	ln transport.Listener
	transport.PortDialer
}

// ports makes peers that dial from their listeners' ports, or skips the rule.
func (e *env) ports(n int) []port {
	var all []port
	for range n {
		p := port{node: e.node()}
		p.ln = e.listen(p.node)
		var ok bool
		if p.PortDialer, ok = p.ln.(transport.PortDialer); !ok {
			e.skipf("its listeners do not dial from their ports")
		}
		all = append(all, p)
	}
	nobody := transport.Addr{Scheme: e.traits.Scheme, HostPort: "127.0.0.1:1"}
	if probe, _ := all[0].dialFrom(e, e.after(moment), nobody, false); errors.Is(probe.wait(), errors.ErrUnsupported) {
		e.skipf("this system does not let listeners dial from their ports")
	}
	return all
}

// dialFrom begins to dial.
func (p port) dialFrom(e *env, ctx context.Context, to transport.Addr, accepts bool) (*call, *transport.Conn) {
	c := new(transport.Conn)
	return e.start("DialFrom", func() (err error) {
		*c, err = p.DialFrom(ctx, to, accepts)
		return err
	}), c
}

func portDial(e *env) {
	for i := range 6 {
		e.in("pair %d", i+1)
		ps := e.ports(2)
		d, a := ps[0], ps[1]
		toA, toD := a.ln.Addr(), d.ln.Addr()
		if i%3 == 2 {
			toA.Peer, toD.Peer = identity.ID{}, identity.ID{}
		}
		var dials, accepts *call
		var dc, ac *transport.Conn
		if i%2 == 0 {
			dials, dc = d.dialFrom(e, e.ctx, toA, false)
			accepts, ac = a.dialFrom(e, e.ctx, toD, true)
		} else {
			accepts, ac = a.dialFrom(e, e.ctx, toD, true)
			dials, dc = d.dialFrom(e, e.ctx, toA, false)
		}
		e.must(dials.wait(), "DialFrom of the side that dials")
		if err := accepts.wait(); err != nil {
			if errors.Is(err, net.ErrClosed) {
				e.must(err, "DialFrom of the side that accepts")
			}
			e.must(e.promptly("Accept", func() (err error) { // the other was early
				*ac, err = a.ln.Accept(e.ctx)
				return err
			}), "DialFrom of the side that accepts has failed, %v; Accept", accepts.err)
		}
		for _, end := range []struct {
			name       string
			c          transport.Conn
			own, other port
			dialler    bool
		}{{"dialling", *dc, d, a, true}, {"accepting", *ac, a, d, false}} {
			info := end.c.Info()
			if info.Dialer != end.dialler || info.LocalPeer != end.own.id || info.RemotePeer != end.other.id ||
				info.LocalAddr != end.own.ln.Addr() || info.RemoteAddr != end.other.ln.Addr() {
				e.errorf("Info of the %s side: want Dialer %v, and the connection to go from %s to %s, got Dialer %v, from %s to %s",
					end.name, end.dialler, end.own.ln.Addr(), end.other.ln.Addr(), info.Dialer, info.LocalAddr, info.RemoteAddr)
			}
		}
		e.exchange(e.stream(*dc, *ac))
		e.closeAll(d.node, a.node)
	}
}

// closeAll closes transports before the check ends.
func (e *env) closeAll(nodes ...*node) {
	for _, n := range nodes {
		e.must(e.promptly("Transport.Close", n.Close), "Transport.Close")
	}
}

func portDialFails(e *env) {
	ps := e.ports(3)
	d, a, silent := ps[0], ps[1], ps[2]
	dial := func(ctx context.Context, to transport.Addr, accepts bool) error {
		call, _ := d.dialFrom(e, ctx, to, accepts)
		return call.wait()
	}
	nobody := silent.ln.Addr()
	e.must(e.promptly("Listener.Close", silent.ln.Close), "Listener.Close")

	for _, accepts := range []bool{false, true} {
		for _, ctx := range []context.Context{e.cancelled(), e.after(moment)} {
			err := dial(ctx, nobody, accepts)
			e.wantContext("DialFrom where nobody is, when its context has ended", err, ctx)
			e.wantOp("DialFrom where nobody is", err, "dial", nobody)
		}
	}
	for _, hostPort := range []string{"localhost:1", "127.0.0.1:0", "0.0.0.0:1", "127.0.0.1", ""} {
		err := dial(e.ctx, transport.Addr{Scheme: e.traits.Scheme, HostPort: hostPort}, false)
		if !errors.Is(err, transport.ErrBadAddr) {
			e.errorf("DialFrom to %q: want ErrBadAddr, got %s", hostPort, describe(err))
		}
	}
	own := d.ln.Addr()
	own.Peer = identity.ID{}
	if err := dial(e.after(10*moment), own, false); err == nil {
		e.errorf("DialFrom to its own port: want an error, got a connection")
	}

	wrong := a.ln.Addr()
	wrong.Peer = e.key().ID()
	if err := dial(e.ctx, wrong, false); !errors.Is(err, identity.ErrWrongPeer) {
		e.errorf("DialFrom at another peer: want identity.ErrWrongPeer, got %s", describe(err))
	}
	ctx, cancel := context.WithCancel(e.ctx)
	wait, _ := d.dialFrom(e, ctx, nobody, false)
	wait.blocked()
	if err := dial(e.ctx, nobody, true); err == nil || errors.Is(err, context.Canceled) {
		e.errorf("DialFrom while the same address is being dialled: want an error at once, got %s", describe(err))
	}
	cancel()
	wait.wait()
	e.wantContext("DialFrom whose context ends", wait.err, ctx)

	// The listener is as before, and the same address can be dialled anew.
	e.exchange(e.stream(e.connect(a.node, d.ln)))
}

func portDialEnds(e *env) {
	ps := e.ports(3)
	nobody := ps[2].ln.Addr()
	e.must(e.promptly("Listener.Close", ps[2].ln.Close), "Listener.Close")
	ends := []func() error{ps[0].ln.Close, ps[1].node.Close}
	for i, p := range ps[:2] {
		name := []string{"listener", "transport"}[i]
		wait, _ := p.dialFrom(e, e.ctx, nobody, i == 0)
		wait.blocked()
		e.must(e.promptly("Close", ends[i]), "Close of the %s", name)
		e.wantClosed("DialFrom, waiting when the "+name+" is closed", wait.wait())
		late, _ := p.dialFrom(e, e.ctx, nobody, false)
		e.wantClosed("DialFrom after the "+name+" was closed", late.wait())
	}
}
