package router

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/protocol"
	"github.com/Blockchain-CN/pheromones/protocol/greeting"
	"github.com/Blockchain-CN/pheromones/transport"
	"github.com/Blockchain-CN/pheromones/transport/mem"
)

// introduce makes the router know a peer at addresses 1 to n, of which 1 is the most promising.
func introduce(t *testing.T, r *Router, n int) identity.ID {
	t.Helper()
	id := newKey(t).ID()
	for i := n; i > 0; i-- {
		if err := r.Introduce(addr(id, i)); err != nil {
			t.Fatal(err)
		}
	}
	return id
}

// linksOf returns a peer's links, the oldest first.
func linksOf(r *Router, id identity.ID) []*link {
	r.mu.Lock()
	defer r.mu.Unlock()
	if rt := r.routes[id]; rt != nil {
		return slices.Clone(rt.links)
	}
	return nil
}

func newest(r *Router, id identity.ID) *link {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.routes[id].best()
}

// hangs is a dial that ends with its context.
func hangs(ctx context.Context, a transport.Addr) (transport.Conn, error) {
	<-ctx.Done()
	return nil, &transport.OpError{Op: "dial", Addr: a, Err: ctx.Err()}
}

// Addresses are tried one after the other, the next when the one before has failed, or beside it when that takes long; what
// has failed is tried last by the next call, and the error lists everything.
func TestRaceOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, r := newScripted(t, nil)
		id := introduce(t, r, 4)
		begun := time.Now()
		var mu sync.Mutex
		var at []time.Duration
		s.dial = func(ctx context.Context, a transport.Addr) (transport.Conn, error) {
			mu.Lock()
			at = append(at, time.Since(begun))
			mu.Unlock()
			if strings.HasSuffix(a.HostPort, ":2") {
				return nil, errRefused
			}
			return hangs(ctx, a)
		}
		_, err := r.Dispatch(t.Context(), id, protocol.Message{Operation: "x"})
		delay := 250 * time.Millisecond
		// 1 hangs; 2, beside it, fails at once; 3 follows at once; 4 after another delay.
		if want := []time.Duration{0, delay, delay, 2 * delay}; !slices.Equal(at, want) {
			t.Errorf("dials began at %v, want %v", at, want)
		}
		var d *DialError
		if !errors.As(err, &d) || len(d.Attempts) != 4 || d.Peer != id {
			t.Fatalf("got %v, want a DialError of 4 attempts", err)
		}
		if took := time.Since(begun); took != 10*time.Second+2*delay {
			t.Errorf("it took %v, want DialTimeout after the last began", took)
		}
		for i := 1; i <= 4; i++ {
			if !strings.Contains(err.Error(), addr(id, i).HostPort) && i != 2 {
				t.Errorf("the error does not name %v: %v", addr(id, i), err)
			}
		}
		if err := r.Introduce(addr(id, 9)); err != nil {
			t.Fatal(err)
		}
		s.dial = nil
		if _, err := r.Dispatch(t.Context(), id, protocol.Message{Operation: "x"}); err == nil {
			t.Fatal("a dial that is refused succeeded")
		}
		if got := s.dialled()[4]; got != addr(id, 9) {
			t.Errorf("the next call began with %v, want the one that has not failed", got)
		}
	})
}

// A caller that gives up a shared dial, being the last, does not take those with it that come a moment later.
func TestAbandonedDial(t *testing.T) {
	for name, call := range map[string]func(context.Context, *Router, transport.Addr) error{
		"a known peer": func(ctx context.Context, r *Router, at transport.Addr) error {
			if err := r.Introduce(at); err != nil {
				return err
			}
			_, err := r.Dispatch(ctx, at.Peer, protocol.Message{Operation: "x"})
			return err
		},
		"an address": func(ctx context.Context, r *Router, at transport.Addr) error {
			_, err := r.Reach(ctx, at)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) { testAbandonedDial(t, call) })
	}
}

