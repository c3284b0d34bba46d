package portmap

import (
	"crypto/rand"
	"errors"
	"net/netip"
	"slices"
	"time"
)

const (
	probeGrace  = 300 * time.Millisecond // how long a better protocol is waited for when one has answered
	probeAgain  = 15 * time.Second       // after the first failure; doubled up to retryMax
	addAgain    = 30 * time.Second       // likewise
	retryMax    = 10 * time.Minute
	renewAgain  = 10 * time.Second // after a renewal that failed
	minLifetime = 30 * time.Second // what is granted for less is of no use
	maxLifetime = 24 * time.Hour   // what is granted for longer, or for ever, is renewed as if it were this
)

// op is what a task does.
type op int

const (
	opProbe op = iota
	opAdd
	opLook
	opRemove
)

// task is a request that the keeper wants made. done must be called with it.
type task struct {
	op       op
	protocol Protocol
	at       place
	mapping  *mapping // nil for a probe
	wish     wish
	bound    netip.Addr // of the socket
}

// change is news for the owner of a mapping.
type change struct {
	mapping *mapping
	outside netip.AddrPort // zero: none
}

// mapping is one that somebody wants. It is the keeper's.
type mapping struct {
	wish    wish
	bound   netip.Addr // of the socket
	changed func(netip.AddrPort)
	gone    chan struct{} // closed by the Mapper when all is over

	task      *task // under way
	released  bool
	held      bool // the router has it, or perhaps: by protocol
	protocol  Protocol
	granted   bool
	outside   netip.AddrPort
	expires   time.Time
	renew     time.Time
	look      time.Time
	retry     time.Time // when to try again if none is granted
	failures  int
	refused   [protocols]time.Time // until when a protocol is not asked, because it said no
	announced netip.AddrPort
}

// offer is what is known of one protocol at this place.
type offer struct {
	task     *task // a probe under way
	usable   bool
	since    time.Time // when it became usable
	retry    time.Time // when to probe, if it is not
	failures int
}

// keeper decides what to ask of the router and when. It does no I/O and looks at no clock; its methods must not be called at once.
type keeper struct {
	lifetime time.Duration // to ask for
	check    time.Duration // between two looks at a mapping
	at       place         // not valid: no gateway
	offers   [protocols]offer
	mappings []*mapping
	changes  []change   // for the Mapper to take
	dropped  []*mapping // likewise
}

// move tells where we are. What was mapped elsewhere is given up: that router cannot be reached.
func (k *keeper) move(at place) {
	if at == k.at {
		return
	}
	k.at = at
	k.offers = [protocols]offer{}
	for _, m := range slices.Clone(k.mappings) {
		m.task, m.held, m.granted, m.failures = nil, false, false, 0
		m.retry, m.refused = time.Time{}, [protocols]time.Time{}
		k.announce(m)
		k.settle(m)
	}
}

func (k *keeper) add(m *mapping) { k.mappings = append(k.mappings, m) }

// release ends a mapping. It is gone when the router has been told, if it has to be.
func (k *keeper) release(m *mapping) {
	m.released = true
	k.settle(m)
}

// drop forgets a mapping, whatever the router still does.
func (k *keeper) drop(m *mapping) {
	if i := slices.Index(k.mappings, m); i >= 0 {
		k.mappings = slices.Delete(k.mappings, i, i+1)
		k.dropped = append(k.dropped, m)
	}
}

// settle forgets a mapping that was released and about which nothing remains to be done.
func (k *keeper) settle(m *mapping) {
	if m.released && m.task == nil && !m.held {
		k.drop(m)
	}
}

// announce makes news of what the owner of a mapping does not know yet.
func (k *keeper) announce(m *mapping) {
	now := netip.AddrPort{}
	if m.granted && Public(m.outside.Addr()) {
		now = m.outside
	}
	if now != m.announced && !m.released {
		m.announced = now
		k.changes = append(k.changes, change{m, now})
	}
}

// poll returns what is to be done now, and when to call again at the latest: the zero time if nothing will come of itself.
func (k *keeper) poll(now time.Time) (tasks []task, next time.Time) {
	later := func(t time.Time) {
		if next.IsZero() || t.Before(next) {
			next = t
		}
	}
	due := func(t time.Time) bool {
		if t.After(now) {
			later(t)
			return false
		}
		return true
	}
	if !k.at.gateway.IsValid() {
		return nil, time.Time{}
	}
	seeking := slices.ContainsFunc(k.mappings, func(m *mapping) bool {
		return !m.released && k.mappable(m) && (!m.granted || !k.offers[m.protocol].usable)
	})
	for p := range k.offers {
		o := &k.offers[p]
		if seeking && o.task == nil && !o.usable && due(o.retry) {
			o.task = &task{op: opProbe, protocol: Protocol(p), at: k.at}
			tasks = append(tasks, *o.task)
		}
	}
	for _, m := range k.mappings {
		if m.granted && due(m.expires) {
			m.granted = false
			k.announce(m)
		}
		if m.task != nil {
			continue
		}
		switch {
		case m.released:
			m.task = k.ask(m, opRemove, m.protocol)
		case m.granted:
			if !k.offers[m.protocol].usable {
				continue // it is being looked for: then the mapping is looked after
			}
			if due(m.renew) {
				m.task = k.ask(m, opAdd, m.protocol)
			} else if due(m.look) {
				m.task = k.ask(m, opLook, m.protocol)
			}
		case k.mappable(m):
			if !due(m.retry) {
				continue
			}
			if p, ok := k.choose(m, now, later); ok {
				m.task = k.ask(m, opAdd, p)
			}
		}
		if m.task != nil {
			if m.task.op == opAdd {
				m.held, m.protocol = true, m.task.protocol
			}
			tasks = append(tasks, *m.task)
		}
	}
	return tasks, next
}

