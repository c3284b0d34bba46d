package natlab

import (
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"sync"
	"time"
)

// Lab is an internet of its own. Its methods, and those of its hosts and routers, must not be called at once, except [Host.Do] and [Host.Start].
type Lab struct {
	delay  time.Duration
	core   *netns
	spaces []*netns // in the order in which they were made
	links  []*link
	public int // how many public addresses have been given out
	lans   int
}

// New makes a lab in which there is nothing yet. It fails with [ErrUnavailable] if the machine does not permit it. A nil cfg means the defaults.
func New(cfg *Config) (*Lab, error) {
	for _, name := range []string{"ip", "nft"} {
		if _, err := exec.LookPath(name); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
	}
	l := &Lab{delay: cfg.delay()}
	var err error
	if l.core, err = l.space(); err == nil {
		err = l.core.sysctl("ipv4/ip_forward=1", "ipv4/conf/all/rp_filter=0", "ipv4/conf/default/rp_filter=0")
	}
	if err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// Close kills the programs that still run in the lab, and ends it. It returns when no packet is carried any more; the kernel
// removes the namespaces in its own time, when no program and no socket is in them any more. Sockets that [Host.Do] has opened are
// their owners'.
func (l *Lab) Close() error {
	for _, k := range l.links {
		k.close()
	}
	var closing sync.WaitGroup
	for _, n := range l.spaces {
		closing.Go(n.close)
	}
	closing.Wait()
	l.links, l.spaces = nil, nil
	return nil
}

// space makes a namespace that Close removes.
func (l *Lab) space() (*netns, error) {
	n, err := newNetns()
	if err == nil {
		l.spaces = append(l.spaces, n)
	}
	return n, err
}

// errFull is what happens when there are no addresses left.
var errFull = errors.New("natlab: all addresses are taken")

// address gives out a public address.
func (l *Lab) address() (netip.Addr, error) {
	if l.public == 254 {
		return netip.Addr{}, errFull
	}
	l.public++
	return netip.AddrFrom4([4]byte{203, 0, 113, byte(l.public)}), nil
}

// connect links a namespace, as its device name, to the internet, which sends packets for addrs there. It returns the name of the
// device in the core.
func (l *Lab) connect(n *netns, name string, addrs ...netip.Addr) (at string, err error) {
	at = fmt.Sprintf("l%d", len(l.links))
	k, err := newLink(l.core, at, n, name, l.delay)
	if err != nil {
		return "", err
	}
	l.links = append(l.links, k)
	up := fmt.Sprintf("link set %s up mtu %d txqueuelen 4000\n", at, mtu)
	for _, a := range addrs {
		up += fmt.Sprintf("route add %s dev %s\n", a, at)
	}
	if err := l.core.ip("%s", up); err != nil {
		return "", err
	}
	return at, n.ip("link set %s up mtu %d txqueuelen 4000\n", name, mtu)
}

// Public makes a host with a public address and nothing before it.
func (l *Lab) Public() (*Host, error) { return l.PublicWith(1) }

// PublicWith makes a public host that has several addresses, n of them.
func (l *Lab) PublicWith(n int) (*Host, error) {
	h := &Host{lab: l}
	for range n {
		a, err := l.address()
		if err != nil {
			return nil, err
		}
		h.addrs = append(h.addrs, a)
	}
	var err error
	if h.netns, err = l.space(); err != nil {
		return nil, err
	}
	if _, err := l.connect(h.netns, "eth0", h.addrs...); err != nil {
		return nil, err
	}
	up := ""
	for _, a := range h.addrs {
		up += fmt.Sprintf("addr add %s/32 dev eth0\n", a)
	}
	return h, h.ip("%sroute add default dev eth0 src %s\n", up, h.addrs[0])
}

// Router makes a router on the internet, behind which hosts can stand.
func (l *Lab) Router(nat NAT) (*Router, error) {
	l.lans++
	return l.router(nat, nil, netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 168, byte(l.lans), 1}), 24))
}

// Carrier makes a router behind which other routers can stand, as well as hosts: the inside has addresses of 100.64.0.0/10 (RFC 6598).
func (l *Lab) Carrier(nat NAT) (*Router, error) {
	l.lans++
	return l.router(nat, nil, netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 64, byte(l.lans), 1}), 24))
}

// router makes a router, behind another one unless behind is nil. inside is its own address and the network behind it.
func (l *Lab) router(nat NAT, behind *Router, inside netip.Prefix) (*Router, error) {
	r := &Router{lab: l, nat: nat, inside: inside, used: 1}
	var err error
	if r.netns, err = l.space(); err != nil {
		return nil, err
	}
	if err := r.sysctl("ipv4/ip_forward=1", "ipv4/conf/all/rp_filter=0", "ipv4/conf/default/rp_filter=0", "ipv4/conf/all/send_redirects=0",
		"ipv4/conf/default/send_redirects=0"); err != nil {
		return nil, err
	}
	if err := r.ip("link add lan type bridge\naddr add %s dev lan\nlink set lan up\n", inside); err != nil {
		return nil, err
	}
	// Bridged frames would pass the rules for what is routed; where the kernel cannot do that there is no such variable.
	r.sysctl("bridge/bridge-nf-call-iptables=0")
	for range 2 { // the second one is for Rebind
		a, err := r.newOutside(behind)
		if err != nil {
			return nil, err
		}
		r.outside = append(r.outside, a)
	}
	if behind != nil {
		if err := behind.attach(r.netns, "wan"); err != nil {
			return nil, err
		}
		if err := r.ip("addr add %s/%d dev wan\naddr add %s/%d dev wan\nlink set wan up\nroute add default via %s\n", r.outside[0], inside.Bits(),
			r.outside[1], inside.Bits(), behind.inside.Addr()); err != nil {
			return nil, err
		}
		return r, r.install("")
	}
	if r.device, err = l.connect(r.netns, "wan", r.outside...); err != nil {
		return nil, err
	}
	if err := r.ip("addr add %s/32 dev wan\naddr add %s/32 dev wan\nroute add default dev wan src %s\n", r.outside[0], r.outside[1], r.outside[0]); err != nil {
		return nil, err
	}
	return r, r.install("")
}