func testAbandonedDial(t *testing.T, call func(context.Context, *Router, transport.Addr) error) {
	synctest.Test(t, func(t *testing.T) {
		network := new(mem.Network)
		_, at := newMem(t, network)
		key := newKey(t)
		inner, err := mem.New(key, &mem.Config{Network: network})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { inner.Close() })
		stuck := make(chan struct{})
		s := &scripted{Transport: inner, traits: inner.Traits()}
		s.dial = func(ctx context.Context, a transport.Addr) (transport.Conn, error) {
			if len(s.dialled()) == 1 {
				<-ctx.Done()
				<-stuck // a transport that takes its time to return
				return nil, ctx.Err()
			}
			return inner.Dial(ctx, a)
		}
		r := newRouter(t, nil, s)
		ctx, cancel := context.WithCancel(t.Context())
		first := make(chan error)
		go func() { first <- call(ctx, r, at) }()
		synctest.Wait()
		cancel()
		if err := <-first; !errors.Is(err, context.Canceled) {
			t.Errorf("the first caller: got %v, want its context's error", err)
		}
		if err := call(t.Context(), r, at); err != nil {
			t.Errorf("the second caller: got %v, want success", err)
		}
		close(stuck)
	})
}

// Delete ends a dial under way, whose result, if it comes all the same, is closed.
func TestDeleteWhileDialling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := new(mem.Network)
		b, at := newMem(t, network)
		inner, err := mem.New(newKey(t), &mem.Config{Network: network})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { inner.Close() })
		var conn transport.Conn
		s := &scripted{Transport: inner, traits: inner.Traits(), dial: func(ctx context.Context, a transport.Addr) (transport.Conn, error) {
			<-ctx.Done()
			var err error
			conn, err = inner.Dial(context.Background(), a)
			return conn, err
		}}
		r := newRouter(t, nil, s)
		if err := r.Introduce(at); err != nil {
			t.Fatal(err)
		}
		result := make(chan error)
		go func() {
			_, err := r.Dispatch(t.Context(), b.ID(), protocol.Message{Operation: "x"})
			result <- err
		}()
		synctest.Wait()
		if err := r.Delete(b.ID()); err != nil {
			t.Fatal(err)
		}
		if err := <-result; !errors.Is(err, ErrUnknownPeer) || errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want ErrUnknownPeer", err)
		}
		synctest.Wait()
		if conn == nil || conn.Context().Err() == nil {
			t.Errorf("a connection that nobody wants any more is open")
		}
		if n := len(linksOf(r, b.ID())); n != 0 {
			t.Errorf("a deleted peer has %d links", n)
		}
	})
}

// Where both kinds of connections lead to a peer, the kind that is preferred is tried first, and the other one beside it.
func TestDialBoth(t *testing.T) {
	for _, test := range []struct {
		name        string
		long, short func(context.Context, transport.Addr) (transport.Conn, error)
		tried       string
		after       time.Duration
	}{
		{"both refuse", nil, nil, "long short", 0},
		{"long hangs", hangs, nil, "long short", 10 * time.Second},
		{"short hangs", nil, hangs, "long short", 10 * time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				self := newKey(t).ID()
				var mu sync.Mutex
				var order []string
				note := func(scheme string, next func(context.Context, transport.Addr) (transport.Conn, error)) *scripted {
					return &scripted{traits: transport.Traits{Scheme: scheme, LocalPeer: self, OneStream: scheme == "short"},
						dial: func(ctx context.Context, a transport.Addr) (transport.Conn, error) {
							mu.Lock()
							order = append(order, scheme)
							mu.Unlock()
							if next == nil {
								return nil, &transport.OpError{Op: "dial", Addr: a, Err: errRefused}
							}
							return next(ctx, a)
						}}
				}
				r := newRouter(t, nil, note("long", test.long), note("short", test.short))
				id := newKey(t).ID()
				for _, scheme := range []string{"short", "long"} {
					if err := r.Introduce(transport.Addr{Scheme: scheme, HostPort: "192.0.2.1:1", Peer: id}); err != nil {
						t.Fatal(err)
					}
				}
				begun := time.Now()
				_, err := r.Dispatch(t.Context(), id, protocol.Message{Operation: "x"})
				var d *DialError
				if !errors.As(err, &d) || len(d.Attempts) != 2 {
					t.Errorf("got %v, want a DialError of both attempts", err)
				}
				// Beyond these the keeper goes on in the background.
				if got := strings.Join(order[:min(2, len(order))], " "); got != test.tried {
					t.Errorf("tried %s, want %s", got, test.tried)
				}
				if took := time.Since(begun); took < test.after || took > test.after+time.Second {
					t.Errorf("it took %v, want about %v", took, test.after)
				}
			})
		})
	}
}

