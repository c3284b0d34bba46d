package gossip

import (
	"math/rand/v2"
	"testing"
)

// A life remembers what maps would, within its window.
func TestWindow(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for _, window := range []int{64, 128, 1024} {
		var o origin
		seen, keeps, top := make(map[uint64]bool), make(map[uint64]*kept), uint64(0)
		base := func() uint64 {
			if words := uint64(window / 64); top/64+1 > words {
				return (top/64 + 1 - words) * 64
			}
			return 0
		}
		for range 20_000 {
			seq := max(1, top+5-min(random.Uint64N(100), top+4))
			if random.IntN(500) == 0 {
				seq = top + random.Uint64N(3000) + 1
			}
			want := isNew
			switch {
			case top > 0 && seq < base():
				want = isStale
			case seen[seq]:
				want = isSeen
			}
			if got := o.look(7, seq); got != want {
				t.Fatalf("window %d, top %d, seq %d: %v, want %v", window, top, seq, got, want)
			}
			if want == isNew {
				top = max(top, seq)
				seen[seq] = true
				keeps[seq] = &kept{msg: &Message{ID: MessageID{Incarnation: 7, Seq: seq}}, origin: &o}
				l, _ := o.mark(7, seq, window)
				l.insert(keeps[seq])
			}
			l := o.life(7)
			if got := l.find(seq); got != keeps[seq] {
				t.Fatalf("window %d, top %d, seq %d: found %v, want %v", window, top, seq, got, keeps[seq])
			}
			if k := keeps[seq]; k != nil && random.IntN(4) == 0 {
				l.remove(k)
				delete(keeps, seq)
			}
		}
		if len(o.life(7).kept) != len(keeps) {
			t.Errorf("window %d: %d are kept, want %d", window, len(o.life(7).kept), len(keeps))
		}
	}
}
