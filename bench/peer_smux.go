package main

import (
	"context"
	"net"

	"github.com/xtaci/smux"

	"github.com/Blockchain-CN/pheromones/bench/harness"
)

// smuxTLS is smux over TLS, as configured by default.
func smuxTLS() harness.Peer {
	return harness.Peer{Name: "smux", Resumes: true, New: func(o harness.Options, serve func(harness.Stream)) (harness.Network, error) {
		client, server, err := harness.TLS(o, "smux")
		if err != nil {
			return nil, err
		}
		l, err := listen(client, server, func(c net.Conn) {
			s, err := smux.Server(c, smux.DefaultConfig())
			if err != nil {
				return
			}
			defer s.Close()
			serveAll(s.AcceptStream, func(st *smux.Stream) { serve(smuxStream{st}) })
		})
		return smuxNetwork{l}, err
	}}
}

type smuxNetwork struct{ *listener }

func (n smuxNetwork) Dial(ctx context.Context) (harness.Conn, error) {
	c, err := n.dial(ctx)
	if err != nil {
		return nil, err
	}
	s, err := smux.Client(c, smux.DefaultConfig())
	if err != nil {
		return nil, err
	}
	return smuxConn{s, resumed{c}, harness.NoCalls{}}, nil
}

type smuxConn struct {
	*smux.Session
	resumed
	harness.NoCalls
}

func (c smuxConn) Open(context.Context) (harness.Stream, error) {
	st, err := c.OpenStream()
	return smuxStream{st}, err
}

// smuxStream has the methods that smux means to be used. A stream of smux cannot be half-closed, whatever further methods it has.
type smuxStream struct{ st *smux.Stream }

func (s smuxStream) Read(p []byte) (int, error)  { return s.st.Read(p) }
func (s smuxStream) Write(p []byte) (int, error) { return s.st.Write(p) }
func (s smuxStream) Close() error                { return s.st.Close() }
