package mux_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"testing"

	"github.com/hashicorp/yamux"

	"github.com/Blockchain-CN/pheromones/conformance"
	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/mux"
	"github.com/Blockchain-CN/pheromones/transport"
)

func BenchmarkTransport(b *testing.B) {
	conformance.BenchmarkTransport(b, conformance.Transport{
		New:          func(key identity.Key) (transport.Transport, error) { return mux.New(key, nil) },
		Listen:       transport.Addr{Scheme: mux.Scheme, HostPort: "127.0.0.1:0"},
		Baseline:     newBare,
		BaselineName: "yamux",
	})
}

// bare is yamux as it comes, on connections of crypto/tls as they come: what a program would have without this package.
// It does what the benchmarks need and nothing else.
type bare struct{ server, client *tls.Config }

func newBare(key identity.Key) (transport.Transport, error) {
	server, err := key.ServerTLS(mux.ALPN)
	if err != nil {
		return nil, err
	}
	client, err := key.ClientTLS(mux.ALPN, identity.ID{})
	if err != nil {
		return nil, err
	}
	client.ClientSessionCache = tls.NewLRUClientSessionCache(0)
	return &bare{server, client}, nil
}

func (t *bare) Traits() transport.Traits { return transport.Traits{Scheme: mux.Scheme} }
func (t *bare) Close() error             { return nil }

func bareConfig() *yamux.Config {
	c := yamux.DefaultConfig()
	c.LogOutput = io.Discard
	return c
}

func (t *bare) Dial(ctx context.Context, addr transport.Addr) (transport.Conn, error) {
	raw, err := new(net.Dialer).DialContext(ctx, "tcp", addr.HostPort)
	if err != nil {
		return nil, err
	}
	secure := tls.Client(raw, t.client)
	if err := secure.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	session, err := yamux.Client(secure, bareConfig())
	return &bareConn{session}, err
}

func (t *bare) Listen(_ context.Context, addr transport.Addr) (transport.Listener, error) {
	l, err := net.Listen("tcp", addr.HostPort)
	return &bareListener{t, l}, err
}

type bareListener struct {
	t   *bare
	net net.Listener
}

func (l *bareListener) Accept(ctx context.Context) (transport.Conn, error) {
	defer context.AfterFunc(ctx, func() { l.net.Close() })()
	raw, err := l.net.Accept()
	if err != nil {
		return nil, err
	}
	secure := tls.Server(raw, l.t.server)
	if err := secure.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	session, err := yamux.Server(secure, bareConfig())
	return &bareConn{session}, err
}

func (l *bareListener) Addr() transport.Addr {
	return transport.Addr{Scheme: mux.Scheme, HostPort: l.net.Addr().String()}
}
func (l *bareListener) Close() error { return l.net.Close() }

type bareConn struct{ session *yamux.Session }

func (c *bareConn) OpenStream(context.Context) (transport.Stream, error) {
	s, err := c.session.OpenStream()
	return bareStream{s}, err
}

func (c *bareConn) AcceptStream(ctx context.Context) (transport.Stream, error) {
	s, err := c.session.AcceptStreamWithContext(ctx)
	return bareStream{s}, err
}
func (c *bareConn) Info() transport.Info                        { return transport.Info{} }
func (c *bareConn) Context() context.Context                    { return context.Background() }
func (c *bareConn) CloseWithError(transport.Code, string) error { return c.session.Close() }

type bareStream struct{ *yamux.Stream }

func (s bareStream) CloseWrite() error          { return s.Stream.Close() }
func (s bareStream) Reset(transport.Code) error { return errors.ErrUnsupported }
