package punch

import (
	"net/netip"
	"reflect"
	"testing"
)

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
