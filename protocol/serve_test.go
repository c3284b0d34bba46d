package protocol_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Blockchain-CN/pheromones/protocol"
	"github.com/Blockchain-CN/pheromones/transport"
)

// What comes instead of a message is answered with an error frame, and the stream ends.
func TestServeRefuses(t *testing.T) {
	good := frame(t, request("x", "data"))
	var vectors []vector
	load(t, "testdata/frames.json", &vectors)
	type test struct {
		name string
		in   []byte
		want error
		code protocol.ErrorCode
	}
	codes := map[string]protocol.ErrorCode{"malformed": protocol.CodeMalformed, "version": protocol.CodeUnsupported,
		"kind": protocol.CodeUnsupported, "too large": protocol.CodeTooLarge}
	tests := []test{}
	for n := 1; n < len(good); n++ {
		tests = append(tests, test{"cut", good[:n], protocol.ErrMalformed, protocol.CodeMalformed})
	}
	for _, v := range vectors {
		if v.Error != "" {
			tests = append(tests, test{v.Name, unhex(t, v.Hex), sentinels[v.Error], codes[v.Error]})
		}
	}
	l := newLink(t)
	served := l.serve(t, protocol.HandlerFunc(func(_ context.Context, m protocol.Message) (protocol.Message, error) {
		t.Errorf("the handler got %+v", m)
		return protocol.Message{}, nil
	}), nil)
	for _, test := range tests {
		s := l.raw(t, test.in)
		s.CloseWrite()
		f, err := protocol.ReadFrame(s, 0)
		if err != nil || f.Kind != protocol.KindError || f.Code != test.code || f.Text == "" {
			t.Errorf("%s: answered with %+v, %v; want an error frame with code %v", test.name, f, err, test.code)
		}
		if n, err := s.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("%s: after the error frame: %d bytes, %v; want io.EOF", test.name, n, err)
		}
		if err := <-served; !errors.Is(err, test.want) {
			t.Errorf("%s: Serve: %v, want %v", test.name, err, test.want)
		}
		s.Close()
	}
}

// Ends of a conversation that are in order, and one that is not.
func TestServeEnds(t *testing.T) {
	l := newLink(t)
	served := l.serve(t, protocol.HandlerFunc(echo), nil)
	for _, in := range [][]byte{nil, frame(t, protocol.Frame{Kind: protocol.KindNone})} {
		s := l.raw(t, in)
		s.CloseWrite()
		if b, err := io.ReadAll(s); err != nil || len(b) != 0 {
			t.Errorf("after %x: %x, %v; want nothing", in, b, err)
		}
		if err := <-served; err != nil {
			t.Errorf("after %x Serve: %v", in, err)
		}
		s.Close()
	}
	s := l.raw(t, frame(t, protocol.Frame{Kind: protocol.KindError, Code: 300, Text: "enough"}))
	var remote *protocol.RemoteError
	if err := <-served; !errors.As(err, &remote) || remote.Code != 300 || remote.Text != "enough" || remote.Peer != l.us {
		t.Errorf("Serve: %v, want a *RemoteError with code 300", err)
	}
	s.Close()
}

// A peer that half-closes after its request, as other implementations may, still gets the reply.
func TestServeHalfClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLink(t)
		l.serve(t, protocol.HandlerFunc(func(ctx context.Context, m protocol.Message) (protocol.Message, error) {
			select {
			case <-ctx.Done():
				return protocol.Message{}, ctx.Err()
			case <-time.After(time.Hour):
			}
			return protocol.Message{Operation: "done"}, nil
		}), nil)
		s := l.raw(t, frame(t, request("x", "")))
		s.CloseWrite()
		if f, err := protocol.ReadFrame(s, 0); err != nil || f.Message.Operation != "done" {
			t.Errorf("the answer is %+v, %v", f, err)
		}
		s.Close()
	})
}

// A peer that sends its next message early loses nothing by it, whether the handler is slow or not.
func TestServeEarlyFrames(t *testing.T) {
	for _, pause := range []time.Duration{0, time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			l := newLink(t)
			served := l.serve(t, protocol.HandlerFunc(func(ctx context.Context, m protocol.Message) (protocol.Message, error) {
				select {
				case <-ctx.Done():
				case <-time.After(pause):
				}
				return m, ctx.Err()
			}), nil)
			var in []byte
			for _, data := range []string{"a", "b", "c"} {
				in = append(in, frame(t, request("x", data))...)
			}
			s := l.raw(t, in)
			s.CloseWrite()
			for _, want := range []string{"a", "b", "c"} {
				if f, err := protocol.ReadFrame(s, 0); err != nil || string(f.Message.Data) != want {
					t.Fatalf("the answer is %+v, %v; want %s", f, err, want)
				}
			}
			if err := <-served; err != nil {
				t.Error(err)
			}
			s.Close()
		})
	}
}

