package router

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/protocol/greeting"
	"github.com/Blockchain-CN/pheromones/transport"
)

// Route is what the router knows of a peer: a snapshot.
type Route struct {
	ID        identity.ID      `json:"id"`
	Name      string           `json:"name,omitempty"`  // the peer's label; others may bear it too
	Addrs     []transport.Addr `json:"addrs,omitempty"` // where it may be reached, the most promising first
	FirstHand bool             `json:"first_hand"`      // the peer itself told us; else another peer did
	Links     []Link           `json:"links,omitempty"` // the long connections with it
}

// Link is a long connection with a peer.
type Link struct {
	Addr   transport.Addr `json:"addr"`          // the peer's end of the path in use; of the scheme "relay" if it leads through a relay
	Why    string         `json:"why,omitempty"` // why it is that; empty: the link began there
	Dialer bool           `json:"dialer"`
	Since  time.Time      `json:"since"`
	// Preferred says that new exchanges take this one. Both sides come to agree which.
	Preferred bool `json:"preferred"`
}

// route is the state of one peer. It is guarded by Router.mu.
type route struct {
	fact    greeting.Notice             // the newest that was taken
	first   bool                        // the peer itself has told fact
	added   []transport.Addr            // never written to: where a caller of ours reached it, or told us to
	away    []transport.Addr            // what added was when the peer said that it leaves: it is looked for there
	hint    greeting.Notice             // the newest that others said since, of a peer whose fact they cannot replace
	by      identity.ID                 // on whose word alone the peer is known; zero if it is ours or the peer's own
	deleted bool                        // by a caller: hints do not bring it back
	adding  int                         // how many callers greet it: its answers do
	failed  map[transport.Addr]failures // addresses whose last attempt failed
	seen    map[transport.Addr]sighting // since when addresses are known, and when they worked

	kept       bool // the keeper dials
	links      []*link
	next       chan struct{} // closed when another link comes up; nil if nobody waits for that
	tie        tiebreak      // between them
	generation uint32        // of the tie-break, as it was last seen
	proven     time.Time     // when it was first seen
	dialing    *dialing      // the one dial under way for a long connection
}

// failures is how often an address has failed in a row, and when it did last.
type failures struct {
	count int
	last  time.Time
	until time.Time // when it is tried again unasked
}

// wanted reports whether a caller of ours has added the peer, so that a link with it is kept up.
func (rt *route) wanted() bool { return !rt.deleted && len(rt.added)+len(rt.away) > 0 }

// known reports whether the peer counts as one of ours.
func (rt *route) known() bool {
	return !rt.deleted && rt.fact.Change != greeting.Left && (rt.fact.Peer.Seq != 0 || rt.first || len(rt.added) > 0)
}

// get returns the state of a peer, made if need be, with mu held. It does not count as known yet.
func (r *Router) get(id identity.ID) *route {
	rt := r.routes[id]
	if rt == nil {
		rt = &route{fact: greeting.Notice{Change: greeting.Arrived, Peer: greeting.Peer{ID: id}}}
		rt.tie.smaller = bytes.Compare(r.self[:], id[:]) < 0
		r.routes[id] = rt
	}
	return rt
}

// sweep forgets the state of a peer of which nothing is left to know, with mu held.
func (r *Router) sweep(id identity.ID) {
	if rt := r.routes[id]; rt != nil && !rt.known() && !rt.wanted() && !rt.deleted && len(rt.links) == 0 && rt.dialing == nil &&
		rt.fact.Change != greeting.Left {
		r.drop(id)
	}
}

// drop forgets all state of a peer, with mu held.
func (r *Router) drop(id identity.ID) {
	r.attribute(r.routes[id], identity.ID{})
	r.rename(r.routes[id], "")
	delete(r.routes, id)
	r.forget(id)
}

