package quic

import (
	"encoding/binary"
	"net"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

const errRefused = syscall.ECONNREFUSED

func bufferSizes(t *testing.T, udp *net.UDPConn) map[string]int {
	t.Helper()
	raw, err := udp.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	sizes := make(map[string]int)
	raw.Control(func(fd uintptr) {
		sizes["receive"], _ = syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF)
		sizes["send"], _ = syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_SNDBUF)
	})
	return sizes
}

func TestTranslateECN(t *testing.T) {
	size := appendControl(nil, unix.IPPROTO_UDP, unix.UDP_SEGMENT, binary.NativeEndian.AppendUint16(nil, 1234))
	mark4 := appendControl(nil, unix.IPPROTO_IP, unix.IP_TOS, []byte{2}) // as quic-go writes it
	int4 := appendControl(nil, unix.IPPROTO_IP, unix.IP_TOS, binary.NativeEndian.AppendUint32(nil, 2))
	mark6 := appendControl(nil, unix.IPPROTO_IPV6, unix.IPV6_TCLASS, binary.NativeEndian.AppendUint32(nil, 2))
	for _, tt := range []struct {
		name     string
		in, want []byte
		to6      bool
	}{
		{"nothing", nil, nil, true},
		{"segments only", size, size, false},
		{"to IPv4", append(size[:len(size):len(size)], mark6...), append(size[:len(size):len(size)], int4...), false},
		{"to IPv6", append(size[:len(size):len(size)], mark4...), append(size[:len(size):len(size)], mark6...), true},
	} {
		if got := translateECN(tt.in, tt.to6); string(got) != string(tt.want) {
			t.Errorf("%s: %x, want %x", tt.name, got, tt.want)
		}
	}
	if n := segmentSize(append(mark6, size...)); n != 1234 {
		t.Errorf("the segment size is %d, want 1234", n)
	}
	// The kernel takes the mark.
	to, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	raw, _ := to.SyscallConn()
	raw.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_RECVTOS, 1) })
	if _, _, err := to.WriteMsgUDP([]byte{1}, translateECN(mark6, false), to.LocalAddr().(*net.UDPAddr)); err != nil {
		t.Fatal(err)
	}
	oob := make([]byte, 64)
	_, n, _, _, err := to.ReadMsgUDP(make([]byte, 1), oob)
	if err != nil {
		t.Fatal(err)
	}
	if msgs, err := unix.ParseSocketControlMessage(oob[:n]); err != nil || len(msgs) != 1 || msgs[0].Data[0] != 2 {
		t.Errorf("received the marks %v, %v; want 2", msgs, err)
	}
}
