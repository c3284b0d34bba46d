package protocol

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
)

// Handler answers messages. The same Handler serves both ends of a conversation, and any transport. It is called from
// many goroutines at once, for one conversation from one at a time.
type Handler interface {
	// Handle is given a message whose From is the authenticated sender, and returns the next message, or the zero Message
	// to end the conversation. m.Data is Handle's own, also after it returned; the returned Data must not change any more.
	//
	// ctx ends when the asking side goes away (it resets the stream, or the connection is lost and, if there is a [Replies], it has
	// not come back for a while), when the time is over that
	// the asking side said it would wait, and when this side shuts down hard. Handle should then return soon: whoever
	// serves the stream waits for it. An asking side that ends its direction in order still awaits the reply.
	//
	// The peer is told of an error: its code is the [ErrorCode] that the error wraps, CodeCancelled if it is that of a
	// context, else CodeFailed; its text is the error's, cut to MaxErrorText bytes. So an error must not say what the peer
	// may not know. A handler that returns CodeRefused, CodeOverloaded, CodeTooLarge, CodeMalformed, CodeUnsupported or
	// CodeSteps thereby says that it did nothing: the request may be made again, perhaps elsewhere. A panic is recovered and
	// logged; the peer learns CodeInternal and no more.
	Handle(ctx context.Context, m Message) (Message, error)
}

// HandlerFunc is a function that is a Handler.
type HandlerFunc func(ctx context.Context, m Message) (Message, error)

// Handle implements Handler.
func (f HandlerFunc) Handle(ctx context.Context, m Message) (Message, error) { return f(ctx, m) }

// OpUnknown is the operation of the answer to an operation that nobody handles; its Data is the operation's name.
const OpUnknown = "unknownop"

// Unknown answers a message that nobody handles: with OpUnknown, or, so that two sides cannot go on telling each other,
// with none if m is itself one of OpUnknown.
func Unknown(m Message) Message {
	if m.IsNone() || m.Operation == OpUnknown {
		return Message{}
	}
	return Message{Operation: OpUnknown, Data: []byte(m.Operation)}
}

// Table is a Handler that gives each message to the handler of its operation, and answers what has none with [Unknown].
// The zero Table is empty and ready. All methods may be called at once. A Table must not be copied once it is used.
type Table struct {
	mu       sync.RWMutex
	handlers map[string]Handler // guarded by mu
}

// Register makes h the handler of an operation. It fails with ErrDuplicate if there is one, and with ErrMalformed if the
// operation could not be sent, being empty, too long or not UTF-8.
func (t *Table) Register(operation string, h Handler) error {
	probe := Frame{Kind: KindMessage, Message: Message{ID: MessageID{1}, Operation: operation}}
	if err := probe.check(); err != nil {
		return fmt.Errorf("%w: register: %w", ErrMalformed, err)
	}
	if h == nil {
		return fmt.Errorf("%w: register %q: the handler is nil", ErrMalformed, operation)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.handlers[operation] != nil {
		return fmt.Errorf("%w: %q", ErrDuplicate, operation)
	}
	if t.handlers == nil {
		t.handlers = make(map[string]Handler)
	}
	t.handlers[operation] = h
	return nil
}

// Handle implements Handler.
func (t *Table) Handle(ctx context.Context, m Message) (Message, error) {
	t.mu.RLock()
	h := t.handlers[m.Operation]
	t.mu.RUnlock()
	if h == nil {
		return Unknown(m), nil
	}
	return h.Handle(ctx, m)
}

func orEmpty(h Handler) Handler {
	if h == nil {
		return new(Table)
	}
	return h
}

// call runs a handler for one message, and makes an error of its panic. It is the one place where handlers run.
func call(ctx context.Context, h Handler, m Message, log *slog.Logger) (next Message, err error) {
	defer func() {
		if p := recover(); p != nil {
			log.LogAttrs(ctx, slog.LevelError, "protocol: a handler panicked", slog.String("peer", m.From.String()),
				slog.String("operation", m.Operation), slog.String("message", m.ID.String()), slog.Any("panic", p),
				slog.String("stack", string(debug.Stack())))
			// The code alone, since the peer is told the text.
			next, err = Message{}, CodeInternal
		}
	}()
	if next, err = h.Handle(ctx, m); err != nil {
		return Message{}, err
	}
	return next, nil
}

func isContextError(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}
