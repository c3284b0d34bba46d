//go:build linux && natlab

package natlab

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/Blockchain-CN/pheromones/nat/stun"
)

// What kinds of NAT the table of scenarios has.
var (
	firewall       = NAT{}
	fullCone       = NAT{Mapping: Independent, Filtering: Unfiltered}
	restricted     = NAT{Mapping: Independent, Filtering: ByAddress}
	portRestricted = NAT{Mapping: Independent, Filtering: ByAddressAndPort}
	symmetric      = NAT{Mapping: Dependent}
	noUDP          = NAT{Mapping: Independent, NoUDP: true}
)

// TestKinds: every kind of NAT is what it is called, in the eyes of RFC 5780.
func TestKinds(t *testing.T) {
	lab := newLab(t)
	server := serveSTUN(t, must(lab.PublicWith(2)))
	with := func(n NAT, change func(*NAT)) NAT { change(&n); return n }
	newPorts := func(n *NAT) { n.NewPorts = true }
	hairpin := func(n *NAT) { n.Hairpin = true }
	behind := func(n NAT) *Host { return must(must(lab.Router(n)).Host()) }
	for _, test := range []struct {
		name      string
		host      *Host
		mapping   stun.Mapping
		filtering stun.Filtering
		public    bool // the address is not changed
		newPort   bool // the port is
	}{
		{"public", must(lab.Public()), stun.EndpointIndependentMapping, stun.EndpointIndependentFiltering, true, false},
		{"firewall", behind(firewall), stun.EndpointIndependentMapping, stun.AddressAndPortDependentFiltering, true, false},
		{"full cone", behind(fullCone), stun.EndpointIndependentMapping, stun.EndpointIndependentFiltering, false, false},
		{"address-restricted", behind(restricted), stun.EndpointIndependentMapping, stun.AddressDependentFiltering, false, false},
		{"port-restricted", behind(portRestricted), stun.EndpointIndependentMapping, stun.AddressAndPortDependentFiltering, false, false},
		{"symmetric", behind(symmetric), stun.AddressAndPortDependentMapping, stun.AddressAndPortDependentFiltering, false, true},
		{"full cone, new ports", behind(with(fullCone, newPorts)), stun.EndpointIndependentMapping, stun.EndpointIndependentFiltering, false, true},
		{"address-restricted, new ports", behind(with(restricted, newPorts)), stun.EndpointIndependentMapping, stun.AddressDependentFiltering, false, true},
		{"port-restricted, new ports", behind(with(portRestricted, newPorts)), stun.EndpointIndependentMapping, stun.AddressAndPortDependentFiltering, false, true},
		{"full cone, hairpin", behind(with(fullCone, hairpin)), stun.EndpointIndependentMapping, stun.EndpointIndependentFiltering, false, false},
		{"port-restricted, hairpin", behind(with(portRestricted, hairpin)), stun.EndpointIndependentMapping, stun.AddressAndPortDependentFiltering, false, false},
		{"two NATs", must(must(must(lab.Carrier(fullCone)).Router(portRestricted)).Host()), stun.EndpointIndependentMapping,
			stun.AddressAndPortDependentFiltering, false, false},
		{"two NATs, the outer symmetric", must(must(must(lab.Carrier(symmetric)).Router(fullCone)).Host()), stun.AddressAndPortDependentMapping,
			stun.AddressAndPortDependentFiltering, false, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			a := newAsker(t, test.host, &stun.Config{RTO: 200 * time.Millisecond})
			t.Parallel()
			r, err := a.Discover(t.Context(), server)
			if err != nil {
				t.Fatal(err)
			}
			if r.Mapping != test.mapping || r.Filtering != test.filtering {
				t.Errorf("%s, %s; want %s, %s", r.Mapping, r.Filtering, test.mapping, test.filtering)
			}
			inside := netip.AddrPortFrom(test.host.Addr(), a.LocalAddr().(interface{ AddrPort() netip.AddrPort }).AddrPort().Port())
			if (r.Mapped.Addr() == inside.Addr()) != test.public || (r.Mapped.Port() != inside.Port()) != test.newPort {
				t.Errorf("%s looks like %s from outside", inside, r.Mapped)
			}
		})
	}
	t.Run("UDP blocked", func(t *testing.T) {
		a := newAsker(t, behind(noUDP), &stun.Config{RTO: 200 * time.Millisecond, Requests: 3, LastWait: 2})
		t.Parallel()
		var silent *stun.NoAnswerError
		if r, err := a.Discover(t.Context(), server); !errors.As(err, &silent) {
			t.Errorf("%+v, %v", r, err)
		}
	})
}
