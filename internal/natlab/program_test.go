//go:build linux && natlab

package natlab

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var (
	givenBinary = flag.String("natlab.binary", "", "the command pheromones to try; it is built if this is empty")
	slack       = flag.Float64("natlab.slack", 4, "how many times slower than what is aimed at may be, for machines that have other things to do")
	verbose     = flag.Bool("natlab.verbose", false, "show what programs print")
)

// world is a lab with a relay in it.
type world struct {
	*Lab
	t      *testing.T
	binary string
	dir    string
	relay  *Host
	prober *Host // public: tries whether somebody can be reached
	served *program
	joins  []string // the flags that name the relay, with all its addresses
	dirs   int
}

// program runs on a host.
type program struct {
	*exec.Cmd
	lines  chan line
	ended  chan struct{}
	stderr bytes.Buffer
}

// line is what a program printed, and when.
type line struct {
	at   time.Time
	text string
}

// build returns the command.
func build(t *testing.T) string {
	t.Helper()
	if *givenBinary != "" {
		return *givenBinary
	}
	binary := filepath.Join(t.TempDir(), "pheromones")
	if out, err := exec.Command("go", "build", "-o", binary, "github.com/Blockchain-CN/pheromones/cmd/pheromones").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return binary
}

// newWorld returns a lab with a public relay that runs.
func newWorld(t *testing.T, binary string) *world {
	t.Helper()
	w := &world{Lab: newLab(t), t: t, binary: binary, dir: t.TempDir()}
	w.relay, w.prober = must(w.Public()), must(w.Public())
	w.startRelay()
	return w
}

// startRelay starts the relay, once more with the same key if there was one.
func (w *world) startRelay() {
	w.t.Helper()
	w.served = w.start(w.relay, "serve", "--json", "--relay", "--dir", filepath.Join(w.dir, "relay"),
		"--listen", fmt.Sprintf("quic://%s:4001", w.relay.Addr()), "--listen", fmt.Sprintf("mux://%s:4002", w.relay.Addr()))
	w.joins = nil
	var ready struct{ Addrs []string }
	w.served.object(w.t, &ready)
	for _, a := range ready.Addrs {
		w.joins = append(w.joins, "--join", a)
	}
}

// close ends everything before the test does.
func (w *world) close() {
	w.served.kill()
	w.Lab.Close()
}

// start starts the command on a host. It is killed at the end of the test.
func (w *world) start(h *Host, args ...string) *program {
	w.t.Helper()
	if *verbose {
		args = append(args, "--verbose")
	}
	p := &program{Cmd: exec.Command(w.binary, args...), lines: make(chan line, 10000), ended: make(chan struct{})}
	p.Stderr = &p.stderr
	if *verbose {
		p.Stderr = io.MultiWriter(&p.stderr, os.Stderr)
	}
	out, err := p.StdoutPipe()
	if err != nil {
		w.t.Fatal(err)
	}
	if err := h.Start(p.Cmd); err != nil {
		w.t.Fatal(err)
	}
	go func() {
		defer close(p.ended)
		defer close(p.lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			if *verbose {
				fmt.Fprintf(os.Stderr, "%s %s\n", args[0], s.Text())
			}
			select {
			case p.lines <- line{time.Now(), s.Text()}:
			default: // nobody reads them
			}
		}
		p.Wait()
	}()
	w.t.Cleanup(p.kill)
	return p
}

func (p *program) kill() {
	p.Process.Kill()
	<-p.ended
}

// object reads one line, which is a JSON object.
func (p *program) object(t *testing.T, v any) {
	t.Helper()
	select {
	case l, ok := <-p.lines:
		if !ok {
			t.Fatalf("%q ended: %v %s", p.Args, p.ProcessState, p.stderr.String())
		}
		if err := json.Unmarshal([]byte(l.text), v); err != nil {
			t.Fatalf("%q printed %q: %v", p.Args, l.text, err)
		}
	case <-time.After(time.Minute):
		p.kill()
		t.Fatalf("%q printed nothing: %s", p.Args, p.stderr.String())
	}
}

// serve starts a node that joins the relay, and returns it and its ID when it can be reached.
func (w *world) serve(h *Host, more ...string) (*program, string) {
	w.t.Helper()
	w.dirs++
	args := append([]string{"serve", "--json", "--dir", filepath.Join(w.dir, fmt.Sprint("node", w.dirs))}, w.joins...)
	p := w.start(h, append(args, more...)...)
	var ready struct{ ID string }
	p.object(w.t, &ready)
	w.reachable(ready.ID)
	return p, ready.ID
}

// reachable waits until a node can be reached through the relay.
func (w *world) reachable(id string) {
	w.t.Helper()
	var said []string
	for end := time.Now().Add(time.Minute); time.Now().Before(end); {
		probe := w.start(w.prober, append([]string{"ping", "--json", "-c", "1", "--timeout", "5s", id}, w.joins...)...)
		<-probe.ended
		if probe.ProcessState.Success() {
			return
		}
		said = append(said, strings.TrimSpace(probe.stderr.String()))
		for l := range probe.lines {
			said = append(said, l.text)
		}
	}
	w.t.Fatalf("%s cannot be reached through the relay within a minute: %s", id, strings.Join(said[max(0, len(said)-4):], "; "))
}

// outcome is what somebody who pings sees.
type outcome struct {
	relayed, direct time.Duration // from the start of the program to the first reply, and to the first that came directly; 0 if there was none
	last            string        // the last line
}

func (o outcome) path() string {
	switch {
	case o.direct > 0:
		return "direct"
	case o.relayed > 0:
		return "relayed"
	}
	return "none"
}

// ping lets a host ping a node by its ID until the path is direct, or patience ends.
func (w *world) ping(from *Host, id string, patience time.Duration) outcome {
	w.t.Helper()
	start := time.Now()
	p := w.start(from, append([]string{"ping", "--json", "-i", "10ms", id}, w.joins...)...)
	defer p.kill()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var o outcome
	for {
		select {
		case l, ok := <-p.lines:
			if !ok {
				<-p.ended
				w.t.Errorf("ping ended: %v, %s", p.ProcessState, p.stderr.String())
				return o
			}
			o.last = l.text
			var pong struct {
				Seq  int
				Path string
			}
			if json.Unmarshal([]byte(l.text), &pong) != nil || pong.Seq == 0 || pong.Path == "" {
				continue
			}
			if o.relayed == 0 {
				o.relayed = l.at.Sub(start)
			}
			if pong.Path == "direct" {
				o.direct = l.at.Sub(start)
				return o
			}
		case <-ctx.Done():
			return o
		}
	}
}
