package pheromones

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/nat/relay"
	"github.com/Blockchain-CN/pheromones/nat/stun"
	"github.com/Blockchain-CN/pheromones/protocol"
	"github.com/Blockchain-CN/pheromones/protocol/greeting"
	"github.com/Blockchain-CN/pheromones/router"
	"github.com/Blockchain-CN/pheromones/router/gossip"
	"github.com/Blockchain-CN/pheromones/router/store"
	"github.com/Blockchain-CN/pheromones/transport"
)

// Config says what a [Node] is. Transports is required; the zero value of everything else works. New copies it.
type Config struct {
	// Name is what this node calls itself: at most 255 bytes of UTF-8. Names are labels: other nodes may bear the same.
	Name string
	// Transports are how the node reaches peers and is reached, in order of preference; all made with one key, each of a
	// scheme of its own. The node owns them from now on and closes them when it is shut down.
	Transports []transport.Transport
	// Handler answers messages of peers, but for the operations of the greeting and "ping", which the node answers itself.
	// It is called from many goroutines at once. Nil answers that every operation is unknown.
	Handler protocol.Handler
	// Dir is a folder, made if it is not there, where the table of routes lives (as routes.db) and outlasts the node: peers that were
	// added are dialled again when it is started anew. One node at a time may use it. Empty means that the table is in memory.
	Dir string
	// Limit bounds one message, in bytes, in either direction. Zero or less means 16 MiB.
	Limit int
	// DialTimeout bounds one attempt at one address. Zero or less means 10 s.
	DialTimeout time.Duration
	// RetryFor is for how long after its first loss a request is sent again, if its context has no deadline. Zero means 30 s,
	// negative that no request is sent again.
	RetryFor time.Duration
	// Replies bounds what is remembered of requests, so that those that are sent again are not executed again. Its
	// Incarnation is the node's, too: leave it zero.
	Replies protocol.RepliesConfig
	// MaxRoutes bounds the table of routes. Zero or less means 16384.
	MaxRoutes int
	// Parallel bounds how many peers DispatchAll talks to at once. Zero or less means 64.
	Parallel int
	// IdleTimeout is how long nothing runs on a link before it is closed, if neither side's callers have added the other. Zero
	// means 5 minutes, less means never.
	IdleTimeout time.Duration
	// MaxLinks bounds the long connections with peers. To make room the one is closed that has been idle for the longest, among
	// those with peers that no caller has added; if all are needed the new connection is refused. Zero or less means 1024.
	MaxLinks int
	// Gossip says how broadcasts travel. Its fields Self, Sign, Verify, Random and Incarnation are the node's own business.
	Gossip gossip.Config
	// Sign signs with the key of the transports, for Broadcast. Nil: a transport that is a [transport.Signer] does.
	Sign func([]byte) []byte
	// STUN is how many Binding requests (RFC 8489) the node answers in a second, at those of its ports that QUIC listens at: it
	// tells whoever asks at which address it sees them, so that peers behind NATs need no other server. Zero means 500, and 10 for
	// one IPv4 /24 or IPv6 /48; less means none.
	STUN int
	// Join are nodes to know from the start, by an address each. The node keeps a link with every one of them, makes itself
	// reachable through those that relay (see NoReserve), and asks them for peers it does not know. It begins with Start, or with
	// the first call that needs it.
	Join []transport.Addr
	// NoReserve says that the node needs no relay to be reached, since its own addresses will do. A node that relays, or that
	// listens nowhere, makes no reservation anyway.
	NoReserve bool
	// Relay says for whom the node passes on what peers say to each other that cannot reach each other directly, and how much; only a node that
	// others reach directly is of use. Nil: for nobody.
	Relay *relay.Config
	// PortMap has the router before this machine let peers in at the ports that the node listens at, which are then among its
	// addresses. portmap.New (package nat/portmap) makes one. Nil: no router is asked.
	PortMap PortMap
	// Path says which ways to peers there may be. Zero means PathRelayAllowed.
	Path Path
	// Logger gets what no caller is told. Nil is silent.
	Logger *slog.Logger
}

// ErrClosed is what calls on a node that was closed or shut down fail with. It is net.ErrClosed.
var ErrClosed = fmt.Errorf("pheromones: the node is closed: %w", net.ErrClosed)

