package mux_test

import (
	"net"
	"testing"
	"time"

	"github.com/Blockchain-CN/pheromones/conformance"
	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/mux"
	"github.com/Blockchain-CN/pheromones/transport"
)

func TestConformance(t *testing.T) {
	conformance.TestTransport(t, conformance.Transport{
		New: func(key identity.Key) (transport.Transport, error) { return mux.New(key, nil) },
		Names: func(key identity.Key, names *net.Resolver) (transport.Transport, error) {
			return mux.New(key, &mux.Config{Resolver: names})
		},
		Listen:  transport.Addr{Scheme: mux.Scheme, HostPort: "127.0.0.1:0"},
		Network: "tcp", Refuses: true, ALPN: "pheromones/1",
	})
}

// What silence comes to shows in a test's time if connections are tried often.
func TestConformanceSilence(t *testing.T) {
	conformance.TestTransport(t, conformance.Transport{
		New: func(key identity.Key) (transport.Transport, error) {
			return mux.New(key, &mux.Config{KeepAlive: time.Second})
		},
		Listen:  transport.Addr{Scheme: mux.Scheme, HostPort: "127.0.0.1:0"},
		Network: "tcp", Refuses: true, IdleTimeout: 3 * time.Second,
		Select: func(r conformance.Rule) bool { return r.Clause == "EN5" },
	})
}
