package quic

import (
	"errors"
	"net"
	"time"
)

// plainConn is a socket that is no *net.UDPConn, from Config.ListenPacket, as quic-go gets to see it. It has tunnels and survives
// errors as packetConn does.
type plainConn struct {
	net.PacketConn
	*ways
}

func newPlainConn(conn net.PacketConn) *plainConn {
	return &plainConn{conn, newWays(conn.SetReadDeadline)}
}

// SetReadBuffer and SetWriteBuffer do nothing: quic-go prints if they are not there.
func (c *plainConn) SetReadBuffer(int) error  { return nil }
func (c *plainConn) SetWriteBuffer(int) error { return nil }

func (c *plainConn) SetReadDeadline(t time.Time) error { return c.inlet.SetReadDeadline(t) }

func (c *plainConn) ReadFrom(b []byte) (int, net.Addr, error) {
	return c.inlet.readFrom(b, c.PacketConn.ReadFrom)
}

// WriteTo sends a packet. One that cannot be sent counts as sent and lost.
func (c *plainConn) WriteTo(b []byte, addr net.Addr) (int, error) {
	if udp, ok := addr.(*net.UDPAddr); ok && c.ways.write(b, nil, udp) {
		return len(b), nil
	}
	if _, err := c.PacketConn.WriteTo(b, addr); errors.Is(err, net.ErrClosed) {
		return 0, err
	}
	return len(b), nil
}

// plainSide is to plainConn what sideConn is to packetConn.
type plainSide struct {
	*plainConn
	side *side
	deaf *deaf
}

func (c *plainSide) ReadFrom([]byte) (int, net.Addr, error) { return 0, nil, c.deaf.read() }
func (c *plainSide) SetReadDeadline(time.Time) error        { return c.deaf.stop() }

func (c *plainSide) WriteTo(b []byte, _ net.Addr) (int, error) {
	to := c.side.to.Load()
	return c.plainConn.WriteTo(b, to.udp())
}
