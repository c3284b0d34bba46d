package protocol

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"time"
	"unicode/utf8"

	"github.com/Blockchain-CN/pheromones/internal/wire"
)

// Sizes of frames, in bytes.
const (
	DefaultLimit = 16 << 20 // how large a frame may be unless configured, the length field not counted
	MaxName      = 255      // of a Message's Name and of its Operation
	MaxErrorText = 1024     // of the text in an error frame

	headerSize = 4 + 1 + 1 // length, version, kind
	version    = 1

	copySize  = 1 + 8 + 8 + 4 // what follows the fields of a message (PR25)
	errorSize = 8 + 8         // what follows the fields of an error (PR25)
	noneSize  = 8             // what follows the fields of a none (PR25)
)

// Kind says what a frame carries.
type Kind uint8

// The kinds of frames (PR5).
const (
	KindMessage Kind = 1 // a message
	KindNone    Kind = 2 // the end of a conversation: there is no further message
	KindError   Kind = 3 // why there is no reply
)

// Frame is the unit on a stream of the message service (PR3 to PR11).
type Frame struct {
	Kind    Kind
	Message Message       // of a KindMessage; From is not on the wire
	Timeout time.Duration // of a KindMessage: how long the sender waits for the answer, in whole milliseconds; 0 is not told
	Code    ErrorCode     // of a KindError
	Text    string        // of a KindError: at most MaxErrorText bytes of UTF-8

	// Copy says of a request which of its copies this is.
	Copy Copy
	// Incarnation is the life of the accepting side. In a request it is the one that the opening side knew of when it sent
	// the first copy; in an answer it is the answering side's own. 0 is not told.
	Incarnation uint64
	// Horizon, of a KindError with CodeForgotten, is the largest time in an ID that the answering side has forgotten.
	Horizon uint64
}

// Copy is what a request says besides its message, so that the receiver knows a repeat from a new request (PR25). The zero
// Copy is that of a request whose sender says nothing of it.
type Copy struct {
	Repeat  bool          // an earlier copy may have been sent
	Once    bool          // no other copy was or will be sent, so that nothing need be remembered for one
	Settled uint64        // the sender will not repeat those of its requests (MessageIDFor) whose time is below this
	Age     time.Duration // how long ago the first copy was sent, in whole milliseconds, rounded up; MaxAge or more is not known
}

// MaxAge is the largest age that a Copy carries, which is some 49 days. It stands for all that is older.
const MaxAge = math.MaxUint32 * time.Millisecond

// says reports whether the fields behind a message's own say anything; else they are left out.
func (f *Frame) says() bool { return f.Copy != Copy{} || f.Incarnation != 0 }

// size returns the value of f's length field.
func (f Frame) size() int {
	switch f.Kind {
	case KindMessage:
		n := 2 + 16 + 4 + 1 + len(f.Message.Name) + 1 + len(f.Message.Operation) + 4 + len(f.Message.Data)
		if f.says() {
			n += copySize
		}
		return n
	case KindError:
		n := 2 + 2 + 2 + len(f.Text)
		if f.Incarnation != 0 || f.Horizon != 0 {
			n += errorSize
		}
		return n
	}
	if f.Incarnation != 0 {
		return 2 + noneSize
	}
	return 2
}

