package tlsnet

import (
	"net"
	"net/netip"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// bindTo binds a socket that is about to dial to the listener's port. Linux lets two sockets have one if both say so; ours do for
// that moment only, lest other programs of the same user take the port unnoticed.
func (l *Listener) bindTo(network, _ string, dialling syscall.RawConn) error {
	listening, ok := l.tcp.(*net.TCPListener)
	if !ok {
		return unix.ENOTSUP
	}
	own, err := listening.SyscallConn()
	if err != nil {
		return err
	}
	at := listening.Addr().(*net.TCPAddr).AddrPort()
	l.binding.Lock()
	defer l.binding.Unlock()
	if err := reusePort(own, 1); err != nil {
		return err
	}
	defer reusePort(own, 0)
	if err := reusePort(dialling, 1); err != nil {
		return err
	}
	defer reusePort(dialling, 0)
	return control(dialling, func(fd int) error { return unix.Bind(fd, sockaddr(at, strings.HasSuffix(network, "4"))) })
}

func reusePort(c syscall.RawConn, on int) error {
	return control(c, func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, on) })
}

func control(c syscall.RawConn, f func(fd int) error) (err error) {
	if failed := c.Control(func(fd uintptr) { err = f(int(fd)) }); failed != nil {
		return failed
	}
	return err
}

// sockaddr returns the address for a socket of the given family; that of a port of both families stands for all of either.
func sockaddr(at netip.AddrPort, is4 bool) unix.Sockaddr {
	ip := at.Addr().Unmap()
	if is4 {
		sa := &unix.SockaddrInet4{Port: int(at.Port())}
		if ip.Is4() {
			sa.Addr = ip.As4()
		}
		return sa
	}
	return &unix.SockaddrInet6{Port: int(at.Port()), Addr: ip.As16()}
}
