package natlab

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	mtu = 1500
	// queue is how many packets a link holds in each direction; what comes when it is full is lost. At a delay of 10 ms it is full at 600 MB/s.
	queue = 4096
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
			request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
			err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
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

// carry reads packets and writes each when its time has come, until from is closed. One goroutine does both: it reads until the first packet in the queue is due.
func carry(from, to *os.File, delay time.Duration) {
	type packet struct {
		due  time.Time
		size int
	}
	packets, room := make([]packet, queue), make([]byte, queue*mtu) // a ring
	first, n := 0, 0
	var spare [mtu]byte
	var deadline time.Time
	for {
		for now := time.Now(); n > 0 && !packets[first].due.After(now); n-- {
			to.Write(room[first*mtu:][:packets[first].size]) // what fails is a lost packet
			first = (first + 1) % queue
		}
		var want time.Time
		if n > 0 {
			want = packets[first].due
		}
		if want != deadline {
			deadline = want
			from.SetReadDeadline(deadline)
		}
		last := (first + n) % queue
		b := room[last*mtu:][:mtu]
		if n == queue {
			b = spare[:]
		}
		size, err := from.Read(b)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
		case errors.Is(err, unix.EIO): // the device is down
		case err != nil:
			return
		case n < queue:
			packets[last] = packet{time.Now().Add(delay), size}
			n++
		}
	}
}
