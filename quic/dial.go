package quic

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"syscall"
	"time"

	quicgo "github.com/quic-go/quic-go"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/transport"
)

const (
	maxTargets = 8                      // of the addresses that a DNS name has
	raceDelay  = 250 * time.Millisecond // between one attempt and the next (RFC 8305 §8)
)

// silence is the error of a Dial that nobody answered in time.
type silence struct{ after time.Duration }

func (e silence) Error() string { return "no answer within " + e.after.String() }
func (e silence) Timeout() bool { return true }

// Is makes it a deadline that has passed.
func (e silence) Is(target error) bool { return target == os.ErrDeadlineExceeded }

// Dial implements [transport.Transport]. It takes at most Config.HandshakeTimeout. It fails early when the network says
// that the address cannot be reached or, as far as the system tells it (Linux does), that nobody listens there. A DNS
// name may have several addresses: they are raced (RFC 8305), and if all fail, the error has the reasons of all.
func (t *Transport) Dial(ctx context.Context, addr transport.Addr) (transport.Conn, error) {
	c, err := t.dial(ctx, addr)
	if err != nil {
		return nil, &transport.OpError{Op: "dial", Addr: addr, Err: err}
	}
	return c, nil
}

func (t *Transport) dial(ctx context.Context, addr transport.Addr) (*Conn, error) {
	ctx, end, err := t.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	ctx, cancel := context.WithTimeoutCause(ctx, t.conf.HandshakeTimeout, silence{t.conf.HandshakeTimeout})
	defer cancel()
	targets, err := t.resolve(ctx, addr)
	err = transport.PhaseResolve.In(err)
	if err == nil && len(targets) == 1 {
		var c *Conn
		if c, err = t.dialOne(ctx, addr, targets[0]); err == nil {
			return c, nil
		}
	} else if err == nil {
		return t.race(ctx, addr, interleave(targets))
	}
	return nil, err
}

// interleave takes IPv6 and IPv4 addresses by turns (RFC 8305 §4), up to maxTargets.
func interleave(targets []netip.AddrPort) []netip.AddrPort {
	var families [2][]netip.AddrPort
	for _, a := range targets {
		i := 0
		if a.Addr().Is4() {
			i = 1
		}
		families[i] = append(families[i], a)
	}
	var out []netip.AddrPort
	for i := 0; len(out) < min(len(targets), maxTargets); i++ {
		for _, f := range families {
			if i < len(f) && len(out) < maxTargets {
				out = append(out, f[i])
			}
		}
	}
	return out
}

