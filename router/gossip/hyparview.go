package gossip

import (
	"slices"
	"time"

	"github.com/Blockchain-CN/pheromones/identity"
)

// How HyParView walks and samples; the values of the paper, §5.
const (
	walkLength    = 6 // of a ForwardJoin and a Shuffle
	passiveWalk   = 3 // a ForwardJoin with so many steps left leaves the joiner in a passive view
	shuffleActive = 3 // neighbours in a Shuffle
	shufflePass   = 4 // passive peers in a Shuffle

	askTimeout  = int64(3 * time.Second) // for the answer to a Join or Neighbor
	bridgePause = int64(5 * time.Second) // between neighbours made because of a Probe
	retryPause  = int64(time.Second)     // between the attempts of a node without neighbours
	askAttempts = 4                      // peers asked after a loss, and at each shuffle, while neighbours are missing
	maxContacts = 64                     // kept of what Join was given
	never       = int64(1<<63 - 1)
)

// views is the overlay's state: neighbours (the active view), other peers (the passive view), and who is being asked.
type views struct {
	slots    [maxSlots]neighbour
	live     set
	passive  []Contact
	contacts []Contact // of Join
	pending  []asked   // at most maxSlots
	attempts int       // left until the next loss or shuffle
	rooted   bool      // a peer that this node needed has accepted: it does not only know those that came to it

	shuffleAt int64
	retryAt   int64     // of fill
	bridgeAt  int64     // no earlier is another neighbour made because of a Probe
	shuffling bool      // the last shuffle has no answer yet
	last      []Contact // passive peers that were in it
	strangers bucket
	displace  bucket
}

// neighbour is a peer of the active view, with what it used of its rates.
type neighbour struct {
	Contact
	payloads, control, origins, served bucket
	missing                            int // announced by it first, and waited for
}

// asked is a Join or Neighbor that has no answer yet.
type asked struct {
	to       identity.ID
	until    int64
	join     bool
	displace bool // another neighbour gives way to it
}

func (m *Machine) initViews() {
	m.views.shuffleAt = m.jitter(m.cfg.ShuffleInterval)
	m.views.retryAt = never
}

// jitter returns a time from now, between half of d and one and a half.
func (m *Machine) jitter(d time.Duration) int64 {
	return m.now + int64(d)/2 + m.cfg.Random.Int64N(int64(d)+1)
}

func (v *views) wake() int64 {
	at := min(v.shuffleAt, v.retryAt)
	for i := range v.pending {
		at = min(at, v.pending[i].until)
	}
	return at
}

// isAsked reports whether a peer was asked and has not answered yet.
func (v *views) isAsked(id identity.ID) bool {
	return slices.ContainsFunc(v.pending, func(a asked) bool { return a.to == id })
}

// takeAsked removes what a peer was asked.
func (v *views) takeAsked(id identity.ID) (asked, bool) {
	for i, a := range v.pending {
		if a.to == id {
			v.pending = slices.Delete(v.pending, i, i+1)
			return a, true
		}
	}
	return asked{}, false
}

// slot returns the slot of a neighbour, or -1.
func (v *views) slot(id identity.ID) int {
	for s := range v.live.all() {
		if v.slots[s].ID == id {
			return s
		}
	}
	return -1
}

func (v *views) passiveIndex(id identity.ID) int {
	for i := range v.passive {
		if v.passive[i].ID == id {
			return i
		}
	}
	return -1
}

func (v *views) removePassive(id identity.ID) {
	if i := v.passiveIndex(id); i >= 0 {
		last := len(v.passive) - 1
		v.passive[i] = v.passive[last]
		v.passive[last] = Contact{}
		v.passive = v.passive[:last]
	}
}

// addPassive remembers a peer, in the place of one that was sent away in the last shuffle or else any other.
func (m *Machine) addPassive(c Contact) {
	v := &m.views
	if c.ID == m.self || c.ID.IsZero() || v.slot(c.ID) >= 0 {
		return
	}
	if i := v.passiveIndex(c.ID); i >= 0 {
		if len(c.Addrs) > 0 {
			v.passive[i] = c
		}
		return
	}
	if len(v.passive) < m.cfg.Passive {
		v.passive = append(v.passive, c)
		return
	}
	place := -1
	for place < 0 && len(v.last) > 0 {
		place = v.passiveIndex(v.last[len(v.last)-1].ID)
		v.last = v.last[:len(v.last)-1]
	}
	if place < 0 {
		place = m.cfg.Random.IntN(len(v.passive))
	}
	v.passive[place] = c
}

