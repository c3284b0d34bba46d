package router

import (
	"fmt"
	"slices"
	"testing"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/protocol/greeting"
	"github.com/Blockchain-CN/pheromones/transport"
)

// peerAt makes a fact of a peer that listens at ports.
func peerAt(id identity.ID, seq uint64, name string, ports ...int) greeting.Peer {
	p := greeting.Peer{ID: id, Seq: seq, Name: name}
	for _, n := range ports {
		p.Addrs = append(p.Addrs, addr(id, n))
	}
	return p
}

// state shows what a router holds of a peer: "name first-hand? [ports]", or nothing.
func state(r *Router, id identity.ID) string {
	for _, rt := range r.Routes() {
		if rt.ID == id {
			var ports []string
			for _, a := range rt.Addrs {
				ports = append(ports, a.HostPort[len("192.0.2.1:"):])
			}
			return fmt.Sprintf("%s %v %v", rt.Name, rt.FirstHand, ports)
		}
	}
	return ""
}

// TestLearn tells one router one fact after the other and looks at what it makes of each (GR10 to GR12).
func TestLearn(t *testing.T) {
	id, x, y := newKey(t).ID(), newKey(t).ID(), newKey(t).ID()
	const arrived, changed, left = greeting.Arrived, greeting.Changed, greeting.Left
	type step struct {
		from   identity.ID
		change greeting.Change
		peer   greeting.Peer
		news   bool
		state  string
	}
	for _, test := range []struct {
		name  string
		steps []step
	}{
		{"hints by age", []step{
			{x, arrived, peerAt(id, 5, "n", 1), true, "n false [1]"},
			{x, arrived, peerAt(id, 5, "n", 1), false, "n false [1]"},
			{y, arrived, peerAt(id, 5, "m", 2), false, "n false [1]"},
			{y, changed, peerAt(id, 4, "m", 2), false, "n false [1]"},
			{y, changed, peerAt(id, 6, "m", 2), true, "m false [2]"},
			{x, left, peerAt(id, 5, "m", 2), false, "m false [2]"},
			{x, left, peerAt(id, 6, "m", 2), true, ""},
			{y, left, peerAt(id, 7, "m", 2), false, ""},
			{y, arrived, peerAt(id, 6, "m", 2), false, ""},
			{y, arrived, peerAt(id, 7, "m", 3), true, "m false [3]"},
		}},
		{"hints that lead nowhere", []step{
			{x, arrived, peerAt(id, 0, "n", 1), false, ""},
			{x, arrived, peerAt(id, 5, "n"), false, ""},
			{x, left, peerAt(id, 5, "n", 1), false, ""},
			{x, arrived, peerAt(id, 5, "n", 1), true, "n false [1]"},
			{x, changed, peerAt(id, 6, "n"), true, ""},
			{x, changed, peerAt(id, 6, "n", 1), false, ""},
		}},
		{"first-hand", []step{
			{id, arrived, peerAt(id, 5, "n", 1), true, "n true [1]"},
			{id, arrived, peerAt(id, 6, "n", 1), false, "n true [1]"},
			{id, changed, peerAt(id, 3, "m", 1), true, "m true [1]"}, // its clock was set back
			{id, changed, peerAt(id, 4, "m", 2, 3), true, "m true [2 3]"},
			{id, left, peerAt(id, 4, "m", 2), true, ""},
			{id, left, peerAt(id, 4, "m", 2), false, ""},
			{id, changed, peerAt(id, 4, "m", 2), false, ""}, // the farewell overtook it
			{x, arrived, peerAt(id, 4, "m", 2), false, ""},
			{id, arrived, peerAt(id, 3, "m", 2), true, "m true [2]"},
		}},
		{"a stranger's farewell", []step{
			{id, left, peerAt(id, 4, "m", 2), false, ""},
			{x, arrived, peerAt(id, 4, "m", 2), false, ""},
			{id, arrived, peerAt(id, 5, "m"), false, ""}, // it cannot be reached
		}},
		{"hints beside first-hand", []step{
			{id, arrived, peerAt(id, 5, "n", 1), true, "n true [1]"},
			{x, changed, peerAt(id, 5, "m", 2), false, "n true [1]"},
			{x, left, peerAt(id, 9, "n", 1), false, "n true [1]"},
			{x, changed, peerAt(id, 6, "m", 2), true, "n true [1 2]"},
			{y, changed, peerAt(id, 6, "m", 3), false, "n true [1 2]"},
			{y, changed, peerAt(id, 7, "m", 3), true, "n true [1 3]"},
			{x, changed, peerAt(id, 6, "m", 2), false, "n true [1 3]"}, // else two hints would chase each other for ever
			{x, changed, peerAt(id, 8, "m", 3), false, "n true [1 3]"},
			{id, changed, peerAt(id, 9, "n", 4), true, "n true [4]"},
		}},
		{"first-hand after hints", []step{
			{x, arrived, peerAt(id, 1<<63, "lie", 1), true, "lie false [1]"},
			{id, arrived, peerAt(id, 5, "n", 2), true, "n true [2]"},
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, r := newScripted(t, nil)
			for i, s := range test.steps {
				if news := r.Learn(s.from, greeting.Notice{Change: s.change, Peer: s.peer}); news != s.news {
					t.Errorf("step %d: news %v, want %v", i, news, s.news)
				}
				if got := state(r, id); got != s.state {
					t.Errorf("step %d: the route is %q, want %q", i, got, s.state)
				}
			}
		})
	}
}

