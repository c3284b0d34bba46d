package protocol_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/protocol"
	"github.com/Blockchain-CN/pheromones/transport"
)

func TestExchange(t *testing.T) {
	l := newLink(t)
	var got protocol.Message
	served := l.serve(t, protocol.HandlerFunc(func(_ context.Context, m protocol.Message) (protocol.Message, error) {
		got = m
		return protocol.Message{ID: protocol.NewMessageID(), From: m.From, Name: "nobody", Operation: "pong", Data: []byte("reply")}, nil
	}), &protocol.Config{Name: "bob"})
	reply, err := protocol.Exchange(t.Context(), l.open(t), l.them, protocol.Message{From: l.them, Operation: "ping", Data: []byte("request")},
		&protocol.Config{Name: "alice"})
	if err != nil {
		t.Fatal(err)
	}
	if err := <-served; err != nil {
		t.Fatal(err)
	}
	if got.ID.IsZero() || got.From != l.us || got.Name != "alice" || got.Operation != "ping" || string(got.Data) != "request" {
		t.Errorf("the handler got %+v", got)
	}
	if reply.ID != got.ID || reply.From != l.them || reply.Name != "bob" || reply.Operation != "pong" || string(reply.Data) != "reply" {
		t.Errorf("the reply is %+v", reply)
	}
}

func TestExchangeKeepsIDAndName(t *testing.T) {
	l := newLink(t)
	l.serve(t, protocol.HandlerFunc(func(_ context.Context, m protocol.Message) (protocol.Message, error) {
		return protocol.Message{Operation: "name", Data: []byte(m.Name)}, nil
	}), nil)
	id := protocol.NewMessageID()
	reply, err := protocol.Exchange(t.Context(), l.open(t), l.them, protocol.Message{ID: id, Name: "other", Operation: "x"},
		&protocol.Config{Name: "alice"})
	if err != nil || reply.ID != id || string(reply.Data) != "other" {
		t.Errorf("Exchange: %+v, %v; want ID %v and the name other", reply, err, id)
	}
}

func TestExchangeNone(t *testing.T) {
	l := newLink(t)
	l.serve(t, protocol.HandlerFunc(func(context.Context, protocol.Message) (protocol.Message, error) {
		return protocol.Message{}, nil
	}), nil)
	reply, err := protocol.Exchange(t.Context(), l.open(t), l.them, protocol.Message{Operation: "x"}, nil)
	if err != nil || !reply.IsNone() || !reply.From.IsZero() {
		t.Errorf("Exchange: %+v, %v; want the zero Message", reply, err)
	}
}

// writes counts the calls of Write on a stream.
type writes struct {
	transport.Stream
	n int
}

func (w *writes) Write(b []byte) (int, error) { w.n++; return w.Stream.Write(b) }

func TestExchangeIsOneWrite(t *testing.T) {
	l := newLink(t)
	l.serve(t, protocol.HandlerFunc(echo), nil)
	s := &writes{Stream: l.open(t)}
	data := bytes.Repeat([]byte("x"), 1<<20)
	reply, err := protocol.Exchange(t.Context(), s, l.them, protocol.Message{Operation: "x", Data: data}, nil)
	if err != nil || !bytes.Equal(reply.Data, data) || s.n != 1 {
		t.Errorf("%d bytes come back, %v, after %d writes; want %d after 1", len(reply.Data), err, s.n, len(data))
	}
}

func TestExchangesAtOnce(t *testing.T) {
	l := newLink(t)
	l.serve(t, protocol.HandlerFunc(echo), nil)
	var wg sync.WaitGroup
	for i := range 200 {
		s := l.open(t)
		wg.Go(func() {
			want := fmt.Sprint(i)
			if m, err := protocol.Exchange(t.Context(), s, l.them, protocol.Message{Operation: "x", Data: []byte(want)}, nil); err != nil || string(m.Data) != want {
				t.Errorf("exchange %d: %q, %v", i, m.Data, err)
			}
		})
	}
	wg.Wait()
}

