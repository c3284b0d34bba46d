// Package tcp is the transport of short connections: each exchange has a TCP connection of its own, which ends with it.
//
// A connection carries one stream, opened by the side that dialled ([transport.Traits].OneStream). It is encrypted by TLS
// 1.3 between peers that prove their IDs; a peer dialled before is dialled again by session resumption, which costs a
// fraction of a full handshake. Short connections hold nothing open between exchanges and pass every middlebox that lets
// TCP through; for many exchanges with one peer, packages mux and quic are faster.
//
// SPEC.md, section "tcp", has the frames.
package tcp

import (
	"context"
	"crypto/tls"
	"net"
	"time"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/internal/outq"
	"github.com/Blockchain-CN/pheromones/internal/tlsnet"
	"github.com/Blockchain-CN/pheromones/transport"
)

// Scheme is the scheme of the transport's addresses.
const Scheme = "tcp"

// ALPN is the application protocol (RFC 7301) that both sides of a handshake must agree on.
const ALPN = "pheromones-short/1"

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
	// negative means none, so that every dial pays for a full handshake.
	Sessions int
	// Resolver looks up the DNS names of addresses that are dialled. Nil means net.DefaultResolver.
	Resolver *net.Resolver
}

// Transport is the [transport.Transport] of short connections. It is safe for concurrent use.
type Transport struct{ net *tlsnet.Transport }

// New returns a transport for the holder of key. A nil cfg means the defaults. It fails only for the zero Key.
func New(key identity.Key, cfg *Config) (*Transport, error) {
	if cfg == nil {
		cfg = new(Config)
	}
	t := new(Transport)
	var err error
	t.net, err = tlsnet.New(key, tlsnet.Config{
		Scheme: Scheme, ALPN: ALPN,
		Wrap: func(raw *tls.Conn, info transport.Info, pool *outq.Pool) tlsnet.Conn {
			return newConn(raw, info, pool, func(c *conn) { t.net.Ended(c) })
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
	return transport.Traits{Scheme: Scheme, LocalPeer: t.net.LocalPeer(), OneStream: true}
}

// Dial implements [transport.Transport].
func (t *Transport) Dial(ctx context.Context, addr transport.Addr) (transport.Conn, error) {
	return t.net.Dial(ctx, addr)
}

// Listen implements [transport.Transport].
func (t *Transport) Listen(ctx context.Context, addr transport.Addr) (transport.Listener, error) {
	return t.net.Listen(ctx, addr)
}

// Close implements [transport.Transport]. It gives peers a second to hear of it.
func (t *Transport) Close() error { return t.net.Close() }
