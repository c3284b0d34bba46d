package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/Blockchain-CN/pheromones"
	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/nat/portmap"
	"github.com/Blockchain-CN/pheromones/nat/stun"
	"github.com/Blockchain-CN/pheromones/quic"
	"github.com/Blockchain-CN/pheromones/transport"
)

func (p *program) netcheckCommand() *cobra.Command {
	var join []string
	var timeout time.Duration
	var ports bool
	cmd := &cobra.Command{
		Use:   "netcheck [flags] [SERVER...]",
		Short: "See how this machine's network lets peers in, and what to expect of it",
		Long: `Asks STUN servers, and the nodes that are joined, how a UDP port of this machine looks from outside, and the router which protocols for
forwarding ports it speaks; nothing is mapped. Then it says how the NAT maps and filters, in the words of RFC 4787, how this machine
would talk with peers behind each kind of NAT, and what could be done about it.

A SERVER is host or host:port, the port 3478 if it is missing. Every node that listens with quic is one. Two with different IPs
are needed to tell how the NAT maps, and one that has two addresses itself (RFC 5780) to tell how it filters.

The exit code is 0 if something has answered, or nobody was asked, and else 3.`,
		Example: `  pheromones netcheck --join quic://<id>@192.0.2.7:4001 --join quic://<id>@198.51.100.9:4001
  pheromones netcheck stun.example.org 192.0.2.7:4001
  pheromones netcheck --json                                    {"standing", "ipv4", "ipv6", "port_mapping", "hairpin", "predicted", "advice", …}`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if timeout <= 0 {
				return usagef("--timeout %v: want more than zero", timeout)
			}
			return p.netcheck(cmd.Context(), join, args, timeout, ports)
		},
	}
	cmd.Flags().StringArrayVar(&join, "join", nil, "the `address` of a node to ask and to reach; may be repeated")
	cmd.Flags().DurationVar(&timeout, "timeout", 10*time.Second, "how long all of it may take")
	cmd.Flags().BoolVar(&ports, "portmap", true, "ask the router, too")
	p.jsonFlag(cmd, "one object")
	return cmd
}

// checked is what netcheck found out, as --json shows it.
type checked struct {
	Standing  standing              `json:"standing"`
	UDP       string                `json:"udp"` // works, no answer, not tried
	IPv4      family                `json:"ipv4"`
	IPv6      family                `json:"ipv6"`
	Hairpin   string                `json:"hairpin"` // works, does not, not tried
	Ports     []mapper              `json:"port_mapping"`
	Joined    []reached             `json:"joined"`
	Socket    *socket               `json:"socket,omitempty"`
	Predicted map[standing]prospect `json:"predicted"`
	Advice    []string              `json:"advice"`
	forwards  bool                  // the router would forward ports to us
	reports   map[bool]*stun.Report // by family, IPv4 is true; nil if nobody was asked
}

// family is what is known of one IP version.
type family struct {
	Local     []netip.Addr `json:"local"`   // addresses that are not only local to a link
	Outside   string       `json:"outside"` // how servers see our port
	Mapping   string       `json:"mapping"`
	Filtering string       `json:"filtering"`
	Servers   int          `json:"servers"` // that answered
	Errors    []string     `json:"errors,omitempty"`
}

// mapper is one way to have the router forward ports.
type mapper struct {
	Protocol string `json:"protocol"`
	Found    bool   `json:"found"`
	Outside  string `json:"outside,omitempty"`
	Error    string `json:"error,omitempty"`
}

// reached is a node that was joined.
type reached struct {
	Addr  string  `json:"addr"`
	MS    float64 `json:"ms,omitempty"`
	Error string  `json:"error,omitempty"`
}

// socket is what the kernel grants.
type socket struct {
	ReadBuffer  int  `json:"read_buffer"`
	WriteBuffer int  `json:"write_buffer"`
	GSO         bool `json:"gso"`
}

