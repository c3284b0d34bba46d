package pheromones

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/nat/relay"
	"github.com/Blockchain-CN/pheromones/protocol"
	"github.com/Blockchain-CN/pheromones/transport"
)

// Path is which ways to peers a node may take.
type Path int

// The paths.
const (
	// PathRelayAllowed is the default: directly where it can be, through relays as long as it cannot.
	PathRelayAllowed Path = iota
	// PathDirectOnly takes no relay, neither to reach nor to be reached.
	PathDirectOnly
	// PathRelayOnly reaches peers, and is reached, through relays alone, so that peers do not learn its addresses. Nodes that were
	// joined, and addresses that a caller names, are dialled directly all the same.
	PathRelayOnly
)

// RelayFigures returns what the node has done as a relay for others.
func (n *Node) RelayFigures() relay.Figures { return n.relay.Figures() }

// overlayer is a transport that makes its connections over streams that are there already, as mux does.
type overlayer interface {
	DialOver(ctx context.Context, raw net.Conn, addr transport.Addr) (transport.Conn, error)
	AcceptOver(ctx context.Context, raw net.Conn, addr transport.Addr) (transport.Conn, error)
}

// overlay returns the first transport of the node that is an overlayer, or nil.
func (n *Node) overlay() overlayer {
	for _, t := range n.cfg.Transports {
		if o, ok := t.(overlayer); ok {
			return o
		}
	}
	return nil
}

// tunneler returns the first listener of the node that makes tunnels, or nil.
func (n *Node) tunneler() transport.Tunneler {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, l := range n.bound {
		if t, ok := l.(transport.Tunneler); ok {
			return t
		}
	}
	return nil
}

// ways returns what the router dials with: the transports and, as the last choice, relays.
func (n *Node) ways() []transport.Transport {
	if n.cfg.Path == PathDirectOnly || len(n.cfg.Transports) == 0 || n.cfg.Transports[0] == nil {
		return n.cfg.Transports
	}
	return append(n.cfg.Transports[:len(n.cfg.Transports):len(n.cfg.Transports)], &relays{n, n.cfg.Transports[0].Traits().LocalPeer})
}

// dialable says which addresses of peers the router may dial of itself.
func (n *Node) dialable(a transport.Addr) bool {
	return n.cfg.Path != PathRelayOnly || a.Scheme == relay.Scheme || n.joining.joined(a.Peer)
}

// begin registers a goroutine that the node's end waits for; it reports false once the node ends.
func (n *Node) begin() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.closing {
		n.running.Add(1)
	}
	return !n.closing
}

// openForRelay opens a stream of the relay service.
func (n *Node) openForRelay(ctx context.Context, peer identity.ID, dial bool, first []byte) (transport.Conn, transport.Stream, error) {
	header, err := protocol.AppendService(nil, relay.Service)
	if err != nil {
		return nil, nil, err
	}
	s, c, err := n.router.OpenDirect(ctx, peer, dial)
	if err != nil {
		return nil, nil, err
	}
	stop := context.AfterFunc(ctx, func() { s.Reset(transport.CodeCancelled) })
	_, err = s.Write(append(header, first...))
	if !stop() && ctx.Err() != nil {
		err = ctx.Err()
	}
	if err != nil {
		s.Reset(transport.CodeCancelled)
		return nil, nil, err
	}
	return c, s, nil
}

// relays is the transport whose addresses lead through relays. What it dials are connections of the node's other transports: of
// QUIC through a tunnel if the node listens with it, else over a stream.
type relays struct {
	n    *Node
	self identity.ID
}

// Traits implements [transport.Transport].
func (r *relays) Traits() transport.Traits {
	return transport.Traits{Scheme: relay.Scheme, LocalPeer: r.self, Indirect: true}
}

// Listen implements [transport.Transport].
func (r *relays) Listen(_ context.Context, addr transport.Addr) (transport.Listener, error) {
	return nil, &transport.OpError{Op: "listen", Addr: addr, Err: fmt.Errorf("%w: a node listens at relays by reservations (Config.Join)", errors.ErrUnsupported)}
}

