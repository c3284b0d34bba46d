package punch

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"net/netip"
	"reflect"
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

func messages() []Message {
	return []Message{
		{Type: Offer, Session: testSession, Key: testKey, Addrs: []netip.AddrPort{addrA, addrC}},
		{Type: Answer, Session: testSession},
		{Type: Moved, Addrs: []netip.AddrPort{addrB}},
		{Type: Follows},
		{Type: Ping},
	}
}

func TestMessages(t *testing.T) { // PN1
	var b []byte
	for _, m := range messages() {
		b = m.Append(b)
	}
	const want = "010043" + "8001020304050607" + "010203" + "0000000000000000000000000000000000000000000000000000000000" +
		"02" + "04c000020103e8" + "1020010db80000000000000000000000010bb8" +
		"020009800102030405060700" + "0300080104c633640207d0" + "04000100" + "050000"
	if got := hex.EncodeToString(b); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	r := bytes.NewReader(b)
	for _, m := range messages() {
		if got, err := Read(r); err != nil || !reflect.DeepEqual(got, m) {
			t.Errorf("read %+v, %v; want %+v", got, err, m)
		}
	}
	if _, err := Read(r); err != io.EOF {
		t.Errorf("at the end: %v, want io.EOF", err)
	}
	// What is longer than we know, and of a type we do not know, is no error.
	if m, err := ParseBody(Follows, []byte{0, 1, 2, 3}); err != nil || m.Type != Follows {
		t.Errorf("a longer message: %+v, %v", m, err)
	}
	if m, err := ParseBody(200, []byte{1}); err != nil || m.Type != 200 {
		t.Errorf("an unknown type: %+v, %v", m, err)
	}
	for name, b := range map[string][]byte{
		"too many addresses":  {byte(Moved), 0, 1, MaxAddrs + 1},
		"an address of 5":     {byte(Moved), 0, 2, 1, 5},
		"cut short":           {byte(Moved), 0, 3, 1, 4, 1},
		"a session of STUN's": append([]byte{byte(Answer), 0, 9, 0x21, 0x12, 0xa4, 0x42}, make([]byte, 5)...),
		"too long":            {byte(Offer), 0xff, 0xff},
	} {
		if _, err := Read(bytes.NewReader(b)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v, want ErrMalformed", name, err)
		}
	}
	if _, err := Read(bytes.NewReader([]byte{5, 0, 1})); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("half a message: %v", err)
	}
}

func FuzzRead(f *testing.F) {
	for _, m := range messages() {
		f.Add(m.Append(nil))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Read(bytes.NewReader(b))
		if err != nil || m.Type == 0 || m.Type > Ping {
			return
		}
		if again, err := Read(bytes.NewReader(m.Append(nil))); err != nil || !reflect.DeepEqual(m, again) {
			t.Errorf("%+v reads back as %+v, %v", m, again, err)
		}
	})
}

func TestPacket(t *testing.T) { // PN2, PN3
	p := packet{kindPong, true, testSession, 7, 8}
	b := p.append(nil, &testKey)
	if want := "3101000080010203040506070000000700000008c2"; hex.EncodeToString(b)[:40] != want[:40] || len(b) != PacketSize {
		t.Errorf("got %x", b)
	}
	if got, ok := parse(b, &testKey); !ok || got != p {
		t.Errorf("read back %+v, %v", got, ok)
	}
	for i := range b {
		bad := bytes.Clone(b)
		bad[i] ^= 1
		if _, ok := parse(bad, &testKey); ok {
			t.Errorf("a packet changed at byte %d passes", i)
		}
	}
	if _, ok := parse(b, &Key{}); ok {
		t.Error("a packet of another key passes")
	}
}

func FuzzParse(f *testing.F) {
	f.Add(packet{kindPing, false, testSession, 1, 0}.append(nil, &testKey))
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, ok := parse(b, &testKey); ok && !bytes.Equal(p.append(nil, &testKey), b) {
			t.Errorf("%x reads as %+v", b, p)
		}
	})
}

func TestUsable(t *testing.T) {
	parse := func(list ...string) (out []netip.AddrPort) {
		for _, s := range list {
			out = append(out, netip.MustParseAddrPort(s))
		}
		return out
	}
	in := parse("192.0.2.1:1", "192.0.2.1:1", "[::ffff:192.0.2.2]:2", "192.0.2.1:0", "0.0.0.0:1", "224.0.0.1:1", "255.255.255.255:1", "127.0.0.1:1", "[2001:db8::1]:1", "10.0.0.1:5")
	if got, want := Usable(in, netip.MustParseAddr("192.0.2.9")), parse("192.0.2.1:1", "192.0.2.2:2", "10.0.0.1:5"); !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := Usable(in, netip.MustParseAddr("127.0.0.9")); !reflect.DeepEqual(got, parse("192.0.2.1:1", "192.0.2.2:2", "127.0.0.1:1", "10.0.0.1:5")) {
		t.Errorf("from loopback: got %v", got)
	}
}

