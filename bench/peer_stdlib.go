package main

import (
	"context"
	"net"

	"github.com/Blockchain-CN/pheromones/bench/harness"
)

// rawTCP is the limit that the kernel sets: nothing is encrypted and nobody proves anything.
func rawTCP() harness.Peer {
	return harness.Peer{Name: "raw-tcp", OneStream: true, New: func(_ harness.Options, serve func(harness.Stream)) (harness.Network, error) {
		l, err := listen(nil, nil, func(c net.Conn) { serve(c) })
		return plain{l}, err
	}}
}

// plainTLS is the limit that TLS sets: one connection a stream.
func plainTLS() harness.Peer {
	return harness.Peer{Name: "tls", OneStream: true, Resumes: true, New: func(o harness.Options, serve func(harness.Stream)) (harness.Network, error) {
		client, server, err := harness.TLS(o, "bench")
		if err != nil {
			return nil, err
		}
		l, err := listen(client, server, func(c net.Conn) { serve(c) })
		return plain{l}, err
	}}
}

type plain struct{ *listener }

func (p plain) Dial(ctx context.Context) (harness.Conn, error) {
	c, err := p.dial(ctx)
	if err != nil {
		return nil, err
	}
	if p.client != nil {
		return tlsConn{plainConn{Conn: c}, resumed{c}}, nil
	}
	return plainConn{Conn: c}, nil
}

// plainConn is a connection that is its own stream.
type plainConn struct {
	net.Conn
	harness.NoCalls
}

func (c plainConn) Open(context.Context) (harness.Stream, error) { return c.Conn, nil }

type tlsConn struct {
	plainConn
	resumed
}
