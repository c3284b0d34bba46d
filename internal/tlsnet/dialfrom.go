package tlsnet

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/transport"
)

// again is the first pause before another attempt of DialFrom, and longest the last one.
const (
	again   = 50 * time.Millisecond
	longest = 500 * time.Millisecond
)

var (
	// errTaken is why a second DialFrom to the same address fails.
	errTaken = errors.New("it is being dialled from this port already")
	// errConnected is why DialFrom fails where there is a connection with the address already, made in another way.
	errConnected = errors.New("there is a connection with it already")
	// errItself is why a port that dials itself fails.
	errItself = errors.New("it is the address of this side")
)

// DialFrom implements [transport.PortDialer].
func (l *Listener) DialFrom(ctx context.Context, addr transport.Addr, accepts bool) (transport.Conn, error) {
	c, err := l.dialFrom(ctx, addr, accepts)
	if err != nil {
		return nil, &transport.OpError{Op: "dial", Addr: addr, Err: err}
	}
	return c, nil
}

func (l *Listener) dialFrom(ctx context.Context, addr transport.Addr, accepts bool) (Conn, error) {
	t := l.transport
	if err := addr.Check(t.cfg.Scheme); err != nil {
		return nil, err
	}
	to, err := netip.ParseAddrPort(addr.HostPort)
	if err != nil || to.Port() == 0 || to.Addr().IsUnspecified() || to.Addr().IsMulticast() {
		return nil, fmt.Errorf("%w: want an IP address and a port", transport.ErrBadAddr)
	}
	to = netip.AddrPortFrom(to.Addr().Unmap(), to.Port())
	cfg, err := l.role(addr.Peer, accepts)
	if err != nil {
		return nil, err
	}
	if !t.begin() {
		return nil, transport.ErrClosed
	}
	defer t.running.Done()
	// Nothing is left of ctx's children when this returns; the listener's end is theirs.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(t.ctx, cancel)()
	defer context.AfterFunc(l.ctx, cancel)()
	met, err := l.expect(to, accepts)
	if err != nil {
		return nil, err
	}
	defer l.forget(to)
	var last error
	for pause := again; ; pause = min(pause*3/2, longest) {
		c, err := l.attempt(ctx, to, met, cfg, accepts)
		var verify *identity.VerifyError
		switch {
		case err == nil:
			return c, nil
		case t.ctx.Err() != nil || l.ctx.Err() != nil:
			return nil, transport.ErrClosed
		case errors.As(err, &verify), errors.Is(err, errors.ErrUnsupported), errors.Is(err, errItself):
			return nil, err
		case l.connected(to):
			return nil, errConnected
		case ctx.Err() == nil:
			last = err
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(context.Cause(ctx), last)
		case <-time.After(pause):
		}
	}
}

// connected reports whether there is a connection between the port and an address. What DialFrom makes it returns, so that is another's.
func (l *Listener) connected(to netip.AddrPort) bool {
	_, port, _ := net.SplitHostPort(l.addr.HostPort)
	l.transport.mu.Lock()
	defer l.transport.mu.Unlock()
	for c := range l.transport.conns {
		info := c.Info()
		_, from, _ := net.SplitHostPort(info.LocalAddr.HostPort)
		if info.RemoteAddr.HostPort == to.String() && from == port {
			return true
		}
	}
	return false
}

// role returns the configuration of TLS for the side that this one is to be.
func (l *Listener) role(peer identity.ID, accepts bool) (*tls.Config, error) {
	t := l.transport
	if !accepts {
		return t.key.ClientTLS(t.cfg.ALPN, peer)
	}
	cfg := t.server.Clone()
	verify := cfg.VerifyConnection
	cfg.VerifyConnection = func(state tls.ConnectionState) error {
		if err := verify(state); err != nil {
			return err
		}
		if got, err := identity.PeerID(state); err == nil && peer != (identity.ID{}) && got != peer {
			return &identity.VerifyError{Err: identity.ErrWrongPeer, Want: peer, Got: got}
		}
		return nil
	}
	return cfg, nil
}

// attempt makes one TCP connection to the address, or takes the one that has come from there, and does the handshake.
func (l *Listener) attempt(ctx context.Context, to netip.AddrPort, met <-chan net.Conn, cfg *tls.Config, accepts bool) (Conn, error) {
	tcp, err := l.meet(ctx, to, met)
	if err != nil {
		return nil, transport.PhaseConnect.In(err)
	}
	if tcp.LocalAddr().String() == tcp.RemoteAddr().String() {
		tcp.Close()
		return nil, errItself
	}
	raw := tls.Client(newGatherer(tcp), cfg)
	if accepts {
		raw = tls.Server(newGatherer(tcp), cfg)
	}
	if err := l.transport.handshake(ctx, raw); err != nil {
		tcp.Close()
		return nil, transport.PhaseHandshake.In(err)
	}
	c, err := l.transport.adopt(raw, !accepts, nil)
	if err != nil {
		tcp.Close()
	}
	return c, err
}

// meet returns the connection between the port and an address, whichever side's packets made it. There can be only one.
func (l *Listener) meet(ctx context.Context, to netip.AddrPort, met <-chan net.Conn) (net.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var came net.Conn
	var waiting sync.WaitGroup
	waiting.Go(func() {
		select {
		case came = <-met:
			cancel()
		case <-ctx.Done():
		}
	})
	dialer := net.Dialer{KeepAliveConfig: keepAlive, Control: l.bindTo}
	tcp, err := dialer.DialContext(ctx, "tcp", to.String())
	if err != nil && ctx.Err() == nil && !errors.Is(err, errors.ErrUnsupported) {
		// What has come from there may be the reason.
		select {
		case <-time.After(again):
		case <-ctx.Done():
		}
	}
	cancel()
	waiting.Wait()
	switch {
	case came == nil:
		return tcp, err
	case tcp != nil:
		tcp.Close()
	}
	return came, nil
}

// expect has connections from an address handed over to DialFrom. A handshake with it that has begun already goes on if this side
// accepts anyway; otherwise both sides would wait for the other's first word, so it is ended, and the other end tries again.
func (l *Listener) expect(from netip.AddrPort, accepts bool) (<-chan net.Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.expected[from] != nil {
		return nil, errTaken
	}
	met := make(chan net.Conn, 1)
	l.expected[from] = met
	for e := l.open.Front(); e != nil; e = e.Next() {
		if tcp := e.Value.(*tls.Conn).NetConn(); !accepts && remote(tcp) == from {
			tcp.Close()
		}
	}
	return met, nil
}

// forget ends what expect has begun.
func (l *Listener) forget(from netip.AddrPort) {
	l.mu.Lock()
	met := l.expected[from]
	delete(l.expected, from)
	l.mu.Unlock()
	select {
	case tcp := <-met:
		tcp.Close()
	default:
	}
}

// handOver gives a connection to the DialFrom that expects it, and reports whether there is one.
func (l *Listener) handOver(tcp net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	met := l.expected[remote(tcp)]
	if met == nil {
		return false
	}
	select {
	case met <- tcp:
	default:
		tcp.Close()
	}
	return true
}

// remote returns the address of the other end, the zero one if there is none.
func remote(tcp net.Conn) netip.AddrPort {
	a, ok := tcp.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	at := a.AddrPort()
	return netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
}
