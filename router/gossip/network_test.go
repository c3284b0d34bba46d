package gossip_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/router/gossip"
)

// network is a few machines, and time. Frames take 1 to 20 ms, and keep no order.
type network struct {
	t       *testing.T
	random  *rand.Rand
	now     time.Time
	peers   map[identity.ID]*peer
	order   []*peer
	flights []flight
	loss    float64
	config  func(*gossip.Config)
}

type peer struct {
	id      identity.ID
	machine *gossip.Machine
	wake    time.Time
	gone    bool
	got     map[gossip.MessageID]int
	up      map[identity.ID]bool // by Up and Gone
	lonely  bool
}

type flight struct {
	at       time.Time
	from, to identity.ID
	frame    gossip.Frame // nil: the link is down
}

func newNetwork(t *testing.T, seed uint64) *network {
	return &network{t: t, random: rand.New(rand.NewPCG(seed, 1)), now: time.Unix(1_700_000_000, 0), peers: make(map[identity.ID]*peer)}
}

func testID(n int) (id identity.ID) {
	copy(id[:], fmt.Sprintf("node %d", n))
	return id
}

// testSign and testVerify stand in for ed25519, so that many messages can be checked.
func testSign(b []byte) []byte { return append([]byte(nil), b[len(b)-8:]...) }

func testVerify(m *gossip.Message) bool {
	b := m.AppendSigned(nil)
	return bytes.Equal(m.Signature[:8], b[len(b)-8:])
}

// add starts a machine that knows the contacts.
func (n *network) add(id identity.ID, contacts ...identity.ID) *peer {
	n.t.Helper()
	cfg := gossip.Config{
		Self: gossip.Contact{ID: id, Addrs: []string{"mem://" + id.Short() + ":1"}}, Sign: testSign, Verify: testVerify,
		Random: rand.New(rand.NewPCG(n.random.Uint64(), 2)),
	}
	if n.config != nil {
		n.config(&cfg)
	}
	m, err := gossip.New(cfg, n.now)
	if err != nil {
		n.t.Fatal(err)
	}
	p := &peer{id: id, machine: m, got: make(map[gossip.MessageID]int), up: make(map[identity.ID]bool)}
	if old := n.peers[id]; old != nil {
		n.order = slices.DeleteFunc(n.order, func(q *peer) bool { return q == old })
	}
	n.peers[id] = p
	n.order = append(n.order, p)
	var known []gossip.Contact
	for _, c := range contacts {
		known = append(known, gossip.Contact{ID: c})
	}
	n.perform(p, m.Join(n.now, known...))
	return p
}

// grow adds machines up to that number, each of which knows one that is there.
func (n *network) grow(count int) {
	for len(n.order) < count {
		if len(n.order) == 0 {
			n.add(testID(0))
		} else {
			n.add(testID(len(n.order)), n.order[n.random.IntN(len(n.order))].id)
		}
		n.run(300 * time.Millisecond)
	}
}

func (n *network) perform(p *peer, out gossip.Output) {
	n.t.Helper()
	for _, m := range out.Deliver {
		p.got[m.ID]++
	}
	for _, c := range out.Up {
		if p.up[c.ID] {
			n.t.Errorf("%v: Up of %v, who is a neighbour", p.id, c.ID)
		}
		p.up[c.ID] = true
	}
	for _, id := range out.Gone {
		if !p.up[id] {
			n.t.Errorf("%v: Gone of %v, who is no neighbour", p.id, id)
		}
		delete(p.up, id)
	}
	p.wake, p.lonely = out.Wake, out.Isolated
	for _, s := range out.Sends {
		if s.To.ID == p.id {
			n.t.Errorf("%v sends %T to itself", p.id, s.Frame)
		}
		if n.loss > 0 && n.random.Float64() < n.loss {
			continue
		}
		// Through the codec, as in life.
		frames, err := gossip.ParseBatch(gossip.AppendBatch(nil, s.Frame))
		if err != nil || len(frames) != 1 {
			n.t.Fatalf("%T of a machine: %v", s.Frame, err)
		}
		at := n.now.Add(time.Millisecond + time.Duration(n.random.IntN(19))*time.Millisecond)
		if to := n.peers[s.To.ID]; to == nil || to.gone {
			n.flights = append(n.flights, flight{at.Add(time.Second), s.To.ID, p.id, nil})
		} else {
			n.flights = append(n.flights, flight{at, p.id, s.To.ID, frames[0]})
		}
	}
}

