package router

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/protocol/greeting"
	"github.com/Blockchain-CN/pheromones/transport"
	"github.com/Blockchain-CN/pheromones/transport/mem"
)

// node is a router that can be stopped and started anew, over a network in memory, with its key and its address.
type node struct {
	*Router
	key      identity.Key
	network  *mem.Network
	at       transport.Addr
	tr       *mem.Transport
	done     chan struct{}
	accepted func(transport.Conn) transport.Conn // nil: as it is
}

func newNode(t *testing.T, network *mem.Network, change func(*Config)) *node {
	n := &node{key: newKey(t), network: network, at: transport.Addr{Scheme: "mem", HostPort: "127.0.0.1:0"}}
	n.start(t, change)
	t.Cleanup(n.stop)
	return n
}

func (n *node) start(t *testing.T, change func(*Config)) {
	t.Helper()
	var err error
	if n.tr, err = mem.New(n.key, &mem.Config{Network: n.network}); err != nil {
		t.Fatal(err)
	}
	n.Router = newRouter(t, change, n.tr)
	n.Router.cfg.Handler = greeting.Handler(n.Router, nil)
	l, err := n.tr.Listen(t.Context(), n.at)
	if err != nil {
		t.Fatal(err)
	}
	n.at = l.Addr()
	n.SetSelf("", []transport.Addr{n.at})
	n.done = make(chan struct{})
	go func(r *Router) {
		defer close(n.done)
		for {
			c, err := l.Accept(context.Background())
			if err != nil {
				return
			}
			if n.accepted != nil {
				c = n.accepted(c)
			}
			r.Accept(c)
		}
	}(n.Router)
}

func (n *node) stop() {
	n.Close(transport.CodeShutdown, "")
	n.tr.Close()
	<-n.done
}

func (n *node) add(t *testing.T, to *node) {
	t.Helper()
	if _, err := n.Add(t.Context(), to.at, n.cfg.Handler); err != nil {
		t.Fatal(err)
	}
}

// linked waits until both have one link and reports whether they came to that within d.
func linked(a, b *node, d time.Duration) bool {
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		synctest.Wait()
		if len(linksOf(a.Router, b.ID())) == 1 && len(linksOf(b.Router, a.ID())) == 1 {
			return true
		}
	}
	return false
}

// A link with a wanted peer that is lost is there again within a second, though nobody calls, and so is one with a peer that is
// away for long, within half a minute of its return; the peer then knows us, though it was started anew.
func TestWantedPeerIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := new(mem.Network)
		a, b := newNode(t, network, nil), newNode(t, network, nil)
		a.add(t, b)
		for range 5 {
			time.Sleep(time.Minute)
			linksOf(a.Router, b.ID())[0].conn.CloseWithError(transport.CodeInternal, "cut")
			synctest.Wait()
			if !linked(a, b, time.Second) {
				t.Fatal("a second after a link was lost there is no other")
			}
		}
		for _, away := range []time.Duration{0, time.Second, time.Hour, 48 * time.Hour} {
			b.stop()
			time.Sleep(away)
			b.start(t, nil)
			if !linked(a, b, backoffMax+time.Second) {
				t.Fatalf("a peer that was away for %v is not linked", away)
			}
			if r := b.Routes(); len(r) != 1 || !r[0].FirstHand {
				t.Errorf("a peer that was started anew knows %+v, want us, by ourselves", r)
			}
		}
		if err := a.Delete(b.ID()); err != nil {
			t.Fatal(err)
		}
		if time.Sleep(time.Minute); linked(a, b, time.Minute) {
			t.Error("a deleted peer was dialled")
		}
	})
}

// A peer that says that it leaves is unknown, and looked for all the same.
func TestPeerLeavesAndReturns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := new(mem.Network)
		a, b := newNode(t, network, nil), newNode(t, network, nil)
		a.add(t, b)
		b.Farewell(t.Context())
		b.stop()
		synctest.Wait()
		if r := a.Routes(); len(r) != 0 {
			t.Errorf("a peer that has left is known: %+v", r)
		}
		time.Sleep(time.Hour)
		b.start(t, nil)
		if !linked(a, b, backoffMax+time.Second) {
			t.Error("a peer that has returned is not linked")
		}
		if r := a.Routes(); len(r) != 1 || !r[0].FirstHand {
			t.Errorf("a peer that has returned is known as %+v", r)
		}
	})
}

// Links that neither side has wanted are closed when nothing has run on them for long, and others are not.
func TestIdleLinks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := new(mem.Network)
		a, b, c := newNode(t, network, nil), newNode(t, network, nil), newNode(t, network, nil)
		hub := newNode(t, network, nil)
		a.add(t, hub) // wants it
		for _, n := range []*node{b, c} {
			conn, err := n.attempt(t.Context(), hub.at)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := n.attach(conn, time.Now()); err != nil {
				t.Fatal(err)
			}
		}
		s, _, err := c.Open(t.Context(), hub.ID())
		if err != nil {
			t.Fatal(err)
		}
		s.Write([]byte{3, 'x', 'y'})
		idle := linksOf(b.Router, hub.ID())[0]
		if time.Sleep(4 * time.Minute); len(linksOf(b.Router, hub.ID())) != 1 {
			t.Error("a link was closed before its time")
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if n := len(linksOf(b.Router, hub.ID())) + len(linksOf(hub.Router, b.ID())); n != 0 {
			t.Errorf("%d ends of a link that nobody needs are left", n)
		} else if err := context.Cause(idle.conn.Context()); !errors.Is(err, transport.CodeIdle) {
			t.Errorf("an idle link ended with %v, want CodeIdle", err)
		}
		for _, n := range []*node{a, c} {
			if !linked(n, hub, time.Second) {
				t.Error("a link that is needed was closed")
			}
		}
		s.Close()
	})
}

