package punch

import (
	"bytes"
	"net/netip"
	"testing"
	"time"
)

var (
	testKey     = Key{1, 2, 3}
	testSession = Session{0x80, 1, 2, 3, 4, 5, 6, 7}
	addrA       = netip.MustParseAddrPort("192.0.2.1:1000")
	addrB       = netip.MustParseAddrPort("198.51.100.2:2000")
	addrC       = netip.MustParseAddrPort("[2001:db8::1]:3000")
)

// TestMachineBounds checks that authentic packets from ever new addresses do not make it send to ever more.
func TestMachineBounds(t *testing.T) { // PN5
	now := time.Unix(0, 0)
	m := New(now, Config{Key: testKey, Session: testSession, Remote: []netip.AddrPort{addrA}})
	for i := range 1000 {
		from := netip.AddrPortFrom(addrB.Addr(), uint16(i+1))
		m.Receive(now, Path{Remote: from}, packet{kindPing, true, testSession, uint32(i + 1), 0}.append(nil, &testKey))
	}
	to := make(map[netip.AddrPort]bool)
	for at := now; at.Before(now.Add(Lifetime)); at = at.Add(5 * time.Millisecond) {
		ps, _ := m.Poll(at)
		for _, p := range ps {
			to[p.Remote] = true
		}
	}
	if len(to) != maxTargets {
		t.Errorf("it sends to %d addresses, want %d", len(to), maxTargets)
	}
	// A pong that answers nothing, or comes from elsewhere, proves nothing.
	m = New(now, Config{Key: testKey, Session: testSession, Remote: []netip.AddrPort{addrA}})
	m.Poll(now)
	m.Receive(now, Path{Remote: addrA}, packet{kindPong, true, testSession, 1, 9}.append(nil, &testKey))
	m.Receive(now, Path{Remote: addrB}, packet{kindPong, true, testSession, 2, 1}.append(nil, &testKey))
	if w, ok := m.Works(); ok {
		t.Errorf("it takes %v for a path", w)
	}
	m.Receive(now, Path{Remote: addrA}, packet{kindPong, true, testSession, 3, 1}.append(nil, &testKey))
	if w, _ := m.Works(); w.Remote != addrA {
		t.Errorf("it takes %v for a path, want %v", w, addrA)
	}
}

// TestImprove: a path within the LAN replaces one through the NAT, if it comes soon.
func TestImprove(t *testing.T) {
	lan := netip.MustParseAddrPort("10.0.0.7:4001")
	for _, test := range []struct {
		after time.Duration
		want  netip.AddrPort
	}{{improving - 1, lan}, {improving, addrA}} {
		now := time.Unix(0, 0)
		m := New(now, Config{Key: testKey, Session: testSession, Remote: []netip.AddrPort{addrA, lan, addrB}})
		m.Poll(now)
		for i, at := range []struct {
			after time.Duration
			from  netip.AddrPort
			echo  uint32
		}{{0, addrA, 1}, {0, addrB, 3}, {test.after, lan, 2}} {
			m.Receive(now.Add(at.after), Path{Remote: at.from}, packet{kindPong, true, testSession, uint32(i + 1), at.echo}.append(nil, &testKey))
		}
		if w, _ := m.Works(); w.Remote != test.want {
			t.Errorf("after %v: got %v, want %v", test.after, w.Remote, test.want)
		}
	}
	// Until then the better one is pinged, and no other that is not in use.
	now := time.Unix(0, 0)
	m := New(now, Config{Key: testKey, Session: testSession, Remote: []netip.AddrPort{addrA, lan, addrB}})
	m.Poll(now)
	m.Receive(now, Path{Remote: addrA}, packet{kindPong, true, testSession, 1, 1}.append(nil, &testKey))
	packets, _ := m.Poll(now.Add(improving - 1))
	var to []netip.AddrPort
	for _, p := range packets {
		to = append(to, p.Remote)
	}
	if len(to) != 2 || to[0] != addrA || to[1] != lan {
		t.Errorf("pings go to %v", to)
	}
}

// TestHostile shows everything that two machines sent to whoever is on the way, who forges, replays and reflects it: nobody
// answers, or sends anywhere else.
func TestHostile(t *testing.T) { // PN3, PN4
	w := newWorld(t, 1)
	a, b := w.behind("a", "198.51.100.1", nature{none: true}), w.behind("b", "198.51.100.2", nature{none: true})
	var tapped []Packet
	tap := func(p *peer) tapMember { return tapMember{p, &tapped} }
	w.internet.members[a.addr.Addr()], w.internet.members[b.addr.Addr()] = tap(a), tap(b)
	w.after(300*time.Millisecond, func() { // while they are at it
		if len(tapped) < 4 {
			t.Fatalf("only %d packets were seen", len(tapped))
		}
		evil := netip.MustParseAddrPort("203.0.113.66:6")
		for _, q := range tapped {
			for _, p := range []*peer{a, b} {
				for bit := range 8 * len(q.Data) {
					forged := bytes.Clone(q.Data)
					forged[bit/8] ^= 1 << (bit % 8)
					if p.machine.Receive(w.now, Path{Remote: evil}, forged) {
						t.Errorf("%s takes a packet with bit %d changed", p.name, bit)
					}
				}
				if p.machine.Receive(w.now, Path{Remote: evil}, q.Data) {
					t.Errorf("%s takes a packet twice, or its own", p.name)
				}
			}
		}
		for _, p := range []*peer{a, b} {
			for _, target := range p.machine.targets {
				if target.Remote == evil {
					t.Errorf("%s sends to whoever replayed a packet", p.name)
				}
			}
			if len(p.machine.out) > 0 {
				t.Errorf("%s answers", p.name)
			}
		}
	})
	w.meet(a, b, 0, true)
	if len(tapped) < 4 {
		t.Fatal("nothing was seen")
	}
}

// tapMember is a peer to which an eavesdropper listens.
type tapMember struct {
	*peer
	seen *[]Packet
}

func (t tapMember) take(from, to netip.AddrPort, b []byte) {
	if _, ok := SessionOf(b); ok {
		*t.seen = append(*t.seen, Packet{Path{Remote: from}, bytes.Clone(b)})
	}
	t.peer.take(from, to, b)
}

// TestFlood: a peer that pings as fast as it can, from forged addresses too, is answered within bounds.
func TestFlood(t *testing.T) { // PN5
	now := time.Unix(0, 0)
	m := New(now, Config{Key: testKey, Session: testSession, Remote: []netip.AddrPort{addrA}})
	type flow struct {
		to   netip.AddrPort
		kind byte
	}
	sent := make(map[flow]int)
	for i := range uint32(100_000) {
		from := netip.AddrPortFrom(addrB.Addr(), uint16(1+i%100))
		now = now.Add(90 * time.Microsecond)
		m.Receive(now, Path{Remote: from}, packet{kindPing, true, testSession, i + 1, 0}.append(nil, &testKey))
		if i%300 != 0 {
			continue // the caller is late
		}
		packets, _ := m.Poll(now)
		if len(packets) > maxWaiting+maxTargets {
			t.Errorf("%d packets at once", len(packets))
		}
		for _, p := range packets {
			sent[flow{p.Remote, p.Data[0]}]++
		}
	}
	for f, n := range sent {
		if most := map[byte]int{kindPing: maxPings, kindPong: maxPongs}[f.kind]; n > most {
			t.Errorf("%d packets of kind %x go to %v, want %d at most", n, f.kind, f.to, most)
		}
	}
	if len(sent) > 2*maxTargets {
		t.Errorf("it answers %d", len(sent))
	}
}
