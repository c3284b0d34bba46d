package gossip

import (
	"encoding/binary"
	"math"
	"slices"
	"time"

	"github.com/Blockchain-CN/pheromones/identity"
)

const (
	treeAfter = int64(time.Minute) // an origin that is heard of twice within this gets a tree of its own
	maxHops   = HopsUnknown - 1
	maxDigest = 4 // frames of a digest
)

// trees is the broadcast's state. A tree is a set of eager neighbours at each node: what is new is sent to them at once, and
// announced to the others. An origin that speaks often has a tree of its own, which begins as a copy of the shared one and is
// then tuned to that origin; the others share a tree. A tree is two bytes of its origin's record: it needs no other bound.
type trees struct {
	shared set
	busy   float64 // broadcasts by the shared tree within the last second or so
	busyAt int64
	own    int // how many origins have a tree

	lazy    []*kept // waiting to be announced
	lazyAt  int64
	draft   uint32 // counts drafts of entries
	entries []Entry

	missing   map[MessageID]*missing
	order     []*missing // in the order in which they were announced; some may have come
	missingAt int64      // no missing message is due before

	digestAt   int64
	digestNext int // slot
}

// missing is a message that was announced and did not come yet.
type missing struct {
	id   MessageID
	due  int64
	from []announcer // not asked yet
	slot int         // of who announced it first, whose quota it is on; -1 if that neighbour is gone
	came bool
}

type announcer struct {
	id   identity.ID
	slot int8
	hops uint8
}

func (m *Machine) initTrees() {
	t := &m.trees
	t.missing = make(map[MessageID]*missing)
	t.lazyAt, t.missingAt = never, never
	t.digestAt = m.jitter(m.cfg.DigestInterval)
}

func (t *trees) wake() int64 { return min(t.lazyAt, t.missingAt, t.digestAt) }

// neighbourUp makes a new neighbour an edge of every tree, and tells it what is here.
func (m *Machine) neighbourUp(slot int) {
	t := &m.trees
	t.shared.add(slot)
	for _, o := range m.seen.origins {
		o.tree.add(slot)
	}
	m.digest(slot, 0)
}

// neighbourDown takes a neighbour out of everything.
func (m *Machine) neighbourDown(slot int) {
	t := &m.trees
	t.shared.remove(slot)
	for _, o := range m.seen.origins {
		o.tree.remove(slot)
	}
	for _, k := range m.store.all() {
		k.has.remove(slot)
		k.sent.remove(slot)
		if int(k.parent) == slot {
			k.parent = -1
		}
	}
	for _, w := range t.order {
		w.from = slices.DeleteFunc(w.from, func(a announcer) bool { return int(a.slot) == slot })
		if w.slot == slot {
			w.slot = -1
		}
	}
}

// useTree returns the set of eager neighbours for an origin's broadcasts.
func (m *Machine) useTree(o *origin) (eager *set, shared bool) {
	if !o.hasTree {
		return &m.trees.shared, true
	}
	return &o.tree, false
}

// grow gives an origin a tree of its own.
func (m *Machine) grow(o *origin) {
	if !o.hasTree {
		o.hasTree, o.tree = true, m.trees.shared
		m.trees.own++
	}
}

// payload handles a broadcast that a neighbour sent.
func (m *Machine) payload(slot int, p *Payload) {
	m.fig.PayloadReceived++
	msg := p.Message
	o := m.seen.origins[msg.ID.Origin]
	switch o.look(msg.ID.Incarnation, msg.ID.Seq) {
	case isSeen:
		m.duplicate(slot, p, o)
		return
	case isStale:
		m.fig.Dropped.Stale++
		return
	}
	if !m.acceptable(slot, p, o) {
		return
	}
	if o == nil {
		o = m.origin(msg.ID.Origin)
	}
	if !p.Shared && !o.hasTree {
		m.grow(o)
	}
	if msg.ID.Origin != m.self {
		m.fig.Delivered++
		m.fig.LastHops = p.Hops
		m.out.Deliver = append(m.out.Deliver, msg)
	}
	m.accept(msg, o, slot, p.Hops)
}

