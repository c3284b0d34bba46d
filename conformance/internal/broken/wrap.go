package broken

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/transport"
)

// faults are what is wrong with a wrapped transport: each function that is not nil takes the place of a method and is
// given what it is to call.
type faults struct {
	dial      func(t *badTransport, ctx context.Context, addr transport.Addr) (transport.Conn, error)
	listen    func(t *badTransport, ctx context.Context, addr transport.Addr) (transport.Listener, error)
	closeAll  func(t *badTransport) error
	accept    func(l *badListener, ctx context.Context) (transport.Conn, error)
	addr      func(l *badListener) transport.Addr
	closeLn   func(l *badListener) error
	open      func(c *badConn, ctx context.Context) (transport.Stream, error)
	acceptS   func(c *badConn, ctx context.Context) (transport.Stream, error)
	info      func(i transport.Info) transport.Info
	infoOf    func(c *badConn) transport.Info
	traits    func(t transport.Traits) transport.Traits
	context   func(c *badConn) context.Context
	closeConn func(c *badConn, code transport.Code, reason string) error

	read       func(s *badStream, b []byte) (int, error)
	write      func(s *badStream, b []byte) (int, error)
	closeWrite func(s *badStream) error
	closeBoth  func(s *badStream) error
	reset      func(s *badStream, code transport.Code) error
	deadline   func(s *badStream, t time.Time) error
	readBy     func(s *badStream, t time.Time) error
	writeBy    func(s *badStream, t time.Time) error
	local      func(s *badStream) transport.Addr

	done chan struct{} // closed after the test, for goroutines that outlive their transport

	send    func(c datagramConn, b []byte) error
	receive func(c datagramConn, ctx context.Context) ([]byte, error)

	newTunnel   func(l *badListener, label transport.Addr, send func([]byte) error) (transport.Tunnel, error)
	deliver     func(t *badTunnel, p []byte)
	dialTunnel  func(t *badTunnel, ctx context.Context, peer identity.ID) (transport.Conn, error)
	closeTunnel func(t *badTunnel) error

	migrate       func(c pathConn, ctx context.Context, to netip.AddrPort) error
	migrateTunnel func(c pathConn, ctx context.Context, t transport.Tunnel) error
	standby       func(c pathConn, ctx context.Context, t transport.Tunnel) error
	flip          func(c pathConn) error
	path          func(c pathConn) netip.AddrPort
	packets       func(c pathConn) (sent, received uint64)

	dialFrom func(l portListener, ctx context.Context, addr transport.Addr, accepts bool) (transport.Conn, error)
}

// badTransport wraps a transport that is sound.
type badTransport struct {
	transport.Transport
	f *faults

	names *net.Resolver // by which t looks up names; nil unless BreakNamed has made this

	n     atomic.Int64 // for faults that count
	mu    sync.Mutex
	conns []*badConn
	ln    transport.Listener
	lns   []transport.Listener

	dialled []transport.Addr
	idle    chan struct{} // closed by release
	stack   []transport.Conn
	ended   atomic.Bool
}

func (t *badTransport) conn(c transport.Conn, err error) (transport.Conn, error) {
	if err != nil {
		return nil, err
	}
	b := &badConn{Conn: c, f: t.f, t: t}
	t.mu.Lock()
	t.conns = append(t.conns, b)
	t.mu.Unlock()
	if d, ok := c.(transport.DatagramConn); ok {
		with := datagramConn{b, d}
		if m, ok := c.(transport.Migrator); ok {
			return pathConn{with, m}, nil
		}
		return with, nil
	}
	return b, nil
}

func (t *badTransport) Traits() transport.Traits {
	if t.f.traits != nil {
		return t.f.traits(t.Transport.Traits())
	}
	return t.Transport.Traits()
}

func (t *badTransport) Dial(ctx context.Context, addr transport.Addr) (transport.Conn, error) {
	if t.f.dial != nil {
		return t.conn(t.f.dial(t, ctx, addr))
	}
	return t.conn(t.Transport.Dial(ctx, addr))
}

func (t *badTransport) Listen(ctx context.Context, addr transport.Addr) (ln transport.Listener, err error) {
	if t.f.listen != nil {
		ln, err = t.f.listen(t, ctx, addr)
	} else {
		ln, err = t.Transport.Listen(ctx, addr)
	}
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	t.lns = append(t.lns, ln)
	t.mu.Unlock()
	l := &badListener{Listener: ln, t: t}
	switch able := ln.(type) {
	case transport.Tunneler:
		return tunnelListener{l, able}, nil
	case transport.PortDialer:
		return portListener{l, able}, nil
	}
	return l, nil
}

