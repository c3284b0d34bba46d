package quic

import (
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/net/ipv4"
)

// maxInlet bounds the packets of all tunnels of a socket that quic-go has not taken yet; what comes then is dropped.
const maxInlet = 2048

// inlet is where packets that came by tunnels wait for quic-go, which reads the socket. Whoever puts one where none was wakes the
// reader by a read deadline in the past; while nothing is there, it costs the reader one atomic load a batch.
type inlet struct {
	setDeadline func(time.Time) error // of the socket's reads

	pending atomic.Bool // something is in the queue; changed with mu held
	turn    bool        // belongs to the reader: whose turn it is when there is room for one packet only

	mu       sync.Mutex
	queue    []injected
	deadline time.Time // the read deadline that quic-go wants
}

// injected is a packet that came by a tunnel.
type injected struct {
	data []byte
	from *Tunnel
}

// inject queues a copy of p, unless the tunnel has its share or the whole is full.
func (in *inlet) inject(from *Tunnel, p []byte) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if len(in.queue) >= maxInlet || from.queued >= maxTunnelQueue {
		return
	}
	from.queued++
	in.queue = append(in.queue, injected{append([]byte(nil), p...), from})
	if !in.pending.Load() {
		in.pending.Store(true)
		in.setDeadline(time.Unix(1, 0))
	}
}

// take moves packets from the queue to ms and returns their number.
func (in *inlet) take(ms []ipv4.Message) int {
	in.mu.Lock()
	defer in.mu.Unlock()
	n := min(len(ms), len(in.queue))
	for i, p := range in.queue[:n] {
		p.from.queued--
		ms[i].N, ms[i].NN, ms[i].Flags, ms[i].Addr = copy(ms[i].Buffers[0], p.data), 0, 0, p.from.virtual
	}
	clear(in.queue[:n])
	in.queue = in.queue[n:]
	if len(in.queue) == 0 {
		in.queue = nil
		in.pending.Store(false)
		in.setDeadline(in.deadline)
	}
	return n
}

// calm makes the socket's deadline the one that quic-go wants. Nobody makes it the past again while pending is set.
func (in *inlet) calm() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.setDeadline(in.deadline)
}

// SetReadDeadline sets the deadline that quic-go sees.
func (in *inlet) SetReadDeadline(t time.Time) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.deadline = t
	return in.setDeadline(t)
}

// woken reports whether err is the sign that a packet was injected, rather than a deadline of quic-go's.
func (in *inlet) woken(err error) bool {
	if err == nil || !errors.Is(err, os.ErrDeadlineExceeded) {
		return false
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.deadline.IsZero()
}

// readFrom reads one packet, from the tunnels or by read, which reads from the socket.
func (in *inlet) readFrom(b []byte, read func([]byte) (int, net.Addr, error)) (int, net.Addr, error) {
	for {
		if in.pending.Load() {
			ms := []ipv4.Message{{Buffers: [][]byte{b}}}
			if in.take(ms) == 1 {
				return ms[0].N, ms[0].Addr, nil
			}
		}
		n, from, err := read(b)
		if !in.woken(err) {
			return n, from, err
		}
	}
}

// readBoth reads what there is without waiting, from the socket and the tunnels, so that neither starves the other.
func (c *packetConn) readBoth(ms []ipv4.Message, flags int) int {
	share := len(ms) / 2
	if len(ms) == 1 {
		if c.inlet.turn = !c.inlet.turn; c.inlet.turn {
			share = 1
		}
	}
	n := 0
	if share > 0 {
		c.inlet.calm()
		var err error
		if n, err = c.poll.ReadBatch(ms[:share], flags); err != nil {
			n = 0
			c.readErrors()
		}
	}
	return n + c.inlet.take(ms[n:])
}

// SetReadDeadline sets the deadline that quic-go sees.
func (c *packetConn) SetReadDeadline(t time.Time) error { return c.inlet.SetReadDeadline(t) }

// ReadFrom reads one packet. quic-go calls it where it knows no batches.
func (c *packetConn) ReadFrom(b []byte) (int, net.Addr, error) {
	return c.inlet.readFrom(b, c.UDPConn.ReadFrom)
}

// polled is a UDP socket whose reads do not wait.
type polled struct{ *net.UDPConn }

// SyscallConn is what package ipv4 reads through.
func (c polled) SyscallConn() (syscall.RawConn, error) {
	raw, err := c.UDPConn.SyscallConn()
	return once{raw}, err
}

type once struct{ syscall.RawConn }

// Read calls read once, whether it has read something or not.
func (o once) Read(read func(fd uintptr) (done bool)) error {
	return o.RawConn.Read(func(fd uintptr) bool {
		read(fd)
		return true
	})
}
