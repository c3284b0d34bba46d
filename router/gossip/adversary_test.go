package gossip_test

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/router/gossip"
)

// alone is one machine, whose neighbours the test plays.
type alone struct {
	*testing.T
	m    *gossip.Machine
	now  time.Time
	sent map[identity.ID][]gossip.Frame
	got  []*gossip.Message
}

func newAlone(t *testing.T, change func(*gossip.Config), neighbours ...int) *alone {
	t.Helper()
	cfg := gossip.Config{Self: gossip.Contact{ID: testID(1000)}, Sign: testSign, Verify: testVerify, Random: rand.New(rand.NewPCG(1, 1))}
	if change != nil {
		change(&cfg)
	}
	a := &alone{T: t, now: time.Unix(1_700_000_000, 0), sent: make(map[identity.ID][]gossip.Frame)}
	var err error
	if a.m, err = gossip.New(cfg, a.now); err != nil {
		t.Fatal(err)
	}
	for _, n := range neighbours {
		a.receive(n, &gossip.Neighbor{})
	}
	if got := len(a.m.Neighbours()); got != len(neighbours) {
		t.Fatalf("there are %d neighbours, want %d", got, len(neighbours))
	}
	return a
}

func (a *alone) did(out gossip.Output) gossip.Output {
	for _, s := range out.Sends {
		a.sent[s.To.ID] = append(a.sent[s.To.ID], s.Frame)
	}
	a.got = append(a.got, out.Deliver...)
	return out
}

func (a *alone) receive(from int, f ...gossip.Frame) gossip.Output {
	return a.did(a.m.Receive(a.now, testID(from), f...))
}

// pass lets time pass, with all ticks.
func (a *alone) pass(d time.Duration) {
	end := a.now.Add(d)
	for {
		out := a.did(a.m.Tick(a.now))
		if out.Wake.After(end) {
			a.now = end
			return
		}
		a.now = out.Wake
	}
}

// frames returns those of one type that were sent to a peer.
func frames[F gossip.Frame](a *alone, to int) (list []F) {
	for _, f := range a.sent[testID(to)] {
		if f, ok := f.(F); ok {
			list = append(list, f)
		}
	}
	return list
}

func message(origin int, seq uint64, born time.Time) *gossip.Message {
	m := &gossip.Message{
		ID: gossip.MessageID{Origin: testID(origin), Incarnation: 1, Seq: seq}, Born: born, Operation: "op",
		Data: binary.BigEndian.AppendUint64(nil, uint64(origin)<<32+seq),
	}
	copy(m.Signature[:], testSign(m.AppendSigned(nil)))
	return m
}

func payload(m *gossip.Message) *gossip.Payload { return &gossip.Payload{Message: m, Hops: 1} }

func TestForged(t *testing.T) {
	a := newAlone(t, func(c *gossip.Config) { c.Verify = nil }, 1, 2)
	key, err := identity.Generate()
	if err != nil {
		t.Fatal(err)
	}
	good := func(seq uint64) *gossip.Message {
		m := &gossip.Message{ID: gossip.MessageID{Origin: key.ID(), Incarnation: 5, Seq: seq}, Born: a.now, Operation: "op", Data: []byte("data")}
		copy(m.Signature[:], key.Sign(m.AppendSigned(nil)))
		return m
	}
	a.receive(1, payload(good(1)))
	if len(a.got) != 1 || len(frames[*gossip.Payload](a, 2)) != 1 {
		t.Fatalf("a signed broadcast: delivered %d times, sent on %d times", len(a.got), len(frames[*gossip.Payload](a, 2)))
	}
	for name, forge := range map[string]func(*gossip.Message){
		"origin":      func(m *gossip.Message) { m.ID.Origin = testID(9) },
		"incarnation": func(m *gossip.Message) { m.ID.Incarnation++ },
		"seq":         func(m *gossip.Message) { m.ID.Seq++ },
		"born":        func(m *gossip.Message) { m.Born = m.Born.Add(time.Microsecond) },
		"operation":   func(m *gossip.Message) { m.Operation = "po" },
		"border":      func(m *gossip.Message) { m.Operation, m.Data = "opd", []byte("ata") },
		"data":        func(m *gossip.Message) { m.Data = []byte("Data") },
		"signature":   func(m *gossip.Message) { m.Signature[3] ^= 1 },
	} {
		m := good(7)
		forge(m)
		before := a.m.Figures().Dropped.Forged
		out := a.receive(1, payload(m), payload(good(8)))
		if len(a.got) != 1 || a.m.Figures().Dropped.Forged != before+1 || len(out.Gone) != 1 {
			t.Errorf("%s: delivered %d, forged %d, neighbours gone %d", name, len(a.got), a.m.Figures().Dropped.Forged-before, len(out.Gone))
		}
		a.receive(1, &gossip.Neighbor{})
	}
	// What was forged does not keep the true one out.
	a.receive(1, payload(good(7)))
	if len(a.got) != 2 {
		t.Errorf("after forgeries the true message was delivered %d times", len(a.got)-1)
	}
}

