package protocol

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// respond returns the frame that answers a message, whether the handler runs for it, runs already or has run. The error is what Serve
// reports; with it, a frame without a kind means that there is nobody any more to answer.
func (t *talk) respond(ctx context.Context, h Handler, f *Frame) (Frame, error) {
	rs := t.cfg.Replies
	if rs == nil || f.Copy.Once {
		next, err := t.handle(ctx, h, f)
		return t.outcome(f, next, err)
	}
	run, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	a, known := rs.begin(t.peer, f, t.cfg.Since, cancel)
	switch {
	case a == nil:
		return known, known.reported()
	case !a.runs:
		return t.await(ctx, f, a)
	}
	out, err := Frame{Kind: KindError, Code: CodeInternal, Incarnation: rs.Incarnation()}, error(CodeInternal)
	defer func() { rs.end(a, out) }() // also if the handler ends its goroutine
	if f.Timeout > 0 {
		var stop context.CancelFunc
		run, stop = context.WithTimeout(run, f.Timeout)
		defer stop()
	}
	stop := t.watch(func(why error) { rs.leave(a, why) })
	defer stop()
	next, err := call(run, h, f.Message, t.cfg.Logger)
	out, err = t.outcome(f, next, err)
	return out, err
}

// await waits for the handler that runs for another copy of the message.
func (t *talk) await(ctx context.Context, f *Frame, a *asker) (Frame, error) {
	rs := t.cfg.Replies
	gone := make(chan error, 1)
	stop := t.watch(func(why error) { gone <- why })
	defer stop()
	var late <-chan time.Time
	if f.Timeout > 0 {
		timer := time.NewTimer(f.Timeout)
		defer timer.Stop()
		late = timer.C
	}
	select {
	case out := <-a.answer:
		return out, out.reported()
	case why := <-gone:
		rs.leave(a, why)
		return Frame{}, fmt.Errorf("the asking side went away: %w", why)
	case <-late:
		rs.leave(a, context.DeadlineExceeded)
		return t.outcome(f, Message{}, context.DeadlineExceeded)
	case <-ctx.Done():
		rs.leave(a, context.Cause(ctx))
		return Frame{}, reason(ctx, nil)
	}
}

// outcome makes the answer to a message of what the handler returned. One that cannot be sent is CodeInternal and nothing else,
// since the request was executed and other codes would mislead.
func (t *talk) outcome(f *Frame, next Message, err error) (Frame, error) {
	out := t.cfg.none()
	switch {
	case err != nil:
		out = answerTo(err)
	case !next.IsNone():
		out = Frame{Kind: KindMessage, Message: t.cfg.next(next, f.Message.ID)}
	}
	out.Incarnation = t.cfg.incarnation()
	if err == nil {
		if err = t.cfg.fits(out); err != nil {
			err = fmt.Errorf("send the reply: %w", err)
			out = answerTo(CodeInternal)
			out.Incarnation = t.cfg.incarnation()
		}
	}
	return out, err
}

// fits returns why a frame cannot be sent, if it cannot.
func (c *Config) fits(f Frame) error {
	if size := f.size(); size > c.Limit {
		return fmt.Errorf("%w: a frame of %d bytes, the limit is %d", ErrTooLarge, size, c.Limit)
	}
	if err := f.check(); err != nil {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return nil
}

func (c *Config) incarnation() uint64 {
	if c.Replies == nil {
		return 0
	}
	return c.Replies.Incarnation()
}

func (c *Config) none() Frame { return Frame{Kind: KindNone, Incarnation: c.incarnation()} }

// reported returns what Serve reports of an answer that it has not made: nil, unless that is an error.
func (f *Frame) reported() error {
	switch {
	case f.Kind != KindError:
		return nil
	case f.Text == "":
		return f.Code
	}
	return fmt.Errorf("%w: %w", f.Code, errors.New(f.Text))
}
