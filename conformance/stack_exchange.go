package conformance

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/Blockchain-CN/pheromones"
	"github.com/Blockchain-CN/pheromones/protocol"
	"github.com/Blockchain-CN/pheromones/transport"
)

func atOnce(e *env) {
	const long, short = 64, 400
	entered, release := make(chan struct{}, long), make(chan struct{})
	b := e.stack("b", protocol.HandlerFunc(func(ctx context.Context, m protocol.Message) (protocol.Message, error) {
		if m.Operation == "long" {
			entered <- struct{}{}
			select {
			case <-release:
			case <-ctx.Done():
				return protocol.Message{}, ctx.Err()
			}
		}
		return protocol.Message{Operation: "re: " + m.Operation, Data: m.Data}, nil
	}))
	a := e.stack("a", nil)
	a.add(b)
	ask := func(operation string, i int) {
		data := fmt.Sprint(operation, " ", i)
		reply, err := a.Dispatch(e.ctx, b.addr, protocol.Message{Operation: operation, Data: []byte(data)})
		if err == nil && (reply.Operation != "re: "+operation || string(reply.Data) != data) {
			err = fmt.Errorf("the reply is %q with %q", reply.Operation, reply.Data)
		}
		if err != nil {
			e.errorf("Dispatch of %q: want its own reply, got %s", data, describe(err))
		}
	}
	const width = 16
	e.each(short, width, func(i int) { ask("short", i) }) // many in a row may be sent in another way than the first
	calls := make([]*call, long)
	for i := range calls {
		calls[i] = e.start("Dispatch of a request that takes long", func() error { ask("long", i); return nil })
	}
	for range calls {
		receive(e, "a request's handler", entered)
	}
	e.promptly(fmt.Sprintf("Dispatch of short requests, beside %d that take long", long), func() error {
		e.each(short, width, func(i int) { ask("short", i) })
		return nil
	})
	close(release)
	for _, c := range calls {
		c.wait()
	}
}

func exchangeRoundTrip(e *env) {
	seen := make(chan protocol.Message, 4)
	b := e.stack("b", protocol.HandlerFunc(func(_ context.Context, m protocol.Message) (protocol.Message, error) {
		seen <- m
		return protocol.Message{ID: protocol.NewMessageID(), Name: "somebody", Operation: "answer", Data: append([]byte("re: "), m.Data...)}, nil
	}))
	a := e.stack("a", nil)
	a.add(b)
	id := protocol.NewMessageID()
	reply, err := a.Dispatch(e.ctx, b.addr, protocol.Message{ID: id, Operation: "ask", Data: []byte("hello")})
	e.must(err, "Dispatch")
	m := receive(e, "the handler's call", seen)
	if m.ID != id || m.From != a.ID() || m.Name != "a" || m.Operation != "ask" || string(m.Data) != "hello" {
		e.errorf("the handler: want message %v of %v (a), ask, hello; got %+v", id, a.ID(), m)
	}
	if reply.ID != id || reply.From != b.ID() || reply.Name != "b" || reply.Operation != "answer" || string(reply.Data) != "re: hello" {
		e.errorf("the reply: want message %v of %v (b), answer, re: hello; got %+v", id, b.ID(), reply)
	}
	a.ask(b.addr, "ask", nil)
	a.ask(b.addr, "ask", nil)
	first, second := receive(e, "the handler's call", seen), receive(e, "the handler's call", seen)
	if first.ID.IsZero() || first.ID == second.ID {
		e.errorf("two requests without an ID: want two that are made for them, got %v and %v", first.ID, second.ID)
	}
}

