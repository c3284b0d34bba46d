package punch

import (
	"bytes"
	"container/heap"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// world is networks, NATs between them and peers in them, in virtual time.
type world struct {
	t        *testing.T
	now      time.Time
	queue    events
	count    int
	rand     *rand.Rand
	loss     float64
	internet *network
	servers  [2]*server
}

// newWorld makes an internet with two STUN servers.
func newWorld(t *testing.T, seed uint64) *world {
	t.Helper()
	w := &world{t: t, now: time.Unix(1_000_000_000, 0), rand: rand.New(rand.NewPCG(seed, 1))}
	w.internet = w.network(20 * time.Millisecond)
	for i := range w.servers {
		w.servers[i] = &server{addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, 113, byte(i + 1)}), 3478)}
		w.internet.members[w.servers[i].addr.Addr()] = w.servers[i]
	}
	return w
}

type event struct {
	at  time.Time
	seq int
	do  func()
}

type events []event

func (e events) Len() int      { return len(e) }
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	last := len(*e) - 1
	x := (*e)[last]
	*e = (*e)[:last]
	return x
}

func (e events) Less(i, j int) bool {
	if !e[i].at.Equal(e[j].at) {
		return e[i].at.Before(e[j].at)
	}
	return e[i].seq < e[j].seq
}

func (w *world) after(d time.Duration, do func()) {
	w.count++
	heap.Push(&w.queue, event{w.now.Add(d), w.count, do})
}

// run lets d pass, or less if until is true before.
func (w *world) run(d time.Duration, until func() bool) {
	end := w.now.Add(d)
	for len(w.queue) > 0 && !w.queue[0].at.After(end) && !until() {
		e := heap.Pop(&w.queue).(event)
		w.now = e.at
		e.do()
	}
	if !until() {
		w.now = end
	}
}

func never() bool { return false }

// member is what has an address in a network.
type member interface {
	take(from, to netip.AddrPort, b []byte)
}

// network carries packets between its members, and others to where it leads.
type network struct {
	w       *world
	delay   time.Duration
	members map[netip.Addr]member
	up      *box // nil: nowhere
}

func (w *world) network(delay time.Duration) *network {
	return &network{w: w, delay: delay, members: make(map[netip.Addr]member)}
}

func (n *network) send(from, to netip.AddrPort, b []byte) {
	if n.w.loss > n.w.rand.Float64() {
		return
	}
	if m := n.members[to.Addr()]; m != nil {
		n.w.after(n.delay, func() { m.take(from, to, b) })
	} else if n.up != nil {
		n.w.after(time.Millisecond, func() { n.up.out(from, to, b) })
	}
}

// server tells how it sees others.
type server struct {
	addr netip.AddrPort
	seen netip.AddrPort
}

func (s *server) take(from, to netip.AddrPort, b []byte) { s.seen = from }

// on says what of the other side's address counts.
type on int

const (
	nothing on = iota
	address
	addressAndPort
)

func (o on) of(a netip.AddrPort) netip.AddrPort {
	switch o {
	case nothing:
		return netip.AddrPort{}
	case address:
		return netip.AddrPortFrom(a.Addr(), 0)
	}
	return a
}

// nature is what a box does (RFC 4787).
type nature struct {
	name     string
	none     bool // there is no box
	firewall bool // it filters, and leaves addresses as they are
	blocked  bool // it lets no UDP through
	mapping  on
	filter   on
	preserve bool // it keeps ports where it can
	count    bool // it gives ports in order
	hairpin  bool
}

// box is a NAT or firewall.
type box struct {
	nature
	w            *world
	outside      netip.Addr
	outer, inner *network
	next         uint16
	mapped       map[[2]netip.AddrPort]uint16
	inside       map[uint16]netip.AddrPort
	allowed      map[uint16]map[netip.AddrPort]bool
}

// box puts one between a new network and outer, and returns the network.
func (w *world) box(outer *network, outside string, n nature) *network {
	inner := w.network(time.Millisecond)
	b := &box{
		nature: n, w: w, outside: netip.MustParseAddr(outside), outer: outer, inner: inner, next: 30000,
		mapped: make(map[[2]netip.AddrPort]uint16), inside: make(map[uint16]netip.AddrPort), allowed: make(map[uint16]map[netip.AddrPort]bool),
	}
	outer.members[b.outside] = b
	inner.up = b
	return inner
}

