package relay

import (
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/transport"
)

// Circuit is this node's end of a way to a peer through a relay. What comes over it is proved by nothing: whoever talks over it
// proves who it is, as TLS does. It is safe for concurrent use; but a circuit that was called is accepted, by Run or Stream, within
// the function that was given it.
type Circuit struct {
	e        *Endpoint
	link     transport.Conn
	stream   transport.Stream
	peer     identity.ID
	kind     Kind
	caller   bool
	accepted bool   // by Run or Stream, if we were called
	id       uint64 // its number at the relay; if we called, written by Run only, before it is in Endpoint.ends
	flow     *flow  // of packets
	deliver  atomic.Pointer[func([]byte)]
	once     sync.Once // of Close
}

func (e *Endpoint) newCircuit(link transport.Conn, s transport.Stream, peer identity.ID, kind Kind, caller bool) *Circuit {
	c := &Circuit{e: e, link: link, stream: s, peer: peer, kind: kind, caller: caller}
	if kind == Packets {
		c.flow = &flow{to: e.conduit(link), stream: s, way: toRelay}
	}
	return c
}

// Relay returns the relay's ID.
func (c *Circuit) Relay() identity.ID { return c.link.Info().RemotePeer }

// Peer returns the ID of the peer at the other end: the one that was called or, as the relay says, the one that calls.
func (c *Circuit) Peer() identity.ID { return c.peer }

// Kind returns what the circuit carries.
func (c *Circuit) Kind() Kind { return c.kind }

// Addr returns the address that leads to the peer through the relay.
func (c *Circuit) Addr() transport.Addr { return Addr(c.Relay(), c.peer) }

// Send sends a packet over a circuit of packets; p stays the caller's. It does not wait: when 128 packets are queued, and whenever
// the relay or a network feels like it, packets are dropped. It fails with [ErrTooLarge], and with an error that is
// [transport.ErrClosed] when the circuit has ended.
func (c *Circuit) Send(p []byte) error {
	if len(p) == 0 || len(p) > MaxPacket {
		return fmt.Errorf("%w; this one has %d", ErrTooLarge, len(p))
	}
	buf := make([]byte, headerSize, headerSize+len(p))
	c.flow.push(append(buf, p...))
	if c.link.Context().Err() != nil {
		return transport.ErrClosed
	}
	return nil
}

// take is given a packet that has come.
func (c *Circuit) take(p []byte) {
	if deliver := c.deliver.Load(); deliver != nil {
		(*deliver)(p)
	}
}

// accept answers the call, if we were called.
func (c *Circuit) accept() {
	if c.caller || c.accepted {
		return
	}
	c.accepted = true
	if c.kind == Packets {
		c.flow.name(c.id)
		c.e.mu.Lock()
		c.e.ends[endKey{c.Relay(), c.id}] = c
		c.e.mu.Unlock()
	}
	c.stream.SetWriteDeadline(time.Now().Add(writeTimeout))
	c.stream.Write(appendFrame(nil, frame{typ: typeAccepted, circuit: c.id})) // if it fails, reading does, too
	c.stream.SetWriteDeadline(time.Time{})
}

// Run accepts the circuit, if we were called, hands the packets that come over a circuit of packets to deliver, from several
// goroutines at once, and returns when the circuit has ended: with nil if the other side has closed it, with a [*RefusedError] if
// the call was refused, with an error that is [transport.ErrClosed] after Close, else with what has cut it off, such as a reset by
// the relay with CodeLimit or CodeIdle. deliver must not wait, and keeps nothing of the packet. Run is called once.
func (c *Circuit) Run(deliver func(p []byte)) error {
	c.deliver.Store(&deliver)
	c.accept()
	err := c.run()
	c.e.mu.Lock()
	if key := (endKey{c.Relay(), c.id}); c.e.ends[key] == c {
		delete(c.e.ends, key)
	}
	c.e.mu.Unlock()
	c.Close()
	return err
}

func (c *Circuit) run() error {
	buf := make([]byte, maxFrame)
	for {
		f, err := readFrame(c.stream, buf)
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			c.flow.abort(codeOf(err))
			return err
		case f.typ == typePacket: // perhaps before the answer
			c.take(f.packet)
		case f.typ == typeAccepted && c.caller && c.id == 0 && f.circuit != 0:
			c.id = f.circuit
			c.e.mu.Lock()
			c.e.ends[endKey{c.Relay(), c.id}] = c
			c.e.mu.Unlock()
			c.flow.name(c.id)
		case f.typ == typeRefused && c.caller && c.id == 0:
			return refused(f, c.Relay(), c.peer)
		}
	}
}

// Close ends the circuit; packets that are queued are still sent. It does not wait. Closing twice is no error.
func (c *Circuit) Close() error {
	c.once.Do(func() {
		if c.kind == Packets {
			c.flow.finish()
		} else {
			c.stream.Close()
		}
	})
	return nil
}

// Stream accepts a circuit of bytes, if we were called, and returns its stream, which is the caller's from then on. If this node
// has called, the first Read fails with a [*RefusedError] if the call was refused, and what was written until then is lost.
func (c *Circuit) Stream() transport.Stream {
	if !c.caller {
		c.accept()
		return c.stream
	}
	return &called{Stream: c.stream, c: c}
}

// called is the stream of a circuit of bytes whose answer is still to be read.
type called struct {
	transport.Stream
	c *Circuit

	mu   sync.Mutex // held while the answer is read
	err  error
	done bool
}

// Read implements [net.Conn].
func (s *called) Read(b []byte) (int, error) {
	if err := s.await(); err != nil {
		return 0, err
	}
	return s.Stream.Read(b)
}

// await reads the answer, once. A deadline that passes meanwhile leaves the stream broken: nobody reads a call's answer in two pieces.
func (s *called) await() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.done {
		return s.err
	}
	f, err := readFrame(s.Stream, nil)
	s.done = true
	switch {
	case err == io.EOF:
		s.err = io.ErrUnexpectedEOF
	case err != nil:
		s.err = err
	case f.typ != typeAccepted:
		s.err = refused(f, s.c.Relay(), s.c.peer)
	}
	if s.err != nil {
		s.Stream.Reset(transport.CodeCancelled)
	}
	return s.err
}
