package punch

import (
	"net/netip"
	"slices"
	"time"
)

// Config says what a [Machine] is to do.
type Config struct {
	Key     Key
	Session Session
	// Controlled says that this side was offered the session.
	Controlled bool
	// Remote are the peer's addresses that it told over the authenticated connection, as [Usable] has left them. More may be added.
	Remote []netip.AddrPort
	// Mapping is how the NAT before this side maps, as far as is known.
	Mapping Mapping
	// Sockets is how many further sockets the caller can open for this attempt, so that a peer can guess the port of one of them.
	// Zero or less: none; more than [MaxSockets] count as those.
	Sockets int
	// Guess permits to guess ports of a peer whose NAT gives it another one for each address that it sends to.
	Guess bool
}

const (
	// Lifetime is for how long a machine sends pings and answers, from its beginning.
	Lifetime = 10 * time.Second

	// maxTargets bounds the addresses that a machine sends pings to over and over: those advertised, and those that authentic packets came from.
	maxTargets = MaxAddrs + 8
	// maxPings and maxPongs bound what goes to one of them.
	maxPings = 32
	maxPongs = 64
	// maxWaiting bounds the answers that wait for Poll.
	maxWaiting = 64
	// improving is for how long a path that works is given up for a better one.
	improving = 500 * time.Millisecond
)

// gaps are the pauses between the pings to one address; the last one repeats.
var gaps = [...]time.Duration{
	20 * time.Millisecond, 30 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond, 200 * time.Millisecond, 400 * time.Millisecond, time.Second,
}

// Packet is to be sent.
type Packet struct {
	Path
	Data []byte
}

// Machine is one side of an attempt. It does no I/O and knows no clock. Its methods must not be called at once.
type Machine struct {
	cfg     Config
	end     time.Time
	targets []*target
	number  uint32 // of the last packet sent
	came    window // the peer's packets
	works   Path
	since   time.Time // something works
	out     []Packet  // answers that wait for Poll
	spray   spray
}

// target is a path that is pinged.
type target struct {
	Path
	met      bool // something authentic has come by it
	answered bool
	pongs    int
	sent     int
	last     time.Time // when the last ping was sent
	next     time.Time // when the next one is
	pings    []uint32  // the numbers of the last 16
}

// New begins an attempt.
func New(now time.Time, cfg Config) *Machine {
	m := &Machine{cfg: cfg, end: now.Add(Lifetime)}
	m.Add(now, cfg.Remote...)
	return m
}

// Add adds addresses that the peer has told over the authenticated connection, as [Usable] has left them. Those beyond the bounds are left out.
func (m *Machine) Add(now time.Time, addrs ...netip.AddrPort) {
	for _, a := range addrs {
		if len(m.targets) < MaxAddrs {
			m.target(now, Path{Remote: a})
		}
	}
}

// target returns the target of a path, a new one if need be; nil if there are too many.
func (m *Machine) target(now time.Time, p Path) *target {
	for _, t := range m.targets {
		if t.Path == p {
			return t
		}
	}
	if len(m.targets) >= maxTargets {
		return nil
	}
	t := &target{Path: p, next: now}
	m.targets = append(m.targets, t)
	return t
}

// Works returns the path on which the peer has answered a packet: packets pass there in both directions. It is the first one, and
// for half a second after that it may still change for a better one: a private address, by which the peers' packets do not leave
// the network that both are in.
func (m *Machine) Works() (Path, bool) { return m.works, m.works.Remote.IsValid() }

// Met reports whether an authentic packet has come by a path.
func (m *Machine) Met(p Path) bool {
	p.Remote = unmap(p.Remote)
	return slices.ContainsFunc(m.targets, func(t *target) bool { return t.met && t.Path == p })
}

// Poll returns what is to be sent now, and when to call again at the latest: the zero time when the attempt is over. It is to be
// called after each Receive, Add and Peer, too.
func (m *Machine) Poll(now time.Time) (packets []Packet, next time.Time) {
	packets, m.out = m.out, nil
	if !now.Before(m.end) {
		return packets, time.Time{}
	}
	next = m.end
	for _, t := range m.targets {
		if t.sent >= maxPings || !m.wants(t, now) {
			continue
		}
		if !now.Before(t.next) {
			packets = append(packets, m.ping(t, now))
		}
		if t.next.Before(next) {
			next = t.next
		}
	}
	packets, next = m.pollSpray(now, packets, next)
	return packets, next
}

// wants reports whether something may come of pings to t: until something works, and then to keep it so, and for a better one.
func (m *Machine) wants(t *target, now time.Time) bool {
	return !m.works.Remote.IsValid() || t.Path == m.works || !t.answered && m.better(t, now)
}

func (m *Machine) better(t *target, now time.Time) bool {
	return t.rank() < m.works.rank() && now.Sub(m.since) < improving
}

func (m *Machine) ping(t *target, now time.Time) Packet {
	t.last, t.next = now, now.Add(gaps[min(t.sent, len(gaps)-1)])
	t.sent++
	p := m.fling(t.Path)
	if t.pings = append(t.pings, m.number); len(t.pings) > 16 {
		t.pings = t.pings[1:]
	}
	return p
}

// fling returns a ping that is not remembered: what comes of it is pinged in its turn.
func (m *Machine) fling(p Path) Packet {
	m.number++
	return m.packet(p, packet{kind: kindPing, number: m.number})
}

func (m *Machine) packet(to Path, p packet) Packet {
	p.session, p.controlled = m.cfg.Session, m.cfg.Controlled
	return Packet{to, p.append(nil, &m.cfg.Key)}
}

// Receive takes a packet that has come, at the socket and from the address that path says, if it is one of the session's, and
// reports whether it was authentic and new. b stays the caller's.
func (m *Machine) Receive(now time.Time, path Path, b []byte) bool {
	p, ok := parse(b, &m.cfg.Key)
	if !ok || p.session != m.cfg.Session || p.controlled == m.cfg.Controlled || !now.Before(m.end) || !m.came.fresh(p.number) {
		return false
	}
	path.Remote = unmap(path.Remote)
	t := m.target(now, path)
	if t == nil {
		return true
	}
	t.met = true
	switch {
	case p.kind == kindPong:
		m.answer(t, p.echo, now)
	case t.pongs < maxPongs && len(m.out) < maxWaiting:
		t.pongs++
		m.number++
		m.out = append(m.out, m.packet(t.Path, packet{kind: kindPong, number: m.number, echo: p.number}))
		// The peer gets through to us, so our packets to it get through now: soon, and not when their turn comes.
		if soon := t.last.Add(gaps[0]); !t.answered && soon.Before(t.next) {
			t.next = soon
		}
	}
	return true
}

// answer takes the peer's answer to a ping to t.
func (m *Machine) answer(t *target, echo uint32, now time.Time) {
	if !slices.Contains(t.pings, echo) {
		return
	}
	t.answered = true
	switch {
	case !m.works.Remote.IsValid():
		m.works, m.since = t.Path, now
	case m.better(t, now):
		m.works = t.Path
	}
}

func unmap(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }
