//go:build unix

package store

import (
	"os"
	"syscall"
)

// keepOwner gives a new file the owner of the one that it is to replace, if the process may: root may write to a user's table.
func keepOwner(file *os.File, old os.FileInfo) {
	if st, ok := old.Sys().(*syscall.Stat_t); ok {
		file.Chown(int(st.Uid), int(st.Gid))
	}
}
