// Package mem is a transport within one process: the reference implementation of package transport, and a network for
// tests.
//
// It starts no goroutine, uses no socket, never waits on anything but channels and condition variables, and takes no time
// of its own, so programs that run on it can be tested in testing/synctest. Nothing is encrypted, because nothing leaves
// the process; a peer is who its transport's key says it is.
//
// # Usage
//
// Addresses are those of a made-up network, "mem://host:port", where any host will do and port 0 asks for a free port.
// Transports reach each other if they share a [Network]; those made without one share the network of the process, as
// sockets share loopback.
package mem

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"syscall"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/transport"
)

// Scheme is the scheme of the transport's addresses.
const Scheme = "mem"

// Config has the choices that [New] leaves open. The zero Config is the default.
type Config struct {
	// Network is where the transport listens and dials. Nil means the network of the process.
	Network *Network
	// MaxStreams bounds the streams that a peer may have open on a connection. Zero means 1024; negative means none.
	MaxStreams int
	// Window bounds the bytes under way on a stream in one direction. Zero or less means 64 KiB.
	Window int
	// Backlog bounds the connections that wait to be accepted; dials beyond it wait. Zero or less means 128.
	Backlog int
}

func (c *Config) network() *Network {
	if c == nil || c.Network == nil {
		return &process
	}
	return c.Network
}

func (c *Config) maxStreams() int {
	if c == nil || c.MaxStreams == 0 {
		return 1024
	}
	return max(0, c.MaxStreams)
}

func (c *Config) window() int {
	if c == nil || c.Window <= 0 {
		return 64 << 10
	}
	return c.Window
}

func (c *Config) backlog() int {
	if c == nil || c.Backlog <= 0 {
		return 128
	}
	return c.Backlog
}

// Network is an address space. The zero Network is empty and ready. It is safe for concurrent use.
type Network struct {
	mu        sync.Mutex
	listeners map[string]*listener // by host:port
	port      uint16               // the last free port given out, minus firstPort
}

// process is the network of transports that name none. It is the one variable of the package: an address space is one only
// if it is shared.
var process Network

const firstPort = 49152 // RFC 6335 §6: dynamic ports

func (n *Network) bind(l *listener, hostPort string) (string, error) {
	host, port, err := net.SplitHostPort(hostPort)
	if err != nil {
		return "", fmt.Errorf("%w: %w", transport.ErrBadAddr, err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.listeners == nil {
		n.listeners = make(map[string]*listener)
	}
	if port != "0" {
		if n.listeners[hostPort] != nil {
			return "", syscall.EADDRINUSE
		}
		n.listeners[hostPort] = l
		return hostPort, nil
	}
	for range 65536 - firstPort {
		hostPort = net.JoinHostPort(host, n.nextPort())
		if n.listeners[hostPort] == nil {
			n.listeners[hostPort] = l
			return hostPort, nil
		}
	}
	return "", syscall.EADDRINUSE
}

func (n *Network) nextPort() string {
	n.port = (n.port + 1) % (65535 - firstPort)
	return strconv.Itoa(firstPort + int(n.port))
}

// from returns an address for the dialling end of a connection.
func (n *Network) from() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return "127.0.0.1:" + n.nextPort()
}

func (n *Network) unbind(hostPort string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.listeners, hostPort)
}

func (n *Network) lookup(hostPort string) *listener {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.listeners[hostPort]
}

// Transport is the in-memory [transport.Transport].
type Transport struct {
	key identity.Key
	id  identity.ID
	cfg *Config

	mu        sync.Mutex
	closed    chan struct{} // closed by Close
	listeners map[*listener]struct{}
	conns     map[*conn]struct{}
}

// New returns a transport for the holder of key. A nil cfg means the defaults.
func New(key identity.Key, cfg *Config) (*Transport, error) {
	if key.IsZero() {
		return nil, errors.New("mem: the key is the zero Key")
	}
	return &Transport{
		key: key, id: key.ID(), cfg: cfg, closed: make(chan struct{}),
		listeners: make(map[*listener]struct{}), conns: make(map[*conn]struct{}),
	}, nil
}

// Sign implements [transport.Signer].
func (t *Transport) Sign(message []byte) []byte { return t.key.Sign(message) }

// Traits implements [transport.Transport].
func (t *Transport) Traits() transport.Traits {
	return transport.Traits{Scheme: Scheme, LocalPeer: t.id}
}

func (t *Transport) check(addr transport.Addr) error {
	if err := addr.Check(Scheme); err != nil {
		return err
	}
	select {
	case <-t.closed:
		return transport.ErrClosed
	default:
		return nil
	}
}

// Dial implements [transport.Transport]. Where nobody listens it fails at once with syscall.ECONNREFUSED.
func (t *Transport) Dial(ctx context.Context, addr transport.Addr) (transport.Conn, error) {
	c, err := t.dial(ctx, addr)
	if err != nil {
		return nil, &transport.OpError{Op: "dial", Addr: addr, Err: err}
	}
	return c, nil
}