// race dials the targets, each a little after the one before or when that has failed, and returns the first connection.
func (t *Transport) race(ctx context.Context, addr transport.Addr, targets []netip.AddrPort) (*Conn, error) {
	type result struct {
		c   *Conn
		err error
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	results := make(chan result)
	var (
		winner   *Conn
		errs     []error
		next     int
		underWay int
		timer    = time.NewTimer(0)
	)
	defer timer.Stop()
	for underWay > 0 || winner == nil && next < len(targets) {
		start := timer.C
		if winner != nil || next == len(targets) {
			start = nil
		}
		select {
		case <-start:
			target := targets[next]
			next++
			underWay++
			go func() {
				c, err := t.dialOne(ctx, addr, target)
				if err != nil {
					err = fmt.Errorf("%s: %w", target, err)
				}
				results <- result{c, err}
			}()
			timer.Reset(raceDelay)
		case r := <-results:
			underWay--
			switch {
			case r.err != nil:
				errs = append(errs, r.err)
				timer.Reset(0)
			case winner == nil:
				winner = r.c
				cancel()
			default:
				r.c.CloseWithError(transport.CodeCancelled, "another address was faster")
			}
		}
	}
	if winner != nil {
		return winner, nil
	}
	return nil, errors.Join(errs...)
}

// dialOne dials one address.
func (t *Transport) dialOne(ctx context.Context, addr transport.Addr, target netip.AddrPort) (*Conn, error) {
	if target.Addr().IsUnspecified() {
		// "This host", as the address of a listener on all interfaces has it: loopback reaches it.
		loopback := netip.IPv6Loopback()
		if target.Addr().Is4() {
			loopback = netip.AddrFrom4([4]byte{127, 0, 0, 1})
		}
		target = netip.AddrPortFrom(loopback, target.Port())
	}
	if target.Port() == 0 {
		return nil, fmt.Errorf("%w to dial: the port is 0", transport.ErrBadAddr)
	}
	s, err := t.socketFor(ctx, target.Addr())
	if err != nil {
		return nil, err
	}
	c, err := t.dialOn(ctx, s, addr, way{addr: target})
	if err != nil {
		t.release(s, nil)
		phase := transport.PhaseHandshake
		var system syscall.Errno
		if errors.As(err, &system) {
			phase = transport.PhaseConnect // the network, or the peer's machine, says that nobody is there
		}
		return nil, phase.In(err)
	}
	return c, nil
}

// dialOn dials from the socket s, which the connection keeps.
func (t *Transport) dialOn(ctx context.Context, s *socket, addr transport.Addr, to way) (*Conn, error) {
	tlsConf, err := t.key.ClientTLS(alpn, addr.Peer)
	if err != nil {
		return nil, err
	}
	session := t.sessions.dial(addr.Peer, addr.HostPort)
	session.watch(tlsConf)
	conf := t.conf.quic()
	conf.HandshakeIdleTimeout = 2 * t.conf.HandshakeTimeout // ctx ends before that
	conf.TokenStore = tokens{session}
	if to.tunnel != nil {
		conf.InitialPacketSize = tunnelPacket
	}

	dctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := s.watch(to.addr, cancel)
	q, err := s.quic.Dial(dctx, to.udp(), tlsConf, conf)
	stop()
	switch {
	case err == nil:
	case t.ctx.Err() != nil:
		return nil, transport.ErrClosed
	case ctx.Err() != nil:
		return nil, dialEnded(ctx)
	case dctx.Err() != nil:
		return nil, context.Cause(dctx)
	default:
		return nil, dialError(err, addr.Peer)
	}
	return t.newConn(q, s, &to, session.confirmed)
}

// dialEnded returns why the context of a dial has ended.
func dialEnded(ctx context.Context) error {
	cause := context.Cause(ctx)
	var s silence
	if errors.As(cause, &s) {
		return cause
	}
	return ctxError(ctx)
}

// socketFor returns a socket that can reach remote, with one user more: a listener's, or else the one for dialling.
func (t *Transport) socketFor(ctx context.Context, remote netip.Addr) (*socket, error) {
	if s := t.suitable(remote); s != nil {
		return s, nil
	}
	t.opening.Lock()
	defer t.opening.Unlock()
	if s := t.suitable(remote); s != nil {
		return s, nil // opened while we waited
	}
	local := netip.IPv6Unspecified()
	if remote.Is4() {
		local = netip.IPv4Unspecified()
	}
	s, err := t.open(ctx, netip.AddrPortFrom(local, 0), nil)
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	s.users++ // the transport itself
	s.dialer = true
	return s, nil
}

// suitable returns a socket that can reach remote: a listener's if there is one. The sockets that closed listeners have
// left get nothing new to do, so that they end.
func (t *Transport) suitable(remote netip.Addr) *socket {
	t.mu.Lock()
	defer t.mu.Unlock()
	var best *socket
	for s := range t.sockets {
		if s.suits(remote) && (s.listener != nil || s.dialer && best == nil) {
			best = s
		}
	}
	if best != nil {
		best.users++
	}
	return best
}

// newConn makes a connection of one whose handshake is done, dialled by a way or accepted. It takes over the caller's use of s, unless it fails.
func (t *Transport) newConn(q *quicgo.Conn, s *socket, dialled *way, confirmed <-chan struct{}) (*Conn, error) {
	state := q.ConnectionState()
	peer, err := identity.PeerID(state.TLS)
	if err != nil {
		q.CloseWithError(quicgo.ApplicationErrorCode(transport.CodeInternal), "")
		return nil, err
	}
	c := &Conn{
		t:         t,
		quic:      q,
		socket:    s,
		peer:      peer,
		local:     t.addr(q.LocalAddr(), t.id),
		dialer:    dialled != nil,
		resumed:   state.TLS.DidResume,
		datagrams: state.SupportsDatagrams.Remote,
		confirmed: confirmed,
		done:      make(chan struct{}),
	}
	c.route.moving = make(chan struct{}, 1)
	c.route.dialled.Store(dialled)
	c.remoteAddr() // keeps the label of a tunnel
	c.ctx, c.cancel = context.WithCancelCause(context.Background())
	t.mu.Lock()
	if t.ended {
		t.mu.Unlock()
		q.CloseWithError(quicgo.ApplicationErrorCode(transport.CodeShutdown), "")
		return nil, transport.ErrClosed
	}
	t.conns[c] = struct{}{}
	t.wg.Add(1)
	t.mu.Unlock()
	context.AfterFunc(q.Context(), c.ended)
	return c, nil
}
