package natlab

import (
	"errors"
	"time"
)

// ErrUnavailable is what [New] and the methods of a lab return where the machine has no namespaces, or keeps them from us. It is
// wrapped with the reason.
var ErrUnavailable = errors.New("natlab: not available here")

// Config says how a lab is. The zero value works. It is copied.
type Config struct {
	// Delay is how long a packet takes over the link of a public host or of a router to the internet, in each direction. Zero means
	// 10 ms, so that a round trip between two hosts takes 40 ms; negative means none.
	Delay time.Duration
}

func (c *Config) delay() time.Duration {
	switch {
	case c == nil || c.Delay == 0:
		return 10 * time.Millisecond
	case c.Delay < 0:
		return 0
	}
	return c.Delay
}
