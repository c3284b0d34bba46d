package conformance

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/Blockchain-CN/pheromones/transport"
)

func halfClose(e *env) {
	g := e.guest()
	for _, n := range []int{0, 100, 100_000} {
		data := noise(n)
		t := g.talk(message("ping", data))
		e.must(t.CloseWrite(), "CloseWrite")
		t.wantPong(data)
		t.wantEnd()
	}
}

func resetsGiveBack(e *env) {
	g := e.guest()
	n := 3000
	if e.traits.OneStream {
		n = 100
	}
	half := message("ping", noise(100))[:60]
	for i := range n {
		if e.ctx.Err() != nil {
			break // the watchdog
		}
		e.in("stream %d", i+1)
		t := g.talk([][]byte{nil, half, message("ping", nil)}[i%3])
		t.Reset(transport.Code(4 + 300*(i%2)))
		if i%100 == 99 {
			g.works() // and the node has accepted those before: more that wait than 256 it may refuse (MU4)
		}
	}
	g.works()
}

func unreadAnswers(e *env) {
	g := e.guest()
	const n, size = 6, 1 << 20
	var all []*talk
	for range n {
		t := g.talk(message("ping", noise(size)))
		all = append(all, t)
	}
	for range 3 {
		g.works()
		e.guest().works()
	}
	// Reading late brings them whole.
	t := all[0]
	t.hurry()
	t.wantPong(noise(size))
	for _, t := range all {
		t.Reset(transport.CodeCancelled)
	}
	g.works()
}

func badService(e *env) {
	g := e.guest()
	for _, test := range []struct{ name, send string }{
		{"no name", "\x00"},
		{"a control character", "\x03a\x01b"},
		{"a line feed", "\x03a\nb"},
		{"no UTF-8", "\x02\xff\xff"},
		{"less than it says", "\xffab"},
		{"nothing", ""},
	} {
		e.in("%s", test.name)
		t := g.raw()
		t.Write([]byte(test.send))
		t.CloseWrite()
		if got, err := io.ReadAll(struct{ io.Reader }{t}); len(got) > 0 || isTimeout(err) {
			e.errorf("want the stream to end, got %d bytes and %s", len(got), describe(err))
		}
		t.Reset(transport.CodeCancelled)
		g.works()
	}
}

func unknownServiceAgainst(e *env) {
	g := e.guest()
	name := "nowhere-" + hex.EncodeToString(token())
	for _, name := range []string{name, "é", strings.Repeat("x", 254) + "!", "pheromones.messagf"} {
		e.in("the service %.40q", name)
		t := g.raw()
		t.say(append([]byte{byte(len(name))}, name...))
		_, err := t.Read(make([]byte, 1))
		e.wantReset("Read", err, transport.CodeUnknownService, true)
		g.works()
	}
}

// vectors sends frames of protocol/testdata/frames.json.
func vectors(e *env) {
	g := e.guest()
	for _, v := range []struct{ name, hex string }{
		{"request", "0000002a01010102030405060708090a0b0c0d0e0f10000005dc05616c6963650470696e670000000568656c6c6f"},
		{"no name, no time-out", "0000002501010102030405060708090a0b0c0d0e0f1000000000000470696e670000000568656c6c6f"},
		{"the longest time-out", "0000002501010102030405060708090a0b0c0d0e0f10ffffffff000470696e670000000568656c6c6f"},
		{"a name beyond ASCII", "0000002d01010102030405060708090a0b0c0d0e0f100000000008c3856c6573756e640470696e670000000568656c6c6f"},
	} {
		e.in("%s", v.name)
		b, err := hex.DecodeString(v.hex)
		e.must(err, "decoding a vector")
		t := g.talk(b)
		a := t.wantPong([]byte("hello"))
		if hex.EncodeToString(a.id[:]) != "0102030405060708090a0b0c0d0e0f10" {
			e.errorf("want the reply to bear the message's ID, got %x", a.id)
		}
		t.Close()
	}
}

