package relay

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/transport"
)

const (
	// answerTimeout bounds how long the peer that is called may take to answer.
	answerTimeout = 10 * time.Second
	// linger is how long a circuit of packets outlives its end by one side, for datagrams that are still under way.
	linger = 200 * time.Millisecond
	// chunk is the most, in bytes, that a circuit of bytes takes at a time of what it shares with others.
	chunk = 16 << 10
)

// mayServe says whether the node relays for whoever is at the other end of a link: 0, or why not.
func (e *Endpoint) mayServe(link transport.Conn) Reason {
	switch {
	case e.options.Relay == nil:
		return NotRelaying
	case link.Info().RemoteAddr.Scheme == Scheme:
		return NotAllowed
	}
	return 0
}

// grant answers a request for a reservation.
func (e *Endpoint) grant(link transport.Conn, s transport.Stream, early bool) {
	peer := link.Info().RemotePeer
	reason := e.mayServe(link)
	e.mu.Lock()
	before := e.ledger.places[peer].link
	if reason != 0 {
		e.ledger.refuse(reason)
	} else {
		reason = e.ledger.reserve(peer, link, early, time.Now())
	}
	cfg := &e.ledger.cfg
	e.mu.Unlock()
	if reason != 0 {
		answer(s, frame{typ: typeRefused, reason: reason})
		return
	}
	if before != link {
		context.AfterFunc(link.Context(), func() {
			e.mu.Lock()
			defer e.mu.Unlock()
			e.ledger.ended(peer, link)
		})
	}
	answer(s, frame{typ: typeReserved, seconds: uint32(cfg.lifetime() / time.Second), rate: uint64(cfg.rate()), bytes: uint64(max(0, cfg.CircuitBytes))})
}

// carried is a circuit of others.
type carried struct {
	e      *Endpoint
	id     uint64
	kind   Kind
	peers  [2]identity.ID      // who called, and who was called
	link   transport.Conn      // with the caller
	stream [2]transport.Stream // the second is set, with its flow, once and with Endpoint.mu held
	rates  [2]*bucket          // of what comes from each
	sent   [2]*bucket          // likewise, of all circuits of that peer
	flows  [2]*flow            // of packets: towards each

	heard atomic.Bool  // a datagram of the caller has come, so that it may be sent some
	left  atomic.Int64 // bytes that it may still carry, if that is bounded
	moved atomic.Int64 // when something came last, since made
	made  time.Time
	timer *time.Timer   // looks whether it is idle; nil if it never is
	over  chan struct{} // closed by end
	once  sync.Once
}

// relay answers a call: it asks the peer that is called and, if that accepts, carries until either side ends it.
func (e *Endpoint) relay(ctx context.Context, link transport.Conn, s transport.Stream, f frame) {
	caller := link.Info().RemotePeer
	reason := e.mayServe(link)
	e.mu.Lock()
	if reason != 0 {
		e.ledger.refuse(reason)
	} else {
		reason = e.ledger.connect(caller, f.peer, time.Now())
	}
	early := e.ledger.places[f.peer].early && f.kind == Packets
	e.mu.Unlock()
	if reason != 0 {
		answer(s, frame{typ: typeRefused, reason: reason})
		return
	}
	c := &carried{
		e: e, id: rand.Uint64() | 1, kind: f.kind, made: time.Now(), over: make(chan struct{}),
		peers: [2]identity.ID{caller, f.peer}, link: link, stream: [2]transport.Stream{s},
	}
	call, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	if err := c.open(call); err != nil {
		c.refuse(NoReservation, "it has no link with this relay")
		return
	}
	var other sync.WaitGroup
	defer other.Wait()
	if early { // what has come with the call goes along with it
		other.Go(func() { c.pump(0) })
	}
	if reason, text := c.await(call); reason != 0 {
		c.refuse(reason, text)
		return
	}
	cancel()
	c.accepted(ctx, &other, early)
}

