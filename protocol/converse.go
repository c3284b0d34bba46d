package protocol

import (
	"context"
	"errors"
	"fmt"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/transport"
)

// Converse opens a conversation on a new stream s to peer: it sends first, gives each reply to h and sends what h returns,
// until the peer or h has nothing more to say. A nil h is an empty Table, a nil cfg the zero Config, of which IdleTimeout
// is not used here. Every message it sends has a new ID; first keeps its ID and Name if they are set.
//
// It returns nil when the conversation has come to its end, else an error that wraps what ended it: a [*RemoteError], h's
// own error (which the peer is told, see Handler), ErrSteps, the context's error, the transport's, or that of a malformed
// frame. ctx bounds it all as it does for [Exchange], and h's context ends with it or when the peer goes away. The stream
// is then at its end.
func Converse(ctx context.Context, s transport.Stream, peer identity.ID, first Message, h Handler, cfg *Config) error {
	t := &talk{s: s, peer: peer, cfg: cfg.orDefault()}
	m := t.cfg.fill(first)
	b, err := t.cfg.first(ctx, Frame{Kind: KindMessage, Message: m, Copy: Copy{Once: true}})
	if err != nil {
		s.Reset(transport.CodeCancelled)
		return converseError(peer, m.Operation, 0, err)
	}
	stop := resetWhenDone(ctx, s, transport.CodeCancelled)
	step, op, err := t.converse(ctx, b, m, orEmpty(h))
	stop()
	if err != nil {
		return converseError(peer, op, step, reason(ctx, err))
	}
	return nil
}

func converseError(peer identity.ID, operation string, step int, err error) error {
	return fmt.Errorf("protocol: conversation with peer %v, after %d replies, at %q: %w", peer, step, operation, err)
}

// converse goes on from b, the first flight, which carries m. It ends the stream.
func (t *talk) converse(ctx context.Context, b []byte, m Message, h Handler) (step int, operation string, err error) {
	for step = 0; ; {
		f, err := t.ask(b, m.ID)
		if err != nil {
			t.s.Reset(codeFor(err))
			return step, m.Operation, err
		}
		switch f.Kind {
		case KindNone:
			t.s.Close()
			return step, m.Operation, nil
		case KindError:
			t.s.Close()
			return step, m.Operation, &RemoteError{Peer: t.peer, Operation: m.Operation, Code: f.Code, Text: f.Text}
		}
		if step++; t.cfg.tooMany(step) {
			t.fail(CodeSteps)
			return step, f.Message.Operation, fmt.Errorf("%w: this side's limit is %d", ErrSteps, t.cfg.MaxSteps)
		}
		next, err := t.handle(ctx, h, &f)
		if err != nil {
			t.fail(err)
			return step, f.Message.Operation, err
		}
		if next.IsNone() {
			err := t.send(nil, Frame{Kind: KindNone})
			t.s.Close()
			return step, f.Message.Operation, err
		}
		m = t.cfg.next(next, NewMessageID())
		out := Frame{Kind: KindMessage, Message: m, Timeout: remaining(ctx), Copy: Copy{Once: true}}
		if b, err = out.Append(nil, t.cfg.Limit); err != nil {
			t.fail(CodeInternal)
			return step, m.Operation, err
		}
	}
}

// next completes what a handler returned. Its ID and Name may be those of the message it was given.
func (c *Config) next(m Message, id MessageID) Message {
	return Message{ID: id, Name: c.Name, Operation: m.Operation, Data: m.Data}
}

// fail tells the peer of an error, if it still listens, and ends the stream.
func (t *talk) fail(err error) {
	t.send(nil, answerTo(err))
	t.s.Close()
}

// ConverseBy holds the conversation that [Converse] holds, each step an exchange of its own, as short connections need it:
// exchange sends a message and returns its reply, as [Exchange] does on a stream it opens. The handlers on both sides see
// the same messages as over one stream; only From and Name are as exchange and the other side fill them in.
//
// It returns nil when either side has nothing more to say, exchange's error or h's, or an error that wraps ErrSteps. A
// panic of h is CodeInternal. ctx is handed on to exchange and h. The peer is not told of an error of h, since nothing is
// open that could tell it. A nil h is an empty Table. Of cfg, which may be nil, MaxSteps and Logger are used.
func ConverseBy(ctx context.Context, exchange func(context.Context, Message) (Message, error), first Message, h Handler, cfg *Config) error {
	c := cfg.orDefault()
	h = orEmpty(h)
	m := first
	for step := 1; ; step++ {
		reply, err := exchange(ctx, m)
		if err != nil || reply.IsNone() {
			return err
		}
		if c.tooMany(step) {
			return converseError(reply.From, reply.Operation, step, fmt.Errorf("%w: this side's limit is %d", ErrSteps, c.MaxSteps))
		}
		next, err := call(ctx, h, reply, c.Logger)
		if err != nil {
			return converseError(reply.From, reply.Operation, step, err)
		}
		if next.IsNone() {
			return nil
		}
		m = Message{Operation: next.Operation, Data: next.Data} // exchange sets the rest
	}
}

// isFormat reports whether err is about what came, not about how it came.
func isFormat(err error) bool {
	return errors.Is(err, ErrTooLarge) || errors.Is(err, ErrMalformed) || errors.Is(err, ErrVersion) || errors.Is(err, ErrKind)
}
