package greeting_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/internal/leak"
	"github.com/Blockchain-CN/pheromones/protocol"
	"github.com/Blockchain-CN/pheromones/protocol/greeting"
	"github.com/Blockchain-CN/pheromones/transport"
)

func TestMain(m *testing.M) { os.Exit(leak.Main(m)) }

func peer(n int, name string) greeting.Peer {
	id := identity.ID{0: byte(n >> 8), 1: byte(n), 31: 1}
	return greeting.Peer{ID: id, Seq: 1, Name: name,
		Addrs: []transport.Addr{{Scheme: "quic", HostPort: fmt.Sprintf("%s.example:4001", name), Peer: id}}}
}

// say hands a message to a handler as the peer from would.
func say(t testing.TB, h protocol.Handler, from identity.ID, m protocol.Message) protocol.Message {
	t.Helper()
	m.From = from
	reply, err := h.Handle(t.Context(), m)
	if err != nil {
		t.Fatalf("%s: %v", m.Operation, err)
	}
	return reply
}

func must(t testing.TB) func(protocol.Message, error) protocol.Message {
	return func(m protocol.Message, err error) protocol.Message {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
}

// greet holds the conversation of a and b in memory, and returns the operations said.
func greet(t testing.TB, a, b *book) (operations []string) {
	t.Helper()
	ours, theirs := greeting.Handler(a, nil), greeting.Handler(b, nil)
	err := protocol.ConverseBy(t.Context(), func(ctx context.Context, m protocol.Message) (protocol.Message, error) {
		m.From = a.self.ID
		reply, err := theirs.Handle(ctx, m)
		reply.From = b.self.ID
		operations = append(operations, m.Operation, reply.Operation)
		return reply, err
	}, must(t)(greeting.ConnectMessage(a.self)), ours, nil)
	if err != nil {
		t.Fatal(err)
	}
	return operations
}

func TestGreeting(t *testing.T) {
	carol, dave := peer(3, "carol"), peer(4, "dave")
	alice, bob := newBook(peer(1, "alice"), dave), newBook(peer(2, "bob"), carol)
	got := greet(t, alice, bob)
	if want := []string{"connectreq", "connectresp", "fetchreq", "fetchresp"}; !slices.Equal(got, want) {
		t.Errorf("what is said is %q, want %q", got, want)
	}
	if got, want := alice.names(), []string{"bob", "carol", "dave"}; !slices.Equal(got, want) {
		t.Errorf("alice knows %q, want %q", got, want)
	}
	if got, want := bob.names(), []string{"alice", "carol", "dave"}; !slices.Equal(got, want) {
		t.Errorf("bob knows %q, want %q", got, want)
	}
	if e := bob.known[alice.self.ID]; !e.firstHand || !reflect.DeepEqual(e.fact.Peer, alice.self) {
		t.Errorf("bob has %+v of alice, want %+v first-hand", e, alice.self)
	}
	if bob.known[dave.ID].firstHand {
		t.Error("bob holds what alice said of dave for first-hand")
	}
}

// A table of any size is fetched in bounded pages, in both directions at once.
func TestGreetingPages(t *testing.T) {
	for _, n := range []int{0, 1, 63, 64, 65, 128, 129, 1000} {
		for _, m := range []int{0, 1, 64, 65, 500} {
			alice, bob := newBook(peer(1, "alice")), newBook(peer(2, "bob"))
			for i := range n {
				p := peer(1000+i, "a"+fmt.Sprint(i))
				alice.known[p.ID] = entry{fact: greeting.Notice{Change: greeting.Arrived, Peer: p}}
			}
			for i := range m {
				p := peer(5000+i, "b"+fmt.Sprint(i))
				bob.known[p.ID] = entry{fact: greeting.Notice{Change: greeting.Arrived, Peer: p}}
			}
			said := greet(t, alice, bob)
			if len(alice.known) != n+m+1 || len(bob.known) != n+m+1 {
				t.Errorf("of %d and %d, alice knows %d and bob %d, want %d", n, m, len(alice.known), len(bob.known), n+m+1)
			}
			if most := 2 * (2 + (n+m+2)/greeting.MaxPeers + 1); len(said) > most {
				t.Errorf("%d and %d took %d messages, want at most %d", n, m, len(said), most)
			}
		}
	}
}

func TestConnectForAnotherIsRefused(t *testing.T) {
	b := newBook(peer(2, "bob"))
	h := greeting.Handler(b, nil)
	alice, mallory := peer(1, "alice"), peer(6, "mallory")
	for _, from := range []identity.ID{mallory.ID, {}} {
		m := must(t)(greeting.ConnectMessage(alice))
		m.From = from
		_, err := h.Handle(t.Context(), m)
		if !errors.Is(err, protocol.CodeRefused) || !strings.Contains(err.Error(), alice.ID.String()) || !strings.Contains(err.Error(), from.String()) {
			t.Errorf("connectreq of another: %v, want CodeRefused that names both", err)
		}
		m.Operation = greeting.OpConnectResp
		if _, err := h.Handle(t.Context(), m); !errors.Is(err, protocol.CodeRefused) {
			t.Errorf("connectresp of another: %v, want CodeRefused", err)
		}
	}
	if len(b.known) != 0 || len(b.passed) != 0 {
		t.Errorf("bob learned %v of it", b.known)
	}
}

func TestMalformedIsAnswered(t *testing.T) {
	b := newBook(peer(2, "bob"))
	h := greeting.Handler(b, nil)
	for _, op := range []string{"connectreq", "connectresp", "getreq", "getresp", "fetchreq", "fetchresp", "noticereq"} {
		for _, data := range []string{"", "\x01", "\x02", "\x01\x01\x01"} {
			_, err := h.Handle(t.Context(), protocol.Message{From: peer(1, "").ID, Operation: op, Data: []byte(data)})
			if !errors.Is(err, protocol.CodeMalformed) || !strings.Contains(err.Error(), op) {
				t.Errorf("%s of %q: %v, want CodeMalformed", op, data, err)
			}
		}
	}
}

func TestGet(t *testing.T) {
	carol, other := peer(3, "carol"), peer(5, "carol")
	b := newBook(peer(2, "bob"), carol, other)
	h := greeting.Handler(b, nil)
	for _, test := range []struct {
		title string
		id    identity.ID
		name  string
		want  []greeting.Peer
	}{
		{"by ID", carol.ID, "", []greeting.Peer{carol}},
		{"by ID, whatever the name", carol.ID, "bob", []greeting.Peer{carol}},
		{"by a name that two bear", identity.ID{}, "carol", []greeting.Peer{carol, other}},
		{"none known by ID", peer(9, "").ID, "", nil},
		{"none known by name", identity.ID{}, "eve", nil},
		{"itself by ID", b.self.ID, "", []greeting.Peer{b.self}},
		{"itself by name", identity.ID{}, "bob", []greeting.Peer{b.self}},
	} {
		reply := say(t, h, peer(1, "").ID, must(t)(greeting.GetMessage(test.id, test.name)))
		got, err := greeting.ParsePeers(reply)
		if err != nil || !reflect.DeepEqual(got, test.want) {
			t.Errorf("%s: %+v, %v; want %+v", test.title, got, err, test.want)
		}
		// The reply teaches whoever is in a conversation, as a hint.
		asker := newBook(peer(1, "alice"))
		if m := say(t, greeting.Handler(asker, nil), b.self.ID, reply); !m.IsNone() || len(asker.known) != len(test.want) {
			t.Errorf("%s: getresp is answered with %+v and teaches %v", test.title, m, asker.known)
		}
	}
}

// Hints change nothing that was learned first-hand, and nothing of the node itself.
func TestHintsYieldToFirstHand(t *testing.T) {
	alice, mallory := peer(1, "alice"), peer(6, "mallory")
	b := newBook(peer(2, "bob"))
	h := greeting.Handler(b, nil)
	say(t, h, alice.ID, must(t)(greeting.ConnectMessage(alice)))
	forged, self := peer(1, "forged"), peer(2, "forged")
	forged.Seq, self.Seq = 1<<63, 1<<63
	for _, change := range []greeting.Change{greeting.Arrived, greeting.Changed, greeting.Left} {
		for _, p := range []greeting.Peer{forged, self} {
			if reply := say(t, h, mallory.ID, must(t)(greeting.NoticeMessage(greeting.Notice{Change: change, Peer: p}))); reply.Operation != greeting.OpNoticeResp {
				t.Errorf("a notice is answered with %+v", reply)
			}
		}
	}
	if got := b.Batch(identity.ID{}, 10); len(got) != 1 || got[0].Name != "alice" {
		t.Errorf("bob knows %+v, want alice as she said", got)
	}
	if len(b.passed[greeting.Changed])+len(b.passed[greeting.Left]) != 0 {
		t.Errorf("bob passed on %v", b.passed)
	}
	// What she says herself counts, whatever its Seq.
	moved := peer(1, "alice")
	moved.Seq, moved.Addrs[0].HostPort = 0, "elsewhere.example:1"
	say(t, h, alice.ID, must(t)(greeting.NoticeMessage(greeting.Notice{Change: greeting.Changed, Peer: moved})))
	if got := b.Lookup(alice.ID, ""); len(got) != 1 || got[0].Addrs[0].HostPort != "elsewhere.example:1" || b.passed[greeting.Changed][alice.ID] != 1 {
		t.Errorf("alice moved, and bob knows %+v, and passed on %v", got, b.passed)
	}
}

func TestNext(t *testing.T) {
	b := newBook(peer(2, "bob"))
	called := ""
	h := greeting.Handler(b, protocol.HandlerFunc(func(_ context.Context, m protocol.Message) (protocol.Message, error) {
		called = m.Operation
		return protocol.Message{}, nil
	}))
	say(t, h, peer(1, "").ID, protocol.Message{Operation: "dance"})
	if called != "dance" {
		t.Errorf("the next handler got %q, want dance", called)
	}
	if m := say(t, greeting.Handler(b, nil), peer(1, "").ID, protocol.Message{Operation: "dance"}); m.Operation != protocol.OpUnknown {
		t.Errorf("without a next handler the answer is %+v, want unknownop", m)
	}
	if m := say(t, h, peer(1, "").ID, protocol.Message{Operation: greeting.OpNoticeResp}); !m.IsNone() {
		t.Errorf("noticeresp is answered with %+v, want none", m)
	}
}

func TestRegister(t *testing.T) {
	var table protocol.Table
	b := newBook(peer(2, "bob"))
	if err := greeting.Register(&table, b); err != nil {
		t.Fatal(err)
	}
	reply := say(t, &table, peer(1, "alice").ID, must(t)(greeting.ConnectMessage(peer(1, "alice"))))
	if reply.Operation != greeting.OpConnectResp || len(b.known) != 1 {
		t.Errorf("connectreq is answered with %+v", reply)
	}
	if m := say(t, &table, peer(1, "alice").ID, protocol.Message{Operation: "dance"}); m.Operation != protocol.OpUnknown {
		t.Errorf("dance is answered with %+v", m)
	}
	if err := greeting.Register(&table, b); !errors.Is(err, protocol.ErrDuplicate) {
		t.Errorf("the second Register: %v, want ErrDuplicate", err)
	}
}

// network delivers notices between books, in an order of its choosing.
type network struct {
	t     testing.TB
	rand  *rand.Rand
	books map[identity.ID]*book
	links map[identity.ID][]identity.ID
	queue []func()
	sent  int
}

func newNetwork(t testing.TB, seed uint64) *network {
	return &network{t: t, rand: rand.New(rand.NewPCG(seed, 0)), books: make(map[identity.ID]*book), links: make(map[identity.ID][]identity.ID)}
}

func (n *network) add(p greeting.Peer) *book {
	b := newBook(p)
	b.spread = func(notices []greeting.Notice, except identity.ID) {
		for _, to := range n.links[p.ID] {
			if to != except {
				n.send(p.ID, to, notices)
			}
		}
	}
	n.books[p.ID] = b
	return b
}

func (n *network) send(from, to identity.ID, notices []greeting.Notice) {
	for _, part := range greeting.FitNotices(notices) {
		m := must(n.t)(greeting.NoticeMessage(part...))
		n.sent++
		n.queue = append(n.queue, func() {
			reply := say(n.t, greeting.Handler(n.books[to], nil), from, m)
			reply = say(n.t, greeting.Handler(n.books[from], nil), to, reply)
			if !reply.IsNone() {
				n.t.Errorf("after a notice the answer is %+v", reply)
			}
		})
	}
}

func (n *network) link(a, b *book) {
	n.links[a.self.ID] = append(n.links[a.self.ID], b.self.ID)
	n.links[b.self.ID] = append(n.links[b.self.ID], a.self.ID)
	greet(n.t, a, b)
}

// settle delivers until nothing is under way.
func (n *network) settle() {
	for len(n.queue) > 0 {
		if n.sent > 1_000_000 {
			n.t.Fatal("the notices do not come to an end")
		}
		i := n.rand.IntN(len(n.queue))
		deliver := n.queue[i]
		n.queue[i] = n.queue[len(n.queue)-1]
		n.queue = n.queue[:len(n.queue)-1]
		deliver()
	}
}

// Every node that knows one peer comes to know all, and passes each fact on once, whatever the graph and the order.
func TestAllComeToKnowAll(t *testing.T) {
	for seed := range uint64(20) {
		n := newNetwork(t, seed)
		var books []*book
		const size = 30
		for i := range size {
			b := n.add(peer(i+1, fmt.Sprintf("n%02d", i)))
			if i > 0 {
				n.link(b, books[n.rand.IntN(i)])
			}
			if n.rand.IntN(2) == 0 { // or else it all happens at once
				n.settle()
			}
			books = append(books, b)
		}
		for range size {
			if a, b := n.rand.IntN(size), n.rand.IntN(size); a != b {
				n.link(books[a], books[b])
			}
		}
		n.settle()
		for _, b := range books {
			if len(b.names()) != size-1 {
				t.Fatalf("seed %d: %s knows %d peers, want %d", seed, b.self.Name, len(b.names()), size-1)
			}
			for id, times := range b.passed[greeting.Arrived] {
				if times > 1 {
					t.Errorf("seed %d: %s passed %v on %d times", seed, b.self.Name, id.Short(), times)
				}
			}
		}
		// A node that changes, leaves and comes back tells its neighbours; the facts overtake each other on the way.
		teller := books[n.rand.IntN(size)]
		for seq, change := range []greeting.Change{greeting.Changed, greeting.Left, greeting.Arrived, greeting.Left, greeting.Changed} {
			p := teller.self
			p.Seq, p.Name = uint64(seq+2), fmt.Sprint("later", seq)
			for _, to := range n.links[p.ID] {
				n.send(p.ID, to, []greeting.Notice{{Change: change, Peer: p}})
			}
			if change == greeting.Left {
				n.settle()
			}
		}
		n.settle()
		for _, b := range books {
			if b == teller || slices.Contains(n.links[teller.self.ID], b.self.ID) {
				continue // to them it is first-hand, and the last to come counts
			}
			if got := b.Lookup(teller.self.ID, ""); len(got) != 1 || got[0].Name != "later4" {
				t.Errorf("seed %d: %s knows %+v, want the last word", seed, b.self.Name, got)
			}
		}
	}
}

// Two clusters become one when a member of one greets a member of the other.
func TestClustersMerge(t *testing.T) {
	n := newNetwork(t, 1)
	var clusters [2][]*book
	for c := range clusters {
		for i := range 100 {
			b := n.add(peer(1+i+1000*c, fmt.Sprintf("%d-%d", c, i)))
			if i > 0 {
				n.link(b, clusters[c][i/2])
			}
			n.settle()
			clusters[c] = append(clusters[c], b)
		}
	}
	before := n.sent
	n.link(clusters[0][50], clusters[1][99])
	n.settle()
	for _, cluster := range clusters {
		for _, b := range cluster {
			if len(b.known) != 199 {
				t.Errorf("%s knows %d peers, want 199", b.self.Name, len(b.known))
			}
		}
	}
	t.Logf("merging two clusters of 100 took %d notices", n.sent-before)
}

// A page does not tell a peer of itself.
func TestPageLeavesOutItsReader(t *testing.T) {
	alice, carol := peer(1, "alice"), peer(3, "carol")
	b := newBook(peer(2, "bob"), alice, carol)
	m := must(t)(greeting.FetchMessage(b, alice.ID))
	if bytes.Contains(m.Data, alice.ID[:]) || !bytes.Contains(m.Data, carol.ID[:]) {
		t.Errorf("the page for alice is %x, want carol in it and not her", m.Data)
	}
}
