package identity

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
)

// opensslKey is what "openssl genpkey -algorithm ed25519" wrote, and opensslID the public half by "openssl pkey -pubout".
const (
	opensslKey = `-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEIPSGgDxtOy6xwNzzmp8BDWNVEX/r3KEFzOJtRy3tF6yu
-----END PRIVATE KEY-----
`
	opensslID = "utobu6svg7s6ztue3iebdrxlld2r5lqhi72k3yyhsbg6qxc6jkvq"
)

func generate(t testing.TB) Key {
	t.Helper()
	k, err := Generate()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// writeFile makes a file of exactly this mode.
func writeFile(t testing.TB, text string, mode fs.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func names(t testing.TB, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var s []string
	for _, e := range entries {
		s = append(s, e.Name())
	}
	return s
}

func TestSaveLoad(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "key")
	k := generate(t)
	if err := k.Save(path); err != nil {
		t.Fatal(err)
	}
	got, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.private(), k.private()) {
		t.Error("another key came back")
	}
	if info, err := os.Stat(path); err != nil || runtime.GOOS != "windows" && info.Mode() != 0o600 {
		t.Errorf("the mode is %v (%v), want 0600", info.Mode(), err)
	}
	if left := names(t, dir); len(left) != 1 {
		t.Errorf("the folder holds %q, want the key alone", left)
	}
}

func TestSaveNeverOverwrites(t *testing.T) {
	for name, prepare := range map[string]func(path string) error{
		"key":       func(path string) error { return generate(t).Save(path) },
		"empty":     func(path string) error { return os.WriteFile(path, nil, 0o600) },
		"something": func(path string) error { return os.WriteFile(path, []byte("something"), 0o644) },
		"directory": func(path string) error { return os.Mkdir(path, 0o700) },
		"dangling":  func(path string) error { return os.Symlink(path+"-elsewhere", path) },
	} {
		for _, how := range []string{"Save", "saveExclusive"} {
			t.Run(name+"/"+how, func(t *testing.T) {
				dir := t.TempDir()
				path := filepath.Join(dir, "key")
				if err := prepare(path); err != nil {
					if name == "dangling" && runtime.GOOS == "windows" {
						t.Skip(err)
					}
					t.Fatal(err)
				}
				before, _ := os.ReadFile(path)
				info, err := os.Lstat(path)
				if err != nil {
					t.Fatal(err)
				}
				if how == "Save" {
					err = generate(t).Save(path)
				} else {
					err = saveExclusive(path, []byte("new"))
				}
				if !errors.Is(err, fs.ErrExist) {
					t.Errorf("got %v, want fs.ErrExist", err)
				}
				after, _ := os.ReadFile(path)
				if now, err := os.Lstat(path); err != nil || !bytes.Equal(before, after) || !os.SameFile(info, now) {
					t.Errorf("what was there has changed (%v)", err)
				}
				if left := names(t, dir); len(left) != 1 {
					t.Errorf("the folder holds %q", left)
				}
			})
		}
	}
}

// TestSaveAtOnce has many goroutines save different keys to one path while another reads it all the time: one wins, and
// nobody ever sees a part of a key.
func TestSaveAtOnce(t *testing.T) {
	const savers = 16
	for _, how := range []string{"Save", "saveExclusive"} {
		t.Run(how, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "key")
			keys := make([]Key, savers)
			errs := make([]error, savers)
			stop, stopped := make(chan struct{}), make(chan struct{})
			go func() {
				defer close(stopped)
				for {
					if _, err := Load(path); err != nil && how == "Save" && !errors.Is(err, fs.ErrNotExist) {
						t.Errorf("a reader got %v", err)
						return
					}
					select {
					case <-stop:
						return
					default:
						runtime.Gosched()
					}
				}
			}()
			var wg sync.WaitGroup
			start := make(chan struct{})
			for i := range keys {
				keys[i] = generate(t)
				der, err := x509.MarshalPKCS8PrivateKey(keys[i].private())
				if err != nil {
					t.Fatal(err)
				}
				text := pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: der})
				wg.Go(func() {
					<-start
					if how == "Save" {
						errs[i] = keys[i].Save(path)
					} else {
						errs[i] = saveExclusive(path, text)
					}
				})
			}
			close(start)
			wg.Wait()
			close(stop)
			<-stopped

			winner := -1
			for i, err := range errs {
				switch {
				case err == nil && winner < 0:
					winner = i
				case err == nil:
					t.Errorf("%d and %d have both won", winner, i)
				case !errors.Is(err, fs.ErrExist):
					t.Errorf("%d: got %v, want fs.ErrExist", i, err)
				}
			}
			if winner < 0 {
				t.Fatal("nobody has won")
			}
			if got, err := Load(path); err != nil || got.ID() != keys[winner].ID() {
				t.Errorf("the file holds %v (%v), want the winner's %v", got, err, keys[winner])
			}
			if left := names(t, dir); len(left) != 1 {
				t.Errorf("the folder holds %q, want the key alone", left)
			}
		})
	}
}

func TestSaveNowhere(t *testing.T) {
	for _, path := range []string{"", filepath.Join(t.TempDir(), "no", "key")} {
		err := generate(t).Save(path)
		if !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%q: got %v, want fs.ErrNotExist", path, err)
		}
	}
}

func TestLoadMissing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	_, err := Load(path)
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), path) {
		t.Errorf("got %v, want fs.ErrNotExist and the path", err)
	}
}

