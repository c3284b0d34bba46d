package portmap

import (
	"context"
	"encoding/hex"
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var loopback = place{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.1")}

// newServer answers packets on loopback by a function, which returns the packets of one answer.
func newServer(t *testing.T, answer func(request []byte) [][]byte) (port uint16) {
	t.Helper()
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		b := make([]byte, 2048)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			for _, a := range answer(b[:n]) {
				conn.WriteToUDPAddrPort(a, from)
			}
		}
	})
	t.Cleanup(func() {
		conn.Close()
		serving.Wait()
	})
	return conn.LocalAddr().(*net.UDPAddr).AddrPort().Port()
}

func fromHex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

var vector = wish{network: "udp", inside: 4001, outside: 4002, lifetime: time.Hour, nonce: [12]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}}

// Requests and answers as the RFCs draw them.
const (
	pcpRequest    = "02010000 00000e10 00000000000000000000ffffc0a80107 0102030405060708090a0b0c 11000000 0fa1 0fa2 00000000000000000000ffff00000000"
	pcpAnswer     = "02810000 00000708 0001e240 000000000000000000000000 0102030405060708090a0b0c 11000000 0fa1 1f40 00000000000000000000ffffcb007105"
	natpmpRequest = "0001 0000 0fa1 0fa2 00000e10"
	natpmpAnswer  = "0081 0000 0001e240 0fa1 1f40 00000708"
)

func TestRequests(t *testing.T) {
	if got, want := appendPCPMap(nil, netip.MustParseAddr("192.168.1.7"), vector), fromHex(t, pcpRequest); string(got) != string(want) {
		t.Errorf("PCP: %x, want %x", got, want)
	}
	if got, want := appendNATPMPMap(nil, vector), fromHex(t, natpmpRequest); string(got) != string(want) {
		t.Errorf("NAT-PMP: %x, want %x", got, want)
	}
	tcp := vector
	tcp.network = "tcp"
	if got := appendPCPMap(nil, netip.MustParseAddr("192.168.1.7"), tcp); got[36] != 6 {
		t.Errorf("PCP asks for protocol %d for TCP", got[36])
	}
	if got := appendNATPMPMap(nil, tcp); got[1] != 2 {
		t.Errorf("NAT-PMP asks with opcode %d for TCP", got[1])
	}
}

// TestAnswers changes one thing at a time of an answer that is good.
func TestAnswers(t *testing.T) {
	good := grant{netip.MustParseAddrPort("203.0.113.5:8000"), 30 * time.Minute}
	var no *RefusedError
	for _, test := range []struct {
		name    string
		pcp     bool
		at      int
		bytes   string
		size    int // cut or lengthened to; 0: as it is
		want    error
		refused bool
	}{
		{name: "good", pcp: true},
		{name: "longer", pcp: true, size: 64},
		{name: "version", pcp: true, bytes: "03", want: errOther},
		{name: "request", pcp: true, at: 1, bytes: "01", want: errOther},
		{name: "other opcode", pcp: true, at: 1, bytes: "82", want: errOther},
		{name: "refused", pcp: true, at: 3, bytes: "02", refused: true},
		{name: "refused, unknown code", pcp: true, at: 3, bytes: "ee", refused: true},
		{name: "NAT-PMP", pcp: true, bytes: "0081 0001", size: 8, refused: true},
		{name: "other nonce", pcp: true, at: 30, bytes: "ff", want: errOther},
		{name: "other port", pcp: true, at: 40, bytes: "1111", want: errOther},
		{name: "TCP", pcp: true, at: 36, bytes: "06", want: errOther},
		{name: "no lifetime", pcp: true, at: 4, bytes: "00000000", want: ErrBadAnswer},
		{name: "no port", pcp: true, at: 42, bytes: "0000", want: ErrBadAnswer},
		{name: "IPv6", pcp: true, at: 44, bytes: "20", want: ErrBadAnswer},
		{name: "short", pcp: true, size: 56, want: ErrBadAnswer},
		{name: "odd", pcp: true, size: 58, want: errOther},
		{name: "empty", pcp: true, size: -1, want: errOther},
		{name: "huge", pcp: true, size: 1104, want: errOther},

		{name: "good"},
		{name: "version", bytes: "01", want: errOther},
		{name: "PCP", bytes: "02", refused: true},
		{name: "request", at: 1, bytes: "01", want: errOther},
		{name: "refused", at: 2, bytes: "0004", refused: true},
		{name: "refused, unknown code", at: 2, bytes: "ffff", refused: true},
		{name: "other port", at: 8, bytes: "1111", want: errOther},
		{name: "no port", at: 10, bytes: "0000", want: ErrBadAnswer},
		{name: "no lifetime", at: 12, bytes: "00000000", want: ErrBadAnswer},
		{name: "short", size: 12, want: ErrBadAnswer},
		{name: "long", size: 20, want: ErrBadAnswer},
		{name: "empty", size: -1, want: errOther},
	} {
		parse, request, answer := parseNATPMP, fromHex(t, natpmpRequest), fromHex(t, natpmpAnswer)
		if test.pcp {
			parse, request, answer = parsePCP, fromHex(t, pcpRequest), fromHex(t, pcpAnswer)
		}
		copy(answer[test.at:], fromHex(t, test.bytes))
		if test.size != 0 {
			answer = append(answer, make([]byte, 2000)...)[:max(0, test.size)]
		}
		g, err := parse(answer, request)
		switch {
		case test.refused && !errors.As(err, &no), !test.refused && !errors.Is(err, test.want):
			t.Errorf("%s (PCP %v): %+v, %v", test.name, test.pcp, g, err)
		case err == nil && (g.outside.Port() != good.outside.Port() || g.lifetime != good.lifetime || test.pcp && g != good):
			t.Errorf("%s (PCP %v): %+v, want %+v", test.name, test.pcp, g, good)
		}
	}
}