// mappable reports whether the router can send to the socket of a mapping.
func (k *keeper) mappable(m *mapping) bool { return m.bound.IsUnspecified() || m.bound == k.at.local }

func (k *keeper) ask(m *mapping, o op, p Protocol) *task {
	t := &task{op: o, protocol: p, at: k.at, mapping: m, wish: m.wish}
	t.wish.lifetime = k.lifetime
	if m.outside.IsValid() {
		t.wish.outside = m.outside.Port()
	}
	return t
}

// choose returns the protocol by which to ask for a mapping.
func (k *keeper) choose(m *mapping, now time.Time, later func(time.Time)) (Protocol, bool) {
	var first time.Time // when the first became usable
	for p := range k.offers {
		if o := k.offers[p]; o.usable && (first.IsZero() || o.since.Before(first)) {
			first = o.since
		}
	}
	for p := range k.offers {
		o := &k.offers[p]
		switch {
		case o.task != nil && !first.IsZero() && now.Before(first.Add(probeGrace)):
			later(first.Add(probeGrace)) // a better one may answer any moment
			return 0, false
		case o.usable && now.Before(m.refused[p]):
			later(m.refused[p])
		case o.usable:
			return Protocol(p), true
		}
	}
	return 0, false
}

// done takes what became of a task.
func (k *keeper) done(t task, g grant, err error, now time.Time) {
	if t.at != k.at {
		return // elsewhere, long ago
	}
	if t.op == opProbe {
		k.probed(t, g, err, now)
		return
	}
	m := t.mapping
	if m.task == nil || *m.task != t {
		return
	}
	m.task = nil
	switch {
	case t.op == opRemove:
		m.held = false
	case err == nil && g.outside.Port() == 0: // it is still there
		m.look = now.Add(k.check)
		m.outside = netip.AddrPortFrom(g.outside.Addr(), m.outside.Port())
	case err == nil:
		if g.lifetime > 0 && g.lifetime < minLifetime {
			k.refuse(m, t.protocol, now)
			break
		}
		if g.lifetime == 0 || g.lifetime > maxLifetime {
			g.lifetime = maxLifetime
		}
		m.granted, m.outside, m.failures = true, g.outside, 0
		m.expires, m.renew, m.look = now.Add(g.lifetime), now.Add(g.lifetime/2), now.Add(k.check)
	default:
		k.failed(m, t, err, now)
	}
	k.announce(m)
	k.settle(m)
}

func (k *keeper) probed(t task, g grant, err error, now time.Time) {
	o := &k.offers[t.protocol]
	o.task = nil
	if err != nil {
		o.retry = now.Add(min(probeAgain<<min(o.failures, 10), retryMax))
		o.failures++
		return
	}
	o.usable, o.since, o.failures = true, now, 0
	for _, m := range k.mappings {
		m.retry = time.Time{}
	}
}

// failed takes an error of a router: a refusal, or silence or nonsense, after which it is looked for anew.
func (k *keeper) failed(m *mapping, t task, err error, now time.Time) {
	var refusal *RefusedError
	refused := errors.As(err, &refusal)
	if o := &k.offers[t.protocol]; !refused && o.usable {
		o.usable, o.retry = false, now
	}
	switch {
	case t.op == opLook && !refused:
		m.look = now.Add(k.check)
	case m.granted && !refused:
		m.renew = now.Add(renewAgain) // it stands until it expires
	default:
		m.held = m.granted || !refused // the router may have done it all the same
		k.refuse(m, t.protocol, now)
	}
}

// refuse notes that a protocol did not give a mapping: another one is asked at once, and this one again later.
func (k *keeper) refuse(m *mapping, p Protocol, now time.Time) {
	m.granted, m.outside = false, netip.AddrPort{}
	m.refused[p] = now.Add(min(addAgain<<min(m.failures, 10), retryMax))
	m.failures++
	m.retry = now
}

// newWish returns a mapping to be asked for.
func newWish(network string, port uint16) wish {
	w := wish{network: network, inside: port, outside: port}
	rand.Read(w.nonce[:]) // never fails: see its documentation
	return w
}
