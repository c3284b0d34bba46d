package pheromones

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/Blockchain-CN/pheromones/nat/punch"
	"github.com/Blockchain-CN/pheromones/protocol"
	"github.com/Blockchain-CN/pheromones/transport"
)

// relayScheme is the scheme of addresses that lead through a relay.
const relayScheme = "relay"

// migrating is a connection whose path can change.
type migrating interface {
	transport.Conn
	transport.Migrator
}

// detourer is the transport of addresses that lead through a relay.
type detourer interface {
	// Tunnel makes a tunnel of l's port to the peer of addr, through the relay of addr. It does not wait for the peer.
	Tunnel(ctx context.Context, addr transport.Addr, l transport.Tunneler) (transport.Tunnel, error)
}

const (
	// suspect is how long nothing has been heard on a link on which something should be when the peer is asked for a sign of life.
	suspect = 250 * time.Millisecond
	// patience is how long that sign may take at least before the path counts as dead.
	patience = 450 * time.Millisecond
	// deadAfter is how long nothing is heard on any path before the link is closed.
	deadAfter = 10 * time.Second
	// migrateTimeout bounds one attempt to move a link to an address that has answered, or to a relay.
	migrateTimeout = time.Second
	// followTimeout bounds how long the peer may take to follow.
	followTimeout = 2 * time.Second
	// retryFirst and retryMax are the pauses between attempts at a direct path.
	retryFirst = 2 * time.Second
	retryMax   = time.Minute
)

// upgrade looks after the path of one link that began through a relay, on the side that can move it: it moves it to a direct path as soon as there is one, and back to a
// relay when the direct path falls silent. All of it belongs to the goroutine of run, but inbox.
type upgrade struct {
	n     *Node
	c     migrating
	o     *outside
	s     transport.Stream
	inbox chan punch.Message // what the peer says; closed by the reader at the stream's end
	rest  []byte             // of a message that could not be written whole

	label    transport.Addr   // the relay last used
	tunnel   transport.Tunnel // ours through it; nil if it is the one that the link began with
	punching *punching        // under way; nil: none
	offered  []netip.AddrPort // what the peer was told of our addresses for it
	retry    time.Time        // when the next attempt is due while the link is relayed
	failures int

	sent, received uint64
	heard          time.Time     // when something last came
	unanswered     time.Time     // since when packets have gone out after that; zero: none
	asked          time.Time     // when the peer was asked for a sign of life after that; zero: it was not
	rtt            time.Duration // of the last such question
}

// attached is called when a link has come up.
func (n *Node) attached(ctx context.Context, c transport.Conn) {
	info := c.Info()
	m, ok := c.(migrating)
	if !ok || !info.Dialer {
		return
	}
	o := n.portOf(info.LocalAddr)
	switch {
	case o == nil:
	case info.RemoteAddr.Scheme != relayScheme:
		// Whoever can be dialled tells us how it sees us, so that we know when we want a direct path to somebody else.
		o.ask(ctx, m.Path())
	case n.cfg.Path == PathRelayAllowed:
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(c.Context(), cancel)()
		u := &upgrade{n: n, c: m, o: o, label: info.RemoteAddr, inbox: make(chan punch.Message, 8)}
		if err := u.run(ctx); err != nil && ctx.Err() == nil {
			n.log.Debug("pheromones: a link stays on its path", "peer", info.RemotePeer, "path", c.Info().RemoteAddr, "err", err)
		}
	}
}

// run returns when the link has ended, or when the peer does not want to say more about its path.
func (u *upgrade) run(ctx context.Context) error {
	s, err := u.c.OpenStream(ctx)
	if err != nil {
		return err
	}
	u.s = s
	u.rest, _ = protocol.AppendService(nil, punch.Service)
	var running sync.WaitGroup
	defer running.Wait()
	defer func() {
		s.Reset(transport.CodeClosed)
		u.giveUp()
		if u.tunnel != nil {
			u.tunnel.Close()
		}
	}()
	running.Go(func() {
		defer close(u.inbox)
		for {
			m, err := punch.Read(s)
			if err != nil {
				return
			}
			select {
			case u.inbox <- m:
			case <-ctx.Done():
				return
			}
		}
	})
	u.heard = time.Now()
	u.offer(ctx)
	running.Go(func() { u.o.ask(ctx) })
	timer := time.NewTimer(u.pause())
	defer timer.Stop()
	for {
		var works chan netip.AddrPort
		if u.punching != nil {
			works = u.punching.works
		}
		select {
		case <-ctx.Done():
			return nil
		case m, ok := <-u.inbox:
			if !ok {
				return errors.New("the peer does not punch")
			}
			u.hear(m)
		case a := <-works:
			if u.direct(ctx, a) {
				u.giveUp()
			}
		case <-timer.C:
			u.tick(ctx, &running)
		}
		timer.Reset(u.pause())
	}
}

