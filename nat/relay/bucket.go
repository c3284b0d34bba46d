package relay

import (
	"sync"
	"time"
)

// bucket gives out bytes, or anything else that is counted, at a rate. Whoever takes is told how long to wait, in the order of
// taking: those who share a bucket and take one piece after the other have equal parts of it. The zero bucket has no bound. It is
// safe for concurrent use.
type bucket struct {
	rate  int           // a second; zero: no bound
	depth time.Duration // how much of unused time is kept

	mu   sync.Mutex
	upTo time.Time // all the time until then was given out
}

// burst is how many bytes, at least, go at once after a rest.
const burst = 64 << 10

// newBucket returns a bucket of so many bytes a second, that keeps a quarter of a second's.
func newBucket(rate int) *bucket {
	b := &bucket{rate: rate}
	if rate > 0 {
		b.depth = max(time.Second/4, b.cost(burst))
	}
	return b
}

// cost is the time that n takes.
func (b *bucket) cost(n int) time.Duration {
	return time.Duration(float64(n) / float64(b.rate) * float64(time.Second))
}

// take takes n and returns how long to wait before it may go.
func (b *bucket) take(n int, now time.Time) time.Duration {
	if b.rate <= 0 {
		return 0
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if oldest := now.Add(-b.depth); b.upTo.Before(oldest) {
		b.upTo = oldest
	}
	b.upTo = b.upTo.Add(b.cost(n))
	return max(0, b.upTo.Sub(now))
}

// try takes n if it may go at once.
func (b *bucket) try(n int, now time.Time) bool {
	if b.rate <= 0 {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	upTo := b.upTo
	if oldest := now.Add(-b.depth); upTo.Before(oldest) {
		upTo = oldest
	}
	if upTo = upTo.Add(b.cost(n)); upTo.After(now) {
		return false
	}
	b.upTo = upTo
	return true
}

// full reports whether nothing of it is in use.
func (b *bucket) full(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.upTo.After(now.Add(-b.depth))
}
