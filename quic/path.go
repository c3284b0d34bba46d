package quic

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	quicgo "github.com/quic-go/quic-go"

	"github.com/Blockchain-CN/pheromones/transport"
)

// way is how packets get to the peer: to an address, or by a tunnel.
type way struct {
	addr   netip.AddrPort
	tunnel *Tunnel // nil: none
}

func (w way) udp() *net.UDPAddr {
	if w.tunnel != nil {
		return w.tunnel.virtual
	}
	return net.UDPAddrFromAddrPort(w.addr)
}

// way returns what leads to a remote address that quic-go knows. The tunnel of a virtual one is nil if it was closed.
func (s *socket) way(remote net.Addr) (w way, virtual bool) {
	if udp, ok := remote.(*net.UDPAddr); ok && s.ways.tunnels.covers(udp.IP) {
		return way{tunnel: s.ways.tunnels.at(udp.IP)}, true
	}
	return way{addr: addrPort(remote)}, false
}

// route keeps the path in use by a connection. quic-go does not say what it is on the side that migrates, and must not be asked: it writes its
// idea of it without a lock.
type route struct {
	dialled atomic.Pointer[way]            // the dialling side: the path in use
	label   atomic.Pointer[transport.Addr] // the accepting side: the label of the tunnel last seen

	moving chan struct{} // holds a token while a migration is under way

	// The rest belongs to whoever holds the token.
	sides   [3]*side               // made as they are needed
	active  int                    // the one in use, plus 1; 0: the path dialled
	standby int                    // the one that is kept to move to at once, plus 1; 0: none
	renewal *time.Timer            // looks whether the path in use must be taken anew; nil before the first flip
	taken   quicgo.ConnectionStats // as they were when it was
	pause   time.Duration
}

const (
	// renewAfter is how long after a flip the renewal looks first, twice as long after each renewal, and renewEvery how often it
	// does while nothing comes.
	renewAfter = 100 * time.Millisecond
	renewEvery = 20 * time.Millisecond
	// initialRTT is what quic-go takes for the round-trip time of a path on which nothing was acknowledged yet.
	initialRTT = 100 * time.Millisecond
)

// side is a second quic-go transport on a connection's socket, which sends only: to another path. What comes by that path comes to
// the socket's own transport, as all connection IDs are known there. A connection needs three of them, one in use, one on standby
// and one to try, as a transport stands for one path at a time; they last as long as the connection: quic-go ends the connections
// of a transport that is closed.
type side struct {
	quic *quicgo.Transport
	to   atomic.Pointer[way] // where it sends to
	path *quicgo.Path        // belongs to whoever holds route.moving
}

// Path implements [transport.Migrator]: it returns the address to which packets of the connection go at present; the zero AddrPort
// if they go by a tunnel. A side whose peer migrates or gets another address from its NAT follows when the first packets from there
// have proved it.
func (c *Conn) Path() netip.AddrPort {
	w, _ := c.way()
	return w.addr
}

// way returns the path in use. The tunnel of a virtual one is nil if it was closed and the connection was accepted.
func (c *Conn) way() (w way, virtual bool) {
	if c.dialer {
		w = *c.route.dialled.Load()
		return w, w.tunnel != nil
	}
	return c.socket.way(c.quic.RemoteAddr())
}

// remoteAddr names the path in use as Info shows it.
func (c *Conn) remoteAddr() transport.Addr {
	w, virtual := c.way()
	switch {
	case !virtual:
		return transport.Addr{Scheme: scheme, HostPort: w.addr.String(), Peer: c.peer}
	case w.tunnel != nil:
		label := w.tunnel.label
		label.Peer = c.peer
		c.route.label.Store(&label)
		return label
	}
	if label := c.route.label.Load(); label != nil {
		return *label
	}
	return transport.Addr{Scheme: scheme, HostPort: net.JoinHostPort(netip.IPv6Unspecified().String(), "0"), Peer: c.peer}
}

// Packets implements [transport.Migrator]: it returns how many packets the connection has sent and received so far, over all paths.
// When the former grows for a while and the latter does not, the path is dead: QUIC asks again for answers that do not come.
func (c *Conn) Packets() (sent, received uint64) {
	stats := c.quic.ConnectionStats()
	return stats.PacketsSent, stats.PacketsReceived
}

// RTT returns the round-trip time of the path in use as QUIC sees it, smoothed; zero if nothing is known yet.
func (c *Conn) RTT() time.Duration { return c.quic.ConnectionStats().SmoothedRTT }

