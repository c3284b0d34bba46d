//go:build !linux

package quic

import (
	"errors"
	"net"
	"runtime"
	"syscall"
)

func prepareSocket(*net.UDPConn) {}

func (c *packetConn) readErrors() {}

// wsaMsgSize is Windows' WSAEMSGSIZE.
const wsaMsgSize = syscall.Errno(10040)

// tooLarge reports whether a packet was larger than the path admits.
func tooLarge(err error) bool {
	if runtime.GOOS == "windows" {
		return errors.Is(err, wsaMsgSize)
	}
	return runtime.GOOS == "darwin" && errors.Is(err, syscall.EMSGSIZE)
}

func noOffload(error, []byte) bool { return false }

// segmentSize: without segmentation offload a write is one packet.
func segmentSize([]byte) int { return 0 }

// translateECN leaves out what the other family does not know.
func translateECN([]byte, bool) []byte { return nil }
