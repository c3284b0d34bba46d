package quic

import (
	"context"
	"crypto/sha256"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	quicgo "github.com/quic-go/quic-go"
	"golang.org/x/net/ipv4"

	"github.com/Blockchain-CN/pheromones/identity"
)

// socket is one UDP socket and the QUIC endpoint on it.
type socket struct {
	quic  *quicgo.Transport
	conn  net.PacketConn // a *packetConn or a *plainConn
	ways  *ways
	local netip.AddrPort

	// Guarded by Transport.mu.
	users    int       // the listener, the dials under way and the connections
	listener *Listener // nil if nobody listens
	dialer   bool      // kept for dialling until the Transport is closed

	mu    sync.Mutex
	dials map[netip.AddrPort]map[*dialAttempt]struct{} // under way, by destination
	raw   sync.Once                                    // makes the queue of other packets
}

// dialAttempt is one handshake under way that can be told that its packets get nowhere.
type dialAttempt struct{ fail context.CancelCauseFunc }

// listenPacket opens a socket, as net.ListenConfig does.
type listenPacket func(ctx context.Context, network, address string) (net.PacketConn, error)

// open opens a UDP socket at local, of local's family only. A nil listenPacket means the operating system's.
func (listen listenPacket) open(ctx context.Context, local netip.AddrPort) (net.PacketConn, error) {
	if listen == nil {
		listen = new(net.ListenConfig).ListenPacket
	}
	network := "udp6"
	if local.Addr().Is4() {
		network = "udp4"
	}
	return listen(ctx, network, local.String())
}

// bind opens a UDP socket at local, of local's family only.
func bind(ctx context.Context, local netip.AddrPort, key identity.Key, listen listenPacket) (*socket, error) {
	pc, err := listen.open(ctx, local)
	if err != nil {
		return nil, err
	}
	s := &socket{local: addrPort(pc.LocalAddr()), dials: make(map[netip.AddrPort]map[*dialAttempt]struct{})}
	if udp, ok := pc.(*net.UDPConn); ok {
		c := newPacketConn(udp, s.unreachable)
		s.conn, s.ways = c, c.ways
	} else {
		c := newPlainConn(pc)
		s.conn, s.ways = c, c.ways
	}
	s.quic = &quicgo.Transport{Conn: s.conn, ConnectionIDLength: connIDLength, StatelessResetKey: resetKey(key, s.local)}
	return s, nil
}

// resetKey derives the key of stateless resets (RFC 9000 §10.3) so that a peer restarted at the same address ends the
// connections of its former life at their first packet. Sockets must not share a key, or one could be made to betray the
// reset tokens of another's connections (§21.11).
func resetKey(key identity.Key, local netip.AddrPort) *quicgo.StatelessResetKey {
	secret := key.Sign([]byte("pheromones/1 quic stateless reset"))
	sum := quicgo.StatelessResetKey(sha256.Sum256(append(secret, local.String()...)))
	return &sum
}

// suits reports whether the socket can send to remote and get the answer.
func (s *socket) suits(remote netip.Addr) bool {
	local := s.local.Addr()
	if local.Is4() != remote.Is4() {
		return false
	}
	return local.IsUnspecified() || local.IsLoopback() == remote.IsLoopback()
}

// close ends the endpoint, with whatever still uses it, and frees the address.
func (s *socket) close() {
	s.quic.Close()
	s.conn.Close()
}

// watch lets fail be called when packets to remote turn out to get nowhere, until the returned function is called.
func (s *socket) watch(remote netip.AddrPort, fail context.CancelCauseFunc) (stop func()) {
	d := &dialAttempt{fail}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dials[remote] == nil {
		s.dials[remote] = make(map[*dialAttempt]struct{})
	}
	s.dials[remote][d] = struct{}{}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.dials[remote], d)
		if len(s.dials[remote]) == 0 {
			delete(s.dials, remote)
		}
	}
}

// unreachable fails the dials to remote.
func (s *socket) unreachable(remote netip.AddrPort, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for d := range s.dials[remote] {
		d.fail(err)
	}
}

// read returns the next packet that is not QUIC.
func (s *socket) read(ctx context.Context, b []byte) (int, netip.AddrPort, error) {
	s.raw.Do(func() {
		// The first call makes the queue, and must not have company while it does.
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		s.quic.ReadNonQUICPacket(ended, nil)
	})
	n, from, err := s.quic.ReadNonQUICPacket(ctx, b)
	if err != nil {
		return 0, netip.AddrPort{}, err
	}
	return n, addrPort(from), nil
}

// write sends a packet that is not QUIC.
func (s *socket) write(b []byte, to netip.AddrPort) (int, error) {
	return s.conn.WriteTo(b, net.UDPAddrFromAddrPort(to))
}

