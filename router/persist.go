package router

import (
	"bytes"
	"cmp"
	"slices"
	"time"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/protocol/greeting"
	"github.com/Blockchain-CN/pheromones/router/store"
	"github.com/Blockchain-CN/pheromones/transport"
)

// sighting is what is known of an address of a peer.
type sighting struct {
	learned time.Time
	worked  time.Time // when a dial was last answered there; zero means never
}

const (
	// expiry is how long an address that has never worked is kept, and a peer that nobody but others has told of.
	expiry = 7 * 24 * time.Hour
	// sweepEvery is how often that is looked at.
	sweepEvery = time.Hour
	// maxSeen bounds the addresses of a peer that are remembered with when they were learned and worked.
	maxSeen = 3 * greeting.MaxAddrs
	// workedStep is how much later an address must have worked than before for that to be written.
	workedStep = time.Minute
)

// saw notes that an address has worked, with mu held.
func (r *Router) saw(rt *route, a transport.Addr) {
	a.Peer = rt.fact.Peer.ID
	s, now := rt.seen[a], time.Now()
	if s.learned.IsZero() {
		s.learned = now
	}
	late := now.Sub(s.worked) >= workedStep
	s.worked = now
	if rt.seen == nil {
		rt.seen = make(map[transport.Addr]sighting)
	}
	rt.seen[a] = s
	if late {
		r.save(rt)
	}
}

// workedAddrs returns the addresses at which dials have been answered, the latest first, with mu held.
func (rt *route) workedAddrs() []transport.Addr {
	var addrs []transport.Addr
	for a, s := range rt.seen {
		if !s.worked.IsZero() {
			addrs = append(addrs, a)
		}
	}
	slices.SortFunc(addrs, func(a, b transport.Addr) int {
		return cmp.Or(rt.seen[b].worked.Compare(rt.seen[a].worked), cmp.Compare(a.String(), b.String()))
	})
	return addrs[:min(len(addrs), greeting.MaxAddrs)]
}

// save has what is known of a peer written to the table on disk, if there is one; with mu held.
func (r *Router) save(rt *route) {
	id, now := rt.fact.Peer.ID, time.Now()
	rec := store.Record{
		ID: id, Name: rt.fact.Peer.Name, Seq: rt.fact.Peer.Seq,
		Left: rt.fact.Change == greeting.Left, Deleted: rt.deleted, FirstHand: rt.first, By: rt.by,
	}
	seen := make(map[transport.Addr]sighting)
	add := func(how store.How, addrs []transport.Addr) {
		for _, a := range addrs {
			a.Peer = id
			if _, have := seen[a]; have || len(seen) >= maxSeen {
				continue
			}
			s := rt.seen[a]
			if s.learned.IsZero() {
				s.learned = now
			}
			seen[a] = s
			rec.Addrs = append(rec.Addrs, store.Address{Addr: a, How: how, Learned: s.learned, Worked: s.worked, Failures: uint32(min(rt.failed[a].count, 1<<30))})
		}
	}
	add(store.Added, rt.added)
	add(store.Added, rt.away)
	told := store.Hearsay
	if rt.first {
		told = store.Told
	}
	add(told, rt.fact.Peer.Addrs)
	add(store.Dialled, rt.workedAddrs())
	add(store.Hearsay, rt.hint.Peer.Addrs)
	rt.seen = seen
	if r.cfg.Table == nil {
		return
	}
	// What cannot be reached again without it having dialled us is no use after a restart.
	var err error
	if len(rec.Addrs) == 0 && !rt.deleted {
		err = r.cfg.Table.Delete(id)
	} else {
		err = r.cfg.Table.Put(rec)
	}
	if err != nil {
		r.log.Warn("router: a route is not kept on disk", "peer", id, "err", err)
	}
}

// forget has a peer removed from the table on disk.
func (r *Router) forget(id identity.ID) {
	if r.cfg.Table == nil {
		return
	}
	if err := r.cfg.Table.Delete(id); err != nil {
		r.log.Warn("router: a route stays on disk", "peer", id, "err", err)
	}
}

