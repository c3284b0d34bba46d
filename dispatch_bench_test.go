package pheromones_test

import (
	"context"
	"sync"
	"testing"

	"github.com/Blockchain-CN/pheromones"
	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/mux"
	"github.com/Blockchain-CN/pheromones/protocol"
	"github.com/Blockchain-CN/pheromones/quic"
	"github.com/Blockchain-CN/pheromones/tcp"
	"github.com/Blockchain-CN/pheromones/transport"
)

// BenchmarkDispatch measures an exchange of 128 bytes with a peer, 64 at once. Allocations are those of both ends.
func BenchmarkDispatch(b *testing.B) {
	for _, scheme := range []string{"tcp", "mux", "quic"} {
		b.Run(scheme, func(b *testing.B) {
			server, client := benchNode(b, scheme), benchNode(b, scheme)
			if err := server.Start(b.Context(), scheme+"://127.0.0.1:0"); err != nil {
				b.Fatal(err)
			}
			addr := server.Addrs()[0]
			if _, err := client.Add(b.Context(), addr.String()); err != nil {
				b.Fatal(err)
			}
			to := addr.Peer.String()
			m := protocol.Message{Operation: "echo", Data: make([]byte, 128)}
			b.ReportAllocs()
			b.ResetTimer()
			const atOnce = 64
			var wg sync.WaitGroup
			for i := range atOnce {
				wg.Go(func() {
					for range (b.N + atOnce - 1 - i) / atOnce {
						if r, err := client.Dispatch(context.Background(), to, m); err != nil || len(r.Data) != 128 {
							b.Errorf("%v", err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "exchanges/s")
		})
	}
}

func benchNode(b *testing.B, scheme string) *pheromones.Node {
	b.Helper()
	key, err := identity.Generate()
	if err != nil {
		b.Fatal(err)
	}
	var tr transport.Transport
	switch scheme {
	case "tcp":
		tr, err = tcp.New(key, nil)
	case "mux":
		tr, err = mux.New(key, nil)
	case "quic":
		tr, err = quic.New(key, nil)
	}
	if err != nil {
		b.Fatal(err)
	}
	n, err := pheromones.New(pheromones.Config{
		Transports: []transport.Transport{tr},
		Handler: protocol.HandlerFunc(func(_ context.Context, m protocol.Message) (protocol.Message, error) {
			return m, nil
		}),
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { n.Close() })
	return n
}
