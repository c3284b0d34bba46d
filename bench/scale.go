package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	pheromones "github.com/Blockchain-CN/pheromones"
	"github.com/Blockchain-CN/pheromones/bench/harness"
	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/protocol"
	"github.com/Blockchain-CN/pheromones/router/gossip"
	"github.com/Blockchain-CN/pheromones/transport"
	"github.com/Blockchain-CN/pheromones/transport/mem"
)

// How costs grow is measured with whole nodes over the transport in memory: what grows is then the nodes' own doing. The "peer" of such
// a measure is a number: of peers, routes or links.

func scale() (list []harness.Measure) {
	add := func(scenario string, run func(ctx context.Context, n int, d time.Duration) (harness.Figures, error), counts ...int) {
		for _, n := range counts {
			list = append(list, harness.Measure{
				Scenario: scenario, Peer: fmt.Sprint(n), Unit: "µs", Less: true, Long: n >= 300 && scenario != "routes",
				Run: func(ctx context.Context, d time.Duration) (harness.Figures, error) { return run(ctx, n, d) },
			})
		}
	}
	add("dispatch-all", dispatchAll, 1, 10, 100, 1000)
	add("broadcast", broadcast, 1, 10, 100, 300)
	add("routes", routes, 10, 100, 1_000, 10_000, 100_000)
	add("links", links, 1, 10, 100, 1000, 5000)
	return list
}

// crowd is a node, and others around it that it has links with.
type crowd struct {
	hub   *pheromones.Node
	peers []*pheromones.Node
}

// newCrowd makes n peers; h answers at each. Those that listen are dialled by the hub, and come to know each other by and by; the others
// dial the hub, and know nobody else.
func newCrowd(ctx context.Context, n int, listen bool, h func(peer int) protocol.Handler) (_ *crowd, err error) {
	c := new(crowd)
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	network := new(mem.Network)
	if c.hub, err = newMember(network, true, handler(harness.NewAnswer())); err != nil {
		return nil, err
	}
	at, m := c.hub.Addrs()[0].String(), request()
	for i := range n {
		p, err := newMember(network, listen, h(i))
		if err != nil {
			return nil, err
		}
		c.peers = append(c.peers, p)
		from, to := p, at
		if listen {
			from, to = c.hub, p.Addrs()[0].String()
		}
		if _, err := from.Dispatch(ctx, to, m); err != nil {
			return nil, err
		}
	}
	calm()
	return c, nil
}

// calm waits until the nodes have told each other of each other: until this process is nearly idle, or 20 s have passed.
func calm() {
	const tick = 100 * time.Millisecond
	for began := time.Now(); time.Since(began) < 20*time.Second; {
		busy := cpuTime()
		time.Sleep(tick)
		if cpuTime()-busy < tick/10 {
			return
		}
	}
}

// unlimited is more than anything here does.
var unlimited = gossip.Rate{PerSecond: 1e6, Burst: 1e6}

func newMember(network *mem.Network, listen bool, h protocol.Handler) (*pheromones.Node, error) {
	key, err := identity.Generate()
	if err != nil {
		return nil, err
	}
	t, err := mem.New(key, &mem.Config{Network: network})
	if err != nil {
		return nil, err
	}
	n, err := pheromones.New(pheromones.Config{
		Transports: []transport.Transport{t}, Handler: h, MaxLinks: 10_000,
		Gossip: gossip.Config{OriginRate: unlimited, PayloadRate: unlimited, ControlRate: unlimited, DisplaceRate: unlimited},
	})
	if err != nil {
		return nil, errors.Join(err, t.Close())
	}
	if !listen {
		return n, nil
	}
	return n, n.Start(context.Background(), mem.Scheme+"://node:0")
}

func (c *crowd) close() error {
	var errs []error
	for _, n := range slices.Concat([]*pheromones.Node{c.hub}, c.peers) {
		if n != nil {
			errs = append(errs, n.Close())
		}
	}
	return errors.Join(errs...)
}

func request() protocol.Message {
	return protocol.Message{Operation: "request", Data: harness.Request()}
}
