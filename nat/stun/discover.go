package stun

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// maxServers bounds whom one Discovery asks.
const maxServers = 16

// Report is what a [Discovery] found out.
type Report struct {
	// Mapped is how the first server that answered sees the socket.
	Mapped netip.AddrPort
	// Mapping and Filtering say how far others can use that.
	Mapping   Mapping
	Filtering Filtering
	// Seen is what each server saw, in the order of their answers.
	Seen []Observation
	// Errs are the servers that did not answer as they should, each a [*ServerError].
	Errs []error
}

// Discovery finds out how a NAT maps and filters a socket, as RFC 5780 §4.3 and §4.4 do:
//
//  1. All servers are asked. If none has another address, what they saw decides on the mapping: two servers are enough. Filtering stays unknown.
//  2. The first that has another address, on another IP and port, is asked to answer from there, and from its other port: what comes in tells of filtering.
//  3. It is asked at its other IP, at both ports: this decides on the mapping.
//
// The second step comes before the third, which would itself open the NAT to those addresses. So would earlier traffic from the
// socket with them: a port that has been used for the same discovery a moment ago finds filtering weaker than it is. RFC 5780 says
// to wait until the mappings of the NAT have gone, two minutes and more.
//
// It does no I/O, as [Client], and its methods must not be called at once.
type Discovery struct {
	client  *Client
	quick   *Client // of step 2, where an answer that does not come is a finding
	report  Report
	server  netip.AddrPort // that has another address; zero if none
	other   netip.AddrPort
	step    int
	pending int
	open    [2]bool // step 2: the answer from another IP, that from another port, came
	unable  bool    // step 2: the server refused
}

// NewDiscovery begins to ask servers, 1 to 16 of them, all IPv4 or all IPv6. It fails with [ErrBadServer]. In step 2 at most 3
// requests are sent and 4 RTOs waited for the last one's answer, so that with the defaults of cfg a strict NAT costs 3.5 s; a lost
// packet would have to be lost three times to pass for a filter.
func NewDiscovery(cfg *Config, now time.Time, servers ...netip.AddrPort) (*Discovery, error) {
	if len(servers) == 0 || len(servers) > maxServers {
		return nil, fmt.Errorf("%w: %d servers given, want 1 to %d", ErrBadServer, len(servers), maxServers)
	}
	quick := cfg.withDefaults()
	quick.Requests, quick.LastWait = min(quick.Requests, 3), min(quick.LastWait, 4)
	d := &Discovery{client: NewClient(cfg), quick: NewClient(&quick), step: 1}
	var asked []netip.AddrPort
	for _, s := range servers {
		if s = clean(s); slices.Contains(asked, s) {
			continue
		}
		asked = append(asked, s)
		if s.Addr().Is4() != asked[0].Addr().Is4() {
			return nil, &ServerError{s, fmt.Errorf("%w: not of the family of %s", ErrBadServer, asked[0])}
		}
		if err := d.start(d.client, Request{Server: s}, now); err != nil {
			return nil, err
		}
	}
	return d, nil
}

func (d *Discovery) start(c *Client, r Request, now time.Time) error {
	err := c.Start(r, now)
	if err == nil {
		d.pending++
	}
	return err
}

// Receive is that of [Client].
func (d *Discovery) Receive(packet []byte, from netip.AddrPort) bool {
	a := d.client.Receive(packet, from)
	b := d.quick.Receive(packet, from)
	return a || b
}

// Poll returns what is to be sent now, and when to call again at the latest: the zero time when the discovery is over. It is to be
// called after each Receive too.
func (d *Discovery) Poll(now time.Time) (packets []Packet, next time.Time) {
	for {
		sent, results, at := d.client.Poll(now)
		packets = append(packets, sent...)
		for _, r := range results {
			d.pending--
			d.observe(r)
		}
		sent, results, quickAt := d.quick.Poll(now)
		packets = append(packets, sent...)
		for _, r := range results {
			d.pending--
			d.filtered(r)
		}
		if d.pending > 0 {
			if at.IsZero() || !quickAt.IsZero() && quickAt.Before(at) {
				at = quickAt
			}
			return packets, at
		}
		if !d.advance(now) {
			return packets, time.Time{}
		}
	}
}

// Report returns what was found, and whether the discovery is over. The slices are not written any more once it is.
func (d *Discovery) Report() (r Report, done bool) { return d.report, d.step == 4 }

// observe takes the result of step 1 or 3.
func (d *Discovery) observe(r Result) {
	if r.Err != nil {
		d.report.Errs = append(d.report.Errs, r.Err)
		return
	}
	if len(d.report.Seen) == 0 {
		d.report.Mapped = r.Mapped
	}
	d.report.Seen = append(d.report.Seen, Observation{r.Request.Server, r.Mapped})
	s, o := r.Request.Server, r.Other
	if d.step == 1 && !d.server.IsValid() && o.IsValid() && o.Addr().Is4() == s.Addr().Is4() && o.Addr() != s.Addr() && o.Port() != s.Port() {
		d.server, d.other = s, o
	}
}

// filtered takes the result of step 2.
func (d *Discovery) filtered(r Result) {
	var silent *NoAnswerError
	switch {
	case r.Err == nil && r.Request.Change&ChangeIP != 0:
		d.open[0] = true
	case r.Err == nil:
		d.open[1] = true
	case !errors.As(r.Err, &silent):
		d.unable = true
		d.report.Errs = append(d.report.Errs, r.Err)
	}
}

// advance goes to the next step when all of one have ended, and reports whether there is one.
func (d *Discovery) advance(now time.Time) bool {
	var err error
	switch d.step {
	case 1:
		d.step = 2
		if !d.server.IsValid() {
			break
		}
		err = errors.Join(
			d.start(d.quick, Request{d.server, ChangeIP | ChangePort, d.other}, now),
			d.start(d.quick, Request{d.server, ChangePort, netip.AddrPortFrom(d.server.Addr(), d.other.Port())}, now))
	case 2:
		d.step = 3
		if !d.server.IsValid() {
			break
		}
		switch {
		case d.open[0]:
			d.report.Filtering = EndpointIndependentFiltering
		case d.unable:
		case d.open[1]:
			d.report.Filtering = AddressDependentFiltering
		default:
			d.report.Filtering = AddressAndPortDependentFiltering
		}
		for _, s := range []netip.AddrPort{netip.AddrPortFrom(d.other.Addr(), d.server.Port()), d.other} {
			if !slices.ContainsFunc(d.report.Seen, func(o Observation) bool { return o.Server == s }) {
				err = errors.Join(err, d.start(d.client, Request{Server: s}, now))
			}
		}
	case 3:
		d.step = 4
		d.report.Mapping = JudgeMapping(d.report.Seen)
		return false
	default:
		return false
	}
	if err != nil {
		d.report.Errs = append(d.report.Errs, err)
	}
	return true
}
