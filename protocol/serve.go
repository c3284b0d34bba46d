package protocol

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/transport"
)

// Serve answers what peer, which is whom the stream's connection leads to, says on a stream s that it opened and whose
// service header has been read: an exchange or a conversation, which are the same from this side. Each message is given to
// h, and what h returns is sent back; the reply bears the message's ID. A nil h is an empty Table, a nil cfg the zero
// Config. Serve is called once for each stream, on as many streams at once as there are.
//
// It returns when the conversation has come to its end, which is nil, or has failed, and never before h has returned. The
// error wraps a [*RemoteError] if the peer broke off, h's own error (which the peer has been told, see Handler), ErrSteps,
// the transport's, os.ErrDeadlineExceeded if the peer was silent for Config.IdleTimeout, or that of a malformed frame. When
// ctx ends Serve resets the stream with transport.CodeShutdown and waits for h, whose context ends too: ctx is for a hard
// shutdown. The stream is then at its end.
func Serve(ctx context.Context, s transport.Stream, peer identity.ID, h Handler, cfg *Config) error {
	t := &talk{s: s, peer: peer, cfg: cfg.orDefault()}
	t.idle = t.cfg.IdleTimeout
	stop := resetWhenDone(ctx, s, transport.CodeShutdown)
	step, op, err := t.serve(ctx, orEmpty(h))
	stop()
	if err != nil {
		return fmt.Errorf("protocol: serve peer %v, message %d, %q: %w", peer, step, op, reason(ctx, err))
	}
	return nil
}

// serve ends the stream.
func (t *talk) serve(ctx context.Context, h Handler) (step int, operation string, err error) {
	for step = 1; ; step++ {
		f, err := t.receive()
		switch {
		case err == io.EOF:
			t.s.Close()
			return step, "", nil
		case err != nil:
			t.refuse(err)
			return step, "", err
		}
		op := f.Message.Operation
		switch f.Kind {
		case KindNone:
			t.s.Close()
			return step, "", nil
		case KindError:
			t.s.Close()
			return step, "", &RemoteError{Peer: t.peer, Code: f.Code, Text: f.Text}
		}
		if t.cfg.tooMany(step) {
			t.answer(answerTo(CodeSteps))
			return step, op, fmt.Errorf("%w: this side's limit is %d", ErrSteps, t.cfg.MaxSteps)
		}
		out, err := t.respond(ctx, h, &f)
		switch {
		case ctx.Err() != nil: // what a handler says whose context was ended is no answer
			t.s.Reset(transport.CodeShutdown)
			return step, op, reason(ctx, err)
		case out.Kind == 0: // the asking side has gone
			t.abandon(err)
			return step, op, err
		case out.Kind == KindError:
			t.answer(out)
			return step, op, err
		case out.Kind == KindMessage:
			out.Timeout = remaining(ctx)
		}
		if err := t.send(nil, out); err != nil {
			t.abandon(err)
			return step, op, fmt.Errorf("send the reply: %w", err)
		}
		if out.Kind == KindNone {
			t.finish()
			return step, op, nil
		}
	}
}

// finishTimeout bounds how long Serve waits for the peer to take its last frame.
const finishTimeout = 5 * time.Second

// answer sends the last frame.
func (t *talk) answer(f Frame) {
	t.send(nil, f)
	t.finish()
}

// finish ends the stream after the last frame, once the peer has ended its direction: that says that it has the frame, which
// otherwise a connection that is closed next, as at a shutdown, would take with it.
func (t *talk) finish() {
	if t.s.CloseWrite() == nil && t.s.SetReadDeadline(time.Now().Add(finishTimeout)) == nil {
		t.Read(t.ahead[:])
	}
	t.s.Close()
}

// refuse answers what could not be read. The peer may still be sending it, so nothing is waited for.
func (t *talk) refuse(err error) {
	code, ok := refusal(err)
	if !ok {
		t.abandon(err)
		return
	}
	t.fail(fmt.Errorf("%w: %w", code, err))
}

// refusal returns the code that tells a peer what is wrong with the bytes it has sent, if that is what err is about.
func refusal(err error) (code ErrorCode, ok bool) {
	switch {
	case errors.Is(err, ErrTooLarge):
		return CodeTooLarge, true
	case errors.Is(err, ErrVersion), errors.Is(err, ErrKind):
		return CodeUnsupported, true
	}
	return CodeMalformed, isFormat(err)
}

// abandon ends a stream on which nothing can be said any more.
func (t *talk) abandon(err error) {
	code := transport.CodeInternal
	if errors.Is(err, os.ErrDeadlineExceeded) {
		code = transport.CodeTimeout
	}
	t.s.Reset(code)
}
