package mux

import (
	"errors"
	"io"
	"math"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/yamux"

	"github.com/Blockchain-CN/pheromones/internal/pipe"
	"github.com/Blockchain-CN/pheromones/transport"
)

// chunk is how many bytes of a stream go into one frame.
const chunk = 32 << 10

// stream is a [transport.Stream]: a yamux stream and what yamux does not know of it. What is written does not pass through yamux, whose
// sending goroutine would cost each write two changes of goroutine: the stream counts the peer's window itself.
type stream struct {
	c    *conn
	id   uint32
	ours bool          // we opened it
	y    *yamux.Stream // nil until OpenStream or AcceptStream has it; set with c.mu and mu held
	fin  atomic.Bool   // the peer has ended its direction, and not by a reset

	// Guarded by c.mu.
	acked    bool   // ours: the peer has accepted it
	reset    bool   // we have sent a reset
	sent     bool   // our direction has ended, by a FIN that was queued or a reset
	received bool   // the peer's has
	echo     []byte // the peer's own: the answer to its reset, which waits until the stream is accepted

	sending sync.Mutex // held by the Write under way, and by the FIN after it
	ended   bool       // guarded by sending: the FIN was given to yamux

	mu       sync.Mutex // may be locked with c.mu held, not the other way round
	writable sync.Cond
	credit   int // bytes that the peer's window has room for
	writeBy  pipe.Deadline
	readBy   time.Time
	closed   bool  // Close or Reset was called
	eof      bool  // Read has returned io.EOF
	readErr  error // what Read fails with
	writeErr error // what Write fails with
}

func newStream(c *conn, id uint32, ours bool) *stream {
	s := &stream{c: c, id: id, ours: ours, credit: minWindow} // the window that yamux begins with
	s.writable.L = &s.mu
	return s
}

// attach gives the stream its yamux stream, with c.mu held.
func (s *stream) attach(y *yamux.Stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.y = y
}

// past is a deadline that makes yamux return at once.
var past = time.Unix(1, 0)

// Read implements [net.Conn].
func (s *stream) Read(b []byte) (int, error) {
	for {
		if err := s.readable(); err != nil || len(b) == 0 {
			return 0, err
		}
		n, err := s.y.Read(b)
		if n > 0 || err == nil {
			return n, nil
		}
		switch {
		case errors.Is(err, yamux.ErrTimeout):
			// Either a deadline that has passed, or a nudge to look at readErr.
		case err == io.EOF && s.fin.Load():
			s.mu.Lock()
			s.eof = true
			err = s.readErr
			s.mu.Unlock()
			if err == nil {
				err = io.EOF
			}
			return 0, err
		default:
			if err := s.readable(); err != nil {
				return 0, err
			}
			return 0, s.c.cause(err)
		}
	}
}

// readable returns what a Read must fail with.
func (s *stream) readable() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.readErr != nil:
		return s.readErr
	case s.eof:
		return io.EOF
	case !s.readBy.IsZero() && !time.Now().Before(s.readBy):
		return os.ErrDeadlineExceeded
	}
	return nil
}

// Write implements [net.Conn].
func (s *stream) Write(b []byte) (n int, err error) {
	s.sending.Lock()
	defer s.sending.Unlock()
	var h [headerLen]byte
	for {
		m, err := s.awaitRoom(len(b) - n)
		if err != nil {
			return n, err
		}
		if m > 0 {
			err = s.c.Out.Write(header{typ: typeData, stream: s.id, length: uint32(m)}.append(h[:0]), b[n:n+m])
		}
		if err != nil {
			return n, s.c.gone()
		}
		if n += m; n == len(b) {
			return n, nil
		}
	}
}

// awaitRoom waits until the peer's window and the connection's queue have room, and returns how many of n bytes may go next, or what a
// Write must fail with. It waits for nothing if n is zero.
func (s *stream) awaitRoom(n int) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch {
		case s.writeErr != nil:
			return 0, s.writeErr
		case s.c.Context().Err() != nil:
			return 0, s.c.gone() // fail is to come
		case s.writeBy.Passed():
			return 0, os.ErrDeadlineExceeded
		case n == 0:
			return 0, nil
		case s.credit > 0 && s.c.Out.Room(s.wake):
			m := min(n, chunk, s.credit)
			s.credit -= m
			return m, nil
		}
		s.writable.Wait()
	}
}

