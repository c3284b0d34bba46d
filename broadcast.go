package pheromones

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"sync"
	"time"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/protocol"
	"github.com/Blockchain-CN/pheromones/router"
	"github.com/Blockchain-CN/pheromones/router/gossip"
	"github.com/Blockchain-CN/pheromones/transport"
)

// Bounds of what waits to be sent or handled.
const (
	maxOutboxes  = 256       // peers to which something is being sent
	maxOutbox    = 64 << 20  // bytes of one of them
	maxOutFrames = 16384     // frames of one of them
	maxBatch     = 256 << 10 // bytes of a batch, a single frame apart
	overhead     = 1024      // bytes, at most, of a message with a batch with a payload, besides its data
	batchTimeout = 10 * time.Second
	maxInbox     = 16384    // broadcasts that wait for the handler
	maxInboxData = 64 << 20 // bytes of them
	maxKnown     = 64       // routes that are told to the overlay
	maxWoken     = 16       // peers that are told when this node begins to take part
)

// ErrCannotSign is what Broadcast fails with if neither Config.Sign nor any transport signs with the node's key.
var ErrCannotSign = errors.New("pheromones: nothing signs with the node's key: Config.Sign is nil, and no transport is a transport.Signer")

// Broadcast sends m to every node that is connected with this one, over others if need be. Each of their handlers is given it
// once, with From being this node's ID, and what it returns is dropped; this node's own handler is not. Broadcast takes a copy of
// Operation and Data, ignores the rest, and returns when m is on its way: nobody says that it has arrived.
//
// A node takes part from its first Broadcast, or when a peer that takes part knows of it; until then broadcasts cost nothing. One
// that joins later gets what others still keep: by default what was broadcast in the last two minutes. See package router/gossip
// for what is promised.
//
// Errors are [ErrClosed], [ErrCannotSign], [gossip.ErrOperation], [gossip.ErrTooLarge], [gossip.ErrRate], and ctx's if it has ended already.
func (n *Node) Broadcast(ctx context.Context, m protocol.Message) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("pheromones: broadcast: %w", err)
	}
	if n.cast.sign == nil {
		return fmt.Errorf("pheromones: broadcast: %w", ErrCannotSign)
	}
	err := n.cast.with(func(now time.Time, g *gossip.Machine) (gossip.Output, error) {
		_, out, err := g.Broadcast(now, m.Operation, append([]byte(nil), m.Data...))
		return out, err
	})
	if err != nil {
		return fmt.Errorf("pheromones: broadcast %.40q: %w", m.Operation, err)
	}
	return nil
}

// BroadcastFigures returns counts about broadcasts, which are zero until the node takes part in them, and how many were dropped because
// this node's handler was too slow for them.
func (n *Node) BroadcastFigures() (f gossip.Figures, unhandled uint64) {
	b := n.cast
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.machine != nil {
		f = b.machine.Figures()
	}
	return f, b.unhandled
}

// caster drives a [gossip.Machine]: one lock around it, one timer, and a goroutine for each peer while something is sent to it.
type caster struct {
	n     *Node
	cfg   gossip.Config
	sign  func([]byte) []byte // nil: there is none
	batch int                 // how large a batch of several frames may be

	ctx     context.Context // ends with the caster
	stop    context.CancelFunc
	running sync.WaitGroup // Add is called with mu held and closed false
	kick    chan struct{}  // the time to wake has changed; never closed

	mu        sync.Mutex
	closed    bool
	machine   *gossip.Machine // nil until it is needed
	wake      time.Time
	outboxes  map[identity.ID]*outbox // those of which a goroutine is sending
	inbox     []*gossip.Message       // waiting for the handler
	inboxData int
	handling  bool // a goroutine is emptying inbox
	unhandled uint64
}

// outbox is what waits to be sent to a peer. Its goroutine ends when it is empty.
type outbox struct {
	frames []gossip.Frame
	bytes  int
}

func newCaster(n *Node) *caster {
	b := &caster{n: n, cfg: n.cfg.Gossip, sign: n.cfg.Sign, kick: make(chan struct{}, 1), outboxes: make(map[identity.ID]*outbox)}
	for _, t := range n.cfg.Transports {
		if s, ok := t.(transport.Signer); ok && b.sign == nil {
			b.sign = s.Sign
		}
	}
	// The largest payload must fit into one message.
	limit := n.cfg.Limit
	if limit <= 0 {
		limit = protocol.DefaultLimit
	}
	b.batch = min(maxBatch, max(1, limit-overhead))
	if b.cfg.MaxData <= 0 {
		b.cfg.MaxData = 1 << 20
	}
	b.cfg.MaxData = min(b.cfg.MaxData, max(1, limit-overhead))
	b.ctx, b.stop = context.WithCancel(context.Background())
	return b
}

