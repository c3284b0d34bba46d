package relay

import (
	"context"
	"errors"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/transport"
)

func TestLedger(t *testing.T) {
	now := time.Unix(1000, 0)
	id := func(n byte) identity.ID { return identity.ID{n} }
	l := newLedger(Config{Allow: []identity.ID{id(1), id(2), id(3)}, MaxReservations: 2, MaxCircuits: 3, MaxCircuitsPerPeer: 2, Lifetime: time.Minute})
	for _, test := range []struct {
		name string
		do   func() Reason
		want Reason
	}{
		{"not on the list", func() Reason { return l.reserve(id(9), nil, false, now) }, NotAllowed},
		{"first", func() Reason { return l.reserve(id(1), nil, false, now) }, 0},
		{"second", func() Reason { return l.reserve(id(2), nil, false, now) }, 0},
		{"one too many", func() Reason { return l.reserve(id(3), nil, false, now) }, Full},
		{"renewed", func() Reason { return l.reserve(id(2), nil, false, now.Add(50*time.Second)) }, 0},
		{"one has expired", func() Reason { return l.reserve(id(3), nil, false, now.Add(61*time.Second)) }, 0},
		{"called though expired", func() Reason { return l.connect(id(9), id(1), now.Add(61*time.Second)) }, NoReservation},
		{"oneself", func() Reason { return l.connect(id(2), id(2), now.Add(61*time.Second)) }, Malformed},
		{"a circuit", func() Reason { return l.connect(id(9), id(2), now.Add(61*time.Second)) }, 0},
		{"its second", func() Reason { return l.connect(id(8), id(2), now.Add(61*time.Second)) }, 0},
		{"its third", func() Reason { return l.connect(id(7), id(2), now.Add(61*time.Second)) }, Full},
		{"the last", func() Reason { return l.connect(id(9), id(3), now.Add(61*time.Second)) }, 0},
		{"too many in all", func() Reason { return l.connect(id(7), id(3), now.Add(61*time.Second)) }, Full},
		{"given back", func() Reason { l.disconnect(id(9), id(3)); return l.connect(id(7), id(3), now.Add(61*time.Second)) }, 0},
		{"expired", func() Reason { return l.connect(id(5), id(2), now.Add(2*time.Minute)) }, NoReservation},
	} {
		if got := test.do(); got != test.want {
			t.Errorf("%s: %v, want %v", test.name, got, test.want)
		}
	}
	l.disconnect(id(9), id(2))
	l.disconnect(id(8), id(2))
	l.disconnect(id(7), id(3))
	l.sweep(now.Add(time.Hour))
	if len(l.places)+len(l.accounts)+l.circuits != 0 {
		t.Errorf("left: %d places, %d accounts, %d circuits", len(l.places), len(l.accounts), l.circuits)
	}
	for range 50 {
		if got := l.connect(id(9), id(1), now); got != NoReservation {
			t.Fatal(got)
		}
	}
	if got := l.connect(id(9), id(1), now); got != Full {
		t.Errorf("call after call: %v", got)
	}
}

func TestBucket(t *testing.T) {
	now := time.Unix(1000, 0)
	b := newBucket(1 << 20)
	if wait := b.take(256<<10, now); wait != 0 {
		t.Errorf("what a quarter of a second brings waits %v", wait)
	}
	if wait := b.take(1<<20, now); wait != time.Second {
		t.Errorf("a second's worth waits %v", wait)
	}
	if b.try(1, now) || b.full(now) {
		t.Error("it has more than it has")
	}
	now = now.Add(time.Second + 125*time.Millisecond)
	if !b.try(128<<10, now) || b.try(1, now) {
		t.Error("half of what is kept has come back")
	}
	if !b.full(now.Add(time.Hour)) || !b.try(256<<10, now.Add(time.Hour)) || b.try(1, now.Add(time.Hour)) {
		t.Error("it keeps a quarter of a second's")
	}
	if wait := new(bucket).take(1<<40, now); wait != 0 {
		t.Error("no bound waits")
	}
}