// Node is one participant: it listens, dials, keeps routes to peers and talks to them. It is safe for concurrent use.
type Node struct {
	cfg      Config
	protocol protocol.Config
	handler  protocol.Handler
	router   *router.Router
	table    *store.Store // nil if the table is in memory
	cast     *caster
	log      *slog.Logger
	stun     *stun.Responder
	relay    *relay.Endpoint
	joining  *joining
	port     *port

	tunnelled tunnelled

	ctx      context.Context // ends when the node stops listening
	stop     context.CancelFunc
	running  sync.WaitGroup // accept loops; Add is called with mu held and closing false
	mu       sync.Mutex
	closing  bool // Shutdown or Close was called
	closed   chan struct{}
	once     sync.Once // of what ends with closed
	bound    []transport.Listener
	services map[string]*serviceListener
	outside  []*outside                            // ports whose packets are read
	mapped   map[transport.Listener]netip.AddrPort // where routers forward ports from
	punched  map[transport.Conn]struct{}           // links whose path the peer looks after
	active   int                                   // messages and conversations being answered
	idle     chan struct{}                         // closed when closing and active is 0
}

// New returns a node that does not listen yet. It fails if cfg cannot be: no transports, two of one scheme or of different
// keys, or a name that is too long.
func New(cfg Config) (*Node, error) {
	n := &Node{
		cfg: cfg, log: cfg.Logger, closed: make(chan struct{}), idle: make(chan struct{}),
		services: make(map[string]*serviceListener), mapped: make(map[transport.Listener]netip.AddrPort),
		punched: make(map[transport.Conn]struct{}), stun: newResponder(cfg), port: newPort(),
		protocol: protocol.Config{Name: cfg.Name, Limit: cfg.Limit, Logger: cfg.Logger},
	}
	if n.log == nil {
		n.log = slog.New(slog.DiscardHandler)
	}
	n.cfg.Transports = slices.Clone(cfg.Transports)
	n.cfg.Join = slices.Clone(cfg.Join)
	n.joining = newJoining(n)
	n.relay = relay.New(relay.Options{Relay: cfg.Relay, Open: n.openForRelay, Incoming: n.called, Logger: cfg.Logger})
	var err error
	if cfg.Dir != "" {
		if n.table, err = openTable(cfg.Dir, n.log); err != nil {
			return nil, fmt.Errorf("pheromones: %w", err)
		}
	}
	defer func() {
		if err != nil {
			n.abort()
		}
	}()
	n.protocol.Replies = protocol.NewReplies(cfg.Replies)
	n.router, err = router.New(router.Config{
		Table:      n.table,
		Transports: n.ways(), Dialable: n.dialable, Serve: n.serve, Protocol: &n.protocol, DialTimeout: cfg.DialTimeout, RetryFor: cfg.RetryFor,
		Parallel: cfg.Parallel, MaxRoutes: cfg.MaxRoutes, IdleTimeout: cfg.IdleTimeout, MaxLinks: cfg.MaxLinks,
		Handler:        protocol.HandlerFunc(n.answer),
		Pipelines:      true,
		Incarnation:    n.protocol.Replies.Incarnation(),
		NetworkChanged: n.networkChanged, Attached: n.attached, Logger: cfg.Logger,
	})
	if err != nil {
		return nil, fmt.Errorf("pheromones: %w", err)
	}
	n.router.SetSelf(cfg.Name, nil)
	if _, err = greeting.ConnectMessage(n.router.Self()); err != nil {
		return nil, fmt.Errorf("pheromones: the name %.40q cannot be one: %w", cfg.Name, err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cast = newCaster(n)
	n.handler = n.cast.handle(greeting.Handler(n.router, answerPing(cfg.Handler)))
	n.ctx, n.stop = context.WithCancel(context.Background())
	return n, nil
}

// openTable opens the table of routes in a folder.
func openTable(dir string, log *slog.Logger) (*store.Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("the folder of the table of routes: %w", err)
	}
	return store.Open(filepath.Join(dir, "routes.db"), &store.Config{Logger: log})
}

// abort ends what New has begun.
func (n *Node) abort() {
	if n.router != nil {
		n.router.Close(transport.CodeShutdown, "")
	}
	if n.table != nil {
		n.table.Close()
	}
}

// answer gives a message to the node's handler.
func (n *Node) answer(ctx context.Context, m protocol.Message) (protocol.Message, error) {
	n.mu.Lock()
	h := n.handler
	n.mu.Unlock()
	return h.Handle(ctx, m)
}

// ID returns the node's ID, which is that of its transports.
func (n *Node) ID() identity.ID { return n.router.ID() }

// Name returns the node's name.
func (n *Node) Name() string { return n.cfg.Name }

// Start listens at every one of addrs ("quic://0.0.0.0:4001"; port 0 is any free one) and serves in the background until the
// node is closed or shut down. It returns when all of them are bound, or fails and leaves none of them bound. [Node.Addrs]
// then says where. ctx bounds the call only.
func (n *Node) Start(ctx context.Context, addrs ...string) error {
	_, err := n.start(ctx, addrs)
	return err
}

func (n *Node) start(ctx context.Context, addrs []string) (bound []transport.Listener, err error) {
	if len(addrs) == 0 {
		return nil, errors.New(`pheromones: no address to listen at; give one, such as "quic://0.0.0.0:0"`)
	}
	defer func() {
		if err != nil {
			for _, l := range bound {
				l.Close()
			}
		}
	}()
	for _, s := range addrs {
		l, err := n.bind(ctx, s)
		if err != nil {
			return bound, fmt.Errorf("pheromones: %w", err)
		}
		bound = append(bound, l)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closing {
		return bound, ErrClosed
	}
	n.bound = append(n.bound, bound...)
	n.running.Add(len(bound))
	for _, l := range bound {
		go n.accept(l, n.servePackets(l), n.mapPort(l))
	}
	n.announce()
	n.joining.begin()
	return bound, nil
}

func (n *Node) bind(ctx context.Context, s string) (transport.Listener, error) {
	addr, err := transport.ParseAddr(s)
	if err != nil {
		return nil, err
	}
	for _, t := range n.cfg.Transports {
		if t.Traits().Scheme == addr.Scheme {
			return t.Listen(ctx, addr)
		}
	}
	return nil, fmt.Errorf("%w: %s: this node has no transport of the scheme %q", transport.ErrBadAddr, s, addr.Scheme)
}

// networkChanged tells peers of the addresses that the node has now, if they are others than before.
func (n *Node) networkChanged() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.closing && !slices.Equal(n.router.Self().Addrs, n.addrs()) {
		n.announce()
	}
}

// announce makes the node's addresses what it tells of itself, with mu held.
func (n *Node) announce() {
	n.router.SetSelf(n.cfg.Name, n.addrs())
}

// addrs returns where the node is reached: at its routers, at its listeners, and through relays; with mu held.
func (n *Node) addrs() []transport.Addr {
	through := n.joining.addrs()
	if n.cfg.Path == PathRelayOnly {
		return through
	}
	addrs := append(n.mappings(), advertised(n.bound)...)
	return append(addrs[:min(len(addrs), greeting.MaxAddrs-len(through))], through...)
}

// ListenAndServe is [Node.Start], and then waits. When ctx ends it stops listening at addrs and returns nil; links that were
// accepted live on until the node is closed. When the node is closed or shut down it returns [ErrClosed].
func (n *Node) ListenAndServe(ctx context.Context, addrs ...string) error {
	bound, err := n.start(ctx, addrs)
	if err != nil {
		return err
	}
	select {
	case <-n.closed:
		return ErrClosed
	case <-ctx.Done():
	}
	for _, l := range bound {
		l.Close()
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.bound = slices.DeleteFunc(n.bound, func(l transport.Listener) bool { return slices.Contains(bound, l) })
	n.announce()
	return nil
}

// accept hands the connections of a listener to the router until the listener is closed, and then calls after.
func (n *Node) accept(l transport.Listener, after ...func()) {
	defer n.running.Done()
	for _, f := range after {
		defer f()
	}
	for {
		c, err := l.Accept(n.ctx)
		if err != nil {
			if n.ctx.Err() == nil && !errors.Is(err, net.ErrClosed) {
				n.log.Error("pheromones: a listener has ended", "addr", l.Addr(), "err", err)
			}
			return
		}
		n.accepted(c)
	}
}

// Addrs returns the addresses at which the node listens, with their real ports and the node's ID. One that is bound to every
// interface is given as the interfaces' own addresses. The first are those from where routers forward ports (see Config.PortMap).
// The last are those through relays (relay://), if there are any at the moment. The result is the caller's.
func (n *Node) Addrs() []transport.Addr {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.addrs()
}

// Add reaches whoever is at addr, greets it and remembers it: this node and the peer become each other's route, learn of the
// peers the other knows, and the peers the other one has links with learn of this node. If addr has an ID the peer must prove
// to be it. It returns the peer's ID when the greeting is over, or an error that says how far it came; ctx bounds all of it.
func (n *Node) Add(ctx context.Context, addr string) (identity.ID, error) {
	a, err := transport.ParseAddr(addr)
	if err != nil {
		return identity.ID{}, fmt.Errorf("pheromones: add: %w", err)
	}
	id, err := n.router.Add(ctx, a, n.handler)
	if err != nil {
		return id, fmt.Errorf("pheromones: add: %w", n.closedError(err))
	}
	return id, nil
}

// closedError makes the error of a call that the node's end has broken off say so.
func (n *Node) closedError(err error) error {
	select {
	case <-n.closed:
		return errors.Join(ErrClosed, err)
	default:
		return err
	}
}

// resolve returns whom to means: an ID, the name that one known peer bears, or an address. Who is not known is asked for at the
// nodes that were joined.
func (n *Node) resolve(ctx context.Context, to string) (identity.ID, error) {
	if strings.Contains(to, "://") {
		if a, err := transport.ParseAddr(to); err == nil {
			return n.router.Reach(ctx, a)
		}
	}
	id, err := n.router.Resolve(to)
	switch {
	case len(n.cfg.Join) == 0:
	case errors.Is(err, router.ErrUnknownPeer):
		if n.ask(ctx, identity.ID{}, to) {
			return n.router.Resolve(to)
		}
	case err == nil && id != n.ID() && !n.router.Knows(id):
		if err := n.find(ctx, id); err != nil {
			return id, err
		}
	}
	return id, err
}

// foundAnew reports whether a peer of which no known address led anywhere, so that nothing was sent, was found by way of the nodes
// that were joined.
func (n *Node) foundAnew(ctx context.Context, id identity.ID, err error) bool {
	var dial *router.DialError
	var sent *protocol.ExchangeError
	return len(n.cfg.Join) > 0 && ctx.Err() == nil && errors.As(err, &dial) && !errors.As(err, &sent) && n.find(ctx, id) == nil
}

// Dispatch sends m to a peer and returns its reply, which is none ([protocol.Message.IsNone]) if the peer had nothing to say.
// to is an ID, a name that one known peer bears, or an address, whose peer is reached without a greeting. It returns when the
// reply is there, when it is certain that none will come, or when ctx ends.
//
// A request whose link is lost or falls silent is sent again, over a new link or to another address, until ctx ends or, if ctx has
// no deadline, for Config.RetryFor after the first loss. What is promised:
//
//   - The peer's handler runs at most once for a message, whatever is lost, and also if the peer is started again meanwhile.
//   - If Dispatch returns without an error the handler has run once, and this is its reply.
//   - If it returns an error the message was perhaps executed, unless [protocol.NotExecuted] says that it was not, or the error is
//     none of protocol's: then nothing was sent. That the peer cannot know shows as [protocol.CodeForgotten] or
//     [protocol.CodeRestarted].
//
// Not promised: that a message is executed at all. Who wants to go on after an error sets m.ID to one of [protocol.NewMessageID]
// before the first call, and calls again with it: as long as the peer remembers (five minutes after the handler has ended, unless
// it is configured otherwise or many come) it answers with the reply, and after that with an error rather than by running again. An ID
// that is not of NewMessageID is honoured only as long as it is remembered. Conversations that flow on one stream are not sent again.
//
// Errors are a [*router.AmbiguousError], a [*router.DialError] that lists every address tried, [router.ErrUnknownPeer], a
// [*protocol.RemoteError] if the peer refused or failed, or a [*protocol.ExchangeError].
func (n *Node) Dispatch(ctx context.Context, to string, m protocol.Message) (protocol.Message, error) {
	id, err := n.resolve(ctx, to)
	var reply protocol.Message
	if err == nil {
		if reply, err = n.router.Dispatch(ctx, id, m); n.foundAnew(ctx, id, err) {
			reply, err = n.router.Dispatch(ctx, id, m)
		}
	}
	if err != nil {
		return protocol.Message{}, fmt.Errorf("pheromones: dispatch to %s: %w", to, n.closedError(err))
	}
	return reply, nil
}

// DispatchAll sends m to every known peer and returns what each made of it, by ID. Peers are talked to side by side, so that a
// slow one delays no other. It returns when the last has answered or failed, or soon after ctx has ended.
func (n *Node) DispatchAll(ctx context.Context, m protocol.Message) map[identity.ID]router.Result {
	return n.router.DispatchAll(ctx, m)
}

// Converse holds a conversation with a peer, named as in [Node.Dispatch]: it sends first, gives the reply to the node's
// handler, sends what that returns, and so on until either side returns none. The same handlers serve on every transport. It
// returns nil at the conversation's end, else what broke it off; ctx bounds all of it.
func (n *Node) Converse(ctx context.Context, to string, first protocol.Message) error {
	id, err := n.resolve(ctx, to)
	if err == nil {
		if err = n.router.Converse(ctx, id, first, n.handler); n.foundAnew(ctx, id, err) {
			err = n.router.Converse(ctx, id, first, n.handler)
		}
	}
	if err != nil {
		return fmt.Errorf("pheromones: converse with %s: %w", to, n.closedError(err))
	}
	return nil
}

// Delete forgets a peer, named by an ID, a name, or an address with its ID or at which it was added. Links with it take no new
// message of ours and close when what runs on them has ended, after ten seconds at the latest. Hints of other peers do not bring it
// back; a new Add does, or the peer's own greeting.
func (n *Node) Delete(to string) error {
	id, err := n.router.Resolve(to)
	if err == nil {
		err = n.router.Delete(id)
	}
	if err != nil {
		return fmt.Errorf("pheromones: delete %s: %w", to, err)
	}
	return nil
}

// Routes returns the known peers, ordered by name and ID. The result is the caller's.
func (n *Node) Routes() []router.Route { return n.router.Routes() }

// Watch returns a watcher of the changes of routes and links from now on. Its user closes it.
func (n *Node) Watch() *router.Watcher { return n.router.Watch() }

// opPing and opPong are the operations by which a node is asked whether it is there.
const (
	opPing = "ping"
	opPong = "pong"
)

func answerPing(next protocol.Handler) protocol.Handler {
	if next == nil {
		next = new(protocol.Table)
	}
	return protocol.HandlerFunc(func(ctx context.Context, m protocol.Message) (protocol.Message, error) {
		switch m.Operation {
		case opPing:
			return protocol.Message{Operation: opPong, Data: m.Data}, nil
		case opPong:
			return protocol.Message{}, nil
		}
		return next.Handle(ctx, m)
	})
}

// Ping sends an empty message to a peer, named as in [Node.Dispatch], and returns how long its reply took, with the time to
// dial if there was no link. ctx bounds it.
func (n *Node) Ping(ctx context.Context, to string) (time.Duration, error) {
	start := time.Now()
	reply, err := n.Dispatch(ctx, to, protocol.Message{Operation: opPing})
	if err == nil && reply.Operation != opPong {
		err = fmt.Errorf("pheromones: ping %s: the reply was %q, want %q", to, reply.Operation, opPong)
	}
	return time.Since(start), err
}

// Shutdown stops the node gracefully. It stops listening, tells the peers it has links with (on transports whose connections
// carry one stream: those it has met), refuses new streams with
// CodeShutdown, and waits until the handlers that run have answered or ctx has ended. Then it closes links, service
// connections and transports. It returns ctx's error if handlers were cut off, else nil. A second call waits like the first.
func (n *Node) Shutdown(ctx context.Context) error {
	n.quiesce()
	n.cast.leave()
	n.router.Farewell(ctx)
	var err error
	select {
	case <-n.idle:
	case <-ctx.Done():
		select {
		case <-n.idle:
		default:
			err = fmt.Errorf("pheromones: shutdown cut off handlers: %w", context.Cause(ctx))
		}
	}
	return errors.Join(err, n.end("the node shuts down"))
}

// Close stops the node at once: handlers' contexts end, and links, service connections and transports are closed. It returns
// when every goroutine of the node has ended, which includes handlers. Closing twice is no error.
func (n *Node) Close() error {
	n.quiesce()
	return n.end("the node closes")
}

// quiesce makes the node take nothing new.
func (n *Node) quiesce() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closing {
		return
	}
	n.closing = true
	n.stop()
	for _, l := range n.bound {
		l.Close()
	}
	for _, s := range n.services {
		s.end()
	}
	n.router.Drain()
	if n.active == 0 {
		close(n.idle)
	}
}

// end closes everything, once, and waits for it.
func (n *Node) end(reason string) error {
	var errs []error
	n.once.Do(func() {
		close(n.closed)
		n.cast.halt()
		n.router.Close(transport.CodeShutdown, reason)
		n.relay.Close()
		n.protocol.Replies.Close()
		for _, t := range n.cfg.Transports {
			errs = append(errs, t.Close())
		}
		n.running.Wait()
		n.cast.running.Wait()
		if n.table != nil {
			if err := n.table.Close(); err != nil {
				errs = append(errs, fmt.Errorf("pheromones: the last changes of the table of routes: %w", err))
			}
		}
	})
	return errors.Join(errs...)
}
