package broken

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/Blockchain-CN/pheromones"
	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/protocol"
	"github.com/Blockchain-CN/pheromones/protocol/greeting"
	"github.com/Blockchain-CN/pheromones/router"
	"github.com/Blockchain-CN/pheromones/transport"
)

// stack are faults of nodes, in the order of the rules that must catch them.
func stack() []row[nodeFaults] {
	return []row[nodeFaults]{
		{"an unknown service is reset with another code", "unknown-service", Any, resetWith(transport.CodeUnknownService, transport.CodeRefused)},
		{"what is of another version is malformed", "bad-streams", Any, errorCode(protocol.CodeUnsupported, protocol.CodeMalformed)},
		{"a stream without a service is reset with another code", "bad-streams", Any, resetWith(transport.CodeProtocol, transport.CodeInternal)},
		{"thirty streams that stop half-way are all", "half-streams", Any, nodeFaults{net: faults{acceptS: func(c *badConn, ctx context.Context) (transport.Stream, error) {
			s, err := c.Conn.AcceptStream(ctx)
			if err == nil && c.m.Add(1) > 30 {
				<-c.Conn.Context().Done()
				return nil, context.Cause(c.Conn.Context())
			}
			return s, err
		}, closeBoth: func(s *badStream) error {
			if s.accepted && !s.mark.Swap(true) {
				s.c.m.Add(-1)
			}
			return s.Stream.Close()
		}, reset: func(s *badStream, code transport.Code) error {
			if s.accepted && !s.mark.Swap(true) {
				s.c.m.Add(-1)
			}
			return s.Stream.Reset(code)
		}}}},
		{"a handler's error has no words", "handler-error", Any, frames(func(_ *badStream, f protocol.Frame) []protocol.Frame {
			if f.Code == protocol.CodeFailed {
				f.Text = ""
			}
			return []protocol.Frame{f}
		})},
		{"a handler's code is always the same", "handler-error", Any, frames(func(_ *badStream, f protocol.Frame) []protocol.Frame {
			if f.Code >= 256 {
				f.Code = protocol.CodeFailed
			}
			return []protocol.Frame{f}
		})},
		{"the handler is not told the ID", "exchange", Any, handled(func(ctx context.Context, m protocol.Message, next protocol.Handler) (protocol.Message, error) {
			m.ID = protocol.NewMessageID()
			return next.Handle(ctx, m)
		})},
		{"a reply has no name", "exchange", Any, frames(func(s *badStream, f protocol.Frame) []protocol.Frame {
			if s.accepted {
				f.Message.Name = ""
			}
			return []protocol.Frame{f}
		})},
		{"a conversation is over after its first step", "conversation", Any, nodeFaults{
			converse: func(n *badNode, ctx context.Context, to string, first protocol.Message) error {
				_, err := n.Node.Dispatch(ctx, to, first)
				return err
			}}},
		{"the last message of a conversation is lost", "conversation", Any, handled(func(ctx context.Context, m protocol.Message, next protocol.Handler) (protocol.Message, error) {
			if string(m.Data) == "0" {
				return protocol.Message{}, nil
			}
			return next.Handle(ctx, m)
		})},
		{"whoever sends is nobody", "sender-proved", Any, handled(func(ctx context.Context, m protocol.Message, next protocol.Handler) (protocol.Message, error) {
			m.From = identity.ID{1}
			return next.Handle(ctx, m)
		})},
		{"the sender chooses no label", "sender-proved", Any, handled(func(ctx context.Context, m protocol.Message, next protocol.Handler) (protocol.Message, error) {
			if m.Name == "b" {
				m.Name = "a"
			}
			return next.Handle(ctx, m)
		})},
		{"a conversation has no bound", "endless-conversation", Any, nodeFaults{
			converse: func(n *badNode, ctx context.Context, to string, m protocol.Message) (err error) {
				for !m.IsNone() && err == nil {
					if m, err = n.Node.Dispatch(ctx, to, m); err == nil && !m.IsNone() {
						m, err = n.cfg.Handler.Handle(ctx, m)
					}
				}
				return err
			}}},
		{"a handler hears of no end", "deadline", Any, unhurried(func(error) bool { return true })},
		{"a call does not look at its deadline", "deadline", Any, nodeFaults{dispatch: func(n *badNode, ctx context.Context, to string, m protocol.Message) (protocol.Message, error) {
			if by, ok := ctx.Deadline(); ok && time.Until(by) < time.Second { // that of the check is later
				ctx = context.WithoutCancel(ctx)
			}
			return n.Node.Dispatch(ctx, to, m)
		}}},
		{"a handler hears of deadlines only", "cancellation", Any, unhurried(func(end error) bool { return errors.Is(end, context.Canceled) })},
		{"there is one message to a stream", "early-message", Any, nodeFaults{net: faults{write: func(s *badStream, b []byte) (int, error) {
			if s.accepted && s.writes.Add(1) > 1 {
				return 0, s.Stream.Reset(transport.CodeLimit)
			}
			return s.Stream.Write(b)
		}}}},
		{"what nobody handles is answered with none", "unknown-operation", Any, nodeFaults{config: func(c *pheromones.Config, _ <-chan struct{}) {
			if c.Handler == nil {
				c.Handler = protocol.HandlerFunc(func(context.Context, protocol.Message) (protocol.Message, error) { return protocol.Message{}, nil })
			}
		}}},

		{"who introduces another has failed", "impostor", Any, errorCode(protocol.CodeRefused, protocol.CodeFailed)},
		{"a table has 300 places", "many-pages", Any, nodeFaults{config: func(c *pheromones.Config, _ <-chan struct{}) {
			if c.MaxRoutes == 0 {
				c.MaxRoutes = 300
			}
		}}},
		{"a question for a route has no answer", "get-one", Any, replies(greeting.OpGetResp, func(data []byte) []byte { return []byte{data[0], 0} })},
		{"who joins is told of nobody", "add-one-know-all", Any, replies(greeting.OpFetchResp, func(data []byte) []byte {
			data = slices.Clone(data[:67]) // up to the list of peers
			data[1] &^= 1                  // and nothing follows
			return append(data, 0)
		})},
		{"who is known first-hand is not said", "hints-do-not-replace", Any, nodeFaults{routes: func(n *badNode) []router.Route {
			routes := n.Node.Routes()
			for i := range routes {
				routes[i].FirstHand = false
			}
			return routes
		}}},
		{"a hint replaces what the peer has said", "hints-do-not-replace", Any, gullible()},
		{"news are told twice", "no-storm", Any, frames(func(s *badStream, f protocol.Frame) []protocol.Frame {
			if f.Message.Operation != greeting.OpNoticeReq {
				return []protocol.Frame{f}
			}
			again := f
			again.Message.ID = protocol.NewMessageID()
			return []protocol.Frame{f, again}
		})},

		{"replies of requests at once are swapped", "at-once", Any, nodeFaults{dispatch: func(n *badNode, ctx context.Context, to string, m protocol.Message) (protocol.Message, error) {
			n.n.Add(1)
			defer n.n.Add(-1)
			reply, err := n.Node.Dispatch(ctx, to, m)
			n.mu.Lock()
			defer n.mu.Unlock()
			if last := n.last; n.n.Load() > 8 && err == nil {
				n.last = reply
				if !last.IsNone() {
					reply = last
				}
			}
			return reply, err
		}}},
		{"32 requests run at once, and others wait", "at-once", Any, nodeFaults{config: func(c *pheromones.Config, _ <-chan struct{}) {
			next, places := c.Handler, make(chan struct{}, 32)
			c.Handler = protocol.HandlerFunc(func(ctx context.Context, m protocol.Message) (protocol.Message, error) {
				select {
				case places <- struct{}{}:
				case <-ctx.Done():
					return protocol.Message{}, ctx.Err()
				}
				defer func() { <-places }()
				if next == nil {
					return protocol.Message{}, nil
				}
				return next.Handle(ctx, m)
			})
		}}},

		{"a name is looked up before an ID", "named-by", Any, nodeFaults{dispatch: func(n *badNode, ctx context.Context, to string, m protocol.Message) (protocol.Message, error) {
			for _, r := range n.Node.Routes() {
				if r.Name == to {
					to = r.ID.String()
				}
			}
			return n.Node.Dispatch(ctx, to, m)
		}}},
		{"an unknown peer is an error like any other", "unknown-peer", Any, dispatched(func(err error) error {
			if errors.Is(err, router.ErrUnknownPeer) {
				return errPlain
			}
			return err
		})},
		{"of those who bear a name the first is taken", "ambiguous-name", Any, nodeFaults{dispatch: func(n *badNode, ctx context.Context, to string, m protocol.Message) (protocol.Message, error) {
			reply, err := n.Node.Dispatch(ctx, to, m)
			if several := (*router.AmbiguousError)(nil); errors.As(err, &several) {
				return n.Node.Dispatch(ctx, several.Peers[0].String(), m)
			}
			return reply, err
		}}},
		{"the ID of an address to be added is not looked at", "wrong-id", Any, nodeFaults{add: func(n *badNode, ctx context.Context, addr string) (identity.ID, error) {
			if a, err := transport.ParseAddr(addr); err == nil {
				a.Peer = identity.ID{}
				addr = a.String()
			}
			return n.Node.Add(ctx, addr)
		}}},
		{"a peer that cannot be added is remembered", "nobody-there", Any, nodeFaults{add: func(n *badNode, ctx context.Context, addr string) (identity.ID, error) {
			id, err := n.Node.Add(ctx, addr)
			if op := (*transport.OpError)(nil); errors.As(err, &op) && !errors.Is(err, identity.ErrWrongPeer) {
				n.mark.Store(true)
			}
			return id, err
		}, routes: func(n *badNode) []router.Route {
			if n.mark.Load() {
				return append(n.Node.Routes(), router.Route{ID: identity.ID{1}})
			}
			return n.Node.Routes()
		}}},
		{"a node adds itself", "self-refused", Any, nodeFaults{add: func(n *badNode, ctx context.Context, addr string) (identity.ID, error) {
			id, err := n.Node.Add(ctx, addr)
			if errors.Is(err, router.ErrSelf) {
				return n.ID(), nil
			}
			return id, err
		}}},
		{"each call dials", "one-link", Any, nodeFaults{dispatch: dialFirst}},
		{"each call dials twice", "one-dial-each", OneStream, nodeFaults{dispatch: dialFirst}},
		{"who gives up takes others along", "impatient-caller", Any, nodeFaults{dispatch: func(n *badNode, ctx context.Context, to string, m protocol.Message) (protocol.Message, error) {
			if ctx.Err() != nil {
				n.mark.Store(true)
			}
			reply, err := n.Node.Dispatch(ctx, to, m)
			if n.mark.Load() {
				return reply, context.Canceled
			}
			return reply, err
		}}},
		{"of all that was tried the first is told", "dead-address", Any, dispatched(func(err error) error {
			return mapped(err, func(e *router.DialError) error { return &router.DialError{Peer: e.Peer, Attempts: e.Attempts[:1]} })
		})},
		{"an ID of the caller's is replaced", "repeat-answered", Any, nodeFaults{dispatch: renamed}},
		{"copies at once are told apart", "repeat-waits", Any, nodeFaults{dispatch: renamed}},
		{"what was forgotten is executed again", "forgotten", Any, nodeFaults{dispatch: anewAfter(protocol.CodeForgotten)}},
		{"what a former life has executed is executed again", "restarted", Any, nodeFaults{dispatch: anewAfter(protocol.CodeRestarted)}},
		{"a broadcast comes twice", "broadcast-once", Any, nodeFaults{broadcast: func(n *badNode, ctx context.Context, m protocol.Message) error {
			return errors.Join(n.Node.Broadcast(ctx, m), n.Node.Broadcast(ctx, m))
		}}},
		{"nothing is sent again", "loss-survived", Any, nodeFaults{config: func(c *pheromones.Config, _ <-chan struct{}) { c.RetryFor = -1 }}},
		{"who sends again cannot be stopped", "loss-cancelled", Any, nodeFaults{dispatch: func(n *badNode, ctx context.Context, to string, m protocol.Message) (protocol.Message, error) {
			reply, err := n.Node.Dispatch(context.WithoutCancel(ctx), to, m)
			return reply, err
		}}},
		{"it is not said what is not known", "loss-given-up", Any, dispatched(func(err error) error {
			return mapped(err, func(e *protocol.ExchangeError) error { return errPlain })
		})},
		{"what may have been executed is tried again", "closed-in-exchange", Any, nodeFaults{dispatch: tryAgain}},
		{"what was lost is tried again", "lost-in-exchange", OverTCP, nodeFaults{dispatch: tryAgain}},
		{"a link that has ended is the last", "redial", Any, nodeFaults{dispatch: func(n *badNode, ctx context.Context, to string, m protocol.Message) (protocol.Message, error) {
			n.mu.Lock()
			defer n.mu.Unlock()
			if r, known := n.route(to); known && r.FirstHand {
				if len(n.kept) == 0 {
					n.kept = []router.Route{r}
				}
				if first := n.kept[0].Links; len(r.Links) == 0 || len(first) == 0 || !r.Links[0].Since.Equal(first[0].Since) {
					return protocol.Message{}, errPlain
				}
			}
			return n.Node.Dispatch(ctx, to, m)
		}}},
		{"Delete does nothing", "delete", Any, nodeFaults{remove: func(n *badNode, to string) error {
			if _, known := n.route(to); known {
				return nil
			}
			return n.Node.Delete(to)
		}}},
		{"Delete cuts", "delete-drains", Any, nodeFaults{remove: func(n *badNode, to string) error {
			r, known := n.route(to)
			err := n.Node.Delete(to)
			for _, net := range n.nets {
				net.mu.Lock()
				for _, c := range net.conns {
					if known && c.Conn.Info().RemotePeer == r.ID {
						c.Conn.CloseWithError(transport.CodeNone, "deleted")
					}
				}
				net.mu.Unlock()
			}
			return err
		}}},
		{"who is known is not dialled to be added", "restarted-peer", Any, nodeFaults{add: func(n *badNode, ctx context.Context, addr string) (identity.ID, error) {
			if r, known := n.route(addr); known {
				return r.ID, nil
			}
			return n.Node.Add(ctx, addr)
		}}},
		{"results that are errors are left out", "dispatch-all", Any, nodeFaults{dispatchAll: func(n *badNode, ctx context.Context, m protocol.Message) map[identity.ID]router.Result {
			results := n.Node.DispatchAll(ctx, m)
			for id, r := range results {
				if r.Err != nil {
					delete(results, id)
				}
			}
			return results
		}}},
		{"all are asked one after the other", "dispatch-all-slow", Any, nodeFaults{dispatchAll: func(n *badNode, ctx context.Context, m protocol.Message) map[identity.ID]router.Result {
			results := make(map[identity.ID]router.Result)
			for _, r := range slices.Backward(n.Node.Routes()) {
				began := time.Now()
				reply, err := n.Node.Dispatch(ctx, r.ID.String(), m)
				results[r.ID] = router.Result{Reply: reply, Err: err, Elapsed: time.Since(began)}
			}
			return results
		}}},
		{"all are asked at once", "dispatch-all-bounded", Any, nodeFaults{config: func(c *pheromones.Config, _ <-chan struct{}) { c.Parallel = 0 }}},
		{"a snapshot is given again while as many are known", "routes-copied", Any, nodeFaults{routes: func(n *badNode) []router.Route {
			n.mu.Lock()
			defer n.mu.Unlock()
			if now := n.Node.Routes(); len(now) != len(n.kept) {
				n.kept = now
			}
			return n.kept
		}}},
		{"routes are not in order", "routes-copied", Any, nodeFaults{routes: func(n *badNode) []router.Route {
			routes := n.Node.Routes()
			slices.Reverse(routes)
			return routes
		}}},
		{"all who watch have one watcher", "watch", Any, nodeFaults{watch: func(n *badNode) *router.Watcher {
			n.mu.Lock()
			defer n.mu.Unlock()
			if n.watcher == nil {
				n.watcher = n.Node.Watch()
			}
			return n.watcher
		}}},
		{"the table has as many places as it likes", "table-bound", Any, nodeFaults{config: func(c *pheromones.Config, _ <-chan struct{}) { c.MaxRoutes = 0 }}},

		{"a frame of the future ends the control stream", "link-without-control", Any, control(nil, func(kind byte, _ []byte) bool {
			return kind >= 1 && kind <= 6
		})},
		{"each link has an incarnation of its own", "link-hello", Any, incarnations()},
		{"generations do not count", "link-rank", Any, control(nil, func(kind byte, body []byte) bool {
			if kind == 1 && len(body) >= 12 {
				clear(body[8:12])
			}
			return true
		})},
		{"a peer's new life is its old one", "link-new-life", Any, control(nil, func(kind byte, body []byte) bool {
			if kind == 1 && len(body) >= 8 && !bytes.Equal(body[:8], make([]byte, 8)) {
				copy(body, "the same")
			}
			return true
		})},
		{"a pledge is one stream too many", "link-pledge", Any, control(func(kind byte, body []byte) bool {
			if kind == 3 && len(body) >= 8 {
				body[7]++
			}
			return true
		}, nil)},
		{"nothing is pledged", "added-at-once", Any, control(func(kind byte, _ []byte) bool { return kind != 3 }, nil)},
		{"a pong has other bytes", "link-ping", Any, control(func(kind byte, body []byte) bool {
			if kind == 6 && len(body) > 0 {
				body[0]++
			}
			return true
		}, nil)},
		{"nobody is asked whether a link is needed", "link-idle", Any, control(func(kind byte, _ []byte) bool { return kind != 4 }, nil)},
		{"an address is dialled once", "link-kept", Any, nodeFaults{net: faults{dial: func(t *badTransport, ctx context.Context, addr transport.Addr) (transport.Conn, error) {
			addr.Peer = identity.ID{}
			t.mu.Lock()
			again := slices.Contains(t.dialled, addr)
			t.dialled = append(t.dialled, addr)
			t.mu.Unlock()
			if again {
				return nil, &transport.OpError{Op: "dial", Addr: addr, Err: errPlain}
			}
			return t.Transport.Dial(ctx, addr)
		}}}},
		{"links have no bound", "links-bounded", Any, nodeFaults{config: func(c *pheromones.Config, _ <-chan struct{}) { c.MaxLinks = 0 }}},

		{"Start binds what it can", "start", Any, nodeFaults{start: func(n *badNode, ctx context.Context, addrs []string) error {
			bound := false
			err := n.Node.Start(ctx)
			for _, a := range addrs {
				if err = n.Node.Start(ctx, a); err == nil {
					bound = true
				}
			}
			if bound {
				return nil
			}
			return err
		}}},
		{"who is added does not hear of it", "add", Any, nodeFaults{add: func(n *badNode, ctx context.Context, addr string) (identity.ID, error) {
			if _, err := transport.ParseAddr(addr); err != nil {
				return n.Node.Add(ctx, addr)
			}
			reply, err := n.Node.Dispatch(ctx, addr, protocol.Message{Operation: "ping"})
			return reply.From, err
		}}},
		{"nobody is told of new addresses", "moved", Any, untold(greeting.Changed)},
		{"nobody is told of a node's end", "farewell", Any, untold(greeting.Left)},
		{"a limit is twice what is configured", "sizes", Any, nodeFaults{config: func(c *pheromones.Config, _ <-chan struct{}) { c.Limit *= 2 }}},
		{"what is too large is malformed", "sizes-differ", Any, errorCode(protocol.CodeTooLarge, protocol.CodeMalformed)},
		{"a frame has 8 MiB at most", "default-limit", Any, nodeFaults{config: func(c *pheromones.Config, _ <-chan struct{}) {
			if c.Limit == 0 {
				c.Limit = 8 << 20
			}
		}}},
		{"a panic's words go to the peer", "panic", Any, handled(func(ctx context.Context, m protocol.Message, next protocol.Handler) (reply protocol.Message, err error) {
			defer func() {
				if p := recover(); p != nil {
					err = fmt.Errorf("panic: %v", p)
				}
			}()
			return next.Handle(ctx, m)
		})},
		{"accepted connections are of nobody", "service-echo", Any, nodeFaults{offer: func(n *badNode, service string) (net.Listener, error) {
			l, err := n.Node.Listen(service)
			return nameless{l}, err
		}}},
		{"a service has fifty connections and no more", "service-http", Any, nodeFaults{offer: func(n *badNode, service string) (net.Listener, error) {
			l, err := n.Node.Listen(service)
			return &fifty{Listener: l}, err
		}}},
		{"a service's backlog is full with another code", "service-backlog", Any, resetWith(transport.CodeLimit, transport.CodeRefused)},
		{"a service's second listener takes over from the first", "service-closed", Any, nodeFaults{offer: func(n *badNode, service string) (net.Listener, error) {
			n.mu.Lock()
			defer n.mu.Unlock()
			if old := n.offered[service]; old != nil {
				old.Close()
			}
			l, err := n.Node.Listen(service)
			if err == nil {
				n.offered[service] = l
			}
			return l, err
		}}},
		{"Shutdown cuts at once", "shutdown", Any, nodeFaults{shutdown: func(n *badNode, ctx context.Context) error {
			ended, cancel := context.WithCancel(ctx)
			cancel()
			if err := n.Node.Shutdown(ended); !errors.Is(err, context.Canceled) {
				return err
			}
			return ctx.Err()
		}}},
		{"Shutdown does not look at its context", "shutdown-bounded", Any, nodeFaults{shutdown: func(n *badNode, ctx context.Context) error {
			return n.Node.Shutdown(context.WithoutCancel(ctx))
		}}},
		{"a closed node says something else", "close", Any, dispatched(func(err error) error {
			if errors.Is(err, pheromones.ErrClosed) {
				return errPlain
			}
			return err
		})},
		{"a Shutdown that is cut short leaves a goroutine", "nothing-left", Any, nodeFaults{shutdown: func(n *badNode, ctx context.Context) error {
			err := n.Node.Shutdown(ctx)
			if ctx.Err() != nil || err == nil {
				go func() { <-n.done }()
			}
			return err
		}}},
		{"a snapshot under load has a route to nobody", "hammer", Any, nodeFaults{routes: func(n *badNode) []router.Route {
			if n.n.Load() > 2 {
				return append(n.Node.Routes(), router.Route{})
			}
			return n.Node.Routes()
		}}},
	}
}

