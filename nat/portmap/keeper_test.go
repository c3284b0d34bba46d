package portmap

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// router is a simulated one, at one place, that speaks some protocols. Its clock is the bubble's.
type router struct {
	mu      sync.Mutex
	at      place
	speaks  [protocols]bool
	away    bool // packets to it are lost
	booted  time.Time
	found   time.Time // the boot that UPnP was last searched for in: each has other URLs
	outside netip.Addr
	taken   map[uint16]bool            // outside ports that others have
	refuses [protocols]bool            // says no to mappings
	grants  time.Duration              // however long is asked for; zero: as asked; negative: for ever
	delay   time.Duration              // of an answer
	held    map[string]map[uint16]held // by network and inside port
	asked   map[op]int
	added   int
}

type held struct {
	outside uint16
	until   time.Time
}

func newRouter(speaks ...Protocol) *router {
	r := &router{at: place{netip.MustParseAddr("192.168.1.1"), netip.MustParseAddr("192.168.1.7")}, outside: netip.MustParseAddr("203.0.113.5"),
		taken: make(map[uint16]bool), asked: make(map[op]int), delay: 5 * time.Millisecond}
	for _, p := range speaks {
		r.speaks[p] = true
	}
	r.boot()
	return r
}

// boot forgets everything.
func (r *router) boot() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.booted = time.Now()
	r.held = map[string]map[uint16]held{"udp": {}, "tcp": {}}
}

func (r *router) set(f func(*router)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f(r)
}

// count returns how often the router was asked for something.
func (r *router) count(o op) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.asked[o]
}

// has returns the outside port of what the router forwards now; 0 if nothing.
func (r *router) has(network string, inside uint16) uint16 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if h, ok := r.held[network][inside]; ok && time.Now().Before(h.until) {
		return h.outside
	}
	return 0
}

// face is one protocol of a router.
type face struct {
	*router
	p Protocol
}

func (f face) wait(ctx context.Context, o op, at place) error {
	f.set(func(r *router) { r.asked[o]++ })
	select {
	case <-time.After(f.delay):
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrNoAnswer, ctx.Err())
	}
	f.mu.Lock()
	if o == opProbe {
		f.found = f.booted
	}
	lost := f.p == UPnP && f.found != f.booted || f.away || !f.speaks[f.p] || at != f.at
	f.mu.Unlock()
	if lost {
		<-ctx.Done()
		return fmt.Errorf("%w: %w", ErrNoAnswer, ctx.Err())
	}
	return nil
}

func (f face) probe(ctx context.Context, at place) (grant, error) {
	if err := f.wait(ctx, opProbe, at); err != nil {
		return grant{}, err
	}
	return grant{}, nil
}