// rename notes the name of a peer, with mu held.
func (r *Router) rename(rt *route, name string) {
	old := rt.fact.Peer.Name
	if old == name {
		return
	}
	if others := slices.DeleteFunc(r.named[old], func(other *route) bool { return other == rt }); len(others) > 0 {
		r.named[old] = others
	} else {
		delete(r.named, old)
	}
	if rt.fact.Peer.Name = name; name != "" {
		r.named[name] = append(r.named[name], rt)
	}
}

// attribute notes on whose word alone a route is kept, with mu held.
func (r *Router) attribute(rt *route, by identity.ID) {
	if rt.by == by {
		return
	}
	if r.taken[rt.by]--; r.taken[rt.by] <= 0 {
		delete(r.taken, rt.by)
	}
	if rt.by = by; !by.IsZero() {
		r.taken[by]++
	}
}

// penalty returns how many places an address that failed of late is put back.
func (f failures) penalty(now time.Time) int {
	if now.Sub(f.last) > min(time.Minute<<min(f.count, 10), 10*time.Minute) {
		return 0
	}
	return f.count
}

// addresses returns all that is known of where a peer may be reached, with mu held: by transport in the order of preference,
// those that failed of late behind the others, those of transports that we have not last.
func (r *Router) addresses(rt *route) []transport.Addr {
	var addrs []transport.Addr
	for _, list := range [][]transport.Addr{rt.added, rt.fact.Peer.Addrs, rt.hint.Peer.Addrs, rt.workedAddrs()} {
		for _, a := range list {
			a.Peer = rt.fact.Peer.ID
			if !slices.Contains(addrs, a) {
				addrs = append(addrs, a)
			}
		}
	}
	now := time.Now()
	rank := func(a transport.Addr) int {
		if n, ok := r.rank[a.Scheme]; ok {
			return n
		}
		return len(r.rank)
	}
	slices.SortStableFunc(addrs, func(a, b transport.Addr) int {
		return cmp.Or(cmp.Compare(rt.failed[a].penalty(now), rt.failed[b].penalty(now)), cmp.Compare(rank(a), rank(b)))
	})
	return addrs
}

// candidates returns the addresses of a peer that a transport of ours can dial, in the order to try them.
func (r *Router) candidates(rt *route) []transport.Addr {
	return slices.DeleteFunc(r.addresses(rt), func(a transport.Addr) bool {
		return r.transports[a.Scheme] == nil || r.cfg.Dialable != nil && !r.cfg.Dialable(a)
	})
}

// snapshot returns the route as its users see it, with mu held.
func (r *Router) snapshot(rt *route) Route {
	out := Route{ID: rt.fact.Peer.ID, Name: rt.fact.Peer.Name, FirstHand: rt.first, Addrs: r.addresses(rt)}
	for _, l := range rt.links {
		out.Links = append(out.Links, rt.linkSnapshot(l))
	}
	return out
}

// linkSnapshot returns a link as the router's users see it, with mu held.
func (rt *route) linkSnapshot(l *link) Link {
	info := l.conn.Info()
	return Link{Addr: info.RemoteAddr, Why: l.why, Dialer: info.Dialer, Since: l.since, Preferred: rt.best() == l}
}

// Routes returns the known peers, ordered by name and ID. The result is the caller's.
func (r *Router) Routes() []Route {
	r.mu.Lock()
	defer r.mu.Unlock()
	var routes []Route
	for _, rt := range r.routes {
		if rt.known() {
			routes = append(routes, r.snapshot(rt))
		}
	}
	slices.SortFunc(routes, func(a, b Route) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), bytes.Compare(a.ID[:], b.ID[:]))
	})
	return routes
}

// AmbiguousError says that several peers bear a name.
type AmbiguousError struct {
	Name  string
	Peers []identity.ID // in ascending order
}

func (e *AmbiguousError) Error() string {
	ids := make([]string, len(e.Peers))
	for i, id := range e.Peers {
		ids[i] = id.String()
	}
	return fmt.Sprintf("router: %d peers bear the name %q; say which by its ID: %s", len(ids), e.Name, strings.Join(ids, ", "))
}

