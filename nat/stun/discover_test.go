package stun

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	pion "github.com/pion/stun/v3"
)

// fakeNAT is a NAT before one socket.
type fakeNAT struct {
	mapping   Mapping
	filtering Filtering
	outside   map[netip.AddrPort]netip.AddrPort          // by what the mapping depends on
	sent      map[netip.AddrPort]map[netip.AddrPort]bool // by outside address: where packets went
}

// part is what of an address a NAT looks at: 0 nothing, 1 the IP, 2 all.
func part(a netip.AddrPort, n int) netip.AddrPort {
	switch n {
	case 0:
		return netip.AddrPort{}
	case 1:
		return netip.AddrPortFrom(a.Addr(), 0)
	}
	return a
}

func (n *fakeNAT) out(to netip.AddrPort) (from netip.AddrPort) {
	key := part(to, int(n.mapping-EndpointIndependentMapping))
	if n.outside == nil {
		n.outside, n.sent = make(map[netip.AddrPort]netip.AddrPort), make(map[netip.AddrPort]map[netip.AddrPort]bool)
	}
	from, ok := n.outside[key]
	if !ok {
		from = netip.AddrPortFrom(netip.MustParseAddr("198.51.100.7"), uint16(50000+len(n.outside)))
		n.outside[key], n.sent[from] = from, make(map[netip.AddrPort]bool)
	}
	n.sent[from][part(to, int(n.filtering-EndpointIndependentFiltering))] = true
	return from
}

func (n *fakeNAT) lets(to, from netip.AddrPort) bool {
	return n.sent[to][part(from, int(n.filtering-EndpointIndependentFiltering))]
}

// fakeServer answers as RFC 5780 §7 has it, at two IPs and two ports, if it has an other address, else as a Responder.
type fakeServer struct{ main, other netip.AddrPort }

// answer returns what the server at an address answers, and from where.
func (s fakeServer) answer(t *testing.T, packet []byte, from, at netip.AddrPort) ([]byte, netip.AddrPort) {
	t.Helper()
	m, ok := parse(packet)
	if !ok {
		t.Fatalf("asked with %x", packet)
	}
	if !s.other.IsValid() {
		if at != s.main {
			return nil, at
		}
		return NewResponder(nil).Respond(packet, from, time.Unix(0, 0)), at
	}
	ip, port := at.Addr(), at.Port()
	swap := func(bit byte) bool {
		v, err := m.Get(pion.AttrChangeRequest)
		return err == nil && v[3]&bit != 0
	}
	opposite := netip.AddrPortFrom(s.main.Addr(), s.main.Port())
	if ip == s.main.Addr() {
		opposite = netip.AddrPortFrom(s.other.Addr(), opposite.Port())
	}
	if port == s.main.Port() {
		opposite = netip.AddrPortFrom(opposite.Addr(), s.other.Port())
	}
	if (ip != s.main.Addr() && ip != s.other.Addr()) || (port != s.main.Port() && port != s.other.Port()) {
		return nil, at
	}
	if swap(4) {
		ip = opposite.Addr()
	}
	if swap(2) {
		port = opposite.Port()
	}
	return success(t, m.TransactionID, from, &pion.OtherAddress{IP: opposite.Addr().AsSlice(), Port: int(opposite.Port())}, pion.Fingerprint), netip.AddrPortFrom(ip, port)
}

// discover runs a Discovery in virtual time, from behind a NAT. What lost says does not arrive.
func discover(t *testing.T, n *fakeNAT, lost func(i int) bool, servers ...fakeServer) (Report, time.Duration) {
	t.Helper()
	start := time.Unix(1000, 0)
	now := start
	var addrs []netip.AddrPort
	for _, s := range servers {
		addrs = append(addrs, s.main)
	}
	d, err := NewDiscovery(nil, now, addrs...)
	if err != nil {
		t.Fatal(err)
	}
	packets := 0
	for range 1000 {
		sent, next := d.Poll(now)
		if next.IsZero() {
			r, done := d.Report()
			if !done {
				t.Fatal("it wants no more and is not done")
			}
			return r, now.Sub(start)
		}
		received := false
		for _, p := range sent {
			from := n.out(p.To)
			for _, s := range servers {
				answer, source := s.answer(t, p.Data, from, p.To)
				if answer == nil {
					continue
				}
				if packets++; n.lets(from, source) && !lost(packets) {
					received = d.Receive(answer, source) || received
				}
			}
		}
		if !received {
			if !next.After(now) {
				t.Fatal("it wants to be called at once, for nothing")
			}
			now = next
		}
	}
	t.Fatal("it does not end")
	return Report{}, 0
}

func nothing(int) bool { return false }

var (
	full   = fakeServer{netip.MustParseAddrPort("203.0.113.1:3478"), netip.MustParseAddrPort("203.0.113.2:3479")}
	plainA = fakeServer{main: netip.MustParseAddrPort("192.0.2.1:4001")}
	plainB = fakeServer{main: netip.MustParseAddrPort("192.0.2.2:4001")}
	plainC = fakeServer{main: netip.MustParseAddrPort("192.0.2.2:4002")}
)

// TestVerdicts discovers every kind of NAT of RFC 4787, without loss and with.
func TestVerdicts(t *testing.T) {
	for m := EndpointIndependentMapping; m <= AddressAndPortDependentMapping; m++ {
		for f := EndpointIndependentFiltering; f <= AddressAndPortDependentFiltering; f++ {
			for name, lost := range map[string]func(int) bool{"no loss": nothing, "half lost": func(i int) bool { return i%2 == 1 }} {
				t.Run(fmt.Sprintf("%s, %s, %s", m, f, name), func(t *testing.T) {
					r, took := discover(t, &fakeNAT{mapping: m, filtering: f}, lost, full)
					if r.Mapping != m || r.Filtering != f || len(r.Errs) > 0 || len(r.Seen) != 3 || r.Mapped != r.Seen[0].Mapped {
						t.Errorf("found %+v", r)
					}
					if took > 10*time.Second {
						t.Errorf("took %v", took)
					}
					// A server without another address in front changes nothing but what is seen.
					if r, _ := discover(t, &fakeNAT{mapping: m, filtering: f}, nothing, plainA, full); r.Mapping != m || r.Filtering != f {
						t.Errorf("with another server: %+v", r)
					}
				})
			}
		}
	}
}

