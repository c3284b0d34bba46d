package portmap

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"
)

// natpmp speaks NAT-PMP (RFC 6886).
type natpmp struct{ udpClient }

func (c natpmp) probe(ctx context.Context, at place) (grant, error) {
	request := []byte{0, 0}
	return c.ask(ctx, at, request, func(answer []byte) (grant, error) { return parseNATPMP(answer, request) })
}

// add asks for the outside address too, which the answer to the request lacks.
func (c natpmp) add(ctx context.Context, at place, w wish) (grant, error) {
	address, err := c.probe(ctx, at)
	if err != nil {
		return grant{}, err
	}
	g, err := c.mapping(ctx, at, w)
	if err != nil {
		return grant{}, err
	}
	g.outside = netip.AddrPortFrom(address.outside.Addr(), g.outside.Port())
	return g, nil
}

// look renews: it costs as little, and needs no trust in the router's epoch.
func (c natpmp) look(ctx context.Context, at place, w wish) (grant, error) { return c.add(ctx, at, w) }

func (c natpmp) remove(ctx context.Context, at place, w wish) error {
	w.lifetime, w.outside = 0, 0
	_, err := c.mapping(ctx, at, w)
	return err
}

func (c natpmp) mapping(ctx context.Context, at place, w wish) (grant, error) {
	request := appendNATPMPMap(nil, w)
	return c.ask(ctx, at, request, func(answer []byte) (grant, error) { return parseNATPMP(answer, request) })
}

// appendNATPMPMap appends a request for a mapping (§3.3); a lifetime of zero ends it.
func appendNATPMPMap(b []byte, w wish) []byte {
	opcode := byte(1)
	if w.network == "tcp" {
		opcode = 2
	}
	b = append(b, 0, opcode, 0, 0)
	b = binary.BigEndian.AppendUint16(b, w.inside)
	b = binary.BigEndian.AppendUint16(b, w.outside)
	return binary.BigEndian.AppendUint32(b, seconds(w.lifetime))
}

// parseNATPMP reads the answer to a request (§3.2, §3.3).
func parseNATPMP(answer, request []byte) (grant, error) {
	size := 16
	if request[1] == 0 {
		size = 12
	}
	switch {
	case len(answer) >= 4 && answer[0] == pcpVersion:
		return grant{}, &RefusedError{1, "it speaks PCP only"}
	case len(answer) < 8 || answer[0] != 0 || answer[1] != request[1]|answerBit:
		return grant{}, errOther
	}
	if code := binary.BigEndian.Uint16(answer[2:]); code != 0 {
		return grant{}, &RefusedError{int(code), natpmpReason(code)}
	}
	if len(answer) != size {
		return grant{}, badAnswer("%d bytes, want %d", len(answer), size)
	}
	var g grant
	if request[1] == 0 {
		g.outside = netip.AddrPortFrom(netip.AddrFrom4([4]byte(answer[8:])), 0)
		return g, nil
	}
	if [2]byte(answer[8:]) != [2]byte(request[4:]) {
		return grant{}, errOther // another port's
	}
	g.lifetime = time.Duration(binary.BigEndian.Uint32(answer[12:])) * time.Second
	g.outside = netip.AddrPortFrom(netip.Addr{}, binary.BigEndian.Uint16(answer[10:]))
	if [4]byte(request[8:]) != [4]byte{} && (g.outside.Port() == 0 || g.lifetime == 0) {
		return grant{}, badAnswer("mapped to port %d for %v", g.outside.Port(), g.lifetime)
	}
	return g, nil
}

// natpmpReason names a result code (§3.5).
func natpmpReason(code uint16) string {
	reasons := [...]string{1: "version not supported", 2: "not authorised", 3: "the router has no network", 4: "the router has no room", 5: "opcode not supported"}
	if int(code) < len(reasons) && reasons[code] != "" {
		return reasons[code]
	}
	return fmt.Sprintf("result code %d", code)
}
