package conformance

import (
	"context"
	"errors"
	"net"
	"strings"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/transport"
)

func addrRoundTrip(e *env) {
	id := e.key().ID()
	for _, hostPort := range []string{"127.0.0.1:0", "192.0.2.7:65535", "[::1]:1", "[2001:db8::7]:443", "[fe80::1%eth0]:9", "localhost:4001",
		"a.example.org:80", "a.example.org.:80", "x_y.example:1"} {
		for _, peer := range []identity.ID{{}, id} {
			want := transport.Addr{Scheme: e.traits.Scheme, HostPort: hostPort, Peer: peer}
			got, err := transport.ParseAddr(want.String())
			if err != nil || got != want || got.String() != want.String() {
				e.errorf("ParseAddr(%q): want it back, got %q and %v", want, got, err)
			}
			text, err := want.MarshalText()
			if e.must(err, "MarshalText"); string(text) != want.String() {
				e.errorf("MarshalText: want %q, got %q", want, text)
			}
			var back transport.Addr
			if err := back.UnmarshalText(text); err != nil || back != want {
				e.errorf("UnmarshalText(%q): want it back, got %q and %v", text, back, err)
			}
		}
	}
	for _, same := range [][2]string{{"[::0001]:1", "[::1]:1"}, {"LOCALHOST:1", "localhost:1"}, {"[::ffff:127.0.0.1]:1", "127.0.0.1:1"}} {
		a, err := transport.ParseAddr(e.traits.Scheme + "://" + same[0])
		b, err2 := transport.ParseAddr(e.traits.Scheme + "://" + same[1])
		if err != nil || err2 != nil || a != b {
			e.errorf("ParseAddr of %q and %q: want equal values, got %q, %v and %q, %v", same[0], same[1], a, err, b, err2)
		}
	}
	l := e.link()
	for what, addr := range map[string]transport.Addr{"Listener.Addr": l.ln.Addr(), "the dialler's LocalAddr": l.d.Info().LocalAddr,
		"the dialler's RemoteAddr": l.d.Info().RemoteAddr, "the acceptor's LocalAddr": l.a.Info().LocalAddr,
		"the acceptor's RemoteAddr": l.a.Info().RemoteAddr} {
		if got, err := transport.ParseAddr(addr.String()); err != nil || got != addr {
			e.errorf("%s is %q: want ParseAddr to give it back, got %q and %v", what, addr, got, err)
		}
	}
}

func addrRefused(e *env) {
	scheme := e.traits.Scheme
	id := e.key().ID().String()
	for _, s := range []string{"", "127.0.0.1:1", "://127.0.0.1:1", "UPPER://h:1", scheme + "://", scheme + ":127.0.0.1:1", scheme + "://127.0.0.1",
		scheme + "://127.0.0.1:", scheme + "://127.0.0.1:65536", scheme + "://127.0.0.1:-1", scheme + "://127.0.0.1:01", scheme + "://127.0.0.1:http",
		scheme + "://:1", scheme + "://::1:1", scheme + "://[::1]", scheme + "://[127.0.0.1]:1", scheme + "://1.2.3.4.5:1", scheme + "://127.0.0.1:1/",
		scheme + "://127.0.0.1:1/path", scheme + "://127.0.0.1:1?q", scheme + "://@127.0.0.1:1", scheme + "://" + id[1:] + "@127.0.0.1:1",
		scheme + "://" + strings.ToUpper(id) + "@127.0.0.1:1", scheme + "://" + id + "a@127.0.0.1:1", scheme + "://" + strings.Repeat("a", 52) + "@127.0.0.1:1",
		scheme + "://user:pass@127.0.0.1:1", scheme + "://a b:1", scheme + "://-a:1", scheme + "://" + strings.Repeat("a.", 300) + "b:1"} {
		if a, err := transport.ParseAddr(s); !errors.Is(err, transport.ErrBadAddr) {
			e.errorf("ParseAddr(%.80q): want ErrBadAddr, got %q and %s", s, a, describe(err))
		}
	}
	n := e.node()
	for _, hostPort := range []string{"", "127.0.0.1", "127.0.0.1:99999", "127.0.0.1:1/path", "[::1", "127.0.0.1:"} {
		addr := transport.Addr{Scheme: e.traits.Scheme, HostPort: hostPort}
		err := e.promptly("Dial", func() error { return dialError(n.Dial(e.ctx, addr)) })
		e.wantOp("Dial at "+addr.String(), err, "dial", addr)
		e.wantBadAddr("Dial at "+addr.String(), err)
		err = e.promptly("Listen", func() error { return listenError(n.Listen(e.ctx, addr)) })
		e.wantOp("Listen at "+addr.String(), err, "listen", addr)
		e.wantBadAddr("Listen at "+addr.String(), err)
	}
}

