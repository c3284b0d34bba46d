package portmap

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"
)

// pcpPort is where routers are asked by NAT-PMP and PCP alike.
const pcpPort = 5351

// maxPacket is the largest packet of PCP (RFC 6887 §7).
const maxPacket = 1100

// udpClient speaks PCP or NAT-PMP: packets of one port, and a version in the first byte. port is 5351, but in tests.
type udpClient struct{ port uint16 }

// ask sends a request until an answer has come that parse takes: 250 ms after the first time, twice as long after each later one.
// It returns when that is so, or with ErrNoAnswer when ctx ends or nobody is there. What parse answers with errOther is somebody
// else's: it is waited on.
func (c udpClient) ask(ctx context.Context, at place, request []byte, parse func(answer []byte) (grant, error)) (grant, error) {
	// A connected socket: the kernel lets in what the gateway itself sent, and tells when it has no such port.
	conn, err := net.DialUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(at.local, 0)), net.UDPAddrFromAddrPort(netip.AddrPortFrom(at.gateway, c.port)))
	if err != nil {
		return grant{}, fmt.Errorf("%w: %w", ErrNoAnswer, err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Unix(1, 0)) })()
	b := make([]byte, maxPacket+1)
	for wait := 250 * time.Millisecond; ; wait *= 2 {
		if _, err := conn.Write(request); err != nil {
			return grant{}, fmt.Errorf("%w: %w", ErrNoAnswer, err)
		}
		conn.SetReadDeadline(time.Now().Add(wait))
		if ctx.Err() != nil {
			return grant{}, fmt.Errorf("%w: %w", ErrNoAnswer, context.Cause(ctx))
		}
		for {
			n, err := conn.Read(b)
			var timeout net.Error
			if errors.As(err, &timeout) && timeout.Timeout() {
				break
			}
			if err != nil {
				return grant{}, fmt.Errorf("%w: %w", ErrNoAnswer, err)
			}
			if g, err := parse(b[:n]); err != errOther {
				return g, err
			}
		}
		if ctx.Err() != nil {
			return grant{}, fmt.Errorf("%w: %w", ErrNoAnswer, context.Cause(ctx))
		}
	}
}

// errOther is what a parser says of a packet that does not answer the request.
var errOther = errors.New("not the answer")

// newClients returns what speaks each protocol.
func newClients() [protocols]client {
	return [protocols]client{PCP: pcp{udpClient{pcpPort}}, NATPMP: natpmp{udpClient{pcpPort}}, UPnP: &igd{}}
}
