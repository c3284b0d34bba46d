package transport_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"unicode/utf8"

	"github.com/Blockchain-CN/pheromones/transport"
)

// timeoutError is a net.Error of the layer below.
type timeoutError struct{ timeout bool }

func (e timeoutError) Error() string   { return "below" }
func (e timeoutError) Timeout() bool   { return e.timeout }
func (e timeoutError) Temporary() bool { return false }

func TestErrorsIs(t *testing.T) {
	targets := map[string]error{
		"net.ErrClosed": net.ErrClosed, "ErrClosed": transport.ErrClosed, "ErrLost": transport.ErrLost, "io.EOF": io.EOF,
		"deadline": os.ErrDeadlineExceeded, "context": context.DeadlineExceeded, "ECONNRESET": syscall.ECONNRESET,
		"ErrBadAddr": transport.ErrBadAddr, "none": transport.CodeNone, "limit": transport.CodeLimit,
		"shutdown": transport.CodeShutdown, "user": transport.CodeUser + 7, "unsupported": errors.ErrUnsupported,
	}
	for name, test := range map[string]struct {
		err     error
		is      string // the targets that it is, no others
		timeout bool
	}{
		"close, local":  {err: &transport.CloseError{Code: transport.CodeLimit}, is: "net.ErrClosed ErrClosed limit"},
		"close, remote": {err: &transport.CloseError{Code: transport.CodeLimit, Remote: true}, is: "limit"},
		"close, no code": {
			err: &transport.CloseError{Reason: "enough", Remote: true}, is: "none",
		},
		"close, code of a program": {err: &transport.CloseError{Code: 263, Remote: true}, is: "user"},
		"reset, local":             {err: &transport.ResetError{Code: transport.CodeShutdown}, is: "net.ErrClosed ErrClosed shutdown"},
		"reset, remote":            {err: &transport.ResetError{Code: transport.CodeShutdown, Remote: true}, is: "shutdown"},
		"reset, code of a program": {err: &transport.ResetError{Code: 263}, is: "net.ErrClosed ErrClosed user"},

		"lost":             {err: &transport.LostError{}, is: "ErrLost"},
		"lost, reset":      {err: &transport.LostError{Err: fmt.Errorf("read: %w", syscall.ECONNRESET)}, is: "ErrLost ECONNRESET"},
		"lost, silent":     {err: &transport.LostError{Err: os.ErrDeadlineExceeded}, is: "ErrLost deadline", timeout: true},
		"lost, idle":       {err: &transport.LostError{Err: timeoutError{true}}, is: "ErrLost", timeout: true},
		"lost, no time":    {err: &transport.LostError{Err: timeoutError{false}}, is: "ErrLost"},
		"lost, EOF":        {err: &transport.LostError{Err: io.EOF}, is: "ErrLost"},
		"lost, EOF deeper": {err: &transport.LostError{Err: fmt.Errorf("read: %w", io.EOF)}, is: "ErrLost"},
		"lost, closed":     {err: &transport.LostError{Err: &net.OpError{Op: "read", Err: net.ErrClosed}}, is: "ErrLost"},

		"closed":   {err: transport.ErrClosed, is: "net.ErrClosed ErrClosed"},
		"bad addr": {err: transport.ErrBadAddr, is: "ErrBadAddr"},
		"code":     {err: transport.CodeLimit, is: "limit"},

		"op, closed":   {err: &transport.OpError{Op: "dial", Err: transport.ErrClosed}, is: "net.ErrClosed ErrClosed"},
		"op, bad addr": {err: &transport.OpError{Op: "dial", Err: transport.ErrBadAddr}, is: "ErrBadAddr"},
		"op, context":  {err: &transport.OpError{Op: "dial", Err: context.DeadlineExceeded}, is: "context", timeout: true},
		"op, cancel":   {err: &transport.OpError{Op: "dial", Err: context.Canceled}},
		"op, unsupported": {
			err: &transport.OpError{Op: "open stream", Err: fmt.Errorf("a second: %w", errors.ErrUnsupported)}, is: "unsupported",
		},
		"op, remote close": {
			err: &transport.OpError{Op: "accept stream", Err: &transport.CloseError{Code: transport.CodeLimit, Remote: true}}, is: "limit",
		},
		"op, local close": {
			err: &transport.OpError{Op: "accept stream", Err: &transport.CloseError{Code: transport.CodeLimit}},
			is:  "net.ErrClosed ErrClosed limit",
		},
		"op, lost": {
			err: &transport.OpError{Op: "open stream", Err: &transport.LostError{Err: os.ErrDeadlineExceeded}},
			is:  "ErrLost deadline", timeout: true,
		},
		"op, of several": {
			err: &transport.OpError{Op: "dial", Err: errors.Join(syscall.ECONNRESET, os.ErrDeadlineExceeded)},
			is:  "ECONNRESET deadline", timeout: true,
		},
	} {
		for _, how := range []string{"bare", "wrapped", "joined"} {
			err := test.err
			switch how {
			case "wrapped":
				err = fmt.Errorf("more: %w", err)
			case "joined":
				err = errors.Join(errors.New("another"), err)
			}
			want := strings.Fields(test.is)
			for target, sentinel := range targets {
				expected := false
				for _, w := range want {
					expected = expected || w == target
				}
				if got := errors.Is(err, sentinel); got != expected {
					t.Errorf("%s, %s: errors.Is(err, %s) = %v", name, how, target, got)
				}
			}
		}
		if te, ok := test.err.(interface{ Timeout() bool }); ok && te.Timeout() != test.timeout || !ok && test.timeout {
			t.Errorf("%s: Timeout() is not %v", name, test.timeout)
		}
	}
}

