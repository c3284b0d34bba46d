package tcp

import (
	"context"
	"net"
	"os"
	"sync"
	"time"

	"github.com/Blockchain-CN/pheromones/internal/pipe"
	"github.com/Blockchain-CN/pheromones/internal/tlsnet"
	"github.com/Blockchain-CN/pheromones/transport"
)

// stream is the [transport.Stream] of a connection.
type stream struct {
	conn *conn
	info transport.Info
	in   *pipe.Pipe // what the peer sent and we have not read

	mu       sync.Mutex
	writable sync.Cond
	writeBy  pipe.Deadline
	writing  bool  // a Write is under way; others queue behind it
	writeErr error // what Write fails with
	credit   int   // how many bytes the peer takes beyond those sent

	sent   bool        // our direction has ended: FIN or RESET was queued
	ended  bool        // the peer's has: FIN or RESET came
	closed bool        // Close or Reset was called
	orphan *time.Timer // ends the connection of a stream that we have closed and the peer has not

	window  int // how many bytes we let the peer be ahead of our reader
	granted int // how many more bytes the peer may send
	owed    int // bytes read that the peer got no new credit for yet
}

// orphanTimeout bounds how long a peer may take to end a stream that we have closed, as FIN_WAIT_2 is bounded in TCP.
const orphanTimeout = time.Minute

func newStream(c *conn, info transport.Info) *stream {
	s := &stream{conn: c, info: info, credit: initialCredit, window: initialCredit, granted: initialCredit}
	s.in = pipe.New(maxWindow, nil)
	s.writable.L = &s.mu
	return s
}

// Read implements [net.Conn].
func (s *stream) Read(b []byte) (int, error) {
	n, err := s.in.Read(b)
	if n > 0 {
		s.consumed(n)
	}
	return n, err
}

// consumed gives the peer credit for what was read, in steps of half a window. Each step doubles the window up to its
// maximum, so that long paths fill; a reader that stands still keeps the peer at the first one.
func (s *stream) consumed(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.owed += n
	if s.owed < s.window/2 || s.ended || s.closed {
		return
	}
	more := s.owed
	if s.window < maxWindow {
		more += s.window
		s.window *= 2
	}
	s.owed = 0
	s.granted += more
	s.conn.Out.Append(appendCode(nil, frameCredit, uint32(more)))
}

// Write implements [net.Conn].
func (s *stream) Write(b []byte) (n int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.await(func() bool { return !s.writing }); err != nil {
		return 0, err
	}
	s.writing = true
	for err == nil && n < len(b) {
		if err = s.await(func() bool { return s.credit > 0 && s.conn.Out.Room(s.wake) }); err == nil {
			m := min(len(b)-n, s.credit, maxPayload)
			var header [headerLen]byte
			// An error of the queue is one of the connection, which await reports next.
			s.conn.Out.Append(appendHeader(header[:0], frameData, m), b[n:n+m])
			s.credit -= m
			n += m
		}
	}
	s.writing = false
	s.writable.Broadcast()
	return n, err
}

func (s *stream) wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writable.Broadcast()
}

// await waits for ready, an error or the write deadline, with mu held.
func (s *stream) await(ready func() bool) error {
	for {
		switch {
		case s.writeErr != nil:
			return s.writeErr
		case s.conn.Context().Err() != nil:
			return context.Cause(s.conn.Context()) // fail is to come
		case s.writeBy.Passed():
			return os.ErrDeadlineExceeded
		case ready():
			return nil
		}
		s.writable.Wait()
	}
}

// failWrites makes writes fail, with mu held.
func (s *stream) failWrites(err error) {
	if s.writeErr == nil {
		s.writeErr = err
	}
	s.writeBy.Stop()
	s.writable.Broadcast()
}

// forget stops what waits for the peer. The connection's reader calls it at its end.
func (s *stream) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.orphan != nil {
		s.orphan.Stop()
	}
}

