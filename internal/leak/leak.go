// Package leak finds what a piece of code has left behind: goroutines, and on Linux sockets.
//
// # Usage
//
// Take a [Snapshot] with [Take] before the code runs and call [Snapshot.Check] when it is over. Nothing else may start
// goroutines or open sockets in between. [Main] does this for all tests of a package.
package leak

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Snapshot is what was there at one moment. It is read-only and safe for concurrent use.
type Snapshot struct {
	goroutines map[uint64]bool
	sockets    map[string]bool
}

// Take notes the goroutines and sockets that are there now.
func Take() Snapshot {
	s := Snapshot{goroutines: make(map[uint64]bool), sockets: make(map[string]bool)}
	for _, g := range goroutines() {
		s.goroutines[g.id] = true
	}
	for _, name := range sockets() {
		s.sockets[name] = true
	}
	return s
}

// Check returns nil as soon as nothing is there that was not there at the time of the snapshot. What ends by itself is
// given up to bound for it; what is left then is the error, goroutines with their stacks. The calling goroutine does not
// count, nor do those of package testing.
func (s Snapshot) Check(bound time.Duration) error {
	end := time.Now().Add(bound)
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		err := s.left()
		if err == nil || !time.Now().Before(end) {
			return err
		}
		time.Sleep(pause)
	}
}

const maxShown = 20 // leaked goroutines whose stacks are shown

func (s Snapshot) left() error {
	var text strings.Builder
	n := 0
	for _, g := range goroutines() {
		if s.goroutines[g.id] || g.ours() {
			continue
		}
		if n++; n <= maxShown {
			fmt.Fprintf(&text, "\n\n%s", g.stack)
		}
	}
	open := 0
	for _, name := range sockets() {
		if !s.sockets[name] {
			open++
		}
	}
	if n == 0 && open == 0 {
		return nil
	}
	return fmt.Errorf("left behind: %d goroutines, %d sockets%s", n, open, text.String())
}

// Main runs the tests of a package and fails if goroutines or sockets remain after them. Call it from TestMain, which
// passes the result to os.Exit.
func Main(m *testing.M) int {
	before := Take()
	code := m.Run()
	if code != 0 {
		return code
	}
	if err := before.Check(10 * time.Second); err != nil {
		fmt.Fprintln(os.Stderr, "FAIL: after all tests:", err)
		return 1
	}
	return 0
}

type goroutine struct {
	id    uint64
	stack string
}

// ours reports whether the goroutine is the one that looks, or belongs to package testing or the runtime.
func (g goroutine) ours() bool {
	for _, name := range []string{"internal/leak.goroutines(", "testing.(*T).Run(", "testing.tRunner(", "testing.(*M).startAlarm",
		"os/signal.loop(", "os/signal.signal_recv(", "runtime.ReadTrace(", "runtime.ensureSigM"} {
		if strings.Contains(g.stack, name) {
			return true
		}
	}
	return false
}

func goroutines() []goroutine {
	var all []goroutine
	for _, text := range bytes.Split(Stacks(64<<20), []byte("\n\n")) {
		var head, found = bytes.CutPrefix(text, []byte("goroutine "))
		number, _, ok := bytes.Cut(head, []byte(" "))
		id, err := strconv.ParseUint(string(number), 10, 64)
		if found && ok && err == nil {
			all = append(all, goroutine{id, string(text)})
		}
	}
	return all
}

// Stacks returns the stacks of all goroutines, cut at limit bytes.
func Stacks(limit int) []byte {
	for size := min(limit, 256<<10); ; size = min(limit, 2*size) {
		buf := make([]byte, size)
		if n := runtime.Stack(buf, true); n < size || size == limit {
			return buf[:n]
		}
	}
}

// sockets returns the names, one per socket, of the process's open sockets, where the system tells.
func sockets() []string {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil
	}
	var names []string
	for _, entry := range entries {
		if name, err := os.Readlink(filepath.Join("/proc/self/fd", entry.Name())); err == nil && strings.HasPrefix(name, "socket:") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
