package quic

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// prepareSocket asks for what only Linux has: buffers beyond the limit, which root may have, and the errors that other
// hosts report about our packets. What the kernel does not grant is done without.
func prepareSocket(udp *net.UDPConn) {
	raw, err := udp.SyscallConn()
	if err != nil {
		return
	}
	raw.Control(func(fd uintptr) {
		unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, socketBuffer)
		unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, socketBuffer)
		unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_RECVERR, 1)
		unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVERR, 1)
	})
}

// readErrors empties the socket's error queue (ip(7), IP_RECVERR) and tells what it says about destinations. The kernel
// bounds the queue by the receive buffer, from which it takes, so it must not be left full.
func (c *packetConn) readErrors() {
	raw, err := c.UDPConn.SyscallConn()
	if err != nil {
		return
	}
	raw.Control(func(fd uintptr) {
		var oob [512]byte
		for {
			_, n, _, from, err := unix.Recvmsg(int(fd), nil, oob[:], unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
			if err != nil {
				return
			}
			if errno := reported(oob[:n]); errno != 0 {
				c.unreachable(sockaddr(from), errno)
			}
		}
	})
}

// reported returns the error that another host reports by ICMP, or 0.
func reported(oob []byte) syscall.Errno {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return 0
	}
	for _, m := range msgs {
		v4 := m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_RECVERR
		v6 := m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_RECVERR
		if !v4 && !v6 || len(m.Data) < 8 {
			continue
		}
		// struct sock_extended_err: the error, four bytes; its origin, one byte; …
		origin := m.Data[4]
		if origin != unix.SO_EE_ORIGIN_ICMP && origin != unix.SO_EE_ORIGIN_ICMP6 {
			continue
		}
		switch errno := syscall.Errno(binary.NativeEndian.Uint32(m.Data)); errno {
		case unix.ECONNREFUSED, unix.EHOSTUNREACH, unix.ENETUNREACH:
			return errno
		}
	}
	return 0
}

func sockaddr(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		ip := netip.AddrFrom16(sa.Addr).Unmap()
		if sa.ZoneId != 0 {
			if ifi, err := net.InterfaceByIndex(int(sa.ZoneId)); err == nil {
				ip = ip.WithZone(ifi.Name)
			}
		}
		return netip.AddrPortFrom(ip, uint16(sa.Port))
	}
	return netip.AddrPort{}
}

// tooLarge reports whether a packet was larger than the path admits.
func tooLarge(err error) bool { return errors.Is(err, unix.EMSGSIZE) }

// noOffload reports whether the network card cannot segment packets, as oob asks for (udp(7), UDP_SEGMENT).
func noOffload(err error, oob []byte) bool {
	if !errors.Is(err, unix.EIO) {
		return false
	}
	return segmentSize(oob) > 0
}

// segmentSize returns the size of the packets that the network card shall make of a write (udp(7), UDP_SEGMENT); 0 if it is one packet.
func segmentSize(oob []byte) int {
	msgs, _ := unix.ParseSocketControlMessage(oob)
	for _, m := range msgs {
		if m.Header.Level == unix.IPPROTO_UDP && m.Header.Type == unix.UDP_SEGMENT && len(m.Data) >= 2 {
			return int(binary.NativeEndian.Uint16(m.Data))
		}
	}
	return 0
}

// translateECN returns oob with the mark for congestion notification (RFC 3168) as the other family has it; both take an int (ip(7), ipv6(7)).
func translateECN(oob []byte, to6 bool) []byte {
	var out []byte
	msgs, _ := unix.ParseSocketControlMessage(oob)
	for _, m := range msgs {
		var mark uint32
		switch {
		case m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_TOS && len(m.Data) >= 1:
			mark = uint32(m.Data[0])
		case m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_TCLASS && len(m.Data) >= 4:
			mark = binary.NativeEndian.Uint32(m.Data)
		default:
			out = appendControl(out, m.Header.Level, m.Header.Type, m.Data)
			continue
		}
		level, typ := int32(unix.IPPROTO_IP), int32(unix.IP_TOS)
		if to6 {
			level, typ = unix.IPPROTO_IPV6, unix.IPV6_TCLASS
		}
		out = appendControl(out, level, typ, binary.NativeEndian.AppendUint32(nil, mark))
	}
	return out
}

func appendControl(b []byte, level, typ int32, data []byte) []byte {
	start := len(b)
	b = append(b, make([]byte, unix.CmsgSpace(len(data)))...)
	h := (*unix.Cmsghdr)(unsafe.Pointer(&b[start]))
	h.Level, h.Type = level, typ
	h.SetLen(unix.CmsgLen(len(data)))
	copy(b[start+unix.CmsgLen(0):], data)
	return b
}
