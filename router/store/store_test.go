package store

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/Blockchain-CN/pheromones/identity"
)

// byHand is a Config with which nothing is written but by Sync and Close.
var byHand = Config{Delay: time.Hour}

func newStore(t testing.TB, path string, cfg Config) *Store {
	t.Helper()
	s, err := Open(path, &cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func put(t testing.TB, s *Store, records ...Record) {
	t.Helper()
	for _, r := range records {
		if err := s.Put(r); err != nil {
			t.Fatal(err)
		}
	}
}

func do(t testing.TB, f func() error) {
	t.Helper()
	if err := f(); err != nil {
		t.Fatal(err)
	}
}

func wantRecords(t testing.TB, s *Store, want []Record) {
	t.Helper()
	got, err := s.Load()
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != len(want) {
		t.Fatalf("got %d records, want %d", len(got), len(want))
	}
	for i := range got {
		if !reflect.DeepEqual(got[i], want[i]) {
			t.Fatalf("record %d:\ngot  %+v\nwant %+v", i, got[i], want[i])
		}
	}
}

func testRecords(n, addrs int) []Record {
	records := make([]Record, n)
	for i := range records {
		records[i] = testRecord(i, addrs)
	}
	return records
}

func TestStore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "routes.db")
	s := newStore(t, path, byHand)
	wantRecords(t, s, []Record{})
	records := testRecords(300, 3)
	put(t, s, records...)
	wantRecords(t, s, records) // not on disk yet
	do(t, s.Sync)
	wantRecords(t, s, records)

	// Changes of what is on disk, before and after they are.
	records[7].Name = "another"
	put(t, s, records[7])
	do(t, func() error { return s.Delete(records[9].ID) })
	do(t, func() error { return s.Delete(testID(10000)) })
	want := slices.Delete(slices.Clone(records), 9, 10)
	wantRecords(t, s, want)
	do(t, s.Close)
	do(t, s.Close)
	for name, err := range map[string]error{"Put": s.Put(records[0]), "Delete": s.Delete(records[0].ID), "Sync": s.Sync()} {
		if !errors.Is(err, ErrClosed) || !errors.Is(err, fs.ErrClosed) {
			t.Errorf("%s after Close: %v", name, err)
		}
	}
	if _, err := s.Load(); !errors.Is(err, ErrClosed) {
		t.Errorf("Load after Close: %v", err)
	}

	s = newStore(t, path, byHand)
	wantRecords(t, s, want)
	// Deleted and put again, put and deleted again.
	do(t, func() error { return s.Delete(records[0].ID) })
	put(t, s, records[0], records[9])
	do(t, func() error { return s.Delete(records[9].ID) })
	do(t, s.Sync)
	wantRecords(t, s, want)
	// What is there already costs nothing.
	s.disk.Lock()
	before := s.txid()
	s.disk.Unlock()
	put(t, s, records[0])
	do(t, s.Sync)
	s.disk.Lock()
	if now := s.txid(); now != before {
		t.Errorf("%d transactions for nothing", now-before)
	}
	s.disk.Unlock()
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

// wantEven fails unless both meta pages of a file are of one tree.
func wantEven(t *testing.T, path string) {
	t.Helper()
	image, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	found, err := verify(bytes.NewReader(image), int64(len(image)))
	if err != nil || !found.even {
		t.Errorf("%+v, %v", found, err)
	}
}

// TestLevel: after each batch, and after Open, both meta pages are of one tree.
func TestLevel(t *testing.T) {
	path := filepath.Join(t.TempDir(), "routes.db")
	s := newStore(t, path, byHand)
	wantEven(t, path)
	for n := range 5 {
		put(t, s, testRecord(n, 2))
		do(t, s.Sync)
		wantEven(t, path)
	}
	// What a crash leaves between the two transactions.
	do(t, func() error {
		return s.commit(func(tx *bbolt.Tx) error { return apply(tx, map[identity.ID][]byte{testID(0): nil}) })
	})
	s.uneven = false
	do(t, s.Close)
	s = newStore(t, path, byHand)
	wantEven(t, path)
	wantRecords(t, s, testRecords(5, 2)[1:])
}

// left returns how many changes are pending.
func (s *Store) left() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.pending)
}

func TestFull(t *testing.T) {
	s := newStore(t, filepath.Join(t.TempDir(), "routes.db"), Config{MaxRecords: 3, Delay: time.Hour})
	put(t, s, testRecords(3, 0)...)
	if err := s.Put(testRecord(3, 0)); !errors.Is(err, ErrFull) {
		t.Errorf("a fourth: %v", err)
	}
	put(t, s, testRecord(2, 1)) // known
	// Deletions that are not written are bounded, too.
	for n := range 100 {
		s.Put(testRecord(n, 0))
		do(t, func() error { return s.Delete(testID(n)) })
	}
	if s.left() > 9 {
		t.Errorf("%d changes are pending", s.left())
	}
	do(t, s.Sync)
	put(t, s, testRecords(3, 0)...)
	wantRecords(t, s, testRecords(3, 0))
	if err := s.Put(Record{}); !errors.Is(err, ErrBadRecord) {
		t.Errorf("no ID: %v", err)
	}
}

// TestConcurrent: all methods at once. Each goroutine has records of its own, whose last state must be there in the end.
func TestConcurrent(t *testing.T) {
	path := filepath.Join(t.TempDir(), "routes.db")
	s := newStore(t, path, Config{Delay: time.Millisecond})
	s.disk.Lock()
	s.compactAt = 64 << 10
	s.disk.Unlock()
	const workers, each = 8, 20
	want := make([]Record, workers*each)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(1, uint64(w)))
			for range 150 {
				n := w*each + random.IntN(each)
				switch random.IntN(10) {
				case 0:
					if err := s.Sync(); err != nil {
						t.Error(err)
					}
				case 1:
					if _, err := s.Load(); err != nil {
						t.Error(err)
					}
				case 2, 3, 4:
					want[n] = Record{}
					if err := s.Delete(testID(n)); err != nil {
						t.Error(err)
					}
				default:
					r := testRecord(n, random.IntN(MaxAddrs))
					r.Seq = random.Uint64()
					if want[n] = r; s.Put(r) != nil {
						t.Error("not put")
					}
				}
			}
		})
	}
	wg.Wait()
	want = slices.DeleteFunc(want, func(r Record) bool { return r.ID.IsZero() })
	wantRecords(t, s, want)
	for range 4 { // Close, from several
		wg.Go(func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
			if err := s.Sync(); !errors.Is(err, ErrClosed) {
				t.Errorf("Sync: %v", err)
			}
		})
	}
	wg.Wait()
	wantRecords(t, newStore(t, path, byHand), want)
}

