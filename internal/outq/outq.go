// Package outq has the way out of a connection: a queue of bytes that never makes its callers wait. While one write is under
// way what comes next gathers, and leaves in one piece. While none is, what is written alone leaves at once.
package outq

import (
	"io"
	"runtime"
	"sync"
)

// Prompt is an [io.Writer] that can try to write without waiting.
type Prompt interface {
	io.Writer
	// WriteNow takes all of b, or nothing if it cannot say whether it would have to wait. left says that some of what it took waits for
	// the network: the next Write begins with that, even one of nothing.
	WriteNow(b []byte) (taken, left bool, err error)
}

// Queue gathers bytes for a writer. A goroutine writes them as long as there are any; none runs while the queue is empty.
// All methods may be called at once from any goroutine.
//
// Nothing in Queue bounds it: callers ask [Queue.Room] before they add what can wait, and add what cannot (a few bytes of
// control) without asking.
type Queue struct {
	w      io.Writer
	now    Prompt // w, if it is one
	mark   int
	pool   *Pool
	failed func(error) // called without mu
	run    func()      // write, made once
	polite bool        // see Gather

	mu      sync.Mutex
	idle    sync.Cond // broadcast when writing turns false
	buf     []byte    // whole frames, in order; the pool's if it is large
	spare   []byte    // the buffer of the write before, for reuse
	writing bool      // the writer's goroutine runs, or a Write does its work
	left    bool      // the writer holds something back
	gather  bool      // Writes gathered lately: they had better wait for each other than have a system call each
	writes  int       // how many have gathered in buf
	waiting []func()  // to be called once there is room
	err     error     // what Append returns
	last    func()    // to be called, by the writer's goroutine, when everything is written
}

const (
	retain = 1 << 10   // how large a buffer an idle queue may keep
	large  = 128 << 10 // how large the buffers in a Pool are
	small  = 8 << 10   // what may leave from the goroutine that writes it
)

// Pool has large buffers for the connections that share it: for queues, and for readers in the midst of something. Those
// that have nothing to hold have none, so idle connections cost little and busy ones make little garbage. The zero Pool is
// ready for use, from any goroutine.
type Pool struct{ buffers sync.Pool }

// Get returns an empty buffer for at least n bytes. One above 128 KiB is new and holds n.
func (p *Pool) Get(n int) []byte {
	if n > large {
		return make([]byte, 0, n)
	}
	if b, ok := p.buffers.Get().(*[large]byte); ok {
		return b[:0]
	}
	return new([large]byte)[:0]
}

// Put takes a buffer that is used no more.
func (p *Pool) Put(b []byte) {
	if cap(b) == large {
		p.buffers.Put((*[large]byte)(b[:large]))
	}
}

// New returns a queue that writes to w, has room while fewer than mark bytes wait, and reports the first error of w to failed.
// After an error nothing more is written.
func New(w io.Writer, mark int, pool *Pool, failed func(error)) *Queue {
	q := &Queue{w: w, mark: mark, pool: pool, failed: failed}
	q.idle.L, q.run = &q.mu, q.write
	q.now, _ = w.(Prompt)
	return q
}

// Gather makes the writer's goroutine let the others that are ready to run go first, each time it is about to write: many that add a
// little each then share a write. Where they wait for each other's goroutines anyway, as on a connection, it only costs. It is called
// before anything is added, and returns q.
func (q *Queue) Gather() *Queue {
	q.polite = true
	return q
}

// Append queues the parts, one after the other, and returns at once. It copies them. It fails after [Queue.Close] and after
// an error of the writer.
func (q *Queue) Append(parts ...[]byte) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if err := q.add(parts); err != nil {
		return err
	}
	q.start()
	return nil
}

// Write is Append for what somebody waits for. If nothing else is under way and the network takes it without waiting, it has left when
// Write returns. Unlike Append it must not be called with locks that the queue's callbacks take.
func (q *Queue) Write(parts ...[]byte) error {
	q.mu.Lock()
	if err := q.add(parts); err != nil {
		q.mu.Unlock()
		return err
	}
	if q.now == nil || q.writing || q.gather || len(q.buf) > small {
		q.writes++
		q.start()
		q.mu.Unlock()
		return nil
	}
	q.writing = true
	out := q.buf
	q.buf, q.spare = q.spare[:0], nil
	q.mu.Unlock()
	taken, left, err := q.now.WriteNow(out)
	if err != nil {
		q.fail(err)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case err != nil:
	case !taken:
		q.buf = append(out, q.buf...)
	default:
		q.spare, q.left = out, left
	}
	if q.left || len(q.buf) > 0 || q.last != nil {
		go q.run()
		return nil
	}
	q.rest()
	return nil
}