func (t *Transport) dial(ctx context.Context, addr transport.Addr) (*conn, error) {
	if err := t.check(addr); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	l := t.cfg.network().lookup(addr.HostPort)
	if l == nil {
		return nil, syscall.ECONNREFUSED
	}
	if !addr.Peer.IsZero() && addr.Peer != l.transport.id {
		return nil, &identity.VerifyError{Want: addr.Peer, Got: l.transport.id, Err: identity.ErrWrongPeer}
	}
	ours, theirs := newLink(t, l.transport, t.cfg.network().from(), l.addr.HostPort)
	if !t.add(ours) {
		return nil, transport.ErrClosed
	}
	if err := l.deliver(ctx, theirs); err != nil {
		ours.CloseWithError(transport.CodeCancelled, "")
		return nil, err
	}
	return ours, nil
}

func (t *Transport) add(c *conn) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.conns == nil {
		return false
	}
	t.conns[c] = struct{}{}
	return true
}

func (t *Transport) remove(c *conn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.conns, c)
}

// Listen implements [transport.Transport].
func (t *Transport) Listen(ctx context.Context, addr transport.Addr) (transport.Listener, error) {
	l, err := t.listen(ctx, addr)
	if err != nil {
		return nil, &transport.OpError{Op: "listen", Addr: addr, Err: err}
	}
	return l, nil
}

func (t *Transport) listen(ctx context.Context, addr transport.Addr) (*listener, error) {
	if err := t.check(addr); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	l := &listener{transport: t, backlog: make(chan *conn, t.cfg.backlog()), closed: make(chan struct{})}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.listeners == nil {
		return nil, transport.ErrClosed
	}
	hostPort, err := t.cfg.network().bind(l, addr.HostPort)
	if err != nil {
		return nil, err
	}
	l.addr = transport.Addr{Scheme: Scheme, HostPort: hostPort, Peer: t.id}
	t.listeners[l] = struct{}{}
	return l, nil
}

// Close implements [transport.Transport].
func (t *Transport) Close() error {
	t.mu.Lock()
	listeners, conns := t.listeners, t.conns
	if t.listeners != nil {
		close(t.closed)
	}
	t.listeners, t.conns = nil, nil
	t.mu.Unlock()
	for c := range conns { // before the listeners, which refuse what nobody has accepted
		c.CloseWithError(transport.CodeShutdown, "")
	}
	for l := range listeners {
		l.Close()
	}
	return nil
}

// listener is a [transport.Listener].
type listener struct {
	transport *Transport
	addr      transport.Addr
	backlog   chan *conn    // never closed
	closed    chan struct{} // closed by Close
	once      sync.Once
}

// deliver puts c in the backlog, waiting for room until ctx ends or either end closes.
func (l *listener) deliver(ctx context.Context, c *conn) error {
	if !l.transport.add(c) {
		return syscall.ECONNREFUSED
	}
	select {
	case l.backlog <- c:
	case <-l.closed:
		return syscall.ECONNREFUSED
	case <-ctx.Done():
		return ctx.Err()
	case <-c.ctx.Done():
		return context.Cause(c.peer.ctx)
	}
	select {
	case <-l.closed:
		l.refuse() // Close may have emptied the backlog before c came
	default:
	}
	return nil
}

// refuse closes what nobody will accept any more.
func (l *listener) refuse() {
	for {
		select {
		case c := <-l.backlog:
			c.CloseWithError(transport.CodeRefused, "the listener was closed")
		default:
			return
		}
	}
}

// Accept implements [transport.Listener].
func (l *listener) Accept(ctx context.Context) (transport.Conn, error) {
	select {
	case <-l.closed: // what is left in the backlog is refused
		return nil, &transport.OpError{Op: "accept", Addr: l.addr, Err: transport.ErrClosed}
	default:
	}
	select {
	case c := <-l.backlog:
		return c, nil
	default:
	}
	select {
	case c := <-l.backlog:
		return c, nil
	case <-l.closed:
		return nil, &transport.OpError{Op: "accept", Addr: l.addr, Err: transport.ErrClosed}
	case <-ctx.Done():
		return nil, &transport.OpError{Op: "accept", Addr: l.addr, Err: ctx.Err()}
	}
}

// Addr implements [transport.Listener].
func (l *listener) Addr() transport.Addr { return l.addr }

// Close implements [transport.Listener].
func (l *listener) Close() error {
	l.once.Do(func() {
		l.transport.cfg.network().unbind(l.addr.HostPort)
		close(l.closed)
		l.transport.mu.Lock()
		delete(l.transport.listeners, l)
		l.transport.mu.Unlock()
		l.refuse()
	})
	return nil
}