// Whatever is forgotten, nothing is delivered twice.
func TestReplay(t *testing.T) {
	a := newAlone(t, func(c *gossip.Config) { c.MaxOrigins, c.Window = 16, 64 }, 1, 2)
	var all []*gossip.Message
	made := make(map[gossip.MessageID]bool)
	count := make(map[gossip.MessageID]int)
	random := rand.New(rand.NewPCG(3, 3))
	send := func(m *gossip.Message) { a.receive(1+random.IntN(2), payload(m)) }
	for i := range 3000 {
		m := message(random.IntN(40), 1+uint64(random.IntN(300)), a.now.Add(-time.Duration(random.IntN(5000))*time.Millisecond))
		m.ID.Incarnation = uint64(1 + random.IntN(3))
		if made[m.ID] {
			continue // no origin signs two of one name
		}
		made[m.ID] = true
		copy(m.Signature[:], testSign(m.AppendSigned(nil)))
		all = append(all, m)
		send(m)
		send(all[random.IntN(len(all))])
		if i%10 == 0 {
			a.pass(time.Duration(random.IntN(3000)) * time.Millisecond)
		}
		if f := a.m.Figures(); f.Origins > 16 {
			t.Fatalf("%d origins are remembered", f.Origins)
		}
	}
	for range 3 {
		for _, m := range all {
			send(m)
		}
		a.pass(time.Minute)
	}
	for _, m := range a.got {
		if count[m.ID]++; count[m.ID] > 1 {
			t.Errorf("message %d/%d of %.7s was delivered %d times", m.ID.Incarnation, m.ID.Seq, m.ID.Origin[:], count[m.ID])
		}
	}
	if len(count) < 300 || a.m.Figures().Dropped.Forgotten == 0 {
		t.Errorf("%d messages were delivered, %d refused as perhaps forgotten: the test tests nothing", len(count), a.m.Figures().Dropped.Forgotten)
	}
}

func TestAge(t *testing.T) {
	a := newAlone(t, nil, 1)
	a.receive(1, payload(message(1, 1, a.now.Add(-10*time.Minute-time.Second))), payload(message(2, 1, a.now.Add(10*time.Minute+time.Second))))
	if d := a.m.Figures().Dropped; len(a.got) != 0 || d.Stale != 1 || d.Future != 1 {
		t.Errorf("delivered %d, dropped %+v", len(a.got), d)
	}
	a.receive(1, payload(message(1, 2, a.now.Add(-9*time.Minute))), payload(message(2, 2, a.now.Add(9*time.Minute))))
	if len(a.got) != 2 {
		t.Errorf("delivered %d of two that were in time", len(a.got))
	}
}

// A flooding origin is held to its rate, a flooding neighbour to its own; others do not feel it.
func TestFlood(t *testing.T) {
	a := newAlone(t, func(c *gossip.Config) { c.KeepMessages = 100 }, 1, 2, 3)
	for i := range uint64(7000) {
		a.receive(1, payload(message(50, i+1, a.now)))
	}
	if got := len(a.got); got != 501 { // the first makes the origin known
		t.Errorf("%d broadcasts of a flood were delivered, want 501", got)
	}
	if d := a.m.Figures().Dropped; d.OriginRate != 7000-501 {
		t.Errorf("dropped: %+v", d)
	}
	for i := range uint64(100) {
		a.receive(1, payload(message(51, i+1, a.now)))
		a.receive(2, payload(message(52, i+1, a.now)))
	}
	if got := len(a.got); got != 701 {
		t.Errorf("beside the flood %d of 200 were delivered", got-501)
	}
	for i := range uint64(4000) {
		a.receive(1, payload(message(53+int(i%100), i+1, a.now)))
	}
	if d := a.m.Figures().Dropped; d.NeighbourRate == 0 {
		t.Errorf("a neighbour sent 11100 payloads at once and was not held back: %+v", d)
	}
	before := len(a.got)
	a.receive(2, payload(message(400, 1, a.now)))
	a.pass(10 * time.Second)
	a.receive(1, payload(message(401, 1, a.now)))
	if len(a.got) != before+2 {
		t.Errorf("after the flood %d of 2 were delivered", len(a.got)-before)
	}
	if f := a.m.Figures(); f.Kept > 100 {
		t.Errorf("%d messages are kept", f.Kept)
	}
	// New origins have a rate, too.
	for i := range 3000 {
		a.receive(3, payload(message(10_000+i, 1, a.now)))
	}
	if d := a.m.Figures().Dropped; d.NewOriginRate != 2000 {
		t.Errorf("of 3000 new origins at once %d were refused, want 2000", d.NewOriginRate)
	}
}