// The number of links is bounded: the one that has been idle for the longest gives way, and those of wanted peers do not.
func TestLinksAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := new(mem.Network)
		hub := newNode(t, network, func(c *Config) { c.MaxLinks = 3 })
		wanted := newNode(t, network, nil)
		hub.add(t, wanted)
		for range 6 {
			n := newNode(t, network, nil)
			time.Sleep(time.Millisecond)
			n.add(t, hub)
			synctest.Wait()
			hub.mu.Lock()
			if hub.links > 3 {
				t.Errorf("there are %d links, want at most 3", hub.links)
			}
			hub.mu.Unlock()
			if !linked(hub, wanted, time.Second) {
				t.Fatal("the link with a wanted peer has given way")
			}
			if len(linksOf(hub.Router, n.ID())) != 1 {
				t.Error("the newest link has given way")
			}
		}
	})
}

// moving is a connection whose path can change.
type moving struct {
	transport.Conn
	transport.Migrator
	received atomic.Uint64
}

func (c *moving) Packets() (sent, received uint64) { return 0, c.received.Load() }

// The link stays if the answer alone is missing; then it is closed after as long as there may be no path.
func TestProbeOfMoving(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := new(mem.Network)
		a, b := newNode(t, network, nil), newNode(t, network, nil)
		conns := make(chan *moving, 10)
		a.accepted = func(c transport.Conn) transport.Conn {
			m := &moving{Conn: c}
			conns <- m
			return m
		}
		b.add(t, a)
		c := <-conns
		b.mu.Lock()
		for _, l := range b.routes[a.ID()].links {
			l.control.writing = true // it says nothing any more
		}
		b.mu.Unlock()
		a.mu.Lock()
		a.keeper.last = a.keeper.last.Add(-time.Minute) // as after a sleep
		a.mu.Unlock()
		for range 2 * movingTimeout / tick {
			time.Sleep(tick)
			c.received.Add(1)
		}
		time.Sleep(movingTimeout - tick)
		if c.Context().Err() != nil {
			t.Errorf("a link on which packets come was closed: %v", context.Cause(c.Context()))
		}
		time.Sleep(5 * tick)
		if err := context.Cause(c.Context()); !errors.Is(err, transport.CodeTimeout) {
			t.Errorf("a link that is silent: got %v, want CodeTimeout", err)
		}
	})
}

// A link whose peer gives no sign of life is closed some seconds after the machine's network has changed; others stay.
func TestProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := new(mem.Network)
		a, b, c := newNode(t, network, nil), newNode(t, network, nil), newNode(t, network, nil)
		w := a.Watch()
		defer w.Close()
		a.add(t, b)
		a.add(t, c)
		alive, dead := linksOf(a.Router, b.ID())[0], linksOf(a.Router, c.ID())[0]
		c.mu.Lock()
		for _, l := range c.routes[a.ID()].links {
			l.control.writing = true // it says nothing any more
		}
		c.mu.Unlock()
		a.mu.Lock()
		a.keeper.last = a.keeper.last.Add(-time.Minute) // as after a sleep
		a.mu.Unlock()
		time.Sleep(probeTimeout + 2*tick)
		synctest.Wait()
		if alive.conn.Context().Err() != nil {
			t.Errorf("a link that works was closed: %v", context.Cause(alive.conn.Context()))
		}
		if err := context.Cause(dead.conn.Context()); !errors.Is(err, transport.CodeTimeout) {
			t.Errorf("a link that does not answer: got %v, want CodeTimeout", err)
		}
		told := false
		for len(w.C()) > 0 {
			if e := <-w.C(); e.Kind == NetworkChanged {
				told = true
			}
		}
		if !told {
			t.Error("nobody was told that the machine has slept")
		}
	})
}

// A peer that closes every link at once is dialled less and less often.
func TestLinksThatDoNotLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := new(mem.Network)
		a, b := newNode(t, network, nil), newNode(t, network, nil)
		w := b.Watch()
		defer w.Close()
		a.add(t, b)
		ups := 0
		for end := time.Now().Add(5 * time.Minute); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			synctest.Wait()
			for _, l := range linksOf(b.Router, a.ID()) {
				l.conn.CloseWithError(transport.CodeLimit, "")
			}
			for len(w.C()) > 0 {
				if e := <-w.C(); e.Kind == LinkUp {
					ups++
				}
			}
		}
		if ups < 10 || ups > 40 {
			t.Errorf("in five minutes it was dialled %d times, want about 20", ups)
		}
	})
}

// The wait before an address is tried again doubles up to a bound, and differs.
func TestBackoff(t *testing.T) {
	now := time.Now()
	var f failures
	for _, want := range []time.Duration{500 * time.Millisecond, time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second, backoffMax, backoffMax} {
		if got := f.again(now, 0).until.Sub(now); got != want {
			t.Errorf("after %d failures: %v, want %v", f.count, got, want)
		}
		if got := f.again(now, 1).until.Sub(now); got != want/2 {
			t.Errorf("after %d failures, at the least: %v, want %v", f.count, got, want/2)
		}
		f = f.again(now, 0.5)
	}
	f.count = 1 << 40
	if got := f.again(now, 0).until.Sub(now); got != backoffMax {
		t.Errorf("after very many failures: %v, want %v", got, backoffMax)
	}
}