// TestRemovals: an answer to the end of a mapping has no port and no lifetime.
func TestRemovals(t *testing.T) {
	end := vector
	end.lifetime, end.outside = 0, 0
	if _, err := parsePCP(fromHex(t, strings.Replace(strings.Replace(pcpAnswer, "00000708", "00000000", 1), "1f40", "0000", 1)), appendPCPMap(nil, loopback.local, end)); err != nil {
		t.Errorf("PCP: %v", err)
	}
	if _, err := parseNATPMP(fromHex(t, "0081 0000 0001e240 0fa1 0000 00000000"), appendNATPMPMap(nil, end)); err != nil {
		t.Errorf("NAT-PMP: %v", err)
	}
}

// TestAsk: what is lost is sent again, what does not answer is skipped, silence ends with the context, and a closed port at once.
func TestAsk(t *testing.T) {
	var seen atomic.Int32
	port := newServer(t, func(request []byte) [][]byte {
		if seen.Add(1) < 3 {
			return nil
		}
		answer := fromHex(t, pcpAnswer)
		copy(answer[24:42], request[24:42])
		stray := append([]byte(nil), answer...)
		stray[24]++
		return [][]byte{nil, {1}, make([]byte, 1500), stray, answer, answer}
	})
	g, err := pcp{udpClient{port}}.add(t.Context(), loopback, vector)
	if want := netip.MustParseAddrPort("203.0.113.5:8000"); err != nil || g.outside != want || seen.Load() != 3 {
		t.Errorf("%+v, %v after %d requests", g, err, seen.Load())
	}

	silent := newServer(t, func([]byte) [][]byte { return [][]byte{{1}, {0, 0}, make([]byte, 1500)} })
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	start := time.Now()
	for _, c := range []client{pcp{udpClient{silent}}, natpmp{udpClient{silent}}} {
		if g, err := c.probe(ctx, loopback); !errors.Is(err, ErrNoAnswer) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a silent router: %+v, %v", g, err)
		}
	}
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("it took %v", took)
	}

	closed, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	at := closed.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	if _, err := (natpmp{udpClient{at}}).probe(ctx, loopback); !errors.Is(err, ErrNoAnswer) {
		t.Errorf("a closed port: %v", err)
	}
}

func TestNATPMPAdds(t *testing.T) {
	port := newServer(t, func(request []byte) [][]byte {
		if request[1] == 0 {
			return [][]byte{fromHex(t, "0080 0000 0001e240 cb007105")}
		}
		return [][]byte{fromHex(t, natpmpAnswer)}
	})
	c := natpmp{udpClient{port}}
	g, err := c.add(t.Context(), loopback, vector)
	if want := (grant{netip.MustParseAddrPort("203.0.113.5:8000"), 30 * time.Minute}); err != nil || g != want {
		t.Errorf("%+v, %v; want %+v", g, err, want)
	}
	if err := c.remove(t.Context(), loopback, vector); err != nil {
		t.Error(err)
	}
}

func FuzzAnswers(f *testing.F) {
	b := func(s string) []byte { b, _ := hex.DecodeString(strings.ReplaceAll(s, " ", "")); return b }
	f.Add(b(pcpAnswer))
	f.Add(b(natpmpAnswer))
	f.Add(b("0080 0000 0001e240 cb007105"))
	f.Add(b("02800000 00000000 0001e240 000000000000000000000000"))
	f.Fuzz(func(t *testing.T, answer []byte) {
		for _, request := range [][]byte{appendPCPMap(nil, loopback.local, vector), appendPCP(nil, pcpAnnounce, loopback.local, 0)} {
			if g, err := parsePCP(answer, request); err == nil && request[1] == pcpMap && (g.outside.Port() == 0 || !g.outside.Addr().Is4() || g.lifetime == 0) {
				t.Errorf("granted %+v", g)
			}
		}
		for _, request := range [][]byte{appendNATPMPMap(nil, vector), {0, 0}} {
			if g, err := parseNATPMP(answer, request); err == nil && request[1] != 0 && (g.outside.Port() == 0 || g.lifetime == 0) {
				t.Errorf("granted %+v", g)
			}
		}
	})
}