// A handler's context ends when the asking side goes away, however it goes.
func TestServeCancellation(t *testing.T) {
	for _, test := range []struct {
		name  string
		leave func(l *link, s transport.Stream)
		want  transport.Code
	}{
		{"reset", func(_ *link, s transport.Stream) { s.Reset(transport.CodeCancelled) }, transport.CodeCancelled},
		{"link closed", func(l *link, _ transport.Stream) { l.ours.CloseWithError(transport.CodeUser, "bye") }, transport.CodeUser},
	} {
		for _, again := range []bool{false, true} { // in the first step, and in a later one
			t.Run(test.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					l := newLink(t)
					running, cause := make(chan struct{}), make(chan error, 1)
					served := l.serve(t, protocol.HandlerFunc(func(ctx context.Context, m protocol.Message) (protocol.Message, error) {
						if m.Operation == "quick" {
							return m, nil
						}
						close(running)
						<-ctx.Done()
						cause <- context.Cause(ctx)
						return protocol.Message{}, ctx.Err()
					}), nil)
					s := l.raw(t, nil)
					if again {
						s.Write(frame(t, request("quick", "")))
						if _, err := protocol.ReadFrame(s, 0); err != nil {
							t.Fatal(err)
						}
					}
					s.Write(frame(t, request("slow", "")))
					<-running
					time.Sleep(time.Hour) // far beyond the idle time, which is not for handlers
					test.leave(l, s)
					if err := <-cause; !errors.Is(err, test.want) {
						t.Errorf("the handler's context ended by %v, want %v", err, test.want)
					}
					if err := <-served; !errors.Is(err, context.Canceled) {
						t.Errorf("Serve: %v, want the handler's error", err)
					}
				})
			})
		}
	}
}

// The asker's deadline is the handler's.
func TestServeTimeoutTravels(t *testing.T) {
	for _, form := range forms {
		synctest.Test(t, func(t *testing.T) {
			l := newLink(t)
			var left []time.Duration
			l.serve(t, protocol.HandlerFunc(func(ctx context.Context, m protocol.Message) (protocol.Message, error) {
				end, ok := ctx.Deadline()
				if !ok {
					t.Error("the handler's context has no deadline")
				}
				left = append(left, time.Until(end))
				return m, nil
			}), nil)
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			err := form.converse(ctx, l, t, protocol.Message{Operation: "x"}, protocol.HandlerFunc(
				func(_ context.Context, m protocol.Message) (protocol.Message, error) {
					time.Sleep(3 * time.Second)
					if len(left) == 2 {
						return protocol.Message{}, nil
					}
					return m, nil
				}), nil)
			if err != nil || len(left) != 2 || left[0] != 10*time.Second || left[1] != 7*time.Second {
				t.Errorf("%s: the handler had %v, %v; want 10s, then 7s", form.name, left, err)
			}
		})
	}
	l := newLink(t)
	l.serve(t, protocol.HandlerFunc(func(ctx context.Context, m protocol.Message) (protocol.Message, error) {
		if end, ok := ctx.Deadline(); ok {
			t.Errorf("the handler's context ends at %v, though the asker's does not", end)
		}
		return m, nil
	}), nil)
	if _, err := protocol.Exchange(t.Context(), l.open(t), l.them, protocol.Message{Operation: "x"}, nil); err != nil {
		t.Error(err)
	}
}

// A peer that says nothing, or next to nothing, is not waited for.
func TestServeIdle(t *testing.T) {
	for _, test := range []struct {
		name string
		cfg  *protocol.Config
		say  func(t *testing.T, s transport.Stream)
		want time.Duration
	}{
		{"silent", nil, func(*testing.T, transport.Stream) {}, protocol.DefaultIdleTimeout},
		{"silent, as configured", &protocol.Config{IdleTimeout: 5 * time.Second}, func(*testing.T, transport.Stream) {}, 5 * time.Second},
		{"silent after a step", nil, func(t *testing.T, s transport.Stream) {
			s.Write(frame(t, request("x", "")))
			protocol.ReadFrame(s, 0)
		}, protocol.DefaultIdleTimeout},
		{"byte by byte", nil, func(t *testing.T, s transport.Stream) {
			for _, b := range frame(t, request("x", "a hundred seconds are longer than the frame may take, whatever it says in them, unless it is large")) {
				if _, err := s.Write([]byte{b}); err != nil {
					return
				}
				time.Sleep(time.Second)
			}
			t.Error("all was taken")
		}, protocol.DefaultIdleTimeout},
		{"cut in the body", nil, func(t *testing.T, s transport.Stream) {
			s.Write(frame(t, request("x", strings.Repeat("x", 100_000)))[:90_000])
		}, protocol.DefaultIdleTimeout},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLink(t)
				served := l.serve(t, protocol.HandlerFunc(echo), test.cfg)
				start := time.Now()
				s := l.raw(t, nil)
				var wg sync.WaitGroup
				defer wg.Wait()
				wg.Go(func() { test.say(t, s) })
				err := <-served
				if took := time.Since(start); !errors.Is(err, os.ErrDeadlineExceeded) || took != test.want {
					t.Errorf("Serve after %v: %v, want a passed deadline after %v", took, err, test.want)
				}
				var reset *transport.ResetError
				if _, err := io.Copy(io.Discard, s); !errors.As(err, &reset) || reset.Code != transport.CodeTimeout {
					t.Errorf("the silent peer reads %v, want a reset with CodeTimeout", err)
				}
			})
		})
	}
}

