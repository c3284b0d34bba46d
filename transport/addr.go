package transport

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/Blockchain-CN/pheromones/identity"
)

// ErrBadAddr is wrapped by every error about an address that cannot be one.
var ErrBadAddr = errors.New("transport: not an address")

// Addr is where a peer may be reached: "quic://<id>@host:port". It is comparable and a [net.Addr]. The zero Addr is no
// address.
type Addr struct {
	Scheme   string      // which transport: "quic", "mux", "tcp", …
	HostPort string      // what that transport dials, as in net.JoinHostPort
	Peer     identity.ID // who must answer there; zero if anybody may
}

const maxAddrLen = 512

// ParseAddr reads what [Addr.String] writes: a scheme of lower-case letters, digits and hyphens, "://", optionally an
// ID and "@", then an IPv4 address, an IPv6 address in brackets (with a zone if need be) or a DNS name, ":" and a
// decimal port. A path, a query or user info other than an ID is refused. An IP address is put in its shortest form and
// a DNS name in lower case, so that equal addresses are equal Addrs.
func ParseAddr(s string) (Addr, error) {
	a, err := parseAddr(s)
	if err != nil {
		return Addr{}, fmt.Errorf("%w: %.200q: %w", ErrBadAddr, s, err)
	}
	return a, nil
}

func parseAddr(s string) (a Addr, err error) {
	if len(s) > maxAddrLen {
		return a, fmt.Errorf("it is longer than %d bytes", maxAddrLen)
	}
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok {
		return a, errors.New(`want scheme://host:port, as in "quic://127.0.0.1:4001"`)
	}
	if !validScheme(scheme) {
		return a, fmt.Errorf("the scheme %q is not lower-case letters, digits and hyphens", scheme)
	}
	a.Scheme = scheme
	if id, hostPort, ok := strings.Cut(rest, "@"); ok {
		if a.Peer, err = identity.ParseID(id); err != nil {
			return a, err
		}
		if a.Peer.IsZero() {
			return a, errors.New("the ID before @ is zero, which names no peer")
		}
		rest = hostPort
	}
	a.HostPort, err = parseHostPort(rest)
	return a, err
}

func validScheme(s string) bool {
	for i, c := range []byte(s) {
		letter := 'a' <= c && c <= 'z'
		if !letter && (i == 0 || (c < '0' || c > '9') && c != '-') {
			return false
		}
	}
	return s != "" && len(s) <= 32
}

func parseHostPort(s string) (string, error) {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		var ae *net.AddrError
		if errors.As(err, &ae) {
			return "", errors.New(ae.Err)
		}
		return "", err
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || port != strconv.FormatUint(n, 10) {
		return "", fmt.Errorf("the port %q is not a number from 0 to 65535", port)
	}
	if strings.Contains(host, ":") != strings.HasPrefix(s, "[") {
		return "", errors.New("brackets are for IPv6 addresses")
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		if !validZone(ip.Zone()) {
			return "", fmt.Errorf("the zone %q is too long or has characters that a zone has not", ip.Zone())
		}
		if ip.Is4In6() && ip.Zone() == "" {
			ip = ip.Unmap()
		}
		return net.JoinHostPort(ip.String(), port), nil
	}
	if strings.Contains(host, ":") {
		return "", fmt.Errorf("%q is not an IPv6 address", host)
	}
	if !validName(host) {
		return "", fmt.Errorf("the host %q is neither an IP address nor a DNS name", host)
	}
	return strings.ToLower(host) + ":" + port, nil
}

// validZone accepts what can name a network interface without breaking the address apart or a line of text.
func validZone(zone string) bool {
	return len(zone) <= 64 && utf8.ValidString(zone) && !strings.ContainsFunc(zone, func(r rune) bool {
		return r == ' ' || !unicode.IsPrint(r) || strings.ContainsRune("/@[]%?", r)
	})
}

// validName accepts host names as RFC 1123 §2.1 and common usage (underscores) know them.
func validName(host string) bool {
	if host == "" || len(host) > 253 {
		return false
	}
	name := strings.TrimSuffix(host, ".")
	last := name
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, c := range []byte(label) {
			if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' {
				return false
			}
		}
		last = label
	}
	// A name whose last label is all digits is a mistyped IPv4 address.
	return strings.Trim(last, "0123456789") != ""
}

// String returns the address as [ParseAddr] reads it; the zero Addr gives the empty string.
func (a Addr) String() string {
	if a == (Addr{}) {
		return ""
	}
	if a.Peer.IsZero() {
		return a.Scheme + "://" + a.HostPort
	}
	return a.Scheme + "://" + a.Peer.String() + "@" + a.HostPort
}

// Check returns an error that wraps [ErrBadAddr] unless a is an address of the given scheme that [ParseAddr] could have
// returned, but for the form of its host. Transports check what they are to dial or listen at with it.
func (a Addr) Check(scheme string) error {
	if a.Scheme != scheme {
		return fmt.Errorf("%w of scheme %q", ErrBadAddr, scheme)
	}
	if _, err := parseHostPort(a.HostPort); err != nil {
		return fmt.Errorf("%w: %w", ErrBadAddr, err)
	}
	return nil
}

// Network implements [net.Addr]; it returns the scheme.
func (a Addr) Network() string { return a.Scheme }

// IsZero reports whether a is the zero Addr.
func (a Addr) IsZero() bool { return a == Addr{} }

// MarshalText implements [encoding.TextMarshaler].
func (a Addr) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler]; the empty text is the zero Addr.
func (a *Addr) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*a = Addr{}
		return nil
	}
	v, err := ParseAddr(string(text))
	if err != nil {
		return err
	}
	*a = v
	return nil
}
