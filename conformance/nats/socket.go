package nats

import (
	"net"
	"os"
	"sync"
	"time"

	"github.com/pion/transport/v4/deadline"
)

// socket makes of a simulated packet connection one whose deadlines are as those of package net: they last, and their error is
// os.ErrDeadlineExceeded.
type socket struct {
	net.PacketConn
	packets  chan packet
	deadline *deadline.Deadline
	closing  chan struct{}
	once     sync.Once
	reader   sync.WaitGroup
}

type packet struct {
	data []byte
	from net.Addr
}

func newSocket(c net.PacketConn) *socket {
	s := &socket{PacketConn: c, packets: make(chan packet), deadline: deadline.New(), closing: make(chan struct{})}
	s.reader.Go(s.read)
	return s
}

// read is the goroutine that takes packets from the simulation.
func (s *socket) read() {
	b := make([]byte, 1<<16)
	for {
		n, from, err := s.PacketConn.ReadFrom(b)
		if err != nil {
			return
		}
		select {
		case s.packets <- packet{append([]byte(nil), b[:n]...), from}:
		case <-s.closing:
			return
		}
	}
}

// ReadFrom implements [net.PacketConn].
func (s *socket) ReadFrom(b []byte) (int, net.Addr, error) {
	expired := s.deadline.Done()
	select {
	case <-s.closing:
		return 0, nil, net.ErrClosed
	case <-expired:
		return 0, nil, os.ErrDeadlineExceeded
	default:
	}
	select {
	case <-s.closing:
		return 0, nil, net.ErrClosed
	case <-expired:
		return 0, nil, os.ErrDeadlineExceeded
	case p := <-s.packets:
		return copy(b, p.data), p.from, nil
	}
}

// SetReadDeadline implements [net.PacketConn].
func (s *socket) SetReadDeadline(t time.Time) error {
	s.deadline.Set(t)
	return nil
}

// SetDeadline implements [net.PacketConn]; writes do not wait.
func (s *socket) SetDeadline(t time.Time) error { return s.SetReadDeadline(t) }

// Close implements [net.PacketConn].
func (s *socket) Close() error {
	err := net.ErrClosed
	s.once.Do(func() {
		close(s.closing)
		err = s.PacketConn.Close()
		s.deadline.Set(time.Time{}) // no timer stays
		s.reader.Wait()
	})
	return err
}