func senderProved(e *env) {
	seen := make(chan protocol.Message, 1)
	b := e.stack("b", protocol.HandlerFunc(func(_ context.Context, m protocol.Message) (protocol.Message, error) {
		seen <- m
		return protocol.Message{}, nil
	}))
	a := e.stack("a", nil)
	reply, err := a.Dispatch(e.ctx, b.addr, protocol.Message{From: b.ID(), Name: "b", Operation: "x"})
	e.must(err, "Dispatch")
	if m := receive(e, "the handler's call", seen); m.From != a.ID() || m.Name != "b" {
		e.errorf("a message that claims to be of the receiver: want From %v and the label it chose, got %v and %q", a.ID(), m.From, m.Name)
	}
	if !reply.IsNone() {
		e.errorf("the handler had nothing to say: want no message, got %+v", reply)
	}
}

func unknownOperation(e *env) {
	a, b := e.stack("a", nil), e.stack("b", nil)
	if reply := a.ask(b.addr, "no such thing", nil); reply.Operation != protocol.OpUnknown || string(reply.Data) != "no such thing" {
		e.errorf("want %q with the operation's name, got %+v", protocol.OpUnknown, reply)
	}
	if reply := a.ask(b.addr, protocol.OpUnknown, nil); !reply.IsNone() {
		e.errorf("%q itself: want no answer, got %+v", protocol.OpUnknown, reply)
	}
}

func handlerError(e *env) {
	const taken = protocol.CodeUser + 7
	b := e.stack("b", protocol.HandlerFunc(func(_ context.Context, m protocol.Message) (protocol.Message, error) {
		switch m.Operation {
		case "plain":
			return protocol.Message{Operation: "not sent"}, errors.New("the disk is full")
		case "coded":
			return protocol.Message{}, fmt.Errorf("%w: by %s", taken, m.Name)
		case "long":
			return protocol.Message{}, errors.New(strings.Repeat("ä", 5000))
		}
		return protocol.Message{}, nil
	}))
	a := e.stack("a", nil)
	a.add(b)
	for _, test := range []struct {
		op   string
		code protocol.ErrorCode
		text string
	}{
		{"plain", protocol.CodeFailed, "the disk is full"}, {"coded", taken, "by a"},
		{"long", protocol.CodeFailed, strings.Repeat("ä", protocol.MaxErrorText/2)},
	} {
		_, err := a.Dispatch(e.ctx, b.addr, protocol.Message{Operation: test.op})
		e.wantRemote(test.op, err, test.code)
		var remote *protocol.RemoteError
		if errors.As(err, &remote) && (remote.Text != test.text || remote.Peer != b.ID() || remote.Operation != test.op) {
			e.errorf("%s: want the words %.40q of %v, got %.40q of %v", test.op, test.text, b.ID(), remote.Text, remote.Peer)
		}
	}
	a.works(b)
}

func handlerPanic(e *env) {
	b := e.stack("b", protocol.HandlerFunc(func(context.Context, protocol.Message) (protocol.Message, error) {
		panic("secret")
	}))
	a := e.stack("a", nil)
	a.add(b)
	for range 3 {
		_, err := a.Dispatch(e.ctx, b.addr, protocol.Message{Operation: "x"})
		e.wantRemote("a handler that panics", err, protocol.CodeInternal)
		if err != nil && strings.Contains(err.Error(), "secret") {
			e.errorf("the panic's words went to the peer: %v", err)
		}
	}
	a.works(b)
	b.works(a)
}

// overhead is what a frame has besides a message's name, operation and data.
const overhead = 28 + 21

