package stun

import (
	"net/netip"
	"sync"
	"time"

	pion "github.com/pion/stun/v3"
)

// ResponderConfig bounds a [Responder]. The zero value works. NewResponder copies it.
type ResponderConfig struct {
	// Total is how many answers a second are given in all; twice as many may come at once after a pause. Zero means 500, less means
	// none. At most a million.
	Total int
	// PerPrefix is the same for the sources of one IPv4 /24 or IPv6 /48. Zero means 10, less means none. At most a million.
	PerPrefix int
}

// Responder answers Binding requests with the address that they came from (RFC 8489 §6.3). It does no I/O and holds 64 KiB, whoever
// asks. It is safe for concurrent use; several sockets may share one, and its bounds.
//
// It gives away little to those who forge sources: an answer is never larger than its request (a factor of at most 1, where plain
// STUN has 1.6 to 2.2), and answers are bounded by rate. A request that is too small for its answer is ignored: 32 bytes ask for an
// IPv4 address, 44 for an IPv6 one, each 8 more with a FINGERPRINT. Clients of others lengthen theirs by any attribute that need
// not be understood, such as SOFTWARE.
type Responder struct {
	silent bool
	mu     sync.Mutex
	limit  limiter // guarded by mu
}

// NewResponder returns a Responder. A nil cfg means the defaults.
func NewResponder(cfg *ResponderConfig) *Responder {
	var c ResponderConfig
	if cfg != nil {
		c = *cfg
	}
	const most = 1_000_000
	orDefault := func(n, d int) int {
		if n == 0 {
			return d
		}
		return min(n, most)
	}
	total, prefix := orDefault(c.Total, 500), orDefault(c.PerPrefix, 10)
	r := &Responder{silent: total < 0 || prefix < 0}
	if !r.silent {
		r.limit.total, r.limit.prefix = rateOf(total), rateOf(prefix)
	}
	return r
}

// Respond returns the answer to a packet that came from an address at a time, to be sent back there by the socket that received it;
// or nil if there is to be none: the packet is not a whole, well-formed Binding request with the magic cookie, its FINGERPRINT is
// false, it is smaller than its answer, or a rate is used up. An answer has a FINGERPRINT if the request had one, and no SOFTWARE.
// A request with an attribute that is unknown and must be understood is answered with error 420. packet stays the caller's, and so
// does the answer.
func (r *Responder) Respond(packet []byte, from netip.AddrPort, now time.Time) []byte {
	from = clean(from)
	if r.silent || !isHost(from) {
		return nil
	}
	m, ok := parse(packet)
	if !ok || m.Type != pion.BindingRequest {
		return nil
	}
	response, err := respond(m, from)
	if err != nil || len(response) > len(packet) {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.limit.allow(from.Addr(), now) {
		return nil
	}
	return response
}

// respond makes the answer to a request, however long it gets.
func respond(m *pion.Message, from netip.AddrPort) ([]byte, error) {
	var end []pion.Setter
	if m.Contains(pion.AttrFingerprint) {
		end = append(end, pion.Fingerprint)
	}
	if unknown := unknownRequired(m); len(unknown) > 0 {
		return build(pion.BindingError, m.TransactionID, append([]pion.Setter{pion.CodeUnknownAttribute, unknown}, end...)...)
	}
	return bindingSuccess(m.TransactionID, from, end...)
}
