package nats

import (
	"context"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/pion/logging"
	"github.com/pion/transport/v4/vnet"
)

// crossing is how long a packet takes through the simulated internet.
const crossing = 20 * time.Millisecond

// Kind is what stands before a node: a NAT that maps and filters in one of the ways of RFC 4787 §4.1 and §5, or nothing.
type Kind struct {
	Public    bool
	Mapping   vnet.EndpointDependencyType
	Filtering vnet.EndpointDependencyType
}

func (k Kind) String() string {
	if k.Public {
		return "public"
	}
	short := [...]string{vnet.EndpointIndependent: "EI", vnet.EndpointAddrDependent: "AD", vnet.EndpointAddrPortDependent: "APD"}
	return short[k.Mapping] + "M/" + short[k.Filtering] + "F"
}

// Kinds returns all of them.
func Kinds() []Kind {
	kinds := []Kind{{Public: true}}
	each := []vnet.EndpointDependencyType{vnet.EndpointIndependent, vnet.EndpointAddrDependent, vnet.EndpointAddrPortDependent}
	for _, m := range each {
		for _, f := range each {
			kinds = append(kinds, Kind{Mapping: m, Filtering: f})
		}
	}
	return kinds
}

// internet is a simulated one.
type internet struct {
	t     *testing.T
	wan   *vnet.Router
	hosts byte
}

func newInternet(t *testing.T) *internet {
	t.Helper()
	wan, err := vnet.NewRouter(&vnet.RouterConfig{CIDR: "203.0.113.0/24", MinDelay: crossing, LoggerFactory: silent{}})
	if err != nil {
		t.Fatal(err)
	}
	return &internet{t: t, wan: wan}
}

// start makes packets flow, when all hosts have been added, until the test ends.
func (i *internet) start() {
	i.t.Helper()
	if err := i.wan.Start(); err != nil {
		i.t.Fatal(err)
	}
	i.t.Cleanup(func() { i.wan.Stop() })
}

// host is one computer.
type host struct {
	*vnet.Net
	addr string
}

// add adds a host behind what k says.
func (i *internet) add(k Kind) host {
	i.t.Helper()
	i.hosts++
	addr, to := fmt.Sprintf("203.0.113.%d", i.hosts), i.wan
	if !k.Public {
		nat, err := vnet.NewRouter(&vnet.RouterConfig{
			CIDR: fmt.Sprintf("10.0.%d.0/24", i.hosts), StaticIPs: []string{addr}, LoggerFactory: silent{},
			NATType: &vnet.NATType{MappingBehavior: k.Mapping, FilteringBehavior: k.Filtering, MappingLifeTime: 2 * time.Minute},
		})
		if err == nil {
			err = i.wan.AddRouter(nat)
		}
		if err != nil {
			i.t.Fatal(err)
		}
		addr, to = fmt.Sprintf("10.0.%d.2", i.hosts), nat
	}
	n, err := vnet.NewNet(&vnet.NetConfig{StaticIPs: []string{addr}})
	if err == nil {
		err = to.AddNet(n)
	}
	if err != nil {
		i.t.Fatal(err)
	}
	return host{n, addr}
}

// listen is a [ListenPacket] of the host.
func (h host) listen(_ context.Context, network, address string) (net.PacketConn, error) {
	c, err := h.Net.ListenPacket(network, address)
	if err != nil {
		return nil, err
	}
	return newSocket(c), nil
}

// silent is a logger that is none.
type silent struct{}

func (silent) NewLogger(string) logging.LeveledLogger { return silent{} }
func (silent) Trace(string)                           {}
func (silent) Tracef(string, ...any)                  {}
func (silent) Debug(string)                           {}
func (silent) Debugf(string, ...any)                  {}
func (silent) Info(string)                            {}
func (silent) Infof(string, ...any)                   {}
func (silent) Warn(string)                            {}
func (silent) Warnf(string, ...any)                   {}
func (silent) Error(string)                           {}
func (silent) Errorf(string, ...any)                  {}