// TestOrdinaryServers: nodes have one address each.
func TestOrdinaryServers(t *testing.T) {
	for _, test := range []struct {
		mapping Mapping
		servers []fakeServer
		want    Mapping
	}{
		{EndpointIndependentMapping, []fakeServer{plainA}, MappingUnknown},
		{EndpointIndependentMapping, []fakeServer{plainB, plainC}, MappingUnknown},
		{AddressDependentMapping, []fakeServer{plainB, plainC}, MappingUnknown},
		{AddressAndPortDependentMapping, []fakeServer{plainB, plainC}, AddressAndPortDependentMapping},
		{EndpointIndependentMapping, []fakeServer{plainA, plainB}, EndpointIndependentMapping},
		{AddressDependentMapping, []fakeServer{plainA, plainB}, DependentMapping},
		{AddressAndPortDependentMapping, []fakeServer{plainA, plainB}, DependentMapping},
		{EndpointIndependentMapping, []fakeServer{plainA, plainB, plainC}, EndpointIndependentMapping},
		{AddressDependentMapping, []fakeServer{plainA, plainB, plainC}, AddressDependentMapping},
		{AddressAndPortDependentMapping, []fakeServer{plainA, plainB, plainC}, AddressAndPortDependentMapping},
	} {
		r, took := discover(t, &fakeNAT{mapping: test.mapping, filtering: AddressAndPortDependentFiltering}, nothing, test.servers...)
		if r.Mapping != test.want || r.Filtering != FilteringUnknown || len(r.Seen) != len(test.servers) || len(r.Errs) > 0 || took != 0 {
			t.Errorf("%s, %d servers: found %+v after %v, want %s", test.mapping, len(test.servers), r, took, test.want)
		}
	}
}

// TestUnhelpfulServers: a server is silent, refuses to change, or names an other address that is none.
func TestUnhelpfulServers(t *testing.T) {
	nat := func() *fakeNAT {
		return &fakeNAT{mapping: EndpointIndependentMapping, filtering: EndpointIndependentFiltering}
	}
	silent := fakeServer{main: plainB.main, other: full.other}
	silent.main = netip.AddrPortFrom(silent.main.Addr(), 9)
	r, took := discover(t, nat(), func(i int) bool { return true }, plainA)
	var noAnswer *NoAnswerError
	if len(r.Errs) != 1 || !errors.As(r.Errs[0], &noAnswer) || took != 39500*time.Millisecond || r.Mapping != MappingUnknown {
		t.Errorf("a silent server: %+v after %v", r, took)
	}
	for _, other := range []netip.AddrPort{
		netip.AddrPortFrom(full.main.Addr(), 9),                     // the same IP
		netip.AddrPortFrom(full.other.Addr(), full.main.Port()),     // the same port
		netip.AddrPortFrom(netip.IPv4Unspecified(), 9),              // nobody
		netip.MustParseAddrPort("[2001:db8::1]:9"),                  // another family
		netip.AddrPortFrom(netip.MustParseAddr("224.0.0.1"), 12345), // many
	} {
		if r, took := discover(t, nat(), nothing, fakeServer{full.main, other}); r.Filtering != FilteringUnknown || len(r.Seen) != 1 || took != 0 {
			t.Errorf("other address %s: %+v after %v", other, r, took)
		}
	}

	// It names an other address and refuses to answer from there.
	now := time.Unix(1000, 0)
	d, err := NewDiscovery(nil, now, full.main)
	if err != nil {
		t.Fatal(err)
	}
	sent, _ := d.Poll(now)
	answer, _ := full.answer(t, sent[0].Data, v4, full.main)
	d.Receive(answer, full.main)
	sent, _ = d.Poll(now)
	if len(sent) != 2 {
		t.Fatalf("%d requests to change, want 2", len(sent))
	}
	for i, from := range []netip.AddrPort{full.other, netip.AddrPortFrom(full.main.Addr(), full.other.Port())} {
		m, _ := parse(sent[i].Data)
		b, err := build(pion.BindingError, m.TransactionID, pion.CodeUnknownAttribute)
		if err != nil {
			t.Fatal(err)
		}
		d.Receive(b, from)
	}
	d.Poll(now)
	if r, _ := d.Report(); r.Filtering != FilteringUnknown || len(r.Errs) != 2 {
		t.Errorf("a server that refuses to change: %+v", r)
	}
}

func TestNewDiscovery(t *testing.T) {
	now := time.Unix(1000, 0)
	for name, servers := range map[string][]netip.AddrPort{
		"none": nil, "too many": make([]netip.AddrPort, maxServers+1), "zero": {{}}, "two families": {v4, v6},
	} {
		if _, err := NewDiscovery(nil, now, servers...); !errors.Is(err, ErrBadServer) {
			t.Errorf("%s: %v", name, err)
		}
	}
	d, err := NewDiscovery(nil, now, v4, netip.AddrPortFrom(netip.AddrFrom16(v4.Addr().As16()), v4.Port()))
	if err != nil {
		t.Fatal(err)
	}
	if sent, _ := d.Poll(now); len(sent) != 1 {
		t.Errorf("one server given twice was asked %d times", len(sent))
	}
}
