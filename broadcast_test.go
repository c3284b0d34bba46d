package pheromones_test

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/Blockchain-CN/pheromones"
	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/protocol"
	"github.com/Blockchain-CN/pheromones/router/gossip"
)

// audience counts what was broadcast to a node, and tells of each arrival.
type audience struct {
	mu   sync.Mutex
	got  map[string]int // origin and data
	from map[string]identity.ID
	news chan struct{}
}

func newAudience() *audience {
	return &audience{got: make(map[string]int), from: make(map[string]identity.ID), news: make(chan struct{}, 1)}
}

func (a *audience) Handle(_ context.Context, m protocol.Message) (protocol.Message, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.got[m.Operation+" "+string(m.Data)]++
	a.from[m.Operation+" "+string(m.Data)] = m.From
	m.Data = append(m.Data[:0], "scribble"...)
	select {
	case a.news <- struct{}{}:
	default:
	}
	return protocol.Message{Operation: "nobody hears this"}, nil
}

// want waits until all of texts have come, and checks that each came once.
func (a *audience) want(t *testing.T, who string, texts map[string]identity.ID) {
	t.Helper()
	timeout := time.After(2 * time.Minute)
	for {
		a.mu.Lock()
		missing := ""
		for text, origin := range texts {
			switch n := a.got[text]; {
			case n == 0:
				missing = text
			case n > 1:
				t.Errorf("%s got %q %d times", who, text, n)
			case a.from[text] != origin:
				t.Errorf("%s got %q from %v, want %v", who, text, a.from[text], origin)
			}
		}
		a.mu.Unlock()
		if missing == "" {
			return
		}
		select {
		case <-a.news:
		case <-timeout:
			t.Fatalf("%s did not get %q", who, missing)
		}
	}
}

// brief reports whether tests are to do less: with -short, and under the race detector.
func brief() bool {
	info, ok := debug.ReadBuildInfo()
	return testing.Short() || ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

func TestBroadcast(t *testing.T) {
	for scheme, count := range map[string]int{"mem": 50, "quic": 50, "mux": 50, "tcp": 8} {
		t.Run(scheme, func(t *testing.T) {
			if brief() {
				count = min(count, 12)
			}
			var nodes []*pheromones.Node
			var audiences []*audience
			for i := range count {
				a := newAudience()
				n := newNode(t, fmt.Sprint("node ", i), a, scheme)
				if i > 0 {
					if _, err := n.Add(t.Context(), nodes[i/2].Addrs()[0].String()); err != nil {
						t.Fatal(err)
					}
				}
				nodes, audiences = append(nodes, n), append(audiences, a)
			}
			all := make(map[string]identity.ID)
			speak := func(i int, text string) {
				t.Helper()
				if err := nodes[i].Broadcast(t.Context(), protocol.Message{Operation: text, Data: fmt.Append(nil, i)}); err != nil {
					t.Fatal(err)
				}
				all[fmt.Sprint(text, " ", i)] = nodes[i].ID()
			}
			everybody := func() {
				t.Helper()
				for i, a := range audiences {
					if nodes[i] == nil {
						continue
					}
					wanted := make(map[string]identity.ID)
					for text, origin := range all {
						if origin != nodes[i].ID() {
							wanted[text] = origin
						}
					}
					a.want(t, fmt.Sprint("node ", i), wanted)
				}
			}
			speak(0, "first")
			everybody()
			duplicates, delivered := uint64(0), uint64(0)
			sum := func() (d, n uint64) {
				for _, node := range nodes {
					if node != nil {
						f, unhandled := node.BroadcastFigures()
						if unhandled != 0 || f.Active == 0 || f.Active > 6 {
							t.Errorf("%d broadcasts were not handled; %d neighbours", unhandled, f.Active)
						}
						d, n = d+f.Duplicates, n+f.Delivered
					}
				}
				return d, n
			}
			duplicates, delivered = sum()
			for i := range nodes {
				speak(i, "each")
			}
			everybody()
			d, n := sum()
			first, each := float64(duplicates)/float64(delivered), float64(d-duplicates)/float64(n-delivered)
			t.Logf("RMR %.3f for the first, %.3f for one of each", first, each)
			if each > 3 { // flooding has 4
				t.Errorf("the RMR of one broadcast of each is %.3f", each)
			}

			for _, i := range []int{3, count - 2} {
				nodes[i].Close()
				nodes[i] = nil
			}
			for i := range nodes {
				if nodes[i] != nil {
					speak(i, "after")
				}
			}
			everybody()
			// Nothing came that nobody said, and nothing to its own sender.
			for i, a := range audiences {
				a.mu.Lock()
				for text := range a.got {
					if origin, ok := all[text]; !ok || nodes[i] != nil && origin == nodes[i].ID() {
						t.Errorf("node %d got %q of %v", i, text, origin)
					}
				}
				a.mu.Unlock()
			}
		})
	}
}

func TestBroadcastErrors(t *testing.T) {
	n := newNode(t, "alone", nil, "mem")
	if err := n.Broadcast(t.Context(), protocol.Message{}); !errors.Is(err, gossip.ErrOperation) {
		t.Errorf("no operation: %v", err)
	}
	if err := n.Broadcast(t.Context(), protocol.Message{Operation: "op", Data: make([]byte, 2<<20)}); !errors.Is(err, gossip.ErrTooLarge) {
		t.Errorf("too large: %v", err)
	}
	if err := n.Broadcast(t.Context(), protocol.Message{Operation: "op"}); err != nil {
		t.Errorf("alone: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := n.Broadcast(ctx, protocol.Message{Operation: "op"}); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that has ended: %v", err)
	}
	n.Close()
	if err := n.Broadcast(t.Context(), protocol.Message{Operation: "op"}); !errors.Is(err, pheromones.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}

// A node that comes late hears what was said before.
func TestBroadcastLate(t *testing.T) {
	a, b, late := newAudience(), newAudience(), newAudience()
	one, two := newNode(t, "one", a, "mem"), newNode(t, "two", b, "mem")
	if _, err := two.Add(t.Context(), one.Addrs()[0].String()); err != nil {
		t.Fatal(err)
	}
	if err := one.Broadcast(t.Context(), protocol.Message{Operation: "op", Data: []byte("1")}); err != nil {
		t.Fatal(err)
	}
	b.want(t, "two", map[string]identity.ID{"op 1": one.ID()})
	three := newNode(t, "three", late, "mem")
	if _, err := three.Add(t.Context(), two.Addrs()[0].String()); err != nil {
		t.Fatal(err)
	}
	late.want(t, "three", map[string]identity.ID{"op 1": one.ID()})
	if err := three.Broadcast(t.Context(), protocol.Message{Operation: "op", Data: []byte("3")}); err != nil {
		t.Fatal(err)
	}
	a.want(t, "one", map[string]identity.ID{"op 3": three.ID()})
	b.want(t, "two", map[string]identity.ID{"op 3": three.ID()})
}
