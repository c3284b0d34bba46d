// Package store keeps the table of routes on disk: what a node knows of its peers, so that it finds them again when it starts anew.
// It knows nothing of the router that uses it.
//
// # Usage
//
// [Open] a path, [Store.Load] what is there, then tell of each change by [Store.Put] and [Store.Delete]. These only note it in memory:
// they may be called with locks held. A goroutine of the store's writes the changes in batches. [Store.Close] writes the rest.
//
// # What is promised
//
// A change is on disk, synced, within a second of its call, if the disk takes it, and when [Store.Sync] returns nil. A crash of the
// process or of the machine at any instant loses at most what was not yet on disk, and never the file. While the disk fails, for
// example because it is full, the store tries again with pauses of up to half a minute, says so to its Logger, and keeps one change
// a peer in memory.
//
// Open reads and checks the whole file, and refuses one that is not exactly what was written to it: see the errors of this package.
// It never changes a file that it refuses. One process at a time may use a table.
//
// # Limitations
//
// The file is a bbolt database in the byte order of the machine. The file system must have locks (flock) and shared mappings.
// On Windows the file is not made smaller.
package store

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"go.etcd.io/bbolt"

	"github.com/Blockchain-CN/pheromones/identity"
)

// Config is what may be chosen. The zero value, and a nil *Config, choose the defaults.
type Config struct {
	// Timeout bounds how long Open waits for another process to let go of the table. Zero means a second, negative not at all.
	Timeout time.Duration

	// Delay is how long a change may wait for others to be written with it. Zero means a quarter of a second, negative not at all.
	// More than half a second breaks the promise that a change is on disk within a second.
	Delay time.Duration

	// MaxRecords bounds the records in the table. Zero or negative means 65536. A table that holds more already can still be opened.
	MaxRecords int

	// Logger hears of what goes wrong in the background. Nil is silent.
	Logger *slog.Logger
}

const (
	maxBatch  = 4096             // records in one transaction
	firstWait = time.Second      // after the first failure to write
	maxWait   = 30 * time.Second // after many
)

func (c *Config) timeout() time.Duration {
	switch {
	case c.Timeout == 0:
		return time.Second
	case c.Timeout < 0:
		return 1 // bbolt takes zero for ever
	}
	return c.Timeout
}

func (c *Config) delay() time.Duration {
	if c.Delay == 0 {
		return time.Second / 4
	}
	return max(c.Delay, 0)
}

func (c *Config) maxRecords() int {
	if c.MaxRecords <= 0 {
		return 1 << 16
	}
	return c.MaxRecords
}

func (c *Config) logger() *slog.Logger {
	if c.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return c.Logger
}

// Store is an open table. Its methods may be called by any number of goroutines at once.
type Store struct {
	path string // without symbolic links
	cfg  Config // a copy

	mu      sync.Mutex // never held over I/O
	known   map[identity.ID]struct{}
	pending map[identity.ID][]byte // values yet to be written; nil: to be deleted
	closed  bool

	wake chan struct{} // has room for one; never closed
	stop chan struct{} // closed by Close
	done chan struct{} // closed by the writer when it ends

	disk        sync.Mutex // held over I/O; guards what follows; taken before mu
	db          *bbolt.DB
	file        *os.File // that of db
	compactAt   int64    // bytes below which the file is left as it is
	uneven      bool     // the two meta pages are not of the same tree yet
	renamed     bool     // the folder has a new name for the file that is not yet on disk
	doubtful    bool     // the file may not be on disk as it can be read
	broken      error    // bbolt has panicked: it is not touched any more
	compactNext time.Time

	closeOnce sync.Once
	closeErr  error
}

// Put notes what is now known of a peer, in place of all that was, and does not wait. It keeps nothing of r. It fails with
// [ErrBadRecord] if r is out of bounds, with [ErrFull] if the peer is new and there is no room for it, and with [ErrClosed].
func (s *Store) Put(r Record) error {
	if err := r.check(); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrBadRecord, r.ID.Short(), err)
	}
	value := r.append(nil)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return ErrClosed
	}
	if _, ok := s.known[r.ID]; !ok {
		// Deletions that the disk does not take are pending, too, of peers that known does not count any more.
		if limit := s.cfg.maxRecords(); len(s.known) >= limit || len(s.pending) >= 2*limit {
			return fmt.Errorf("%w: it holds %d records, and %d changes are to be written", ErrFull, len(s.known), len(s.pending))
		}
		s.known[r.ID] = struct{}{}
	}
	s.pending[r.ID] = value
	s.signal()
	return nil
}

