package pheromones

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"github.com/Blockchain-CN/pheromones/transport"
)

// PortMap has the router before this machine forward ports. A *portmap.Mapper (package nat/portmap) is one. Its methods may be called at once.
type PortMap interface {
	// Map asks for a port to be forwarded to a socket of this machine, "udp" or "tcp", bound to local; an unspecified IP means
	// every one. It returns at once, and keeps the mapping from then on. changed is called, from one goroutine and after Map has
	// returned, when the outside address becomes another, and with the zero AddrPort when there is none any more; it does not
	// block.
	//
	// release removes the mapping and returns when that is done or ctx ends. changed is not called any more then. It is called once.
	Map(network string, local netip.AddrPort, changed func(outside netip.AddrPort)) (release func(ctx context.Context))
}

// unmapTimeout bounds how long the end of a listener waits for its router.
const unmapTimeout = 2 * time.Second

// mapPort keeps the port of a listener mapped until stop is called, which waits. mu is held.
func (n *Node) mapPort(l transport.Listener) (stop func()) {
	network := "tcp"
	if _, ok := l.(packetListener); ok {
		network = "udp"
	}
	local, err := netip.ParseAddrPort(l.Addr().HostPort)
	if n.cfg.PortMap == nil || n.cfg.Path == PathRelayOnly || err != nil || local.Addr().IsLoopback() || network == "udp" && local.Addr().Is6() {
		return func() {}
	}
	release := n.cfg.PortMap.Map(network, local, func(outside netip.AddrPort) {
		n.mu.Lock()
		defer n.mu.Unlock()
		if !n.closing && slices.Contains(n.bound, l) {
			n.mapped[l] = outside
			n.announce()
		}
	})
	return func() {
		ctx, cancel := context.WithTimeout(context.Background(), unmapTimeout)
		defer cancel()
		release(ctx)
		n.mu.Lock()
		defer n.mu.Unlock()
		if delete(n.mapped, l); !n.closing {
			n.announce()
		}
	}
}

// mappedAt returns the address from which a router forwards to a listener's port; it is not valid if none does.
func (n *Node) mappedAt(l transport.Listener) netip.AddrPort {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.mapped[l]
}

// mappings returns the outside addresses of the node's ports, with mu held.
func (n *Node) mappings() (addrs []transport.Addr) {
	for _, l := range n.bound {
		if outside := n.mapped[l]; outside.IsValid() {
			a := l.Addr()
			a.HostPort = outside.String()
			addrs = append(addrs, a)
		}
	}
	return addrs
}
