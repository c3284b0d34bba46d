package main

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/Blockchain-CN/pheromones/nat/portmap"
	"github.com/Blockchain-CN/pheromones/nat/stun"
)

// wantBuffer is how much of a buffer a fast path wants: 50 ms at a gigabit a second.
const wantBuffer = 7 << 20

// advise says what could be done, most useful first.
func (c *checked) advise(asked bool) []string {
	advice := []string{}
	add := func(format string, args ...any) { advice = append(advice, fmt.Sprintf(format, args...)) }
	r := c.reports[true]
	if !asked {
		add("Name two nodes or STUN servers with different IPs (--join ADDR, SERVER): without them only this machine and its router were looked at.")
	} else if c.Standing == unknown || r != nil && r.Mapping == stun.MappingUnknown && len(r.Seen) > 0 && c.Standing != public && c.Standing != firewall {
		add("Name a second node or STUN server with another IP: one cannot tell how the NAT maps.")
	}
	if c.Standing == udpBlocked {
		add("UDP gets no answer: let it out, or have all listen with mux, too, and join a node that relays (serve --relay) over mux.")
	}
	behind := c.Standing == portRestricted || c.Standing == restricted || c.Standing == symmetric || c.Standing == unknown && asked
	found := slices.IndexFunc(c.Ports, func(m mapper) bool { return m.Found })
	switch {
	case found >= 0 && !c.forwards:
		add("The router forwards ports, but has a private address itself: another NAT stands before it (a second router, or the provider's). Join a node that relays, or ask the provider for a public address.")
	case behind && found < 0 && len(c.Ports) > 0:
		add("Turn on PCP, NAT-PMP or UPnP at the router, or forward a UDP port to this machine and listen at it: then everybody reaches it.")
	}
	switch c.Standing {
	case public:
		if f := c.reports[r != nil && len(r.Seen) > 0]; f != nil && f.Filtering == stun.FilteringUnknown {
			add("Whether a firewall keeps out whom this machine has not sent to was not found out: that takes a STUN server with two addresses (RFC 5780).")
		}
	case symmetric:
		add("This NAT uses another port for each peer, so that some pairs stay relayed: join a node that relays (serve --relay).")
	case portRestricted, restricted:
		add("Join a node that relays (serve --relay): by it peers find this machine, and then go direct.")
	case firewall:
		add("The address is public, but a firewall stands before it: open the UDP port of the node, or join a node that relays.")
	}
	if c.Hairpin == "does not" {
		add("The router does not lead back inside (hairpin): peers behind the same router reach each other by their local addresses, which nodes tell each other.")
	}
	if s := c.Socket; s != nil && min(s.ReadBuffer, s.WriteBuffer) < wantBuffer {
		add("The kernel grants UDP %d KiB of buffers; fast links want %d: sysctl -w net.core.rmem_max=%d net.core.wmem_max=%d", min(s.ReadBuffer, s.WriteBuffer)>>10, wantBuffer>>10, wantBuffer, wantBuffer)
	}
	if s := c.Socket; s != nil && !s.GSO {
		add("The kernel does not segment UDP packets (GSO), which costs speed: Linux 4.18 does.")
	}
	return advice
}

// show prints what was found for people.
func (p *program) show(c *checked) {
	p.line("UDP            %s", c.UDP)
	for _, f := range []struct {
		name string
		*family
	}{{"IPv4", &c.IPv4}, {"IPv6", &c.IPv6}} {
		text := "no address"
		if len(f.Local) > 0 {
			text = "addresses " + strings.Trim(fmt.Sprint(f.Local), "[]")
		}
		p.line("%-14s %s", f.name, text)
		if f.Outside != "" {
			p.line("%-14s seen as %s by %d servers: %s, %s", "", f.Outside, f.Servers, f.Mapping, f.Filtering)
		}
		for _, e := range f.Errors {
			p.line("%-14s %s", "", e)
		}
	}
	p.line("hairpin        %s", c.Hairpin)
	for _, m := range c.Ports {
		text := m.Error
		if m.Found {
			text = "found"
			if m.Outside != "" {
				text += ", the router's address is " + m.Outside
				if a, err := netip.ParseAddr(m.Outside); err != nil || !portmap.Public(a) {
					text += ", which is not public"
				}
			}
		}
		p.line("%-14s %s", m.Protocol, text)
	}
	for _, r := range c.Joined {
		p.line("%-14s %s: %s", "joined", r.Addr, cmp.Or(r.Error, fmt.Sprintf("%.1f ms", r.MS)))
	}
	if s := c.Socket; s != nil {
		gso := "no GSO"
		if s.GSO {
			gso = "GSO"
		}
		p.line("UDP socket     buffers of %d KiB to read, %d KiB to write, %s", s.ReadBuffer>>10, s.WriteBuffer>>10, gso)
	}
	p.line("")
	p.line("This machine is: %s. With a relay in common it talks to a peer that is", c.Standing)
	for _, s := range standings() {
		p.line("  %-16s %s", s, c.Predicted[s])
	}
	if len(c.Advice) > 0 {
		p.line("")
	}
	for _, a := range c.Advice {
		p.line("- %s", a)
	}
}