// A large message over a slow link is not cut off while it moves.
func TestServeSlowButMoving(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLink(t)
		l.serve(t, protocol.HandlerFunc(echo), nil)
		s := l.raw(t, nil)
		in := frame(t, request("x", strings.Repeat("x", 1<<20)))
		for len(in) > 0 { // a bit more than the slowest that is allowed
			n := min(len(in), 64<<10)
			s.Write(in[:n])
			in = in[n:]
			time.Sleep(50 * time.Second)
		}
		if f, err := protocol.ReadFrame(s, 0); err != nil || len(f.Message.Data) != 1<<20 {
			t.Errorf("%d bytes come back, %v", len(f.Message.Data), err)
		}
		s.Close()
	})
}

// A peer that does not take its reply is not waited for.
func TestServeReplyNotTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLink(t)
		served := l.serve(t, protocol.HandlerFunc(func(context.Context, protocol.Message) (protocol.Message, error) {
			return protocol.Message{Operation: "x", Data: make([]byte, 1<<20)}, nil
		}), nil)
		start := time.Now()
		l.raw(t, frame(t, request("x", "")))
		if err := <-served; !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != 17*protocol.DefaultIdleTimeout {
			t.Errorf("Serve after %v: %v, want a passed deadline after 17 minutes", time.Since(start), err)
		}
	})
}

// A hard shutdown ends the handler's context, waits for it, and tells the peer.
func TestServeShutdown(t *testing.T) {
	for _, operation := range []string{"", "slow"} { // between two messages, and while a handler runs
		synctest.Test(t, func(t *testing.T) {
			l := newLink(t)
			ctx, cancel := context.WithCancel(t.Context())
			returned := false
			served := make(chan error)
			go func() {
				served <- protocol.Serve(ctx, l.accept(t), l.us, protocol.HandlerFunc(func(ctx context.Context, m protocol.Message) (protocol.Message, error) {
					<-ctx.Done()
					time.Sleep(time.Minute)
					returned = true
					return m, nil
				}), nil)
			}()
			var in []byte
			if operation != "" {
				in = frame(t, request(operation, ""))
			}
			s := l.raw(t, in)
			time.Sleep(time.Second)
			cancel()
			if err := <-served; !errors.Is(err, context.Canceled) || returned != (operation != "") {
				t.Errorf("Serve: %v, the handler has returned: %v", err, returned)
			}
			if _, err := s.Read(make([]byte, 1)); !errors.Is(err, transport.CodeShutdown) {
				t.Errorf("the peer reads %v, want CodeShutdown", err)
			}
		})
	}
}

func TestServeNilHandler(t *testing.T) {
	l := newLink(t)
	l.serve(t, nil, nil)
	m, err := protocol.Exchange(t.Context(), l.open(t), l.them, protocol.Message{Operation: "dance"}, nil)
	if err != nil || m.Operation != protocol.OpUnknown || string(m.Data) != "dance" {
		t.Errorf("Exchange: %+v, %v; want unknownop of dance", m, err)
	}
}

// A panic is logged with its stack, and the peer learns nothing of it.
func TestServePanicIsLogged(t *testing.T) {
	l := newLink(t)
	var mu sync.Mutex
	var log bytes.Buffer
	logger := slog.New(slog.NewTextHandler(writerFunc(func(b []byte) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		return log.Write(b)
	}), nil))
	served := l.serve(t, protocol.HandlerFunc(func(context.Context, protocol.Message) (protocol.Message, error) { panic("secret") }),
		&protocol.Config{Logger: logger})
	_, err := protocol.Exchange(t.Context(), l.open(t), l.them, protocol.Message{Operation: "danger"}, nil)
	if !errors.Is(err, protocol.CodeInternal) || strings.Contains(err.Error(), "secret") {
		t.Errorf("Exchange: %v, want CodeInternal and no more", err)
	}
	if err := <-served; !errors.Is(err, protocol.CodeInternal) {
		t.Errorf("Serve: %v, want CodeInternal", err)
	}
	mu.Lock()
	defer mu.Unlock()
	for _, want := range []string{"secret", "danger", l.us.String(), "serve_test.go"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log does not have %q:\n%s", want, log.String())
		}
	}
}

type writerFunc func(b []byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }
