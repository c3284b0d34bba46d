package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/router"
	"github.com/Blockchain-CN/pheromones/transport"
)

// The exit codes. exitCodes tells people of them.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitUnreachable = 3
	exitBroken      = 4
	exitInterrupted = 130
)

const exitCodes = `Exit codes:
  0    success; also when a signal ends what runs until then: serve, ping with a reply, pipe --listen
  1    the operation failed: the peer answered with an error, did not answer in time, a file could not be read, …
  2    the command line makes no sense
  3    the peer could not be reached, or is not the one whose ID the address has
  4    a transport or node breaks rules of a conformance suite
  130  interrupted by a signal (Ctrl-C or SIGTERM); serve, when a second one stops it at once
`

// exitError is an error that chooses the exit code.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error {
	return &exitError{exitUsage, fmt.Errorf(format, args...)}
}

// exitCode returns the code that err means. ctx is that of the whole command.
func exitCode(ctx context.Context, err error) int {
	var chosen *exitError
	var dial *router.DialError
	var op *transport.OpError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &chosen):
		return chosen.code
	case interrupted(ctx) && (errors.Is(err, context.Canceled) || errors.Is(err, errInterrupted)):
		return exitInterrupted
	case errors.Is(err, identity.ErrWrongPeer), errors.As(err, &dial), errors.As(err, &op) && op.Op == "dial":
		return exitUnreachable
	}
	return exitFailed
}

// oneLine returns the text of an error on one line, without the name of the command, which is printed before it. Of a peer
// that could not be reached it says which addresses failed and why, and no more.
func oneLine(err error) string {
	var dial *router.DialError
	var op *transport.OpError
	switch {
	case errors.As(err, &dial) && len(dial.Attempts) > 0:
		var parts []string
		for _, a := range dial.Attempts {
			reason := a.Err
			if errors.As(reason, &op) {
				reason = op.Err
			}
			parts = append(parts, fmt.Sprintf("%s: %v", a.Addr, reason))
		}
		err = errors.New("cannot reach " + strings.Join(parts, "; "))
	case errors.As(err, &op) && op.Op == "dial":
		err = fmt.Errorf("cannot reach %s: %w", op.Addr, op.Err)
	}
	var parts []string
	for line := range strings.Lines(err.Error()) {
		if line = strings.TrimSpace(line); line != "" {
			parts = append(parts, clean(strings.TrimPrefix(line, "pheromones: ")))
		}
	}
	return strings.Join(parts, "; ")
}

// failure is an error as --json shows it.
type failure struct {
	Error string `json:"error"`
	Exit  int    `json:"exit"`
}

// report tells of err, the outcome of the command of that name, and returns the exit code.
func (p *program) report(ctx context.Context, name string, err error) int {
	if err == nil && p.out.failed() != nil {
		err = fmt.Errorf("writing to standard output: %w", p.out.failed())
	}
	code := exitCode(ctx, err)
	if err == nil {
		return code
	}
	text := oneLine(err)
	if code == exitInterrupted {
		text = errInterrupted.Error()
	}
	if code == exitUsage {
		text += fmt.Sprintf(` (see "%s --help")`, name)
	}
	p.note("%s", text)
	if p.json {
		p.object(failure{text, code})
	}
	return code
}
