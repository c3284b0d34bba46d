package stun

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	pion "github.com/pion/stun/v3"
)

const (
	headerLen = 20
	cookie    = 0x2112A442
	// maxPacket bounds what is looked at. More than 1280 bytes do not come in one packet everywhere (RFC 8489 §6.1).
	maxPacket = 1280
	// requestLen is the size of our requests: room for an answer with three IPv6 addresses and a fingerprint, so that a server that
	// sends no more than it got has no reason to be silent.
	requestLen = headerLen + 3*24 + 8
	// responseLen is the size of the largest answer that a Responder gives: one IPv6 address and a fingerprint.
	responseLen = headerLen + 24 + 8
)

// transactionID is what an answer must repeat (RFC 8489 §5).
type transactionID = [pion.TransactionIDSize]byte

// parse reads a packet that is one whole message: the header's length is that of the packet, and a fingerprint, if there is one, is
// right and at the end. The message refers to a copy.
func parse(packet []byte) (*pion.Message, bool) {
	if len(packet) < headerLen || len(packet) > maxPacket || packet[0]&0xC0 != 0 || binary.BigEndian.Uint32(packet[4:]) != cookie {
		return nil, false
	}
	if n := int(binary.BigEndian.Uint16(packet[2:])); n%4 != 0 || n != len(packet)-headerLen {
		return nil, false
	}
	m := &pion.Message{Raw: slices.Clone(packet)}
	if m.Decode() != nil {
		return nil, false
	}
	for i, a := range m.Attributes {
		if a.Type == pion.AttrFingerprint {
			if i != len(m.Attributes)-1 || pion.Fingerprint.Check(m) != nil {
				return nil, false
			}
		}
	}
	return m, true
}

// build writes a message.
func build(typ pion.MessageType, id transactionID, setters ...pion.Setter) ([]byte, error) {
	m := &pion.Message{Type: typ, TransactionID: id}
	m.WriteHeader()
	for _, s := range setters {
		if err := s.AddTo(m); err != nil {
			return nil, err
		}
	}
	return m.Raw, nil
}

// raw is an attribute as its bytes.
func raw(typ pion.AttrType, value []byte) pion.Setter {
	return pion.RawAttribute{Type: typ, Value: value}
}

// bindingRequest returns a request of requestLen bytes. What makes it so long is SOFTWARE, which servers do not have to understand;
// of PADDING (RFC 5780 §7.6) they do.
func bindingRequest(id transactionID, change Change) ([]byte, error) {
	const name = "pheromones"
	pad := requestLen - headerLen - 4 - 8
	var setters []pion.Setter
	if change != 0 {
		setters = append(setters, raw(pion.AttrChangeRequest, []byte{0, 0, 0, byte(change)}))
		pad -= 8
	}
	software := raw(pion.AttrSoftware, []byte(name+strings.Repeat(" ", pad-len(name))))
	return build(pion.BindingRequest, id, append(setters, software, pion.Fingerprint)...)
}

// bindingSuccess returns the answer to a request that came from an address.
func bindingSuccess(id transactionID, from netip.AddrPort, more ...pion.Setter) ([]byte, error) {
	mapped := &pion.XORMappedAddress{IP: net.IP(from.Addr().Unmap().AsSlice()), Port: int(from.Port())}
	return build(pion.BindingSuccess, id, append([]pion.Setter{mapped}, more...)...)
}

// unknownRequired returns the types of attributes that must be understood (RFC 8489 §14: those below 0x8000) and are not among
// those of RFC 8489, each once.
func unknownRequired(m *pion.Message) (unknown pion.UnknownAttributes) {
	for _, a := range m.Attributes {
		switch a.Type {
		case pion.AttrMappedAddress, pion.AttrUsername, pion.AttrMessageIntegrity, pion.AttrErrorCode, pion.AttrUnknownAttributes, pion.AttrRealm,
			pion.AttrNonce, pion.AttrMessageIntegritySHA256, pion.AttrPasswordAlgorithm, pion.AttrUserhash, pion.AttrXORMappedAddress:
			continue
		}
		if a.Type.Required() && !slices.Contains(unknown, a.Type) {
			unknown = append(unknown, a.Type)
		}
	}
	return unknown
}

// answer is what a response said.
type answer struct {
	mapped, other netip.AddrPort
	refusal       *RefusedError
	err           error // it broke the rules
}

// readAnswer reads a response whose transaction and sender are right.
func readAnswer(m *pion.Message) answer {
	if m.Type.Class == pion.ClassErrorResponse {
		value, err := m.Get(pion.AttrErrorCode)
		if err != nil || len(value) < 4 || value[2]&7 < 3 || value[2]&7 > 6 || value[3] > 99 {
			return answer{err: fmt.Errorf("%w: an error response without a valid ERROR-CODE", ErrBadResponse)}
		}
		return answer{refusal: &RefusedError{Code: int(value[2]&7)*100 + int(value[3]), Reason: reason(value[4:])}}
	}
	if unknown := unknownRequired(m); len(unknown) > 0 {
		return answer{err: fmt.Errorf("%w: it has attributes that must be understood and are not: %s", ErrBadResponse, unknown)}
	}
	var xor pion.XORMappedAddress
	value, err := m.Get(pion.AttrXORMappedAddress)
	if err == nil && !addressLen(value) {
		err = fmt.Errorf("%d bytes", len(value))
	}
	if err == nil {
		err = xor.GetFrom(m)
	}
	mapped := addrPort(xor.IP, xor.Port)
	if err != nil || !isHost(mapped) {
		return answer{err: fmt.Errorf("%w: no valid XOR-MAPPED-ADDRESS", ErrBadResponse)}
	}
	a := answer{mapped: mapped}
	var other pion.OtherAddress
	if value, err := m.Get(pion.AttrOtherAddress); err == nil && addressLen(value) && other.GetFrom(m) == nil {
		if o := addrPort(other.IP, other.Port); isHost(o) {
			a.other = o
		}
	}
	return a
}

// addressLen reports whether an address attribute has the length that its family asks for (RFC 8489 §14.1).
func addressLen(value []byte) bool {
	return len(value) == 8 && value[1] == 1 || len(value) == 20 && value[1] == 2
}

func addrPort(ip net.IP, port int) netip.AddrPort {
	a, _ := netip.AddrFromSlice(ip)
	return netip.AddrPortFrom(a.Unmap(), uint16(port))
}

// isHost reports whether an address can be one host's.
func isHost(a netip.AddrPort) bool {
	ip := a.Addr()
	return ip.IsValid() && a.Port() != 0 && !ip.IsUnspecified() && !ip.IsMulticast() && ip != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// clean is the one form of an address that all comparisons use.
func clean(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

// reason is a server's text made fit for a log: valid, printable, at most 127 characters (RFC 8489 §14.8).
func reason(b []byte) string {
	var out []rune
	for _, r := range strings.ToValidUTF8(string(b), "�") {
		if len(out) == 127 {
			break
		}
		if r < ' ' || r >= 0x7F && r < 0xA0 {
			r = '�'
		}
		out = append(out, r)
	}
	return string(out)
}