func TestLoadExposed(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("no file modes")
	}
	for mode := range fs.FileMode(0o1000) {
		path := writeFile(t, opensslKey, mode)
		_, err := Load(path)
		switch {
		case errors.Is(err, fs.ErrPermission): // not even we can read it
			if mode&0o400 != 0 {
				t.Errorf("mode %#o: %v", mode, err)
			}
		case mode&0o077 != 0:
			if !errors.Is(err, ErrExposedKey) || !strings.Contains(err.Error(), "chmod 600 "+path) {
				t.Errorf("mode %#o: got %v, want ErrExposedKey and the remedy", mode, err)
			}
		case err != nil:
			t.Errorf("mode %#o: %v", mode, err)
		}
	}
}

func TestLoadBad(t *testing.T) {
	pkcs8 := func(key any) string {
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		return string(pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: der}))
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, _ := x509.MarshalPKIXPublicKey(generate(t).private().Public())
	foreign := func(typ string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: typ, Bytes: der}))
	}
	block, _ := pem.Decode([]byte(opensslKey))
	broken := bytes.Clone(block.Bytes)
	broken[5] ^= 1

	bad := map[string]string{
		"empty":               "",
		"blank":               " \n\n",
		"text":                "not a key\n",
		"binary":              string(block.Bytes),
		"zeros":               strings.Repeat("\x00", len(opensslKey)),
		"bare base64":         strings.Split(opensslKey, "\n")[1],
		"changed base64":      strings.Replace(opensslKey, "MC4C", "MC!C", 1),
		"changed DER":         foreign(pemType, broken),
		"short DER":           foreign(pemType, block.Bytes[:len(block.Bytes)-1]),
		"empty block":         foreign(pemType, nil),
		"huge":                opensslKey + strings.Repeat("\n", maxFileSize),
		"huge block":          foreign(pemType, make([]byte, maxFileSize)),
		"two keys":            opensslKey + opensslKey,
		"key and text":        opensslKey + "x",
		"text and key":        "x\n" + opensslKey,
		"damaged key and key": opensslKey[:60] + "\n" + opensslKey,
		"key and damaged key": opensslKey + opensslKey[:60],
		"public key":          foreign("PUBLIC KEY", public),
		"certificate":         foreign("CERTIFICATE", public),
		"OpenSSH":             foreign("OPENSSH PRIVATE KEY", block.Bytes),
		"encrypted":           foreign("ENCRYPTED PRIVATE KEY", block.Bytes),
		"RSA":                 pkcs8(rsaKey),
		"ECDSA":               pkcs8(ecKey),
		"raw seed in the PEM": foreign(pemType, generate(t).private().Seed()),
		"PKCS #1":             foreign("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(rsaKey)),
		"PKCS #1 in PKCS #8":  foreign(pemType, x509.MarshalPKCS1PrivateKey(rsaKey)),
	}
	for n := range len(strings.TrimSpace(opensslKey)) {
		bad[fmt.Sprintf("cut at %d", n)] = opensslKey[:n]
	}
	for name, text := range bad {
		k, err := Load(writeFile(t, text, 0o600))
		if !errors.Is(err, ErrBadKeyFile) || !k.IsZero() {
			t.Errorf("%s: got %v, %v; want ErrBadKeyFile", name, k, err)
			continue
		}
		if len(err.Error()) > 1000 {
			t.Errorf("%s: the error has %d bytes", name, len(err.Error()))
		}
	}

	// A damaged file is never repaired nor replaced.
	path := writeFile(t, "damaged", 0o600)
	if err := generate(t).Save(path); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Save over a damaged file: got %v, want fs.ErrExist", err)
	}

	if _, err := Load(t.TempDir()); !errors.Is(err, ErrBadKeyFile) {
		t.Errorf("a directory: got %v, want ErrBadKeyFile", err)
	}
}

func TestLoadOpenSSL(t *testing.T) {
	for name, text := range map[string]string{
		"as written":    opensslKey,
		"CRLF":          strings.ReplaceAll(opensslKey, "\n", "\r\n"),
		"no line end":   strings.TrimSpace(opensslKey),
		"blank lines":   "\n" + opensslKey + "\n\n",
		"long way back": resave(t, opensslKey),
	} {
		k, err := Load(writeFile(t, text, 0o600))
		if err != nil || k.ID().String() != opensslID {
			t.Errorf("%s: got %v, %v; want %s", name, k.ID(), err, opensslID)
		}
	}
}

// resave returns what Save writes of the key in text.
func resave(t *testing.T, text string) string {
	t.Helper()
	k, err := Load(writeFile(t, text, 0o600))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "key")
	if err := k.Save(path); err != nil {
		t.Fatal(err)
	}
	saved, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(saved) != text {
		t.Errorf("Save wrote %q, openssl %q", saved, text)
	}
	return string(saved)
}

// TestOpenSSLReads hands a key of ours to the openssl of the machine, if it has one that knows ed25519.
func TestOpenSSLReads(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("no openssl here")
	}
	k := generate(t)
	path := filepath.Join(t.TempDir(), "key")
	if err := k.Save(path); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(openssl, "pkey", "-in", path, "-pubout").CombinedOutput()
	if err != nil {
		if strings.Contains(string(out), "unsupported") {
			t.Skipf("an openssl without ed25519: %s", out)
		}
		t.Fatalf("%v: %s", err, out)
	}
	block, _ := pem.Decode(out)
	if block == nil {
		t.Fatalf("openssl says %s", out)
	}
	public, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if p, ok := public.(ed25519.PublicKey); !ok || ID(p) != k.ID() {
		t.Errorf("openssl reads the public key %v, want %v", public, k.ID())
	}
}
