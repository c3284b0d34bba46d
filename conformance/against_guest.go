package conformance

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/Blockchain-CN/pheromones/transport"
)

// guest is a peer with a fresh key that talks to the node under judgement, in bytes of its own making. It is safe for concurrent
// use.
type guest struct {
	*node
	e *env

	mu   sync.Mutex
	conn transport.Conn // where connections carry many streams: the one in use; nil if there is none
}

// guest makes a peer.
func (e *env) guest() *guest { return &guest{node: e.node(), e: e} }

// dial makes a connection with the node, which is closed with the guest. It ends the check if it cannot.
func (g *guest) dial() transport.Conn { return g.dialAt(g.e.h.target.addr) }

func (g *guest) dialAt(addr transport.Addr) transport.Conn {
	e := g.e
	ctx, cancel := context.WithTimeout(e.ctx, dialBound)
	defer cancel()
	c, err := g.Dial(ctx, addr)
	if err != nil {
		e.unreached(err)
	}
	if got := c.Info().RemotePeer; got != e.h.target.addr.Peer {
		e.failf("want the node to be %s, got %s", e.h.target.addr.Peer, got)
	}
	// Streams that the node opens towards us: no service of ours.
	e.spawn(func() {
		for {
			s, err := c.AcceptStream(e.ctx)
			if err != nil {
				return
			}
			s.Reset(transport.CodeUnknownService)
		}
	})
	return c
}

// link returns the connection in use, which is a new one if there is none or it has ended.
func (g *guest) link() transport.Conn {
	if g.e.traits.OneStream {
		return g.dial()
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.conn == nil || g.conn.Context().Err() != nil {
		g.conn = g.dial()
	}
	return g.conn
}

// hangUp closes the connection in use.
func (g *guest) hangUp() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.conn != nil {
		g.conn.CloseWithError(transport.CodeNone, "")
		g.conn = nil
	}
}

// raw opens a stream on which nothing has been said. Its deadline is soon.
func (g *guest) raw() *talk {
	c := g.link()
	s, err := c.OpenStream(g.e.ctx)
	g.e.must(err, "OpenStream")
	t := &talk{Stream: s, e: g.e, conn: c}
	t.hurry()
	return t
}

// messageService is how a stream of the message service begins (PR1, PR2).
const messageService = "\x12pheromones.message"

// talk opens a stream of the message service and says what is given, in one write.
func (g *guest) talk(frames ...[]byte) *talk {
	t := g.raw()
	b := []byte(messageService)
	for _, f := range frames {
		b = append(b, f...)
	}
	t.say(b)
	return t
}

// works sees that the node answers a ping. It ends the check if it does not.
func (g *guest) works() {
	data := token()
	t := g.talk(message("ping", data))
	t.wantPong(data)
	t.Close()
}

// talk is a stream to the node.
type talk struct {
	transport.Stream
	e    *env
	conn transport.Conn
}

// hurry sets the deadline to soon.
func (t *talk) hurry() { t.SetDeadline(time.Now().Add(t.e.soon)) }

// say writes all of b, or ends the check.
func (t *talk) say(b []byte) { t.e.send(t.Stream, b) }

// hear returns the next frame, or ends the check.
func (t *talk) hear() answer {
	a, err := readAnswer(t.Stream)
	if err != nil {
		t.e.failf("want an answer, got %s", describe(err))
	}
	return a
}

// wantPong hears a pong with data and returns it.
func (t *talk) wantPong(data []byte) answer {
	a := t.hear()
	if a.kind != kindMessage || a.operation != "pong" || string(a.data) != string(data) {
		t.e.failf("a ping with %s: want a pong with the same, got %s", sample(data), a)
	}
	return a
}

// wantError hears an error of the code, and then the end.
func (t *talk) wantError(code uint16) {
	a, err := readAnswer(t.Stream)
	if err != nil || a.kind != kindError || a.code != code {
		t.e.errorf("want the answer to be an error of code %d, got %s (%s)", code, a, describe(err))
		return
	}
	t.wantEnd()
}

// wantNone hears a none, and then the end.
func (t *talk) wantNone() {
	if a := t.hear(); a.kind != kindNone {
		t.e.errorf("want the answer none, got %s", a)
		return
	}
	t.wantEnd()
}

// wantEnd hears the end of the stream, in order, and closes it.
func (t *talk) wantEnd() {
	if n, err := t.Read(make([]byte, 16)); n != 0 || err != io.EOF {
		t.e.errorf("want the stream to end in order, got %d bytes and %s", n, describe(err))
	}
	t.Close()
}

