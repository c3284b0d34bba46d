//go:build linux && natlab

package natlab

import (
	"crypto/sha256"
	"encoding/binary"
	"flag"
	"fmt"
	"hash"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var (
	faultRuns   = flag.Int("natlab.faults", 1, "how often each fault is tried")
	faultSize   = flag.Int("natlab.megabytes", 200, "how much is sent each way while faults happen")
	faultFilter = flag.String("natlab.fault", "", "try only faults whose name contains this")
)

// sender writes size bytes that nobody can guess, and half-closes.
func send(w io.Writer, size int64, seed byte) (sum [32]byte, err error) {
	h := sha256.New()
	block := make([]byte, 64<<10)
	for i := range block {
		block[i] = byte(i*7) ^ byte(i>>8) ^ seed
	}
	for n := int64(0); n < size; n += int64(len(block)) {
		binary.BigEndian.PutUint64(block, uint64(n))
		part := block[:min(size-n, int64(len(block)))]
		h.Write(part)
		if _, err := w.Write(part); err != nil {
			return sum, fmt.Errorf("after %d MB: %w", n>>20, err)
		}
	}
	return [32]byte(h.Sum(nil)), nil
}

// receiver takes what is sent.
type receiver struct {
	total   atomic.Int64
	sum     hash.Hash
	last    time.Time
	longest time.Duration // between two reads that returned something
	when    int64         // how much had come then
}

// receive reads until the end. At marks, which are in order, it calls.
func (r *receiver) receive(from io.Reader, at int64, then func()) error {
	r.sum, r.last = sha256.New(), time.Now()
	b := make([]byte, 256<<10)
	for {
		n, err := from.Read(b)
		if n > 0 {
			now := time.Now()
			if gap := now.Sub(r.last); gap > r.longest && r.total.Load() > 0 {
				r.longest, r.when = gap, r.total.Load()
			}
			r.last = now
			r.sum.Write(b[:n])
			if total := r.total.Add(int64(n)); then != nil && total >= at {
				go then()
				then = nil
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("after %d MB: %w", r.total.Load()>>20, err)
		}
	}
}

// transfer is one run: a pipe from a to a service of b, over which both send.
func (w *world) transfer(a, b *Host, size int64, fault func() error) (longest time.Duration, err error) {
	var l net.Listener
	if err := b.Do(func() (err error) {
		l, err = net.Listen("tcp4", "127.0.0.1:0")
		return err
	}); err != nil {
		return 0, err
	}
	defer l.Close()
	node, id := w.serve(b, "--service", "data="+l.Addr().String())
	defer node.kill()

	var there, here receiver
	var sentThere, sentHere [32]byte
	errs := make([]error, 5)
	var running, service sync.WaitGroup
	service.Go(func() {
		c, err := l.Accept()
		if err != nil {
			errs[0] = fmt.Errorf("accept: %w", err)
			return
		}
		defer c.Close()
		running.Go(func() {
			if sentThere, errs[1] = send(c, size, 2); errs[1] == nil {
				errs[1] = c.(*net.TCPConn).CloseWrite()
			}
		})
		if err := there.receive(c, 0, nil); err != nil {
			errs[0] = fmt.Errorf("at the service: %w", err)
		}
		running.Wait()
	})

	pipe := exec.Command(w.binary, append([]string{"pipe", id, "data"}, w.joins...)...)
	var said strings.Builder
	pipe.Stderr = &said
	if *verbose {
		pipe.Args = append(pipe.Args, "--verbose")
		pipe.Stderr = io.MultiWriter(&said, os.Stderr)
	}
	in, err := pipe.StdinPipe()
	if err != nil {
		return 0, err
	}
	out, err := pipe.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := a.Start(pipe); err != nil {
		return 0, err
	}
	overdue := time.AfterFunc(10*time.Minute, func() { pipe.Process.Kill() })
	defer overdue.Stop()
	var sender sync.WaitGroup
	sender.Go(func() {
		if sentHere, errs[2] = send(in, size, 1); errs[2] == nil {
			errs[2] = in.Close()
		}
	})
	faulted := make(chan struct{})
	if err := here.receive(out, size/3, func() {
		defer close(faulted)
		if *verbose {
			fmt.Fprintln(os.Stderr, "the fault, at", time.Now())
		}
		errs[3] = fault()
	}); err != nil {
		errs[4] = fmt.Errorf("at the pipe: %w", err)
	}
	if here.total.Load() >= size/3 {
		<-faulted
	}
	sender.Wait()
	if err := pipe.Wait(); err != nil && errs[4] == nil {
		errs[4] = fmt.Errorf("the pipe ended: %w: %s", err, said.String())
	}
	l.Close()
	service.Wait()
	for _, err := range errs {
		if err != nil {
			return 0, fmt.Errorf("%w (%d of %d bytes came to the pipe, %d to the service; it said %q)", err, here.total.Load(), size, there.total.Load(), said.String())
		}
	}
	if [32]byte(here.sum.Sum(nil)) != sentThere || [32]byte(there.sum.Sum(nil)) != sentHere {
		return 0, fmt.Errorf("what came is not what was sent: %d of %d bytes came to the pipe, %d to the service", here.total.Load(), size, there.total.Load())
	}
	return max(here.longest, there.longest), nil
}

// TestFaults sends much each way over a link that begins relayed, while things go wrong. No stream is lost, and no silence lasts long.
func TestFaults(t *testing.T) {
	binary := build(t)
	const aim = 1500 * time.Millisecond
	type scene struct {
		*world
		a, b           *Host
		aHome, bHome   *Router
		aOther, bOther *Router
	}
	downFor := func(h *Host, d time.Duration) error {
		if err := h.Down(); err != nil {
			return err
		}
		time.Sleep(d)
		return h.Up()
	}
	var table strings.Builder
	for _, test := range []struct {
		name  string
		fault func(scene) error
		lasts time.Duration
	}{
		{"nothing", func(scene) error { return nil }, 0},
		{"the relay is killed", func(s scene) error { s.served.kill(); return nil }, 0},
		{"the client's NAT takes new ports", func(s scene) error { return s.aHome.NewPorts() }, 0},
		{"the client's NAT takes a new address", func(s scene) error { return s.aHome.NewAddress() }, 0},
		{"the server's NAT takes new ports", func(s scene) error { return s.bHome.NewPorts() }, 0},
		{"the server's NAT takes a new address", func(s scene) error { return s.bHome.NewAddress() }, 0},
		{"the client moves", func(s scene) error { return s.a.Move(s.aOther) }, 0},
		{"the server moves", func(s scene) error { return s.b.Move(s.bOther) }, 0},
		{"the client is down for 3 s", func(s scene) error { return downFor(s.a, 3*time.Second) }, 3 * time.Second},
		{"the server is down for 3 s", func(s scene) error { return downFor(s.b, 3*time.Second) }, 3 * time.Second},
	} {
		if !strings.Contains(test.name, *faultFilter) {
			continue
		}
		var silences []time.Duration
		failed := 0
		for range *faultRuns {
			t.Run(test.name, func(t *testing.T) {
				s := scene{world: newWorld(t, binary)}
				s.aHome, s.bHome = must(s.Router(portRestricted)), must(s.Router(portRestricted))
				s.aOther, s.bOther = must(s.Router(portRestricted)), must(s.Router(portRestricted))
				s.a, s.b = must(s.aHome.Host()), must(s.bHome.Host())
				start := time.Now()
				longest, err := s.transfer(s.a, s.b, int64(*faultSize)<<20, func() error { return test.fault(s) })
				if err != nil {
					failed++
					t.Fatal(err)
				}
				silences = append(silences, longest)
				t.Logf("%v in all, longest silence %v", time.Since(start).Round(time.Millisecond), longest.Round(time.Millisecond))
				if longest > test.lasts+time.Duration(min(*slack, 2)*float64(aim)) {
					t.Errorf("a silence of %v, aim %v beyond the fault's %v", longest, aim, test.lasts)
				}
			})
		}
		slices.Sort(silences)
		if n := len(silences); n > 0 {
			mark := ""
			if silences[n-1] > test.lasts+aim {
				mark = " !"
			}
			fmt.Fprintf(&table, "%-40s %2d of %2d  median %6d ms  longest %6d ms%s\n", test.name, n, n+failed, silences[n/2].Milliseconds(), silences[n-1].Milliseconds(), mark)
		} else {
			fmt.Fprintf(&table, "%-40s  0 of %2d\n", test.name, failed)
		}
	}
	fmt.Fprintf(os.Stdout, "\n%d MB each way from a relayed start; silences in either direction. ! is more than %v beyond the fault.\n%s\n", *faultSize, aim, table.String())
}