// run lets time pass.
func (n *network) run(d time.Duration) {
	n.t.Helper()
	end := n.now.Add(d)
	for {
		first, tick := -1, (*peer)(nil)
		at := end
		for i, f := range n.flights {
			if f.at.Before(at) {
				first, at = i, f.at
			}
		}
		for _, p := range n.order {
			if !p.gone && p.wake.Before(at) {
				tick, at = p, p.wake
			}
		}
		if at.After(n.now) {
			n.now = at
		}
		switch {
		case tick != nil:
			n.perform(tick, tick.machine.Tick(n.now))
			if !tick.wake.After(n.now) {
				n.t.Fatalf("%v: after a Tick at %v the next is wanted at %v", tick.id, n.now, tick.wake)
			}
		case first >= 0:
			f := n.flights[first]
			n.flights = slices.Delete(n.flights, first, first+1)
			p := n.peers[f.to]
			switch {
			case p == nil || p.gone:
			case f.frame == nil:
				n.perform(p, p.machine.Down(n.now, f.from))
			default:
				n.perform(p, p.machine.Receive(n.now, f.from, f.frame))
			}
		default:
			return
		}
	}
}

func (n *network) broadcast(p *peer, text string) gossip.MessageID {
	n.t.Helper()
	id, out, err := p.machine.Broadcast(n.now, "news", []byte(text+"........"))
	n.perform(p, out)
	if err != nil {
		n.t.Fatal(err)
	}
	return id
}

// kill makes a peer vanish; its neighbours learn of it a second later.
func (n *network) kill(p *peer) {
	p.gone = true
	for _, q := range n.order {
		if !q.gone && q.up[p.id] {
			n.flights = append(n.flights, flight{n.now.Add(time.Second), p.id, q.id, nil})
		}
	}
}

// wantOnce checks that every living peer got a message once, and its origin never.
func (n *network) wantOnce(id gossip.MessageID) {
	n.t.Helper()
	for _, p := range n.order {
		want := 1
		if p.id == id.Origin {
			want = 0
		}
		if got := p.got[id]; !p.gone && got != want {
			n.t.Errorf("%.7s got message %d of %.7s %d times, want %d", p.id[:], id.Seq, id.Origin[:], got, want)
		}
	}
}

// wantWhole checks that views are bounded and symmetric, and the overlay connected.
func (n *network) wantWhole(active int) {
	n.t.Helper()
	reached := make(map[identity.ID]bool)
	var walk func(*peer)
	walk = func(p *peer) {
		reached[p.id] = true
		near := p.machine.Neighbours()
		if len(near) > active || len(near) != len(p.up) {
			n.t.Errorf("%.7s has %d neighbours, and %d by Up and Gone; at most %d are allowed", p.id[:], len(near), len(p.up), active)
		}
		for _, id := range near {
			q := n.peers[id]
			if q == nil || q.gone || !slices.Contains(q.machine.Neighbours(), p.id) {
				n.t.Errorf("%.7s has the neighbour %.7s, and not the other way round", p.id[:], id[:])
			} else if !reached[id] {
				walk(q)
			}
		}
	}
	for _, p := range n.order {
		if !p.gone {
			if len(reached) == 0 {
				walk(p)
			}
			if !reached[p.id] {
				n.t.Errorf("%.7s is cut off", p.id[:])
			}
		}
	}
}

func TestEveryoneOnce(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			n := newNetwork(t, seed)
			count := 2 + n.random.IntN(30)
			n.grow(count)
			n.run(30 * time.Second)
			n.wantWhole(6)
			var ids []gossip.MessageID
			for i := range 20 {
				ids = append(ids, n.broadcast(n.order[n.random.IntN(count)], fmt.Sprint(i)))
				n.run(time.Duration(n.random.IntN(300)) * time.Millisecond)
			}
			n.run(20 * time.Second)
			for _, id := range ids {
				n.wantOnce(id)
			}
			n.wantWhole(6)
		})
	}
}

func TestLossAndCrashes(t *testing.T) {
	for seed := range uint64(10) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			n := newNetwork(t, 100+seed)
			n.loss = 0.1
			n.grow(25)
			var ids []gossip.MessageID
			speak := func(times int) {
				for range times {
					p := n.order[n.random.IntN(5)]
					ids = append(ids, n.broadcast(p, "x"))
					n.run(time.Duration(n.random.IntN(500)) * time.Millisecond)
				}
			}
			speak(10)
			n.run(time.Minute)
			for _, p := range n.order[18:] {
				n.kill(p)
			}
			speak(10)
			n.run(time.Minute)
			for _, id := range ids {
				n.wantOnce(id)
			}
			// When nothing is lost any more, what is left of it goes.
			n.loss = 0
			n.run(2 * time.Minute)
			n.wantWhole(6)
		})
	}
}

