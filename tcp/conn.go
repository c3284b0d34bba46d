package tcp

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/Blockchain-CN/pheromones/internal/outq"
	"github.com/Blockchain-CN/pheromones/transport"
)

// linger bounds how long an ended connection waits for the peer to hear of it.
const linger = time.Second

// conn is a [transport.Conn] with one stream. Its one lasting goroutine reads frames; it never waits for the stream's
// reader, because the peer sends no more than the credit it was given.
type conn struct {
	raw    *tls.Conn
	info   transport.Info
	ended  func(*conn)
	out    *outq.Queue
	ctx    context.Context
	cancel context.CancelCauseFunc
	done   chan struct{} // closed by read, at its end
	stream *stream
	first  chan struct{} // closed by read at the first frame of the stream

	mu    sync.Mutex
	taken bool // the stream was opened or accepted
	over  bool // the connection has ended; ctx says why
	whole bool // it ended with its stream, not by a close or a loss
}

func newConn(raw *tls.Conn, info transport.Info, ended func(*conn)) *conn {
	c := &conn{raw: raw, info: info, ended: ended, done: make(chan struct{}), first: make(chan struct{})}
	c.ctx, c.cancel = context.WithCancelCause(context.Background())
	c.out = outq.New(raw, 64<<10, c.lost)
	c.stream = newStream(c)
	go c.read()
	return c
}

// Info implements [transport.Conn].
func (c *conn) Info() transport.Info { return c.info }

// Context implements [transport.Conn].
func (c *conn) Context() context.Context { return c.ctx }

// Done implements tlsnet.Conn.
func (c *conn) Done() <-chan struct{} { return c.done }

var errOneStream = fmt.Errorf("tcp: a connection carries one stream, opened by the side that dialled; "+
	"dial again for the next: %w", errors.ErrUnsupported)

// OpenStream implements [transport.Conn].
func (c *conn) OpenStream(ctx context.Context) (transport.Stream, error) {
	if c.cut() {
		return nil, context.Cause(c.ctx)
	}
	if !c.info.Dialer || !c.take() {
		return nil, errOneStream
	}
	return c.stream, nil
}

// AcceptStream implements [transport.Conn].
func (c *conn) AcceptStream(ctx context.Context) (transport.Stream, error) {
	if c.cut() {
		return nil, context.Cause(c.ctx)
	}
	if c.info.Dialer || !c.take() {
		return nil, errOneStream
	}
	var err error
	select {
	case <-c.first:
		return c.stream, nil
	default:
	}
	select {
	case <-c.first:
		return c.stream, nil
	case <-c.ctx.Done():
		err = context.Cause(c.ctx)
	case <-ctx.Done():
		err = ctx.Err()
	}
	c.mu.Lock()
	c.taken = false
	c.mu.Unlock()
	return nil, err
}

// cut reports whether the connection has ended otherwise than with its stream.
func (c *conn) cut() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.over && !c.whole
}

// take reports whether the stream was still to be had.
func (c *conn) take() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	was := c.taken
	c.taken = true
	return !was
}

// CloseWithError implements [transport.Conn].
func (c *conn) CloseWithError(code transport.Code, reason string) error {
	reason = transport.CutReason(reason)
	if c.end(&transport.CloseError{Code: code, Reason: reason}, false) {
		c.stream.fail(context.Cause(c.ctx))
		c.raw.SetDeadline(time.Now().Add(linger))
		c.out.Close(transport.ErrClosed, appendClose(nil, code, reason), c.closeWrite)
	}
	return nil
}

// end makes err the cause of the connection's end, and reports whether it is. whole says that it ends with its stream.
func (c *conn) end(err error, whole bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over {
		return false
	}
	c.over, c.whole = true, whole
	c.cancel(err)
	return true
}

// finish ends the connection when its stream has ended in both directions. What was queued for the peer is still sent.
func (c *conn) finish() {
	if c.end(&transport.CloseError{Code: transport.CodeNone}, true) {
		c.raw.SetReadDeadline(time.Now().Add(linger))
		c.out.Finish(transport.ErrClosed, c.closeWrite)
	}
}

// lost ends the connection after an error of the network.
func (c *conn) lost(err error) {
	if c.end(&transport.LostError{Err: err}, false) {
		c.stream.fail(context.Cause(c.ctx))
	}
	c.raw.NetConn().Close()
}

// closeWrite tells the peer that nothing more comes. It runs after the last write.
func (c *conn) closeWrite() {
	if c.raw.CloseWrite() != nil {
		c.raw.NetConn().Close()
	}
}

// read takes frames from the peer until the connection ends, and then, so that the peer's kernel does not answer our last
// words with a reset, until the peer has closed its side or linger is over.
func (c *conn) read() {
	defer close(c.done)
	defer c.ended(c)
	err := c.readFrames()
	var closed *transport.CloseError
	switch {
	case errors.As(err, &closed):
		if c.end(closed, false) {
			c.stream.fail(closed)
			c.out.Close(closed, nil, c.closeWrite)
		}
		c.raw.NetConn().SetDeadline(time.Now().Add(linger))
	case errors.As(err, new(protocolError)):
		c.CloseWithError(transport.CodeProtocol, err.Error())
		io.Copy(io.Discard, c.raw)
	default:
		if c.end(&transport.LostError{Err: err}, false) {
			c.stream.fail(context.Cause(c.ctx))
			c.out.Close(transport.ErrClosed, nil, c.closeWrite)
			c.raw.NetConn().SetDeadline(time.Now().Add(linger))
		}
	}
	c.out.Wait()
	c.raw.NetConn().Close()
}

// protocolError says what the peer did wrong.
type protocolError string

func (e protocolError) Error() string { return string(e) }

// readFrames takes frames until the stream of them ends. It returns a *CloseError of the peer, a protocolError, or what the
// network said.
func (c *conn) readFrames() error {
	in := bufio.NewReader(c.raw) // of 4096 bytes; longer payloads bypass it
	var header [headerLen]byte
	payload := make([]byte, 0, 512)
	for {
		if _, err := io.ReadFull(in, header[:]); err != nil {
			return unexpected(err)
		}
		typ, length := parseHeader(&header)
		if length > maxPayload {
			return protocolError(fmt.Sprintf("a frame of %d bytes, more than %d", length, maxPayload))
		}
		if length > cap(payload) {
			payload = make([]byte, 0, max(length, min(4*cap(payload), maxPayload)))
		}
		payload = payload[:length]
		if _, err := io.ReadFull(in, payload); err != nil {
			return unexpected(err)
		}
		if err := c.handle(typ, payload); err != nil {
			return err
		}
	}
}

func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

func (c *conn) handle(typ byte, payload []byte) error {
	var code uint32
	if typ >= frameReset && typ <= frameClose {
		var ok bool
		if code, payload, ok = parseCode(payload); !ok {
			return protocolError(fmt.Sprintf("a frame of type %d without its number", typ))
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
