package protocol_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Blockchain-CN/pheromones/protocol"
	"github.com/Blockchain-CN/pheromones/transport"
)

// pipe is a pipeline with both of its sides.
type pipe struct {
	*protocol.Pipeline
	ran    <-chan error       // gets what Run returns
	served <-chan error       // gets what ServePipeline returns
	stop   context.CancelFunc // the answering side shuts down
	kill   context.CancelFunc // hard
	counts *counts
}

// counts is a Tracker.
type counts struct{ begun, ended atomic.Int64 }

func (c *counts) Begin() bool { c.begun.Add(1); return true }
func (c *counts) End()        { c.ended.Add(1) }

func (l *link) pipeline(t testing.TB, h protocol.Handler, cfg *protocol.Config) *pipe {
	t.Helper()
	p := &pipe{Pipeline: protocol.NewPipeline(l.open(t), l.them, nil), counts: new(counts)}
	ctx, kill := context.WithCancel(context.Background())
	stopping, stop := context.WithCancel(context.Background())
	p.stop, p.kill = stop, kill
	ran, served := make(chan error, 1), make(chan error, 1)
	p.ran, p.served = ran, served
	var wg sync.WaitGroup
	wg.Go(func() { ran <- p.Run() })
	wg.Go(func() {
		s, err := l.theirs.AcceptStream(ctx)
		if err != nil {
			served <- err
			return
		}
		if name, err := protocol.ReadService(s); err == nil && name != protocol.PipelineService {
			t.Errorf("the stream's service is %q, %v", name, err)
		}
		served <- protocol.ServePipeline(ctx, stopping, s, l.us, h, p.counts, cfg)
	})
	t.Cleanup(func() {
		kill() // which ends handlers that heed it
		p.Break(net0)
		wg.Wait()
		stop()
	})
	return p
}

var net0 = errors.New("the test is over")

func ask(op, data string) protocol.Frame { return request(op, data) }

// Many exchanges at once, some with long answers, each get their own.
func TestPipeline(t *testing.T) {
	l := newLink(t)
	p := l.pipeline(t, protocol.HandlerFunc(func(_ context.Context, m protocol.Message) (protocol.Message, error) {
		switch m.Operation {
		case "none":
			return protocol.Message{}, nil
		case "fail":
			return protocol.Message{}, protocol.CodeRefused
		case "long":
			return protocol.Message{Operation: "re", Data: bytes.Repeat(m.Data, 20_000)}, nil
		}
		return protocol.Message{Operation: "re", Data: m.Data}, nil
	}), &protocol.Config{Replies: newReplies(t)})
	var all sync.WaitGroup
	for i := range 100 {
		all.Go(func() {
			for j := range 20 {
				data := fmt.Sprint(i, "-", j)
				f := ask([]string{"short", "none", "fail", "long"}[(i+j)%4], data)
				got, err := p.Exchange(t.Context(), f)
				want := protocol.Frame{Kind: protocol.KindMessage}
				switch f.Message.Operation {
				case "none":
					want.Kind = protocol.KindNone
				case "fail":
					want.Kind, want.Code = protocol.KindError, protocol.CodeRefused
				case "short":
					want.Message.Data = []byte(data)
				case "long":
					want.Message.Data = bytes.Repeat([]byte(data), 20_000)
				}
				if err != nil || got.Kind != want.Kind || got.Code != want.Code || !bytes.Equal(got.Message.Data, want.Message.Data) || got.Kind == protocol.KindMessage && got.Message.From != l.them {
					t.Errorf("%s %s: %v, %d, %d bytes, %v; want %v and %d bytes", f.Message.Operation, data, got.Kind, got.Code, len(got.Message.Data), err, want.Kind, len(want.Message.Data))
				}
			}
		})
	}
	all.Wait()
	if d, busy := p.Quiet(); busy || d < 0 {
		t.Errorf("Quiet: %v, %v", d, busy)
	}
	if !p.End() {
		t.Error("End says that an exchange is under way")
	}
	if err := <-p.ran; err != nil {
		t.Errorf("Run: %v", err)
	}
	if err := <-p.served; err != nil {
		t.Errorf("ServePipeline: %v", err)
	}
	if b, e := p.counts.begun.Load(), p.counts.ended.Load(); b != 2000 || e != 2000 {
		t.Errorf("%d were begun and %d ended, want 2000", b, e)
	}
	if _, err := p.Exchange(t.Context(), ask("late", "")); !errors.Is(err, protocol.ErrPipeline) || !protocol.NotExecuted(err) {
		t.Errorf("after End: %v", err)
	}
}

func newReplies(t testing.TB) *protocol.Replies {
	r := protocol.NewReplies(protocol.RepliesConfig{})
	t.Cleanup(r.Close)
	return r
}

