package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"
	"unicode"

	"golang.org/x/term"

	"github.com/Blockchain-CN/pheromones"
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
// makes it stop at once; then ignored is called, since further ones are not looked at. It returns when everything it started
// has ended, but for reads of in and writes to out, which nothing can end.
func run(args []string, in io.Reader, out, errOut io.Writer, signals <-chan os.Signal, ignored func()) int {
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
		ignored()
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

// follow logs what becomes of the routes and links of n, with -v. It returns what waits for the end of that, after n's.
func (p *program) follow(n *pheromones.Node) (wait func()) {
	log := p.logger()
	if log == nil {
		return func() {}
	}
	w := n.Watch()
	var following sync.WaitGroup
	following.Go(func() {
		for e := range w.C() {
			log.Info(string(e.Kind), "peer", e.Route.ID, "name", e.Route.Name, "addrs", e.Route.Addrs, "reason", e.Reason)
		}
	})
	return following.Wait
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

// clean returns text of a peer, who may have put anything into it, as it may be shown on a terminal: on one line, and without
// control characters.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, s)
}
