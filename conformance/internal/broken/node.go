package broken

import (
	"bytes"
	"context"
	"encoding/binary"
	"net"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/Blockchain-CN/pheromones"
	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/protocol"
	"github.com/Blockchain-CN/pheromones/router"
	"github.com/Blockchain-CN/pheromones/transport"
)

// nodeFaults are what is wrong with a node: its configuration, what is beneath it, or a method.
type nodeFaults struct {
	config func(c *pheromones.Config, done <-chan struct{}) // done is closed after the test
	net    faults                                           // of its transports

	start       func(n *badNode, ctx context.Context, addrs []string) error
	add         func(n *badNode, ctx context.Context, addr string) (identity.ID, error)
	remove      func(n *badNode, to string) error // Delete
	routes      func(n *badNode) []router.Route
	watch       func(n *badNode) *router.Watcher
	dispatch    func(n *badNode, ctx context.Context, to string, m protocol.Message) (protocol.Message, error)
	dispatchAll func(n *badNode, ctx context.Context, m protocol.Message) map[identity.ID]router.Result
	converse    func(n *badNode, ctx context.Context, to string, first protocol.Message) error
	broadcast   func(n *badNode, ctx context.Context, m protocol.Message) error
	offer       func(n *badNode, service string) (net.Listener, error) // Listen
	shutdown    func(n *badNode, ctx context.Context) error
}

// badNode is a node that is sound but for its faults.
type badNode struct {
	*pheromones.Node
	f    *nodeFaults
	done <-chan struct{} // closed after the test, for what outlives the node
	cfg  pheromones.Config
	nets []*badTransport

	n       atomic.Int64 // calls of Dispatch under way
	mark    atomic.Bool  // for faults that remember something
	mu      sync.Mutex
	kept    []router.Route
	watcher *router.Watcher
	last    protocol.Message // a reply
	offered map[string]net.Listener
}

// Node returns a node that is broken in the way of r's breakage.
func (r *Breaker) Node(cfg pheromones.Config) (*badNode, error) {
	n := &badNode{f: &r.n, done: r.done, offered: make(map[string]net.Listener)}
	cfg.Transports = slices.Clone(cfg.Transports)
	for i, t := range cfg.Transports {
		b := &badTransport{Transport: t, f: &r.n.net}
		n.nets = append(n.nets, b)
		cfg.Transports[i] = b
	}
	if r.n.config != nil {
		r.n.config(&cfg, r.done)
	}
	n.cfg = cfg
	var err error
	n.Node, err = pheromones.New(cfg)
	return n, err
}

func (n *badNode) Start(ctx context.Context, addrs ...string) error {
	if n.f.start != nil {
		return n.f.start(n, ctx, addrs)
	}
	return n.Node.Start(ctx, addrs...)
}

func (n *badNode) Add(ctx context.Context, addr string) (identity.ID, error) {
	if n.f.add != nil {
		return n.f.add(n, ctx, addr)
	}
	return n.Node.Add(ctx, addr)
}

func (n *badNode) Delete(to string) error {
	if n.f.remove != nil {
		return n.f.remove(n, to)
	}
	return n.Node.Delete(to)
}

func (n *badNode) Routes() []router.Route {
	if n.f.routes != nil {
		return n.f.routes(n)
	}
	return n.Node.Routes()
}

func (n *badNode) Watch() *router.Watcher {
	if n.f.watch != nil {
		return n.f.watch(n)
	}
	return n.Node.Watch()
}

func (n *badNode) Dispatch(ctx context.Context, to string, m protocol.Message) (protocol.Message, error) {
	n.n.Add(1)
	defer n.n.Add(-1)
	if n.f.dispatch != nil {
		return n.f.dispatch(n, ctx, to, m)
	}
	return n.Node.Dispatch(ctx, to, m)
}

func (n *badNode) Broadcast(ctx context.Context, m protocol.Message) error {
	if n.f.broadcast != nil {
		return n.f.broadcast(n, ctx, m)
	}
	return n.Node.Broadcast(ctx, m)
}

func (n *badNode) DispatchAll(ctx context.Context, m protocol.Message) map[identity.ID]router.Result {
	if n.f.dispatchAll != nil {
		return n.f.dispatchAll(n, ctx, m)
	}
	return n.Node.DispatchAll(ctx, m)
}

func (n *badNode) Converse(ctx context.Context, to string, first protocol.Message) error {
	if n.f.converse != nil {
		return n.f.converse(n, ctx, to, first)
	}
	return n.Node.Converse(ctx, to, first)
}

func (n *badNode) Listen(service string) (net.Listener, error) {
	if n.f.offer != nil {
		return n.f.offer(n, service)
	}
	return n.Node.Listen(service)
}

func (n *badNode) Shutdown(ctx context.Context) error {
	if n.f.shutdown != nil {
		return n.f.shutdown(n, ctx)
	}
	return n.Node.Shutdown(ctx)
}

// route returns the route to the peer that an ID, a name or an address means, and whether there is one.
func (n *badNode) route(to string) (router.Route, bool) {
	addr, _ := transport.ParseAddr(to)
	for _, r := range n.Node.Routes() {
		if r.ID.String() == to || r.Name == to || !addr.Peer.IsZero() && addr.Peer == r.ID || slices.Contains(r.Addrs, addr) {
			return r, true
		}
	}
	return router.Route{}, false
}