// Delete notes that nothing is to be kept of a peer, and does not wait. It is no error if nothing was. It fails with [ErrClosed].
func (s *Store) Delete(id identity.ID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return ErrClosed
	}
	if _, ok := s.known[id]; ok {
		delete(s.known, id)
		s.pending[id] = nil
		s.signal()
	}
	return nil
}

func (s *Store) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Load returns all records, by ascending ID, with the changes that are not written yet. It waits while a batch is being written. The
// result is the caller's. It fails with [ErrClosed], or with [ErrDamaged] if something else than this store has written to the file.
func (s *Store) Load() ([]Record, error) {
	s.disk.Lock()
	defer s.disk.Unlock()
	s.mu.Lock()
	closed, pending := s.closed, maps.Clone(s.pending)
	records := make([]Record, 0, len(s.known))
	s.mu.Unlock()
	if closed {
		return nil, ErrClosed
	}
	err := s.guard(func() error {
		return s.db.View(func(tx *bbolt.Tx) error {
			b, _, err := open(tx)
			if err != nil {
				return err
			}
			return b.ForEach(func(key, value []byte) error {
				if string(key) == headKey {
					return nil
				}
				r, err := parse(key, value)
				if _, newer := pending[r.ID]; err == nil && !newer {
					records = append(records, r)
				}
				return err
			})
		})
	})
	if err != nil {
		return nil, fmt.Errorf("store: load %s: %w", s.path, err)
	}
	for id, value := range pending {
		if value != nil {
			r, err := parse(id[:], value)
			if err != nil {
				return nil, fmt.Errorf("store: load %s: %w", s.path, err)
			}
			records = append(records, r)
		}
	}
	slices.SortFunc(records, func(a, b Record) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	return records, nil
}

// Sync writes the changes noted so far and returns when they are on disk, or the disk has refused: they stay noted then, and are tried
// again. It fails with [ErrClosed], or with what the system says.
func (s *Store) Sync() error {
	s.mu.Lock()
	closed := s.closed
	s.mu.Unlock()
	if closed {
		return ErrClosed
	}
	return s.flush()
}

// Close writes the changes that are left, once, and returns when all is released, or has been by another Close. It returns what kept the
// changes from the disk: they are lost then.
func (s *Store) Close() error {
	s.closeOnce.Do(func() {
		s.mu.Lock()
		s.closed = true
		s.mu.Unlock()
		close(s.stop)
		<-s.done
		err := s.flush()
		s.disk.Lock()
		defer s.disk.Unlock()
		if s.broken != nil {
			s.closeErr = errors.Join(err, s.file.Close()) // bbolt may have left its own locks behind
			return
		}
		s.closeErr = errors.Join(err, s.guard(s.db.Close))
	})
	return s.closeErr
}

// guard runs what uses bbolt, with disk held. If somebody else damages the file that is mapped, bbolt panics or faults; then it is not
// used any more.
func (s *Store) guard(f func() error) error {
	if s.broken == nil {
		err := guard(f)
		var p *panicError
		if !errors.As(err, &p) {
			return err
		}
		s.broken = err
	}
	return s.broken
}

// panicError is a panic that guard has caught.
type panicError struct{ value any }

func (e *panicError) Error() string { return fmt.Sprint("bbolt has stopped: ", e.value) }

// guard runs f and returns its error, or a panicError that is also ErrDamaged.
func guard(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %w", ErrDamaged, &panicError{p})
		}
	}()
	return f()
}

// open returns the bucket of a transaction, and its head.
func open(tx *bbolt.Tx) (*bbolt.Bucket, head, error) {
	b := tx.Bucket([]byte(bucketName))
	if b == nil {
		return nil, head{}, fmt.Errorf("%w: its bucket is gone", ErrDamaged)
	}
	h, err := parseHead(b.Get([]byte(headKey)))
	return b, h, err
}