func sizes(e *env) {
	const limit = 100_000
	var calls atomic.Int64
	limited := func(c *pheromones.Config) { c.Limit = limit }
	b := e.stack("b", protocol.HandlerFunc(func(_ context.Context, m protocol.Message) (protocol.Message, error) {
		calls.Add(1)
		if m.Operation == "blow" {
			return protocol.Message{Operation: "x", Data: make([]byte, limit)}, nil
		}
		return protocol.Message{Operation: m.Operation, Data: m.Data}, nil
	}), limited)
	a := e.stack("a", nil, limited)
	a.add(b)
	most := limit - overhead - len("a") - len("op")
	for _, n := range []int{0, 1, 2, 255, 256, 4095, 65535, 65536, most - 1, most} {
		data := noise(n)
		if reply := a.ask(b.addr, "op", data); !bytes.Equal(reply.Data, data) {
			e.failf("%d bytes: want them back unchanged, got %d others", n, len(reply.Data))
		}
	}
	before := calls.Load()
	for _, n := range []int{most + 1, 10 * limit} {
		_, err := a.Dispatch(e.ctx, b.addr, protocol.Message{Operation: "op", Data: make([]byte, n)})
		e.wantIs(fmt.Sprintf("%d bytes, the limit being %d", n, most), err, protocol.ErrTooLarge)
		if !protocol.NotExecuted(err) {
			e.errorf("%d bytes: want an error that proves that nothing was executed, got %s", n, describe(err))
		}
	}
	for _, op := range []string{"", strings.Repeat("o", 256), "\xff"} {
		_, err := a.Dispatch(e.ctx, b.addr, protocol.Message{Operation: op})
		e.wantIs(fmt.Sprintf("the operation %.20q", op), err, protocol.ErrMalformed)
	}
	if n := calls.Load(); n != before {
		e.errorf("requests that cannot be sent: want none to reach the handler, got %d", n-before)
	}
	_, err := a.Dispatch(e.ctx, b.addr, protocol.Message{Operation: "blow"})
	e.wantRemote("a reply that is too large", err, protocol.CodeInternal)
	a.works(b)
}

func sizesDiffer(e *env) {
	var calls atomic.Int64
	echo := protocol.HandlerFunc(func(_ context.Context, m protocol.Message) (protocol.Message, error) {
		calls.Add(1)
		if m.Operation == "blow" {
			return protocol.Message{Operation: "x", Data: make([]byte, 100_000)}, nil
		}
		return protocol.Message{Operation: m.Operation, Data: m.Data}, nil
	})
	large, small := e.stack("large", echo), e.stack("small", echo, func(c *pheromones.Config) { c.Limit = 10_000 })
	large.add(small)
	for _, n := range []int{10_001, 100_000, 4 << 20} {
		_, err := large.Dispatch(e.ctx, small.addr, protocol.Message{Operation: "op", Data: make([]byte, n)})
		e.wantRemote(fmt.Sprintf("a request of %d bytes", n), err, protocol.CodeTooLarge)
		if !protocol.NotExecuted(err) {
			e.errorf("a request of %d bytes: want an error that proves that nothing was executed, got %s", n, describe(err))
		}
	}
	if n := calls.Load(); n != 0 {
		e.errorf("requests above the receiver's limit: want none to reach the handler, got %d", n)
	}
	_, err := small.Dispatch(e.ctx, large.addr, protocol.Message{Operation: "blow"})
	e.wantIs("a reply above the asking side's limit", err, protocol.ErrTooLarge)
	large.works(small)
	small.works(large)
}

func defaultLimit(e *env) {
	a, b := e.stack("a", nil), e.stack("b", echoing())
	data := make([]byte, protocol.DefaultLimit-overhead-len("a")-len("op"))
	copy(data[len(data)/2:], noise(1000))
	if reply := a.ask(b.addr, "op", data); !bytes.Equal(reply.Data, data) {
		e.errorf("a message of 16 MiB: want it back unchanged, got %d other bytes", len(reply.Data))
	}
	_, err := a.Dispatch(e.ctx, b.addr, protocol.Message{Operation: "op", Data: append(data, 0)})
	e.wantIs("a byte more", err, protocol.ErrTooLarge)
}

func deadlineReaches(e *env) {
	h := hold()
	a, b := e.stack("a", nil), e.stack("b", h)
	a.add(b)
	ctx, cancel := context.WithTimeout(e.ctx, 300*time.Millisecond)
	defer cancel()
	c, _ := a.dispatching(ctx, b, "wait")
	receive(e, "the handler's call", h.entered)
	if err := c.wait(); !errors.Is(err, context.DeadlineExceeded) {
		e.errorf("Dispatch: want context.DeadlineExceeded, got %s", describe(err))
	}
	receive(e, "the end of the handler's context", h.ended)
	a.works(b)
}

