package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/transport"
	"github.com/Blockchain-CN/pheromones/transport/mem"
)

// world is a few nodes on one in-memory network: endpoints, and links between them.
type world struct {
	t         testing.TB
	network   mem.Network
	datagrams bool         // links have them
	pace      atomic.Int64 // how long a datagram takes to be sent
}

// node is an endpoint and its links, by peer.
type node struct {
	*Endpoint
	w         *world
	id        identity.ID
	transport *mem.Transport
	listener  transport.Listener

	mu    sync.Mutex
	links map[identity.ID]transport.Conn
}

func newWorld(t testing.TB, datagrams bool) *world { return &world{t: t, datagrams: datagrams} }

// node adds a node, which relays if cfg is not nil, and gives circuits to incoming.
func (w *world) node(cfg *Config, incoming func(context.Context, *Circuit)) *node {
	w.t.Helper()
	key, err := identity.Generate()
	if err != nil {
		w.t.Fatal(err)
	}
	tr, err := mem.New(key, &mem.Config{Network: &w.network})
	if err != nil {
		w.t.Fatal(err)
	}
	l, err := tr.Listen(w.t.Context(), transport.Addr{Scheme: mem.Scheme, HostPort: "a:0"})
	if err != nil {
		w.t.Fatal(err)
	}
	n := &node{w: w, id: key.ID(), transport: tr, listener: l, links: make(map[identity.ID]transport.Conn)}
	n.Endpoint = New(Options{Relay: cfg, Open: n.open, Incoming: incoming})
	w.t.Cleanup(func() {
		tr.Close()
		n.Close()
	})
	return n
}

// link joins two nodes.
func (w *world) link(a, b *node) (atA, atB transport.Conn) {
	w.t.Helper()
	ca, err := a.transport.Dial(w.t.Context(), b.listener.Addr())
	if err != nil {
		w.t.Fatal(err)
	}
	cb, err := b.listener.Accept(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	if w.datagrams {
		da, db := &dgConn{Conn: ca, w: w}, &dgConn{Conn: cb, w: w}
		da.in, db.in = make(chan []byte, 4096), make(chan []byte, 4096)
		da.out, db.out = db.in, da.in
		ca, cb = da, db
	}
	a.has(ca)
	b.has(cb)
	return ca, cb
}

// has gives a node a link: its streams are served.
func (n *node) has(c transport.Conn) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.links[c.Info().RemotePeer] = c
	go func() {
		var streams sync.WaitGroup
		defer streams.Wait()
		for {
			s, err := c.AcceptStream(context.Background())
			if err != nil {
				return
			}
			ctx, cancel := context.WithCancel(context.Background())
			context.AfterFunc(c.Context(), cancel)
			streams.Go(func() { n.Serve(ctx, c, s) })
		}
	}()
}

func (n *node) open(ctx context.Context, peer identity.ID, _ bool, first []byte) (transport.Conn, transport.Stream, error) {
	n.mu.Lock()
	c := n.links[peer]
	n.mu.Unlock()
	if c == nil || c.Context().Err() != nil {
		return nil, nil, errors.New("there is no link")
	}
	s, err := c.OpenStream(ctx)
	if err == nil {
		_, err = s.Write(first)
	}
	return c, s, err
}

// dgConn is a connection with datagrams, of at most 1300 bytes.
type dgConn struct {
	transport.Conn
	w       *world
	in, out chan []byte
}

func (c *dgConn) SendDatagram(p []byte) error {
	if len(p) > 1300 {
		return errors.New("too large")
	}
	if pace := time.Duration(c.w.pace.Load()); pace > 0 {
		select {
		case <-time.After(pace):
		case <-c.Context().Done():
		}
	}
	select {
	case c.out <- append([]byte(nil), p...):
	default: // lost
	}
	return nil
}

func (c *dgConn) ReceiveDatagram(ctx context.Context) ([]byte, error) {
	select {
	case p := <-c.in:
		return p, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-c.Context().Done():
		return nil, context.Cause(c.Context())
	}
}

// echo accepts circuits and sends back what comes.
func echo(_ context.Context, c *Circuit) {
	if c.Kind() == Packets {
		c.Run(func(p []byte) { c.Send(p) })
		return
	}
	s := c.Stream()
	io.Copy(s, s)
	s.Close()
}

// three returns a caller and a target with a reservation, and the relay between them.
func three(w *world, cfg *Config, incoming func(context.Context, *Circuit)) (caller, relay, target *node) {
	w.t.Helper()
	caller, relay, target = w.node(nil, nil), w.node(cfg, nil), w.node(nil, incoming)
	w.link(caller, relay)
	w.link(target, relay)
	if _, err := target.Reserve(w.t.Context(), relay.id); err != nil {
		w.t.Fatal(err)
	}
	return caller, relay, target
}

// call calls and collects what comes: packets go to got, and the end to ended.
func (n *node) call(relay, peer identity.ID) (c *Circuit, got chan []byte, ended chan error) {
	n.w.t.Helper()
	c, err := n.Connect(n.w.t.Context(), relay, peer, Packets)
	if err != nil {
		n.w.t.Fatal(err)
	}
	got, ended = make(chan []byte, 1<<12), make(chan error, 1)
	go func() { ended <- c.Run(func(p []byte) { got <- append([]byte(nil), p...) }) }()
	return c, got, ended
}

// bothWays runs a test in a bubble, over links with datagrams and without.
func bothWays(t *testing.T, f func(t *testing.T, w *world)) {
	for _, datagrams := range []bool{true, false} {
		t.Run(fmt.Sprintf("datagrams=%v", datagrams), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { f(t, newWorld(t, datagrams)) })
		})
	}
}