// A caller who gives up ends the handler's context, and his number is free again; others go on.
func TestPipelineCancelled(t *testing.T) {
	for _, replies := range []*protocol.Replies{nil, newReplies(t)} {
		l := newLink(t)
		begun, gone := make(chan struct{}), make(chan error, 1)
		p := l.pipeline(t, protocol.HandlerFunc(func(ctx context.Context, m protocol.Message) (protocol.Message, error) {
			if m.Operation == "wait" {
				close(begun)
				<-ctx.Done()
				gone <- context.Cause(ctx)
			}
			return m, nil
		}), &protocol.Config{Replies: replies})
		ctx, cancel := context.WithCancel(t.Context())
		go func() { <-begun; cancel() }()
		_, err := p.Exchange(ctx, ask("wait", ""))
		var failed *protocol.ExchangeError
		if !errors.Is(err, context.Canceled) || !errors.As(err, &failed) || !failed.Sent {
			t.Errorf("the caller gets %v", err)
		}
		if err := <-gone; !errors.Is(err, transport.CodeCancelled) {
			t.Errorf("the handler's context ended with %v", err)
		}
		if _, err := p.Exchange(t.Context(), ask("other", "")); err != nil {
			t.Error(err)
		}
		for busy := true; busy; { // the answer to the one given up comes, too
			if _, err := p.Exchange(t.Context(), ask("other", "")); err != nil {
				t.Fatal(err)
			}
			_, busy = p.Quiet()
		}
		p.End()
		if err := <-p.served; err != nil {
			t.Error(err)
		}
	}
}

// A deadline travels, and is the caller's own error.
func TestPipelineDeadline(t *testing.T) {
	l := newLink(t)
	p := l.pipeline(t, protocol.HandlerFunc(func(ctx context.Context, m protocol.Message) (protocol.Message, error) {
		<-ctx.Done()
		return protocol.Message{}, ctx.Err()
	}), nil)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := p.Exchange(ctx, ask("wait", "")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v, want DeadlineExceeded", err)
	}
}

// No more than MaxPipelined requests run; what is too large, or too many, is not sent.
func TestPipelineFull(t *testing.T) {
	l := newLink(t)
	free := make(chan struct{})
	p := l.pipeline(t, protocol.HandlerFunc(func(ctx context.Context, m protocol.Message) (protocol.Message, error) {
		<-free
		return m, nil
	}), nil)
	if _, err := p.Exchange(t.Context(), ask("large", strings.Repeat("x", protocol.PipelineLimit))); !errors.Is(err, protocol.ErrPipeline) {
		t.Errorf("a large one: %v", err)
	}
	var all sync.WaitGroup
	for range protocol.MaxPipelined {
		all.Go(func() {
			if _, err := p.Exchange(t.Context(), ask("wait", "")); err != nil {
				t.Error(err)
			}
		})
	}
	for p.counts.begun.Load() < protocol.MaxPipelined {
		time.Sleep(0)
	}
	if _, err := p.Exchange(t.Context(), ask("one more", "")); !errors.Is(err, protocol.ErrPipeline) || !protocol.NotExecuted(err) {
		t.Errorf("one more: %v", err)
	}
	if p.End() {
		t.Error("it was ended with exchanges under way")
	}
	close(free)
	all.Wait()
}

// A side that shuts down answers what it has taken and ends the pipeline; what came too late was not executed.
func TestPipelineShutdown(t *testing.T) {
	l := newLink(t)
	begun, free := make(chan struct{}), make(chan struct{})
	p := l.pipeline(t, protocol.HandlerFunc(func(ctx context.Context, m protocol.Message) (protocol.Message, error) {
		if m.Operation == "wait" {
			close(begun)
			<-free
		}
		return m, nil
	}), nil)
	answered := make(chan error, 1)
	go func() {
		_, err := p.Exchange(t.Context(), ask("wait", ""))
		answered <- err
	}()
	<-begun
	p.stop()
	for { // until it knows
		f, err := p.Exchange(t.Context(), ask("late", ""))
		if err != nil {
			t.Fatal(err)
		}
		if f.Kind == protocol.KindError && f.Code == protocol.CodeRefused {
			break
		}
	}
	close(free)
	if err := <-answered; err != nil {
		t.Errorf("what it had taken: %v", err)
	}
	if err := <-p.served; err != nil {
		t.Errorf("ServePipeline: %v", err)
	}
	if err := <-p.ran; !errors.Is(err, protocol.ErrPipeline) {
		t.Errorf("Run: %v", err)
	}
	if _, err := p.Exchange(t.Context(), ask("later", "")); !errors.Is(err, protocol.ErrPipeline) {
		t.Errorf("later: %v", err)
	}
}

