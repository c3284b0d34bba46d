package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// Why a file is refused. [Open] wraps them in an [*OpenError].
var (
	ErrEmpty    = errors.New("the file is empty")                              // no crash of ours leaves that
	ErrDamaged  = errors.New("the table is damaged")                           // something in it is not as it was written
	ErrCutShort = fmt.Errorf("%w: the end of the file is missing", ErrDamaged) // is also ErrDamaged
	ErrForeign  = errors.New("the file is not a table of routes")              // no bbolt file, or one of something else
	ErrNewer    = errors.New("the table was written by a newer version")
	ErrReadOnly = errors.New("the file is read-only")
	ErrNotFile  = errors.New("it is not a regular file")
	ErrLocked   = errors.New("another process uses the table") // see [LockedError]
)

// Errors of a [Store].
var (
	ErrClosed    = fmt.Errorf("store: %w", fs.ErrClosed)          // is fs.ErrClosed
	ErrFull      = errors.New("store: the table is full")         // as many records as MaxRecords allows
	ErrBadRecord = errors.New("store: the record cannot be kept") // the text says why
)

// OpenError says why a table was not opened. It is as it was before.
type OpenError struct {
	Path string
	Err  error // one of the errors above, a LockedError, or what the system said
}

func (e *OpenError) Error() string {
	text := fmt.Sprintf("store: open %s: %v", e.Path, e.Err)
	if todo := e.todo(); todo != "" {
		text += "; " + todo
	}
	return text
}

// Unwrap returns Err.
func (e *OpenError) Unwrap() error { return e.Err }

func (e *OpenError) todo() string {
	const anew = "it was left as it is: put a copy in its place, or move it away to begin with an empty table"
	switch {
	case errors.Is(e.Err, ErrEmpty), errors.Is(e.Err, ErrDamaged):
		return anew
	case errors.Is(e.Err, ErrForeign):
		return "it was left as it is: choose another path, or move it away"
	case errors.Is(e.Err, ErrNewer):
		return "it was left as it is: use a newer version of this program, or another path"
	case errors.Is(e.Err, ErrReadOnly):
		return "make it writable for its owner, or choose another path"
	case errors.Is(e.Err, ErrNotFile):
		return "give the path of a file, which is made if it is not there"
	case errors.Is(e.Err, ErrLocked):
		return "close it there, or give each node a path of its own"
	case errors.Is(e.Err, fs.ErrPermission):
		return "look at the owner and mode of the file and its folder"
	case errors.Is(e.Err, fs.ErrNotExist):
		return "make the folder first"
	}
	return ""
}

// LockedError says who holds the lock on a table. It is [ErrLocked].
type LockedError struct {
	PID     int    // zero if the system does not tell
	Program string // the name of its program; empty if the system does not tell
}

func (e *LockedError) Error() string {
	switch {
	case e.PID == 0:
		return ErrLocked.Error() + ", or this one does already"
	case e.PID == os.Getpid():
		return "this process uses the table already"
	case e.Program == "":
		return fmt.Sprintf("%v: process %d", ErrLocked, e.PID)
	}
	return fmt.Sprintf("%v: process %d, %q", ErrLocked, e.PID, e.Program)
}

// Is reports whether target is ErrLocked.
func (e *LockedError) Is(target error) bool { return target == ErrLocked }
