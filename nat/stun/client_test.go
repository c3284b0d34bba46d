package stun

import (
	"bytes"
	"errors"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	pion "github.com/pion/stun/v3"
)

// ask starts one transaction and returns its first packet.
func ask(t *testing.T, c *Client, server netip.AddrPort, now time.Time) *pion.Message {
	t.Helper()
	if err := c.Start(Request{Server: server}, now); err != nil {
		t.Fatal(err)
	}
	sent, _, _ := c.Poll(now)
	if len(sent) != 1 || sent[0].To != server {
		t.Fatalf("sent %v", sent)
	}
	m, ok := parse(sent[0].Data)
	if !ok {
		t.Fatal("the request cannot be read")
	}
	return m
}

func success(t *testing.T, id transactionID, mapped netip.AddrPort, more ...pion.Setter) []byte {
	t.Helper()
	b, err := bindingSuccess(id, mapped, more...)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestTimers holds the times of RFC 8489 §6.2.1, and shorter ones.
func TestTimers(t *testing.T) {
	for _, test := range []struct {
		conf *Config
		want []int // milliseconds; the last is that of giving up
	}{
		{nil, []int{0, 500, 1500, 3500, 7500, 15500, 31500, 39500}},
		{&Config{RTO: 100 * time.Millisecond, Requests: 3, LastWait: 4}, []int{0, 100, 300, 700}},
		{&Config{Requests: 1, LastWait: 1}, []int{0, 500}},
	} {
		start := time.Unix(1000, 0)
		now := start
		c := NewClient(test.conf)
		if err := c.Start(Request{Server: v4}, now); err != nil {
			t.Fatal(err)
		}
		var got []int
		var first []byte
		for {
			sent, results, next := c.Poll(now)
			got = append(got, int(now.Sub(start).Milliseconds()))
			if len(results) > 0 {
				var silent *NoAnswerError
				var server *ServerError
				err := results[0].Err
				if !errors.As(err, &silent) || silent.Sent != len(test.want)-1 || silent.After != now.Sub(start) || !errors.Is(err, os.ErrDeadlineExceeded) ||
					!errors.As(err, &server) || server.Server != v4 || !next.IsZero() {
					t.Errorf("ended with %v, next %v", err, next)
				}
				break
			}
			if first == nil {
				first = sent[0].Data
			}
			if len(sent) != 1 || !bytes.Equal(sent[0].Data, first) {
				t.Fatalf("%v: sent %v, want one packet that is the first again", now.Sub(start), sent)
			}
			if again, _, _ := c.Poll(next.Add(-1)); len(again) != 0 {
				t.Fatalf("%v: sent before its time", now.Sub(start))
			}
			now = next
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("%+v: at %v ms, want %v", test.conf, got, test.want)
		}
	}
}

// TestLies: what is not the answer of who was asked has no effect.
func TestLies(t *testing.T) {
	now := time.Unix(1000, 0)
	c := NewClient(nil)
	m := ask(t, c, v4, now)
	good := success(t, m.TransactionID, v6, pion.Fingerprint)
	wrongID := m.TransactionID
	wrongID[11]++
	corrupt := slices.Clone(good)
	corrupt[len(corrupt)-1]++
	for _, lie := range []struct {
		name   string
		packet []byte
		from   netip.AddrPort
	}{
		{"another ID", success(t, wrongID, v6), v4},
		{"another port", good, netip.AddrPortFrom(v4.Addr(), 1)},
		{"another IP", good, netip.AddrPortFrom(v4.Addr().Next(), v4.Port())},
		{"its own request", m.Raw, v4},
		{"garbage", []byte("\x01\x01garbage that is long enough for a header"), v4},
		{"cut", good[:len(good)-4], v4},
		{"false fingerprint", corrupt, v4},
		{"nothing", nil, v4},
	} {
		c.Receive(lie.packet, lie.from)
		if sent, results, next := c.Poll(now); len(sent)+len(results) > 0 || next != now.Add(500*time.Millisecond) {
			t.Errorf("%s: sent %v, results %v, next %v", lie.name, sent, results, next)
		}
	}
	if !c.Receive(good, netip.AddrPortFrom(netip.AddrFrom16(v4.Addr().As16()), v4.Port())) {
		t.Error("the answer was not taken")
	}
	c.Receive(good, v4) // once more
	_, results, next := c.Poll(now)
	if len(results) != 1 || results[0].Err != nil || results[0].Mapped != v6 || !next.IsZero() {
		t.Errorf("results %+v, next %v", results, next)
	}
	c.Receive(good, v4) // and late
	if sent, results, next := c.Poll(now.Add(time.Hour)); len(sent)+len(results) > 0 || !next.IsZero() {
		t.Errorf("after a late answer: sent %v, results %v, next %v", sent, results, next)
	}
}

// TestBadResponses: the server that was asked breaks the rules, or refuses.
func TestBadResponses(t *testing.T) {
	now := time.Unix(1000, 0)
	mapped := func(b string) pion.Setter { return raw(pion.AttrXORMappedAddress, []byte(b)) }
	code := func(b string) pion.Setter { return raw(pion.AttrErrorCode, []byte(b)) }
	for _, test := range []struct {
		name string
		typ  pion.MessageType
		with []pion.Setter
		code int // 0 for ErrBadResponse
	}{
		{"no address", pion.BindingSuccess, nil, 0},
		{"short address", pion.BindingSuccess, []pion.Setter{mapped("\x00\x01\x12\x34\x01")}, 0},
		{"IPv6 of 4 bytes", pion.BindingSuccess, []pion.Setter{mapped("\x00\x02\x12\x34\x01\x02\x03\x04")}, 0},
		{"no family", pion.BindingSuccess, []pion.Setter{mapped("\x00\x07\x12\x34\x01\x02\x03\x04")}, 0},
		{"address 0.0.0.0", pion.BindingSuccess, []pion.Setter{mapped("\x00\x01\x12\x34\x21\x12\xa4\x42")}, 0},
		{"port 0", pion.BindingSuccess, []pion.Setter{mapped("\x00\x01\x21\x12\x01\x02\x03\x04")}, 0},
		{"multicast", pion.BindingSuccess, []pion.Setter{mapped("\x00\x01\x12\x34\xc1\x12\xa4\x43")}, 0},
		{"unknown attribute", pion.BindingSuccess, []pion.Setter{mapped("\x00\x01\x12\x34\x01\x02\x03\x04"), raw(0x7000, nil)}, 0},
		{"error without code", pion.BindingError, nil, 0},
		{"error with short code", pion.BindingError, []pion.Setter{code("\x00\x00\x04")}, 0},
		{"error 099", pion.BindingError, []pion.Setter{code("\x00\x00\x00\x63")}, 0},
		{"error 4 200", pion.BindingError, []pion.Setter{code("\x00\x00\x04\xc8")}, 0},
		{"error 420", pion.BindingError, []pion.Setter{code("\x00\x00\x04\x14Unknown")}, 420},
		{"error 300", pion.BindingError, []pion.Setter{code("\x00\x00\x03\x00Elsewhere")}, 300},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := NewClient(nil)
			b, err := build(test.typ, ask(t, c, v4, now).TransactionID, test.with...)
			if err != nil {
				t.Fatal(err)
			}
			c.Receive(b, v4)
			_, results, _ := c.Poll(now)
			if len(results) != 1 {
				t.Fatalf("%d results, want 1", len(results))
			}
			err = results[0].Err
			var refused *RefusedError
			if test.code == 0 && !errors.Is(err, ErrBadResponse) || test.code != 0 && (!errors.As(err, &refused) || refused.Code != test.code) {
				t.Errorf("ended with %v, want code %d", err, test.code)
			}
			if err != nil && !strings.Contains(err.Error(), v4.String()) {
				t.Errorf("the error does not name the server: %v", err)
			}
		})
	}
}

func TestStart(t *testing.T) {
	now := time.Unix(1000, 0)
	c := NewClient(nil)
	for _, s := range []string{"0.0.0.0:1", "192.0.2.1:0", "224.0.0.1:1", "[::]:1", "255.255.255.255:1"} {
		if err := c.Start(Request{Server: netip.MustParseAddrPort(s)}, now); !errors.Is(err, ErrBadServer) {
			t.Errorf("%s: %v", s, err)
		}
	}
	if err := c.Start(Request{}, now); !errors.Is(err, ErrBadServer) {
		t.Errorf("no server: %v", err)
	}
	ids := make(map[transactionID]bool)
	for range maxTransactions {
		ids[ask(t, c, v4, now).TransactionID] = true
	}
	if len(ids) != maxTransactions {
		t.Errorf("%d transactions have %d IDs", maxTransactions, len(ids))
	}
	if err := c.Start(Request{Server: v4}, now); !errors.Is(err, ErrBusy) {
		t.Errorf("one too many: %v", err)
	}
}