// receivedCredit notes that the peer's window has grown.
func (s *stream) receivedCredit(n uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.credit += int(min(n, math.MaxInt32-uint32(s.credit)))
	s.writable.Broadcast()
}

func (s *stream) wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writable.Broadcast()
}

// stopReads and stopWrites make calls of one direction fail, those under way included, with mu held.
func (s *stream) stopReads(err error) {
	if s.readErr == nil && !s.eof {
		s.readErr = err
	}
	if s.y != nil {
		s.y.SetReadDeadline(past)
	}
}

func (s *stream) stopWrites(err error) {
	if s.writeErr == nil {
		s.writeErr = err
	}
	s.writeBy.Stop()
	s.writable.Broadcast()
}

// fail ends the stream because its connection has ended.
func (s *stream) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopReads(err)
	s.stopWrites(err)
}

// finish ends our direction of the yamux stream, once, behind the Write under way, which must have been told to stop.
func (s *stream) finish() {
	s.sending.Lock()
	defer s.sending.Unlock()
	if s.ended {
		return
	}
	s.ended = true
	s.y.Close() // sends a FIN, unless the stream was reset by the peer
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	s.sent = true
	s.c.forget(s)
}

// CloseWrite implements [transport.Stream].
func (s *stream) CloseWrite() error {
	s.mu.Lock()
	s.stopWrites(transport.ErrClosed)
	s.mu.Unlock()
	s.finish()
	return nil
}

// Close implements [net.Conn].
func (s *stream) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed, s.eof = true, false
	s.readErr, s.writeErr = transport.ErrClosed, transport.ErrClosed
	s.stopReads(nil)
	s.stopWrites(nil)
	s.mu.Unlock()
	s.c.mu.Lock()
	if !s.received && !s.c.over {
		s.c.Out.Append(stopFrame(s.id, transport.CodeClosed))
	}
	s.c.mu.Unlock()
	s.finish()
	return nil
}

// Reset implements [transport.Stream].
func (s *stream) Reset(code transport.Code) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	err := &transport.ResetError{Code: code}
	s.stopReads(err)
	s.writeErr = err
	s.stopWrites(err)
	s.mu.Unlock()
	s.c.mu.Lock()
	if !s.c.over && !(s.sent && s.received) {
		s.reset = true
		s.c.Out.Append(resetFrame(s.id, code))
	}
	s.c.mu.Unlock()
	s.finish()
	return nil
}

// receivedReset ends the stream because the peer has reset it, or has answered our reset, with c.mu held.
func (s *stream) receivedReset(code transport.Code) {
	s.sent, s.received = true, true
	s.fail(&transport.ResetError{Code: code, Remote: true})
}

// receivedStop notes that the peer reads no more, with c.mu held.
func (s *stream) receivedStop(code transport.Code) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopWrites(&transport.ResetError{Code: code, Remote: true})
}

// LocalAddr implements [net.Conn].
func (s *stream) LocalAddr() net.Addr { return s.c.Info().LocalAddr }

// RemoteAddr implements [net.Conn].
func (s *stream) RemoteAddr() net.Addr { return s.c.Info().RemoteAddr }

// SetDeadline implements [net.Conn].
func (s *stream) SetDeadline(t time.Time) error {
	s.SetReadDeadline(t)
	return s.SetWriteDeadline(t)
}

// SetReadDeadline implements [net.Conn].
func (s *stream) SetReadDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.readErr == nil {
		s.readBy = t
		s.y.SetReadDeadline(t)
	}
	return nil
}

// SetWriteDeadline implements [net.Conn].
func (s *stream) SetWriteDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.writeErr == nil {
		s.writeBy.Set(t, &s.writable)
	}
	return nil
}