// Migrate implements [transport.Migrator]. It moves the connection, with all of its streams, to the peer's address to, which must
// be of the socket's family. It returns when the peer has answered from there and this side sends there; the path left, unless it
// is the one dialled, is kept on standby. The peer follows with the first packets that come. What is under way on the path left is
// not lost: it is sent again. The peer must let our packets in there: see package nat/punch. Only the side that dialled can
// migrate, on the other the error wraps [errors.ErrUnsupported]. Any error, that of ctx included, means that the connection stays
// where it was. It takes at most Config.HandshakeTimeout. Concurrent calls wait for each other.
func (c *Conn) Migrate(ctx context.Context, to netip.AddrPort) error {
	to = netip.AddrPortFrom(to.Addr().Unmap(), to.Port())
	err := c.migrate(ctx, way{addr: to}, c.switchTo)
	if err != nil {
		return &transport.OpError{Op: "migrate", Addr: transport.Addr{Scheme: scheme, HostPort: to.String(), Peer: c.peer}, Err: err}
	}
	return nil
}

// MigrateTunnel implements [transport.Migrator]. It moves the connection to a tunnel as [Conn.Migrate] does to an address. The
// tunnel must be one of the port that the connection was dialled from, made by [Listener.NewTunnel].
func (c *Conn) MigrateTunnel(ctx context.Context, tunnel transport.Tunnel) error {
	return c.byTunnel(ctx, tunnel, c.switchTo)
}

// byTunnel does something with a tunnel as way.
func (c *Conn) byTunnel(ctx context.Context, tunnel transport.Tunnel, do func(context.Context, way) error) error {
	tn, ok := tunnel.(*Tunnel)
	if !ok {
		return &transport.OpError{Op: "migrate", Addr: c.Info().RemoteAddr, Err: fmt.Errorf("the tunnel is a %T, not one of package quic", tunnel)}
	}
	err := c.migrate(ctx, way{tunnel: tn}, do)
	if err != nil {
		label := tn.label
		label.Peer = c.peer
		return &transport.OpError{Op: "migrate", Addr: label, Err: err}
	}
	return nil
}

// migrate does something about another path while nobody else does.
func (c *Conn) migrate(ctx context.Context, to way, do func(context.Context, way) error) error {
	switch {
	case !c.dialer:
		return fmt.Errorf("only the side that dialled a QUIC connection can move it: %w", errors.ErrUnsupported)
	case to.tunnel != nil && (to.tunnel.l.socket != c.socket || to.tunnel.closed.Load()):
		return errors.New("the tunnel is closed, or ends at another port than the connection's")
	case to.tunnel == nil && (!to.addr.IsValid() || to.addr.Port() == 0 || to.addr.Addr().IsUnspecified() || !c.socket.suits(to.addr.Addr())):
		return fmt.Errorf("%w for the connection's port, %s", transport.ErrBadAddr, c.socket.local)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, c.t.conf.HandshakeTimeout, silence{c.t.conf.HandshakeTimeout})
	defer cancel()
	ctx, ended := context.WithCancelCause(ctx)
	defer ended(nil)
	defer context.AfterFunc(c.ctx, func() { ended(context.Cause(c.ctx)) })()
	select {
	case c.route.moving <- struct{}{}:
		defer func() { <-c.route.moving }()
	case <-ctx.Done():
		return c.migrateEnded(ctx)
	}
	if ctx.Err() != nil {
		return c.migrateEnded(ctx)
	}
	return do(ctx, to)
}

// switchTo moves the connection to a path that it opens.
func (c *Conn) switchTo(ctx context.Context, to way) error {
	r := &c.route
	next, err := c.probe(ctx, to)
	if err == nil {
		err = r.sides[next-1].path.Switch()
	}
	if err != nil {
		return err
	}
	r.drop(r.standby)
	r.standby = r.active
	c.moved(next)
	return nil
}

// probe opens a path over a free side and returns its place when the peer has answered.
func (c *Conn) probe(ctx context.Context, to way) (place int, err error) {
	r := &c.route
	for place = 1; place == r.active || place == r.standby; {
		place++
	}
	sd := r.sides[place-1]
	if sd == nil {
		sd = newSide(c.socket.conn)
		r.sides[place-1] = sd
	}
	sd.to.Store(&to)
	if sd.path, err = c.quic.AddPath(sd.quic); err != nil {
		return 0, err
	}
	if err = sd.path.Probe(ctx); err != nil {
		sd.path.Close()
		if ctx.Err() != nil {
			err = c.migrateEnded(ctx)
		}
		return 0, err
	}
	return place, nil
}