func (m *Machine) addContact(c Contact) {
	if !c.valid() || c.ID == m.self {
		return
	}
	list := m.views.contacts
	for i := range list {
		if list[i].ID == c.ID {
			list[i] = c
			return
		}
	}
	if len(list) < maxContacts {
		m.views.contacts = append(list, c)
		return
	}
	list[m.cfg.Random.IntN(len(list))] = c
}

// addSlot makes a peer a neighbour. There must be room.
func (m *Machine) addSlot(c Contact) {
	v := &m.views
	v.removePassive(c.ID)
	v.takeAsked(c.ID)
	slot := 0
	for v.live.has(slot) {
		slot++
	}
	v.slots[slot] = neighbour{Contact: c}
	v.live.add(slot)
	m.fig.NeighboursJoined++
	m.out.Up = append(m.out.Up, c)
	m.neighbourUp(slot)
}

// dropSlot makes a neighbour none.
func (m *Machine) dropSlot(slot int) Contact {
	v := &m.views
	c := v.slots[slot].Contact
	v.live.remove(slot)
	m.out.Gone = append(m.out.Gone, c.ID)
	m.neighbourDown(slot)
	v.slots[slot] = neighbour{}
	return c
}

// displaced parts with a neighbour, if need be, so that there is room for another. It reports whether there is.
func (m *Machine) displaced() bool {
	v := &m.views
	if v.live.count() < m.cfg.Active {
		return true
	}
	if !v.displace.take(m.now, m.cfg.DisplaceRate, 1) {
		m.fig.Dropped.Displace++
		return false
	}
	slot := v.live.nth(m.cfg.Random.IntN(v.live.count()))
	m.sendSlot(slot, &Disconnect{})
	m.addPassive(m.dropSlot(slot))
	return true
}

// lost handles that a peer cannot be reached.
func (m *Machine) lost(peer identity.ID) {
	v := &m.views
	if slot := v.slot(peer); slot >= 0 {
		m.dropSlot(slot)
		m.fig.NeighboursLost++
	}
	v.removePassive(peer)
	v.takeAsked(peer)
	v.attempts = askAttempts
	m.fill()
}

// expel parts with a peer that breaks the rules.
func (m *Machine) expel(peer identity.ID) {
	if m.views.slot(peer) >= 0 {
		m.send(Contact{ID: peer}, &Disconnect{Leaving: true})
	}
	m.lost(peer)
}

// ask sends a Join or Neighbor and waits for its answer.
func (m *Machine) ask(c Contact, join, urgent, displace bool) {
	v := &m.views
	if len(v.pending) >= maxSlots || v.isAsked(c.ID) {
		return
	}
	v.pending = append(v.pending, asked{c.ID, m.now + askTimeout, join, displace})
	if join {
		m.send(c, &Join{m.cfg.Self.Addrs})
	} else {
		m.send(c, &Neighbor{urgent, m.cfg.Self.Addrs})
	}
}

// fill asks peers to become neighbours while too few are, or being asked.
func (m *Machine) fill() {
	v := &m.views
	v.retryAt = never
	if m.left {
		return
	}
	if v.live == 0 {
		v.rooted = false
	}
	if v.live == 0 || !v.rooted && len(v.contacts) > 0 {
		m.rejoin()
		return
	}
	for v.live.count()+len(v.pending) < m.cfg.Active && v.attempts > 0 {
		c, ok := m.candidate(v.passive)
		if !ok {
			c, ok = m.candidate(v.contacts)
		}
		if !ok {
			return
		}
		v.attempts--
		// With few neighbours, and after others refused, somebody must give way.
		m.ask(c, false, v.attempts == 0 && v.live.count() < (m.cfg.Active+1)/2, false)
	}
}

// rejoin finds a way into the network: by contacts or, without neighbours, the passive view, one peer at a time. A node that
// peers came to, but that found none itself, goes on looking: else those who all miss the rest would be content with each other.
func (m *Machine) rejoin() {
	v := &m.views
	if len(v.pending) > 0 {
		return
	}
	known, contact := m.candidate(v.passive)
	if !contact || len(v.contacts) > 0 && (v.live != 0 || m.cfg.Random.IntN(2) == 0) {
		if c, ok := m.candidate(v.contacts); ok {
			m.ask(c, true, true, false)
			return
		}
	}
	if contact && v.live == 0 {
		m.ask(known, false, true, false)
		return
	}
	v.retryAt = m.now + retryPause
}

