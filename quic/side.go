package quic

import (
	"net"
	"sync"
	"syscall"
	"time"

	quicgo "github.com/quic-go/quic-go"
	"golang.org/x/net/ipv4"
)

// newSide makes a side over a socket's connection.
func newSide(conn net.PacketConn) *side {
	s := new(side)
	s.quic = &quicgo.Transport{ConnectionIDLength: connIDLength}
	deaf := deaf{closed: make(chan struct{})}
	switch conn := conn.(type) {
	case *packetConn:
		s.quic.Conn = &sideConn{packetConn: conn, side: s, deaf: &deaf}
	case *plainConn:
		s.quic.Conn = &plainSide{plainConn: conn, side: s, deaf: &deaf}
	}
	return s
}

// deaf is a socket that receives nothing until quic-go wants to read no more.
type deaf struct {
	closed chan struct{}
	once   sync.Once
}

func (d *deaf) read() error {
	<-d.closed
	return net.ErrClosed
}

// stop is called when the transport is closed, which quic-go does by setting a deadline.
func (d *deaf) stop() error {
	d.once.Do(func() { close(d.closed) })
	return nil
}

// sideConn is a socket as the quic-go transport of a side gets to see it: nothing comes, and all that goes out goes one way. It is
// as fast as the socket.
type sideConn struct {
	*packetConn
	side *side
	deaf *deaf

	buffersDone bool // set by quic-go's first steps, before any concurrency
}

var _ quicgo.OOBCapablePacketConn = (*sideConn)(nil)

// SyscallConn and SetWriteBuffer do as those of packetConn.
func (c *sideConn) SyscallConn() (syscall.RawConn, error) {
	if !c.buffersDone {
		return nil, errBuffersFirst
	}
	return c.packetConn.SyscallConn()
}

func (c *sideConn) SetWriteBuffer(int) error {
	c.buffersDone = true
	return nil
}

func (c *sideConn) ReadBatch([]ipv4.Message, int) (int, error) { return 0, c.deaf.read() }
func (c *sideConn) ReadFrom([]byte) (int, net.Addr, error)     { return 0, nil, c.deaf.read() }
func (c *sideConn) SetReadDeadline(time.Time) error            { return c.deaf.stop() }
func (c *sideConn) ReadMsgUDP([]byte, []byte) (n, oobn, flags int, addr *net.UDPAddr, err error) {
	return 0, 0, 0, nil, c.deaf.read()
}

// WriteMsgUDP sends by the way of the side, whatever the address, which is that at which the connection was dialled.
func (c *sideConn) WriteMsgUDP(b, oob []byte, dialled *net.UDPAddr) (int, int, error) {
	to := c.side.to.Load()
	if to.tunnel != nil {
		to.tunnel.sendBatch(b, oob)
		return len(b), len(oob), nil
	}
	if (dialled.IP.To4() == nil) != to.addr.Addr().Is6() {
		oob = translateECN(oob, to.addr.Addr().Is6())
	}
	return c.packetConn.WriteMsgUDP(b, oob, to.udp())
}

func (c *sideConn) WriteTo(b []byte, addr net.Addr) (int, error) {
	udp, ok := addr.(*net.UDPAddr)
	if !ok {
		return 0, net.InvalidAddrError("not a UDP address")
	}
	n, _, err := c.WriteMsgUDP(b, nil, udp)
	return n, err
}
