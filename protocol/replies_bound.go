package protocol

import (
	"container/heap"
	"time"

	"github.com/Blockchain-CN/pheromones/identity"
)

// sender returns what is known of a sender, or nil if there is no room to know anything.
func (r *Replies) sender(id identity.ID, now time.Time) *sender {
	if s := r.senders[id]; s != nil {
		return s
	}
	if len(r.senders) >= r.cfg.Senders {
		front := r.idle.Front()
		if front == nil {
			return nil
		}
		oldest := front.Value.(*sender)
		if now.Sub(oldest.since) < r.cfg.Keep {
			return nil
		}
		r.idle.Remove(front)
		delete(r.senders, oldest.id)
		r.floor = now
	}
	s := &sender{id: id, entries: make(map[MessageID]*entry), floor: r.floor, index: -1}
	r.senders[id] = s
	return s
}

// rest notes that a sender has no entries, if it has none.
func (r *Replies) rest(s *sender, now time.Time) {
	if len(s.entries) > 0 || r.senders[s.id] != s {
		return
	}
	if s.idle != nil {
		r.idle.Remove(s.idle)
	}
	s.idle, s.since = r.idle.PushBack(s), now
}

// wake notes that a sender has entries.
func (r *Replies) wake(s *sender) {
	if s.idle != nil {
		r.idle.Remove(s.idle)
		s.idle = nil
	}
}

// settle forgets what the sender has settled.
func (r *Replies) settle(s *sender, settled uint64) {
	if settled == 0 {
		return
	}
	for len(s.marked) > 0 && s.marked[0].id.Time() < settled {
		r.forget(s.marked[0])
	}
	s.horizon[marked] = max(s.horizon[marked], settled-1)
}

// forget drops a finished entry.
func (r *Replies) forget(e *entry) {
	s := e.s
	s.horizon[e.class] = max(s.horizon[e.class], e.id.Time())
	delete(s.entries, e.id)
	r.entries--
	s.bytes -= e.bytes
	r.bytes -= e.bytes
	r.finished.Remove(e.inAll)
	s.finished.Remove(e.inOwn)
	if e.inOrder >= 0 {
		heap.Remove(&s.marked, e.inOrder)
	}
	r.weigh(s, -r.weightOf(e))
}

// shed forgets what is beyond the bounds: of the sender that has just got more, then of whoever has most.
func (r *Replies) shed(s *sender) {
	for s.finished.Len() > 0 && (len(s.entries) > r.cfg.SenderEntries || s.bytes > r.cfg.SenderBytes) {
		r.forget(s.finished.Front().Value.(*entry))
	}
	for len(r.heaviest) > 0 && (r.entries > r.cfg.Entries || r.bytes > r.cfg.Bytes) {
		most := r.heaviest[0]
		r.forget(most.finished.Front().Value.(*entry))
		r.rest(most, time.Now())
	}
}

// sweepLocked forgets what has been kept for its time.
func (r *Replies) sweepLocked(now time.Time) {
	for front := r.finished.Front(); front != nil; front = r.finished.Front() {
		e := front.Value.(*entry)
		if now.Sub(e.ended) < r.cfg.Keep {
			break
		}
		r.forget(e)
		r.rest(e.s, now)
	}
}

// schedule makes sure that the first finished entry is forgotten when its time is over, also if nothing comes any more.
func (r *Replies) schedule(now time.Time) {
	front := r.finished.Front()
	if front == nil || r.timer != nil || r.closed {
		return
	}
	r.timer = time.AfterFunc(front.Value.(*entry).ended.Add(r.cfg.Keep).Sub(now), func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.closed {
			return
		}
		r.timer = nil
		now := time.Now()
		r.sweepLocked(now)
		r.schedule(now)
	})
}

// weightOf counts an entry like so many bytes that both bounds weigh the same.
func (r *Replies) weightOf(e *entry) int { return max(1, r.cfg.Bytes/r.cfg.Entries) + e.bytes }

// weigh changes a sender's weight, and so its place among the others.
func (r *Replies) weigh(s *sender, by int) {
	s.weight += by
	switch {
	case s.index < 0:
		heap.Push(&r.heaviest, s)
	case s.finished.Len() == 0:
		heap.Remove(&r.heaviest, s.index)
	default:
		heap.Fix(&r.heaviest, s.index)
	}
}

// senders is a heap with the heaviest at its top.
type senders []*sender

func (h senders) Len() int           { return len(h) }
func (h senders) Less(i, j int) bool { return h[i].weight > h[j].weight }
func (h senders) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}
func (h *senders) Push(x any) {
	s := x.(*sender)
	s.index = len(*h)
	*h = append(*h, s)
}
func (h *senders) Pop() any {
	last := len(*h) - 1
	s := (*h)[last]
	(*h)[last] = nil
	*h, s.index = (*h)[:last], -1
	return s
}

// byTime is a heap with the smallest time at its top.
type byTime []*entry

func (h byTime) Len() int           { return len(h) }
func (h byTime) Less(i, j int) bool { return h[i].id.Time() < h[j].id.Time() }
func (h byTime) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].inOrder, h[j].inOrder = i, j
}
func (h *byTime) Push(x any) {
	e := x.(*entry)
	e.inOrder = len(*h)
	*h = append(*h, e)
}
func (h *byTime) Pop() any {
	last := len(*h) - 1
	e := (*h)[last]
	(*h)[last] = nil
	*h, e.inOrder = (*h)[:last], -1
	return e
}