// candidate returns one of list, at random, that is not being asked and no neighbour.
func (m *Machine) candidate(list []Contact) (Contact, bool) {
	if len(list) == 0 {
		return Contact{}, false
	}
	for i, n := m.cfg.Random.IntN(len(list)), len(list); n > 0; n-- {
		c := list[i]
		if m.views.slot(c.ID) < 0 && !m.views.isAsked(c.ID) {
			return c, true
		}
		i = (i + 1) % len(list)
	}
	return Contact{}, false
}

// tickViews does what is due: unanswered questions, the next attempt, the shuffle.
func (m *Machine) tickViews() {
	v := &m.views
	late := false
	v.pending = slices.DeleteFunc(v.pending, func(a asked) bool {
		if a.until > m.now {
			return false
		}
		late = true
		v.removePassive(a.to)
		return true
	})
	if m.now >= v.shuffleAt {
		v.shuffleAt = m.jitter(m.cfg.ShuffleInterval)
		v.attempts = askAttempts
		late = true
		m.shuffle()
		m.probe()
	}
	if late || m.now >= v.retryAt {
		m.fill()
	}
}

// shuffle sends a sample of both views on a walk.
func (m *Machine) shuffle() {
	v := &m.views
	if v.live == 0 {
		return
	}
	slot := v.live.nth(m.cfg.Random.IntN(v.live.count()))
	var near []Contact
	for s := range v.live.all() {
		if s != slot {
			near = append(near, v.slots[s].Contact)
		}
	}
	v.last = m.sample(v.passive, shufflePass)
	sample := append(m.sample(near, shuffleActive), v.last...)
	v.shuffling = true
	m.sendSlot(slot, &Shuffle{m.cfg.Self, walkLength, sample})
}

// probe asks one that is no neighbour, of the passive view or the contacts, whether it is in the same network.
func (m *Machine) probe() {
	v := &m.views
	list := v.passive
	if len(list) == 0 || len(v.contacts) > 0 && m.cfg.Random.IntN(2) == 0 {
		list = v.contacts
	}
	if c, ok := m.candidate(list); ok {
		m.sendProbe(c, false)
	}
}

// sendProbe tells of what has been here for so long that all should have it: the latest of each origin.
// An answer that has nothing to tell is left out.
func (m *Machine) sendProbe(c Contact, answer bool) {
	m.beginDraft()
	all := m.store.all()
	for i := len(all) - 1; i >= 0; i-- {
		k := all[i]
		if k.gone || m.now-k.at < 3*int64(m.cfg.GraftTimeout) {
			continue
		}
		if l := k.origin.life(k.msg.ID.Incarnation); l.draft != m.trees.draft && !m.draft(k, HopsUnknown) {
			break
		}
	}
	if !answer || len(m.trees.entries) > 0 {
		m.send(c, &Probe{answer, slices.Clone(m.trees.entries)})
	}
}

// probed handles a Probe. What has been there for long and is unknown here should have come by the neighbours: they, and this
// node, are cut off, and the other becomes a neighbour, whatever it costs.
func (m *Machine) probed(from identity.ID, f *Probe) {
	v := &m.views
	if v.slot(from) >= 0 {
		return
	}
	if m.now >= v.bridgeAt && m.lacks(f.Entries) {
		v.bridgeAt = m.now + bridgePause
		m.ask(Contact{ID: from}, false, true, true)
	}
	if !f.Answer {
		m.sendProbe(Contact{ID: from}, true)
	}
}

// lacks reports whether one of the entries names a broadcast that is unknown here.
func (m *Machine) lacks(entries []Entry) bool {
	for _, e := range entries {
		o := m.seen.origins[e.Origin]
		for mask, seq := e.Mask, e.First; mask != 0; mask, seq = mask>>1, seq+1 {
			if mask&1 != 0 && o.look(e.Incarnation, seq) == isNew {
				return true
			}
		}
	}
	return false
}

// sample returns up to n of list, at random, in a slice of its own.
func (m *Machine) sample(list []Contact, n int) []Contact {
	n = min(n, len(list))
	picked := make([]Contact, 0, n+shufflePass)
	if len(list) == 0 {
		return picked
	}
	start := m.cfg.Random.IntN(len(list))
	step := 1
	if len(list) > n {
		step = 1 + m.cfg.Random.IntN(len(list)/max(n, 1))
	}
	for i := range n {
		picked = append(picked, list[(start+i*step)%len(list)])
	}
	return picked
}

