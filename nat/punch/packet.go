package punch

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
)

// PacketSize is the length of every punch packet: 36 bytes (PN2).
const PacketSize = 20 + macSize

const macSize = 16

// The kinds of packets. They are below 0x40, so that they pass for QUIC nowhere, and no STUN message begins like this: bytes 4 to 7
// are not STUN's magic cookie, as the highest bit of a session is set.
const (
	kindPing = 0x30
	kindPong = 0x31
)

// Session tells the packets of one attempt from those of others. The highest bit of its first byte is set.
type Session [8]byte

// Key authenticates the packets of one session. Both sides have it.
type Key [32]byte

// packet is what a punch packet says.
type packet struct {
	kind       byte
	controlled bool // the sender is the side that was offered the session
	session    Session
	number     uint32 // counts the sender's packets, from 1
	echo       uint32 // of a pong: the number of the ping
}

// append appends the packet to b.
func (p packet) append(b []byte, key *Key) []byte {
	start := len(b)
	direction := byte(0)
	if p.controlled {
		direction = 1
	}
	b = append(b, p.kind, direction, 0, 0)
	b = append(b, p.session[:]...)
	b = binary.BigEndian.AppendUint32(b, p.number)
	b = binary.BigEndian.AppendUint32(b, p.echo)
	return append(b, sum(b[start:], key)...)
}

func sum(b []byte, key *Key) []byte {
	h := hmac.New(sha256.New, key[:])
	h.Write(b)
	return h.Sum(nil)[:macSize]
}

// SessionOf returns the session of a punch packet, which may be forged, and whether b looks like one.
func SessionOf(b []byte) (Session, bool) {
	if len(b) != PacketSize || b[0] != kindPing && b[0] != kindPong || b[1] > 1 || b[2] != 0 || b[3] != 0 || b[4] < 0x80 {
		return Session{}, false
	}
	return Session(b[4:12]), true
}

// parse reads a packet and reports whether it is authentic.
func parse(b []byte, key *Key) (packet, bool) {
	session, ok := SessionOf(b)
	if !ok || !hmac.Equal(b[PacketSize-macSize:], sum(b[:PacketSize-macSize], key)) {
		return packet{}, false
	}
	return packet{b[0], b[1] == 1, session, binary.BigEndian.Uint32(b[12:]), binary.BigEndian.Uint32(b[16:])}, true
}
