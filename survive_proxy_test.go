package pheromones_test

import (
	"context"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/Blockchain-CN/pheromones/transport"
)

// badNetwork stands between a listener and those who dial it. It brings bytes late, loses packets, and cuts every connection
// after a while.
type badNetwork struct {
	addr string        // where to dial
	life time.Duration // how long a connection lives, on average; 0 is for ever

	mu     sync.Mutex
	target string // where the listener is
	closed bool
	cuts   int
	muted  int // how often it was made to swallow all that the connections of the time send, from then on
	ends   map[net.Conn]struct{}
	wg     sync.WaitGroup
}

func (n *badNetwork) lifetime() time.Duration {
	return time.Duration(rand.ExpFloat64() * float64(n.life))
}

// keep registers what is closed at the end; it reports false after that.
func (n *badNetwork) keep(c net.Conn) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		c.Close()
		return false
	}
	n.ends[c] = struct{}{}
	return true
}

func (n *badNetwork) drop(c net.Conn) {
	c.Close()
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.ends, c)
}

// mute makes all the connections there are go silent for ever. Nobody is told.
func (n *badNetwork) mute() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.muted++
}

func (n *badNetwork) mutes() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.muted
}

// to returns where the listener is.
func (n *badNetwork) to() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.target
}

func (n *badNetwork) cutCount() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.cuts
}

// newBadNetwork makes one for TCP, or for QUIC if udp is set. Its target is set before anybody dials.
func newBadNetwork(t testing.TB, udp bool, life time.Duration) *badNetwork {
	t.Helper()
	n := &badNetwork{life: life, ends: make(map[net.Conn]struct{})}
	var stop func() error
	if udp {
		c, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		c.SetReadBuffer(4 << 20)
		n.addr, stop = c.LocalAddr().String(), c.Close
		n.wg.Go(func() { n.packets(c) })
	} else {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		n.addr, stop = l.Addr().String(), l.Close
		n.wg.Go(func() { n.streams(l) })
	}
	t.Cleanup(func() {
		stop()
		n.mu.Lock()
		n.closed = true
		for c := range n.ends {
			c.Close()
		}
		n.mu.Unlock()
		n.wg.Wait()
	})
	return n
}

func (n *badNetwork) streams(l net.Listener) {
	for {
		near, err := l.Accept()
		if err != nil {
			return
		}
		n.wg.Go(func() {
			far, err := net.Dial("tcp", n.to())
			if err != nil {
				near.Close()
				return
			}
			if !n.keep(near) || !n.keep(far) {
				near.Close()
				far.Close()
				return
			}
			end := sync.OnceFunc(func() { n.drop(near); n.drop(far) })
			defer end()
			if n.life > 0 {
				cut := time.AfterFunc(n.lifetime(), func() {
					n.mu.Lock()
					n.cuts++
					n.mu.Unlock()
					if rand.IntN(2) == 0 {
						near.(*net.TCPConn).SetLinger(0)
						far.(*net.TCPConn).SetLinger(0)
					}
					end()
				})
				defer cut.Stop()
			}
			muted := n.mutes()
			var wg sync.WaitGroup
			for _, way := range [][2]net.Conn{{near, far}, {far, near}} {
				wg.Go(func() {
					b := make([]byte, 32<<10)
					for {
						m, err := way[0].Read(b)
						if rand.IntN(50) == 0 {
							time.Sleep(time.Duration(rand.IntN(5)) * time.Millisecond)
						}
						if err == nil && n.mutes() == muted {
							_, err = way[1].Write(b[:m])
						}
						if err != nil {
							way[1].(*net.TCPConn).CloseWrite()
							return
						}
					}
				})
			}
			wg.Wait()
		})
	}
}

// packets carries QUIC. A cut makes all connections there are go silent: their IDs are known by the packets that came before.
func (n *badNetwork) packets(near *net.UDPConn) {
	var mu sync.Mutex
	dead, seen := make(map[string]bool), make(map[string]bool)
	next, muted := time.Now().Add(n.lifetime()), 0
	passes := func(b []byte) bool {
		mu.Lock()
		defer mu.Unlock()
		if m := n.mutes(); n.life > 0 && time.Now().After(next) || m > muted {
			muted = m
			next = time.Now().Add(n.lifetime())
			n.mu.Lock()
			n.cuts++
			n.mu.Unlock()
			for id := range seen {
				dead[id] = true
			}
			clear(seen)
		}
		id := ""
		switch {
		case len(b) < 8:
			return true
		case b[0]&0x80 == 0:
			id = string(b[1:5])
		case b[5] >= 4 && len(b) >= 10:
			id = string(b[6:10])
		}
		if !dead[id] {
			seen[id] = true
		}
		return !dead[id] && rand.IntN(100) != 0
	}
	flows := make(map[string]*net.UDPConn)
	send := func(b []byte, write func([]byte)) {
		if rand.IntN(50) == 0 {
			late := append([]byte(nil), b...)
			time.AfterFunc(time.Duration(rand.IntN(5))*time.Millisecond, func() { write(late) })
			return
		}
		write(b)
	}
	b := make([]byte, 64<<10)
	for {
		m, from, err := near.ReadFromUDPAddrPort(b)
		if err != nil {
			return
		}
		far := flows[from.String()]
		if far == nil {
			c, err := net.Dial("udp", n.to())
			if err != nil {
				continue
			}
			far = c.(*net.UDPConn)
			far.SetReadBuffer(4 << 20)
			if !n.keep(far) {
				return
			}
			flows[from.String()] = far
			n.wg.Go(func() {
				b := make([]byte, 64<<10)
				for {
					m, err := far.Read(b)
					n.mu.Lock()
					closed := n.closed
					n.mu.Unlock()
					if closed {
						return
					}
					if err == nil && passes(b[:m]) {
						send(b[:m], func(b []byte) { near.WriteToUDPAddrPort(b, from) })
					}
				}
			})
		}
		if passes(b[:m]) {
			send(b[:m], func(b []byte) { far.Write(b) })
		}
	}
}

// behind is a transport whose listeners say that they are at the other end of a bad network.
type behind struct {
	transport.Transport
	n *badNetwork
}

func (b behind) Listen(ctx context.Context, addr transport.Addr) (transport.Listener, error) {
	l, err := b.Transport.Listen(ctx, addr)
	if err != nil {
		return nil, err
	}
	b.n.mu.Lock()
	defer b.n.mu.Unlock()
	b.n.target = l.Addr().HostPort
	return behindListener{l, b.n}, nil
}

type behindListener struct {
	transport.Listener
	n *badNetwork
}

func (l behindListener) Addr() transport.Addr {
	a := l.Listener.Addr()
	a.HostPort = l.n.addr
	return a
}
