package tcp_test

import (
	"testing"

	"github.com/Blockchain-CN/pheromones/conformance"
	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/tcp"
	"github.com/Blockchain-CN/pheromones/transport"
)

// BenchmarkTransport compares the transport with itself when it remembers no sessions.
func BenchmarkTransport(b *testing.B) {
	conformance.BenchmarkTransport(b, conformance.Transport{
		New:    func(key identity.Key) (transport.Transport, error) { return tcp.New(key, nil) },
		Listen: transport.Addr{Scheme: tcp.Scheme, HostPort: "127.0.0.1:0"},
		Baseline: func(key identity.Key) (transport.Transport, error) {
			return tcp.New(key, &tcp.Config{Sessions: -1})
		},
		BaselineName: "full-handshakes",
	})
}
