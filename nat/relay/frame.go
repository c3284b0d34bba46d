package relay

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/internal/wire"
)

// Service is the name of the service whose streams this package speaks on.
const Service = "pheromones.relay"

// MaxPacket bounds a packet of a circuit, in bytes.
const MaxPacket = 1400

const (
	maxFrame  = 2048 // what follows the size of a frame (RL2)
	maxText   = 512  // of a refusal
	maxNumber = 1 << 62
	flagEarly = 1 // of a reservation (RL7)
)

// Kind is what a circuit carries.
type Kind uint8

// The kinds of circuits (RL6).
const (
	Packets Kind = 1 // packets of at most MaxPacket bytes, which may be lost
	Bytes   Kind = 2 // a stream of bytes in each direction
)

// String names the kind.
func (k Kind) String() string {
	switch k {
	case Packets:
		return "packets"
	case Bytes:
		return "bytes"
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// frameType says what a frame is (RL3).
type frameType uint8

const (
	typeReserve  frameType = 1
	typeReserved frameType = 2
	typeRefused  frameType = 3
	typeConnect  frameType = 4
	typeIncoming frameType = 5
	typeAccepted frameType = 6
	typePacket   frameType = 7
)

// frame is what goes over a stream. Which fields there are depends on the type.
type frame struct {
	typ     frameType
	kind    Kind        // connect, incoming
	early   bool        // reserve: calls may bring their first packets along
	circuit uint64      // incoming, accepted
	peer    identity.ID // connect: who is called; incoming: who calls
	seconds uint32      // reserved: how long it holds
	rate    uint64      // reserved: bytes a second in each direction of a circuit; 0: no bound
	bytes   uint64      // reserved: of a circuit in all; 0: no bound
	reason  Reason      // refused
	text    string      // refused
	packet  []byte      // packet; aliases what was parsed
}

// appendFrame appends the frame with its size (RL2).
func appendFrame(b []byte, f frame) []byte {
	at := len(b)
	b = append(b, 0, 0, byte(f.typ))
	switch f.typ {
	case typeReserve:
		flags := byte(0)
		if f.early {
			flags = flagEarly
		}
		b = append(b, flags)
	case typeReserved:
		b = binary.BigEndian.AppendUint32(b, f.seconds)
		b = binary.BigEndian.AppendUint64(b, f.rate)
		b = binary.BigEndian.AppendUint64(b, f.bytes)
	case typeRefused:
		b = binary.BigEndian.AppendUint16(b, uint16(f.reason))
		text := cutText(f.text)
		b = binary.BigEndian.AppendUint16(b, uint16(len(text)))
		b = append(b, text...)
	case typeConnect:
		b = append(append(b, byte(f.kind)), f.peer[:]...)
	case typeIncoming:
		b = binary.BigEndian.AppendUint64(append(b, byte(f.kind)), f.circuit)
		b = append(b, f.peer[:]...)
	case typeAccepted:
		b = binary.BigEndian.AppendUint64(b, f.circuit)
	case typePacket:
		b = append(b, f.packet...)
	}
	binary.BigEndian.PutUint16(b[at:], uint16(len(b)-at-2))
	return b
}

// errMalformed is wrapped by what is wrong with a frame.
var errMalformed = errors.New("relay: malformed frame")

// parseFrame parses what follows the size of a frame. Bytes behind the known fields are skipped; an unknown type is returned as it is.
func parseFrame(b []byte) (frame, error) {
	r := wire.NewReader(b)
	f := frame{typ: frameType(r.Uint8("type"))}
	switch f.typ {
	case typeReserve:
		f.early = r.Uint8("flags")&flagEarly != 0
	case typeReserved:
		f.seconds = r.Uint32("seconds")
		f.rate = r.Uint64("rate")
		f.bytes = r.Uint64("bytes")
		if f.rate > maxNumber || f.bytes > maxNumber {
			r.Fail("limits", "larger than 2^62")
		}
	case typeRefused:
		f.reason = Reason(r.Uint16("reason"))
		n := int(r.Uint16("length of the text"))
		if n > maxText {
			r.Fail("text", "%d bytes, at most %d are allowed", n, maxText)
		}
		f.text = r.Text("text", n)
	case typeConnect, typeIncoming:
		f.kind = Kind(r.Uint8("kind"))
		if f.typ == typeIncoming {
			f.circuit = r.Uint64("circuit")
		}
		copy(f.peer[:], r.Bytes("peer", len(f.peer)))
		if r.Err() == nil && f.peer.IsZero() {
			r.Fail("peer", "the ID is zero")
		}
		if f.kind != Packets && f.kind != Bytes {
			r.Fail("kind", "%d is none", f.kind)
		}
	case typeAccepted:
		f.circuit = r.Uint64("circuit")
	case typePacket:
		f.packet = r.Rest()
		if len(f.packet) == 0 || len(f.packet) > MaxPacket {
			r.Fail("packet", "%d bytes, want 1 to %d", len(f.packet), MaxPacket)
		}
	}
	if err := r.Err(); err != nil {
		return frame{}, fmt.Errorf("%w: %w", errMalformed, err)
	}
	return f, nil
}

// readFrame reads one frame and not a byte more. buf is used for it if it is large enough; the packet aliases it. It returns io.EOF
// if the stream has ended before the first byte.
func readFrame(r io.Reader, buf []byte) (frame, error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		if err == io.ErrUnexpectedEOF {
			err = fmt.Errorf("%w: %w", errMalformed, err)
		}
		return frame{}, err
	}
	n := int(binary.BigEndian.Uint16(head[:]))
	if n == 0 || n > maxFrame {
		return frame{}, fmt.Errorf("%w: %d bytes, want 1 to %d", errMalformed, n, maxFrame)
	}
	if n > len(buf) {
		buf = make([]byte, n)
	}
	if _, err := io.ReadFull(r, buf[:n]); err != nil {
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			err = fmt.Errorf("%w: %w", errMalformed, io.ErrUnexpectedEOF)
		}
		return frame{}, err
	}
	return parseFrame(buf[:n])
}

// The header of a datagram (RL10): which way it goes, and of which circuit it is.
const (
	toRelay    = 1
	fromRelay  = 2
	headerSize = 9
)

// appendHeader appends the header of a datagram.
func appendHeader(b []byte, way byte, circuit uint64) []byte {
	return binary.BigEndian.AppendUint64(append(b, way), circuit)
}

// parseDatagram splits a datagram. It is not ok if it is none of this package's.
func parseDatagram(b []byte) (way byte, circuit uint64, packet []byte, ok bool) {
	if len(b) <= headerSize || len(b) > headerSize+MaxPacket || b[0] != toRelay && b[0] != fromRelay {
		return 0, 0, nil, false
	}
	return b[0], binary.BigEndian.Uint64(b[1:]), b[headerSize:], true
}
