package punch

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

func natures() []nature {
	return []nature{
		{name: "public", none: true},
		{name: "firewall", firewall: true, filter: addressAndPort},
		{name: "full cone"},
		{name: "restricted", filter: address},
		{name: "port-restricted", filter: addressAndPort},
		{name: "port-preserving", filter: addressAndPort, preserve: true},
		{name: "address-symmetric", mapping: address, filter: address},
		{name: "symmetric", mapping: addressAndPort, filter: addressAndPort},
		{name: "UDP blocked", blocked: true},
	}
}

// outcome is what theory expects of a pair.
type outcome int

const (
	relayed outcome = iota
	direct
	guessed
)

// theory: with mappings that do not depend on the other side, what each is told is where the other's packets come from, and both
// filters open as both send. If one depends, its packets come from a port that nobody knows: a filter that looks at the address
// only lets them in, and their source is then known; one that looks at the port, too, wants guessing. If both depend, and both
// filters look at the port, there are 2^32 pairs of ports; if one filter does not, guessing would do, but a machine that knows that
// both depend does not try.
func theory(a, b nature, known bool) outcome {
	if a.mapping != nothing {
		a, b = b, a
	}
	switch {
	case a.blocked || b.blocked, a.mapping != nothing && (known || a.filter == addressAndPort && b.filter == addressAndPort):
		return relayed
	case a.mapping != nothing:
		return guessed
	case b.mapping != nothing && a.filter == addressAndPort:
		return guessed
	}
	return direct
}

// TestMatrix lets every kind of NAT meet every other, offering and answering.
func TestMatrix(t *testing.T) {
	for _, test := range []struct {
		name    string
		servers int
		loss    float64
		direct  time.Duration // at most
		guessed time.Duration
	}{
		{"two servers", 2, 0, 200 * time.Millisecond, 5 * time.Second},
		{"one server", 1, 0, 200 * time.Millisecond, 6 * time.Second},
		{"two servers, every tenth packet lost", 2, 0.1, 600 * time.Millisecond, 7 * time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			var table strings.Builder
			fmt.Fprintf(&table, "%-18s", "offers \\ answers")
			for _, n := range natures() {
				fmt.Fprintf(&table, "%18s", n.name)
			}
			for i, na := range natures() {
				fmt.Fprintf(&table, "\n%-18s", na.name)
				for j, nb := range natures() {
					w := newWorld(t, uint64(100*i+j))
					a, b := w.behind("a", "198.51.100.1", na), w.behind("b", "198.51.100.2", nb)
					w.loss = test.loss
					got := w.meet(a, b, test.servers, true)
					fmt.Fprintf(&table, "%18s", ms(got))
					want, most := theory(na, nb, test.servers > 1), map[outcome]time.Duration{direct: test.direct, guessed: test.guessed}
					if (got > 0) != (want != relayed) || got > most[want] {
						t.Errorf("%s × %s: %s, want %s at most", na.name, nb.name, ms(got), ms(most[want]))
					}
					for _, p := range []*peer{a, b} {
						if want == direct && p.sent > 150 || want == relayed && test.servers > 1 && p.sent > 150 || p.sent > 2*MaxSockets+MaxGuesses+200 {
							t.Errorf("%s × %s: %s sends %d packets", na.name, nb.name, p.name, p.sent)
						}
						for to, n := range p.sentTo {
							if n > maxPings+maxPongs && n > socketRounds*MaxSockets+maxPings+maxPongs {
								t.Errorf("%s × %s: %s sends %d packets to %v", na.name, nb.name, p.name, n, to)
							}
						}
					}
				}
			}
			t.Logf("time to a direct path:\n%s", table.String())
		})
	}
}

// TestGuessing looks at how long it takes, and how many packets, over many tries.
func TestGuessing(t *testing.T) {
	easy, hard := nature{filter: addressAndPort}, nature{mapping: addressAndPort, filter: addressAndPort}
	for _, test := range []struct {
		name    string
		a, b    nature
		servers int
	}{
		{"the answering side symmetric", easy, hard, 2},
		{"the offering side symmetric", hard, easy, 2},
		{"which side is unknown", easy, hard, 1},
		{"which side is unknown, the other way", hard, easy, 1},
	} {
		const tries = 30
		var times []time.Duration
		packets := 0
		for seed := range uint64(tries) {
			w := newWorld(t, seed)
			a, b := w.behind("a", "198.51.100.1", test.a), w.behind("b", "198.51.100.2", test.b)
			// The session's key decides on the order of guesses; here it is the ports of the NAT that vary.
			got := w.meet(a, b, test.servers, true)
			if got > 0 {
				times = append(times, got)
			}
			packets += a.sent + b.sent
		}
		slices.Sort(times)
		if len(times) < tries*97/100 {
			t.Fatalf("%s: %d of %d tries found a path", test.name, len(times), tries)
		}
		median := times[len(times)/2]
		t.Logf("%s: %d of %d tries found a path, median %v, slowest %v, %d packets on average",
			test.name, len(times), tries, median, times[len(times)-1], packets/tries)
		if median > 2500*time.Millisecond {
			t.Errorf("%s: median %v", test.name, median)
		}
	}

	// A NAT that counts is found by the ports next to the one seen.
	hard.count = true
	w := newWorld(t, 1)
	a, b := w.behind("a", "198.51.100.1", easy), w.behind("b", "198.51.100.2", hard)
	if got := w.meet(a, b, 2, true); got == 0 || got > time.Second {
		t.Errorf("a NAT that counts: %s", ms(got))
	}

	// Not permitted, it is not done.
	w = newWorld(t, 1)
	a, b = w.behind("a", "198.51.100.1", easy), w.behind("b", "198.51.100.2", hard)
	if got := w.meet(a, b, 2, false); got != 0 || a.sent+b.sent > 150 {
		t.Errorf("without guessing: %s, %d packets", ms(got), a.sent+b.sent)
	}
}

