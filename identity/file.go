package identity

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
)

// Errors of key files, wrapped by what [Load] and [Key.Save] return.
var (
	// ErrExposedKey means that a key file can be read or written by others than its owner.
	ErrExposedKey = errors.New("identity: the key file is open to others")
	// ErrBadKeyFile means that a file is no key file, or a damaged one.
	ErrBadKeyFile = errors.New("identity: not a key file")
)

const (
	pemType     = "PRIVATE KEY" // PKCS #8 (RFC 5958) in PEM (RFC 7468), as openssl writes it
	maxFileSize = 16 << 10
)

// Load reads a key that [Key.Save] wrote, or any unencrypted ed25519 key in PKCS #8 PEM. It refuses a file that others
// can read or write with [ErrExposedKey], on systems that know file modes, and one that holds anything but one key with
// [ErrBadKeyFile]. A missing file is [fs.ErrNotExist].
func Load(path string) (Key, error) {
	k, err := load(path)
	if err != nil {
		return Key{}, fmt.Errorf("identity: load key %s: %w", path, err)
	}
	return k, nil
}

func load(path string) (Key, error) {
	// Looked at before it is opened: opening a pipe waits for its other end.
	info, err := os.Stat(path)
	if err != nil {
		return Key{}, err
	}
	if !info.Mode().IsRegular() {
		return Key{}, fmt.Errorf("%w: it is not a regular file", ErrBadKeyFile)
	}
	f, err := os.Open(path)
	if err != nil {
		return Key{}, err
	}
	defer f.Close()
	// What counts is the mode of the file that is read, whatever the path names by now.
	if info, err = f.Stat(); err != nil {
		return Key{}, err
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 && runtime.GOOS != "windows" {
		return Key{}, fmt.Errorf("%w: its mode is %#o; run: chmod 600 %s", ErrExposedKey, mode, path)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxFileSize+1))
	if err != nil {
		return Key{}, err
	}
	if len(text) > maxFileSize {
		return Key{}, fmt.Errorf("%w: it is larger than %d bytes", ErrBadKeyFile, maxFileSize)
	}
	text = bytes.TrimSpace(text)
	block, rest := pem.Decode(text)
	switch {
	case block == nil || bytes.LastIndex(text, []byte("-----BEGIN ")) != 0:
		return Key{}, fmt.Errorf("%w: it is not one PEM block", ErrBadKeyFile)
	case block.Type != pemType:
		return Key{}, fmt.Errorf("%w: its PEM block is %q, want %q", ErrBadKeyFile, block.Type, pemType)
	case len(bytes.TrimSpace(rest)) != 0:
		return Key{}, fmt.Errorf("%w: something follows the key", ErrBadKeyFile)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return Key{}, fmt.Errorf("%w: %w", ErrBadKeyFile, err)
	}
	private, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return Key{}, fmt.Errorf("%w: it holds a %T, want an ed25519 key", ErrBadKeyFile, parsed)
	}
	return newKey(private), nil
}

// Save writes the key to path with mode 0600, whatever the umask. The file appears whole or not at all, also through a
// crash; only where the file system has no hard links may a crash leave a part, which [Load] refuses. A file that is
// already there, whatever it holds, is left as it is and reported as [fs.ErrExist]. The folder must exist.
func (k Key) Save(path string) error {
	if err := k.save(path); err != nil {
		return fmt.Errorf("identity: save key %s: %w", path, err)
	}
	return nil
}

func (k Key) save(path string) error {
	if k.IsZero() {
		return errors.New("the key is the zero Key")
	}
	der, err := x509.MarshalPKCS8PrivateKey(k.private())
	if err != nil {
		return err
	}
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".key-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	text := pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: der})
	if err := writeKey(f, text); err != nil {
		return err
	}
	// A link, unlike a rename, never replaces what is there.
	err = os.Link(f.Name(), path)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		// File systems without hard links: create exclusively, and take back what could not be written whole.
		err = saveExclusive(path, text)
	}
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%w; a key is never overwritten", fs.ErrExist)
	}
	if err != nil {
		return err
	}
	return syncDir(dir)
}

func saveExclusive(path string, text []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if err := writeKey(f, text); err != nil {
		os.Remove(path)
		return err
	}
	return nil
}

// writeKey fills the new file f, makes it durable and closes it.
func writeKey(f *os.File, text []byte) error {
	err := f.Chmod(0o600) // the umask may have taken from what it was created with
	if err == nil {
		_, err = f.Write(text)
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// syncDir makes the new name in dir durable, where the system can.
func syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
