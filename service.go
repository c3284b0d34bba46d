package pheromones

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/nat/punch"
	"github.com/Blockchain-CN/pheromones/nat/relay"
	"github.com/Blockchain-CN/pheromones/protocol"
	"github.com/Blockchain-CN/pheromones/router"
	"github.com/Blockchain-CN/pheromones/transport"
)

const (
	// headerTimeout bounds how long a peer that opened a stream may take to say what it is for.
	headerTimeout = 10 * time.Second
	// serviceBacklog bounds the connections of a service that wait to be accepted.
	serviceBacklog = 128
)

// serve answers a stream that a peer opened.
func (n *Node) serve(ctx context.Context, c transport.Conn, s transport.Stream) {
	since := n.router.Since(s)
	s.SetReadDeadline(time.Now().Add(headerTimeout))
	service, err := protocol.ReadService(s)
	if err != nil {
		s.Reset(transport.CodeProtocol)
		return
	}
	s.SetReadDeadline(time.Time{})
	if service == router.LinkService {
		n.router.Control(s)
		return
	}
	if service == relay.Service {
		n.relay.Serve(ctx, c, s)
		return
	}
	if service == punch.Service {
		n.servePunch(ctx, c, s)
		return
	}
	if service == punch.PortService {
		n.servePort(ctx, c, s)
		return
	}
	if service == protocol.MessageService || service == protocol.PipelineService {
		if !n.enter() {
			s.Reset(transport.CodeShutdown)
			return
		}
		defer n.leave()
		peer, cfg := c.Info().RemotePeer, n.protocol
		cfg.Since = since
		if service == protocol.PipelineService {
			err = n.router.ServePipeline(ctx, n.ctx, s, n.handler, &cfg)
		} else {
			err = protocol.Serve(ctx, s, peer, n.handler, &cfg)
		}
		if err != nil {
			n.log.Debug("pheromones: a conversation broke off", "peer", peer, "err", err)
		}
		return
	}
	n.mu.Lock()
	l := n.services[service]
	n.mu.Unlock()
	code := transport.CodeUnknownService
	if l != nil {
		code = l.offer(s)
	}
	if code != transport.CodeNone {
		s.Reset(code)
	}
}

// enter and leave count what Shutdown waits for.
func (n *Node) enter() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closing {
		return false
	}
	n.active++
	return true
}

func (n *Node) leave() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.active--
	if n.closing && n.active == 0 {
		close(n.idle)
	}
}

// ServiceAddr is the [net.Addr] of a service of a node.
type ServiceAddr struct {
	Node    identity.ID
	Service string
}

// Network returns "pheromones".
func (ServiceAddr) Network() string { return "pheromones" }

// String returns the node's ID, a slash and the service's name.
func (a ServiceAddr) String() string { return a.Node.String() + "/" + a.Service }

// ErrServiceInUse means that the service has a listener already.
var ErrServiceInUse = errors.New("pheromones: the service has a listener already")

// Listen offers a service to peers, who reach it by [Node.Dial] with the same name: 1 to 255 bytes of UTF-8 without control
// characters. The result is a [net.Listener] like any other, whose connections are transport.Streams and whose RemoteAddr
// is a [transport.Addr] that has the authenticated ID of the peer; net/http, gRPC and the like run over it, and need no TLS of
// their own. Connections that nobody accepts wait, up to 128 of them; further ones are reset with CodeLimit. Closing the
// listener leaves accepted connections alone; closing the node ends both.
func (n *Node) Listen(service string) (net.Listener, error) {
	if _, err := protocol.AppendService(nil, service); err != nil {
		return nil, fmt.Errorf("pheromones: listen: %w", err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case n.closing:
		return nil, ErrClosed
	case service == protocol.MessageService || service == protocol.PipelineService || service == router.LinkService || service == relay.Service || service == punch.Service || service == punch.PortService || n.services[service] != nil:
		return nil, fmt.Errorf("%w: %q", ErrServiceInUse, service)
	}
	l := &serviceListener{n: n, addr: ServiceAddr{n.ID(), service}, conns: make(chan net.Conn, serviceBacklog), closed: make(chan struct{})}
	n.services[service] = l
	return l, nil
}

// serviceListener is what Listen returns.
type serviceListener struct {
	n     *Node
	addr  ServiceAddr
	conns chan net.Conn // never closed

	mu     sync.Mutex // held while a connection is offered, so that none is after end
	over   bool
	closed chan struct{}
}

// offer takes a connection, or says with which code it is to be reset.
func (l *serviceListener) offer(s transport.Stream) transport.Code {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over {
		return transport.CodeUnknownService
	}
	select {
	case l.conns <- s:
		return transport.CodeNone
	default:
		return transport.CodeLimit
	}
}

// Accept implements [net.Listener].
func (l *serviceListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, &net.OpError{Op: "accept", Net: l.addr.Network(), Addr: l.addr, Err: net.ErrClosed}
	}
}

