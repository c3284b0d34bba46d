package main

import (
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/Blockchain-CN/pheromones/nat/stun"
)

// TestPredict: D is direct, S by spraying, R relayed, ? not known.
func TestPredict(t *testing.T) {
	const table = `
		                 public firewall full restricted port symmetric blocked
		public           D      D        D    D          D    D         D
		firewall         D      D        D    D          D    S         D
		full             D      D        D    D          D    D         D
		restricted       D      D        D    D          D    D         D
		port             D      D        D    D          D    S         D
		symmetric        D      S        D    D          S    R         R
		blocked          D      D        D    D          D    R         D
		unknown          D      ?        D    ?          ?    ?         ?`
	names := map[string]standing{
		"public": public, "firewall": firewall, "full": fullCone, "restricted": restricted, "port": portRestricted, "symmetric": symmetric, "blocked": udpBlocked, "unknown": unknown,
	}
	letters := map[string]prospect{"D": direct, "S": sprayed, "R": relayed, "?": unsure}
	lines := strings.Split(strings.TrimSpace(table), "\n")
	peers := strings.Fields(lines[0])
	for _, line := range lines[1:] {
		row := strings.Fields(line)
		for i, peer := range peers {
			a, b, want := names[row[0]], names[peer], letters[row[i+1]]
			if predict(a, b) != want || predict(b, a) != want {
				t.Errorf("%s and %s: %s, %s; want %s", a, b, predict(a, b), predict(b, a), want)
			}
		}
	}
}

func TestStand(t *testing.T) {
	const eim, adm, apdm = stun.EndpointIndependentMapping, stun.AddressDependentMapping, stun.AddressAndPortDependentMapping
	const eif, adf, apdf = stun.EndpointIndependentFiltering, stun.AddressDependentFiltering, stun.AddressAndPortDependentFiltering
	inside, outside := "192.168.1.7", "203.0.113.5"
	for _, test := range []struct {
		seen      string
		mapping   stun.Mapping
		filtering stun.Filtering
		forwards  bool
		want      standing
	}{
		{"", 0, 0, true, udpBlocked},
		{inside, eim, 0, false, public},
		{inside, 0, eif, false, public},
		{inside, eim, adf, false, firewall},
		{inside, eim, apdf, true, firewall},
		{outside, eim, eif, false, fullCone},
		{outside, eim, adf, false, restricted},
		{outside, eim, apdf, false, portRestricted},
		{outside, eim, 0, false, portRestricted},
		{outside, eim, 0, true, fullCone},
		{outside, adm, eif, false, symmetric},
		{outside, apdm, 0, false, symmetric},
		{outside, stun.DependentMapping, 0, false, symmetric},
		{outside, apdm, 0, true, fullCone},
		{outside, 0, 0, false, unknown},
		{outside, 0, eif, false, unknown},
	} {
		r := stun.Report{Mapping: test.mapping, Filtering: test.filtering}
		if test.seen != "" {
			r.Mapped = netip.AddrPortFrom(netip.MustParseAddr(test.seen), 4001)
		}
		local := []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr(inside)}
		if got := stand(r, test.seen != "", local, test.forwards); got != test.want {
			t.Errorf("%+v: %s", test, got)
		}
	}
}

