// Package mux is the transport of long connections over TCP: one connection to a peer carries any number of streams.
//
// The streams are those of yamux, by github.com/hashicorp/yamux, over TLS 1.3 between peers that prove their IDs. What
// yamux lacks is added beneath it, where its frames pass: resets and closes with codes, a limit on streams that is
// honoured before it is exceeded, calls that keep to their contexts and deadlines while the network stands still, and
// frames that leave together. The wire stays yamux's; SPEC.md, section "mux", says what is put into it.
package mux

import (
	"context"
	"crypto/tls"
	"fmt"
	"math"
	"net"
	"time"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/internal/outq"
	"github.com/Blockchain-CN/pheromones/internal/tlsnet"
	"github.com/Blockchain-CN/pheromones/transport"
)

// Scheme is the scheme of the transport's addresses.
const Scheme = "mux"

// ALPN is the application protocol (RFC 7301) that both sides of a handshake must agree on.
const ALPN = "pheromones/1"

// Config has the choices that [New] leaves open. The zero Config is the default. New copies it.
type Config struct {
	// HandshakeTimeout bounds a handshake on either side. Zero or less means 10 s.
	HandshakeTimeout time.Duration
	// MaxHandshakes bounds the handshakes under way at a listener; beyond it the oldest is given up. Zero or less means 256.
	MaxHandshakes int
	// Backlog bounds the connections that wait to be accepted; further ones wait in the operating system. Zero or less
	// means 128.
	Backlog int
	// Sessions bounds the TLS sessions remembered for resumption, one for each address and peer dialled. Zero means 1024;
	// negative means none.
	Sessions int
	// Resolver looks up the DNS names of addresses that are dialled. Nil means net.DefaultResolver.
	Resolver *net.Resolver
	// MaxStreams bounds the streams that a peer may have open on a connection; its OpenStream waits beyond it. Zero or less
	// means 1024. Together with Window it bounds what a peer can make a connection hold: MaxStreams × Window bytes.
	MaxStreams int
	// Window bounds the bytes of one stream that may wait for its reader. It is at least 256 KiB, which is also what zero
	// or less means, and at most 16 MiB.
	Window int
	// KeepAlive is how often an idle connection is tried. A peer that does not answer within twice that is lost, but it has 2 s at
	// least and 10 s at most. Zero means 15 s; negative means never.
	KeepAlive time.Duration
}

func (c *Config) maxStreams() int {
	if c.MaxStreams <= 0 {
		return defaultStreams
	}
	return min(c.MaxStreams, math.MaxInt32)
}

func (c *Config) window() uint32 { return uint32(min(max(c.Window, minWindow), maxWindow)) }

// answerTimeout is for how long a peer may leave a ping unanswered.
func (c *Config) answerTimeout() time.Duration {
	return min(max(2*c.keepAlive(), 2*time.Second), 10*time.Second)
}

func (c *Config) keepAlive() time.Duration {
	if c.KeepAlive == 0 {
		return 15 * time.Second
	}
	return c.KeepAlive
}

// Transport is the [transport.Transport] of long connections over TCP. It is safe for concurrent use.
type Transport struct{ net *tlsnet.Transport }

// New returns a transport for the holder of key. A nil cfg means the defaults. It fails for the zero Key and for a window
// out of bounds.
func New(key identity.Key, cfg *Config) (*Transport, error) {
	if cfg == nil {
		cfg = new(Config)
	}
	if cfg.Window > maxWindow {
		return nil, fmt.Errorf("mux: a window of %d bytes is more than %d", cfg.Window, maxWindow)
	}
	choices := *cfg
	t := new(Transport)
	var err error
	t.net, err = tlsnet.New(key, tlsnet.Config{
		Scheme: Scheme, ALPN: ALPN,
		Wrap: func(raw *tls.Conn, info transport.Info, pool *outq.Pool) tlsnet.Conn {
			return newConn(raw, info, pool, &choices, func(c *conn) { t.net.Ended(c) })
		},
		HandshakeTimeout: cfg.HandshakeTimeout, MaxHandshakes: cfg.MaxHandshakes, Backlog: cfg.Backlog, Sessions: cfg.Sessions, Resolver: cfg.Resolver,
	})
	if err != nil {
		return nil, err
	}
	return t, nil
}

// Sign implements [transport.Signer].
func (t *Transport) Sign(message []byte) []byte { return t.net.Sign(message) }

// Traits implements [transport.Transport].
func (t *Transport) Traits() transport.Traits {
	return transport.Traits{Scheme: Scheme, LocalPeer: t.net.LocalPeer()}
}

// Dial implements [transport.Transport].
func (t *Transport) Dial(ctx context.Context, addr transport.Addr) (transport.Conn, error) {
	return t.net.Dial(ctx, addr)
}

// Listen implements [transport.Transport].
func (t *Transport) Listen(ctx context.Context, addr transport.Addr) (transport.Listener, error) {
	return t.net.Listen(ctx, addr)
}

// DialOver is Dial over a network connection that is there already, such as a stream through a relay, in place of TCP. It owns raw,
// also when it fails. addr is what Info shows as the address of both sides, and its Peer, if set, is who the other end must prove
// to be. It returns as Dial does.
func (t *Transport) DialOver(ctx context.Context, raw net.Conn, addr transport.Addr) (transport.Conn, error) {
	return t.net.DialOver(ctx, raw, addr)
}

// AcceptOver is the other end of DialOver. It returns when whoever dials has proved its ID, or cannot, or after HandshakeTimeout,
// or when ctx ends.
func (t *Transport) AcceptOver(ctx context.Context, raw net.Conn, addr transport.Addr) (transport.Conn, error) {
	return t.net.AcceptOver(ctx, raw, addr)
}

// Close implements [transport.Transport]. It gives peers a second to hear of it.
func (t *Transport) Close() error { return t.net.Close() }
