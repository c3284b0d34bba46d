package protocol

import (
	"errors"
	"fmt"
	"io"
	"unicode"
	"unicode/utf8"
)

// MessageService is the name of the service that [Exchange], [Converse] and [Serve] speak.
const MessageService = "pheromones.message"

// AppendService appends the header that begins a stream of the service name: one byte of length and the name (PR1). A
// name is 1 to 255 bytes of UTF-8 without control characters; any other is ErrMalformed, and b is returned as it was.
func AppendService(b []byte, name string) ([]byte, error) {
	if err := checkService(name); err != nil {
		return b, fmt.Errorf("%w: service name %.64q: %w", ErrMalformed, name, err)
	}
	return append(append(b, byte(len(name))), name...), nil
}

// ReadService reads the header that begins a stream, and not a byte more. It returns io.EOF if the stream ended before
// its first byte, ErrMalformed if what came is no header, else r's own error. It waits as long as r does: a caller who
// reads from a stream sets a deadline first.
func ReadService(r io.Reader) (string, error) {
	var buf [1 + 255]byte
	if _, err := io.ReadFull(r, buf[:1]); err != nil {
		return "", err
	}
	name := buf[1 : 1+int(buf[0])]
	if _, err := io.ReadFull(r, name); err != nil {
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return "", fmt.Errorf("%w: service name: %w", ErrMalformed, io.ErrUnexpectedEOF)
		}
		return "", err
	}
	if err := checkService(string(name)); err != nil {
		return "", fmt.Errorf("%w: service name %.64q: %w", ErrMalformed, name, err)
	}
	return string(name), nil
}

func checkService(name string) error {
	if len(name) == 0 || len(name) > 255 {
		return fmt.Errorf("%d bytes, want 1 to 255", len(name))
	}
	if !utf8.ValidString(name) {
		return errors.New("it is not UTF-8")
	}
	for _, r := range name {
		if unicode.IsControl(r) {
			return fmt.Errorf("it has the control character %U", r)
		}
	}
	return nil
}
