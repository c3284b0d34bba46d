package conformance

import (
	"crypto/tls"
	"io"
	"net"
	"sync"

	"github.com/Blockchain-CN/pheromones/transport"
)

// loopback returns the harness's host with port 0.
func (e *env) loopback() string {
	host, _, _ := net.SplitHostPort(e.h.Listen.HostPort)
	return net.JoinHostPort(host, "0")
}

// at returns an address of the transport for what the suite listens at.
func (e *env) at(a net.Addr) transport.Addr {
	return transport.Addr{Scheme: e.traits.Scheme, HostPort: a.String()}
}

// blackHole listens by the harness's network and takes what comes without a word.
func (e *env) blackHole() transport.Addr {
	return e.listenRaw(func(c net.Conn) { io.Copy(io.Discard, struct{ io.Reader }{c}) }, func(net.PacketConn, net.Addr) {})
}

// babbler answers with garbage.
func (e *env) babbler() transport.Addr {
	return e.listenRaw(func(c net.Conn) {
		c.Write(noise(500))
		io.Copy(io.Discard, struct{ io.Reader }{c})
	}, func(p net.PacketConn, from net.Addr) {
		p.WriteTo(noise(500), from)
	})
}

// listenRaw listens by the harness's network; conn is called for each connection, packet for each packet.
func (e *env) listenRaw(conn func(net.Conn), packet func(net.PacketConn, net.Addr)) transport.Addr {
	if e.h.Network == "udp" {
		p, err := net.ListenPacket("udp", e.loopback())
		e.must(err, "listening at a UDP port")
		e.cleanup(func() { p.Close() })
		e.spawn(func() {
			b := make([]byte, 64<<10)
			for {
				_, from, err := p.ReadFrom(b)
				if err != nil {
					return
				}
				packet(p, from)
			}
		})
		return e.at(p.LocalAddr())
	}
	ln, err := net.Listen("tcp", e.loopback())
	e.must(err, "listening at a TCP port")
	e.cleanup(func() { ln.Close() })
	e.spawn(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			e.cleanup(func() { c.Close() })
			e.spawn(func() { conn(c) })
		}
	})
	return e.at(ln.Addr())
}

// crowd fills addr with peers that are none: silent ones, ones that send garbage, ones that begin a handshake and stop in
// the middle of a message or after it, and ones that finish it without showing who they are. Over UDP the sockets are
// kept, and there is nothing that the other side could hold against their will.
func (e *env) crowd(addr transport.Addr) []net.Conn {
	const each = 30
	hello := clientHello()
	var all []net.Conn
	for i := range 4 * each {
		c, err := net.Dial(e.h.Network, addr.HostPort)
		e.must(err, "connecting to the listener by %s", e.h.Network)
		e.cleanup(func() { c.Close() })
		all = append(all, c)
		switch i % 4 {
		case 0: // silent
			if e.h.Network == "udp" {
				c.Write(nil)
			}
		case 1:
			c.Write(noise(20 + 10*i))
		case 2:
			c.Write(hello[:len(hello)/2])
		case 3:
			c.Write(hello)
		}
	}
	if e.h.Network == "tcp" {
		for range 10 {
			c, err := net.Dial("tcp", addr.HostPort)
			e.must(err, "connecting to the listener by TCP")
			e.cleanup(func() { c.Close() })
			all = append(all, c)
			e.spawn(func() { // ends when the other side refuses, or at cleanup
				tls.Client(c, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13}).Handshake()
			})
		}
	}
	return all
}

// clientHello returns the first message of a TLS handshake.
func clientHello() []byte {
	near, far := net.Pipe()
	defer near.Close()
	go func() {
		tls.Client(far, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13}).Handshake()
		far.Close()
	}()
	b := make([]byte, 16<<10)
	n, _ := near.Read(b)
	return b[:n]
}

// cable is a way to a listener that can be cut or go dead.
type cable struct {
	e    *env
	addr transport.Addr // where to dial in the listener's stead

	mu    sync.Mutex
	dead  bool       // nothing passes any more, and nobody is told
	moved *sync.Cond // dead or cut has changed
	cut   bool
	ends  []net.Conn // both ends of every TCP connection
}

// cable makes a way to the listener at addr.
func (e *env) cable(addr transport.Addr) *cable {
	c := &cable{e: e}
	c.moved = sync.NewCond(&c.mu)
	e.cleanup(func() { c.sever(false) })
	if e.h.Network == "udp" {
		c.addr = c.packets(addr)
	} else {
		c.addr = e.listenRaw(func(near net.Conn) {
			far, err := net.Dial("tcp", addr.HostPort)
			if err != nil {
				near.Close()
				return
			}
			c.mu.Lock()
			c.ends = append(c.ends, near, far)
			c.mu.Unlock()
			e.spawn(func() { c.copy(near, far) })
			c.copy(far, near)
		}, nil)
	}
	c.addr.Peer = addr.Peer
	return c
}

// copy moves bytes until either end fails or the cable is cut; then it closes both. On a dead cable it waits for the cut.
func (c *cable) copy(to, from net.Conn) {
	b := make([]byte, 32<<10)
	for {
		n, err := from.Read(b)
		if !c.open() {
			return
		}
		if err == nil {
			_, err = to.Write(b[:n])
		}
		if err != nil {
			from.Close()
			to.Close()
			return
		}
	}
}

// open waits while the cable is dead, and reports whether it has not been cut.
func (c *cable) open() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.dead && !c.cut {
		c.moved.Wait()
	}
	return !c.cut
}

// kill lets nothing pass any more.
func (c *cable) kill() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dead = true
	c.moved.Broadcast()
}

// sever ends the TCP connections on both ends, by RST or else by FIN, without a word of the protocols above.
func (c *cable) sever(reset bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut = true
	c.moved.Broadcast()
	for _, end := range c.ends {
		if tc, ok := end.(*net.TCPConn); ok && reset {
			tc.SetLinger(0)
		}
		end.Close()
	}
}

// packets carries UDP packets to and from addr.
func (c *cable) packets(addr transport.Addr) transport.Addr {
	e := c.e
	near, err := net.ListenPacket("udp", e.loopback())
	e.must(err, "listening at a UDP port")
	e.cleanup(func() { near.Close() })
	e.spawn(func() {
		far := make(map[string]net.Conn)
		b := make([]byte, 64<<10)
		for {
			n, from, err := near.ReadFrom(b)
			if err != nil {
				return
			}
			out := far[from.String()]
			if out == nil {
				if out, err = net.Dial("udp", addr.HostPort); err != nil {
					return
				}
				e.cleanup(func() { out.Close() })
				far[from.String()] = out
				e.spawn(func() {
					b := make([]byte, 64<<10)
					for {
						n, err := out.Read(b)
						if err != nil {
							if e.ctx.Err() != nil || isClosed(err) {
								return
							}
							continue // the other side's port may be closed for a while
						}
						if c.passes() {
							near.WriteTo(b[:n], from)
						}
					}
				})
			}
			if c.passes() {
				out.Write(b[:n])
			}
		}
	})
	return e.at(near.LocalAddr())
}

func (c *cable) passes() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.dead
}
