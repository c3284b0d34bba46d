package natlab

import (
	"cmp"
	"fmt"
	"net/netip"
	"strings"
)

// Mapping is how a NAT chooses the outside address of a connection (RFC 4787 §4.1).
type Mapping int

const (
	// None: addresses are not changed. The router is a firewall, and hosts behind it have public addresses.
	None Mapping = iota
	// Independent: one outside port for an inside port, whomever it sends to.
	Independent
	// Dependent: another one, at random, for each address and port that it sends to. Such a NAT is called symmetric, and filters by
	// address and port.
	Dependent
)

// Filtering is whose packets, without having been asked for, a NAT lets in to a port that has sent something (RFC 4787 §5). Those
// that are not let in are dropped without a word. It is not used unless the mapping is Independent.
type Filtering int

const (
	// ByAddressAndPort: those from where it has sent to.
	ByAddressAndPort Filtering = iota
	// ByAddress: those from IPs that it has sent to.
	ByAddress
	// Unfiltered: everybody's.
	Unfiltered
)

// NAT is what a router does with packets between the inside and the outside. The zero value is a firewall that lets in answers
// only. UDP and TCP are treated alike; of a TCP connection from outside this is its first packet.
type NAT struct {
	Mapping   Mapping
	Filtering Filtering
	// NewPorts makes outside ports differ from inside ones. Else a port is kept where it is free.
	NewPorts bool
	// Hairpin lets hosts inside reach each other by their outside addresses, whatever the filtering (RFC 4787 §6). Else such packets are lost.
	Hairpin bool
	// NoUDP drops UDP.
	NoUDP bool
}

const mapLifetime = "2m"

// closed are rules by which nothing passes.
const closed = `flush ruleset
table ip filter {
  chain input { type filter hook input priority filter; policy drop; }
  chain forward { type filter hook forward priority filter; policy drop; }
}
`

// rules returns the whole rule set, for nft, of a router whose devices are lan and wan. outside is the address of the NAT. ports,
// if it is not empty, are those that it uses outside, first-last; then they differ from inside ones.
func (n NAT) rules(outside netip.Addr, ports string) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("flush ruleset")
	line("table ip filter {")
	line("  chain input { type filter hook input priority filter; policy drop;")
	line("    iifname lo accept; ct state established,related accept; icmp type echo-request accept")
	line("  }")
	line("  chain forward { type filter hook forward priority filter; policy drop;")
	if n.NoUDP {
		line("    meta l4proto udp drop")
	}
	line("    ct state established,related accept")
	line("    ct status dnat accept")
	line("    iifname lan oifname wan accept")
	line("    iifname lan oifname lan accept")
	line("  }")
	line("}")
	if n.Mapping == None {
		return b.String()
	}

	keep := n.Mapping == Independent
	if !keep || n.NewPorts {
		ports = cmp.Or(ports, "1024-65535")
	}
	target := outside.String()
	if ports != "" {
		target += ":" + ports + " random"
	}
	if !keep {
		target = strings.Replace(target, "random", "fully-random", 1)
	}
	const both = "meta l4proto { tcp, udp }"
	line("table ip nat {")
	if keep {
		// What belongs to what: from inside to outside, back, and to whom an outside port has sent.
		line("  map out { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; flags dynamic,timeout; timeout %s; }", mapLifetime)
		line("  map in { type inet_proto . inet_service : ipv4_addr . inet_service; flags dynamic,timeout; timeout %s; }", mapLifetime)
		line("  set sent { type inet_proto . inet_service . ipv4_addr; flags dynamic,timeout; timeout %s; }", mapLifetime)
	}
	line("  chain before { type nat hook prerouting priority dstnat;")
	if keep {
		condition := ""
		switch n.Filtering {
		case ByAddress:
			condition = "meta l4proto . th dport . ip saddr @sent"
			fallthrough
		case Unfiltered:
			line("    iifname wan ip daddr %s %s %s dnat ip to meta l4proto . th dport map @in", outside, both, condition)
		}
		if n.Hairpin {
			line("    iifname lan ip daddr %s %s dnat ip to meta l4proto . th dport map @in", outside, both)
		}
	}
	line("  }")
	line("  chain after { type nat hook postrouting priority srcnat;")
	ways := []string{"oifname wan"}
	if n.Hairpin {
		ways = append(ways, "iifname lan oifname lan ct status dnat")
	}
	for _, way := range ways {
		if keep {
			line("    %s %s snat ip to ip saddr . meta l4proto . th sport map @out", way, both)
		}
		line("    %s %s snat to %s", way, both, target)
	}
	line("    oifname wan snat to %s", outside)
	line("  }")
	if keep {
		// Mappings are known when they have been made: after the chain above. They last while packets go out, whichever side began.
		line("  chain note { type filter hook postrouting priority srcnat + 10;")
		for _, direction := range []string{"original", "reply"} {
			line("    oifname wan ct direction %[1]s %[2]s update @out { ct %[1]s ip saddr . meta l4proto . ct %[1]s proto-src : ip saddr . th sport }", direction, both)
			line("    oifname wan ct direction %[1]s %[2]s update @in { meta l4proto . th sport : ct %[1]s ip saddr . ct %[1]s proto-src }", direction, both)
		}
		line("    oifname wan %s update @sent { meta l4proto . th sport . ip daddr }", both)
		line("  }")
	}
	line("}")
	return b.String()
}