func TestExchangeErrors(t *testing.T) {
	panicky := errors.New("secret")
	for _, test := range []struct {
		name        string
		err         error
		panics      any
		code        protocol.ErrorCode
		text        string
		notExecuted bool
	}{
		{name: "plain", err: errors.New("no such file"), code: protocol.CodeFailed, text: "no such file"},
		{name: "code", err: protocol.CodeOverloaded, code: protocol.CodeOverloaded, notExecuted: true},
		{name: "wrapped code", err: fmt.Errorf("%w: not you", protocol.CodeRefused), code: protocol.CodeRefused, text: "not you", notExecuted: true},
		{name: "code of a program", err: fmt.Errorf("odd: %w", protocol.CodeUser+7), code: protocol.CodeUser + 7, text: "odd: protocol: 263"},
		{name: "context", err: context.Canceled, code: protocol.CodeCancelled, text: "context canceled"},
		{name: "another peer's", err: &protocol.RemoteError{Code: protocol.CodeRefused}, code: protocol.CodeFailed,
			text: (&protocol.RemoteError{Code: protocol.CodeRefused}).Error()},
		{name: "long", err: errors.New("a" + strings.Repeat("é", 1000)), code: protocol.CodeFailed, text: "a" + strings.Repeat("é", 511)},
		{name: "not UTF-8", err: errors.New("a\xffb"), code: protocol.CodeFailed, text: "a�b"},
		{name: "panic", panics: "secret", code: protocol.CodeInternal},
		{name: "panic with an error", panics: panicky, code: protocol.CodeInternal},
		{name: "nil panic", panics: error(nil), code: protocol.CodeInternal},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := newLink(t)
			served := l.serve(t, protocol.HandlerFunc(func(context.Context, protocol.Message) (protocol.Message, error) {
				if test.err == nil {
					panic(test.panics)
				}
				return protocol.Message{Operation: "not to be sent"}, test.err
			}), nil)
			_, err := protocol.Exchange(t.Context(), l.open(t), l.them, protocol.Message{Operation: "ask"}, nil)
			var remote *protocol.RemoteError
			if !errors.As(err, &remote) {
				t.Fatalf("Exchange: %v, want a *RemoteError", err)
			}
			if want := (protocol.RemoteError{Peer: l.them, Operation: "ask", Code: test.code, Text: test.text}); *remote != want {
				t.Errorf("Exchange: %+v, want %+v", *remote, want)
			}
			if !errors.Is(err, test.code) || errors.Is(err, protocol.CodeUser+1) {
				t.Errorf("%v is not matched by its code alone", err)
			}
			if protocol.NotExecuted(err) != test.notExecuted {
				t.Errorf("NotExecuted(%v) = %v, want %v", err, !test.notExecuted, test.notExecuted)
			}
			if err := <-served; test.err != nil && !errors.Is(err, test.err) || !strings.Contains(fmt.Sprint(err), l.us.String()) {
				t.Errorf("Serve: %v, want the handler's error and the peer", err)
			}
		})
	}
}

func TestExchangeNotSent(t *testing.T) {
	over, cancel := context.WithCancelCause(t.Context())
	gone := errors.New("gone")
	cancel(gone)
	for _, test := range []struct {
		name string
		ctx  context.Context
		m    protocol.Message
		want []error
	}{
		{"none", t.Context(), protocol.Message{}, []error{protocol.ErrMalformed}},
		{"too large", t.Context(), protocol.Message{Operation: "x", Data: make([]byte, 2000)}, []error{protocol.ErrTooLarge}},
		{"context over", over, protocol.Message{Operation: "x"}, []error{context.Canceled, gone}},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := newLink(t)
			s := &writes{Stream: l.open(t)}
			_, err := protocol.Exchange(test.ctx, s, l.them, test.m, &protocol.Config{Limit: 1000})
			var exchange *protocol.ExchangeError
			if !errors.As(err, &exchange) || exchange.Sent || exchange.Peer != l.them || exchange.ID.IsZero() || !protocol.NotExecuted(err) {
				t.Errorf("Exchange: %+v, want an *ExchangeError that was not sent", err)
			}
			for _, want := range test.want {
				if !errors.Is(err, want) {
					t.Errorf("Exchange: %v, want %v", err, want)
				}
			}
			if _, err := s.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) || s.n != 0 {
				t.Errorf("after %d writes the stream reads %v, want none and net.ErrClosed", s.n, err)
			}
		})
	}
}

