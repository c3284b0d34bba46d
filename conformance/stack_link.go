package conformance

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/Blockchain-CN/pheromones"
	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/protocol"
	"github.com/Blockchain-CN/pheromones/router"
	"github.com/Blockchain-CN/pheromones/transport"
)

// The kinds of control frames (SPEC.md, section "link").
const (
	ctrlHello byte = iota + 1
	ctrlReady
	ctrlPledge
	ctrlRetire
	ctrlPing
	ctrlPong
)

// speaker is a peer that speaks for itself on the control stream of a link.
type speaker struct {
	e       *env
	conn    transport.Conn
	control transport.Stream
}

// speaker dials a node with a key. It accepts what streams come and leaves them.
func (e *env) speaker(n *stackNode, key identity.Key) *speaker {
	tr, err := e.h.New(key)
	e.must(err, "New")
	e.cleanup(func() { tr.Close() })
	addr, _ := transport.ParseAddr(n.addr)
	c, err := tr.Dial(e.ctx, addr)
	e.must(err, "Dial")
	return &speaker{e: e, conn: c}
}

// open opens the control stream.
func (s *speaker) open() {
	c, err := s.conn.OpenStream(s.e.ctx)
	s.e.must(err, "OpenStream")
	c.SetDeadline(time.Now().Add(s.e.soon))
	header, err := protocol.AppendService(nil, router.LinkService)
	s.e.must(err, "the header of the control stream")
	s.e.send(c, header)
	s.control = c
}

func (s *speaker) say(kind byte, body []byte) {
	b := binary.BigEndian.AppendUint16([]byte{kind}, uint16(len(body)))
	_, err := s.control.Write(append(b, body...))
	if err != nil && s.conn.Context().Err() == nil { // the answer to it may be the link's end
		s.e.failf("saying a control frame of kind %d: want success, got %s", kind, describe(err))
	}
}

func (s *speaker) hello(incarnation uint64, generation, serial uint32) {
	b := binary.BigEndian.AppendUint64(nil, incarnation)
	b = binary.BigEndian.AppendUint32(b, generation)
	s.say(ctrlHello, binary.BigEndian.AppendUint32(b, serial))
}

func (s *speaker) pledge(opened, finished uint64) {
	s.say(ctrlPledge, binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, opened), finished))
}

// hear reads frames until one of the kind comes, and returns its body.
func (s *speaker) hear(kind byte) []byte {
	for {
		var head [3]byte
		_, err := io.ReadFull(s.control, head[:])
		s.e.must(err, "reading a control frame, waiting for kind %d", kind)
		body := make([]byte, binary.BigEndian.Uint16(head[1:]))
		_, err = io.ReadFull(s.control, body)
		s.e.must(err, "reading a control frame of kind %d", head[0])
		if head[0] == kind {
			return body
		}
	}
}

// greet opens the control stream and says hello, and returns the node's incarnation.
func (s *speaker) greet(incarnation uint64, generation, serial uint32) uint64 {
	s.open()
	s.hello(incarnation, generation, serial)
	body := s.hear(ctrlHello)
	if len(body) < 16 || binary.BigEndian.Uint64(body) == 0 {
		s.e.failf("want a hello of at least 16 bytes with an incarnation that is not zero, got % x", body)
	}
	s.say(ctrlReady, nil)
	return binary.BigEndian.Uint64(body)
}

// pings sees that the node answers on the control stream, so that it has taken in all that was said before.
func (s *speaker) pings() {
	want := []byte("12345678")
	s.say(ctrlPing, want)
	if got := s.hear(ctrlPong); !bytes.Equal(got, want) {
		s.e.errorf("a ping of % x: want the same bytes in the pong, got % x", want, got)
	}
}

// ended waits until the node has closed the link with a code.
func (s *speaker) ended(what string, code transport.Code) {
	s.e.eventually(what+" is closed", func() bool { return s.conn.Context().Err() != nil })
	s.e.wantIs(what, context.Cause(s.conn.Context()), code)
}

// asks dispatches a message on a stream of its own over the speaker's connection.
func (s *speaker) asks(n *stackNode) {
	c, err := s.conn.OpenStream(s.e.ctx)
	s.e.must(err, "OpenStream")
	_, err = protocol.Exchange(s.e.ctx, c, n.ID(), protocol.Message{Operation: "op"}, nil)
	s.e.must(err, "an exchange over a link")
}

func linkWithoutControl(e *env) {
	b := e.stack("b", echoing())
	s := e.speaker(b, e.key())
	s.asks(b)
	// What comes later is served as well, and unknown frames do no harm.
	s.open()
	s.say(200, []byte("a frame of the future"))
	s.hello(7, 0, 1)
	s.hear(ctrlHello)
	s.say(ctrlReady, []byte("more than is known"))
	s.say(0, nil)
	s.pings()
	s.asks(b)
	first := s.control
	s.open()
	s.control.SetReadDeadline(time.Now().Add(e.soon))
	_, err := s.control.Read(make([]byte, 1))
	e.wantIs("a second control stream", err, transport.CodeProtocol)
	s.control = first
	s.pings()
	s.asks(b)
}