// pause returns how long the link is left alone.
func (u *upgrade) pause() time.Duration {
	switch {
	case u.punching != nil || !u.unanswered.IsZero() || !u.asked.IsZero():
		return 50 * time.Millisecond
	case u.n.router.Busy(u.c):
		return 100 * time.Millisecond
	}
	return 400 * time.Millisecond
}

// say writes a message. It does not wait for long: if the stream is stuck so is the path, and that shows otherwise.
func (u *upgrade) say(m punch.Message) {
	if len(u.rest) < 1024 {
		u.rest = m.Append(u.rest)
	}
	u.s.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
	n, _ := u.s.Write(u.rest)
	u.rest = u.rest[n:]
}

// offer begins an attempt at a direct path.
func (u *upgrade) offer(ctx context.Context) {
	u.giveUp()
	cfg := punch.Config{}
	rand.Read(cfg.Key[:])
	rand.Read(cfg.Session[:])
	cfg.Session[0] |= 0x80
	u.failures++
	u.retry = time.Now().Add(punch.Lifetime + min(retryFirst<<min(u.failures, 8), retryMax))
	if u.punching = u.o.punch(ctx, cfg); u.punching == nil {
		return
	}
	u.offered = u.o.candidates()
	u.say(punch.Message{Type: punch.Offer, Session: cfg.Session, Key: cfg.Key, Addrs: u.offered})
}

// giveUp ends the attempt under way.
func (u *upgrade) giveUp() {
	if u.punching != nil {
		u.punching.end()
		u.punching = nil
	}
}

// hear takes a message of the peer's.
func (u *upgrade) hear(m punch.Message) {
	switch {
	case m.Type == punch.Answer && u.punching != nil && m.Session == u.punching.session:
		u.punching.add(m.Addrs)
	case m.Type == punch.Follows && !u.asked.IsZero():
		u.rtt = time.Since(u.asked)
	}
}

// direct moves the link to an address of the peer's that works, and reports whether the peer has followed.
func (u *upgrade) direct(ctx context.Context, to netip.AddrPort) bool {
	from := u.c.Info().RemoteAddr
	ctx2, cancel := context.WithTimeout(ctx, migrateTimeout)
	err := u.c.Migrate(ctx2, to)
	cancel()
	if err == nil {
		err = u.await(ctx, to)
	}
	if err != nil {
		u.n.log.Debug("pheromones: a direct path does not carry", "peer", u.c.Info().RemotePeer, "path", to, "err", err)
		if u.c.Path().IsValid() {
			u.fallBack(ctx, "the peer did not follow to the direct path")
		}
		return false
	}
	u.failures = 0
	u.n.router.PathChanged(u.c, from, "a direct path was found")
	if u.tunnel != nil {
		u.tunnel.Close()
		u.tunnel = nil
	}
	return true
}

// await tells the peer that the link has moved, until it has followed.
func (u *upgrade) await(ctx context.Context, to netip.AddrPort) error {
	m := punch.Message{Type: punch.Moved}
	if to.IsValid() {
		m.Addrs = []netip.AddrPort{to}
	}
	ctx, cancel := context.WithTimeout(ctx, followTimeout)
	defer cancel()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	u.say(m)
	for n := 1; ; {
		select {
		case answer, ok := <-u.inbox:
			if !ok {
				return errors.New("the peer has closed the stream of its path")
			}
			if answer.Type == punch.Follows && (len(answer.Addrs) > 0) == to.IsValid() {
				u.heard, u.unanswered, u.asked = time.Now(), time.Time{}, time.Time{}
				return nil
			}
			u.hear(answer)
		case <-again.C:
			if n++; n < 10 || n%5 == 0 {
				u.say(m)
			}
		case <-ctx.Done():
			return fmt.Errorf("it did not follow within %v: %w", followTimeout, os.ErrDeadlineExceeded)
		}
	}
}