func (t *badTransport) Close() error {
	if t.f.closeAll != nil {
		return t.f.closeAll(t)
	}
	return t.Transport.Close()
}

type badListener struct {
	transport.Listener
	t *badTransport
	n atomic.Int64

	mu     sync.Mutex
	again  transport.Conn
	tunnel transport.Tunnel
}

func (l *badListener) Accept(ctx context.Context) (transport.Conn, error) {
	if l.t.f.accept != nil {
		return l.t.conn(l.t.f.accept(l, ctx))
	}
	return l.t.conn(l.Listener.Accept(ctx))
}

func (l *badListener) Addr() transport.Addr {
	if l.t.f.addr != nil {
		return l.t.f.addr(l)
	}
	return l.Listener.Addr()
}

func (l *badListener) Close() error {
	if l.t.f.closeLn != nil {
		return l.t.f.closeLn(l)
	}
	return l.Listener.Close()
}

type badConn struct {
	transport.Conn
	f *faults
	t *badTransport

	n, m  atomic.Int64
	mu    sync.Mutex // for faults that hold up one stream for another
	ended atomic.Bool
	stack []transport.Stream
	buf   []byte
}

func (c *badConn) stream(s transport.Stream, err error) (transport.Stream, error) {
	if err != nil {
		return nil, err
	}
	return &badStream{Stream: s, f: c.f, c: c}, nil
}

func (c *badConn) OpenStream(ctx context.Context) (transport.Stream, error) {
	c.n.Add(1)
	if c.f.open != nil {
		return c.stream(c.f.open(c, ctx))
	}
	return c.stream(c.Conn.OpenStream(ctx))
}

func (c *badConn) AcceptStream(ctx context.Context) (transport.Stream, error) {
	var s transport.Stream
	var err error
	if c.f.acceptS != nil {
		s, err = c.f.acceptS(c, ctx)
	} else {
		s, err = c.Conn.AcceptStream(ctx)
	}
	if err != nil {
		return nil, err
	}
	return &badStream{Stream: s, f: c.f, c: c, accepted: true}, nil
}

func (c *badConn) Info() transport.Info {
	if c.f.infoOf != nil {
		return c.f.infoOf(c)
	}
	if c.f.info != nil {
		return c.f.info(c.Conn.Info())
	}
	return c.Conn.Info()
}

func (c *badConn) Context() context.Context {
	if c.f.context != nil {
		return c.f.context(c)
	}
	return c.Conn.Context()
}

func (c *badConn) CloseWithError(code transport.Code, reason string) error {
	if c.f.closeConn != nil {
		return c.f.closeConn(c, code, reason)
	}
	return c.Conn.CloseWithError(code, reason)
}

// datagramConn is a badConn over one that carries datagrams.
type datagramConn struct {
	*badConn
	d transport.DatagramConn
}

func (c datagramConn) SendDatagram(b []byte) error {
	if c.f.send != nil {
		return c.f.send(c, b)
	}
	return c.d.SendDatagram(b)
}

func (c datagramConn) ReceiveDatagram(ctx context.Context) ([]byte, error) {
	if c.f.receive != nil {
		return c.f.receive(c, ctx)
	}
	return c.d.ReceiveDatagram(ctx)
}

// pathConn is a datagramConn over one that can move to other paths.
type pathConn struct {
	datagramConn
	m transport.Migrator
}

func (c pathConn) Migrate(ctx context.Context, to netip.AddrPort) error {
	if c.f.migrate != nil {
		return c.f.migrate(c, ctx, to)
	}
	return c.m.Migrate(ctx, to)
}

func (c pathConn) MigrateTunnel(ctx context.Context, t transport.Tunnel) error {
	if c.f.migrateTunnel != nil {
		return c.f.migrateTunnel(c, ctx, sound(t))
	}
	return c.m.MigrateTunnel(ctx, sound(t))
}

func (c pathConn) Standby(ctx context.Context, t transport.Tunnel) error {
	if c.f.standby != nil {
		return c.f.standby(c, ctx, sound(t))
	}
	return c.m.Standby(ctx, sound(t))
}

func (c pathConn) Flip() error {
	if c.f.flip != nil {
		return c.f.flip(c)
	}
	return c.m.Flip()
}

func (c pathConn) Path() netip.AddrPort {
	if c.f.path != nil {
		return c.f.path(c)
	}
	return c.m.Path()
}

