package natlab

import (
	"fmt"
	"net/netip"
	"os/exec"
)

// Router stands between an inside and the internet.
type Router struct {
	*netns
	lab     *Lab
	nat     NAT
	inside  netip.Prefix // its own address there, and the network
	used    byte         // the last byte of the address inside that was given out last
	outside []netip.Addr // the first is in use
	device  string       // the other end of its link in the core; empty behind another router
	rebound int          // how often
}

// Outside returns the address that the NAT has now.
func (r *Router) Outside() netip.Addr { return r.outside[0] }

// Start starts a program on the router, as [Host.Start] does on a host. The inside is its device lan, the outside wan.
func (r *Router) Start(cmd *exec.Cmd) error { return r.start(cmd) }

// Router makes a router behind this one, as that of somebody whose provider has a NAT, too.
func (r *Router) Router(nat NAT) (*Router, error) {
	r.lab.lans++
	return r.lab.router(nat, r, netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 168, byte(r.lab.lans), 1}), 24))
}

// newOutside gives out an address for a router, which is inside the one that it stands behind.
func (r *Router) newOutside(behind *Router) (netip.Addr, error) {
	if behind == nil {
		return r.lab.address()
	}
	return behind.newInside()
}

// newInside gives out an address behind the router.
func (r *Router) newInside() (netip.Addr, error) {
	if r.used == 254 {
		return netip.Addr{}, errFull
	}
	r.used++
	a := r.inside.Addr().As4()
	a[3] = r.used
	return netip.AddrFrom4(a), nil
}

// attach gives a namespace a device, name, on the inside of the router.
func (r *Router) attach(n *netns, name string) error {
	port := fmt.Sprintf("p%d", n.tid)
	return r.ip("link add %s type veth peer name %s netns %d\nlink set %s master lan up\n", port, name, n.tid, port)
}

// install puts the rules in force, and forgets everything that the NAT knew. Nothing passes meanwhile: a packet of a connection
// that is about to be forgotten would have its mapping noted once more.
func (r *Router) install(ports string) error {
	if err := r.run(closed, "nft", "-f", "-"); err != nil {
		return err
	}
	if err := r.do(flushConntrack); err != nil {
		return err
	}
	return r.run(r.nat.rules(r.outside[0], ports), "nft", "-f", "-")
}

// Forget makes the NAT forget all connections and mappings, as a router does that is started again.
func (r *Router) Forget() error { return r.install(r.ports()) }

// NewPorts makes the NAT forget everything and use other outside ports from now on, each time another range.
func (r *Router) NewPorts() error {
	r.rebound++
	return r.Forget()
}

// NewAddress makes the NAT forget everything and use another outside address. There are two, which it takes by turns.
func (r *Router) NewAddress() error {
	r.outside[0], r.outside[1] = r.outside[1], r.outside[0]
	return r.Forget()
}

// ports returns the outside ports that are in use now, for rules.
func (r *Router) ports() string {
	if r.rebound == 0 {
		return ""
	}
	first := 10000 + 5000*(r.rebound%10)
	return fmt.Sprintf("%d-%d", first, first+4999)
}
