package quic_test

import (
	"runtime"
	"testing"
	"time"

	"github.com/Blockchain-CN/pheromones/conformance"
	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/quic"
	"github.com/Blockchain-CN/pheromones/transport"
)

func TestStack(t *testing.T) {
	conformance.TestStack(t, conformance.Transport{
		New: func(key identity.Key) (transport.Transport, error) {
			return quic.New(key, &quic.Config{HandshakeTimeout: 10 * time.Second})
		},
		Listen:  transport.Addr{Scheme: "quic", HostPort: "127.0.0.1:0"},
		Network: "udp",
		Refuses: runtime.GOOS == "linux", // elsewhere nobody tells us that a port is closed
	})
}
