package harness

import (
	"bytes"
	"fmt"
	"math/rand/v2"
)

// Sizes, in bytes.
const (
	BlockSize = 128      // a request, or a reply
	ChunkSize = 64 << 10 // what is written at once in bulk transfers
)

// What the first byte of a stream says about it.
const (
	opEcho = 'e' // blocks, each answered by one
	opOnce = 'o' // one block, answered by one
	opBulk = 'b' // one block, then chunks, answered by one block after the last
)

// chunks is how many different chunks there are: those of a stream follow each other in a circle, so that one that is lost, doubled or
// out of order is seen.
const chunks = 17

// pattern is what is sent, and what is compared with what arrives.
type pattern struct {
	reply []byte
	chunk [chunks][]byte // the first byte is 1
	last  [chunks][]byte // the same, with 0
}

func newPattern() *pattern {
	p := &pattern{reply: newReply()}
	random := rand.NewChaCha8([32]byte{'c'})
	for i := range p.chunk {
		p.chunk[i] = make([]byte, ChunkSize)
		random.Read(p.chunk[i])
		p.chunk[i][0] = 1
		p.last[i] = bytes.Clone(p.chunk[i])
		p.last[i][0] = 0
	}
	return p
}

// newReply returns the block that every request is answered by.
func newReply() []byte {
	b := make([]byte, BlockSize)
	rand.NewChaCha8([32]byte{'b'}).Read(b)
	return b
}

// newRequest returns a block that begins a stream, or is sent on one: the reply, but for the first byte.
func newRequest(op byte) []byte {
	b := newReply()
	b[0] = op
	return b
}

// check compares what has arrived with what was sent.
func check(what string, got, want []byte) error {
	if bytes.Equal(got, want) {
		return nil
	}
	if len(got) != len(want) {
		return fmt.Errorf("harness: %s: %d bytes arrived, want %d", what, len(got), len(want))
	}
	at := 0
	for got[at] == want[at] {
		at++
	}
	return fmt.Errorf("harness: %s: byte %d is %#02x, want %#02x", what, at, got[at], want[at])
}

// Request returns what a Call sends.
func Request() []byte { return newRequest(opOnce) }

// CheckReply returns an error if a Call's reply is not what [Answer] returns.
func CheckReply(reply []byte) error { return check("a reply", reply, newReply()) }

// Answer returns the reply to a Call's request, or an error if the request is not what was sent.
type Answer func(request []byte) (reply []byte, err error)

// NewAnswer returns an Answer that may be called from any goroutine at once. The replies are all one slice.
func NewAnswer() Answer {
	request, reply := Request(), newReply()
	return func(got []byte) ([]byte, error) {
		if err := check("a request", got, request); err != nil {
			return nil, err
		}
		return reply, nil
	}
}
