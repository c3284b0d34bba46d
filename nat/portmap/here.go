package portmap

import (
	"fmt"
	"net"
	"net/netip"
)

// here returns where this machine is. It fails with ErrNoGateway, also if our own address is public: then nothing needs to be mapped.
func here() (place, error) {
	gateway, err := defaultGateway()
	if err != nil {
		return place{}, fmt.Errorf("%w: %w", ErrNoGateway, err)
	}
	if !gateway.Is4() || !gateway.IsGlobalUnicast() {
		return place{}, ErrNoGateway
	}
	c, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(gateway, pcpPort))) // sends nothing
	if err != nil {
		return place{}, fmt.Errorf("%w: %w", ErrNoGateway, err)
	}
	defer c.Close()
	local := c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
	if Public(local) {
		return place{}, fmt.Errorf("%w: our own address %s is public", ErrNoGateway, local)
	}
	return place{gateway, local}, nil
}
