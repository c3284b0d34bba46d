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
	luda, yoghurt := newNode("luda"), newNode("yoghurt")
	defer luda.Close()
	defer yoghurt.Close()

	if err := yoghurt.Start(ctx, "quic://127.0.0.1:0"); err != nil {
		log.Fatal(err)
	}
	addr := yoghurt.Addrs()[0].String() // "quic://<id>@127.0.0.1:<port>"
	reply := must(luda.Dispatch(ctx, addr, protocol.Message{Operation: "hello"}))
	fmt.Printf("%s says: %s\n", reply.Name, reply.Data)
}

func newNode(name string) *pheromones.Node {
	key := must(identity.Generate())
	return must(pheromones.New(pheromones.Config{
		Name:       name,
		Transports: []transport.Transport{must(quic.New(key, nil))}, // or mux.New, tcp.New, your own
		Handler:    protocol.HandlerFunc(greet),
	}))
}

func greet(_ context.Context, m protocol.Message) (protocol.Message, error) {
	return protocol.Message{Operation: "hello", Data: []byte("hello, " + m.Name)}, nil
}

func must[T any](v T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return v
}
