package simulate

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/router/gossip"
)

// world is the simulated network.
type world struct {
	ctx    context.Context
	cfg    Config
	random *rand.Rand
	start  time.Time
	now    int64 // nanoseconds since start
	agenda agenda[happening]

	nodes   []node
	gone    []bool // has crashed
	senders []int32
	sent    []*broadcast
	steady  int   // the first broadcast after the warm-up
	crash   int   // the first broadcast after the crash
	crashAt int64 // 0: there was none

	control, controlBytes [3]uint64 // by phase
	phase                 int       // 0 warm-up and before, 1 steady, 2 from the crash on

	single  bool // nothing is worked out ahead: for tests
	workers []worker
	chain   []int32 // of the upcoming events: which comes next at the same node, or -1
	touched []int32 // the nodes of those
}

type node struct {
	machine *gossip.Machine
	wake    int64 // when a tick is on the agenda

	// Of the calls that were made ahead (see ahead.go).
	armed       int64 // what wake will be behind them
	first, last int32 // this node's events, in the order in which they come; -1: there are none
	worker      int32 // who made the calls, and where among its results the next is
	result      int32
}

// happening is a frame that arrives, or one of what follows.
type happening struct {
	frame    gossip.Frame
	to, from int32 // from is a peer, or the number of what is broadcast
	what     uint8
}

const (
	arrives uint8 = iota
	ticks
	joins
	speaks
	breaks // to learns that its link with from is broken
	crashes
)

// broadcast is what is known of one.
type broadcast struct {
	sender   int32
	at       int64
	reached  []uint64 // a bit for each node
	count    int
	repeated int
	payloads int
	hops     int // in sum
	maxHops  int
	latency  float64 // in sum
	last     int64
}

// reach notes a delivery, and reports whether it is the first at that node.
func (b *broadcast) reach(node int32, at int64, hops int) bool {
	if b.reached[node/64]&(1<<(node%64)) != 0 {
		b.repeated++
		return false
	}
	b.reached[node/64] |= 1 << (node % 64)
	if node == b.sender {
		return true
	}
	b.count++
	b.hops += hops
	b.maxHops = max(b.maxHops, hops)
	b.latency += float64(at - b.at)
	b.last = max(b.last, at)
	return true
}

func (b *broadcast) has(node int32) bool { return b.reached[node/64]&(1<<(node%64)) != 0 }

func newBroadcast(sender int32, at int64, nodes int) *broadcast {
	b := &broadcast{sender: sender, at: at, last: at, reached: make([]uint64, (nodes+63)/64)}
	b.reached[sender/64] |= 1 << (sender % 64)
	return b
}

// id returns the ID of a node: its number is in it.
func (w *world) id(n int32) (id identity.ID) {
	binary.LittleEndian.PutUint32(id[:], uint32(n))
	binary.LittleEndian.PutUint64(id[8:], mix(w.cfg.Seed+uint64(n)))
	return id
}

func number(id identity.ID) int32 { return int32(binary.LittleEndian.Uint32(id[:])) }

// mix makes of a number another that seems to have nothing to do with it (the finalizer of SplitMix64).
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// checker stands in for signatures: its "signature" is a checksum of what would be signed. It is called as the real one is.
type checker struct {
	table   *crc32.Table
	buffers sync.Pool // of *[]byte
}

func (c *checker) sign(b []byte) []byte {
	return binary.BigEndian.AppendUint32(nil, crc32.Checksum(b, c.table))
}

func (c *checker) verify(m *gossip.Message) bool {
	buf, _ := c.buffers.Get().(*[]byte)
	if buf == nil {
		buf = new([]byte)
	}
	*buf = m.AppendSigned((*buf)[:0])
	ok := binary.BigEndian.Uint32(m.Signature[:]) == crc32.Checksum(*buf, c.table)
	c.buffers.Put(buf)
	return ok
}

