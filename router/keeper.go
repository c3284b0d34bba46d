package router

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/protocol/greeting"
	"github.com/Blockchain-CN/pheromones/transport"
)

// keeper is what keeps links with wanted peers up and lets go of those that nobody needs. Once a second, as long as there are
// links or wanted peers, it looks at all of them. It is guarded by Router.mu.
type keeper struct {
	timer   *time.Timer // nil before the first tick was asked for; it is one of Router.running while it is set
	set     bool
	last    time.Time // of the latest tick
	network string    // what the machine's addresses were then
	swept   time.Time // when what is stale was last looked for
	dialing int       // dials of its own
}

const (
	// tick is how often the keeper looks.
	tick = time.Second
	// lossPause is how soon it looks when a link with a wanted peer was lost.
	lossPause = 50 * time.Millisecond
	// probeTimeout is how long a link may take to answer a probe before it counts as dead; movingTimeout is for one whose path can
	// change (PA7). What comes from the peer meanwhile is as good as an answer, which may have to wait for much that was lost.
	probeTimeout  = 5 * time.Second
	movingTimeout = 10 * time.Second
	// sleptFor is a gap between two ticks that says that the machine has slept.
	sleptFor = 10 * tick
	// maxKeeping bounds the keeper's own dials at a time.
	maxKeeping = 32

	// lasting is how long a link must have lived for its address to count as good: a peer that closes each link soon is not
	// dialled again and again.
	lasting = 10 * time.Second

	backoffFirst = 500 * time.Millisecond
	backoffMax   = 30 * time.Second
)

// again returns what has become of an address that has failed once more. It is tried again, unasked, after a time that doubles
// up to half a minute, less a random part of up to a half, so that peers that lost each other together do not return together.
func (f failures) again(now time.Time, random float64) failures {
	wait := min(backoffFirst<<min(f.count, 16), backoffMax)
	wait -= time.Duration(random * float64(wait) / 2)
	return failures{f.count + 1, now, now.Add(wait)}
}

// fail notes that a dial at an address has failed, or a link was soon over, with mu held.
func (rt *route) fail(a transport.Addr) {
	if rt.failed == nil {
		rt.failed = make(map[transport.Addr]failures)
	}
	rt.failed[a] = rt.failed[a].again(time.Now(), rand.Float64())
}

// answered notes that a dial for a link has succeeded; whether the address is good, its life will tell. With mu held.
func (rt *route) answered(a transport.Addr) {
	if f, ok := rt.failed[a]; ok {
		rt.failed[a] = failures{count: f.count}
	}
}

// keepLocked makes the keeper look in a second, unless it does anyway; with mu held.
func (r *Router) keepLocked() { r.keepWithin(tick) }

// keepSoon makes it look at once, nearly; with mu held.
func (r *Router) keepSoon() {
	if r.keeper.set && r.keeper.timer.Stop() {
		r.running.Done()
		r.keeper.set = false
	}
	r.keepWithin(lossPause)
}

func (r *Router) keepWithin(d time.Duration) {
	k := &r.keeper
	if k.set || r.closed || r.leaving {
		return
	}
	k.set = true
	r.running.Add(1)
	if k.timer == nil {
		k.last = time.Now()
		k.network = network()
		k.timer = time.AfterFunc(d, r.keep)
	} else {
		k.timer.Reset(d)
	}
}