// open makes what the circuit needs, and calls the peer that is called. What that sends may overtake its answer, so the circuit is
// known from before the call.
func (c *carried) open(ctx context.Context) error {
	e, cfg := c.e, &c.e.ledger.cfg
	c.left.Store(orDefault(cfg.CircuitBytes, maxNumber))
	if c.kind == Packets {
		c.flows[0] = c.flow(0, c.link, c.stream[0])
	}
	e.mu.Lock()
	for i, peer := range c.peers {
		c.rates[i], c.sent[i] = newBucket(cfg.rate()), e.ledger.account(peer).sent
	}
	e.circuits[c.id] = c
	e.mu.Unlock()
	first := appendFrame(nil, frame{typ: typeIncoming, kind: c.kind, circuit: c.id, peer: c.peers[0]})
	link, s, err := e.options.Open(ctx, c.peers[1], false, first)
	if err != nil {
		return err
	}
	var f *flow
	if c.kind == Packets {
		f = c.flow(1, link, s)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	select {
	case <-c.over:
		s.Reset(transport.CodeCancelled)
		return transport.ErrClosed
	default:
	}
	c.stream[1], c.flows[1] = s, f
	return nil
}

// flow returns the flow towards an end. It takes the stream until both ends know the circuit's number.
func (c *carried) flow(end int, link transport.Conn, s transport.Stream) *flow {
	return &flow{
		to: c.e.conduit(link), stream: s, way: fromRelay,
		pace: c.pacer(1 - end), lost: func() { c.e.count.dropped.Add(1) },
	}
}

// await waits for the answer: reason 0 if the peer that is called has accepted.
func (c *carried) await(ctx context.Context) (reason Reason, text string) {
	s := c.stream[1]
	stop := context.AfterFunc(ctx, func() { s.Reset(transport.CodeCancelled) })
	f, err := readFrame(s, nil)
	switch {
	case !stop() || err != nil:
		return Unanswered, ""
	case f.typ != typeAccepted:
		return Declined, f.text
	}
	return 0, ""
}

// refuse ends a circuit that has not come about.
func (c *carried) refuse(reason Reason, text string) {
	c.once.Do(func() {
		close(c.over)
		c.e.mu.Lock()
		delete(c.e.circuits, c.id)
		c.e.ledger.refuse(reason)
		c.e.ledger.disconnect(c.peers[0], c.peers[1])
		c.e.mu.Unlock()
		answer(c.stream[0], frame{typ: typeRefused, reason: reason, text: text})
		if c.stream[1] == nil {
			return
		}
		c.stream[1].Reset(transport.CodeCancelled)
		if c.kind == Packets {
			c.flows[1].mute()
		}
	})
}

// accepted tells the caller, and carries until the circuit is over; other has its second goroutine, which pumps already if early is true.
func (c *carried) accepted(ctx context.Context, other *sync.WaitGroup, early bool) {
	e := c.e
	e.mu.Lock()
	select {
	case <-c.over: // the caller has gone meanwhile
	default:
		if idle := e.ledger.cfg.idle(); idle > 0 {
			c.timer = time.AfterFunc(idle, c.idle)
		}
	}
	e.mu.Unlock()
	stop := context.AfterFunc(ctx, func() { c.end(transport.CodeShutdown) })
	defer stop()
	if e.ctx.Err() != nil {
		c.end(transport.CodeShutdown)
	}
	c.stream[0].SetWriteDeadline(time.Now().Add(writeTimeout))
	if _, err := c.stream[0].Write(appendFrame(nil, frame{typ: typeAccepted, circuit: c.id})); err != nil {
		c.end(transport.CodeCancelled)
	}
	c.stream[0].SetWriteDeadline(time.Time{})
	carry := c.copy
	if c.kind == Packets {
		carry = c.pump
		c.flows[1].name(c.id)
	}
	if !early {
		other.Go(func() { carry(0) })
	}
	carry(1)
	other.Wait()
	c.end(transport.CodeNone)
}

// from returns which end a peer is, or -1.
func (c *carried) from(peer identity.ID) int {
	switch peer {
	case c.peers[0]:
		return 0
	case c.peers[1]:
		return 1
	}
	return -1
}

// pacer returns what tells how long so many bytes from an end must wait.
func (c *carried) pacer(end int) func(int, time.Time) time.Duration {
	return func(n int, now time.Time) time.Duration {
		return max(c.rates[end].take(n, now), c.sent[end].take(n, now))
	}
}

// admit accounts for n bytes that have come. It reports false, and ends the circuit, if these are more than it may carry.
func (c *carried) admit(n int) bool {
	c.moved.Store(int64(time.Since(c.made)))
	if c.left.Add(-int64(n)) < 0 {
		c.end(transport.CodeLimit)
		return false
	}
	c.e.count.bytes.Add(uint64(n))
	return true
}

// forward hands on a packet, which stands in buf behind room for a header, to an end.
func (c *carried) forward(to *flow, buf []byte) {
	if !c.admit(len(buf) - headerSize) {
		return
	}
	if to.push(buf) {
		c.e.count.packets.Add(1)
	} else {
		c.e.count.dropped.Add(1)
	}
}

// pump takes the packets that come over an end's stream, and ends the circuit when that does.
func (c *carried) pump(end int) {
	buf := make([]byte, maxFrame)
	for {
		f, err := readFrame(c.stream[end], buf)
		switch {
		case err == io.EOF:
			timer := time.NewTimer(linger)
			defer timer.Stop()
			select {
			case <-timer.C:
			case <-c.over:
			}
			c.end(transport.CodeNone)
			return
		case err != nil:
			c.end(codeOf(err))
			return
		case f.typ == typePacket:
			c.forward(c.flows[1-end], append(make([]byte, headerSize, headerSize+len(f.packet)), f.packet...))
		}
	}
}

// copy carries the bytes that come from an end.
func (c *carried) copy(end int) {
	src, dst, pace := c.stream[end], c.stream[1-end], c.pacer(end)
	buf := make([]byte, chunk)
	for {
		n, err := src.Read(buf)
		if n > 0 {
			if !c.admit(n) || !c.pause(pace(n, time.Now())) {
				return
			}
			if _, err := dst.Write(buf[:n]); err != nil {
				c.end(codeOf(err))
				return
			}
			c.moved.Store(int64(time.Since(c.made)))
		}
		switch {
		case err == io.EOF:
			dst.CloseWrite()
			return
		case err != nil:
			c.end(codeOf(err))
			return
		}
	}
}

// pause waits, and reports false if the circuit is over.
func (c *carried) pause(d time.Duration) bool {
	if d <= 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-c.over:
		return false
	}
}

