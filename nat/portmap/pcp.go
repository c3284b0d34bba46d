package portmap

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"
)

// pcp speaks PCP, version 2 (RFC 6887).
type pcp struct{ udpClient }

const (
	pcpVersion  = 2
	pcpAnnounce = 0
	pcpMap      = 1
	answerBit   = 0x80 // of the second byte, in both protocols
	pcpHeader   = 24
	pcpMapSize  = pcpHeader + 36
)

func (c pcp) probe(ctx context.Context, at place) (grant, error) {
	request := appendPCP(nil, pcpAnnounce, at.local, 0)
	return c.ask(ctx, at, request, func(answer []byte) (grant, error) { return parsePCP(answer, request) })
}

func (c pcp) add(ctx context.Context, at place, w wish) (grant, error) {
	request := appendPCPMap(nil, at.local, w)
	return c.ask(ctx, at, request, func(answer []byte) (grant, error) { return parsePCP(answer, request) })
}

// look renews: it costs as little, and needs no trust in the router's epoch.
func (c pcp) look(ctx context.Context, at place, w wish) (grant, error) { return c.add(ctx, at, w) }

func (c pcp) remove(ctx context.Context, at place, w wish) error {
	w.lifetime, w.outside = 0, 0
	_, err := c.add(ctx, at, w)
	return err
}

// appendPCP appends the header of a request (§7.1).
func appendPCP(b []byte, opcode byte, local netip.Addr, lifetime time.Duration) []byte {
	b = append(b, pcpVersion, opcode, 0, 0)
	b = binary.BigEndian.AppendUint32(b, seconds(lifetime))
	ip := local.As16()
	return append(b, ip[:]...)
}

// appendPCPMap appends a request for a mapping (§11.1); a lifetime of zero ends it.
func appendPCPMap(b []byte, local netip.Addr, w wish) []byte {
	b = appendPCP(b, pcpMap, local, w.lifetime)
	b = append(b, w.nonce[:]...)
	protocol := byte(17)
	if w.network == "tcp" {
		protocol = 6
	}
	b = append(b, protocol, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, w.inside)
	b = binary.BigEndian.AppendUint16(b, w.outside)
	none := netip.AddrFrom4([4]byte{}).As16() // any outside address, but an IPv4 one
	return append(b, none[:]...)
}

// seconds returns a lifetime as it is sent.
func seconds(d time.Duration) uint32 { return uint32(min(max(0, d/time.Second), 1<<32-1)) }

// parsePCP reads the answer to a request (§7.2, §11.1).
func parsePCP(answer, request []byte) (grant, error) {
	if len(answer) > 1 && answer[0] == 0 && answer[1] >= answerBit {
		return grant{}, &RefusedError{1, "it speaks NAT-PMP only"} // RFC 6886 §3.5
	}
	switch {
	case len(answer) < pcpHeader || len(answer) > maxPacket || len(answer)%4 != 0 || answer[0] != pcpVersion || answer[1] != request[1]|answerBit:
		return grant{}, errOther
	case request[1] == pcpMap && answer[3] == 0 && len(answer) < pcpMapSize:
		return grant{}, badAnswer("%d bytes, want %d", len(answer), pcpMapSize)
	}
	// Nonce, protocol and inside port are the request's (§11.4), in errors too: they copy it.
	if request[1] == pcpMap && len(answer) >= pcpMapSize && !bytes.Equal(answer[pcpHeader:pcpHeader+18], request[pcpHeader:pcpHeader+18]) {
		return grant{}, errOther
	}
	if code := answer[3]; code != 0 {
		return grant{}, &RefusedError{int(code), pcpReason(code)}
	}
	g := grant{lifetime: time.Duration(binary.BigEndian.Uint32(answer[4:])) * time.Second}
	if request[1] != pcpMap || bytes.Equal(request[4:8], make([]byte, 4)) {
		return g, nil // an announcement, or a mapping's end
	}
	port := binary.BigEndian.Uint16(answer[pcpHeader+18:])
	g.outside = netip.AddrPortFrom(netip.AddrFrom16([16]byte(answer[pcpHeader+20:])).Unmap(), port)
	switch {
	case port == 0:
		return grant{}, badAnswer("mapped to port 0")
	case g.lifetime == 0:
		return grant{}, badAnswer("mapped for 0 s")
	case !g.outside.Addr().Is4():
		return grant{}, badAnswer("mapped to %s, want IPv4", g.outside.Addr())
	}
	return g, nil
}

// pcpReason names a result code (§7.4).
func pcpReason(code byte) string {
	reasons := [...]string{
		1: "version not supported", 2: "not authorised", 3: "malformed request", 4: "opcode not supported", 5: "option not supported", 6: "malformed option",
		7: "the router has no network", 8: "the router has no room", 9: "transport protocol not supported", 10: "this host has mapped too much",
		11: "the outside port is taken", 12: "our address was changed on the way: another NAT is in between", 13: "too many peers",
	}
	if int(code) < len(reasons) && reasons[code] != "" {
		return reasons[code]
	}
	return fmt.Sprintf("result code %d", code)
}
