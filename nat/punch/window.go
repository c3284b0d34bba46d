package punch

// windowSize is how far below the highest number that has come a packet's may be (PN4). It is a multiple of 64.
const windowSize = 1024

// window tells numbers that have come before. It is a ring of bits: those of the numbers above highest are clear.
type window struct {
	highest uint32
	bits    [windowSize / 64]uint64
}

// fresh reports whether number is new, and notes that it has come. Numbers begin with 1.
func (w *window) fresh(number uint32) bool {
	if number == 0 || number <= w.highest && w.highest-number >= windowSize {
		return false
	}
	if number > w.highest {
		if number-w.highest >= windowSize {
			clear(w.bits[:])
		} else {
			for n := w.highest + 1; n != number; n++ {
				word, bit := place(n)
				w.bits[word] &^= bit
			}
			word, bit := place(number)
			w.bits[word] &^= bit
		}
		w.highest = number
	}
	word, bit := place(number)
	if w.bits[word]&bit != 0 {
		return false
	}
	w.bits[word] |= bit
	return true
}

func place(number uint32) (word uint32, bit uint64) {
	at := number % windowSize
	return at / 64, 1 << (at % 64)
}
