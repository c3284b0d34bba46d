package main

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"sync"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/sec"
	"github.com/libp2p/go-libp2p/core/transport"
	"github.com/libp2p/go-libp2p/p2p/muxer/yamux"
	"github.com/libp2p/go-libp2p/p2p/net/upgrader"
	libp2ptls "github.com/libp2p/go-libp2p/p2p/security/tls"
	libp2pquic "github.com/libp2p/go-libp2p/p2p/transport/quic"
	"github.com/libp2p/go-libp2p/p2p/transport/quicreuse"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/quic-go/quic-go"

	"github.com/Blockchain-CN/pheromones/bench/harness"
)

// The transports of go-libp2p are measured with its own configuration, but without its hosts: no stream has to negotiate its
// protocol, no resource manager counts. That is in their favour.

func overTCP() harness.Peer {
	return harness.Peer{Name: "libp2p-tcp", New: func(_ harness.Options, serve func(harness.Stream)) (harness.Network, error) {
		return newNetwork(newTCP, "/ip4/127.0.0.1/tcp/0", serve)
	}}
}

func overQUIC() harness.Peer {
	return harness.Peer{Name: "libp2p-quic", New: func(_ harness.Options, serve func(harness.Stream)) (harness.Network, error) {
		return newNetwork(newQUIC, "/ip4/127.0.0.1/udp/0/quic-v1", serve)
	}}
}

// newTCP returns the transport of TLS and yamux over TCP, and what must be closed after it.
func newTCP(key crypto.PrivKey) (transport.Transport, io.Closer, error) {
	muxers := []upgrader.StreamMuxer{{ID: yamux.ID, Muxer: yamux.DefaultTransport}}
	security, err := libp2ptls.New(libp2ptls.ID, key, muxers)
	if err != nil {
		return nil, nil, err
	}
	up, err := upgrader.New([]sec.SecureTransport{security}, muxers, nil, nil, nil)
	if err != nil {
		return nil, nil, err
	}
	t, err := tcp.NewTCPTransport(up, nil, nil)
	return t, nil, err
}

func newQUIC(key crypto.PrivKey) (transport.Transport, io.Closer, error) {
	m, err := quicreuse.NewConnManager(quic.StatelessResetKey{}, quic.TokenGeneratorKey{}, quicreuse.DisableReuseport())
	if err != nil {
		return nil, nil, err
	}
	t, err := libp2pquic.NewTransport(key, m, nil, nil, nil)
	return t, m, err
}

type libp2pNetwork struct {
	client   transport.Transport
	peer     peer.ID
	listener transport.Listener
	closers  []io.Closer
	wait     sync.WaitGroup
}

func newNetwork(newTransport func(crypto.PrivKey) (transport.Transport, io.Closer, error), addr string, serve func(harness.Stream)) (*libp2pNetwork, error) {
	n := new(libp2pNetwork)
	var server transport.Transport
	for _, t := range []*transport.Transport{&n.client, &server} {
		key, _, err := crypto.GenerateEd25519Key(rand.Reader)
		if err != nil {
			return nil, err
		}
		var after io.Closer
		if *t, after, err = newTransport(key); err != nil {
			return nil, err
		}
		if c, ok := (*t).(io.Closer); ok {
			n.closers = append(n.closers, c)
		}
		if after != nil {
			n.closers = append(n.closers, after)
		}
		if n.peer, err = peer.IDFromPrivateKey(key); err != nil {
			return nil, err
		}
	}
	at, err := ma.NewMultiaddr(addr)
	if err != nil {
		return nil, err
	}
	if n.listener, err = server.Listen(at); err != nil {
		return nil, err
	}
	n.wait.Go(func() {
		serveAll(n.listener.Accept, func(c transport.CapableConn) {
			serveAll(c.AcceptStream, func(st network.MuxedStream) { serve(stream{st}) })
			c.Close()
		})
	})
	return n, nil
}

// serveAll gives what accept returns to serve, in goroutines, and waits for them.
func serveAll[S any](accept func() (S, error), serve func(S)) {
	var wait sync.WaitGroup
	defer wait.Wait()
	for {
		st, err := accept()
		if err != nil {
			return
		}
		wait.Go(func() { serve(st) })
	}
}

func (n *libp2pNetwork) Dial(ctx context.Context) (harness.Conn, error) {
	c, err := n.client.Dial(ctx, n.listener.Multiaddr(), n.peer)
	if err != nil {
		return nil, err
	}
	return conn{CapableConn: c}, nil
}

func (n *libp2pNetwork) Close() error {
	errs := []error{n.listener.Close()}
	for _, c := range n.closers {
		errs = append(errs, c.Close())
	}
	n.wait.Wait()
	return errors.Join(errs...)
}

type conn struct {
	transport.CapableConn
	harness.NoCalls
}

func (c conn) Open(ctx context.Context) (harness.Stream, error) {
	st, err := c.OpenStream(ctx)
	return stream{st}, err
}

// stream has what the harness may use of a stream.
type stream struct{ network.MuxedStream }
