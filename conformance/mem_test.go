package conformance_test

import (
	"os"
	"testing"

	"github.com/Blockchain-CN/pheromones/conformance"
	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/internal/leak"
	"github.com/Blockchain-CN/pheromones/transport"
	"github.com/Blockchain-CN/pheromones/transport/mem"
)

func TestMain(m *testing.M) { os.Exit(leak.Main(m)) }

// overMem is the harness of the in-memory transport.
func overMem() conformance.Transport {
	return conformance.Transport{
		New: func(key identity.Key) (transport.Transport, error) {
			return mem.New(key, nil)
		},
		Listen:  transport.Addr{Scheme: "mem", HostPort: "127.0.0.1:0"},
		Refuses: true,
	}
}

func TestMem(t *testing.T) { conformance.TestTransport(t, overMem()) }