// membership handles a frame about who is whose neighbour, of a neighbour or a stranger.
func (m *Machine) membership(from identity.ID, f Frame) {
	v := &m.views
	slot := v.slot(from)
	switch f := f.(type) {
	case *Join:
		m.join(Contact{from, f.Addrs})
	case *Neighbor:
		c := Contact{from, f.Addrs}
		switch {
		case slot >= 0:
			v.slots[slot].Addrs = f.Addrs
			m.answer(c, true)
		case v.live.count() < m.cfg.Active, f.Urgent && m.displaced():
			m.addSlot(c)
			m.answer(c, true)
		default:
			m.answer(c, false)
		}
	case *Reply:
		m.reply(from, f)
	case *Disconnect:
		if slot < 0 {
			break
		}
		c := m.dropSlot(slot)
		if !f.Leaving {
			m.addPassive(c)
		}
		v.attempts = askAttempts
		m.fill()
	case *ForwardJoin:
		if slot >= 0 {
			m.forwardJoin(slot, f)
		}
	case *Shuffle:
		if slot >= 0 {
			m.shuffled(slot, f)
		}
	case *ShuffleReply:
		if v.shuffling {
			v.shuffling = false
			for _, c := range f.Contacts {
				m.addPassive(c)
			}
			v.last = nil
		}
	case *Probe:
		m.probed(from, f)
	}
}

func (m *Machine) answer(c Contact, accept bool) {
	m.send(c, &Reply{Accept: accept, Addrs: m.cfg.Self.Addrs})
}

// join handles a Join: the peer becomes a neighbour, and its name goes on a walk from each of the others.
func (m *Machine) join(c Contact) {
	v := &m.views
	if v.slot(c.ID) < 0 {
		if !m.displaced() {
			m.send(c, &Reply{Addrs: m.cfg.Self.Addrs, Contacts: m.sample(v.passive, 2*shufflePass)})
			return
		}
		m.addSlot(c)
	}
	m.answer(c, true)
	var walk *ForwardJoin
	for s := range v.live.all() {
		if v.slots[s].ID != c.ID {
			if walk == nil {
				walk = &ForwardJoin{c, walkLength}
			}
			m.sendSlot(s, walk)
		}
	}
}

// reply handles the answer to a Join or Neighbor.
func (m *Machine) reply(from identity.ID, f *Reply) {
	v := &m.views
	a, pending := v.takeAsked(from)
	if pending && f.Accept && !a.displace {
		v.rooted = true
	}
	slot, c := v.slot(from), Contact{from, f.Addrs}
	switch {
	case slot >= 0 && f.Accept: // both asked at once
	case slot >= 0: // likewise, and then it took back what it had said
		m.addPassive(m.dropSlot(slot))
	case f.Accept && !pending: // too late
		m.send(c, &Disconnect{})
	case f.Accept && (v.live.count() < m.cfg.Active || a.displace && m.displaced()):
		m.addSlot(c)
	case f.Accept:
		m.send(c, &Disconnect{})
		m.addPassive(c)
	case pending && a.join:
		for _, c := range f.Contacts {
			m.addPassive(c)
		}
	}
	m.fill()
}

// forwardJoin moves a joining peer one step on.
func (m *Machine) forwardJoin(slot int, f *ForwardJoin) {
	v := &m.views
	if f.Joiner.ID == m.self {
		return
	}
	ttl := min(f.TTL, walkLength)
	others := v.live
	others.remove(slot)
	others.remove(v.slot(f.Joiner.ID))
	if ttl == 0 || others == 0 {
		if v.slot(f.Joiner.ID) < 0 {
			m.ask(f.Joiner, false, false, true)
		}
		return
	}
	if ttl == passiveWalk {
		m.addPassive(f.Joiner)
	}
	m.sendSlot(others.nth(m.cfg.Random.IntN(others.count())), &ForwardJoin{f.Joiner, ttl - 1})
}

// shuffled moves a Shuffle one step on, or ends its walk: then samples are exchanged.
func (m *Machine) shuffled(slot int, f *Shuffle) {
	v := &m.views
	if f.Origin.ID == m.self {
		return
	}
	others := v.live
	others.remove(slot)
	others.remove(v.slot(f.Origin.ID))
	if ttl := min(f.TTL, walkLength); ttl > 1 && others != 0 {
		m.sendSlot(others.nth(m.cfg.Random.IntN(others.count())), &Shuffle{f.Origin, ttl - 1, f.Contacts})
		return
	}
	m.send(f.Origin, &ShuffleReply{m.sample(v.passive, min(len(f.Contacts)+1, MaxContacts))})
	m.addPassive(f.Origin)
	for _, c := range f.Contacts {
		m.addPassive(c)
	}
}
