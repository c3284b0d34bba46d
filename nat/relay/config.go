package relay

import (
	"math"
	"time"

	"github.com/Blockchain-CN/pheromones/identity"
)

// Config says for whom a node relays, and how much. The zero Config relays for everybody within the defaults.
type Config struct {
	// Allow are the peers that may reserve a place. Whoever has one may be called by anybody. Nil means that everybody may reserve.
	Allow []identity.ID
	// MaxReservations bounds the reservations, of which a peer has one. Zero or less means 1024.
	MaxReservations int
	// MaxCircuits bounds the circuits at a time. Zero or less means 512.
	MaxCircuits int
	// MaxCircuitsPerPeer bounds those of which one peer is an end. Zero or less means 32.
	MaxCircuitsPerPeer int
	// CircuitBytes bounds what a circuit carries, in bytes of both directions together; beyond it the circuit is ended. Zero or
	// less means no bound.
	CircuitBytes int64
	// Rate bounds each direction of a circuit, in bytes a second. Zero means 4 MiB, less means no bound.
	Rate int
	// PeerRate bounds what one peer sends over all of its circuits, in bytes a second. Zero means 16 MiB, less means no bound.
	PeerRate int
	// Idle is after how long a circuit on which nothing moves is ended. Zero means 2 minutes, less means never.
	Idle time.Duration
	// Lifetime is how long a reservation holds that is not renewed; one whose link ends is over at once. It is told in whole seconds.
	// Zero or less means 30 minutes; it is 10 s at least.
	Lifetime time.Duration
}

func orDefault[T int | int64 | time.Duration](v, otherwise T) T {
	if v <= 0 {
		return otherwise
	}
	return v
}

func (c *Config) maxReservations() int    { return orDefault(c.MaxReservations, 1024) }
func (c *Config) maxCircuits() int        { return orDefault(c.MaxCircuits, 512) }
func (c *Config) maxCircuitsPerPeer() int { return orDefault(c.MaxCircuitsPerPeer, 32) }

// rate and peerRate are zero if there is no bound.
func (c *Config) rate() int {
	if c.Rate == 0 {
		return 4 << 20
	}
	return max(0, c.Rate)
}

func (c *Config) peerRate() int {
	if c.PeerRate == 0 {
		return 16 << 20
	}
	return max(0, c.PeerRate)
}

func (c *Config) idle() time.Duration {
	if c.Idle == 0 {
		return 2 * time.Minute
	}
	return max(0, c.Idle)
}

func (c *Config) lifetime() time.Duration {
	d := orDefault(c.Lifetime, 30*time.Minute)
	return min(max(d, 10*time.Second), math.MaxUint32*time.Second).Truncate(time.Second)
}