func cancellationReaches(e *env) {
	h := hold()
	a, b := e.stack("a", nil), e.stack("b", h)
	a.add(b)
	ctx, cancel := context.WithCancel(e.ctx)
	defer cancel()
	first, _ := a.dispatching(ctx, b, "given up")
	second, reply := a.dispatching(e.ctx, b, "kept")
	receive(e, "the first handler's call", h.entered)
	receive(e, "the second handler's call", h.entered)
	cancel()
	e.wantContext("Dispatch", first.wait(), ctx)
	receive(e, "the end of the handler's context", h.ended)
	h.release <- protocol.Message{Operation: "done"}
	if err := second.wait(); err != nil || reply.Operation != "done" {
		e.errorf("another exchange meanwhile: want its reply, got %+v, %s", *reply, describe(err))
	}
	ended := e.cancelled()
	_, err := a.Dispatch(ended, b.addr, protocol.Message{Operation: "too late"})
	e.wantContext("Dispatch with an ended context", err, ended)
}

// script is a handler that answers n with n-1, and notes what it is given.
type script struct {
	mu   sync.Mutex
	seen []string
}

func (s *script) Handle(_ context.Context, m protocol.Message) (protocol.Message, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen = append(s.seen, m.Operation+" "+string(m.Data)+" of "+m.Name)
	n, _ := strconv.Atoi(string(m.Data))
	if n == 0 {
		return protocol.Message{}, nil
	}
	return protocol.Message{Operation: "count", Data: strconv.AppendInt(nil, int64(n-1), 10)}, nil
}

func conversation(e *env) {
	for _, n := range []int{0, 1, 2, 19, 20} {
		e.in("%d steps", n)
		sa, sb := new(script), new(script)
		a, b := e.stack("a", sa), e.stack("b", sb)
		a.add(b)
		var wantA, wantB []string
		for i := n; i >= 0; i-- {
			if (n-i)%2 == 0 {
				wantB = append(wantB, fmt.Sprintf("count %d of a", i))
			} else {
				wantA = append(wantA, fmt.Sprintf("count %d of b", i))
			}
		}
		e.must(a.Converse(e.ctx, b.addr, protocol.Message{Operation: "count", Data: strconv.AppendInt(nil, int64(n), 10)}), "Converse")
		// The last message may be on its way still when Converse returns.
		e.eventually("both handlers have seen all messages", func() bool {
			sa.mu.Lock()
			defer sa.mu.Unlock()
			sb.mu.Lock()
			defer sb.mu.Unlock()
			return len(sa.seen) >= len(wantA) && len(sb.seen) >= len(wantB)
		})
		if !slices.Equal(sa.seen, wantA) || !slices.Equal(sb.seen, wantB) {
			e.errorf("want the opening side to see %q and the other %q, got %q and %q", wantA, wantB, sa.seen, sb.seen)
		}
	}
	e.in("")
	failing := protocol.HandlerFunc(func(_ context.Context, m protocol.Message) (protocol.Message, error) {
		return protocol.Message{}, errors.New("no more")
	})
	a, b := e.stack("a", nil), e.stack("b", failing)
	e.wantRemote("a conversation that the other side breaks off", a.Converse(e.ctx, b.addr, protocol.Message{Operation: "x"}), protocol.CodeFailed)
	a, b = e.stack("a", failing), e.stack("b", echoing())
	if err := a.Converse(e.ctx, b.addr, protocol.Message{Operation: "x"}); err == nil || !strings.Contains(err.Error(), "no more") {
		e.errorf("a conversation that this side breaks off: want its handler's error, got %s", describe(err))
	}
}