func TestErrorsAs(t *testing.T) {
	closed := &transport.CloseError{Code: 300, Reason: "because", Remote: true}
	reset := &transport.ResetError{Code: 301}
	lost := &transport.LostError{Err: io.EOF}
	addr := transport.Addr{Scheme: "quic", HostPort: "127.0.0.1:1"}
	op := &transport.OpError{Op: "dial", Addr: addr, Err: closed}

	var (
		asClosed *transport.CloseError
		asReset  *transport.ResetError
		asLost   *transport.LostError
		asOp     *transport.OpError
		asNet    net.Error
	)
	wrap := func(err error) error { return fmt.Errorf("more: %w", err) }
	if !errors.As(wrap(op), &asClosed) || asClosed != closed || !errors.As(wrap(op), &asOp) || asOp.Addr != addr {
		t.Error("an OpError does not give its CloseError or itself")
	}
	if errors.As(op, &asReset) || errors.As(op, &asLost) {
		t.Error("a CloseError passes for another error")
	}
	if !errors.As(wrap(reset), &asReset) || asReset != reset || errors.As(wrap(reset), &asOp) && asOp.Err == error(reset) {
		t.Error("a ResetError is not found")
	}
	if !errors.As(wrap(lost), &asLost) || asLost.Err != io.EOF {
		t.Error("a LostError is not found, or has lost its reason")
	}
	if !errors.As(wrap(op), &asNet) || asNet.Timeout() {
		t.Error("an OpError is no net.Error, or says it is a timeout")
	}
}

func TestErrorText(t *testing.T) {
	addr := transport.Addr{Scheme: "quic", HostPort: "127.0.0.1:1"}
	for _, test := range []struct {
		err  error
		want string
	}{
		{&transport.CloseError{}, "transport: connection closed by us (none)"},
		{&transport.CloseError{Code: 7, Reason: "a\nb", Remote: true}, `transport: connection closed by the peer (superseded): "a\nb"`},
		{&transport.ResetError{Code: 10, Remote: true}, "transport: stream reset by the peer (unknown service)"},
		{&transport.ResetError{Code: 256}, "transport: stream reset by us (256)"},
		{&transport.LostError{}, "transport: the connection was lost"},
		{&transport.LostError{Err: io.EOF}, "transport: the connection was lost: EOF"},
		{&transport.OpError{Op: "dial", Addr: addr, Err: io.ErrUnexpectedEOF}, "transport: dial quic://127.0.0.1:1: unexpected EOF"},
		{&transport.OpError{Op: "accept", Err: io.ErrUnexpectedEOF}, "transport: accept: unexpected EOF"},
		{transport.CodeLimit, "transport: code limit"},
	} {
		if got := test.err.Error(); got != test.want {
			t.Errorf("got %q, want %q", got, test.want)
		}
	}
}

// TestCodes holds the codes to their numbers, which are part of the wire.
func TestCodes(t *testing.T) {
	for want, test := range []struct {
		code transport.Code
		name string
	}{
		{transport.CodeNone, "none"}, {transport.CodeInternal, "internal"}, {transport.CodeProtocol, "protocol"},
		{transport.CodeRefused, "refused"}, {transport.CodeCancelled, "cancelled"}, {transport.CodeLimit, "limit"},
		{transport.CodeShutdown, "shutdown"}, {transport.CodeSuperseded, "superseded"}, {transport.CodeIdle, "idle"},
		{transport.CodeTimeout, "timeout"}, {transport.CodeUnknownService, "unknown service"}, {transport.CodeClosed, "closed"},
		{transport.Code(12), "12"},
	} {
		if test.code != transport.Code(want) || test.code.String() != test.name {
			t.Errorf("code %d is %v, want %d, %s", test.code, test.code, want, test.name)
		}
	}
	if transport.CodeUser != 256 {
		t.Errorf("CodeUser is %d, want 256", transport.CodeUser)
	}
	if got := transport.Code(math.MaxUint32).String(); got != "4294967295" {
		t.Errorf("the largest code is %q", got)
	}
}

func TestCutReason(t *testing.T) { // SPEC.md EN3
	const limit = transport.MaxReason
	for name, test := range map[string]struct{ in, want string }{
		"empty":           {"", ""},
		"short":           {"because", "because"},
		"just fits":       {strings.Repeat("a", limit), strings.Repeat("a", limit)},
		"one too long":    {strings.Repeat("a", limit+1), strings.Repeat("a", limit)},
		"rune across":     {strings.Repeat("a", limit-1) + "é", strings.Repeat("a", limit-1)},
		"rune just fits":  {strings.Repeat("a", limit-2) + "éx", strings.Repeat("a", limit-2) + "é"},
		"long rune":       {strings.Repeat("a", limit-3) + "😀", strings.Repeat("a", limit-3)},
		"enormous":        {strings.Repeat("é", 1<<20), strings.Repeat("é", limit/2)},
		"invalid":         {"a\xffb", "a\uFFFDb"},
		"invalid, longer": {strings.Repeat("a\xff", limit), strings.Repeat("a\uFFFD", limit/4)},
	} {
		got := transport.CutReason(test.in)
		if got != test.want {
			t.Errorf("%s: got %d bytes %.20q…, want %d bytes", name, len(got), got, len(test.want))
		}
		if len(got) > limit || !utf8.ValidString(got) {
			t.Errorf("%s: %d bytes, valid: %v", name, len(got), utf8.ValidString(got))
		}
	}
}
