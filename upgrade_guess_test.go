package pheromones_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/Blockchain-CN/pheromones/router"
)

// TestGuessedPath: a link whose direct path had to be guessed carries streams as any other does, and uses one further socket at
// most, once the attempt is over.
func TestGuessedPath(t *testing.T) {
	hard, easy := [2]dependence{addressAndPortDependent, addressAndPortDependent}, [2]dependence{independent, addressAndPortDependent}
	for _, tt := range []struct {
		name       string
		natA, natB [2]dependence
		fault      func(x *natWorld)
	}{
		{"the side that dialled is hard, the relays die", hard, easy, func(x *natWorld) { x.relays[0].Close(); x.relays[1].Close() }},
		{"the side that accepted is hard, the relays die", easy, hard, func(x *natWorld) { x.relays[0].Close(); x.relays[1].Close() }},
		{"the side that dialled is hard and rebinds", hard, easy, func(x *natWorld) { x.w.rebind(x.natA) }},
		{"the side that accepted is hard and rebinds", easy, hard, func(x *natWorld) { x.w.rebind(x.natB) }},
		{"the side that dialled is easy and rebinds", easy, hard, func(x *natWorld) { x.w.rebind(x.natA) }},
		{"the side that accepted is easy and rebinds", hard, easy, func(x *natWorld) { x.w.rebind(x.natB) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				x := newNATWorld(t, tt.natA, tt.natB, 2)
				before := x.sockets()
				silence := x.flow(t, 2000, func() {
					x.a.await(t, router.PathChanged)
					time.Sleep(15 * time.Second)
					if n := x.sockets() - before; n != 1 {
						t.Errorf("%d further sockets are open, want 1", n)
					}
					tt.fault(x)
					time.Sleep(30 * time.Second)
					if p := x.a.pathOf(x.b); p != "quic" {
						t.Errorf("30 s later the path is %s, want the direct one", p)
					}
				})
				t.Logf("the longest silence was %v", silence)
				if silence > 1500*time.Millisecond {
					t.Errorf("the longest silence was %v", silence)
				}
				if n := x.sockets() - before; n > 3 {
					t.Errorf("%d further sockets are open", n)
				}
				x.a.Close()
				x.b.Close()
				synctest.Wait()
				if n := x.sockets() - before; n > -2 {
					t.Errorf("with both nodes closed %d further sockets are open", n+2)
				}
			})
		})
	}
}

// sockets returns how many are open.
func (x *natWorld) sockets() int {
	x.w.mu.Lock()
	defer x.w.mu.Unlock()
	return len(x.w.socks)
}

// mappings returns how many a NAT has made.
func (x *natWorld) mappings(n *nat) int {
	x.w.mu.Lock()
	defer x.w.mu.Unlock()
	return len(n.mappings)
}
