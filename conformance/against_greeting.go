package conformance

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/transport"
)

const (
	connectreq = "connectreq"
	fetchreq   = "fetchreq"
	getreq     = "getreq"
	noticereq  = "noticereq"

	maxEntries = 64 // of a list (GR4)
)

// entry is what is said of a peer (GR3).
type entry struct {
	id    identity.ID
	seq   uint64
	name  string
	addrs []string
}

// append appends the entry, with more behind its fields.
func (p entry) append(b []byte, more ...byte) []byte {
	f := slices.Clone(p.id[:])
	f = binary.BigEndian.AppendUint64(f, p.seq)
	f = append(append(f, byte(len(p.name))), p.name...)
	f = append(f, byte(len(p.addrs)))
	for _, a := range p.addrs {
		f = append(binary.BigEndian.AppendUint16(f, uint16(len(a))), a...)
	}
	f = append(f, more...)
	return append(binary.BigEndian.AppendUint16(b, uint16(len(f))), f...)
}

// data returns what a connectreq with the entry carries.
func (p entry) data() []byte { return p.append([]byte{1}) }

// entry takes an entry.
func (f *fields) entry() (p entry) {
	g := fields{rest: f.take(f.number(2))}
	copy(p.id[:], g.take(len(p.id)))
	if seq := g.take(8); len(seq) == 8 {
		p.seq = binary.BigEndian.Uint64(seq)
	}
	p.name = g.text(g.number(1))
	n := g.number(1)
	if n > 16 {
		g.fail("an entry with %d addresses", n)
	}
	for range n {
		text := g.text(g.number(2))
		a, err := transport.ParseAddr(text)
		if g.err == nil && (err != nil || !a.Peer.IsZero() || a.String() != text) {
			g.fail("%q is no address in the one form, without an ID", text)
		}
		p.addrs = append(p.addrs, text)
	}
	if g.err == nil && p.id.IsZero() {
		g.fail("an entry whose ID is zero")
	}
	if f.err == nil && g.err != nil {
		f.fail("%w", g.err)
	}
	return p
}

// entries takes a list of entries (GR4).
func (f *fields) entries() (list []entry) {
	n := f.number(1)
	if n > maxEntries {
		f.fail("a list of %d entries", n)
	}
	for i := 0; i < n && f.err == nil; i++ {
		list = append(list, f.entry())
	}
	return list
}

// version takes the version that greetings begin with.
func (f *fields) version() {
	if v := f.number(1); v != 1 {
		f.fail("version %d", v)
	}
}

// greet sends one message of the greeting and returns the answer.
func (g *guest) greet(operation string, data []byte) answer {
	t := g.talk(message(operation, data))
	a := t.hear()
	t.Close()
	return a
}

// self is the guest's entry. Its address is one at which nobody answers, and says so at once: some transports' nodes forget
// who cannot be reached.
func (g *guest) self(seq uint64, name string) entry {
	return entry{g.id, seq, name, []string{g.e.traits.Scheme + "://127.0.0.1:1"}}
}

// introduce has the node take the guest for a peer, until it has left.
func (g *guest) introduce(seq uint64, name string) {
	g.e.leaveAfter(g)
	if a := g.greet(connectreq, g.self(seq, name).data()); a.operation != "connectresp" {
		g.e.failf("introducing ourselves: want a connectresp, got %s", a)
	}
}

// leaveAfter has the guest tell the node after the check that it leaves, if it still can.
func (e *env) leaveAfter(g *guest) {
	e.cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		c, err := g.Dial(ctx, e.h.target.addr)
		if err != nil {
			return
		}
		s, err := c.OpenStream(ctx)
		if err != nil {
			return
		}
		s.SetDeadline(time.Now().Add(time.Second))
		if _, err := s.Write(append([]byte(messageService), message(noticereq, notice(left, g.self(1<<62, "")))...)); err == nil {
			readAnswer(s)
		}
		s.Close()
	})
}

// The changes that a notice tells of (GR8).
const (
	arrived = 1
	changed = 2
	left    = 3
)

// notice returns what a noticereq with one notice carries.
func notice(change byte, p entry) []byte { return p.append([]byte{1, 1, change}) }

// asking returns what a getreq carries.
func asking(id identity.ID, name string) []byte {
	return append(append(append([]byte{1}, id[:]...), byte(len(name))), name...)
}

// get asks for peers, and ends the check if the answer is none.
func (g *guest) get(id identity.ID, name string) []entry {
	a := g.greet(getreq, asking(id, name))
	f := fields{rest: a.data}
	f.version()
	list := f.entries()
	if a.operation != "getresp" || f.err != nil {
		g.e.failf("getreq: want a getresp with a list of peers, got %s (%v)", a, f.err)
	}
	return list
}

func badGreetings(e *env) {
	g := e.guest()
	e.leaveAfter(g)
	other := anID()
	good := map[string][]byte{
		connectreq: g.self(1, "me").data(),
		getreq:     asking(other, "name"),
		fetchreq:   pageOf(1, identity.ID{}, identity.ID{}),
		noticereq:  notice(changed, g.self(2, "me")),
	}
	with := func(operation string, at int, is byte) []byte {
		b := slices.Clone(good[operation])
		b[at] = is
		return b
	}
	type bad struct {
		name, operation string
		data            []byte
	}
	tests := []bad{
		{"an entry whose ID is zero", connectreq, entry{seq: 1}.data()},
		{"an entry of 17 addresses", connectreq, entry{g.id, 1, "", slices.Repeat([]string{"tcp://127.0.0.1:1"}, 17)}.data()},
		{"an address without a port", connectreq, entry{g.id, 1, "", []string{"tcp://127.0.0.1"}}.data()},
		{"an address with an ID", connectreq, entry{g.id, 1, "", []string{"tcp://" + g.id.String() + "@127.0.0.1:1"}}.data()},
		{"an address in another form", connectreq, entry{g.id, 1, "", []string{"tcp://[2001:DB8::1]:1"}}.data()},
		{"a name that is no UTF-8", connectreq, entry{id: g.id, seq: 1, name: "\xff"}.data()},
		{"neither an ID nor a name", getreq, asking(identity.ID{}, "")},
		{"an unknown flag", fetchreq, with(fetchreq, 1, 4)},
		{"65 peers", fetchreq, with(fetchreq, 66, 65)},
		{"no notice", noticereq, []byte{1, 0}},
		{"65 notices", noticereq, with(noticereq, 1, 65)},
		{"change 0", noticereq, with(noticereq, 2, 0)},
		{"change 4", noticereq, with(noticereq, 2, 4)},
	}
	for operation, data := range good {
		for _, version := range []byte{0, 2, 255} {
			tests = append(tests, bad{fmt.Sprintf("version %d", version), operation, with(operation, 0, version)})
		}
		for _, n := range []int{0, 1, 2, len(data) / 2, len(data) - 1} {
			tests = append(tests, bad{fmt.Sprintf("%d bytes of %d", n, len(data)), operation, data[:n]})
		}
	}
	for _, test := range tests {
		e.in("%s with %s", test.operation, test.name)
		if a := g.greet(test.operation, test.data); a.kind != kindError || a.code != malformedCode {
			e.errorf("want an error of code %d, got %s", malformedCode, a)
		}
	}
	e.in("")
	if list := g.get(g.id, ""); len(list) > 0 {
		e.errorf("want nothing to be learned of us by malformed greetings, got %+v", list)
	}
}

// anID returns an ID that nobody has.
func anID() identity.ID { return identity.ID(append(token(), token()...)) }

func laterGreetings(e *env) {
	g := e.guest()
	e.leaveAfter(g)
	for _, test := range []struct {
		operation, want string
		data            []byte
	}{
		{connectreq, "connectresp", append(g.self(1, "me").append([]byte{1}, noise(40)...), noise(50)...)},
		{noticereq, "noticeresp", append(g.self(2, "me").append([]byte{1, 1, changed}, 9), noise(50)...)},
		{getreq, "getresp", append(asking(g.id, ""), noise(50)...)},
		{fetchreq, "fetchresp", append(pageOf(1, identity.ID{}, identity.ID{}), noise(50)...)},
	} {
		if a := g.greet(test.operation, test.data); a.operation != test.want {
			e.errorf("%s with bytes behind its fields: want %s, got %s", test.operation, test.want, a)
		}
	}
}

func introduction(e *env) {
	g := e.guest()
	e.leaveAfter(g)
	a := g.greet(connectreq, g.self(1, "a guest of the suite").data())
	f := fields{rest: a.data}
	f.version()
	p := f.entry()
	switch {
	case a.operation != "connectresp" || f.err != nil:
		e.failf("want a connectresp with one entry, got %s (%v)", a, f.err)
	case p.id != e.h.target.addr.Peer:
		e.errorf("want the entry of the node, %s, got that of %s", e.h.target.addr.Peer, p.id)
	case p.seq == 0:
		e.errorf("want the entry to have a seq, got 0")
	}
	if p.name != a.name {
		e.errorf("want the name in the entry to be that of its messages, %q, got %q", a.name, p.name)
	}
	if list := g.get(g.id, ""); len(list) != 1 || list[0].id != g.id || list[0].name != "a guest of the suite" {
		e.errorf("asking for ourselves after that: want our entry, got %+v", list)
	}
}

func impostorAgainst(e *env) {
	g := e.guest()
	for _, id := range []identity.ID{anID(), e.h.target.addr.Peer} {
		a := g.greet(connectreq, entry{id: id, seq: 1 << 62, name: "impostor", addrs: []string{e.traits.Scheme + "://127.0.0.1:1"}}.data())
		if a.kind != kindError || a.code != refusedCode {
			e.errorf("introducing %s as ourselves: want an error of code %d, got %s", id.Short(), refusedCode, a)
		}
		for _, p := range g.get(id, "") {
			if p.name == "impostor" || id != e.h.target.addr.Peer {
				e.errorf("introducing %s as ourselves: want nothing to be learned, got %+v", id.Short(), p)
			}
		}
	}
	g.works()
}

