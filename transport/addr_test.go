package transport_test

import (
	"encoding/json"
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/transport"
)

const idText = "25njqamcweflpvkl73j4szahhihoc4xt3ktcgjnpaingr5yhkena"

func id(t testing.TB) identity.ID {
	t.Helper()
	v, err := identity.ParseID(idText)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

var _ net.Addr = transport.Addr{}

func TestParseAddr(t *testing.T) { // SPEC.md AD1
	peer := id(t)
	label63 := strings.Repeat("a", 63)
	name253 := strings.Repeat(label63+".", 3) + strings.Repeat("b", 61)
	for _, test := range []struct {
		in       string
		scheme   string
		hostPort string
		peer     identity.ID
		out      string // what String writes; empty: in
	}{
		{in: "quic://127.0.0.1:4001", scheme: "quic", hostPort: "127.0.0.1:4001"},
		{in: "quic://" + idText + "@127.0.0.1:4001", scheme: "quic", hostPort: "127.0.0.1:4001", peer: peer},
		{in: "mux://[::1]:1", scheme: "mux", hostPort: "[::1]:1"},
		{in: "mux://" + idText + "@[2001:db8::1]:1", scheme: "mux", hostPort: "[2001:db8::1]:1", peer: peer},
		{in: "tcp://example.com:65535", scheme: "tcp", hostPort: "example.com:65535"},
		{in: "tcp://" + idText + "@example.com:443", scheme: "tcp", hostPort: "example.com:443", peer: peer},
		{in: "a-2://localhost:0", scheme: "a-2", hostPort: "localhost:0"},
		{in: "tcp://0.0.0.0:0", scheme: "tcp", hostPort: "0.0.0.0:0"},
		{in: "tcp://[::]:0", scheme: "tcp", hostPort: "[::]:0"},
		{in: "tcp://[fe80::1%eth0]:5", scheme: "tcp", hostPort: "[fe80::1%eth0]:5"},
		{in: "tcp://[fe80::1%12]:5", scheme: "tcp", hostPort: "[fe80::1%12]:5"},
		{in: "tcp://a_b.example:5", scheme: "tcp", hostPort: "a_b.example:5"},
		{in: "tcp://example.com.:5", scheme: "tcp", hostPort: "example.com.:5"},
		{in: "tcp://4.3.2.1.in-addr:5", scheme: "tcp", hostPort: "4.3.2.1.in-addr:5"},
		{in: "tcp://" + name253 + ":1", scheme: "tcp", hostPort: name253 + ":1"},

		// Equal addresses are equal values.
		{in: "tcp://EXAMPLE.Com:5", scheme: "tcp", hostPort: "example.com:5", out: "tcp://example.com:5"},
		{in: "tcp://[2001:DB8:0:0::1]:5", scheme: "tcp", hostPort: "[2001:db8::1]:5", out: "tcp://[2001:db8::1]:5"},
		{in: "tcp://[::ffff:10.0.0.1]:5", scheme: "tcp", hostPort: "10.0.0.1:5", out: "tcp://10.0.0.1:5"},
		{in: "tcp://[::ffff:a00:1]:5", scheme: "tcp", hostPort: "10.0.0.1:5", out: "tcp://10.0.0.1:5"},
	} {
		got, err := transport.ParseAddr(test.in)
		if err != nil {
			t.Errorf("%q: %v", test.in, err)
			continue
		}
		if want := (transport.Addr{Scheme: test.scheme, HostPort: test.hostPort, Peer: test.peer}); got != want {
			t.Errorf("%q: got %#v, want %#v", test.in, got, want)
		}
		if test.out == "" {
			test.out = test.in
		}
		if got.String() != test.out {
			t.Errorf("%q: String() = %q, want %q", test.in, got, test.out)
		}
		if got.Network() != test.scheme || got.IsZero() {
			t.Errorf("%q: Network() = %q, IsZero() = %v", test.in, got.Network(), got.IsZero())
		}
		if again, err := transport.ParseAddr(got.String()); err != nil || again != got {
			t.Errorf("%q: read back %#v, %v", test.in, again, err)
		}
	}
}

func TestParseAddrRefuses(t *testing.T) { // SPEC.md AD2
	zero := strings.Repeat("a", 52)
	for name, s := range map[string]string{
		"empty":                  "",
		"no scheme":              "127.0.0.1:4001",
		"empty scheme":           "://127.0.0.1:4001",
		"one slash":              "quic:/127.0.0.1:4001",
		"upper-case scheme":      "QUIC://127.0.0.1:4001",
		"digit before scheme":    "2quic://127.0.0.1:4001",
		"hyphen before scheme":   "-quic://127.0.0.1:4001",
		"plus in scheme":         "quic+x://127.0.0.1:4001",
		"long scheme":            strings.Repeat("q", 33) + "://127.0.0.1:4001",
		"space before":           " quic://127.0.0.1:4001",
		"space after":            "quic://127.0.0.1:4001 ",
		"nothing":                "quic://",
		"no port":                "quic://127.0.0.1",
		"no port, IPv6":          "quic://[::1]",
		"no port, name":          "quic://example.com",
		"empty port":             "quic://127.0.0.1:",
		"port too large":         "quic://127.0.0.1:65536",
		"port far too large":     "quic://127.0.0.1:99999999999999999999",
		"port negative":          "quic://127.0.0.1:-1",
		"port with sign":         "quic://127.0.0.1:+1",
		"port with zeros":        "quic://127.0.0.1:080",
		"port of zeros":          "quic://127.0.0.1:00",
		"port in hexadecimal":    "quic://127.0.0.1:0x10",
		"port with underscore":   "quic://127.0.0.1:1_0",
		"port by name":           "quic://127.0.0.1:https",
		"port in other digits":   "quic://127.0.0.1:٤",
		"no host":                "quic://:4001",
		"path":                   "quic://127.0.0.1:4001/",
		"path with name":         "quic://127.0.0.1:4001/a",
		"query":                  "quic://127.0.0.1:4001?a",
		"fragment":               "quic://127.0.0.1:4001#a",
		"path before port":       "quic://example.com/a:4001",
		"user":                   "quic://user@127.0.0.1:4001",
		"user and password":      "quic://user:password@127.0.0.1:4001",
		"empty ID":               "quic://@127.0.0.1:4001",
		"zero ID":                "quic://" + zero + "@127.0.0.1:4001",
		"short ID":               "quic://" + idText[:51] + "@127.0.0.1:4001",
		"long ID":                "quic://" + idText + "a@127.0.0.1:4001",
		"upper-case ID":          "quic://" + strings.ToUpper(idText) + "@127.0.0.1:4001",
		"ID not canonical":       "quic://" + idText[:51] + "b@127.0.0.1:4001",
		"two IDs":                "quic://" + idText + "@" + idText + "@127.0.0.1:4001",
		"ID alone":               "quic://" + idText + "@",
		"IPv6 without brackets":  "quic://::1:4001",
		"IPv4 in brackets":       "quic://[127.0.0.1]:4001",
		"name in brackets":       "quic://[example.com]:4001",
		"bracket left open":      "quic://[::1:4001",
		"text after bracket":     "quic://[::1]a:4001",
		"two brackets":           "quic://[[::1]]:4001",
		"no IPv6":                "quic://[::g]:4001",
		"empty brackets":         "quic://[]:4001",
		"empty zone":             "quic://[fe80::1%]:4001",
		"zone with a slash":      "quic://[fe80::1%a/b]:4001",
		"zone with an at":        "quic://[fe80::1%a@b]:4001",
		"zone with a line break": "quic://[fe80::1%a\nb]:4001",
		"zone with a NUL":        "quic://[fe80::1%\x00]:4001",
		"zone not UTF-8":         "quic://[fe80::1%\xff]:4001",
		"zone too long":          "quic://[fe80::1%" + strings.Repeat("z", 65) + "]:4001",
		"IPv4 with zone":         "quic://127.0.0.1%eth0:4001",
		"IPv4 too short":         "quic://127.0.1:4001",
		"IPv4 too long":          "quic://1.2.3.4.5:4001",
		"IPv4 with zeros":        "quic://127.0.0.01:4001",
		"IPv4 too large":         "quic://256.0.0.1:4001",
		"IPv4 with a dot":        "quic://127.0.0.1.:4001",
		"number":                 "quic://2130706433:4001",
		"empty label":            "quic://a..b:4001",
		"dot":                    "quic://.:4001",
		"dot before":             "quic://.a:4001",
		"two dots after":         "quic://a..:4001",
		"hyphen before label":    "quic://a.-b:4001",
		"hyphen after label":     "quic://a-.b:4001",
		"label too long":         "quic://" + strings.Repeat("a", 64) + ":4001",
		"name too long":          "quic://" + strings.Repeat("a.", 127) + "a:4001",
		"not ASCII":              "quic://bücher.example:4001",
		"space in name":          "quic://a b:4001",
		"percent":                "quic://a%20b:4001",
		"NUL":                    "quic://a\x00:4001",
		"line break":             "quic://a\n:4001",
		"enormous":               "quic://" + strings.Repeat("a", 1<<20) + ":4001",
		"enormous without port":  strings.Repeat("a", 1<<20),
	} {
		got, err := transport.ParseAddr(s)
		if !errors.Is(err, transport.ErrBadAddr) {
			t.Errorf("%s: got %v, %v; want ErrBadAddr", name, got, err)
			continue
		}
		if !got.IsZero() {
			t.Errorf("%s: an error came with %#v", name, got)
		}
		if text := err.Error(); len(text) > 1500 || strings.Contains(text, "\n") {
			t.Errorf("%s: the error has %d bytes, or several lines: %.200q", name, len(text), text)
		}
	}
	if _, err := transport.ParseAddr("quic://x@127.0.0.1:1"); !errors.Is(err, identity.ErrBadID) {
		t.Errorf("got %v, want it to be ErrBadID too", err)
	}
}

func FuzzParseAddr(f *testing.F) {
	for _, s := range []string{
		"quic://" + idText + "@127.0.0.1:4001", "mux://[2001:db8::1]:1", "tcp://example.com.:443", "tcp://[fe80::1%eth0]:5",
		"tcp://[::ffff:1.2.3.4]:0", "tcp://[::ffff:1:2%z]:0", "a://A_b:1", "://", "quic://[", "quic://@:",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := transport.ParseAddr(s)
		if err != nil {
			if !errors.Is(err, transport.ErrBadAddr) {
				t.Fatalf("%q: %v is not ErrBadAddr", s, err)
			}
			return
		}
		if again, err := transport.ParseAddr(a.String()); err != nil || again != a {
			t.Fatalf("%q gives %#v, which reads back as %#v, %v", s, a, again, err)
		}
		if _, port, err := net.SplitHostPort(a.HostPort); err != nil || port == "" {
			t.Fatalf("%q: package net cannot split %q: %v", s, a.HostPort, err)
		}
		text, err := json.Marshal(a)
		if err != nil {
			t.Fatalf("%q: %v", s, err)
		}
		var b transport.Addr
		if err := json.Unmarshal(text, &b); err != nil || a != b {
			t.Fatalf("%q: JSON %s gives %#v, %v", s, text, b, err)
		}
		if upper := strings.ToUpper(a.HostPort); a.Peer.IsZero() && !strings.Contains(upper, "%") {
			if b, err := transport.ParseAddr(a.Scheme + "://" + upper); err != nil || a != b {
				t.Fatalf("%q and its upper case are %#v and %#v, %v", s, a, b, err)
			}
		}
	})
}

