package natlab

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	mtu = 1500
	// maxPacket is what is read at once: several packets in one, which the kernel cuts apart where it must (segmentation offload),
	// behind a header of 10 bytes (struct virtio_net_hdr) that says how.
	maxPacket = 64<<10 + 10
	// maxQueued is how many bytes a link holds in each direction; what comes when it is full is lost. With a delay of 10 ms it is
	// full at 800 MB/s.
	maxQueued = 8 << 20
)

// link carries packets between two TUN devices, after a delay.
type link struct {
	ends    [2]*os.File
	running sync.WaitGroup
}

// newLink makes a device in each of two namespaces and carries packets between them until the link is closed, which deletes the devices.
func newLink(a *netns, aName string, b *netns, bName string, delay time.Duration) (*link, error) {
	var l link
	var err error
	if l.ends[0], err = openTUN(a, aName); err != nil {
		return nil, err
	}
	if l.ends[1], err = openTUN(b, bName); err != nil {
		l.ends[0].Close()
		return nil, err
	}
	l.running.Go(func() { carry(l.ends[0], l.ends[1], delay) })
	l.running.Go(func() { carry(l.ends[1], l.ends[0], delay) })
	return &l, nil
}

func (l *link) close() {
	for _, f := range l.ends {
		f.Close()
	}
	l.running.Wait()
}

func openTUN(n *netns, name string) (f *os.File, err error) {
	err = n.do(func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			return err
		}
		request, err := unix.NewIfreq(name)
		if err == nil {
			request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
			err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
		}
		if err == nil {
			err = unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, unix.TUN_F_CSUM|unix.TUN_F_TSO4|unix.TUN_F_USO4|unix.TUN_F_USO6)
		}
		if err == unix.EINVAL { // a kernel before 6.2
			err = unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, unix.TUN_F_CSUM|unix.TUN_F_TSO4)
		}
		if err != nil {
			unix.Close(fd)
			return err
		}
		f = os.NewFile(uintptr(fd), name)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("%w: a TUN device is refused: %w", ErrUnavailable, err)
	}
	return f, nil
}

// carry reads packets and writes each when its time has come, until from is closed. One goroutine does both: it reads until the
// first packet in the queue is due.
func carry(from, to *os.File, delay time.Duration) {
	type packet struct {
		due  time.Time
		data []byte
	}
	var packets []packet
	queued := 0
	room := make([]byte, maxPacket)
	var deadline time.Time
	for {
		for len(packets) > 0 && !packets[0].due.After(time.Now()) {
			to.Write(packets[0].data) // what fails is a lost packet
			queued -= len(packets[0].data)
			packets[0].data = nil
			packets = packets[1:]
		}
		var want time.Time
		if len(packets) > 0 {
			want = packets[0].due
		}
		if want != deadline {
			deadline = want
			from.SetReadDeadline(deadline)
		}
		n, err := from.Read(room)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, unix.EIO): // EIO: the device is down
		case err != nil:
			return
		case queued+n <= maxQueued:
			packets = append(packets, packet{time.Now().Add(delay), slices.Clone(room[:n])})
			queued += n
		}
	}
}