// isReset reports whether the other side has reset a stream with the code.
func isReset(err error, code transport.Code) bool {
	var reset *transport.ResetError
	return errors.As(err, &reset) && reset.Remote && reset.Code == code
}

// The kinds of frames (PR5).
const (
	kindMessage = 1
	kindNone    = 2
	kindError   = 3
)

// The codes of errors (PR12).
const (
	refusedCode     = 3
	cancelledCode   = 5
	tooLargeCode    = 6
	malformedCode   = 7
	unsupportedCode = 8
)

// frame makes a frame (PR3).
func frame(kind byte, body []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(2+len(body)))
	return append(append(b, 1, kind), body...)
}

// message makes a frame with a message that has a new ID (PR7).
func message(operation string, data []byte) []byte {
	return messageOf(newID(), 0, "", operation, data)
}

func messageOf(id [16]byte, milliseconds uint32, name, operation string, data []byte) []byte {
	b := append(make([]byte, 0, 32+len(name)+len(operation)+len(data)), id[:]...)
	b = binary.BigEndian.AppendUint32(b, milliseconds)
	b = append(append(b, byte(len(name))), name...)
	b = append(append(b, byte(len(operation))), operation...)
	b = append(binary.BigEndian.AppendUint32(b, uint32(len(data))), data...)
	return frame(kindMessage, b)
}

func newID() (id [16]byte) {
	rand.Read(id[:])
	return id
}

// answer is a frame of the node.
type answer struct {
	kind      byte
	id        [16]byte // of a message, as what follows
	name      string
	operation string
	data      []byte
	code      uint16 // of an error
	text      string
}

func (a answer) String() string {
	switch a.kind {
	case 0:
		return "nothing"
	case kindNone:
		return "none"
	case kindError:
		return fmt.Sprintf("the error %d, %.200q", a.code, a.text)
	}
	return fmt.Sprintf("a message with ID %x, name %.40q, operation %.40q and %s", a.id, a.name, a.operation, sample(a.data))
}

// sample shows some of b.
func sample(b []byte) string { return fmt.Sprintf("%d bytes, %.20x", len(b), b) }

// maxAnswer bounds the frames that the suite takes: the limit of SPEC.md.
const maxAnswer = 16 << 20

// readAnswer reads one frame. Whatever SPEC.md forbids is an error.
func readAnswer(r io.Reader) (a answer, err error) {
	var head [6]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return a, err
	}
	size := binary.BigEndian.Uint32(head[:])
	switch {
	case size < 2 || size > maxAnswer:
		return a, fmt.Errorf("a frame whose size is %d", size)
	case head[4] != 1:
		return a, fmt.Errorf("a frame of version %d", head[4])
	}
	// Memory grows with what comes.
	body, err := io.ReadAll(io.LimitReader(r, int64(size)-2))
	if err == nil && len(body) < int(size)-2 {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return a, fmt.Errorf("a frame of %d bytes that is cut: %w", size, err)
	}
	f := fields{rest: body}
	a.kind = head[5]
	switch a.kind {
	case kindMessage:
		copy(a.id[:], f.take(len(a.id)))
		f.number(4)
		a.name = f.text(f.number(1))
		a.operation = f.text(f.number(1))
		a.data = f.take(f.number(4))
		if a.id == [16]byte{} || a.operation == "" {
			f.fail("a message without an ID or an operation")
		}
	case kindNone:
	case kindError:
		a.code = uint16(f.number(2))
		a.text = f.text(f.number(2))
		if len(a.text) > 1024 {
			f.fail("an error's text of %d bytes", len(a.text))
		}
	default:
		f.fail("a frame of kind %d", a.kind)
	}
	return a, f.err
}

// fields takes a body apart. The first thing that is wrong stays; what is taken after it is empty.
type fields struct {
	rest []byte
	err  error
}

func (f *fields) fail(format string, args ...any) {
	if f.err == nil {
		f.err = fmt.Errorf(format, args...)
	}
	f.rest = nil
}

var errCutFields = errors.New("fields that end too early")

func (f *fields) take(n int) []byte {
	if f.err == nil && n > len(f.rest) {
		f.fail("%w", errCutFields)
	}
	if f.err != nil {
		return nil
	}
	b := f.rest[:n]
	f.rest = f.rest[n:]
	return b
}

// number takes a number of n bytes, at most 4.
func (f *fields) number(n int) int {
	v := 0
	for _, x := range f.take(n) {
		v = v<<8 | int(x)
	}
	return v
}

func (f *fields) text(n int) string {
	b := f.take(n)
	if !utf8.Valid(b) {
		f.fail("text that is no UTF-8: %.40q", b)
	}
	return string(b)
}
