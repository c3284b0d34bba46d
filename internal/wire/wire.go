// Package wire reads the byte primitives that the frames of several packages share: big-endian integers and
// length-prefixed bytes. Writing them needs no help beyond append and encoding/binary.
package wire

import (
	"encoding/binary"
	"fmt"
	"io"
	"unicode/utf8"
)

// Reader takes primitives off the front of a slice. The first that fails is kept: from then on every method returns the
// zero value and Err says which field it was. What it returns as bytes aliases the slice; nothing is allocated but text.
// A Reader is for one goroutine.
type Reader struct {
	rest []byte
	err  error
}

// NewReader returns a Reader of b, which it only reads.
func NewReader(b []byte) *Reader { return &Reader{rest: b} }

// Err returns the first failure, or nil.
func (r *Reader) Err() error { return r.err }

// Rest returns what is not yet taken.
func (r *Reader) Rest() []byte { return r.rest }

// Fail keeps an error about a field, unless one is kept already.
func (r *Reader) Fail(field, format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("%s: "+format, append([]any{field}, args...)...)
		r.rest = nil
	}
}

// Bytes takes n bytes. They alias the input and end with their capacity.
func (r *Reader) Bytes(field string, n int) []byte {
	if r.err != nil {
		return nil
	}
	if n > len(r.rest) {
		r.Fail(field, "%d bytes of %d: %w", len(r.rest), n, io.ErrUnexpectedEOF)
		return nil
	}
	b := r.rest[:n:n]
	r.rest = r.rest[n:]
	return b
}

// Uint8 takes one byte.
func (r *Reader) Uint8(field string) uint8 {
	if b := r.Bytes(field, 1); b != nil {
		return b[0]
	}
	return 0
}

// Uint16 takes two bytes.
func (r *Reader) Uint16(field string) uint16 {
	if b := r.Bytes(field, 2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

// Uint32 takes four bytes.
func (r *Reader) Uint32(field string) uint32 {
	if b := r.Bytes(field, 4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

// Uint64 takes eight bytes.
func (r *Reader) Uint64(field string) uint64 {
	if b := r.Bytes(field, 8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

// Text takes n bytes that must be UTF-8.
func (r *Reader) Text(field string, n int) string {
	b := r.Bytes(field, n)
	if !utf8.Valid(b) {
		r.Fail(field, "it is not UTF-8")
		return ""
	}
	return string(b)
}