// with calls f with the machine, which it makes if there is none, and does what comes of it.
func (b *caster) with(f func(now time.Time, g *gossip.Machine) (gossip.Output, error)) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return ErrClosed
	}
	if err := b.start(); err != nil {
		return err
	}
	out, err := f(time.Now(), b.machine)
	b.perform(out)
	return err
}

// start makes the machine and what drives it, with mu held.
func (b *caster) start() error {
	if b.machine != nil {
		return nil
	}
	cfg := b.cfg
	cfg.Self, cfg.Incarnation, cfg.Verify = gossip.Contact{ID: b.n.ID()}, 0, nil
	cfg.Random = rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	if cfg.Sign = b.sign; cfg.Sign == nil {
		cfg.Sign = func([]byte) []byte { return nil } // never called, since Broadcast has failed before
	}
	var err error
	if b.machine, err = gossip.New(cfg, time.Now()); err != nil {
		return err
	}
	b.running.Add(1)
	go b.run(b.n.router.Watch())
	known := b.contacts()
	b.perform(b.machine.Join(time.Now(), known...))
	for _, c := range known[:min(len(known), maxWoken)] {
		b.send(c.ID, &gossip.Probe{})
	}
	return nil
}

// added tells the overlay of a new route. The peer may not take part yet, and nobody else may know it: some wake it up.
func (b *caster) added(peer identity.ID) {
	b.perform(b.machine.Join(time.Now(), gossip.Contact{ID: peer}))
	if rand.IntN(max(1, len(b.n.router.Routes()))) < maxWoken {
		b.send(peer, &gossip.Probe{})
	}
}

// contacts returns some of the known peers.
func (b *caster) contacts() (list []gossip.Contact) {
	routes := b.n.router.Routes()
	rand.Shuffle(len(routes), func(i, j int) { routes[i], routes[j] = routes[j], routes[i] })
	for _, r := range routes[:min(len(routes), maxKnown)] {
		list = append(list, gossip.Contact{ID: r.ID})
	}
	return list
}

// run calls the machine when its time has come, and when a link is down.
func (b *caster) run(links *router.Watcher) {
	defer b.running.Done()
	defer links.Close()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		var events []router.Event
		select {
		case <-b.ctx.Done():
			return
		case <-b.kick:
		case <-timer.C:
		case e, ok := <-links.C():
			if !ok {
				return // the router is closed
			}
			events = append(events, e)
		}
		b.mu.Lock()
		if b.closed {
			b.mu.Unlock()
			return
		}
		for _, e := range events {
			switch {
			case e.Kind == router.RouteAdded:
				b.added(e.Route.ID)
			case e.Kind == router.LinkDown && len(e.Route.Links) == 0:
				b.perform(b.machine.Down(time.Now(), e.Route.ID))
			}
		}
		if now := time.Now(); !now.Before(b.wake) {
			out := b.machine.Tick(now)
			lonely := out.Isolated
			b.perform(out)
			if lonely {
				b.perform(b.machine.Join(now, b.contacts()...))
			}
		}
		timer.Reset(time.Until(b.wake))
		b.mu.Unlock()
	}
}

// perform does what the machine wants, with mu held.
func (b *caster) perform(out gossip.Output) {
	if !out.Wake.Equal(b.wake) {
		b.wake = out.Wake
		select {
		case b.kick <- struct{}{}:
		default:
		}
	}
	for _, m := range out.Deliver {
		b.deliver(m)
	}
	var full []identity.ID
	for _, s := range out.Sends {
		if !b.send(s.To.ID, s.Frame) {
			full = append(full, s.To.ID)
		}
	}
	for _, peer := range full { // out is used up
		delete(b.outboxes, peer)
		b.perform(b.machine.Down(time.Now(), peer))
	}
}

// send puts a frame where a goroutine sends it, and reports whether there was room.
func (b *caster) send(peer identity.ID, f gossip.Frame) bool {
	o := b.outboxes[peer]
	if o == nil {
		if len(b.outboxes) >= maxOutboxes {
			return false
		}
		o = new(outbox)
		b.outboxes[peer] = o
		b.running.Add(1)
		go b.flush(peer, o)
	}
	if len(o.frames) >= maxOutFrames || o.bytes+f.Size() > maxOutbox {
		return false
	}
	o.frames = append(o.frames, f)
	o.bytes += f.Size()
	return true
}

