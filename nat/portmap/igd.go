package portmap

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/huin/goupnp"
	"github.com/huin/goupnp/soap"
)

// igd speaks UPnP with an Internet Gateway Device (WANIPConnection:1 and 2, WANPPPConnection:1). The description of devices and
// SOAP are goupnp's; the search is ours, since goupnp's prints, and so is what HTTP may do. It is safe for concurrent use.
type igd struct {
	ssdp uint16 // the port of the search; zero: ssdpPort

	mu      sync.Mutex
	at      place
	service *service // of the gateway of at; nil: it has not been found
}

// service is what of a router maps ports.
type service struct {
	name string // its type, which actions are called by
	soap *soap.SOAPClient
}

// maxBody bounds an answer by HTTP: descriptions have some 10 KB.
const maxBody = 256 << 10

// maxTries bounds how many outside ports are tried.
const maxTries = 8

// The error codes of actions that matter (WANIPConnection:2, §2.5.26 in the table of AddPortMapping).
const (
	codeInvalidArgs    = 402
	codeActionFailed   = 501
	codeConflict       = 718
	codeSamePort       = 724
	codePermanentOnly  = 725
	codeOtherMechanism = 729
)

func (g *igd) probe(ctx context.Context, at place) (grant, error) {
	port := g.ssdp
	if port == 0 {
		port = ssdpPort
	}
	where, err := search(ctx, at, port)
	if err != nil {
		return grant{}, err
	}
	services, err := describe(ctx, httpClient(at.gateway), where)
	if err != nil {
		return grant{}, err
	}
	var errs []error
	var first *service
	var found grant
	for _, s := range services {
		address, err := s.address(ctx)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if first == nil || !Public(found.outside.Addr()) && Public(address) { // of several connections the one that is up
			first, found.outside = s, netip.AddrPortFrom(address, 0)
		}
	}
	if first == nil {
		return grant{}, errors.Join(errs...)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.at, g.service = at, first
	return found, nil
}

// get returns the service of a place, or an error that has it looked for.
func (g *igd) get(at place) (*service, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.service == nil || g.at != at {
		return nil, fmt.Errorf("%w: no gateway device was found", ErrNoAnswer)
	}
	return g.service, nil
}

func (g *igd) add(ctx context.Context, at place, w wish) (grant, error) {
	s, err := g.get(at)
	if err != nil {
		return grant{}, err
	}
	lease, onlySame := w.lifetime, false
	for range maxTries {
		// Some routers give what belongs to another host to whoever asks last.
		if e, err := s.entry(ctx, w); err == nil && !e.is(at.local, w.inside) {
			err = &RefusedError{codeConflict, fmt.Sprintf("the outside port %d is another host's", w.outside)}
			if onlySame {
				return grant{}, err
			}
			w.outside = randomPort()
			continue
		}
		err = s.add(ctx, at.local, w, lease)
		var refusal *RefusedError
		errors.As(err, &refusal)
		switch {
		case err == nil:
			got := grant{lifetime: lease}
			address, err := s.address(ctx)
			if err != nil && !errors.As(err, &refusal) {
				return grant{}, err
			}
			got.outside = netip.AddrPortFrom(address, w.outside)
			return got, nil
		case refusal == nil:
			return grant{}, err
		case refusal.Code == codeSamePort && w.outside != w.inside:
			w.outside, onlySame = w.inside, true
		case (refusal.Code == codePermanentOnly || refusal.Code == codeInvalidArgs || refusal.Code == codeActionFailed) && lease > 0:
			lease = 0 // many know leases without end only, and some do not say it this way
		case (refusal.Code == codeConflict || refusal.Code == codeOtherMechanism) && !onlySame:
			w.outside = randomPort()
		default:
			return grant{}, err
		}
	}
	return grant{}, &RefusedError{codeConflict, fmt.Sprintf("%d outside ports were tried and taken", maxTries)}
}

func (g *igd) look(ctx context.Context, at place, w wish) (grant, error) {
	s, err := g.get(at)
	if err != nil {
		return grant{}, err
	}
	e, err := s.entry(ctx, w)
	if err != nil || !e.is(at.local, w.inside) {
		return g.add(ctx, at, w)
	}
	address, err := s.address(ctx)
	return grant{outside: netip.AddrPortFrom(address, 0)}, err
}

// remove does not touch what is not ours.
func (g *igd) remove(ctx context.Context, at place, w wish) error {
	s, err := g.get(at)
	if err != nil {
		return err
	}
	if e, err := s.entry(ctx, w); err == nil && !e.is(at.local, w.inside) {
		return nil
	}
	in := portArgs{Port: port(w.outside), Protocol: strings.ToUpper(w.network)}
	return s.call(ctx, "DeletePortMapping", &in, nil)
}

// randomPort returns an outside port beyond those of well-known services.
func randomPort() uint16 { return uint16(10000 + rand.IntN(50000)) }

func port(p uint16) string { return strconv.Itoa(int(p)) }

// portArgs names a mapping. The empty remote host is anybody.
type portArgs struct {
	Host     string `soap:"NewRemoteHost"`
	Port     string `soap:"NewExternalPort"`
	Protocol string `soap:"NewProtocol"`
}

// entry is a mapping as the router has it.
type entry struct {
	Port   string `xml:"NewInternalPort"`
	Client string `xml:"NewInternalClient"`
}

func (e entry) is(local netip.Addr, inside uint16) bool {
	client, err := netip.ParseAddr(strings.TrimSpace(e.Client))
	return err == nil && client == local && strings.TrimSpace(e.Port) == port(inside)
}

// entry returns the mapping of an outside port; a RefusedError if there is none.
func (s *service) entry(ctx context.Context, w wish) (e entry, err error) {
	in := portArgs{Port: port(w.outside), Protocol: strings.ToUpper(w.network)}
	err = s.call(ctx, "GetSpecificPortMappingEntry", &in, &e)
	return e, err
}

func (s *service) add(ctx context.Context, local netip.Addr, w wish, lease time.Duration) error {
	in := struct {
		Host        string `soap:"NewRemoteHost"`
		Port        string `soap:"NewExternalPort"`
		Protocol    string `soap:"NewProtocol"`
		Inside      string `soap:"NewInternalPort"`
		Client      string `soap:"NewInternalClient"`
		Enabled     string `soap:"NewEnabled"`
		Description string `soap:"NewPortMappingDescription"`
		Lease       string `soap:"NewLeaseDuration"`
	}{"", port(w.outside), strings.ToUpper(w.network), port(w.inside), local.String(), "1", "pheromones", strconv.Itoa(int(seconds(lease)))}
	return s.call(ctx, "AddPortMapping", &in, nil)
}

// address returns the outside address; zero if the router says that it has none.
func (s *service) address(ctx context.Context) (netip.Addr, error) {
	var out struct {
		Address string `xml:"NewExternalIPAddress"`
	}
	if err := s.call(ctx, "GetExternalIPAddress", nil, &out); err != nil {
		return netip.Addr{}, err
	}
	text := strings.TrimSpace(out.Address)
	if text == "" {
		return netip.Addr{}, nil
	}
	a, err := netip.ParseAddr(text)
	if err != nil || !a.Is4() {
		return netip.Addr{}, badAnswer("%q is no outside address", printable(text))
	}
	return a, nil
}

// call performs an action. It fails with a RefusedError if the router says no.
func (s *service) call(ctx context.Context, action string, in, out any) error {
	err := s.soap.PerformActionCtx(ctx, s.name, action, in, out)
	var fault *soap.SOAPFaultError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &fault):
		reason := fault.Detail.UPnPError.ErrorDescription
		if reason == "" {
			reason = fault.FaultString
		}
		return &RefusedError{fault.Detail.UPnPError.Errorcode, action + ": " + printable(reason)}
	case ctx.Err() != nil:
		return fmt.Errorf("%w to %s: %w", ErrNoAnswer, action, context.Cause(ctx))
	}
	return fmt.Errorf("%w to %s: %s", ErrBadAnswer, action, printable(err.Error()))
}

