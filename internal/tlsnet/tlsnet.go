// Package tlsnet is what the transports over TCP have in common: dialling, listening and handshakes of TLS 1.3 between peers
// that prove their IDs, with the bounds that keep silent and hostile strangers from using a listener up.
package tlsnet

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/internal/outq"
	"github.com/Blockchain-CN/pheromones/transport"
)

// Config says what the two transports over TCP do differently, and what their users chose.
type Config struct {
	Scheme string
	ALPN   string
	// Wrap makes a transport's connection of a finished handshake; pool is one for all of them. It must not block.
	Wrap func(raw *tls.Conn, info transport.Info, pool *outq.Pool) Conn

	HandshakeTimeout time.Duration // from the first byte to the last of a handshake, on either side; 0 means 10 s
	MaxHandshakes    int           // under way at once at a listener; 0 means 256
	Backlog          int           // connections that wait to be accepted; 0 means 128
	Sessions         int           // TLS sessions remembered for resumption; 0 means 1024, negative none
	Resolver         *net.Resolver // of names; nil means net.DefaultResolver
}

func (c *Config) handshakeTimeout() time.Duration {
	return orDefault(c.HandshakeTimeout, 10*time.Second)
}
func (c *Config) maxHandshakes() int { return orDefault(c.MaxHandshakes, 256) }
func (c *Config) backlog() int       { return orDefault(c.Backlog, 128) }

func orDefault[T int | time.Duration](v, otherwise T) T {
	if v <= 0 {
		return otherwise
	}
	return v
}

// Conn is a transport's connection.
type Conn interface {
	transport.Conn
	// Hurry is Link's.
	Hurry()
	// Done is closed when the connection has ended and all of its goroutines have.
	Done() <-chan struct{}
}

// Transport dials and listens. It has the methods of [transport.Transport] but Traits. It is safe for concurrent use.
type Transport struct {
	cfg      Config
	key      identity.Key
	server   *tls.Config
	sessions tls.ClientSessionCache
	pool     outq.Pool
	ctx      context.Context // ends with Close
	stop     context.CancelFunc

	mu        sync.Mutex
	closed    bool
	listeners map[*Listener]struct{}
	conns     map[Conn]struct{}
	running   sync.WaitGroup // dials, accept loops, handshakes and watchers of conns; Add is called with mu held
}

// New returns a transport for the holder of key.
func New(key identity.Key, cfg Config) (*Transport, error) {
	server, err := key.ServerTLS(cfg.ALPN)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", cfg.Scheme, err)
	}
	t := &Transport{
		cfg: cfg, key: key, server: server,
		listeners: make(map[*Listener]struct{}), conns: make(map[Conn]struct{}),
	}
	if cfg.Sessions >= 0 {
		t.sessions = tls.NewLRUClientSessionCache(orDefault(cfg.Sessions, 1024))
	}
	t.ctx, t.stop = context.WithCancel(context.Background())
	return t, nil
}

// LocalPeer returns the ID of the key that the transport was made with.
func (t *Transport) LocalPeer() identity.ID { return t.key.ID() }

// Sign signs with the key.
func (t *Transport) Sign(message []byte) []byte { return t.key.Sign(message) }

// begin registers a piece of work that Close must wait for; it reports false after Close.
func (t *Transport) begin() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return false
	}
	t.running.Add(1)
	return true
}

// Dial is [transport.Transport]'s. A name with several addresses is dialled as RFC 6555 has it, by [net.Dialer].
func (t *Transport) Dial(ctx context.Context, addr transport.Addr) (transport.Conn, error) {
	c, err := t.dial(ctx, addr)
	if err != nil {
		return nil, &transport.OpError{Op: "dial", Addr: addr, Err: err}
	}
	return c, nil
}

func (t *Transport) dial(ctx context.Context, addr transport.Addr) (Conn, error) {
	if err := addr.Check(t.cfg.Scheme); err != nil {
		return nil, err
	}
	if !t.begin() {
		return nil, transport.ErrClosed
	}
	defer t.running.Done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(t.ctx, cancel)()
	raw, err := t.connect(ctx, addr)
	if err != nil {
		if t.ctx.Err() != nil {
			return nil, transport.ErrClosed
		}
		return nil, err
	}
	c, err := t.adopt(raw, true, nil)
	if err != nil {
		raw.NetConn().Close()
		return nil, err
	}
	return c, nil
}