func (e *env) wantBadAddr(what string, err error) {
	if !errors.Is(err, transport.ErrBadAddr) {
		e.errorf("%s: want ErrBadAddr, got %s", what, describe(err))
	}
}

// dialError and listenError drop, and close, what should not have been made.
func dialError(c transport.Conn, err error) error {
	if err == nil {
		c.CloseWithError(transport.CodeNone, "")
	}
	return err
}

func listenError(ln transport.Listener, err error) error {
	if err == nil {
		ln.Close()
	}
	return err
}

func listenerAddr(e *env) {
	n, other := e.node(), e.node()
	ln := e.listen(n)
	addr := ln.Addr()
	if addr.Scheme != e.traits.Scheme || addr.Peer != n.id {
		e.errorf("Listener.Addr: want scheme %s and peer %s, got %s", e.traits.Scheme, n.id, addr)
	}
	host, _, _ := net.SplitHostPort(e.h.Listen.HostPort)
	gotHost, port, err := net.SplitHostPort(addr.HostPort)
	if err != nil || port == "0" || gotHost != host {
		e.errorf("Listener.Addr: want host %s and the real port, got %s", host, addr)
	}
	d, a := e.connect(other, ln)
	e.exchange(e.stream(d, a))
}

func listenerAddrGiven(e *env) {
	n, other := e.node(), e.node()
	// Listening at an address that carries our own ID is as good as one without.
	addr := e.h.Listen
	addr.Peer = n.id
	ln := e.listenAt(n, addr)
	if ln.Addr().Peer != n.id {
		e.errorf("Listener.Addr: want peer %s, got %s", n.id, ln.Addr())
	}
	e.exchange(e.stream(e.connect(other, ln)))
}

