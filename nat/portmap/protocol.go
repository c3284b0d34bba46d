package portmap

import (
	"context"
	"net/netip"
	"time"
)

// Protocol is a way to ask a router. Smaller ones are preferred.
type Protocol int

const (
	PCP    Protocol = iota // RFC 6887
	NATPMP                 // RFC 6886
	UPnP                   // UPnP Internet Gateway Device, versions 1 and 2

	protocols = 3
)

func (p Protocol) String() string {
	switch p {
	case PCP:
		return "PCP"
	case NATPMP:
		return "NAT-PMP"
	case UPnP:
		return "UPnP IGD"
	}
	return "unknown protocol"
}

// place is where we are: the default gateway, and our address towards it. Comparable.
type place struct{ gateway, local netip.Addr }

// wish is a mapping as the router is asked for it.
type wish struct {
	network  string // "udp" or "tcp"
	inside   uint16
	outside  uint16 // a suggestion when it is made; what it was granted as afterwards
	lifetime time.Duration
	nonce    [12]byte // PCP: by which the router knows the owner
}

// grant is what a router agreed to, or says of itself.
type grant struct {
	outside  netip.AddrPort // zero: it did not say
	lifetime time.Duration  // zero: for ever
}

// client speaks one protocol with the router of a place. Its methods block until there is an answer or ctx ends; they are called at once.
type client interface {
	// probe finds out whether the router speaks the protocol. The grant's outside has no port.
	probe(ctx context.Context, at place) (grant, error)
	// add makes a mapping, or renews it.
	add(ctx context.Context, at place, w wish) (grant, error)
	// look finds out whether the router still has a mapping, and makes it again if it has not. If there was nothing to do the
	// grant's outside has no port.
	look(ctx context.Context, at place, w wish) (grant, error)
	// remove ends a mapping.
	remove(ctx context.Context, at place, w wish) error
}

// Public reports whether others can perhaps reach an address of a router: it is IPv4, and neither private nor shared by a carrier's
// NAT (RFC 6598) nor none at all.
func Public(a netip.Addr) bool {
	a = a.Unmap()
	switch {
	case !a.Is4(), !a.IsGlobalUnicast(), a.IsPrivate():
		return false
	}
	b := a.As4()
	return b[0] != 0 && b[0] < 240 && (b[0] != 100 || b[1]&0xc0 != 64) // not 0/8, 240/4, nor the 100.64/10 of carriers' NATs (RFC 6598)
}