// TestAdvice: each finding has its word, and no other.
func TestAdvice(t *testing.T) {
	seen := &stun.Report{Mapped: netip.MustParseAddrPort("203.0.113.5:4001"), Mapping: stun.EndpointIndependentMapping, Seen: make([]stun.Observation, 2)}
	one := &stun.Report{Mapped: seen.Mapped, Seen: seen.Seen[:1]}
	open := &stun.Report{Mapped: seen.Mapped, Mapping: seen.Mapping, Filtering: stun.EndpointIndependentFiltering, Seen: seen.Seen}
	none, some := []mapper{{Protocol: "PCP", Error: "no answer"}}, []mapper{{Protocol: "PCP", Found: true}}
	for _, test := range []struct {
		c    checked
		want []string
	}{
		{checked{Standing: unknown}, []string{"Name two"}},
		{checked{Standing: unknown, reports: map[bool]*stun.Report{true: one}}, []string{"Name a second"}},
		{checked{Standing: public, reports: map[bool]*stun.Report{true: open}}, nil},
		{checked{Standing: public, reports: map[bool]*stun.Report{true: seen}}, []string{"a firewall"}},
		{checked{Standing: fullCone, reports: map[bool]*stun.Report{true: seen}, Ports: some, forwards: true}, nil},
		{checked{Standing: fullCone, reports: map[bool]*stun.Report{true: seen}, Ports: none}, nil},
		{checked{Standing: portRestricted, reports: map[bool]*stun.Report{true: seen}, Ports: none}, []string{"Turn on", "relays"}},
		{checked{Standing: symmetric, reports: map[bool]*stun.Report{true: seen}, Ports: some}, []string{"another NAT", "another port"}},
		{checked{Standing: restricted, reports: map[bool]*stun.Report{true: seen}, Hairpin: "does not"}, []string{"relays", "hairpin"}},
		{checked{Standing: udpBlocked, reports: map[bool]*stun.Report{true: {}}, Ports: none}, []string{"UDP gets no answer"}},
		{checked{Standing: public, reports: map[bool]*stun.Report{true: open}, Socket: &socket{200 << 10, 7 << 20, false}}, []string{"rmem_max", "GSO"}},
		{checked{Standing: public, reports: map[bool]*stun.Report{true: open}, Socket: &socket{7 << 20, 7 << 20, true}}, nil},
	} {
		got := test.c.advise(len(test.c.reports) > 0)
		ok := len(got) == len(test.want)
		for i := 0; ok && i < len(got); i++ {
			ok = strings.Contains(got[i], test.want[i])
		}
		if !ok {
			t.Errorf("%+v: advised %q, want %q", test.c, got, test.want)
		}
	}
}

// TestNetcheck asks nodes on loopback.
func TestNetcheck(t *testing.T) {
	_, a := serveAt(t, "quic")
	_, b := serveAt(t, "quic")
	_, m := serveAt(t, "mux")
	args := []string{"netcheck", "--portmap=false", "--join", a, "--join", anybody(b), "--join", m}
	c := object[checked](t, mustTry(t, "", append(args, "--json")...))
	if c.UDP != "works" || c.Standing != public || c.IPv4.Servers != 2 || !strings.HasPrefix(c.IPv4.Outside, "127.0.0.1:") || len(c.IPv4.Errors) > 0 || c.Hairpin != "not tried" {
		t.Errorf("found %+v", c)
	}
	if len(c.Joined) != 3 || slices.ContainsFunc(c.Joined, func(r reached) bool { return r.Error != "" || r.MS <= 0 }) || len(c.Ports) != 0 {
		t.Errorf("found %+v", c)
	}
	if len(c.Predicted) != len(standings()) || c.Predicted[symmetric] != direct {
		t.Errorf("predicted %v", c.Predicted)
	}
	text := mustTry(t, "", args...)
	for _, want := range []string{"UDP            works", "seen as 127.0.0.1:", "by 2 servers", a, "This machine is: public", "symmetric        direct"} {
		if !strings.Contains(text, want) {
			t.Errorf("there is no %q in\n%s", want, text)
		}
	}

	// Nobody is there, for UDP; and one by TCP is.
	silent, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	code, out, errOut := try(t, "", "netcheck", "--portmap=false", "--timeout", "2s", "--json", silent.LocalAddr().String())
	out, _, _ = strings.Cut(out, "\n") // then comes the error
	if c = object[checked](t, out); code != exitUnreachable || c.UDP != "no answer" || c.Standing != udpBlocked || c.Predicted[symmetric] != relayed || len(c.IPv4.Errors) == 0 {
		t.Errorf("exit code %d, %q, found %+v", code, errOut, c)
	}
	code, out, _ = try(t, "", "netcheck", "--portmap=false", "--timeout", "6s", "--json", "--join", m, silent.LocalAddr().String())
	if c = object[checked](t, out); code != exitOK || c.Standing != udpBlocked {
		t.Errorf("exit code %d, found %+v", code, c)
	}
	if c = object[checked](t, mustTry(t, "", "netcheck", "--portmap=false", "--json")); c.UDP != "not tried" || c.Standing != unknown || len(c.Advice) == 0 {
		t.Errorf("without servers: %+v", c)
	}
}

func TestNetcheckUsage(t *testing.T) {
	for _, bad := range [][]string{
		{"127.0.0.1:0"}, {"127.0.0.1:x"}, {"127.0.0.1:70000"}, {""}, {":3478"}, {"quic://127.0.0.1:1"}, {"--join", "127.0.0.1:1"}, {"--join", "relay://x@y:1"}, {"--timeout", "0"},
	} {
		if code, _, errOut := try(t, "", append([]string{"netcheck", "--portmap=false"}, bad...)...); code != exitUsage || errOut == "" {
			t.Errorf("%q: exit code %d, %q", bad, code, errOut)
		}
	}
}