func endlessConversation(e *env) {
	var calls atomic.Int64
	always := protocol.HandlerFunc(func(context.Context, protocol.Message) (protocol.Message, error) {
		calls.Add(1)
		return protocol.Message{Operation: "more"}, nil
	})
	a, b := e.stack("a", always), e.stack("b", always)
	a.add(b)
	err := a.Converse(e.ctx, b.addr, protocol.Message{Operation: "more"})
	if !errors.Is(err, protocol.ErrSteps) && !errors.Is(err, protocol.CodeSteps) {
		e.errorf("two handlers that always answer: want ErrSteps, or the peer's CodeSteps, got %s", describe(err))
	}
	// Held as exchanges, it is the opening side alone that counts: it has one more reply, which is one too many.
	if n := calls.Load(); n > 2*protocol.DefaultMaxSteps+1 {
		e.errorf("two handlers that always answer: want at most %d calls each, got %d of both", protocol.DefaultMaxSteps, n)
	}
	a.works(b)
}

// raw opens a stream of the message service from n to m, on which the check speaks for itself.
func (n *stackNode) raw(m *stackNode) transport.Stream {
	c, err := n.Dial(n.e.ctx, m.addr, protocol.MessageService)
	n.e.must(err, "opening a stream of the message service")
	s := c.(transport.Stream)
	s.SetDeadline(time.Now().Add(n.e.soon))
	return s
}

// request returns a frame with a request.
func (e *env) request(operation string, data []byte) []byte {
	f := protocol.Frame{Kind: protocol.KindMessage, Message: protocol.Message{ID: protocol.NewMessageID(), Operation: operation, Data: data}}
	b, err := f.Append(nil, 0)
	e.must(err, "making a frame")
	return b
}

func earlyMessage(e *env) {
	a, b := e.stack("a", nil), e.stack("b", echoing())
	s := a.raw(b)
	e.send(s, slices.Concat(e.request("one", nil), e.request("two", nil), e.request("three", nil)))
	for _, want := range []string{"one", "two", "three"} {
		f, err := protocol.ReadFrame(s, 0)
		e.must(err, "reading the answer to %q", want)
		if f.Kind != protocol.KindMessage || f.Message.Operation != want {
			e.errorf("want the answer to %q, got %+v", want, f)
		}
	}
	s.Close()
}