// Resolve returns the ID that to means: an ID, an address with an ID or at which a known peer was added, or the name of one
// known peer. A name that several bear is an [*AmbiguousError], one that nobody bears wraps [ErrUnknownPeer].
func (r *Router) Resolve(to string) (identity.ID, error) {
	if id, err := identity.ParseID(to); err == nil {
		return id, nil
	}
	a, err := transport.ParseAddr(to)
	if err == nil && !a.Peer.IsZero() {
		return a.Peer, nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil {
		if id := r.introduced(a); !id.IsZero() {
			return id, nil
		}
		return identity.ID{}, fmt.Errorf("%w: nobody was added at %s", ErrUnknownPeer, to)
	}
	var found []identity.ID
	for _, rt := range r.named[to] {
		if rt.known() {
			found = append(found, rt.fact.Peer.ID)
		}
	}
	switch len(found) {
	case 0:
		return identity.ID{}, fmt.Errorf("%w: %q is neither the ID nor the name of a known peer", ErrUnknownPeer, to)
	case 1:
		return found[0], nil
	}
	slices.SortFunc(found, func(a, b identity.ID) int { return bytes.Compare(a[:], b[:]) })
	return identity.ID{}, &AmbiguousError{Name: to, Peers: found}
}

// Introduce notes that a peer is reached at addr, because a caller of ours said so. A peer that was deleted is known again. It
// fails with [ErrSelf], [ErrClosed], or [ErrFull].
func (r *Router) Introduce(addr transport.Addr) error {
	if addr.Peer == r.self {
		return ErrSelf
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.closed:
		return ErrClosed
	case !r.makeRoom(addr.Peer, byCaller):
		return ErrFull
	}
	rt := r.get(addr.Peer)
	was := rt.known()
	rt.deleted = false
	if rt.fact.Change == greeting.Left {
		rt.fact.Change = greeting.Arrived
	}
	added := []transport.Addr{addr} // a new slice: the old one may be on its way to a peer
	for _, a := range rt.added {
		if a != addr && len(added) < greeting.MaxAddrs {
			added = append(added, a)
		}
	}
	rt.added, rt.away = added, nil
	for _, l := range rt.links {
		l.asking = false // the link is needed now
	}
	r.attribute(rt, identity.ID{})
	r.keepLocked()
	r.save(rt)
	if !was {
		r.emit(Event{Kind: RouteAdded, Route: r.snapshot(rt), Reason: "added"})
	}
	return nil
}

// Delete forgets a peer and closes the links with it when what runs on them has ended, after ten seconds at the latest. What
// others say of the peer does not bring it back; the peer itself may, and a caller who adds it again. It fails with
// [ErrUnknownPeer] if the peer is not known, and does not wait.
func (r *Router) Delete(id identity.ID) error {
	r.mu.Lock()
	rt := r.routes[id]
	if rt == nil || !rt.known() {
		r.mu.Unlock()
		return fmt.Errorf("%w: %s", ErrUnknownPeer, id)
	}
	gone := r.snapshot(rt)
	links := slices.Clone(rt.links)
	rt.deleted, rt.first, rt.added, rt.away, rt.hint, rt.failed = true, false, nil, nil, greeting.Notice{}, nil
	rt.fact.Peer.Addrs, rt.seen = nil, nil
	r.attribute(rt, identity.ID{})
	r.save(rt)
	if rt.dialing != nil {
		rt.dialing.abandon(fmt.Errorf("%w: %s: it was deleted", ErrUnknownPeer, id))
		rt.dialing = nil
	}
	r.emit(Event{Kind: RouteRemoved, Route: gone, Reason: "deleted"})
	r.mu.Unlock()
	for _, l := range links {
		l.drain(transport.CodeNone, "deleted", drainTimeout)
	}
	return nil
}
