package simulate

// event is something that happens at a time to a peer.
type event[T any] struct {
	at   int64 // nanoseconds
	n    uint64
	what T
}

// agenda is a heap of events, each node of which has four children: what is due first comes out first, and of two that are
// due together the one that went in first.
type agenda[T any] struct {
	heap []event[T]
	n    uint64
}

func (a *agenda[T]) less(i, j int) bool {
	x, y := &a.heap[i], &a.heap[j]
	return x.at < y.at || x.at == y.at && x.n < y.n
}

func (a *agenda[T]) push(at int64, what T) {
	a.n++
	a.heap = append(a.heap, event[T]{at, a.n, what})
	for i := len(a.heap) - 1; i > 0; {
		up := (i - 1) / 4
		if !a.less(i, up) {
			return
		}
		a.heap[i], a.heap[up] = a.heap[up], a.heap[i]
		i = up
	}
}

// pop takes the first event, which must be there.
func (a *agenda[T]) pop() (at int64, what T) {
	first := a.heap[0]
	last := len(a.heap) - 1
	a.heap[0] = a.heap[last]
	a.heap[last] = event[T]{}
	a.heap = a.heap[:last]
	for i := 0; ; {
		least := i
		for child := 4*i + 1; child <= 4*i+4 && child < last; child++ {
			if a.less(child, least) {
				least = child
			}
		}
		if least == i {
			return first.at, first.what
		}
		a.heap[i], a.heap[least] = a.heap[least], a.heap[i]
		i = least
	}
}

func (a *agenda[T]) empty() bool { return len(a.heap) == 0 }