func badStreams(e *env) {
	var calls atomic.Int64
	b := e.stack("b", protocol.HandlerFunc(func(context.Context, protocol.Message) (protocol.Message, error) {
		calls.Add(1)
		return protocol.Message{}, nil
	}), func(c *pheromones.Config) { c.Limit = 100_000 })
	a, honest := e.stack("a", nil), e.stack("honest", nil)
	honest.add(b)
	good := e.request("op", []byte("data"))
	with := func(change func(b []byte)) []byte {
		b := slices.Clone(good)
		change(b)
		return b
	}
	for _, test := range []struct {
		name string
		send []byte
		code protocol.ErrorCode // what it is answered with; zero: whatever ends it
	}{
		{"nothing", nil, 0},
		{"one byte", []byte{0}, protocol.CodeMalformed},
		{"a size of 0", []byte{0, 0, 0, 0, 1, 1}, protocol.CodeMalformed},
		{"a size of 1", []byte{0, 0, 0, 1, 1, 1}, protocol.CodeMalformed},
		{"a size of 4 GiB", []byte{255, 255, 255, 255, 1, 1}, protocol.CodeTooLarge},
		{"a size above the limit, and the bytes", append([]byte{0, 16, 0, 0, 1, 1}, make([]byte, 1<<20)...), protocol.CodeTooLarge},
		{"another version", with(func(b []byte) { b[4] = 2 }), protocol.CodeUnsupported},
		{"another kind", with(func(b []byte) { b[5] = 77 }), protocol.CodeUnsupported},
		{"an ID of zero", with(func(b []byte) { clear(b[6:22]) }), protocol.CodeMalformed},
		{"a name that is too long for the frame", with(func(b []byte) { b[26] = 255 }), protocol.CodeMalformed},
		{"no operation", with(func(b []byte) { b[27] = 0 }), protocol.CodeMalformed},
		{"an operation that is no UTF-8", with(func(b []byte) { b[28] = 0xff }), protocol.CodeMalformed},
		{"data that are too long for the frame", with(func(b []byte) { binary.BigEndian.PutUint32(b[30:], 1<<31) }), protocol.CodeMalformed},
		{"half a frame", good[:len(good)-1], protocol.CodeMalformed},
		{"HTTP", []byte("GET / HTTP/1.1\r\nHost: example\r\n\r\n"), protocol.CodeTooLarge},
		{"an error", []byte{0, 0, 0, 6, 1, 3, 0, 2, 0, 0}, 0},
		{"a none", []byte{0, 0, 0, 2, 1, 2}, 0},
	} {
		e.in("%s", test.name)
		s := a.raw(b)
		s.Write(test.send) // what is refused early may fail to be written
		s.CloseWrite()
		answer, err := io.ReadAll(s)
		f, _, malformed := protocol.ParseFrame(answer, 0)
		var ne interface{ Timeout() bool }
		switch {
		case errors.As(err, &ne) && ne.Timeout():
			e.errorf("want the stream to end, got nothing")
		case test.code != 0 && (malformed != nil || f.Kind != protocol.KindError || f.Code != test.code):
			e.errorf("want the answer to be an error of code %d (%v), got %+v, %v (%s)", uint16(test.code), test.code, f, malformed, describe(err))
		}
		s.Close()
		honest.works(b)
	}
	e.in("a stream without a service")
	n := e.node()
	for _, send := range [][]byte{{0}, {255}, append([]byte{3}, "\x01ab"...), append([]byte{2}, 0xff, 0xff), {}} {
		c := e.dial(n, b.Addrs()[0])
		s, err := c.OpenStream(e.ctx)
		e.must(err, "OpenStream")
		s.SetDeadline(time.Now().Add(e.soon))
		s.Write(send)
		s.CloseWrite()
		_, err = io.ReadAll(s)
		if err != nil {
			e.wantReset(fmt.Sprintf("a stream that begins with %v", send), err, transport.CodeProtocol, true)
		}
		c.CloseWithError(transport.CodeNone, "")
		honest.works(b)
	}
	e.in("")
	if n := calls.Load(); n != 0 {
		e.errorf("want no call of the handler, got %d", n)
	}
}

func halfStreams(e *env) {
	a, b := e.stack("a", nil), e.stack("b", echoing())
	honest := e.stack("honest", nil)
	honest.add(b)
	good := e.request("op", noise(1000))
	var all []transport.Stream
	for i := range 40 {
		s := a.raw(b)
		e.send(s, good[:i*len(good)/40])
		all = append(all, s)
	}
	honest.works(b)
	a.works(b)
	for i, s := range all {
		if i%2 == 0 {
			s.Reset(transport.CodeUser)
		} else {
			s.Close()
		}
	}
	honest.works(b)
	a.works(b)
}

func unknownService(e *env) {
	a, b := e.stack("a", nil), e.stack("b", nil)
	c, err := a.Dial(e.ctx, b.addr, "nowhere")
	e.must(err, "Dial of a service that the peer does not have")
	c.SetDeadline(time.Now().Add(e.soon))
	_, err = c.Read(make([]byte, 1))
	e.wantReset("Read", err, transport.CodeUnknownService, true)
	c.Close()
	for _, name := range []string{"", strings.Repeat("s", 256), "a\x00b", "\xff"} {
		if _, err := a.Dial(e.ctx, b.addr, name); !errors.Is(err, protocol.ErrMalformed) {
			e.errorf("Dial of the service %.20q: want ErrMalformed, got %s", name, describe(err))
		}
		if _, err := b.Listen(name); !errors.Is(err, protocol.ErrMalformed) {
			e.errorf("Listen for the service %.20q: want ErrMalformed, got %s", name, describe(err))
		}
	}
	a.works(b)
}