func linkHello(e *env) {
	b := e.stack("b", echoing())
	key := e.key()
	first := e.speaker(b, key).greet(7, 0, 1)
	if again := e.speaker(b, e.key()).greet(8, 0, 1); again != first {
		e.errorf("want one incarnation in every hello of a node, got %x and %x", first, again)
	}
	if n := len(b.Routes()); n != 0 {
		e.errorf("want a hello to make no route, got %v", b.Routes())
	}
	other := e.stack("other", nil)
	if c := e.speaker(other, key).greet(7, 0, 1); c == first {
		e.errorf("want the incarnations of two nodes to differ, got %x twice", c)
	}
	// A hello without an incarnation is none.
	s := e.speaker(b, e.key())
	s.open()
	s.hello(0, 0, 1)
	s.ended("a link whose hello has no incarnation", transport.CodeProtocol)
}

// prefers sees which link of several a node opens its streams on.
func (e *env) prefers(n *stackNode, peer identity.ID, links []*speaker, want int, what string) {
	e.eventually(what, func() bool {
		r, ok := n.route(peer)
		return ok && slices.ContainsFunc(r.Links, func(l router.Link) bool { return l.Preferred })
	})
	type got struct {
		link int
		s    transport.Stream
	}
	came := make(chan got, len(links))
	ctx, cancel := context.WithCancel(e.ctx)
	defer cancel()
	var wg sync.WaitGroup
	for i, l := range links {
		wg.Go(func() {
			if s, err := l.conn.AcceptStream(ctx); err == nil {
				came <- got{i, s}
			}
		})
	}
	call := e.start("Dispatch", func() error {
		_, err := n.Dispatch(e.ctx, peer.String(), protocol.Message{Operation: "op"})
		return err
	})
	g := receive(e, what, came)
	if g.link != want {
		e.errorf("%s: want the node to open streams on link %d, got %d", what, want, g.link)
	}
	g.s.Reset(transport.CodeRefused)
	cancel()
	wg.Wait()
	call.wait()
}

func linkRank(e *env) {
	b := e.stack("b", echoing())
	key := e.key()
	peer := key.ID()

	// The peer is known, so that the node may send to it.
	known := e.stackOf(key, "peer", nil)
	known.add(b)
	e.must(known.Close(), "Close")
	e.eventually("the link of the peer's former life has ended", func() bool { r, _ := b.route(peer); return len(r.Links) == 0 })

	var links []*speaker
	up := func(generation, serial uint32) {
		s := e.speaker(b, key)
		s.greet(7, generation, serial)
		s.pings()
		links = append(links, s)
	}
	up(3, 5)
	e.prefers(b, peer, links, 0, "with one link")
	up(3, 9)
	e.prefers(b, peer, links, 1, "a second one of the same generation, dialled later")
	up(3, 7)
	e.prefers(b, peer, links, 1, "a third one, dialled before the second")
	up(4, 1)
	e.prefers(b, peer, links, 3, "a fourth one of a higher generation")
	up(2, 100)
	e.prefers(b, peer, links, 3, "a fifth one of a lower generation")

}

func linkNewLife(e *env) {
	b := e.stack("b", echoing())
	key := e.key()
	old, older := e.speaker(b, key), e.speaker(b, key)
	older.greet(7, 0, 1)
	old.greet(7, 0, 2)
	fresh := e.speaker(b, key)
	fresh.greet(8, 0, 1)
	older.ended("a link with the peer's former life", transport.CodeSuperseded)
	old.ended("a link with the peer's former life", transport.CodeSuperseded)
	fresh.pings()
	fresh.asks(b)
}

func linkPledge(e *env) {
	h := hold()
	b := e.stack("b", h)
	key := e.key()
	loser := e.speaker(b, key)
	loser.greet(7, 0, 1)
	c, err := loser.conn.OpenStream(e.ctx)
	e.must(err, "OpenStream")
	call := e.start("an exchange over the link that loses", func() error {
		_, err := protocol.Exchange(e.ctx, c, b.ID(), protocol.Message{Operation: "wait"}, nil)
		return err
	})
	receive(e, "the handler's call", h.entered)
	winner := e.speaker(b, key)
	winner.greet(7, 1, 2)
	winner.pings()
	loser.pings()
	e.sleep(moment)
	if err := loser.conn.Context().Err(); err != nil {
		e.errorf("a link on which a stream runs was closed for another: %s", describe(context.Cause(loser.conn.Context())))
	}
	h.release <- protocol.Message{Operation: "done"}
	e.must(call.wait(), "an exchange over a link that has lost meanwhile")
	// The node has opened none and seen one end.
	body := loser.hear(ctrlPledge)
	if want := binary.BigEndian.AppendUint64(make([]byte, 8), 1); !bytes.Equal(body, want) {
		e.errorf("want a pledge of no stream opened and one ended, got % x", body)
	}
	e.sleep(moment)
	if err := loser.conn.Context().Err(); err != nil {
		e.errorf("a link that has lost was closed before this side had agreed: %s", describe(context.Cause(loser.conn.Context())))
	}
	loser.pledge(1, 0)
	loser.ended("a link that has lost, when nothing runs on it", transport.CodeSuperseded)
	winner.pings()
}

