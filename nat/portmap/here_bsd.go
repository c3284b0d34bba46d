//go:build darwin || dragonfly || freebsd || netbsd || openbsd

package portmap

import (
	"net/netip"
	"syscall"

	"golang.org/x/net/route"
)

func defaultGateway() (netip.Addr, error) {
	table, err := route.FetchRIB(syscall.AF_INET, route.RIBTypeRoute, 0)
	if err != nil {
		return netip.Addr{}, err
	}
	messages, err := route.ParseRIB(route.RIBTypeRoute, table)
	if err != nil {
		return netip.Addr{}, err
	}
	for _, m := range messages {
		r, ok := m.(*route.RouteMessage)
		if !ok || r.Flags&(syscall.RTF_UP|syscall.RTF_GATEWAY) != syscall.RTF_UP|syscall.RTF_GATEWAY || len(r.Addrs) <= syscall.RTAX_NETMASK {
			continue
		}
		to, okTo := r.Addrs[syscall.RTAX_DST].(*route.Inet4Addr)
		via, okVia := r.Addrs[syscall.RTAX_GATEWAY].(*route.Inet4Addr)
		mask, okMask := r.Addrs[syscall.RTAX_NETMASK].(*route.Inet4Addr)
		if okTo && okVia && to.IP == [4]byte{} && (!okMask || mask.IP == [4]byte{}) {
			return netip.AddrFrom4(via.IP), nil
		}
	}
	return netip.Addr{}, nil
}
