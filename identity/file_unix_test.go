//go:build linux || darwin || freebsd || netbsd || openbsd

package identity

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

func TestSaveUmask(t *testing.T) {
	for _, mask := range []int{0, 0o022, 0o077, 0o277, 0o777} {
		for _, how := range []string{"Save", "saveExclusive"} {
			path := filepath.Join(t.TempDir(), "key")
			old := syscall.Umask(mask)
			var err error
			if how == "Save" {
				err = generate(t).Save(path)
			} else {
				err = saveExclusive(path, []byte(opensslKey))
			}
			syscall.Umask(old)
			if err != nil {
				t.Errorf("umask %#o: %s: %v", mask, how, err)
				continue
			}
			if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
				t.Errorf("umask %#o: %s: the mode is %v (%v), want 0600", mask, how, info.Mode(), err)
			}
			if _, err := Load(path); err != nil {
				t.Errorf("umask %#o: %s: %v", mask, how, err)
			}
		}
	}
}

// TestLoadSpecial reads what is no regular file. Opening a FIFO waits for a writer, which must not hold Load.
func TestLoadSpecial(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Skip(err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(fifo, link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{fifo, link, os.DevNull} {
		result := make(chan error, 1)
		go func() {
			_, err := Load(path)
			result <- err
		}()
		select {
		case err := <-result:
			if !errors.Is(err, ErrBadKeyFile) {
				t.Errorf("%s: got %v, want ErrBadKeyFile", path, err)
			}
		case <-time.After(20 * time.Second):
			t.Errorf("%s: Load hangs", path)
			if f, err := os.OpenFile(path, os.O_RDWR, 0); err == nil { // let it go
				<-result
				f.Close()
			}
		}
	}
}

func TestSaveReadOnlyFolder(t *testing.T) {
	if os.Getuid() == 0 {
		t.Skip("root may write anywhere")
	}
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o500); err != nil {
		t.Fatal(err)
	}
	if err := generate(t).Save(filepath.Join(dir, "key")); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("got %v, want fs.ErrPermission", err)
	}
}