// acceptable reports whether a new broadcast is to be taken: whether it is in time, within the rates, and signed.
func (m *Machine) acceptable(slot int, p *Payload, o *origin) bool {
	msg, d := p.Message, &m.fig.Dropped
	born := msg.Born.UnixNano()
	n := &m.views.slots[slot]
	switch age := m.wall - born; {
	case len(msg.Data) > m.cfg.MaxData:
		d.TooLarge++
	case age > int64(m.cfg.MaxAge):
		d.Stale++
	case age < -int64(m.cfg.MaxAge):
		d.Future++
	case o == nil && born <= m.seen.floor, o != nil && born <= o.after:
		d.Forgotten++
	case o == nil && !n.origins.take(m.now, m.cfg.NewOriginRate, 1):
		d.NewOriginRate++
	case !m.cfg.Verify(msg):
		d.Forged++
		m.expel(n.ID) // honest ones verify what they pass on
	case o != nil && !o.rate.take(m.now, m.cfg.OriginRate, 1):
		d.OriginRate++
	default:
		return true
	}
	return false
}

// duplicate handles a broadcast that was there already: the edge is one too many for a tree.
func (m *Machine) duplicate(slot int, p *Payload, o *origin) {
	m.fig.Duplicates++
	if k := m.find(o, p.Message.ID.Incarnation, p.Message.ID.Seq); k != nil {
		k.has.add(slot)
		if int(k.parent) == slot {
			return // it was sent twice by the same
		}
	}
	name := identity.ID{}
	eager := &m.trees.shared
	if p.Shared && !m.mayPrune(p.Message.ID) {
		return
	}
	if !p.Shared {
		name = o.id
		m.grow(o)
		eager, _ = m.useTree(o)
	}
	eager.remove(slot)
	m.sendSlot(slot, &Prune{name})
}

// mayPrune reports whether a duplicate of that message may take an edge from the shared tree. Messages of several origins that
// travel around a circle at once meet at several of its edges: if each of them pruned its edge, the tree would fall apart. So
// of those that travel in the same second only about one may; which one, all nodes draw alike from its ID.
func (m *Machine) mayPrune(id MessageID) bool {
	x := binary.LittleEndian.Uint64(id.Origin[:]) ^ binary.LittleEndian.Uint64(id.Origin[8:])
	x = (x ^ id.Incarnation ^ id.Seq<<32) * 0x9e3779b97f4a7c15
	x = (x ^ x>>29) * 0xbf58476d1ce4e5b9
	return float64(x^x>>32)*m.sharedLoad() <= 1<<64
}

// sharedLoad returns how many broadcasts travelled by the shared tree within the last second, roughly.
func (m *Machine) sharedLoad() float64 {
	t := &m.trees
	if m.now > t.busyAt {
		t.busy *= math.Exp(-float64(m.now-t.busyAt) / 1e9)
		t.busyAt = m.now
	}
	return t.busy
}

func (m *Machine) find(o *origin, incarnation, seq uint64) *kept {
	if o == nil {
		return nil
	}
	l := o.life(incarnation)
	if l == nil {
		return nil
	}
	return l.find(seq)
}

// accept takes a new broadcast, that came by slot or is our own (-1): it is sent on, and kept.
func (m *Machine) accept(msg *Message, o *origin, slot int, hops uint8) {
	t := &m.trees
	if slot < 0 {
		m.fig.Broadcasts++
	}
	if o.heard > 0 && m.now-o.heard < treeAfter {
		m.grow(o)
	}
	o.heard, o.born = max(m.now, 1), max(o.born, msg.Born.UnixNano())
	l, dropped := o.mark(msg.ID.Incarnation, msg.ID.Seq, m.cfg.Window)
	for _, k := range dropped {
		m.store.discard(k)
	}
	k := &kept{msg: msg, origin: o, at: m.now, parent: int8(slot), hops: hops}
	k.has.add(slot)
	m.store.push(k)
	l.insert(k)

	eager, shared := m.useTree(o)
	eager.add(slot)
	if shared {
		t.busy = m.sharedLoad() + 1
	}
	w := t.missing[msg.ID]
	if w != nil {
		for _, a := range w.from {
			k.has.add(int(a.slot))
		}
	}
	if to := *eager &^ k.has; to != 0 {
		p := &Payload{msg, min(hops, maxHops-1) + 1, shared}
		for s := range to.all() {
			m.sendSlot(s, p)
		}
		k.sent = to
	}
	if m.views.live&^(k.has|k.sent) != 0 {
		if len(t.lazy) == 0 {
			t.lazyAt = m.now + int64(m.cfg.LazyDelay)
		}
		t.lazy = append(t.lazy, k)
	}
	if w != nil {
		for _, a := range w.from {
			m.improve(k, l, int(a.slot), a.hops)
		}
		m.came(w)
	}
	m.expire()
}

