// Package router knows which peer is reached how: it keeps the table of routes and the links to peers, dials when there is
// no link, and carries messages over either.
//
// # Routes
//
// A [Route] is keyed by the peer's ID. Its name is a label, which other peers may bear too, and its addresses are hints.
// What a peer says of itself (first-hand, over an authenticated link) replaces what others say of it, and never the other
// way round. The router is the [greeting.Book] in which the greeting reads and writes.
//
// # Links
//
// A long connection, dialled by us or by the peer, is a link: it is kept and shared by all that is said to the peer. However
// many goroutines want to reach a peer at once, one dials. On a transport with [transport.Traits].OneStream each exchange
// dials a connection of its own.
//
// # Limitations
//
// Links run between two nodes directly; nothing is passed on for others.
package router

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/protocol"
	"github.com/Blockchain-CN/pheromones/protocol/greeting"
	"github.com/Blockchain-CN/pheromones/router/store"
	"github.com/Blockchain-CN/pheromones/transport"
)

// Config says how a [Router] works. Transports and Serve are required.
type Config struct {
	// Transports are how peers are reached, in order of preference, all of one key and each of its own scheme. The router
	// does not close them.
	Transports []transport.Transport
	// Serve answers a stream that a peer has opened on a connection. It is called in a goroutine for each stream, owns the
	// stream, and must return soon after ctx has ended; ctx ends with Close.
	Serve func(ctx context.Context, c transport.Conn, s transport.Stream)
	// Protocol configures the message service. It is used as it is, and not written. Nil means the defaults.
	Protocol *protocol.Config
	// DialTimeout bounds one attempt at one address. Zero or less means 10 s.
	DialTimeout time.Duration
	// RaceDelay is how long the router waits for one address before it tries the next beside it (RFC 8305 §5 calls it the
	// Connection Attempt Delay). Zero or less means 250 ms.
	RaceDelay time.Duration
	// Parallel bounds how many peers DispatchAll, and the spreading of notices, talk to at once. Zero or less means 64.
	Parallel int
	// Incarnation tells this life of the node from its others, to peers: random, not zero. It must be that of Protocol.Replies,
	// if there are any. Zero: one is chosen.
	Incarnation uint64
	// RetryFor is for how long after its first loss a request is sent again, if its context has no deadline. Zero means 30 s,
	// negative that no request is sent again.
	RetryFor time.Duration
	// MaxRoutes bounds the table. Beyond it, hints about new peers are dropped, and first-hand news replace hints. Half of it
	// at most is kept on the word of any one peer. Peers that callers have added are never replaced. Zero or less means 16384.
	MaxRoutes int
	// Table keeps the routes on disk. New reads it; the caller closes it after the router. Nil keeps them in memory alone.
	Table *store.Store
	// Handler answers in the greetings that the router holds of itself, with peers that callers have added and that were lost.
	// It must know the greeting. Nil: such peers are dialled again, but not greeted.
	Handler protocol.Handler
	// IdleTimeout is how long nothing runs on a link, with a peer that no caller of either side has added, before it is closed.
	// Zero means 5 minutes, less means never.
	IdleTimeout time.Duration
	// MaxLinks bounds the links with all peers. To make room the one is closed on which nothing has run for the longest, of
	// those with peers that no caller has added; if there is none, the new connection is refused, or, if it was dialled by us,
	// kept beyond the bound. Zero or less means 1024.
	MaxLinks int
	// Dialable says whether an address of a peer may be dialled unasked; what a caller names himself is dialled anyway. It is
	// called with locks held and returns at once. Nil: every address may be.
	Dialable func(transport.Addr) bool
	// Attached is called, in a goroutine of its own, when a long connection has become a link. It must return soon after ctx has
	// ended, which it does with Close. Nil means that nobody wants to know.
	Attached func(ctx context.Context, c transport.Conn)
	// NetworkChanged is called, in a goroutine of its own, when the addresses of this machine's interfaces have changed or it
	// has slept. Nil means that nobody wants to know.
	NetworkChanged func()
	// Pipelines says that Serve hands streams of the service [protocol.PipelineService] to [Router.ServePipeline]. Peers are then
	// offered to send small requests so.
	Pipelines bool
	// Logger gets what no caller is told. Nil is silent.
	Logger *slog.Logger
}