// DialOver is Dial over a network connection that is there already, in place of TCP, to whoever is at its other end. raw is closed
// with the connection, or if DialOver fails. addr is what Info of the connection shows as both sides' address, and its Peer, if
// set, is who the other end must prove to be.
func (t *Transport) DialOver(ctx context.Context, raw net.Conn, addr transport.Addr) (transport.Conn, error) {
	return t.over(ctx, raw, addr, "dial", func() (*tls.Conn, error) {
		cfg, err := t.key.ClientTLS(t.cfg.ALPN, addr.Peer)
		if err != nil {
			return nil, err
		}
		return tls.Client(newGatherer(raw), cfg), nil
	})
}

// AcceptOver is the other end of DialOver.
func (t *Transport) AcceptOver(ctx context.Context, raw net.Conn, addr transport.Addr) (transport.Conn, error) {
	return t.over(ctx, raw, addr, "accept", func() (*tls.Conn, error) { return tls.Server(newGatherer(raw), t.server), nil })
}

// over makes a connection over raw; begin says on which side.
func (t *Transport) over(ctx context.Context, raw net.Conn, addr transport.Addr, op string, begin func() (*tls.Conn, error)) (transport.Conn, error) {
	if !t.begin() {
		raw.Close()
		return nil, &transport.OpError{Op: op, Addr: addr, Err: transport.ErrClosed}
	}
	defer t.running.Done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(t.ctx, cancel)()
	c, err := begin()
	if err == nil {
		err = transport.PhaseHandshake.In(t.handshake(ctx, c))
	}
	var conn Conn
	if err == nil {
		conn, err = t.adopt(c, op == "dial", &addr)
	}
	if err != nil {
		raw.Close()
		if t.ctx.Err() != nil {
			err = transport.ErrClosed
		}
		return nil, &transport.OpError{Op: op, Addr: addr, Err: err}
	}
	return conn, nil
}

// keepAlive notices a peer that vanished within about 35 s, and keeps the mapping of a NAT alive meanwhile.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 4}

// connect dials and resumes the session of an earlier connection, if there is one and the peer still knows it.
func (t *Transport) connect(ctx context.Context, addr transport.Addr) (*tls.Conn, error) {
	if t.sessions == nil {
		return t.connectAs(ctx, addr, nil, false)
	}
	// A session of one peer is never offered to another: the cache is keyed by who and where.
	s := session{t.sessions, addr.String()}
	if _, ok := s.Get(""); ok {
		raw, err := t.connectAs(ctx, addr, s, true)
		var alert *net.OpError
		if !errors.Is(err, errNotResumed) && !(errors.As(err, &alert) && alert.Op == "remote error") {
			return raw, err
		}
		s.Put("", nil)
	}
	return t.connectAs(ctx, addr, s, false)
}

// errNotResumed ends a handshake that was to resume a session.
var errNotResumed = errors.New("the peer has forgotten the session")