// connIDLength is the length of our connection IDs. That of the sides of a connection is the same, as they share them.
const connIDLength = 8

// socketBuffer is what quic-go wants for the socket's buffers: at a gigabit a second, 50 ms of packets.
const socketBuffer = 7 << 20

// packetConn is a UDP socket as quic-go gets to see it. It differs from a *net.UDPConn in that
//   - errors of sending do not end the connection they happen to: a packet that cannot be sent is a lost packet, and an
//     interface that is away may come back;
//   - errors that other hosts report (ICMP) are told to the dials they concern and to nobody else;
//   - packets to the virtual addresses of tunnels go there, and what comes by tunnels is read as if it came from there;
//   - quic-go does not print that the kernel grants it less buffer than it likes.
//
// It keeps what makes *net.UDPConn fast: batches, segmentation offload, ECN and path MTU discovery.
type packetConn struct {
	*net.UDPConn
	batch       *ipv4.PacketConn
	poll        *ipv4.PacketConn // reads what there is, without waiting
	unreachable func(to netip.AddrPort, err error)
	*ways
	buffersDone bool // set by quic-go's first steps, before any concurrency
}

var _ quicgo.OOBCapablePacketConn = (*packetConn)(nil)

func newPacketConn(udp *net.UDPConn, unreachable func(netip.AddrPort, error)) *packetConn {
	// Less than was asked for costs speed, not correctness.
	udp.SetReadBuffer(socketBuffer)
	udp.SetWriteBuffer(socketBuffer)
	prepareSocket(udp)
	return &packetConn{UDPConn: udp, batch: ipv4.NewPacketConn(udp), poll: ipv4.NewPacketConn(polled{udp}), unreachable: unreachable,
		ways: newWays(udp.SetReadDeadline)}
}

var errBuffersFirst = errors.New("quic: the buffers come first")

// SyscallConn fails until quic-go has set both buffers. It then takes SetReadBuffer's and SetWriteBuffer's word for
// their size instead of looking at the socket and printing a warning.
func (c *packetConn) SyscallConn() (syscall.RawConn, error) {
	if !c.buffersDone {
		return nil, errBuffersFirst
	}
	return c.UDPConn.SyscallConn()
}

// SetReadBuffer does nothing: newPacketConn did what can be done.
func (c *packetConn) SetReadBuffer(int) error { return nil }

// SetWriteBuffer does nothing, either. It is the last that quic-go wants of the buffers.
func (c *packetConn) SetWriteBuffer(int) error {
	c.buffersDone = true
	return nil
}

// ReadBatch reads packets as ipv4.PacketConn's does, and those that came by tunnels. Errors pass unless they last.
func (c *packetConn) ReadBatch(ms []ipv4.Message, flags int) (int, error) {
	for try := 1; ; try++ {
		if c.inlet.pending.Load() {
			if n := c.readBoth(ms, flags); n > 0 {
				return n, nil
			}
		}
		n, err := c.batch.ReadBatch(ms, flags)
		if c.inlet.woken(err) {
			try--
			continue
		}
		if err == nil || errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded) || try == 1000 {
			return n, err
		}
		c.readErrors()
		if try > 1 {
			time.Sleep(time.Millisecond)
		}
	}
}

// WriteMsgUDP sends a packet, or several of one size if oob says so. What fails for good counts as sent and lost.
func (c *packetConn) WriteMsgUDP(b, oob []byte, addr *net.UDPAddr) (int, int, error) {
	if c.ways.write(b, oob, addr) {
		return len(b), len(oob), nil
	}
	for try := 1; ; try++ {
		n, oobn, err := c.UDPConn.WriteMsgUDP(b, oob, addr)
		if err == nil {
			return n, oobn, nil
		}
		// The error may be an earlier packet's, come back by ICMP, and this one was not sent: once more.
		c.readErrors()
		switch {
		case try == 1 && !errors.Is(err, net.ErrClosed):
		case errors.Is(err, net.ErrClosed) || tooLarge(err) || noOffload(err, oob):
			return n, oobn, err // quic-go knows what to do
		default:
			c.unreachable(addrPort(addr), err)
			return len(b), len(oob), nil
		}
	}
}

// WriteTo sends a packet as WriteMsgUDP does.
func (c *packetConn) WriteTo(b []byte, addr net.Addr) (int, error) {
	udp, ok := addr.(*net.UDPAddr)
	if !ok {
		return 0, net.InvalidAddrError("not a UDP address")
	}
	n, _, err := c.WriteMsgUDP(b, nil, udp)
	return n, err
}

// addrPort returns the address of a UDP socket in the one form that all comparisons use.
func addrPort(addr net.Addr) netip.AddrPort {
	udp, ok := addr.(*net.UDPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := udp.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
