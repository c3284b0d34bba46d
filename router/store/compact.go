package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"go.etcd.io/bbolt"
)

const (
	minCompact   = 1 << 20          // bytes of a file that is left as it is
	copyBatch    = 1 << 20          // bytes copied in one transaction
	compactPause = 10 * time.Minute // after a failure
)

// compact makes the file smaller if less than a quarter of it is in use. disk is held. The old file stays locked until the new one,
// which is locked since it was made, has its name: nobody else ever sees an unlocked file at the path, and one who waited for the lock
// of the old file finds that it has no name any more.
func (s *Store) compact() {
	if runtime.GOOS == "windows" || time.Now().Before(s.compactNext) {
		return // Windows does not rename open files
	}
	info, err := s.file.Stat()
	if err != nil || info.Size() < s.compactAt {
		return
	}
	var live int64
	err = s.guard(func() error {
		return s.db.View(func(tx *bbolt.Tx) error {
			stats := s.db.Stats()
			live = tx.Size() - int64(stats.FreePageN+stats.PendingPageN)*pageSize
			return nil
		})
	})
	if err != nil || live >= info.Size()/4 {
		return
	}
	if err := s.replace(); err != nil {
		s.compactNext = time.Now().Add(compactPause)
		s.cfg.logger().Warn("the table of routes could not be made smaller", "path", s.path, "err", err)
	}
}

// replace copies the table to a new file and gives it the name, mode and owner of the old one. disk is held.
func (s *Store) replace() error {
	info, err := s.file.Stat()
	if err != nil {
		return err
	}
	if there, err := os.Stat(s.path); err != nil || !os.SameFile(info, there) {
		return fmt.Errorf("%s is not the file any more that was opened: somebody has moved it", s.path)
	}
	temp, err := os.CreateTemp(filepath.Dir(s.path), "."+filepath.Base(s.path)+".*.new")
	if err != nil {
		return err
	}
	defer os.Remove(temp.Name()) // if it still has this name
	keepOwner(temp, info)
	if err := errors.Join(temp.Chmod(info.Mode().Perm()), temp.Close()); err != nil {
		return err
	}
	db, file, err := openBolt(temp.Name(), false, time.Minute)
	if err != nil {
		return err
	}
	db.NoSync = true
	err = s.guard(func() error { return bbolt.Compact(db, s.db, copyBatch) })
	if err == nil {
		// The size that the old head tells is that of the old file. The second time it makes the meta pages even.
		for range 2 {
			err = errors.Join(err, db.Update(func(tx *bbolt.Tx) error { return note(tx, file) }))
		}
	}
	if err = errors.Join(err, db.Sync()); err == nil {
		db.NoSync = false
		if info, err = file.Stat(); err == nil {
			_, err = verify(file, info.Size())
		}
	}
	if err == nil {
		err = os.Rename(temp.Name(), s.path)
	}
	if err != nil {
		return errors.Join(err, db.Close())
	}
	old := s.db
	s.db, s.file, s.renamed, s.uneven, s.doubtful = db, file, true, false, false
	guard(old.Close)
	if err := syncDir(s.path); err != nil {
		return err // the next batch tries again
	}
	s.renamed = false
	return nil
}
