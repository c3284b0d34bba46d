package punch

import (
	"net/netip"
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
}

const (
	// maxTargets bounds the addresses that a machine sends to: those advertised, and half as many that authentic packets came from.
	maxTargets = MaxAddrs + MaxAddrs/2
	// Lifetime is for how long a machine sends pings and answers, from its beginning.
	Lifetime = 10 * time.Second
)

// gaps are the pauses between the pings to one address; the last one repeats.
var gaps = [...]time.Duration{
	20 * time.Millisecond, 30 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond, 200 * time.Millisecond, 400 * time.Millisecond, time.Second,
}

// Packet is to be sent.
type Packet struct {
	To   netip.AddrPort
	Data []byte
}

// Machine is one side of an attempt. It does no I/O and knows no clock. Its methods must not be called at once.
type Machine struct {
	cfg     Config
	end     time.Time
	targets []*target
	number  uint32
	highest uint32 // of the peer's packets
	window  uint64 // which of the 64 up to highest have come
	works   netip.AddrPort
	out     []Packet
}

// target is an address that is pinged.
type target struct {
	addr  netip.AddrPort
	sent  int
	last  time.Time // when the last ping was sent
	next  time.Time // when the next one is
	pings []uint32 // the numbers of the last 16
}

// New begins an attempt.
func New(now time.Time, cfg Config) *Machine {
	m := &Machine{cfg: cfg, end: now.Add(Lifetime)}
	m.Add(now, cfg.Remote...)
	return m
}

// Add adds addresses that the peer has told over the authenticated connection. Those beyond the bounds are left out.
func (m *Machine) Add(now time.Time, addrs ...netip.AddrPort) {
	for _, a := range addrs {
		if len(m.targets) < MaxAddrs {
			m.add(now, a)
		}
	}
}

func (m *Machine) add(now time.Time, a netip.AddrPort) *target {
	for _, t := range m.targets {
		if t.addr == a {
			return t
		}
	}
	if len(m.targets) >= maxTargets {
		return nil
	}
	t := &target{addr: a, next: now}
	m.targets = append(m.targets, t)
	return t
}

// Works returns the address of the peer's from which it has answered a packet that was sent there, the first one. Packets pass there in both directions.
func (m *Machine) Works() (netip.AddrPort, bool) { return m.works, m.works.IsValid() }

// Poll returns what is to be sent now, and when to call again at the latest: the zero time when the attempt is over. It is to be called after each Receive and Add, too.
func (m *Machine) Poll(now time.Time) (packets []Packet, next time.Time) {
	packets, m.out = m.out, nil
	if !now.Before(m.end) {
		return packets, time.Time{}
	}
	next = m.end
	for _, t := range m.targets {
		// Once something works the side that was offered the session only answers; the other has what it wants.
		if m.works.IsValid() && t.addr != m.works {
			continue
		}
		if !now.Before(t.next) {
			packets = append(packets, m.ping(t, now))
		}
		if t.next.Before(next) {
			next = t.next
		}
	}
	return packets, next
}

func (m *Machine) ping(t *target, now time.Time) Packet {
	t.last, t.next = now, now.Add(gaps[min(t.sent, len(gaps)-1)])
	t.sent++
	m.number++
	if t.pings = append(t.pings, m.number); len(t.pings) > 16 {
		t.pings = t.pings[1:]
	}
	return m.packet(t.addr, packet{kind: kindPing, number: m.number})
}

func (m *Machine) packet(to netip.AddrPort, p packet) Packet {
	p.session, p.controlled = m.cfg.Session, m.cfg.Controlled
	return Packet{to, p.append(nil, &m.cfg.Key)}
}

// Receive takes a packet that has come, if it is one of the session's, and reports whether it was authentic and new.
func (m *Machine) Receive(now time.Time, from netip.AddrPort, b []byte) bool {
	p, ok := parse(b, &m.cfg.Key)
	if !ok || p.session != m.cfg.Session || p.controlled == m.cfg.Controlled || !now.Before(m.end) || !m.fresh(p.number) {
		return false
	}
	t := m.add(now, netip.AddrPortFrom(from.Addr().Unmap(), from.Port()))
	if t == nil {
		return true
	}
	if p.kind == kindPing {
		m.number++
		m.out = append(m.out, m.packet(t.addr, packet{kind: kindPong, number: m.number, echo: p.number}))
		// The peer gets through to us, so our packets to it get through now: soon, and not when their turn comes.
		if soon := t.last.Add(gaps[0]); !m.works.IsValid() && soon.Before(t.next) {
			t.next = soon
		}
		return true
	}
	if !m.works.IsValid() && t.sentPing(p.echo) {
		m.works = t.addr
	}
	return true
}

func (t *target) sentPing(number uint32) bool {
	for _, n := range t.pings {
		if n == number {
			return true
		}
	}
	return false
}

// fresh reports whether the peer's packet of that number has not come before (PN4).
func (m *Machine) fresh(number uint32) bool {
	switch {
	case number == 0:
		return false
	case number > m.highest:
		if shift := number - m.highest; shift < 64 {
			m.window = m.window<<shift | 1
		} else {
			m.window = 1
		}
		m.highest = number
		return true
	case m.highest-number >= 64:
		return false
	}
	bit := uint64(1) << (m.highest - number)
	if m.window&bit != 0 {
		return false
	}
	m.window |= bit
	return true
}