// pageOf returns what a fetchreq without entries carries.
func pageOf(flags byte, answerer, asker identity.ID) []byte {
	return append(append(append([]byte{1, flags}, answerer[:]...), asker[:]...), 0)
}

// maxPages is how many pages the suite reads of one table.
const maxPages = 1000

func pages(e *env) {
	asker := e.guest()
	var others []*guest
	for i := range 3 {
		g := e.guest()
		g.introduce(1, fmt.Sprint("guest ", i))
		others = append(others, g)
	}
	mine := anID() // the asker's cursor is the asker's: it comes back as it went
	var cursor identity.ID
	seen := make(map[identity.ID]bool)
	for page, more := 1, true; more; page++ {
		e.in("page %d", page)
		if page > maxPages {
			e.skipf("the table has more than %d pages", maxPages)
		}
		a := asker.greet(fetchreq, pageOf(1, cursor, mine))
		f := fields{rest: a.data}
		f.version()
		flags := f.number(1)
		var answerer, back identity.ID
		copy(answerer[:], f.take(len(answerer)))
		copy(back[:], f.take(len(back)))
		list := f.entries()
		if a.operation != "fetchresp" || f.err != nil {
			e.failf("want a fetchresp, got %s (%v)", a, f.err)
		}
		if back != mine || flags&^1 != 0 {
			e.errorf("want the asker's cursor and flag back as they were sent, got %s for %s and flags %d", back.Short(), mine.Short(), flags)
		}
		last := cursor
		for _, p := range list {
			if bytes.Compare(p.id[:], last[:]) <= 0 || bytes.Compare(p.id[:], answerer[:]) > 0 {
				e.failf("want peers in the order of their IDs, after %s and up to the cursor %s, got %s", last.Short(), answerer.Short(), p.id.Short())
			}
			last = p.id
			seen[p.id] = true
		}
		if more = flags&1 != 0; more && bytes.Compare(answerer[:], cursor[:]) <= 0 {
			e.failf("want the cursor to move while there is more, it stays at %s", cursor.Short())
		}
		cursor = answerer
	}
	e.in("")
	for _, g := range others {
		if !seen[g.id] {
			e.errorf("want the table to have %s, which has introduced itself", g.id.Short())
		}
	}
	e.in("a request without a flag")
	a := asker.greet(fetchreq, pageOf(0, identity.ID{}, mine))
	f := fields{rest: a.data}
	f.version()
	if flags := f.number(1); a.operation != "fetchresp" || f.err != nil || flags != 0 {
		e.errorf("want a fetchresp without flags, got %s", a)
	}
}

func get(e *env) {
	g := e.guest()
	node := e.h.target.addr.Peer
	e.in("for the node itself")
	list := g.get(node, "")
	if len(list) != 1 || list[0].id != node {
		e.failf("want its entry, got %+v", list)
	}
	if name := list[0].name; name != "" {
		e.in("for the node's name, %q", name)
		if !slices.ContainsFunc(g.get(identity.ID{}, name), func(p entry) bool { return p.id == node }) {
			e.errorf("want its entry to be among the answer")
		}
	}
	e.in("for an ID that nobody has")
	if list := g.get(anID(), ""); len(list) != 0 {
		e.errorf("want an empty list, got %+v", list)
	}
	e.in("for a name that nobody has")
	if list := g.get(identity.ID{}, fmt.Sprintf("nobody %x", token())); len(list) != 0 {
		e.errorf("want an empty list, got %+v", list)
	}
}

func notices(e *env) {
	g, other := e.guest(), e.guest()
	g.introduce(10, "first")
	told := func(change byte, seq uint64, name string) {
		if a := g.greet(noticereq, notice(change, g.self(seq, name))); a.operation != "noticeresp" {
			e.failf("noticereq: want a noticeresp, got %s", a)
		}
	}
	wants := func(name string) {
		if list := other.get(g.id, ""); len(list) != 1 || list[0].name != name || !slices.Equal(list[0].addrs, g.self(0, "").addrs) {
			e.errorf("another peer asks for us: want our entry with the name %q, got %+v", name, list)
		}
	}
	e.in("introduced")
	wants("first")
	e.in("changed")
	told(changed, 11, "second")
	wants("second")
	e.in("what another says of us is no news")
	if a := other.greet(noticereq, notice(changed, g.self(1<<60, "slander"))); a.operation != "noticeresp" {
		e.errorf("want a noticeresp, got %s", a)
	}
	wants("second")
	e.in("left")
	told(left, 12, "second")
	if list := other.get(g.id, ""); len(list) != 0 {
		e.errorf("another peer asks for us: want an empty list, got %+v", list)
	}
}