// TestCompact: the file grows and shrinks with what is in it, and stays locked and whole meanwhile.
func TestCompact(t *testing.T) {
	path := filepath.Join(t.TempDir(), "routes.db")
	s := newStore(t, path, byHand)
	size := func() int64 {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	do(t, func() error { return os.Chmod(path, 0o640) })
	records := testRecords(3000, 16)
	put(t, s, records...)
	do(t, s.Sync)
	large := size()
	for _, r := range records[100:] {
		do(t, func() error { return s.Delete(r.ID) })
	}
	do(t, s.Sync)
	if small := size(); small >= large/4 {
		t.Errorf("it has %d bytes, after %d", small, large)
	}
	t.Logf("%d bytes, then %d", large, size())
	wantEven(t, path)
	if _, err := Open(path, &Config{Timeout: -1}); !errors.Is(err, ErrLocked) {
		t.Errorf("it is not locked any more: %v", err)
	}
	put(t, s, testRecord(5000, 1))
	do(t, s.Close)
	s = newStore(t, path, byHand)
	wantRecords(t, s, append(slices.Clone(records[:100]), testRecord(5000, 1)))
	do(t, s.Close)
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 1 {
		t.Errorf("files: %v, %v", entries, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o640 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

// TestRescue: when a sync has failed, nothing is confirmed before all is in a new file.
func TestRescue(t *testing.T) {
	path := filepath.Join(t.TempDir(), "routes.db")
	s := newStore(t, path, byHand)
	put(t, s, testRecords(10, 3)...)
	do(t, s.Sync)
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	s.disk.Lock()
	s.doubtful = true
	s.disk.Unlock()
	do(t, s.Sync)
	if after, err := os.Stat(path); err != nil || runtime.GOOS != "windows" && os.SameFile(before, after) {
		t.Errorf("it is the same file, %v", err)
	}
	s.disk.Lock()
	if s.doubtful || s.uneven || s.renamed || s.db.NoSync {
		t.Errorf("doubtful %v, uneven %v, renamed %v, not synced %v", s.doubtful, s.uneven, s.renamed, s.db.NoSync)
	}
	s.disk.Unlock()
	wantEven(t, path)
	wantRecords(t, s, testRecords(10, 3))

	// Somebody has moved the table and made another.
	do(t, func() error { return os.Rename(path, path+".moved") })
	other := newStore(t, path, byHand)
	put(t, other, testRecord(1, 1))
	do(t, other.Sync)
	s.disk.Lock()
	if err := s.replace(); err == nil {
		t.Error("it was written over another table")
	}
	s.disk.Unlock()
	do(t, other.Close)
	wantRecords(t, newStore(t, path, byHand), testRecords(2, 1)[1:])
	wantRecords(t, s, testRecords(10, 3))
}

// TestDamagedWhileOpen: somebody cuts or overwrites the file under us. That is an error, not a crash.
func TestDamagedWhileOpen(t *testing.T) {
	for name, damage := range map[string]func(path string) error{
		"cut":   func(path string) error { return os.Truncate(path, 8192) },
		"empty": func(path string) error { return os.Truncate(path, 0) },
		"noise": func(path string) error {
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			_, err = f.Write(bytes.Repeat([]byte("noise"), 10000))
			return errors.Join(err, f.Close())
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "routes.db")
			s := newStore(t, path, byHand)
			put(t, s, testRecords(100, 3)...)
			do(t, s.Sync)
			do(t, func() error { return damage(path) })
			if _, err := s.Load(); !errors.Is(err, ErrDamaged) {
				t.Errorf("Load: %v", err)
			}
			put(t, s, testRecords(100, 2)...)
			if err := s.Sync(); err == nil {
				t.Error("Sync: nil")
			}
			if err := s.Close(); err == nil {
				t.Error("Close: nil")
			}
		})
	}
}

// lines is where a logger writes.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
	seen chan struct{} // has room for one: something was written
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case l.seen <- struct{}{}:
	default:
	}
	return l.text.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// TestRetry: a batch that cannot be written is told of, and written later; what came meanwhile is newer.
func TestRetry(t *testing.T) {
	path := filepath.Join(t.TempDir(), "routes.db")
	log := &lines{seen: make(chan struct{}, 1)}
	s := newStore(t, path, Config{Delay: -1, Logger: slog.New(slog.NewTextHandler(log, nil))})
	bad, err := bbolt.Open(path+".2", 0o600, nil) // has no bucket
	if err != nil {
		t.Fatal(err)
	}
	s.disk.Lock()
	good := s.db
	s.db = bad
	s.disk.Unlock()
	put(t, s, testRecords(10, 1)...)
	<-log.seen
	if text := log.String(); !strings.Contains(text, path) {
		t.Errorf("logged %q", text)
	}
	// One change while the others are being written.
	tx, err := bad.Begin(true)
	if err != nil {
		t.Fatal(err)
	}
	synced := make(chan error, 1)
	go func() { synced <- s.Sync() }()
	for s.left() > 0 {
		runtime.Gosched()
	}
	newer := testRecord(3, 5)
	put(t, s, newer)
	do(t, tx.Rollback)
	if err := <-synced; err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("Sync: %v", err)
	}
	s.disk.Lock()
	s.db = good
	s.disk.Unlock()
	do(t, bad.Close)
	do(t, s.Sync)
	if s.left() > 0 {
		t.Errorf("%d changes are left", s.left())
	}
	want := testRecords(10, 1)
	want[3] = newer
	wantRecords(t, s, want)
	do(t, s.Close)
	wantRecords(t, newStore(t, path, byHand), want)
}

func Example() {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	s, err := Open(filepath.Join(dir, "routes.db"), nil)
	if err != nil {
		panic(err) // it says what to do
	}
	records, err := s.Load()
	fmt.Println(len(records), err)
	fmt.Println(s.Put(Record{ID: testID(1), Name: "luda"}))
	fmt.Println(s.Close())
	// Output:
	// 0 <nil>
	// <nil>
	// <nil>
}

func BenchmarkOpenLoad(b *testing.B) {
	path := filepath.Join(b.TempDir(), "routes.db")
	s := newStore(b, path, byHand)
	put(b, s, testRecords(16384, 16)...)
	began := time.Now()
	do(b, s.Sync)
	b.Logf("written in %v", time.Since(began))
	do(b, s.Close)
	info, _ := os.Stat(path)
	b.Logf("%d bytes", info.Size())
	b.Run("Open", func(b *testing.B) {
		for b.Loop() {
			s := newStore(b, path, byHand)
			do(b, s.Close)
		}
	})
	s = newStore(b, path, byHand)
	b.Run("Load", func(b *testing.B) {
		for b.Loop() {
			if records, err := s.Load(); err != nil || len(records) != 16384 {
				b.Fatal(len(records), err)
			}
		}
	})
	b.Run("Put", func(b *testing.B) {
		r := testRecord(1, 16)
		for b.Loop() {
			do(b, func() error { return s.Put(r) })
		}
	})
	b.Run("Sync", func(b *testing.B) {
		r := testRecord(1, 16)
		for n := uint64(0); b.Loop(); n++ {
			r.Seq = n
			put(b, s, r)
			do(b, s.Sync)
		}
	})
}
