// Package greeting is how peers become each other's route and come to know the others: a conversation that every node
// holds with every peer it adds. SPEC.md, section "greeting", describes it; GR numbers in comments are its clauses.
//
// # The conversation
//
// One side opens it with [ConnectMessage], which says who it is, what it is called and where it listens. The other answers
// in kind. Then the opening side asks for the routes the other knows, page by page, and gives its own in the same pages,
// until both know what the other knew. The handler that answers the other side also leads the opening one through these
// steps, so the opening side needs only the first message:
//
//	first, err := greeting.ConnectMessage(book.Self())
//	…
//	err = protocol.Converse(ctx, stream, peer, first, greeting.Handler(book, nil), cfg)
//
// Besides, a peer asks for one route with [GetMessage], and tells of changes with [NoticeMessage].
//
// # What is believed
//
// What a peer says of itself is first-hand: the link has proved who it is. What it says of others is a hint. The [Book]
// decides what becomes of either, by the rules its documentation states. A node whose book took something new from a hint
// passes it on to its own peers, and one that learned nothing does not. Every fact bears the [Peer.Seq] of the peer it is
// about, and a book takes only what is newer than what it has: so a fact visits every node once, and two opposite facts
// cannot chase each other through the network.
package greeting

import (
	"context"
	"fmt"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/protocol"
	"github.com/Blockchain-CN/pheromones/transport"
)

// The operations of this package.
const (
	OpConnectReq  = "connectreq"  // this is who I am
	OpConnectResp = "connectresp" // and this is who I am
	OpGetReq      = "getreq"      // where is this peer?
	OpGetResp     = "getresp"     // there
	OpFetchReq    = "fetchreq"    // a page of what I know; give me one of yours
	OpFetchResp   = "fetchresp"   // a page of what I know
	OpNoticeReq   = "noticereq"   // these peers came, changed or left
	OpNoticeResp  = "noticeresp"  // noted
)

// Peer is what one may know of a peer: a route to it. It is a value; nobody changes Addrs after handing it over.
type Peer struct {
	ID identity.ID
	// Seq orders what is known of a peer by age: it is set by the peer itself, and is larger whenever what follows has
	// changed, also after a restart. The time in microseconds serves.
	Seq uint64
	// Name is what the peer calls itself: at most protocol.MaxName bytes of UTF-8. Names repeat.
	Name string
	// Addrs are where the peer listens, best first; those beyond MaxAddrs are not sent. Their Peer is zero or ID; what is
	// read from the wire has ID.
	Addrs []transport.Addr
}

// Change says what became of a peer.
type Change uint8

// The changes (GR8).
const (
	Arrived Change = 1 // the peer is there and was not known before
	Changed Change = 2 // its name or addresses are others than before, or may be: it has answered a greeting
	Left    Change = 3 // it is going away, and its route may be forgotten
)

// String names the change.
func (c Change) String() string {
	switch c {
	case Arrived:
		return "arrived"
	case Changed:
		return "changed"
	case Left:
		return "left"
	}
	return fmt.Sprintf("change %d", uint8(c))
}

// Notice is one fact: what became of a peer, and what is known of it now.
type Notice struct {
	Change Change
	Peer   Peer
}

// Supersedes reports whether n is newer than old, a fact about the same peer: its Seq is larger, or it is the same and n
// alone says that the peer left. A book that takes second-hand facts only when they supersede takes each of them once.
func (n Notice) Supersedes(old Notice) bool {
	if n.Peer.Seq != old.Peer.Seq {
		return n.Peer.Seq > old.Peer.Seq
	}
	return n.Change == Left && old.Change != Left
}

// Book is the table of routes that the handler of this package reads and writes. Its methods are called from many
// goroutines at once and return soon: none of them waits for the network. Slices that go either way are not changed
// afterwards. The peers a Book returns are such as Learn was given, or else such as ConnectMessage takes: one that cannot be
// put into a message fails the whole message.
type Book interface {
	// Self returns what this node tells of itself.
	Self() Peer
	// Lookup returns the known peer with that ID or, if id is zero, those that bear the name; none if there are none. Only
	// the first MaxPeers are used.
	Lookup(id identity.ID, name string) []Peer
	// Batch returns known peers whose IDs are greater than after, bytewise, in ascending order and without gaps, at most
	// max. It leaves out this node itself and peers that left.
	Batch(after identity.ID, max int) []Peer
	// Learn is told a fact by a peer, and reports whether it took anything new from it. If from is n.Peer.ID the fact is first-hand
	// and replaces what is known, whatever its Seq, which a peer that lost its clock may have set back; Learn then reports whether
	// name or addresses changed, or the peer had left. A book that was told to forget the peer takes from it only that it Arrived, which
	// it says of its own accord, or an answer to a greeting of before would bring it back. Any other fact is a hint: it is ignored unless it supersedes what is known,
	// also of a peer that left, and it never replaces a name, an address or the presence that was learned first-hand, for as long
	// as the book holds it to be so, say while a link lives. Facts about this node itself are not handed over. A book bounds what
	// it keeps, and what it takes in a time from one peer's hints, since all it takes is passed on.
	Learn(from identity.ID, n Notice) (changed bool)
	// Spread is told what Learn has just taken, and sends it, as NoticeMessage makes it, to the peers this node is linked
	// with, or to those of them it chooses, but not to except, who told it. It only takes note; the sending is done later.
	// It may drop what it has no room for.
	Spread(notices []Notice, except identity.ID)
}

