package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/Blockchain-CN/pheromones/identity"
)

// Open opens the table at path, or makes one if nothing is there. The file gets mode 0600; its folder must exist, and be one in which the
// process may create files. A nil cfg means the defaults; it is copied.
//
// It returns when the whole file has been read and checked, and waits at most cfg.Timeout for another process. Each error is an
// [*OpenError], and says what to do; errors.Is tells why: [ErrEmpty], [ErrDamaged], [ErrCutShort], [ErrForeign], [ErrNewer], [ErrReadOnly],
// [ErrNotFile], [ErrLocked], [fs.ErrPermission] and other errors of the system. The file is then as it was, to the byte.
func Open(path string, cfg *Config) (*Store, error) {
	s := &Store{
		pending:   make(map[identity.ID][]byte),
		wake:      make(chan struct{}, 1),
		stop:      make(chan struct{}),
		done:      make(chan struct{}),
		compactAt: minCompact,
	}
	if cfg != nil {
		s.cfg = *cfg
	}
	end := time.Now().Add(s.cfg.timeout())
	for attempt := 0; ; attempt++ {
		err := s.open(path, max(time.Until(end), 1))
		if errors.Is(err, errAgain) && attempt < maxAttempts {
			continue
		}
		if err != nil {
			var pe *fs.PathError
			if errors.As(err, &pe) {
				err = fmt.Errorf("%s: %w", pe.Op, pe.Err) // the path is said already
			}
			return nil, &OpenError{Path: path, Err: err}
		}
		go s.run()
		return s, nil
	}
}

// errAgain says that another process was at the path at the same time.
var errAgain = fmt.Errorf("%w, which changes it all the time", ErrLocked)

const maxAttempts = 10

func (s *Store) open(path string, timeout time.Duration) error {
	end := time.Now().Add(timeout)
	if path == "" {
		return fmt.Errorf("%w: the path is empty", ErrNotFile)
	}
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		if link, err := os.Lstat(path); err == nil && link.Mode()&fs.ModeSymlink != 0 {
			return fmt.Errorf("%w: a symbolic link to nothing", ErrNotFile)
		} else if err == nil {
			return errAgain // somebody has just made it
		}
		if err := create(path); err != nil {
			return err
		}
		info, err = os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) {
			return errAgain
		}
	}
	if err == nil {
		err = usable(info)
	}
	if err != nil {
		return err
	}
	if s.path, err = filepath.EvalSymlinks(path); err != nil {
		return err
	}
	found, err := inspect(s.path, timeout)
	if err != nil {
		return err
	}
	// Between the two locks another process may have come. It leaves another transaction, or another file.
	if s.db, s.file, err = openBolt(s.path, false, max(time.Until(end), 1)); err != nil {
		return err
	}
	if !unchanged(s.path, s.file, s.db, found.txid) {
		s.db.Close()
		return errAgain
	}
	s.known, s.uneven = found.ids, !found.even
	if s.uneven {
		// If it cannot be done now, it will be with the next batch.
		if err := s.level(); err != nil {
			s.cfg.logger().Warn("the table of routes could not be written", "path", s.path, "err", err)
		}
	}
	s.sweep()
	return nil
}

// usable looks at what is known of a file without opening it: opening a pipe would wait for its other end.
func usable(info fs.FileInfo) error {
	mode := info.Mode()
	switch {
	case mode.IsDir():
		return fmt.Errorf("%w but a folder", ErrNotFile)
	case !mode.IsRegular():
		return fmt.Errorf("%w: its mode is %v", ErrNotFile, mode)
	case mode.Perm()&0o444 == 0 && runtime.GOOS != "windows":
		return fmt.Errorf("%w: its mode is %#o", fs.ErrPermission, mode.Perm())
	case mode.Perm()&0o222 == 0: // also for root, who could write to it
		return fmt.Errorf("%w: its mode is %#o", ErrReadOnly, mode.Perm())
	case info.Size() == 0:
		return ErrEmpty
	}
	return nil
}

