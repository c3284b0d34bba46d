package stun

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"
)

var (
	// ErrBadServer is what asking fails with if the address cannot be a server's: invalid, unspecified, multicast, or of port 0.
	ErrBadServer = errors.New("stun: not an address of a server")
	// ErrBusy is what asking fails with if too many transactions are under way. Wait for some to end.
	ErrBusy = errors.New("stun: too many transactions at once")
	// ErrBadResponse is what a transaction ends with if the server that was asked answered against the rules of RFC 8489.
	ErrBadResponse = errors.New("stun: bad response")
)

// RefusedError is what a transaction ends with if the server sent an error response. errors.As finds it.
type RefusedError struct {
	Code   int    // 300 to 699; 420: the server does not know an attribute, such as CHANGE-REQUEST
	Reason string // the server's words: at most 127 characters, none of them control characters
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("the server refused: %d %q", e.Code, e.Reason)
}

// NoAnswerError is what a transaction ends with if no answer came: the server is not there, UDP is blocked on the way, or, for a
// request with a [Change], a NAT or firewall let the answer not in. It is os.ErrDeadlineExceeded. errors.As finds it.
type NoAnswerError struct {
	Sent  int           // requests
	After time.Duration // since the first of them
}

func (e *NoAnswerError) Error() string {
	return fmt.Sprintf("no answer to %d requests within %v: nobody is there, or UDP is blocked", e.Sent, e.After)
}

// Timeout returns true.
func (e *NoAnswerError) Timeout() bool { return true }

// Is makes it a deadline that has passed.
func (e *NoAnswerError) Is(target error) bool { return target == os.ErrDeadlineExceeded }

// ServerError says which server an error is about. errors.As finds it; it wraps what was wrong.
type ServerError struct {
	Server netip.AddrPort // as it was asked
	Err    error
}

func (e *ServerError) Error() string { return fmt.Sprintf("stun: server %s: %v", e.Server, e.Err) }

// Unwrap returns Err.
func (e *ServerError) Unwrap() error { return e.Err }
