package conformance

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/protocol"
	"github.com/Blockchain-CN/pheromones/protocol/greeting"
	"github.com/Blockchain-CN/pheromones/router"
	"github.com/Blockchain-CN/pheromones/transport"
)

// stranger makes up a peer that nobody has ever met.
func (e *env) stranger(i int) greeting.Peer {
	id := identity.ID(sha256.Sum256(fmt.Append(nil, "stranger", i)))
	return greeting.Peer{ID: id, Seq: 1, Name: fmt.Sprint("stranger ", i),
		Addrs: []transport.Addr{{Scheme: e.traits.Scheme, HostPort: "192.0.2.1:9", Peer: id}}}
}

// hint makes a message that tells of peers.
func hint(change greeting.Change, peers ...greeting.Peer) (protocol.Message, error) {
	var notices []greeting.Notice
	for _, p := range peers {
		notices = append(notices, greeting.Notice{Change: change, Peer: p})
	}
	return greeting.NoticeMessage(notices...)
}

// told has n tell m of peers, and ends the check if m does not take note.
func (n *stackNode) told(m *stackNode, change greeting.Change, peers ...greeting.Peer) {
	msg, err := hint(change, peers...)
	reply, err := n.tell(m, msg, err)
	n.e.must(err, "telling of peers")
	if reply.Operation != greeting.OpNoticeResp {
		n.e.failf("telling of peers: want the answer %q, got %+v", greeting.OpNoticeResp, reply)
	}
}

func addOneKnowAll(e *env) {
	const n = 6
	var nodes []*stackNode
	var watchers []*router.Watcher
	for i := range n {
		node := e.stack(fmt.Sprint("node ", i), echoing())
		nodes, watchers = append(nodes, node), append(watchers, node.watching())
		if i > 0 {
			node.add(nodes[(i-1)/2])
			if !node.knows(nodes[(i-1)/2])() {
				e.failf("after Add, node %d: want a route to the peer it has added, got %v", i, node.Routes())
			}
		}
	}
	for i, node := range nodes {
		others := slices.Delete(slices.Clone(nodes), i, i+1)
		e.await(watchers[i], fmt.Sprintf("node %d of %d comes to know all", i, n), node.knows(others...))
	}
	for _, a := range nodes {
		if got := len(a.Routes()); got != n-1 {
			e.errorf("%s: want %d routes, got %d", a.Name(), n-1, got)
		}
		for _, b := range nodes {
			if a != b {
				if reply := a.ask(b.Name(), "op", []byte(a.Name())); reply.From != b.ID() || string(reply.Data) != a.Name() {
					e.errorf("%s asks %s: got %+v", a.Name(), b.Name(), reply)
				}
			}
		}
	}
}

func impostor(e *env) {
	a, b, victim := e.stack("a", nil), e.stack("b", nil), e.stack("victim", nil)
	m, err := greeting.ConnectMessage(greeting.Peer{ID: victim.ID(), Seq: 1 << 62, Name: "victim", Addrs: a.Addrs()[:0]})
	_, err = a.tell(b, m, err)
	e.wantRemote("introducing another", err, protocol.CodeRefused)
	if _, known := b.route(victim.ID()); known {
		e.errorf("introducing another: want nothing to be learned, got %v", b.Routes())
	}
	a.works(b)
}

func manyPages(e *env) {
	a, b := e.stack("a", nil), e.stack("b", nil)
	liar := e.stack("liar", nil)
	const n = 300
	for i := 0; i < n; i += 50 {
		var first, second []greeting.Peer
		for j := range 50 {
			first, second = append(first, e.stranger(i+j)), append(second, e.stranger(n+i+j))
		}
		liar.told(a, greeting.Arrived, first...)
		liar.told(b, greeting.Arrived, second...)
	}
	a.add(b)
	for _, node := range []*stackNode{a, b} {
		missing := 0
		for i := range 2 * n {
			if _, known := node.route(e.stranger(i).ID); !known {
				missing++
			}
		}
		if missing > 0 {
			e.errorf("%s: want all of %d peers that either side knew, %d are missing", node.Name(), 2*n, missing)
		}
	}
}

func getOne(e *env) {
	a, b, c := e.stack("a", nil), e.stack("b", nil), e.stack("c", nil)
	b.add(c)
	ask := func(id identity.ID, name string) []greeting.Peer {
		m, err := greeting.GetMessage(id, name)
		reply, err := a.tell(b, m, err)
		e.must(err, "asking for a route")
		peers, err := greeting.ParsePeers(reply)
		e.must(err, "the answer to a question for a route")
		return peers
	}
	for _, test := range []struct {
		what string
		got  []greeting.Peer
		want *stackNode
	}{
		{"a peer by ID", ask(c.ID(), ""), c}, {"a peer by name", ask(identity.ID{}, "c"), c},
		{"the node itself by ID", ask(b.ID(), ""), b}, {"the node itself by name", ask(identity.ID{}, "b"), b},
		{"nobody by ID", ask(e.key().ID(), ""), nil}, {"nobody by name", ask(identity.ID{}, "nobody"), nil},
	} {
		if test.want == nil {
			if len(test.got) != 0 {
				e.errorf("%s: want no peers, got %v", test.what, test.got)
			}
			continue
		}
		if len(test.got) != 1 || test.got[0].ID != test.want.ID() || test.got[0].Name != test.want.Name() ||
			!slices.Contains(test.got[0].Addrs, test.want.Addrs()[0]) {
			e.errorf("%s: want %v at %v, got %+v", test.what, test.want.ID(), test.want.Addrs(), test.got)
		}
	}
}

