// Package simulate runs the machines of package gossip by the ten thousand, in virtual time and on up to eight
// processors, and beside them, on the same graph and with the same latencies, plain flooding and the rules of gossipsub. The
// same Config gives the same Report, whatever the processors.
package simulate

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Config says what is simulated. The zero value works, Context apart; numbers that are zero stand for their default.
type Config struct {
	Peers    int     // 1000 by default, at most 100,000
	Degree   int     // neighbours wanted: 6 by default, 3 to 16
	Senders  int     // who broadcast, all at once: 1 by default, at most Peers
	Loss     float64 // the share of frames that are lost, of every kind and from the start: 0 to 0.5
	Churn    float64 // the share of nodes that crash at once, never a sender: 0 to 0.9
	Seed     uint64  // of all randomness
	WarmUp   int     // broadcasts of each sender before those that are measured: 6 by default
	Messages int     // broadcasts of each sender that are measured (as many again after the crash): 4 by default
	Size     int     // bytes of each broadcast: 1024 by default, at most 65536
}

// The network that is simulated.
const (
	minLatency = 10 * time.Millisecond // of an edge, one way: a constant of the edge between these two, and up to jitter more
	maxLatency = 90 * time.Millisecond
	jitter     = 10 * time.Millisecond
	detection  = time.Second            // until a link to a crashed node is known to be broken: from once to twice as long
	spacing    = 3 * time.Second        // between the broadcasts of one sender
	contacts   = 3                      // nodes, of those that joined before, that one that joins knows
	spread     = 500 * time.Millisecond // within which all senders broadcast
	settling   = 40 * time.Second       // after the last node has joined, before the first broadcast
	patience   = 90 * time.Second       // after the last broadcast
)

// ErrConfig is wrapped by the error of a Config that cannot be.
var ErrConfig = errors.New("simulate: bad configuration")

func (c Config) filled() (Config, error) {
	set := func(v *int, def int) {
		if *v == 0 {
			*v = def
		}
	}
	set(&c.Peers, 1000)
	set(&c.Degree, 6)
	set(&c.Senders, 1)
	set(&c.WarmUp, 6)
	set(&c.Messages, 4)
	set(&c.Size, 1024)
	for _, check := range []struct {
		name         string
		v, low, high float64
	}{
		{"Peers", float64(c.Peers), 2, 100_000}, {"Degree", float64(c.Degree), 3, 16},
		{"Senders", float64(c.Senders), 1, float64(c.Peers)}, {"Loss", c.Loss, 0, 0.5}, {"Churn", c.Churn, 0, 0.9},
		{"WarmUp", float64(c.WarmUp), 1, 1000}, {"Messages", float64(c.Messages), 1, 1000}, {"Size", float64(c.Size), 8, 65536},
	} {
		if !(check.v >= check.low && check.v <= check.high) {
			return c, fmt.Errorf("%w: %s is %v, want %v to %v", ErrConfig, check.name, check.v, check.low, check.high)
		}
	}
	if crash := int(c.Churn * float64(c.Peers)); crash > c.Peers-c.Senders {
		return c, fmt.Errorf("%w: %d of %d peers cannot crash, since %d are senders and stay", ErrConfig, crash, c.Peers, c.Senders)
	}
	return c, nil
}

// Report is what came of it.
type Report struct {
	Peers   int     `json:"peers"`
	Degree  int     `json:"degree"`
	Senders int     `json:"senders"`
	Loss    float64 `json:"loss"`
	Churn   float64 `json:"churn"`
	Seed    uint64  `json:"seed"`
	Size    int     `json:"size"`
	Graph   Graph   `json:"graph"`             // when the first broadcast is sent
	Healed  *Graph  `json:"healed,omitempty"`  // of the survivors, at the end
	Steady  []Row   `json:"steady"`            // after the warm-up: pheromones, flooding, gossipsub
	Crashed []Row   `json:"crashed,omitempty"` // from the crash on
	Events  uint64  `json:"events"`            // that were simulated, of pheromones
	Virtual float64 `json:"virtual_seconds"`   // that were simulated, of pheromones
}

// Graph describes the overlay.
type Graph struct {
	Nodes     int     `json:"nodes"`
	Edges     int     `json:"edges"`
	OneSided  int     `json:"one_sided"` // neighbours in one node's eyes only; not in Edges
	Degree    float64 `json:"degree"`    // on average
	MinDegree int     `json:"min_degree"`
	MaxDegree int     `json:"max_degree"`
	Connected int     `json:"connected"` // nodes in the component of the first sender
	Diameter  int     `json:"diameter"`  // exact
}

// Row is what one protocol made of the broadcasts of one phase.
type Row struct {
	Protocol     string  `json:"protocol"`
	Broadcasts   int     `json:"broadcasts"`
	Coverage     float64 `json:"coverage"`      // deliveries of those due: at every node connected with the sender at the end
	Missed       int     `json:"missed"`        // deliveries that were due and did not come
	Repeated     int     `json:"repeated"`      // deliveries of what was delivered before
	RMR          float64 `json:"rmr"`           // payloads sent / (receivers − 1) − 1
	MeanHops     float64 `json:"mean_hops"`     // of deliveries
	MaxHops      int     `json:"max_hops"`      // the last-hop depth: of the delivery with the most
	MeanLatency  float64 `json:"mean_ms"`       // of deliveries
	MeanLast     float64 `json:"mean_last_ms"`  // of the last delivery of each broadcast
	MaxLast      float64 `json:"max_last_ms"`   // of the last delivery of all
	Control      float64 `json:"control"`       // other frames, for each broadcast and node
	ControlBytes float64 `json:"control_bytes"` // of those
	Healing      float64 `json:"healing_ms"`    // from the crash until all had what was broadcast in that moment; -1 if never; 0 without crash
}

// Run simulates. It returns an error that wraps [ErrConfig], or ctx's when that ends first. progress, unless nil, is told now and
// then how far things are, in words.
func Run(ctx context.Context, cfg Config, progress func(string)) (*Report, error) {
	cfg, err := cfg.filled()
	if err != nil {
		return nil, err
	}
	if progress == nil {
		progress = func(string) {}
	}
	w, err := newWorld(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return w.report(progress)
}

func (w *world) report(progress func(string)) (*Report, error) {
	cfg := w.cfg
	report := &Report{Peers: cfg.Peers, Degree: cfg.Degree, Senders: cfg.Senders, Loss: cfg.Loss, Churn: cfg.Churn, Seed: cfg.Seed, Size: cfg.Size}
	progress("joining")
	if err := w.build(); err != nil {
		return nil, err
	}
	before, one := w.graph()
	report.Graph = w.describe(before, one)
	progress("broadcasting")
	if err := w.broadcasts(); err != nil {
		return nil, err
	}
	after, one := w.graph()
	steady, crashed := w.rows(after)
	report.Steady = append(report.Steady, steady)
	if cfg.Churn > 0 {
		healed := w.describe(after, one)
		report.Healed = &healed
		report.Crashed = append(report.Crashed, crashed)
	}
	report.Events, report.Virtual = w.agenda.n, float64(w.now)/1e9
	for _, rival := range []rules{flooding, gossipsub} {
		progress(string(rival))
		steady, crashed, err := w.compare(rival, before)
		if err != nil {
			return nil, err
		}
		report.Steady = append(report.Steady, steady)
		if cfg.Churn > 0 {
			report.Crashed = append(report.Crashed, crashed)
		}
	}
	return report, nil
}