// What others say of a deleted peer is no news.
func TestLearnOfDeleted(t *testing.T) {
	_, r := newScripted(t, nil)
	id, x := newKey(t).ID(), newKey(t).ID()
	r.Learn(id, greeting.Notice{Change: greeting.Arrived, Peer: peerAt(id, 1, "n", 1)})
	if err := r.Delete(id); err != nil {
		t.Fatal(err)
	}
	if r.Learn(x, greeting.Notice{Change: greeting.Arrived, Peer: peerAt(id, 2, "n", 1)}) || state(r, id) != "" {
		t.Errorf("a hint about a deleted peer was taken: %q", state(r, id))
	}
	if r.Learn(id, greeting.Notice{Change: greeting.Changed, Peer: peerAt(id, 2, "n", 1)}) || state(r, id) != "" {
		t.Errorf("a deleted peer's answer to a greeting of before was taken: %q", state(r, id))
	}
	if !r.Learn(id, greeting.Notice{Change: greeting.Arrived, Peer: peerAt(id, 2, "n", 1)}) || state(r, id) != "n true [1]" {
		t.Errorf("what a deleted peer says itself was not taken: %q", state(r, id))
	}
}

func TestLearnOfSelf(t *testing.T) {
	_, r := newScripted(t, nil)
	if r.Learn(newKey(t).ID(), greeting.Notice{Change: greeting.Arrived, Peer: peerAt(r.ID(), 1, "x", 1)}) || len(r.Routes()) != 0 {
		t.Errorf("a hint about the node itself was taken: %v", r.Routes())
	}
}

// What a caller has added stays, whatever others say; others are not told of it before somebody has told us.
func TestIntroduced(t *testing.T) {
	_, r := newScripted(t, nil)
	id, x := newKey(t).ID(), newKey(t).ID()
	if err := r.Introduce(addr(id, 1)); err != nil {
		t.Fatal(err)
	}
	if got := r.Batch(identity.ID{}, 10); len(got) != 0 {
		t.Errorf("others would be told %v, of which we know nothing", got)
	}
	if got := r.Lookup(id, ""); len(got) != 0 {
		t.Errorf("others would be told %v, of which we know nothing", got)
	}
	if r.Learn(x, greeting.Notice{Change: greeting.Left, Peer: peerAt(id, 9, "n", 2)}) || state(r, id) != " false [1]" {
		t.Errorf("a hint that the peer has left: the route is %q", state(r, id))
	}
	if !r.Learn(x, greeting.Notice{Change: greeting.Arrived, Peer: peerAt(id, 9, "n", 2)}) || state(r, id) != "n false [1 2]" {
		t.Errorf("a hint where the peer is: the route is %q", state(r, id))
	}
	if got := r.Batch(identity.ID{}, 10); len(got) != 1 || !slices.Equal(got[0].Addrs, []transport.Addr{addr(id, 2)}) {
		t.Errorf("others would be told %v, want the address that is not our caller's alone", got)
	}
	// The bound on addresses, the last one first.
	for i := range 40 {
		told := r.Lookup(id, "")[0].Addrs
		if err := r.Introduce(addr(id, 100+i)); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(told, []transport.Addr{addr(id, 2)}) {
			t.Errorf("what others are told of has changed under them: %v", told)
		}
	}
	got := r.Routes()[0].Addrs
	if len(got) != greeting.MaxAddrs+1 || got[0] != addr(id, 139) {
		t.Errorf("%d addresses that begin with %v, want %d that begin with the last", len(got), got[0], greeting.MaxAddrs+1)
	}
}