// The limits of a circuit, one by one, over whole endpoints.
func TestCircuitLimits(t *testing.T) {
	bothWays(t, func(t *testing.T, w *world) {
		a, r, b := three(w, &Config{CircuitBytes: 1000, Idle: time.Minute}, echo)
		c, got, ended := a.call(r.id, b.id)
		c.Send(make([]byte, 400))
		<-got
		c.Send(make([]byte, 400))
		if err := <-ended; !errors.Is(err, transport.CodeLimit) {
			t.Errorf("too many bytes: %v", err)
		}
		_, _, ended = a.call(r.id, b.id)
		start := time.Now()
		if err := <-ended; !errors.Is(err, transport.CodeIdle) || time.Since(start) != time.Minute {
			t.Errorf("idle: %v after %v", err, time.Since(start))
		}
		c, got, ended = a.call(r.id, b.id)
		for range 4 { // it lives as long as something moves
			time.Sleep(50 * time.Second)
			c.Send([]byte("x"))
			<-got
		}
		start = time.Now()
		if err := <-ended; !errors.Is(err, transport.CodeIdle) || time.Since(start) != time.Minute {
			t.Errorf("idle: %v after %v", err, time.Since(start))
		}
		synctest.Wait()
		if f := r.Figures(); f.Circuits != 0 || len(r.accounts()) != 2 {
			t.Errorf("figures %+v", f)
		}
	})
}

func (e *Endpoint) accounts() map[identity.ID]*account {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.ledger.accounts
}

// A stream of bytes is made to wait: by the rate of its circuit, and with others by that of the peer, which they share alike.
func TestRateOfBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, false)
		sink := func(_ context.Context, c *Circuit) {
			s := c.Stream()
			n, _ := io.Copy(io.Discard, s)
			s.Write([]byte{byte(n >> 20)})
			s.Close()
		}
		a, r, b := three(w, &Config{Rate: 1 << 20, PeerRate: 2 << 20, MaxCircuitsPerPeer: 10}, sink)
		run := func(circuits int) (took []time.Duration) {
			start := time.Now()
			ended := make(chan time.Duration)
			for range circuits {
				c, err := a.Connect(t.Context(), r.id, b.id, Bytes)
				if err != nil {
					t.Fatal(err)
				}
				go func() {
					s := c.Stream()
					s.Write(make([]byte, 4<<20))
					s.CloseWrite()
					if b, err := io.ReadAll(s); err != nil || len(b) != 1 || b[0] != 4 {
						t.Errorf("the other side got %v MiB: %v", b, err)
					}
					s.Close()
					ended <- time.Since(start)
				}()
			}
			for range circuits {
				took = append(took, <-ended)
			}
			return took
		}
		if took := run(1); took[0] < 3700*time.Millisecond || took[0] > 4*time.Second {
			t.Errorf("4 MiB at 1 MiB/s took %v", took)
		}
		time.Sleep(time.Minute)
		took := run(4)
		if took[0] < 7*time.Second || took[3] > 8*time.Second {
			t.Errorf("4 times 4 MiB at 2 MiB/s took %v: want them to be equal", took)
		}
	})
}

// A circuit that floods loses its own packets, and none of another's that has its turn beside it; the same if both come from one peer.
func TestGreedy(t *testing.T) {
	for _, test := range []struct {
		name string
		cfg  Config
		pace time.Duration // of the link
		same bool          // one caller
	}{
		{"a slow link", Config{Rate: -1, PeerRate: -1}, time.Millisecond, false},
		{"the rate of a circuit", Config{Rate: 100_000, PeerRate: -1}, 0, false},
		{"the rate of a peer", Config{Rate: -1, PeerRate: 200_000}, 0, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, true)
				var mu sync.Mutex
				count := make(map[identity.ID]map[byte]int)
				a, r, b := three(w, &test.cfg, func(_ context.Context, c *Circuit) {
					c.Run(func(p []byte) {
						mu.Lock()
						defer mu.Unlock()
						if count[c.Peer()] == nil {
							count[c.Peer()] = make(map[byte]int)
						}
						count[c.Peer()][p[0]]++
					})
				})
				modest := a
				if !test.same {
					modest = w.node(nil, nil)
					w.link(modest, r)
				}
				flood, _, _ := a.call(r.id, b.id)
				trickle, _, _ := modest.call(r.id, b.id)
				synctest.Wait()
				w.pace.Store(int64(test.pace))
				const seconds, each = 10, 50 // 50 packets of 1000 bytes a second
				for i := range seconds * 1000 {
					flood.Send(append([]byte{1}, make([]byte, 999)...))
					flood.Send(append([]byte{1}, make([]byte, 999)...))
					if i%(1000/each) == 0 {
						trickle.Send(append([]byte{2}, make([]byte, 999)...))
					}
					time.Sleep(time.Millisecond)
				}
				w.pace.Store(0)
				time.Sleep(5 * time.Second)
				synctest.Wait()
				if got := count[modest.id][2]; got < seconds*each*99/100 {
					t.Errorf("of %d packets of the modest one %d arrived", seconds*each, got)
				}
				if got := count[a.id][1]; got < 500 || got > seconds*2000*3/4 {
					t.Errorf("of %d packets of the greedy one %d arrived", seconds*2000, got)
				}
			})
		})
	}
}
