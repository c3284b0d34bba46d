package protocol

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/transport"
)

// What is wrapped by errors about bytes and messages that break the rules.
var (
	// ErrTooLarge means that a frame is larger than the limit of this side.
	ErrTooLarge = errors.New("protocol: too large")
	// ErrMalformed means that bytes are no frame or header, or that a message cannot be put into one.
	ErrMalformed = errors.New("protocol: malformed")
	// ErrVersion means that a frame is of a version that this side does not know.
	ErrVersion = errors.New("protocol: unknown version")
	// ErrKind means that a frame is of a kind that this side does not know.
	ErrKind = errors.New("protocol: unknown kind of frame")
	// ErrSteps means that a conversation took more steps than Config.MaxSteps.
	ErrSteps = errors.New("protocol: the conversation has too many steps")
	// ErrDuplicate means that a Table already has a handler for the operation.
	ErrDuplicate = errors.New("protocol: the operation has a handler already")
)

// ErrorCode says, in an error frame, why there is no reply. Codes below CodeUser are the toolkit's; programs choose theirs
// from CodeUser on. An ErrorCode is an error: a handler that returns one, or an error that wraps one, chooses the code the
// asking side gets, and errors.Is(err, code) asks whether err is a [*RemoteError] with that code.
type ErrorCode uint16

// The codes of the toolkit (PR12).
const (
	CodeInternal    ErrorCode = 1 // the handler panicked, or its reply could not be sent; what exactly is not told
	CodeFailed      ErrorCode = 2 // the handler returned an error; the text is that error's
	CodeRefused     ErrorCode = 3 // the request is not allowed, and was not executed
	CodeOverloaded  ErrorCode = 4 // there is no room for the request at the moment; it was not executed
	CodeCancelled   ErrorCode = 5 // the handler gave up because its context ended
	CodeTooLarge    ErrorCode = 6 // the request is larger than the other side's limit; it was not executed
	CodeMalformed   ErrorCode = 7 // the request is not what it should be; it was not executed
	CodeUnsupported ErrorCode = 8 // the frame's version or kind is unknown; the request was not executed
	CodeSteps       ErrorCode = 9 // the conversation has too many steps; the last one was not executed
	// The request was perhaps executed, and is not executed now: the receiver has forgotten requests as old as this.
	CodeForgotten ErrorCode = 10
	// The request was perhaps executed, and is not executed now: an earlier copy may have reached the receiver before it
	// was started again, or before it forgot the sender.
	CodeRestarted ErrorCode = 11
	// The request was executed, and its reply is not kept any more.
	CodeReplyLost ErrorCode = 12

	CodeUser ErrorCode = 256 // the first code of programs
)

var errorCodeNames = [...]string{"none", "internal", "failed", "refused", "overloaded", "cancelled", "too large", "malformed",
	"unsupported", "too many steps", "forgotten", "restarted", "reply lost"}

// String returns the code's name, or its number.
func (c ErrorCode) String() string {
	if int(c) < len(errorCodeNames) {
		return errorCodeNames[c]
	}
	return strconv.Itoa(int(c))
}

// notExecuted reports whether the code says that the request was not executed.
func (c ErrorCode) notExecuted() bool {
	switch c {
	case CodeRefused, CodeOverloaded, CodeTooLarge, CodeMalformed, CodeUnsupported, CodeSteps:
		return true
	}
	return false
}

// Error makes an ErrorCode an error, to be returned by handlers and matched by errors.Is.
func (c ErrorCode) Error() string { return "protocol: " + c.String() }

// RemoteError is the answer of a peer that sent an error instead of a reply. errors.Is matches it against its Code. It
// does not unwrap to the code: a handler that returns another peer's RemoteError has failed, and does not pass the code
// on as its own.
type RemoteError struct {
	Peer      identity.ID // who answered
	Operation string      // what was asked; may be empty
	Code      ErrorCode
	Text      string // the peer's words, at most MaxErrorText bytes; not to be trusted
}

func (e *RemoteError) Error() string {
	s := "protocol: peer " + e.Peer.String() + " answered"
	if e.Operation != "" {
		s += " " + strconv.Quote(e.Operation)
	}
	s += " with error " + e.Code.String()
	if e.Text != "" {
		s += ": " + strconv.Quote(e.Text)
	}
	return s
}

// Is implements errors.Is.
func (e *RemoteError) Is(target error) bool {
	c, ok := target.(ErrorCode)
	return ok && c == e.Code
}

// ExchangeError says which exchange got no answer. It wraps the reason. The request was perhaps executed, unless
// [NotExecuted] says that it was not.
type ExchangeError struct {
	Peer      identity.ID
	Operation string
	ID        MessageID
	Sent      bool // whether any part of the request may have left this side
	Copies    int  // how many copies of the request may have left this side, if it was more than one
	Err       error
}

func (e *ExchangeError) Error() string {
	s := fmt.Sprintf("protocol: exchange %q with peer %v", e.Operation, e.Peer)
	switch {
	case e.Copies > 1:
		s += fmt.Sprintf(", perhaps executed, sent %d times", e.Copies)
	case !e.Sent:
		s += ", not sent"
	}
	return s + ": " + e.Err.Error()
}

// Unwrap returns e.Err.
func (e *ExchangeError) Unwrap() error { return e.Err }

// NotExecuted reports whether err, which [Exchange] returned, proves that the peer did not execute the request: nothing
// of it was sent, the peer refused the stream or the connection before anybody read it, or it answered with a code that says so. If it
// reports false the request may have been executed or not, and sending it again is safe only with the same ID, or if
// executing it twice does no harm.
func NotExecuted(err error) bool {
	var exchange *ExchangeError
	if errors.As(err, &exchange) && exchange.Copies > 1 {
		return false // one answer says nothing of the other copies
	}
	var remote *RemoteError
	if errors.As(err, &remote) {
		return remote.Code.notExecuted()
	}
	if exchange != nil && !exchange.Sent {
		return true
	}
	var reset *transport.ResetError
	if errors.As(err, &reset) {
		return reset.Remote && (reset.Code == transport.CodeRefused || reset.Code == transport.CodeUnknownService)
	}
	var closed *transport.CloseError
	return errors.As(err, &closed) && closed.Remote && closed.Code == transport.CodeRefused
}

// answerTo turns a handler's error into what the peer is told.
func answerTo(err error) Frame {
	f := Frame{Kind: KindError, Code: CodeFailed}
	var c ErrorCode
	switch {
	case errors.As(err, &c):
		f.Code = c
	case isContextError(err):
		f.Code = CodeCancelled
	}
	f.Text = cut(strings.TrimPrefix(err.Error(), c.Error()+": "))
	if f.Text == c.Error() {
		f.Text = ""
	}
	return f
}

// cut makes text fit an error frame: at most MaxErrorText bytes of UTF-8.
func cut(text string) string {
	text = strings.ToValidUTF8(text[:min(len(text), MaxErrorText+utf8.UTFMax)], "�")
	if len(text) <= MaxErrorText {
		return text
	}
	n := MaxErrorText
	for !utf8.RuneStart(text[n]) {
		n--
	}
	return text[:n]
}