// inspect verifies the file at path, while no other process writes to it.
func inspect(path string, timeout time.Duration) (*content, error) {
	var found *content
	check := func(file *os.File) error {
		info, err := file.Stat()
		if err == nil {
			found, err = verify(file, info.Size())
		}
		return err
	}
	db, file, err := openBolt(path, true, timeout)
	if err == nil {
		return found, errors.Join(check(file), db.Close())
	}
	var pe *fs.PathError
	if errors.As(err, &pe) || errors.Is(err, ErrLocked) {
		return nil, err
	}
	// bbolt has looked at the meta pages, and did not like them: say why.
	file, openErr := os.Open(path)
	if openErr != nil {
		return nil, openErr
	}
	defer file.Close()
	if why := check(file); why != nil {
		return nil, why
	}
	return nil, err
}

// unchanged reports whether file, which db has locked, is still the one at path, and still at a transaction.
func unchanged(path string, file *os.File, db *bbolt.DB, txid uint64) bool {
	there, err := os.Stat(path)
	mine, err2 := file.Stat()
	if err != nil || err2 != nil || !os.SameFile(there, mine) {
		return false
	}
	same := false
	err = guard(func() error {
		return db.View(func(tx *bbolt.Tx) error {
			same = uint64(tx.ID()) == txid
			return nil
		})
	})
	return err == nil && same
}

// openBolt opens a file that is there, and returns it, too, for as long as the database is open. It fails with a LockedError after timeout.
// Read-only, it shares the lock with others that only read, and follows no page but the meta pages.
func openBolt(path string, readOnly bool, timeout time.Duration) (db *bbolt.DB, file *os.File, err error) {
	opt := &bbolt.Options{
		Timeout:      timeout,
		ReadOnly:     readOnly,
		PageSize:     pageSize,
		FreelistType: bbolt.FreelistMapType,
		OpenFile: func(name string, flag int, mode os.FileMode) (*os.File, error) {
			var err error
			file, err = os.OpenFile(name, flag&^os.O_CREATE, mode)
			return file, err
		},
	}
	err = guard(func() error {
		db, err = bbolt.Open(path, 0o600, opt)
		return err
	})
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return nil, nil, holder(path)
	case errors.Is(err, syscall.EROFS):
		return nil, nil, fmt.Errorf("%w: so is its file system", ErrReadOnly)
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil, errAgain // it was there a moment ago
	case err != nil:
		return nil, nil, err
	}
	return db, file, nil
}

// create makes an empty table at path, unless something has appeared there. It appears whole or not at all.
func create(path string) error {
	temp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*.new")
	if err != nil {
		return err
	}
	name := temp.Name()
	defer os.Remove(name)
	if err := temp.Close(); err != nil {
		return err
	}
	db, file, err := openBolt(name, false, time.Minute)
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucket([]byte(bucketName))
		if err != nil {
			return err
		}
		return b.Put([]byte(headKey), head{}.append(nil))
	})
	if err == nil {
		err = db.Update(func(tx *bbolt.Tx) error { return note(tx, file) })
	}
	if err = errors.Join(err, db.Close()); err != nil {
		return err
	}
	// A link, unlike a rename, never replaces what is there.
	if os.Link(name, path) != nil {
		if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
			// A file system without hard links; or one who has made the table swept our file away, and then the table was removed.
			if err := os.Rename(name, path); errors.Is(err, fs.ErrNotExist) {
				return errAgain
			} else if err != nil {
				return err
			}
		}
	}
	return syncDir(path)
}

// sweep removes the temporary files that crashes have left, and those of processes that lost the race to create the table.
func (s *Store) sweep() {
	dir, base := filepath.Split(s.path)
	entries, err := os.ReadDir(filepath.Clean(dir))
	if err != nil {
		return
	}
	for _, e := range entries {
		middle, ok := strings.CutPrefix(e.Name(), "."+base+".")
		middle, ok2 := strings.CutSuffix(middle, ".new")
		if ok && ok2 && middle != "" && strings.Trim(middle, "0123456789") == "" {
			os.Remove(filepath.Join(dir, e.Name()))
		}
	}
}

// syncDir makes the name of a file durable, where the system can.
func syncDir(path string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
