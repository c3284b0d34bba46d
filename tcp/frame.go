package tcp

import (
	"encoding/binary"

	"github.com/Blockchain-CN/pheromones/transport"
)

// The frames of SPEC.md, section "tcp". A frame is a type, a length of three bytes, big endian, and as many bytes.
const (
	frameData   = 0 // bytes of the stream
	frameFin    = 1 // the sender's direction has ended
	frameReset  = 2 // a code: both directions have ended
	frameStop   = 3 // a code: the sender of this reads no more
	frameCredit = 4 // how many more bytes of data the sender of this takes
	frameClose  = 5 // a code and a reason: the connection has ended

	headerLen  = 4
	maxPayload = 16<<10 - headerLen // header and payload fill one TLS record
)

// initialCredit is how many bytes of data a side may send before it gets credit.
const initialCredit = 256 << 10

// maxWindow is how far a side whose reader keeps up lets the credit of its peer grow.
const maxWindow = 4 << 20

func appendHeader(b []byte, typ byte, length int) []byte {
	return append(b, typ, byte(length>>16), byte(length>>8), byte(length))
}

func parseHeader(b *[headerLen]byte) (typ byte, length int) {
	return b[0], int(b[1])<<16 | int(b[2])<<8 | int(b[3])
}

// appendCode appends a frame that carries one number.
func appendCode(b []byte, typ byte, v uint32) []byte {
	return binary.BigEndian.AppendUint32(appendHeader(b, typ, 4), v)
}

func encodeClose(code transport.Code, reason string) []byte {
	b := binary.BigEndian.AppendUint32(appendHeader(nil, frameClose, 4+len(reason)), uint32(code))
	return append(b, reason...)
}

// parseCode reads the number that a frame begins with; longer frames are of a later version.
func parseCode(payload []byte) (v uint32, rest []byte, ok bool) {
	if len(payload) < 4 {
		return 0, nil, false
	}
	return binary.BigEndian.Uint32(payload), payload[4:], true
}
