package conformance

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/transport"
)

const (
	childEnv    = "PHEROMONES_CONFORMANCE_CHILD" // names the test in which the process is to be a mere peer
	childPrefix = "conformance: listening at "   // comes before the address that it prints
)

// serveIfChild makes the process a peer, if [processKilled] has started it for that, until its standard input ends.
func (h *Transport) serveIfChild(t *testing.T) {
	if h.name = t.Name(); os.Getenv(childEnv) != h.name {
		return
	}
	if err := h.serveChild(); err != nil {
		fmt.Fprintln(os.Stderr, "conformance: peer in a process of its own:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func (h *Transport) serveChild() error {
	key, err := identity.Generate()
	if err != nil {
		return err
	}
	tr, err := h.New(key)
	if err != nil {
		return err
	}
	ctx := context.Background() // the process's life
	ln, err := tr.Listen(ctx, h.Listen)
	if err != nil {
		return err
	}
	go func() {
		for {
			c, err := ln.Accept(ctx)
			if err != nil {
				return
			}
			// Each stream's first byte is sent back, and then nothing is done with it.
			go func() {
				for {
					s, err := c.AcceptStream(ctx)
					if err != nil {
						return
					}
					b := make([]byte, 1)
					if _, err := io.ReadFull(s, b); err == nil {
						s.Write(b)
					}
				}
			}()
		}
	}()
	fmt.Println(childPrefix + ln.Addr().String())
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// onlyTest is what -test.run needs to run the test of this name alone.
func onlyTest(test string) string {
	var names []string
	for name := range strings.SplitSeq(test, "/") {
		names = append(names, "^"+regexp.QuoteMeta(name)+"$")
	}
	return strings.Join(names, "/")
}

// startChild starts the running test program again as a peer, and returns its address and what kills it.
func (e *env) startChild() (transport.Addr, func()) {
	cmd := exec.CommandContext(e.ctx, os.Args[0], "-test.run="+onlyTest(e.h.name), "-test.count=1")
	cmd.Env = append(os.Environ(), childEnv+"="+e.h.name)
	stdin, err := cmd.StdinPipe() // kept open: the child ends with us
	e.must(err, "starting another process")
	stdout, err := cmd.StdoutPipe()
	e.must(err, "starting another process")
	e.must(cmd.Start(), "starting another process")
	kill := func() {
		cmd.Process.Kill()
		cmd.Wait()
		stdin.Close()
	}
	e.cleanup(kill)
	var addr transport.Addr
	e.must(e.promptly("the other process, saying where it listens", func() error {
		lines := bufio.NewScanner(stdout)
		for lines.Scan() {
			if text, ok := strings.CutPrefix(lines.Text(), childPrefix); ok {
				addr, err = transport.ParseAddr(text)
				return err
			}
		}
		return fmt.Errorf("it ended without: %v", lines.Err())
	}), "starting another process")
	return addr, kill
}

func processKilled(e *env) {
	if e.h.Network == "udp" && e.h.IdleTimeout <= 0 {
		e.skipf("the harness does not say what the idle time-out is")
	}
	n := e.node()
	addr, kill := e.startChild()
	c := e.dial(n, addr)
	open := func() transport.Stream {
		s, err := c.OpenStream(e.ctx)
		e.must(err, "OpenStream")
		e.send(s, []byte{prelude})
		e.promptly("Read", func() error { e.expect(s, []byte{prelude}); return nil })
		return s
	}
	s := open()
	read := e.start("Read, under way", func() error { _, err := s.Read(make([]byte, 1)); return err })
	read.blocked()
	calls := []*call{read}
	if e.traits.OneStream {
		w := e.flood(s, 50)
		w.stall()
		calls = append(calls, w.call)
	} else {
		w := e.flood(open(), 51)
		w.stall()
		accept := e.start("AcceptStream, under way", func() error { _, err := c.AcceptStream(e.ctx); return err })
		accept.blocked()
		calls = append(calls, w.call, accept)
	}
	kill()
	e.wantAllLost(c, calls, s)
}
