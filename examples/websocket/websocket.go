// Package websocket is a transport written outside of the toolkit: short connections over WebSockets (RFC 6455) on TLS
// 1.3. It is an example to read beside docs/write-your-own-transport.md, and complete: it keeps every promise of SPEC.md,
// section "transport", and names the clause where it does so.
//
// A connection is one WebSocket and carries one stream ([transport.Traits].OneStream). It has two goroutines: one
// reads messages and never waits for anything but the network, and one writes what the connection's state calls for.
//
// # The wire
//
// Every binary message is one byte of type and a payload, see the constants in conn.go. The dialling side begins the
// stream with its first message about it.
package websocket

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/transport"
	ws "github.com/coder/websocket"
)

// Scheme is the scheme of the transport's addresses.
const Scheme = "wss"

// alpn is the application protocol of the TLS handshake. It must be this one: an http.Server hangs up on any that it does
// not know.
const alpn = "http/1.1"

// Config has the choices that [New] leaves open. The zero Config is the default. New copies it.
type Config struct {
	// HandshakeTimeout bounds TLS and the WebSocket's opening together, on either side. Zero or less means 10 s.
	HandshakeTimeout time.Duration
	// MaxHandshakes bounds the handshakes under way at a listener; beyond it the oldest is given up. Zero or less means 256.
	MaxHandshakes int
	// Backlog bounds the connections that wait to be accepted; further dials wait for theirs to be opened. Zero or less
	// means 128.
	Backlog int
}

func orDefault[T int | time.Duration](v, otherwise T) T {
	if v <= 0 {
		return otherwise
	}
	return v
}

// Transport is the [transport.Transport] over WebSockets. It is safe for concurrent use.
type Transport struct {
	key     identity.Key
	cfg     Config          // with its defaults filled in
	ctx     context.Context // ends with Close
	stop    context.CancelFunc
	running sync.WaitGroup // everything that Close waits for

	mu        sync.Mutex
	closed    bool // once set, nothing is added to the maps or begun
	listeners map[*listener]struct{}
	conns     map[*conn]struct{}
}

// New returns a transport for the holder of key. A nil cfg means the defaults. It fails only for the zero Key.
func New(key identity.Key, cfg *Config) (*Transport, error) {
	if _, err := key.Certificate(); err != nil {
		return nil, fmt.Errorf("websocket: %w", err)
	}
	t := &Transport{key: key, listeners: make(map[*listener]struct{}), conns: make(map[*conn]struct{})}
	if cfg != nil {
		t.cfg = *cfg
	}
	t.cfg.HandshakeTimeout = orDefault(t.cfg.HandshakeTimeout, 10*time.Second)
	t.cfg.MaxHandshakes = orDefault(t.cfg.MaxHandshakes, 256)
	t.cfg.Backlog = orDefault(t.cfg.Backlog, 128)
	t.ctx, t.stop = context.WithCancel(context.Background())
	return t, nil
}

// Traits implements [transport.Transport].
func (t *Transport) Traits() transport.Traits {
	return transport.Traits{Scheme: Scheme, LocalPeer: t.key.ID(), OneStream: true}
}

// begin counts a caller in that Close has to wait for, and reports false when it is too late for that.
func (t *Transport) begin() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.closed {
		t.running.Add(1)
	}
	return !t.closed
}

// Dial implements [transport.Transport].
func (t *Transport) Dial(ctx context.Context, addr transport.Addr) (transport.Conn, error) {
	c, err := t.dial(ctx, addr)
	if err != nil {
		return nil, &transport.OpError{Op: "dial", Addr: addr, Err: err} // AD4, DI1
	}
	return c, nil
}

var errTimeout = fmt.Errorf("the peer did not finish the handshake in time: %w", context.DeadlineExceeded)

