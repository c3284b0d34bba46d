package websocket

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"time"

	"github.com/Blockchain-CN/pheromones/transport"
)

// stream is the [transport.Stream] of a connection, whose lock guards it. It never touches the network: Read and Write
// move bytes between the caller and two bounded buffers, the connection's goroutines between those and the peer.
type stream struct {
	conn *conn

	in      bytes.Buffer // what has come and was not read
	readErr error        // what reads fail with, whatever is in the buffer: the stream is closed, reset or cut
	readBy  deadline
	granted int // how many more bytes the peer may send
	owed    int // how many bytes were read that the peer has got no credit for

	out      bytes.Buffer // what was written and not sent
	writeErr error        // what writes fail with; what is in the buffer is sent all the same
	writeBy  deadline
	credit   int64 // how many more bytes the peer takes
	writing  bool  // a Write is under way; others wait for it (ST13)

	fin   bool            // after the buffer FIN is to be sent
	reset *transport.Code // RESET is to be sent, and nothing else
	stop  *transport.Code // STOP is to be sent

	ours   bool // our direction has ended: FIN or RESET was sent
	theirs bool // the peer's has: its FIN or RESET has come
}

// over reports whether both directions have ended.
func (s *stream) over() bool { return s.ours && s.theirs }

// next returns the message that the stream has to send, or nil. It is built in the connection's buffer.
func (s *stream) next() []byte {
	c := s.conn
	switch {
	case s.ours && s.theirs:
		return nil
	case s.reset != nil:
		s.ours, s.theirs = true, true
		return c.number(msgReset, uint32(*s.reset))
	case s.stop != nil:
		code := *s.stop
		s.stop = nil
		return c.number(msgStop, uint32(code))
	case s.owed >= window/2 && !s.theirs && s.readErr == nil:
		n := s.owed
		s.granted += n
		s.owed = 0
		return c.number(msgCredit, uint32(n))
	case s.out.Len() > 0 && s.credit > 0: // FL1: no more than the peer has room for
		b := s.out.Next(int(min(s.credit, maxMessage-1)))
		s.credit -= int64(len(b))
		c.moved.Broadcast() // there is room for a Write
		return append(append(c.buf[:0], msgData), b...)
	case s.fin && s.out.Len() == 0 && !s.ours: // ST3, ST6: after the data
		s.ours = true
		return append(c.buf[:0], msgFin)
	}
	return nil
}

// Read implements [net.Conn].
func (s *stream) Read(b []byte) (int, error) {
	c := s.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		switch {
		case s.readErr != nil:
			return 0, s.readErr
		case s.readBy.passed():
			return 0, os.ErrDeadlineExceeded // ST11
		case len(b) == 0:
			return 0, nil // ST12
		case s.in.Len() > 0:
			n, _ := s.in.Read(b)
			s.owed += n
			c.moved.Broadcast() // there may be credit to give (FL3)
			return n, nil
		case s.theirs:
			return 0, io.EOF // ST5: the peer has said so, and nothing else leads here
		}
		c.moved.Wait()
	}
}

// Write implements [net.Conn].
func (s *stream) Write(b []byte) (n int, err error) {
	c := s.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := s.await(func() bool { return !s.writing }); err != nil {
		return 0, err
	}
	s.writing = true
	for err == nil && n < len(b) {
		if err = s.await(func() bool { return s.out.Len() < maxOut }); err == nil {
			m, _ := s.out.Write(b[n:min(len(b), n+maxOut-s.out.Len())])
			n += m
			c.moved.Broadcast()
		}
	}
	s.writing = false
	c.moved.Broadcast()
	return n, err
}

// await waits until ready says true, or writing must fail.
func (s *stream) await(ready func() bool) error {
	for {
		switch {
		case s.writeErr != nil:
			return s.writeErr
		case s.writeBy.passed():
			return os.ErrDeadlineExceeded // ST11
		case ready():
			return nil
		}
		s.conn.moved.Wait()
	}
}