// improve makes a neighbour that is closer to the origin the parent in its tree (Plumtree, §3.8). The shared tree is left as it
// is: what shortens it for one origin lengthens it for another, and two such changes at once can tear it.
func (m *Machine) improve(k *kept, l *life, slot int, hops uint8) {
	o := k.origin
	// Only by the origin's latest message: depths of one message cannot make a circle.
	if hops == HopsUnknown || int(k.hops)-int(hops)-1 < m.cfg.OptimizeHops || k.parent < 0 || int(k.parent) == slot || k.moved ||
		k.msg.ID.Seq != l.top || !o.hasTree {
		return
	}
	k.moved = true
	m.fig.Optimizations++
	o.tree.add(slot)
	o.tree.remove(int(k.parent))
	m.sendSlot(slot, &Graft{[]Entry{{Origin: o.id, Incarnation: k.msg.ID.Incarnation, First: k.msg.ID.Seq, Hops: HopsUnknown}}})
	m.sendSlot(int(k.parent), &Prune{o.id})
}

// prune handles that a neighbour wants nothing by a tree.
func (m *Machine) prune(slot int, f *Prune) {
	if f.Origin.IsZero() {
		m.trees.shared.remove(slot)
		return
	}
	if o := m.seen.origins[f.Origin]; o != nil {
		m.grow(o)
		eager, _ := m.useTree(o)
		eager.remove(slot)
	}
}

// have handles announcements.
func (m *Machine) have(slot int, f *Have) {
	for i := range f.Entries {
		e := &f.Entries[i]
		o := m.seen.origins[e.Origin]
		for mask, seq := e.Mask, e.First; mask != 0; mask, seq = mask>>1, seq+1 {
			if mask&1 == 0 {
				continue
			}
			switch o.look(e.Incarnation, seq) {
			case isSeen:
				l := o.life(e.Incarnation)
				if k := l.find(seq); k != nil {
					k.has.add(slot)
					m.improve(k, l, slot, e.Hops)
				}
			case isNew:
				m.miss(slot, MessageID{e.Origin, e.Incarnation, seq}, e.Hops)
			}
		}
	}
}

// miss notes that a neighbour has a message that did not come here yet.
func (m *Machine) miss(slot int, id MessageID, hops uint8) {
	t := &m.trees
	n := &m.views.slots[slot]
	a := announcer{n.ID, int8(slot), hops}
	if w := t.missing[id]; w != nil {
		if !slices.ContainsFunc(w.from, func(b announcer) bool { return b.id == n.ID }) {
			w.from = append(w.from, a)
		}
		return
	}
	if len(t.missing) >= m.cfg.MaxMissing || n.missing >= max(1, m.cfg.MaxMissing/4) {
		m.fig.Dropped.Missing++
		return
	}
	w := &missing{id: id, due: m.now + int64(m.cfg.GraftTimeout), from: []announcer{a}, slot: slot}
	n.missing++
	t.missing[id] = w
	t.order = append(t.order, w)
	t.missingAt = min(t.missingAt, w.due)
}

// came ends the waiting for a message.
func (m *Machine) came(w *missing) {
	w.came = true
	delete(m.trees.missing, w.id)
	if w.slot >= 0 {
		m.views.slots[w.slot].missing--
		w.slot = -1
	}
}

// graft handles that a neighbour asks for messages, and to be an edge of a tree.
func (m *Machine) graft(slot int, f *Graft) {
	n := &m.views.slots[slot]
	for i := range f.Entries {
		e := &f.Entries[i]
		o := m.seen.origins[e.Origin]
		if o == nil {
			continue
		}
		if e.Shared {
			m.trees.shared.add(slot)
		} else {
			m.grow(o)
			eager, _ := m.useTree(o)
			eager.add(slot)
		}
		l := o.life(e.Incarnation)
		if l == nil {
			continue
		}
		for mask, seq := e.Mask, e.First; mask != 0; mask, seq = mask>>1, seq+1 {
			if mask&1 == 0 {
				continue
			}
			k := l.find(seq)
			if k == nil {
				continue
			}
			p := &Payload{k.msg, min(k.hops, maxHops-1) + 1, e.Shared}
			if !n.served.take(m.now, m.cfg.ServeRate, float64(p.Size())) {
				m.fig.Dropped.ServeRate++
				return
			}
			k.sent.add(slot)
			m.sendSlot(slot, p)
		}
	}
}

