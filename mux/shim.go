package mux

import (
	"io"
	"runtime"

	"github.com/Blockchain-CN/pheromones/internal/outq"
)

// shim is the connection that yamux reads and writes. It stands between yamux and TLS and sees every frame.
//
// Towards the network it never makes yamux wait: frames go to a queue. (A yamux that waits holds up every stream, and its
// OpenStream, Close and deadlines with them.) Streams bound the queue by asking it for room first.
//
// From the network it hands yamux whole frames only: yamux locks a stream while it reads the body of a frame, and a reader
// with a deadline would wait for that lock as long as the network holds the rest back.
type shim struct {
	c *conn

	// Of yamux's sending goroutine.
	held [headerLen]byte // a data header whose body comes with the next Write
	hold bool

	// Of yamux's receiving goroutine.
	small [smallBuffer]byte
	pool  *outq.Pool // of larger buffers
	buf   []byte     // small, the pool's, or of a single frame; buf[from:to] came from the network and waits
	from  int
	to    int
	pass  int   // so many bytes at from are for yamux
	whole int   // frames that came since the network was read
	err   error // what ends reading
}

// Write takes a header, or the body for the header before.
func (s *shim) Write(p []byte) (int, error) {
	// An error of the queue is one of the connection, which ends by itself; until it has, yamux must not cut its last words.
	switch {
	case s.hold:
		s.hold = false
		s.c.Out.Append(s.held[:], p)
	default:
		h := parseHeader(p)
		if h.flags&flagSYN != 0 {
			s.c.opening(h.stream)
		}
		if s.hold = h.body() > 0; s.hold {
			copy(s.held[:], p)
		} else {
			s.c.Out.Append(p)
		}
	}
	return len(p), nil
}

// Read gives yamux frames that are whole, as many as p holds, or a part of one if p is smaller.
func (s *shim) Read(p []byte) (n int, err error) {
	for n == 0 {
		if s.err != nil {
			return 0, s.err
		}
		for n < len(p) && (s.pass > 0 || s.look()) {
			m := copy(p[n:], s.buf[s.from:s.from+s.pass])
			s.from += m
			s.pass -= m
			n += m
		}
		if n == 0 && s.err == nil {
			if s.whole == 1 {
				// Whoever the frame is for goes first, on this processor. It would otherwise wait until the network was found to have
				// nothing more, or for another processor to be woken.
				runtime.Gosched()
			}
			s.whole = 0
			s.err = s.fill()
		}
	}
	return n, nil
}

// look goes through the frames at from until it finds a whole one for yamux, and reports whether there is one.
func (s *shim) look() bool {
	for s.err == nil && s.to-s.from >= headerLen {
		h := parseHeader(s.buf[s.from:])
		if err := h.check(s.c.cfg.window()); err != nil {
			s.err = s.stop(err)
			return false
		}
		size := headerLen + h.body()
		if s.to-s.from < size {
			return false
		}
		s.whole++
		frame := s.buf[s.from : s.from+size]
		wanted, err := s.c.inspect(h, frame)
		if err != nil {
			s.err = s.stop(err)
			return false
		}
		if wanted {
			s.pass = size
			return true
		}
		s.from += size
	}
	return false
}

const (
	smallBuffer = 512      // what a connection waits with when nothing has come
	largeBuffer = 64 << 10 // what one works with in the midst of a frame; longer frames get longer ones
)

// fill reads from the network, once, behind what waits. A connection on which nothing is under way has a small buffer only.
// (To read the rest of a record with another costs no system call.)
func (s *shim) fill() error {
	waiting := s.to - s.from
	size := smallBuffer
	if waiting > 0 {
		size = largeBuffer
	}
	if waiting >= headerLen {
		size = max(size, headerLen+parseHeader(s.buf[s.from:]).body())
	}
	switch old := s.buf; {
	case waiting == 0:
		s.buf = s.small[:]
		s.pool.Put(old)
	case size > len(s.buf):
		s.buf = s.pool.Get(size)
		s.buf = s.buf[:cap(s.buf)]
		copy(s.buf, old[s.from:s.to])
		s.pool.Put(old)
	case s.from > 0:
		copy(s.buf, s.buf[s.from:s.to])
	}
	s.from, s.to = 0, waiting
	n, err := s.c.Raw.Read(s.buf[s.to:])
	s.to += n
	if err != nil && n == 0 {
		return s.stop(err)
	}
	return nil
}

// stop ends the connection because of err, and returns what yamux is to be told.
func (s *shim) stop(err error) error {
	s.c.Stopped(err)
	return io.EOF
}

// Close is called by yamux when its session ends. The connection closes the network itself, after its last words.
func (s *shim) Close() error {
	s.c.sessionEnded()
	return nil
}

var _ io.ReadWriteCloser = (*shim)(nil)
