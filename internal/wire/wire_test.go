package wire

import (
	"errors"
	"io"
	"strings"
	"testing"
)

func TestReader(t *testing.T) {
	r := NewReader([]byte{1, 0, 2, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 4, 'a', 'b', 'c', 9})
	if got := r.Uint8("a"); got != 1 {
		t.Errorf("Uint8 = %d, want 1", got)
	}
	if got := r.Uint16("b"); got != 2 {
		t.Errorf("Uint16 = %d, want 2", got)
	}
	if got := r.Uint32("c"); got != 3 {
		t.Errorf("Uint32 = %d, want 3", got)
	}
	if got := r.Uint64("d"); got != 4 {
		t.Errorf("Uint64 = %d, want 4", got)
	}
	if got := r.Text("e", 2); got != "ab" {
		t.Errorf("Text = %q, want ab", got)
	}
	if got := r.Bytes("f", 1); string(got) != "c" || cap(got) != 1 {
		t.Errorf("Bytes = %q with capacity %d, want c with 1", got, cap(got))
	}
	if len(r.Rest()) != 1 || r.Err() != nil {
		t.Errorf("Rest = %v, Err = %v, want one byte and nil", r.Rest(), r.Err())
	}
}

func TestReaderKeepsFirstFailure(t *testing.T) {
	r := NewReader([]byte{1, 2, 3})
	if got := r.Uint32("length"); got != 0 {
		t.Errorf("Uint32 of three bytes = %d, want 0", got)
	}
	if got := r.Uint8("later"); got != 0 {
		t.Errorf("Uint8 after a failure = %d, want 0", got)
	}
	if err := r.Err(); !errors.Is(err, io.ErrUnexpectedEOF) || !strings.HasPrefix(err.Error(), "length: ") {
		t.Errorf("Err = %v, want one about length that is io.ErrUnexpectedEOF", err)
	}
	r = NewReader([]byte{0xff})
	if r.Text("name", 1); r.Err() == nil {
		t.Error("Text took a byte that is not UTF-8")
	}
}
