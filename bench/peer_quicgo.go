package main

import (
	"context"
	"crypto/tls"
	"net"
	"sync"

	"github.com/quic-go/quic-go"

	"github.com/Blockchain-CN/pheromones/bench/harness"
)

// quicGo is quic-go as it is, configured by default.
func quicGo() harness.Peer {
	return harness.Peer{Name: "quic-go", Resumes: true, New: newQUICGo}
}

type quicNetwork struct {
	client, server *quic.Transport
	listener       *quic.Listener
	config         *tls.Config
	wait           sync.WaitGroup
}

func newQUICGo(o harness.Options, serve func(harness.Stream)) (harness.Network, error) {
	client, server, err := harness.TLS(o, "bench")
	if err != nil {
		return nil, err
	}
	n := &quicNetwork{config: client}
	for _, t := range []**quic.Transport{&n.client, &n.server} {
		socket, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			return nil, err
		}
		*t = &quic.Transport{Conn: socket}
	}
	if n.listener, err = n.server.Listen(server, new(quic.Config)); err != nil {
		return nil, err
	}
	n.wait.Go(func() {
		serveAll(func() (*quic.Conn, error) { return n.listener.Accept(context.Background()) }, func(c *quic.Conn) {
			serveAll(func() (*quic.Stream, error) { return c.AcceptStream(context.Background()) }, func(st *quic.Stream) {
				serve(quicStream{st})
			})
		})
	})
	return n, nil
}

func (n *quicNetwork) Dial(ctx context.Context) (harness.Conn, error) {
	c, err := n.client.Dial(ctx, n.listener.Addr(), n.config, new(quic.Config))
	if err != nil {
		return nil, err
	}
	return quicConn{conn: c}, nil
}

func (n *quicNetwork) Close() error {
	n.listener.Close()
	for _, t := range []*quic.Transport{n.client, n.server} {
		t.Close()
		t.Conn.Close()
	}
	n.wait.Wait()
	return nil
}

type quicConn struct {
	harness.NoCalls
	conn *quic.Conn
}

func (c quicConn) Open(ctx context.Context) (harness.Stream, error) {
	st, err := c.conn.OpenStreamSync(ctx)
	return quicStream{st}, err
}

func (c quicConn) Resumed() bool { return c.conn.ConnectionState().TLS.DidResume }
func (c quicConn) Close() error  { return c.conn.CloseWithError(0, "") }

type quicStream struct{ *quic.Stream }

func (s quicStream) CloseWrite() error { return s.Stream.Close() }

func (s quicStream) Close() error {
	s.CancelRead(0) // nothing, if all has been read
	return s.Stream.Close()
}
