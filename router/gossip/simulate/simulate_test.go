package simulate

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"testing"
)

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
	r := simulated(t, Config{Peers: 1000})
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
	r := simulated(t, Config{Peers: 500, Senders: 100, WarmUp: 5, Messages: 2, Seed: 2})
	if ours := r.Steady[0]; ours.RMR > 0.5 || ours.MaxHops > 2*r.Graph.Diameter || ours.Broadcasts != 200 {
		t.Errorf("RMR %v, depth %d of a diameter of %d", ours.RMR, ours.MaxHops, r.Graph.Diameter)
	}
}

// Without warm-up and with more senders than trees nothing is lost, either, and it is still no flood.
func TestColdSenders(t *testing.T) {
	r := simulated(t, Config{Peers: 300, Senders: 290, WarmUp: 1, Messages: 1, Seed: 3})
	if ours := r.Steady[0]; ours.RMR > 1 {
		t.Errorf("RMR %v", ours.RMR)
	}
}

func TestCrash(t *testing.T) {
	r := simulated(t, Config{Peers: 1000, Churn: 0.3, Seed: 4})
	if h := r.Healed; h == nil || h.Nodes != 700 || h.Connected != 700 || r.Crashed[0].Healing <= 0 || r.Crashed[0].Healing > 15_000 {
		t.Errorf("healed: %+v, after %v ms", h, r.Crashed[0].Healing)
	}
}

func TestLoss(t *testing.T) {
	simulated(t, Config{Peers: 1000, Loss: 0.05, Seed: 5})
	simulated(t, Config{Peers: 300, Loss: 0.05, Churn: 0.3, Senders: 5, Messages: 2, Seed: 6})
}

func TestSameSeed(t *testing.T) {
	cfg := Config{Peers: 300, Senders: 3, Loss: 0.02, Churn: 0.2, Seed: 7, WarmUp: 2, Messages: 2}
	first, again := simulated(t, cfg), simulated(t, cfg)
	if !reflect.DeepEqual(first, again) {
		t.Errorf("one seed gave\n%+v and then\n%+v", first, again)
	}
	cfg.Seed++
	if other := simulated(t, cfg); other.Events == first.Events {
		t.Error("another seed gave the same")
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

func TestAgenda(t *testing.T) {
	var a agenda[int]
	for i := range 1000 {
		a.push(int64(mix(uint64(i))%50), i)
	}
	lastAt, last := int64(-1), -1
	for !a.empty() {
		at, n := a.pop()
		if at < lastAt || at == lastAt && n < last {
			t.Fatalf("%d at %d came after %d at %d", n, at, last, lastAt)
		}
		lastAt, last = at, n
	}
}
