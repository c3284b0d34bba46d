package stun

import (
	"crypto/rand"
	"net/netip"
	"slices"
	"time"

	pion "github.com/pion/stun/v3"
)

// maxTransactions bounds what one Client has under way.
const maxTransactions = 256

// Config says how often and how long servers are asked (RFC 8489 §6.2.1). The zero value works and is what the RFC wants: an answer
// is waited for 39.5 s. It is copied.
type Config struct {
	// RTO is the time between the first request and the second; each later one is twice the one before. Zero or less means 500 ms; at most 10 s.
	RTO time.Duration
	// Requests is how many are sent (Rc). Zero or less means 7; at most 10.
	Requests int
	// LastWait is how long an answer to the last request is waited for, in RTOs (Rm). Zero or less means 16; at most 64.
	LastWait int
}

func (c *Config) withDefaults() Config {
	var d Config
	if c != nil {
		d = *c
	}
	if d.RTO <= 0 {
		d.RTO = 500 * time.Millisecond
	}
	if d.Requests <= 0 {
		d.Requests = 7
	}
	if d.LastWait <= 0 {
		d.LastWait = 16
	}
	return Config{min(d.RTO, 10*time.Second), min(d.Requests, 10), min(d.LastWait, 64)}
}

// Change asks a server to answer from another of its addresses (CHANGE-REQUEST, RFC 5780 §7.2). The bits may be combined.
type Change byte

const (
	ChangePort Change = 2 // answer from another port
	ChangeIP   Change = 4 // answer from another IP
)

// Request is one question.
type Request struct {
	Server netip.AddrPort // whom to ask
	Change Change         // if it is not zero, the server is to answer from another address
	From   netip.AddrPort // the only address from which an answer is taken; the zero value means Server
}

// Result is how a transaction ended.
type Result struct {
	Request Request
	// Mapped is how the server sees the socket: what the NAT made of its address. Zero if Err is not nil.
	Mapped netip.AddrPort
	// Other is the server's other address, to which a Change leads (OTHER-ADDRESS); zero if it has none or Err is not nil.
	Other netip.AddrPort
	// Err is a [*ServerError]; it wraps a [*NoAnswerError], a [*RefusedError] or [ErrBadResponse].
	Err error
}

// Packet is one to be sent.
type Packet struct {
	To   netip.AddrPort
	Data []byte // the receiver's
}

// Client asks servers, any number of them at once up to 256. It does no I/O: Poll returns what is to be sent, and what comes in
// goes to Receive. Its methods must not be called at once.
type Client struct {
	conf    Config
	open    map[transactionID]*transaction
	order   []*transaction // those in open, in the order of their start
	results []Result       // to be taken by Poll
}

// transaction is one request and its repetitions.
type transaction struct {
	id      transactionID
	request Request
	packet  []byte
	sent    int
	first   time.Time
	next    time.Time // when to send again, or give up
}

// NewClient returns a Client. A nil cfg means the defaults.
func NewClient(cfg *Config) *Client {
	return &Client{conf: cfg.withDefaults(), open: make(map[transactionID]*transaction)}
}

// Start begins a transaction; the next Poll returns its first packet. It fails with [ErrBadServer] or [ErrBusy].
func (c *Client) Start(r Request, now time.Time) error {
	r.Server, r.From = clean(r.Server), clean(r.From)
	if !r.From.IsValid() {
		r.From = r.Server
	}
	if !isHost(r.Server) || !isHost(r.From) {
		return &ServerError{r.Server, ErrBadServer}
	}
	if len(c.open) >= maxTransactions {
		return &ServerError{r.Server, ErrBusy}
	}
	t := &transaction{request: r, first: now, next: now}
	rand.Read(t.id[:]) // never fails: see its documentation
	var err error
	if t.packet, err = bindingRequest(t.id, r.Change&(ChangePort|ChangeIP)); err != nil {
		return &ServerError{r.Server, err}
	}
	c.open[t.id] = t
	c.order = append(c.order, t)
	return nil
}

// Receive takes a packet that came from an address, and reports whether it was a STUN response, which nobody else needs to see: one
// that answers a transaction ends it, any other has no effect. What comes from another address than was asked answers nothing.
// packet stays the caller's.
func (c *Client) Receive(packet []byte, from netip.AddrPort) bool {
	m, ok := parse(packet)
	if !ok || m.Type != pion.BindingSuccess && m.Type != pion.BindingError {
		return false
	}
	t := c.open[m.TransactionID]
	if t == nil || t.sent == 0 || clean(from) != t.request.From {
		return true
	}
	a := readAnswer(m)
	r := Result{Request: t.request, Mapped: a.mapped, Other: a.other}
	if a.refusal != nil {
		r.Err = &ServerError{t.request.Server, a.refusal}
	} else if a.err != nil {
		r.Err = &ServerError{t.request.Server, a.err}
	}
	c.end(t, r)
	return true
}

// end ends a transaction.
func (c *Client) end(t *transaction, r Result) {
	delete(c.open, t.id)
	c.order = slices.DeleteFunc(c.order, func(o *transaction) bool { return o == t })
	c.results = append(c.results, r)
}

// Poll returns what is to be sent now, the transactions that have ended since the last call, and when to call again at the latest:
// the zero time if nothing is under way. The slices are the caller's.
func (c *Client) Poll(now time.Time) (packets []Packet, results []Result, next time.Time) {
	for _, t := range slices.Clone(c.order) {
		if !t.next.After(now) {
			if t.sent == c.conf.Requests {
				c.end(t, Result{Request: t.request, Err: &ServerError{t.request.Server, &NoAnswerError{t.sent, now.Sub(t.first)}}})
				continue
			}
			packets = append(packets, Packet{t.request.Server, slices.Clone(t.packet)})
			t.sent++
			wait := c.conf.RTO << (t.sent - 1)
			if t.sent == c.conf.Requests {
				wait = c.conf.RTO * time.Duration(c.conf.LastWait)
			}
			t.next = now.Add(wait) // from now: a driver that was late does not send several at once
		}
		if next.IsZero() || t.next.Before(next) {
			next = t.next
		}
	}
	results, c.results = c.results, nil
	return packets, results, next
}
