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
	"github.com/Blockchain-CN/pheromones/nat/relay"
	"github.com/Blockchain-CN/pheromones/protocol"
	"github.com/Blockchain-CN/pheromones/transport"
)

// migrating is a connection whose path can change.
type migrating interface {
	transport.Conn
	transport.Migrator
}

const (
	// suspect is how long nothing has been heard on a link on which something should be when the peer is asked for a sign of life.
	suspect = 200 * time.Millisecond
	// patience is how long that sign may take at least before the path counts as dead.
	patience = 350 * time.Millisecond
	// deadAfter is how long nothing is heard on any path before the link is closed.
	deadAfter = 10 * time.Second
	// migrateTimeout bounds one attempt to move a link to an address that has answered, or to a relay.
	migrateTimeout = time.Second
	// maxFlips is how often a silent link turns from a path to the other before a way through another relay is tried, and detourTimeout
	// bounds that: when the network is there again a flip shows it, and that should not have to wait.
	maxFlips      = 4
	detourTimeout = 500 * time.Millisecond
	// followTimeout bounds how long the peer may take to follow.
	followTimeout = 2 * time.Second
	// spareEvery is how often the spare lane is tried, which also keeps the relay from closing it.
	spareEvery = 20 * time.Second
	// improveFor is how long a better path is still looked for once there is one.
	improveFor = 600 * time.Millisecond
	// retryFirst and retryMax are the pauses between attempts at a direct path.
	retryFirst = 2 * time.Second
	retryMax   = time.Minute
)

// upgrade looks after the path of one link with a peer that can be reached through a relay, on the side that can move it: it moves
// it to a direct path as soon as there is one, and back to a relay when the direct path falls silent. All of it belongs to the
// goroutine of run, but inbox.
type upgrade struct {
	n     *Node
	c     migrating
	o     *outside
	s     transport.Stream
	inbox chan punch.Message // what the peer says; closed by the reader at the stream's end
	rest  []byte             // of a message that could not be written whole

	first    transport.Addr // the address through a relay that the link began at, or that was known then
	cur      lane           // that packets take
	spare    lane           // on standby; the zero lane: none
	probed   time.Time      // when something about the spare was last tried
	shown    transport.Addr // the path that watchers know
	why      string         // why it is no longer that
	flips    int            // since something was last heard
	detours  int            // that were tried
	punching *punching      // under way; nil: none
	offered  punch.Message  // what the peer was told of our addresses for it
	retry    time.Time      // when the next attempt is due while the link is relayed
	giveUpAt time.Time      // when the one under way is over
	failures int

	sent, received uint64
	heard          time.Time     // when something last came
	unanswered     time.Time     // since when packets have gone out after that; zero: none
	asked          time.Time     // when the peer was asked for a sign of life after that; zero: it was not
	rtt            time.Duration // of the last such question
}

// lane is a path of a link.
type lane struct {
	addr   transport.Addr   // as Info shows it
	tunnel transport.Tunnel // that we have made; nil if it is direct, or if the link began there
	end    func()           // ends the tunnel
	began  bool             // the link began there
}

// close ends a lane that is not used any more.
func (l lane) close() {
	if l.tunnel != nil {
		l.end()
	}
}

// kept returns the lane as it is once it has been left: that where the link began cannot be kept on standby.
func (l lane) kept() lane {
	if l.began {
		return lane{}
	}
	return l
}

// relayed reports whether the lane leads through a relay.
func (l lane) relayed() bool { return l.addr.Scheme == relay.Scheme }

