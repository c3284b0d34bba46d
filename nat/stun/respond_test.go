package stun

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"
	"time"

	pion "github.com/pion/stun/v3"
)

func request(t testing.TB, setters ...pion.Setter) []byte {
	t.Helper()
	b, err := build(pion.BindingRequest, transactionID{1, 2, 3}, setters...)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func software(n int) pion.Setter { return raw(pion.AttrSoftware, make([]byte, n)) }

func TestRespond(t *testing.T) {
	now := time.Unix(1000, 0)
	full := request(t, software(60))
	with := func(i int, b byte) []byte {
		p := append([]byte(nil), full...)
		p[i] = b
		return p
	}
	early := request(t, pion.Fingerprint, software(60))
	unaligned := request(t, software(60))
	binary.BigEndian.PutUint16(unaligned[2:], 63)
	for _, test := range []struct {
		name   string
		packet []byte
		from   netip.AddrPort
		code   int // of the error, 0 for success, -1 for silence
	}{
		{"plain", full, v4, 0},
		{"plain, IPv6", full, v6, 0},
		{"IPv4 in IPv6", full, netip.MustParseAddrPort("[::ffff:192.0.2.1]:32853"), 0},
		{"fingerprint", request(t, software(60), pion.Fingerprint), v4, 0},
		{"RFC 5769, long-term", unhex(t, sampleLongTerm), v4, 0},
		{"RFC 5769, with PRIORITY", unhex(t, sampleRequest), v4, 420},
		{"change", request(t, raw(pion.AttrChangeRequest, make([]byte, 4)), software(60)), v4, 420},
		{"as large as the answer", request(t, software(8)), v4, 0},
		{"4 bytes too small", request(t, software(4)), v4, -1},
		{"bare", request(t), v4, -1},
		{"as large as the answer, IPv6", request(t, software(20)), v6, 0},
		{"4 bytes too small, IPv6", request(t, software(16)), v6, -1},
		{"room for the fingerprint", request(t, software(8), pion.Fingerprint), v4, 0},
		{"no room for error 420", request(t, raw(pion.AttrChangeRequest, make([]byte, 4))), v4, -1},
		{"empty", nil, v4, -1},
		{"QUIC", with(0, 0x40), v4, -1},
		{"success response", unhex(t, sampleIPv4), v4, -1},
		{"indication", with(1, 0x11), v4, -1},
		{"allocate", with(1, 0x03), v4, -1},
		{"magic cookie", with(4, 0), v4, -1},
		{"length", with(3, 4), v4, -1},
		{"unaligned length", unaligned, v4, -1},
		{"attribute beyond the end", with(23, 200), v4, -1},
		{"false fingerprint", append(request(t, software(60), pion.Fingerprint)[:len(full)+4], 1, 2, 3, 4), v4, -1},
		{"fingerprint in the middle", early, v4, -1},
		{"too large", request(t, software(maxPacket)), v4, -1},
		{"source port 0", full, netip.AddrPortFrom(v4.Addr(), 0), -1},
		{"multicast source", full, netip.MustParseAddrPort("224.0.0.1:1"), -1},
		{"broadcast source", full, netip.MustParseAddrPort("255.255.255.255:1"), -1},
		{"no source", full, netip.AddrPort{}, -1},
	} {
		t.Run(test.name, func(t *testing.T) {
			answer := NewResponder(nil).Respond(test.packet, test.from, now)
			if answer == nil {
				if test.code != -1 {
					t.Fatal("no answer")
				}
				return
			}
			m, ok := parse(answer)
			if !ok || test.code == -1 {
				t.Fatalf("answered with %x", answer)
			}
			if got := readAnswer(m); test.code == 0 && got.mapped != clean(test.from) || test.code != 0 && (got.refusal == nil || got.refusal.Code != test.code) {
				t.Errorf("answered with %+v, want code %d", got, test.code)
			}
			asked, _ := parse(test.packet)
			if m.TransactionID != asked.TransactionID || len(answer) > len(test.packet) ||
				m.Contains(pion.AttrFingerprint) != asked.Contains(pion.AttrFingerprint) || m.Contains(pion.AttrSoftware) {
				t.Errorf("%x was answered with %x", test.packet, answer)
			}
		})
	}
}

func TestRates(t *testing.T) {
	full := request(t, software(60))
	count := func(r *Responder, now time.Time, n int, from func(i int) netip.AddrPort) (answers int) {
		for i := range n {
			if r.Respond(full, from(i), now) != nil {
				answers++
			}
		}
		return answers
	}
	now := time.Unix(1000, 0)
	oneNet := func(i int) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), uint16(1+i%1000))
	}
	oneNet6 := func(i int) netip.AddrPort {
		return netip.MustParseAddrPort(fmt.Sprintf("[2001:db8:1:%x::%x]:7", i%60000, i+1))
	}
	manyNets := func(i int) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 1}), 7)
	}
	want := func(what string, got, want int) {
		t.Helper()
		if got != want {
			t.Errorf("%s: %d answers, want %d", what, got, want)
		}
	}
	r := NewResponder(nil)
	want("one /24", count(r, now, 1000, oneNet), 20)
	want("one /24, at once again", count(r, now, 1000, oneNet), 0)
	want("one /24, half a second later", count(r, now.Add(time.Second/2), 1000, oneNet), 5)
	want("one /24, when the clock was put back", count(r, now.Add(-time.Hour), 1000, oneNet), 0)
	want("one /24, an hour later", count(r, now.Add(time.Hour), 1000, oneNet), 20)
	want("one /48", count(r, now.Add(time.Hour), 1000, oneNet6), 20)
	// What a prefix was refused is not taken from all: 45 answers were given, and long ago for the most part.
	want("all", count(r, now.Add(2*time.Hour), 60000, manyNets), 1000)
	want("all, at once again", count(r, now.Add(2*time.Hour), 60000, manyNets), 0)
	want("none in all", count(NewResponder(&ResponderConfig{Total: -1}), now, 10, oneNet), 0)
	want("none for a prefix", count(NewResponder(&ResponderConfig{PerPrefix: -1}), now, 10, oneNet), 0)
	want("as many as an int holds", count(NewResponder(&ResponderConfig{Total: 1 << 62, PerPrefix: 1 << 62}), now, 10, oneNet), 10)
}

// BenchmarkRespond measures what a request costs: one that is answered, and garbage.
func BenchmarkRespond(b *testing.B) {
	full, err := bindingRequest(transactionID{1}, 0)
	if err != nil {
		b.Fatal(err)
	}
	garbage := append([]byte(nil), full...)
	garbage[4] = 0
	for name, packet := range map[string][]byte{"request": full, "garbage": garbage} {
		b.Run(name, func(b *testing.B) {
			r := NewResponder(&ResponderConfig{Total: 1e6, PerPrefix: 1e6})
			now := time.Unix(0, 0)
			answered := 0
			for b.Loop() {
				now = now.Add(time.Second)
				answered += len(r.Respond(packet, v4, now))
			}
			b.ReportMetric(float64(answered)/float64(b.N)/float64(len(packet)), "amplification")
		})
	}
}
