package pheromones

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/Blockchain-CN/pheromones/nat/punch"
	"github.com/Blockchain-CN/pheromones/nat/stun"
	"github.com/Blockchain-CN/pheromones/transport"
)

// packetListener is a listener whose port carries packets of other protocols, too, as that of QUIC does.
type packetListener interface {
	transport.Listener
	ReadPacket(ctx context.Context, b []byte) (n int, from netip.AddrPort, err error)
	WritePacket(b []byte, to netip.AddrPort) error
}

// outside is how a node asks over one port how it looks from outside.
type outside struct {
	listener packetListener
	local    netip.AddrPort
	prober   *stun.Prober
	mapped   func() netip.AddrPort // from where a router forwards to the port

	mu      sync.Mutex
	servers []netip.AddrPort // whom we asked, the latest first
	round   int              // how often we did
	views   []view           // how they see the port, the latest first
	punches map[punch.Session]*punching
	guessed [maxGuesses]time.Time // when ports were last guessed, the oldest first
}

// newResponder returns what answers STUN at the node's ports.
func newResponder(cfg Config) *stun.Responder {
	return stun.NewResponder(&stun.ResponderConfig{Total: cfg.STUN})
}

// servePackets answers what comes to a listener's port beside connections, if packets can, until stop is called, which waits. mu is
// held and closing false.
func (n *Node) servePackets(l transport.Listener) (stop func()) {
	pl, ok := l.(packetListener)
	if !ok {
		return func() {}
	}
	local, err := netip.ParseAddrPort(pl.Addr().HostPort)
	if err != nil {
		return func() {}
	}
	o := &outside{listener: pl, local: local, prober: stun.NewProber(pl, nil), mapped: func() netip.AddrPort { return n.mappedAt(l) }, punches: make(map[punch.Session]*punching)}
	n.outside = append(n.outside, o)
	ctx, cancel := context.WithCancel(n.ctx)
	var loop sync.WaitGroup
	loop.Go(func() { n.readPackets(ctx, o) })
	return func() {
		cancel()
		loop.Wait()
		n.mu.Lock()
		defer n.mu.Unlock()
		n.outside = slices.DeleteFunc(n.outside, func(p *outside) bool { return p == o })
	}
}

// readPackets is the loop of one port. Packets of no known protocol are dropped without a word: anybody can send them.
func (n *Node) readPackets(ctx context.Context, o *outside) {
	b := make([]byte, 2048)
	for {
		size, from, err := o.listener.ReadPacket(ctx, b)
		if err != nil {
			return
		}
		if session, ok := punch.SessionOf(b[:size]); ok {
			o.punched(session, from, b[:size])
			continue
		}
		if o.prober.Receive(b[:size], from) {
			continue
		}
		if answer := n.stun.Respond(b[:size], from, time.Now()); answer != nil {
			o.listener.WritePacket(answer, from) // what fails is a lost packet
		}
	}
}

// DiscoverNAT asks STUN servers, the QUIC addresses of other nodes for instance, how a port of this node looks from outside: at
// which address, and how the NAT before it maps and filters. Two servers with different IPs are enough for the former. The node
// must listen with a transport that shares its UDP port, as QUIC does; the first listener that can reach the first server is used.
// It returns when all is known, which takes up to 83 s if a server is silent, or with ctx's error when ctx ends. Other errors are a
// [*stun.ServerError] for a server that nobody can be, and one that wraps those of all servers if none answered.
func (n *Node) DiscoverNAT(ctx context.Context, servers ...netip.AddrPort) (stun.Report, error) {
	if len(servers) == 0 {
		return stun.Report{}, errors.New("pheromones: no STUN server to ask: give the addresses of two, such as 192.0.2.1:4001")
	}
	to := servers[0].Addr().Unmap()
	n.mu.Lock()
	i := slices.IndexFunc(n.outside, func(o *outside) bool {
		from := o.local.Addr()
		return slices.Contains(n.bound, transport.Listener(o.listener)) && from.Is4() == to.Is4() && (from.IsUnspecified() || from.IsLoopback() == to.IsLoopback())
	})
	closing := n.closing
	var prober *stun.Prober
	if i >= 0 {
		prober = n.outside[i].prober
	}
	n.mu.Unlock()
	switch {
	case closing:
		return stun.Report{}, ErrClosed
	case prober == nil:
		return stun.Report{}, fmt.Errorf("pheromones: the node has no UDP port from which %s can be asked: let it listen with QUIC, in that family", servers[0])
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(n.ctx, cancel)()
	r, err := prober.Discover(ctx, servers...)
	if err != nil {
		if n.ctx.Err() != nil {
			err = errors.Join(ErrClosed, err)
		}
		err = fmt.Errorf("pheromones: discover the NAT: %w", err)
	}
	return r, err
}