// Close implements [transport.Transport].
func (r *relays) Close() error { return nil }

// Dial implements [transport.Transport].
func (r *relays) Dial(ctx context.Context, addr transport.Addr) (transport.Conn, error) {
	c, err := r.dial(ctx, addr)
	if err != nil {
		return nil, &transport.OpError{Op: "dial", Addr: addr, Err: err}
	}
	return c, nil
}

func (r *relays) dial(ctx context.Context, addr transport.Addr) (transport.Conn, error) {
	through, err := throughWhom(addr)
	switch {
	case err != nil:
		return nil, err
	case through == r.self || addr.Peer == r.self:
		return nil, fmt.Errorf("%w: it leads to, or through, this node itself", transport.ErrBadAddr)
	case through == addr.Peer:
		return nil, fmt.Errorf("%w: it leads to a peer through itself", transport.ErrBadAddr)
	}
	tunnels, over := r.n.tunneler(), r.n.overlay()
	if tunnels == nil && over == nil {
		return nil, fmt.Errorf("%w: relays need a node that listens with quic, or has mux", errors.ErrUnsupported)
	}
	if tunnels != nil {
		c, err := r.n.dialTunnel(ctx, tunnels, through, addr.Peer)
		if err == nil || over == nil || !errors.Is(err, relay.Declined) {
			return c, err
		}
	}
	circuit, err := r.n.relay.Connect(ctx, through, addr.Peer, relay.Bytes)
	if err != nil {
		return nil, err
	}
	return over.DialOver(ctx, circuit.Stream(), circuit.Addr())
}

// throughWhom returns the ID of the relay in an address.
func throughWhom(addr transport.Addr) (identity.ID, error) {
	if err := addr.Check(relay.Scheme); err != nil {
		return identity.ID{}, err
	}
	host, _, err := net.SplitHostPort(addr.HostPort)
	if err != nil {
		return identity.ID{}, fmt.Errorf("%w: %w", transport.ErrBadAddr, err)
	}
	through, err := identity.ParseID(host)
	if err != nil || through.IsZero() || addr.Peer.IsZero() {
		return identity.ID{}, fmt.Errorf("%w: want %s://PEER@RELAY:1, both of them IDs", transport.ErrBadAddr, relay.Scheme)
	}
	return through, nil
}

// circuitGrace is how long a connection is left alone after its circuit has ended: for its last packets, and to move elsewhere.
const circuitGrace = 3 * time.Second

// dialTunnel dials a peer through a relay by QUIC within a circuit of packets.
func (n *Node) dialTunnel(ctx context.Context, tunnels transport.Tunneler, through, peer identity.ID) (transport.Conn, error) {
	if !n.begin() {
		return nil, ErrClosed
	}
	handed := false
	defer func() {
		if !handed {
			n.running.Done()
		}
	}()
	circuit, err := n.relay.Connect(ctx, through, peer, relay.Packets)
	if err != nil {
		return nil, err
	}
	tunnel, err := tunnels.NewTunnel(circuit.Addr(), circuit.Send)
	if err != nil {
		circuit.Close()
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	got := make(chan transport.Conn, 1) // closed when nothing was dialled
	handed = true
	go func() {
		defer n.running.Done()
		defer tunnel.Close()
		err := circuit.Run(tunnel.Deliver)
		if err == nil {
			err = errors.New("the circuit was closed at its other end")
		}
		cancel(err)
		if c := <-got; c != nil {
			n.circuitEnded(c, circuit.Addr())
		}
	}()
	c, err := tunnel.Dial(ctx, peer)
	if err != nil {
		close(got)
		circuit.Close()
		if cause := context.Cause(ctx); ctx.Err() != nil && !errors.Is(cause, ctx.Err()) {
			err = cause
		}
		return nil, err
	}
	got <- c
	context.AfterFunc(c.Context(), func() { circuit.Close() })
	return c, nil
}

// detour makes a tunnel of l's port through the relay of addr to its peer, which need not have answered when it returns. end ends it.
func (n *Node) detour(ctx context.Context, addr transport.Addr, l transport.Tunneler) (t transport.Tunnel, end func(), err error) {
	through, err := throughWhom(addr)
	if err != nil {
		return nil, nil, err
	}
	if !n.begin() {
		return nil, nil, ErrClosed
	}
	handed := false
	defer func() {
		if !handed {
			n.running.Done()
		}
	}()
	circuit, err := n.relay.Connect(ctx, through, addr.Peer, relay.Packets)
	if err != nil {
		return nil, nil, err
	}
	tunnel, err := l.NewTunnel(circuit.Addr(), circuit.Send)
	if err != nil {
		circuit.Close()
		return nil, nil, err
	}
	handed = true
	go func() {
		defer n.running.Done()
		defer tunnel.Close()
		circuit.Run(tunnel.Deliver)
	}()
	return tunnel, func() { circuit.Close(); tunnel.Close() }, nil
}

// circuitEnded closes a connection whose circuit has ended, unless it moves away from label within a moment.
func (n *Node) circuitEnded(c transport.Conn, label transport.Addr) {
	timer := time.NewTimer(circuitGrace)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-c.Context().Done():
	case <-n.closed:
	}
	if c.Info().RemoteAddr == label {
		c.CloseWithError(transport.CodeTimeout, "the relay, or the link with it, has gone")
	}
}

// tunnelled are the connections that came through tunnels, by the label of the tunnel, which is unlike any other's.
type tunnelled struct {
	mu    sync.Mutex
	port  uint16
	conns map[transport.Addr][]transport.Conn
}

// called answers a call through a relay.
func (n *Node) called(ctx context.Context, circuit *relay.Circuit) {
	if n.cfg.Path == PathDirectOnly {
		return
	}
	label := circuit.Addr()
	label.HostPort = net.JoinHostPort(circuit.Relay().String(), n.tunnelled.nextPort())
	if circuit.Kind() == relay.Bytes {
		if over := n.overlay(); over != nil {
			ctx, cancel := context.WithTimeout(ctx, headerTimeout)
			defer cancel()
			c, err := over.AcceptOver(ctx, circuit.Stream(), label)
			if err != nil {
				n.log.Debug("pheromones: a call through a relay came to nothing", "relay", circuit.Relay(), "from", circuit.Peer(), "err", err)
				return
			}
			n.router.Accept(c)
		}
		return
	}
	tunnels := n.tunneler()
	if tunnels == nil {
		return
	}
	tunnel, err := tunnels.NewTunnel(label, circuit.Send)
	if err != nil {
		return
	}
	defer tunnel.Close()
	stop := context.AfterFunc(ctx, func() { circuit.Close() })
	defer stop()
	circuit.Run(tunnel.Deliver)
	for _, c := range n.tunnelled.take(label) {
		n.circuitEnded(c, label)
	}
}

// accepted gives a connection to the router, and remembers it if it came through a tunnel.
func (n *Node) accepted(c transport.Conn) {
	if at := c.Info().RemoteAddr; at.Scheme == relay.Scheme {
		n.tunnelled.add(at, c)
	}
	n.router.Accept(c)
}

// nextPort returns a port that sets a label apart from those made before.
func (t *tunnelled) nextPort() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.port++; t.port < 2 {
		t.port = 2
	}
	return fmt.Sprint(t.port)
}

func (t *tunnelled) add(label transport.Addr, c transport.Conn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.conns == nil {
		t.conns = make(map[transport.Addr][]transport.Conn)
	}
	t.conns[label] = append(t.conns[label], c)
	context.AfterFunc(c.Context(), func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		for i, other := range t.conns[label] {
			if other == c {
				t.conns[label] = append(t.conns[label][:i:i], t.conns[label][i+1:]...)
			}
		}
		if len(t.conns[label]) == 0 {
			delete(t.conns, label)
		}
	})
}

// take returns the connections of a label.
func (t *tunnelled) take(label transport.Addr) []transport.Conn {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.conns[label]
}