// Origins that speak seldom share a tree. When all of them speak at once, that is not torn, and becomes no storm.
func TestSharedTree(t *testing.T) {
	n := newNetwork(t, 12)
	n.grow(40)
	n.run(30 * time.Second)
	for range 4 {
		var ids []gossip.MessageID
		for _, p := range n.order {
			ids = append(ids, n.broadcast(p, "x"))
			n.run(time.Duration(n.random.IntN(5)) * time.Millisecond)
		}
		n.run(100 * time.Second)
		for _, id := range ids {
			n.wantOnce(id)
		}
	}
	var sum gossip.Figures
	for _, p := range n.order {
		f := p.machine.Figures()
		sum.Grafts, sum.Duplicates, sum.Delivered = sum.Grafts+f.Grafts, sum.Duplicates+f.Duplicates, sum.Delivered+f.Delivered
		sum.Trees += f.Trees
	}
	if sum.Trees > 0 || sum.Grafts > sum.Delivered/50 || sum.RMR() > 3 {
		t.Errorf("%d trees, an RMR of %v, and %d grafts for %d deliveries", sum.Trees, sum.RMR(), sum.Grafts, sum.Delivered)
	}
}

// One that comes late, or back in a new life, gets what is kept; one that comes back in the same life only what it missed.
func TestLateAndBack(t *testing.T) {
	n := newNetwork(t, 7)
	n.grow(10)
	n.run(20 * time.Second)
	a := n.broadcast(n.order[0], "before")
	n.run(20 * time.Second)
	n.add(testID(10), testID(3))
	n.run(20 * time.Second)
	n.wantOnce(a)

	back := n.order[4]
	n.kill(back)
	n.run(5 * time.Second)
	b := n.broadcast(n.order[0], "meanwhile")
	n.run(5 * time.Second)
	back.gone = false // it was only asleep
	for id := range back.up {
		n.perform(back, back.machine.Down(n.now, id))
	}
	n.run(20 * time.Second)
	n.wantOnce(b)
	n.wantOnce(a)

	n.kill(back)
	n.run(5 * time.Second)
	again := n.add(back.id, testID(1))
	n.run(20 * time.Second)
	n.wantOnce(b)
	if again.got[a] != 1 {
		t.Errorf("the new life got a kept message %d times, want once", again.got[a])
	}
	// What is no longer kept does not come.
	n.run(2 * time.Minute)
	late := n.add(testID(20), testID(1))
	n.run(20 * time.Second)
	if len(late.got) != 0 || len(late.machine.Neighbours()) == 0 {
		t.Errorf("a late one got %d messages that were kept no longer; it has %d neighbours", len(late.got), len(late.machine.Neighbours()))
	}
}

// The broadcasts of a former life may come after those of the next.
func TestTwoLives(t *testing.T) {
	n := newNetwork(t, 8)
	n.grow(8)
	n.run(20 * time.Second)
	p := n.order[2]
	first := n.broadcast(p, "one")
	n.kill(p) // its words are on the way
	p = n.add(p.id, testID(0))
	n.run(time.Second)
	second := n.broadcast(p, "two")
	n.run(20 * time.Second)
	if first.Incarnation >= second.Incarnation || second.Seq != 1 {
		t.Errorf("the lives are %d and %d, seq %d", first.Incarnation, second.Incarnation, second.Seq)
	}
	n.wantOnce(first)
	n.wantOnce(second)
}

// Two networks that were whole apart become one when a broadcast shows that they are two.
func TestBridge(t *testing.T) {
	n := newNetwork(t, 9)
	for i := range 10 {
		if i%5 == 0 {
			n.add(testID(i))
		} else {
			n.add(testID(i), testID(i-i%5))
		}
		n.run(time.Second)
	}
	n.run(20 * time.Second)
	bridge := n.order[7]
	n.perform(bridge, bridge.machine.Join(n.now, gossip.Contact{ID: testID(2)})) // it hears of somebody, and needs nobody
	id := n.broadcast(n.order[0], "x")
	n.run(time.Minute)
	n.wantOnce(id)
	n.wantWhole(6)
}

func TestLeave(t *testing.T) {
	n := newNetwork(t, 10)
	n.grow(12)
	n.run(20 * time.Second)
	p := n.order[5]
	n.perform(p, p.machine.Leave(n.now))
	if len(p.up) != 0 {
		t.Errorf("one that left has %d neighbours", len(p.up))
	}
	n.run(time.Second)
	p.gone = true
	n.run(20 * time.Second)
	n.wantWhole(6)
	id := n.broadcast(n.order[0], "x")
	n.run(10 * time.Second)
	n.wantOnce(id)
}

// One that nobody answers says that it is isolated, and comes back with new contacts.
func TestIsolated(t *testing.T) {
	n := newNetwork(t, 11)
	n.grow(5)
	n.run(20 * time.Second)
	for _, p := range n.order[1:] {
		n.kill(p)
	}
	n.run(time.Minute)
	p := n.order[0]
	if !p.lonely || len(p.up) != 0 {
		t.Fatalf("isolated: %v, with %d neighbours", p.lonely, len(p.up))
	}
	n.add(testID(77))
	n.perform(p, p.machine.Join(n.now, gossip.Contact{ID: testID(77)}))
	n.run(5 * time.Second)
	n.wantWhole(6)
	if p.lonely {
		t.Error("it still says that it is isolated")
	}
}
