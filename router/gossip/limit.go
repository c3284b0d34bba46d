package gossip

// Rate bounds how often something may happen: a token bucket. The zero Rate stands for a default.
type Rate struct {
	PerSecond float64 // in the long run
	Burst     float64 // at once
}

func (r Rate) or(perSecond, burst float64) Rate {
	if r.PerSecond <= 0 {
		r.PerSecond = perSecond
	}
	if r.Burst <= 0 {
		r.Burst = burst
	}
	return r
}

// bucket counts what was taken of a Rate. The zero bucket is one of which nothing was taken.
type bucket struct {
	taken float64
	at    int64 // nanoseconds
}

// take reports whether n more are within the rate at the time now, and if so takes them.
func (b *bucket) take(now int64, r Rate, n float64) bool {
	if now > b.at {
		b.taken = max(0, b.taken-r.PerSecond*float64(now-b.at)/1e9)
		b.at = now
	}
	if b.taken+n > r.Burst {
		return false
	}
	b.taken += n
	return true
}
