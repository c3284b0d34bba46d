package conformance

import (
	"context"
	"net/netip"

	"github.com/Blockchain-CN/pheromones/transport"
)

// movable is tunnelled whose connection can move.
type movable struct {
	*tunnelled
	first *detour // the path it begins with
	dm    transport.Migrator
	am    transport.Migrator
}

// movable makes a connection by a detour that can move, or skips the rule.
func (e *env) movable() *movable {
	m := &movable{tunnelled: e.tunnelled()}
	m.first = m.detour("first", false)
	m.by(m.first)
	var ok, ok2 bool
	m.dm, ok = m.d.(transport.Migrator)
	m.am, ok2 = m.a.(transport.Migrator)
	if ok != ok2 {
		e.failf("want both ends of a connection to be a Migrator or neither, got %v on the dialling side and %v on the other", ok, ok2)
	}
	if !ok {
		e.skipf("its connections cannot move")
	}
	return m
}

// at returns the address of a listener.
func (e *env) portOf(ln transport.Listener) netip.AddrPort {
	a, err := netip.ParseAddrPort(ln.Addr().HostPort)
	e.must(err, "the listener's address")
	return a
}

// wantPath checks that both sides send by the path, once the peer has followed.
func (m *movable) wantPath(what string, dialer, acceptor netip.AddrPort) {
	if got := m.dm.Path(); got != dialer {
		m.errorf("Path of the dialling side, %s: want %v, got %v", what, dialer, got)
	}
	m.eventually("Path of the accepting side, "+what+", to be "+acceptor.String(), func() bool { return m.am.Path() == acceptor })
}

func migrateUnderStreams(e *env) {
	m := e.movable()
	x, y := e.stream(m.d, m.a)
	m.wantPath("before it moves", netip.AddrPort{}, netip.AddrPort{})
	near, far := e.portOf(m.near), e.portOf(m.ln)

	flow := e.start("Write and Read under a migration", func() error { e.pour(x, y, 1<<20); return nil })
	e.must(e.promptly("Migrate", func() error { return m.dm.Migrate(e.ctx, far) }), "Migrate(%s)", far)
	m.first.kill() // nobody may need it any more
	e.must(flow.within(3*e.soon), "a flow under a migration")
	m.wantPath("moved from a tunnel to an address", far, near)
	for _, c := range []transport.Conn{m.d, m.a} {
		want := m.ln.Addr()
		if c == m.a {
			want = m.near.Addr()
		}
		if got := c.Info().RemoteAddr; got != want {
			e.errorf("Info of a connection that has moved: want the remote address %s, got %s", want, got)
		}
	}
	e.exchange(e.stream(m.a, m.d))

	second := m.detour("second", true)
	flow = e.start("Write and Read under a migration", func() error { e.pour(x, y, 256<<10); return nil })
	e.must(e.promptly("MigrateTunnel", func() error { return m.dm.MigrateTunnel(e.ctx, second.near) }), "MigrateTunnel")
	e.must(flow.within(3*e.soon), "a flow under a migration")
	m.wantPath("moved from an address to a tunnel", netip.AddrPort{}, netip.AddrPort{})
	m.wantLabel(second)
	e.exchange(x, y)
}