// However many addresses of a peer have failed, their number is remembered within bounds, and those that fail now are counted.
func TestFailedBound(t *testing.T) {
	_, r := newScripted(t, nil)
	id := introduce(t, r, 1)
	for i := range 10_000 {
		r.note(id, addr(id, 2+i%50_000), false)
	}
	r.note(id, addr(id, 1), false)
	r.note(id, addr(id, 1), false)
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := len(r.routes[id].failed); n > maxFailed {
		t.Errorf("%d failures are remembered, want at most %d", n, maxFailed)
	}
	if n := r.routes[id].failed[addr(id, 1)].count; n != 2 {
		t.Errorf("the peer's own address has failed %d times, want 2", n)
	}
}

// Idle links of a deleted peer close at once; one that has just been used a moment later, since bytes may be on their way.
func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := new(mem.Network)
		a, _ := newMem(t, network)
		b, at := newMem(t, network)
		if _, err := a.Reach(t.Context(), at); err != nil {
			t.Fatal(err)
		}
		time.Sleep(drainLinger)
		first := linksOf(a, b.ID())[0]
		if err := a.Delete(b.ID()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if first.conn.Context().Err() == nil {
			t.Error("an idle link with a deleted peer is open")
		}
		if _, err := a.Reach(t.Context(), at); err != nil {
			t.Fatal(err)
		}
		s, _, err := a.Open(t.Context(), b.ID())
		if err != nil {
			t.Fatal(err)
		}
		second := linksOf(a, b.ID())[0]
		if err := a.Delete(b.ID()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(drainTimeout / 2)
		if second.conn.Context().Err() != nil {
			t.Error("a link was closed while a stream was open")
		}
		if _, err := second.open(t.Context()); !ended(err) {
			t.Errorf("a draining link: got %v, want an end that makes the caller look for another", err)
		}
		s.Close()
		synctest.Wait()
		if second.conn.Context().Err() != nil {
			t.Error("a link was closed with its last stream, and what was on its way")
		}
		time.Sleep(drainLinger)
		synctest.Wait()
		if second.conn.Context().Err() == nil {
			t.Error("a drained link is open")
		}
		// One whose stream never ends is closed all the same.
		if _, err := a.Reach(t.Context(), at); err != nil {
			t.Fatal(err)
		}
		if _, _, err = a.Open(t.Context(), b.ID()); err != nil {
			t.Fatal(err)
		}
		third := linksOf(a, b.ID())[0]
		if err := a.Delete(b.ID()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(drainTimeout - 1)
		synctest.Wait()
		if third.conn.Context().Err() != nil {
			t.Error("a link was closed before its time")
		}
		time.Sleep(1)
		synctest.Wait()
		if third.conn.Context().Err() == nil {
			t.Error("a link with a deleted peer outlives its time")
		}
	})
}

// Links with one peer are bounded, the newest is used, and adding a peer again lets go of those dialled before.
func TestManyLinks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := new(mem.Network)
		a, _ := newMem(t, network)
		b, at := newMem(t, network)
		if _, err := a.Reach(t.Context(), at); err != nil {
			t.Fatal(err)
		}
		for range 2 * maxLinks {
			c, err := a.attempt(t.Context(), at)
			if err != nil {
				t.Fatal(err)
			}
			l, err := a.attach(c, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if got := newest(a, b.ID()); got != l {
				t.Error("a new stream does not take the newest link")
			}
		}
		synctest.Wait()
		if n, m := len(linksOf(a, b.ID())), len(linksOf(b, a.ID())); n > maxLinks || m > maxLinks {
			t.Errorf("%d and %d links, want at most %d", n, m, maxLinks)
		}
		h := greeting.Handler(a, nil)
		if _, err := a.Add(t.Context(), at, h); err != nil {
			t.Fatal(err)
		}
		time.Sleep(drainLinger)
		synctest.Wait()
		if n := len(linksOf(a, b.ID())); n != 1 {
			t.Errorf("%d links after the peer was added again, want 1", n)
		}
	})
}
