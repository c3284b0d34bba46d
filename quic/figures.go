package quic

// Figures is what the kernel grants a listener's socket.
type Figures struct {
	// ReadBuffer and WriteBuffer are how many bytes it buffers. The transport asks for 7 MiB.
	ReadBuffer, WriteBuffer int
	// GSO: several packets go out with one system call (udp(7), UDP_SEGMENT).
	GSO bool
}

// Figures returns what the kernel grants the listener's socket. It fails with errors.ErrUnsupported on systems other than Linux,
// and if the socket is none of the kernel's, and with net.ErrClosed after Close.
func (l *Listener) Figures() (Figures, error) { return l.socket.figures() }
