package main

import (
	"context"
	"io"
	"net"

	"github.com/hashicorp/yamux"

	"github.com/Blockchain-CN/pheromones/bench/harness"
)

// yamuxTLS is yamux over TLS, as configured by default.
func yamuxTLS() harness.Peer {
	return harness.Peer{Name: "yamux", Resumes: true, New: func(o harness.Options, serve func(harness.Stream)) (harness.Network, error) {
		client, server, err := harness.TLS(o, "yamux")
		if err != nil {
			return nil, err
		}
		l, err := listen(client, server, func(c net.Conn) {
			s, err := yamux.Server(c, yamuxConfig())
			if err != nil {
				return
			}
			defer s.Close()
			serveAll(s.AcceptStream, func(st *yamux.Stream) { serve(yamuxStream{st}) })
		})
		return yamuxNetwork{l}, err
	}}
}

func yamuxConfig() *yamux.Config {
	c := yamux.DefaultConfig()
	c.LogOutput = io.Discard
	return c
}

type yamuxNetwork struct{ *listener }

func (n yamuxNetwork) Dial(ctx context.Context) (harness.Conn, error) {
	c, err := n.dial(ctx)
	if err != nil {
		return nil, err
	}
	s, err := yamux.Client(c, yamuxConfig())
	if err != nil {
		return nil, err
	}
	return yamuxConn{s, resumed{c}, harness.NoCalls{}}, nil
}

type yamuxConn struct {
	*yamux.Session
	resumed
	harness.NoCalls
}

func (c yamuxConn) Open(context.Context) (harness.Stream, error) {
	st, err := c.OpenStream()
	return yamuxStream{st}, err
}

// yamuxStream is a stream whose Close is a half-close.
type yamuxStream struct{ *yamux.Stream }

func (s yamuxStream) CloseWrite() error { return s.Stream.Close() }
