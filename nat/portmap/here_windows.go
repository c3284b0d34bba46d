package portmap

import (
	"errors"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/windows"
)

func defaultGateway() (netip.Addr, error) {
	const flags = windows.GAA_FLAG_INCLUDE_GATEWAYS | windows.GAA_FLAG_SKIP_ANYCAST | windows.GAA_FLAG_SKIP_MULTICAST | windows.GAA_FLAG_SKIP_DNS_SERVER
	var first *windows.IpAdapterAddresses
	for size := uint32(16 << 10); ; {
		buffer := make([]byte, size)
		first = (*windows.IpAdapterAddresses)(unsafe.Pointer(&buffer[0]))
		err := windows.GetAdaptersAddresses(windows.AF_INET, flags, 0, first, &size)
		if err == nil {
			break
		}
		if !errors.Is(err, windows.ERROR_BUFFER_OVERFLOW) || size > 1<<20 {
			return netip.Addr{}, err
		}
	}
	var gateway netip.Addr
	var best uint32
	for a := first; a != nil; a = a.Next {
		if a.OperStatus != windows.IfOperStatusUp {
			continue
		}
		for g := a.FirstGatewayAddress; g != nil; g = g.Next {
			ip, ok := netip.AddrFromSlice(g.Address.IP())
			if ip = ip.Unmap(); ok && ip.Is4() && (!gateway.IsValid() || a.Ipv4Metric < best) {
				gateway, best = ip, a.Ipv4Metric
			}
		}
	}
	return gateway, nil
}