func TestOwnRate(t *testing.T) {
	a := newAlone(t, nil, 1)
	var err error
	n := 0
	for ; err == nil && n < 1000; n++ {
		_, _, err = a.m.Broadcast(a.now, "op", nil)
	}
	if !errors.Is(err, gossip.ErrRate) || n != 501 {
		t.Errorf("broadcast %d failed with %v, want number 501 to fail with ErrRate", n, err)
	}
	if _, _, err := a.m.Broadcast(a.now.Add(time.Second), "", nil); !errors.Is(err, gossip.ErrOperation) {
		t.Errorf("no operation: %v", err)
	}
	if _, _, err := a.m.Broadcast(a.now.Add(time.Second), "op", make([]byte, 1<<20+1)); !errors.Is(err, gossip.ErrTooLarge) {
		t.Errorf("too large: %v", err)
	}
	if _, _, err := a.m.Broadcast(a.now.Add(time.Second), "op", nil); err != nil {
		t.Errorf("a second later: %v", err)
	}
}

// Announcements of what does not exist take a bounded place, and none of that of others.
func TestFalseAnnouncements(t *testing.T) {
	a := newAlone(t, func(c *gossip.Config) { c.MaxMissing = 400 }, 1, 2)
	for i := range uint64(500) {
		a.receive(1, &gossip.Have{Entries: []gossip.Entry{{Origin: testID(5), Incarnation: i + 1, First: 1, Mask: ^uint64(0), Hops: 1}}})
	}
	if f := a.m.Figures(); f.Missing != 100 {
		t.Errorf("%d messages are waited for, want 100", f.Missing)
	}
	m := message(6, 1, a.now)
	a.receive(2, &gossip.Have{Entries: []gossip.Entry{{Origin: m.ID.Origin, Incarnation: 1, First: 1, Mask: 1, Hops: 1}}})
	a.pass(1100 * time.Millisecond)
	grafts := frames[*gossip.Graft](a, 2)
	if len(grafts) != 1 || grafts[0].Entries[0].Origin != m.ID.Origin || grafts[0].Entries[0].Mask != 1 {
		t.Fatalf("the honest announcer was sent %+v", grafts)
	}
	a.receive(2, payload(m))
	a.pass(5 * time.Second)
	if f := a.m.Figures(); len(a.got) != 1 || f.Missing != 0 {
		t.Errorf("delivered %d; %d messages are still waited for", len(a.got), f.Missing)
	}
}

// A late message is asked of one announcer after the other.
func TestGraftRetry(t *testing.T) {
	a := newAlone(t, nil, 1, 2, 3)
	have := &gossip.Have{Entries: []gossip.Entry{{Origin: testID(6), Incarnation: 1, First: 3, Mask: 0b101, Hops: 1}}}
	for _, from := range []int{2, 1, 2} {
		a.receive(from, have)
	}
	asked := func() [3]int {
		return [3]int{len(frames[*gossip.Graft](a, 1)), len(frames[*gossip.Graft](a, 2)), len(frames[*gossip.Graft](a, 3))}
	}
	for _, step := range []struct {
		d    time.Duration
		want [3]int
	}{{900 * time.Millisecond, [3]int{0, 0, 0}}, {200 * time.Millisecond, [3]int{0, 1, 0}}, {500 * time.Millisecond, [3]int{1, 1, 0}}, {5 * time.Second, [3]int{1, 1, 0}}} {
		a.pass(step.d)
		if got := asked(); got != step.want {
			t.Errorf("grafts sent: %v, want %v", got, step.want)
		}
	}
	if e := frames[*gossip.Graft](a, 2)[0].Entries; len(e) != 1 || e[0].First != 3 || e[0].Mask != 0b101 {
		t.Errorf("the graft asks for %+v", e)
	}
}

// Asking again and again for what is kept gets no more than the rate.
func TestGraftFlood(t *testing.T) {
	a := newAlone(t, func(c *gossip.Config) { c.ServeRate = gossip.Rate{PerSecond: 1, Burst: 5000} }, 1, 2)
	m := message(6, 1, a.now)
	a.receive(1, payload(m))
	for range 1000 {
		a.receive(2, &gossip.Graft{Entries: []gossip.Entry{{Origin: m.ID.Origin, Incarnation: 1, First: 1, Mask: 1}}})
	}
	bytes := 0
	for _, p := range frames[*gossip.Payload](a, 2) {
		bytes += p.Size()
	}
	if bytes > 5200 || a.m.Figures().Dropped.ServeRate == 0 {
		t.Errorf("%d bytes were sent", bytes)
	}
}

