package portmap

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// device is a gateway device on loopback, which lies if it is told to.
type device struct {
	mu      sync.Mutex
	url     string
	control string            // in the description
	outside string            // the outside address
	other   map[string]string // of the entries, by port: the client
	errors  map[string]int    // code to answer each action with
	lease   map[string]bool   // leases that it knows; nil: any
	calls   []string
	sent    int // MiB of what has no end
}

const description = `<?xml version="1.0"?><root xmlns="urn:schemas-upnp-org:device-1-0"><device><deviceType>urn:schemas-upnp-org:device:InternetGatewayDevice:1</deviceType>
<deviceList><device><deviceList><device><serviceList><service><serviceType>urn:schemas-upnp-org:service:WANIPConnection:1</serviceType>
<controlURL>%s</controlURL></service></serviceList></device></deviceList></device></deviceList></device></root>`

// newDevice starts one, and returns a client that finds it.
func newDevice(t *testing.T) (*device, *igd) {
	t.Helper()
	d := &device{control: "/ctl", outside: "203.0.113.5", other: make(map[string]string), errors: make(map[string]int)}
	server := httptest.NewServer(d)
	t.Cleanup(server.Close)
	d.url = server.URL
	port := newServer(t, func(request []byte) [][]byte {
		if !strings.HasPrefix(string(request), "M-SEARCH * HTTP/1.1\r\n") || !strings.HasSuffix(string(request), "\r\n\r\n") {
			t.Errorf("a search of %q", request)
		}
		answer := func(location string) []byte {
			return fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nST: x\r\nLocation: %s\r\n\r\n", location)
		}
		return [][]byte{{}, []byte("x"), make([]byte, 3000), answer("http://192.0.2.1/"), answer("file:///etc/passwd"), answer("http://localhost/"), answer(d.url + "/desc")}
	})
	return d, &igd{ssdp: port}
}

func (d *device) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch r.URL.Path {
	case "/desc":
		fmt.Fprintf(w, description, d.control)
	case "/ctl":
		d.action(w, r)
	case "/away":
		http.Redirect(w, r, "http://192.0.2.1/ctl", http.StatusTemporaryRedirect)
	case "/endless":
		w.Write([]byte(`<?xml version="1.0"?><root><a>`))
		for more := []byte(strings.Repeat(" ", 1<<20)); d.sent < 64; d.sent++ {
			if _, err := w.Write(more); err != nil {
				return
			}
		}
	case "/nested":
		w.Write([]byte(strings.Repeat("<a>", 1<<20)))
	default:
		http.NotFound(w, r)
	}
}

var argument = regexp.MustCompile(`<(New[A-Za-z]+)>([^<]*)<`)

func (d *device) action(w http.ResponseWriter, r *http.Request) {
	body := make([]byte, 1<<16)
	n, _ := r.Body.Read(body)
	args := make(map[string]string)
	for _, m := range argument.FindAllSubmatch(body[:n], -1) {
		args[string(m[1])] = string(m[2])
	}
	_, name, _ := strings.Cut(strings.Trim(r.Header.Get("SOAPACTION"), `"`), "#")
	d.calls = append(d.calls, name)
	fault := func(code int) {
		w.WriteHeader(http.StatusInternalServerError)
		fmt.Fprintf(w, `<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body><s:Fault><faultcode>s:Client</faultcode><faultstring>UPnPError</faultstring>
<detail><UPnPError xmlns="urn:schemas-upnp-org:control-1-0"><errorCode>%d</errorCode><errorDescription>no&#10;way</errorDescription></UPnPError></detail></s:Fault></s:Body></s:Envelope>`, code)
	}
	ok := func(out string) {
		fmt.Fprintf(w, `<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body><u:%sResponse xmlns:u="urn:schemas-upnp-org:service:WANIPConnection:1">%s</u:%sResponse></s:Body></s:Envelope>`,
			name, out, name)
	}
	port := args["NewExternalPort"]
	if code := d.errors[name]; code != 0 {
		fault(code)
		return
	}
	switch name {
	case "GetExternalIPAddress":
		ok("<NewExternalIPAddress>" + d.outside + "</NewExternalIPAddress>")
	case "GetSpecificPortMappingEntry":
		if client, found := d.other[port]; found {
			ok("<NewInternalPort>4001</NewInternalPort><NewInternalClient>" + client + "</NewInternalClient>")
			return
		}
		fault(714)
	case "AddPortMapping":
		if d.lease != nil && !d.lease[args["NewLeaseDuration"]] {
			fault(725)
			return
		}
		if args["NewEnabled"] != "1" || args["NewProtocol"] != "UDP" || args["NewInternalPort"] != "4001" {
			fault(402)
			return
		}
		d.other[port] = args["NewInternalClient"]
		ok("")
	case "DeletePortMapping":
		delete(d.other, port)
		ok("")
	default:
		fault(401)
	}
}

