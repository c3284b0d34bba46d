package pheromones_test

import (
	"bytes"
	"context"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"
)

// internet is a simulated network for UDP: hosts with public addresses, and NATs with hosts behind them. A packet takes 20 ms from
// anyone to anyone, as if every access link took 10 ms, and none within a LAN. Time is that of testing/synctest.
type internet struct {
	mu     sync.Mutex
	nats   map[netip.Addr]*nat // by outside address
	socks  map[netip.AddrPort]*sock
	behind map[netip.Addr]*nat   // by inside address
	down   map[netip.Addr]bool   // hosts whose interface is down
	sent   map[[2]netip.Addr]int // packets by the sender's address outside and the receiver's, before filtering
}

const crossing = 20 * time.Millisecond

func newInternet() *internet {
	return &internet{
		nats: make(map[netip.Addr]*nat), socks: make(map[netip.AddrPort]*sock), behind: make(map[netip.Addr]*nat), down: make(map[netip.Addr]bool),
		sent: make(map[[2]netip.Addr]int),
	}
}

// nat is a NAT as RFC 4787 describes them. Its fields are guarded by internet.mu.
type nat struct {
	outside  netip.Addr
	mapping  dependence
	filter   dependence
	next     uint16
	mappings map[mappingKey]uint16
	inside   map[uint16]netip.AddrPort
	allowed  map[uint16]map[netip.AddrPort]bool // whom each outside port has sent to
}

// dependence says what of the other side's address a NAT looks at.
type dependence int

const (
	independent dependence = iota
	addressDependent
	addressAndPortDependent
)

// of returns what of an address counts.
func (d dependence) of(a netip.AddrPort) netip.AddrPort {
	switch d {
	case independent:
		return netip.AddrPort{}
	case addressDependent:
		return netip.AddrPortFrom(a.Addr(), 0)
	}
	return a
}

type mappingKey struct{ from, to netip.AddrPort }

// addNAT makes a NAT with the given address outside.
func (w *internet) addNAT(outside string, mapping, filter dependence) *nat {
	n := &nat{outside: netip.MustParseAddr(outside), mapping: mapping, filter: filter, next: 20000}
	w.mu.Lock()
	defer w.mu.Unlock()
	n.forget()
	w.nats[n.outside] = n
	return n
}

func (n *nat) forget() {
	n.mappings, n.inside, n.allowed = make(map[mappingKey]uint16), make(map[uint16]netip.AddrPort), make(map[uint16]map[netip.AddrPort]bool)
}

// rebind makes a NAT forget its mappings: whoever is behind it gets other ports.
func (w *internet) rebind(n *nat) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n.forget()
}

// out translates the source of a packet.
func (n *nat) out(from, to netip.AddrPort) netip.AddrPort {
	key := mappingKey{from, n.mapping.of(to)}
	port, ok := n.mappings[key]
	if !ok {
		n.next++
		if n.mapping != independent {
			for n.next = n.next*25173 + 13848; n.next < 1024; n.next = n.next*25173 + 13849 { // the next one is far from the last
			}
		}
		port = n.next
		n.mappings[key] = port
		n.inside[port] = from
		n.allowed[port] = make(map[netip.AddrPort]bool)
	}
	n.allowed[port][n.filter.of(to)] = true
	return netip.AddrPortFrom(n.outside, port)
}

// sock is a UDP socket of a host.
type sock struct {
	w    *internet
	addr netip.AddrPort

	mu       sync.Mutex
	queue    []arrival
	changed  chan struct{} // closed and replaced at every change
	deadline time.Time
	closed   bool
}

type arrival struct {
	at   time.Time
	from netip.AddrPort
	data []byte
}

// host returns a quic.Config.ListenPacket for a host of the given address, behind n unless that is nil.
func (w *internet) host(addr string, n *nat) func(context.Context, string, string) (net.PacketConn, error) {
	ip := netip.MustParseAddr(addr)
	if n != nil {
		w.mu.Lock()
		w.behind[ip] = n
		w.mu.Unlock()
	}
	port := uint16(4001)
	return func(context.Context, string, string) (net.PacketConn, error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		s := &sock{w: w, addr: netip.AddrPortFrom(ip, port), changed: make(chan struct{})}
		port++
		w.socks[s.addr] = s
		return s, nil
	}
}

// setDown takes the interface of a host away, or brings it back.
func (w *internet) setDown(addr string, down bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.down[netip.MustParseAddr(addr)] = down
}

// move puts a host behind another NAT, and keeps its own address, as if the routers used the same ones inside.
func (w *internet) move(addr string, n *nat) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.behind[netip.MustParseAddr(addr)] = n
}

