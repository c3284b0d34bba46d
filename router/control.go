package router

import (
	"encoding/binary"
	"fmt"
	"io"
	"time"

	"github.com/Blockchain-CN/pheromones/internal/wire"
	"github.com/Blockchain-CN/pheromones/protocol"
	"github.com/Blockchain-CN/pheromones/protocol/greeting"
	"github.com/Blockchain-CN/pheromones/transport"
)

// LinkService is the name of the service of a link's control stream, on which two nodes say what they must agree on about the
// link itself (SPEC.md, section "link"). The side that dialled opens it.
const LinkService = "pheromones.link"

// The kinds of control frames: one byte, two bytes of length, and so many bytes. Unknown ones are skipped.
const (
	controlHello  byte = 1 // incarnation, generation, serial, and a connectreq's data
	controlReady  byte = 2 // the dialer has the acceptor's hello
	controlPledge byte = 3 // how many streams this side has opened, and how many of the peer's have ended here
	controlRetire byte = 4 // this side has no need of the link; has the peer?
	controlPing   byte = 5 // 8 bytes
	controlPong   byte = 6 // the same
	controlPipes  byte = 7 // this side serves pipelines
)

const (
	// maxSaid bounds what waits to be said on a control stream. A peer that lets more gather does not read.
	maxSaid = 128 << 10
	// sayTimeout bounds saying it.
	sayTimeout = 30 * time.Second
)

// control is this side of a link's control stream. It is guarded by Router.mu.
type control struct {
	stream    transport.Stream // nil until there is one
	waiting   []byte           // to be written
	writing   bool             // a goroutine does
	greeted   bool             // the peer's hello has come
	asked     time.Time        // when a ping went that is not answered yet, or something came after that
	received  uint64           // packets that had come then
	pipelines bool             // the peer serves them
}

func appendControl(b []byte, kind byte, body ...byte) []byte {
	b = append(b, kind)
	b = binary.BigEndian.AppendUint16(b, uint16(len(body)))
	return append(b, body...)
}

func appendPledge(b []byte, p pledge) []byte {
	body := binary.BigEndian.AppendUint64(nil, p.opened)
	return appendControl(b, controlPledge, binary.BigEndian.AppendUint64(body, p.finished)...)
}

// helloLocked returns what this side says first on a link.
func (r *Router) helloLocked(l *link) []byte {
	body := binary.BigEndian.AppendUint64(nil, r.incarnation)
	body = binary.BigEndian.AppendUint32(body, l.rank.generation)
	body = binary.BigEndian.AppendUint32(body, l.rank.serial)
	// What the node says of itself is as in the greeting. It fits, unless somebody listens at absurdly long addresses.
	if m, err := greeting.ConnectMessage(r.selfLocked()); err == nil && len(body)+len(m.Data) < 1<<16 {
		body = append(body, m.Data...)
	}
	return appendControl(nil, controlHello, body...)
}

// offerPipelines tells the peer that this side serves them, if it does, with mu held.
func (l *link) offerPipelines() {
	if l.r.cfg.Pipelines {
		l.say(appendControl(nil, controlPipes))
	}
}

// say has a frame written soon, with mu held.
func (l *link) say(frame []byte) {
	c := &l.control
	if c.waiting = append(c.waiting, frame...); len(c.waiting) > maxSaid {
		c.waiting = nil
		l.r.closeLink(l, transport.CodeTimeout, "the control stream was not read")
		return
	}
	if c.stream == nil || c.writing || l.r.closed || l.ended {
		return
	}
	c.writing = true
	l.r.running.Add(1)
	go l.write()
}

// write is the goroutine that writes what waits.
func (l *link) write() {
	r := l.r
	defer r.running.Done()
	for {
		r.mu.Lock()
		b := l.control.waiting
		l.control.waiting = nil
		if len(b) == 0 {
			l.control.writing = false
			r.mu.Unlock()
			return
		}
		r.mu.Unlock()
		l.control.stream.SetWriteDeadline(time.Now().Add(sayTimeout))
		if _, err := l.control.stream.Write(b); err != nil {
			// The peer knows nothing of control streams, or the connection is at its end: its reader sees which.
			r.mu.Lock()
			l.control.waiting = nil
			l.control.writing = false
			r.mu.Unlock()
			return
		}
	}
}

