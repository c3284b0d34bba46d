package conformance

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"io"
	"slices"
	"time"
)

// The frames of SPEC.md's section "tcp" (TC2).
const (
	shortData   = 0
	shortFIN    = 1
	shortRESET  = 2
	shortSTOP   = 3
	shortCREDIT = 4
	shortCLOSE  = 5

	shortMax    = 16_380
	firstCredit = 256 << 10
	breachCode  = 2 // of closes: protocol
)

func shortFrame(kind byte, payload []byte) []byte {
	n := len(payload)
	return append([]byte{kind, byte(n >> 16), byte(n >> 8), byte(n)}, payload...)
}

func shortNumber(kind byte, v uint32, more ...byte) []byte {
	return shortFrame(kind, append(binary.BigEndian.AppendUint32(nil, v), more...))
}

// shortConn is a short connection, spoken by hand.
type shortConn struct {
	*tls.Conn
	e *env

	data     []byte // bytes of the stream that have come and were not taken
	received int    // bytes of the stream that have come
	fin      bool
	closed   bool   // a CLOSE has come
	code     uint32 // of it
	credit   int    // what the node has given us beyond the first
}

func (e *env) short() *shortConn { return &shortConn{Conn: e.dialTLS(), e: e} }

// send writes frames in one write.
func (c *shortConn) send(frames ...[]byte) {
	if _, err := c.Write(slices.Concat(frames...)); err != nil {
		c.e.failf("writing frames: want success, got %s", describe(err))
	}
}

// next reads one frame. It returns what Read does when there is none.
func (c *shortConn) next() error {
	var h [4]byte
	if _, err := io.ReadFull(c, h[:]); err != nil {
		return err
	}
	n := int(h[1])<<16 | int(h[2])<<8 | int(h[3])
	if n > shortMax {
		c.e.failf("want frames of at most %d bytes, got one of %d", shortMax, n)
	}
	p := make([]byte, n)
	if _, err := io.ReadFull(c, p); err != nil {
		return err
	}
	if h[0] >= shortRESET && h[0] <= shortCLOSE && n < 4 {
		c.e.failf("want a frame of type %d to have a number, got %x", h[0], p)
	}
	switch h[0] {
	case shortData:
		c.data = append(c.data, p...)
		c.received += n
	case shortFIN:
		c.fin = true
	case shortCREDIT:
		c.credit += int(binary.BigEndian.Uint32(p))
	case shortCLOSE:
		c.closed, c.code = true, binary.BigEndian.Uint32(p)
	}
	return nil
}

// until reads frames until f says true, or ends the check.
func (c *shortConn) until(what string, f func() bool) {
	for !f() {
		if err := c.next(); err != nil {
			c.e.failf("waiting for %s: got %s", what, describe(err))
		}
	}
}

// over reads to the end of the connection, which must come in order (close_notify), and soon.
func (c *shortConn) over() {
	for {
		switch err := c.next(); err {
		case nil:
			continue
		case io.EOF:
		default:
			c.e.errorf("want the connection to end by close_notify, got %s", describe(err))
		}
		return
	}
}

// answer takes one frame of the message service from the stream.
func (c *shortConn) answer() answer {
	c.until("an answer", func() bool {
		return len(c.data) >= 4 && uint64(len(c.data)) >= 4+uint64(binary.BigEndian.Uint32(c.data))
	})
	r := bytes.NewReader(c.data)
	a, err := readAnswer(r)
	c.e.must(err, "reading an answer")
	c.data = c.data[len(c.data)-r.Len():]
	return a
}

// ask sees that a ping is answered.
func (c *shortConn) ask() {
	data := token()
	c.send(shortFrame(shortData, append([]byte(messageService), message("ping", data)...)))
	if a := c.answer(); a.operation != "pong" || !bytes.Equal(a.data, data) {
		c.e.errorf("a ping with %s: want a pong with the same, got %s", sample(data), a)
	}
}

func shortFrames(e *env) {
	data := noise(20_000)
	all := append([]byte(messageService), message("ping", data)...)
	c := e.short()
	c.send(shortFrame(77, []byte("a later version's")), shortFrame(shortData, nil), shortFrame(shortData, all[:1]), shortFrame(200, nil))
	c.send(shortFrame(shortData, all[1:30]), shortNumber(shortCREDIT, 1<<20, noise(20)...))
	c.send(shortFrame(shortData, all[30:30+shortMax]), shortFrame(shortData, all[30+shortMax:]))
	if a := c.answer(); a.operation != "pong" || !bytes.Equal(a.data, data) {
		e.errorf("a ping with %s: want a pong with the same, got %s", sample(data), a)
	}
	c.send(shortFrame(shortFIN, []byte("more")))
	c.until("FIN", func() bool { return c.fin })
	e.must(c.CloseWrite(), "sending close_notify")
	c.over()
}

