package portmap

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"time"
)

// ssdpPort and ssdpGroup are where UPnP devices are searched for.
const ssdpPort = 1900

var ssdpGroup = netip.AddrFrom4([4]byte{239, 255, 255, 250})

// search asks the gateway for its description by SSDP (UPnP Device Architecture 1.1, §1.3), directly and by the group, and returns
// where it is. It returns at the first answer of the gateway that refers to itself, or with ErrNoAnswer after 3 s or when ctx ends.
// Answers of others are dropped.
func search(ctx context.Context, at place, port uint16) (*url.URL, error) {
	conn, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(at.local, 0)))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoAnswer, err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Unix(1, 0)) })()
	b := make([]byte, 2048)
	for _, wait := range []time.Duration{500 * time.Millisecond, time.Second, 1500 * time.Millisecond} {
		sent := false
		for _, target := range []string{"device:InternetGatewayDevice:1", "device:InternetGatewayDevice:2"} {
			for _, to := range []netip.Addr{at.gateway, ssdpGroup} {
				request := fmt.Appendf(nil, "M-SEARCH * HTTP/1.1\r\nHOST: %s:%d\r\nMAN: \"ssdp:discover\"\r\nMX: 1\r\nST: urn:schemas-upnp-org:%s\r\n\r\n", ssdpGroup, ssdpPort, target)
				if _, err = conn.WriteToUDPAddrPort(request, netip.AddrPortFrom(to, port)); err == nil {
					sent = true
				}
			}
		}
		if !sent {
			return nil, fmt.Errorf("%w: %w", ErrNoAnswer, err)
		}
		conn.SetReadDeadline(time.Now().Add(wait))
		for ctx.Err() == nil {
			n, from, err := conn.ReadFromUDPAddrPort(b)
			var timeout net.Error
			if errors.As(err, &timeout) && timeout.Timeout() {
				break
			}
			if err != nil {
				return nil, fmt.Errorf("%w: %w", ErrNoAnswer, err)
			}
			if from.Addr().Unmap() != at.gateway {
				continue
			}
			if u, ok := location(b[:n], at.gateway); ok {
				return u, nil
			}
		}
		if ctx.Err() != nil {
			return nil, fmt.Errorf("%w: %w", ErrNoAnswer, context.Cause(ctx))
		}
	}
	return nil, ErrNoAnswer
}

// location returns where the description of a device is that has answered a search, if the device itself has it.
func location(answer []byte, device netip.Addr) (*url.URL, bool) {
	r, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(answer)), nil)
	if err != nil {
		return nil, false
	}
	r.Body.Close()
	u, err := url.Parse(r.Header.Get("Location"))
	if err != nil || r.StatusCode != http.StatusOK || u.Scheme != "http" || u.User != nil {
		return nil, false
	}
	host, err := netip.ParseAddr(u.Hostname())
	return u, err == nil && host == device
}
