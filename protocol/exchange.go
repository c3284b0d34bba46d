package protocol

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/transport"
)

// Exchange sends m on a new stream s to peer, which is whom the stream's connection leads to, and returns the reply, which
// is none if the peer had nothing to say. An ID and a Name that are not set are filled in. The stream's service header and
// the request leave in one Write, and m.Data is copied. A nil cfg is the zero Config; its MaxSteps and IdleTimeout are not
// used here.
//
// It returns when it has the reply, when the stream or its connection ends, or when ctx ends: then it resets the stream
// with transport.CodeCancelled, which ends the context of the peer's handler. A reply that is there beats a context that
// has ended. Either way the stream is at its end.
//
// An error is a [*RemoteError] if the peer answered with one, else an [*ExchangeError], which wraps the context's error,
// the transport's, or ErrTooLarge, ErrMalformed, ErrVersion or ErrKind. [NotExecuted] tells which of them prove that the
// request was not executed.
func Exchange(ctx context.Context, s transport.Stream, peer identity.ID, m Message, cfg *Config) (Message, error) {
	f, err := ExchangeFrame(ctx, s, peer, Frame{Kind: KindMessage, Message: m}, cfg)
	if err != nil {
		return Message{}, err
	}
	return f.Message, f.Err(peer, m.Operation)
}

// ExchangeFrame is [Exchange] for whoever sends a request again after a loss, as a router does: request has, besides its
// Message, the Copy and the Incarnation that say which copy it is, and the answer is returned as the peer sent it, errors
// included, with its Incarnation and Horizon. Of the other fields of request, Timeout is set from ctx.
//
// The error is an [*ExchangeError]. If the peer answered that it gave up, and it is ctx's deadline that had passed, the error is
// that of ctx.
func ExchangeFrame(ctx context.Context, s transport.Stream, peer identity.ID, request Frame, cfg *Config) (Frame, error) {
	t := &talk{s: s, peer: peer, cfg: cfg.orDefault()}
	request.Message = t.cfg.fill(request.Message)
	sent, f, err := t.exchange(ctx, request)
	if err == nil && f.Kind == KindError && f.Code == CodeCancelled {
		err = over(ctx)
	}
	if err == nil {
		return f, nil
	}
	return Frame{}, &ExchangeError{Peer: peer, Operation: request.Message.Operation, ID: request.Message.ID, Sent: sent, Err: err}
}

// over returns the error of a context that has ended, or whose deadline has passed, which it may not know yet.
func over(ctx context.Context) error {
	if ctx.Err() != nil {
		return reason(ctx, nil)
	}
	if end, ok := ctx.Deadline(); ok && !time.Now().Before(end) {
		return context.DeadlineExceeded
	}
	return nil
}

// Err returns the [*RemoteError] that an answer is, or nil.
func (f *Frame) Err(peer identity.ID, operation string) error {
	if f.Kind != KindError {
		return nil
	}
	return &RemoteError{Peer: peer, Operation: operation, Code: f.Code, Text: f.Text}
}

// exchange ends the stream.
func (t *talk) exchange(ctx context.Context, request Frame) (sent bool, f Frame, err error) {
	b, err := t.cfg.first(ctx, request)
	if err != nil {
		t.s.Reset(transport.CodeCancelled)
		return false, Frame{}, err
	}
	stop := resetWhenDone(ctx, t.s, transport.CodeCancelled)
	f, err = t.ask(b, request.Message.ID)
	stop()
	if err != nil {
		t.s.Reset(codeFor(err))
		return true, Frame{}, reason(ctx, err)
	}
	t.s.Close()
	return true, f, nil
}

// fill completes a message that the caller sends.
func (c *Config) fill(m Message) Message {
	if m.ID.IsZero() {
		m.ID = NewMessageID()
	}
	if m.Name == "" {
		m.Name = c.Name
	}
	return m
}

// first returns the first flight of a stream: the service header and f.
func (c *Config) first(ctx context.Context, f Frame) ([]byte, error) {
	if ctx.Err() != nil {
		return nil, reason(ctx, nil)
	}
	f.Timeout = remaining(ctx)
	if size := f.size(); size > c.Limit {
		return nil, fmt.Errorf("%w: a frame of %d bytes, the limit is %d", ErrTooLarge, size, c.Limit)
	}
	b, err := AppendService(make([]byte, 0, 1+len(MessageService)+4+f.size()), MessageService)
	if err != nil {
		return nil, err
	}
	return f.Append(b, c.Limit)
}

// ask writes b, which ends with the message id, and returns the frame that answers it.
func (t *talk) ask(b []byte, id MessageID) (Frame, error) {
	if werr := t.write(b); werr != nil {
		// A peer that does not want to read it all, say because it is too large, answers and closes.
		if !errors.Is(werr, transport.CodeClosed) {
			return Frame{}, fmt.Errorf("send the request: %w", werr)
		}
		if f, err := t.receive(); err == nil && f.Kind == KindError {
			return f, nil
		}
		return Frame{}, fmt.Errorf("send the request: %w", werr)
	}
	f, err := t.receive()
	switch {
	case err == io.EOF:
		return Frame{}, fmt.Errorf("the peer ended the stream without an answer: %w", io.ErrUnexpectedEOF)
	case err != nil:
		return Frame{}, fmt.Errorf("await the answer: %w", err)
	case f.Kind == KindMessage && f.Message.ID != id:
		return Frame{}, fmt.Errorf("%w: the reply answers message %v, want %v", ErrMalformed, f.Message.ID, id)
	case f.Kind == KindNone:
		f.Message = Message{}
	}
	return f, nil
}

// codeFor returns the code to reset a stream with that failed with err.
func codeFor(err error) transport.Code {
	switch {
	case errors.Is(err, ErrTooLarge):
		return transport.CodeLimit
	case errors.Is(err, ErrMalformed), errors.Is(err, ErrVersion), errors.Is(err, ErrKind):
		return transport.CodeProtocol
	case isContextError(err):
		return transport.CodeCancelled
	}
	return transport.CodeInternal // not cancelled: who sends the request again still wants it
}
