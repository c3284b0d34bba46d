package pheromones

import (
	"context"
	"maps"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/Blockchain-CN/pheromones/nat/punch"
	"github.com/Blockchain-CN/pheromones/transport"
)

const (
	// maxGuesses is how often ports may be guessed from one port of ours within guessWithin, whoever the peers are: what any of
	// them can have us send to an address that it has made up is bounded by it.
	maxGuesses  = 3
	guessWithin = time.Minute
	// guessTries is in how many attempts in a row, of one link in one network, ports may be guessed. What has failed twice will
	// fail again, and costs 2,560 packets.
	guessTries = 2
	// maxBurrows bounds the further sockets that a link keeps on the side that does not move it: the one in use, and the last one before.
	maxBurrows = 2
)

// packetOpener is a listener that can open further ports beside its own.
type packetOpener interface {
	transport.Tunneler
	OpenPacket(ctx context.Context) (net.PacketConn, error)
}

// mayGuess reports whether ports may be guessed now, and notes that they are.
func (o *outside) mayGuess(now time.Time) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if last := o.guessed[0]; !last.IsZero() && now.Sub(last) < guessWithin {
		return false
	}
	copy(o.guessed[:], o.guessed[1:])
	o.guessed[maxGuesses-1] = now
	return true
}

// burrow is a further socket beside the port of QUIC, of which the peer may guess the port that our NAT gives it. If it does, the
// socket becomes a tunnel of QUIC's port.
type burrow struct {
	p      *punching
	number int
	conn   net.PacketConn
	done   chan struct{} // closed when read has returned

	mu     sync.Mutex
	remote netip.AddrPort
	tunnel transport.Tunnel // nil: none yet
}

// send sends a packet, by a socket that is opened if need be. What fails is a lost packet.
func (p *punching) send(ctx context.Context, q punch.Packet) {
	if q.Socket == 0 {
		p.o.listener.WritePacket(q.Data, q.Remote)
		return
	}
	p.mu.Lock()
	b := p.burrows[q.Socket]
	p.mu.Unlock()
	if b == nil {
		opener, ok := p.o.listener.(packetOpener)
		if !ok {
			return
		}
		conn, err := opener.OpenPacket(ctx)
		if err != nil {
			return
		}
		b = &burrow{p: p, number: q.Socket, conn: conn, done: make(chan struct{})}
		p.mu.Lock()
		p.burrows[q.Socket] = b
		p.mu.Unlock()
		go b.read()
	}
	b.conn.WriteTo(q.Data, net.UDPAddrFromAddrPort(q.Remote))
}

// read takes in what comes to the socket until it is closed.
func (b *burrow) read() {
	defer close(b.done)
	buf := make([]byte, 2048)
	for failures := 0; failures < 100; {
		n, addr, err := b.conn.ReadFrom(buf)
		from, ok := addr.(*net.UDPAddr)
		if err != nil || !ok {
			failures++ // a closed socket fails at once
			continue
		}
		failures = 0
		path := punch.Path{Socket: b.number, Remote: from.AddrPort()}
		path.Remote = netip.AddrPortFrom(path.Remote.Addr().Unmap(), path.Remote.Port())
		if session, ok := punch.SessionOf(buf[:n]); ok {
			if session == b.p.session {
				b.p.receive(path, buf[:n])
			}
		} else if tunnel, _ := b.open(path.Remote); tunnel != nil {
			tunnel.Deliver(buf[:n])
		}
	}
}

// open returns the tunnel to a remote address, if there is none elsewhere yet and an authentic packet has come from there.
func (b *burrow) open(remote netip.AddrPort) (transport.Tunnel, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.tunnel != nil {
		if b.remote != remote {
			return nil, nil
		}
		return b.tunnel, nil
	}
	b.p.mu.Lock()
	met := b.p.machine.Met(punch.Path{Socket: b.number, Remote: remote})
	b.p.mu.Unlock()
	l, ok := b.p.o.listener.(packetOpener)
	if !met || !ok {
		return nil, nil
	}
	to := net.UDPAddrFromAddrPort(remote)
	tunnel, err := l.NewTunnel(transport.Addr{Scheme: b.p.o.listener.Addr().Scheme, HostPort: remote.String()}, func(p []byte) error {
		_, err := b.conn.WriteTo(p, to)
		return err
	})
	if err == nil {
		b.remote, b.tunnel = remote, tunnel
	}
	return tunnel, err
}

// close ends the socket, and its tunnel, and waits for that. Closing twice is no error.
func (b *burrow) close() {
	b.conn.Close()
	<-b.done
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.tunnel != nil {
		b.tunnel.Close()
	}
}

// take gives the caller the burrow of a path that works, with its tunnel. The attempt does not close it any more.
func (p *punching) take(path punch.Path) (*burrow, error) {
	p.mu.Lock()
	b := p.burrows[path.Socket]
	p.mu.Unlock()
	if b == nil {
		return nil, net.ErrClosed
	}
	tunnel, err := b.open(path.Remote)
	if tunnel == nil {
		if err == nil {
			err = net.ErrClosed
		}
		return nil, err
	}
	p.mu.Lock()
	delete(p.burrows, path.Socket)
	p.mu.Unlock()
	return b, nil
}

// takeBurrows gives the caller all burrows that it wants.
func (p *punching) takeBurrows(wanted func(*burrow) bool) (taken []*burrow) {
	p.mu.Lock()
	all := maps.Clone(p.burrows)
	p.mu.Unlock()
	for number, b := range all {
		if wanted(b) { // which may wait for b.mu, and that for p.mu
			taken = append(taken, b)
			p.mu.Lock()
			delete(p.burrows, number)
			p.mu.Unlock()
		}
	}
	return taken
}

// carries reports whether a connection has come by the socket, or may.
func (b *burrow) carries() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.tunnel != nil
}
