// Package quic carries connections over QUIC (RFC 9000): many streams on one connection, none of which holds up another,
// datagrams, and a handshake of one round trip.
//
// # Usage
//
//	t, err := quic.New(key, nil)
//	l, err := t.Listen(ctx, transport.Addr{Scheme: "quic", HostPort: "0.0.0.0:4001"})
//	c, err := t.Dial(ctx, addr)
//
// # Sockets
//
// A UDP socket serves for listening and dialling alike. Dial sends from the socket of a listener that suits the address:
// of the same family, and bound to loopback if, and only if, the address is loopback; a socket bound to the unspecified
// address suits any of its family. So peers see the port that we listen at, which is what makes NATs let them in. If no
// listener suits, Dial opens a socket of its own, one a family, which stays until the Transport is closed. A socket
// serves one family: to be reached by both, listen at 0.0.0.0 and at [::].
//
// When a Listener is closed, its socket goes on to carry the connections made with it and is closed with the last of
// them. Until then only this Transport can listen at its address.
//
// # Paths
//
// A connection may run through a [Tunnel], a way to the peer that is no IP path, and the side that dialled may move it, with all
// its streams, to an address and back ([Conn.Migrate], [Conn.MigrateTunnel]).
//
// # Security
//
// Handshakes are TLS 1.3 as package identity defines it, with the application protocol "pheromones/1". Sessions are
// resumed, which saves the certificates but proves the peer all the same. Data before the end of the handshake (0-RTT)
// could be replayed and is neither sent nor accepted.
//
// # Limitations
//
// Listeners bound handshakes, not connections: a program that is open to anybody must close what is too much for it.
//
// The end of a connection is told to the peer once. If that packet is lost, and with it the socket, the peer learns of it
// from its next packet or after its IdleTimeout.
package quic

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync"

	quicgo "github.com/quic-go/quic-go"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/transport"
)

const (
	scheme = "quic"
	alpn   = "pheromones/1"
)

// Transport implements [transport.Transport] over QUIC. All methods may be called at once from any goroutine.
type Transport struct {
	key        identity.Key
	id         identity.ID
	conf       Config
	serverTLS  *tls.Config
	serverConf *quicgo.Config
	gate       gate
	sessions   *sessions

	ctx    context.Context // ends when Close is called
	cancel context.CancelCauseFunc
	closed chan struct{} // closed when Close is done

	opening sync.Mutex // held while a socket for dialling is opened, so that there is one

	mu      sync.Mutex
	ended   bool // Close was called: nothing new is added below
	sockets map[*socket]struct{}
	conns   map[*Conn]struct{}
	wg      sync.WaitGroup // dials and listens under way, accept loops, the ends of connections
}

var (
	_ transport.Transport    = (*Transport)(nil)
	_ transport.Listener     = (*Listener)(nil)
	_ transport.Conn         = (*Conn)(nil)
	_ transport.DatagramConn = (*Conn)(nil)
	_ transport.Migrator     = (*Conn)(nil)
	_ transport.Tunneler     = (*Listener)(nil)
	_ transport.Stream       = (*Stream)(nil)
)

// New returns a transport whose connections prove key. A nil cfg means the defaults. It fails for the zero Key and for a
// Config that makes no sense. Nothing runs and no socket is open before the first Dial or Listen.
func New(key identity.Key, cfg *Config) (*Transport, error) {
	conf, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	serverTLS, err := key.ServerTLS(alpn)
	if err != nil {
		return nil, fmt.Errorf("quic: %w", err)
	}
	t := &Transport{
		key:        key,
		id:         key.ID(),
		conf:       conf,
		serverTLS:  serverTLS,
		serverConf: conf.quic(),
		gate:       gate{max: conf.MaxHandshakes},
		sessions:   newSessions(conf.MaxSessions),
		closed:     make(chan struct{}),
		sockets:    make(map[*socket]struct{}),
		conns:      make(map[*Conn]struct{}),
	}
	t.ctx, t.cancel = context.WithCancelCause(context.Background())
	// quic-go gives a handshake up after this time without a packet, and after twice this time in any case.
	t.serverConf.HandshakeIdleTimeout = max(conf.HandshakeTimeout/2, 1)
	return t, nil
}

// Sign implements [transport.Signer].
func (t *Transport) Sign(message []byte) []byte { return t.key.Sign(message) }

// Traits implements [transport.Transport].
func (t *Transport) Traits() transport.Traits {
	return transport.Traits{Scheme: scheme, LocalPeer: t.id}
}

// Listen implements [transport.Transport]. Of a DNS name that has several addresses the first is used, preferably an
// IPv4 one.
func (t *Transport) Listen(ctx context.Context, addr transport.Addr) (transport.Listener, error) {
	l, err := t.listen(ctx, addr)
	if err != nil {
		return nil, &transport.OpError{Op: "listen", Addr: addr, Err: err}
	}
	return l, nil
}

func (t *Transport) listen(ctx context.Context, addr transport.Addr) (*Listener, error) {
	ctx, end, err := t.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	locals, err := t.resolve(ctx, addr)
	if err != nil {
		return nil, err
	}
	local := locals[0]
	for _, a := range locals {
		if a.Addr().Is4() {
			local = a
			break
		}
	}
	l := &Listener{
		t:       t,
		queue:   make(chan *Conn, t.conf.AcceptBacklog),
		closing: make(chan struct{}),
		done:    make(chan struct{}),
	}
	s := t.reuse(l, local)
	if s == nil {
		if s, err = t.open(ctx, local, l); err != nil {
			return nil, err
		}
	}
	l.socket = s
	if l.quic, err = s.quic.Listen(t.serverTLS, t.serverConfFor(s)); err != nil {
		t.release(s, l)
		if t.ctx.Err() != nil {
			err = transport.ErrClosed
		}
		return nil, err
	}
	t.wg.Add(1) // allowed: end has not been called
	go l.run()
	return l, nil
}

