package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/fnv"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/Blockchain-CN/pheromones/identity"
)

// tableImage returns the bytes of a table with the given records, after some changes that left free pages.
func tableImage(t testing.TB, records []Record) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "routes.db")
	s := newStore(t, path, byHand)
	put(t, s, testRecord(100000, 16))
	for _, r := range records {
		r.Name, r.Addrs = "before", nil
		put(t, s, r)
	}
	do(t, s.Sync)
	put(t, s, records...)
	do(t, s.Sync)
	do(t, func() error { return s.Delete(testID(100000)) })
	do(t, s.Close)
	image, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return image
}

// boltImage returns a bbolt file that fill has made.
func boltImage(t *testing.T, size int, fill func(*bbolt.Tx) error) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "bolt.db")
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{PageSize: size})
	if err != nil {
		t.Fatal(err)
	}
	do(t, func() error { return db.Update(fill) })
	do(t, func() error { return db.Update(func(*bbolt.Tx) error { return nil }) })
	do(t, db.Close)
	image, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return image
}

// bucketOf makes our bucket with what is given under keys, in turn.
func bucketOf(pairs ...string) func(*bbolt.Tx) error {
	return func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucket([]byte(bucketName))
		for i := 0; i < len(pairs) && err == nil; i += 2 {
			err = b.Put([]byte(pairs[i]), []byte(pairs[i+1]))
		}
		return err
	}
}

func sealed(key, value string) string { return string(seal([]byte(key), []byte(value))) }

func TestRefusals(t *testing.T) {
	records := testRecords(200, 3)
	whole := tableImage(t, records)
	noise := bytes.Repeat([]byte("It was a dark and stormy night. "), 1000)
	flipped := func(at int) []byte {
		b := bytes.Clone(whole)
		b[at] ^= 4
		return b
	}
	both := flipped(pageHeader + 20)
	both[pageSize+pageHeader+20] ^= 4
	record := testRecord(1, 1)
	key, value := string(record.ID[:]), record.append(nil)
	oneHead := head{}
	n, _ := sum(record.ID[:], value)
	oneHead.add(n)
	record.Seq++
	stale := record.append(nil)
	for _, test := range []struct {
		name  string
		image []byte
		want  error
	}{
		{"empty", nil, ErrEmpty},
		{"a byte", whole[:1], ErrForeign},
		{"cut in the first page", whole[:60], ErrCutShort},
		{"one page", whole[:pageSize], ErrCutShort},
		{"cut in the second page", whole[:pageSize+30], ErrCutShort},
		{"two pages", whole[:2*pageSize], ErrCutShort},
		{"half", whole[:len(whole)/2], ErrCutShort},
		{"a page less", whole[:len(whole)-pageSize], ErrCutShort},
		{"a byte less", whole[:len(whole)-1], ErrCutShort},
		{"both meta pages", both, ErrDamaged},
		{"first record", flipped(bytes.Index(whole, []byte("peer 17"))), ErrDamaged},
		{"text", noise, ErrForeign},
		{"short text", noise[:100], ErrForeign},
		{"zeros", make([]byte, 1<<16), ErrForeign},
		{"bbolt, empty", boltImage(t, pageSize, func(*bbolt.Tx) error { return nil }), ErrForeign},
		{"bbolt, somebody's", boltImage(t, pageSize, func(tx *bbolt.Tx) error { _, err := tx.CreateBucket([]byte("a")); return err }), ErrForeign},
		{"bbolt, of other pages", boltImage(t, 2*pageSize, bucketOf(headKey, string(head{}.append(nil)))), ErrForeign},
		{"no head", boltImage(t, pageSize, bucketOf("a", "b")), ErrDamaged},
		{"bucket beside ours", boltImage(t, pageSize, func(tx *bbolt.Tx) error {
			_, err := tx.CreateBucket([]byte("z"))
			return errors.Join(err, bucketOf(headKey, string(head{}.append(nil)))(tx))
		}), ErrDamaged},
		{"newer", boltImage(t, pageSize, bucketOf(headKey, sealed(headKey, "\x00\x02whatever"), "x", "y")), ErrNewer},
		{"newer record", boltImage(t, pageSize, bucketOf(headKey, string(oneHead.append(nil)), key, sealed(key, "\x02whatever"))), ErrNewer},
		{"version 0", boltImage(t, pageSize, bucketOf(headKey, sealed(headKey, "\x00\x00whatever"))), ErrDamaged},
		{"a record too few", boltImage(t, pageSize, bucketOf(headKey, string(oneHead.append(nil)))), ErrDamaged},
		{"another state of a record", boltImage(t, pageSize, bucketOf(headKey, string(oneHead.append(nil)), key, string(stale))), ErrDamaged},
		{"a record too many", boltImage(t, pageSize, bucketOf(headKey, string(head{}.append(nil)), key, string(value))), ErrDamaged},
	} {
		t.Run(test.name, func(t *testing.T) {
			wantRefused(t, test.image, 0o600, test.want)
		})
	}
	t.Run("read-only", func(t *testing.T) { wantRefused(t, whole, 0o444, ErrReadOnly) })
	t.Run("no permission", func(t *testing.T) {
		if runtime.GOOS == "windows" {
			t.Skip("there are no such modes")
		}
		wantRefused(t, whole, 0o000, fs.ErrPermission)
	})
	t.Run("whole", func(t *testing.T) { wantRecords(t, newStore(t, writeFile(t, whole, 0o600), byHand), records) })
}

