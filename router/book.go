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

// SetSelf says what this node tells of itself: its name, and where it listens. Peers that were told otherwise are told.
func (r *Router) SetSelf(name string, addrs []transport.Addr) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !slices.Equal(r.addrs, addrs) {
		r.emit(Event{Kind: AddrsChanged, Route: Route{ID: r.self, Name: name, Addrs: addrs}})
	}
	r.name, r.addrs = name, slices.Clone(addrs)
	r.seq = max(r.seq+1, uint64(time.Now().UnixMicro()))
	if len(r.routes) > 0 {
		r.spreadLocked([]greeting.Notice{{Change: greeting.Changed, Peer: r.selfLocked()}}, identity.ID{})
	}
}

// Self implements [greeting.Book].
func (r *Router) Self() greeting.Peer {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.selfLocked()
}

func (r *Router) selfLocked() greeting.Peer {
	return greeting.Peer{ID: r.self, Seq: r.seq, Name: r.name, Addrs: r.addrs}
}

// Lookup implements [greeting.Book].
func (r *Router) Lookup(id identity.ID, name string) []greeting.Peer {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !id.IsZero() {
		if rt := r.routes[id]; rt != nil && rt.tellable() {
			return []greeting.Peer{r.told(rt)}
		}
		return nil
	}
	var peers []greeting.Peer
	for _, rt := range r.named[name] {
		if rt.tellable() {
			peers = append(peers, r.told(rt))
		}
	}
	return peers
}

