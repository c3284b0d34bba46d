package gossip

import (
	"cmp"
	"slices"

	"github.com/Blockchain-CN/pheromones/identity"
)

// seen remembers which broadcasts came: for each origin its latest lives, and of each a window of seqs. An origin that is forgotten
// leaves a mark behind: broadcasts of origins that are not remembered, or were not at some time since, must be born after floor,
// which is when the youngest broadcast of any that was forgotten was born. So nothing comes twice, at the cost of refusing some
// that never came.
type seen struct {
	origins map[identity.ID]*origin
	floor   int64 // nanoseconds since 1970
	own     bucket
	seq     uint64 // of this node's latest broadcast
}

// origin is what is remembered of one that broadcasts.
type origin struct {
	id      identity.ID
	lives   [2]life // the latest one, and the one before
	born    int64   // of its youngest broadcast, in nanoseconds since 1970
	after   int64   // what was born up to then may have come before this record was made
	heard   int64   // when its latest broadcast came; 0 before the first
	rate    bucket
	tree    set  // its eager neighbours, if hasTree
	hasTree bool // it does not use the shared tree, and will not until it is forgotten
	forgot  bool // it is no longer in seen
}

// life is what is remembered of one incarnation of an origin.
type life struct {
	incarnation uint64
	top         uint64   // the highest seq seen
	latest      *kept    // the broadcast of that seq, while it is kept: nearly all frames are about it
	base        uint64   // a multiple of 64; what is below counts as seen
	bits        []uint64 // of the seqs from base
	kept        []*kept  // ordered by seq
	draft       uint32   // the last draft with an entry for this life, and where
	index       int32
}

// verdict says whether a broadcast is new.
type verdict int

const (
	isNew verdict = iota
	isSeen
	isStale
)

// life returns the life of that incarnation, or nil.
func (o *origin) life(incarnation uint64) *life {
	for i := range o.lives {
		if o.lives[i].incarnation == incarnation && o.lives[i].top > 0 {
			return &o.lives[i]
		}
	}
	return nil
}

// look says whether a broadcast of o is new. o may be nil.
func (o *origin) look(incarnation, seq uint64) verdict {
	if o == nil {
		return isNew
	}
	l := o.life(incarnation)
	switch {
	case l == nil && o.lives[1].top > 0 && incarnation < o.lives[1].incarnation:
		return isStale
	case l == nil || seq > l.top:
		return isNew
	case seq == l.top:
		return isSeen
	case seq < l.base:
		return isStale
	case l.bits[(seq-l.base)/64]&(1<<(seq%64)) != 0:
		return isSeen
	}
	return isNew
}

// mark makes a new broadcast a seen one, with a window of that many seqs, and returns its life. What falls out of the window
// counts as seen.
func (o *origin) mark(incarnation, seq uint64, window int) (current *life, dropped []*kept) {
	l := o.life(incarnation)
	if l == nil {
		// The third life, or the second if it is the oldest, gives way.
		place := 1
		if incarnation > o.lives[0].incarnation || o.lives[0].top == 0 {
			dropped = o.lives[1].kept
			o.lives[1] = o.lives[0]
			place = 0
		} else {
			dropped = o.lives[1].kept
		}
		o.lives[place] = life{incarnation: incarnation}
		l = &o.lives[place]
	}
	l.top = max(l.top, seq)
	words := uint64(window / 64)
	for (seq-l.base)/64 >= uint64(len(l.bits)) {
		if uint64(len(l.bits)) < words {
			l.bits = append(l.bits, 0)
			continue
		}
		ahead := (seq-l.base)/64 - words + 1 // how far the window moves on
		if ahead >= words {
			clear(l.bits)
		} else {
			copy(l.bits, l.bits[ahead:])
			clear(l.bits[words-ahead:])
		}
		l.base += ahead * 64
	}
	l.bits[(seq-l.base)/64] |= 1 << (seq % 64)
	return l, dropped
}

// find returns what is kept of a life's broadcast, or nil.
func (l *life) find(seq uint64) *kept {
	if seq == l.top {
		return l.latest
	}
	i, ok := l.place(seq)
	if !ok {
		return nil
	}
	return l.kept[i]
}

// place returns where a seq is, or belongs, among what is kept.
func (l *life) place(seq uint64) (int, bool) {
	return slices.BinarySearchFunc(l.kept, seq, func(k *kept, seq uint64) int { return cmp.Compare(k.msg.ID.Seq, seq) })
}

// insert adds a broadcast, which has just been marked.
func (l *life) insert(k *kept) {
	if seq := k.msg.ID.Seq; seq < l.top {
		i, _ := l.place(seq)
		l.kept = slices.Insert(l.kept, i, k)
		return
	}
	l.kept = append(l.kept, k)
	l.latest = k
}

// remove removes a broadcast. Most often it is the first.
func (l *life) remove(k *kept) {
	if k == l.latest {
		l.latest = nil
	}
	if i := slices.Index(l.kept, k); i >= 0 {
		l.kept = slices.Delete(l.kept, i, i+1)
	}
}

// origin returns the record of an origin, and makes one if there is none.
func (m *Machine) origin(id identity.ID) *origin {
	if o := m.seen.origins[id]; o != nil {
		return o
	}
	if len(m.seen.origins) >= m.cfg.MaxOrigins {
		m.forgetOrigins()
	}
	o := &origin{id: id, after: m.seen.floor}
	m.seen.origins[id] = o
	return o
}

// forgetOrigins makes room: it forgets the eighth whose youngest broadcasts are the oldest.
func (m *Machine) forgetOrigins() {
	born := make([]int64, 0, len(m.seen.origins))
	for _, o := range m.seen.origins {
		born = append(born, o.born)
	}
	slices.Sort(born)
	last := born[len(born)/8]
	for id, o := range m.seen.origins {
		if o.born > last {
			continue
		}
		for i := range o.lives {
			for _, k := range o.lives[i].kept {
				m.store.discard(k)
			}
		}
		if o.hasTree {
			m.trees.own--
		}
		o.forgot = true
		delete(m.seen.origins, id)
	}
	m.seen.floor = max(m.seen.floor, last)
}