// What the other side does in place of answering.
func TestExchangeWithoutAnswer(t *testing.T) {
	answer := func(b []byte) func(*testing.T, *link, transport.Stream) {
		return func(t *testing.T, l *link, s transport.Stream) { s.Write(b); s.Close() }
	}
	other := request("x", "")
	cut := frame(t, other)[:20]
	for _, test := range []struct {
		name        string
		act         func(*testing.T, *link, transport.Stream)
		want        error
		notExecuted bool
	}{
		{"ends", answer(nil), io.ErrUnexpectedEOF, false},
		{"ends within the frame", answer(cut), protocol.ErrMalformed, false},
		{"answers another message", answer(frame(t, other)), protocol.ErrMalformed, false},
		{"is of another version", answer([]byte{0, 0, 0, 2, 9, 1}), protocol.ErrVersion, false},
		{"sends another kind", answer([]byte{0, 0, 0, 2, 1, 9}), protocol.ErrKind, false},
		{"sends too much", answer([]byte{1, 0, 0, 1, 1, 1}), protocol.ErrTooLarge, false},
		{"resets", func(t *testing.T, l *link, s transport.Stream) { s.Reset(transport.CodeInternal) }, transport.CodeInternal, false},
		{"refuses", func(t *testing.T, l *link, s transport.Stream) { s.Reset(transport.CodeRefused) }, transport.CodeRefused, true},
		{"has no such service", func(t *testing.T, l *link, s transport.Stream) { s.Reset(transport.CodeUnknownService) }, transport.CodeUnknownService, true},
		{"closes the link", func(t *testing.T, l *link, s transport.Stream) {
			l.theirs.CloseWithError(transport.CodeShutdown, "bye")
		}, transport.CodeShutdown, false},
		{"refuses the link", func(t *testing.T, l *link, s transport.Stream) {
			l.theirs.CloseWithError(transport.CodeRefused, "no room")
		}, transport.CodeRefused, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := newLink(t)
			done := make(chan struct{})
			go func() {
				defer close(done)
				s := l.accept(t)
				if _, err := protocol.ReadFrame(s, 0); err != nil {
					t.Error(err)
				}
				test.act(t, l, s)
			}()
			_, err := protocol.Exchange(t.Context(), l.open(t), l.them, protocol.Message{Operation: "ask"}, nil)
			<-done
			var exchange *protocol.ExchangeError
			if !errors.As(err, &exchange) || !exchange.Sent || !errors.Is(err, test.want) || protocol.NotExecuted(err) != test.notExecuted {
				t.Errorf("Exchange: %v (not executed: %v), want an *ExchangeError that is %v (%v)", err, protocol.NotExecuted(err), test.want, test.notExecuted)
			}
			if !strings.Contains(err.Error(), l.them.String()) || !strings.Contains(err.Error(), `"ask"`) {
				t.Errorf("the error says neither whom nor what was asked: %v", err)
			}
		})
	}
}

