package tcp_test

import (
	"net"
	"testing"

	"github.com/Blockchain-CN/pheromones/conformance"
	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/tcp"
	"github.com/Blockchain-CN/pheromones/transport"
)

func TestConformance(t *testing.T) {
	conformance.TestTransport(t, conformance.Transport{
		New: func(key identity.Key) (transport.Transport, error) { return tcp.New(key, nil) },
		Names: func(key identity.Key, names *net.Resolver) (transport.Transport, error) {
			return tcp.New(key, &tcp.Config{Resolver: names})
		},
		Listen:  transport.Addr{Scheme: tcp.Scheme, HostPort: "127.0.0.1:0"},
		Network: "tcp", Refuses: true, ALPN: "pheromones-short/1",
	})
}
