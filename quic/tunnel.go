package quic

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/transport"
)

const (
	// tunnelPacket is the size that connections through tunnels begin with, the least that QUIC admits (RFC 9000 §14.1), so that
	// there is room for what the tunnel adds. They find out whether more gets through.
	tunnelPacket = 1200
	// maxPacket is what quic-go has room for.
	maxPacket = 1452
	// maxTunnelQueue bounds the packets that came by one tunnel and that quic-go has not taken yet.
	maxTunnelQueue = 512
	// maxTunnels bounds the tunnels of a socket.
	maxTunnels = 1 << 16
)

// Tunnel implements [transport.Tunnel]. It is a way to a peer other than by its IP address: through a relay, for instance. QUIC
// packets go out by a function and come in by [Tunnel.Deliver]; that some are lost, doubled or swapped is no harm. QUIC sees a peer
// with an address of its own, which nobody else can see or use. All methods may be called at once from any goroutine.
type Tunnel struct {
	l       *Listener
	label   transport.Addr
	send    func(p []byte) error
	virtual *net.UDPAddr
	closed  atomic.Bool

	queued int // guarded by the socket's inlet.mu
}

// NewTunnel implements [transport.Tunneler]: it makes a tunnel that ends at the listener's port. Connections dialled by the other
// end come to the listener's Accept, as any other. send is given packets for the other end, 1452 bytes at most. It may be called
// from several goroutines at once, must not wait, must not keep p after it has returned, and drops what is too much or too large;
// its error means no more than a lost packet. label is what Info of a connection shows as its remote address while its path is the
// tunnel, with the peer's ID put in. It fails once the listener is closed, and when the port has 65536 tunnels.
func (l *Listener) NewTunnel(label transport.Addr, send func(p []byte) error) (transport.Tunnel, error) {
	tn := &Tunnel{l: l, label: label, send: send}
	l.t.mu.Lock()
	_, open := l.t.sockets[l.socket]
	open = open && l.socket.listener == l
	l.t.mu.Unlock()
	if !open {
		return nil, &transport.OpError{Op: "make a tunnel", Addr: l.Addr(), Err: transport.ErrClosed}
	}
	if err := l.socket.ways.tunnels.add(tn); err != nil {
		return nil, &transport.OpError{Op: "make a tunnel", Addr: l.Addr(), Err: err}
	}
	return tn, nil
}

// Deliver hands a packet that came by the tunnel to QUIC. p stays the caller's. It does not wait: when QUIC lags behind, or the
// tunnel is closed, the packet is dropped, as is one that cannot be QUIC's.
func (tn *Tunnel) Deliver(p []byte) {
	if len(p) == 0 || len(p) > maxPacket || p[0] < 0x40 || tn.closed.Load() {
		return
	}
	tn.l.socket.ways.inlet.inject(tn, p)
}

// Dial connects to a peer through the tunnel. It returns as [Transport.Dial] does.
func (tn *Tunnel) Dial(ctx context.Context, peer identity.ID) (transport.Conn, error) {
	addr := tn.label
	addr.Peer = peer
	c, err := tn.l.t.dialTunnel(ctx, tn, addr)
	if err != nil {
		return nil, &transport.OpError{Op: "dial", Addr: addr, Err: err}
	}
	return c, nil
}

func (t *Transport) dialTunnel(ctx context.Context, tn *Tunnel, addr transport.Addr) (*Conn, error) {
	ctx, end, err := t.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	ctx, cancel := context.WithTimeoutCause(ctx, t.conf.HandshakeTimeout, silence{t.conf.HandshakeTimeout})
	defer cancel()
	s := tn.l.socket
	t.mu.Lock()
	_, open := t.sockets[s]
	if open = open && !tn.closed.Load(); open {
		s.users++
	}
	t.mu.Unlock()
	if !open {
		return nil, transport.ErrClosed
	}
	c, err := t.dialOn(ctx, s, addr, way{tunnel: tn})
	if err != nil {
		t.release(s, nil)
		return nil, transport.PhaseHandshake.In(err)
	}
	return c, nil
}

// Close ends the tunnel: nothing goes out or comes in any more. Connections whose path it is stay, as with a cable that is cut:
// they may be moved to another path, or else end after their IdleTimeout. Connections that have moved away do not notice. Closing
// twice is no error.
func (tn *Tunnel) Close() error {
	if !tn.closed.Swap(true) {
		tn.l.socket.ways.tunnels.remove(tn)
	}
	return nil
}

// sendBatch sends a packet, or several of one size if oob says so.
func (tn *Tunnel) sendBatch(b, oob []byte) {
	size := segmentSize(oob)
	if size <= 0 {
		size = len(b)
	}
	for len(b) > 0 && !tn.closed.Load() {
		n := min(size, len(b))
		tn.send(b[:n]) // what fails is a lost packet
		b = b[n:]
	}
}

// ways are what a socket has beside itself: tunnels, and the packets that came by them.
type ways struct {
	tunnels tunnels
	inlet   inlet
}

func newWays(setReadDeadline func(time.Time) error) *ways {
	w := &ways{inlet: inlet{setDeadline: setReadDeadline}}
	w.tunnels.init()
	return w
}

// write sends what is for a tunnel, and reports whether it was.
func (w *ways) write(b, oob []byte, to *net.UDPAddr) bool {
	if !w.tunnels.covers(to.IP) {
		return false
	}
	if tn := w.tunnels.at(to.IP); tn != nil {
		tn.sendBatch(b, oob)
	}
	return true
}

// tunnels are the tunnels of a socket by their virtual addresses: unique local ones (RFC 4193), of a random prefix, the last eight
// bytes counting.
type tunnels struct {
	prefix uint64 // as the machine reads it

	mu   sync.RWMutex
	next uint64
	all  map[uint64]*Tunnel
}

func (ts *tunnels) init() {
	var b [8]byte
	rand.Read(b[:])
	b[0] = 0xfd
	ts.prefix = binary.NativeEndian.Uint64(b[:])
	ts.all = make(map[uint64]*Tunnel)
}

var errTooManyTunnels = errors.New("quic: the port has too many tunnels")

func (ts *tunnels) add(tn *Tunnel) error {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if len(ts.all) >= maxTunnels {
		return errTooManyTunnels
	}
	ts.next++
	ts.all[ts.next] = tn
	ip := binary.NativeEndian.AppendUint64(nil, ts.prefix)
	tn.virtual = &net.UDPAddr{IP: binary.BigEndian.AppendUint64(ip, ts.next), Port: 1}
	return nil
}

func (ts *tunnels) remove(tn *Tunnel) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	delete(ts.all, binary.BigEndian.Uint64(tn.virtual.IP[8:]))
}

// covers reports whether ip is a virtual address.
func (ts *tunnels) covers(ip net.IP) bool {
	return len(ip) == net.IPv6len && binary.NativeEndian.Uint64(ip) == ts.prefix
}

// at returns the tunnel whose virtual address is ip, which is covered. It is nil if the tunnel was closed.
func (ts *tunnels) at(ip net.IP) *Tunnel {
	ts.mu.RLock()
	defer ts.mu.RUnlock()
	return ts.all[binary.BigEndian.Uint64(ip[8:])]
}