// Register adds the operations of this package to a table. It fails with protocol.ErrDuplicate if one is taken; those
// before it are then registered.
func Register(t *protocol.Table, b Book) error {
	h := &handler{book: b, next: new(protocol.Table)}
	for _, op := range []string{OpConnectReq, OpConnectResp, OpGetReq, OpGetResp, OpFetchReq, OpFetchResp, OpNoticeReq, OpNoticeResp} {
		if err := t.Register(op, h); err != nil {
			return fmt.Errorf("greeting: %w", err)
		}
	}
	return nil
}

// Handler returns a handler that answers the operations of this package from b and gives everything else to next. A nil
// next answers with protocol.OpUnknown.
func Handler(b Book, next protocol.Handler) protocol.Handler {
	if next == nil {
		next = new(protocol.Table)
	}
	return &handler{book: b, next: next}
}

type handler struct {
	book Book
	next protocol.Handler
}

// Handle implements [protocol.Handler]. It keeps nothing between two messages: what a conversation must remember travels
// in them.
func (h *handler) Handle(ctx context.Context, m protocol.Message) (protocol.Message, error) {
	switch m.Operation {
	case OpConnectReq, OpConnectResp:
		return h.connect(m)
	case OpGetReq:
		return h.get(m)
	case OpGetResp:
		peers, err := parsePeers(m.Data)
		if err != nil {
			return refuse(m, err)
		}
		h.hints(m.From, peers)
	case OpFetchReq:
		return h.fetchReq(m)
	case OpFetchResp:
		return h.fetchResp(m)
	case OpNoticeReq:
		return h.notice(m)
	case OpNoticeResp:
	default:
		return h.next.Handle(ctx, m)
	}
	return protocol.Message{}, nil
}

// refuse answers a message whose data is not what it should be.
func refuse(m protocol.Message, err error) (protocol.Message, error) {
	return protocol.Message{}, fmt.Errorf("%w: greeting: %s: %w", protocol.CodeMalformed, m.Operation, err)
}

// connect takes the other side's word for itself, and answers the request with ours and the reply with the first page.
func (h *handler) connect(m protocol.Message) (protocol.Message, error) {
	p, err := ParseConnect(m)
	if err != nil {
		return refuse(m, err)
	}
	if m.From.IsZero() || p.ID != m.From {
		return protocol.Message{}, fmt.Errorf("%w: greeting: %s: it introduces peer %v, but peer %v sent it", protocol.CodeRefused,
			m.Operation, p.ID, m.From)
	}
	if m.Operation == OpConnectReq {
		h.learn(m.From, []Notice{{Arrived, p}})
		return selfMessage(OpConnectResp, h.book.Self())
	}
	h.learn(m.From, []Notice{{Changed, p}})
	return FetchMessage(h.book, m.From)
}

func (h *handler) get(m protocol.Message) (protocol.Message, error) {
	id, name, err := parseGet(m.Data)
	if err != nil {
		return refuse(m, err)
	}
	self := h.book.Self()
	var found []Peer
	if id == self.ID || id.IsZero() && name == self.Name {
		found = append(found, self)
	}
	if id != self.ID {
		found = append(found, h.book.Lookup(id, name)...)
	}
	found, _ = fit(found)
	return peersMessage(OpGetResp, found)
}

func (h *handler) fetchReq(m protocol.Message) (protocol.Message, error) {
	p, err := parsePage(m.Data)
	if err != nil {
		return refuse(m, err)
	}
	h.hints(m.From, p.peers)
	answer := page{flags: p.flags & askerMore, asker: p.asker}
	if p.flags&answererMore != 0 {
		answer.give(h.book, m.From, p.answerer, answererMore, &answer.answerer)
	}
	return answer.message(OpFetchResp)
}

func (h *handler) fetchResp(m protocol.Message) (protocol.Message, error) {
	p, err := parsePage(m.Data)
	if err != nil {
		return refuse(m, err)
	}
	h.hints(m.From, p.peers)
	if p.flags == 0 {
		return protocol.Message{}, nil
	}
	ask := page{flags: p.flags & answererMore, answerer: p.answerer}
	if p.flags&askerMore != 0 {
		ask.give(h.book, m.From, p.asker, askerMore, &ask.asker)
	}
	return ask.message(OpFetchReq)
}

func (h *handler) notice(m protocol.Message) (protocol.Message, error) {
	notices, err := ParseNotice(m)
	if err != nil {
		return refuse(m, err)
	}
	h.learn(m.From, notices)
	return protocol.Message{Operation: OpNoticeResp, Data: []byte{version}}, nil
}

// hints learns of peers that another one named.
func (h *handler) hints(from identity.ID, peers []Peer) {
	notices := make([]Notice, len(peers))
	for i, p := range peers {
		notices[i] = Notice{Arrived, p}
	}
	h.learn(from, notices)
}

// learn tells the book, and spreads what was new to it.
func (h *handler) learn(from identity.ID, notices []Notice) {
	self := h.book.Self().ID
	var taken []Notice
	for _, n := range notices {
		if n.Peer.ID != self && h.book.Learn(from, n) {
			taken = append(taken, n)
		}
	}
	if len(taken) > 0 {
		h.book.Spread(taken, from)
	}
}
