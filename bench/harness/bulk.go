package harness

import (
	"context"
	"errors"
	"io"
	"sync/atomic"
	"time"
)

// bulk measures how much arrives on so many streams at once of one connection.
func bulk(streams int) func(ctx context.Context, s *session, d time.Duration) (Figures, error) {
	return func(ctx context.Context, s *session, d time.Duration) (Figures, error) {
		c, err := s.dial(ctx)
		if err != nil {
			return Figures{}, err
		}
		defer c.Close()
		t := newTransfer(ctx, s, c, streams)
		time.Sleep(d / 5) // windows open, buffers grow
		before, began := s.server.received.Load(), time.Now()
		time.Sleep(d)
		for s.server.received.Load() == before && ctx.Err() == nil && len(t.failed) == 0 {
			time.Sleep(time.Millisecond) // d was too short for a chunk
		}
		got, took := s.server.received.Load()-before, time.Since(began)
		return Figures{Value: float64(got) / 1e6 / took.Seconds()}, t.end()
	}
}

// transfer is a bulk transfer under way.
type transfer struct {
	stop   atomic.Bool
	failed chan error // gets one error, or nil, of each stream
	n      int
}

func newTransfer(ctx context.Context, s *session, c Conn, streams int) *transfer {
	t := &transfer{failed: make(chan error, streams), n: streams}
	for range streams {
		go func() { t.failed <- t.send(ctx, s, c) }()
	}
	return t
}

// end sends the last chunks, and returns when the other end has confirmed them, or with what went wrong.
func (t *transfer) end() error {
	t.stop.Store(true)
	var errs []error
	for range t.n {
		errs = append(errs, <-t.failed)
	}
	return errors.Join(errs...)
}

func (t *transfer) send(ctx context.Context, s *session, c Conn) error {
	st, end, err := s.open(ctx, c)
	if err != nil {
		return err
	}
	defer end()
	if _, err := st.Write(newRequest(opBulk)); err != nil {
		return err
	}
	for i := 0; ; i = (i + 1) % chunks {
		chunk := s.pattern.chunk[i]
		last := t.stop.Load()
		if last {
			chunk = s.pattern.last[i]
		}
		if _, err := st.Write(chunk); err != nil {
			return err
		}
		if last {
			break
		}
	}
	reply := make([]byte, BlockSize)
	if _, err := io.ReadFull(st, reply); err != nil {
		return err
	}
	return check("the confirmation", reply, s.pattern.reply)
}
