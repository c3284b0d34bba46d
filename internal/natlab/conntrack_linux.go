package natlab

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// flushConntrack makes the kernel forget the connections of the namespace: one netlink message, IPCTNL_MSG_CT_DELETE without attributes.
func flushConntrack() error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return fmt.Errorf("natlab: forget connections: %w", err)
	}
	defer unix.Close(fd)
	const (
		ctnetlink = 1 // NFNL_SUBSYS_CTNETLINK
		ctDelete  = 2 // IPCTNL_MSG_CT_DELETE
		size      = unix.NLMSG_HDRLEN + 4
	)
	message := make([]byte, size)
	binary.NativeEndian.PutUint32(message[0:], size)
	binary.NativeEndian.PutUint16(message[4:], ctnetlink<<8|ctDelete)
	binary.NativeEndian.PutUint16(message[6:], unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	if err := unix.Sendto(fd, message, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("natlab: forget connections: %w", err)
	}
	answer := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, answer, 0)
	if err == nil && n >= unix.NLMSG_HDRLEN+4 {
		if code := int32(binary.NativeEndian.Uint32(answer[unix.NLMSG_HDRLEN:])); code < 0 {
			err = unix.Errno(-code)
		}
	}
	if err != nil {
		return fmt.Errorf("natlab: forget connections: %w", err)
	}
	return nil
}