// fail ends the stream because its connection has ended.
func (s *stream) fail(err error) {
	s.in.Break(err, err)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failWrites(err)
}

// endWrites ends our direction with a last frame, if it has not ended, with mu held.
func (s *stream) endWrites(err error, frame []byte) {
	s.failWrites(err)
	if !s.sent {
		s.sent = true
		s.conn.Out.Append(frame)
	}
}

// unlock releases mu and ends the connection if the stream has ended in both directions.
func (s *stream) unlock() {
	over := s.sent && s.ended
	s.mu.Unlock()
	if over {
		s.conn.Finish()
	}
}

// CloseWrite implements [transport.Stream].
func (s *stream) CloseWrite() error {
	s.mu.Lock()
	s.endWrites(transport.ErrClosed, appendHeader(nil, frameFin, 0))
	s.unlock()
	return nil
}

// Close implements [net.Conn].
func (s *stream) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	s.in.CloseRead(transport.ErrClosed, transport.ErrClosed)
	if !s.ended {
		s.conn.Out.Append(appendCode(nil, frameStop, uint32(transport.CodeClosed)))
		s.orphan = time.AfterFunc(orphanTimeout, func() {
			s.conn.CloseWithError(transport.CodeTimeout, "the stream's end was not answered")
		})
	}
	s.writeErr = transport.ErrClosed
	s.endWrites(transport.ErrClosed, appendHeader(nil, frameFin, 0))
	s.unlock()
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
	s.in.Break(err, err)
	if s.writeErr == transport.ErrClosed {
		s.writeErr = err
	}
	s.failWrites(err)
	if !s.sent || !s.ended {
		s.sent, s.ended = true, true
		s.conn.Out.Append(appendCode(nil, frameReset, uint32(code)))
	}
	s.unlock()
	return nil
}

// received takes bytes of the peer. The connection's reader alone calls this and the methods below.
func (s *stream) received(b []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.ended && s.closed:
		return nil // sent before the peer heard of our reset
	case s.ended:
		return tlsnet.ProtocolError("data after the end of the stream")
	case len(b) > s.granted:
		return tlsnet.ProtocolError("more data than there was credit for")
	}
	s.granted -= len(b)
	// It has room, by the credit given; a reader that has gone away drops it.
	return s.in.Push(b)
}

func (s *stream) receivedFin() error {
	s.mu.Lock()
	if s.ended && !s.closed {
		s.mu.Unlock()
		return tlsnet.ProtocolError("a second end of the stream")
	}
	s.in.CloseWrite(transport.ErrClosed)
	s.ended = true
	s.unlock()
	return nil
}

func (s *stream) receivedReset(code transport.Code) {
	err := &transport.ResetError{Code: code, Remote: true}
	s.in.Break(err, err)
	s.mu.Lock()
	s.failWrites(err)
	s.sent, s.ended = true, true
	s.unlock()
}

func (s *stream) receivedStop(code transport.Code) {
	s.mu.Lock()
	s.endWrites(&transport.ResetError{Code: code, Remote: true}, appendHeader(nil, frameFin, 0))
	s.unlock()
}

func (s *stream) receivedCredit(more uint32) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if int64(s.credit)+int64(more) > 1<<31-1 {
		return tlsnet.ProtocolError("more credit than 2 GiB")
	}
	s.credit += int(more)
	s.writable.Broadcast()
	return nil
}

// LocalAddr implements [net.Conn].
func (s *stream) LocalAddr() net.Addr { return s.info.LocalAddr }

// RemoteAddr implements [net.Conn].
func (s *stream) RemoteAddr() net.Addr { return s.info.RemoteAddr }

// SetDeadline implements [net.Conn].
func (s *stream) SetDeadline(t time.Time) error {
	s.SetReadDeadline(t)
	return s.SetWriteDeadline(t)
}

// SetReadDeadline implements [net.Conn].
func (s *stream) SetReadDeadline(t time.Time) error {
	s.in.SetReadDeadline(t)
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