func (f face) add(ctx context.Context, at place, w wish) (grant, error) {
	if err := f.wait(ctx, opAdd, at); err != nil {
		return grant{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.refuses[f.p] {
		return grant{}, &RefusedError{2, "not authorised"}
	}
	f.added++
	for f.taken[w.outside] {
		w.outside++
	}
	g := grant{netip.AddrPortFrom(f.outside, w.outside), w.lifetime}
	if f.grants != 0 {
		g.lifetime = max(0, f.grants)
	}
	until := time.Now().Add(g.lifetime)
	if g.lifetime == 0 {
		until = time.Now().Add(1e6 * time.Hour)
	}
	f.held[w.network][w.inside] = held{w.outside, until}
	return g, nil
}

func (f face) look(ctx context.Context, at place, w wish) (grant, error) {
	if f.p != UPnP || f.has(w.network, w.inside) == 0 {
		return f.add(ctx, at, w)
	}
	if err := f.wait(ctx, opLook, at); err != nil {
		return grant{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return grant{outside: netip.AddrPortFrom(f.outside, 0)}, nil
}

func (f face) remove(ctx context.Context, at place, w wish) error {
	if err := f.wait(ctx, opRemove, at); err != nil {
		return err
	}
	f.set(func(r *router) { delete(r.held[w.network], w.inside) })
	return nil
}

// newMapper returns a Mapper before a router.
func newMapper(r *router) *Mapper {
	m := New(nil)
	for p := range m.clients {
		m.clients[p] = face{r, Protocol(p)}
	}
	m.here = func() (place, error) {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.at, nil
	}
	return m
}

func everywhere(port uint16) netip.AddrPort { return netip.AddrPortFrom(netip.IPv4Unspecified(), port) }

// news is what the owner of a mapping was told.
type news struct {
	mu  sync.Mutex
	all []netip.AddrPort
}

func (n *news) changed(a netip.AddrPort) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.all = append(n.all, a)
}

func (n *news) last() (a netip.AddrPort, times int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.all) > 0 {
		a = n.all[len(n.all)-1]
	}
	return a, len(n.all)
}

// after lets time pass.
func after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func released(t *testing.T, release func(context.Context)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	start := time.Now()
	release(ctx)
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("release took %v", took)
	}
	synctest.Wait()
}

func wantLast(t *testing.T, n *news, want string, times int) {
	t.Helper()
	w := netip.AddrPort{}
	if want != "" {
		w = netip.MustParseAddrPort(want)
	}
	if got, k := n.last(); got != w || k != times {
		t.Errorf("told %v after %d calls, want %v after %d", got, k, w, times)
	}
}

// TestLife: a mapping is there within a second, is never missing for ten hours, is renewed without haste, and is gone when it is
// released. So it is whatever the router speaks.
func TestLife(t *testing.T) {
	for _, speaks := range [][]Protocol{{PCP}, {NATPMP}, {UPnP}, {NATPMP, UPnP}, {PCP, NATPMP, UPnP}} {
		for _, grants := range []time.Duration{0, 2 * time.Minute, 365 * 24 * time.Hour, -1} {
			t.Run(fmt.Sprint(speaks, grants), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					r := newRouter(speaks...)
					r.grants = grants
					r.taken[4001] = true
					m := newMapper(r)
					var udp, tcp news
					releaseUDP, releaseTCP := m.Map("udp", everywhere(4001), udp.changed), m.Map("tcp", everywhere(4005), tcp.changed)
					after(time.Second)
					for range 10 * 60 {
						if r.has("udp", 4001) != 4002 || r.has("tcp", 4005) != 4005 {
							t.Fatalf("%v: forwards %d and %d", time.Since(r.booted), r.has("udp", 4001), r.has("tcp", 4005))
						}
						after(time.Minute)
					}
					wantLast(t, &udp, "203.0.113.5:4002", 1)
					wantLast(t, &tcp, "203.0.113.5:4005", 1)
					r.set(func(r *router) {
						if n := r.asked[opAdd] + r.asked[opLook]; n > 2*(10*60+100) {
							t.Errorf("the router was asked %d times in ten hours", n)
						}
						if n := r.asked[opProbe]; n > 6 {
							t.Errorf("the router was probed %d times", n)
						}
					})
					released(t, releaseUDP)
					if r.has("udp", 4001) != 0 || r.has("tcp", 4005) == 0 {
						t.Error("release of one took none, or both")
					}
					released(t, releaseTCP)
					if r.has("tcp", 4005) != 0 || m.running {
						t.Error("something is left")
					}
					releaseUDP = m.Map("udp", everywhere(4001), udp.changed) // once more
					after(time.Second)
					wantLast(t, &udp, "203.0.113.5:4002", 2)
					released(t, releaseUDP)
				})
			})
		}
	}
}

// TestPreference: of several protocols the best that grants is used, also if it is the last to answer.
func TestPreference(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRouter(PCP, NATPMP, UPnP)
		m := newMapper(r)
		slow := newRouter(PCP)
		slow.delay = 200 * time.Millisecond
		slow.outside = netip.MustParseAddr("203.0.113.6")
		m.clients[PCP] = face{slow, PCP}
		var n news
		release := m.Map("udp", everywhere(4001), n.changed)
		after(time.Second)
		wantLast(t, &n, "203.0.113.6:4001", 1)
		released(t, release)
	})
	synctest.Test(t, func(t *testing.T) { // refused by the two better ones
		r := newRouter(PCP, NATPMP, UPnP)
		r.refuses = [protocols]bool{PCP: true, NATPMP: true}
		m := newMapper(r)
		var n news
		release := m.Map("udp", everywhere(4001), n.changed)
		after(time.Second)
		wantLast(t, &n, "203.0.113.5:4001", 1)
		released(t, release)
		if r.has("udp", 4001) != 0 {
			t.Error("it is left")
		}
	})
}

// TestRestart: what a router has forgotten is made again; a router that is away for long has no mapping, and one again when it is back.
func TestRestart(t *testing.T) {
	for p := range Protocol(protocols) {
		t.Run(p.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRouter(p)
				m := newMapper(r)
				var udp, tcp news
				releaseUDP, releaseTCP := m.Map("udp", everywhere(4001), udp.changed), m.Map("tcp", everywhere(4001), tcp.changed)
				after(17 * time.Minute)
				r.boot()
				after(time.Minute + renewAgain)
				if r.has("udp", 4001) == 0 || r.has("tcp", 4001) == 0 {
					t.Error("it was not made again after the router's restart")
				}
				wantLast(t, &udp, "203.0.113.5:4001", 1)

				r.set(func(r *router) { r.outside = netip.MustParseAddr("203.0.113.9") })
				after(time.Minute + renewAgain)
				wantLast(t, &udp, "203.0.113.9:4001", 2)

				// Three minutes of restart: the mapping is made again soon after, and its owner is not troubled.
				r.set(func(r *router) { r.away = true })
				after(3 * time.Minute)
				r.set(func(r *router) { r.away = false })
				r.boot()
				after(4 * time.Minute)
				if r.has("udp", 4001) == 0 || r.has("tcp", 4001) == 0 {
					t.Error("it was not made again after the router's absence")
				}
				wantLast(t, &udp, "203.0.113.9:4001", 2)

				r.set(func(r *router) { r.away = true })
				after(2 * time.Hour)
				wantLast(t, &udp, "", 3)
				before := r.count(opProbe)
				after(10 * time.Hour)
				if n := r.count(opProbe) - before; n > 3*10*6+3 {
					t.Errorf("a router that is away was probed %d times in ten hours", n)
				}
				r.set(func(r *router) { r.away = false })
				r.boot()
				after(retryMax + time.Minute)
				wantLast(t, &udp, "203.0.113.9:4001", 4)
				wantLast(t, &tcp, "203.0.113.9:4001", 4)
				r.set(func(r *router) { r.away = true })
				released(t, releaseUDP) // in bounded time, if in vain
				released(t, releaseTCP)
			})
		})
	}
}