// tellable reports whether others may be told of the peer: not before somebody has told us, since a fact without a Seq is
// older than any, and never new to anybody.
func (rt *route) tellable() bool { return rt.known() && rt.fact.Peer.Seq != 0 }

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
		if rt.tellable() && bytes.Compare(id[:], after[:]) > 0 {
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
	if n.Peer.ID == r.self || n.Peer.ID.IsZero() {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if from == n.Peer.ID {
		return r.learnFirstHand(n)
	}
	return r.learnHint(from, n)
}

// learnFirstHand takes what a peer says of itself.
func (r *Router) learnFirstHand(n greeting.Notice) bool {
	id, left := n.Peer.ID, n.Change == greeting.Left
	rt := r.routes[id]
	if len(n.Peer.Addrs) == 0 && (rt == nil || len(rt.links) == 0 && !rt.known()) {
		return false // it cannot be reached: it listens nowhere and has no link with us
	}
	if rt != nil && rt.deleted && rt.adding == 0 && n.Change != greeting.Arrived {
		return false // a word that was under way, or the answer to a greeting of before: it asks for nothing
	}
	if !r.makeRoom(id, firstHand) {
		return false
	}
	rt = r.get(id)
	defer r.sweep(id)
	was, old := rt.known(), rt.fact
	if !left && old.Change == greeting.Left && old.Peer.Seq == n.Peer.Seq && n.Peer.Seq != 0 {
		return false // its farewell has overtaken this on the way
	}
	r.rename(rt, n.Peer.Name)
	rt.fact, rt.first, rt.hint = n, !left, greeting.Notice{}
	r.attribute(rt, identity.ID{})
	defer r.save(rt)
	if left {
		rt.away, rt.added = append(rt.added, rt.away...), nil
		if was {
			r.report(was, rt, id)
		}
		return was
	}
	rt.deleted = false
	if len(rt.away) > 0 {
		rt.added, rt.away = rt.away, nil
	}
	if was && old.Peer.Name == n.Peer.Name && slices.Equal(old.Peer.Addrs, n.Peer.Addrs) {
		return false
	}
	r.report(was, rt, id)
	return true
}

// learnHint takes, or not, what one peer says of another. All that it takes is newer than what it took before, so each fact is
// taken, and passed on, at most once.
func (r *Router) learnHint(from identity.ID, n greeting.Notice) bool {
	id, left := n.Peer.ID, n.Change == greeting.Left
	rt := r.routes[id]
	was := rt != nil && rt.known()
	reachable := len(n.Peer.Addrs) > 0 || rt != nil && len(rt.links)+len(rt.added) > 0
	switch {
	case n.Peer.Seq == 0 || rt != nil && (rt.deleted || !n.Supersedes(rt.fact)) || left && !was:
		return false
	case was && (rt.first || left && len(rt.added) > 0):
		// What the peer told us itself stands, and that a caller of ours has added it; but where it has moved to since, others
		// may know.
		if left || !n.Supersedes(rt.hint) {
			return false
		}
		moved := !slices.Equal(rt.hint.Peer.Addrs, n.Peer.Addrs)
		rt.hint = n
		r.save(rt)
		if moved {
			r.report(was, rt, from)
		}
		return moved
	case !was && (!reachable || r.taken[from] >= r.cfg.maxTaken() || !r.makeRoom(id, hearsay)):
		return false
	}
	rt = r.get(id)
	r.rename(rt, n.Peer.Name)
	rt.fact = n
	if !reachable {
		rt.fact.Change = greeting.Left
	}
	switch {
	case !rt.known():
		r.attribute(rt, identity.ID{})
	case !was:
		r.attribute(rt, from)
	}
	r.save(rt)
	r.report(was, rt, from)
	return true
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

// claim is how good a claim to a place in the table is.
type claim int

const (
	hearsay   claim = iota // what one peer says of another: takes the place of those that left
	firstHand              // what a peer says of itself: takes that of hearsay, too
	byCaller               // what a caller of ours says: takes that of peers without a link, too, which no caller has added
)

// makeRoom reports whether the peer may be kept: it is known already, or the table has room, or what another has a lesser claim
// to is dropped for it. It is called with mu held.
func (r *Router) makeRoom(id identity.ID, c claim) bool {
	rt := r.routes[id]
	if len(r.routes) < r.cfg.maxRoutes() || rt != nil && rt.known() {
		return true
	}
	if c == hearsay {
		// Hearsay is plentiful, and the search is long.
		now := time.Now()
		if now.Sub(r.scanned) < time.Second {
			return false
		}
		r.scanned = now
	}
	kept := 0
	victim, least := identity.ID{}, c+1
	for other, rt := range r.routes {
		has := byCaller + 1
		switch {
		case other == id:
			continue
		case !rt.known() && (len(rt.links) > 0 || rt.dialing != nil):
			continue // a stranger, who is here for as long as its connection
		case len(rt.added) > 0 || len(rt.links) > 0 || rt.dialing != nil:
		case rt.first:
			has = byCaller
		case rt.known() || rt.deleted:
			has = firstHand
		default:
			has = hearsay
		}
		kept++
		if has < least {
			victim, least = other, has
		}
	}
	switch {
	case kept < r.cfg.maxRoutes():
		return true
	case least > c:
		return false
	}
	if rt := r.routes[victim]; rt.known() {
		r.emit(Event{Kind: RouteRemoved, Route: r.snapshot(rt), Reason: "the table is full"})
	}
	r.drop(victim)
	return true
}

// news are notices that wait to be told to peers, by one goroutine for each of those, so that a slow one delays no other.
type news struct {
	waiting map[identity.ID][]greeting.Notice
	size    int                      // of all of them
	telling map[identity.ID]struct{} // the peers to whom a goroutine is telling some
}

// maxNews bounds the notices that wait, for all peers; beyond it they are dropped, and peers learn of them by fetching.
const maxNews = 1 << 16

// Spread implements [greeting.Book].
func (r *Router) Spread(notices []greeting.Notice, except identity.ID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.spreadLocked(notices, except)
}

// spreadLocked has the peers told that we have a link with, or that are met by connections of one stream: news are no reason to dial
// for a link.
func (r *Router) spreadLocked(notices []greeting.Notice, except identity.ID) {
	if r.closed || r.leaving {
		return
	}
	for id, rt := range r.routes {
		if id == except || !rt.known() || rt.best() == nil && !(rt.first && r.byOneStream(rt)) {
			continue
		}
		for _, n := range notices {
			if n.Peer.ID != id && r.news.size < maxNews {
				r.news.waiting[id] = append(r.news.waiting[id], n)
				r.news.size++
			}
		}
		r.startTelling(id)
	}
}

// startTelling has a peer told what waits for it, unless that is being done, or as many peers as may be are being told.
func (r *Router) startTelling(id identity.ID) {
	if _, running := r.news.telling[id]; running || len(r.news.waiting[id]) == 0 || len(r.news.telling) >= r.cfg.parallel() {
		return
	}
	r.news.telling[id] = struct{}{}
	r.running.Add(1)
	go r.tell(id)
}

// noticeTimeout bounds telling one peer.
const noticeTimeout = 10 * time.Second

func (r *Router) tell(id identity.ID) {
	defer r.running.Done()
	for {
		r.mu.Lock()
		notices := r.news.waiting[id]
		delete(r.news.waiting, id)
		r.news.size -= len(notices)
		if len(notices) == 0 || r.closed {
			delete(r.news.telling, id)
			if !r.closed {
				for next := range r.news.waiting { // there may be room for it now
					r.startTelling(next)
				}
			}
			r.mu.Unlock()
			return
		}
		r.mu.Unlock()
		ctx, cancel := context.WithTimeout(r.ctx, noticeTimeout)
		for _, part := range greeting.FitNotices(notices) {
			m, err := greeting.NoticeMessage(part...)
			if err == nil {
				_, err = r.Dispatch(ctx, id, m)
			}
			if err != nil {
				r.log.Debug("router: a notice was not taken", "peer", id, "err", err)
				break
			}
		}
		cancel()
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
