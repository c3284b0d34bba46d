package relay

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/transport"
)

// Scheme is the scheme of addresses that lead through a relay: relay://PEER@RELAY:1, both of them IDs. The port means nothing.
const Scheme = "relay"

// Addr returns the address of a peer through a relay.
func Addr(relay, peer identity.ID) transport.Addr {
	return transport.Addr{Scheme: Scheme, HostPort: relay.String() + ":1", Peer: peer}
}

// Options are what an [Endpoint] works with. Open is required.
type Options struct {
	// Relay says for whom the node relays. Nil: for nobody.
	Relay *Config
	// Open opens a stream of Service on a link with peer and writes first in the same flight; it returns the link, too. It does not
	// use a link that is itself relayed. If dial is false it uses a link that is there, or fails. It is called from many goroutines
	// at once.
	Open func(ctx context.Context, peer identity.ID, dial bool, first []byte) (transport.Conn, transport.Stream, error)
	// Incoming is given a circuit that somebody calls this node by, which it accepts, or not; a circuit that it has not accepted by
	// Run or Stream when it returns is declined. It is called in a goroutine for each, and returns when it is done with a circuit
	// of packets; ctx ends with that of Serve. Nil declines all.
	Incoming func(ctx context.Context, c *Circuit)
	// Logger gets what no caller is told. Nil is silent.
	Logger *slog.Logger
}

// Endpoint is one node's part in relaying: it calls, is called, and relays. It is safe for concurrent use.
type Endpoint struct {
	options  Options
	log      *slog.Logger
	ctx      context.Context // ends with Close
	stop     context.CancelFunc
	count    counters
	running  sync.WaitGroup // Add is called with starting held
	starting sync.Mutex
	closed   bool // guarded by starting

	mu       sync.Mutex // never held while a conduit's is taken
	ledger   *ledger
	circuits map[uint64]*carried // of others, that we relay
	ends     map[endKey]*Circuit // of ours
	conduits map[transport.Conn]*conduit
	trusted  map[identity.ID]time.Time // relays that may offer circuits, and until when
}

// endKey is how the datagrams of a circuit of ours are known: its relay, and its number there.
type endKey struct {
	relay identity.ID
	id    uint64
}

// New returns an endpoint. Options.Relay is copied.
func New(o Options) *Endpoint {
	e := &Endpoint{
		options: o, log: o.Logger,
		circuits: make(map[uint64]*carried), ends: make(map[endKey]*Circuit),
		conduits: make(map[transport.Conn]*conduit), trusted: make(map[identity.ID]time.Time),
	}
	if e.log == nil {
		e.log = slog.New(slog.DiscardHandler)
	}
	var cfg Config
	if o.Relay != nil {
		cfg = *o.Relay
	}
	e.ledger = newLedger(cfg)
	e.ctx, e.stop = context.WithCancel(context.Background())
	return e
}

// Close ends every circuit, and returns when the endpoint's goroutines have ended. Calls of Serve are the caller's to end. Closing
// twice is no error.
func (e *Endpoint) Close() {
	e.starting.Lock()
	e.closed = true
	e.starting.Unlock()
	e.stop()
	e.mu.Lock()
	var ours []*Circuit
	for _, c := range e.ends {
		ours = append(ours, c)
	}
	var others []*carried
	for _, c := range e.circuits {
		others = append(others, c)
	}
	e.mu.Unlock()
	for _, c := range ours {
		c.stream.Reset(transport.CodeShutdown)
	}
	for _, c := range others {
		c.end(transport.CodeShutdown)
	}
	e.running.Wait()
}

// begin registers a goroutine that Close must wait for; it reports false after Close.
func (e *Endpoint) begin() bool {
	e.starting.Lock()
	defer e.starting.Unlock()
	if !e.closed {
		e.running.Add(1)
	}
	return !e.closed
}

// firstTimeout bounds how long a peer that opened a stream may take to say what for.
const firstTimeout = 10 * time.Second

// Serve answers a stream of [Service] that a peer opened on a link; the service's name was read. It owns the stream. It returns
// when it is done with it, which for a circuit of packets, and for one that it relays, is when that ends, or soon after ctx has
// ended.
func (e *Endpoint) Serve(ctx context.Context, link transport.Conn, s transport.Stream) {
	s.SetReadDeadline(time.Now().Add(firstTimeout))
	f, err := readFrame(s, nil)
	s.SetReadDeadline(time.Time{})
	switch {
	case err != nil:
		s.Reset(transport.CodeProtocol)
	case f.typ == typeReserve:
		e.grant(link, s, f.early)
	case f.typ == typeConnect:
		e.relay(ctx, link, s, f)
	case f.typ == typeIncoming:
		e.incoming(ctx, link, s, f)
	default:
		s.Reset(transport.CodeProtocol)
	}
}

// answer writes a frame and closes the stream.
func answer(s transport.Stream, f frame) {
	s.SetWriteDeadline(time.Now().Add(writeTimeout))
	if _, err := s.Write(appendFrame(nil, f)); err != nil {
		s.Reset(transport.CodeTimeout)
		return
	}
	s.Close()
}

// conduit returns the conduit of a link, made if need be.
func (e *Endpoint) conduit(link transport.Conn) *conduit {
	e.mu.Lock()
	defer e.mu.Unlock()
	c := e.conduits[link]
	if c != nil {
		return c
	}
	c = &conduit{e: e, link: link, peer: link.Info().RemotePeer, kick: make(chan struct{}, 1)}
	e.conduits[link] = c
	context.AfterFunc(link.Context(), func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.conduits, link)
	})
	if d, ok := link.(transport.DatagramConn); ok && e.begin() {
		c.datagrams = d
		go c.read(e.ctx)
	}
	return c
}

// receive takes a datagram of a peer's, which it may change.
func (e *Endpoint) receive(peer identity.ID, b []byte) {
	way, id, packet, ok := parseDatagram(b)
	if !ok {
		e.count.strays.Add(1)
		return
	}
	e.mu.Lock()
	ours, others := e.ends[endKey{peer, id}], e.circuits[id]
	end, to := -1, (*flow)(nil)
	if others != nil {
		if end = others.from(peer); end >= 0 {
			to = others.flows[1-end]
		}
	}
	e.mu.Unlock()
	switch {
	case way == fromRelay && ours != nil:
		ours.take(packet)
	case way == toRelay && to != nil:
		if end == 0 && !others.heard.Swap(true) {
			others.flows[0].name(id) // it knows the number
		}
		others.forward(to, b)
	default:
		e.count.strays.Add(1)
	}
}