func (c pathConn) Packets() (sent, received uint64) {
	if c.f.packets != nil {
		return c.f.packets(c)
	}
	return c.m.Packets()
}

// tunnelListener is a badListener over one that makes tunnels.
type tunnelListener struct {
	*badListener
	tunneler transport.Tunneler
}

func (l tunnelListener) NewTunnel(label transport.Addr, send func([]byte) error) (tn transport.Tunnel, err error) {
	if l.t.f.newTunnel != nil {
		tn, err = l.t.f.newTunnel(l.badListener, label, send)
	} else {
		tn, err = l.tunneler.NewTunnel(label, send)
	}
	if err != nil {
		return nil, err
	}
	return &badTunnel{Tunnel: tn, l: l.badListener}, nil
}

type badTunnel struct {
	transport.Tunnel
	l *badListener

	n    atomic.Int64 // for faults that count
	held []byte       // belongs to whoever calls Deliver
}

// sound returns the tunnel that t wraps.
func sound(t transport.Tunnel) transport.Tunnel {
	if b, ok := t.(*badTunnel); ok {
		return b.Tunnel
	}
	return t
}

func (t *badTunnel) Deliver(p []byte) {
	if t.l.t.f.deliver != nil {
		t.l.t.f.deliver(t, p)
		return
	}
	t.Tunnel.Deliver(p)
}

func (t *badTunnel) Dial(ctx context.Context, peer identity.ID) (transport.Conn, error) {
	if t.l.t.f.dialTunnel != nil {
		return t.l.t.conn(t.l.t.f.dialTunnel(t, ctx, peer))
	}
	return t.l.t.conn(t.Tunnel.Dial(ctx, peer))
}

func (t *badTunnel) Close() error {
	if t.l.t.f.closeTunnel != nil {
		return t.l.t.f.closeTunnel(t)
	}
	return t.Tunnel.Close()
}

// portListener is a badListener over one that dials from its port.
type portListener struct {
	*badListener
	dialer transport.PortDialer
}

func (l portListener) DialFrom(ctx context.Context, addr transport.Addr, accepts bool) (transport.Conn, error) {
	if l.t.f.dialFrom != nil {
		return l.t.conn(l.t.f.dialFrom(l, ctx, addr, accepts))
	}
	return l.t.conn(l.dialer.DialFrom(ctx, addr, accepts))
}

type badStream struct {
	transport.Stream
	f *faults
	c *badConn

	in, out atomic.Int64 // bytes read and written
	mark    atomic.Bool  // for faults that remember something
	mu      sync.Mutex
	held    []byte

	reads, writes atomic.Int64
	accepted      bool
}

func (s *badStream) Read(b []byte) (n int, err error) {
	if s.f.read != nil {
		n, err = s.f.read(s, b)
	} else {
		n, err = s.Stream.Read(b)
	}
	s.in.Add(int64(n))
	return n, err
}

func (s *badStream) Write(b []byte) (n int, err error) {
	if s.f.write != nil {
		n, err = s.f.write(s, b)
	} else {
		n, err = s.Stream.Write(b)
	}
	s.out.Add(int64(n))
	return n, err
}

func (s *badStream) CloseWrite() error {
	if s.f.closeWrite != nil {
		return s.f.closeWrite(s)
	}
	return s.Stream.CloseWrite()
}

func (s *badStream) Close() error {
	if s.f.closeBoth != nil {
		return s.f.closeBoth(s)
	}
	return s.Stream.Close()
}

func (s *badStream) Reset(code transport.Code) error {
	if s.f.reset != nil {
		return s.f.reset(s, code)
	}
	return s.Stream.Reset(code)
}

func (s *badStream) SetDeadline(t time.Time) error {
	if s.f.deadline != nil {
		return s.f.deadline(s, t)
	}
	return s.Stream.SetDeadline(t)
}

func (s *badStream) SetReadDeadline(t time.Time) error {
	if s.f.readBy != nil {
		return s.f.readBy(s, t)
	}
	return s.Stream.SetReadDeadline(t)
}

func (s *badStream) SetWriteDeadline(t time.Time) error {
	if s.f.writeBy != nil {
		return s.f.writeBy(s, t)
	}
	return s.Stream.SetWriteDeadline(t)
}

func (s *badStream) LocalAddr() net.Addr {
	if s.f.local != nil {
		return s.f.local(s)
	}
	return s.Stream.LocalAddr()
}