func TestAddrMarshal(t *testing.T) {
	type doc struct {
		Addr  transport.Addr
		Links map[transport.Addr]int
	}
	a := transport.Addr{Scheme: "quic", HostPort: "[::1]:5", Peer: id(t)}
	text, err := json.Marshal(doc{a, map[transport.Addr]int{a: 1}})
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"Addr":"` + a.String() + `","Links":{"` + a.String() + `":1}}`; string(text) != want {
		t.Errorf("got %s, want %s", text, want)
	}
	var out doc
	if err := json.Unmarshal(text, &out); err != nil || out.Addr != a || out.Links[a] != 1 {
		t.Errorf("read back %+v, %v", out, err)
	}

	if text, err := (transport.Addr{}).MarshalText(); err != nil || len(text) != 0 {
		t.Errorf("the zero Addr is %q, %v; want no text", text, err)
	}
	if !(transport.Addr{}).IsZero() || (transport.Addr{}).String() != "" {
		t.Error("the zero Addr is not zero")
	}
	zeroed := a
	if err := zeroed.UnmarshalText(nil); err != nil || !zeroed.IsZero() {
		t.Errorf("empty text gave %v, %v; want the zero Addr", zeroed, err)
	}
	kept := a
	if err := kept.UnmarshalText([]byte("x")); !errors.Is(err, transport.ErrBadAddr) || kept != a {
		t.Errorf("bad text gave %v, %v; want ErrBadAddr and the old value", kept, err)
	}
}
