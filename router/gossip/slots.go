package gossip

import (
	"iter"
	"math/bits"
)

// maxSlots is how many neighbours there can be: each has a slot, whose bit stands for it in a set.
const maxSlots = 16

// set is a set of slots.
type set uint16

func (s set) has(slot int) bool { return slot >= 0 && s&(1<<slot) != 0 }
func (s set) count() int        { return bits.OnesCount16(uint16(s)) }
func (s *set) add(slot int) {
	if slot >= 0 {
		*s |= 1 << slot
	}
}
func (s *set) remove(slot int) {
	if slot >= 0 {
		*s &^= 1 << slot
	}
}

// all yields the slots in the set as it is at the start.
func (s set) all() iter.Seq[int] {
	return func(yield func(int) bool) {
		for s != 0 {
			if !yield(bits.TrailingZeros16(uint16(s))) {
				return
			}
			s &= s - 1
		}
	}
}

// nth returns the nth slot of the set, from 0.
func (s set) nth(n int) int {
	for slot := range s.all() {
		if n == 0 {
			return slot
		}
		n--
	}
	return -1
}