func orDefault[T int | time.Duration](v, otherwise T) T {
	if v <= 0 {
		return otherwise
	}
	return v
}

func (c *Config) dialTimeout() time.Duration { return orDefault(c.DialTimeout, 10*time.Second) }
func (c *Config) raceDelay() time.Duration   { return orDefault(c.RaceDelay, 250*time.Millisecond) }
func (c *Config) parallel() int              { return orDefault(c.Parallel, 64) }
func (c *Config) maxLinks() int              { return orDefault(c.MaxLinks, 1024) }
func (c *Config) maxRoutes() int             { return orDefault(c.MaxRoutes, 16384) }

// maxTaken bounds the routes that are kept on the word of one peer alone.
func (c *Config) maxTaken() int { return max(1, c.maxRoutes()/2) }

// Router keeps routes and links. It is safe for concurrent use; no lock is held while it waits for a peer.
type Router struct {
	cfg        Config
	self       identity.ID
	transports map[string]transport.Transport // by scheme
	rank       map[string]int                 // by scheme: the place in Config.Transports
	log        *slog.Logger

	incarnation uint64 // of this node, random, never zero

	ctx     context.Context // ends with Close
	stop    context.CancelFunc
	running sync.WaitGroup // Add is called with mu held and closed false

	mu       sync.Mutex
	closed   bool
	draining bool // no new streams of peers are served
	name     string
	addrs    []transport.Addr
	seq      uint64
	links    int    // how many there are, with all peers
	serial   uint32 // of the latest dial for a long connection
	routes   map[identity.ID]*route
	named    map[string][]*route // by the name that a peer bears, if it bears one
	taken    map[identity.ID]int // how many routes are kept on the word of one peer alone
	scanned  time.Time           // when a full table was last searched for what a hint may replace
	reaching map[transport.Addr]*dialing
	leaving  bool // Farewell was called: nothing is spread any more
	watchers map[*Watcher]struct{}
	news     news
	keeper   keeper
	requests requests // has a lock of its own
}

// Errors of the router.
var (
	// ErrClosed means that the router was closed. It is net.ErrClosed.
	ErrClosed = fmt.Errorf("router: %w", transport.ErrClosed)
	// ErrUnknownPeer means that no route leads to the peer: nobody has told of it, or it was deleted. Add it by an address.
	ErrUnknownPeer = errors.New("router: no route to the peer; add it by one of its addresses")
	// ErrSelf means that the peer asked for is this node itself.
	ErrSelf = errors.New("router: the peer is this node itself")
	// ErrFull means that the table has no room for a further peer: Config.MaxRoutes others were added. Delete some.
	ErrFull = errors.New("router: the table of routes is full; delete peers, or raise Config.MaxRoutes")
	// ErrTooManyLinks means that a connection was not kept because Config.MaxLinks others are needed.
	ErrTooManyLinks = errors.New("router: there are as many links as Config.MaxLinks allows, and all are needed")
	// ErrNoAddress means that none of the peer's addresses is of a transport that this node has, and it has no link with us.
	ErrNoAddress = errors.New("router: no address of the peer is of a transport of this node")
)