func writeFile(t testing.TB, image []byte, mode fs.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "routes.db")
	do(t, func() error { return os.WriteFile(path, image, 0o600) })
	do(t, func() error { return os.Chmod(path, mode) })
	t.Cleanup(func() { os.Chmod(path, 0o600) })
	do(t, func() error { return os.Chtimes(path, time.Unix(1, 0), time.Unix(1, 0)) })
	return path
}

// wantRefused opens a file of that content, wants an error that says so, and the file as it was.
func wantRefused(t *testing.T, image []byte, mode fs.FileMode, want error) {
	t.Helper()
	path := writeFile(t, image, mode)
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	s, err := Open(path, nil)
	if err == nil {
		s.Close()
		t.Fatal("it was opened")
	}
	var oe *OpenError
	if !errors.As(err, &oe) || !errors.Is(err, want) || !strings.Contains(err.Error(), path) || oe.todo() == "" {
		t.Errorf("got %v, want %v", err, want)
	}
	t.Log(err)
	after, err := os.Stat(path)
	if err != nil || !os.SameFile(before, after) || before.Mode() != after.Mode() || !before.ModTime().Equal(after.ModTime()) {
		t.Errorf("it was %v, is %v, %v", before, after, err)
	}
	do(t, func() error { return os.Chmod(path, 0o600) })
	if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, image) {
		t.Errorf("its content has changed: %v", err)
	}
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 1 {
		t.Errorf("it left something behind: %v, %v", entries, err)
	}
}

func TestNotAFile(t *testing.T) {
	dir := t.TempDir()
	link := filepath.Join(dir, "link")
	if err := os.Symlink(filepath.Join(dir, "nothing"), link); err != nil {
		t.Skip(err)
	}
	for path, want := range map[string]error{
		dir: ErrNotFile, link: ErrNotFile, filepath.Join(dir, "no", "routes.db"): fs.ErrNotExist, os.DevNull: ErrNotFile, "": ErrNotFile,
	} {
		if _, err := Open(path, nil); !errors.Is(err, want) {
			t.Errorf("%s: %v", path, err)
		} else {
			t.Log(err)
		}
	}
	// A link to a table is followed, also when the table is written to a new file.
	real := filepath.Join(dir, "nothing")
	do(t, newStore(t, real, byHand).Close)
	s := newStore(t, link, byHand)
	put(t, s, testRecord(1, 1))
	do(t, s.Sync)
	do(t, func() error { s.disk.Lock(); defer s.disk.Unlock(); return s.replace() })
	do(t, s.Close)
	wantRecords(t, newStore(t, real, byHand), testRecords(2, 1)[1:])
	if info, err := os.Lstat(link); err != nil || info.Mode()&fs.ModeSymlink == 0 {
		t.Errorf("the link has become %v, %v", info, err)
	}
}