func newWorld(ctx context.Context, cfg Config) (*world, error) {
	w := &world{
		ctx: ctx, cfg: cfg, random: rand.New(rand.NewPCG(cfg.Seed, 0)), start: time.Unix(1_000_000_000, 0),
		nodes: make([]node, cfg.Peers), gone: make([]bool, cfg.Peers), workers: make([]worker, min(runtime.GOMAXPROCS(0), maxWorkers)),
	}
	check := &checker{table: crc32.MakeTable(crc32.Castagnoli)}
	for i := range w.nodes {
		m, err := gossip.New(gossip.Config{
			Self: gossip.Contact{ID: w.id(int32(i))}, Sign: check.sign, Verify: check.verify,
			Random: rand.New(rand.NewPCG(cfg.Seed, uint64(i)+1)), Incarnation: 1, Active: cfg.Degree, KeepMessages: max(256, 4*cfg.Senders),
		}, w.start)
		if err != nil {
			return nil, fmt.Errorf("simulate: node %d: %w", i, err)
		}
		w.nodes[i] = node{machine: m, wake: math.MaxInt64, armed: math.MaxInt64, first: -1}
	}
	for _, n := range w.random.Perm(cfg.Peers)[:cfg.Senders] {
		w.senders = append(w.senders, int32(n))
	}
	return w, nil
}

// latency returns how long a frame takes from a to b.
func (w *world) latency(a, b int32) int64 {
	return latency(w.cfg.Seed, a, b) + w.random.Int64N(int64(jitter))
}

func latency(seed uint64, a, b int32) int64 {
	if a > b {
		a, b = b, a
	}
	return int64(minLatency) + int64(mix(seed^uint64(a)<<32^uint64(b))%uint64(maxLatency-minLatency))
}

// build lets the nodes join, one by one and ever faster, each by one that is there, and then waits.
func (w *world) build() error {
	end := 0.0
	for i := range w.nodes {
		if i > 0 {
			end = 5e9 * math.Log(float64(i)+1)
		}
		w.agenda.push(int64(end), happening{what: joins, to: int32(i)})
	}
	return w.run(int64(end) + int64(settling))
}

// broadcasts runs the phases of broadcasting.
func (w *world) broadcasts() error {
	round := func() error {
		at := w.now
		for i, s := range w.senders {
			w.agenda.push(at+int64(spread)*int64(i)/int64(len(w.senders)), happening{what: speaks, to: s})
		}
		return w.run(at + int64(spacing))
	}
	if len(w.senders) > 1 { // the first one alone
		w.agenda.push(w.now, happening{what: speaks, to: w.senders[0]})
		if err := w.run(w.now + int64(spacing)); err != nil {
			return err
		}
	}
	for range w.cfg.WarmUp {
		if err := round(); err != nil {
			return err
		}
	}
	w.steady, w.phase = len(w.sent), 1
	for range w.cfg.Messages {
		if err := round(); err != nil {
			return err
		}
	}
	w.crash = len(w.sent)
	if err := w.finish(); err != nil || w.cfg.Churn == 0 {
		return err
	}
	w.phase, w.crashAt = 2, w.now
	w.agenda.push(w.now, happening{what: crashes})
	for range w.cfg.Messages {
		if err := round(); err != nil {
			return err
		}
	}
	return w.finish()
}

// finish waits until everybody has everything, or nothing more is to be hoped for.
func (w *world) finish() error {
	for end := w.now + int64(patience); w.now < end && !w.complete(); {
		if err := w.run(w.now + int64(time.Second)); err != nil {
			return err
		}
	}
	return nil
}

// complete reports whether all that is to be measured in this phase has come everywhere.
func (w *world) complete() bool {
	first, everywhere := w.steady, len(w.nodes)
	if w.phase == 2 {
		first, everywhere = w.crash, w.survivors()
	}
	for _, b := range w.sent[first:] {
		if b.count < everywhere-1 {
			return false
		}
	}
	return true
}

// kill makes a share of the nodes, none of them a sender, crash at once. The senders speak in that moment.
func (w *world) kill() {
	left := int(w.cfg.Churn * float64(len(w.nodes)))
	for _, n := range w.random.Perm(len(w.nodes)) {
		if left == 0 {
			break
		}
		if slices.Contains(w.senders, int32(n)) {
			continue
		}
		w.gone[n] = true
		left--
	}
	for i := range w.nodes {
		if w.gone[i] {
			continue
		}
		for _, id := range w.nodes[i].machine.Neighbours() {
			if k := number(id); w.gone[k] {
				w.agenda.push(w.now+int64(detection)+w.random.Int64N(int64(detection)), happening{what: breaks, to: int32(i), from: k})
			}
		}
	}
}