// New returns a router. It fails if a transport is missing or two are of one scheme or of different keys.
func New(cfg Config) (*Router, error) {
	r := &Router{
		cfg: cfg, log: cfg.Logger,
		transports: make(map[string]transport.Transport), rank: make(map[string]int),
		routes: make(map[identity.ID]*route), named: make(map[string][]*route), taken: make(map[identity.ID]int),
		reaching: make(map[transport.Addr]*dialing), watchers: make(map[*Watcher]struct{}),
		news: news{waiting: make(map[identity.ID][]greeting.Notice), telling: make(map[identity.ID]struct{})},
	}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	if cfg.Serve == nil {
		return nil, errors.New("router: Config.Serve is nil")
	}
	if len(cfg.Transports) == 0 {
		return nil, errors.New("router: Config.Transports is empty; give at least one transport")
	}
	for i, t := range cfg.Transports {
		if t == nil {
			return nil, fmt.Errorf("router: Config.Transports[%d] is nil", i)
		}
		traits := t.Traits()
		switch {
		case r.transports[traits.Scheme] != nil:
			return nil, fmt.Errorf("router: two transports have the scheme %q", traits.Scheme)
		case traits.LocalPeer.IsZero():
			return nil, fmt.Errorf("router: the transport %q does not say whose it is (Traits.LocalPeer)", traits.Scheme)
		case i > 0 && traits.LocalPeer != r.self:
			return nil, fmt.Errorf("router: the transports %q and %q have different keys: %s and %s",
				cfg.Transports[0].Traits().Scheme, traits.Scheme, r.self, traits.LocalPeer)
		}
		r.self = traits.LocalPeer
		r.transports[traits.Scheme] = t
		r.rank[traits.Scheme] = i
	}
	for r.incarnation = cfg.Incarnation; r.incarnation == 0; {
		r.incarnation = rand.Uint64()
	}
	r.ctx, r.stop = context.WithCancel(context.Background())
	r.requests.init(r)
	if cfg.Table != nil {
		if err := r.load(); err != nil {
			return nil, fmt.Errorf("router: reading the table: %w", err)
		}
	}
	return r, nil
}

// ID returns the ID of this node.
func (r *Router) ID() identity.ID { return r.self }

// begin registers a goroutine that Close must wait for; it reports false after Close.
func (r *Router) begin() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return false
	}
	r.running.Add(1)
	return true
}

// Drain makes the router refuse, with CodeShutdown, streams that peers open from now on. What runs goes on.
func (r *Router) Drain() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.draining = true
}

// Close ends every link with code and returns when all of the router's goroutines have ended, which includes the calls of
// Config.Serve. Calls under way fail.
func (r *Router) Close(code transport.Code, reason string) {
	r.mu.Lock()
	r.closed = true
	var links []*link
	for _, rt := range r.routes {
		links = append(links, rt.links...)
	}
	watchers := r.watchers
	r.watchers = nil
	if r.keeper.timer != nil && r.keeper.timer.Stop() {
		r.running.Done()
	}
	r.mu.Unlock()
	for w := range watchers {
		w.end()
	}
	for _, l := range links {
		l.conn.CloseWithError(code, reason)
	}
	r.stop()
	r.running.Wait()
}

// farewellTimeout bounds telling peers that this node goes.
const farewellTimeout = 2 * time.Second

// Farewell tells peers that this node goes away, so that they need not find out: those it has links with and, where peers are
// reached by connections of one stream, those that it has met. It spreads nothing else from then on. It returns when they
// know, when ctx has ended, or after two seconds.
func (r *Router) Farewell(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, farewellTimeout)
	defer cancel()
	m, err := greeting.NoticeMessage(greeting.Notice{Change: greeting.Left, Peer: r.Self()})
	if err != nil {
		return
	}
	r.mu.Lock()
	again := r.leaving
	r.leaving = true
	clear(r.news.waiting)
	r.news.size = 0
	var peers []identity.ID
	for id, rt := range r.routes {
		if rt.known() && (rt.best() != nil || rt.first && r.byOneStream(rt)) {
			peers = append(peers, id)
		}
	}
	r.mu.Unlock()
	if again {
		return
	}
	r.each(peers, func(id identity.ID) {
		if _, err := r.Dispatch(ctx, id, m); err != nil {
			r.log.Debug("router: the farewell was not taken", "peer", id, "err", err)
		}
	})
}

// byOneStream reports whether the first address that would be dialled is of a transport whose connections carry one stream.
func (r *Router) byOneStream(rt *route) bool {
	addrs := r.candidates(rt)
	return len(addrs) > 0 && r.transports[addrs[0].Scheme].Traits().OneStream
}
