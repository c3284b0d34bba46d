package main

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"github.com/Blockchain-CN/pheromones/bench/harness"
	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/mux"
	"github.com/Blockchain-CN/pheromones/quic"
	"github.com/Blockchain-CN/pheromones/tcp"
	"github.com/Blockchain-CN/pheromones/transport"
)

// ours are the transports of pheromones, with the default configuration.
func ours() []harness.Peer {
	peer := func(name string, oneStream bool, newTransport maker) harness.Peer {
		return harness.Peer{
			Name: name, OneStream: oneStream, Resumes: true,
			New: func(o harness.Options, serve func(harness.Stream)) (harness.Network, error) {
				return newOurs(newTransport, o, serve)
			},
		}
	}
	return []harness.Peer{peer("tcp", true, newTCP), peer("mux", false, newMux), peer("quic", false, newQUIC)}
}

// maker makes a transport: one that resumes sessions, or one that never does.
type maker func(key identity.Key, o harness.Options) (transport.Transport, error)

func newTCP(key identity.Key, o harness.Options) (transport.Transport, error) {
	var cfg tcp.Config
	if o.Sessions == harness.Never {
		cfg.Sessions = -1
	}
	return tcp.New(key, &cfg)
}

func newMux(key identity.Key, o harness.Options) (transport.Transport, error) {
	var cfg mux.Config
	if o.Sessions == harness.Never {
		cfg.Sessions = -1
	}
	return mux.New(key, &cfg)
}

func newQUIC(key identity.Key, o harness.Options) (transport.Transport, error) {
	var cfg quic.Config
	if o.Sessions == harness.Never {
		cfg.MaxSessions = 1 // whose place each of the listeners that are dialled by turns takes from the other
	}
	return quic.New(key, &cfg)
}

type ourNetwork struct {
	client, server transport.Transport
	addrs          []transport.Addr
	dials          atomic.Int64
	wait           sync.WaitGroup
}

func newOurs(newTransport maker, o harness.Options, serve func(harness.Stream)) (_ harness.Network, err error) {
	n := new(ourNetwork)
	defer func() {
		if err != nil {
			n.Close()
		}
	}()
	for _, t := range []*transport.Transport{&n.client, &n.server} {
		key, err := identity.Generate()
		if err != nil {
			return nil, err
		}
		if *t, err = newTransport(key, o); err != nil {
			return nil, err
		}
	}
	listeners := 1
	if o.Sessions == harness.Never {
		listeners = 2
	}
	for range listeners {
		l, err := n.server.Listen(context.Background(), transport.Addr{Scheme: n.server.Traits().Scheme, HostPort: "127.0.0.1:0"})
		if err != nil {
			return nil, err
		}
		n.addrs = append(n.addrs, l.Addr())
		n.wait.Go(func() {
			serveAll(func() (transport.Conn, error) { return l.Accept(context.Background()) }, func(c transport.Conn) { n.accepted(c, serve) })
		})
	}
	return n, nil
}

func (n *ourNetwork) accepted(c transport.Conn, serve func(harness.Stream)) {
	ctx := context.Background()
	if n.server.Traits().OneStream {
		if st, err := c.AcceptStream(ctx); err == nil {
			serve(st)
		}
		return
	}
	serveAll(func() (transport.Stream, error) { return c.AcceptStream(ctx) }, func(st transport.Stream) { serve(st) })
}

func (n *ourNetwork) Dial(ctx context.Context) (harness.Conn, error) {
	c, err := n.client.Dial(ctx, n.addrs[n.dials.Add(1)%int64(len(n.addrs))])
	if err != nil {
		return nil, err
	}
	return ourConn{conn: c, oneStream: n.server.Traits().OneStream}, nil
}

func (n *ourNetwork) Close() error {
	var errs []error
	for _, t := range []transport.Transport{n.client, n.server} {
		if t != nil {
			errs = append(errs, t.Close())
		}
	}
	n.wait.Wait()
	return errors.Join(errs...)
}

type ourConn struct {
	harness.NoCalls
	conn      transport.Conn
	oneStream bool
}

func (c ourConn) Open(ctx context.Context) (harness.Stream, error) { return c.conn.OpenStream(ctx) }
func (c ourConn) Resumed() bool                                    { return c.conn.Info().Resumed }

// Close leaves a connection with one stream to the stream, which ends it in order.
func (c ourConn) Close() error {
	if c.oneStream {
		return nil
	}
	return c.conn.CloseWithError(0, "")
}