// TestBatch compares the pages with the whole.
func TestBatch(t *testing.T) {
	_, r := newScripted(t, nil)
	x := newKey(t).ID()
	for range 100 {
		id := newKey(t).ID()
		r.Learn(x, greeting.Notice{Change: greeting.Arrived, Peer: peerAt(id, 1, "n", 1)})
	}
	var all []identity.ID
	for after := (identity.ID{}); ; {
		page := r.Batch(after, 7)
		if len(page) == 0 {
			break
		}
		for _, p := range page {
			all = append(all, p.ID)
		}
		after = page[len(page)-1].ID
	}
	if len(all) != 100 || !slices.IsSortedFunc(all, func(a, b identity.ID) int { return slices.Compare(a[:], b[:]) }) {
		t.Errorf("%d peers in all pages, want 100 in order", len(all))
	}
}

// What is kept on the word of one peer is counted as it comes and goes.
func TestTaken(t *testing.T) {
	_, r := newScripted(t, func(c *Config) { c.MaxRoutes = 20 })
	x, y := newKey(t).ID(), newKey(t).ID()
	var ids []identity.ID
	tell := func(from identity.ID, change greeting.Change, id identity.ID, seq uint64) bool {
		return r.Learn(from, greeting.Notice{Change: change, Peer: peerAt(id, seq, "n", 1)})
	}
	for range 30 {
		id := newKey(t).ID()
		if tell(x, greeting.Arrived, id, 1) {
			ids = append(ids, id)
		}
	}
	if len(ids) != 10 || r.taken[x] != 10 {
		t.Fatalf("%d hints of one peer were taken and %d counted, want half of 20", len(ids), r.taken[x])
	}
	tell(y, greeting.Left, ids[0], 1)                                                           // gone
	r.Learn(ids[1], greeting.Notice{Change: greeting.Arrived, Peer: peerAt(ids[1], 1, "n", 1)}) // now first-hand
	if err := r.Introduce(addr(ids[2], 1)); err != nil {                                        // now ours
		t.Fatal(err)
	}
	if err := r.Delete(ids[3]); err != nil {
		t.Fatal(err)
	}
	tell(y, greeting.Changed, ids[4], 2) // still known by x's word
	if r.taken[x] != 6 || r.taken[y] != 0 {
		t.Errorf("%d routes are counted for x and %d for y, want 6 and 0", r.taken[x], r.taken[y])
	}
	for _, id := range ids[4:] {
		tell(y, greeting.Left, id, 3)
	}
	if len(r.taken) != 0 {
		t.Errorf("with no hints left, %v are counted", r.taken)
	}
}

// A full table gives way by claim, and is never larger.
func TestFull(t *testing.T) {
	_, r := newScripted(t, func(c *Config) { c.MaxRoutes = 4 })
	learn := func(from, id identity.ID) bool {
		return r.Learn(from, greeting.Notice{Change: greeting.Arrived, Peer: peerAt(id, 1, "n", 1)})
	}
	for range 8 {
		learn(newKey(t).ID(), newKey(t).ID())
	}
	if n := len(r.Routes()); n != 4 {
		t.Fatalf("%d routes by hearsay, want 4", n)
	}
	for i := range 8 {
		id := newKey(t).ID()
		if got := learn(id, id); got != (i < 4) {
			t.Errorf("first-hand news %d: taken %v", i, got)
		}
	}
	for i := range 8 {
		err := r.Introduce(addr(newKey(t).ID(), 1))
		if (err == nil) != (i < 4) {
			t.Errorf("Introduce %d: %v", i, err)
		}
	}
	if n := len(r.routes); n != 4 {
		t.Errorf("%d routes, want 4", n)
	}
}
