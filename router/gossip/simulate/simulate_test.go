package simulate

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"reflect"
	"runtime"
	"runtime/debug"
	"slices"
	"testing"
)

// brief reports whether tests are to do less: with -short, and under the race detector.
func brief() bool {
	info, ok := debug.ReadBuildInfo()
	return testing.Short() || ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

// orFewer returns how many peers there are to be, of whom fewer do if tests are to be brief.
func orFewer(peers, fewer int) int {
	if brief() {
		return fewer
	}
	return peers
}

func simulated(t *testing.T, cfg Config) *Report {
	t.Helper()
	r, err := Run(t.Context(), cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range append(r.Steady[:1:1], r.Crashed[:min(1, len(r.Crashed))]...) {
		if row.Coverage != 1 || row.Missed != 0 || row.Repeated != 0 {
			t.Errorf("coverage %v, %d missed, %d repeated", row.Coverage, row.Missed, row.Repeated)
		}
	}
	if r.Graph.Connected != r.Peers || r.Graph.MaxDegree > r.Degree {
		t.Errorf("the overlay: %+v", r.Graph)
	}
	t.Logf("%+v", *r)
	return r
}

// One sender: a tree, and no deeper than it may be.
func TestOneSender(t *testing.T) {
	r := simulated(t, Config{Peers: orFewer(1000, 200)})
	ours, flood, sub := r.Steady[0], r.Steady[1], r.Steady[2]
	if ours.RMR > 0.05 || ours.MaxHops > 2*r.Graph.Diameter || ours.Broadcasts != 4 {
		t.Errorf("RMR %v, depth %d of a diameter of %d", ours.RMR, ours.MaxHops, r.Graph.Diameter)
	}
	// Flooding costs what is known of it: each node sends to all but one of its neighbours.
	want := r.Graph.Degree*float64(r.Peers)/float64(r.Peers-1) - 1 - 1
	if flood.Coverage != 1 || flood.RMR < want-0.01 || flood.RMR > want+0.01 {
		t.Errorf("flooding: coverage %v, RMR %v, want %v", flood.Coverage, flood.RMR, want)
	}
	if sub.Coverage != 1 || sub.RMR < flood.RMR || sub.Control < 6 {
		t.Errorf("gossipsub: %+v", sub)
	}
}

func TestManySenders(t *testing.T) {
	senders := orFewer(100, 25)
	r := simulated(t, Config{Peers: orFewer(500, 100), Senders: senders, WarmUp: 5, Messages: 2, Seed: 2})
	if ours := r.Steady[0]; ours.RMR > 0.05 || ours.MaxHops > 2*r.Graph.Diameter || ours.Broadcasts != 2*senders {
		t.Errorf("RMR %v, depth %d of a diameter of %d", ours.RMR, ours.MaxHops, r.Graph.Diameter)
	}
}

// When nearly all speak, each has a tree of its own that is no deeper than that of one sender. Before it has, nothing is lost, either,
// and it is no flood.
func TestAllSpeak(t *testing.T) {
	peers := orFewer(300, 100)
	for _, test := range []struct {
		warmUp  int
		rmr     float64
		shallow bool
	}{{warmUp: 1, rmr: 1}, {warmUp: 4, rmr: 0.05, shallow: true}} {
		r := simulated(t, Config{Peers: peers, Senders: peers - 10, WarmUp: test.warmUp, Messages: 1, Seed: 3})
		if ours := r.Steady[0]; ours.RMR > test.rmr || test.shallow && ours.MaxHops > 2*r.Graph.Diameter {
			t.Errorf("after %d broadcasts: RMR %v, depth %d of a diameter of %d", test.warmUp, ours.RMR, ours.MaxHops, r.Graph.Diameter)
		}
	}
}

func TestCrash(t *testing.T) {
	peers := orFewer(1000, 200)
	r := simulated(t, Config{Peers: peers, Churn: 0.3, Seed: 4})
	if h, left := r.Healed, peers*7/10; h == nil || h.Nodes != left || h.Connected != left || r.Crashed[0].Healing <= 0 || r.Crashed[0].Healing > 15_000 {
		t.Errorf("healed: %+v, after %v ms", h, r.Crashed[0].Healing)
	}
}

func TestLoss(t *testing.T) {
	simulated(t, Config{Peers: orFewer(1000, 200), Loss: 0.05, Seed: 5})
	simulated(t, Config{Peers: orFewer(300, 100), Loss: 0.05, Churn: 0.3, Senders: 5, Messages: 2, Seed: 6})
}

// One seed gives one Report, whether one processor makes it or four.
func TestSameSeed(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(4))
	cfg := Config{Peers: orFewer(300, 100), Senders: 3, Loss: 0.02, Churn: 0.2, Seed: 7, WarmUp: 2, Messages: 2}
	first := simulated(t, cfg)
	runtime.GOMAXPROCS(1)
	again := simulated(t, cfg)
	if !reflect.DeepEqual(first, again) {
		t.Errorf("one seed gave\n%+v and then\n%+v", first, again)
	}
	cfg.Seed++
	if other := simulated(t, cfg); other.Events == first.Events {
		t.Error("another seed gave the same")
	}
}

// What is worked out ahead is what comes of one event after the other, in networks where much is due at once and in those where
// little is.
func TestAhead(t *testing.T) {
	for _, cfg := range []Config{
		{Peers: 2}, {Peers: 20, Senders: 3, Churn: 0.5}, {Peers: 100, Loss: 0.05, Churn: 0.3},
		{Peers: orFewer(400, 100), Senders: 20, Loss: 0.02, Churn: 0.3, WarmUp: 2, Messages: 1},
	} {
		for seed := range uint64(orFewer(3, 1)) {
			cfg.Seed = seed
			got, err := Run(t.Context(), cfg, nil)
			if err != nil {
				t.Fatal(err)
			}
			full, err := cfg.filled()
			if err != nil {
				t.Fatal(err)
			}
			w, err := newWorld(t.Context(), full)
			if err != nil {
				t.Fatal(err)
			}
			w.single = true
			if want, err := w.report(func(string) {}); err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("%+v gave\n%+v, and one event after the other\n%+v (%v)", cfg, got, want, err)
			}
		}
	}
}

