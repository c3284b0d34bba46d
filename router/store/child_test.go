package store

import (
	"bufio"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/Blockchain-CN/pheromones/identity"
)

var rounds = flag.Int("rounds", 0, "how often TestKill kills; 0: 300 times, with -short or the race detector 30 times")

func killRounds() int {
	switch {
	case *rounds > 0:
		return *rounds
	case brief():
		return 30
	}
	return 300
}

// brief reports whether tests are to do less: with -short, and under the race detector.
func brief() bool {
	info, ok := debug.ReadBuildInfo()
	return testing.Short() || ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

const killPeers = 64

// step is the n-th change that the writing child makes: every fifth deletes.
func step(n int) (id identity.ID, r Record, deleted bool) {
	id = testID(n * 7 % killPeers)
	if n%5 == 0 {
		return id, Record{}, true
	}
	r = testRecord(1, n%MaxAddrs/(1+n%7))
	r.ID, r.Seq, r.Name = id, uint64(n), strings.Repeat("x", n%200)
	for i := range r.Addrs {
		r.Addrs[i].Addr.Peer = identity.ID{}
	}
	return id, r, false
}

// child is what the test binary does in a process of its own. It returns the exit code.
func child(role, path string) int {
	var err error
	switch role {
	case "write":
		err = childWrite(path, 0)
	case "write-late":
		err = childWrite(path, time.Millisecond)
	case "full":
		err = childFull(path)
	case "hold":
		err = childHold(path)
	default:
		err = errors.New("no such role")
	}
	if err != nil {
		fmt.Println("failed:", err)
		return 1
	}
	return 0
}

// childWrite makes changes until it is killed, counting on from what it finds. It prints the number of each change that Sync has
// confirmed; with a pause between changes it calls no Sync, and prints each number at once.
func childWrite(path string, pause time.Duration) error {
	s, err := Open(path, &Config{Timeout: 10 * time.Second})
	if err != nil {
		return err
	}
	s.disk.Lock()
	s.compactAt = 40 << 10 // so that kills hit it, too
	s.disk.Unlock()
	from, err := strconv.Atoi(os.Args[len(os.Args)-2])
	if err != nil {
		return err
	}
	for n := from; ; n++ {
		id, r, deleted := step(n)
		if deleted {
			err = s.Delete(id)
		} else {
			err = s.Put(r)
		}
		switch {
		case err != nil:
			return err
		case pause > 0:
			fmt.Println(n)
			<-time.After(pause)
		case n%9 == 0:
			if err := s.Sync(); err != nil {
				return err
			}
			fmt.Println(n)
		}
	}
}

// table is what a table holds of step's changes: the number of the last one that put each record.
type table map[identity.ID]uint64

func (t table) apply(n int) {
	if id, r, deleted := step(n); deleted {
		delete(t, id)
	} else {
		t[id] = r.Seq
	}
}

func (t table) equal(o table) bool {
	for id, seq := range t {
		if o[id] != seq {
			return false
		}
	}
	return len(t) == len(o)
}

// readTable opens a table after a kill and returns what is in it.
func readTable(t *testing.T, path string) table {
	t.Helper()
	s, err := Open(path, &Config{Timeout: 30 * time.Second, Delay: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	records, err := s.Load()
	if err != nil {
		t.Fatal(err)
	}
	got := make(table)
	for _, r := range records {
		_, want, _ := step(int(r.Seq))
		if got[r.ID] = r.Seq; r.ID != want.ID || r.Name != want.Name || len(r.Addrs) != len(want.Addrs) {
			t.Fatalf("a record that nobody wrote: %+v", r)
		}
	}
	do(t, s.Close)
	return got
}

// kill runs a writing child from change number from, and kills it after a time, which begins with its first line if that is to be awaited.
// It returns the numbers that the child printed, when they came, and when it was killed.
func kill(t *testing.T, role, path string, from int, await bool, after time.Duration) (numbers []int, times []time.Time, end time.Time) {
	t.Helper()
	cmd := exec.Command(os.Args[0], strconv.Itoa(from), path)
	cmd.Env = append(os.Environ(), childEnv+"="+role)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	do(t, cmd.Start)
	defer cmd.Wait()
	killed := make(chan time.Time, 1)
	shoot := func() { killed <- time.Now(); cmd.Process.Kill() }
	var timer *time.Timer
	if !await {
		timer = time.AfterFunc(after, shoot)
	}
	for lines := bufio.NewScanner(out); lines.Scan(); {
		n, err := strconv.Atoi(lines.Text())
		if err != nil {
			t.Errorf("the child says %q", lines.Text())
			continue
		}
		if numbers, times = append(numbers, n), append(times, time.Now()); timer == nil {
			timer = time.AfterFunc(after, shoot)
		}
	}
	if timer == nil || timer.Stop() {
		t.Fatal("the child ended by itself")
	}
	return numbers, times, <-killed
}

// TestKill kills a process that writes, at any moment. The table opens each time, and holds all changes in their order up to one that is
// no older than the last confirmed.
func TestKill(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "routes.db")
	random := rand.New(rand.NewPCG(rand.Uint64(), 0))
	at, state, confirmed, began := 0, make(table), 0, time.Now()
	n := killRounds()
	for round := range n {
		if round%20 == 19 { // a new file
			do(t, func() error { return os.Remove(path) })
			state = make(table)
		}
		// Every other round begins when the child is at work: it may be slow to start.
		numbers, _, _ := kill(t, "write", path, at+1, round%2 == 0, time.Duration(random.IntN(30))*time.Millisecond)
		confirmed += len(numbers)
		least := at
		if len(numbers) > 0 {
			least = numbers[len(numbers)-1]
		}
		got := readTable(t, path)
		for at < least {
			at++
			state.apply(at)
		}
		for limit := at + 1000; !state.equal(got); state.apply(at) {
			if at++; at > limit {
				t.Fatalf("round %d: after %d was confirmed it holds what no moment held: %v", round, least, got)
			}
		}
	}
	t.Logf("%d rounds, %d confirmations, %d changes in %v", n, confirmed, at, time.Since(began))
	if confirmed < n/2 {
		t.Error("too little was confirmed")
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("files: %v, %v", entries, err)
	}
}

// TestKillLate: without Sync, what is older than a second is on disk; two seconds here, since the machine may have other things to do.
func TestKillLate(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "routes.db")
	numbers, times, end := kill(t, "write-late", path, 1, true, 2500*time.Millisecond)
	least := 0
	for i, n := range numbers {
		if end.Sub(times[i]) > 2*time.Second {
			least = n
		}
	}
	got, state, at := readTable(t, path), make(table), 0
	for at < least {
		at++
		state.apply(at)
	}
	for limit := at + 10000; !state.equal(got); state.apply(at) {
		if at++; at > limit {
			t.Fatalf("%d was told more than two seconds ago, but the table holds %v", least, got)
		}
	}
	t.Logf("%d was older than two seconds, %d the last, %d was on disk", least, numbers[len(numbers)-1], at)
}

// childHold opens the table, says so, and waits for the end of its input.
func childHold(path string) error {
	s, err := Open(path, nil)
	if err != nil {
		return err
	}
	fmt.Println("open")
	os.Stdin.Read(make([]byte, 1))
	return s.Close()
}

// TestLockedByAnother: the error tells the other process. When it is gone, the table can be had.
func TestLockedByAnother(t *testing.T) {
	path := filepath.Join(t.TempDir(), "routes.db")
	cmd := exec.Command(os.Args[0], path)
	cmd.Env = append(os.Environ(), childEnv+"=hold")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	do(t, cmd.Start)
	defer cmd.Wait()
	defer in.Close()
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "open\n" {
		t.Fatal(line, err)
	}
	_, err = Open(path, &Config{Timeout: 100 * time.Millisecond})
	var le *LockedError
	if !errors.As(err, &le) || le.PID != 0 && (le.PID != cmd.Process.Pid || le.Program == "") {
		t.Errorf("got %v, %+v; the process is %d", err, le, cmd.Process.Pid)
	}
	t.Log(err)
	waiting := make(chan error, 1)
	go func() {
		s, err := Open(path, &Config{Timeout: 5 * time.Minute})
		if err == nil {
			err = s.Close()
		}
		waiting <- err
	}()
	in.Close()
	if err := <-waiting; err != nil {
		t.Error(err)
	}
}

// TestDiskFull: see childFull.
func TestDiskFull(t *testing.T) {
	cmd := exec.Command(os.Args[0], filepath.Join(t.TempDir(), "routes.db"))
	cmd.Env = append(os.Environ(), childEnv+"=full")
	out, err := cmd.CombinedOutput()
	if bytes.HasPrefix(out, []byte("skip")) {
		t.Skip(string(out))
	}
	if err != nil {
		t.Errorf("%v: %s", err, out)
	}
	t.Logf("%s", out)
}

// childFull lets no file grow beyond 256 KiB, which is like a full disk, and fills the table. Then it lifts the limit.
func childFull(path string) error {
	lift, err := limitFiles(8 << 10)
	if errors.Is(err, errors.ErrUnsupported) {
		fmt.Println("skip:", err)
		return nil
	}
	if err != nil {
		return err
	}
	// Not even room for an empty table: none is left behind.
	var oe *OpenError
	if _, err := Open(path, nil); !errors.As(err, &oe) {
		return fmt.Errorf("Open: %w", err)
	}
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) > 0 {
		return fmt.Errorf("it left %v, %w", entries, err)
	}
	if err := lift(); err != nil {
		return err
	}
	if lift, err = limitFiles(256 << 10); err != nil {
		return err
	}
	s, err := Open(path, &Config{Delay: time.Hour})
	if err != nil {
		return err
	}
	n := 0
	for ; err == nil && n < 10000; n++ {
		if err = s.Put(testRecord(n, 16)); err == nil && n%10 == 9 {
			err = s.Sync()
		}
	}
	if err == nil || !strings.Contains(err.Error(), path) {
		return fmt.Errorf("after %d records: %w", n, err)
	}
	fmt.Println("full:", err)
	for range 3 {
		if s.Sync() == nil {
			return errors.New("synced, though it is full")
		}
	}
	// The store goes on, and the file holds what was confirmed.
	if records, err := s.Load(); err != nil || len(records) != n {
		return fmt.Errorf("%d records, %w, want %d", len(records), err, n)
	}
	image, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if found, err := verify(bytes.NewReader(image), int64(len(image))); err != nil || len(found.ids) != n-10 {
		return fmt.Errorf("the file: %v, %w", found, err)
	}
	if err := lift(); err != nil {
		return err
	}
	if err := errors.Join(s.Sync(), s.Close()); err != nil {
		return err
	}
	if s, err = Open(path, nil); err != nil {
		return err
	}
	records, err := s.Load()
	fmt.Println("then", len(records), "records of", n)
	if len(records) != n {
		err = errors.New("some are missing")
	}
	return errors.Join(err, s.Close())
}
