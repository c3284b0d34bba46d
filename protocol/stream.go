package protocol

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/transport"
)

// watchDelay is how long a handler runs before its stream is watched for the asking side going away. Most handlers are
// done before, and cost no goroutine.
const watchDelay = 5 * time.Millisecond

// talk is one stream of the message service, on either side. It is for one goroutine.
type talk struct {
	s    transport.Stream
	peer identity.ID
	cfg  Config
	idle time.Duration // how long the peer may be silent; zero or less is without bound
	way  watcher       // nil: the stream itself

	ahead    [1]byte // what came while a handler ran
	hasAhead bool
}

// Read implements io.Reader.
func (t *talk) Read(p []byte) (int, error) {
	if t.hasAhead && len(p) > 0 {
		p[0], t.hasAhead = t.ahead[0], false
		return 1, nil
	}
	return t.s.Read(p)
}

// receive reads the next frame. io.EOF means that the peer has ended its direction between two frames.
func (t *talk) receive() (Frame, error) {
	f, err := readFrame(t, t.cfg.Limit, func() error {
		if t.idle <= 0 {
			return nil
		}
		return t.s.SetReadDeadline(time.Now().Add(t.idle))
	})
	f.Message.From = t.peer
	if errors.Is(err, os.ErrDeadlineExceeded) && t.idle > 0 {
		err = fmt.Errorf("the peer said nothing for %v: %w", t.idle, err)
	}
	return f, err
}

// send writes a frame, after prefix, in one Write.
func (t *talk) send(prefix []byte, f Frame) error {
	b, err := f.Append(append(make([]byte, 0, len(prefix)+4+f.size()), prefix...), t.cfg.Limit)
	if err != nil {
		return err
	}
	return t.write(b)
}

func (t *talk) write(b []byte) error {
	if t.idle > 0 {
		// In the measure in which a peer may take its time to send.
		chunks := time.Duration(1 + len(b)/maxChunk)
		if err := t.s.SetWriteDeadline(time.Now().Add(t.idle * chunks)); err != nil {
			return err
		}
	}
	_, err := t.s.Write(b)
	return err
}

// handle runs h for a message that came with a timeout, and ends its context when the peer goes away.
func (t *talk) handle(ctx context.Context, h Handler, f *Frame) (Message, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if f.Timeout > 0 {
		var stop context.CancelFunc
		ctx, stop = context.WithTimeout(ctx, f.Timeout)
		defer stop()
	}
	defer t.watch(cancel)()
	return call(ctx, h, f.Message, t.cfg.Logger)
}

// watcher calls gone when the peer goes away while a handler runs. The returned function ends that and waits for it.
type watcher interface {
	watch(gone context.CancelCauseFunc) (stop func())
}

// watch reads from the stream while a handler runs, since that is how one learns that the peer has gone, and then calls gone,
// unless there is another way to learn it. The peer may have ended its direction already, or send its next frame early: both end
// the watch and change nothing. The returned function ends the watch and returns when nobody reads any more.
func (t *talk) watch(gone context.CancelCauseFunc) (stop func()) {
	if t.way != nil {
		return t.way.watch(gone)
	}
	var mu sync.Mutex
	stopped := false // guarded by mu
	done := make(chan struct{})
	timer := time.AfterFunc(watchDelay, func() {
		defer close(done)
		mu.Lock()
		if !stopped {
			t.s.SetReadDeadline(time.Time{}) // that of the frame before
		}
		mu.Unlock()
		n, err := t.s.Read(t.ahead[:])
		t.hasAhead = n == 1
		if err != nil && err != io.EOF && !errors.Is(err, os.ErrDeadlineExceeded) {
			gone(err)
		}
	})
	return func() {
		if timer.Stop() {
			return
		}
		mu.Lock()
		stopped = true
		t.s.SetReadDeadline(time.Unix(1, 0))
		mu.Unlock()
		<-done
		t.s.SetReadDeadline(time.Time{})
	}
}

// resetWhenDone resets s when ctx ends. The returned function ends that and waits for it.
func resetWhenDone(ctx context.Context, s transport.Stream, code transport.Code) (stop func()) {
	done := make(chan struct{})
	stopped := context.AfterFunc(ctx, func() {
		defer close(done)
		s.Reset(code)
	})
	return func() {
		if !stopped() {
			<-done
		}
	}
}

// reason returns the reason why something failed: the end of ctx, if it has ended, else err.
func reason(ctx context.Context, err error) error {
	end := ctx.Err()
	if end == nil {
		return err
	}
	if cause := context.Cause(ctx); !errors.Is(cause, end) {
		return fmt.Errorf("%w: %w", end, cause)
	}
	return context.Cause(ctx)
}

// remaining returns how long ctx lasts, zero if that is not known. What has passed already is a nanosecond.
func remaining(ctx context.Context) time.Duration {
	end, ok := ctx.Deadline()
	if !ok {
		return 0
	}
	return max(time.Until(end), 1)
}
