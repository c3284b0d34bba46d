package pheromones_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Blockchain-CN/pheromones"
	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/protocol"
	"github.com/Blockchain-CN/pheromones/router"
	"github.com/Blockchain-CN/pheromones/transport"
)

var rounds = flag.Int("rounds", 60, "how many `rounds` the tests of links go")

// counting is a node that answers numbered messages and counts how often each was executed.
type counting struct {
	*pheromones.Node
	addr string

	mu   sync.Mutex
	runs map[uint64]int
}

func newCounting(t testing.TB, scheme, name string) *counting {
	t.Helper()
	c := &counting{runs: make(map[uint64]int)}
	c.Node = newNode(t, name, c, scheme)
	c.addr = addrOf(c.Node)
	return c
}

// scope is a part of a test, whose clean-ups run, and are forgotten, when it ends.
type scope struct {
	testing.TB
	ends []func()
}

func (s *scope) Cleanup(f func()) { s.ends = append(s.ends, f) }

func (s *scope) end() {
	for _, f := range slices.Backward(s.ends) {
		f()
	}
}

func (c *counting) Handle(_ context.Context, m protocol.Message) (protocol.Message, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.runs[binary.BigEndian.Uint64(m.Data)]++
	return protocol.Message{Operation: "done", Data: m.Data}, nil
}

func idOf(c *counting) []byte { id := c.ID(); return id[:] }

// settled reports whether both nodes have one link, the same.
func settled(a, b *counting) bool {
	x, y := links(a.Node, b.ID()), links(b.Node, a.ID())
	return len(x) == 1 && len(y) == 1 && x[0].Dialer != y[0].Dialer && x[0].Preferred && y[0].Preferred
}

func links(n *pheromones.Node, peer identity.ID) []router.Link {
	for _, r := range n.Routes() {
		if r.ID == peer {
			return r.Links
		}
	}
	return nil
}

// Two nodes that add each other at once end up with one link on which both agree; no call fails, and nothing is executed twice.
// With -rounds 10000 it is long.
func TestAddAtOnce(t *testing.T) {
	eachTransport(t, func(t *testing.T, scheme string) {
		var number, failed, twice, smaller atomic.Uint64
		oneRound := func(round int) {
			in := &scope{TB: t}
			defer in.end()
			a, b := newCounting(in, scheme, "a"), newCounting(in, scheme, "b")
			stop := make(chan struct{})
			var traffic sync.WaitGroup
			send := func(from, to *counting) {
				n := number.Add(1)
				reply, err := from.Dispatch(t.Context(), to.ID().String(), protocol.Message{Operation: "count", Data: binary.BigEndian.AppendUint64(nil, n)})
				if err != nil || binary.BigEndian.Uint64(reply.Data) != n {
					failed.Add(1)
					t.Errorf("round %d: %v", round, err)
				}
			}
			flowing := round%2 == 1
			if flowing {
				if _, err := a.Add(t.Context(), b.addr); err != nil {
					t.Fatal(err)
				}
				for i := range 8 {
					traffic.Go(func() {
						for {
							select {
							case <-stop:
								return
							default:
								if i%2 == 0 {
									send(a, b)
								} else {
									send(b, a)
								}
							}
						}
					})
				}
			}
			var adds sync.WaitGroup
			for _, pair := range [][2]*counting{{a, b}, {b, a}} {
				pause := time.Duration(rand.Int64N(int64(2 * time.Millisecond)))
				adds.Go(func() {
					time.Sleep(pause)
					if _, err := pair[0].Add(t.Context(), pair[1].addr); err != nil {
						failed.Add(1)
						t.Errorf("round %d: %v", round, err)
					}
					send(pair[0], pair[1])
				})
			}
			adds.Wait()
			close(stop)
			traffic.Wait()
			if scheme != "tcp" {
				deadline := time.Now().Add(20 * time.Second)
				for !settled(a, b) {
					if time.Now().After(deadline) {
						t.Fatalf("round %d: the links are %+v and %+v, want one, the same on both sides", round, links(a.Node, b.ID()), links(b.Node, a.ID()))
					}
					time.Sleep(time.Millisecond)
				}
				if l := links(a.Node, b.ID())[0]; l.Dialer == (bytes.Compare(idOf(a), idOf(b)) < 0) {
					smaller.Add(1)
				}
			}
			send(a, b)
			send(b, a)
			for _, n := range []*counting{a, b} {
				n.mu.Lock()
				for _, runs := range n.runs {
					if runs != 1 {
						twice.Add(1)
					}
				}
				n.mu.Unlock()
			}
		}
		for round := 0; round < *rounds && !t.Failed(); round++ {
			oneRound(round)
		}
		fmt.Printf("%s: %d rounds, %d exchanges, %d failed, %d executed twice; in %d rounds the smaller ID had dialled the link that stayed\n",
			scheme, *rounds, number.Load(), failed.Load(), twice.Load(), smaller.Load())
		if twice.Load() > 0 {
			t.Errorf("%d exchanges were executed twice", twice.Load())
		}
	})
}