func (p *program) netcheck(ctx context.Context, join, servers []string, timeout time.Duration, ports bool) error {
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("%w (%v)", context.DeadlineExceeded, timeout))
	defer cancel()
	var joined []transport.Addr
	schemes := []string{quicScheme}
	for _, s := range join {
		a, err := parseAddr(s)
		if err != nil {
			return err
		}
		if joined = append(joined, a); !slices.Contains(schemes, a.Scheme) {
			schemes = append(schemes, a.Scheme)
		}
		if a.Scheme == quicScheme {
			servers = append(servers, a.HostPort)
		}
	}
	ask, err := resolveServers(ctx, servers)
	if err != nil {
		return err
	}
	n, err := p.checker(schemes, ask)
	if err != nil {
		return err
	}
	defer n.Close()

	c := &checked{UDP: "not tried", Hairpin: "not tried", Ports: []mapper{}, Joined: make([]reached, len(joined)), reports: make(map[bool]*stun.Report)}
	c.interfaces()
	var asking sync.WaitGroup
	var v4, v6 *stun.Report
	asking.Go(func() { v4 = c.discover(ctx, n, &c.IPv4, ask[true]) })
	asking.Go(func() { v6 = c.discover(ctx, n, &c.IPv6, ask[false]) })
	for i, a := range joined {
		asking.Go(func() { c.Joined[i] = reach(ctx, n, a) })
	}
	if ports {
		asking.Go(func() { c.routers(ctx) })
	}
	c.kernel(ctx)
	asking.Wait()
	c.reports[true], c.reports[false] = v4, v6
	c.hairpin(ctx, n, ask[true])
	c.judge()
	if err := context.Cause(ctx); errors.Is(err, errInterrupted) {
		return err
	}
	if p.json {
		p.object(c)
	} else {
		p.show(c)
	}
	tried := len(ask[true])+len(ask[false])+len(joined) > 0
	if tried && c.UDP != "works" && !slices.ContainsFunc(c.Joined, func(r reached) bool { return r.Error == "" }) {
		return &exitError{exitUnreachable, errors.New("nobody has answered")}
	}
	return nil
}

// resolveServers returns the addresses of servers by family, IPv4 is true: of each name the first of both.
func resolveServers(ctx context.Context, servers []string) (map[bool][]netip.AddrPort, error) {
	found := make(map[bool][]netip.AddrPort)
	for _, s := range servers {
		host, port, err := net.SplitHostPort(s)
		if err != nil {
			host, port = strings.Trim(s, "[]"), "3478"
		}
		number, err := strconv.ParseUint(port, 10, 16)
		if err != nil || number == 0 || host == "" || strings.Contains(s, "://") {
			return nil, usagef("%q is not the address of a STUN server: want host or host:port", s)
		}
		ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		if err != nil {
			return nil, &exitError{exitUnreachable, err}
		}
		for _, is4 := range []bool{true, false} {
			if i := slices.IndexFunc(ips, func(ip netip.Addr) bool { return ip.Unmap().Is4() == is4 }); i >= 0 {
				found[is4] = append(found[is4], netip.AddrPortFrom(ips[i].Unmap(), uint16(number)))
			}
		}
	}
	return found, nil
}

// checker makes the node that asks. It listens where servers can be asked from: at loopback if they are there.
func (p *program) checker(schemes []string, ask map[bool][]netip.AddrPort) (*pheromones.Node, error) {
	key, err := identity.Generate()
	if err != nil {
		return nil, err
	}
	cfg := pheromones.Config{Logger: p.logger(), NoReserve: true}
	for _, s := range schemes {
		t, err := newTransport(s, key)
		if err != nil {
			closeAll(cfg.Transports)
			return nil, err
		}
		cfg.Transports = append(cfg.Transports, t)
	}
	n, err := pheromones.New(cfg)
	if err != nil {
		closeAll(cfg.Transports)
		return nil, err
	}
	if err = n.Start(context.Background(), "quic://0.0.0.0:0"); err != nil {
		n.Close()
		return nil, err
	}
	if len(ask[false]) > 0 {
		n.Start(context.Background(), "quic://[::]:0") // where there is no IPv6 the question fails, and says so
	}
	return n, nil
}

// interfaces notes the addresses of this machine.
func (c *checked) interfaces() {
	c.IPv4.Local, c.IPv6.Local = []netip.Addr{}, []netip.Addr{}
	all, _ := net.InterfaceAddrs()
	for _, a := range all {
		prefix, err := netip.ParsePrefix(a.String())
		if err != nil || !prefix.Addr().IsGlobalUnicast() {
			continue
		}
		f := &c.IPv6
		if prefix.Addr().Unmap().Is4() {
			f = &c.IPv4
		}
		f.Local = append(f.Local, prefix.Addr().Unmap())
	}
}

// discover asks the servers of one family; nil if there are none.
func (c *checked) discover(ctx context.Context, n *pheromones.Node, f *family, servers []netip.AddrPort) *stun.Report {
	f.Mapping, f.Filtering = stun.MappingUnknown.String(), stun.FilteringUnknown.String()
	if len(servers) == 0 {
		return nil
	}
	// Answers come within seconds or not at all: what is left of the time is for the rest.
	if end, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, end.Add(-time.Until(end)/4))
		defer cancel()
	}
	r, err := n.DiscoverNAT(ctx, servers...)
	r.Mapping = max(r.Mapping, stun.JudgeMapping(r.Seen)) // also if ctx has ended before the rest
	if len(r.Seen) == 0 && err != nil {
		f.Errors = []string{oneLine(err)}
	}
	for _, e := range r.Errs {
		f.Errors = append(f.Errors, oneLine(e))
	}
	f.Servers, f.Mapping, f.Filtering = len(r.Seen), r.Mapping.String(), r.Filtering.String()
	if r.Mapped.IsValid() {
		f.Outside = r.Mapped.String()
	}
	return &r
}

