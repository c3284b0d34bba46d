package websocket

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/Blockchain-CN/pheromones/transport"
	ws "github.com/coder/websocket"
)

// The types of messages. Numbers are 4 bytes, big endian. Bytes behind what is named here, and types that are not, are
// skipped.
const (
	msgData   = 0 // bytes of the stream
	msgFin    = 1 // nothing: the sender's direction has ended
	msgReset  = 2 // code: both directions have ended
	msgStop   = 3 // code: the sender reads no more
	msgCredit = 4 // number: so many more bytes of data the sender takes
	msgClose  = 5 // code and reason: the connection has ended
)

const (
	maxMessage = 16 << 10  // with its type
	window     = 256 << 10 // how many bytes of data a side may send before it has got credit
	maxOut     = 64 << 10  // how many bytes may wait to be sent

	linger      = time.Second // how long a peer is given to hear that a connection is closed
	sendTimeout = time.Minute // a peer always reads, so one that has not taken a message by then is gone
)

// conn is a [transport.Conn]. Everything that happens changes the fields under mu and says so by moved; the writer looks at
// them and finds out what there is to say.
type conn struct {
	transport *Transport
	ws        *ws.Conn
	raw       *tls.Conn // what ws runs on
	info      transport.Info
	ctx       context.Context
	cancel    context.CancelCauseFunc
	seen      chan struct{} // closed by the reader at the first message about the stream
	buf       []byte        // the writer's, for the message it is sending

	mu     sync.Mutex
	moved  sync.Cond // some field has changed
	err    error     // why the connection has ended
	quiet  bool      // there is nothing to tell the peer of the end, or it has been told
	taken  bool      // the stream was opened or accepted
	stream stream    // all but its conn is guarded by mu
}

func newConn(t *Transport, socket *ws.Conn, raw *tls.Conn, info transport.Info) *conn {
	c := &conn{transport: t, ws: socket, raw: raw, info: info, seen: make(chan struct{})}
	c.ctx, c.cancel = context.WithCancelCause(context.Background())
	c.moved.L = &c.mu
	c.stream = stream{conn: c, credit: window, granted: window}
	socket.SetReadLimit(-1) // read has a limit of its own, and more to say to who breaks it
	return c
}

// Info implements [transport.Conn].
func (c *conn) Info() transport.Info { return c.info }

// Context implements [transport.Conn].
func (c *conn) Context() context.Context { return c.ctx }

var errOneStream = fmt.Errorf("websocket: a connection carries one stream, opened by the side that dialled: %w", errors.ErrUnsupported)

// OpenStream implements [transport.Conn].
func (c *conn) OpenStream(ctx context.Context) (transport.Stream, error) {
	if !c.info.Dialer { // OP5
		return nil, errOneStream
	}
	return c.take()
}

// AcceptStream implements [transport.Conn].
func (c *conn) AcceptStream(ctx context.Context) (transport.Stream, error) {
	if c.info.Dialer { // OP5
		return nil, errOneStream
	}
	s, err := c.take() // also from another call that would wait for it (OP5)
	if err != nil {
		return nil, err
	}
	select {
	case <-c.seen:
	case <-c.ctx.Done():
	case <-ctx.Done():
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	select { // several may have happened, and a stream that is there wins (OP3)
	case <-c.seen:
		if c.err == nil || c.stream.over() {
			return s, nil
		}
	default:
	}
	c.taken = false
	if c.err != nil {
		return nil, c.err // EN1, EN2
	}
	return nil, ctx.Err()
}

// take gives the stream to one. A connection that ended with its stream still has it, and what there is to read; one
// that was closed or lost has not.
func (c *conn) take() (transport.Stream, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.taken: // OP5
		return nil, errOneStream
	case c.err != nil && !c.stream.over():
		return nil, c.err // EN1, EN2
	}
	c.taken = true
	return &c.stream, nil
}

// CloseWithError implements [transport.Conn]. It only notes the end; the writer tells the peer (EN8).
func (c *conn) CloseWithError(code transport.Code, reason string) error {
	c.end(&transport.CloseError{Code: code, Reason: transport.CutReason(reason)}) // EN3
	return nil
}

// end ends the connection, and its stream with the same error (EN1, EN2, EN5, EN6). Only the first call counts (EN4).
func (c *conn) end(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended() {
		return
	}
	c.stream.fail(err)
	c.finish(err)
	c.raw.SetDeadline(time.Now().Add(linger)) // both goroutines end by then (EN8, RE2)
}

