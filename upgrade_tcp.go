package pheromones

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/Blockchain-CN/pheromones/nat/punch"
	"github.com/Blockchain-CN/pheromones/nat/relay"
	"github.com/Blockchain-CN/pheromones/protocol"
	"github.com/Blockchain-CN/pheromones/transport"
)

const (
	// meetFor is for how long both sides dial each other's ports (PA11).
	meetFor = 5 * time.Second
	// meetLinger is how long a side that was met goes on for the peer's other addresses: which connection is taken the other side decides.
	meetLinger = time.Second
	// meetAddrs bounds the addresses of a peer that are dialled.
	meetAddrs = 8
	// maxMeetings bounds the peers that are met at once.
	maxMeetings = 32
	// glimpseFor is how long it counts how another node has seen a port. A connection from the port to that node's cannot be made again
	// sooner than a minute after the last (TIME-WAIT).
	glimpseFor = 90 * time.Second
	// glimpseTimeout bounds asking, and glimpseAgain is for how long nobody is asked again when it came to nothing.
	glimpseTimeout = 2 * time.Second
	glimpseAgain   = 10 * time.Second
)

// port is how a node looks for direct connections from the port of a listener that dials from it, as those of TCP do.
type port struct {
	places chan struct{} // of meetings
	asking chan struct{} // capacity 1: held by whoever asks how the port looks

	mu     sync.Mutex
	served map[transport.Conn]struct{} // links whose peers have a stream here
	seen   netip.AddrPort              // the port as another node has seen it; not valid: nobody has
	when   time.Time
	from   []transport.Addr // where the node listened then
}

func newPort() *port {
	return &port{places: make(chan struct{}, maxMeetings), asking: make(chan struct{}, 1), served: make(map[transport.Conn]struct{})}
}

// portDialer returns the first listener that dials from its port and makes links; nil: there is none.
func (n *Node) portDialer() transport.Listener {
	for _, l := range n.listening() {
		t := n.transportOf(l.Addr().Scheme)
		if _, ok := l.(transport.PortDialer); ok && t != nil && !t.Traits().OneStream {
			return l
		}
	}
	return nil
}

func (n *Node) transportOf(scheme string) transport.Transport {
	for _, t := range n.cfg.Transports {
		if t.Traits().Scheme == scheme {
			return t
		}
	}
	return nil
}

// meet looks for a connection beside a link that this side dialled through a relay: both dial the other's port from their own at once.
// It returns when there is one, when the link has ended or moved to a direct path, or when the peer does not want to.
func (n *Node) meet(ctx context.Context, c transport.Conn, l transport.Listener) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := c.OpenStream(ctx)
	if err != nil {
		return
	}
	defer s.Reset(transport.CodeClosed)
	defer context.AfterFunc(ctx, func() { s.Reset(transport.CodeClosed) })()
	first, _ := protocol.AppendService(nil, punch.PortService)
	peer := c.Info().RemotePeer
	for failures := 0; ; failures++ {
		// The peer may look at its port while we look at ours.
		if _, err = s.Write(punch.Message{Type: punch.Ping}.Append(first)); err != nil {
			return
		}
		first = nil
		if met, err := n.offerPort(ctx, l, c, s); !met && ctx.Err() == nil {
			n.log.Debug("pheromones: a peer was not met", "peer", peer, "err", err)
			if !errors.Is(err, errNotMet) || errors.Is(err, errors.ErrUnsupported) {
				return
			}
		}
		// Also a connection that was made may not last.
		if !wait(ctx, min(retryFirst<<min(failures, 8), retryMax)) || !relayed(c) || n.router.Direct(peer) {
			return
		}
	}
}

// errNotMet means that no address of the peer's led to it, this time.
var errNotMet = errors.New("no address led to it")

// relayed reports whether a connection goes through a relay now.
func relayed(c transport.Conn) bool { return c.Info().RemoteAddr.Scheme == relay.Scheme }

// wait waits for d, and reports false if ctx has ended.
func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// offerPort tells the peer of our port's addresses and, when it has told its, dials them.
func (n *Node) offerPort(ctx context.Context, l transport.Listener, c transport.Conn, s transport.Stream) (met bool, err error) {
	offer := punch.Message{Type: punch.Offer}
	rand.Read(offer.Session[:])
	rand.Read(offer.Key[:])
	offer.Session[0] |= 0x80
	offer.Addrs, offer.Outside = n.portAddrs(ctx, l)
	if _, err := s.Write(offer.Append(nil)); err != nil {
		return false, err
	}
	s.SetReadDeadline(time.Now().Add(meetFor))
	for {
		answer, err := punch.Read(s)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return false, fmt.Errorf("%w: the peer does not answer: %w", errNotMet, err)
		case err != nil:
			return false, err
		}
		if answer.Type == punch.Answer && answer.Session == offer.Session {
			if !relayed(c) {
				return true, nil
			}
			return n.dialPorts(ctx, l, c, answer.Addrs, false)
		}
	}
}

