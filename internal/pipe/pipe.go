// Package pipe has one direction of a stream: a bounded queue of bytes with a reader's and a writer's end, deadlines for
// both, half-close and errors. It starts no goroutine and waits only on [sync.Cond], so it works in testing/synctest.
package pipe

import (
	"errors"
	"io"
	"os"
	"sync"
	"time"
)

// ErrFull is what [Pipe.Push] returns when the queue cannot take all of the bytes.
var ErrFull = errors.New("pipe: full")

// Pipe is a bounded queue of bytes. All methods may be called at once from any goroutine.
type Pipe struct {
	limit int
	ended func() // called once, without mu, when both ends are done

	mu       sync.Mutex
	readable sync.Cond
	writable sync.Cond
	readBy   Deadline
	writeBy  Deadline

	ring       []byte // grows by doubling up to limit
	start, len int

	eof     bool  // nothing comes after what is queued
	readErr error // what reads fail with, before anything that is queued
	// writeErr is what writes fail with.
	writeErr error
	writing  bool // a Write is under way, perhaps waiting for room; others queue behind it

	readerDone, writerDone bool
}

// New returns a pipe that queues at most limit bytes. If ended is not nil it is called once, by whichever call brings it
// about, when the writer's end is closed or broken and the reader's end has seen io.EOF, or is closed or broken.
func New(limit int, ended func()) *Pipe {
	p := &Pipe{limit: limit, ended: ended}
	p.readable.L = &p.mu
	p.writable.L = &p.mu
	return p
}

// Read moves queued bytes to b. It waits until there is one, the end of file, an error, or the deadline.
func (p *Pipe) Read(b []byte) (int, error) {
	p.mu.Lock()
	for {
		switch {
		case p.readErr != nil:
			err := p.readErr
			p.mu.Unlock()
			return 0, err
		case p.readBy.passed:
			p.mu.Unlock()
			return 0, os.ErrDeadlineExceeded
		case len(b) == 0:
			p.mu.Unlock()
			return 0, nil
		case p.len > 0:
			n := p.pop(b)
			p.writable.Broadcast()
			p.mu.Unlock()
			return n, nil
		case p.eof:
			p.readerDone = true
			p.unlock()
			return 0, io.EOF
		}
		p.readable.Wait()
	}
}

// Write queues all of b, in one piece. It waits for room until an error or the deadline, and then says how many bytes
// were queued. b stays the caller's.
func (p *Pipe) Write(b []byte) (n int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.await(func() bool { return !p.writing }); err != nil {
		return 0, err
	}
	p.writing = true
	for err == nil && n < len(b) {
		if err = p.await(func() bool { return p.len < p.limit }); err == nil {
			n += p.push(b[n:])
			p.readable.Broadcast()
		}
	}
	p.writing = false
	p.writable.Broadcast()
	return n, err
}

// await waits for ready, an error or the write deadline, with mu held.
func (p *Pipe) await(ready func() bool) error {
	for {
		switch {
		case p.writeErr != nil:
			return p.writeErr
		case p.writeBy.passed:
			return os.ErrDeadlineExceeded
		case ready():
			return nil
		}
		p.writable.Wait()
	}
}

// Push queues all of b or nothing, without waiting. It fails with [ErrFull] or what [Pipe.Write] would fail with. Bytes for
// a reader that has closed its end are dropped.
func (p *Pipe) Push(b []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.readErr != nil:
		return nil
	case p.writeErr != nil:
		return p.writeErr
	case len(b) > p.limit-p.len:
		return ErrFull
	}
	p.push(b)
	p.readable.Broadcast()
	return nil
}

// CloseWrite lets the reader see io.EOF after what is queued. Writes under way and later ones fail with err.
func (p *Pipe) CloseWrite(err error) {
	p.mu.Lock()
	p.eof = true
	p.failWrites(err)
	p.readable.Broadcast()
	p.unlock()
}

// Break ends both directions of use at once: what is queued is dropped, reads fail with readErr and writes with writeErr,
// unless they fail with something else already. The reader's end of file, once seen, stays.
func (p *Pipe) Break(readErr, writeErr error) {
	p.mu.Lock()
	if p.readErr == nil && !p.readerDone {
		p.readErr = readErr
	}
	p.readerDone = true
	p.ring, p.start, p.len = nil, 0, 0
	p.readBy.Stop()
	p.failWrites(writeErr)
	p.readable.Broadcast()
	p.unlock()
}

// CloseRead ends the reader's end only: what is queued is dropped, reads fail with readErr, and writes fail with writeErr.
// The writer's end is done when the writer closes it.
func (p *Pipe) CloseRead(readErr, writeErr error) {
	p.mu.Lock()
	p.readErr = readErr
	p.readerDone = true
	p.ring, p.start, p.len = nil, 0, 0
	p.readBy.Stop()
	if p.writeErr == nil {
		p.writeErr = writeErr
		p.writable.Broadcast()
	}
	p.readable.Broadcast()
	p.unlock()
}

func (p *Pipe) failWrites(err error) {
	if p.writeErr == nil {
		p.writeErr = err
	}
	p.writerDone = true
	p.writeBy.Stop()
	p.writable.Broadcast()
}

// unlock releases mu and reports the pipe's end if this is it.
func (p *Pipe) unlock() {
	var ended func()
	if p.readerDone && p.writerDone {
		ended, p.ended = p.ended, nil
	}
	p.mu.Unlock()
	if ended != nil {
		ended()
	}
}

// SetReadDeadline bounds reads under way and later ones; the zero time takes the bound away.
func (p *Pipe) SetReadDeadline(t time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.readErr == nil {
		p.readBy.Set(t, &p.readable)
	}
}

// SetWriteDeadline bounds writes under way and later ones; the zero time takes the bound away.
func (p *Pipe) SetWriteDeadline(t time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.writeErr == nil {
		p.writeBy.Set(t, &p.writable)
	}
}

func (p *Pipe) push(b []byte) int {
	b = b[:min(len(b), p.limit-p.len)]
	if len(b) == 0 {
		return 0
	}
	if need := p.len + len(b); need > len(p.ring) {
		size := max(512, 2*len(p.ring))
		for size < need {
			size *= 2
		}
		grown := make([]byte, min(size, p.limit))
		p.peek(grown)
		p.ring, p.start = grown, 0
	}
	end := (p.start + p.len) % len(p.ring)
	n := copy(p.ring[end:], b)
	copy(p.ring, b[n:])
	p.len += len(b)
	return len(b)
}

func (p *Pipe) pop(b []byte) int {
	n := p.peek(b)
	p.start = (p.start + n) % len(p.ring)
	p.len -= n
	if p.len == 0 {
		p.start = 0
	}
	return n
}

func (p *Pipe) peek(b []byte) int {
	b = b[:min(len(b), p.len)]
	if len(b) == 0 {
		return 0
	}
	n := copy(b, p.ring[p.start:])
	copy(b[n:], p.ring)
	return len(b)
}
