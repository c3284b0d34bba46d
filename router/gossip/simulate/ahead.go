package simulate

import (
	"encoding/binary"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/Blockchain-CN/pheromones/router/gossip"
)

// No frame arrives sooner than minLatency after it was sent. So what nodes do within so little time depends on none of what the
// others do meanwhile, and is worked out ahead: node by node, each with all its events, so that its memory is fetched once,
// and by several goroutines. Then all that it leads to is done in the order of the events, as if nothing had been
// done ahead: what is drawn at random, and what is counted, comes in that order, whoever worked it out.

const (
	maxWorkers = 8
	workShare  = 32 // nodes that a worker takes at once

	payload = -1 // in place of a sending's size
)

// worker holds what one goroutine worked out.
type worker struct {
	results []result
	sends   []sending
	reached []uint32 // broadcasts
	ticks   []int64  // of the node it is at, in order
}

// result is what a call of a machine led to.
type result struct {
	sends, reached [2]int32 // from where to where, of the worker's
	wake           int64
	hops           int32
}

// sending is a gossip.Send.
type sending struct {
	frame     gossip.Frame
	to        int32
	size      int32  // in bytes, or payload
	broadcast uint32 // of a payload
}

// parallel calls do with all numbers below n, some of them at once, and waits. What is called at once has different workers;
// share is how many numbers a worker takes at once.
func (w *world) parallel(n, share int, do func(worker, i int)) {
	var taken atomic.Int64
	work := func(worker int) {
		for {
			end := int(taken.Add(int64(share)))
			for i := end - share; i < min(end, n); i++ {
				do(worker, i)
			}
			if end >= n {
				return
			}
		}
	}
	var others sync.WaitGroup
	for k := 1; k < min(len(w.workers), (n+share-1)/share); k++ {
		others.Go(func() { work(k) })
	}
	work(0)
	others.Wait()
}

// run lets happen what is due before end.
func (w *world) run(end int64) error {
	a := &w.agenda
	for {
		if err := w.ctx.Err(); err != nil {
			return err
		}
		list, limit := a.upcoming(end)
		if len(list) == 0 {
			w.now = end
			return nil
		}
		for i := range list {
			if what := list[i].what.what; what == joins || what == crashes {
				limit, list = list[i].at, list[:i]
				break
			}
		}
		if len(list) == 0 {
			w.alone()
			continue
		}
		if w.single {
			limit, list = list[0].at, list[:1]
		}
		w.ahead(list, limit)
		for behind := a.next + len(list); a.next < behind || len(a.soon) > 0 && a.soon[0].at < limit; {
			at, h := a.pop()
			w.now = at
			w.happen(&h)
		}
	}
}

// alone does the first thing on the agenda, which draws at random or stops nodes, so that nothing behind it is known ahead.
func (w *world) alone() {
	at, h := w.agenda.pop()
	w.now = at
	if h.what == crashes {
		w.kill()
		return
	}
	var known []gossip.Contact
	for range min(int(h.to), contacts) {
		known = append(known, gossip.Contact{ID: w.id(w.random.Int32N(h.to))})
	}
	n, k := &w.nodes[h.to], &w.workers[0]
	k.begin()
	k.note(w, n, at, n.machine.Join(w.start.Add(time.Duration(at)), known...), 0)
	w.perform(h.to, n, k, &k.results[0])
}

// ahead makes the calls of machines for the events, and for the ticks before limit that come of those.
func (w *world) ahead(list []event[happening], limit int64) {
	w.chain, w.touched = w.chain[:0], w.touched[:0]
	for i := range list {
		h := &list[i].what
		if h.what == speaks {
			h.from = int32(len(w.sent))
			w.sent = append(w.sent, newBroadcast(h.to, list[i].at, len(w.nodes)))
		}
		w.chain = append(w.chain, -1)
		if w.gone[h.to] {
			continue
		}
		n := &w.nodes[h.to]
		if n.first < 0 {
			n.first = int32(i)
			w.touched = append(w.touched, h.to)
		} else {
			w.chain[n.last] = int32(i)
		}
		n.last = int32(i)
	}
	for k := range w.workers {
		w.workers[k].begin()
	}
	w.parallel(len(w.touched), workShare, func(k, i int) {
		self := w.touched[i]
		n := &w.nodes[self]
		n.worker, n.result = int32(k), int32(len(w.workers[k].results))
		w.workers[k].live(w, self, n, list, limit)
		n.first = -1
	})
}

func (k *worker) begin() { k.results, k.sends, k.reached = k.results[:0], k.sends[:0], k.reached[:0] }

