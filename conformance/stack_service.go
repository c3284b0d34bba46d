package conformance

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/Blockchain-CN/pheromones"
	"github.com/Blockchain-CN/pheromones/protocol"
	"github.com/Blockchain-CN/pheromones/transport"
)

// offer makes n listen for a service until the check's end.
func (n *stackNode) offer(service string) net.Listener {
	l, err := n.Listen(service)
	n.e.must(err, "Listen(%q)", service)
	n.e.cleanup(func() { l.Close() })
	return l
}

// connectTo dials a service.
func (n *stackNode) connectTo(m *stackNode, service string) transport.Stream {
	c, err := n.Dial(n.e.ctx, m.addr, service)
	n.e.must(err, "Dial(%q)", service)
	n.e.cleanup(func() { c.Close() })
	s, ok := c.(transport.Stream)
	if !ok {
		n.e.failf("Dial(%q): want a transport.Stream, got %T", service, c)
	}
	return s
}

func serviceEcho(e *env) {
	a, b := e.stack("a", nil), e.stack("b", nil)
	l := b.offer("echo")
	if want := (pheromones.ServiceAddr{Node: b.ID(), Service: "echo"}); l.Addr() != want {
		e.errorf("the listener's Addr: want %v, got %v", want, l.Addr())
	}
	from := make(chan net.Addr, 1)
	e.spawn(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			from <- c.RemoteAddr()
			e.spawn(func() {
				defer c.Close()
				io.Copy(c, struct{ io.Reader }{c})
			})
		}
	})
	s := a.connectTo(b, "echo")
	const n = 8 << 20
	data := noise(n)
	write := e.start("Write", func() error {
		if _, err := s.Write(data); err != nil {
			return err
		}
		return s.CloseWrite()
	})
	hash := sha256.New()
	got, err := io.Copy(hash, struct{ io.Reader }{s})
	e.must(write.wait(), "writing 8 MiB and closing the direction")
	if err != nil || got != n || [32]byte(hash.Sum(nil)) != sha256.Sum256(data) {
		e.errorf("8 MiB through an echo: want them back unchanged, and then the end; got %d bytes, %s", got, describe(err))
	}
	if addr, ok := receive(e, "Accept", from).(transport.Addr); !ok || addr.Peer != a.ID() {
		e.errorf("RemoteAddr of an accepted connection: want a transport.Addr of %v, got %v", a.ID(), addr)
	}
	s.Close()
	a.works(b)
}

func serviceHTTP(e *env) {
	a, b := e.stack("a", nil), e.stack("b", nil)
	const width = 64
	var waiting, accepted atomic.Int64
	together := make(chan struct{}) // closed when all are there
	server := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/together" {
				if waiting.Add(1) == width {
					close(together)
				}
				select {
				case <-together:
				case <-e.ctx.Done():
				}
			}
			addr, err := transport.ParseAddr(r.RemoteAddr)
			fmt.Fprint(w, r.URL.Path, " ", addr.Peer == a.ID(), " ", err)
		}),
		ConnState: func(_ net.Conn, state http.ConnState) {
			if state == http.StateNew {
				accepted.Add(1)
			}
		},
		ErrorLog: nil,
	}
	l := b.offer("web")
	serve := e.start("Serve", func() error { return server.Serve(l) })
	tr := &http.Transport{
		DialContext:         func(ctx context.Context, _, _ string) (net.Conn, error) { return a.Dial(ctx, b.addr, "web") },
		MaxIdleConnsPerHost: width,
	}
	client := &http.Client{Transport: tr}
	e.cleanup(func() { tr.CloseIdleConnections(); server.Close() })
	get := func(path string) {
		req, err := http.NewRequestWithContext(e.ctx, http.MethodGet, "http://b"+path, nil)
		e.must(err, "making a request")
		resp, err := client.Do(req)
		e.must(err, "GET %s", path)
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if want := path + " true <nil>"; err != nil || string(body) != want {
			e.errorf("GET %s: want %q, got %q, %s", path, want, body, describe(err))
		}
	}
	for i := range 20 {
		get(fmt.Sprint("/", i))
	}
	if n := accepted.Load(); n != 1 {
		e.errorf("20 requests one after the other: want one connection, got %d", n)
	}
	e.each(width, width, func(int) { get("/together") })
	tr.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(e.ctx, e.soon)
	defer cancel()
	e.must(server.Shutdown(ctx), "Shutdown of the HTTP server")
	if err := serve.wait(); !errors.Is(err, http.ErrServerClosed) {
		e.errorf("Serve: want http.ErrServerClosed, got %s", describe(err))
	}
	a.works(b)
}

func serviceBacklog(e *env) {
	const backlog, surplus = 128, 8
	a, b := e.stack("a", nil), e.stack("b", nil)
	a.add(b)
	l := b.offer("slow")
	refused, answered := make(chan error, backlog+surplus), make(chan byte, backlog+surplus)
	e.each(backlog+surplus, 16, func(i int) {
		s := a.connectTo(b, "slow")
		s.SetReadDeadline(time.Now().Add(2 * e.soon))
		e.spawn(func() {
			var p [1]byte
			if _, err := s.Read(p[:]); err != nil {
				refused <- err
			} else {
				answered <- p[0]
			}
		})
	})
	for range surplus {
		e.wantReset("a connection too many", receive(e, "the end of a connection too many", refused), transport.CodeLimit, true)
	}
	a.works(b)
	e.must(e.promptly("Accept of all that wait", func() error {
		for range backlog {
			c, err := l.Accept()
			if err != nil {
				return err
			}
			if _, err := c.Write([]byte{1}); err != nil {
				return err
			}
			if err := c.Close(); err != nil {
				return err
			}
		}
		return nil
	}), "Accept")
	for range backlog {
		receive(e, "a connection that waited is served", answered)
	}
	if n := len(refused); n != 0 {
		e.errorf("want %d connections to be refused, got %d more", surplus, n)
	}
}

func serviceClosed(e *env) {
	a, b := e.stack("a", nil), e.stack("b", nil)
	l := b.offer("service")
	_, err := b.Listen("service")
	e.wantIs("a second listener for a service", err, pheromones.ErrServiceInUse)
	_, err = b.Listen(protocol.MessageService)
	e.wantIs("a listener for the message service", err, pheromones.ErrServiceInUse)

	kept := a.connectTo(b, "service")
	server, err := l.Accept()
	e.must(err, "Accept")
	queued := a.connectTo(b, "service")
	queued.SetReadDeadline(time.Now().Add(e.soon))
	waiting := e.start("Read of a connection that waits", func() error { _, err := queued.Read(make([]byte, 1)); return err })
	waiting.blocked()
	e.must(l.Close(), "Close")
	e.wantReset("a connection that nobody will accept", waiting.wait(), transport.CodeUnknownService, true)
	_, err = l.Accept()
	e.wantClosed("Accept after Close", err)
	e.must(l.Close(), "Close again")
	s := a.connectTo(b, "service")
	s.SetReadDeadline(time.Now().Add(e.soon))
	_, err = s.Read(make([]byte, 1))
	e.wantReset("a service that has ended", err, transport.CodeUnknownService, true)
	e.exchange(kept, server.(transport.Stream)) // accepted ones live on
	again := b.offer("service")
	accept := e.start("Accept, under way", func() error { _, err := again.Accept(); return err })
	accept.blocked()
	e.must(b.Close(), "Close of the node")
	e.wantClosed("Accept when the node closes", accept.wait())
	_, err = b.Listen("other")
	e.wantClosed("Listen on a closed node", err)
}
