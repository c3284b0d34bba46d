package quic

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	quicgo "github.com/quic-go/quic-go"

	"github.com/Blockchain-CN/pheromones/transport"
)

// Stream implements [transport.Stream]. All methods may be called at once from any goroutine.
type Stream struct {
	conn *Conn
	quic *quicgo.Stream

	// writing is held by whoever writes or ends the direction towards the peer: quic-go wants them one at a time.
	writing sync.Mutex

	mu        sync.Mutex
	readEnd   error // what reads fail with, once that is settled: io.EOF, ErrClosed or a *ResetError
	writeEnd  error // the same for writes
	closed    bool  // by Close
	wasReset  bool  // by Reset
	finishing bool  // by Close or CloseWrite: the write deadline is past and stays so
}

// Read implements [net.Conn].
func (s *Stream) Read(p []byte) (int, error) {
	if err := s.ended(&s.readEnd); err != nil {
		return 0, err
	}
	n, err := s.quic.Read(p)
	err = s.settle(&s.readEnd, err)
	if n > 0 && err == io.EOF {
		err = nil // the next Read returns it
	}
	return n, err
}

// Write implements [net.Conn]. When it returns the bytes are sent, or copied if they are fewer than a packet's.
func (s *Stream) Write(p []byte) (int, error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	if err := s.ended(&s.writeEnd); err != nil {
		return 0, err
	}
	if s.conn.ctx.Err() != nil {
		return 0, context.Cause(s.conn.ctx) // quic-go may not have come to this stream yet
	}
	n, err := s.quic.Write(p)
	return n, s.settle(&s.writeEnd, err)
}

// ended returns what end says, if it is settled.
func (s *Stream) ended(end *error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return *end
}

// settle translates an error of quic-go and keeps it as end if it is the end of the direction. What has been settled
// meanwhile, by a call of ours that made quic-go fail, goes first.
func (s *Stream) settle(end *error, err error) error {
	if err == nil {
		return nil
	}
	err = s.conn.streamError(err)
	s.mu.Lock()
	defer s.mu.Unlock()
	if *end != nil {
		return *end
	}
	var reset *transport.ResetError
	if err == io.EOF || errors.As(err, &reset) {
		*end = err
	}
	return err
}

// CloseWrite implements [transport.Stream]. A Write under way returns with what it has sent; that much will arrive.
func (s *Stream) CloseWrite() error {
	s.mu.Lock()
	if s.finishing || s.wasReset {
		s.mu.Unlock()
		return nil
	}
	s.finish()
	s.mu.Unlock()
	s.fin()
	return nil
}

// Close implements [net.Conn] as [transport.Stream] has it.
func (s *Stream) Close() error {
	s.mu.Lock()
	if s.closed || s.wasReset {
		s.closed = true
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	s.readEnd = transport.ErrClosed
	again := s.finishing
	s.finish()
	s.writeEnd = transport.ErrClosed
	s.mu.Unlock()
	s.quic.CancelRead(quicgo.StreamErrorCode(transport.CodeClosed)) // nothing if the peer's end has been read
	if !again {
		s.fin()
	}
	return nil
}

// finish makes writes fail from now on. It needs s.mu.
func (s *Stream) finish() {
	s.finishing = true
	if s.writeEnd == nil {
		s.writeEnd = transport.ErrClosed
	}
	s.quic.SetWriteDeadline(time.Unix(1, 0))
}

// fin ends the direction towards the peer, after the Write under way.
func (s *Stream) fin() {
	s.writing.Lock()
	defer s.writing.Unlock()
	s.quic.Close() // fails only after a reset, when there is nothing to end
}

// Reset implements [transport.Stream].
func (s *Stream) Reset(code transport.Code) error {
	s.mu.Lock()
	if s.closed || s.wasReset || s.finishing && s.readEnd == io.EOF {
		s.mu.Unlock()
		return nil
	}
	s.wasReset = true
	local := &transport.ResetError{Code: code}
	for _, end := range []*error{&s.readEnd, &s.writeEnd} {
		if _, remote := (*end).(*transport.ResetError); !remote {
			*end = local
		}
	}
	s.mu.Unlock()
	s.quic.CancelWrite(quicgo.StreamErrorCode(code))
	s.quic.CancelRead(quicgo.StreamErrorCode(code))
	return nil
}

// LocalAddr implements [net.Conn]. It is of type [transport.Addr].
func (s *Stream) LocalAddr() net.Addr { return s.conn.Info().LocalAddr }

// RemoteAddr implements [net.Conn]. It is of type [transport.Addr].
func (s *Stream) RemoteAddr() net.Addr { return s.conn.Info().RemoteAddr }

// SetDeadline implements [net.Conn].
func (s *Stream) SetDeadline(t time.Time) error {
	return errors.Join(s.SetReadDeadline(t), s.SetWriteDeadline(t))
}

// SetReadDeadline implements [net.Conn]. It fails after Close.
func (s *Stream) SetReadDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return transport.ErrClosed
	}
	return s.quic.SetReadDeadline(t)
}

// SetWriteDeadline implements [net.Conn]. It fails after Close.
func (s *Stream) SetWriteDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return transport.ErrClosed
	}
	if s.finishing {
		return nil // the direction has ended, and a Write that still leaves must not be held up
	}
	return s.quic.SetWriteDeadline(t)
}
