//go:build linux && natlab

package natlab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"
)

// newLab returns a lab; where there can be none the test is skipped, unless NATLAB=must is set.
func newLab(t *testing.T) *Lab {
	t.Helper()
	lab, err := New(nil)
	if errors.Is(err, ErrUnavailable) && os.Getenv("NATLAB") != "must" {
		fmt.Fprintf(os.Stderr, "!!! %s IS SKIPPED: %v\n", t.Name(), err)
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { lab.Close() })
	return lab
}

// must is for what cannot fail unless the lab is broken.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// listen opens a UDP socket on a host.
func listen(t *testing.T, h *Host, addr string) *net.UDPConn {
	t.Helper()
	var c *net.UDPConn
	err := h.Do(func() (err error) {
		c, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(addr)))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// TestDelay: a round trip between two hosts takes four times the delay of a link.
func TestDelay(t *testing.T) {
	lab := newLab(t)
	a, b := must(lab.Public()), must(must(lab.Router(NAT{Mapping: Independent})).Host())
	server, client := listen(t, a, "0.0.0.0:1000"), listen(t, b, "0.0.0.0:0")
	var shortest time.Duration = time.Hour
	buf := make([]byte, 2000)
	for range 20 {
		start := time.Now()
		client.WriteToUDPAddrPort([]byte("ping"), netip.AddrPortFrom(a.Addr(), 1000))
		server.SetReadDeadline(start.Add(10 * time.Second))
		n, from, err := server.ReadFromUDPAddrPort(buf)
		if err != nil {
			t.Fatal(err)
		}
		server.WriteToUDPAddrPort(buf[:n], from)
		client.SetReadDeadline(start.Add(10 * time.Second))
		if _, _, err := client.ReadFromUDPAddrPort(buf); err != nil {
			t.Fatal(err)
		}
		shortest = min(shortest, time.Since(start))
	}
	t.Logf("shortest round trip: %v", shortest)
	if shortest < 40*time.Millisecond || shortest > 60*time.Millisecond {
		t.Errorf("the shortest round trip took %v, want 40 ms", shortest)
	}
}