// dialFirst is a Dispatch that dials before it asks.
func dialFirst(n *badNode, ctx context.Context, to string, m protocol.Message) (protocol.Message, error) {
	if r, known := n.route(to); known && len(r.Addrs) > 0 {
		if c, err := n.nets[0].Dial(ctx, r.Addrs[0]); err == nil {
			c.CloseWithError(transport.CodeNone, "")
		}
	}
	return n.Node.Dispatch(ctx, to, m)
}

// renamed is a Dispatch that makes every request a new one.
func renamed(n *badNode, ctx context.Context, to string, m protocol.Message) (protocol.Message, error) {
	m.ID = protocol.MessageID{}
	return n.Node.Dispatch(ctx, to, m)
}

// anewAfter is a Dispatch that makes a new request of one which was answered with a code.
func anewAfter(code protocol.ErrorCode) func(n *badNode, ctx context.Context, to string, m protocol.Message) (protocol.Message, error) {
	return func(n *badNode, ctx context.Context, to string, m protocol.Message) (protocol.Message, error) {
		reply, err := n.Node.Dispatch(ctx, to, m)
		if errors.Is(err, code) {
			m.ID = protocol.NewMessageID()
			return n.Node.Dispatch(ctx, to, m)
		}
		return reply, err
	}
}

