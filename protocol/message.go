package protocol

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"time"

	"github.com/Blockchain-CN/pheromones/identity"
)

// MessageID tells one request from another, so that a request sent twice is known to be the same. The zero ID is unset.
//
// The first 8 bytes are a time, in nanoseconds since 1970 by the clock of whoever made the ID, big-endian; the rest is random
// (PR17). Receivers compare the times of one sender's IDs with each other and never with a clock of their own.
type MessageID [16]byte

// NewMessageID returns a new ID of the present time.
func NewMessageID() MessageID {
	var id MessageID
	binary.BigEndian.PutUint64(id[:], uint64(time.Now().UnixNano()))
	rand.Read(id[8:]) // never fails
	return id
}

// MessageIDFor returns a new ID of the given time that bears the mark of its sender: bytes 8 to 11 are the first four of the
// sender's ID. Who makes such IDs makes each later than the one before, and may say which of them are settled (PR25). A
// router does; IDs that a program means to send again by itself come from [NewMessageID].
func MessageIDFor(sender identity.ID, time uint64) MessageID {
	var id MessageID
	binary.BigEndian.PutUint64(id[:], time)
	copy(id[8:12], sender[:])
	rand.Read(id[12:])
	return id
}

// Time returns the time in the ID: nanoseconds since 1970 by the clock of whoever made it.
func (id MessageID) Time() uint64 { return binary.BigEndian.Uint64(id[:]) }

// MarkedBy reports whether the ID bears the mark of a sender, as one of [MessageIDFor] does.
func (id MessageID) MarkedBy(sender identity.ID) bool {
	return [4]byte(id[8:12]) == [4]byte(sender[:4])
}

// String returns the ID as 32 hexadecimal digits.
func (id MessageID) String() string { return hex.EncodeToString(id[:]) }

// IsZero reports whether the ID is unset.
func (id MessageID) IsZero() bool { return id == MessageID{} }

// Message is what two peers say to each other. It is a plain value; whoever hands one over must leave Data alone from
// then on, unless the function says that it copies.
type Message struct {
	// ID is the idempotency ID of a request: whoever sends the request again sends the same ID. The sender of a request
	// may set it, to one of NewMessageID, and one is made for him if he leaves it zero. A reply bears the ID of the message it
	// answers. On what a Handler returns it is ignored.
	ID MessageID
	// From is the peer that the link proved to have sent the message. The receiver fills it in; it is never on the wire.
	From identity.ID
	// Name is the sender's label for itself: at most 255 bytes of UTF-8, proved by nothing. It is filled in from
	// Config.Name where it is empty, and on what a Handler returns always.
	Name string
	// Operation says what the message is about: at most 255 bytes of UTF-8. Empty means that there is no message.
	Operation string
	// Data is the content.
	Data []byte
}

// IsNone reports whether m says nothing: its Operation is empty. A Handler that returns such a message ends the
// conversation.
func (m Message) IsNone() bool { return m.Operation == "" }