// attached is called when a link has come up.
func (n *Node) attached(ctx context.Context, c transport.Conn) {
	info := c.Info()
	if !info.Dialer {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(c.Context(), cancel)()
	var meeting sync.WaitGroup
	defer meeting.Wait()
	if l := n.portDialer(); l != nil && n.cfg.Path == PathRelayAllowed {
		switch {
		case relayed(c):
			meeting.Go(func() { n.meet(ctx, c, l) })
		case n.joining.joined(info.RemotePeer) && n.cfg.Relay == nil:
			meeting.Go(func() { n.glimpse(ctx, l) }) // for when somebody is to be met
		}
	}
	m, ok := c.(migrating)
	if !ok {
		return
	}
	o := n.portOf(info.LocalAddr)
	if o == nil {
		return
	}
	first := info.RemoteAddr
	if first.Scheme != relay.Scheme {
		// Whoever can be dialled tells us how it sees us, so that we know when we want a direct path to somebody else.
		o.ask(ctx, m.Path())
		addrs := n.router.Addresses(info.RemotePeer)
		i := slices.IndexFunc(addrs, func(a transport.Addr) bool { return a.Scheme == relay.Scheme })
		if i < 0 {
			return // nothing leads around it
		}
		first = addrs[i]
	}
	if n.cfg.Path != PathRelayAllowed {
		return
	}
	u := &upgrade{
		n: n, c: m, o: o, first: first, cur: lane{addr: info.RemoteAddr, began: true}, shown: info.RemoteAddr, inbox: make(chan punch.Message, 8),
	}
	if err := u.run(ctx); err != nil && ctx.Err() == nil {
		n.log.Debug("pheromones: a link stays on its path", "peer", info.RemotePeer, "path", c.Info().RemoteAddr, "err", err)
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
		u.spare.close()
		if cur := u.cur; cur.end != nil {
			context.AfterFunc(u.c.Context(), cur.end) // the link may outlive the peer's interest in its path
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
	if u.cur.relayed() {
		u.offer(ctx)
		running.Go(func() { u.o.ask(ctx) })
	} else {
		u.sayMoved() // which opens the stream
		u.keepSpare(ctx)
	}
	timer := time.NewTimer(u.pause())
	defer timer.Stop()
	for {
		var works chan punch.Path
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
				u.giveUpAt = time.Now().Add(improveFor)
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

// offer begins an attempt at a direct path (PA1).
func (u *upgrade) offer(ctx context.Context) {
	u.giveUp()
	cfg := punch.Config{}
	rand.Read(cfg.Key[:])
	rand.Read(cfg.Session[:])
	cfg.Session[0] |= 0x80
	last := u.offered
	if u.offered = u.o.message(punch.Offer, cfg.Session, cfg.Key); !sameNetwork(last, u.offered) {
		u.failures = 0
	}
	u.failures++
	u.giveUpAt = time.Now().Add(punch.Lifetime)
	u.retry = u.giveUpAt.Add(min(retryFirst<<min(u.failures, 8), retryMax))
	if u.punching = u.o.punch(ctx, cfg, u.failures <= guessTries); u.punching != nil {
		u.say(u.offered)
	}
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
		u.punching.learn(m)
	case m.Type == punch.Follows && !u.asked.IsZero() && u.flips == 0:
		u.rtt = time.Since(u.asked)
	}
}

// direct moves the link to a path that works, and reports whether the peer has followed.
func (u *upgrade) direct(ctx context.Context, path punch.Path) bool {
	to := path.Remote
	var own lane
	ctx2, cancel := context.WithTimeout(ctx, migrateTimeout)
	err := u.migrate(ctx2, path, &own)
	cancel()
	if err != nil {
		u.n.log.Debug("pheromones: a direct path does not carry", "peer", u.cur.addr.Peer, "path", to, "err", err)
		return false
	}
	own.addr = u.c.Info().RemoteAddr
	u.moved(own, "a direct path was found")
	if err := u.await(ctx, to); err != nil {
		u.n.log.Debug("pheromones: the peer does not follow to a direct path", "peer", u.cur.addr.Peer, "path", to, "err", err)
		u.flip("the peer did not follow to the direct path")
		return false
	}
	u.failures = 0
	u.tell()
	u.keepSpare(ctx)
	return true
}

// migrate moves the link to a path that works. If it leads from a further socket that becomes own's tunnel.
func (u *upgrade) migrate(ctx context.Context, path punch.Path, own *lane) error {
	if path.Socket == 0 {
		return u.c.Migrate(ctx, path.Remote)
	}
	b, err := u.punching.take(path)
	if err != nil {
		return err
	}
	if err := u.c.MigrateTunnel(ctx, b.tunnel); err != nil {
		b.close()
		return err
	}
	own.tunnel, own.end = b.tunnel, b.close
	return nil
}

// moved notes that the link has moved to another lane by Migrate or MigrateTunnel. The one left is on standby, unless the link began there.
func (u *upgrade) moved(to lane, why string) {
	u.spare.close()
	u.spare = u.cur.kept()
	u.cur, u.why, u.probed = to, why, time.Now()
}

// flip moves the link to the spare lane at once, and reports whether there was one.
func (u *upgrade) flip(why string) bool {
	if err := u.c.Flip(); err != nil {
		return false
	}
	u.cur, u.spare, u.why = u.spare, u.cur.kept(), why
	u.flips++
	u.sayMoved()
	return true
}

// tell tells watchers of the path that carries now, if it is another than before.
func (u *upgrade) tell() {
	now := u.c.Info().RemoteAddr
	if now == u.shown {
		return
	}
	u.n.router.PathChanged(u.c, u.shown, u.why)
	u.shown = now
}

// keepSpare (PA4) sees to it that there is a lane through a relay on standby, as far as there are relays.
func (u *upgrade) keepSpare(ctx context.Context) {
	u.probed = time.Now()
	if u.spare.tunnel != nil {
		ctx, cancel := context.WithTimeout(ctx, migrateTimeout)
		defer cancel()
		if u.c.Standby(ctx, u.spare.tunnel) != nil {
			u.spare.close()
			u.spare = lane{}
		}
		return
	}
	for _, a := range u.relays() {
		if a == u.cur.addr {
			continue
		}
		if spare, ok := u.detour(ctx, a, u.c.Standby); ok {
			u.spare = spare
			return
		}
	}
}

// relays returns the addresses of the peer that lead through relays, that which the link began with first.
func (u *upgrade) relays() []transport.Addr {
	list := []transport.Addr{u.first}
	for _, a := range u.n.router.Addresses(u.first.Peer) {
		if a.Scheme == relay.Scheme && a != u.first {
			list = append(list, a)
		}
	}
	return list
}

// sayMoved tells the peer where packets go now.
func (u *upgrade) sayMoved() {
	u.say(punch.Message{Type: punch.Moved, Addrs: goesTo(u.c)})
}

// goesTo returns the address to which packets of a connection go; none if they go by a relay.
func goesTo(c migrating) []netip.AddrPort {
	at := c.Path()
	if to := c.Info().RemoteAddr; !at.IsValid() && to.Scheme != relay.Scheme {
		at, _ = netip.ParseAddrPort(to.HostPort) // by a further socket
	}
	if !at.IsValid() {
		return nil
	}
	return []netip.AddrPort{at}
}

// await tells the peer that the link has moved, until it has followed (PA3).
func (u *upgrade) await(ctx context.Context, to netip.AddrPort) error {
	ctx, cancel := context.WithTimeout(ctx, followTimeout)
	defer cancel()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	u.sayMoved()
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
				u.sayMoved()
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
		if u.flips > 0 {
			u.flips = 0
			u.tell()
			if u.cur.relayed() {
				u.offer(ctx)
				running.Go(func() { u.o.ask(ctx) })
			}
		}
	} else if sent != u.sent && u.unanswered.IsZero() {
		u.unanswered = now
	}
	u.sent, u.received = sent, received
	expecting := !u.unanswered.IsZero() || u.n.router.Busy(u.c)
	switch {
	case u.asked.IsZero() && expecting && now.Sub(u.heard) >= suspect:
		u.asked = now
		u.say(punch.Message{Type: punch.Ping})
		return
	case !u.asked.IsZero() && now.Sub(u.asked) >= max(patience, 3*u.rtt):
		u.silent(ctx)
		return
	case !u.asked.IsZero():
		return
	}
	switch {
	case now.Sub(u.probed) >= spareEvery && (u.spare.tunnel != nil || !u.cur.relayed() || len(u.relays()) > 1):
		u.keepSpare(ctx)
	case u.punching != nil && now.After(u.giveUpAt):
		u.giveUp()
	case !u.cur.relayed():
	case u.punching == nil && now.After(u.retry):
		u.offer(ctx)
		running.Go(func() { u.o.ask(ctx) })
	case u.punching != nil:
		if now := u.o.message(punch.Offer, u.offered.Session, u.offered.Key); !sameLook(now, u.offered) {
			u.offered = now
			u.say(now)
		}
	}
}

// silent does what can be done when the path carries nothing (PA5, PA7).
func (u *upgrade) silent(ctx context.Context) {
	why := "the direct path fell silent"
	if u.cur.relayed() {
		why = "the relay fell silent"
	}
	if time.Since(u.heard) >= deadAfter {
		u.c.CloseWithError(transport.CodeTimeout, "nothing was heard on any path")
		return
	}
	u.asked = time.Now()
	if u.flips < maxFlips && u.flip(why) {
		return
	}
	u.flips = 1 // after this, the spare gets another chance
	if relays := u.relays(); len(relays) > 0 {
		u.detours++
		ctx, cancel := context.WithTimeout(ctx, max(detourTimeout, 4*u.rtt))
		if to, ok := u.detour(ctx, relays[u.detours%len(relays)], u.c.MigrateTunnel); ok {
			u.moved(to, why)
		}
		cancel()
	}
	u.asked = time.Now()
	u.sayMoved()
}

// detour makes a tunnel through a relay and does something with it, and reports whether that was done.
func (u *upgrade) detour(ctx context.Context, a transport.Addr, do func(context.Context, transport.Tunnel) error) (lane, bool) {
	l, ok := u.o.listener.(transport.Tunneler)
	if !ok {
		return lane{}, false
	}
	ctx, cancel := context.WithTimeout(ctx, migrateTimeout)
	defer cancel()
	tunnel, end, err := u.n.detour(ctx, a, l)
	if err == nil {
		if err = do(ctx, tunnel); err == nil {
			return lane{addr: a, tunnel: tunnel, end: end}, true
		}
		end()
	}
	u.n.log.Debug("pheromones: a relay does not carry", "path", a, "err", err)
	return lane{}, false
}
