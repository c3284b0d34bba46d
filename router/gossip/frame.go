package gossip

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/internal/wire"
)

// Operation is that of the messages whose data is a batch (BR5). They are answered with none.
const Operation = "gossip"

// Bounds of the format (BR6).
const (
	MaxOperation = 255      // bytes of a broadcast's operation
	MaxFrames    = 1024     // frames in a batch
	MaxBatch     = 16 << 20 // bytes of a batch
	MaxEntries   = 64       // entries of a Have or Graft
	MaxContacts  = 16       // contacts in a frame
	MaxAddrs     = 4        // addresses of a contact
	MaxAddr      = 255      // bytes of an address

	batchVersion = 1
	frameHeader  = 1 + 4                     // kind, size
	entrySize    = 32 + 8 + 8 + 8 + 1 + 1    // of an Entry
	payloadFixed = 1 + 1 + 64 + 32 + 3*8 + 5 // of a Payload without operation and data
)

// HopsUnknown stands for a distance that the sender does not tell.
const HopsUnknown = 255

// ErrMalformed is wrapped by every error of [ParseBatch]: the peer that sent the batch breaks the protocol.
var ErrMalformed = errors.New("gossip: malformed batch")

// Frame is one thing that a peer tells another: a *Payload, *Have, *Graft, *Prune, *Join, *ForwardJoin, *Neighbor, *Reply,
// *Disconnect, *Shuffle, *ShuffleReply or *Probe. Frames are not written to once they are made, and may be shared.
type Frame interface {
	// Size returns how many bytes the frame takes in a batch.
	Size() int
	kind() byte
	appendBody(b []byte) []byte
}

// Contact is a peer and where it may be reached. The addresses are hints that nobody has proved: at most MaxAddrs texts of at
// most MaxAddr bytes, the best first, which this package does not look into.
type Contact struct {
	ID    identity.ID
	Addrs []string
}

// Payload carries a broadcast along an edge of a tree.
type Payload struct {
	Message *Message
	Hops    uint8 // how many edges it has come by with this one; 254 stands for more
	Shared  bool  // it was sent along the shared tree
}

// Entry names up to 64 broadcasts of one life of an origin: those of seq First + i for every bit i of Mask.
type Entry struct {
	Origin      identity.ID
	Incarnation uint64
	First       uint64
	Mask        uint64
	Hops        uint8 // in a Have: how many edges they had come by when the sender got them, or HopsUnknown
	Shared      bool  // in a Graft: the shared tree is meant
}

// Have tells of broadcasts that the sender has and did not send (IHAVE). Without entries it says that the sender is there.
type Have struct{ Entries []Entry }

// Graft asks for broadcasts, and to be sent those to come of their origins, or all that travel by the shared tree.
type Graft struct{ Entries []Entry }

// Prune asks not to be sent broadcasts of an origin unasked; of the zero ID: those that travel by the shared tree.
type Prune struct{ Origin identity.ID }

// Join asks a contact for neighbours.
type Join struct{ Addrs []string }

// ForwardJoin takes a peer that joins on a walk, at whose end it finds a neighbour.
type ForwardJoin struct {
	Joiner Contact
	TTL    uint8
}

// Neighbor asks to become neighbours; Urgent: at the cost of another neighbour if need be.
type Neighbor struct {
	Urgent bool
	Addrs  []string
}

// Reply answers Join and Neighbor. One that refuses a Join names others to try.
type Reply struct {
	Accept   bool
	Addrs    []string
	Contacts []Contact
}

// Disconnect ends being neighbours; Leaving: because the sender goes away.
type Disconnect struct{ Leaving bool }

// Shuffle takes a sample of the origin's views on a walk, at whose end it is exchanged.
type Shuffle struct {
	Origin   Contact
	TTL      uint8
	Contacts []Contact
}

// ShuffleReply answers a Shuffle with a sample of the answerer's passive view.
type ShuffleReply struct{ Contacts []Contact }

// Probe tells a peer that is no neighbour what has long been here, so that one of the two may find that it is cut off from the
// network of the other. Answer: it answers another, and wants no answer.
type Probe struct {
	Answer  bool
	Entries []Entry
}

