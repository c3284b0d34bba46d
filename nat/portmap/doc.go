// Package portmap has the router before this machine let peers in: it asks for ports to be forwarded, by PCP (RFC 6887), NAT-PMP
// (RFC 6886) or UPnP IGD, whichever the router speaks.
//
// # Usage
//
//	mapper := portmap.New(nil)
//	release := mapper.Map("udp", netip.MustParseAddrPort("0.0.0.0:4001"), func(outside netip.AddrPort) { … })
//	defer release(ctx)
//
// A *Mapper is what pheromones.Config.PortMap wants; the node then maps the ports that it listens at.
//
// # What is kept
//
// All three protocols are tried at once, and the best that answers is used, in the order above; what one refuses another is asked
// for. A port that is taken becomes another one. A mapping is renewed when half of its time is over, and looked after in between:
// if the router was started anew, has another address, or was replaced, it is made again within a minute. It is removed when it is
// released.
//
// # What routers tell
//
// A router may lie, and so may whoever is on the local network. Only the default gateway is asked and listened to; it may neither
// redirect nor refer to another host, its answers are bounded, and an outside address that cannot be one (private, 0.0.0.0, port 0)
// is not passed on. What is passed on is still a claim: a candidate to be tried, never a fact.
//
// # Limitations
//
// IPv4 only: with IPv6 there is no NAT, and firewalls are opened by punching. On systems other than Linux, the BSDs, macOS and
// Windows the default gateway is not known and nothing is mapped.
package portmap