func migrateFails(e *env) {
	m := e.movable()
	x, y := e.stream(m.d, m.a)
	far := e.portOf(m.ln)
	silent, closed := m.detour("silent", false), m.detour("closed", false)
	silent.kill()
	e.must(closed.near.Close(), "Tunnel.Close")

	for name, f := range map[string]func(ctx context.Context) error{
		"Migrate":       func(ctx context.Context) error { return m.am.Migrate(ctx, e.portOf(m.near)) },
		"MigrateTunnel": func(ctx context.Context) error { return m.am.MigrateTunnel(ctx, m.first.far) },
		"Standby":       func(ctx context.Context) error { return m.am.Standby(ctx, m.first.far) },
	} {
		e.wantUnsupported(name+" by the accepting side", e.promptly(name, func() error { return f(e.ctx) }))
	}
	for name, f := range map[string]func(ctx context.Context) error{
		"Migrate":       func(ctx context.Context) error { return m.dm.Migrate(ctx, far) },
		"MigrateTunnel": func(ctx context.Context) error { return m.dm.MigrateTunnel(ctx, silent.near) },
		"Standby":       func(ctx context.Context) error { return m.dm.Standby(ctx, silent.near) },
	} {
		ctx := e.cancelled()
		e.wantContext(name+" with an ended context", e.promptly(name, func() error { return f(ctx) }), ctx)
		if name == "Migrate" {
			continue
		}
		ctx = e.after(moment)
		e.wantContext(name+" to a path that carries nothing", e.promptly(name, func() error { return f(ctx) }), ctx)
	}
	for name, f := range map[string]func() error{
		"Migrate to no address":                           func() error { return m.dm.Migrate(e.ctx, netip.AddrPort{}) },
		"Migrate to port 0":                               func() error { return m.dm.Migrate(e.ctx, netip.AddrPortFrom(far.Addr(), 0)) },
		"MigrateTunnel to a closed tunnel":                func() error { return m.dm.MigrateTunnel(e.ctx, closed.near) },
		"MigrateTunnel to no tunnel":                      func() error { return m.dm.MigrateTunnel(e.ctx, nil) },
		"MigrateTunnel to the peer's end of a tunnel":     func() error { return m.dm.MigrateTunnel(e.ctx, m.first.far) },
		"Standby by a closed tunnel":                      func() error { return m.dm.Standby(e.ctx, closed.near) },
		"Flip with nothing on standby":                    m.dm.Flip,
		"Flip with nothing on standby, on the other side": m.am.Flip,
	} {
		if err := e.promptly(name, f); err == nil {
			e.errorf("%s: want an error, got none", name)
		}
	}
	m.wantPath("which has not moved", netip.AddrPort{}, netip.AddrPort{})
	m.wantLabel(m.first)
	e.exchange(x, y)

	wait := e.start("MigrateTunnel", func() error { return m.dm.MigrateTunnel(e.ctx, silent.near) })
	wait.blocked()
	e.must(e.promptly("CloseWithError", func() error { return m.d.CloseWithError(901, "stay") }), "CloseWithError")
	e.wantClose("MigrateTunnel, waiting when we close", wait.wait(), 901, "stay", false)
	e.wantClose("Migrate after the end", e.promptly("Migrate", func() error { return m.dm.Migrate(e.ctx, far) }), 901, "stay", false)
	e.wantClose("Flip after the end", e.promptly("Flip", m.dm.Flip), 901, "stay", false)
}

func migrateFlips(e *env) {
	m := e.movable()
	x, y := e.stream(m.d, m.a)
	second, third := m.detour("second", false), m.detour("third", false)
	e.must(e.promptly("Standby", func() error { return m.dm.Standby(e.ctx, third.near) }), "Standby")
	e.must(e.promptly("Standby", func() error { return m.dm.Standby(e.ctx, second.near) }), "a second Standby")
	m.wantLabel(m.first)
	e.exchange(x, y)

	flip := func(what string, from, to *detour) {
		from.kill()
		sent, received := m.dm.Packets()
		e.send(x, []byte("1"))
		e.eventually("Packets of "+what+", to show that more go than come", func() bool {
			s, r := m.dm.Packets()
			return s > sent && s-sent > r-received
		})
		e.must(e.promptly("Flip", m.dm.Flip), "Flip, %s", what)
		e.expect(y, []byte("1"))
		e.exchange(x, y)
		m.wantLabel(to)
	}
	flip("off a path that is dead, the one dialled", m.first, second)
	m.first.revive()
	e.must(e.promptly("Standby", func() error { return m.dm.Standby(e.ctx, m.first.near) }), "Standby by the tunnel that was left")
	flip("off a path that is dead", second, m.first)
	second.revive()
	flip("back to the path that was left", m.first, second)
}

func packetsCounted(e *env) {
	m := e.movable()
	x, y := e.stream(m.d, m.a)
	type count struct{ sent, received uint64 }
	counts := func() (c [2]count) {
		for i, end := range []transport.Migrator{m.dm, m.am} {
			c[i].sent, c[i].received = end.Packets()
		}
		return c
	}
	before := counts()
	e.pour(x, y, 64<<10)
	e.eventually("Packets of both sides to grow with what was sent and received", func() bool {
		now := counts()
		for i := range now {
			if now[i].sent <= before[i].sent || now[i].received <= before[i].received {
				return false
			}
		}
		return true
	})
}
