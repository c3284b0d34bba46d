package gossip

import (
	"encoding/binary"
	"time"

	"github.com/Blockchain-CN/pheromones/identity"
)

// MessageID names a broadcast in all the world.
type MessageID struct {
	Origin      identity.ID // who broadcast it first
	Incarnation uint64      // which life of the origin: larger after each of its starts
	Seq         uint64      // counts the origin's broadcasts in that life, from 1
}

// Message is a broadcast as its origin signed it. It does not change on its way and is shared: nobody writes to it.
type Message struct {
	ID        MessageID
	Born      time.Time // when the origin broadcast it, by its own clock, in whole microseconds
	Operation string    // at most 255 bytes of UTF-8, not empty
	Data      []byte
	Signature [64]byte // of the origin, over AppendSigned
}

// signedPrefix sets what is signed here apart from all else that a key signs: a TLS handshake signs what begins with 64
// spaces (RFC 8446 §4.4.3), a certificate what begins with an ASN.1 sequence.
const signedPrefix = "pheromones broadcast 1\x00"

// AppendSigned appends to b the bytes that the origin signs (BR3): all of the message but the signature.
func (m *Message) AppendSigned(b []byte) []byte {
	b = append(b, signedPrefix...)
	return m.appendContent(b)
}

func (m *Message) appendContent(b []byte) []byte {
	b = append(b, m.ID.Origin[:]...)
	b = binary.BigEndian.AppendUint64(b, m.ID.Incarnation)
	b = binary.BigEndian.AppendUint64(b, m.ID.Seq)
	b = binary.BigEndian.AppendUint64(b, uint64(m.Born.UnixMicro()))
	b = append(b, byte(len(m.Operation)))
	b = append(b, m.Operation...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(m.Data)))
	return append(b, m.Data...)
}

// contentSize is how many bytes appendContent appends.
func (m *Message) contentSize() int { return 32 + 8 + 8 + 8 + 1 + len(m.Operation) + 4 + len(m.Data) }

// Verify reports whether the origin signed the message.
func (m *Message) Verify() bool {
	return m.ID.Origin.Verify(m.AppendSigned(make([]byte, 0, len(signedPrefix)+m.contentSize())), m.Signature[:])
}
