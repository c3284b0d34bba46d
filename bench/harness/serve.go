package harness

import (
	"errors"
	"fmt"
	"io"
	"sync/atomic"
)

// server is the accepting end: it verifies and answers what comes on streams.
type server struct {
	pattern  *pattern
	received atomic.Int64 // bytes of chunks
	failure  atomic.Pointer[error]
}

// serve answers one stream, to its end.
func (s *server) serve(st Stream) {
	defer st.Close()
	if err := s.answer(st); err != nil {
		s.failure.CompareAndSwap(nil, &err)
	}
}

// err returns what was wrong first, if anything was.
func (s *server) err() error {
	if p := s.failure.Load(); p != nil {
		return fmt.Errorf("the accepting end: %w", *p)
	}
	return nil
}

func (s *server) answer(st Stream) error {
	block := make([]byte, BlockSize)
	for n := 0; ; n++ {
		if _, err := io.ReadFull(st, block); err != nil {
			return nil // the dialling end is through, or has lost the connection, which it tells
		}
		op := block[0]
		block[0] = s.pattern.reply[0]
		if err := check("a request", block, s.pattern.reply); err != nil {
			return err
		}
		if op == opBulk {
			if err := s.bulk(st); err != nil {
				return err
			}
		}
		if _, err := st.Write(s.pattern.reply); err != nil {
			return nil // which the dialling end misses, if it has not ended the connection itself
		}
		switch op {
		case opEcho:
		case opOnce, opBulk:
			if h, ok := st.(halfCloser); ok && op == opOnce {
				h.CloseWrite() // an error is seen at the dialling end, too
			}
			if n, _ := st.Read(block); n != 0 { // waits for the other side's end
				return errors.New("there is more after the request")
			}
			return nil
		default:
			return fmt.Errorf("a request begins with %#02x", op)
		}
	}
}

// bulk takes in chunks until the last.
func (s *server) bulk(st Stream) error {
	chunk := make([]byte, ChunkSize)
	for i := 0; ; i = (i + 1) % chunks {
		if _, err := io.ReadFull(st, chunk); err != nil {
			return fmt.Errorf("a bulk transfer has no end: %w", err)
		}
		want := s.pattern.chunk[i]
		if chunk[0] == 0 {
			want = s.pattern.last[i]
		}
		if err := check("a bulk transfer", chunk, want); err != nil {
			return err
		}
		s.received.Add(ChunkSize)
		if chunk[0] == 0 {
			return nil
		}
	}
}
