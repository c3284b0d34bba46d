package natlab

import (
	"errors"
	"net/netip"
	"os/exec"
)

// Host is a machine that programs run on. Its only device is eth0.
type Host struct {
	*netns
	lab    *Lab
	addrs  []netip.Addr
	router *Router // nil if it is public
}

// Host makes a host behind the router. If the router's mapping is [None] the host has a public address.
func (r *Router) Host() (*Host, error) {
	h := &Host{lab: r.lab}
	var err error
	if h.netns, err = r.lab.space(); err != nil {
		return nil, err
	}
	return h, h.join(r)
}

// Addr returns the host's address, its first one if it has several.
func (h *Host) Addr() netip.Addr { return h.addrs[0] }

// Addrs returns the host's addresses. The result is the caller's.
func (h *Host) Addrs() []netip.Addr { return append([]netip.Addr(nil), h.addrs...) }

// Do calls f on a thread of the host: sockets that f opens are the host's, for good. Calls for one host wait for each other, so f
// should be quick.
func (h *Host) Do(f func() error) error { return h.do(f) }

// Start starts a program on the host. Its caller waits for it, as after [exec.Cmd.Start]. It is killed when the lab is closed or
// this process ends.
func (h *Host) Start(cmd *exec.Cmd) error { return h.start(cmd) }

// join gives the host a device behind a router.
func (h *Host) join(r *Router) error {
	var err error
	var a netip.Addr
	if r.nat.Mapping == None && r.device == "" {
		return errors.New("natlab: a host behind a firewall behind a router cannot have a public address")
	}
	if r.nat.Mapping == None {
		a, err = r.lab.address()
	} else {
		a, err = r.newInside()
	}
	if err != nil {
		return err
	}
	if err := r.attach(h.netns, "eth0"); err != nil {
		return err
	}
	h.addrs, h.router = []netip.Addr{a}, r
	if r.nat.Mapping == None {
		if err := r.ip("route add %s dev lan\n", a); err != nil {
			return err
		}
		if err := r.lab.core.ip("route add %s dev %s\n", a, r.device); err != nil {
			return err
		}
		if err := h.ip("addr add %s/32 dev eth0\n", a); err != nil {
			return err
		}
	} else if err := h.ip("addr add %s/%d dev eth0\n", a, r.inside.Bits()); err != nil {
		return err
	}
	return h.Up()
}

// Move takes the host from its router to another one, behind which it gets another address. Programs on it go on; for a moment
// there is no device.
func (h *Host) Move(to *Router) error {
	if err := h.ip("link del eth0\n"); err != nil {
		return err
	}
	return h.join(to)
}

// Down takes the host's device down: nothing comes or goes, and to send is an error.
func (h *Host) Down() error { return h.ip("link set eth0 down\n") }

// Up takes it up again.
func (h *Host) Up() error {
	if h.router == nil {
		return h.ip("link set eth0 up\nroute replace default dev eth0 src %s\n", h.addrs[0])
	}
	return h.ip("link set eth0 up\nroute replace default via %s dev eth0 onlink\n", h.router.inside.Addr())
}
