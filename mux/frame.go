package mux

import (
	"encoding/binary"
	"fmt"

	"github.com/Blockchain-CN/pheromones/internal/tlsnet"
	"github.com/Blockchain-CN/pheromones/transport"
)

// The frames of yamux (its spec.md): version, type, flags (2 bytes), stream (4), length (4), all big endian.
const (
	headerLen = 12

	typeData   = 0
	typeWindow = 1
	typePing   = 2
	typeGoAway = 3

	flagSYN = 1
	flagACK = 2
	flagFIN = 4
	flagRST = 8
)

// Messages to the connection as a whole: the bodies of data frames of stream 0, which yamux does not use. The first byte is
// the kind.
const (
	kindSettings = 1 // how many streams the peer may have open (4 bytes)
	kindStop     = 2 // a stream and a code (4 bytes each): the sender reads no more of that stream
	kindClose    = 3 // a code (4 bytes) and a reason: the connection has ended
)

const (
	defaultStreams = 1024 // the streams a side may have open when there were no settings
	backlog        = 256  // the streams a side may have open that the other has not accepted yet
	minWindow      = 256 << 10
	maxWindow      = 16 << 20
	maxMessage     = 1 << 10
)

type header struct {
	version, typ   byte
	flags          uint16
	stream, length uint32
}

func parseHeader(b []byte) header {
	return header{
		version: b[0], typ: b[1], flags: binary.BigEndian.Uint16(b[2:]),
		stream: binary.BigEndian.Uint32(b[4:]), length: binary.BigEndian.Uint32(b[8:]),
	}
}

func (h header) append(b []byte) []byte {
	b = append(b, h.version, h.typ)
	b = binary.BigEndian.AppendUint16(b, h.flags)
	b = binary.BigEndian.AppendUint32(b, h.stream)
	return binary.BigEndian.AppendUint32(b, h.length)
}

// body returns how many bytes follow the header.
func (h header) body() int {
	if h.typ == typeData {
		return int(h.length)
	}
	return 0
}

// check returns what is wrong with a header that a peer sent, with a window of ours of so many bytes.
func (h header) check(window uint32) error {
	switch {
	case h.version != 0:
		return tlsnet.ProtocolError(fmt.Sprintf("version %d of yamux, want 0", h.version))
	case h.typ > typeGoAway:
		return tlsnet.ProtocolError(fmt.Sprintf("a yamux frame of type %d", h.typ))
	case h.typ == typeData && h.stream == 0 && h.length > maxMessage:
		return tlsnet.ProtocolError(fmt.Sprintf("a message of %d bytes, more than %d", h.length, maxMessage))
	case h.typ == typeData && h.length > window:
		return tlsnet.ProtocolError(fmt.Sprintf("a data frame of %d bytes, more than the window of %d", h.length, window))
	}
	return nil
}

// resetFrame is yamux's reset with the code where a window update has its length.
func resetFrame(stream uint32, code transport.Code) []byte {
	return header{typ: typeWindow, flags: flagRST, stream: stream, length: uint32(code)}.append(nil)
}

func message(kind byte, numbers []uint32, text string) []byte {
	b := header{typ: typeData, length: uint32(1 + 4*len(numbers) + len(text))}.append(nil)
	b = append(b, kind)
	for _, n := range numbers {
		b = binary.BigEndian.AppendUint32(b, n)
	}
	return append(b, text...)
}

func settingsFrame(streams int) []byte {
	return message(kindSettings, []uint32{uint32(streams)}, "")
}

func stopFrame(stream uint32, code transport.Code) []byte {
	return message(kindStop, []uint32{stream, uint32(code)}, "")
}

func closeFrame(code transport.Code, reason string) []byte {
	return message(kindClose, []uint32{uint32(code)}, reason)
}

// parseMessage reads a message with so many numbers; what follows them is text, or of a later version.
func parseMessage(body []byte, numbers ...*uint32) (text []byte, err error) {
	body = body[1:]
	for _, n := range numbers {
		if len(body) < 4 {
			return nil, tlsnet.ProtocolError("a message to the connection is too short")
		}
		*n = binary.BigEndian.Uint32(body)
		body = body[4:]
	}
	return body, nil
}