// ended reports whether the connection has ended, and ends it if its stream has (EN7), which is left to be read. mu is held.
func (c *conn) ended() bool {
	if c.err == nil && c.stream.over() {
		c.quiet = true
		c.finish(&transport.CloseError{Code: transport.CodeNone})
	}
	return c.err != nil
}

// finish makes err the end, with mu held.
func (c *conn) finish(err error) {
	c.err = err
	c.cancel(err)
	c.stream.readBy.stop()
	c.stream.writeBy.stop()
	c.moved.Broadcast()
}

// run is the connection's life. It returns when both goroutines have ended and the network's connection is closed.
func (c *conn) run() {
	var writer sync.WaitGroup
	writer.Go(c.write)
	err := c.read()
	c.end(&transport.LostError{Err: err}) // EN5, unless there was an end before
	// Reading has ended because the peer has nothing more to say and has heard all of ours, or because it never will.
	c.raw.NetConn().Close()
	writer.Wait()
	c.ws.CloseNow()
	c.transport.forget(c)
}

// read handles the peer's messages until the WebSocket ends, and returns why it did. It waits for nothing but the network:
// data has room, by the credit given, so a reset or close is never stuck behind it (ST8, EN1).
func (c *conn) read() error {
	buf := make([]byte, maxMessage+1)
	for {
		_, r, err := c.ws.Reader(context.Background())
		if err != nil {
			return err
		}
		n, err := io.ReadFull(r, buf)
		if err == nil {
			err = errors.New("a message that is too long")
		} else if err == io.EOF || err == io.ErrUnexpectedEOF { // of the message
			err = c.handle(buf[:n])
		} else {
			return err
		}
		if err != nil {
			c.CloseWithError(transport.CodeProtocol, err.Error())
		}
		if n == len(buf) { // the rest must be read for the next to come
			if _, err := io.Copy(io.Discard, r); err != nil {
				return err
			}
		}
	}
}

var errShort = errors.New("a message that is too short")

// handle takes a message. An error is a breach by the peer.
func (c *conn) handle(msg []byte) error {
	if len(msg) == 0 {
		return errShort
	}
	typ, payload := msg[0], msg[1:]
	var number uint32
	if typ >= msgReset && typ <= msgClose {
		if len(payload) < 4 {
			return errShort
		}
		number, payload = binary.BigEndian.Uint32(payload), payload[4:]
	}
	code := transport.Code(number) // ST10
	if typ == msgClose {
		c.end(&transport.CloseError{Code: code, Reason: transport.CutReason(string(payload)), Remote: true})
		return nil
	}

	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.moved.Broadcast()
	if c.ended() {
		return nil // it is read for the sake of what comes after it
	}
	if typ == msgData || typ == msgFin || typ == msgReset { // OP2
		select {
		case <-c.seen:
		default:
			close(c.seen)
		}
	}
	switch s := &c.stream; typ {
	case msgData:
		return s.received(payload)
	case msgFin:
		s.theirs = true
	case msgReset:
		s.receivedReset(code)
	case msgStop:
		s.receivedStop(code)
	case msgCredit:
		s.credit += int64(number)
	}
	return nil
}

// write sends what next says until there is nothing more to say, and then closes the WebSocket.
func (c *conn) write() {
	for msg := c.next(); msg != nil; msg = c.next() {
		// No deadline of the stream's is ever set here: it would break TLS in the middle of a record (ST11).
		if err := c.ws.Write(context.Background(), ws.MessageBinary, msg); err != nil {
			// Why it failed may be among what has come and was not read yet.
			c.raw.SetReadDeadline(time.Now().Add(linger))
			return
		}
	}
	// The closing handshake waits for the peer's part, up to some seconds. To hang up instead would destroy what is
	// still on its way to the peer (ST6, EN1).
	c.ws.Close(ws.StatusNormalClosure, "")
}

// next waits until there is a message to send, and returns nil when there will be none. What is urgent goes before data,
// and of data there is never more in front than one message and what the system has taken (ST8, EN1).
func (c *conn) next() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		if c.ended() {
			ce, ok := c.err.(*transport.CloseError)
			if c.quiet || !ok || ce.Remote {
				return nil
			}
			c.quiet = true
			return append(c.number(msgClose, uint32(ce.Code)), ce.Reason...)
		}
		if msg := c.stream.next(); msg != nil {
			c.buf = msg
			c.raw.SetWriteDeadline(time.Now().Add(sendTimeout))
			return msg
		}
		c.moved.Wait()
	}
}

// number begins a message that has a number, in the writer's buffer.
func (c *conn) number(typ byte, v uint32) []byte {
	return binary.BigEndian.AppendUint32(append(c.buf[:0], typ), v)
}
