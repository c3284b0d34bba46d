package conformance_test

import (
	"context"
	"fmt"
	"log"

	"github.com/Blockchain-CN/pheromones"
	"github.com/Blockchain-CN/pheromones/conformance"
	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/transport"
	"github.com/Blockchain-CN/pheromones/transport/mem"
)

// The node would be another's, and the transport one over a network.
func ExampleRunAgainst() {
	key, err := identity.Generate()
	if err != nil {
		log.Fatal(err)
	}
	tr, err := mem.New(key, nil)
	if err != nil {
		log.Fatal(err)
	}
	node, err := pheromones.New(pheromones.Config{Name: "node", Transports: []transport.Transport{tr}})
	if err != nil {
		log.Fatal(err)
	}
	defer node.Close()
	ctx := context.Background()
	if err := node.Start(ctx, "mem://node:0"); err != nil {
		log.Fatal(err)
	}

	err = conformance.RunAgainst(ctx, conformance.Transport{
		New:    func(key identity.Key) (transport.Transport, error) { return mem.New(key, nil) },
		Listen: transport.Addr{Scheme: mem.Scheme},
		Select: func(r conformance.Rule) bool { return r.Clause == "PR23" || r.Clause == "GR5" },
	}, node.Addrs()[0], func(r conformance.Result) { fmt.Println(r.Rule.Clause, r.Rule.Name) })
	fmt.Println(err)
	// Output:
	// PR23 unknown-operation
	// GR5 introduction
	// GR5 impostor
	// <nil>
}