func pieces(e *env) {
	g := e.guest()
	t := g.raw()
	data := noise(40)
	for _, b := range append([]byte(messageService), message("ping", data)...) {
		t.say([]byte{b})
		e.sleep(2 * time.Millisecond) // or the network would put them together
	}
	t.wantPong(data)
	t.Close()
}

func tooLarge(e *env) {
	g := e.guest()
	for _, test := range []struct {
		name string
		send []byte
	}{
		{"a size of 4 GiB", []byte{255, 255, 255, 255, 1, 1}},
		{"a size of 4 GiB, and many bytes", append([]byte{255, 255, 255, 255, 1, 1}, make([]byte, 1<<20)...)},
		{"a size of 2 GiB and 1", []byte{128, 0, 0, 1, 1, 1}},
	} {
		e.in("%s", test.name)
		t := g.raw()
		t.Write(append([]byte(messageService), test.send...)) // may fail: what is refused need not be read
		t.wantError(tooLargeCode)
		t.Reset(transport.CodeCancelled)
		g.works()
	}
}

func sizesAgainst(e *env) {
	g := e.guest()
	// The reply bears the node's name, of at most 255 bytes.
	const most = 16<<20 - overhead - len("ping") - 255
	for _, n := range []int{0, 1, 255, 256, 4095, 65_535, 65_536, 1 << 20, 5_000_000, most} {
		e.in("%d bytes", n)
		data := noise(n)
		t := g.raw()
		t.SetDeadline(time.Now().Add(3 * e.soon))
		_, err := t.Write(append([]byte(messageService), message("ping", data)...))
		a, readErr := readAnswer(t)
		switch {
		case readErr == nil && a.kind == kindError && a.code == tooLargeCode && n > 64<<10:
			e.skipf("the node's limit is below %d bytes", n)
		case readErr != nil:
			e.failf("want a pong, got %s; writing: %s", describe(readErr), describe(err))
		case a.operation != "pong" || !bytes.Equal(a.data, data):
			e.errorf("want a pong with the same, got %s", a)
		}
		t.Close()
	}
}

func otherVersions(e *env) {
	g := e.guest()
	good := message("ping", []byte("data"))
	for _, test := range []struct {
		name string
		at   int
		is   byte
	}{
		{"version 0", 4, 0}, {"version 2", 4, 2}, {"version 255", 4, 255}, {"kind 0", 5, 0}, {"kind 4", 5, 4}, {"kind 77", 5, 77},
	} {
		e.in("%s", test.name)
		b := slices.Clone(good)
		b[test.at] = test.is
		g.talk(b).wantError(unsupportedCode)
	}
	g.works()
}

func laterFields(e *env) {
	g := e.guest()
	body := message("ping", []byte("data"))[6:]
	e.in("a message")
	t := g.talk(frame(kindMessage, append(slices.Clone(body), noise(300)...)))
	t.wantPong([]byte("data"))
	e.in("a none")
	t.say(frame(kindNone, []byte("more")))
	t.wantEnd()
}

func malformedFrames(e *env) {
	g := e.guest()
	with := func(change func(b []byte)) []byte {
		b := messageOf(newID(), 0, "me", "ping", []byte("data"))
		change(b)
		return b
	}
	// size 0, version 4, kind 5, ID 6, time-out 22, name 26, operation 29, data 34
	for _, test := range []struct {
		name string
		send []byte
	}{
		{"a size of 0", []byte{0, 0, 0, 0, 1, 1}},
		{"a size of 1", []byte{0, 0, 0, 1, 1, 1}},
		{"an empty body", frame(kindMessage, nil)},
		{"an ID of zero", with(func(b []byte) { clear(b[6:22]) })},
		{"a name beyond the frame", with(func(b []byte) { b[26] = 255 })},
		{"a name that is no UTF-8", with(func(b []byte) { b[27] = 0xff })},
		{"an operation beyond the frame", with(func(b []byte) { b[29] = 255 })},
		{"an operation that is no UTF-8", with(func(b []byte) { b[30] = 0xff })},
		{"no operation", messageOf(newID(), 0, "me", "", nil)},
		{"data beyond the frame", with(func(b []byte) { binary.BigEndian.PutUint32(b[34:], 5) })},
		{"data of 4 GiB", with(func(b []byte) { binary.BigEndian.PutUint32(b[34:], 1<<32-1) })},
		{"an error without its text", frame(kindError, []byte{0, 2, 0, 9, 'x'})},
		{"an error whose text is too long", frame(kindError, append([]byte{0, 2, 4, 1}, bytes.Repeat([]byte("x"), 1025)...))},
	} {
		e.in("%s", test.name)
		g.talk(test.send).wantError(malformedCode)
	}
	g.works()
}

