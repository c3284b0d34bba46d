package portmap

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

var (
	// ErrNoGateway: this machine has no default gateway for IPv4, or none that can be found out.
	ErrNoGateway = errors.New("no default gateway is known")
	// ErrNoAnswer: the router does not speak the protocol, or drops what it is sent.
	ErrNoAnswer = errors.New("no answer")
	// ErrBadAnswer: the router answered against the rules of the protocol.
	ErrBadAnswer = errors.New("bad answer")
	// ErrNotPublic: the router's own outside address is none that others can reach: it stands behind another NAT, or its line is down.
	ErrNotPublic = errors.New("not a public address")
)

// RefusedError is what asking ends with if the router said no. errors.As finds it.
type RefusedError struct {
	Code   int    // as the protocol has it
	Reason string // in words: the protocol's or the router's, at most 200 bytes, printable
}

func (e *RefusedError) Error() string { return fmt.Sprintf("refused: %s (%d)", e.Reason, e.Code) }

// Error says which protocol and router an error is about. errors.As finds it; it wraps what was wrong.
type Error struct {
	Protocol Protocol
	Gateway  netip.Addr
	Err      error
}

func (e *Error) Error() string {
	return fmt.Sprintf("portmap: %s at the router %s: %v", e.Protocol, e.Gateway, e.Err)
}

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }

func badAnswer(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrBadAnswer, fmt.Sprintf(format, args...))
}

// printable bounds a text of a router and takes out what could confuse a terminal.
func printable(s string) string {
	s = s[:min(len(s), 200)]
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 || r == '\uFFFD' {
			return '?'
		}
		return r
	}, s)
}
