package outq

import (
	"bytes"
	"math/rand/v2"
	"sync"
	"testing"
)

// slowWriter keeps what it is given, a part at a time, so that others may use what is not theirs meanwhile.
type slowWriter struct{ got bytes.Buffer }

func (w *slowWriter) Write(p []byte) (int, error) {
	for part := p; len(part) > 0; {
		n := min(len(part), 10<<10)
		w.got.Write(part[:n])
		part = part[n:]
	}
	return len(p), nil
}

// TestPool has queues that share buffers, and looks whether each writes its own bytes, whatever their sizes.
func TestPool(t *testing.T) {
	const queues, appends = 8, 300
	pool := new(Pool)
	var all sync.WaitGroup
	for i := range queues {
		all.Go(func() {
			w := new(slowWriter)
			q := New(w, 64<<10, pool, func(err error) { t.Error(err) })
			r := rand.New(rand.NewPCG(7, uint64(i)))
			var want []byte
			for range appends {
				size := r.IntN(200)
				switch r.IntN(20) {
				case 0:
					size = r.IntN(100 << 10)
				case 1:
					size = large + r.IntN(large)
				case 2:
					q.Wait() // it gives its buffers back
				}
				part := bytes.Repeat([]byte{byte(r.IntN(256))}, size)
				want = append(want, part...)
				if err := q.Append(part[:size/2], part[size/2:]); err != nil {
					t.Error(err)
				}
				clear(part) // Append has copied it
			}
			q.Wait()
			if !bytes.Equal(w.got.Bytes(), want) {
				t.Errorf("queue %d: %d bytes, want %d, or others", i, w.got.Len(), len(want))
			}
		})
	}
	all.Wait()
}

// TestIdleQueueIsSmall looks at what a queue keeps when it has nothing to write.
func TestIdleQueueIsSmall(t *testing.T) {
	q := New(new(slowWriter), 64<<10, new(Pool), func(err error) { t.Error(err) })
	for _, size := range []int{1, 500, 5000, 50 << 10, 500 << 10} {
		q.Append(make([]byte, size))
		q.Wait()
		if kept := cap(q.buf) + cap(q.spare); kept > 2*retain {
			t.Errorf("after %d bytes it keeps %d", size, kept)
		}
	}
}
