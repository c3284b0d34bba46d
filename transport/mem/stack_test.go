package mem_test

import (
	"testing"

	"github.com/Blockchain-CN/pheromones/conformance"
	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/transport"
	"github.com/Blockchain-CN/pheromones/transport/mem"
)

func TestStack(t *testing.T) {
	conformance.TestStack(t, conformance.Transport{
		New:     func(key identity.Key) (transport.Transport, error) { return mem.New(key, nil) },
		Listen:  transport.Addr{Scheme: "mem", HostPort: "127.0.0.1:0"},
		Refuses: true,
	})
}