// TestMove: in another network the mapping is made there.
func TestMove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRouter(NATPMP)
		m := newMapper(r)
		var n news
		release := m.Map("udp", everywhere(4001), n.changed)
		after(time.Minute)
		home := r.at
		r.set(func(r *router) { r.at = place{} })
		after(placeCheck)
		wantLast(t, &n, "", 2)
		r.set(func(r *router) { r.at = place{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.7")} })
		after(placeCheck + time.Second)
		wantLast(t, &n, "203.0.113.5:4001", 3)
		r.set(func(r *router) { r.at = home })
		after(placeCheck + time.Second)
		wantLast(t, &n, "203.0.113.5:4001", 3+2)
		r.set(func(r *router) { r.at = place{} })
		after(placeCheck)
		released(t, release) // there is nothing to tell anybody
	})
}

// TestBound: a socket that the router cannot reach is not mapped, and costs it nothing.
func TestBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRouter(NATPMP)
		m := newMapper(r)
		var lost, reached news
		release := m.Map("udp", netip.MustParseAddrPort("127.0.0.1:4001"), lost.changed)
		after(time.Hour)
		wantLast(t, &lost, "", 0)
		if n := r.count(opProbe) + r.count(opAdd); n != 0 {
			t.Errorf("the router was asked %d times", n)
		}
		other := m.Map("udp", netip.MustParseAddrPort("192.168.1.7:4001"), reached.changed)
		after(time.Second)
		wantLast(t, &reached, "203.0.113.5:4001", 1)
		released(t, release)
		released(t, other)
	})
}

// TestLies: what a router says is not believed if it cannot be.
func TestLies(t *testing.T) {
	for _, outside := range []string{"10.0.0.5", "0.0.0.0", "100.64.3.2", "127.0.0.1", "224.0.0.1", "255.255.255.255", "169.254.1.1", "2001:db8::1"} {
		synctest.Test(t, func(t *testing.T) {
			r := newRouter(NATPMP, UPnP)
			r.outside = netip.MustParseAddr(outside)
			m := newMapper(r)
			var n news
			release := m.Map("udp", everywhere(4001), n.changed)
			after(time.Hour)
			wantLast(t, &n, "", 0)
			r.set(func(r *router) { r.outside = netip.MustParseAddr("203.0.113.5") })
			after(time.Minute + renewAgain)
			wantLast(t, &n, "203.0.113.5:4001", 1) // its line is up at last
			released(t, release)
			if r.has("udp", 4001) != 0 {
				t.Errorf("%s: it is left", outside)
			}
		})
	}
	synctest.Test(t, func(t *testing.T) { // a lifetime that is no use
		r := newRouter(PCP)
		r.grants = time.Second
		m := newMapper(r)
		var n news
		release := m.Map("udp", everywhere(4001), n.changed)
		after(time.Hour)
		wantLast(t, &n, "", 0)
		if n := r.count(opAdd); n > 20 {
			t.Errorf("asked %d times in an hour", n)
		}
		released(t, release)
	})
}

// TestLateGrant: the router granted what it seemed not to answer; it is removed all the same.
func TestLateGrant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRouter(PCP)
		m := newMapper(r)
		m.clients[PCP] = deaf{face{r, PCP}}
		var n news
		release := m.Map("udp", everywhere(4001), n.changed)
		after(time.Second)
		if r.has("udp", 4001) == 0 {
			t.Fatal("the router has not granted it")
		}
		released(t, release)
		if r.has("udp", 4001) != 0 {
			t.Error("it is left")
		}
		wantLast(t, &n, "", 0)
	})
}

// deaf loses answers to requests for mappings, for a second.
type deaf struct{ face }

func (d deaf) add(ctx context.Context, at place, w wish) (grant, error) {
	d.face.add(ctx, at, w)
	time.Sleep(1200 * time.Millisecond)
	return grant{}, ErrNoAnswer
}
