// All is a node on all three transports at once. It shows what a program that links them all is made of: make size.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"os/signal"

	"github.com/Blockchain-CN/pheromones"
	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/mux"
	"github.com/Blockchain-CN/pheromones/quic"
	"github.com/Blockchain-CN/pheromones/tcp"
	"github.com/Blockchain-CN/pheromones/transport"
)

func main() {
	if err := run(); err != nil {
		log.Fatal(err)
	}
}

func run() error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	key, err := identity.Generate()
	if err != nil {
		return err
	}
	q, err := quic.New(key, nil)
	if err != nil {
		return err
	}
	m, err := mux.New(key, nil)
	if err != nil {
		return err
	}
	t, err := tcp.New(key, nil)
	if err != nil {
		return err
	}
	node, err := pheromones.New(pheromones.Config{Name: "all", Transports: []transport.Transport{q, m, t}})
	if err != nil {
		return err
	}
	defer node.Close()
	if err := node.Start(ctx, "quic://127.0.0.1:0", "mux://127.0.0.1:0", "tcp://127.0.0.1:0"); err != nil {
		return err
	}
	for _, addr := range node.Addrs() {
		fmt.Println(addr)
	}
	if len(os.Args) > 1 && os.Args[1] == "-once" {
		return nil
	}
	<-ctx.Done()
	return nil
}
