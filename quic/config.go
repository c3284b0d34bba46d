package quic

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"net"
	"time"

	quicgo "github.com/quic-go/quic-go"
)

// Config holds what a program may want to choose. The zero value works, and so does nil. A number that is zero stands
// for its default; one that is negative is refused by [New] unless its comment gives it a meaning. A time-out of more
// than a day counts as a day. The struct is copied.
type Config struct {
	// HandshakeTimeout bounds a handshake, on either side. A peer that does not answer at all is given up by the accepting
	// side after half of it. Default: 10 s.
	HandshakeTimeout time.Duration
	// IdleTimeout is for how long a connection lives without hearing from its peer; the smaller of both sides' values
	// counts. Default: 30 s.
	IdleTimeout time.Duration
	// KeepAlive is after how long a silence something is sent, so that neither IdleTimeout nor a NAT on the way, most of
	// which forget a UDP mapping after 30 s, ends the connection. At most half of IdleTimeout is used. Default: 15 s.
	// Negative: nothing is sent.
	KeepAlive time.Duration
	// MaxHandshakes bounds the handshakes under way that peers began, over all listeners; further ones are refused. From
	// a quarter of it on, a peer must first prove its address (RFC 9000 §8.1.2), so forged packets stop to count; from
	// half of it on, silent peers are given up five times as fast. Default: 256.
	MaxHandshakes int
	// MaxStreams bounds the streams a peer may have open at once on a connection; it waits before it opens more.
	// Default: 1024.
	MaxStreams int
	// AcceptBacklog bounds the connections of a listener that wait for Accept; further ones are closed with CodeRefused.
	// Default: 1024.
	AcceptBacklog int
	// StreamWindow bounds the bytes of a stream that were received and not yet read. Streams begin with at most 512 KiB
	// and earn more by being read fast. Default: 6 MiB.
	StreamWindow int
	// ConnWindow bounds the same over all streams of a connection: it is what a hostile peer can make us keep. Streams
	// that nobody reads use it up; with less than ConnWindow in them the others go on. Default: 32 MiB.
	ConnWindow int
	// ListenPacket opens the sockets, of the networks "udp4" and "udp6". What it returns has a *net.UDPAddr for its LocalAddr, and
	// takes and gives such. Packet connections that are no *net.UDPConn, such as those of a simulated network, do without batches,
	// offload, congestion marks and MTU discovery: they are slower. Default: that of net.ListenConfig.
	ListenPacket func(ctx context.Context, network, address string) (net.PacketConn, error)
	// Resolver looks up the DNS names of addresses that are dialled. Default: net.DefaultResolver.
	Resolver *net.Resolver
	// MaxSessions bounds the sessions kept for resumption (RFC 8446 §2.2). Default: 256.
	MaxSessions int
}

const (
	initialStreamWindow = 512 << 10
	minWindow           = 16 << 10
	maxTimeout          = 24 * time.Hour
)

// withDefaults returns a copy whose every field has its effective value.
func (c *Config) withDefaults() (Config, error) {
	var out Config
	if c != nil {
		out = *c
	}
	for _, f := range []struct {
		name string
		v    *time.Duration
		def  time.Duration
	}{
		{"HandshakeTimeout", &out.HandshakeTimeout, 10 * time.Second},
		{"IdleTimeout", &out.IdleTimeout, 30 * time.Second},
	} {
		if *f.v < 0 {
			return Config{}, fmt.Errorf("quic: Config.%s is %v, want zero or more", f.name, *f.v)
		}
		*f.v = min(cmp.Or(*f.v, f.def), maxTimeout)
	}
	if out.Resolver == nil {
		out.Resolver = net.DefaultResolver
	}
	out.KeepAlive = min(max(0, cmp.Or(out.KeepAlive, 15*time.Second)), maxTimeout)
	for _, f := range []struct {
		name     string
		v        *int
		min, def int
	}{
		{"MaxHandshakes", &out.MaxHandshakes, 1, 256},
		{"MaxStreams", &out.MaxStreams, 1, 1024},
		{"AcceptBacklog", &out.AcceptBacklog, 1, 1024},
		{"StreamWindow", &out.StreamWindow, minWindow, 6 << 20},
		{"ConnWindow", &out.ConnWindow, minWindow, 32 << 20},
		{"MaxSessions", &out.MaxSessions, 1, 256},
	} {
		if *f.v = cmp.Or(*f.v, f.def); *f.v < f.min || *f.v > math.MaxInt32 {
			return Config{}, fmt.Errorf("quic: Config.%s is %d, want zero or %d to %d", f.name, *f.v, f.min, math.MaxInt32)
		}
	}
	return out, nil
}

// quic returns the part of the configuration that both sides of a connection share.
func (c *Config) quic() *quicgo.Config {
	return &quicgo.Config{
		MaxIdleTimeout:             c.IdleTimeout,
		KeepAlivePeriod:            c.KeepAlive,
		InitialStreamReceiveWindow: uint64(min(c.StreamWindow, initialStreamWindow)),
		MaxStreamReceiveWindow:     uint64(c.StreamWindow),
		// The whole window from the start: it is granted to hostile peers anyway, and with less of it two streams that
		// nobody reads would hold up all others.
		InitialConnectionReceiveWindow: uint64(c.ConnWindow),
		MaxConnectionReceiveWindow:     uint64(c.ConnWindow),
		MaxIncomingStreams:             int64(c.MaxStreams),
		MaxIncomingUniStreams:          -1,
		EnableDatagrams:                true,
	}
}