func cutFrames(e *env) {
	g := e.guest()
	good := message("ping", noise(10))
	for _, n := range []int{1, 4, 5, 6, 7, 30, len(good) - 1} {
		e.in("%d bytes of %d, and the end", n, len(good))
		t := g.talk(good[:n])
		e.must(t.CloseWrite(), "CloseWrite")
		t.wantError(malformedCode)
	}
	e.in("no frame, and the end")
	t := g.talk()
	e.must(t.CloseWrite(), "CloseWrite")
	t.wantEnd()
	e.in("")
	g.works()
}

func halfFrames(e *env) {
	g := e.guest()
	good := message("ping", noise(1000))
	var all []*talk
	for i := range 40 {
		all = append(all, g.talk(good[:i*len(good)/40]))
	}
	g.works()
	e.guest().works()
	for i, t := range all {
		switch i % 3 {
		case 0:
			t.Reset(transport.CodeUser)
		case 1:
			t.Close()
		}
	}
	g.works()
	e.guest().works()
	// One that was only slow is answered.
	e.in("the rest, late")
	t := all[2]
	t.hurry()
	t.say(good[2*len(good)/40:])
	t.wantPong(noise(1000))
}

func undisturbed(e *env) {
	g := e.guest()
	long := g.talk(message("ping", []byte("0")))
	long.wantPong([]byte("0"))
	for _, bad := range [][]byte{
		{0, 0, 0, 0, 1, 1}, {255, 255, 255, 255, 1, 1}, {0, 0, 0, 2, 2, 1}, {0, 0, 0, 2, 1, 99}, []byte("GET / HTTP/1.1\r\n\r\n"), {0, 0, 0, 99, 1}, noise(5000),
	} {
		e.in("beside a stream that begins with %.16q", bad)
		t := g.raw()
		t.Write(append([]byte(messageService), bad...))
		t.CloseWrite()
		io.Copy(io.Discard, struct{ io.Reader }{t})
		t.Reset(transport.CodeUser)
		data := token()
		long.hurry()
		long.say(message("ping", data))
		long.wantPong(data)
	}
	if err := context.Cause(long.conn.Context()); err != nil {
		e.errorf("want the connection to live, got %s", describe(err))
	}
	long.Close()
}

func manyAtOnce(e *env) {
	g := e.guest()
	var calls []*call
	for i := range 100 {
		calls = append(calls, e.start("an exchange among many", func() error {
			data := append(token(), noise(100*i)...)
			t := g.talk(message("ping", data))
			t.wantPong(data)
			return t.Close()
		}))
	}
	for _, c := range calls {
		e.must(c.within(2*e.soon), "an exchange among many")
	}
}

func turns(e *env) {
	g := e.guest()
	for _, test := range []struct {
		name string
		last []byte
	}{{"none", frame(kindNone, nil)}, {"an error", frame(kindError, []byte{1, 0, 0, 2, 'n', 'o'})}, {"the end", nil}} {
		e.in("ended by %s", test.name)
		t := g.talk(message("ping", []byte("first")))
		t.wantPong([]byte("first"))
		for range 50 {
			data := token()
			t.say(message("ping", data))
			t.wantPong(data)
		}
		if test.last == nil {
			e.must(t.CloseWrite(), "CloseWrite")
		} else {
			t.say(test.last)
		}
		t.wantEnd()
		e.in("begun with %s", test.name)
		t = g.talk(test.last)
		e.must(t.CloseWrite(), "CloseWrite")
		t.wantEnd()
	}
}