// tickTrees does what is due: announcements, messages that did not come, the digest.
func (m *Machine) tickTrees() {
	t := &m.trees
	m.expire()
	if m.now >= t.lazyAt {
		m.announce()
	}
	if m.now >= t.missingAt {
		m.chase()
	}
	if m.now >= t.digestAt {
		t.digestAt = m.jitter(m.cfg.DigestInterval)
		if live := m.views.live; live != 0 {
			for !live.has(t.digestNext % maxSlots) {
				t.digestNext++
			}
			m.digest(t.digestNext%maxSlots, 2*int64(m.cfg.GraftTimeout))
			t.digestNext = (t.digestNext + 1) % maxSlots
		}
	}
}

// announce tells the neighbours what they were not sent (IHAVE).
func (m *Machine) announce() {
	t := &m.trees
	t.lazyAt = never
	for s := range m.views.live.all() {
		m.beginDraft()
		for _, k := range t.lazy {
			if !k.gone && !k.has.has(s) && !k.sent.has(s) && !m.draft(k, k.hops) {
				m.sendDraft(s)
				m.draft(k, k.hops)
			}
		}
		if len(t.entries) > 0 {
			m.sendDraft(s)
		}
	}
	clear(t.lazy)
	t.lazy = t.lazy[:0]
}

// digest tells a neighbour what it is not known to have, of what came before age. It also shows that this node is there.
func (m *Machine) digest(slot int, age int64) {
	m.beginDraft()
	frames := 1
	for _, k := range m.store.all() {
		if m.now-k.at < age {
			break
		}
		if k.gone || k.has.has(slot) {
			continue
		}
		if !m.draft(k, HopsUnknown) {
			if frames++; frames > maxDigest {
				break
			}
			m.sendDraft(slot)
			m.draft(k, HopsUnknown)
		}
	}
	m.sendDraft(slot)
}

func (m *Machine) beginDraft() {
	m.trees.draft++
	m.trees.entries = m.trees.entries[:0]
}

// draft adds a message to the entries, and reports whether there was room.
func (m *Machine) draft(k *kept, hops uint8) bool {
	t := &m.trees
	l := k.origin.life(k.msg.ID.Incarnation)
	if k.origin.forgot || l == nil {
		return true
	}
	seq := k.msg.ID.Seq
	if l.draft == t.draft {
		if e := &t.entries[l.index]; e.Hops == hops && seq >= e.First && seq-e.First < 64 {
			e.Mask |= 1 << (seq - e.First)
			return true
		}
	}
	if len(t.entries) >= MaxEntries {
		return false
	}
	l.draft, l.index = t.draft, int32(len(t.entries))
	t.entries = append(t.entries, Entry{Origin: k.origin.id, Incarnation: k.msg.ID.Incarnation, First: seq, Mask: 1, Hops: hops})
	return true
}

// sendDraft sends the entries, and begins anew.
func (m *Machine) sendDraft(slot int) {
	m.sendSlot(slot, &Have{slices.Clone(m.trees.entries)})
	m.beginDraft()
}

// chase asks for the messages that should have come, each from one who has it.
func (m *Machine) chase() {
	t := &m.trees
	t.missingAt = never
	var asks [maxSlots][]Entry
	t.order = slices.DeleteFunc(t.order, func(w *missing) bool {
		if w.came {
			return true
		}
		if w.due > m.now {
			t.missingAt = min(t.missingAt, w.due)
			return false
		}
		if len(w.from) == 0 {
			m.came(w) // a digest will tell of it again
			return true
		}
		slot := int(w.from[0].slot)
		w.from = w.from[1:]
		w.due = m.now + int64(m.cfg.RetryTimeout)
		t.missingAt = min(t.missingAt, w.due)
		o := m.seen.origins[w.id.Origin]
		shared := o == nil || !o.hasTree
		if shared {
			t.shared.add(slot)
		} else {
			o.tree.add(slot)
		}
		list := asks[slot]
		if n := len(list); n > 0 {
			e := &list[n-1]
			if e.Origin == w.id.Origin && e.Incarnation == w.id.Incarnation && w.id.Seq >= e.First && w.id.Seq-e.First < 64 {
				e.Mask |= 1 << (w.id.Seq - e.First)
				return false
			}
		}
		asks[slot] = append(list, Entry{w.id.Origin, w.id.Incarnation, w.id.Seq, 1, HopsUnknown, shared})
		return false
	})
	for slot, entries := range asks {
		for part := range slices.Chunk(entries, MaxEntries) {
			m.fig.Grafts++
			m.sendSlot(slot, &Graft{part})
		}
	}
}