// Append appends the frame to b. A frame larger than limit is ErrTooLarge, one that breaks a rule of the format is
// ErrMalformed; both leave b as it was. A limit of zero or less is DefaultLimit.
func (f Frame) Append(b []byte, limit int) ([]byte, error) {
	size := f.size()
	if limit = frameLimit(limit); size > limit {
		return b, fmt.Errorf("%w: a frame of %d bytes, the limit is %d", ErrTooLarge, size, limit)
	}
	if err := f.check(); err != nil {
		return b, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	b = binary.BigEndian.AppendUint32(b, uint32(size))
	b = append(b, version, byte(f.Kind))
	switch f.Kind {
	case KindMessage:
		m := &f.Message
		b = append(b, m.ID[:]...)
		b = binary.BigEndian.AppendUint32(b, milliseconds(f.Timeout))
		b = append(append(b, byte(len(m.Name))), m.Name...)
		b = append(append(b, byte(len(m.Operation))), m.Operation...)
		b = append(binary.BigEndian.AppendUint32(b, uint32(len(m.Data))), m.Data...)
		if f.says() {
			b = append(b, f.Copy.flags())
			b = binary.BigEndian.AppendUint64(b, f.Copy.Settled)
			b = binary.BigEndian.AppendUint64(b, f.Incarnation)
			b = binary.BigEndian.AppendUint32(b, milliseconds(f.Copy.Age))
		}
	case KindError:
		b = binary.BigEndian.AppendUint16(b, uint16(f.Code))
		b = append(binary.BigEndian.AppendUint16(b, uint16(len(f.Text))), f.Text...)
		if f.Incarnation != 0 || f.Horizon != 0 {
			b = binary.BigEndian.AppendUint64(b, f.Incarnation)
			b = binary.BigEndian.AppendUint64(b, f.Horizon)
		}
	case KindNone:
		if f.Incarnation != 0 {
			b = binary.BigEndian.AppendUint64(b, f.Incarnation)
		}
	}
	return b, nil
}

// The flags of a request (PR25).
const (
	flagRepeat = 1
	flagOnce   = 2
)

func (c Copy) flags() (b byte) {
	if c.Repeat {
		b |= flagRepeat
	}
	if c.Once {
		b |= flagOnce
	}
	return b
}

// check finds what the format cannot carry, before and after the wire.
func (f Frame) check() error {
	switch f.Kind {
	case KindMessage:
		m := &f.Message
		switch {
		case m.ID.IsZero():
			return errors.New("the message's ID is zero")
		case m.Operation == "":
			return errors.New("the message has no operation")
		case len(m.Name) > MaxName:
			return fmt.Errorf("a name of %d bytes, at most %d are allowed", len(m.Name), MaxName)
		case len(m.Operation) > MaxName:
			return fmt.Errorf("an operation of %d bytes, at most %d are allowed", len(m.Operation), MaxName)
		case !utf8.ValidString(m.Name):
			return fmt.Errorf("the name %.64q is not UTF-8", m.Name)
		case !utf8.ValidString(m.Operation):
			return fmt.Errorf("the operation %.64q is not UTF-8", m.Operation)
		}
	case KindError:
		switch {
		case len(f.Text) > MaxErrorText:
			return fmt.Errorf("an error text of %d bytes, at most %d are allowed", len(f.Text), MaxErrorText)
		case !utf8.ValidString(f.Text):
			return errors.New("the error text is not UTF-8")
		}
	case KindNone:
	default:
		return fmt.Errorf("%w: %d", ErrKind, f.Kind)
	}
	return nil
}

// milliseconds rounds up, so that a time that is set stays set, and stops at the field's end, 49 days.
func milliseconds(d time.Duration) uint32 {
	if d <= 0 {
		return 0
	}
	return uint32(min((d-1)/time.Millisecond+1, math.MaxUint32))
}

// ParseFrame reads the frame at the beginning of b and returns what follows it. Message.Data aliases b. Bytes at the end
// of a frame that this version does not know are skipped. The error wraps ErrTooLarge, ErrVersion, ErrKind or
// ErrMalformed; an incomplete frame is ErrMalformed and io.ErrUnexpectedEOF. A limit of zero or less is DefaultLimit.
func ParseFrame(b []byte, limit int) (f Frame, rest []byte, err error) {
	if len(b) < headerSize {
		return Frame{}, b, fmt.Errorf("%w: frame header: %d bytes of %d: %w", ErrMalformed, len(b), headerSize, io.ErrUnexpectedEOF)
	}
	kind, n, err := parseHeader([headerSize]byte(b), limit)
	if err != nil {
		return Frame{}, b, err
	}
	body := b[headerSize:]
	if n > len(body) {
		return Frame{}, b, fmt.Errorf("%w: frame body: %d bytes of %d: %w", ErrMalformed, len(body), n, io.ErrUnexpectedEOF)
	}
	if f, err = parseBody(kind, body[:n:n]); err != nil {
		return Frame{}, b, err
	}
	return f, body[n:], nil
}

// parseHeader returns the frame's kind and how many bytes its body has.
func parseHeader(h [headerSize]byte, limit int) (Kind, int, error) {
	size := binary.BigEndian.Uint32(h[:])
	limit = frameLimit(limit)
	switch {
	case uint64(size) > uint64(limit):
		return 0, 0, fmt.Errorf("%w: a frame of %d bytes, the limit is %d", ErrTooLarge, size, limit)
	case size < 2:
		return 0, 0, fmt.Errorf("%w: a frame of %d bytes, which is less than version and kind", ErrMalformed, size)
	case h[4] != version:
		return 0, 0, fmt.Errorf("%w: %d, want %d", ErrVersion, h[4], version)
	}
	switch kind := Kind(h[5]); kind {
	case KindMessage, KindNone, KindError:
		return kind, int(size) - 2, nil
	default:
		return 0, 0, fmt.Errorf("%w: %d", ErrKind, h[5])
	}
}

func parseBody(kind Kind, body []byte) (Frame, error) {
	f := Frame{Kind: kind}
	r := wire.NewReader(body)
	switch kind {
	case KindMessage:
		m := &f.Message
		copy(m.ID[:], r.Bytes("message ID", len(m.ID)))
		f.Timeout = time.Duration(r.Uint32("timeout")) * time.Millisecond
		m.Name = r.Text("name", int(r.Uint8("name")))
		m.Operation = r.Text("operation", int(r.Uint8("operation")))
		// The length is compared with what is there before it becomes an int, which may have 32 bits.
		if n := r.Uint32("data"); uint64(n) > uint64(len(r.Rest())) {
			r.Fail("data", "%d bytes of %d: %w", len(r.Rest()), n, io.ErrUnexpectedEOF)
		} else if n > 0 {
			m.Data = r.Bytes("data", int(n))
		}
		if len(r.Rest()) >= copySize {
			flags := r.Uint8("flags")
			f.Copy.Repeat, f.Copy.Once = flags&flagRepeat != 0, flags&flagOnce != 0
			f.Copy.Settled = r.Uint64("settled")
			f.Incarnation = r.Uint64("incarnation")
			f.Copy.Age = time.Duration(r.Uint32("age")) * time.Millisecond
		}
	case KindError:
		f.Code = ErrorCode(r.Uint16("error code"))
		f.Text = r.Text("error text", int(r.Uint16("error text")))
		if len(r.Rest()) >= errorSize {
			f.Incarnation = r.Uint64("incarnation")
			f.Horizon = r.Uint64("horizon")
		}
	case KindNone:
		if len(r.Rest()) >= noneSize {
			f.Incarnation = r.Uint64("incarnation")
		}
	}
	err := r.Err()
	if err == nil {
		err = f.check()
	}
	if err != nil {
		return Frame{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return f, nil
}

// ReadFrame reads one frame from r and not a byte more. It returns io.EOF if r ended before the first byte, the errors of
// [ParseFrame], or r's own error. Memory grows with the bytes that come, whatever length the frame claims: it is at most
// four times what has come, plus 8 KiB. Message.Data is the caller's.
func ReadFrame(r io.Reader, limit int) (Frame, error) {
	return readFrame(r, limit, func() error { return nil })
}

const (
	firstChunk = 8 << 10  // what is allocated on a header's word alone
	maxChunk   = 64 << 10 // what is read between two calls of more
)

// readFrame calls more before each read of up to maxChunk bytes.
func readFrame(r io.Reader, limit int, more func() error) (Frame, error) {
	var h [headerSize]byte
	if err := more(); err != nil {
		return Frame{}, err
	}
	if n, err := io.ReadFull(r, h[:]); err != nil {
		if err == io.ErrUnexpectedEOF {
			err = fmt.Errorf("%w: frame header: %d bytes of %d: %w", ErrMalformed, n, headerSize, err)
		}
		return Frame{}, err
	}
	kind, size, err := parseHeader(h, limit)
	if err != nil {
		return Frame{}, err
	}
	body := make([]byte, 0, min(size, firstChunk))
	for len(body) < size {
		if len(body) == cap(body) {
			body = append(make([]byte, 0, min(size, 4*len(body))), body...)
		}
		if len(body) > 0 {
			if err := more(); err != nil {
				return Frame{}, err
			}
		}
		n, err := io.ReadFull(r, body[len(body):min(cap(body), len(body)+maxChunk)])
		body = body[:len(body)+n]
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			err = fmt.Errorf("%w: frame body: %d bytes of %d: %w", ErrMalformed, len(body), size, io.ErrUnexpectedEOF)
		}
		if err != nil {
			return Frame{}, err
		}
	}
	return parseBody(kind, body)
}

func frameLimit(limit int) int {
	if limit <= 0 {
		return DefaultLimit
	}
	return min(limit, math.MaxInt32)
}
