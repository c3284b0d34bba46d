// Check runs the conformance suite on the transport over WebSockets, as a program and not as a test.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"time"

	"github.com/Blockchain-CN/pheromones/conformance"
	"github.com/Blockchain-CN/pheromones/examples/websocket"
	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/transport"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	cfg := &websocket.Config{HandshakeTimeout: 2 * time.Second}
	err := conformance.CheckTransport(ctx, conformance.Transport{
		New:     func(key identity.Key) (transport.Transport, error) { return websocket.New(key, cfg) },
		Listen:  transport.Addr{Scheme: websocket.Scheme, HostPort: "127.0.0.1:0"},
		Network: "tcp", Refuses: true, HandshakeTimeout: cfg.HandshakeTimeout,
	})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("every rule holds")
}