// Conversations go on to their end on the link they began on, however often it is replaced meanwhile.
func TestReplaceUnderConversations(t *testing.T) {
	const talks, steps = 64, 20
	eachTransport(t, func(t *testing.T, scheme string) {
		if scheme == "tcp" {
			return // there are no links to replace
		}
		next := protocol.HandlerFunc(func(_ context.Context, m protocol.Message) (protocol.Message, error) {
			if m.Operation != "step" {
				return protocol.Message{}, fmt.Errorf("got the operation %q", m.Operation)
			}
			n := binary.BigEndian.Uint64(m.Data)
			if n == steps {
				return protocol.Message{}, nil
			}
			return protocol.Message{Operation: "step", Data: binary.BigEndian.AppendUint64(nil, n+1)}, nil
		})
		a, b := newNode(t, "a", next, scheme), newNode(t, "b", next, scheme)
		if _, err := a.Add(t.Context(), addrOf(b)); err != nil {
			t.Fatal(err)
		}
		stop := make(chan struct{})
		var ended atomic.Int64
		var wg sync.WaitGroup
		for i := range talks {
			from, to := a, b
			if i%2 == 1 {
				from, to = b, a
			}
			wg.Go(func() {
				for {
					if err := from.Converse(t.Context(), to.ID().String(), protocol.Message{Operation: "step", Data: make([]byte, 8)}); err != nil {
						t.Error(err)
						return
					}
					ended.Add(1)
					select {
					case <-stop:
						return
					default:
					}
				}
			})
		}
		for i := range *rounds {
			from, to := a, b
			if i%2 == 1 {
				from, to = b, a
			}
			if _, err := from.Add(t.Context(), addrOf(to)); err != nil {
				t.Error(err)
				break
			}
			// Some drain at a time; more than are allowed would be refused.
			for len(links(from, to.ID())) > 20 && !t.Failed() {
				time.Sleep(time.Millisecond)
			}
		}
		close(stop)
		wg.Wait()
		t.Logf("%s: a new link %d times under %d conversations at a time, %d in all", scheme, *rounds, talks, ended.Load())
		deadline := time.Now().Add(20 * time.Second)
		for len(links(a, b.ID())) != 1 || len(links(b, a.ID())) != 1 {
			if time.Now().After(deadline) {
				t.Fatalf("the links are %+v and %+v, want one", links(a, b.ID()), links(b, a.ID()))
			}
			time.Sleep(time.Millisecond)
		}
	})
}

// In a network of many each node comes to reach every other by its name, though each knows only one address.
func TestOneAddressIsEnough(t *testing.T) {
	nodes := 50
	if brief() {
		nodes = 15
	}
	for _, scheme := range []string{"tcp", "mux", "quic"} {
		t.Run(scheme, func(t *testing.T) {
			var all []*pheromones.Node
			for i := range nodes {
				name := fmt.Sprint("node ", i)
				all = append(all, newNode(t, name, echo(name), scheme))
			}
			var wg sync.WaitGroup
			for _, n := range all[1:] {
				wg.Go(func() {
					if _, err := n.Add(t.Context(), addrOf(all[0])); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			for i, n := range all {
				w := n.Watch()
				await(t, w, fmt.Sprintf("node %d knows all others", i), func() bool { return len(n.Routes()) >= nodes-1 })
				w.Close()
			}
			var failed atomic.Int64
			for i, n := range all {
				wg.Go(func() {
					for range 10 {
						to := rand.IntN(nodes)
						if to == i {
							continue
						}
						name := fmt.Sprint("node ", to)
						reply, err := n.Dispatch(t.Context(), name, protocol.Message{Operation: "x", Data: []byte("hello")})
						if err != nil || string(reply.Data) != name+": hello" {
							failed.Add(1)
							t.Errorf("from node %d to %q: %q, %v", i, name, reply.Data, err)
						}
					}
				})
			}
			wg.Wait()
		})
	}
}

// crowded is a transport whose listeners turn away the first connections that they accept.
type crowded struct {
	transport.Transport
	away *atomic.Int32 // how many more
}

func (c crowded) Listen(ctx context.Context, addr transport.Addr) (transport.Listener, error) {
	l, err := c.Transport.Listen(ctx, addr)
	return crowdedListener{l, c.away}, err
}

type crowdedListener struct {
	transport.Listener
	away *atomic.Int32
}

func (l crowdedListener) Accept(ctx context.Context) (transport.Conn, error) {
	for {
		c, err := l.Listener.Accept(ctx)
		if err != nil || l.away.Add(-1) < 0 {
			return c, err
		}
		c.CloseWithError(transport.CodeRefused, "too many newcomers")
	}
}

// A node that adds one which has no room for newcomers at that moment asks again, a few times.
func TestAddCrowded(t *testing.T) {
	eachTransport(t, func(t *testing.T, scheme string) {
		key, err := identity.Generate()
		if err != nil {
			t.Fatal(err)
		}
		away := new(atomic.Int32)
		b, err := pheromones.New(pheromones.Config{Transports: []transport.Transport{crowded{newTransport(t, scheme, key), away}}})
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		if err := b.Start(t.Context(), scheme+"://127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}

		away.Store(3)
		a := newNode(t, "a", nil, scheme)
		if id, err := a.Add(t.Context(), addrOf(b)); err != nil || id != b.ID() {
			t.Errorf("turned away three times: %v, %v", id, err)
		}
		away.Store(1 << 20)
		c := newNode(t, "c", nil, scheme)
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		var closed *transport.CloseError
		if _, err := c.Add(ctx, addrOf(b)); !errors.As(err, &closed) || closed.Code != transport.CodeRefused || !closed.Remote {
			t.Errorf("always turned away: %v, want the peer's refusal", err)
		}
		if n := 1<<20 - away.Load(); n > 40 {
			t.Errorf("%d connections to a peer that turns all of them away, want few", n)
		}
	})
}
