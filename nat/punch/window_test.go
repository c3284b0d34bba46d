package punch

import (
	"math/rand/v2"
	"testing"
)

// TestWindow compares the window with a slow twin that remembers everything.
func TestWindow(t *testing.T) { // PN4
	r := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		var w window
		came := make(map[uint32]bool)
		highest, at := uint32(0), uint32(1)
		for range 5000 {
			switch r.IntN(20) {
			case 0:
				at += uint32(r.IntN(3 * windowSize))
			case 1:
				at -= min(at, uint32(r.IntN(2*windowSize)))
			}
			n := at + uint32(r.IntN(40))
			want := n > 0 && !came[n] && (n > highest || highest-n < windowSize)
			if got := w.fresh(n); got != want {
				t.Fatalf("%d after %d: fresh is %v, want %v", n, highest, got, want)
			}
			came[n] = true
			highest = max(highest, n)
		}
	}
	w := window{}
	if !w.fresh(1<<32-1) || w.fresh(1<<32-1) || w.fresh(1) {
		t.Error("the highest number")
	}
}

func TestPermutation(t *testing.T) {
	next := permutation(rand.New(rand.NewPCG(3, 4)))
	seen := make(map[uint16]bool)
	for range 1<<16 - firstGuessable {
		p := next()
		if p < firstGuessable || seen[p] {
			t.Fatalf("port %d again, or too low", p)
		}
		seen[p] = true
	}
	if p := next(); p != 0 {
		t.Errorf("after all of them: %d", p)
	}
}
