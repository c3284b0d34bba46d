package conformance

import (
	"bytes"
	"encoding/binary"
	"io"

	"github.com/Blockchain-CN/pheromones/transport"
)

// The kinds of frames on a control stream (LK1 to LK8).
const (
	sayHello = 1
	sayReady = 2
	sayPing  = 5
	sayPong  = 6
)

func linkFrame(kind byte, body []byte) []byte {
	return append(binary.BigEndian.AppendUint16([]byte{kind}, uint16(len(body))), body...)
}

// control opens the control stream of a link, as the side that dialled it.
func (g *guest) control() *talk {
	t := g.raw()
	t.say([]byte("\x0fpheromones.link"))
	return t
}

// hearLink returns the body of the next control frame of a kind. Others are skipped. It ends the check if none comes, or
// skips the rule if the node does not know of control streams.
func (t *talk) hearLink(kind byte) []byte {
	for {
		var h [3]byte
		_, err := io.ReadFull(t, h[:])
		if isReset(err, transport.CodeUnknownService) {
			t.e.skipf("the node has no control streams")
		}
		t.e.must(err, "waiting for a control frame of kind %d", kind)
		body := make([]byte, binary.BigEndian.Uint16(h[1:]))
		_, err = io.ReadFull(t, body)
		t.e.must(err, "reading a control frame of kind %d", h[0])
		if h[0] == kind {
			return body
		}
	}
}

// hello returns a hello without a connectreq: an incarnation, generation 0, and a serial.
func hello() []byte { return linkFrame(sayHello, append(token()[:8], 0, 0, 0, 0, 0, 0, 0, 1)) }

func linkSpoken(e *env) {
	g := e.guest()
	t := g.control()
	t.say(hello())
	answer := t.hearLink(sayHello)
	if len(answer) < 16 || bytes.Equal(answer[:8], make([]byte, 8)) {
		e.failf("want a hello with an incarnation, which is not zero, a generation and a serial, got %s", sample(answer))
	}
	if data := answer[16:]; len(data) > 0 {
		f := fields{rest: data}
		f.version()
		if p := f.entry(); f.err != nil || p.id != e.h.target.addr.Peer {
			e.errorf("want the hello to introduce the node, got %s (%v)", p.id.Short(), f.err)
		}
	}
	t.say(linkFrame(sayReady, nil))
	g.works()
	// What is unknown is skipped, and what a later version adds.
	t.say(append(linkFrame(99, noise(300)), linkFrame(sayReady, noise(20))...))
	for range 3 {
		words := token()[:8]
		t.say(linkFrame(sayPing, words))
		if pong := t.hearLink(sayPong); len(pong) < 8 || !bytes.Equal(pong[:8], words) {
			e.errorf("a ping with %x: want a pong with the same, got %x", words, pong)
		}
	}
	g.works()
}

func oneControl(e *env) {
	g := e.guest()
	first := g.control()
	first.say(hello())
	first.hearLink(sayHello)
	second := g.control()
	second.Write(hello())
	_, err := io.Copy(io.Discard, struct{ io.Reader }{second})
	e.wantReset("a second control stream", err, transport.CodeProtocol, true)
	first.say(linkFrame(sayPing, make([]byte, 8)))
	first.hearLink(sayPong)
	g.works()
}