// The kinds of frames (BR6).
const (
	kindPayload byte = iota + 1
	kindHave
	kindGraft
	kindPrune
	kindJoin
	kindForwardJoin
	kindNeighbor
	kindReply
	kindDisconnect
	kindShuffle
	kindShuffleReply
	kindProbe
)

func (*Payload) kind() byte      { return kindPayload }
func (*Have) kind() byte         { return kindHave }
func (*Graft) kind() byte        { return kindGraft }
func (*Prune) kind() byte        { return kindPrune }
func (*Join) kind() byte         { return kindJoin }
func (*ForwardJoin) kind() byte  { return kindForwardJoin }
func (*Neighbor) kind() byte     { return kindNeighbor }
func (*Reply) kind() byte        { return kindReply }
func (*Disconnect) kind() byte   { return kindDisconnect }
func (*Shuffle) kind() byte      { return kindShuffle }
func (*ShuffleReply) kind() byte { return kindShuffleReply }
func (*Probe) kind() byte        { return kindProbe }

// Size implements [Frame], as do its namesakes.
func (f *Payload) Size() int     { return frameHeader + 1 + 1 + 64 + f.Message.contentSize() }
func (f *Have) Size() int        { return frameHeader + 1 + entrySize*len(f.Entries) }
func (f *Graft) Size() int       { return frameHeader + 1 + entrySize*len(f.Entries) }
func (f *Prune) Size() int       { return frameHeader + 32 }
func (f *Join) Size() int        { return frameHeader + addrsSize(f.Addrs) }
func (f *ForwardJoin) Size() int { return frameHeader + 1 + contactSize(f.Joiner) }
func (f *Neighbor) Size() int    { return frameHeader + 1 + addrsSize(f.Addrs) }
func (f *Reply) Size() int {
	return frameHeader + 1 + addrsSize(f.Addrs) + contactsSize(f.Contacts)
}
func (f *Disconnect) Size() int { return frameHeader + 1 }
func (f *Shuffle) Size() int {
	return frameHeader + 1 + contactSize(f.Origin) + contactsSize(f.Contacts)
}
func (f *ShuffleReply) Size() int { return frameHeader + contactsSize(f.Contacts) }
func (f *Probe) Size() int        { return frameHeader + 1 + 1 + entrySize*len(f.Entries) }

func (f *Payload) appendBody(b []byte) []byte {
	b = append(b, f.Hops, flag(f.Shared))
	b = append(b, f.Message.Signature[:]...)
	return f.Message.appendContent(b)
}

func (f *Have) appendBody(b []byte) []byte  { return appendEntries(b, f.Entries) }
func (f *Graft) appendBody(b []byte) []byte { return appendEntries(b, f.Entries) }
func (f *Prune) appendBody(b []byte) []byte { return append(b, f.Origin[:]...) }
func (f *Join) appendBody(b []byte) []byte  { return appendAddrs(b, f.Addrs) }

func (f *ForwardJoin) appendBody(b []byte) []byte { return appendContact(append(b, f.TTL), f.Joiner) }
func (f *Neighbor) appendBody(b []byte) []byte {
	return appendAddrs(append(b, flag(f.Urgent)), f.Addrs)
}
func (f *Disconnect) appendBody(b []byte) []byte { return append(b, flag(f.Leaving)) }

func (f *Reply) appendBody(b []byte) []byte {
	return appendContacts(appendAddrs(append(b, flag(f.Accept)), f.Addrs), f.Contacts)
}

func (f *Shuffle) appendBody(b []byte) []byte {
	return appendContacts(appendContact(append(b, f.TTL), f.Origin), f.Contacts)
}

func (f *ShuffleReply) appendBody(b []byte) []byte { return appendContacts(b, f.Contacts) }
func (f *Probe) appendBody(b []byte) []byte {
	return appendEntries(append(b, flag(f.Answer)), f.Entries)
}

// BatchHeader is how many bytes a batch without frames takes.
const BatchHeader = 1

// AppendBatch appends the frames to b as one batch (BR6). The caller keeps within MaxFrames frames and MaxBatch bytes: those
// of [BatchHeader] and of each frame's Size.
func AppendBatch(b []byte, frames ...Frame) []byte {
	b = append(b, batchVersion)
	for _, f := range frames {
		b = append(b, f.kind())
		b = binary.BigEndian.AppendUint32(b, uint32(f.Size()-frameHeader))
		b = f.appendBody(b)
	}
	return b
}

