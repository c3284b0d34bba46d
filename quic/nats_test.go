package quic_test

import (
	"testing"

	"github.com/Blockchain-CN/pheromones/conformance/nats"
	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/quic"
	"github.com/Blockchain-CN/pheromones/transport"
)

func TestNATs(t *testing.T) {
	nats.Test(t, nats.Harness{Scheme: "quic", New: func(key identity.Key, listen nats.ListenPacket) (transport.Transport, error) {
		return quic.New(key, &quic.Config{ListenPacket: listen})
	}})
}
