package store

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"

	"go.etcd.io/bbolt"

	"github.com/Blockchain-CN/pheromones/identity"
)

// run is the goroutine that writes what was noted. It ends when stop is closed.
func (s *Store) run() {
	defer close(s.done)
	wait := s.cfg.delay()
	for {
		select {
		case <-s.wake:
		case <-s.stop:
			return
		}
		select {
		case <-time.After(wait):
		case <-s.stop:
			return
		}
		err := s.flush()
		switch {
		case err == nil:
			wait = s.cfg.delay()
		default:
			wait = min(max(2*wait, firstWait), maxWait)
			s.cfg.logger().Error("the table of routes could not be written; it will be tried again", "err", err, "in", wait)
			s.signal()
		}
	}
}

// flush writes what is pending.
func (s *Store) flush() error {
	s.disk.Lock()
	defer s.disk.Unlock()
	s.mu.Lock()
	all := s.pending
	s.pending = make(map[identity.ID][]byte)
	s.mu.Unlock()

	err := s.write(all)
	if err != nil {
		// What is left in all comes back, unless there is newer.
		s.mu.Lock()
		for id, value := range all {
			if _, ok := s.pending[id]; !ok {
				s.pending[id] = value
			}
		}
		s.mu.Unlock()
		return fmt.Errorf("store: write %s: %w", s.path, err)
	}
	s.compact()
	return nil
}

// write writes changes, in transactions of bounded size, and takes those out of all that are on disk. disk is held.
func (s *Store) write(all map[identity.ID][]byte) error {
	if s.broken != nil {
		return s.broken
	}
	if s.doubtful {
		if err := s.rescue(); err != nil {
			return err
		}
	}
	if s.renamed {
		if err := syncDir(s.path); err != nil {
			return err
		}
		s.renamed = false
	}
	for len(all) > 0 {
		batch := make(map[identity.ID][]byte, min(len(all), maxBatch))
		for id, value := range all {
			if batch[id] = value; len(batch) == maxBatch {
				break
			}
		}
		if err := s.commit(func(tx *bbolt.Tx) error { return apply(tx, batch) }); err != nil {
			return err
		}
		for id := range batch {
			delete(all, id)
		}
	}
	if s.uneven {
		return s.level()
	}
	return nil
}

// commit runs a transaction, which may say errNothing, with disk held.
func (s *Store) commit(f func(*bbolt.Tx) error) error {
	before := s.txid()
	err := s.guard(func() error { return s.db.Update(f) })
	if errors.Is(err, errNothing) {
		return nil
	}
	s.uneven = true
	if err != nil && s.txid() != before {
		s.doubtful = true // the transaction can be read; it was the syncing that failed
	}
	return err
}

// txid returns the number of the newest transaction, with disk held.
func (s *Store) txid() (id int) {
	s.guard(func() error {
		return s.db.View(func(tx *bbolt.Tx) error {
			id = tx.ID()
			return nil
		})
	})
	return id
}

// rescue is for when syncing has failed. Then the system may have forgotten that pages are yet to be written, and the next sync says all is
// well. So all is written to a new file.
func (s *Store) rescue() error {
	if runtime.GOOS == "windows" { // which does not rename open files
		err := s.guard(s.db.Sync)
		s.doubtful = err != nil
		return err
	}
	return s.replace()
}

var errNothing = errors.New("nothing has changed")

// apply makes changes in a transaction.
func apply(tx *bbolt.Tx, batch map[identity.ID][]byte) error {
	b, h, err := open(tx)
	if err != nil {
		return err
	}
	changed := false
	for id, value := range batch {
		old := b.Get(id[:])
		if string(old) == string(value) {
			continue // a value is never empty
		}
		changed = true
		if old != nil {
			n, _ := sum(id[:], old)
			h.remove(n)
		}
		if value == nil {
			err = b.Delete(id[:])
		} else {
			n, _ := sum(id[:], value)
			h.add(n)
			err = b.Put(id[:], value)
		}
		if err != nil {
			return err
		}
	}
	if !changed {
		return errNothing
	}
	return b.Put([]byte(headKey), h.append(nil))
}

// level commits once more what is there already. bbolt has two meta pages and writes them by turns: now both are of this tree, and either
// may be lost without loss. It also notes the size of the file. disk is held.
func (s *Store) level() error {
	err := s.commit(func(tx *bbolt.Tx) error { return note(tx, s.file) })
	if err == nil {
		s.uneven = false
	}
	return err
}

// note writes the size of the file into the head, if it has grown.
func note(tx *bbolt.Tx, file *os.File) error {
	b, h, err := open(tx)
	if err != nil {
		return err
	}
	info, err := file.Stat()
	if err != nil || uint64(info.Size()) == h.size {
		return err
	}
	h.size = uint64(info.Size())
	return b.Put([]byte(headKey), h.append(nil))
}
