package quic_test

import (
	"cmp"
	"context"
	"net"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/Blockchain-CN/pheromones/conformance"
	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/quic"
	"github.com/Blockchain-CN/pheromones/transport"
)

func TestConformance(t *testing.T) {
	conformance.TestTransport(t, harness(quic.Config{}))
}

// plain is a packet connection that is no *net.UDPConn, though it uses one.
type plain struct{ net.PacketConn }

// Packet connections of the program's own carry connections as sockets do. Bulk and streams are the same for both.
func TestConformancePlain(t *testing.T) {
	h := harness(quic.Config{HandshakeTimeout: 4 * time.Second, ListenPacket: func(ctx context.Context, network, address string) (net.PacketConn, error) {
		c, err := new(net.ListenConfig).ListenPacket(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return plain{c}, nil
	}})
	h.Refuses = false // nobody asks the system
	h.Select = func(r conformance.Rule) bool {
		return slices.Contains([]string{"AD", "DI", "LI", "EN", "DG", "TU", "MI"}, strings.TrimRight(r.Clause, "0123456789"))
	}
	conformance.TestTransport(t, h)
}

func harness(cfg quic.Config) conformance.Transport {
	cfg.HandshakeTimeout, cfg.IdleTimeout = cmp.Or(cfg.HandshakeTimeout, 10*time.Second), 1500*time.Millisecond
	return conformance.Transport{
		New: func(key identity.Key) (transport.Transport, error) { return quic.New(key, &cfg) },
		Names: func(key identity.Key, names *net.Resolver) (transport.Transport, error) {
			cfg := cfg
			cfg.Resolver = names
			return quic.New(key, &cfg)
		},
		Listen:           transport.Addr{Scheme: "quic", HostPort: "127.0.0.1:0"},
		Network:          "udp",
		Refuses:          runtime.GOOS == "linux", // elsewhere nobody tells us that a port is closed
		HandshakeTimeout: cfg.HandshakeTimeout,
		IdleTimeout:      cfg.IdleTimeout,
	}
}