// drop closes a path that is not in use.
func (r *route) drop(place int) {
	if place > 0 {
		r.sides[place-1].path.Close()
	}
}

// moved notes that a side is in use from now on.
func (c *Conn) moved(place int) {
	r := &c.route
	r.active = place
	r.dialled.Store(r.sides[place-1].to.Load())
	c.wake()
}

// wake makes quic-go take a path that it was told to switch to: it does when its loop runs next. Closing a path, here one that is
// nowhere used, makes it run.
func (c *Conn) wake() {
	r := &c.route
	if p, err := c.quic.AddPath(r.sides[r.active-1].quic); err == nil {
		p.Close()
	}
}

// renew takes the path in use anew if the peer is heard after a flip, but not what was sent at the flip: no path carried anything
// then. quic-go would learn of that only by its time-out, which is long by then, and takes it for a sign that the path is crowded.
// On a path that is taken anew all is sent again at once, and as fast as on a new one (RFC 9000, section 9.4).
func (c *Conn) renew() {
	r := &c.route
	select {
	case r.moving <- struct{}{}:
		defer func() { <-r.moving }()
	case <-c.ctx.Done():
		return
	}
	if c.ctx.Err() != nil {
		return
	}
	now, next := c.quic.ConnectionStats(), renewEvery
	if now.PacketsReceived != r.taken.PacketsReceived {
		acknowledged := now.MeanDeviation != 0 || now.LatestRTT != initialRTT
		if acknowledged && 2*(now.PacketsLost-r.taken.PacketsLost) <= now.PacketsSent-r.taken.PacketsSent {
			return
		}
		if r.sides[r.active-1].path.Switch() == nil {
			c.wake()
		}
		r.taken = now
		r.pause *= 2 // the peer may be that far away
		next = r.pause
	}
	r.renewal.Reset(next)
}

// Standby implements [transport.Migrator]. It opens a path by the tunnel beside the one in use, and returns when the peer has
// answered by it; errors are those of [Conn.MigrateTunnel]. [Conn.Flip] then moves the connection there at once, which Migrate
// cannot on a path that is dead: there QUIC holds back whatever is not a repetition.
func (c *Conn) Standby(ctx context.Context, tunnel transport.Tunnel) error {
	return c.byTunnel(ctx, tunnel, func(ctx context.Context, to way) error {
		place, err := c.probe(ctx, to)
		if err == nil {
			c.route.drop(c.route.standby)
			c.route.standby = place
		}
		return err
	})
}

// Flip implements [transport.Migrator]. It moves the connection to the path on standby without asking, and keeps the one left on
// standby unless it is the one dialled. It fails if there is no path on standby, or while the connection is being moved otherwise.
func (c *Conn) Flip() error {
	r := &c.route
	select {
	case r.moving <- struct{}{}:
		defer func() { <-r.moving }()
	default:
		if c.ctx.Err() != nil {
			return context.Cause(c.ctx)
		}
		return errMoving
	}
	if c.ctx.Err() != nil {
		return context.Cause(c.ctx)
	}
	if r.standby == 0 {
		return errNoStandby
	}
	if err := r.sides[r.standby-1].path.Switch(); err != nil {
		return err
	}
	left := r.active
	c.moved(r.standby)
	r.standby = left
	r.taken, r.pause = c.quic.ConnectionStats(), renewAfter
	if r.renewal == nil {
		r.renewal = time.AfterFunc(r.pause, c.renew)
	} else {
		r.renewal.Reset(r.pause)
	}
	return nil
}

var (
	errMoving    = errors.New("quic: the connection is being moved")
	errNoStandby = errors.New("quic: the connection has no path on standby")
)

// migrateEnded says why a migration was given up whose context has ended.
func (c *Conn) migrateEnded(ctx context.Context) error {
	if c.ctx.Err() != nil {
		return context.Cause(c.ctx)
	}
	return dialEnded(ctx)
}

// endSides ends the sides when the connection has ended.
func (c *Conn) endSides() {
	c.route.moving <- struct{}{} // whoever has it gives it up, as the connection has ended; nobody gets it after us
	if c.route.renewal != nil {
		c.route.renewal.Stop()
	}
	for _, s := range c.route.sides {
		if s != nil {
			s.quic.Close()
		}
	}
}
