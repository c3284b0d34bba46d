package greeting_test

import (
	"bytes"
	"maps"
	"slices"
	"sync"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/protocol/greeting"
)

// book is a Book in memory that keeps its documented rules in the plainest way.
type book struct {
	mu     sync.Mutex
	self   greeting.Peer
	known  map[identity.ID]entry // guarded by mu
	spread func(notices []greeting.Notice, except identity.ID)
	passed map[greeting.Change]map[identity.ID]int // how often each fact about each peer was spread; guarded by mu
}

type entry struct {
	fact      greeting.Notice
	firstHand bool
}

func newBook(self greeting.Peer, known ...greeting.Peer) *book {
	b := &book{self: self, known: make(map[identity.ID]entry), passed: make(map[greeting.Change]map[identity.ID]int)}
	for _, p := range known {
		b.known[p.ID] = entry{fact: greeting.Notice{Change: greeting.Arrived, Peer: p}}
	}
	return b
}

func (b *book) Self() greeting.Peer { return b.self }

func (b *book) Lookup(id identity.ID, name string) (found []greeting.Peer) {
	for _, p := range b.Batch(identity.ID{}, 1<<30) {
		if p.ID == id || id.IsZero() && p.Name == name {
			found = append(found, p)
		}
	}
	return found
}

func (b *book) Batch(after identity.ID, limit int) (batch []greeting.Peer) {
	b.mu.Lock()
	defer b.mu.Unlock()
	ids := slices.SortedFunc(maps.Keys(b.known), func(x, y identity.ID) int { return bytes.Compare(x[:], y[:]) })
	for _, id := range ids {
		if e := b.known[id]; bytes.Compare(id[:], after[:]) > 0 && e.fact.Change != greeting.Left && len(batch) < limit {
			batch = append(batch, e.fact.Peer)
		}
	}
	return batch
}

func (b *book) Learn(from identity.ID, n greeting.Notice) (changed bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	have, ok := b.known[n.Peer.ID]
	if from == n.Peer.ID {
		b.known[from] = entry{n, n.Change != greeting.Left}
		return !ok || (have.fact.Change == greeting.Left) != (n.Change == greeting.Left) || have.fact.Peer.Name != n.Peer.Name ||
			!slices.Equal(have.fact.Peer.Addrs, n.Peer.Addrs)
	}
	if ok && (have.firstHand || !n.Supersedes(have.fact)) {
		return false
	}
	b.known[n.Peer.ID] = entry{fact: n}
	return true
}

func (b *book) Spread(notices []greeting.Notice, except identity.ID) {
	b.mu.Lock()
	for _, n := range notices {
		if b.passed[n.Change] == nil {
			b.passed[n.Change] = make(map[identity.ID]int)
		}
		b.passed[n.Change][n.Peer.ID]++
	}
	b.mu.Unlock()
	if b.spread != nil {
		b.spread(notices, except)
	}
}

// names lists the names of the peers that are known, sorted.
func (b *book) names() (names []string) {
	for _, p := range b.Batch(identity.ID{}, 1<<30) {
		names = append(names, p.Name)
	}
	slices.Sort(names)
	return names
}