func (b *box) out(from, to netip.AddrPort, data []byte) {
	if b.blocked {
		return
	}
	key := [2]netip.AddrPort{from, b.mapping.of(to)}
	port, ok := b.mapped[key]
	if !ok {
		port = b.port(from.Port())
		b.mapped[key], b.inside[port], b.allowed[port] = port, from, make(map[netip.AddrPort]bool)
	}
	b.allowed[port][b.filter.of(to)] = true
	from = netip.AddrPortFrom(b.outside, port)
	if to.Addr() != b.outside {
		b.outer.send(from, to, data)
	} else if b.hairpin {
		b.take(from, to, data)
	}
}

func (b *box) port(want uint16) uint16 {
	for {
		port := uint16(1024 + b.w.rand.IntN(1<<16-1024))
		switch _, taken := b.inside[want]; {
		case b.firewall, b.preserve && !taken:
			return want
		case b.count:
			b.next++
			port = b.next
		}
		if _, taken := b.inside[port]; !taken {
			return port
		}
	}
}

func (b *box) take(from, to netip.AddrPort, data []byte) {
	if b.allowed[to.Port()][b.filter.of(from)] {
		b.inner.send(from, b.inside[to.Port()], data)
	}
}

// peer is a host with a machine.
type peer struct {
	w          *world
	name       string
	net        *network
	addr       netip.AddrPort // of socket 0; socket i has the port i above
	seen       []netip.AddrPort
	mapping    Mapping
	advertised []netip.AddrPort // by the other side
	met        map[netip.AddrPort]bool
	machine    *Machine
	guess      bool
	wake       int // the Poll that counts
	sent       int
	sentTo     map[netip.AddrPort]int
	got        map[string]Path // what came that was no punch packet
	worksAfter time.Duration
	began      time.Time
}

// peer makes a host in a network.
func (w *world) peer(name string, n *network, addr string) *peer {
	p := &peer{
		w: w, name: name, net: n, addr: netip.MustParseAddrPort(addr), met: make(map[netip.AddrPort]bool), sentTo: make(map[netip.AddrPort]int), got: make(map[string]Path),
	}
	if n.members[p.addr.Addr()] != nil {
		w.t.Fatalf("%s is there already", p.addr)
	}
	n.members[p.addr.Addr()] = p
	return p
}

// behind makes a host in a LAN of its own.
func (w *world) behind(name, outside string, n nature) *peer {
	switch {
	case n.none:
		return w.peer(name, w.internet, outside+":4001")
	case n.firewall:
		return w.peer(name, w.box(w.internet, outside, n), outside+":4001")
	}
	return w.peer(name, w.box(w.internet, outside, n), "192.168.1.2:4001")
}

// ask lets the first n servers tell the peer how they see it.
func (p *peer) ask(n int) {
	for _, s := range p.w.servers[:n] {
		s.seen = netip.AddrPort{}
		p.net.send(p.addr, s.addr, []byte("?"))
		p.w.run(200*time.Millisecond, never)
		if s.seen.IsValid() && !slices.Contains(p.seen, s.seen) {
			p.seen = append(p.seen, s.seen)
		}
	}
	switch {
	case len(p.seen) > 1:
		p.mapping = DependentMapping
	case len(p.seen) == 1 && (n > 1 || p.seen[0] == p.addr):
		p.mapping = IndependentMapping
	}
}

func (p *peer) candidates() []netip.AddrPort {
	if slices.Contains(p.seen, p.addr) {
		return p.seen
	}
	return append(slices.Clone(p.seen), p.addr)
}

func (p *peer) path(from, to netip.AddrPort) Path {
	return Path{int(to.Port() - p.addr.Port()), from}
}

func (p *peer) take(from, to netip.AddrPort, b []byte) {
	path := p.path(from, to)
	if _, ok := SessionOf(b); !ok {
		p.got[string(b)] = path
		return
	}
	if p.machine == nil {
		return
	}
	if p.machine.Receive(p.w.now, path, b) {
		p.met[from] = true
		if p.machine.Receive(p.w.now, path, b) {
			p.w.t.Errorf("%s: the same packet was taken twice", p.name) // PN4
		}
		p.poll()
	}
}

func (p *peer) begin(cfg Config, guess bool) {
	cfg.Key, cfg.Session, cfg.Mapping = testKey, testSession, p.mapping
	p.guess = guess && len(p.seen) > 0
	p.machine, p.began = New(p.w.now, cfg), p.w.now
}

