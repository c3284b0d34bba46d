package router

import (
	"slices"
	"sync"
	"time"

	"github.com/Blockchain-CN/pheromones/transport"
)

// Kind says what an [Event] tells of.
type Kind string

// The kinds of events.
const (
	RouteAdded   Kind = "route added"
	RouteChanged Kind = "route changed" // its name or addresses
	RouteRemoved Kind = "route removed"
	LinkUp       Kind = "link up"
	LinkDown     Kind = "link down"
	// LinkPreferred means that of several links with a peer one was agreed on, which new exchanges take from now on.
	LinkPreferred Kind = "link preferred"
	// PathChanged means that the path of a link has changed: see From, To and Reason.
	PathChanged Kind = "path changed"
	// NetworkChanged means that this machine has slept, or that the addresses of its interfaces have changed.
	NetworkChanged Kind = "network changed"
	// AddrsChanged means that this node is reached at other addresses than before: those of the event's Route, which is the node's own.
	AddrsChanged Kind = "addresses changed"
)

// Event is a change of the table or of a link.
type Event struct {
	Kind   Kind           `json:"kind"`
	Time   time.Time      `json:"time"`
	Route  Route          `json:"route"`         // as it is after the change; as it was, if it was removed; zero if it is about none
	Link   Link           `json:"link"`          // that it tells of; zero if it is not about a link
	From   transport.Addr `json:"from,omitzero"` // of PathChanged: the peer's end before
	To     transport.Addr `json:"to,omitzero"`   // and after
	Reason string         `json:"reason"`        // why, for people
	Missed int            `json:"missed"`        // how many events before this one were dropped because the watcher was slow
}

// Watcher gets the events of a [Router] from the moment [Router.Watch] made it.
type Watcher struct {
	r      *Router
	mu     sync.Mutex
	c      chan Event
	missed int
	ended  bool
}

// watcherBuffer is how many events wait for a slow watcher before they are dropped.
const watcherBuffer = 256

// Watch returns a watcher of this router. Its user calls Close when it is no longer wanted.
func (r *Router) Watch() *Watcher {
	w := &Watcher{r: r, c: make(chan Event, watcherBuffer)}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		w.end()
		return w
	}
	r.watchers[w] = struct{}{}
	return w
}

// C returns the channel of the events. It is closed after Close of the watcher or of the router.
func (w *Watcher) C() <-chan Event { return w.c }

// Close ends the watcher. Closing twice is no error.
func (w *Watcher) Close() {
	w.r.mu.Lock()
	delete(w.r.watchers, w)
	w.r.mu.Unlock()
	w.end()
}

func (w *Watcher) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.ended {
		w.ended = true
		close(w.c)
	}
}

func (w *Watcher) offer(e Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended {
		return
	}
	e.Missed = w.missed
	e.Route.Addrs, e.Route.Links = slices.Clone(e.Route.Addrs), slices.Clone(e.Route.Links) // every watcher owns its own
	select {
	case w.c <- e:
		w.missed = 0
	default:
		w.missed++
	}
}

// emit tells the watchers, with Router.mu held.
func (r *Router) emit(e Event) {
	e.Time = time.Now()
	for w := range r.watchers {
		w.offer(e)
	}
}
