package harness

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// echoes are exchanges on one stream, one after the other.
type echoes struct {
	Stream
	request, want, reply []byte
	end                  func()
}

func newEchoes(ctx context.Context, s *session, c Conn) (*echoes, error) {
	st, end, err := s.open(ctx, c)
	if err != nil {
		return nil, err
	}
	return &echoes{st, newRequest(opEcho), s.pattern.reply, make([]byte, BlockSize), end}, nil
}

func (e *echoes) one() error {
	if _, err := e.Write(e.request); err != nil {
		return err
	}
	if _, err := io.ReadFull(e.Stream, e.reply); err != nil {
		return err
	}
	return check("a reply", e.reply, e.want)
}

// during makes exchanges for d.
func (e *echoes) during(d time.Duration) (n int64, err error) {
	for began := time.Now(); err == nil && (n == 0 || time.Since(began) < d); n++ {
		err = e.one()
	}
	return n, err
}

// exchange measures requests and replies on one stream.
func exchange(ctx context.Context, s *session, d time.Duration) (Figures, error) {
	c, err := s.dial(ctx)
	if err != nil {
		return Figures{}, err
	}
	defer c.Close()
	e, err := newEchoes(ctx, s, c)
	if err != nil {
		return Figures{}, err
	}
	defer e.end()
	if _, err := e.during(d / 10); err != nil {
		return Figures{}, err
	}
	m := startMeter()
	n, err := e.during(d)
	return m.rate(n), err
}

// tail measures exchanges on one stream while another of the same connection carries a bulk transfer.
func tail(ctx context.Context, s *session, d time.Duration) (Figures, error) {
	c, err := s.dial(ctx)
	if err != nil {
		return Figures{}, err
	}
	defer c.Close()
	e, err := newEchoes(ctx, s, c)
	if err != nil {
		return Figures{}, err
	}
	defer e.end()
	if err := e.one(); err != nil {
		return Figures{}, err
	}
	t := newTransfer(ctx, s, c, 1)
	var took []time.Duration
	for warm := time.Now(); err == nil && time.Since(warm) < d/5; {
		err = e.one()
	}
	before, began := s.server.received.Load(), time.Now()
	for last := began; err == nil && (len(took) == 0 || last.Sub(began) < d); {
		err = e.one()
		now := time.Now()
		took = append(took, now.Sub(last))
		last = now
	}
	beside := float64(s.server.received.Load()-before) / 1e6 / time.Since(began).Seconds()
	if err := errors.Join(err, t.end()); err != nil {
		return Figures{}, err
	}
	slices.Sort(took)
	at := func(q float64) float64 { return float64(took[int(q*float64(len(took)-1))]) / 1e3 }
	return Figures{at(0.99), map[string]float64{"p50 µs": at(0.5), "bulk MB/s": beside}}, nil
}

// together runs f in so many goroutines, again and again for d, and returns how often it has returned without an error.
func together(goroutines int, d time.Duration, f func() error) (int64, error) {
	var (
		n    atomic.Int64
		wait sync.WaitGroup
		errs = make(chan error, goroutines)
	)
	began := time.Now()
	for range goroutines {
		wait.Go(func() {
			for {
				if err := f(); err != nil {
					errs <- err
					return
				}
				n.Add(1)
				if time.Since(began) >= d {
					return
				}
			}
		})
	}
	wait.Wait()
	select {
	case err := <-errs:
		return 0, fmt.Errorf("after %d exchanges: %w", n.Load(), err)
	default:
		return n.Load(), nil
	}
}

// fresh measures exchanges that have a stream each, 64 at once.
func fresh(ctx context.Context, s *session, d time.Duration) (Figures, error) {
	c, err := s.dial(ctx)
	if err != nil {
		return Figures{}, err
	}
	defer c.Close()
	request := newRequest(opOnce)
	one := func() error {
		st, end, err := s.open(ctx, c)
		if err != nil {
			return err
		}
		defer end()
		return s.once(st, request)
	}
	if _, err := together(64, d/5, one); err != nil {
		return Figures{}, err
	}
	m := startMeter()
	n, err := together(64, d, one)
	return m.rate(n), err
}

// once makes one exchange on a stream that is for no more, and ends it in order.
func (s *session) once(st Stream, request []byte) error {
	if _, err := st.Write(request); err != nil {
		return err
	}
	h, halves := st.(halfCloser)
	if halves {
		if err := h.CloseWrite(); err != nil {
			return err
		}
	}
	reply := make([]byte, BlockSize)
	if _, err := io.ReadFull(st, reply); err != nil {
		return err
	}
	if err := check("a reply", reply, s.pattern.reply); err != nil {
		return err
	}
	if halves {
		if n, err := st.Read(reply); n != 0 || err != io.EOF {
			return fmt.Errorf("after the reply there are %d bytes and %v, want the end", n, err)
		}
	}
	return nil
}

// call measures calls, 64 at once.
func call(ctx context.Context, s *session, d time.Duration) (Figures, error) {
	c, err := s.net.Dial(ctx)
	if err != nil {
		return Figures{}, err
	}
	defer c.Close()
	request := newRequest(opOnce)
	one := func() error {
		reply, err := c.Call(ctx, request)
		if err != nil {
			return err
		}
		return check("a reply", reply, s.pattern.reply)
	}
	if _, err := together(64, d/5, one); err != nil {
		return Figures{}, err
	}
	m := startMeter()
	n, err := together(64, d, one)
	return m.rate(n), err
}
