package tcp

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/Blockchain-CN/pheromones/internal/outq"
	"github.com/Blockchain-CN/pheromones/internal/tlsnet"
	"github.com/Blockchain-CN/pheromones/transport"
)

// conn is a [transport.Conn] with one stream. Its one lasting goroutine reads frames; it never waits for the stream's
// reader, because the peer sends no more than the credit it was given.
type conn struct {
	tlsnet.Link
	ended  func(*conn)
	done   chan struct{} // closed by read, at its end
	stream *stream
	first  chan struct{} // closed by read at the first frame of the stream

	mu    sync.Mutex
	taken bool // the stream was opened or accepted
}

func newConn(raw *tls.Conn, info transport.Info, pool *outq.Pool, ended func(*conn)) *conn {
	c := &conn{ended: ended, done: make(chan struct{}), first: make(chan struct{})}
	c.stream = newStream(c, info)
	c.Init(raw, info, pool, encodeClose, c.stream.fail)
	go c.read()
	return c
}

// Done implements tlsnet.Conn.
func (c *conn) Done() <-chan struct{} { return c.done }

var errOneStream = fmt.Errorf("tcp: a connection carries one stream, opened by the side that dialled; "+
	"dial again for the next: %w", errors.ErrUnsupported)

// OpenStream implements [transport.Conn].
func (c *conn) OpenStream(ctx context.Context) (transport.Stream, error) {
	if c.Cut() {
		return nil, context.Cause(c.Context())
	}
	if !c.Info().Dialer || !c.take() {
		return nil, errOneStream
	}
	return c.stream, nil
}

// AcceptStream implements [transport.Conn].
func (c *conn) AcceptStream(ctx context.Context) (transport.Stream, error) {
	if c.Cut() {
		return nil, context.Cause(c.Context())
	}
	if c.Info().Dialer || !c.take() {
		return nil, errOneStream
	}
	var err error
	select {
	case <-c.first:
	case <-c.Context().Done():
		err = context.Cause(c.Context())
	case <-ctx.Done():
		err = ctx.Err()
	}
	// A stream that is there is returned, also if it has come and gone, and its connection with it.
	select {
	case <-c.first:
		if !c.Cut() {
			return c.stream, nil
		}
		err = context.Cause(c.Context())
	default:
	}
	c.mu.Lock()
	c.taken = false
	c.mu.Unlock()
	return nil, err
}

// take reports whether the stream was still to be had.
func (c *conn) take() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	was := c.taken
	c.taken = true
	return !was
}

// read takes frames from the peer until the connection ends.
func (c *conn) read() {
	c.Stopped(c.readFrames())
	c.stream.forget()
	c.ended(c)
	close(c.done)
}

// readFrames takes frames until the stream of them ends. It returns a *CloseError of the peer, a [tlsnet.ProtocolError], or what the
// network said.
func (c *conn) readFrames() error {
	in := bufio.NewReader(c.Raw) // of 4096 bytes; longer payloads bypass it
	var header [headerLen]byte
	payload := make([]byte, 0, 512)
	for {
		if _, err := io.ReadFull(in, header[:]); err != nil {
			return err
		}
		typ, length := parseHeader(&header)
		if length > maxPayload {
			return tlsnet.ProtocolError(fmt.Sprintf("a frame of %d bytes, more than %d", length, maxPayload))
		}
		if length > cap(payload) {
			payload = make([]byte, 0, max(length, min(4*cap(payload), maxPayload)))
		}
		payload = payload[:length]
		if _, err := io.ReadFull(in, payload); err != nil {
			return err
		}
		if err := c.handle(typ, payload); err != nil {
			return err
		}
	}
}

func (c *conn) handle(typ byte, payload []byte) error {
	var code uint32
	if typ >= frameReset && typ <= frameClose {
		var ok bool
		if code, payload, ok = parseCode(payload); !ok {
			return tlsnet.ProtocolError(fmt.Sprintf("a frame of type %d without its number", typ))
		}
	}
	switch typ {
	case frameData, frameFin, frameReset:
		c.appear()
	}
	switch typ {
	case frameData:
		return c.stream.received(payload)
	case frameFin:
		return c.stream.receivedFin()
	case frameReset:
		c.stream.receivedReset(transport.Code(code))
	case frameStop:
		c.stream.receivedStop(transport.Code(code))
	case frameCredit:
		return c.stream.receivedCredit(code)
	case frameClose:
		return &transport.CloseError{Code: transport.Code(code), Reason: transport.CutReason(string(payload)), Remote: true}
	}
	return nil // types to come are skipped
}

// appear lets AcceptStream return the stream. Only read calls it.
func (c *conn) appear() {
	select {
	case <-c.first:
	default:
		close(c.first)
	}
}
