package portmap

import (
	"encoding/binary"
	"net/netip"
	"strings"
	"testing"
)

func TestReadRoutes(t *testing.T) {
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		t.Skip("the table is that of a little-endian machine")
	}
	const head = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
	for table, want := range map[string]string{
		"": "",
		"eth0\t0001A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\neth0\t00000000\t0101A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n":            "192.168.1.1",
		"wlan0\t00000000\t0101A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0\neth0\t00000000\t0100000A\t0003\t0\t0\t100\t00000000\t0\t0\t0\n":         "10.0.0.1",
		"eth0\t00000000\t0101A8C0\t0002\t0\t0\t100\t00000000\t0\t0\t0\n":                                                                        "", // down
		"tun0\t00000000\t0100000A\t0003\t0\t0\t0\t00000080\t0\t0\t0\n":                                                                          "", // half of the world
		"\n\neth0\neth0\t00000000\tzz\t0003\t0\t0\t0\t00000000\neth0\t00000000\t0101A8C0\t0003\t0\t0\tx\t00000000\n" + strings.Repeat("x", 1e5): "",
	} {
		got := readRoutes(strings.NewReader(head + table))
		if want == "" && got.IsValid() || want != "" && got != netip.MustParseAddr(want) {
			t.Errorf("%q: %v, want %s", table, got, want)
		}
	}
}
