package punch

import (
	"net/netip"
	"slices"
)

// Usable returns those of a peer's addresses that packets may be sent to, [MaxAddrs] at most (PN5): of the family of local, where
// this side's port is, unicast, with a port, and loopback only if local is. An IPv4 address in an IPv6 one counts as what it is.
func Usable(addrs []netip.AddrPort, local netip.Addr) []netip.AddrPort {
	var out []netip.AddrPort
	for _, a := range addrs {
		ip := a.Addr().Unmap()
		a = netip.AddrPortFrom(ip, a.Port())
		switch {
		case !ip.IsValid(), a.Port() == 0, ip.IsUnspecified(), ip.IsMulticast(), ip.Is4() != local.Unmap().Is4():
		case ip.IsLoopback() && !local.IsLoopback(), ip == netip.AddrFrom4([4]byte{255, 255, 255, 255}), ip.IsLinkLocalUnicast() && ip.Is6():
		case !slices.Contains(out, a):
			out = append(out, a)
		}
	}
	return out[:min(len(out), MaxAddrs)]
}

// Path is a way to the peer: from a socket of this side's to an address of the peer's.
type Path struct {
	// Socket is 0 for the port of QUIC, and counts from 1 for the further ones that a machine wants when it opens many.
	Socket int
	Remote netip.AddrPort
}

// rank orders paths: the lower ones are better. A private address is that of a network that both are in, so nobody's NAT has to keep it open.
func (p Path) rank() int {
	switch ip := p.Remote.Addr(); {
	case p.Socket > 0:
		return 2
	case ip.IsPrivate(), ip.IsLoopback(), ip.IsLinkLocalUnicast():
		return 0
	}
	return 1
}