// ParseBatch returns the frames of a batch. Those of unknown kinds, and bytes behind the known fields of known kinds, are
// skipped. Nothing in them aliases b. Every error wraps [ErrMalformed].
func ParseBatch(b []byte) ([]Frame, error) {
	if len(b) > MaxBatch {
		return nil, fmt.Errorf("%w: %d bytes, at most %d are allowed", ErrMalformed, len(b), MaxBatch)
	}
	r := wire.NewReader(b)
	if v := r.Uint8("version"); r.Err() == nil && v != batchVersion {
		return nil, fmt.Errorf("%w: version %d, want %d", ErrMalformed, v, batchVersion)
	}
	var frames []Frame
	for n := 0; r.Err() == nil && len(r.Rest()) > 0; n++ {
		if n == MaxFrames {
			return nil, fmt.Errorf("%w: more than %d frames", ErrMalformed, MaxFrames)
		}
		kind := r.Uint8("kind")
		size := r.Uint32("size")
		if size > MaxBatch {
			return nil, fmt.Errorf("%w: frame %d (kind %d) of %d bytes, at most %d are allowed", ErrMalformed, n, kind, size, MaxBatch)
		}
		body := wire.NewReader(r.Bytes("frame", int(size)))
		if r.Err() != nil {
			break
		}
		f := parseFrame(kind, body)
		if err := body.Err(); err != nil {
			return nil, fmt.Errorf("%w: frame %d (kind %d): %w", ErrMalformed, n, kind, err)
		}
		if f != nil {
			frames = append(frames, f)
		}
	}
	if err := r.Err(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return frames, nil
}

func parseFrame(kind byte, r *wire.Reader) Frame {
	switch kind {
	case kindPayload:
		return parsePayload(r)
	case kindHave:
		return &Have{parseEntries(r)}
	case kindGraft:
		return &Graft{parseEntries(r)}
	case kindPrune:
		return &Prune{parseID(r)}
	case kindJoin:
		return &Join{parseAddrs(r)}
	case kindForwardJoin:
		ttl := r.Uint8("ttl")
		return &ForwardJoin{TTL: ttl, Joiner: parseContact(r)}
	case kindNeighbor:
		urgent := parseFlag(r)
		return &Neighbor{urgent, parseAddrs(r)}
	case kindReply:
		accept := parseFlag(r)
		addrs := parseAddrs(r)
		return &Reply{accept, addrs, parseContacts(r)}
	case kindDisconnect:
		return &Disconnect{parseFlag(r)}
	case kindShuffle:
		ttl := r.Uint8("ttl")
		origin := parseContact(r)
		return &Shuffle{TTL: ttl, Origin: origin, Contacts: parseContacts(r)}
	case kindShuffleReply:
		return &ShuffleReply{parseContacts(r)}
	case kindProbe:
		answer := parseFlag(r)
		return &Probe{answer, parseEntries(r)}
	}
	return nil
}

func parsePayload(r *wire.Reader) *Payload {
	m := new(Message)
	f := &Payload{Message: m, Hops: r.Uint8("hops"), Shared: parseFlag(r)}
	if f.Hops == 0 || f.Hops == HopsUnknown {
		r.Fail("hops", "%d", f.Hops)
	}
	copy(m.Signature[:], r.Bytes("signature", 64))
	m.ID.Origin = parseID(r)
	m.ID.Incarnation = r.Uint64("incarnation")
	m.ID.Seq = r.Uint64("seq")
	// The range keeps every time within what time.Time and the bytes both can say.
	born := r.Uint64("born")
	if born > maxBorn {
		r.Fail("born", "%d is out of range", born)
	}
	m.Born = time.UnixMicro(int64(born))
	m.Operation = r.Text("operation", int(r.Uint8("operation's length")))
	if size := r.Uint32("data's length"); size <= MaxBatch {
		m.Data = bytes.Clone(r.Bytes("data", int(size))) // or a byte that is kept would keep its batch
	} else {
		r.Fail("data's length", "%d", size)
	}
	if r.Err() == nil && (m.ID.Origin.IsZero() || m.ID.Seq == 0 || m.Operation == "") {
		r.Fail("message", "its origin, seq or operation is zero")
	}
	return f
}

// maxBorn is the end of the year 2260, in microseconds: as nanoseconds it still fits.
const maxBorn = 9_180_000_000_000_000

func flag(v bool) byte {
	if v {
		return 1
	}
	return 0
}

func parseFlag(r *wire.Reader) bool {
	v := r.Uint8("flag")
	if v > 1 {
		r.Fail("flag", "%d is neither 0 nor 1", v)
	}
	return v == 1
}

func parseID(r *wire.Reader) (id identity.ID) {
	copy(id[:], r.Bytes("id", len(id)))
	return id
}

func appendEntries(b []byte, entries []Entry) []byte {
	b = append(b, byte(len(entries)))
	for i := range entries {
		e := &entries[i]
		b = append(b, e.Origin[:]...)
		b = binary.BigEndian.AppendUint64(b, e.Incarnation)
		b = binary.BigEndian.AppendUint64(b, e.First)
		b = binary.BigEndian.AppendUint64(b, e.Mask)
		b = append(b, e.Hops, flag(e.Shared))
	}
	return b
}

func parseEntries(r *wire.Reader) []Entry {
	n := int(r.Uint8("number of entries"))
	if n > MaxEntries || n*entrySize > len(r.Rest()) {
		r.Fail("number of entries", "%d, at most %d are allowed and %d bytes are there", n, MaxEntries, len(r.Rest()))
		return nil
	}
	var entries []Entry
	if n > 0 {
		entries = make([]Entry, n)
	}
	for i := range entries {
		e := &entries[i]
		e.Origin = parseID(r)
		e.Incarnation = r.Uint64("incarnation")
		e.First = r.Uint64("first")
		e.Mask = r.Uint64("mask")
		e.Hops = r.Uint8("hops")
		e.Shared = parseFlag(r)
		if r.Err() == nil && (e.First == 0 || e.First > 1<<63) {
			r.Fail("first", "%d is out of range", e.First)
		}
	}
	return entries
}

func addrsSize(addrs []string) int {
	n := 1
	for _, a := range addrs {
		n += 1 + len(a)
	}
	return n
}

func contactSize(c Contact) int { return 32 + addrsSize(c.Addrs) }

func contactsSize(list []Contact) int {
	n := 1
	for i := range list {
		n += contactSize(list[i])
	}
	return n
}

func appendAddrs(b []byte, addrs []string) []byte {
	b = append(b, byte(len(addrs)))
	for _, a := range addrs {
		b = append(b, byte(len(a)))
		b = append(b, a...)
	}
	return b
}

func appendContact(b []byte, c Contact) []byte { return appendAddrs(append(b, c.ID[:]...), c.Addrs) }

func appendContacts(b []byte, list []Contact) []byte {
	b = append(b, byte(len(list)))
	for _, c := range list {
		b = appendContact(b, c)
	}
	return b
}

func parseAddrs(r *wire.Reader) []string {
	n := int(r.Uint8("number of addresses"))
	if n > MaxAddrs {
		r.Fail("number of addresses", "%d, at most %d are allowed", n, MaxAddrs)
	}
	var addrs []string
	for range n {
		a := r.Text("address", int(r.Uint8("address's length")))
		if r.Err() != nil {
			return nil
		}
		addrs = append(addrs, a)
	}
	return addrs
}

func parseContact(r *wire.Reader) Contact {
	id := parseID(r)
	if r.Err() == nil && id.IsZero() {
		r.Fail("id", "it is zero")
	}
	return Contact{id, parseAddrs(r)}
}

func parseContacts(r *wire.Reader) []Contact {
	n := int(r.Uint8("number of contacts"))
	if n > MaxContacts {
		r.Fail("number of contacts", "%d, at most %d are allowed", n, MaxContacts)
	}
	var list []Contact
	for range n {
		c := parseContact(r)
		if r.Err() != nil {
			return nil
		}
		list = append(list, c)
	}
	return list
}

// valid reports whether c is within the bounds of the format.
func (c Contact) valid() bool { return !c.ID.IsZero() && validAddrs(c.Addrs) }

func validAddrs(addrs []string) bool {
	if len(addrs) > MaxAddrs {
		return false
	}
	for _, a := range addrs {
		if len(a) > MaxAddr || !utf8.ValidString(a) {
			return false
		}
	}
	return true
}
