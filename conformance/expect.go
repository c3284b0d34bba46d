package conformance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"github.com/Blockchain-CN/pheromones/transport"
)

// changedError says where a flow of bytes differs from what was written.
type changedError struct{ at int64 }

func (e *changedError) Error() string { return fmt.Sprintf("%v, from byte %d on", errChanged, e.at) }
func (e *changedError) Unwrap() error { return errChanged }

// describe shows an error with the types that matter, for findings.
func describe(err error) string {
	if err == nil {
		return "no error"
	}
	return fmt.Sprintf("%T: %v", err, err)
}

// wantReset checks for a *ResetError of the code, from the side given.
func (e *env) wantReset(what string, err error, code transport.Code, remote bool) {
	var got *transport.ResetError
	if !errors.As(err, &got) || got.Code != code || got.Remote != remote {
		e.errorf("%s: want *ResetError{Code: %d, Remote: %v}, got %s", what, uint32(code), remote, describe(err))
		return
	}
	if !errors.Is(err, code) || errors.Is(err, net.ErrClosed) == remote {
		e.errorf("%s: want errors.Is(err, Code(%d)) to be true and errors.Is(err, net.ErrClosed) %v, got %v and %v", what,
			uint32(code), !remote, errors.Is(err, code), errors.Is(err, net.ErrClosed))
	}
}

// wantClose checks for a *CloseError of the code and reason, from the side given.
func (e *env) wantClose(what string, err error, code transport.Code, reason string, remote bool) {
	var got *transport.CloseError
	if !errors.As(err, &got) || got.Code != code || got.Reason != reason || got.Remote != remote {
		e.errorf("%s: want *CloseError{Code: %d, Reason: %.60q, Remote: %v}, got %s", what, uint32(code), reason, remote, describe(err))
		return
	}
	if !errors.Is(err, code) || errors.Is(err, net.ErrClosed) == remote {
		e.errorf("%s: want errors.Is(err, Code(%d)) to be true and errors.Is(err, net.ErrClosed) %v, got %v and %v", what,
			uint32(code), !remote, errors.Is(err, code), errors.Is(err, net.ErrClosed))
	}
}

// wantLost checks for a *LostError.
func (e *env) wantLost(what string, err error) {
	var got *transport.LostError
	if !errors.As(err, &got) || !errors.Is(err, transport.ErrLost) || errors.Is(err, io.EOF) {
		e.errorf("%s: want a *LostError that is not io.EOF, got %s", what, describe(err))
	}
}

// wantClosed checks for net.ErrClosed.
func (e *env) wantClosed(what string, err error) {
	if !errors.Is(err, net.ErrClosed) {
		e.errorf("%s: want net.ErrClosed, got %s", what, describe(err))
	}
}

// wantUnsupported checks for errors.ErrUnsupported.
func (e *env) wantUnsupported(what string, err error) {
	if !errors.Is(err, errors.ErrUnsupported) {
		e.errorf("%s: want errors.ErrUnsupported, got %s", what, describe(err))
	}
}

// wantTimeout checks for the error of a passed deadline.
func (e *env) wantTimeout(what string, err error) {
	var ne net.Error
	if !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &ne) || !ne.Timeout() {
		e.errorf("%s: want os.ErrDeadlineExceeded, and Timeout() true, got %s", what, describe(err))
	}
}

// wantContext checks for the error of the context.
func (e *env) wantContext(what string, err error, ctx context.Context) {
	switch want := ctx.Err(); {
	case want == nil:
		e.errorf("%s: want it to wait for the end of its context, got %s before that", what, describe(err))
	case !errors.Is(err, want):
		e.errorf("%s: want the context's error (%v), got %s", what, want, describe(err))
	}
}

// wantOp checks for an *OpError of the operation and address.
func (e *env) wantOp(what string, err error, op string, addr transport.Addr) {
	var got *transport.OpError
	if !errors.As(err, &got) || got.Op != op || got.Addr != addr {
		e.errorf("%s: want *OpError{Op: %q, Addr: %s}, got %s", what, op, addr, describe(err))
	}
}

// sameEnd reports whether two errors tell of one and the same end of a connection.
func sameEnd(a, b error) bool {
	var ca, cb *transport.CloseError
	if errors.As(a, &ca) && errors.As(b, &cb) {
		return *ca == *cb
	}
	var la, lb *transport.LostError
	return errors.As(a, &la) && errors.As(b, &lb) && la.Error() == lb.Error()
}
