package stun

import (
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"
	"time"

	pion "github.com/pion/stun/v3"
)

// The test vectors of RFC 5769.
const (
	sampleRequest = "000100582112a442b7e7a701bc34d686fa87dfae802200105354554e207465737420636c69656e74002400046e0001ff80290008932ff9b151263b36" +
		"000600096576746a3a68367659202020000800149aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a280280004e57a3bcf"
	sampleIPv4 = "0101003c2112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220002000080001a147e112a643" +
		"000800142b91f599fd9e90c38c7489f92af9ba53f06be7d780280004c07d4c96"
	sampleIPv6 = "010100482112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220002000140002a1470113a9faa5d3f179bc25f4b5bed2b9d9" +
		"00080014a382954e4be67bf11784c97c8292c275bfe3ed4180280004c8fb0b4c"
	sampleLongTerm = "000100602112a44278ad3433c6ad72c029da412e00060012e3839ee38388e383aae38383e382afe382b90000" +
		"0015001c662f2f3439396b39353464364f4c33346f4c394653547679363473410014000b6578616d706c652e6f726700" +
		"00080014f67024656dd64a3e02b8e0712e85c9a28ca89666"
)

var (
	v4 = netip.MustParseAddrPort("192.0.2.1:32853")
	v6 = netip.MustParseAddrPort("[2001:db8:1234:5678:11:2233:4455:6677]:32853")
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestVectors(t *testing.T) {
	for _, s := range []string{sampleRequest, sampleLongTerm} {
		if m, ok := parse(unhex(t, s)); !ok || m.Type != pion.BindingRequest {
			t.Errorf("the request %.48s… was not read", s)
		}
	}
	for _, test := range []struct {
		packet string
		want   netip.AddrPort
	}{{sampleIPv4, v4}, {sampleIPv6, v6}} {
		m, ok := parse(unhex(t, test.packet))
		if !ok {
			t.Errorf("the response with %s was not read", test.want)
			continue
		}
		if a := readAnswer(m); a.err != nil || a.refusal != nil || a.mapped != test.want {
			t.Errorf("read %+v, want %s", a, test.want)
		}
		// What we write has the attribute of the sample, byte for byte.
		b, err := bindingSuccess(m.TransactionID, test.want)
		if err != nil {
			t.Fatal(err)
		}
		if attr := hex.EncodeToString(b[headerLen:]); !strings.Contains(test.packet, attr) {
			t.Errorf("wrote the attribute %s, which is not that of the sample", attr)
		}
	}
}

// TestDamage: a sample with any one bit flipped is not read as it was, because of the header or the fingerprint.
func TestDamage(t *testing.T) {
	good := unhex(t, sampleIPv4)
	for i := range good {
		for bit := range 8 {
			bad := append([]byte(nil), good...)
			bad[i] ^= 1 << bit
			// A flip may hide the fingerprint, which need not be there: in its type, or in a length before it.
			if m, ok := parse(bad); ok && m.Contains(pion.AttrFingerprint) {
				t.Errorf("byte %d, bit %d flipped: read", i, bit)
			}
		}
	}
	for n := range good {
		if _, ok := parse(good[:n]); ok {
			t.Errorf("cut to %d bytes: read", n)
		}
	}
	if _, ok := parse(append(good, 0, 0, 0, 0)); ok {
		t.Error("with 4 bytes more: read")
	}
}

func TestRequestSize(t *testing.T) {
	for _, change := range []Change{0, ChangePort, ChangeIP | ChangePort} {
		b, err := bindingRequest(transactionID{1}, change)
		if err != nil || len(b) != requestLen {
			t.Errorf("change %d: a request of %d bytes, %v; want %d", change, len(b), err, requestLen)
		}
		if m, ok := parse(b); !ok || m.Type != pion.BindingRequest || len(m.Attributes) < 2 {
			t.Errorf("change %d: the request cannot be read", change)
		}
	}
}

func TestReason(t *testing.T) {
	if got, want := reason([]byte("a\x00\x1b[2J\u009b\xffb")), "a��[2J��b"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if n := len([]rune(reason([]byte(strings.Repeat("é", 300))))); n != 127 {
		t.Errorf("%d characters, want 127", n)
	}
}

// FuzzRespond: whatever comes, the answer is a well-formed response with the request's ID and not larger than it.
func FuzzRespond(f *testing.F) {
	for _, s := range []string{sampleRequest, sampleIPv4, sampleIPv6, sampleLongTerm} {
		f.Add(unhex(f, s))
	}
	b, _ := bindingRequest(transactionID{1, 2, 3}, ChangeIP)
	f.Add(b)
	b, _ = bindingRequest(transactionID{1, 2, 3}, 0)
	f.Add(b)
	r := NewResponder(&ResponderConfig{Total: 1e6, PerPrefix: 1e6})
	start := time.Unix(0, 0)
	n := 0
	f.Fuzz(func(t *testing.T, packet []byte) {
		for _, from := range []netip.AddrPort{v4, v6} {
			n++
			answer := r.Respond(packet, from, start.Add(time.Duration(n)*time.Second))
			if answer == nil {
				continue
			}
			m, ok := parse(answer)
			if !ok || len(answer) > len(packet) || m.TransactionID != transactionID(packet[8:20]) {
				t.Fatalf("%x was answered with %x", packet, answer)
			}
			a := readAnswer(m)
			if a.err != nil || (a.refusal == nil) == (a.mapped != from) {
				t.Fatalf("%x was answered with %x: %+v", packet, answer, a)
			}
		}
	})
}

// FuzzClient: an answer from the right server, with the right ID, ends the transaction at most once; an address that it gives is
// one that a host can have.
func FuzzClient(f *testing.F) {
	for _, s := range []string{sampleRequest, sampleIPv4, sampleIPv6, sampleLongTerm} {
		f.Add(unhex(f, s))
	}
	f.Add(unhex(f, "0111000c2112a442000000000000000000000000000900080000041461626364"))
	f.Fuzz(func(t *testing.T, packet []byte) {
		now := time.Unix(0, 0)
		c := NewClient(nil)
		if err := c.Start(Request{Server: v4}, now); err != nil {
			t.Fatal(err)
		}
		sent, _, _ := c.Poll(now)
		if len(packet) >= headerLen {
			packet = append([]byte(nil), packet...)
			copy(packet[8:], sent[0].Data[8:20])
			// The fingerprint, if it is the last attribute, is made right: behind it is what is to be tried.
			if m := (&pion.Message{Raw: packet}); len(packet) >= headerLen+8 && packet[len(packet)-8] == 0x80 && packet[len(packet)-7] == 0x28 {
				v := pion.FingerprintValue(m.Raw[:len(packet)-8])
				copy(packet[len(packet)-4:], []byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)})
			}
		}
		c.Receive(packet, v4)
		c.Receive(packet, v4)
		_, results, _ := c.Poll(now)
		if len(results) > 1 {
			t.Fatalf("%d results of one transaction", len(results))
		}
		for _, r := range results {
			if r.Err == nil != isHost(r.Mapped) || r.Other != (netip.AddrPort{}) && !isHost(r.Other) {
				t.Fatalf("%x gave %+v", packet, r)
			}
			if r.Err != nil && len(r.Err.Error()) > 2000 {
				t.Fatalf("an error of %d bytes", len(r.Err.Error()))
			}
		}
	})
}