// TestTopologies are pairs that do not each have one NAT of their own.
func TestTopologies(t *testing.T) {
	cone := nature{filter: addressAndPort}
	hairpin := nature{filter: addressAndPort, hairpin: true}
	for _, test := range []struct {
		name  string
		build func(w *world) (a, b *peer)
		want  outcome
		lan   bool
	}{
		{"one NAT, no hairpin", func(w *world) (a, b *peer) {
			lan := w.box(w.internet, "198.51.100.1", cone)
			return w.peer("a", lan, "192.168.1.2:4001"), w.peer("b", lan, "192.168.1.3:4001")
		}, direct, true},
		{"one NAT with hairpin", func(w *world) (a, b *peer) {
			lan := w.box(w.internet, "198.51.100.1", hairpin)
			return w.peer("a", lan, "192.168.1.2:4001"), w.peer("b", lan, "192.168.1.3:4001")
		}, direct, true},
		{"one symmetric NAT", func(w *world) (a, b *peer) {
			lan := w.box(w.internet, "198.51.100.1", nature{mapping: addressAndPort, filter: addressAndPort})
			return w.peer("a", lan, "192.168.1.2:4001"), w.peer("b", lan, "192.168.1.3:4001")
		}, direct, true},
		{"double NAT × cone", func(w *world) (a, b *peer) {
			lan := w.box(w.box(w.internet, "198.51.100.1", cone), "10.0.0.2", cone)
			return w.peer("a", lan, "192.168.1.2:4001"), w.behind("b", "198.51.100.2", cone)
		}, direct, false},
		{"cone × double NAT, symmetric outside", func(w *world) (a, b *peer) {
			lan := w.box(w.box(w.internet, "198.51.100.1", nature{mapping: addressAndPort, filter: addressAndPort}), "10.0.0.2", cone)
			return w.behind("b", "198.51.100.2", cone), w.peer("a", lan, "192.168.1.2:4001")
		}, guessed, false},
		{"two homes behind a carrier's NAT with hairpin", func(w *world) (a, b *peer) {
			carrier := w.box(w.internet, "198.51.100.1", hairpin)
			return w.peer("a", w.box(carrier, "100.64.0.2", cone), "192.168.1.2:4001"), w.peer("b", w.box(carrier, "100.64.0.3", cone), "192.168.1.3:4001")
		}, direct, false},
		{"two homes behind a carrier's NAT without hairpin", func(w *world) (a, b *peer) {
			carrier := w.box(w.internet, "198.51.100.1", cone)
			return w.peer("a", w.box(carrier, "100.64.0.2", cone), "192.168.1.2:4001"), w.peer("b", w.box(carrier, "100.64.0.3", cone), "192.168.1.3:4001")
		}, relayed, false},
		{"both have the same address at home", func(w *world) (a, b *peer) {
			return w.behind("a", "198.51.100.1", cone), w.behind("b", "198.51.100.2", cone)
		}, direct, false},
		{"a stranger has the peer's address", func(w *world) (a, b *peer) {
			a = w.behind("a", "198.51.100.1", cone)
			w.peer("stranger", a.net, "192.168.1.3:4001")
			return a, w.peer("b", w.box(w.internet, "198.51.100.2", cone), "192.168.1.3:4001")
		}, direct, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t, 1)
			a, b := test.build(w)
			got := w.meet(a, b, 2, true)
			most := map[outcome]time.Duration{direct: 200 * time.Millisecond, guessed: 5 * time.Second}[test.want]
			if (got > 0) != (test.want != relayed) || got > most {
				t.Errorf("%s, want %s at most", ms(got), ms(most))
			}
			if works, _ := a.machine.Works(); test.lan && !works.Remote.Addr().IsPrivate() {
				t.Errorf("it takes %v, want a way within the LAN", works)
			}
			t.Logf("%s", ms(got))
		})
	}
}
