package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/Blockchain-CN/pheromones/bench/harness"
	"github.com/Blockchain-CN/pheromones/protocol"
)

// dispatchAll measures what one peer costs of a DispatchAll to n.
func dispatchAll(ctx context.Context, n int, d time.Duration) (f harness.Figures, err error) {
	answer := handler(harness.NewAnswer())
	c, err := newCrowd(ctx, n, true, func(int) protocol.Handler { return answer })
	if err != nil {
		return f, err
	}
	defer func() { err = joinClose(err, c) }()
	m := request()
	once := func() error {
		results := c.hub.DispatchAll(ctx, m)
		if len(results) != n {
			return fmt.Errorf("%d peers were asked, want %d", len(results), n)
		}
		for id, r := range results {
			if r.Err != nil {
				return fmt.Errorf("peer %v: %w", id, r.Err)
			}
			if err := harness.CheckReply(r.Reply.Data); err != nil {
				return err
			}
		}
		return nil
	}
	return perPeer(n, d, once)
}

// perPeer calls f for d, and returns what a call has taken for each of n, in µs.
func perPeer(n int, d time.Duration, f func() error) (harness.Figures, error) {
	for warm := time.Now(); ; {
		if err := f(); err != nil {
			return harness.Figures{}, err
		}
		if time.Since(warm) >= d/5 {
			break
		}
	}
	calls, began := 0, time.Now()
	for calls == 0 || time.Since(began) < d {
		if err := f(); err != nil {
			return harness.Figures{}, err
		}
		calls++
	}
	return harness.Figures{Value: time.Since(began).Seconds() * 1e6 / float64(calls*n)}, nil
}

// atOnce is how many broadcasts are under way at once, so that what is measured is work and not delays.
const atOnce = 16

// broadcast measures what one receiver costs of a Broadcast to n: the time until all have it, with several under way.
func broadcast(ctx context.Context, n int, d time.Duration) (f harness.Figures, err error) {
	a := newArrivals(n)
	c, err := newCrowd(ctx, n, true, a.handler)
	if err != nil {
		return f, err
	}
	defer func() { err = joinClose(err, c) }()
	if err := a.gather(ctx, c); err != nil {
		return f, err
	}
	// Each batch is new in its content, so that one of an earlier batch that arrives twice is seen.
	batch := 0
	once := func() error {
		batch++
		all := a.expect(batch, atOnce)
		for range atOnce {
			m := request()
			m.Operation = fmt.Sprint(batch)
			if err := c.hub.Broadcast(ctx, m); err != nil {
				return err
			}
		}
		select {
		case err := <-all:
			return err
		case <-ctx.Done():
			return fmt.Errorf("after batch %d: %w: %s", batch, ctx.Err(), a.missing())
		}
	}
	if err := settle(c, once); err != nil {
		return f, err
	}
	f, err = perPeer(n, d, once)
	f.Value /= atOnce
	return f, err
}

// settle broadcasts until the overlay and its trees are at rest: until several batches in a row bring no duplicates and no neighbours. It
// takes seconds, and does not go on for more than 20.
func settle(c *crowd, once func() error) error {
	const quiet = 8
	same, last := 0, uint64(0)
	for began := time.Now(); same < quiet && time.Since(began) < 20*time.Second; same++ {
		if err := once(); err != nil {
			return err
		}
		var sum uint64
		for _, p := range c.peers {
			f, _ := p.BroadcastFigures()
			sum += f.Duplicates + f.NeighboursJoined
		}
		if sum != last {
			same, last = 0, sum
		}
	}
	return nil
}

// arrivals counts what arrives at n peers.
type arrivals struct {
	answer harness.Answer

	mu      sync.Mutex
	batch   string
	each    int
	got     []int
	joined  []bool
	members int
	done    int // peers that have all
	all     chan error
}

func newArrivals(n int) *arrivals {
	return &arrivals{answer: harness.NewAnswer(), got: make([]int, n), joined: make([]bool, n)}
}

// expect begins a batch. The channel gets nil when all of it is everywhere, or what is wrong.
func (a *arrivals) expect(batch, each int) <-chan error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.batch, a.each, a.done, a.all = fmt.Sprint(batch), each, 0, make(chan error, 1)
	clear(a.got)
	return a.all
}

// join is the operation of broadcasts that are sent until every peer takes part.
const join = "join"

// gather makes all peers take part in broadcasts.
func (a *arrivals) gather(ctx context.Context, c *crowd) error {
	for _, p := range c.peers {
		if err := p.Broadcast(ctx, protocol.Message{Operation: "begin", Data: harness.Request()}); err != nil {
			return err
		}
	}
	for tick := time.Tick(100 * time.Millisecond); ; {
		if err := c.hub.Broadcast(ctx, protocol.Message{Operation: join, Data: harness.Request()}); err != nil {
			return err
		}
		a.mu.Lock()
		n := a.members
		a.mu.Unlock()
		if n == len(a.joined) {
			return nil
		}
		select {
		case <-tick:
		case <-ctx.Done():
			return fmt.Errorf("%d of %d peers take part: %w", n, len(a.joined), ctx.Err())
		}
	}
}

func (a *arrivals) missing() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return fmt.Sprintf("%d of %d peers have all", a.done, len(a.got))
}

// handler is that of one peer.
func (a *arrivals) handler(peer int) protocol.Handler {
	return protocol.HandlerFunc(func(_ context.Context, m protocol.Message) (protocol.Message, error) {
		reply, err := a.answer(m.Data)
		a.mu.Lock()
		defer a.mu.Unlock()
		switch {
		case m.Operation == join:
			if !a.joined[peer] {
				a.joined[peer] = true
				a.members++
			}
			return protocol.Message{}, nil
		case m.Operation == "begin":
			return protocol.Message{}, nil
		case m.Operation == request().Operation: // of newCrowd
			return protocol.Message{Operation: "reply", Data: reply}, err
		case err != nil:
		case m.Operation != a.batch:
			err = fmt.Errorf("peer %d was given one of batch %s in batch %s", peer, m.Operation, a.batch)
		case a.got[peer] == a.each:
			err = fmt.Errorf("peer %d was given more than %d", peer, a.each)
		default:
			a.got[peer]++
			if a.got[peer] < a.each {
				return protocol.Message{}, nil
			}
			if a.done++; a.done < len(a.got) {
				return protocol.Message{}, nil
			}
		}
		select {
		case a.all <- err:
		default:
		}
		return protocol.Message{}, nil
	})
}