// network returns the addresses of this machine's interfaces, as one text.
func network() string {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return ""
	}
	var all []string
	for _, a := range addrs {
		all = append(all, a.String())
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

// keep is one look.
func (r *Router) keep() {
	defer r.running.Done()
	state := network()
	r.mu.Lock()
	defer r.mu.Unlock()
	k := &r.keeper
	k.set = false
	if r.closed {
		return
	}
	now := time.Now()
	why := ""
	switch {
	case now.Round(0).Sub(k.last.Round(0)) > sleptFor || now.Sub(k.last) > sleptFor:
		why = "the machine has slept"
	case state != k.network && state != "":
		why = "the addresses of this machine have changed"
	}
	k.last, k.network = now, state
	if why != "" {
		r.networkChanged(why)
	}
	if now.Sub(k.swept) >= sweepEvery {
		k.swept = now
		r.expire(now)
	}
	needed := false
	for id, rt := range r.routes {
		for _, l := range rt.links {
			needed = true
			r.keepLink(rt, l, now)
		}
		if rt.wanted() {
			needed = true
			r.keepPeer(id, rt, now)
		}
	}
	if needed {
		r.keepLocked()
	}
}

// networkChanged takes back what was concluded from failures in another place or at another time, and has every link prove
// that it works here and now; with mu held.
func (r *Router) networkChanged(why string) {
	r.emit(Event{Kind: NetworkChanged, Reason: why})
	for _, rt := range r.routes {
		clear(rt.failed)
		for _, l := range rt.links {
			l.probe()
		}
	}
	if r.cfg.NetworkChanged != nil {
		r.running.Add(1)
		go func() {
			defer r.running.Done()
			r.cfg.NetworkChanged()
		}()
	}
}

// probe asks the peer for a sign of life, with mu held.
func (l *link) probe() {
	if l.control.greeted && l.control.asked.IsZero() {
		l.control.asked, l.control.received = time.Now(), l.received()
		l.say(appendControl(nil, controlPing, 0, 0, 0, 0, 0, 0, 0, 0))
	}
}

// received returns how many packets have come on a link whose path can change; 0 if it cannot.
func (l *link) received() uint64 {
	m, ok := l.conn.(transport.Migrator)
	if !ok {
		return 0
	}
	_, n := m.Packets()
	return n
}

// dead reports whether a link has not answered a probe for long, with mu held.
func (l *link) dead(now time.Time) bool {
	c := &l.control
	if c.asked.IsZero() {
		return false
	}
	if n := l.received(); n != c.received {
		c.asked, c.received = now, n
	}
	timeout := probeTimeout
	if _, ok := l.conn.(transport.Migrator); ok {
		timeout = movingTimeout
	}
	return now.Sub(c.asked) > timeout
}

// keepLink looks after a link, with mu held.
func (r *Router) keepLink(rt *route, l *link, now time.Time) {
	idle := r.cfg.IdleTimeout
	if idle == 0 {
		idle = 5 * time.Minute
	}
	switch {
	case l.closing || l.ended:
	case l.dead(now):
		l.closing = true
		r.closeLink(l, transport.CodeTimeout, "it gave no sign of life")
	case l.consent && l.active == 0 && now.Sub(l.pledged) > stalePledge:
		// The peer has promised nothing in return, or counts otherwise.
		l.closing = true
		r.closeLink(l, transport.CodeSuperseded, "nothing has run on it for long")
	case idle > 0 && l.active == 0 && !rt.wanted() && !l.asking && now.Sub(l.quietSince()) > idle:
		r.retire(l)
	}
}

// stalePledge is how long a link that this side has given up is kept though nothing runs on it and the peer does not agree to
// its end.
const stalePledge = time.Minute

// quietSince returns since when nothing has run on the link, with mu held.
func (l *link) quietSince() time.Time {
	if l.quiet.IsZero() {
		return l.since
	}
	return l.quiet
}

// retire gives up a link that this side does not need, if the peer agrees; with mu held.
func (r *Router) retire(l *link) {
	l.asking = true
	if l.control.greeted {
		l.say(appendControl(nil, controlRetire))
		return
	}
	l.closing = true // the peer cannot be asked
	r.closeLink(l, transport.CodeIdle, "nothing has run on it for long")
}

// keepPeer dials a wanted peer that there is no link with, with mu held.
func (r *Router) keepPeer(id identity.ID, rt *route, now time.Time) {
	if rt.dialing != nil || rt.kept || r.leaving || r.keeper.dialing >= maxKeeping || rt.best() != nil {
		return
	}
	var due []transport.Addr
	for _, a := range append(r.candidates(rt), rt.away...) {
		if t := r.transports[a.Scheme]; t != nil && !t.Traits().OneStream && !rt.failed[a].until.After(now) && !slices.Contains(due, a) {
			due = append(due, a)
		}
	}
	if len(due) == 0 {
		return
	}
	rt.kept = true
	r.keeper.dialing++
	r.running.Add(1)
	go func() {
		defer r.running.Done()
		err := r.regain(id, due)
		r.mu.Lock()
		defer r.mu.Unlock()
		rt.kept = false
		r.keeper.dialing--
		if err != nil {
			r.log.Debug("router: a wanted peer was not reached", "peer", id, "err", err)
		}
	}()
}

// regain dials a wanted peer and greets it, since it may have been started anew and know nobody.
func (r *Router) regain(id identity.ID, due []transport.Addr) error {
	ctx, cancel := context.WithTimeout(r.ctx, r.cfg.dialTimeout()+r.cfg.raceDelay()*time.Duration(len(due)))
	defer cancel()
	r.mu.Lock()
	rt := r.routes[id]
	known := rt != nil && rt.known()
	r.mu.Unlock()
	if known {
		o := r.dialLong(ctx, id, due)
		if o.err != nil || r.cfg.Handler == nil || o.link == nil {
			return o.err
		}
		first, err := greeting.ConnectMessage(r.Self())
		if err != nil {
			return err
		}
		return r.Converse(ctx, id, first, r.cfg.Handler)
	}
	// It said that it leaves; now it is there again, or not.
	var errs []error
	for _, a := range due {
		if r.cfg.Handler == nil {
			break
		}
		a.Peer = id
		_, err := r.Add(ctx, a, r.cfg.Handler)
		if err == nil {
			return nil
		}
		r.note(id, a, false)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// room makes room for one more link, or reports that there is none; with mu held.
func (r *Router) room() bool {
	if r.links < r.cfg.maxLinks() {
		return true
	}
	var victim *link
	for _, rt := range r.routes {
		for _, l := range rt.links {
			if !l.closing && !rt.wanted() && l.active == 0 && (victim == nil || l.quietSince().Before(victim.quietSince())) {
				victim = l
			}
		}
	}
	if victim == nil {
		return false
	}
	victim.closing = true
	r.closeLink(victim, transport.CodeLimit, fmt.Sprintf("there are %d links, which is the limit", r.links))
	return true
}