func linkAddedAtOnce(e *env) {
	for range 8 {
		a, b := e.stack("a", echoing()), e.stack("b", echoing())
		calls := []*call{}
		for _, p := range [][2]*stackNode{{a, b}, {b, a}} {
			calls = append(calls, e.start("Add from both sides", func() error {
				_, err := p[0].Add(e.ctx, p[1].addr)
				if err == nil {
					_, err = p[0].Ping(e.ctx, p[1].ID().String())
				}
				return err
			}))
		}
		for _, c := range calls {
			e.must(c.wait(), "Add, and a Ping, from both sides at once")
		}
		e.eventually("both have one link, the same", func() bool {
			x, _ := a.route(b.ID())
			y, _ := b.route(a.ID())
			return len(x.Links) == 1 && len(y.Links) == 1 && x.Links[0].Dialer != y.Links[0].Dialer && x.Links[0].Preferred && y.Links[0].Preferred
		})
	}
}

func linkProbed(e *env) {
	b := e.stack("b", echoing())
	s := e.speaker(b, e.key())
	s.greet(7, 0, 1)
	for range 3 {
		s.pings()
	}
}

func linkIdle(e *env) {
	short := func(c *pheromones.Config) { c.IdleTimeout = 50 * time.Millisecond }
	b := e.stack("b", echoing(), short)
	idle := e.speaker(b, e.key())
	idle.greet(7, 0, 1)
	idle.hear(ctrlRetire)
	idle.pings() // it is not closed before the peer has agreed
	idle.asks(b)
	idle.pledge(1, 0)
	idle.ended("a link that nobody needs", transport.CodeIdle)
	// One that either side's caller has asked for stays.
	a := e.stack("a", echoing(), short)
	a.add(b)
	w := a.watching()
	e.sleep(3 * time.Second) // the node looks every second
	for len(w.C()) > 0 {
		if ev := <-w.C(); ev.Kind == router.LinkDown {
			e.errorf("a link with a peer that was added has ended: %s", ev.Reason)
		}
	}
	a.works(b)
}

func linkKept(e *env) {
	key := e.key()
	a, b := e.stack("a", echoing()), e.stackOf(key, "b", echoing())
	a.add(b)
	w := a.watching()
	at := b.addr
	e.must(b.Close(), "Close")
	e.await(w, "the link is lost", func() bool { r, _ := a.route(b.ID()); return len(r.Links) == 0 })
	again := e.unbound(key, "b again", echoing())
	e.must(again.Start(e.ctx, bare(at)), "Start at the former address")
	e.await(w, "a link with a peer that was added is dialled again, unasked", func() bool {
		r, _ := a.route(b.ID())
		return len(r.Links) == 1 && r.Name == "b again"
	})
	e.eventually("a peer that was started anew is greeted, so that it knows us", again.knows(a))
	e.must(a.Delete(b.ID().String()), "Delete")
	e.must(again.Close(), "Close")
}

func linkBound(e *env) {
	const most = 3
	h := hold()
	b := e.stack("b", h, func(c *pheromones.Config) { c.MaxLinks = most })
	wanted := e.stack("wanted", echoing())
	b.add(wanted)
	var links []*speaker
	for range 3 * most {
		s := e.speaker(b, e.key())
		s.greet(7, 0, 1)
		links = append(links, s)
	}
	for _, s := range links[:len(links)-most+1] {
		s.ended("a link that has been idle for the longest, of too many", transport.CodeLimit)
	}
	b.works(wanted)
	// Links on which something runs do not give way: then the newcomer is refused.
	for _, s := range links[len(links)-most+1:] {
		c, err := s.conn.OpenStream(e.ctx)
		e.must(err, "OpenStream")
		header, err := protocol.AppendService(nil, protocol.MessageService)
		e.must(err, "a stream's header")
		e.send(c, append(header, e.request("wait", nil)...))
		receive(e, "the handler's call", h.entered)
	}
	e.speaker(b, e.key()).ended("one more link when all are needed", transport.CodeLimit)
}
