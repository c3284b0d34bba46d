package outq

import (
	"bytes"
	"errors"
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

// moody is a Prompt that now and then takes nothing, or holds some of what it takes back until the next Write.
type moody struct {
	slowWriter
	r    *rand.Rand
	held []byte
	now  int // how often WriteNow has taken something
	fail error
}

func (w *moody) Write(p []byte) (int, error) {
	w.got.Write(w.held)
	w.held = nil
	return w.slowWriter.Write(p)
}

func (w *moody) WriteNow(p []byte) (taken, left bool, err error) {
	switch w.r.IntN(4) {
	case 0:
		return false, false, nil
	case 1:
		n := w.r.IntN(len(p))
		w.got.Write(p[:n])
		w.held = bytes.Clone(p[n:])
		return true, true, w.fail
	}
	w.now++
	w.got.Write(p)
	return true, false, w.fail
}

// TestWriteNow has goroutines write and append to a queue at once. What each has given must leave whole and in its order, whoever writes
// it.
func TestWriteNow(t *testing.T) {
	const writers, times = 4, 2000
	w := &moody{r: rand.New(rand.NewPCG(1, 2))}
	q := New(w, 64<<10, new(Pool), func(err error) { t.Error(err) })
	var all sync.WaitGroup
	for i := range writers {
		all.Go(func() {
			r := rand.New(rand.NewPCG(3, uint64(i)))
			for n := range times {
				part := []byte{byte(i), byte(n), byte(n >> 8)}
				add := q.Write
				if r.IntN(4) == 0 {
					add = q.Append
				}
				if err := add(part[:1], part[1:]); err != nil {
					t.Error(err)
				}
				if r.IntN(50) == 0 {
					q.Wait()
				}
			}
		})
	}
	all.Wait()
	last := make(chan struct{})
	q.Finish(errors.New("over"), func() { close(last) })
	<-last
	if len(w.held) > 0 {
		t.Fatalf("%d bytes are held back for ever", len(w.held))
	}
	got := w.got.Bytes()
	var next [writers]int
	for ; len(got) >= 3; got = got[3:] {
		i, n := int(got[0]), int(got[1])|int(got[2])<<8
		if i >= writers || n != next[i] {
			t.Fatalf("writer %d: part %d, want %v", i, n, next)
		}
		next[i]++
	}
	for i, n := range next {
		if n != times {
			t.Errorf("writer %d: %d parts left, want %d", i, n, times)
		}
	}
	if w.now == 0 {
		t.Error("nothing left at once")
	}
}

// TestWriteNowFails has the network fail under a Write: the queue tells it once, and takes no more.
func TestWriteNowFails(t *testing.T) {
	broken := errors.New("broken")
	var failures []error
	q := New(&moody{r: rand.New(rand.NewPCG(1, 2)), fail: broken}, 64<<10, new(Pool), func(err error) { failures = append(failures, err) })
	for range 10 {
		q.Write([]byte{1})
		q.Wait()
	}
	if len(failures) != 1 || failures[0] != broken {
		t.Errorf("the queue told of %v, want one %v", failures, broken)
	}
	if err := q.Write([]byte{1}); err != broken {
		t.Errorf("Write: got %v, want %v", err, broken)
	}
	last := false
	q.Close(errors.New("over"), []byte{2}, func() { last = true })
	q.Wait()
	if !last {
		t.Error("the end of the queue was not told")
	}
}
