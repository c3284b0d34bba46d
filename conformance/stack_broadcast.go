package conformance

import (
	"context"

	"github.com/Blockchain-CN/pheromones"
	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/protocol"
)

// told is a broadcast that came to a handler.
type told struct {
	by   identity.ID
	what string
}

// listening returns a node that broadcasts, and what its handler is told.
func (e *env) listening(name string) (*stackNode, chan told) {
	heard := make(chan told, 64)
	key := e.key()
	return e.stackOf(key, name, protocol.HandlerFunc(func(ctx context.Context, m protocol.Message) (protocol.Message, error) {
		select {
		case heard <- told{m.From, string(m.Data)}:
		case <-ctx.Done():
		}
		return protocol.Message{}, nil
	}), func(c *pheromones.Config) { c.Sign = key.Sign }), heard
}

func broadcastOnce(e *env) {
	a, atA := e.listening("a")
	b, atB := e.listening("b")
	c, atC := e.listening("c")
	a.add(b)
	c.add(b)
	e.must(a.Broadcast(e.ctx, protocol.Message{Operation: "news", Data: []byte("of a")}), "Broadcast")
	e.must(c.Broadcast(e.ctx, protocol.Message{Operation: "news", Data: []byte("of c")}), "Broadcast")
	e.must(a.Broadcast(e.ctx, protocol.Message{Operation: "news", Data: []byte("last of a")}), "Broadcast")
	e.must(c.Broadcast(e.ctx, protocol.Message{Operation: "news", Data: []byte("last of c")}), "Broadcast")
	all := map[told]int{{a.ID(), "of a"}: 0, {c.ID(), "of c"}: 0, {a.ID(), "last of a"}: 0, {c.ID(), "last of c"}: 0}
	for n, heard := range map[*stackNode]chan told{a: atA, b: atB, c: atC} {
		due := len(all)
		counts := make(map[told]int)
		for m := range all {
			if m.by == n.ID() {
				due--
			}
		}
		for len(counts) < due {
			counts[receive(e, "broadcasts arrive", heard)]++
		}
		for m, times := range counts {
			if _, sent := all[m]; !sent || m.by == n.ID() || times != 1 {
				e.errorf("node %s was told %q of %s %d times, which should be once, and of others only", n.Name(), m.what, m.by, times)
			}
		}
	}
}
