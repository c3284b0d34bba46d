package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Code says why a connection was closed or a stream reset. It travels to the other side. Codes below CodeUser are the
// toolkit's; programs choose theirs from CodeUser on. A Code is an error, so that errors.Is(err, code) asks whether err
// is, or wraps, a close or reset with that code.
type Code uint32

// The codes of the toolkit. SPEC.md lists them as part of the wire.
const (
	CodeNone           Code = 0  // nothing is wrong
	CodeInternal       Code = 1  // a fault on the side that closes
	CodeProtocol       Code = 2  // the other side broke the protocol
	CodeRefused        Code = 3  // this side does not want the connection or stream, and has acted on nothing that came by it
	CodeCancelled      Code = 4  // whoever wanted the result has gone
	CodeLimit          Code = 5  // a limit of this side was exceeded
	CodeShutdown       Code = 6  // this side is going away
	CodeSuperseded     Code = 7  // another connection to the same peer has taken over
	CodeIdle           Code = 8  // nothing went over the connection for too long
	CodeTimeout        Code = 9  // the other side took too long
	CodeUnknownService Code = 10 // this side has no such service
	CodeClosed         Code = 11 // the stream's reader has closed it

	CodeUser Code = 256 // the first code of programs
)

var codeNames = [...]string{"none", "internal", "protocol", "refused", "cancelled", "limit", "shutdown", "superseded", "idle",
	"timeout", "unknown service", "closed"}

// String returns the code's name, or its number.
func (c Code) String() string {
	if int64(c) < int64(len(codeNames)) {
		return codeNames[c]
	}
	return strconv.FormatUint(uint64(c), 10)
}

// Error makes a Code a target for errors.Is.
func (c Code) Error() string { return "transport: code " + c.String() }

// ErrClosed is what calls on a listener, stream or transport fail with after this side closed it. It is net.ErrClosed.
var ErrClosed = fmt.Errorf("transport: %w", net.ErrClosed)

// ErrLost is matched by every [*LostError].
var ErrLost = errors.New("transport: the connection was lost")

// CloseError says that a connection was closed by somebody's decision. errors.Is matches it against its Code, and, if
// this side closed it, against net.ErrClosed.
type CloseError struct {
	Code   Code
	Reason string
	Remote bool // the other side closed it
}

func (e *CloseError) Error() string {
	s := "transport: connection closed by " + side(e.Remote) + " (" + e.Code.String() + ")"
	if e.Reason != "" {
		s += ": " + strconv.Quote(e.Reason)
	}
	return s
}

// Is implements errors.Is.
func (e *CloseError) Is(target error) bool { return isEnd(target, e.Code, e.Remote) }

// ResetError says that a stream was reset, or that its reader has closed it while we write. errors.Is matches it against
// its Code, and, if this side reset it, against net.ErrClosed.
type ResetError struct {
	Code   Code
	Remote bool // the other side reset it
}

func (e *ResetError) Error() string {
	return "transport: stream reset by " + side(e.Remote) + " (" + e.Code.String() + ")"
}

// Is implements errors.Is.
func (e *ResetError) Is(target error) bool { return isEnd(target, e.Code, e.Remote) }

func isEnd(target error, code Code, remote bool) bool {
	if c, ok := target.(Code); ok {
		return c == code
	}
	return !remote && (target == net.ErrClosed || target == ErrClosed)
}

func side(remote bool) string {
	if remote {
		return "the peer"
	}
	return "us"
}

// LostError says that a connection ended without anybody's decision: it was cut, reset by the network, or silent for too
// long. errors.Is matches it against ErrLost and what it unwraps to.
type LostError struct{ Err error }

func (e *LostError) Error() string {
	if e.Err == nil {
		return ErrLost.Error()
	}
	return ErrLost.Error() + ": " + e.Err.Error()
}

// Is implements errors.Is.
func (e *LostError) Is(target error) bool { return target == ErrLost }

// Unwrap returns what the layer below reported; it may be nil. An io.EOF or net.ErrClosed of that layer it keeps to itself,
// since neither has the peer ended a stream nor this side closed one.
func (e *LostError) Unwrap() error {
	if errors.Is(e.Err, io.EOF) || errors.Is(e.Err, net.ErrClosed) {
		return nil
	}
	return e.Err
}

// Timeout reports whether the connection was lost by silence.
func (e *LostError) Timeout() bool { return isTimeout(e.Err) }

// OpError says which operation failed at which address. It wraps the reason.
type OpError struct {
	Op   string // "dial", "listen", "accept", "open stream", "accept stream"
	Addr Addr
	Err  error
}

func (e *OpError) Error() string {
	s := "transport: " + e.Op
	if !e.Addr.IsZero() {
		s += " " + e.Addr.String()
	}
	return s + ": " + e.Err.Error()
}

// Unwrap returns e.Err.
func (e *OpError) Unwrap() error { return e.Err }

// Phase is how far a dial has come.
type Phase string

// The phases of a dial, in their order.
const (
	PhaseResolve   Phase = "resolve"   // looking up the host's addresses
	PhaseConnect   Phase = "connect"   // reaching a socket of the peer's
	PhaseHandshake Phase = "handshake" // agreeing on keys, each side proving who it is
)

// PhaseError says in which phase a dial has failed. Its text is that of the reason, which it wraps.
type PhaseError struct {
	Phase Phase
	Err   error
}

func (e *PhaseError) Error() string { return e.Err.Error() }

// Unwrap returns e.Err.
func (e *PhaseError) Unwrap() error { return e.Err }

// Timeout reports whether the reason is a deadline that has passed.
func (e *PhaseError) Timeout() bool { return isTimeout(e.Err) }

// In returns err as one that happened in a phase, unless it is nil or says so already.
func (p Phase) In(err error) error {
	var have *PhaseError
	if err == nil || errors.As(err, &have) {
		return err
	}
	return &PhaseError{p, err}
}

// Timeout reports whether the reason is a deadline that has passed.
func (e *OpError) Timeout() bool { return isTimeout(e.Err) }

// Temporary is there to satisfy net.Error. It is always false.
func (e *OpError) Temporary() bool { return false }

func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) || errors.As(err, &t) && t.Timeout()
}

// CutReason returns reason cut to at most MaxReason bytes, at the beginning of a rune, and with invalid UTF-8 replaced:
// what a transport sends of the reason of a CloseWithError.
func CutReason(reason string) string {
	reason = strings.ToValidUTF8(reason, "\uFFFD")
	if len(reason) <= MaxReason {
		return reason
	}
	n := MaxReason
	for !utf8.RuneStart(reason[n]) {
		n--
	}
	return reason[:n]
}
