package conformance

import (
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/Blockchain-CN/pheromones"
	"github.com/Blockchain-CN/pheromones/conformance/internal/broken"
	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/quic"
	"github.com/Blockchain-CN/pheromones/tcp"
	"github.com/Blockchain-CN/pheromones/transport"
	"github.com/Blockchain-CN/pheromones/transport/mem"
)

// sound is the harness of a transport that has an ability, for breakages that need it.
func sound(a broken.Ability) Transport {
	h := Transport{patience: 1500 * time.Millisecond * slowdown, Watchdog: 2 * time.Second}
	switch a {
	case broken.OverTCP, broken.OneStream, broken.FromPort:
		h.New = func(key identity.Key) (transport.Transport, error) { return tcp.New(key, nil) }
		h.Names = func(key identity.Key, names *net.Resolver) (transport.Transport, error) {
			return tcp.New(key, &tcp.Config{Resolver: names})
		}
		h.Listen.Scheme, h.Network, h.Refuses, h.ALPN = tcp.Scheme, "tcp", true, "pheromones-short/1"
	case broken.OverUDP, broken.Datagrams, broken.Paths:
		h.New = func(key identity.Key) (transport.Transport, error) {
			return quic.New(key, &quic.Config{IdleTimeout: time.Second})
		}
		h.Listen.Scheme, h.Network, h.IdleTimeout = "quic", "udp", time.Second
	default:
		h.New = func(key identity.Key) (transport.Transport, error) { return mem.New(key, nil) }
		h.Listen.Scheme, h.Refuses = "mem", true
	}
	h.Listen.HostPort = "127.0.0.1:0"
	return h
}

// breakBy is the harness of transports with a breakage, and what ends what they leave behind.
func breakBy(b *broken.Breakage) (Transport, func()) {
	h, breaker := sound(b.Needs), b.Breaker()
	if slices.ContainsFunc(table(), func(r Rule) bool { return r.Name == b.Rule }) {
		h.patience = 600 * time.Millisecond * slowdown // many wait in vain; a node may take its time
	}
	whole := h.New
	h.New = func(key identity.Key) (transport.Transport, error) {
		t, err := whole(key)
		if err != nil {
			return nil, err
		}
		return breaker.Break(t), nil
	}
	if named := h.Names; named != nil {
		h.Names = func(key identity.Key, names *net.Resolver) (transport.Transport, error) {
			t, err := named(key, names)
			if err != nil {
				return nil, err
			}
			return breaker.BreakNamed(t, names), nil
		}
	}
	h.node = func(cfg pheromones.Config) (participant, error) { return breaker.Node(cfg) }
	if b.Rule == "strangers-shed" {
		h.HandshakeTimeout = 100 * time.Millisecond // shorter than it is: every transport breaks that
	}
	return h, breaker.Close
}

// everyBreakage returns those of transports and those of nodes.
func everyBreakage() []broken.Breakage { return append(broken.All(), broken.Stack()...) }

// everyRule returns those about transports and those about nodes.
func everyRule() []Rule { return append(table(), stackTable()...) }

// ruleNamed returns a rule of either table.
func ruleNamed(t *testing.T, name string) Rule {
	t.Helper()
	for _, r := range everyRule() {
		if r.Name == name {
			return r
		}
	}
	t.Fatalf("there is no rule %s", name)
	return Rule{}
}

// shardEnv tells a process of TestBroken which part is its own.
const shardEnv = "PHEROMONES_CONFORMANCE_SHARD"

// shards is how many processes share TestBroken: rules must not run beside each other in one, and mostly wait.
const shards = 5

// tries is how often a rule may look for a breakage. Some faults show only if both sides get to run in time, which a machine that is busy
// with something else may prevent once; a rule never finds what is not there.
const tries = 5

