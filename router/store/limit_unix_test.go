//go:build unix

package store

import (
	"os/signal"
	"syscall"
)

// limitFiles bounds the size of the files that this process writes, until lift is called.
func limitFiles(size uint64) (lift func() error, err error) {
	signal.Ignore(syscall.SIGXFSZ) // or going beyond ends the process
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		return nil, err
	}
	lower := limit
	setCur(&lower.Cur, size)
	return func() error { return syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit) }, syscall.Setrlimit(syscall.RLIMIT_FSIZE, &lower)
}

// setCur sets a limit, whose type differs between systems.
func setCur[T int64 | uint64](cur *T, size uint64) { *cur = T(size) }