// graph returns the edges that both ends see, and how many only one does.
func (w *world) graph() (g graph, oneSided int) {
	g = make(graph, len(w.nodes))
	for i := range w.nodes {
		if w.gone[i] {
			continue
		}
		for _, id := range w.nodes[i].machine.Neighbours() {
			k := number(id)
			switch mutual := !w.gone[k] && slices.Contains(w.nodes[k].machine.Neighbours(), w.id(int32(i))); {
			case !mutual:
				oneSided++
			case int32(i) < k:
				g.add(int32(i), k)
			}
		}
	}
	return g, oneSided
}

func (w *world) describe(g graph, oneSided int) Graph {
	d := Graph{Edges: g.edges(), OneSided: oneSided, MinDegree: len(g), Diameter: g.diameter()}
	connected := g.component(w.senders[0])
	for i, near := range g {
		if w.gone[i] {
			continue
		}
		d.Nodes++
		d.MinDegree, d.MaxDegree = min(d.MinDegree, len(near)), max(d.MaxDegree, len(near))
		if connected[i] {
			d.Connected++
		}
	}
	d.Degree = 2 * float64(d.Edges) / float64(d.Nodes)
	return d
}

// rows sums up what became of the broadcasts; g is the graph at the end.
func (w *world) rows(g graph) (steady, crashed Row) {
	all := w.sent
	everybody := func(int32) []bool { return nil }
	steady = w.row("pheromones", all[w.steady:w.crash], everybody)
	steady.Control, steady.ControlBytes = w.perMessage(1, w.crash-w.steady, len(w.nodes))
	if w.cfg.Churn > 0 {
		parts := make(map[int32][]bool)
		crashed = w.row("pheromones", all[w.crash:], func(sender int32) []bool {
			if parts[sender] == nil {
				parts[sender] = g.component(sender)
			}
			return parts[sender]
		})
		crashed.Control, crashed.ControlBytes = w.perMessage(2, len(all)-w.crash, w.survivors())
	}
	return steady, crashed
}

func (w *world) survivors() int {
	n := 0
	for _, gone := range w.gone {
		if !gone {
			n++
		}
	}
	return n
}

func (w *world) perMessage(phase, messages, nodes int) (frames, bytes float64) {
	per := float64(messages) * float64(nodes)
	return float64(w.control[phase]) / per, float64(w.controlBytes[phase]) / per
}

// row sums up broadcasts. due returns who must have those of a sender; nil is everybody.
func (w *world) row(name string, list []*broadcast, due func(sender int32) []bool) Row {
	r := Row{Protocol: name, Broadcasts: len(list)}
	var expected, deliveries, payloads, hops, latency, last float64
	var redundancy float64
	heal := int64(0)
	for _, b := range list {
		must := due(b.sender)
		for i := range w.nodes {
			if must != nil && !must[i] || int32(i) == b.sender {
				continue
			}
			expected++
			if !b.has(int32(i)) {
				r.Missed++
			}
		}
		deliveries += float64(b.count)
		payloads += float64(b.payloads)
		if b.count > 0 {
			redundancy += float64(b.payloads)/float64(b.count) - 1
		}
		hops += float64(b.hops)
		latency += b.latency
		last += float64(b.last - b.at)
		r.MaxLast = max(r.MaxLast, float64(b.last-b.at)/1e6)
		r.MaxHops = max(r.MaxHops, b.maxHops)
		r.Repeated += b.repeated
		if w.crashAt > 0 && b.at >= w.crashAt && b.at < w.crashAt+int64(spacing) {
			heal = max(heal, b.last-w.crashAt)
		}
	}
	n := float64(len(list))
	r.Coverage = 1 - float64(r.Missed)/expected
	r.RMR, r.MeanHops, r.MeanLatency, r.MeanLast = redundancy/n, hops/deliveries, latency/deliveries/1e6, last/n/1e6
	r.Healing = float64(heal) / 1e6
	if r.Missed > 0 && heal > 0 {
		r.Healing = -1
	}
	return r
}
