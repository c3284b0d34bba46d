package conformance

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Blockchain-CN/pheromones/internal/leak"
	"github.com/Blockchain-CN/pheromones/transport"
)

const (
	soon   = 10 * time.Second * slowdown // a call that must return at once has this long
	moment = 30 * time.Millisecond       // a call that is still waiting after this counts as blocked
	maxSay = 8                           // findings shown of one rule

	maxStacks = 256 << 10 // bytes of stacks shown when a rule hangs
)

// env is the world of one check. Its methods may be called from the check's goroutine and from those it has started with
// spawn and start.
type env struct {
	h      *Transport
	t      *testing.T // nil outside of TestTransport
	traits transport.Traits
	soon   time.Duration   // within which a call that must return at once returns
	ctx    context.Context // ends with the check
	stop   context.CancelFunc

	mu       sync.Mutex
	where    string   // which of several situations the check is in
	findings []string // what was seen
	skipped  string
	over     bool     // nothing counts any more: the check has failed for good, or ended
	cleanups []func() // run in reverse order when the check has ended

	work sync.WaitGroup // goroutines of spawn
}

// run runs one rule to its end and cleans up after it, however it ends.
func (h *Transport) run(ctx context.Context, t *testing.T, r Rule, traits transport.Traits) (res Result) {
	began := time.Now()
	res.Rule = r
	defer func() { res.Elapsed = time.Since(began) }()
	if res.Skipped = h.missing(r.needs, traits, t); res.Skipped != "" {
		return res
	}
	limit := h.Watchdog
	if limit <= 0 {
		limit = 30 * time.Second
	}
	if limit *= slowdown; r.heavy {
		limit *= 2
	}
	before := leak.Take()
	e := &env{h: h, t: t, traits: traits, soon: cmp.Or(h.patience, soon)}
	e.ctx, e.stop = context.WithTimeout(ctx, limit)
	defer e.stop()

	done := make(chan struct{})
	go func() {
		defer close(done)
		defer e.recover()
		r.check(e)
	}()
	select {
	case <-done:
	case <-e.ctx.Done():
		// A failed check stops by itself; one that hangs does not.
		if errors.Is(e.ctx.Err(), context.DeadlineExceeded) {
			e.errorf("still not finished after %v; all goroutines:\n\n%s", limit, leak.Stacks(maxStacks))
		} else if ctx.Err() != nil {
			e.errorf("stopped: %v", context.Cause(ctx))
		}
	}
	failed := e.end()
	// With everything closed, the check's goroutines come loose even from calls that hung.
	clean := make(chan struct{})
	go func() {
		defer close(clean)
		e.clean()
		<-done
		e.work.Wait()
		e.clean() // what the check made while it was being stopped
	}()
	select {
	case <-clean:
	case <-time.After(2 * e.soon):
		failed = append(failed, fmt.Sprintf("closing the transports did not unblock every call within %v; all goroutines:\n\n%s",
			2*e.soon, leak.Stacks(maxStacks)))
	}
	if len(failed) == 0 && h.target == nil { // that one's process is not ours to look at, nor is the transport judged
		if err := before.Check(e.soon); err != nil {
			failed = append(failed, fmt.Sprintf("RE1: with both transports closed, want nothing of them left, got %v", err))
		}
	}
	if len(failed) > 0 {
		res.Err = &Finding{Rule: r, Seen: strings.Join(failed, "\n")}
		return res
	}
	res.Skipped = e.skipped
	return res
}

// end stops the check's context and returns its findings; what is reported later does not count.
func (e *env) end() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.over = true
	e.stop()
	return e.findings
}

// errorf reports that something is not as it must be; the check goes on.
func (e *env) errorf(format string, args ...any) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.over || len(e.findings) >= maxSay {
		return
	}
	s := fmt.Sprintf(format, args...)
	if e.where != "" {
		s = e.where + ": " + s
	}
	e.findings = append(e.findings, s)
}

// failf reports as errorf does and ends the check and the calling goroutine, one of the check's.
func (e *env) failf(format string, args ...any) {
	e.errorf(format, args...)
	e.end()
	runtime.Goexit()
}

// must ends the check if err is not nil.
func (e *env) must(err error, format string, args ...any) {
	if err != nil {
		e.failf("%s: want success, got %s", fmt.Sprintf(format, args...), describe(err))
	}
}

// skipf ends the check without a finding, for the reason given. Only the check's own goroutine may call it.
func (e *env) skipf(format string, args ...any) {
	e.mu.Lock()
	e.skipped = fmt.Sprintf(format, args...)
	e.mu.Unlock()
	runtime.Goexit()
}