// live makes the calls of one node.
func (k *worker) live(w *world, self int32, n *node, list []event[happening], limit int64) {
	k.ticks = k.ticks[:0]
	for i := n.first; i >= 0 || len(k.ticks) > 0; {
		at, h := int64(0), happening{what: ticks}
		if i >= 0 && (len(k.ticks) == 0 || list[i].at <= k.ticks[0]) {
			at, h = list[i].at, list[i].what
			i = w.chain[i]
		} else {
			at = k.ticks[0]
			k.ticks = slices.Delete(k.ticks, 0, 1)
		}
		if h.what == ticks {
			if n.armed != at {
				continue // moved
			}
			n.armed = math.MaxInt64
		}
		out, hops := w.call(n, at, &h)
		if k.note(w, n, at, out, hops) && n.armed < limit {
			later, _ := slices.BinarySearch(k.ticks, n.armed+1)
			k.ticks = slices.Insert(k.ticks, later, n.armed)
		}
	}
}

// call calls a machine. It also returns how many hops a payload had made.
func (w *world) call(n *node, at int64, h *happening) (out gossip.Output, hops int32) {
	now := w.start.Add(time.Duration(at))
	switch h.what {
	case arrives:
		if p, ok := h.frame.(*gossip.Payload); ok {
			hops = int32(p.Hops)
		}
		out = n.machine.Receive(now, w.id(h.from), h.frame)
	case ticks:
		out = n.machine.Tick(now)
	case speaks:
		data := make([]byte, w.cfg.Size)
		binary.LittleEndian.PutUint32(data, uint32(h.from))
		var err error
		if _, out, err = n.machine.Broadcast(now, "simulated", data); err != nil {
			panic(err) // a sender keeps to its rate
		}
	case breaks:
		out = n.machine.Down(now, w.id(h.from))
	}
	return out, hops
}

// note keeps what a machine wants, and reports whether that is to be woken earlier than it was to be.
func (k *worker) note(w *world, n *node, at int64, out gossip.Output, hops int32) bool {
	r := result{wake: int64(out.Wake.Sub(w.start)), hops: hops}
	r.sends[0], r.reached[0] = int32(len(k.sends)), int32(len(k.reached))
	for _, m := range out.Deliver {
		k.reached = append(k.reached, binary.LittleEndian.Uint32(m.Data))
	}
	for i := range out.Sends {
		s := &out.Sends[i]
		todo := sending{frame: s.Frame, to: number(s.To.ID), size: payload}
		if p, ok := s.Frame.(*gossip.Payload); ok {
			todo.broadcast = binary.LittleEndian.Uint32(p.Message.Data)
		} else {
			todo.size = int32(s.Frame.Size())
		}
		k.sends = append(k.sends, todo)
	}
	r.sends[1], r.reached[1] = int32(len(k.sends)), int32(len(k.reached))
	k.results = append(k.results, r)
	if r.wake >= n.armed {
		return false
	}
	n.armed = max(r.wake, at)
	return true
}

// happen does what comes of an event, of which the calls have been made.
func (w *world) happen(h *happening) {
	if w.gone[h.to] {
		return
	}
	n := &w.nodes[h.to]
	if h.what == ticks {
		if n.wake != w.now {
			return // moved
		}
		n.wake = math.MaxInt64
	}
	k := &w.workers[n.worker]
	n.result++
	w.perform(h.to, n, k, &k.results[n.result-1])
}

// perform does what a machine wants.
func (w *world) perform(self int32, n *node, k *worker, r *result) {
	for _, b := range k.reached[r.reached[0]:r.reached[1]] {
		w.sent[b].reach(self, w.now, int(r.hops))
	}
	sends := k.sends[r.sends[0]:r.sends[1]]
	for i := range sends {
		s := &sends[i]
		if s.size == payload {
			w.sent[s.broadcast].payloads++
		} else {
			w.control[w.phase]++
			w.controlBytes[w.phase] += uint64(s.size)
		}
		if w.cfg.Loss > 0 && w.random.Float64() < w.cfg.Loss {
			continue
		}
		if w.gone[s.to] {
			w.agenda.push(w.now+int64(detection), happening{what: breaks, to: self, from: s.to})
			continue
		}
		w.agenda.push(w.now+w.latency(self, s.to), happening{s.frame, s.to, self, arrives})
	}
	if r.wake < n.wake {
		n.wake = max(r.wake, w.now)
		w.agenda.push(n.wake, happening{what: ticks, to: self})
	}
}