// Addr implements [net.Listener].
func (l *serviceListener) Addr() net.Addr { return l.addr }

// Close implements [net.Listener].
func (l *serviceListener) Close() error {
	l.n.mu.Lock()
	if l.n.services[l.addr.Service] == l {
		delete(l.n.services, l.addr.Service)
	}
	l.n.mu.Unlock()
	l.end()
	return nil
}

// end unblocks Accept and resets what nobody will accept.
func (l *serviceListener) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over {
		return
	}
	l.over = true
	close(l.closed)
	for {
		select {
		case c := <-l.conns:
			c.(transport.Stream).Reset(transport.CodeUnknownService)
		default:
			return
		}
	}
}

// Dial connects to a service of a peer, named as in [Node.Dispatch]. The result is a [net.Conn] like any other, and a
// transport.Stream: it can be half-closed and reset. Dial returns when there is a link and the service's name is on its way,
// without waiting for an answer: a service that the peer does not have shows at the first Read, as a reset with
// CodeUnknownService. ctx bounds the dial and not the connection.
func (n *Node) Dial(ctx context.Context, peer, service string) (net.Conn, error) {
	c, err := n.dial(ctx, peer, service)
	if err != nil {
		return nil, fmt.Errorf("pheromones: dial service %q of %s: %w", service, peer, n.closedError(err))
	}
	return c, nil
}

func (n *Node) dial(ctx context.Context, peer, service string) (net.Conn, error) {
	header, err := protocol.AppendService(nil, service)
	if err != nil {
		return nil, err
	}
	id, err := n.resolve(ctx, peer)
	if err != nil {
		return nil, err
	}
	s, _, err := n.router.Open(ctx, id)
	if n.foundAnew(ctx, id, err) {
		s, _, err = n.router.Open(ctx, id)
	}
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { s.Reset(transport.CodeCancelled) })
	_, err = s.Write(header)
	if !stop() && ctx.Err() != nil {
		err = ctx.Err()
	}
	if err != nil {
		s.Reset(transport.CodeCancelled)
		return nil, err
	}
	return s, nil
}

// advertised returns where listeners are reached. One that is bound to every interface is reached at the address of each: at
// loopback only if there is no other.
func advertised(bound []transport.Listener) []transport.Addr {
	var addrs []transport.Addr
	for _, l := range bound {
		a := l.Addr()
		at, err := netip.ParseAddrPort(a.HostPort)
		if err != nil || !at.Addr().IsUnspecified() {
			addrs = append(addrs, a)
			continue
		}
		for _, ip := range interfaceAddrs(at.Addr().Is4()) {
			a.HostPort = netip.AddrPortFrom(ip, at.Port()).String()
			addrs = append(addrs, a)
		}
	}
	return addrs
}

// interfaceAddrs returns the addresses of this machine's interfaces that other machines may reach it at.
func interfaceAddrs(only4 bool) []netip.Addr {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	var ips, loopback []netip.Addr
	for _, a := range all {
		prefix, err := netip.ParsePrefix(a.String())
		if err != nil {
			continue
		}
		ip := prefix.Addr().Unmap()
		switch {
		case only4 && !ip.Is4(), ip.IsLinkLocalUnicast():
		case ip.IsLoopback():
			loopback = append(loopback, ip)
		case !slices.Contains(ips, ip):
			ips = append(ips, ip)
		}
	}
	if len(ips) == 0 {
		return loopback
	}
	return ips
}
