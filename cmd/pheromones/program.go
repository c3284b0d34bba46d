package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"golang.org/x/term"
)

// program is one run of the command: where it reads and writes, and what its common flags say.
type program struct {
	in       io.Reader
	out, err *output
	hard     <-chan struct{} // closed by the second signal

	verbose bool
	json    bool
}

// errInterrupted is the cause of a context that a signal has ended.
var errInterrupted = errors.New("interrupted")

// run executes the command line args and returns the exit code. The first signal ends the context of what runs, the second
// makes it stop at once. It returns when everything it started has ended, but for a read of in, which nothing can end.
func run(args []string, in io.Reader, out, errOut io.Writer, signals <-chan os.Signal) int {
	hard := make(chan struct{})
	p := &program{in: in, out: &output{w: out}, err: &output{w: errOut}, hard: hard}
	ctx, interrupt := context.WithCancelCause(context.Background())
	over := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() {
		defer interrupt(nil)
		for _, stop := range []func(){func() { interrupt(errInterrupted) }, func() { close(hard) }} {
			select {
			case <-signals:
				stop()
			case <-over:
				return
			}
		}
		<-over
	})
	code := p.execute(ctx, args)
	close(over)
	watching.Wait()
	return code
}

// interrupted reports whether a signal has ended ctx.
func interrupted(ctx context.Context) bool { return context.Cause(ctx) == errInterrupted }

// logger returns what nodes log to: standard error with -v, else nothing.
func (p *program) logger() *slog.Logger {
	if !p.verbose {
		return nil
	}
	return slog.New(slog.NewTextHandler(p.err, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// line writes a line to standard output.
func (p *program) line(format string, args ...any) { fmt.Fprintf(p.out, format+"\n", args...) }

// note tells the person at the terminal something: a line on standard error.
func (p *program) note(format string, args ...any) {
	fmt.Fprintf(p.err, "pheromones: "+format+"\n", args...)
}

// object writes v to standard output as JSON, on one line.
func (p *program) object(v any) {
	e := json.NewEncoder(p.out)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		p.out.fail(err)
	}
}

// output is a writer that may be used from any goroutine and remembers its first error, so that printing needs no care.
type output struct {
	w   io.Writer
	mu  sync.Mutex
	err error
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err != nil {
		return 0, o.err
	}
	n, err := o.w.Write(b)
	o.err = err
	return n, err
}

func (o *output) fail(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err == nil {
		o.err = err
	}
}

func (o *output) failed() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.err
}

// isTerminal reports whether x, a reader or writer, is a terminal.
func isTerminal(x any) bool {
	if o, ok := x.(*output); ok {
		x = o.w
	}
	f, ok := x.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// ms returns d in milliseconds, to the microsecond.
func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