// TestMachines lets two machines talk over a network that loses every packet before both sides have sent, as NATs do.
func TestMachines(t *testing.T) {
	start := time.Unix(0, 0)
	a := New(start, Config{Key: testKey, Session: testSession})
	b := New(start, Config{Key: testKey, Session: testSession, Controlled: true, Remote: []netip.AddrPort{addrA}})
	a.Add(start.Add(40*time.Millisecond), addrC, addrB)
	type flight struct {
		at   time.Time
		from netip.AddrPort
		p    Packet
	}
	var air []flight
	sentTo := make(map[netip.AddrPort]int)
	opened := make(map[netip.AddrPort]bool) // who has sent out
	send := func(now time.Time, from netip.AddrPort, ps []Packet) {
		for _, p := range ps {
			sentTo[p.To]++
			opened[from] = true
			if p.To != addrC {
				air = append(air, flight{now.Add(20 * time.Millisecond), from, p})
			}
		}
	}
	var done [2]time.Duration
	for now := start; now.Before(start.Add(12 * time.Second)); now = now.Add(time.Millisecond) {
		if now.Sub(start) >= 40*time.Millisecond {
			ps, _ := a.Poll(now)
			send(now, addrA, ps)
		}
		ps, _ := b.Poll(now)
		send(now, addrB, ps)
		for len(air) > 0 && !now.Before(air[0].at) {
			f := air[0]
			air = air[1:]
			if !opened[f.p.To] {
				continue
			}
			m := map[netip.AddrPort]*Machine{addrA: a, addrB: b}[f.p.To]
			if !m.Receive(now, f.from, f.p.Data) {
				t.Errorf("a packet of %s was refused", f.from)
			}
			if m.Receive(now, f.from, f.p.Data) {
				t.Error("the same packet was taken twice") // PN4
			}
			m = map[netip.AddrPort]*Machine{addrA: b, addrB: a}[f.p.To]
			if m.Receive(now, f.from, f.p.Data) {
				t.Error("a packet was taken by its own sender") // PN3
			}
		}
		for i, m := range []*Machine{a, b} {
			if _, ok := m.Works(); ok && done[i] == 0 {
				done[i] = now.Sub(start)
			}
		}
	}
	if w, _ := a.Works(); w != addrB || done[0] > 90*time.Millisecond {
		t.Errorf("the one that moves found %v after %v", w, done[0])
	}
	if w, _ := b.Works(); w != addrA || done[1] > 120*time.Millisecond {
		t.Errorf("the other found %v after %v", w, done[1])
	}
	for to, n := range sentTo {
		if n > 60 {
			t.Errorf("%d packets went to %v", n, to)
		}
	}
	if ps, next := a.Poll(start.Add(Lifetime)); len(ps) > 0 || !next.IsZero() {
		t.Error("it goes on after its life")
	}
}

// TestMachineBounds checks that authentic packets from ever new addresses do not make it send to ever more.
func TestMachineBounds(t *testing.T) { // PN5
	now := time.Unix(0, 0)
	m := New(now, Config{Key: testKey, Session: testSession, Remote: []netip.AddrPort{addrA}})
	for i := range 1000 {
		from := netip.AddrPortFrom(addrB.Addr(), uint16(i+1))
		m.Receive(now, from, packet{kindPing, true, testSession, uint32(i + 1), 0}.append(nil, &testKey))
	}
	to := make(map[netip.AddrPort]bool)
	for at := now; at.Before(now.Add(Lifetime)); at = at.Add(5 * time.Millisecond) {
		ps, _ := m.Poll(at)
		for _, p := range ps {
			to[p.To] = true
		}
	}
	if len(to) != maxTargets {
		t.Errorf("it sends to %d addresses, want %d", len(to), maxTargets)
	}
	// A pong that answers nothing, or comes from elsewhere, proves nothing.
	m = New(now, Config{Key: testKey, Session: testSession, Remote: []netip.AddrPort{addrA}})
	m.Poll(now)
	m.Receive(now, addrA, packet{kindPong, true, testSession, 1, 9}.append(nil, &testKey))
	m.Receive(now, addrB, packet{kindPong, true, testSession, 2, 1}.append(nil, &testKey))
	if w, ok := m.Works(); ok {
		t.Errorf("it takes %v for a path", w)
	}
	m.Receive(now, addrA, packet{kindPong, true, testSession, 3, 1}.append(nil, &testKey))
	if w, _ := m.Works(); w != addrA {
		t.Errorf("it takes %v for a path, want %v", w, addrA)
	}
}