// introduce is the goroutine of the control stream on the side that dialled.
func (l *link) introduce() {
	r := l.r
	defer r.running.Done()
	s, err := l.conn.OpenStream(r.ctx)
	if err == nil {
		header, _ := protocol.AppendService(nil, LinkService)
		r.mu.Lock()
		l.control.stream = s
		l.control.waiting = append(header, l.control.waiting...)
		l.say(nil)
		r.mu.Unlock()
		l.listen(s)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	l.settle()
}

// Control serves a stream of the service [LinkService], whose header has been read, as Config.Serve was given it. It returns
// when the stream or its connection has ended.
func (r *Router) Control(s transport.Stream) {
	ls, ok := s.(*linkStream)
	if !ok || ls.ours || ls.link.conn.Info().Dialer {
		s.Reset(transport.CodeProtocol)
		return
	}
	l := ls.link
	r.mu.Lock()
	again := l.control.stream != nil
	if !again {
		l.control.stream = ls.Stream
	}
	r.mu.Unlock()
	if again {
		s.Reset(transport.CodeProtocol)
		return
	}
	ls.once.Do(func() { l.release(false, false) })
	l.listen(ls.Stream)
}

// listen takes in what the peer says, until the stream ends.
func (l *link) listen(s transport.Stream) {
	for {
		var head [3]byte
		if _, err := io.ReadFull(s, head[:]); err != nil {
			s.Reset(transport.CodeClosed)
			return
		}
		body := make([]byte, binary.BigEndian.Uint16(head[1:]))
		if _, err := io.ReadFull(s, body); err != nil {
			s.Reset(transport.CodeClosed)
			return
		}
		if err := l.hear(head[0], body); err != nil {
			l.conn.CloseWithError(transport.CodeProtocol, err.Error())
			return
		}
	}
}

// hear takes in one frame. An error is for the peer.
func (l *link) hear(kind byte, body []byte) error {
	r, b := l.r, wire.NewReader(body)
	id := l.conn.Info().RemotePeer
	if kind == controlHello {
		return l.hearHello(b)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	rt := r.routes[id]
	switch {
	case l.ended:
	case kind == controlReady:
		if l.dialed || !l.control.greeted {
			return fmt.Errorf("a ready that nothing asked for")
		}
		r.carryOut(rt, rt.tie.ready(&l.candidate))
	case kind == controlPledge:
		p := pledge{b.Uint64("opened"), b.Uint64("finished")}
		if b.Err() != nil || !l.control.greeted {
			return fmt.Errorf("a malformed pledge")
		}
		r.carryOut(rt, rt.tie.pledged(&l.candidate, p))
	case kind == controlRetire:
		if l.active == 0 && !rt.wanted() {
			r.carryOut(rt, rt.tie.retire(&l.candidate))
		}
	case kind == controlPing:
		l.say(appendControl(nil, controlPong, b.Bytes("ping", 8)...))
		if b.Err() != nil {
			return fmt.Errorf("a malformed ping")
		}
	case kind == controlPipes:
		l.control.pipelines = true
	case kind == controlPong:
		l.control.asked = time.Time{}
	}
	return nil
}

// hearHello takes in the peer's hello.
func (l *link) hearHello(b *wire.Reader) error {
	r := l.r
	incarnation, generation, serial := b.Uint64("incarnation"), b.Uint32("generation"), b.Uint32("serial")
	if b.Err() != nil || incarnation == 0 {
		return fmt.Errorf("a malformed hello")
	}
	r.mu.Lock()
	if l.ended || l.control.greeted {
		r.mu.Unlock()
		return nil
	}
	rt := r.routes[l.conn.Info().RemotePeer]
	l.control.greeted = true
	if !l.dialed {
		l.say(r.helloLocked(l))
		l.offerPipelines()
	}
	r.carryOut(rt, rt.tie.hello(&l.candidate, incarnation, generation, serial))
	if w := rt.tie.winner; w != nil && w != &l.candidate {
		w.link.probe() // the peer has dialled although there is a link: does that work?
	}
	p, err := greeting.ParseConnect(protocol.Message{Operation: greeting.OpConnectReq, Data: b.Rest()})
	news := err == nil && p.ID == rt.fact.Peer.ID && rt.known() && (p.Seq > rt.fact.Peer.Seq || !rt.first)
	r.mu.Unlock()
	// A peer that is known brings what it says of itself up to date; a hello alone makes no route.
	if news {
		n := greeting.Notice{Change: greeting.Changed, Peer: p}
		if r.Learn(p.ID, n) {
			r.Spread([]greeting.Notice{n}, p.ID)
		}
	}
	return nil
}
