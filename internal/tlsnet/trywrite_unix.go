//go:build unix

package tlsnet

import (
	"net"
	"syscall"
)

// tryWriter writes to a socket without waiting.
type tryWriter struct {
	raw syscall.RawConn
	try func(fd uintptr) bool // of raw.Write; made once

	b   []byte
	n   int
	err error
}

// newTryWriter returns nil if c is no socket.
func newTryWriter(c net.Conn) *tryWriter {
	s, ok := c.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return nil
	}
	w := &tryWriter{raw: raw}
	w.try = func(fd uintptr) bool {
		for {
			if w.n, w.err = syscall.Write(int(fd), w.b); w.err != syscall.EINTR {
				return true
			}
		}
	}
	return w
}

// write writes what the socket takes at once. It may not be called while another write is under way.
func (w *tryWriter) write(b []byte) (int, error) {
	w.b, w.n, w.err = b, 0, nil
	err := w.raw.Write(w.try)
	w.b = nil
	switch {
	case err != nil:
		return 0, err
	case w.err == syscall.EAGAIN:
		return 0, nil
	case w.err != nil:
		return 0, &net.OpError{Op: "write", Net: "tcp", Err: w.err}
	}
	return w.n, nil
}
