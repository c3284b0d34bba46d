package relay

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/transport"
)

const (
	// maxQueue bounds the packets of one direction of a circuit that wait to be sent.
	maxQueue = 128
	// mustFit is what a path of QUIC must carry, in bytes: packets up to it take the stream if no datagram is large enough. A
	// larger one is dropped then, so that whoever looks for the path's size finds it.
	mustFit = 1280
	// writeTimeout bounds how long a peer may leave its stream unread.
	writeTimeout = 10 * time.Second
)

// conduit sends the packets of circuits over one link: the circuits take turns. A goroutine runs while there is something to send,
// and another one, if the link has datagrams, reads these as long as the link lives.
type conduit struct {
	e         *Endpoint
	link      transport.Conn
	peer      identity.ID            // at the other end of the link
	datagrams transport.DatagramConn // nil: everything takes the streams
	kick      chan struct{}          // capacity 1: look again

	mu      sync.Mutex
	turns   []*flow // that have something to send, the next one first
	writing bool
}

// flow is one direction of a circuit of packets, on its way out of this node. Its fields after notify are guarded by conduit.mu.
type flow struct {
	to     *conduit
	stream transport.Stream                         // that of the circuit, on the same link
	way    byte                                     // toRelay or fromRelay
	pace   func(n int, now time.Time) time.Duration // how long a packet of n bytes must wait; nil: not at all
	lost   func()                                   // a packet was dropped for its size; may be nil

	id     uint64    // of the circuit; zero while it is not known: then the stream is taken
	queue  [][]byte  // packets behind room for a header
	ready  time.Time // when the first of them may go; zero if pace was not asked
	ending bool      // what is queued takes the stream, which is then closed
	ended  bool
	muted  bool // the other side takes nothing more
}

// push queues a packet, which stands in buf behind headerSize bytes and is the flow's from now on. It reports false, and drops the
// packet, if the queue is full.
func (f *flow) push(buf []byte) bool {
	c := f.to
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.ended || f.ending || f.muted || len(f.queue) >= maxQueue {
		return false
	}
	if f.queue = append(f.queue, buf); len(f.queue) == 1 {
		c.turns = append(c.turns, f)
		c.wake()
	}
	return true
}

// name tells the flow the number of its circuit, so that it may send datagrams.
func (f *flow) name(id uint64) {
	f.to.mu.Lock()
	defer f.to.mu.Unlock()
	f.id = id
}

// finish has what is queued sent, and then the stream closed.
func (f *flow) finish() {
	c := f.to
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.ended || f.ending {
		return
	}
	f.ending = true
	if len(f.queue) == 0 {
		c.turns = append(c.turns, f)
	}
	c.wake()
}

// mute drops what is queued and what comes.
func (f *flow) mute() {
	c := f.to
	c.mu.Lock()
	defer c.mu.Unlock()
	f.queue, f.muted = nil, true
	if f.ending {
		return // its turn is still to come, to close the stream
	}
	c.turns = slices.DeleteFunc(c.turns, func(other *flow) bool { return other == f })
}

// abort drops what is queued and resets the stream.
func (f *flow) abort(code transport.Code) {
	c := f.to
	c.mu.Lock()
	f.ended, f.queue = true, nil
	c.turns = slices.DeleteFunc(c.turns, func(other *flow) bool { return other == f })
	c.mu.Unlock()
	f.stream.Reset(code)
}

// wake makes the goroutine run, or look again, with mu held.
func (c *conduit) wake() {
	if c.writing {
		select {
		case c.kick <- struct{}{}:
		default:
		}
		return
	}
	if c.e.begin() {
		c.writing = true
		go c.write()
	}
}

// turn is what the goroutine is to do next.
type turn struct {
	flow *flow
	id   uint64
	buf  []byte   // a packet
	rest [][]byte // or the last ones
	last bool
	wait time.Duration // or when to look again
}

// next chooses, with mu held; there is a flow that has something.
func (c *conduit) next(now time.Time) turn {
	wait := time.Hour
	for i, f := range c.turns {
		if f.ending {
			c.turns = slices.Delete(c.turns, i, i+1)
			f.ended = true
			rest := f.queue
			f.queue = nil
			return turn{flow: f, rest: rest, last: true}
		}
		if f.ready.IsZero() {
			f.ready = now
			if f.pace != nil {
				f.ready = now.Add(f.pace(len(f.queue[0])-headerSize, now))
			}
		}
		if d := f.ready.Sub(now); d > 0 {
			wait = min(wait, d)
			continue
		}
		buf := f.queue[0]
		f.queue[0], f.ready = nil, time.Time{}
		f.queue = f.queue[1:]
		c.turns = slices.Delete(c.turns, i, i+1)
		if len(f.queue) > 0 {
			c.turns = append(c.turns, f)
		}
		return turn{flow: f, id: f.id, buf: buf}
	}
	return turn{wait: wait}
}

// write is the goroutine.
func (c *conduit) write() {
	defer c.e.running.Done()
	var timer *time.Timer
	for {
		c.mu.Lock()
		if len(c.turns) == 0 || c.link.Context().Err() != nil {
			c.writing = false
			c.mu.Unlock()
			return
		}
		t := c.next(time.Now())
		c.mu.Unlock()
		switch {
		case t.last:
			c.sendRest(t.flow, t.rest)
		case t.flow != nil:
			c.send(t.flow, t.id, t.buf)
		default:
			if timer == nil {
				timer = time.NewTimer(t.wait)
				defer timer.Stop()
			} else {
				timer.Reset(t.wait)
			}
			select {
			case <-timer.C:
			case <-c.kick:
			case <-c.link.Context().Done():
			}
		}
	}
}

// send sends a packet.
func (c *conduit) send(f *flow, id uint64, buf []byte) {
	if c.datagrams != nil && id != 0 {
		appendHeader(buf[:0], f.way, id)
		if c.datagrams.SendDatagram(buf) == nil {
			return
		}
		if len(buf)-headerSize > mustFit {
			if f.lost != nil {
				f.lost()
			}
			return
		}
	}
	f.stream.SetWriteDeadline(time.Now().Add(writeTimeout))
	if _, err := f.stream.Write(appendFrame(nil, frame{typ: typePacket, packet: buf[headerSize:]})); err != nil {
		if errors.Is(err, transport.CodeClosed) {
			f.mute() // the other side has closed the circuit, and what it sent before is still coming
			return
		}
		f.abort(transport.CodeTimeout) // whoever reads the stream learns of it
	}
}

// sendRest sends the last packets, so that none of them can come after the end.
func (c *conduit) sendRest(f *flow, rest [][]byte) {
	var b []byte
	for _, buf := range rest {
		b = appendFrame(b, frame{typ: typePacket, packet: buf[headerSize:]})
	}
	if len(b) > 0 {
		f.stream.SetWriteDeadline(time.Now().Add(time.Second))
		if _, err := f.stream.Write(b); err != nil {
			f.stream.Reset(transport.CodeTimeout)
			return
		}
	}
	f.stream.Close()
}

// read is the goroutine that reads the link's datagrams.
func (c *conduit) read(ctx context.Context) {
	defer c.e.running.Done()
	for {
		b, err := c.datagrams.ReceiveDatagram(ctx)
		if err != nil {
			return
		}
		c.e.receive(c.peer, b)
	}
}
