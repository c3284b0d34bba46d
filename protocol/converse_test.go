package protocol_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/protocol"
	"github.com/Blockchain-CN/pheromones/transport"
)

// counter answers a number with the next, until last; it notes who said what.
type counter struct {
	last int
	mu   sync.Mutex
	log  []string
	ids  []protocol.MessageID
}

func (c *counter) Handle(_ context.Context, m protocol.Message) (protocol.Message, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.log = append(c.log, fmt.Sprintf("%s %s: %s %s", m.From.Short(), m.Name, m.Operation, m.Data))
	c.ids = append(c.ids, m.ID)
	n, err := strconv.Atoi(string(m.Data))
	if err != nil {
		return protocol.Message{}, err
	}
	if n >= c.last {
		return protocol.Message{}, nil
	}
	// All but Operation and Data is the toolkit's to fill in.
	return protocol.Message{ID: m.ID, From: m.From, Name: m.Name, Operation: "count", Data: []byte(strconv.Itoa(n + 1))}, nil
}

// form is a way to hold a conversation over a link.
type form struct {
	name     string
	converse func(ctx context.Context, l *link, t testing.TB, first protocol.Message, h protocol.Handler, cfg *protocol.Config) error
}

var forms = []form{
	{"one stream", func(ctx context.Context, l *link, t testing.TB, first protocol.Message, h protocol.Handler, cfg *protocol.Config) error {
		return protocol.Converse(ctx, l.open(t), l.them, first, h, cfg)
	}},
	{"exchanges", func(ctx context.Context, l *link, t testing.TB, first protocol.Message, h protocol.Handler, cfg *protocol.Config) error {
		return protocol.ConverseBy(ctx, func(ctx context.Context, m protocol.Message) (protocol.Message, error) {
			return protocol.Exchange(ctx, l.open(t), l.them, m, cfg)
		}, first, h, cfg)
	}},
}

// The same handlers say and hear the same in both forms, whichever side ends the conversation.
func TestConverseForms(t *testing.T) {
	for last := range 6 {
		for _, form := range forms {
			t.Run(fmt.Sprintf("%s to %d", form.name, last), func(t *testing.T) {
				l := newLink(t)
				var us, them counter
				us.last, them.last = last, last
				served := l.serve(t, &them, &protocol.Config{Name: "bob"})
				first := protocol.Message{Operation: "count", Data: []byte("0")}
				if err := form.converse(t.Context(), l, t, first, &us, &protocol.Config{Name: "alice"}); err != nil {
					t.Fatal(err)
				}
				if err := <-served; err != nil {
					t.Error(err)
				}
				us.mu.Lock()
				defer us.mu.Unlock()
				them.mu.Lock()
				defer them.mu.Unlock()
				var wantUs, wantThem []string
				for n := range last + 1 {
					if n%2 == 0 {
						wantThem = append(wantThem, fmt.Sprintf("%s alice: count %d", l.us.Short(), n))
					} else {
						wantUs = append(wantUs, fmt.Sprintf("%s bob: count %d", l.them.Short(), n))
					}
				}
				if !reflect.DeepEqual(us.log, wantUs) || !reflect.DeepEqual(them.log, wantThem) {
					t.Errorf("we heard   %q\nwant       %q\nthey heard %q\nwant       %q", us.log, wantUs, them.log, wantThem)
				}
				// Every message we send has its own ID, and each reply bears that of what it answers.
				seen := make(map[protocol.MessageID]bool)
				for i, id := range them.ids {
					if seen[id] || id.IsZero() {
						t.Errorf("message %d has the ID %v, which is zero or was used before", i, id)
					}
					seen[id] = true
					if i < len(us.ids) && us.ids[i] != id {
						t.Errorf("the reply to message %v bears %v", id, us.ids[i])
					}
				}
			})
		}
	}
}

func TestConverseTooManySteps(t *testing.T) {
	for _, form := range forms {
		for _, test := range []struct {
			name       string
			ours       int
			theirs     int
			heard      int // messages that their handler gets
			replies    int // messages that ours gets
			remoteSees bool
		}{
			{"our limit", 3, 0, 4, 3, false},
			{"their limit", 0, 3, 3, 3, true},
		} {
			if test.remoteSees && form.name != "one stream" {
				continue // each exchange is a conversation of one step to them
			}
			t.Run(form.name+", "+test.name, func(t *testing.T) {
				l := newLink(t)
				var mu sync.Mutex
				heard, replies := 0, 0
				count := func(n *int) protocol.Handler {
					return protocol.HandlerFunc(func(_ context.Context, m protocol.Message) (protocol.Message, error) {
						mu.Lock()
						defer mu.Unlock()
						*n++
						return m, nil
					})
				}
				served := l.serve(t, count(&heard), &protocol.Config{MaxSteps: test.theirs})
				err := form.converse(t.Context(), l, t, protocol.Message{Operation: "x"}, count(&replies), &protocol.Config{MaxSteps: test.ours})
				if test.remoteSees {
					if err2 := <-served; !errors.Is(err, protocol.CodeSteps) || !errors.Is(err2, protocol.ErrSteps) {
						t.Errorf("Converse: %v, Serve: %v; want CodeSteps and ErrSteps", err, err2)
					}
				} else if !errors.Is(err, protocol.ErrSteps) {
					t.Errorf("%v, want ErrSteps", err)
				} else if form.name == "one stream" {
					if err := <-served; !errors.Is(err, protocol.CodeSteps) {
						t.Errorf("Serve: %v, want CodeSteps", err)
					}
				}
				mu.Lock()
				defer mu.Unlock()
				if heard != test.heard || replies != test.replies {
					t.Errorf("their handler ran %d times and ours %d, want %d and %d", heard, replies, test.heard, test.replies)
				}
			})
		}
	}
}