// learn takes what the peer's message says.
func (p *peer) learn(m Message) {
	m, err := Read(bytes.NewReader(m.Append(nil)))
	if err != nil {
		p.w.t.Fatal(err)
	}
	p.advertised = m.Addrs
	p.machine.Add(p.w.now, Usable(m.Addrs, p.addr.Addr())...)
	p.machine.Peer(p.w.now, Usable(m.Addrs[:m.Outside], p.addr.Addr()), m.Mapping)
	p.poll()
}

func (p *peer) message(t Type) Message {
	return Message{Type: t, Session: testSession, Key: testKey, Addrs: p.candidates(), Outside: len(p.seen), Mapping: p.mapping}
}

func (p *peer) send(path Path, b []byte) {
	p.net.send(netip.AddrPortFrom(p.addr.Addr(), p.addr.Port()+uint16(path.Socket)), path.Remote, b)
}

func (p *peer) poll() {
	if p.guess && p.machine.Stuck(p.w.now) {
		p.machine.Guess(p.w.now, MaxSockets)
	}
	packets, next := p.machine.Poll(p.w.now)
	for _, q := range packets {
		p.sent++
		p.sentTo[q.Remote]++
		p.check(q)
		p.send(q.Path, q.Data)
	}
	if _, ok := p.machine.Works(); ok && p.worksAfter == 0 {
		p.worksAfter = p.w.now.Sub(p.began)
	}
	p.wake++
	if mine := p.wake; !next.IsZero() {
		if !next.After(p.w.now) {
			p.w.t.Fatalf("%s: to be polled again at once", p.name)
		}
		p.w.after(next.Sub(p.w.now), func() {
			if mine == p.wake {
				p.poll()
			}
		})
	}
}

// check asserts PN5: a packet goes to an address that the peer has told or that an authentic packet has come from, or to a guessed port of one.
func (p *peer) check(q Packet) {
	guess := p.guess && q.Socket == 0 && q.Data[0] == kindPing &&
		slices.ContainsFunc(p.advertised, func(a netip.AddrPort) bool { return a.Addr() == q.Remote.Addr() })
	if !slices.Contains(p.advertised, q.Remote) && !p.met[q.Remote] && !guess {
		p.w.t.Errorf("%s sends to %v, which nobody has told it", p.name, q.Remote)
	}
	if len(q.Data) != PacketSize {
		p.w.t.Errorf("%s sends %d bytes", p.name, len(q.Data))
	}
}

// meet lets a offer a session to b over a relay, 40 ms away, and lets them try for 10 s. It returns how long a took to find a path
// that works, 0 if it did not, and checks that data passes there in both directions.
func (w *world) meet(a, b *peer, servers int, guess bool) time.Duration {
	w.t.Helper()
	loss := w.loss
	w.loss = 0 // servers are asked until they answer
	a.ask(servers)
	b.ask(servers)
	w.loss = loss
	const relay = 40 * time.Millisecond
	a.begin(Config{}, guess)
	w.after(relay, func() {
		offer := a.message(Offer)
		b.begin(Config{Controlled: true}, guess)
		b.learn(offer)
		w.after(relay, func() { a.learn(b.message(Answer)) })
	})
	w.run(Lifetime+time.Second, func() bool { return a.worksAfter > 0 })
	if a.worksAfter == 0 {
		if _, ok := b.machine.Works(); ok {
			w.t.Errorf("%s found a path, but not %s", b.name, a.name)
		}
		return 0
	}
	w.loss = 0
	works, _ := a.machine.Works()
	a.send(works, []byte("there"))
	w.run(100*time.Millisecond, never)
	path, ok := b.got["there"]
	if !ok || !b.machine.Met(path) {
		w.t.Errorf("%s cannot send by %v: there %v arrives", a.name, works, path)
	}
	b.send(path, []byte("back"))
	w.run(100*time.Millisecond, never)
	if got := a.got["back"]; got != works {
		w.t.Errorf("%s gets answers by %v, want %v", a.name, got, works)
	}
	w.loss = loss
	w.run(Lifetime, never)
	return a.worksAfter
}

func ms(d time.Duration) string {
	if d == 0 {
		return "relayed"
	}
	return fmt.Sprintf("%d ms", d.Milliseconds())
}