// dialPorts dials addresses of the peer of a link c from the port of l, all at once, until one leads to the peer. What is connected
// becomes a link, unless c has moved to a direct path meanwhile.
func (n *Node) dialPorts(ctx context.Context, l transport.Listener, c transport.Conn, addrs []netip.AddrPort, accepts bool) (met bool, err error) {
	select {
	case n.port.places <- struct{}{}:
		defer func() { <-n.port.places }()
	default:
		return false, fmt.Errorf("%w: too many peers are met at once", errNotMet)
	}
	ctx, cancel := context.WithTimeout(ctx, meetFor)
	defer cancel()
	local, _ := netip.ParseAddrPort(l.Addr().HostPort)
	var mu sync.Mutex
	var dials sync.WaitGroup
	errs := []error{errNotMet}
	usable := punch.Usable(addrs, local.Addr())
	for _, a := range usable[:min(len(usable), meetAddrs)] {
		dials.Go(func() {
			direct, err := l.(transport.PortDialer).DialFrom(ctx, transport.Addr{Scheme: l.Addr().Scheme, HostPort: a.String(), Peer: c.Info().RemotePeer}, accepts)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err != nil:
				errs = append(errs, err)
			case !accepts && (met || !relayed(c)):
				met = true
				direct.CloseWithError(transport.CodeCancelled, "another path was faster")
			default:
				met = true
				n.router.Accept(direct)
				if !accepts {
					cancel()
				} else {
					time.AfterFunc(meetLinger, cancel)
				}
			}
		})
	}
	dials.Wait()
	if met {
		return true, nil
	}
	return false, errors.Join(errs...)
}

// portAddrs returns where a peer may find the port of l: as another node sees it, if one does, and then at the interfaces.
func (n *Node) portAddrs(ctx context.Context, l transport.Listener) (addrs []netip.AddrPort, outside int) {
	if seen := n.glimpse(ctx, l); seen.IsValid() {
		addrs, outside = append(addrs, seen), 1
	}
	if mapped := n.mappedAt(l); mapped.IsValid() && !slices.Contains(addrs, mapped) {
		addrs = append(addrs, mapped)
	}
	for _, a := range advertised([]transport.Listener{l}) {
		if at, err := netip.ParseAddrPort(a.HostPort); err == nil && !slices.Contains(addrs, at) {
			addrs = append(addrs, at)
		}
	}
	return addrs[:min(len(addrs), punch.MaxAddrs)], outside
}

// glimpse returns where another node sees the port of l, which it asks if that is not known (PA9). What is known and not of late is
// looked at again meanwhile.
func (n *Node) glimpse(ctx context.Context, l transport.Listener) netip.AddrPort {
	p, own := n.port, advertised([]transport.Listener{l})
	last := func() (seen netip.AddrPort, fresh bool) {
		p.mu.Lock()
		defer p.mu.Unlock()
		if !slices.Equal(p.from, own) {
			return netip.AddrPort{}, false
		}
		return p.seen, p.seen.IsValid() && time.Since(p.when) < glimpseFor
	}
	seen, fresh := last()
	if seen.IsValid() {
		if !fresh && n.begin() {
			go func() {
				defer n.running.Done()
				n.look(n.ctx, l, own)
			}()
		}
		return seen
	}
	n.look(ctx, l, own)
	seen, _ = last()
	return seen
}

// look has a node that was joined say where it sees the port of l, unless one just has, and notes it. Others might lie.
func (n *Node) look(ctx context.Context, l transport.Listener, own []transport.Addr) {
	p := n.port
	select {
	case p.asking <- struct{}{}:
		defer func() { <-p.asking }()
	case <-ctx.Done():
		return
	}
	p.mu.Lock()
	lasts := glimpseFor
	if !p.seen.IsValid() {
		lasts = glimpseAgain
	}
	fresh := slices.Equal(p.from, own) && time.Since(p.when) < lasts
	p.mu.Unlock()
	if fresh {
		return
	}
	note := func(seen netip.AddrPort) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.seen, p.when, p.from = seen, time.Now(), own
	}
	asked := false
	defer func() {
		if asked && ctx.Err() == nil {
			note(netip.AddrPort{})
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, glimpseTimeout)
	defer cancel()
	local, _ := netip.ParseAddrPort(l.Addr().HostPort)
	for _, id := range n.router.Linked() {
		if !n.joining.joined(id) {
			continue
		}
		for _, a := range n.router.Addresses(id) {
			at, err := netip.ParseAddrPort(a.HostPort)
			if a.Scheme != l.Addr().Scheme || err != nil || len(punch.Usable([]netip.AddrPort{at}, local.Addr())) == 0 {
				continue
			}
			asked = true
			seen, err := n.askPort(ctx, l, a)
			if err == nil {
				asked = false
				note(seen)
				return
			}
			n.log.Debug("pheromones: a node did not say where it sees a port", "node", a, "err", err)
			if ctx.Err() != nil {
				return
			}
		}
	}
}