func dialByName(e *env) {
	n, other := e.node(), e.node()
	ln := e.listen(n)
	host, port, _ := net.SplitHostPort(ln.Addr().HostPort)
	if addrs, err := net.DefaultResolver.LookupHost(e.ctx, "localhost"); err != nil || !contains(addrs, host) {
		e.skipf("localhost is not %s here", host)
	}
	addr := ln.Addr()
	addr.HostPort = "localhost:" + port
	e.exchange(e.stream(e.connectAt(other, ln, addr)))
	addr.Peer = e.key().ID()
	e.wantWrongPeer(other, addr, n.id)
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

func dialIPv6(e *env) {
	probe, err := net.ListenPacket("udp6", "[::1]:0")
	if err != nil {
		e.skipf("there is no IPv6 here: %v", err)
	}
	probe.Close()
	n, other := e.node(), e.node()
	ln := e.listenAt(n, transport.Addr{Scheme: e.traits.Scheme, HostPort: "[::1]:0"})
	if !strings.HasPrefix(ln.Addr().HostPort, "[::1]:") {
		e.errorf("Listener.Addr: want host [::1], got %s", ln.Addr())
	}
	e.exchange(e.stream(e.connect(other, ln)))
}

func foreignScheme(e *env) {
	n := e.node()
	foreign := e.h.Listen
	foreign.Scheme += "-not"
	for _, addr := range []transport.Addr{foreign, {}} {
		err := e.promptly("Dial", func() error { return dialError(n.Dial(e.ctx, addr)) })
		e.wantOp("Dial at "+addr.String(), err, "dial", addr)
		e.wantBadAddr("Dial at "+addr.String(), err)
		err = e.promptly("Listen", func() error { return listenError(n.Listen(e.ctx, addr)) })
		e.wantOp("Listen at "+addr.String(), err, "listen", addr)
		e.wantBadAddr("Listen at "+addr.String(), err)
	}
}

func bothKnow(e *env) {
	server := e.node()
	ln := e.listen(server)
	for range 3 {
		client := e.node()
		d, a := e.connect(client, ln)
		e.exchange(e.stream(d, a))
		e.wantPeers(d.Info(), client.id, server.id)
		e.wantPeers(a.Info(), server.id, client.id)
	}
}

func (e *env) wantPeers(i transport.Info, local, remote identity.ID) {
	if i.LocalPeer != local || i.RemotePeer != remote {
		e.errorf("Info: want local peer %s and remote peer %s, got %s and %s", local.Short(), remote.Short(), i.LocalPeer.Short(), i.RemotePeer.Short())
	}
}

func wrongPeer(e *env) {
	server, client := e.node(), e.node()
	ln := e.listen(server)
	wrong := ln.Addr()
	wrong.Peer = e.key().ID()
	var accepted transport.Conn
	ctx, cancel := context.WithCancel(e.ctx)
	defer cancel()
	accept := e.start("Accept", func() (err error) {
		accepted, err = ln.Accept(ctx)
		return err
	})
	e.wantWrongPeer(client, wrong, server.id)
	select {
	case <-accept.done: // a handshake can end on this side before the other finds that it has the wrong one
	default:
		accept.blockedOr(func() {})
		cancel()
		accept.wait()
	}
	if accept.err == nil {
		err := e.promptly("AcceptStream on the connection of a dialler that refused us", func() error {
			s, err := accepted.AcceptStream(e.ctx)
			if err == nil {
				_, err = s.Read(make([]byte, 1))
			}
			return err
		})
		if err == nil {
			e.errorf("the accepting side of a connection that the dialler refused: want no bytes, got some")
		}
	}
	// The right one still gets in.
	e.exchange(e.stream(e.connect(client, ln)))
}

// blockedOr gives the call a moment, and calls f if it returns in that time.
func (c *call) blockedOr(f func()) {
	e := c.e
	timer := e.after(moment)
	select {
	case <-c.done:
		f()
	case <-timer.Done():
	}
}

// wantWrongPeer dials addr, where got answers instead of the peer of the address.
func (e *env) wantWrongPeer(n *node, addr transport.Addr, got identity.ID) {
	err := e.promptly("Dial", func() error { return dialError(n.Dial(e.ctx, addr)) })
	what := "Dial at an address with the ID of another peer"
	e.wantOp(what, err, "dial", addr)
	if !errors.Is(err, identity.ErrWrongPeer) {
		e.errorf("%s: want identity.ErrWrongPeer, got %s", what, describe(err))
		return
	}
	if !strings.Contains(err.Error(), got.String()) {
		e.errorf("%s: want the error to name the peer that answered (%s), got %v", what, got, err)
	}
}

func anyPeer(e *env) {
	server, client := e.node(), e.node()
	ln := e.listen(server)
	addr := ln.Addr()
	addr.Peer = identity.ID{}
	d, a := e.connectAt(client, ln, addr)
	e.exchange(e.stream(d, a))
	e.wantPeers(d.Info(), client.id, server.id)
	if got := d.Info().RemoteAddr.Peer; got != server.id {
		e.errorf("RemoteAddr of a connection dialled without an ID: want the peer %s, got %s", server.id, got)
	}
}

// visit makes a connection, uses it and ends it in an orderly way, so that a session can be resumed afterwards.
func (e *env) visit(n *node, ln transport.Listener, addr transport.Addr) {
	d, a := e.connectAt(n, ln, addr)
	x, y := e.stream(d, a)
	e.exchange(x, y)
	e.wantPeers(d.Info(), n.id, ln.Addr().Peer)
	e.wantPeers(a.Info(), ln.Addr().Peer, n.id)
	x.Close()
	y.Close()
	e.promptly("CloseWithError", func() error { return d.CloseWithError(transport.CodeNone, "") })
	<-a.Context().Done()
}

func resumedPeer(e *env) {
	server, client := e.node(), e.node()
	ln := e.listen(server)
	for range 4 {
		e.visit(client, ln, ln.Addr())
	}
	wrong := ln.Addr()
	wrong.Peer = e.key().ID()
	e.wantWrongPeer(client, wrong, server.id)
	e.visit(client, ln, ln.Addr())
}

func anotherAtSameAddress(e *env) {
	first, second, client := e.node(), e.node(), e.node()
	ln := e.listen(first)
	old := ln.Addr()
	for range 2 {
		e.visit(client, ln, old)
	}
	e.must(e.promptly("Transport.Close", first.Close), "Transport.Close")
	ln = e.listenAt(second, transport.Addr{Scheme: old.Scheme, HostPort: old.HostPort})
	e.wantWrongPeer(client, old, second.id)
	anybody := old
	anybody.Peer = identity.ID{}
	drop := e.start("Accept", func() error { // the connection of the dial that went wrong may be handed out
		for {
			c, err := ln.Accept(e.ctx)
			if err != nil {
				return err
			}
			e.spawn(func() { e.echo(c) })
		}
	})
	d := e.dial(client, anybody)
	e.wantPeers(d.Info(), client.id, second.id)
	s, err := d.OpenStream(e.ctx)
	e.must(err, "OpenStream")
	b := token()
	e.send(s, b)
	e.expect(s, b)
	ln.Close()
	drop.wait()
}

// echo accepts one stream and sends back what comes.
func (e *env) echo(c transport.Conn) {
	s, err := c.AcceptStream(e.ctx)
	if err != nil {
		return
	}
	b := make([]byte, 32<<10)
	for {
		n, err := s.Read(b)
		if err != nil {
			s.Close()
			return
		}
		if _, err := s.Write(b[:n]); err != nil {
			return
		}
	}
}

func info(e *env) {
	l := e.link()
	e.exchange(e.stream(l.d, l.a))
	d, a := l.d.Info(), l.a.Info()
	if !d.Dialer || a.Dialer {
		e.errorf("Info.Dialer: want true on the dialling side and false on the accepting one, got %v and %v", d.Dialer, a.Dialer)
	}
	for _, i := range []struct {
		what string
		addr transport.Addr
		id   identity.ID
	}{
		{"the dialler's LocalAddr", d.LocalAddr, l.dialer.id}, {"the dialler's RemoteAddr", d.RemoteAddr, l.acceptor.id},
		{"the acceptor's LocalAddr", a.LocalAddr, l.acceptor.id}, {"the acceptor's RemoteAddr", a.RemoteAddr, l.dialer.id},
	} {
		if i.addr.Scheme != e.traits.Scheme || i.addr.Peer != i.id || i.addr.HostPort == "" {
			e.errorf("%s: want scheme %s, a host and port, and peer %s; got %q", i.what, e.traits.Scheme, i.id.Short(), i.addr)
		}
	}
	if d.RemoteAddr != l.ln.Addr() {
		e.errorf("the dialler's RemoteAddr: want %s, which it dialled, got %s", l.ln.Addr(), d.RemoteAddr)
	}
	e.must(e.promptly("CloseWithError", func() error { return l.d.CloseWithError(transport.CodeNone, "") }), "CloseWithError")
	<-l.a.Context().Done()
	if l.d.Info() != d || l.a.Info() != a {
		e.errorf("Info after the end of the connection: want what it was before, got %+v and %+v", l.d.Info(), l.a.Info())
	}
}

func traits(e *env) {
	l := e.link()
	for _, s := range []struct {
		what string
		node *node
	}{{"the dialler's", l.dialer}, {"the acceptor's", l.acceptor}} {
		got := s.node.Traits()
		if got.Scheme != e.h.Listen.Scheme || got.LocalPeer != s.node.id {
			e.errorf("%s Traits: want scheme %s and LocalPeer %s, got %+v", s.what, e.h.Listen.Scheme, s.node.id.Short(), got)
		}
		if again := s.node.Traits(); again != got {
			e.errorf("%s Traits: want the same as before, %+v, got %+v", s.what, got, again)
		}
	}
}