// The context ends while the exchange awaits the answer, and while it still writes.
func TestExchangeCancelled(t *testing.T) {
	for _, size := range []int{0, 1 << 20} {
		t.Run(fmt.Sprintf("%d bytes", size), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLink(t)
				s := l.open(t)
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				start := time.Now()
				_, err := protocol.Exchange(ctx, s, l.them, protocol.Message{Operation: "x", Data: make([]byte, size)}, nil)
				if !errors.Is(err, context.DeadlineExceeded) || protocol.NotExecuted(err) || time.Since(start) != time.Minute {
					t.Errorf("Exchange after %v: %v, want the context's end after a minute, and the execution open", time.Since(start), err)
				}
				theirs, err := l.theirs.AcceptStream(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				var reset *transport.ResetError
				if _, err := io.Copy(io.Discard, theirs); !errors.As(err, &reset) || reset.Code != transport.CodeCancelled || !reset.Remote {
					t.Errorf("the peer reads %v, want a reset with CodeCancelled", err)
				}
			})
		})
	}
}

// A peer whose limit is smaller answers before it has read the request, and the asker, who is still writing, hears it.
func TestExchangeTooLargeForPeer(t *testing.T) {
	l := newLink(t)
	served := l.serve(t, protocol.HandlerFunc(echo), &protocol.Config{Limit: 1000})
	_, err := protocol.Exchange(t.Context(), l.open(t), l.them, protocol.Message{Operation: "x", Data: make([]byte, 4<<20)}, nil)
	if !errors.Is(err, protocol.CodeTooLarge) || !protocol.NotExecuted(err) {
		t.Errorf("Exchange: %v, want a *RemoteError with CodeTooLarge", err)
	}
	if err := <-served; !errors.Is(err, protocol.ErrTooLarge) {
		t.Errorf("Serve: %v, want ErrTooLarge", err)
	}
}

func TestReplyTooLarge(t *testing.T) {
	l := newLink(t)
	l.serve(t, protocol.HandlerFunc(func(context.Context, protocol.Message) (protocol.Message, error) {
		return protocol.Message{Operation: "x", Data: make([]byte, 2000)}, nil
	}), &protocol.Config{Limit: 1000})
	_, err := protocol.Exchange(t.Context(), l.open(t), l.them, protocol.Message{Operation: "x"}, nil)
	if !errors.Is(err, protocol.CodeInternal) || protocol.NotExecuted(err) {
		t.Errorf("Exchange: %v, want CodeInternal, since the request was executed", err)
	}
	// Larger than the asker's own limit.
	l = newLink(t)
	l.serve(t, protocol.HandlerFunc(func(context.Context, protocol.Message) (protocol.Message, error) {
		return protocol.Message{Operation: "x", Data: make([]byte, 2000)}, nil
	}), nil)
	_, err = protocol.Exchange(t.Context(), l.open(t), l.them, protocol.Message{Operation: "x"}, &protocol.Config{Limit: 1000})
	if !errors.Is(err, protocol.ErrTooLarge) || protocol.NotExecuted(err) {
		t.Errorf("Exchange: %v, want ErrTooLarge, and the execution open", err)
	}
}

func TestNotExecutedOfOthers(t *testing.T) {
	for _, err := range []error{nil, io.EOF, context.Canceled, &transport.ResetError{Code: transport.CodeRefused}, &transport.LostError{}, protocol.CodeRefused,
		&transport.CloseError{Code: transport.CodeRefused}, &transport.CloseError{Code: transport.CodeShutdown, Remote: true}} {
		if protocol.NotExecuted(err) {
			t.Errorf("NotExecuted(%v) = true", err)
		}
	}
	if !protocol.NotExecuted(fmt.Errorf("far out: %w", &protocol.RemoteError{Peer: identity.ID{1}, Code: protocol.CodeRefused})) {
		t.Error("NotExecuted does not unwrap")
	}
}

func BenchmarkExchange(b *testing.B) {
	l := newLink(b)
	l.serve(b, protocol.HandlerFunc(echo), nil)
	data := make([]byte, 100)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := protocol.Exchange(b.Context(), l.open(b), l.them, protocol.Message{Operation: "x", Data: data}, nil); err != nil {
			b.Fatal(err)
		}
	}
}