// tryAgain is a Dispatch that does so again if it got no answer.
func tryAgain(n *badNode, ctx context.Context, to string, m protocol.Message) (protocol.Message, error) {
	reply, err := n.Node.Dispatch(ctx, to, m)
	if unanswered := (*protocol.ExchangeError)(nil); errors.As(err, &unanswered) && ctx.Err() == nil {
		m.ID = protocol.NewMessageID()
		return n.Node.Dispatch(ctx, to, m)
	}
	return reply, err
}

// replies changes the data of answers of an operation.
func replies(operation string, change func(data []byte) []byte) nodeFaults {
	return frames(func(_ *badStream, f protocol.Frame) []protocol.Frame {
		if f.Message.Operation == operation {
			f.Message.Data = change(f.Message.Data)
		}
		return []protocol.Frame{f}
	})
}

// gullible takes the name of a peer from whoever says it.
func gullible() nodeFaults {
	var said sync.Map // what was said of an identity.ID: a greeting.Peer
	f := frames(func(s *badStream, f protocol.Frame) []protocol.Frame {
		if notices, err := greeting.ParseNotice(f.Message); err == nil && f.Message.Operation == greeting.OpNoticeReq {
			for _, n := range notices {
				said.Store(n.Peer.ID, n.Peer)
			}
		}
		return []protocol.Frame{f}
	})
	f.routes = func(n *badNode) []router.Route {
		routes := n.Node.Routes()
		for i := range routes {
			if p, ok := said.Load(routes[i].ID); ok {
				routes[i].Name = p.(greeting.Peer).Name
			}
		}
		return routes
	}
	return f
}

// untold keeps back what a node tells of itself.
func untold(change greeting.Change) nodeFaults {
	return frames(func(s *badStream, f protocol.Frame) []protocol.Frame {
		notices, err := greeting.ParseNotice(f.Message)
		if f.Message.Operation == greeting.OpNoticeReq && err == nil && notices[0].Peer.ID == s.c.Conn.Info().LocalPeer && notices[0].Change == change {
			f.Message.Operation, f.Message.Data = "ping", nil
		}
		return []protocol.Frame{f}
	})
}

// fifty is a listener that turns away whoever comes after fifty others.
type fifty struct {
	net.Listener
	n atomic.Int64
}

func (l *fifty) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil && l.n.Add(1) > 50 {
		c.Close()
	}
	return c, err
}

// nameless is a listener whose connections do not say who is at their other end.
type nameless struct{ net.Listener }

func (l nameless) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if s, ok := c.(transport.Stream); ok {
		return namelessConn{s}, err
	}
	return c, err
}

type namelessConn struct{ transport.Stream }

func (c namelessConn) RemoteAddr() net.Addr {
	a, _ := c.Stream.RemoteAddr().(transport.Addr)
	a.Peer = identity.ID{}
	return a
}
