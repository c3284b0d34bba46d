package quic_test

import (
	"context"
	"crypto/tls"
	"net"
	"testing"
	"time"

	quicgo "github.com/quic-go/quic-go"

	"github.com/Blockchain-CN/pheromones/conformance"
	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/quic"
	"github.com/Blockchain-CN/pheromones/transport"
)

func BenchmarkTransport(b *testing.B) {
	conformance.BenchmarkTransport(b, conformance.Transport{
		New:          func(key identity.Key) (transport.Transport, error) { return quic.New(key, nil) },
		Listen:       transport.Addr{Scheme: "quic", HostPort: "127.0.0.1:0"},
		Baseline:     newBare,
		BaselineName: "quic-go",
	})
}

// bare is quic-go as it comes: what a program would have without this package. It does what the benchmarks need and
// nothing else.
type bare struct {
	server, client *tls.Config
	conf           *quicgo.Config
	quic           *quicgo.Transport // made by the first Dial or Listen
}

func newBare(key identity.Key) (transport.Transport, error) {
	const alpn = "pheromones/1"
	server, err := key.ServerTLS(alpn)
	if err != nil {
		return nil, err
	}
	client, err := key.ClientTLS(alpn, identity.ID{})
	if err != nil {
		return nil, err
	}
	client.ClientSessionCache = tls.NewLRUClientSessionCache(0)
	return &bare{server: server, client: client, conf: &quicgo.Config{
		MaxIncomingStreams: 1024, KeepAlivePeriod: 15 * time.Second, TokenStore: quicgo.NewLRUTokenStore(16, 2),
	}}, nil
}

func (t *bare) Traits() transport.Traits { return transport.Traits{Scheme: "quic"} }

func (t *bare) open(local string) error {
	if t.quic != nil {
		return nil
	}
	addr, err := net.ResolveUDPAddr("udp4", local)
	if err != nil {
		return err
	}
	udp, err := net.ListenUDP("udp4", addr)
	if err != nil {
		return err
	}
	t.quic = &quicgo.Transport{Conn: udp}
	return nil
}

func (t *bare) Close() error {
	if t.quic == nil {
		return nil
	}
	t.quic.Close()
	return t.quic.Conn.Close()
}

func (t *bare) Dial(ctx context.Context, addr transport.Addr) (transport.Conn, error) {
	if err := t.open("0.0.0.0:0"); err != nil {
		return nil, err
	}
	to, err := net.ResolveUDPAddr("udp4", addr.HostPort)
	if err != nil {
		return nil, err
	}
	c, err := t.quic.Dial(ctx, to, t.client, t.conf)
	return &bareConn{c}, err
}

func (t *bare) Listen(_ context.Context, addr transport.Addr) (transport.Listener, error) {
	if err := t.open(addr.HostPort); err != nil {
		return nil, err
	}
	l, err := t.quic.Listen(t.server, t.conf)
	return &bareListener{l}, err
}

type bareListener struct{ quic *quicgo.Listener }

func (l *bareListener) Accept(ctx context.Context) (transport.Conn, error) {
	c, err := l.quic.Accept(ctx)
	return &bareConn{c}, err
}

func (l *bareListener) Addr() transport.Addr {
	return transport.Addr{Scheme: "quic", HostPort: l.quic.Addr().String()}
}
func (l *bareListener) Close() error { return l.quic.Close() }

type bareConn struct{ quic *quicgo.Conn }

func (c *bareConn) OpenStream(ctx context.Context) (transport.Stream, error) {
	s, err := c.quic.OpenStreamSync(ctx)
	return bareStream{s, c}, err
}

func (c *bareConn) AcceptStream(ctx context.Context) (transport.Stream, error) {
	s, err := c.quic.AcceptStream(ctx)
	return bareStream{s, c}, err
}
func (c *bareConn) Info() transport.Info     { return transport.Info{} }
func (c *bareConn) Context() context.Context { return c.quic.Context() }
func (c *bareConn) CloseWithError(transport.Code, string) error {
	return c.quic.CloseWithError(0, "")
}

type bareStream struct {
	*quicgo.Stream
	conn *bareConn
}

func (s bareStream) CloseWrite() error    { return s.Stream.Close() }
func (s bareStream) LocalAddr() net.Addr  { return s.conn.quic.LocalAddr() }
func (s bareStream) RemoteAddr() net.Addr { return s.conn.quic.RemoteAddr() }

func (s bareStream) Close() error {
	s.CancelRead(0)
	return s.Stream.Close()
}

func (s bareStream) Reset(code transport.Code) error {
	s.CancelRead(quicgo.StreamErrorCode(code))
	s.CancelWrite(quicgo.StreamErrorCode(code))
	return nil
}
