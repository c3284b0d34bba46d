package websocket_test

import (
	"testing"
	"time"

	"github.com/Blockchain-CN/pheromones/conformance"
	"github.com/Blockchain-CN/pheromones/examples/websocket"
	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/transport"
)

func harness() conformance.Transport {
	cfg := &websocket.Config{HandshakeTimeout: 10 * time.Second}
	return conformance.Transport{
		New:     func(key identity.Key) (transport.Transport, error) { return websocket.New(key, cfg) },
		Listen:  transport.Addr{Scheme: websocket.Scheme, HostPort: "127.0.0.1:0"},
		Network: "tcp", Refuses: true, HandshakeTimeout: cfg.HandshakeTimeout,
	}
}

func TestConformance(t *testing.T)    { conformance.TestTransport(t, harness()) }
func TestStack(t *testing.T)          { conformance.TestStack(t, harness()) }
func BenchmarkTransport(b *testing.B) { conformance.BenchmarkTransport(b, harness()) }
