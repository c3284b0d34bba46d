//go:build linux && natlab

package natlab

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"testing"

	pion "github.com/pion/stun/v3"

	"github.com/Blockchain-CN/pheromones/nat/stun"
)

// serveSTUN answers at two addresses of a host as RFC 5780 §6.1 says, and returns the first one.
func serveSTUN(t *testing.T, h *Host) netip.AddrPort {
	t.Helper()
	ports := [2]uint16{3478, 3479}
	var sockets [2][2]*net.UDPConn // by IP and port
	at := func(ip, port int) netip.AddrPort { return netip.AddrPortFrom(h.Addrs()[ip], ports[port]) }
	var running sync.WaitGroup
	for ip := range 2 {
		for port := range 2 {
			sockets[ip][port] = listen(t, h, at(ip, port).String())
		}
	}
	for ip := range 2 {
		for port := range 2 {
			running.Go(func() {
				b := make([]byte, 2000)
				for {
					n, from, err := sockets[ip][port].ReadFromUDPAddrPort(b)
					if err != nil {
						return
					}
					m := &pion.Message{Raw: b[:n]}
					if m.Decode() != nil {
						continue
					}
					var change byte
					if v, err := m.Get(pion.AttrChangeRequest); err == nil && len(v) == 4 {
						change = v[3]
					}
					other := at(1-ip, 1-port)
					mapped := &pion.XORMappedAddress{IP: from.Addr().Unmap().AsSlice(), Port: int(from.Port())}
					answer := pion.MustBuild(pion.NewTransactionIDSetter(m.TransactionID), pion.BindingSuccess, mapped,
						&pion.OtherAddress{IP: other.Addr().AsSlice(), Port: int(other.Port())})
					fromIP, fromPort := ip, port
					if stun.Change(change)&stun.ChangeIP != 0 {
						fromIP = 1 - ip
					}
					if stun.Change(change)&stun.ChangePort != 0 {
						fromPort = 1 - port
					}
					sockets[fromIP][fromPort].WriteToUDPAddrPort(answer.Raw, from)
				}
			})
		}
	}
	t.Cleanup(func() {
		for _, s := range sockets {
			s[0].Close()
			s[1].Close()
		}
		running.Wait()
	})
	return at(0, 0)
}

// asker asks over a socket. What comes there and is no answer is in others.
type asker struct {
	*net.UDPConn
	*stun.Prober
	others chan packet
}

type packet struct {
	data string
	from netip.AddrPort
}

func (a asker) WritePacket(b []byte, to netip.AddrPort) error {
	_, err := a.WriteToUDPAddrPort(b, to)
	return err
}

// newAsker opens a socket on a host and a prober that uses it.
func newAsker(t *testing.T, h *Host, cfg *stun.Config) asker {
	t.Helper()
	a := asker{UDPConn: listen(t, h, "0.0.0.0:0"), others: make(chan packet, 10)}
	a.Prober = stun.NewProber(a, cfg)
	var reader sync.WaitGroup
	reader.Go(func() {
		b := make([]byte, 2000)
		for {
			n, from, err := a.ReadFromUDPAddrPort(b)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil && !a.Receive(b[:n], from) {
				select {
				case a.others <- packet{string(b[:n]), from}:
				default:
				}
			}
		}
	})
	t.Cleanup(func() {
		a.Close()
		reader.Wait()
	})
	return a
}
