package simulate

import (
	"cmp"
	"slices"
)

// event is something that is due at a time.
type event[T any] struct {
	at   int64  // nanoseconds
	n    uint64 // of those that are due together, the one with the lowest comes first
	what T
}

func (e *event[T]) before(f *event[T]) bool { return e.at < f.at || e.at == f.at && e.n < f.n }

// heap is a heap of events, each node of which has four children.
type heap[T any] []event[T]

func (h *heap[T]) push(e event[T]) {
	*h = append(*h, e)
	list := *h
	for i := len(list) - 1; i > 0; {
		up := (i - 1) / 4
		if !list[i].before(&list[up]) {
			return
		}
		list[i], list[up] = list[up], list[i]
		i = up
	}
}

// pop takes the first event, which must be there.
func (h *heap[T]) pop() event[T] {
	list := *h
	first := list[0]
	last := len(list) - 1
	list[0] = list[last]
	list[last] = event[T]{}
	list = list[:last]
	*h = list
	for i := 0; ; {
		least := i
		for child := 4*i + 1; child <= 4*i+4 && child < last; child++ {
			if list[child].before(&list[least]) {
				least = child
			}
		}
		if least == i {
			return first
		}
		list[i], list[least] = list[least], list[i]
		i = least
	}
}

// agenda holds the events to come: what is due first comes out first, and of two that are due together the one that went in
// first. It is a calendar: a ring of pages, each for so much time, that are not in order until they are read. The zero agenda
// is empty.
type agenda[T any] struct {
	n       uint64     // events that went in
	ready   []event[T] // those before horizon, in order, but for those in soon
	next    int        // of ready
	soon    heap[T]    // went in when the horizon was past them
	horizon int64      // where the ring begins; a multiple of pageTime
	ring    [][]event[T]
	inRing  int
	far     heap[T] // went in when the ring did not reach to them
}

const (
	pageTime  = int64(1) << 19
	ringPages = 512
	readPages = int64(minLatency) / pageTime // that are read at once
)

func (a *agenda[T]) push(at int64, what T) {
	a.n++
	e := event[T]{at, a.n, what}
	if at < a.horizon {
		a.soon.push(e)
	} else {
		a.file(e)
	}
}

// file puts an event that is not due before horizon into the ring or far.
func (a *agenda[T]) file(e event[T]) {
	if a.ring == nil {
		a.ring = make([][]event[T], ringPages)
	}
	if e.at-a.horizon >= ringPages*pageTime {
		a.far.push(e)
		return
	}
	page := &a.ring[e.at/pageTime%ringPages]
	*page = append(*page, e)
	a.inRing++
}

// read makes events ready, if none is and there are any: some pages, from the first that is not empty.
func (a *agenda[T]) read() {
	if a.next < len(a.ready) || len(a.soon) > 0 || a.inRing == 0 && len(a.far) == 0 {
		return
	}
	a.ready, a.next = a.ready[:0], 0
	if a.inRing == 0 {
		a.horizon = a.far[0].at / pageTime * pageTime
	}
	for len(a.ready) == 0 {
		for len(a.far) > 0 && a.far[0].at-a.horizon < ringPages*pageTime {
			a.file(a.far.pop())
		}
		if len(a.ring[a.horizon/pageTime%ringPages]) == 0 {
			a.horizon += pageTime
			continue
		}
		for range readPages {
			a.readPage()
		}
	}
}

func (a *agenda[T]) readPage() {
	page := &a.ring[a.horizon/pageTime%ringPages]
	from := len(a.ready)
	a.ready = append(a.ready, *page...)
	sortEvents(a.ready[from:])
	a.inRing -= len(*page)
	clear(*page)
	*page = (*page)[:0]
	a.horizon += pageTime
}

func sortEvents[T any](list []event[T]) {
	slices.SortFunc(list, func(e, f event[T]) int { return cmp.Or(cmp.Compare(e.at, f.at), cmp.Compare(e.n, f.n)) })
}

// upcoming returns the events that are due before limit, in order. That is end, or earlier: no later than minLatency after
// the first of them. There are none if none is due before end. The result is good until the next call of a method, and what
// the events are may be written to.
func (a *agenda[T]) upcoming(end int64) (list []event[T], limit int64) {
	a.read()
	if len(a.soon) > 0 {
		a.ready = append(a.ready, a.soon...)
		clear(a.soon)
		a.soon = a.soon[:0]
		sortEvents(a.ready[a.next:])
	}
	list = a.ready[a.next:]
	if len(list) == 0 {
		return nil, end
	}
	// The horizon may be farther than that, if nothing was due for a while when it was moved and more went in since.
	limit = min(end, a.horizon, list[0].at+int64(minLatency))
	n, _ := slices.BinarySearchFunc(list, limit, func(e event[T], limit int64) int { return cmp.Compare(e.at, limit) })
	return list[:n], limit
}

// pop takes the first event.
func (a *agenda[T]) pop() (at int64, what T) {
	a.read()
	var e event[T]
	if a.next == len(a.ready) || len(a.soon) > 0 && a.soon[0].before(&a.ready[a.next]) {
		e = a.soon.pop()
	} else {
		e = a.ready[a.next]
		a.ready[a.next].what = *new(T)
		a.next++
	}
	return e.at, e.what
}

func (a *agenda[T]) empty() bool {
	return a.next == len(a.ready) && len(a.soon) == 0 && a.inRing == 0 && len(a.far) == 0
}