// CloseWrite implements [transport.Stream].
func (s *stream) CloseWrite() error {
	return s.change(func() {
		if s.writeErr == nil { // ST4
			s.writeErr, s.fin = transport.ErrClosed, true
		}
	})
}

// Close implements [net.Conn].
func (s *stream) Close() error {
	return s.change(func() {
		if errors.Is(s.readErr, net.ErrClosed) { // closed or reset by us before
			return
		}
		if !s.theirs {
			code := transport.CodeClosed // ST7
			s.stop = &code
		}
		s.readErr, s.writeErr, s.fin = transport.ErrClosed, transport.ErrClosed, true // ST6
		s.in = bytes.Buffer{}
	})
}

// Reset implements [transport.Stream].
func (s *stream) Reset(code transport.Code) error {
	return s.change(func() {
		if s.readErr == nil { // else it is closed, reset or cut already
			s.reset = &code
			s.fail(&transport.ResetError{Code: code}) // ST9
		}
	})
}

// change runs f with the lock held, and lets everybody look at what has become of it.
func (s *stream) change(f func()) error {
	s.conn.mu.Lock()
	defer s.conn.mu.Unlock()
	f()
	s.conn.moved.Broadcast()
	return nil
}

// fail ends both directions, unless they have ended with something else, and drops what is under way.
func (s *stream) fail(err error) {
	if s.readErr == nil {
		s.readErr, s.writeErr = err, err
	}
	s.in, s.out = bytes.Buffer{}, bytes.Buffer{}
}

// received takes bytes of the peer, and drops them if nobody is to read them.
func (s *stream) received(b []byte) error {
	switch {
	case s.theirs:
		return errors.New("data after the end of the stream")
	case len(b) > s.granted:
		return errors.New("more data than there was credit for")
	}
	s.granted -= len(b)
	if s.readErr == nil {
		s.in.Write(b)
	}
	return nil
}

func (s *stream) receivedReset(code transport.Code) {
	s.ours, s.theirs = true, true
	s.fail(&transport.ResetError{Code: code, Remote: true}) // ST8
}

func (s *stream) receivedStop(code transport.Code) {
	if s.writeErr == nil { // else this side has ended it
		s.writeErr = &transport.ResetError{Code: code, Remote: true} // ST7
	}
	s.out = bytes.Buffer{}
	s.fin = true // the peer waits for our end
}

// LocalAddr implements [net.Conn].
func (s *stream) LocalAddr() net.Addr { return s.conn.info.LocalAddr } // ST14

// RemoteAddr implements [net.Conn].
func (s *stream) RemoteAddr() net.Addr { return s.conn.info.RemoteAddr }

// SetDeadline implements [net.Conn].
func (s *stream) SetDeadline(t time.Time) error {
	return s.change(func() { s.readBy.set(s.conn, t); s.writeBy.set(s.conn, t) })
}

// SetReadDeadline implements [net.Conn].
func (s *stream) SetReadDeadline(t time.Time) error {
	return s.change(func() { s.readBy.set(s.conn, t) })
}

// SetWriteDeadline implements [net.Conn].
func (s *stream) SetWriteDeadline(t time.Time) error {
	return s.change(func() { s.writeBy.set(s.conn, t) })
}

// deadline is a point in time and a timer that wakes those who wait. The network's connection has no part in it, so a
// deadline that passes takes nothing with it (ST11).
type deadline struct {
	at    time.Time // zero: never
	timer *time.Timer
}

func (d *deadline) passed() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }

func (d *deadline) set(c *conn, t time.Time) {
	d.stop()
	d.at = time.Time{}
	if t.IsZero() {
		return
	}
	wait := time.Until(t)
	d.at = time.Now().Add(wait) // by the clock that the timer goes by
	if c.err == nil {           // else nothing waits
		d.timer = time.AfterFunc(wait, func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.moved.Broadcast()
		})
	}
}

func (d *deadline) stop() {
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
}