// load takes over the table on disk: those that callers added first, since there may be too many.
func (r *Router) load() error {
	recs, err := r.cfg.Table.Load()
	if err != nil {
		return err
	}
	rank := func(rec store.Record) int {
		switch {
		case slices.ContainsFunc(rec.Addrs, func(a store.Address) bool { return a.How == store.Added }):
			return 0
		case rec.FirstHand:
			return 1
		}
		return 2
	}
	slices.SortStableFunc(recs, func(a, b store.Record) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), bytes.Compare(a.ID[:], b.ID[:]))
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, rec := range recs {
		if rec.ID == r.self || rec.ID.IsZero() || len(r.routes) >= r.cfg.maxRoutes() {
			continue
		}
		r.restore(rec)
	}
	r.expire(time.Now())
	if slices.ContainsFunc(recs, func(rec store.Record) bool { return rank(rec) == 0 }) {
		r.keepSoon()
	}
	return nil
}

// restore makes a route of a record, with mu held.
func (r *Router) restore(rec store.Record) {
	rt := r.get(rec.ID)
	r.rename(rt, rec.Name)
	rt.fact.Peer.Seq = rec.Seq
	rt.first, rt.deleted = rec.FirstHand, rec.Deleted
	rt.seen = make(map[transport.Addr]sighting)
	for _, a := range rec.Addrs {
		a.Addr.Peer = rec.ID
		rt.seen[a.Addr] = sighting{a.Learned, a.Worked}
		if a.Failures > 0 {
			if rt.failed == nil {
				rt.failed = make(map[transport.Addr]failures)
			}
			rt.failed[a.Addr] = failures{count: int(a.Failures)}
		}
		switch {
		case a.How == store.Added && rec.Left:
			rt.away = append(rt.away, a.Addr)
		case a.How == store.Added:
			rt.added = append(rt.added, a.Addr)
		case a.How == store.Told, a.How == store.Hearsay && !rec.FirstHand:
			if bare := a.Addr; len(rt.fact.Peer.Addrs) < greeting.MaxAddrs {
				bare.Peer = identity.ID{}
				rt.fact.Peer.Addrs = append(rt.fact.Peer.Addrs, bare)
			}
		case a.How == store.Hearsay:
			rt.hint.Peer.Addrs = append(rt.hint.Peer.Addrs, a.Addr)
		}
	}
	if rec.Left {
		rt.fact.Change = greeting.Left
	}
	if !rec.By.IsZero() && rt.known() && !rt.first && len(rt.added) == 0 {
		r.attribute(rt, rec.By)
	}
}

// expire forgets addresses that callers gave and that have never worked, and peers that only others have told of and that were
// never reached, after a week; with mu held.
func (r *Router) expire(now time.Time) {
	for id, rt := range r.routes {
		stale := func(a transport.Addr) bool {
			a.Peer = id
			s := rt.seen[a]
			return s.worked.IsZero() && !s.learned.IsZero() && now.Sub(s.learned) > expiry
		}
		before := len(rt.added) + len(rt.hint.Peer.Addrs)
		rt.added = slices.DeleteFunc(slices.Clone(rt.added), stale)
		rt.hint.Peer.Addrs = slices.DeleteFunc(slices.Clone(rt.hint.Peer.Addrs), stale)
		switch {
		case len(rt.links) > 0 || rt.dialing != nil || rt.deleted:
		case !rt.first && len(rt.added)+len(rt.away) == 0 && len(rt.workedAddrs()) == 0 &&
			!slices.ContainsFunc(rt.fact.Peer.Addrs, func(a transport.Addr) bool { return !stale(a) }):
			if rt.known() {
				r.emit(Event{Kind: RouteRemoved, Route: r.snapshot(rt), Reason: "nobody has reached it for a week"})
			}
			r.drop(id)
			continue
		}
		if before != len(rt.added)+len(rt.hint.Peer.Addrs) {
			r.save(rt)
		}
	}
}