// When the link is lost those who wait learn it, and so do the handlers; a hard end resets the stream.
func TestPipelineLost(t *testing.T) {
	for _, hard := range []bool{false, true} {
		l := newLink(t)
		begun, gone := make(chan struct{}), make(chan struct{})
		p := l.pipeline(t, protocol.HandlerFunc(func(ctx context.Context, m protocol.Message) (protocol.Message, error) {
			close(begun)
			<-ctx.Done()
			close(gone)
			return m, nil
		}), nil)
		go func() {
			<-begun
			if hard {
				p.kill()
			} else {
				l.ours.CloseWithError(transport.CodeInternal, "lost")
			}
		}()
		_, err := p.Exchange(t.Context(), ask("wait", ""))
		var failed *protocol.ExchangeError
		if !errors.As(err, &failed) || !failed.Sent || hard && !errors.Is(err, transport.CodeShutdown) || !hard && !errors.Is(err, transport.CodeInternal) {
			t.Errorf("hard %v: %v", hard, err)
		}
		<-gone
		if err := <-p.served; err == nil {
			t.Errorf("hard %v: ServePipeline returned nil", hard)
		}
		<-p.ran
	}
}

// A peer that does not know pipelines has executed nothing.
func TestPipelineUnknown(t *testing.T) {
	l := newLink(t)
	l.serve(t, nil, nil) // resets what is not a message
	p := protocol.NewPipeline(l.open(t), l.them, nil)
	ran := make(chan error, 1)
	go func() { ran <- p.Run() }()
	if _, err := p.Exchange(t.Context(), ask("x", "")); !errors.Is(err, protocol.ErrPipeline) || !protocol.NotExecuted(err) {
		t.Errorf("%v", err)
	}
	if err := <-ran; !errors.Is(err, transport.CodeUnknownService) {
		t.Errorf("Run: %v", err)
	}
}

func piece(number uint32, size int, f []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, number)
	return append(binary.BigEndian.AppendUint16(b, uint16(size)), f...)
}

// What a hostile asking side may send, and what becomes of it: an answer to that request, or the end of the pipeline.
func TestPipelineHostileAsker(t *testing.T) {
	wait, answer := frame(t, request("wait", "")), frame(t, protocol.Frame{Kind: protocol.KindError, Code: protocol.CodeInternal})
	many := func(n int) (b []byte) {
		for i := range n {
			b = append(b, piece(uint32(i), len(wait), wait)...)
		}
		return b
	}
	for _, test := range []struct {
		name string
		send []byte
		code transport.Code     // the stream is reset
		says protocol.ErrorCode // or the request is answered
	}{
		{"an empty piece", piece(1, 0, nil), transport.CodeProtocol, 0},
		{"a long piece", piece(1, 1<<15-1, nil), transport.CodeProtocol, 0},
		{"a request in pieces", piece(1, len(wait)|1<<15, wait), transport.CodeLimit, 0},
		{"a large request", piece(1, protocol.PipelineLimit+5, make([]byte, protocol.PipelineLimit+5)), transport.CodeLimit, 0},
		{"too many", many(protocol.MaxPipelined + 1), transport.CodeLimit, 0},
		{"a number twice", append(many(1), many(1)...), transport.CodeProtocol, 0},
		{"an answer", piece(1, len(answer), answer), transport.CodeProtocol, 0},
		{"no frame", piece(1, 6, []byte("sesame")), 0, protocol.CodeTooLarge},
		{"a short frame", piece(1, 6, []byte{0, 0, 0, 9, 1, 1}), 0, protocol.CodeMalformed},
		{"two frames", piece(1, 2*len(wait), append(bytes.Clone(wait), wait...)), 0, protocol.CodeMalformed},
		{"another version", piece(1, 6, []byte{0, 0, 0, 2, 9, 1}), 0, protocol.CodeUnsupported},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := newLink(t)
			ctx, cancel := context.WithCancel(t.Context())
			served := make(chan error, 1)
			s := l.open(t)
			go s.Write(append([]byte("x"), test.send...))
			theirs, err := l.theirs.AcceptStream(ctx)
			if err != nil {
				t.Fatal(err)
			}
			theirs.Read(make([]byte, 1))
			go func() {
				served <- protocol.ServePipeline(ctx, ctx, theirs, l.us, protocol.HandlerFunc(func(ctx context.Context, m protocol.Message) (protocol.Message, error) {
					<-ctx.Done()
					return m, nil
				}), nil, nil)
			}()
			if test.says == 0 {
				_, err := io.ReadAll(s)
				if !errors.Is(err, test.code) {
					t.Errorf("the stream ends with %v, want %v", err, test.code)
				}
				if err := <-served; err == nil {
					t.Error("ServePipeline returned nil")
				}
				cancel()
				return
			}
			var head [6]byte
			if _, err := io.ReadFull(s, head[:]); err != nil {
				t.Fatal(err)
			}
			f, err := protocol.ReadFrame(s, 0)
			if err != nil || f.Code != test.says || binary.BigEndian.Uint32(head[:]) != 1 {
				t.Errorf("the answer is %+v, %v; want %v", f, err, test.says)
			}
			cancel()
			<-served
		})
	}
}