// codeOf returns the code that tells one end of a circuit how the other has ended.
func codeOf(err error) transport.Code {
	var reset *transport.ResetError
	var closed *transport.CloseError
	switch {
	case errors.As(err, &reset):
		return reset.Code
	case errors.As(err, &closed) && closed.Remote && closed.Code != transport.CodeNone:
		return closed.Code
	case errors.Is(err, errMalformed):
		return transport.CodeProtocol
	}
	return transport.CodeCancelled
}

// idle ends the circuit if nothing has moved for long.
func (c *carried) idle() {
	bound := c.e.ledger.cfg.idle()
	quiet := time.Since(c.made) - time.Duration(c.moved.Load())
	if quiet >= bound {
		c.end(transport.CodeIdle)
		return
	}
	c.e.mu.Lock()
	defer c.e.mu.Unlock()
	if c.e.circuits[c.id] == c {
		c.timer.Reset(bound - quiet)
	}
}

// end ends the circuit: with CodeNone in order, else by resetting the streams of both ends.
func (c *carried) end(code transport.Code) {
	c.once.Do(func() {
		close(c.over)
		c.e.mu.Lock()
		delete(c.e.circuits, c.id)
		c.e.ledger.disconnect(c.peers[0], c.peers[1])
		if c.timer != nil {
			c.timer.Stop()
		}
		streams, flows := c.stream, c.flows
		c.e.mu.Unlock()
		for i, s := range streams {
			switch {
			case s == nil: // it is not open yet, and will not be
			case code == transport.CodeNone && c.kind == Packets:
				flows[i].finish()
			case code == transport.CodeNone:
				s.Close()
			case c.kind == Packets:
				flows[i].abort(code)
			default:
				s.Reset(code)
			}
		}
	})
}