// add copies the parts to the queue, with mu held.
func (q *Queue) add(parts [][]byte) error {
	if q.err != nil {
		return q.err
	}
	n := len(q.buf)
	for _, p := range parts {
		n += len(p)
	}
	if n > retain && n > cap(q.buf) {
		size := n
		if size > large {
			size *= 2
		}
		grown := append(q.pool.Get(size), q.buf...)
		q.pool.Put(q.buf)
		q.buf = grown
	}
	for _, p := range parts {
		q.buf = append(q.buf, p...)
	}
	return nil
}

// start makes sure that the writer's goroutine runs, with mu held.
func (q *Queue) start() {
	if !q.writing {
		q.writing = true
		go q.run()
	}
}

// Room reports whether less than the mark is queued. If not, it will call wake once when there is, or when the queue has
// ended. wake is called without locks and must not block; it may be called when there is room no longer.
func (q *Queue) Room(wake func()) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.buf) < q.mark || q.err != nil {
		return true
	}
	q.waiting = append(q.waiting, wake)
	return false
}

// Full reports whether there is no room.
func (q *Queue) Full() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.buf) >= q.mark && q.err == nil
}

// Close drops what has not begun to be written, queues final behind the rest and ends the queue: Append now fails with err.
// When final is written, or cannot be, last is called. Only the first call counts.
func (q *Queue) Close(err error, final []byte, last func()) {
	q.end(err, last, func() { q.buf = append(q.buf[:0], final...) })
}

// Finish is Close without dropping anything.
func (q *Queue) Finish(err error, last func()) { q.end(err, last, func() {}) }

func (q *Queue) end(err error, last func(), edit func()) {
	q.mu.Lock()
	if q.last != nil {
		q.mu.Unlock()
		return
	}
	q.last = last
	if q.err == nil {
		q.err = err
		edit()
	}
	waiting := q.waiting
	q.waiting = nil
	q.start()
	q.mu.Unlock()
	wakeAll(waiting)
}

// Wait returns when nothing is queued or being written.
func (q *Queue) Wait() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.writing {
		q.idle.Wait()
	}
}

// write is the writer's goroutine.
func (q *Queue) write() {
	q.mu.Lock()
	for q.left || len(q.buf) > 0 {
		if q.polite {
			q.mu.Unlock()
			runtime.Gosched()
			q.mu.Lock()
		}
		var out []byte
		if !q.left {
			out = q.buf
			q.buf, q.spare = q.spare[:0], nil
			q.gather, q.writes = q.writes > 1, 0
		}
		q.left = false
		waiting := q.waiting
		q.waiting = nil
		q.mu.Unlock()
		wakeAll(waiting)
		_, err := q.w.Write(out)
		if err != nil {
			q.fail(err)
			q.mu.Lock()
			break
		}
		q.mu.Lock()
		if out != nil {
			q.spare = out
		}
	}
	last := q.last
	if last != nil {
		q.last = func() {}
	}
	q.mu.Unlock()
	if last != nil {
		last()
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.buf) > 0 {
		go q.run()
		return
	}
	q.rest()
}

// rest ends writing, with mu held, and lets go of what an idle queue may not keep.
func (q *Queue) rest() {
	if cap(q.buf) > retain {
		q.pool.Put(q.buf)
		q.buf = nil
	}
	if cap(q.spare) > retain {
		q.pool.Put(q.spare)
		q.spare = nil
	} else if cap(q.buf) == 0 {
		q.buf, q.spare = q.spare[:0], nil
	}
	q.writing = false
	q.idle.Broadcast()
}

func (q *Queue) fail(err error) {
	q.mu.Lock()
	if q.err == nil {
		q.err = err
	}
	q.buf = nil
	waiting := q.waiting
	q.waiting = nil
	q.mu.Unlock()
	wakeAll(waiting)
	q.failed(err)
}

func wakeAll(waiting []func()) {
	for _, wake := range waiting {
		wake()
	}
}