// route finds the socket that a packet arrives at, if it does.
func (w *internet) route(from, to netip.AddrPort) (*sock, netip.AddrPort, time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.down[from.Addr()] {
		return nil, from, 0
	}
	n := w.behind[from.Addr()]
	if n != nil && w.behind[to.Addr()] == n {
		return w.socks[to], from, 0
	}
	if n != nil {
		from = n.out(from, to)
	}
	w.sent[[2]netip.Addr{from.Addr(), to.Addr()}]++
	if far := w.nats[to.Addr()]; far != nil {
		inside, ok := far.inside[to.Port()]
		if !ok || far == n || w.behind[inside.Addr()] != far || !far.allowed[to.Port()][far.filter.of(from)] {
			return nil, from, 0
		}
		to = inside
	} else if w.behind[to.Addr()] != nil {
		return nil, from, 0 // a private address
	}
	if w.down[to.Addr()] {
		return nil, from, 0
	}
	return w.socks[to], from, crossing
}

func (s *sock) WriteTo(b []byte, addr net.Addr) (int, error) {
	to := addr.(*net.UDPAddr).AddrPort()
	far, from, delay := s.w.route(s.addr, netip.AddrPortFrom(to.Addr().Unmap(), to.Port()))
	if far != nil {
		far.mu.Lock()
		defer far.mu.Unlock()
		if len(far.queue) < 4096 {
			far.queue = append(far.queue, arrival{time.Now().Add(delay), from, bytes.Clone(b)})
			far.signal()
		}
	}
	return len(b), nil
}

// signal wakes whoever reads, with mu held.
func (s *sock) signal() {
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *sock) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		s.mu.Lock()
		now, until := time.Now(), s.deadline
		switch {
		case s.closed:
			s.mu.Unlock()
			return 0, nil, net.ErrClosed
		case !s.deadline.IsZero() && !now.Before(s.deadline):
			s.mu.Unlock()
			return 0, nil, os.ErrDeadlineExceeded
		case len(s.queue) > 0 && !now.Before(s.queue[0].at):
			a := s.queue[0]
			s.queue = s.queue[1:]
			s.mu.Unlock()
			return copy(b, a.data), net.UDPAddrFromAddrPort(a.from), nil
		case len(s.queue) > 0 && (until.IsZero() || s.queue[0].at.Before(until)):
			until = s.queue[0].at
		}
		changed := s.changed
		s.mu.Unlock()
		if until.IsZero() {
			<-changed
			continue
		}
		timer := time.NewTimer(until.Sub(now))
		select {
		case <-changed:
		case <-timer.C:
		}
		timer.Stop()
	}
}

func (s *sock) Close() error {
	s.w.mu.Lock()
	delete(s.w.socks, s.addr)
	s.w.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.signal()
	return nil
}

func (s *sock) SetReadDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deadline = t
	s.signal()
	return nil
}

func (s *sock) LocalAddr() net.Addr              { return net.UDPAddrFromAddrPort(s.addr) }
func (s *sock) SetDeadline(t time.Time) error    { return s.SetReadDeadline(t) }
func (s *sock) SetWriteDeadline(time.Time) error { return nil }

// TestInternet checks the simulation itself.
func TestInternet(t *testing.T) {
	w := newInternet()
	cone := w.addNAT("198.51.100.1", independent, independent)
	strict := w.addNAT("198.51.100.2", addressAndPortDependent, addressAndPortDependent)
	open := func(f func(context.Context, string, string) (net.PacketConn, error)) *sock {
		c, _ := f(t.Context(), "", "")
		return c.(*sock)
	}
	a, b := open(w.host("10.0.1.2", cone)), open(w.host("10.0.2.2", strict))
	p, q := open(w.host("203.0.113.1", nil)), open(w.host("203.0.113.2", nil))
	seen := func(from, to *sock) netip.AddrPort {
		_, at, _ := w.route(from.addr, to.addr)
		return at
	}
	if seen(a, p) != seen(a, q) || seen(b, p) == seen(b, q) {
		t.Error("the mappings are wrong")
	}
	for _, tt := range []struct {
		name     string
		from, to netip.AddrPort
		arrives  bool
	}{
		{"to a full cone", q.addr, seen(a, p), true},
		{"back through a strict one", p.addr, seen(b, p), true},
		{"to a strict one from elsewhere", q.addr, seen(b, p), false},
		{"to a private address", p.addr, a.addr, false},
	} {
		if s, _, _ := w.route(tt.from, tt.to); (s != nil) != tt.arrives {
			t.Errorf("%s: arrives %v, want %v", tt.name, s != nil, tt.arrives)
		}
	}
}