// connectAs dials. With resume it fails, before the peer has accepted, unless the session is resumed.
//
// A resumed session's keys come of the first handshake's secret and of a new key exchange (RFC 8446, section 7.1). The
// former was agreed on by what crypto/tls thinks best, which is safe from quantum computers to come, and takes almost half
// of the time that a resumption does. The latter, whose purpose is forward secrecy, may then be P-256, which all
// implementations have and which is several times as fast. A full handshake is never made with that alone.
func (t *Transport) connectAs(ctx context.Context, addr transport.Addr, s tls.ClientSessionCache, resume bool) (*tls.Conn, error) {
	cfg, err := t.key.ClientTLS(t.cfg.ALPN, addr.Peer)
	if err != nil {
		return nil, err
	}
	cfg.ClientSessionCache = s
	if resume {
		cfg.CurvePreferences = []tls.CurveID{tls.CurveP256}
		verify := cfg.VerifyConnection
		cfg.VerifyConnection = func(state tls.ConnectionState) error {
			if !state.DidResume {
				return errNotResumed
			}
			return verify(state)
		}
	}
	dialer := net.Dialer{KeepAliveConfig: keepAlive, Resolver: t.cfg.Resolver}
	tcp, err := dialer.DialContext(ctx, "tcp", addr.HostPort)
	if by, ok := ctx.Deadline(); ok && errors.Is(err, os.ErrDeadlineExceeded) && !time.Now().Before(by) {
		return nil, transport.PhaseConnect.In(context.DeadlineExceeded) // the network's clock was a moment ahead of the context's
	}
	if err != nil {
		var dns *net.DNSError
		if errors.As(err, &dns) {
			return nil, transport.PhaseResolve.In(err)
		}
		return nil, transport.PhaseConnect.In(err)
	}
	raw := tls.Client(newGatherer(tcp), cfg)
	if err := t.handshake(ctx, raw); err != nil {
		tcp.Close()
		return nil, transport.PhaseHandshake.In(err)
	}
	return raw, nil
}

// errHandshakeTimeout is the cause of a handshake that took too long.
var errHandshakeTimeout = fmt.Errorf("the peer did not finish the handshake in time: %w", context.DeadlineExceeded)

func (t *Transport) handshake(ctx context.Context, raw *tls.Conn) error {
	ctx, cancel := context.WithTimeoutCause(ctx, t.cfg.handshakeTimeout(), errHandshakeTimeout)
	defer cancel()
	err := raw.HandshakeContext(ctx)
	if err != nil && ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return context.Cause(ctx)
	}
	return err
}

// session is a cache of TLS sessions seen through one key.
type session struct {
	cache tls.ClientSessionCache
	key   string
}

// Get implements [tls.ClientSessionCache].
func (s session) Get(string) (*tls.ClientSessionState, bool) { return s.cache.Get(s.key) }

// Put implements [tls.ClientSessionCache].
func (s session) Put(_ string, state *tls.ClientSessionState) { s.cache.Put(s.key, state) }

// adopt makes a connection of a finished handshake and watches over it until it has ended. over is the address it is known by, if
// that is not the network's.
func (t *Transport) adopt(raw *tls.Conn, dialer bool, over *transport.Addr) (Conn, error) {
	state := raw.ConnectionState()
	peer, err := identity.PeerID(state)
	if err != nil {
		return nil, err
	}
	info := transport.Info{
		LocalPeer: t.key.ID(), RemotePeer: peer, Dialer: dialer, Resumed: state.DidResume,
		LocalAddr:  transport.Addr{Scheme: t.cfg.Scheme, HostPort: raw.LocalAddr().String(), Peer: t.key.ID()},
		RemoteAddr: transport.Addr{Scheme: t.cfg.Scheme, HostPort: raw.RemoteAddr().String(), Peer: peer},
	}
	if over != nil {
		info.LocalAddr, info.RemoteAddr = *over, *over
		info.LocalAddr.Peer, info.RemoteAddr.Peer = t.key.ID(), peer
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil, transport.ErrClosed
	}
	c := t.cfg.Wrap(raw, info, &t.pool)
	t.conns[c] = struct{}{}
	return c, nil
}

// Ended forgets a connection. The connection calls it when it closes Done.
func (t *Transport) Ended(c Conn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.conns, c)
}

// Close is [transport.Transport]'s.
func (t *Transport) Close() error {
	t.mu.Lock()
	first := !t.closed
	t.closed = true
	listeners, conns := t.listeners, t.conns
	if first {
		t.listeners, t.conns = nil, nil
	}
	t.mu.Unlock()
	if !first {
		listeners, conns = nil, nil
	}
	t.stop()
	for c := range conns { // before the listeners, which refuse what nobody has accepted
		c.CloseWithError(transport.CodeShutdown, "")
		c.Hurry() // it may have ended before, and still be sending
	}
	for l := range listeners {
		l.close()
	}
	for c := range conns {
		<-c.Done()
	}
	t.running.Wait()
	return nil
}