func hintsDoNotReplace(e *env) {
	a, b, liar := e.stack("a", nil), e.stack("b", echoing()), e.stack("liar", nil)
	a.add(b)
	lie := greeting.Peer{ID: b.ID(), Seq: 1 << 63, Name: "mallory",
		Addrs: []transport.Addr{{Scheme: e.traits.Scheme, HostPort: "192.0.2.1:9", Peer: b.ID()}}}
	liar.told(a, greeting.Changed, lie)
	lie.Seq++
	liar.told(a, greeting.Left, lie)
	r, known := a.route(b.ID())
	if !known || r.Name != "b" || !r.FirstHand || !slices.Contains(r.Addrs, b.Addrs()[0]) {
		e.errorf("after a lie: want the route as the peer itself told, got %+v, %v", r, known)
	}
	if reply := a.ask("b", "op", []byte("x")); reply.From != b.ID() {
		e.errorf("after a lie: want b to answer, got %+v", reply)
	}
	self := greeting.Peer{ID: a.ID(), Seq: 1 << 63, Name: "mallory", Addrs: lie.Addrs[:0]}
	liar.told(a, greeting.Changed, self)
	if r, known := a.route(a.ID()); known {
		e.errorf("a hint about the receiver itself: want it ignored, got the route %+v", r)
	}
}

// listener is a peer without a table, that notes what it is told.
type listener struct {
	self  greeting.Peer
	heard chan greeting.Notice
}

func (l *listener) Self() greeting.Peer                        { return l.self }
func (l *listener) Lookup(identity.ID, string) []greeting.Peer { return nil }
func (l *listener) Batch(identity.ID, int) []greeting.Peer     { return nil }
func (l *listener) Spread([]greeting.Notice, identity.ID)      {}
func (l *listener) Learn(from identity.ID, n greeting.Notice) bool {
	if from != n.Peer.ID {
		l.heard <- n
	}
	return false
}

// listener makes a peer that notes what it is told, and returns where it listens.
func (e *env) listener() (*listener, transport.Addr) {
	n := e.node()
	ln := e.listen(n)
	l := &listener{greeting.Peer{ID: n.id, Seq: 1, Name: "listener", Addrs: []transport.Addr{ln.Addr()}}, make(chan greeting.Notice, 4096)}
	h := greeting.Handler(l, nil)
	e.spawn(func() {
		for {
			c, err := ln.Accept(e.ctx)
			if err != nil {
				return
			}
			e.spawn(func() {
				for {
					s, err := c.AcceptStream(e.ctx)
					if err != nil {
						return
					}
					if _, err := protocol.ReadService(s); err != nil {
						s.Reset(transport.CodeProtocol)
						continue
					}
					e.spawn(func() { protocol.Serve(e.ctx, s, c.Info().RemotePeer, h, nil) })
				}
			})
		}
	})
	return l, ln.Addr()
}

func noStorm(e *env) {
	a, b, c := e.stack("a", nil), e.stack("b", nil), e.stack("c", nil)
	watchers := map[*stackNode]*router.Watcher{a: a.watching(), b: b.watching(), c: c.watching()}
	a.add(b)
	b.add(c)
	c.add(a)
	for n, w := range watchers {
		e.await(w, "three peers come to know each other", func() bool { return len(n.Routes()) == 2 })
	}
	l, addr := e.listener()
	_, err := c.Add(e.ctx, addr.String())
	e.must(err, "Add of a peer that listens")
	liar := e.stack("liar", nil)
	old, unheard, nowhere := e.stranger(1), e.stranger(2), e.stranger(3)
	old.Seq, unheard.Seq, nowhere.Addrs = 5, 0, nil
	liar.told(a, greeting.Arrived, old)
	liar.told(b, greeting.Arrived, old)
	older := old
	older.Seq, older.Addrs = 4, e.stranger(9).Addrs[:0]
	// None of this is news.
	liar.told(a, greeting.Arrived, old, unheard, nowhere)
	liar.told(b, greeting.Changed, older)
	liar.told(c, greeting.Left, e.stranger(4))
	// This is, and what came before it has had its time when it is heard.
	liar.told(a, greeting.Arrived, e.stranger(5))
	heard := make(map[identity.ID]int)
	for heard[e.stranger(5).ID] == 0 {
		heard[receive(e, "news travel", l.heard).Peer.ID]++
	}
	if n := heard[old.ID]; n != 1 {
		e.errorf("one news that was told thrice: want it to be passed on once, got %d times", n)
	}
	for _, p := range []greeting.Peer{unheard, nowhere, e.stranger(4)} {
		if n := heard[p.ID]; n != 0 {
			e.errorf("%s, of whom nobody knows where it is: want it not to be passed on, got %d times", p.Name, n)
		}
		for n := range watchers {
			if r, known := n.route(p.ID); known {
				e.errorf("%s has learned of %s, of whom nobody knows where it is: %+v", n.Name(), p.Name, r)
			}
		}
	}
}

// counting returns a handler that counts calls.
func counting(n *atomic.Int64) protocol.Handler {
	return protocol.HandlerFunc(func(_ context.Context, m protocol.Message) (protocol.Message, error) {
		n.Add(1)
		return protocol.Message{Operation: m.Operation, Data: m.Data}, nil
	})
}