// flush sends what is in an outbox, until it is empty, or sending fails.
func (b *caster) flush(peer identity.ID, o *outbox) {
	defer b.running.Done()
	for {
		b.mu.Lock()
		if b.closed || len(o.frames) == 0 || b.outboxes[peer] != o {
			if b.outboxes[peer] == o {
				delete(b.outboxes, peer)
			}
			b.mu.Unlock()
			return
		}
		count, size := 0, gossip.BatchHeader
		for count < len(o.frames) && count < gossip.MaxFrames && (count == 0 || size+o.frames[count].Size() <= b.batch) {
			size += o.frames[count].Size()
			count++
		}
		batch := gossip.AppendBatch(make([]byte, 0, size), o.frames[:count]...)
		clear(o.frames[:count])
		o.frames = o.frames[count:]
		o.bytes -= size - gossip.BatchHeader
		b.mu.Unlock()

		ctx, cancel := context.WithTimeout(b.ctx, batchTimeout)
		_, err := b.n.router.Dispatch(ctx, peer, protocol.Message{Operation: gossip.Operation, Data: batch})
		cancel()
		if err == nil {
			continue
		}
		b.mu.Lock()
		if b.outboxes[peer] == o {
			delete(b.outboxes, peer)
		}
		if !b.closed {
			b.n.log.Debug("pheromones: a neighbour cannot be reached", "peer", peer, "err", err)
			b.perform(b.machine.Down(time.Now(), peer))
		}
		b.mu.Unlock()
		return
	}
}

// handle stands before h: it takes the messages that are batches.
func (b *caster) handle(h protocol.Handler) protocol.Handler {
	return protocol.HandlerFunc(func(ctx context.Context, m protocol.Message) (protocol.Message, error) {
		if m.Operation != gossip.Operation {
			return h.Handle(ctx, m)
		}
		frames, malformed := gossip.ParseBatch(m.Data)
		err := b.with(func(now time.Time, g *gossip.Machine) (gossip.Output, error) {
			if malformed != nil {
				return g.Misbehaved(now, m.From), nil
			}
			return g.Receive(now, m.From, frames...), nil
		})
		switch {
		case malformed != nil:
			return protocol.Message{}, protocol.CodeMalformed
		case err != nil:
			return protocol.Message{}, protocol.CodeRefused
		}
		return protocol.Message{}, nil
	})
}

// deliver puts a broadcast where a goroutine gives it to the node's handler, with mu held.
func (b *caster) deliver(m *gossip.Message) {
	if b.n.cfg.Handler == nil {
		return
	}
	if len(b.inbox) >= maxInbox || b.inboxData+len(m.Data) > maxInboxData {
		b.unhandled++
		return
	}
	b.inbox = append(b.inbox, m)
	b.inboxData += len(m.Data)
	if !b.handling {
		b.handling = true
		b.running.Add(1)
		go b.handOver()
	}
}

// handOver gives what is in the inbox to the node's handler, one after the other, until it is empty.
func (b *caster) handOver() {
	defer b.running.Done()
	for {
		b.mu.Lock()
		if b.closed || len(b.inbox) == 0 {
			b.handling = false
			b.mu.Unlock()
			return
		}
		m := b.inbox[0]
		b.inbox[0] = nil
		b.inbox = b.inbox[1:]
		b.inboxData -= len(m.Data)
		b.mu.Unlock()
		b.call(m)
	}
}

func (b *caster) call(m *gossip.Message) {
	defer func() {
		if p := recover(); p != nil {
			b.n.log.Error("pheromones: a handler panicked", "peer", m.ID.Origin, "operation", m.Operation, "panic", p, "stack", string(debug.Stack()))
		}
	}()
	// The handler may write to what it is given; others must still be sent what was signed.
	data := append([]byte(nil), m.Data...)
	if _, err := b.n.cfg.Handler.Handle(b.ctx, protocol.Message{From: m.ID.Origin, Operation: m.Operation, Data: data}); err != nil {
		b.n.log.Debug("pheromones: a broadcast was not handled", "peer", m.ID.Origin, "operation", m.Operation, "err", err)
	}
}

// leave tells the neighbours that this node goes away.
func (b *caster) leave() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.machine != nil && !b.closed {
		b.perform(b.machine.Leave(time.Now()))
	}
}

// halt makes the caster do nothing new. When running is done, all has ended, the handler included.
func (b *caster) halt() {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.stop()
}