// TestTornWrites: a power failure leaves any part of what was written since the last sync. bbolt writes pages, syncs, writes a meta page,
// syncs; whatever part of the pages has arrived, the table is as before, and when the other meta page is lost, too.
func TestTornWrites(t *testing.T) {
	path := filepath.Join(t.TempDir(), "routes.db")
	s := newStore(t, path, byHand)
	put(t, s, testRecords(60, 3)...)
	do(t, s.Sync)
	s.disk.Lock()
	defer s.disk.Unlock()
	random := rand.New(rand.NewPCG(rand.Uint64(), 0))
	read := func() (image []byte, h head) {
		t.Helper()
		image, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		found, err := verify(bytes.NewReader(image), int64(len(image)))
		if err != nil {
			t.Fatal(err)
		}
		return image, found.head
	}
	check := func(image []byte, want ...head) {
		t.Helper()
		found, err := verify(bytes.NewReader(image), int64(len(image)))
		if err != nil || !slices.ContainsFunc(want, func(h head) bool { return h.count == found.head.count && h.sum == found.head.sum }) {
			t.Fatalf("%+v, %v, want %+v", found, err, want)
		}
	}
	old, before := read()
	for range 40 {
		batch := make(map[identity.ID][]byte)
		for range 1 + random.IntN(30) {
			r := testRecord(random.IntN(100), random.IntN(10))
			r.Seq = random.Uint64()
			if batch[r.ID] = r.append(nil); random.IntN(3) == 0 {
				batch[r.ID] = nil
			}
		}
		for _, commit := range []func() error{
			func() error { return s.commit(func(tx *bbolt.Tx) error { return apply(tx, batch) }) },
			s.level,
		} {
			do(t, commit)
			image, now := read()
			for range 5 {
				torn := bytes.Clone(old)
				torn = append(torn, make([]byte, len(image)-len(old))...)
				for at := 2 * pageSize; at < len(image); at += pageSize {
					if random.IntN(2) == 0 {
						copy(torn[at:at+pageSize], image[at:])
					}
				}
				check(torn, before)
			}
			for at := range 2 {
				torn := bytes.Clone(image)
				clear(torn[at*pageSize+random.IntN(60):][:20])
				if check(torn, before, now); !s.uneven {
					check(torn, now)
				}
			}
			old, before = image, now
		}
	}
}

// TestUnchanged: another process that has come between the two locks does not go unnoticed.
func TestUnchanged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "routes.db")
	s := newStore(t, path, byHand)
	s.disk.Lock()
	defer s.disk.Unlock()
	txid := uint64(s.txid())
	if !unchanged(path, s.file, s.db, txid) {
		t.Error("it has changed, though nothing happened")
	}
	do(t, s.level)
	if unchanged(path, s.file, s.db, txid) {
		t.Error("a transaction went unnoticed")
	}
	do(t, func() error { return os.Rename(path, path+".old") })
	do(t, func() error { return create(path) })
	if unchanged(path, s.file, s.db, uint64(s.txid())) {
		t.Error("another file went unnoticed")
	}
}

// TestFlips: a bit flipped anywhere is noticed, or does not matter. Many bytes are tried on the checker, some on Open itself.
func TestFlips(t *testing.T) {
	records := testRecords(40, 2)
	image := tableImage(t, records)
	sound, err := verify(bytes.NewReader(image), int64(len(image)))
	if err != nil || !sound.even {
		t.Fatal(sound, err)
	}
	path := filepath.Join(t.TempDir(), "routes.db")
	accepted, opened := 0, 0
	step := 11
	if brief() {
		step = 37
	}
	for at := 0; at < len(image); at += step {
		bit := byte(1) << (at * 5 % 8)
		image[at] ^= bit
		_, err := verify(bytes.NewReader(image), int64(len(image)))
		if err == nil {
			accepted++
		}
		inMeta := at%pageSize < 100 && at < 2*pageSize
		if inMeta && (!brief() || at%3 == 0) || at%pageSize < 32 || at/step%199 == 0 {
			opened++
			do(t, func() error { return os.WriteFile(path, image, 0o600) })
			s, openErr := Open(path, &byHand)
			switch {
			case openErr == nil:
				wantRecords(t, s, records)
				put(t, s, testRecord(1000, 3)) // and it can be written to
				do(t, s.Close)
				s = newStore(t, path, byHand)
				if got, err := s.Load(); err != nil || len(got) != len(records)+1 {
					t.Errorf("byte %d: then it held %d records, %v", at, len(got), err)
				}
				do(t, s.Close)
			case !errors.Is(openErr, ErrDamaged) && !errors.Is(openErr, ErrForeign) && !errors.Is(openErr, ErrNewer):
				t.Errorf("byte %d: %v", at, openErr)
			default:
				if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, image) {
					t.Fatalf("byte %d: refused and changed, %v", at, err)
				}
			}
			if (err == nil) != (openErr == nil) {
				t.Errorf("byte %d: %v, but Open: %v", at, err, openErr)
			}
		}
		image[at] ^= bit
	}
	t.Logf("%d bytes, %d flips, %d do not matter, %d files opened", len(image), len(image)/step, accepted, opened)
}

