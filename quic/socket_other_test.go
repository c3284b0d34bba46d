//go:build !linux

package quic

import (
	"net"
	"syscall"
	"testing"
)

const errRefused = syscall.ECONNREFUSED

func bufferSizes(*testing.T, *net.UDPConn) map[string]int { return nil }