// Two echoes are stopped without anything being configured.
func TestConverseStepsByDefault(t *testing.T) {
	l := newLink(t)
	l.serve(t, protocol.HandlerFunc(echo), nil)
	err := protocol.Converse(t.Context(), l.open(t), l.them, protocol.Message{Operation: "x"}, protocol.HandlerFunc(echo), nil)
	if !errors.Is(err, protocol.ErrSteps) && !errors.Is(err, protocol.CodeSteps) {
		t.Errorf("Converse: %v, want an end for its steps", err)
	}
}

func TestConverseOurHandlerFails(t *testing.T) {
	failed := errors.New("failed")
	for _, form := range forms {
		for _, test := range []struct {
			name string
			h    protocol.HandlerFunc
			want error
			code protocol.ErrorCode
		}{
			{"error", func(context.Context, protocol.Message) (protocol.Message, error) { return protocol.Message{}, failed }, failed, protocol.CodeFailed},
			{"panic", func(context.Context, protocol.Message) (protocol.Message, error) { panic("oh") }, protocol.CodeInternal, protocol.CodeInternal},
		} {
			t.Run(form.name+", "+test.name, func(t *testing.T) {
				l := newLink(t)
				served := l.serve(t, protocol.HandlerFunc(echo), nil)
				err := form.converse(t.Context(), l, t, protocol.Message{Operation: "x"}, test.h, nil)
				if !errors.Is(err, test.want) || !strings.Contains(err.Error(), l.them.String()) {
					t.Errorf("%v, want %v and the peer", err, test.want)
				}
				err = <-served
				var remote *protocol.RemoteError
				if form.name == "one stream" && (!errors.As(err, &remote) || remote.Code != test.code || remote.Peer != l.us) {
					t.Errorf("Serve: %v, want a *RemoteError with code %v", err, test.code)
				}
			})
		}
	}
}

func TestConverseTheirHandlerFails(t *testing.T) {
	for _, form := range forms {
		t.Run(form.name, func(t *testing.T) {
			l := newLink(t)
			l.serve(t, protocol.HandlerFunc(func(_ context.Context, m protocol.Message) (protocol.Message, error) {
				if m.Operation == "second" {
					return protocol.Message{}, protocol.CodeOverloaded
				}
				return protocol.Message{Operation: "go on"}, nil
			}), nil)
			err := form.converse(t.Context(), l, t, protocol.Message{Operation: "first"}, protocol.HandlerFunc(
				func(context.Context, protocol.Message) (protocol.Message, error) {
					return protocol.Message{Operation: "second"}, nil
				}), nil)
			var remote *protocol.RemoteError
			if !errors.As(err, &remote) || remote.Code != protocol.CodeOverloaded || remote.Operation != "second" {
				t.Errorf("%v, want CodeOverloaded for the second message", err)
			}
		})
	}
}

func TestConverseReplyTooLarge(t *testing.T) {
	l := newLink(t)
	served := l.serve(t, protocol.HandlerFunc(echo), nil)
	err := protocol.Converse(t.Context(), l.open(t), l.them, protocol.Message{Operation: "x"}, protocol.HandlerFunc(
		func(context.Context, protocol.Message) (protocol.Message, error) {
			return protocol.Message{Operation: "x", Data: make([]byte, 2000)}, nil
		}), &protocol.Config{Limit: 1000})
	if !errors.Is(err, protocol.ErrTooLarge) {
		t.Errorf("Converse: %v, want ErrTooLarge", err)
	}
	if err := <-served; !errors.Is(err, protocol.CodeInternal) {
		t.Errorf("Serve: %v, want CodeInternal", err)
	}
}

func TestConverseNotBegun(t *testing.T) {
	l := newLink(t)
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if err := protocol.Converse(over, l.open(t), l.them, protocol.Message{Operation: "x"}, nil, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("Converse with a context that is over: %v", err)
	}
	if err := protocol.Converse(t.Context(), l.open(t), l.them, protocol.Message{}, nil, nil); !errors.Is(err, protocol.ErrMalformed) {
		t.Errorf("Converse that begins with none: %v", err)
	}
}