// serverConfFor returns the configuration of the connections that s accepts, which depends on how they come.
func (t *Transport) serverConfFor(s *socket) *quicgo.Config {
	tight := t.serverConf.Clone()
	tight.InitialPacketSize = tunnelPacket
	direct, tunnelled := t.gate.hurried(t.serverConf), t.gate.hurried(tight)
	conf := t.serverConf.Clone()
	conf.GetConfigForClient = func(info *quicgo.ClientInfo) (*quicgo.Config, error) {
		if _, virtual := s.way(info.RemoteAddr); virtual {
			return tunnelled(info)
		}
		return direct(info)
	}
	return conf
}

// begin registers an operation, unless the transport is closed. The context ends when the transport is closed.
func (t *Transport) begin(ctx context.Context) (_ context.Context, end func(), err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended {
		return nil, nil, transport.ErrClosed
	}
	if ctx.Err() != nil {
		return nil, nil, ctxError(ctx)
	}
	t.wg.Add(1)
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(t.ctx, func() { cancel(transport.ErrClosed) })
	return ctx, func() {
		stop()
		cancel(nil)
		t.wg.Done()
	}, nil
}

// reuse gives l the socket that a closed listener left at local, if its connections keep it open.
func (t *Transport) reuse(l *Listener, local netip.AddrPort) *socket {
	t.mu.Lock()
	defer t.mu.Unlock()
	for s := range t.sockets {
		if s.local == local && s.listener == nil && s.users > 0 {
			s.listener = l
			s.users++
			return s
		}
	}
	return nil
}

// open binds a socket and counts its first user, which is l unless l is nil.
func (t *Transport) open(ctx context.Context, local netip.AddrPort, l *Listener) (*socket, error) {
	s, err := bind(ctx, local, t.key, t.conf.ListenPacket)
	if err != nil {
		return nil, err
	}
	s.quic.ConnContext = t.gate.enter
	s.quic.VerifySourceAddress = func(net.Addr) bool { return t.gate.full(4) }
	s.listener = l
	s.users = 1
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended {
		s.close()
		return nil, transport.ErrClosed
	}
	t.sockets[s] = struct{}{}
	return s, nil
}

// release takes a user from s, and l from s if l is not nil. The last one closes it.
func (t *Transport) release(s *socket, l *Listener) {
	t.mu.Lock()
	if l != nil {
		s.listener = nil
	}
	s.users--
	_, open := t.sockets[s]
	last := open && s.users == 0
	if last {
		delete(t.sockets, s)
	}
	t.mu.Unlock()
	if last {
		s.close()
	}
}

// Close implements [transport.Transport]. Connections that wait for Accept, too, are closed with CodeShutdown.
func (t *Transport) Close() error {
	t.mu.Lock()
	if t.ended {
		t.mu.Unlock()
		<-t.closed
		return nil
	}
	t.ended = true
	conns := make([]*Conn, 0, len(t.conns))
	for c := range t.conns {
		conns = append(conns, c)
	}
	sockets := make([]*socket, 0, len(t.sockets))
	for s := range t.sockets {
		sockets = append(sockets, s)
	}
	clear(t.sockets) // release shall not close them while connections say goodbye over them
	t.mu.Unlock()
	t.cancel(transport.ErrClosed)

	var wg sync.WaitGroup
	for _, c := range conns {
		wg.Go(func() { c.CloseWithError(transport.CodeShutdown, "") })
	}
	wg.Wait()
	for _, s := range sockets {
		wg.Go(s.close)
	}
	wg.Wait()
	t.wg.Wait()
	t.gate.wg.Wait()
	close(t.closed)
	return nil
}

// resolve returns the addresses that addr stands for, at least one.
func (t *Transport) resolve(ctx context.Context, addr transport.Addr) ([]netip.AddrPort, error) {
	if addr.Scheme != scheme {
		return nil, fmt.Errorf("%w of this transport: the scheme is %q, want %q", transport.ErrBadAddr, addr.Scheme, scheme)
	}
	host, port, err := net.SplitHostPort(addr.HostPort)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", transport.ErrBadAddr, err)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("%w: the port %q is not a number from 0 to 65535", transport.ErrBadAddr, port)
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		return []netip.AddrPort{netip.AddrPortFrom(ip.Unmap(), uint16(n))}, nil
	}
	if host == "" {
		return nil, fmt.Errorf("%w: it has no host", transport.ErrBadAddr)
	}
	ips, err := t.conf.Resolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctxError(ctx)
		}
		return nil, err
	}
	addrs := make([]netip.AddrPort, len(ips))
	for i, ip := range ips {
		addrs[i] = netip.AddrPortFrom(ip.Unmap(), uint16(n))
	}
	return addrs, nil
}

// addr names a socket's address as package transport does.
func (t *Transport) addr(a net.Addr, peer identity.ID) transport.Addr {
	return transport.Addr{Scheme: scheme, HostPort: addrPort(a).String(), Peer: peer}
}