// askPort asks the node at an address where it sees the port of l, by a connection from there.
func (n *Node) askPort(ctx context.Context, l transport.Listener, at transport.Addr) (netip.AddrPort, error) {
	c, err := l.(transport.PortDialer).DialFrom(ctx, at, false)
	if err != nil {
		return netip.AddrPort{}, err
	}
	defer c.CloseWithError(transport.CodeNone, "")
	s, err := c.OpenStream(ctx)
	if err != nil {
		return netip.AddrPort{}, err
	}
	defer context.AfterFunc(ctx, func() { s.Reset(transport.CodeCancelled) })()
	b, _ := protocol.AppendService(nil, punch.PortService)
	if _, err := s.Write(punch.Message{Type: punch.Ping}.Append(b)); err != nil {
		return netip.AddrPort{}, err
	}
	m, err := punch.Read(s)
	switch {
	case err != nil:
		return netip.AddrPort{}, err
	case m.Type != punch.Follows || len(m.Addrs) == 0:
		return netip.AddrPort{}, fmt.Errorf("%w: want an address", punch.ErrMalformed)
	}
	return m.Addrs[0], nil
}

// servePort answers a peer that asks where this node sees its port, or that wants to meet (PA9, PA10).
func (n *Node) servePort(ctx context.Context, c transport.Conn, s transport.Stream) {
	s = n.router.Aside(s)
	l := n.portDialer()
	var meeting sync.WaitGroup // the peer may be done, and end the stream, before this side's handshake is
	defer s.Reset(transport.CodeClosed)
	defer context.AfterFunc(ctx, func() { s.Reset(transport.CodeClosed) })()
	n.port.mu.Lock()
	_, again := n.port.served[c]
	n.port.served[c] = struct{}{}
	n.port.mu.Unlock()
	if again {
		s.Reset(transport.CodeLimit)
		return
	}
	defer func() {
		meeting.Wait()
		n.port.mu.Lock()
		defer n.port.mu.Unlock()
		delete(n.port.served, c)
	}()
	busy := make(chan struct{}, 1)
	allowed, counted, looking := maxOffers, time.Now(), false
	for {
		m, err := punch.Read(s)
		if err != nil {
			return
		}
		switch at, err := netip.ParseAddrPort(c.Info().RemoteAddr.HostPort); {
		case m.Type == punch.Ping && !relayed(c):
			if err == nil {
				s.SetWriteDeadline(time.Now().Add(tellTimeout))
				s.Write(punch.Message{Type: punch.Follows, Addrs: []netip.AddrPort{at}}.Append(nil))
				s.Close()
			}
			return
		case l == nil || n.cfg.Path != PathRelayAllowed || !relayed(c) || c.Info().Dialer:
			s.Reset(transport.CodeRefused)
			return
		}
		earned := int(time.Since(counted) / offerPause)
		allowed, counted = min(maxOffers, allowed+earned), counted.Add(time.Duration(earned)*offerPause)
		switch {
		case m.Type == punch.Ping && !looking:
			looking = true
			meeting.Go(func() { n.glimpse(ctx, l) })
		case m.Type == punch.Offer && allowed > 0 && len(busy) == 0:
			allowed--
			busy <- struct{}{}
			answer := punch.Message{Type: punch.Answer, Session: m.Session}
			answer.Addrs, answer.Outside = n.portAddrs(ctx, l)
			s.SetWriteDeadline(time.Now().Add(tellTimeout))
			if _, err := s.Write(answer.Append(nil)); err != nil {
				return
			}
			meeting.Go(func() {
				defer func() { <-busy }()
				if _, err := n.dialPorts(ctx, l, c, m.Addrs, true); err != nil {
					n.log.Debug("pheromones: a peer was not met", "peer", c.Info().RemotePeer, "err", err)
					if errors.Is(err, errors.ErrUnsupported) {
						s.Reset(transport.CodeRefused)
					}
				}
			})
		}
	}
}
