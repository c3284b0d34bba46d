package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/Blockchain-CN/pheromones/bench/harness"
	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/protocol"
	"github.com/Blockchain-CN/pheromones/protocol/greeting"
	"github.com/Blockchain-CN/pheromones/router"
	"github.com/Blockchain-CN/pheromones/transport"
	"github.com/Blockchain-CN/pheromones/transport/mem"
)

func joinClose(err error, c *crowd) error { return errors.Join(err, c.close()) }

// routes measures finding a peer by its ID, and a dispatch to it, in a table of n routes; beside it, finding one by its name.
func routes(ctx context.Context, n int, d time.Duration) (f harness.Figures, err error) {
	network := new(mem.Network)
	peer, err := newMember(network, true, handler(harness.NewAnswer()))
	if err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, peer.Close()) }()
	key, err := identity.Generate()
	if err != nil {
		return f, err
	}
	t, err := mem.New(key, &mem.Config{Network: network})
	if err != nil {
		return f, err
	}
	defer t.Close()
	r, err := router.New(router.Config{
		Transports: []transport.Transport{t}, MaxRoutes: 4 * (n + 1),
		Serve: func(_ context.Context, _ transport.Conn, s transport.Stream) { s.Reset(transport.CodeRefused) },
	})
	if err != nil {
		return f, err
	}
	defer r.Close(transport.CodeShutdown, "")
	id, err := r.Reach(ctx, peer.Addrs()[0])
	if err != nil {
		return f, err
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for i := range n - 1 {
		var id identity.ID
		rand.Read(id[:])
		hint := greeting.Peer{ID: id, Seq: 1, Name: fmt.Sprintf("peer %d", i), Addrs: []transport.Addr{{Scheme: mem.Scheme, HostPort: "nobody:1", Peer: id}}}
		r.Learn(peer.ID(), greeting.Notice{Change: greeting.Arrived, Peer: hint})
	}
	if got := len(r.Routes()); got != n {
		return f, fmt.Errorf("the table has %d routes, want %d", got, n)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)

	to, m := id.String(), request()
	f, err = perPeer(1, d, func() error {
		id, err := r.Resolve(to)
		if err != nil {
			return err
		}
		reply, err := r.Dispatch(ctx, id, m)
		if err != nil {
			return err
		}
		return harness.CheckReply(reply.Data)
	})
	if err != nil {
		return f, err
	}
	f.Extra = map[string]float64{"KiB/route": float64(int64(after.HeapAlloc-before.HeapAlloc)) / 1024 / float64(n)}
	name := fmt.Sprintf("peer %d", n/2)
	byName, err := perPeer(1, d/4, func() error { _, err := r.Resolve(name); return err })
	f.Extra["by name µs"] = byName.Value
	return f, err
}

// links measures dispatches to one peer after the other, of n that have links with the node; beside it, what a link holds and what it
// costs while nothing is said, both ends together.
func links(ctx context.Context, n int, d time.Duration) (f harness.Figures, err error) {
	answer := handler(harness.NewAnswer())
	before, goroutines := harness.Settle()
	c, err := newCrowd(ctx, n, false, func(int) protocol.Handler { return answer })
	if err != nil {
		return f, err
	}
	defer func() { err = joinClose(err, c) }()
	after, goroutinesAfter := harness.Settle()
	busy := cpuTime()
	time.Sleep(d)
	busy = cpuTime() - busy

	ids := make([]string, n)
	for i, p := range c.peers {
		ids[i] = p.ID().String()
	}
	next, m := 0, request()
	f, err = perPeer(1, d, func() error {
		reply, err := c.hub.Dispatch(ctx, ids[next%n], m)
		next++
		if err != nil {
			return err
		}
		return harness.CheckReply(reply.Data)
	})
	f.Extra = map[string]float64{
		"KiB/node": float64(after-before) / 1024 / float64(n), "goroutines/node": float64(goroutinesAfter-goroutines) / float64(n),
		"idle CPU µs/s/node": busy.Seconds() * 1e6 / d.Seconds() / float64(n),
	}
	return f, err
}