// What a hostile answering side may send: it harms nothing but the pipeline.
func TestPipelineHostileAnswerer(t *testing.T) {
	for _, test := range []struct {
		name string
		send []byte
		want error
	}{
		{"an answer to nothing", piece(7, 6, frame(t, protocol.Frame{Kind: protocol.KindNone})), protocol.ErrMalformed},
		{"an empty piece", piece(1, 0, nil), protocol.ErrMalformed},
		{"no frame", piece(1, 6, []byte{0, 0, 0, 2, 1, 77}), protocol.ErrKind},
		{"another's ID", piece(1, len(frame(t, request("x", ""))), frame(t, request("x", ""))), protocol.ErrMalformed},
		{"more than the limit", bytes.Repeat(piece(1, 1<<14|1<<15, make([]byte, 1<<14)), 3), protocol.ErrTooLarge},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := newLink(t)
			p := protocol.NewPipeline(l.open(t), l.them, &protocol.Config{Limit: 1 << 15})
			ran := make(chan error, 1)
			go func() { ran <- p.Run() }()
			go func() {
				s, err := l.theirs.AcceptStream(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				protocol.ReadService(s)
				s.Read(make([]byte, 1)) // the request has come
				s.Write(test.send)
			}()
			if _, err := p.Exchange(t.Context(), ask("x", "")); !errors.Is(err, test.want) {
				t.Errorf("%v, want %v", err, test.want)
			}
			p.Break(net0)
			<-ran
		})
	}
}

// Whatever bytes come, both sides end and nothing grows.
func FuzzPipeline(f *testing.F) {
	f.Add(piece(1, 6, []byte{0, 0, 0, 2, 1, 2}))
	f.Add(bytes.Repeat(piece(1, 6, []byte{0, 0, 0, 2, 1, 2}), 3))
	f.Add(piece(1, 1<<15|3, []byte("abc")))
	f.Fuzz(func(t *testing.T, b []byte) {
		l := newLink(t)
		s := l.open(t)
		go func() {
			s.Write(append([]byte("x"), b...))
			s.CloseWrite()
		}()
		theirs, err := l.theirs.AcceptStream(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		theirs.Read(make([]byte, 1))
		served := make(chan struct{})
		go func() {
			defer close(served)
			protocol.ServePipeline(t.Context(), t.Context(), theirs, l.us, protocol.HandlerFunc(echo), nil, &protocol.Config{Limit: 1 << 12})
		}()
		io.Copy(io.Discard, io.LimitReader(s, 1<<20))
		s.Close()
		<-served

		p := protocol.NewPipeline(l.open(t), l.them, &protocol.Config{Limit: 1 << 12})
		ran := make(chan struct{})
		go func() { p.Run(); close(ran) }()
		answers, err := l.theirs.AcceptStream(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			protocol.ReadService(answers)
			answers.Read(make([]byte, 1))
			answers.Write(b)
			answers.Close()
		}()
		p.Exchange(t.Context(), request("x", ""))
		p.Break(net0)
		<-ran
	})
}

// Cuts at random moments: every exchange ends, and those said not to be executed were not.
func TestPipelineCut(t *testing.T) {
	for range 50 {
		l := newLink(t)
		var ran [100]atomic.Bool
		p := l.pipeline(t, protocol.HandlerFunc(func(_ context.Context, m protocol.Message) (protocol.Message, error) {
			ran[m.Data[0]].Store(true)
			return m, nil
		}), nil)
		var all sync.WaitGroup
		var errs [100]error
		for i := range errs {
			all.Go(func() { _, errs[i] = p.Exchange(t.Context(), ask("x", string([]byte{byte(i)}))) })
		}
		for range rand.IntN(200) {
			p.Quiet()
		}
		switch rand.IntN(3) {
		case 0:
			l.ours.CloseWithError(transport.CodeInternal, "")
		case 1:
			l.theirs.CloseWithError(transport.CodeShutdown, "")
		case 2:
			p.stop()
		}
		all.Wait()
		<-p.served
		<-p.ran
		for i, err := range errs {
			if protocol.NotExecuted(err) && ran[i].Load() {
				t.Errorf("exchange %d: %v, and its handler ran: %v", i, err, ran[i].Load())
			}
		}
	}
}
