package stun

import (
	"hash/maphash"
	"net/netip"
	"time"
)

// limitSlots is how many buckets the prefixes share: 64 KiB of them.
const limitSlots = 8192

// limiter bounds answers by their receiver's prefix and in all. Prefixes share a fixed number of token buckets by a hash that
// nobody outside can foresee: memory does not grow with sources, which can be forged, and nobody can aim at another's bucket.
type limiter struct {
	prefix, total rate
	seed          maphash.Seed
	start         time.Time // when times begin: that of the first call
	slots         [limitSlots]bucket
	all           bucket
}

// rate is what fills a bucket: one token each interval, up to depth of them. The zero rate gives as many as are wanted.
type rate struct {
	interval time.Duration
	depth    time.Duration // interval times the tokens that a full bucket has
}

// rateOf returns the rate of n tokens a second, of which two seconds' may be saved.
func rateOf(n int) rate {
	interval := max(time.Second/time.Duration(n), 1)
	return rate{interval, 2 * time.Duration(n) * interval}
}

// bucket is a token bucket as one number: when it will be full again.
type bucket time.Duration

// take takes a token, if there is one.
func (b *bucket) take(r rate, now time.Duration) bool {
	full := max(time.Duration(*b), now)
	if full+r.interval-now > r.depth {
		return false
	}
	*b = bucket(full + r.interval)
	return true
}

// allow takes a token for an answer to an address.
func (l *limiter) allow(to netip.Addr, now time.Time) bool {
	if l.start.IsZero() {
		l.start = now
		l.seed = maphash.MakeSeed()
	}
	t := now.Sub(l.start)
	bits := 48
	if to.Is4() {
		bits = 24
	}
	p, err := to.WithZone("").Prefix(bits)
	if err != nil {
		return false
	}
	// The prefix first: what floods from one place does not use up what is for all.
	return l.slots[maphash.Comparable(l.seed, p)%limitSlots].take(l.prefix, t) && l.all.take(l.total, t)
}
