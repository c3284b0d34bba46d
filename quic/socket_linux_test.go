package quic

import (
	"net"
	"syscall"
	"testing"
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