// reach pings a node.
func reach(ctx context.Context, n *pheromones.Node, a transport.Addr) reached {
	if end, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, end.Add(-time.Until(end)/4))
		defer cancel()
	}
	took, err := n.Ping(ctx, a.String())
	if err != nil {
		return reached{Addr: a.String(), Error: oneLine(err)}
	}
	return reached{Addr: a.String(), MS: ms(took)}
}

// routers asks the router.
func (c *checked) routers(ctx context.Context) {
	found, err := portmap.Probe(ctx)
	if err != nil {
		c.Ports = []mapper{{Protocol: "any", Error: oneLine(err)}}
		return
	}
	for _, f := range found {
		m := mapper{Protocol: f.Protocol.String(), Found: f.Err == nil}
		if f.Err != nil {
			m.Error = oneLine(f.Err)
		}
		if f.Outside.IsValid() {
			m.Outside = f.Outside.String()
		}
		// PCP does not tell the outside address before it has mapped.
		c.forwards = c.forwards || f.Err == nil && (portmap.Public(f.Outside) || f.Protocol == portmap.PCP)
		c.Ports = append(c.Ports, m)
	}
	if slices.ContainsFunc(found, func(f portmap.Found) bool { return f.Outside.IsValid() && !portmap.Public(f.Outside) }) {
		c.forwards = false
	}
}

// kernel looks at a socket as QUIC has it.
func (c *checked) kernel(ctx context.Context) {
	key, err := identity.Generate()
	if err != nil {
		return
	}
	t, err := quic.New(key, nil)
	if err != nil {
		return
	}
	defer t.Close()
	l, err := t.Listen(ctx, transport.Addr{Scheme: quicScheme, HostPort: "127.0.0.1:0"})
	if err != nil {
		return
	}
	if f, err := l.(*quic.Listener).Figures(); err == nil {
		c.Socket = &socket{f.ReadBuffer, f.WriteBuffer, f.GSO}
	}
}

// hairpin finds out whether one port of this machine reaches another by its outside address (RFC 4787 §6): a second socket asks the
// node, which is a STUN server, where servers see it. Both send, so that no filter is in the way.
func (c *checked) hairpin(ctx context.Context, n *pheromones.Node, servers []netip.AddrPort) {
	r := c.reports[true]
	if r == nil || !r.Mapped.IsValid() || slices.Contains(c.IPv4.Local, r.Mapped.Addr()) || r.Mapped.Addr().IsLoopback() || r.Mapping > stun.EndpointIndependentMapping {
		return
	}
	conn, err := net.ListenUDP("udp4", nil)
	if err != nil {
		return
	}
	prober := stun.NewProber(udpSocket{conn}, &stun.Config{RTO: 200 * time.Millisecond, Requests: 4, LastWait: 2})
	var reading sync.WaitGroup
	defer reading.Wait()
	defer conn.Close()
	reading.Go(func() {
		b := make([]byte, 2048)
		for {
			size, from, err := conn.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			prober.Receive(b[:size], from)
		}
	})
	seen, _ := prober.Ask(ctx, servers...)
	i := slices.IndexFunc(seen, func(s stun.Result) bool { return s.Err == nil })
	if i < 0 {
		return
	}
	both, cancel := context.WithCancel(ctx)
	var sending sync.WaitGroup
	sending.Go(func() { n.DiscoverNAT(both, seen[i].Mapped) }) // nobody answers
	results, _ := prober.Ask(ctx, r.Mapped)
	cancel()
	sending.Wait()
	switch {
	case slices.ContainsFunc(results, func(s stun.Result) bool { return s.Err == nil }):
		c.Hairpin = "works"
	case ctx.Err() == nil:
		c.Hairpin = "does not"
	}
}

// udpSocket is what a Prober sends by.
type udpSocket struct{ *net.UDPConn }

func (s udpSocket) WritePacket(b []byte, to netip.AddrPort) error {
	_, err := s.WriteToUDPAddrPort(b, to)
	return err
}

// judge draws the conclusions.
func (c *checked) judge() {
	r, f, asked := c.reports[true], c.IPv4, c.reports[true] != nil || c.reports[false] != nil
	if r == nil || len(r.Seen) == 0 && c.reports[false] != nil {
		r, f = c.reports[false], c.IPv6
	}
	answered := r != nil && len(r.Seen) > 0
	switch {
	case answered:
		c.UDP = "works"
	case asked:
		c.UDP = "no answer"
	}
	c.Standing = unknown
	if asked {
		loopback := netip.AddrFrom4([4]byte{127, 0, 0, 1})
		c.Standing = stand(*r, answered, append(f.Local, loopback, netip.IPv6Loopback()), c.forwards)
	} else if c.forwards {
		c.Standing = fullCone
	}
	c.Predicted = make(map[standing]prospect)
	for _, s := range standings() {
		c.Predicted[s] = predict(c.Standing, s)
	}
	c.Advice = c.advise(asked)
}