// FuzzVerify: whatever is changed in a file, the checker ends and does not panic; and what it accepts, bbolt reads. A patch is four
// bytes: where, and what to change there. The sums of the meta pages are mended.
func FuzzVerify(f *testing.F) {
	whole := tableImage(f, testRecords(60, 2))
	f.Add([]byte{}, uint32(0))
	f.Add([]byte{0, 0, 40, 1, 0, 0x10, 40, 1}, uint32(5000))
	for page := byte(0); page < 8; page++ {
		f.Add([]byte{0, page << 4, 8, 3, 0, page << 4, 10, 0xFF, 0, page<<4 + 1, 0, 7}, uint32(0))
	}
	f.Fuzz(func(t *testing.T, patches []byte, less uint32) {
		image := bytes.Clone(whole[:len(whole)-int(less)%len(whole)])
		for ; len(patches) >= 4; patches = patches[4:] {
			at := int(patches[0])<<16 | int(patches[1])<<8 | int(patches[2])
			image[at%len(image)] ^= patches[3]
		}
		mendMeta(image)
		if found, err := verify(bytes.NewReader(image), int64(len(image))); err == nil {
			path := filepath.Join(t.TempDir(), "routes.db")
			do(t, func() error { return os.WriteFile(path, image, 0o600) })
			s := newStore(t, path, byHand)
			if got, err := s.Load(); err != nil || len(got) != len(found.ids) {
				t.Fatalf("%d records, %v, want %d", len(got), err, len(found.ids))
			}
			do(t, s.Close)
		}
	})
}

func TestLocked(t *testing.T) {
	path := filepath.Join(t.TempDir(), "routes.db")
	s := newStore(t, path, byHand)
	began := time.Now()
	_, err := Open(path, &Config{Timeout: 200 * time.Millisecond})
	var le *LockedError
	if !errors.As(err, &le) || !errors.Is(err, ErrLocked) {
		t.Fatal(err)
	}
	t.Log(err, time.Since(began))
	if runtime.GOOS == "linux" && le.PID != os.Getpid() {
		t.Errorf("it is process %d, not %d", os.Getpid(), le.PID)
	}
	do(t, s.Close)
	do(t, newStore(t, path, byHand).Close)
	// Somebody else's lock on the same file, as bbolt takes it.
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path, &Config{Timeout: -1}); !errors.Is(err, ErrLocked) {
		t.Error(err)
	}
	do(t, db.Close)
}

// TestRace: many open one table that is not there yet. Each gets it in turn, and none loses what another has written.
func TestRace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "routes.db")
	const n = 8
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			s, err := Open(path, &Config{Timeout: 5 * time.Minute})
			if err != nil {
				t.Error(err)
				return
			}
			if err := s.Put(testRecord(i, 2)); err != nil {
				t.Error(err)
			}
			if i%2 == 0 { // a new file in place of the one that the others wait for
				err := s.Sync()
				s.disk.Lock()
				err = errors.Join(err, s.replace())
				s.disk.Unlock()
				if err != nil {
					t.Error(err)
				}
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	wantRecords(t, newStore(t, path, byHand), testRecords(n, 2))
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 1 {
		t.Errorf("files: %v, %v", entries, err)
	}
}

// mendMeta makes the checksums of the meta pages right, so that what they say is looked at.
func mendMeta(image []byte) {
	for _, at := range []int{0, pageSize} {
		if len(image) >= at+pageHeader+metaSize {
			b := image[at+pageHeader:]
			hash := fnv.New64a()
			hash.Write(b[:metaSize-8])
			binary.NativeEndian.PutUint64(b[metaSize-8:], hash.Sum64())
		}
	}
}
