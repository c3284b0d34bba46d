package protocol

import (
	"log/slog"
	"time"
)

// Config adjusts one side of the message service. The zero value works, and so does a nil *Config. It is only read, and
// may be shared by any number of calls at once.
type Config struct {
	// Name is this side's label, which its messages carry: at most MaxName bytes of UTF-8. Empty is no label.
	Name string
	// Limit is how many bytes a frame may have, in either direction, its length field not counted. A Message takes
	// up to 49 bytes besides its Name, Operation and Data. Zero or less is DefaultLimit; beyond 2 GiB it is 2 GiB.
	Limit int
	// MaxSteps is how many messages of one conversation this side's handler is given. Zero is DefaultMaxSteps, negative is
	// without bound: then two handlers that always answer talk for ever.
	MaxSteps int
	// IdleTimeout bounds how long [Serve] waits for the peer: for the first bytes of a frame, for every further 64 KiB of
	// it, and in the same measure for the peer to take a reply. Zero is DefaultIdleTimeout, negative is without bound.
	IdleTimeout time.Duration
	// Replies, on the accepting side, remembers replies, so that a request that is sent again is not executed again. It is
	// shared by all connections. Nil remembers nothing: every copy of a request is executed.
	Replies *Replies
	// Since is, for one call of [Serve], since when the stream's connection exists, as this side knows. Only a repeat whose
	// sender does not know this side's incarnation needs it. The zero Time is not known.
	Since time.Time
	// Logger gets the panics of handlers, with their stack. Nil is silent.
	Logger *slog.Logger
}

// Defaults of a Config.
const (
	DefaultMaxSteps    = 1024
	DefaultIdleTimeout = time.Minute
)

func (c *Config) orDefault() Config {
	var d Config
	if c != nil {
		d = *c
	}
	d.Limit = frameLimit(d.Limit)
	if d.MaxSteps == 0 {
		d.MaxSteps = DefaultMaxSteps
	}
	if d.IdleTimeout == 0 {
		d.IdleTimeout = DefaultIdleTimeout
	}
	if d.Logger == nil {
		d.Logger = slog.New(slog.DiscardHandler)
	}
	return d
}

// tooMany reports whether the step-th message, counted from 1, is one too many.
func (c *Config) tooMany(step int) bool { return c.MaxSteps > 0 && step > c.MaxSteps }
