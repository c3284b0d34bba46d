package main

import (
	"net/netip"

	"github.com/Blockchain-CN/pheromones/nat/stun"
)

// standing is how a node stands in the network, as far as it matters to who reaches whom.
type standing string

const (
	public         standing = "public"
	firewall       standing = "firewall"        // its own address, but only those that it has sent to get in
	fullCone       standing = "full cone"       // endpoint-independent mapping and filtering; also a port that the router forwards
	restricted     standing = "restricted"      // endpoint-independent mapping, address-dependent filtering
	portRestricted standing = "port-restricted" // endpoint-independent mapping, address-and-port-dependent filtering
	symmetric      standing = "symmetric"       // another outside port for each peer
	udpBlocked     standing = "UDP blocked"
	unknown        standing = "unknown"
)

// standings returns those that peers may have.
func standings() []standing {
	return []standing{public, firewall, fullCone, restricted, portRestricted, symmetric, udpBlocked}
}

// prospect is how two nodes talk that both have a link with a relay.
type prospect string

const (
	direct  prospect = "direct"
	sprayed prospect = "direct by spraying" // after guessing ports for some seconds
	relayed prospect = "relayed"
	unsure  prospect = "unknown"
)

// predict returns how two nodes talk, whichever of them begins.
func predict(a, b standing) prospect {
	either := func(s ...standing) bool {
		for _, s := range s {
			if a == s || b == s {
				return true
			}
		}
		return false
	}
	switch {
	case either(udpBlocked):
		switch { // over TCP, which NATs map as they map UDP, mostly
		case either(symmetric):
			return relayed
		case either(unknown):
			return unsure
		}
		return direct
	case either(public, fullCone):
		return direct
	case either(unknown):
		return unsure
	case a == symmetric && b == symmetric:
		return relayed
	case either(symmetric) && either(firewall, portRestricted):
		return sprayed
	}
	return direct
}

// stand judges what was found. local are this machine's addresses; forwards says that its router forwards ports to whoever asks.
// What is not known of filtering counts as strict behind a NAT, and as none without one.
func stand(r stun.Report, answered bool, local []netip.Addr, forwards bool) standing {
	if !answered {
		return udpBlocked
	}
	for _, a := range local {
		if a != r.Mapped.Addr() {
			continue
		}
		if r.Filtering == stun.AddressDependentFiltering || r.Filtering == stun.AddressAndPortDependentFiltering {
			return firewall
		}
		return public
	}
	switch {
	case forwards:
		return fullCone
	case r.Mapping == stun.MappingUnknown:
		return unknown
	case r.Mapping != stun.EndpointIndependentMapping:
		return symmetric
	case r.Filtering == stun.EndpointIndependentFiltering:
		return fullCone
	case r.Filtering == stun.AddressDependentFiltering:
		return restricted
	}
	return portRestricted
}
