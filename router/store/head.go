package store

import (
	"encoding/binary"
	"fmt"

	"github.com/Blockchain-CN/pheromones/internal/wire"
)

// The file is a bbolt database with one bucket. It holds the head under headKey, and each record under its ID.
//
// The head binds all together: each record has a checksum of its own, but only the head notices that one is missing. Every
// transaction writes it anew.
const (
	bucketName = "pheromones routes"
	headKey    = "\x00" // sorts before every ID

	headVersion = 1
	headSize    = 2 + 8 + 8 + 8 + sumSize
)

// head is the value under headKey. Every version, this and later ones, begins with its version in two bytes and ends with the
// checksum, so that an older program can tell a newer table from a damaged one.
type head struct {
	count uint64 // of records
	sum   uint64 // of their checksums
	size  uint64 // bytes that the file had at least when this was written
}

// add and remove note a value that comes or goes.
func (h *head) add(sum uint32)    { h.count++; h.sum += uint64(sum) }
func (h *head) remove(sum uint32) { h.count--; h.sum -= uint64(sum) }

func (h head) append(b []byte) []byte {
	start := len(b)
	b = binary.BigEndian.AppendUint16(b, headVersion)
	b = binary.BigEndian.AppendUint64(b, h.count)
	b = binary.BigEndian.AppendUint64(b, h.sum)
	b = binary.BigEndian.AppendUint64(b, h.size)
	return append(b[:start], seal([]byte(headKey), b[start:])...)
}

// parseHead fails with ErrNewer or ErrDamaged.
func parseHead(value []byte) (head, error) {
	if _, ok := sum([]byte(headKey), value); !ok {
		return head{}, fmt.Errorf("%w: the checksum of its head is wrong", ErrDamaged)
	}
	in := wire.NewReader(value)
	version := in.Uint16("version")
	switch {
	case version > headVersion:
		return head{}, fmt.Errorf("%w: it is of version %d, this program knows %d", ErrNewer, version, headVersion)
	case version != headVersion || len(value) != headSize:
		return head{}, fmt.Errorf("%w: its head is of version %d and %d bytes", ErrDamaged, version, len(value))
	}
	return head{in.Uint64("count"), in.Uint64("sum"), in.Uint64("size")}, nil
}
