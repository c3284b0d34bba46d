package mux_test

import (
	"testing"

	"github.com/Blockchain-CN/pheromones/conformance"
	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/mux"
	"github.com/Blockchain-CN/pheromones/transport"
)

func TestConformance(t *testing.T) {
	conformance.TestTransport(t, conformance.Transport{
		New:     func(key identity.Key) (transport.Transport, error) { return mux.New(key, nil) },
		Listen:  transport.Addr{Scheme: mux.Scheme, HostPort: "127.0.0.1:0"},
		Network: "tcp", Refuses: true, ALPN: "pheromones/1",
	})
}