func TestBadConfig(t *testing.T) {
	for _, bad := range []Config{
		{Peers: 1}, {Peers: 1 << 30}, {Degree: 2}, {Senders: -1}, {Peers: 10, Senders: 11}, {Loss: 0.6}, {Loss: -1}, {Churn: 1},
		{WarmUp: -1}, {Messages: 5000}, {Size: 4}, {Peers: 10, Senders: 9, Churn: 0.5},
	} {
		if _, err := Run(t.Context(), bad, nil); !errors.Is(err, ErrConfig) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Run(ctx, Config{}, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that has ended: %v", err)
	}
}

func TestGraph(t *testing.T) {
	ring := make(graph, 150)
	for i := range ring {
		if i != 70 {
			ring.add(int32(i), int32((i+1)%len(ring)))
		}
	}
	if d := ring.diameter(); d != 149 { // it is a path
		t.Errorf("the diameter of a path of 150 is %d", d)
	}
	ring.add(70, 71)
	if d := ring.diameter(); d != 75 {
		t.Errorf("the diameter of a ring of 150 is %d", d)
	}
	gone := make([]bool, 150)
	gone[10], gone[20] = true, true
	cut := ring.without(gone)
	if n := len(slices.DeleteFunc(cut.component(15), func(in bool) bool { return !in })); n != 9 || cut.edges() != 146 {
		t.Errorf("9 nodes between two that are gone are %d, with %d edges in all", n, cut.edges())
	}
}

// What comes out of an agenda is in order, though more goes in while it does: soon to be due, later, and much later.
func TestAgenda(t *testing.T) {
	var a agenda[uint64]
	random := rand.New(rand.NewPCG(1, 1))
	for range 1000 {
		a.push(random.Int64N(50), a.n+1)
	}
	lastAt, last, taken := int64(-1), uint64(0), uint64(0)
	take := func() {
		at, n := a.pop()
		if at < lastAt || at == lastAt && n < last {
			t.Fatalf("%d at %d came after %d at %d", n, at, last, lastAt)
		}
		lastAt, last = at, n
		taken++
	}
	for !a.empty() {
		if end := lastAt + random.Int64N(1<<24); random.IntN(8) == 0 {
			list, limit := a.upcoming(end)
			if !slices.IsSortedFunc(list, func(e, f event[uint64]) int { return cmp.Or(cmp.Compare(e.at, f.at), cmp.Compare(e.n, f.n)) }) {
				t.Fatal("what is upcoming is not in order")
			}
			if n := len(list); n > 0 && (limit > end || list[n-1].at >= limit || limit-list[0].at > int64(minLatency)) {
				t.Fatalf("before %d, in fact %d, there comes %d to %d", end, limit, list[0].at, list[n-1].at)
			}
			for range list {
				take()
			}
			if !a.empty() && len(list) == 0 {
				lastAt = max(lastAt, end-1)
			}
			continue
		}
		take()
		if !a.empty() && random.IntN(64) == 0 {
			a.upcoming(lastAt) // the horizon moves
		}
		if a.n < 100_000 {
			for _, most := range []int64{2, 1 << 16, 1 << 22, 1 << 28, 1 << 35}[:random.IntN(6)] {
				a.push(lastAt+random.Int64N(most), a.n+1)
			}
		}
	}
	if taken != a.n {
		t.Errorf("%d of %d came out", taken, a.n)
	}
}
