package router

import (
	"bytes"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/protocol/greeting"
	"github.com/Blockchain-CN/pheromones/transport"
)

// The router is the book that the greeting reads and writes.
var _ greeting.Book = (*Router)(nil)

// SetSelf says what this node tells of itself: its name, and where it listens.
func (r *Router) SetSelf(name string, addrs []transport.Addr) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.name, r.addrs = name, slices.Clone(addrs)
	r.seq = max(r.seq+1, uint64(time.Now().UnixMicro()))
}

// Self implements [greeting.Book].
func (r *Router) Self() greeting.Peer {
	r.mu.Lock()
	defer r.mu.Unlock()
	return greeting.Peer{ID: r.self, Seq: r.seq, Name: r.name, Addrs: r.addrs}
}

// Lookup implements [greeting.Book].
func (r *Router) Lookup(id identity.ID, name string) []greeting.Peer {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !id.IsZero() {
		if rt := r.routes[id]; rt != nil && rt.known() {
			return []greeting.Peer{r.told(rt)}
		}
		return nil
	}
	var peers []greeting.Peer
	for _, rt := range r.routes {
		if rt.known() && rt.fact.Peer.Name == name {
			peers = append(peers, r.told(rt))
		}
	}
	return peers
}

// told returns what this node tells others of a peer: what the peer, or somebody else, has told this node. Addresses that
// only our callers know stay ours, unless there are no others.
func (r *Router) told(rt *route) greeting.Peer {
	p := rt.fact.Peer
	if len(p.Addrs) == 0 {
		p.Addrs = rt.added
	}
	return p
}

// Batch implements [greeting.Book].
func (r *Router) Batch(after identity.ID, max int) []greeting.Peer {
	r.mu.Lock()
	defer r.mu.Unlock()
	var ids []identity.ID
	for id, rt := range r.routes {
		if rt.known() && bytes.Compare(id[:], after[:]) > 0 {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, func(a, b identity.ID) int { return bytes.Compare(a[:], b[:]) })
	ids = ids[:min(len(ids), max)]
	peers := make([]greeting.Peer, len(ids))
	for i, id := range ids {
		peers[i] = r.told(r.routes[id])
	}
	return peers
}

// Learn implements [greeting.Book].
func (r *Router) Learn(from identity.ID, n greeting.Notice) (changed bool) {
	id := n.Peer.ID
	if id == r.self {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	firstHand := from == id
	if firstHand && len(n.Peer.Addrs) == 0 && (r.routes[id] == nil || len(r.routes[id].links) == 0 && !r.routes[id].known()) {
		return false // it cannot be reached: it listens nowhere and has no link with us
	}
	if r.routes[id] == nil && !r.makeRoom(firstHand) {
		return false
	}
	rt := r.get(id)
	defer r.sweep(id)
	was := rt.known()
	switch {
	case firstHand:
		changed = !was || rt.fact.Peer.Name != n.Peer.Name || !slices.Equal(rt.fact.Peer.Addrs, n.Peer.Addrs) || n.Change == greeting.Left
		rt.fact, rt.first, rt.hints = n, true, nil
		if n.Change == greeting.Left {
			rt.first, rt.added = false, nil
		} else {
			rt.deleted = false
		}
	case rt.deleted || rt.fact.Peer.Seq != 0 && !n.Supersedes(rt.fact):
		return false
	case rt.first:
		// What the peer told us itself stands; but where it has moved to since, others may know.
		if n.Change == greeting.Left {
			return false
		}
		changed = !slices.Equal(rt.hints, n.Peer.Addrs)
		rt.hints = n.Peer.Addrs
		return changed
	case n.Change == greeting.Left && !was:
		return false
	default:
		changed = true
		rt.fact = n
	}
	if changed {
		r.report(was, rt, from)
	}
	return changed
}

// report tells the watchers what has become of a route, with mu held.
func (r *Router) report(was bool, rt *route, from identity.ID) {
	e := Event{Kind: RouteChanged, Route: r.snapshot(rt), Reason: "told by " + from.Short()}
	switch now := rt.known(); {
	case !was && !now:
		return
	case !was:
		e.Kind = RouteAdded
	case !now:
		e.Kind = RouteRemoved
	}
	r.emit(e)
}

// makeRoom reports whether the table has room for one more peer, with mu held. First-hand news take the place of a hint.
func (r *Router) makeRoom(firstHand bool) bool {
	if len(r.routes) < r.cfg.maxRoutes() {
		return true
	}
	if !firstHand {
		return false
	}
	for id, rt := range r.routes {
		if !rt.first && len(rt.added) == 0 && len(rt.links) == 0 && rt.dialing == nil {
			delete(r.routes, id)
			return true
		}
	}
	return false
}

// news are notices that wait to be spread, by one goroutine while there are any.
type news struct {
	waiting []told
	running bool
}

type told struct {
	notice greeting.Notice
	except identity.ID
}

// maxNews bounds the notices that wait; beyond it they are dropped, and peers learn of them by fetching.
const maxNews = 4096

// Spread implements [greeting.Book].
func (r *Router) Spread(notices []greeting.Notice, except identity.ID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, n := range notices {
		if len(r.news.waiting) < maxNews {
			r.news.waiting = append(r.news.waiting, told{n, except})
		}
	}
	if !r.closed && !r.news.running && len(r.news.waiting) > 0 {
		r.news.running = true
		r.running.Add(1)
		go r.spread()
	}
}

// spread tells the peers that we know first-hand, or have a link with, what waits.
func (r *Router) spread() {
	defer r.running.Done()
	for {
		r.mu.Lock()
		batch := r.news.waiting
		r.news.waiting = nil
		if len(batch) == 0 || r.closed {
			r.news.running = false
			r.mu.Unlock()
			return
		}
		var peers []identity.ID
		for id, rt := range r.routes {
			if rt.known() && (rt.first || len(rt.links) > 0) {
				peers = append(peers, id)
			}
		}
		r.mu.Unlock()
		r.each(peers, func(id identity.ID) { r.tell(id, batch) })
	}
}

// noticeTimeout bounds telling one peer.
const noticeTimeout = 10 * time.Second

func (r *Router) tell(id identity.ID, batch []told) {
	var notices []greeting.Notice
	for _, t := range batch {
		if t.except != id && t.notice.Peer.ID != id {
			notices = append(notices, t.notice)
		}
	}
	ctx, cancel := context.WithTimeout(r.ctx, noticeTimeout)
	defer cancel()
	for _, part := range greeting.FitNotices(notices) {
		m, err := greeting.NoticeMessage(part...)
		if err == nil {
			_, err = r.Dispatch(ctx, id, m)
		}
		if err != nil {
			r.log.Debug("router: a notice was not taken", "peer", id, "err", err)
			return
		}
	}
}

// each calls f for every peer, as many at once as Config.Parallel allows, and returns when all calls have.
func (r *Router) each(peers []identity.ID, f func(identity.ID)) {
	var wg sync.WaitGroup
	places := make(chan struct{}, r.cfg.parallel())
	for _, id := range peers {
		places <- struct{}{}
		wg.Go(func() {
			defer func() { <-places }()
			f(id)
		})
	}
	wg.Wait()
}
