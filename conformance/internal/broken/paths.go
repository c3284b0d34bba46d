package broken

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync/atomic"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/transport"
)

// paths are faults of tunnels, of moving to other paths, and of dialling from a listener's port.
func paths() []row[faults] {
	return []row[faults]{
		{"a tunnel carries no more than twelve packets", "tunnel-carries", Paths, faults{newTunnel: func(l *badListener, label transport.Addr, send func([]byte) error) (transport.Tunnel, error) {
			var n atomic.Int64
			return l.Listener.(transport.Tunneler).NewTunnel(label, func(p []byte) error {
				if n.Add(1) > 12 {
					return nil
				}
				return send(p)
			})
		}}},
		{"a tunnel keeps the slices it is given", "tunnel-carries", Paths, faults{deliver: func(t *badTunnel, p []byte) {
			if t.held != nil {
				t.Tunnel.Deliver(t.held)
			}
			t.held = p
		}}},
		{"the label of a tunnel is not shown", "tunnel-carries", Paths, faults{info: func(i transport.Info) transport.Info {
			if i.RemoteAddr.Scheme != i.LocalAddr.Scheme {
				i.RemoteAddr = i.LocalAddr
			}
			return i
		}}},
		{"the label of a tunnel has no peer", "tunnel-carries", Paths, faults{info: func(i transport.Info) transport.Info {
			if i.RemoteAddr.Scheme != i.LocalAddr.Scheme {
				i.RemoteAddr.Peer = identity.ID{}
			}
			return i
		}}},
		{"all tunnels of a listener are one", "tunnels-apart", Paths, faults{newTunnel: func(l *badListener, label transport.Addr, send func([]byte) error) (transport.Tunnel, error) {
			l.mu.Lock()
			defer l.mu.Unlock()
			if l.tunnel == nil {
				tn, err := l.Listener.(transport.Tunneler).NewTunnel(label, send)
				if err != nil {
					return nil, err
				}
				l.tunnel = tn
			}
			return l.tunnel, nil
		}}},
		{"closing a tunnel closes its listener's connections", "tunnels-apart", Paths, faults{closeTunnel: func(t *badTunnel) error {
			t.l.t.mu.Lock()
			defer t.l.t.mu.Unlock()
			for _, c := range t.l.t.conns {
				c.Conn.CloseWithError(transport.CodeNone, "")
			}
			return t.Tunnel.Close()
		}}},
		{"an empty packet from a tunnel is a panic", "tunnel-garbage", Paths, faults{deliver: func(t *badTunnel, p []byte) {
			_ = p[0]
			t.Tunnel.Deliver(p)
		}}},
		{"much garbage closes a tunnel", "tunnel-garbage", Paths, faults{deliver: func(t *badTunnel, p []byte) {
			if t.n.Add(1) > 10_000 {
				t.Tunnel.Close()
			}
			t.Tunnel.Deliver(p)
		}}},
		{"tunnels do not look at the ID dialled", "tunnel-dial-fails", Paths, faults{dialTunnel: func(t *badTunnel, ctx context.Context, _ identity.ID) (transport.Conn, error) {
			return t.Tunnel.Dial(ctx, identity.ID{})
		}}},
		{"Tunnel.Dial does not look at its context", "tunnel-dial-fails", Paths, faults{dialTunnel: func(t *badTunnel, ctx context.Context, peer identity.ID) (transport.Conn, error) {
			return t.Tunnel.Dial(context.WithoutCancel(ctx), peer)
		}}},
		{"Tunnel.Dial does not name the label", "tunnel-dial-fails", Paths, faults{dialTunnel: func(t *badTunnel, ctx context.Context, peer identity.ID) (transport.Conn, error) {
			c, err := t.Tunnel.Dial(ctx, peer)
			return c, mapped(err, func(e *transport.OpError) error { return e.Err })
		}}},
		{"closing a tunnel again is an error", "tunnel-closes", Paths, faults{closeTunnel: func(t *badTunnel) error {
			if t.n.Add(1) > 1 {
				return net.ErrClosed
			}
			return t.Tunnel.Close()
		}}},
		{"Tunnel.Close does nothing", "tunnel-closes", Paths, faults{closeTunnel: func(t *badTunnel) error { return nil }}},
		{"NewTunnel does not say that the listener is closed", "tunnel-closes", Paths, faults{newTunnel: func(l *badListener, label transport.Addr, send func([]byte) error) (transport.Tunnel, error) {
			tn, err := l.Listener.(transport.Tunneler).NewTunnel(label, send)
			return tn, mapped(err, func(*transport.OpError) error { return errPlain })
		}}},
		{"connections are not lost with their tunnel but closed", "tunnel-lost", Paths, faults{acceptS: func(c *badConn, ctx context.Context) (transport.Stream, error) {
			s, err := c.Conn.AcceptStream(ctx)
			return s, mapped(err, func(*transport.LostError) error { return &transport.CloseError{Code: transport.CodeIdle} })
		}}},

		{"Migrate does nothing", "migrate-under-streams", Paths, faults{migrate: func(pathConn, context.Context, netip.AddrPort) error { return nil }}},
		{"MigrateTunnel only keeps the tunnel on standby", "migrate-under-streams", Paths, faults{migrateTunnel: func(c pathConn, ctx context.Context, t transport.Tunnel) error {
			return c.m.Standby(ctx, t)
		}}},
		{"Path is the one dialled", "migrate-under-streams", Paths, faults{path: func(pathConn) netip.AddrPort { return netip.AddrPort{} }}},
		{"the accepting side moves, so it says", "migrate-fails", Paths, faults{migrate: func(c pathConn, ctx context.Context, to netip.AddrPort) error {
			if err := c.m.Migrate(ctx, to); !errors.Is(err, errors.ErrUnsupported) {
				return err
			}
			return nil
		}}},
		{"MigrateTunnel does not look at its context", "migrate-fails", Paths, faults{migrateTunnel: func(c pathConn, ctx context.Context, t transport.Tunnel) error {
			return c.m.MigrateTunnel(context.WithoutCancel(ctx), t)
		}}},
		{"Standby by a closed tunnel succeeds", "migrate-fails", Paths, faults{standby: func(c pathConn, ctx context.Context, t transport.Tunnel) error {
			if err := c.m.Standby(ctx, t); err == nil || ctx.Err() != nil || errors.Is(err, errors.ErrUnsupported) {
				return err
			}
			return nil
		}}},
		{"Flip with nothing on standby succeeds", "migrate-fails", Paths, faults{flip: func(c pathConn) error {
			if err := c.m.Flip(); c.Conn.Context().Err() != nil {
				return err
			}
			return nil
		}}},
		{"Flip does not hear why the connection has ended", "migrate-fails", Paths, faults{flip: func(c pathConn) error {
			if c.Conn.Context().Err() != nil {
				return errPlain
			}
			return c.m.Flip()
		}}},
		{"a failed migration closes the connection", "migrate-fails", Paths, faults{migrate: func(c pathConn, ctx context.Context, to netip.AddrPort) error {
			err := c.m.Migrate(ctx, to)
			if err != nil && !errors.Is(err, errors.ErrUnsupported) && ctx.Err() == nil {
				c.Conn.CloseWithError(transport.CodeInternal, "it cannot move")
			}
			return err
		}}},
		{"Flip stays", "migrate-flips", Paths, faults{flip: func(pathConn) error { return nil }}},
		{"Standby moves", "migrate-flips", Paths, faults{standby: func(c pathConn, ctx context.Context, t transport.Tunnel) error {
			return c.m.MigrateTunnel(ctx, t)
		}}},
		{"Flip keeps nothing on standby", "migrate-flips", Paths, faults{flip: func(c pathConn) error {
			if c.badConn.m.Add(1) > 2 {
				return errPlain
			}
			return c.m.Flip()
		}}},
		{"packets that come are not counted", "packets-counted", Paths, faults{packets: func(c pathConn) (sent, received uint64) {
			sent, _ = c.m.Packets()
			return sent, 1
		}}},

		{"both sides of DialFrom dial", "port-dial", FromPort, faults{dialFrom: func(l portListener, ctx context.Context, addr transport.Addr, _ bool) (transport.Conn, error) {
			return l.dialer.DialFrom(ctx, addr, false)
		}}},
		{"DialFrom dials from another port", "port-dial", FromPort, faults{dialFrom: func(l portListener, ctx context.Context, addr transport.Addr, accepts bool) (transport.Conn, error) {
			if accepts {
				return l.Listener.Accept(ctx)
			}
			return l.t.Transport.Dial(ctx, addr)
		}}},
		{"DialFrom does not look at the ID", "port-dial-fails", FromPort, faults{dialFrom: func(l portListener, ctx context.Context, addr transport.Addr, accepts bool) (transport.Conn, error) {
			addr.Peer = identity.ID{}
			return l.dialer.DialFrom(ctx, addr, accepts)
		}}},
		{"DialFrom does not look at its context", "port-dial-fails", FromPort, faults{dialFrom: func(l portListener, ctx context.Context, addr transport.Addr, accepts bool) (transport.Conn, error) {
			return l.dialer.DialFrom(context.WithoutCancel(ctx), addr, accepts)
		}}},
		{"DialFrom gives up at once", "port-dial-ends", FromPort, faults{dialFrom: func(l portListener, ctx context.Context, addr transport.Addr, accepts bool) (transport.Conn, error) {
			if !addr.Peer.IsZero() {
				return nil, errPlain
			}
			return l.dialer.DialFrom(ctx, addr, accepts)
		}}},
		{"DialFrom does not hear its listener's end", "port-dial-ends", FromPort, faults{dialFrom: func(l portListener, ctx context.Context, addr transport.Addr, accepts bool) (transport.Conn, error) {
			c, err := l.dialer.DialFrom(ctx, addr, accepts)
			if errors.Is(err, net.ErrClosed) {
				select {
				case <-ctx.Done():
				case <-l.t.f.done:
				}
			}
			return c, err
		}}},
	}
}
