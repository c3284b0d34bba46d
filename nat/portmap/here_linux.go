package portmap

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"io"
	"net/netip"
	"os"
	"strconv"
	"strings"
)

func defaultGateway() (netip.Addr, error) {
	f, err := os.Open("/proc/net/route")
	if err != nil {
		return netip.Addr{}, err
	}
	defer f.Close()
	return readRoutes(f), nil
}

// readRoutes returns the gateway of the default route with the best metric of the table of /proc/net/route; zero if there is none.
// Lines that cannot be read are skipped.
func readRoutes(r io.Reader) (gateway netip.Addr) {
	const up, viaGateway = 1, 2 // RTF_UP, RTF_GATEWAY
	best := 0
	lines := bufio.NewScanner(io.LimitReader(r, 1<<20))
	for lines.Scan() {
		// Iface Destination Gateway Flags RefCnt Use Metric Mask …; the addresses are hexadecimal words of the machine's byte order.
		f := strings.Fields(lines.Text())
		if len(f) < 8 || f[1] != "00000000" || f[7] != "00000000" {
			continue
		}
		raw, err := hex.DecodeString(f[2])
		flags, errFlags := strconv.ParseUint(f[3], 16, 16)
		metric, errMetric := strconv.Atoi(f[6])
		if err != nil || errFlags != nil || errMetric != nil || len(raw) != 4 || flags&(up|viaGateway) != up|viaGateway {
			continue
		}
		if !gateway.IsValid() || metric < best {
			var ip [4]byte
			binary.NativeEndian.PutUint32(ip[:], binary.BigEndian.Uint32(raw))
			gateway, best = netip.AddrFrom4(ip), metric
		}
	}
	return gateway
}