func TestIGD(t *testing.T) {
	d, c := newDevice(t)
	if _, err := c.add(t.Context(), loopback, vector); !errors.Is(err, ErrNoAnswer) {
		t.Errorf("before it was found: %v", err)
	}
	g, err := c.probe(t.Context(), loopback)
	if err != nil || g.outside.Addr() != netip.MustParseAddr("203.0.113.5") {
		t.Fatalf("%+v, %v", g, err)
	}
	want := grant{netip.MustParseAddrPort("203.0.113.5:4002"), time.Hour}
	if g, err = c.add(t.Context(), loopback, vector); err != nil || g != want || d.other["4002"] != "127.0.0.1" {
		t.Errorf("%+v, %v; want %+v; the device has %v", g, err, want, d.other)
	}
	if g, err = c.look(t.Context(), loopback, vector); err != nil || g.outside != netip.MustParseAddrPort("203.0.113.5:0") {
		t.Errorf("%+v, %v", g, err)
	}
	clear(d.other) // it was started anew
	if g, err = c.look(t.Context(), loopback, vector); err != nil || g != want || d.other["4002"] != "127.0.0.1" {
		t.Errorf("%+v, %v; the device has %v", g, err, d.other)
	}
	if err = c.remove(t.Context(), loopback, vector); err != nil || len(d.other) != 0 {
		t.Errorf("%v; the device has %v", err, d.other)
	}

	// Another host has the port: it keeps it, and we get another.
	d.other["4002"] = "192.168.1.9"
	if g, err = c.add(t.Context(), loopback, vector); err != nil || g.outside.Port() == 4002 || d.other["4002"] != "192.168.1.9" {
		t.Errorf("%+v, %v; the device has %v", g, err, d.other)
	}
	if err = c.remove(t.Context(), loopback, vector); err != nil || d.other["4002"] != "192.168.1.9" {
		t.Errorf("another host's was removed: %v; the device has %v", err, d.other)
	}

	clear(d.other)
	d.lease = map[string]bool{"0": true} // leases without end only
	if g, err = c.add(t.Context(), loopback, vector); err != nil || g.lifetime != 0 || g.outside.Port() != 4002 {
		t.Errorf("%+v, %v", g, err)
	}
	clear(d.other)
	d.errors["AddPortMapping"], d.calls = codeConflict, nil
	var refusal *RefusedError
	if g, err = c.add(t.Context(), loopback, vector); !errors.As(err, &refusal) || len(d.calls) != 2*maxTries {
		t.Errorf("always taken: %+v, %v after %d calls", g, err, len(d.calls))
	}
	d.errors["AddPortMapping"] = 606
	if g, err = c.add(t.Context(), loopback, vector); !errors.As(err, &refusal) || refusal.Code != 606 || !strings.Contains(err.Error(), "no?way") {
		t.Errorf("refused: %+v, %v", g, err)
	}
	for _, lie := range []string{"0.0.0.0", "10.0.0.1", "nonsense", "2001:db8::1", strings.Repeat("9", 10000)} {
		d.outside, d.errors["AddPortMapping"], d.lease = lie, 0, nil
		if g, err = c.add(t.Context(), loopback, vector); err == nil && Public(g.outside.Addr()) {
			t.Errorf("%.20s: %+v", lie, g)
		}
	}
}

// TestIGDHostile: a device that refers to another host, redirects there, or has no end.
func TestIGDHostile(t *testing.T) {
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { t.Errorf("somebody else was asked for %s", r.URL) }))
	defer other.Close()
	elsewhere := strings.Replace(other.URL, "127.0.0.1", "127.0.0.2", 1)
	if l, err := net.Listen("tcp", "127.0.0.2:0"); err == nil { // where loopback is a whole network
		s := &httptest.Server{Listener: l, Config: &http.Server{Handler: other.Config.Handler}}
		s.Start()
		defer s.Close()
		elsewhere = s.URL
	}
	for _, control := range []string{elsewhere + "/ctl", "/away", "/endless", "/nested", "/none", "http://%zz/", "", strings.Repeat("x", 1<<19)} {
		d, c := newDevice(t)
		d.control = control
		if g, err := c.probe(t.Context(), loopback); err == nil {
			t.Errorf("%.30q: found %+v", control, g)
		}
	}
	for _, path := range []string{"/endless", "/nested", "/away", "/none"} {
		d, _ := newDevice(t)
		where, err := url.Parse(d.url + path)
		if err != nil {
			t.Fatal(err)
		}
		if s, err := describe(t.Context(), httpClient(loopback.gateway), where); err == nil {
			t.Errorf("%s: found %v", path, s)
		}
		d.mu.Lock()
		if d.sent == 64 {
			t.Errorf("%s: 64 MiB were read", path)
		}
		d.mu.Unlock()
	}
}

func FuzzDescription(f *testing.F) {
	f.Add(fmt.Sprintf(description, "/ctl"))
	f.Add(fmt.Sprintf(description, "http://192.0.2.1/ctl"))
	f.Add("<root><URLBase>http://[</URLBase></root>")
	where := &url.URL{Scheme: "http", Host: "192.168.1.1:5000", Path: "/desc"}
	f.Fuzz(func(t *testing.T, text string) {
		services, err := parseDescription(strings.NewReader(text), http.Client{}, where)
		if err == nil && (len(services) == 0 || len(services) > 4) {
			t.Errorf("%d services", len(services))
		}
		if u, ok := location([]byte(text), loopback.gateway); ok && u.Hostname() != "127.0.0.1" {
			t.Errorf("a device refers to %s", u)
		}
	})
}
