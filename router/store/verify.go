package store

import (
	"fmt"
	"io"

	"github.com/Blockchain-CN/pheromones/identity"
)

// content is what verify found.
type content struct {
	ids  map[identity.ID]struct{}
	head head
	txid uint64 // of the newest transaction
	even bool   // both meta pages are good, and of the same tree
}

// verify reads the whole of a file of that many bytes and returns what it holds, or why it is not what was once written to it. It
// only reads, allocates no more than the file's size, and copes with anything.
func verify(file io.ReaderAt, size int64) (*content, error) {
	if size == 0 {
		return nil, ErrEmpty
	}
	p, even, err := openPages(file, size)
	if err != nil {
		return nil, err
	}
	found := &content{ids: make(map[identity.ID]struct{}), txid: p.meta.txid, even: even}
	var want *head
	var got head
	p.item = func(bucket, key, value []byte, sub bool) error {
		switch {
		case bucket == nil:
			if want == nil && (!sub || string(key) != bucketName) {
				return fmt.Errorf("%w: it holds %.32q", ErrForeign, key)
			}
			if want != nil {
				return fmt.Errorf("%w: it holds %.32q, too", ErrDamaged, key)
			}
			return nil
		case sub:
			return fmt.Errorf("%w: a bucket within the bucket", ErrDamaged)
		case want == nil:
			if string(key) != headKey {
				return fmt.Errorf("%w: it has no head", ErrDamaged)
			}
			h, err := parseHead(value)
			want = &h
			return err
		}
		r, err := parse(key, value)
		if err != nil {
			return err
		}
		n, _ := sum(key, value)
		got.add(n)
		found.ids[r.ID] = struct{}{}
		return nil
	}
	if err := p.walk(); err != nil {
		return nil, err
	}
	switch {
	case want == nil:
		return nil, fmt.Errorf("%w: it is a bbolt file of something else", ErrForeign)
	case got.count != want.count || got.sum != want.sum:
		return nil, fmt.Errorf("%w: it holds %d records, not the %d that were written", ErrDamaged, got.count, want.count)
	case uint64(size) < want.size:
		return nil, fmt.Errorf("%w: %d bytes of %d", ErrCutShort, size, want.size)
	}
	found.head = *want
	return found, nil
}