// in names the situation that the following findings are about.
func (e *env) in(format string, args ...any) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.where = fmt.Sprintf(format, args...)
}

// cleanup has f run after the check.
func (e *env) cleanup(f func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.cleanups = append(e.cleanups, f)
}

// clean runs the cleanups, the latest first.
func (e *env) clean() {
	for {
		e.mu.Lock()
		n := len(e.cleanups)
		if n == 0 {
			e.mu.Unlock()
			return
		}
		f := e.cleanups[n-1]
		e.cleanups = e.cleanups[:n-1]
		e.mu.Unlock()
		f()
	}
}

// recover turns a panic of the transport into a finding.
func (e *env) recover() {
	if p := recover(); p != nil {
		e.errorf("panic: %v\n%s", p, debug.Stack())
		e.end()
	}
}

// sleep waits for d or the end of the check.
func (e *env) sleep(d time.Duration) {
	select {
	case <-time.After(d):
	case <-e.ctx.Done():
	}
}

// spawn runs f in a goroutine that the check's end waits for.
func (e *env) spawn(f func()) {
	e.work.Add(1)
	go func() {
		defer e.work.Done()
		defer e.recover()
		f()
	}()
}

// each runs f(0) to f(n-1), at most width of them at once, and returns when all have returned.
func (e *env) each(n, width int, f func(i int)) {
	places := make(chan struct{}, width)
	var all sync.WaitGroup
	for i := range n {
		select {
		case places <- struct{}{}:
		case <-e.ctx.Done():
			runtime.Goexit()
		}
		all.Add(1)
		e.spawn(func() {
			defer all.Done()
			defer func() { <-places }()
			f(i)
		})
	}
	all.Wait()
}

// call is a call of the transport that runs in a goroutine of its own.
type call struct {
	e    *env
	name string
	done chan struct{} // closed when the call has returned
	err  error         // what it returned; valid after done
}

// start begins a call.
func (e *env) start(name string, f func() error) *call {
	c := &call{e: e, name: name, done: make(chan struct{})}
	e.spawn(func() {
		defer close(c.done)
		c.err = f()
	})
	return c
}

// blocked gives the call a moment and ends the check if it returns in that time.
func (c *call) blocked() {
	select {
	case <-c.done:
		c.e.failf("%s: want it to wait, got an end with %s", c.name, describe(c.err))
	case <-time.After(moment):
	}
}

// wait returns what the call returned, and ends the check if it does not return soon.
func (c *call) wait() error { return c.within(c.e.soon) }

// within is wait with another bound.
func (c *call) within(bound time.Duration) error {
	select {
	case <-c.done:
	case <-c.e.ctx.Done():
		runtime.Goexit()
	case <-time.After(bound):
		c.e.failf("%s: want it to return, still waiting after %v; all goroutines:\n\n%s", c.name, bound, leak.Stacks(maxStacks))
	}
	return c.err
}

// progress waits until c has returned, and ends the check if it does not and n has not grown for a time.
func (e *env) progress(c *call, n *atomic.Int64, what string) {
	for {
		before := n.Load()
		select {
		case <-c.done:
			return
		case <-e.ctx.Done():
			runtime.Goexit()
		case <-time.After(e.soon):
		}
		if n.Load() == before {
			e.failf("%d %s, and no more came for %v", before, what, e.soon)
		}
	}
}

// promptly runs f and ends the check if it does not return soon.
func (e *env) promptly(name string, f func() error) error { return e.start(name, f).wait() }

// eventually calls f until it says true, and ends the check if it does not soon.
func (e *env) eventually(what string, f func() bool) {
	for end := time.Now().Add(e.soon); !f(); e.sleep(5 * time.Millisecond) {
		if e.ctx.Err() != nil {
			runtime.Goexit()
		}
		if time.Now().After(end) {
			e.failf("%s: not within %v", what, e.soon)
		}
	}
}

// printed runs f and returns what was meanwhile written to the standard logger, standard output and standard error.
func printed(f func()) (string, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return "", err
	}
	read := make(chan []byte, 1)
	go func() {
		text, _ := io.ReadAll(r)
		read <- text
	}()
	var logged lockedBuffer
	stdout, stderr, logger := os.Stdout, os.Stderr, log.Writer()
	os.Stdout, os.Stderr = w, w
	log.SetOutput(&logged)
	defer r.Close()
	func() {
		defer func() {
			os.Stdout, os.Stderr = stdout, stderr
			log.SetOutput(logger)
			w.Close()
		}()
		f()
	}()
	return logged.String() + string(<-read), nil
}

// lockedBuffer is a bytes.Buffer for several goroutines.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
