package quic

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"unicode/utf8"

	quicgo "github.com/quic-go/quic-go"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/transport"
)

// alertNoProtocol is the QUIC error of a TLS server that shares no application protocol with us: 0x100 plus the alert
// no_application_protocol (RFC 9001 §4.8, RFC 7301 §3.2).
const alertNoProtocol = 0x100 + 120

// connError says in the words of package transport why a connection ended.
func connError(err error) error {
	var app *quicgo.ApplicationError
	if errors.As(err, &app) {
		return &transport.CloseError{Code: code(uint64(app.ErrorCode)), Reason: cut(app.ErrorMessage), Remote: app.Remote}
	}
	var tr *quicgo.TransportError
	if errors.As(err, &tr) && tr.Remote && tr.ErrorCode == quicgo.ConnectionRefused {
		return &transport.CloseError{Code: transport.CodeRefused, Reason: cut(tr.ErrorMessage), Remote: true}
	}
	return &transport.LostError{Err: &quicError{err}}
}

// dialError says why a connection never came to be.
func dialError(err error, want identity.ID) error {
	var verify *identity.VerifyError
	if errors.As(err, &verify) {
		return verify
	}
	var tr *quicgo.TransportError
	if errors.As(err, &tr) && tr.Remote && tr.ErrorCode == alertNoProtocol {
		return &identity.VerifyError{Want: want, Err: identity.ErrProtocol, Detail: "it does not know " + alpn}
	}
	var version *quicgo.VersionNegotiationError
	if errors.As(err, &version) {
		return &identity.VerifyError{Want: want, Err: identity.ErrProtocol, Detail: version.Error()}
	}
	return connError(err)
}

// quicError is an error of quic-go without its claim to be net.ErrClosed, which in this project means that our side
// closed something.
type quicError struct{ err error }

func (e *quicError) Error() string { return e.err.Error() }

// Is and As look into the error as Unwrap would let errors.Is and errors.As do, but for net.ErrClosed.
func (e *quicError) Is(target error) bool { return target != net.ErrClosed && errors.Is(e.err, target) }
func (e *quicError) As(target any) bool   { return errors.As(e.err, target) }

// Timeout reports whether silence was the reason.
func (e *quicError) Timeout() bool {
	var t interface{ Timeout() bool }
	return errors.As(e.err, &t) && t.Timeout()
}

// code reads a code from the wire, where 62 bits have room. One that is none of ours is the peer's fault.
func code(v uint64) transport.Code {
	if v > math.MaxUint32 {
		return transport.CodeProtocol
	}
	return transport.Code(v)
}

// cut shortens a reason to MaxReason bytes without cutting a rune in two.
func cut(reason string) string {
	if len(reason) <= transport.MaxReason {
		return reason
	}
	n := transport.MaxReason
	for n > transport.MaxReason-utf8.UTFMax && !utf8.RuneStart(reason[n]) {
		n--
	}
	return reason[:n]
}

// ctxError returns the error of a context that has ended: what Err says and, if it differs, the cause.
func ctxError(ctx context.Context) error {
	err, cause := ctx.Err(), context.Cause(ctx)
	if errors.Is(cause, err) {
		return cause
	}
	return fmt.Errorf("%w: %w", err, cause)
}

// streamError says in the words of package transport why a call on a stream failed.
func (c *Conn) streamError(err error) error {
	var reset *quicgo.StreamError
	switch {
	case err == nil || err == io.EOF:
		return err
	case errors.As(err, &reset):
		return &transport.ResetError{Code: code(uint64(reset.ErrorCode)), Remote: reset.Remote}
	case errors.Is(err, os.ErrDeadlineExceeded):
		return os.ErrDeadlineExceeded
	case errors.Is(err, quicgo.ErrStreamClosed):
		return transport.ErrClosed
	}
	return c.end(err)
}