// handled changes what the node's handler is given and returns, if it has one.
func handled(change func(ctx context.Context, m protocol.Message, next protocol.Handler) (protocol.Message, error)) nodeFaults {
	return nodeFaults{config: func(c *pheromones.Config, _ <-chan struct{}) {
		if next := c.Handler; next != nil {
			c.Handler = protocol.HandlerFunc(func(ctx context.Context, m protocol.Message) (protocol.Message, error) {
				return change(ctx, m, next)
			})
		}
	}}
}

// unhurried keeps handlers from hearing of one kind of end of their context.
func unhurried(deaf func(end error) bool) nodeFaults {
	return nodeFaults{config: func(c *pheromones.Config, done <-chan struct{}) {
		if next := c.Handler; next != nil {
			c.Handler = protocol.HandlerFunc(func(ctx context.Context, m protocol.Message) (protocol.Message, error) {
				inner, cancel := context.WithCancel(context.WithoutCancel(ctx))
				defer cancel()
				defer context.AfterFunc(ctx, func() {
					if deaf(ctx.Err()) {
						<-done
					}
					cancel()
				})()
				return next.Handle(inner, m)
			})
		}
	}}
}

// dispatched changes the error of Dispatch.
func dispatched(to func(err error) error) nodeFaults {
	return nodeFaults{dispatch: func(n *badNode, ctx context.Context, peer string, m protocol.Message) (protocol.Message, error) {
		reply, err := n.Node.Dispatch(ctx, peer, m)
		if err != nil {
			err = to(err)
		}
		return reply, err
	}}
}

// reset changes the codes that streams are reset with.
func resetWith(from, to transport.Code) nodeFaults {
	return nodeFaults{net: faults{reset: func(s *badStream, code transport.Code) error {
		if code == from {
			code = to
		}
		return s.Stream.Reset(code)
	}}}
}

// frames changes the frames of the message service that are written, one at a time, to as many as change returns.
func frames(change func(s *badStream, f protocol.Frame) []protocol.Frame) nodeFaults {
	return nodeFaults{net: faults{write: func(s *badStream, b []byte) (int, error) {
		head := []byte(nil)
		if service, _ := protocol.AppendService(nil, protocol.MessageService); bytes.HasPrefix(b, service) {
			head = service
		}
		f, rest, err := protocol.ParseFrame(b[len(head):], 0)
		if err != nil || len(rest) > 0 {
			return s.Stream.Write(b)
		}
		var out []byte
		for _, f := range change(s, f) {
			if out, err = f.Append(out, 0); err != nil {
				return 0, err
			}
		}
		if _, err := s.Stream.Write(append(head, out...)); err != nil {
			return 0, err
		}
		return len(b), nil
	}}}
}

// errorCode changes the codes of answers that are errors.
func errorCode(from, to protocol.ErrorCode) nodeFaults {
	return frames(func(_ *badStream, f protocol.Frame) []protocol.Frame {
		if f.Kind == protocol.KindError && f.Code == from {
			f.Code = to
		}
		return []protocol.Frame{f}
	})
}

// control changes the frames of a link's control stream: said those that this side says, unless it wants them dropped, and heard
// those that it hears. heard gets each frame's kind, and then its body, and says whether the kind is known.
func control(said, heard func(kind byte, body []byte) bool) nodeFaults {
	header, _ := protocol.AppendService(nil, router.LinkService)
	return nodeFaults{net: faults{write: func(s *badStream, b []byte) (int, error) {
		rest, isFirst := bytes.CutPrefix(b, header)
		if isFirst {
			s.mark.Store(true)
		}
		if said == nil || !s.mark.Load() {
			return s.Stream.Write(b)
		}
		out := bytes.Clone(b[:len(b)-len(rest)])
		for len(rest) >= 3 {
			n := min(len(rest), 3+int(binary.BigEndian.Uint16(rest[1:])))
			frame := bytes.Clone(rest[:n])
			if said(frame[0], frame[3:]) {
				out = append(out, frame...)
			}
			rest = rest[n:]
		}
		if _, err := s.Stream.Write(out); err != nil {
			return 0, err
		}
		return len(b), nil
	}, read: func(s *badStream, b []byte) (int, error) {
		n, err := s.Stream.Read(b)
		switch {
		case !s.mark.Load():
			s.mark.Store(s.accepted && string(b[:n]) == router.LinkService)
		case heard == nil || err != nil:
		case len(s.held) == 0 && n == 3:
			if !heard(b[0], nil) {
				s.Stream.Reset(transport.CodeProtocol)
				return 0, errPlain
			}
			if b[1] > 0 || b[2] > 0 {
				s.held = bytes.Clone(b[:1])
			}
		case len(s.held) > 0:
			heard(s.held[0], b[:n])
			s.held = nil
		}
		return n, err
	}}}
}

// incarnations gives each hello one of its own.
func incarnations() nodeFaults {
	var n atomic.Uint64
	return control(func(kind byte, body []byte) bool {
		if kind == 1 && len(body) >= 8 {
			binary.BigEndian.PutUint64(body, n.Add(1))
		}
		return true
	}, nil)
}
