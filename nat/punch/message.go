package punch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"

	"github.com/Blockchain-CN/pheromones/internal/wire"
)

// Service is the name of the service by whose streams peers exchange [Message]s.
const Service = "pheromones.punch"

// PortService is the name of the service by whose streams peers that are to dial each other's ports exchange [Message]s (PA9, PA10).
const PortService = "pheromones.port"

// Type says what a [Message] is.
type Type byte

// The types of messages (PN1). A receiver skips those it does not know.
const (
	// Offer opens a session: Session, Key, Addrs, Outside and Mapping. It comes from the side that can move the connection.
	Offer Type = 1
	// Answer takes the offer: Session, Addrs, Outside and Mapping.
	Answer Type = 2
	// Moved says that the sender, which moves the connection, sends by Addrs[0] now, or by the relay if there is none.
	Moved Type = 3
	// Follows answers Moved and Ping: Addrs[0] is where the sender's packets go, none if by the relay.
	Follows Type = 4
	// Ping asks for Follows.
	Ping Type = 5
)

const (
	// MaxAddrs bounds the addresses of a message.
	MaxAddrs = 16
	// maxMessage bounds the body of a message.
	maxMessage = 4096
)

// Message is what is said over a stream of [Service].
type Message struct {
	Type    Type
	Session Session
	Key     Key
	Addrs   []netip.AddrPort // 16 at most
	Outside int              // how many of Addrs, the first ones, are those at which the sender is seen from outside
	Mapping Mapping          // of the NAT before the sender
}

// ErrMalformed is what a message that breaks the format fails with.
var ErrMalformed = errors.New("punch: a malformed message")

// Append appends the message to b, as it goes over the stream. Addresses beyond [MaxAddrs] are left out.
func (m Message) Append(b []byte) []byte {
	b = append(b, byte(m.Type), 0, 0)
	start := len(b)
	if m.Type == Offer || m.Type == Answer {
		b = append(b, m.Session[:]...)
	}
	if m.Type == Offer {
		b = append(b, m.Key[:]...)
	}
	if m.Type != Ping {
		addrs := m.Addrs[:min(len(m.Addrs), MaxAddrs)]
		b = append(b, byte(len(addrs)))
		for _, a := range addrs {
			ip := a.Addr().Unmap().WithZone("").AsSlice()
			b = append(b, byte(len(ip)))
			b = append(b, ip...)
			b = binary.BigEndian.AppendUint16(b, a.Port())
		}
		if m.Type == Offer || m.Type == Answer {
			b = append(b, byte(min(max(m.Outside, 0), len(addrs))), byte(m.Mapping))
		}
	}
	binary.BigEndian.PutUint16(b[start-2:], uint16(len(b)-start))
	return b
}

// ParseBody reads the body of a message of the given type. What a later version has added at its end is skipped; one of an unknown
// type is returned with its type only.
func ParseBody(t Type, body []byte) (Message, error) {
	m := Message{Type: t}
	r := wire.NewReader(body)
	switch t {
	case Ping:
		return m, nil
	case Offer, Answer:
		copy(m.Session[:], r.Bytes("session", len(m.Session)))
		if m.Session[0] < 0x80 && r.Err() == nil {
			r.Fail("session", "its highest bit is not set")
		}
		if t == Offer {
			copy(m.Key[:], r.Bytes("key", len(m.Key)))
		}
	case Moved, Follows:
	default:
		return m, nil
	}
	n := int(r.Uint8("number of addresses"))
	if n > MaxAddrs {
		r.Fail("number of addresses", "is %d, want %d at most", n, MaxAddrs)
	}
	for i := 0; i < n && r.Err() == nil; i++ {
		size := int(r.Uint8("length of an address"))
		if size != 4 && size != 16 {
			r.Fail("length of an address", "is %d, want 4 or 16", size)
			break
		}
		ip, _ := netip.AddrFromSlice(r.Bytes("address", size))
		m.Addrs = append(m.Addrs, netip.AddrPortFrom(ip.Unmap(), r.Uint16("port")))
	}
	if t == Offer || t == Answer {
		if m.Outside = int(r.Uint8("number seen from outside")); m.Outside > n {
			r.Fail("number seen from outside", "is %d of %d addresses", m.Outside, n)
		}
		if m.Mapping = Mapping(r.Uint8("mapping")); m.Mapping > DependentMapping {
			m.Mapping = UnknownMapping
		}
	}
	if err := r.Err(); err != nil {
		return Message{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return m, nil
}

// Read reads one message. It fails with [ErrMalformed], or as r does; io.EOF means that r ended between two messages.
func Read(r io.Reader) (Message, error) {
	var head [3]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return Message{}, err
	}
	size := int(binary.BigEndian.Uint16(head[1:]))
	if size > maxMessage {
		return Message{}, fmt.Errorf("%w: it has %d bytes, want %d at most", ErrMalformed, size, maxMessage)
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(r, body); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return Message{}, err
	}
	return ParseBody(Type(head[0]), body)
}