// tick looks whether the path is alive, and whether another attempt is due.
func (u *upgrade) tick(ctx context.Context, running *sync.WaitGroup) {
	now := time.Now()
	if len(u.rest) > 0 {
		u.say(punch.Message{Type: punch.Ping})
	}
	sent, received := u.c.Packets()
	if received != u.received {
		u.heard, u.unanswered, u.asked = now, time.Time{}, time.Time{}
	} else if sent != u.sent && u.unanswered.IsZero() {
		u.unanswered = now
	}
	u.sent, u.received = sent, received
	expecting := !u.unanswered.IsZero() || u.n.router.Busy(u.c)
	switch {
	case u.asked.IsZero() && expecting && now.Sub(u.heard) >= suspect:
		u.asked = now
		u.say(punch.Message{Type: punch.Ping})
	case !u.asked.IsZero() && now.Sub(u.asked) >= max(patience, 3*u.rtt):
		if now.Sub(u.heard) >= deadAfter {
			u.c.CloseWithError(transport.CodeTimeout, "nothing was heard on any path")
			return
		}
		if u.fallBack(ctx, "the path fell silent") {
			running.Go(func() { u.o.ask(ctx) })
		}
		return
	}
	switch {
	case u.c.Path().IsValid():
	case u.punching == nil && now.After(u.retry):
		u.offer(ctx)
		running.Go(func() { u.o.ask(ctx) })
	case u.punching != nil && now.After(u.retry.Add(-min(retryFirst<<min(u.failures, 8), retryMax))):
		u.giveUp()
	case u.punching != nil:
		if list := u.o.candidates(); !slices.Equal(list, u.offered) {
			u.offered = list
			u.say(punch.Message{Type: punch.Offer, Session: u.punching.session, Addrs: list})
		}
	}
}

// fallBack moves the link to a relay: the one last used or, if that was just in use, another that the peer can be reached through. It reports whether it has.
func (u *upgrade) fallBack(ctx context.Context, why string) bool {
	detours := u.n.detourer()
	l, ok := u.o.listener.(transport.Tunneler)
	if detours == nil || !ok {
		return false
	}
	from := u.c.Info().RemoteAddr
	via := []transport.Addr{u.label}
	for _, a := range u.n.router.Addresses(from.Peer) {
		if a.Scheme == relayScheme && a != u.label {
			via = append(via, a)
		}
	}
	if from.Scheme == relayScheme && len(via) > 1 {
		via = append(via[1:], via[0])
	}
	for _, a := range via {
		tunnel, err := u.detour(ctx, detours, l, a)
		if err != nil {
			u.n.log.Debug("pheromones: a relay does not carry", "path", a, "err", err)
			if _, received := u.c.Packets(); received != u.received {
				return false // the path was alive after all
			}
			continue
		}
		if u.tunnel != nil {
			u.tunnel.Close()
		}
		u.tunnel, u.label = tunnel, a
		u.await(ctx, netip.AddrPort{}) // if it does not follow soon, that shows as silence
		u.n.router.PathChanged(u.c, from, why)
		u.offer(ctx)
		return true
	}
	return false
}

func (u *upgrade) detour(ctx context.Context, d detourer, l transport.Tunneler, a transport.Addr) (transport.Tunnel, error) {
	ctx, cancel := context.WithTimeout(ctx, migrateTimeout)
	defer cancel()
	tunnel, err := d.Tunnel(ctx, a, l)
	if err != nil {
		return nil, err
	}
	if err := u.c.MigrateTunnel(ctx, tunnel); err != nil {
		tunnel.Close()
		return nil, err
	}
	return tunnel, nil
}

// detourer returns the transport through relays, or nil if there is none.
func (n *Node) detourer() detourer {
	for _, t := range n.cfg.Transports {
		if d, ok := t.(detourer); ok && t.Traits().Scheme == relayScheme {
			return d
		}
	}
	return nil
}