func replyID(e *env) {
	g := e.guest()
	t := g.raw()
	t.say([]byte(messageService))
	for i := range 5 {
		id := newID()
		t.say(messageOf(id, uint32(i)*60_000, "name", "ping", nil))
		if a := t.wantPong(nil); a.id != id {
			e.errorf("message %d: want the reply to bear its ID %x, got %x", i+1, id, a.id)
		}
	}
	t.Close()
}

func shortTimeout(e *env) {
	g := e.guest()
	for range 10 {
		t := g.talk(messageOf(newID(), 1, "", "ping", []byte("quick")))
		if a := t.hear(); a.operation != "pong" && (a.kind != kindError || a.code != cancelledCode) {
			e.errorf("a ping to be answered within 1 ms: want a pong, or an error of code %d, got %s", cancelledCode, a)
		}
		t.Close()
	}
	g.works()
}

func early(e *env) {
	g := e.guest()
	var ids [8][16]byte
	var all [][]byte
	for i := range ids {
		ids[i] = newID()
		all = append(all, messageOf(ids[i], 0, "", "ping", []byte{byte(i)}))
	}
	t := g.talk(all...)
	for i := range ids {
		if a := t.wantPong([]byte{byte(i)}); a.id != ids[i] {
			e.errorf("message %d of %d: want the reply to bear its ID %x, got %x", i+1, len(ids), ids[i], a.id)
		}
	}
	t.Close()
}

func unknownOperationAgainst(e *env) {
	g := e.guest()
	operation := "nobody-handles-" + hex.EncodeToString(token())
	t := g.talk(message(operation, []byte("data")))
	a := t.hear()
	t.Close()
	switch {
	case a.operation == operation:
		e.skipf("the node's program answers every operation")
	case a.kind != kindMessage || a.operation != "unknownop" || string(a.data) != operation:
		e.errorf("want unknownop with the name of the operation, %q, got %s", operation, a)
	}
	g.talk(message("unknownop", []byte(operation))).wantNone()
	g.talk(message("pong", nil)).wantNone()
}

func dialAgain(e *env) {
	g := e.guest()
	for i, end := range []func(t *talk){
		func(t *talk) { t.conn.CloseWithError(transport.CodeNone, "done") },
		func(t *talk) { t.conn.CloseWithError(transport.CodeShutdown, strings.Repeat("r", transport.MaxReason)) },
		func(t *talk) { t.conn.CloseWithError(transport.Code(1<<32-1), "") },
		func(t *talk) { t.Reset(transport.CodeCancelled); t.conn.CloseWithError(transport.CodeProtocol, "") },
		func(t *talk) { t.Close(); t.conn.CloseWithError(transport.CodeIdle, "") },
	} {
		e.in("close %d", i+1)
		t := g.talk(message("ping", nil))
		t.wantPong(nil)
		end(t)
		g.works()
	}
	e.in("a key that comes back with another connection while the first is open")
	again := &guest{node: g.node, e: e}
	again.works()
	g.works()
	e.in("a transport that closes")
	e.must(g.node.Close(), "Transport.Close")
	e.guest().works()
}

// pingBound is how long the answer to a ping may take on a connection that is there.
const pingBound = 5 * time.Second

func stillThere(e *env) {
	g := e.guest()
	g.works()
	for range 10 {
		began := time.Now()
		t := g.talk(message("ping", nil))
		t.wantPong(nil)
		t.Close()
		if d := time.Since(began); d > pingBound*slowdown {
			e.errorf("want the answer within %v, got it after %v", pingBound*slowdown, d)
		}
	}
}