// TestBroken runs each breakage's rule over it, in several processes.
func TestBroken(t *testing.T) {
	shard, err := strconv.Atoi(os.Getenv(shardEnv))
	if err != nil {
		breakInProcesses(t)
		return
	}
	for i, b := range everyBreakage() {
		if i%shards != shard {
			continue
		}
		t.Run(strings.ReplaceAll(b.Name, " ", "-"), func(t *testing.T) {
			h, done := breakBy(&b)
			defer done()
			h.serveIfChild(t)
			traits, err := h.probe()
			if err != nil {
				t.Fatal(err)
			}
			r := ruleNamed(t, b.Rule)
			for range tries {
				if err := caught(t, h, &b, r, traits); err != nil {
					t.Logf("%.300s", err)
					return
				}
			}
			t.Errorf("%s: want rule %s/%s to find it, got nothing in %d tries", b.Name, r.Clause, r.Name, tries)
		})
	}
}

// breakInProcesses runs TestBroken in processes of its own, with what was chosen of it.
func breakInProcesses(t *testing.T) {
	run := "^TestBroken$"
	if _, part, ok := strings.Cut(flag.Lookup("test.run").Value.String(), "/"); ok {
		run += "/" + part
	}
	var wg sync.WaitGroup
	for shard := range shards {
		wg.Go(func() {
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run="+run, "-test.count=1", "-test.v=true")
			cmd.Env = append(os.Environ(), shardEnv+"="+strconv.Itoa(shard))
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Errorf("part %d of %d: %v\n%s", shard+1, shards, err, out)
			} else {
				t.Logf("part %d of %d: %d breakages were caught", shard+1, shards, strings.Count(string(out), "    --- PASS: TestBroken/"))
			}
		})
	}
	wg.Wait()
}

// caught runs a rule over a breakage, whose harness is h, and returns what it found.
func caught(t *testing.T, h Transport, b *broken.Breakage, r Rule, traits transport.Traits) error {
	t.Helper()
	if r.Name == "nettest" { // it fails the test that it runs in
		return runFailing(t, b, r)
	}
	err := h.run(t.Context(), t, r, traits).Err
	if f := (*Finding)(nil); err != nil && (!errors.As(err, &f) || f.Rule.Clause != r.Clause || f.Rule.Name != r.Name) {
		t.Errorf("want a finding of rule %s/%s, got %v", r.Clause, r.Name, err)
	}
	return err
}

// failingEnv names the breakage for a process whose test may fail.
const failingEnv = "PHEROMONES_CONFORMANCE_FAILING"

// runFailing runs a rule over a breakage in another process, and returns what that printed if the rule failed there.
func runFailing(t *testing.T, b *broken.Breakage, r Rule) error {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestFailing$/^"+r.Clause+"$/^"+r.Name+"$", "-test.count=1", "-test.v")
	cmd.Env = append(os.Environ(), failingEnv+"="+b.Name)
	out, err := cmd.CombinedOutput()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatalf("the process of the test that may fail: %v", err)
	}
	if !strings.Contains(string(out), "--- FAIL: TestFailing/"+r.Clause+"/"+r.Name) {
		return nil
	}
	return fmt.Errorf("%s", out)
}

// TestFailing is the test that runFailing runs.
func TestFailing(t *testing.T) {
	name := os.Getenv(failingEnv)
	if name == "" {
		t.Skip("it is run by TestBroken")
	}
	h, _, done := rowNamed(t, name)
	defer done()
	h.Select = func(r Rule) bool { return r.Name == "nettest" }
	TestTransport(t, h)
}

// TestNamesOfBreakages sees to it that a breakage has a name of its own and names a rule.
func TestNamesOfBreakages(t *testing.T) {
	names := make(map[string]bool)
	for _, b := range everyBreakage() {
		ruleNamed(t, b.Rule)
		if b.Name == "" || names[b.Name] || strings.ContainsAny(b.Name, "|\n/") {
			t.Errorf("%q: want a name of its own", b.Name)
		}
		names[b.Name] = true
		if w, _ := breakBy(&b); w.New == nil {
			t.Errorf("%s: nothing to break", b.Name)
		}
	}
}

// TestEveryRuleCatches names the rules that no breakage proves.
func TestEveryRuleCatches(t *testing.T) {
	proved := make(map[string]bool)
	for _, b := range everyBreakage() {
		proved[b.Rule] = true
	}
	for _, r := range everyRule() {
		if !proved[r.Name] {
			t.Errorf("no breakage proves that rule %s/%s catches anything", r.Clause, r.Name)
		}
	}
}

var errPlain = fmt.Errorf("something is wrong")