// describe reads the description of a device and returns what of it maps ports.
func describe(ctx context.Context, client http.Client, where *url.URL) ([]*service, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, where.String(), nil)
	if err != nil {
		return nil, badAnswer("%v", err)
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("%w: its description: %w", ErrNoAnswer, err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, badAnswer("its description: HTTP %s", printable(response.Status))
	}
	return parseDescription(response.Body, client, where)
}

// parseDescription reads a description that was found somewhere.
func parseDescription(r io.Reader, client http.Client, where *url.URL) ([]*service, error) {
	var root goupnp.RootDevice
	d := xml.NewDecoder(r)
	d.DefaultSpace = goupnp.DeviceXMLNamespace
	if err := d.Decode(&root); err != nil {
		return nil, badAnswer("its description: %s", printable(err.Error()))
	}
	base := where
	if u, err := url.Parse(root.URLBaseStr); err == nil && u.Host != "" {
		base = u
	}
	root.SetURLBase(base)
	var services []*service
	for _, name := range []string{"WANIPConnection:2", "WANIPConnection:1", "WANPPPConnection:1"} {
		for _, s := range root.Device.FindService("urn:schemas-upnp-org:service:" + name) {
			if s.ControlURL.Ok && len(services) < 4 {
				services = append(services, &service{s.ServiceType, &soap.SOAPClient{EndpointURL: s.ControlURL.URL, HTTPClient: client}})
			}
		}
	}
	if len(services) == 0 {
		return nil, badAnswer("its description has no service that maps ports")
	}
	return services, nil
}

// httpClient returns a client that talks to one host only, whatever refers or redirects it, and reads no more than is good.
func httpClient(host netip.Addr) http.Client {
	return http.Client{
		Transport: bounded{&http.Transport{
			DisableKeepAlives:      true,
			DisableCompression:     true,
			MaxResponseHeaderBytes: 16 << 10,
			DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				to, err := netip.ParseAddrPort(address)
				if err != nil || to.Addr() != host {
					return nil, badAnswer("it refers to another host, %s", printable(address))
				}
				var d net.Dialer
				return d.DialContext(ctx, network, address)
			},
		}},
	}
}

// bounded cuts off what is too long.
type bounded struct{ *http.Transport }

func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := b.Transport.RoundTrip(r)
	if err == nil {
		response.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(response.Body, maxBody), response.Body}
	}
	return response, err
}
