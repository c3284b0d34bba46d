package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/internal/leak"
)

func TestMain(m *testing.M) { os.Exit(leak.Main(m)) }

// eachTransport runs a test over every transport.
func eachTransport(t *testing.T, f func(t *testing.T, scheme string)) {
	for _, s := range schemes() {
		t.Run(s, func(t *testing.T) { f(t, s) })
	}
}

func nothing() {}

// try runs the command in this process, with in as its standard input, and returns what came of it.
func try(t *testing.T, in string, args ...string) (code int, out, errOut string) {
	t.Helper()
	var o, e bytes.Buffer
	code = run(args, strings.NewReader(in), &o, &e, nil, nothing)
	for line := range strings.Lines(e.String()) {
		if !strings.HasPrefix(line, "pheromones: ") || len(line) < len("pheromones: x\n") {
			t.Errorf("%q wrote the line %q to standard error", args, line)
		}
	}
	return code, o.String(), e.String()
}

// mustTry is try for what must succeed.
func mustTry(t *testing.T, in string, args ...string) (out string) {
	t.Helper()
	code, out, errOut := try(t, in, args...)
	if code != exitOK {
		t.Fatalf("%q: exit code %d; it said %q", args, code, errOut)
	}
	return out
}

// objects reads JSON, one object a line.
func objects[T any](t *testing.T, out string) []T {
	t.Helper()
	var list []T
	for line := range strings.Lines(out) {
		var v T
		d := json.NewDecoder(strings.NewReader(line))
		d.DisallowUnknownFields()
		if err := d.Decode(&v); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		list = append(list, v)
	}
	return list
}

// object reads one JSON object.
func object[T any](t *testing.T, out string) T {
	t.Helper()
	list := objects[T](t, out)
	if len(list) != 1 {
		t.Fatalf("%d lines, want one object: %q", len(list), out)
	}
	return list[0]
}

// background is a command that runs until a signal comes.
type background struct {
	t       *testing.T
	signals chan os.Signal
	lines   *bufio.Reader // its standard output
	stdin   *io.PipeWriter
	done    chan struct{}
	code    int // once done is closed
	mu      sync.Mutex
	errs    bytes.Buffer
}

func (b *background) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.errs.Write(p)
}

// errors returns what the command has written to standard error.
func (b *background) errors() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.errs.String()
}

// start runs the command in this process. If it still runs when the test is over, two signals end it.
func start(t *testing.T, args ...string) *background {
	t.Helper()
	in, stdin := io.Pipe()
	stdout, out := io.Pipe()
	b := &background{t: t, signals: make(chan os.Signal, 2), lines: bufio.NewReader(stdout), stdin: stdin, done: make(chan struct{})}
	go func() {
		defer close(b.done)
		b.code = run(args, in, out, b, b.signals, nothing)
		out.Close()
		in.Close()
	}()
	t.Cleanup(func() {
		b.signal()
		b.signal()
		stdout.Close()
		stdin.Close()
		b.wait()
	})
	return b
}

func (b *background) signal() {
	select {
	case b.signals <- os.Interrupt:
	default:
	}
}

// wait returns the exit code.
func (b *background) wait() int {
	b.t.Helper()
	select {
	case <-b.done:
		return b.code
	case <-time.After(30 * time.Second):
		b.t.Fatalf("the command did not end; it said %q", b.errors())
		return -1
	}
}

// line returns the next line of standard output.
func (b *background) line() string {
	b.t.Helper()
	line, err := b.lines.ReadString('\n')
	if err != nil {
		b.t.Fatalf("standard output ended: %v; standard error: %q", err, b.errors())
	}
	return strings.TrimSuffix(line, "\n")
}

// serveAt starts a node over one transport and returns its address.
func serveAt(t *testing.T, scheme string, args ...string) (*background, string) {
	t.Helper()
	args = append([]string{"serve", "--dir", t.TempDir(), "--name", "host", "--listen", scheme + "://127.0.0.1:0"}, args...)
	b := start(t, args...)
	return b, b.line()
}

// anybody returns an address without its ID.
func anybody(addr string) string {
	scheme, rest, _ := strings.Cut(addr, "://")
	_, hostPort, _ := strings.Cut(rest, "@")
	return scheme + "://" + hostPort
}

// somebodyElse returns an address with the ID of a peer that is not there.
func somebodyElse(t *testing.T, addr string) string {
	t.Helper()
	key, err := identity.Generate()
	if err != nil {
		t.Fatal(err)
	}
	scheme, hostPort, _ := strings.Cut(anybody(addr), "://")
	return fmt.Sprintf("%s://%v@%s", scheme, key.ID(), hostPort)
}
