package simulate

import (
	"math/rand/v2"
	"slices"
	"time"
)

// rules are those of another protocol.
type rules string

const (
	// flooding: what is new is sent to all neighbours but the one it came from.
	flooding rules = "flooding"
	// gossipsub: flooding of a mesh, which is the overlay here; at each heartbeat the latest messages are announced to random
	// peers outside of it, who ask for what they lack (libp2p's specification of gossipsub, versions 1.0 and 1.1). Every
	// living node counts as a peer, and a mesh that lost members is whole again after the first heartbeat behind detection.
	gossipsub rules = "gossipsub"
)

// The parameters of gossipsub.
const (
	meshWanted  = 6
	meshLow     = 4
	meshHigh    = 12
	lazyPeers   = 6
	gossipTurns = 3 // heartbeats at which a message is announced
	heartbeat   = time.Second
	promise     = 3 * time.Second // until another is asked for what one was asked for
	idBytes     = 40              // of an announced message: sender, sequence number

	maxCompared = 20 // broadcasts of a phase that are simulated; they do not influence each other
)

// rival simulates one broadcast of another protocol.
type rival struct {
	w       *world
	rules   rules
	random  *rand.Rand
	mesh    graph
	gone    []bool
	events  heap[step]
	pushed  uint64
	b       *broadcast
	asked   []int64 // when a node asked last
	control int
	bytes   int
}

type step struct {
	to, from int32
	what     uint8
	n        uint8 // hops of a payload, turns that were of a beat
}

const (
	getsPayload uint8 = iota
	getsHave
	getsWant
	beats
)

// compare runs the measured broadcasts by other rules, over the overlay g as it was before the first.
func (w *world) compare(r rules, g graph) (steady, crashed Row, err error) {
	everybody := func(int32) []bool { return nil }
	none := make([]bool, len(w.nodes))
	steady, err = w.comparePhase(r, w.sent[w.steady:w.crash], func(int64) graph { return g }, none, everybody)
	if err != nil || w.cfg.Churn == 0 {
		return steady, crashed, err
	}
	broken := g.without(w.gone)
	healed := broken
	if r == gossipsub {
		healed = w.heal(broken)
	}
	alive := make([]bool, len(w.nodes))
	for i := range alive {
		alive[i] = !w.gone[i]
	}
	crashed, err = w.comparePhase(r, w.sent[w.crash:], func(at int64) graph {
		if at < w.crashAt+int64(2*detection+heartbeat) {
			return broken
		}
		return healed
	}, w.gone, func(int32) []bool { return alive })
	return steady, crashed, err
}

func (w *world) comparePhase(r rules, list []*broadcast, mesh func(at int64) graph, gone []bool, due func(int32) []bool) (Row, error) {
	var done []*broadcast
	control, bytes := 0, 0
	n := min(len(list), maxCompared)
	rivals := make([]*rival, n)
	w.parallel(n, 1, func(_, i int) {
		if w.ctx.Err() != nil {
			return
		}
		like := list[i*len(list)/n]
		v := &rival{
			w: w, rules: r, random: rand.New(rand.NewPCG(w.cfg.Seed, uint64(like.at)^uint64(like.sender))), mesh: mesh(like.at), gone: gone,
			b: newBroadcast(like.sender, like.at, len(w.nodes)), asked: make([]int64, len(w.nodes)),
		}
		v.run()
		rivals[i] = v
	})
	if err := w.ctx.Err(); err != nil {
		return Row{}, err
	}
	for _, v := range rivals {
		done = append(done, v.b)
		control += v.control
		bytes += v.bytes
	}
	row := w.row(string(r), done, due)
	row.Repeated = 0 // what came again was not delivered again
	alive := 0
	for _, g := range gone {
		if !g {
			alive++
		}
	}
	row.Control, row.ControlBytes = float64(control)/float64(n*alive), float64(bytes)/float64(n*alive)
	return row, nil
}

func (v *rival) run() {
	v.forward(v.b.at, v.b.sender, -1, 0)
	for len(v.events) > 0 {
		e := v.events.pop()
		at, s := e.at, e.what
		switch s.what {
		case getsPayload:
			if v.b.reach(s.to, at, int(s.n)) {
				v.forward(at, s.to, s.from, int(s.n))
			}
		case getsHave:
			if !v.b.has(s.to) && (v.asked[s.to] == 0 || at-v.asked[s.to] > int64(promise)) {
				v.asked[s.to] = at
				v.send(at, step{s.from, s.to, getsWant, s.n})
			}
		case getsWant:
			v.send(at, step{s.from, s.to, getsPayload, s.n + 1})
		case beats:
			for range lazyPeers {
				to := v.random.Int32N(int32(len(v.mesh)))
				if to != s.to && !v.gone[to] && !slices.Contains(v.mesh[s.to], to) {
					v.send(at, step{to, s.to, getsHave, s.n >> 2})
				}
			}
			if s.n&3 < gossipTurns-1 {
				v.push(at+int64(heartbeat), step{s.to, 0, beats, s.n + 1})
			}
		}
	}
}

// forward sends a payload that came from a neighbour (-1: it is the sender's own) to the others, and sees to the heartbeat.
func (v *rival) forward(at int64, self, from int32, hops int) {
	for _, to := range v.mesh[self] {
		if to != from {
			v.send(at, step{to, self, getsPayload, uint8(min(hops+1, 255))})
		}
	}
	if v.rules == gossipsub {
		// Every node's heart beats at times of its own. The low bits of n count the turns, the others the hops.
		phase := int64(mix(v.w.cfg.Seed+uint64(self)) % uint64(heartbeat))
		next := (at-phase)/int64(heartbeat)*int64(heartbeat) + phase + int64(heartbeat)
		v.push(next, step{self, 0, beats, uint8(min(hops, 63)) << 2})
	}
}

func (v *rival) send(at int64, s step) {
	if s.what == getsPayload {
		v.b.payloads++
	} else {
		v.control++
		v.bytes += idBytes
	}
	if v.gone[s.to] || v.w.cfg.Loss > 0 && v.random.Float64() < v.w.cfg.Loss {
		return
	}
	v.push(at+latency(v.w.cfg.Seed, s.from, s.to)+v.random.Int64N(int64(jitter)), s)
}

func (v *rival) push(at int64, s step) {
	v.pushed++
	v.events.push(event[step]{at, v.pushed, s})
}

// heal fills up meshes that lost members, as a heartbeat does.
func (w *world) heal(broken graph) graph {
	random := rand.New(rand.NewPCG(w.cfg.Seed, 1<<40))
	g := make(graph, len(broken))
	for i, near := range broken {
		g[i] = slices.Clone(near)
	}
	for i := range g {
		if w.gone[i] || len(g[i]) >= meshLow {
			continue
		}
		for tries := 0; len(g[i]) < meshWanted && tries < 100; tries++ {
			to := random.Int32N(int32(len(g)))
			if int(to) != i && !w.gone[to] && len(g[to]) < meshHigh && !slices.Contains(g[i], to) {
				g.add(int32(i), to)
			}
		}
	}
	return g
}
