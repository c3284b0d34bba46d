package stun

import "net/netip"

// Mapping is how a NAT chooses the outside address of a socket (RFC 4787 §4.1).
type Mapping int

const (
	// MappingUnknown: too little was observed.
	MappingUnknown Mapping = iota
	// EndpointIndependentMapping: the same one whomever it sends to. What one server sees is where everybody can be told to send.
	// So it is without a NAT.
	EndpointIndependentMapping
	// AddressDependentMapping: another one for each IP.
	AddressDependentMapping
	// AddressAndPortDependentMapping: another one for each IP and port. With the former this is what is called a symmetric NAT.
	AddressAndPortDependentMapping
	// DependentMapping: one of the latter two; no server was asked at two ports of one IP.
	DependentMapping
)

func (m Mapping) String() string {
	switch m {
	case EndpointIndependentMapping:
		return "endpoint-independent mapping"
	case AddressDependentMapping:
		return "address-dependent mapping"
	case AddressAndPortDependentMapping:
		return "address-and-port-dependent mapping"
	case DependentMapping:
		return "address-dependent or address-and-port-dependent mapping"
	}
	return "unknown mapping"
}

// Filtering is whose packets a NAT, or a firewall, lets in to a socket that has sent something (RFC 4787 §5).
type Filtering int

const (
	// FilteringUnknown: no server answers from other addresses than the one asked. Two ordinary servers cannot tell.
	FilteringUnknown Filtering = iota
	// EndpointIndependentFiltering: everybody's. So it is without a NAT.
	EndpointIndependentFiltering
	// AddressDependentFiltering: those from IPs that it has sent to.
	AddressDependentFiltering
	// AddressAndPortDependentFiltering: those from addresses that it has sent to.
	AddressAndPortDependentFiltering
)

func (f Filtering) String() string {
	switch f {
	case EndpointIndependentFiltering:
		return "endpoint-independent filtering"
	case AddressDependentFiltering:
		return "address-dependent filtering"
	case AddressAndPortDependentFiltering:
		return "address-and-port-dependent filtering"
	}
	return "unknown filtering"
}

// Observation is what one server saw of one socket.
type Observation struct{ Server, Mapped netip.AddrPort }

// JudgeMapping returns what observations of one socket, all of one address family, tell of the mapping. Two servers with different
// IPs suffice for most; to tell address-dependent from address-and-port-dependent one of them must have been asked at two ports. An
// observation of another family than the first is left out.
func JudgeMapping(seen []Observation) Mapping {
	var twoIPs, twoPorts, ipMatters, portMatters bool
	for i, a := range seen {
		if a.Mapped.Addr().Is4() != seen[0].Mapped.Addr().Is4() {
			continue
		}
		for _, b := range seen[:i] {
			if b.Mapped.Addr().Is4() != seen[0].Mapped.Addr().Is4() || a.Server == b.Server {
				continue
			}
			differ := a.Mapped != b.Mapped
			if a.Server.Addr() != b.Server.Addr() {
				twoIPs = true
				ipMatters = ipMatters || differ
			} else {
				twoPorts = true
				portMatters = portMatters || differ
			}
		}
	}
	switch {
	case portMatters:
		return AddressAndPortDependentMapping
	case ipMatters && twoPorts:
		return AddressDependentMapping
	case ipMatters:
		return DependentMapping
	case twoIPs:
		return EndpointIndependentMapping
	}
	return MappingUnknown
}