// A conversation ends with its context, whoever is thinking at the moment, and so does the context of that one's handler.
func TestConverseCancelled(t *testing.T) {
	wait := protocol.HandlerFunc(func(ctx context.Context, m protocol.Message) (protocol.Message, error) {
		<-ctx.Done()
		return protocol.Message{}, ctx.Err()
	})
	for _, test := range []struct {
		name         string
		ours, theirs protocol.Handler
	}{
		{"we think", wait, protocol.HandlerFunc(echo)},
		{"they think", protocol.HandlerFunc(echo), wait},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLink(t)
				served := l.serve(t, test.theirs, nil)
				ctx, cancel := context.WithCancel(t.Context())
				time.AfterFunc(10*time.Second, cancel)
				err := protocol.Converse(ctx, l.open(t), l.them, protocol.Message{Operation: "x"}, test.ours, nil)
				if !errors.Is(err, context.Canceled) {
					t.Errorf("Converse: %v, want the context's end", err)
				}
				// The reset and our handler's error race to tell the other side.
				if err := <-served; !errors.Is(err, context.Canceled) && !errors.Is(err, transport.CodeCancelled) && !errors.Is(err, protocol.CodeCancelled) {
					t.Errorf("Serve: %v, want it cancelled", err)
				}
			})
		})
	}
}

// The other side goes away while our handler thinks.
func TestConversePeerGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLink(t)
		thinking := make(chan struct{})
		go func() {
			s := l.accept(t)
			f, err := protocol.ReadFrame(s, 0)
			if err != nil {
				t.Error(err)
			}
			s.Write(frame(t, f))
			<-thinking
			l.theirs.CloseWithError(transport.CodeShutdown, "bye")
		}()
		var cause error
		err := protocol.Converse(t.Context(), l.open(t), l.them, protocol.Message{Operation: "x"}, protocol.HandlerFunc(
			func(ctx context.Context, m protocol.Message) (protocol.Message, error) {
				close(thinking)
				<-ctx.Done()
				cause = context.Cause(ctx)
				return protocol.Message{}, ctx.Err()
			}), nil)
		if !errors.Is(cause, transport.CodeShutdown) || !errors.Is(err, context.Canceled) {
			t.Errorf("the handler's context ended by %v, and Converse returned %v", cause, err)
		}
	})
}

func TestConverseByCallsWithContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	calls := 0
	err := protocol.ConverseBy(ctx, func(ctx context.Context, m protocol.Message) (protocol.Message, error) {
		if calls++; calls == 2 {
			cancel()
		}
		if !m.ID.IsZero() || !m.From.IsZero() || m.Name != "" {
			t.Errorf("the exchange is to send %+v, want ID, From and Name unset", m)
		}
		return protocol.Message{ID: protocol.NewMessageID(), From: identity.ID{1}, Name: "other", Operation: "x"}, ctx.Err()
	}, protocol.Message{Operation: "x"}, protocol.HandlerFunc(echo), nil)
	if err != context.Canceled || calls != 2 {
		t.Errorf("ConverseBy: %v after %d calls, want the exchange's error after 2", err, calls)
	}
}

// What goes over the wire at the end of a conversation that we end.
func TestConverseSaysNone(t *testing.T) {
	l := newLink(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		s := l.accept(t)
		defer s.Close()
		f, err := protocol.ReadFrame(s, 0)
		if err != nil {
			t.Error(err)
		}
		s.Write(frame(t, f))
		if f, err := protocol.ReadFrame(s, 0); err != nil || f.Kind != protocol.KindNone {
			t.Errorf("the last frame is %+v, %v; want a none", f, err)
		}
		if _, err := protocol.ReadFrame(s, 0); err != io.EOF {
			t.Errorf("after the none: %v, want io.EOF", err)
		}
	}()
	err := protocol.Converse(t.Context(), l.open(t), l.them, protocol.Message{Operation: "x"}, protocol.HandlerFunc(
		func(context.Context, protocol.Message) (protocol.Message, error) { return protocol.Message{}, nil }), nil)
	if err != nil {
		t.Error(err)
	}
	<-done
}

// Whoever sends what is no frame is reset.
func TestAskerResetsMalformed(t *testing.T) {
	for _, test := range []struct {
		answer []byte
		want   transport.Code
	}{{[]byte{0, 0, 0, 1, 1, 1}, transport.CodeProtocol}, {[]byte{1, 0, 0, 1, 1, 1}, transport.CodeLimit}} {
		for _, form := range forms {
			l := newLink(t)
			done := make(chan struct{})
			go func() {
				defer close(done)
				s := l.accept(t)
				if _, err := protocol.ReadFrame(s, 0); err != nil {
					t.Error(err)
				}
				s.Write(test.answer)
				if _, err := io.Copy(io.Discard, s); !errors.Is(err, test.want) {
					t.Errorf("%s: who answered %x reads %v, want a reset with %v", form.name, test.answer, err, test.want)
				}
			}()
			if err := form.converse(t.Context(), l, t, protocol.Message{Operation: "x"}, nil, nil); err == nil {
				t.Errorf("%s: the answer %x was taken", form.name, test.answer)
			}
			<-done
		}
	}
}
