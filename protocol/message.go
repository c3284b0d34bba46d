package protocol

import (
	"crypto/rand"
	"encoding/hex"

	"github.com/Blockchain-CN/pheromones/identity"
)

// MessageID tells one request from another, so that a request sent twice is known to be the same. The zero ID is unset.
type MessageID [16]byte

// NewMessageID returns a new random ID.
func NewMessageID() MessageID {
	var id MessageID
	rand.Read(id[:]) // never fails
	return id
}

// String returns the ID as 32 hexadecimal digits.
func (id MessageID) String() string { return hex.EncodeToString(id[:]) }

// IsZero reports whether the ID is unset.
func (id MessageID) IsZero() bool { return id == MessageID{} }

// Message is what two peers say to each other. It is a plain value; whoever hands one over must leave Data alone from
// then on, unless the function says that it copies.
type Message struct {
	// ID is the idempotency ID of a request: whoever sends the request again sends the same ID. The sender of a request
	// may set it, and one is made for him if he leaves it zero. A reply bears the ID of the message it answers. On what a
	// Handler returns it is ignored.
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
