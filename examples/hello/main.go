// Hello is the shortest whole program: two nodes, and one message from one to the other.
package main

import (
	"context"
	"fmt"
	"log"

	"github.com/Blockchain-CN/pheromones"
	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/protocol"
	"github.com/Blockchain-CN/pheromones/quic"
	"github.com/Blockchain-CN/pheromones/transport"
)

func main() {
	ctx := context.Background()
	luda := newNode("luda")
	defer luda.Close()
	yoghurt := newNode("yoghurt")
	defer yoghurt.Close()

	if err := yoghurt.Start(ctx, "quic://127.0.0.1:0"); err != nil {
		log.Fatal(err)
	}
	addr := yoghurt.Addrs()[0].String() // quic://<id>@127.0.0.1:<port>
	reply, err := luda.Dispatch(ctx, addr, protocol.Message{Operation: "hello", Data: []byte("I am luda")})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s says: %s\n", reply.Name, reply.Data)
}

func newNode(name string) *pheromones.Node {
	key, err := identity.Generate()
	if err != nil {
		log.Fatal(err)
	}
	t, err := quic.New(key, nil) // or mux.New, tcp.New, …
	if err != nil {
		log.Fatal(err)
	}
	n, err := pheromones.New(pheromones.Config{
		Name:       name,
		Transports: []transport.Transport{t},
		Handler:    protocol.HandlerFunc(hello),
	})
	if err != nil {
		log.Fatal(err)
	}
	return n
}

func hello(_ context.Context, m protocol.Message) (protocol.Message, error) {
	return protocol.Message{Operation: "hello", Data: []byte("hello, " + m.Name)}, nil
}