func shortCredit(e *env) {
	c := e.short()
	data := noise(1 << 20)
	all := append([]byte(messageService), message("ping", data)...)
	for sent := 0; sent < len(all); {
		c.until("CREDIT", func() bool { return sent < firstCredit+c.credit })
		n := min(shortMax, len(all)-sent, firstCredit+c.credit-sent)
		c.send(shortFrame(shortData, all[sent:sent+n]))
		sent += n
	}
	c.until("all that there is credit for", func() bool { return c.received >= firstCredit })
	// And no more, for a moment.
	c.SetReadDeadline(time.Now().Add(4 * moment))
	for c.next() == nil {
	}
	if c.received > firstCredit {
		e.failf("want no more than %d bytes before CREDIT, got %d", firstCredit, c.received)
	}
	c.SetReadDeadline(time.Now().Add(e.soon))
	c.send(shortNumber(shortCREDIT, 2<<20))
	if a := c.answer(); a.operation != "pong" || !bytes.Equal(a.data, data) {
		e.errorf("a ping with %s: want a pong with the same, got %s", sample(data), a)
	}
}

func shortBreach(e *env) {
	for _, n := range []int{shortMax + 1, 1<<24 - 1} {
		e.in("a frame of %d bytes", n)
		c := e.short()
		c.send([]byte{shortData, byte(n >> 16), byte(n >> 8), byte(n)})
		c.until("CLOSE", func() bool { return c.closed })
		if c.code != breachCode {
			e.errorf("want CLOSE with code %d, got %d", breachCode, c.code)
		}
		c.Close()
		e.guest().works()
	}
}

func shortReset(e *env) {
	half := message("ping", noise(100))[:50]
	for _, test := range []struct {
		name string
		last []byte
	}{
		{"reset", shortNumber(shortRESET, 4)},
		{"closed", append(shortNumber(shortCLOSE, 0), shortFrame(9, nil)...)},
	} {
		e.in("a connection that is %s", test.name)
		c := e.short()
		c.send(shortFrame(shortData, append([]byte(messageService), half...)), test.last)
		e.must(c.CloseWrite(), "sending close_notify")
		c.over()
		e.guest().works()
	}
	e.in("a connection that the network ends")
	c := e.short()
	c.send(shortFrame(shortData, append([]byte(messageService), half...)))
	c.NetConn().Close()
	e.guest().works()
}

// The frames of yamux, version 0 (MU1).
const (
	yamuxData   = 0
	yamuxWindow = 1
	yamuxPing   = 2
	yamuxGoAway = 3

	yamuxSYN = 1
	yamuxACK = 2
	yamuxFIN = 4
	yamuxRST = 8

	yamuxLimit = 256 << 10 // the window until told otherwise

	closeKind = 3 // of messages to the connection (MU3)
)

func yamuxHeader(kind byte, flags uint16, stream, length uint32) []byte {
	b := binary.BigEndian.AppendUint16([]byte{0, kind}, flags)
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(b, stream), length)
}

func yamuxFrame(kind byte, flags uint16, stream uint32, body []byte) []byte {
	return append(yamuxHeader(kind, flags, stream, uint32(len(body))), body...)
}

// yamuxConn is a connection of mux, spoken by hand.
type yamuxConn struct {
	*tls.Conn
	e *env

	data   map[uint32][]byte // bytes that have come and were not taken, by stream
	fin    map[uint32]bool
	resets map[uint32]uint32 // codes of resets, by stream
	pongs  map[uint32]bool   // answers to our pings
	closed bool              // a CLOSE has come
	code   uint32            // of it
}

func (e *env) yamux() *yamuxConn { return &yamuxConn{Conn: e.dialTLS(), e: e} }

// send writes frames in one write.
func (c *yamuxConn) send(frames ...[]byte) {
	if _, err := c.Write(slices.Concat(frames...)); err != nil {
		c.e.failf("writing frames: want success, got %s", describe(err))
	}
}

// next reads one frame, and answers pings. It returns what Read does when there is none.
func (c *yamuxConn) next() error {
	if c.data == nil {
		c.data, c.fin = make(map[uint32][]byte), make(map[uint32]bool)
		c.resets, c.pongs = make(map[uint32]uint32), make(map[uint32]bool)
	}
	var h [12]byte
	if _, err := io.ReadFull(c, h[:]); err != nil {
		return err
	}
	kind, flags := h[1], binary.BigEndian.Uint16(h[2:])
	stream, length := binary.BigEndian.Uint32(h[4:]), binary.BigEndian.Uint32(h[8:])
	if h[0] != 0 || kind > yamuxGoAway {
		c.e.failf("want yamux's frames, got one of version %d and type %d", h[0], kind)
	}
	switch {
	case kind == yamuxPing && flags&yamuxSYN != 0:
		c.send(yamuxHeader(yamuxPing, yamuxACK, 0, length))
	case kind == yamuxPing:
		c.pongs[length] = true
	case kind == yamuxWindow && flags&yamuxRST != 0:
		c.resets[stream] = length
	case kind == yamuxData:
		if length > yamuxLimit {
			c.e.failf("want no data frame above the window of %d bytes, got one of %d", yamuxLimit, length)
		}
		p := make([]byte, length)
		if _, err := io.ReadFull(c, p); err != nil {
			return err
		}
		if stream != 0 {
			c.data[stream] = append(c.data[stream], p...)
		} else if len(p) >= 5 && p[0] == closeKind {
			c.closed, c.code = true, binary.BigEndian.Uint32(p[1:])
		}
	}
	if flags&yamuxFIN != 0 {
		c.fin[stream] = true
	}
	if stream%2 == 0 && stream != 0 && flags&yamuxSYN != 0 {
		c.send(yamuxHeader(yamuxWindow, yamuxACK|yamuxRST, stream, 10)) // a stream of the node's: no service of ours
	}
	return nil
}