func (t *Transport) dial(ctx context.Context, addr transport.Addr) (*conn, error) {
	if err := addr.Check(Scheme); err != nil { // AD4
		return nil, err
	}
	if err := ctx.Err(); err != nil { // DI2: before the attempt
		return nil, err
	}
	if !t.begin() {
		return nil, transport.ErrClosed
	}
	defer t.running.Done()

	// A dial ends for one of three reasons beside its own. Each is the cause of inner's end, so inner's cause is what to
	// return. Inner has no deadline of its own, or package net might see it pass before the context does.
	inner, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(nil)
	defer context.AfterFunc(ctx, func() { cancel(ctx.Err()) })()                       // DI2: during the attempt
	defer context.AfterFunc(t.ctx, func() { cancel(transport.ErrClosed) })()           // LI6
	defer time.AfterFunc(t.cfg.HandshakeTimeout, func() { cancel(errTimeout) }).Stop() // DI3, without a context that ends

	c, err := t.connect(inner, addr)
	if err != nil && inner.Err() != nil {
		err = context.Cause(inner)
	}
	return c, err
}

func (t *Transport) connect(ctx context.Context, addr transport.Addr) (*conn, error) {
	cfg, err := t.key.ClientTLS(alpn, addr.Peer) // ID2, ID3: it checks who answers
	if err != nil {
		return nil, err
	}
	tcp, err := new(net.Dialer).DialContext(ctx, "tcp", addr.HostPort)
	if err != nil {
		return nil, err
	}
	raw := tls.Client(tcp, cfg)
	keep := context.AfterFunc(ctx, func() { tcp.Close() }) // DI2, DI3: whatever it waits for ends with ctx
	socket, err := upgrade(ctx, raw)
	if !keep() && err == nil {
		err = ctx.Err()
	}
	var c *conn
	if err == nil {
		c, err = t.adopt(socket, raw, true)
	}
	if err != nil {
		tcp.Close() // DI2: nothing is left behind
		return nil, err
	}
	t.running.Go(c.run)
	return c, nil
}

// upgrade does both handshakes on a TCP connection that is there.
func upgrade(ctx context.Context, raw *tls.Conn) (*ws.Conn, error) {
	if err := raw.Handshake(); err != nil {
		return nil, err
	}
	socket, _, err := ws.Dial(ctx, "wss://peer/", &ws.DialOptions{HTTPClient: &http.Client{
		Transport:     onConn{raw},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}})
	return socket, err
}

// onConn sends a request on a connection that is there. An http.Transport would do, but it leaves goroutines that nobody
// can wait for (LI6, RE1).
type onConn struct{ raw *tls.Conn }

// RoundTrip implements [http.RoundTripper].
func (o onConn) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := r.Write(o.raw); err != nil {
		return nil, err
	}
	limited := &io.LimitedReader{R: o.raw, N: 8 << 10} // more than any answer needs; package http has no bound here
	in := bufio.NewReader(limited)
	resp, err := http.ReadResponse(in, r)
	if err != nil {
		return nil, err
	}
	limited.N = math.MaxInt64
	resp.Body = struct {
		io.Reader
		io.WriteCloser
	}{in, o.raw}
	return resp, nil
}

// adopt makes a conn of a finished handshake; its run is still to be called.
func (t *Transport) adopt(socket *ws.Conn, raw *tls.Conn, dialer bool) (*conn, error) {
	state := raw.ConnectionState()
	peer, err := identity.PeerID(state) // ID1
	if err != nil {
		return nil, err
	}
	info := transport.Info{ // ID5
		LocalPeer: t.key.ID(), RemotePeer: peer, Dialer: dialer, Resumed: state.DidResume,
		LocalAddr:  transport.Addr{Scheme: Scheme, HostPort: raw.LocalAddr().String(), Peer: t.key.ID()},
		RemoteAddr: transport.Addr{Scheme: Scheme, HostPort: raw.RemoteAddr().String(), Peer: peer},
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil, transport.ErrClosed
	}
	c := newConn(t, socket, raw, info)
	t.conns[c] = struct{}{}
	return c, nil
}

// forget is told of a conn that has ended (RE2).
func (t *Transport) forget(c *conn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.conns, c)
}

// Close implements [transport.Transport] (LI6). It gives peers a second to hear of it.
func (t *Transport) Close() error {
	t.mu.Lock()
	t.closed = true
	conns, listeners := t.conns, t.listeners
	t.conns, t.listeners = nil, nil
	t.mu.Unlock()
	t.stop()
	for c := range conns {
		c.CloseWithError(transport.CodeShutdown, "")
	}
	for l := range listeners {
		l.close()
	}
	t.running.Wait()
	return nil
}