// Joining again and again replaces neighbours no faster than the rate, and views stay bounded.
func TestJoinFlood(t *testing.T) {
	a := newAlone(t, nil, 1, 2, 3, 4, 5, 6)
	for i := range 2000 {
		switch i % 4 {
		case 0:
			a.receive(100+i, &gossip.Join{})
		case 1:
			a.receive(100+i, &gossip.Neighbor{Urgent: true})
		case 2:
			a.receive(100+i, &gossip.ShuffleReply{Contacts: []gossip.Contact{{ID: testID(5000 + i)}}})
		case 3:
			a.receive(1, &gossip.ForwardJoin{Joiner: gossip.Contact{ID: testID(9000 + i)}})
		}
	}
	f := a.m.Figures()
	if f.Active > 6 || f.Passive > 30 || f.NeighboursJoined > 6+20 || f.Dropped.Displace == 0 {
		t.Errorf("got %+v", f)
	}
}

// A peer that takes this node for a neighbour and is none is told so.
func TestStranger(t *testing.T) {
	a := newAlone(t, nil, 1)
	for _, f := range []gossip.Frame{payload(message(4, 1, a.now)), &gossip.Have{}, &gossip.Graft{}, &gossip.Prune{}} {
		a.sent = make(map[identity.ID][]gossip.Frame)
		a.receive(2, f)
		if len(frames[*gossip.Disconnect](a, 2)) != 1 || len(a.got) != 0 {
			t.Errorf("%T of a stranger: answered with %v, delivered %d", f, a.sent, len(a.got))
		}
	}
	if a.m.Figures().Dropped.Stranger != 4 {
		t.Errorf("%+v", a.m.Figures().Dropped)
	}
	a.receive(1000, &gossip.Neighbor{}) // itself
	if out := a.m.Misbehaved(a.now, testID(1)); len(out.Gone) != 1 || len(a.m.Neighbours()) != 0 {
		t.Errorf("one that misbehaves is still a neighbour")
	}
}

func TestConfig(t *testing.T) {
	ok := gossip.Config{Self: gossip.Contact{ID: testID(1)}, Sign: testSign, Random: rand.New(rand.NewPCG(1, 1))}
	for name, change := range map[string]func(*gossip.Config){
		"no ID":              func(c *gossip.Config) { c.Self.ID = identity.ID{} },
		"too many addresses": func(c *gossip.Config) { c.Self.Addrs = make([]string, 5) },
		"no Sign":            func(c *gossip.Config) { c.Sign = nil },
		"no Random":          func(c *gossip.Config) { c.Random = nil },
	} {
		c := ok
		change(&c)
		if _, err := gossip.New(c, time.Now()); !errors.Is(err, gossip.ErrConfig) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := gossip.New(ok, time.Now()); err != nil {
		t.Error(err)
	}
}

// FuzzMachine gives a machine whatever a neighbour or a stranger may send.
func FuzzMachine(f *testing.F) {
	m := message(3, 1, time.Unix(1_700_000_000, 0))
	for _, frame := range examples(m) {
		f.Add(gossip.AppendBatch(nil, frame, frame), gossip.AppendBatch(nil, &gossip.Neighbor{}, frame))
	}
	f.Fuzz(func(t *testing.T, one, two []byte) {
		a := newAlone(t, func(c *gossip.Config) { c.MaxOrigins, c.Window, c.KeepMessages, c.MaxMissing = 8, 64, 8, 64 }, 1, 2, 3)
		for round := range 3 {
			for i, b := range [][]byte{one, two} {
				frames, err := gossip.ParseBatch(b)
				if err != nil {
					if !errors.Is(err, gossip.ErrMalformed) {
						t.Fatalf("an error that is not ErrMalformed: %v", err)
					}
					continue
				}
				a.receive([]int{1, 20}[(i+round)%2], frames...)
			}
			a.pass(3 * time.Second)
			if f := a.m.Figures(); f.Active > 6 || f.Passive > 30 || f.Origins > 8 || f.Kept > 8 || f.Missing > 64 {
				t.Fatalf("a bound is broken: %+v", f)
			}
		}
		a.did(a.m.Down(a.now, testID(1)))
		seen := make(map[gossip.MessageID]bool)
		for _, m := range a.got {
			if seen[m.ID] {
				t.Fatalf("%+v was delivered twice", m.ID)
			}
			seen[m.ID] = true
		}
	})
}