// until reads frames until f says true, or ends the check.
func (c *yamuxConn) until(what string, f func() bool) {
	for !f() {
		if err := c.next(); err != nil {
			c.e.failf("waiting for %s: got %s", what, describe(err))
		}
	}
}

// answer takes one frame of the message service from a stream.
func (c *yamuxConn) answer(stream uint32) answer {
	c.until("an answer", func() bool {
		d := c.data[stream]
		return len(d) >= 4 && uint64(len(d)) >= 4+uint64(binary.BigEndian.Uint32(d))
	})
	r := bytes.NewReader(c.data[stream])
	a, err := readAnswer(r)
	c.e.must(err, "reading an answer")
	c.data[stream] = c.data[stream][len(c.data[stream])-r.Len():]
	return a
}

// ask sees that a ping on a new stream is answered.
func (c *yamuxConn) ask(stream uint32) {
	data := token()
	c.send(yamuxFrame(yamuxData, yamuxSYN, stream, append([]byte(messageService), message("ping", data)...)))
	if a := c.answer(stream); a.operation != "pong" || !bytes.Equal(a.data, data) {
		c.e.errorf("a ping with %s on stream %d: want a pong with the same, got %s", sample(data), stream, a)
	}
}

func yamuxSpoken(e *env) {
	c := e.yamux()
	c.send(yamuxHeader(yamuxPing, yamuxSYN, 0, 4711))
	c.until("the answer to a ping of yamux", func() bool { return c.pongs[4711] })
	c.ask(1)
	// A stream that a window update opens, with data in pieces, and the end of its direction.
	data := noise(50_000)
	all := append([]byte(messageService), message("ping", data)...)
	c.send(yamuxHeader(yamuxWindow, yamuxSYN, 3, 0), yamuxFrame(yamuxData, 0, 3, all[:5]), yamuxFrame(yamuxData, 0, 3, nil))
	c.send(yamuxFrame(yamuxData, 0, 3, all[5:]), yamuxHeader(yamuxWindow, yamuxFIN, 3, 0))
	if a := c.answer(3); a.operation != "pong" || !bytes.Equal(a.data, data) {
		e.errorf("a ping with %s: want a pong with the same, got %s", sample(data), a)
	}
	c.until("the end of the node's direction", func() bool { return c.fin[3] })
	c.ask(5)
}

func yamuxReset(e *env) {
	c := e.yamux()
	c.send(yamuxFrame(yamuxData, yamuxSYN, 1, []byte("\x07nowhere")))
	c.until("a reset", func() bool { _, ok := c.resets[1]; return ok })
	if c.resets[1] != 10 {
		e.errorf("an unknown service: want a reset with code 10, got %d", c.resets[1])
	}
	c.send(yamuxHeader(yamuxWindow, yamuxRST, 1, 10))
	// Ours is answered by one with its code.
	c.send(yamuxFrame(yamuxData, yamuxSYN, 3, append([]byte(messageService), message("ping", noise(99))[:60]...)))
	c.send(yamuxHeader(yamuxWindow, yamuxRST, 3, 4321))
	c.until("the answer to a reset", func() bool { _, ok := c.resets[3]; return ok })
	if c.resets[3] != 4321 {
		e.errorf("a reset with code 4321: want it to be answered by one of that code, got %d", c.resets[3])
	}
	c.ask(5)
}

func yamuxUnknown(e *env) {
	c := e.yamux()
	c.send(yamuxFrame(yamuxData, 0, 0, []byte{99, 1, 2, 3}), yamuxFrame(yamuxData, 0, 0, append([]byte{200}, noise(1023)...)))
	// A setting with more behind it than its number.
	c.send(yamuxFrame(yamuxData, 0, 0, []byte{1, 0, 0, 4, 0, 7, 7, 7}))
	c.ask(1)
}

func yamuxBreach(e *env) {
	for _, test := range []struct {
		name string
		send []byte
	}{
		{"another version", append([]byte{9}, yamuxHeader(yamuxPing, yamuxSYN, 0, 1)[1:]...)},
		{"an unknown type", yamuxHeader(77, 0, 0, 0)},
		{"a data frame of 4 GiB", append(yamuxHeader(yamuxData, yamuxSYN, 1, 1<<32-1), noise(100)...)},
		{"a message to the connection of 1,025 bytes", yamuxFrame(yamuxData, 0, 0, make([]byte, 1025))},
	} {
		e.in("%s", test.name)
		c := e.yamux()
		c.send(test.send)
		c.until("CLOSE", func() bool { return c.closed })
		if c.code != breachCode {
			e.errorf("want CLOSE with code %d, got %d", breachCode, c.code)
		}
		c.Close()
		e.guest().works()
	}
}
