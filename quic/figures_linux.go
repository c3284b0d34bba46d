package quic

import (
	"errors"

	"golang.org/x/sys/unix"
)

func (s *socket) figures() (Figures, error) {
	c, ok := s.conn.(*packetConn)
	if !ok {
		return Figures{}, errors.ErrUnsupported
	}
	raw, err := c.UDPConn.SyscallConn()
	if err != nil {
		return Figures{}, err
	}
	var f Figures
	var errs [3]error
	err = raw.Control(func(fd uintptr) {
		f.ReadBuffer, errs[0] = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF)
		f.WriteBuffer, errs[1] = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF)
		_, errs[2] = unix.GetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_SEGMENT)
	})
	f.ReadBuffer, f.WriteBuffer, f.GSO = f.ReadBuffer/2, f.WriteBuffer/2, errs[2] == nil // half of it is for the kernel's own use: socket(7)
	return f, errors.Join(err, errs[0], errs[1])
}
