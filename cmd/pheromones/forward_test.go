package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/Blockchain-CN/pheromones/transport"
)

// listenTCP runs a TCP server on loopback: f has each of its connections, and closes it.
func listenTCP(t *testing.T, f func(c *net.TCPConn)) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() { f(c.(*net.TCPConn)) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		running.Wait()
	})
	return l.Addr().String()
}

// tcpEcho sends back what it gets, and its end.
func tcpEcho(c *net.TCPConn) {
	io.Copy(c, c)
	c.Close()
}

// tcpSum reads all, and only then answers with the hash of it.
func tcpSum(c *net.TCPConn) {
	h := sha256.New()
	io.Copy(h, c)
	fmt.Fprintf(c, "%x", h.Sum(nil))
	c.Close()
}

// pattern is n bytes that no error of ours could leave as they are.
func pattern(n int) string {
	b := make([]byte, n)
	x := uint32(1)
	for i := range b {
		x = x*1664525 + 1013904223
		b[i] = byte(x >> 24)
	}
	return string(b)
}

func TestPipe(t *testing.T) {
	data := pattern(8 << 20)
	sum := fmt.Sprintf("%x", sha256.Sum256([]byte(data)))
	eachTransport(t, func(t *testing.T, scheme string) {
		_, addr := serveAt(t, scheme, "--service", "echo="+listenTCP(t, tcpEcho), "--service", "sum="+listenTCP(t, tcpSum))
		// The answer comes after the end of the input: half-close reaches the server.
		if out := mustTry(t, data, "pipe", addr, "sum"); out != sum {
			t.Errorf("the server got bytes of hash %s, want %s", out, sum)
		}
		if out := mustTry(t, data, "pipe", addr, "echo"); out != data {
			t.Errorf("%d bytes came back, or others", len(out))
		}
		if out := mustTry(t, "", "pipe", anybody(addr), "echo"); out != "" {
			t.Errorf("nothing came back as %q", out)
		}
	})
}

// A server may end its side first and still read: then pipe goes on until its input has ended, and all of it arrives.
func TestPipeServerEndsFirst(t *testing.T) {
	data := pattern(4 << 20)
	eachTransport(t, func(t *testing.T, scheme string) {
		got := make(chan string, 1)
		target := listenTCP(t, func(c *net.TCPConn) {
			io.WriteString(c, "go ahead\n")
			c.CloseWrite()
			all, _ := io.ReadAll(c)
			c.Close()
			got <- string(all)
		})
		_, addr := serveAt(t, scheme, "--service", "store="+target)
		b := start(t, "pipe", addr, "store")
		if line := b.line(); line != "go ahead" {
			t.Fatalf("got %q", line)
		}
		if _, err := io.WriteString(b.stdin, data); err != nil {
			t.Fatal(err)
		}
		b.stdin.Close()
		if code := b.wait(); code != exitOK {
			t.Fatalf("exit code %d, %q", code, b.errors())
		}
		if all := <-got; all != data {
			t.Errorf("%d bytes arrived, or others; want %d", len(all), len(data))
		}
	})
}

// A reset on one side is a reset on the other, and no orderly end.
func TestPipeReset(t *testing.T) {
	eachTransport(t, func(t *testing.T, scheme string) {
		seen := make(chan error, 1)
		server, addr := serveAt(t, scheme,
			"--service", "rude="+listenTCP(t, func(c *net.TCPConn) {
				io.WriteString(c, "x")
				io.ReadFull(c, make([]byte, 1))
				c.SetLinger(0)
				c.Close()
			}),
			"--service", "kind="+listenTCP(t, func(c *net.TCPConn) {
				io.WriteString(c, "x\n")
				_, err := io.Copy(io.Discard, c)
				c.Close()
				seen <- err
			}),
			"--service", "dead="+deadAddr(t))
		for service, want := range map[string]string{"rude": "cancelled", "dead": "what it leads to is not", "none": `no service "none"`} {
			code, _, errOut := try(t, "y", "pipe", addr, service)
			if code != exitFailed || !strings.Contains(errOut, want) {
				t.Errorf("%s: exit code %d, %q; want %q", service, code, errOut, want)
			}
		}
		if !strings.Contains(server.errors(), "service dead: a connection from "+scheme+"://") {
			t.Errorf("the node says %q of the server that is not there", server.errors())
		}
		b := start(t, "pipe", addr, "kind")
		b.line()
		b.signal()
		if code := b.wait(); code != exitInterrupted || !errors.Is(<-seen, syscall.ECONNRESET) {
			t.Errorf("interrupted: exit code %d, %q", code, b.errors())
		}
	})
}

// deadAddr is where nobody listens.
func deadAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// The service goes away while there is input left.
func TestPipeInputLeft(t *testing.T) {
	eachTransport(t, func(t *testing.T, scheme string) {
		_, addr := serveAt(t, scheme, "--service", "short="+listenTCP(t, func(c *net.TCPConn) { c.Close() }))
		code, _, errOut := try(t, pattern(64<<20), "pipe", addr, "short")
		if code != exitFailed || strings.Count(errOut, "\n") != 1 {
			t.Errorf("exit code %d, %q", code, errOut)
		}
	})
}

func TestPipeListen(t *testing.T) {
	eachTransport(t, func(t *testing.T, scheme string) {
		site := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			fmt.Fprintf(w, "%s %x", r.URL.Path, sha256.Sum256(body))
		})}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		served := make(chan struct{})
		go func() {
			defer close(served)
			site.Serve(l)
		}()
		t.Cleanup(func() {
			site.Close()
			<-served
		})
		server, addr := serveAt(t, scheme, "--service", "web="+l.Addr().String())
		b := start(t, "pipe", "--listen", "127.0.0.1:0", addr, "web")
		base := "http://" + b.line()
		client := &http.Client{Transport: &http.Transport{}}
		var wg sync.WaitGroup
		for i := range 16 {
			wg.Go(func() {
				body := pattern(i << 16)
				resp, err := client.Post(fmt.Sprintf("%s/%d", base, i), "", strings.NewReader(body))
				if err != nil {
					t.Error(err)
					return
				}
				defer resp.Body.Close()
				got, err := io.ReadAll(resp.Body)
				if want := fmt.Sprintf("/%d %x", i, sha256.Sum256([]byte(body))); err != nil || string(got) != want {
					t.Errorf("got %q, %v; want %q", got, err, want)
				}
			})
		}
		wg.Wait()
		client.CloseIdleConnections()
		b.signal()
		if code := b.wait(); code != exitOK || b.errors() != "" {
			t.Errorf("pipe --listen: exit code %d, %q", code, b.errors())
		}
		server.signal()
		if code := server.wait(); code != exitOK || server.errors() != "" && !strings.Contains(server.errors(), "made a new key") {
			t.Errorf("serve: exit code %d, %q", code, server.errors())
		}
	})
}

// What is under way when the signal comes may finish; a second signal cuts it off.
func TestServeShutdown(t *testing.T) {
	eachTransport(t, func(t *testing.T, scheme string) {
		for _, twice := range []bool{false, true} {
			server, addr := serveAt(t, scheme, "--service", "echo="+listenTCP(t, tcpEcho))
			b := start(t, "pipe", addr, "echo")
			io.WriteString(b.stdin, "before\n")
			if line := b.line(); line != "before" {
				t.Fatalf("got %q", line)
			}
			server.signal()
			// The service is gone once no new connection finds it.
			for {
				code, _, _ := try(t, "", "pipe", addr, "echo")
				if code != exitOK {
					break
				}
			}
			want := exitOK
			if twice {
				server.signal()
				want = exitInterrupted
			} else {
				io.WriteString(b.stdin, "after\n")
				if line := b.line(); line != "after" {
					t.Errorf("got %q", line)
				}
				b.stdin.Close()
				if code := b.wait(); code != exitOK {
					t.Errorf("pipe: exit code %d, %q", code, b.errors())
				}
			}
			if code := server.wait(); code != want {
				t.Errorf("twice %v: serve: exit code %d, %q", twice, code, server.errors())
			}
		}
	})
}

// tcpPair returns the two ends of a TCP connection.
func tcpPair(t *testing.T) (a, b *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	d, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		d.Close()
	})
	return c.(*net.TCPConn), d.(*net.TCPConn)
}

// The context's end resets both sides of a join, and join returns.
func TestJoinContext(t *testing.T) {
	a, b := tcpPair(t)
	c, d := tcpPair(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- join(ctx, b, c) }()
	if _, err := a.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(d, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-done; err == nil {
		t.Error("join was cut off and returned nil")
	}
	for _, c := range []net.Conn{a, d} {
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("an end reads %v, want a reset", err)
		}
	}
}

// countingListener hands out connections that nobody serves, and tells how many.
type countingListener struct {
	conns  chan net.Conn
	closed chan struct{}
}

func (l *countingListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}
func (l *countingListener) Close() error   { close(l.closed); return nil }
func (l *countingListener) Addr() net.Addr { return transport.Addr{} }

// A forwarder carries so many connections and no more; the next one gets its place when one has ended.
func TestForwarderBound(t *testing.T) {
	l := &countingListener{conns: make(chan net.Conn), closed: make(chan struct{})}
	release := make(chan struct{})
	f := &forwarder{
		dial: func(context.Context) (conn, error) {
			<-release
			return nil, errors.New("no")
		},
		refused: func(net.Addr, error) {},
	}
	done := make(chan error, 1)
	go func() { done <- f.serve(t.Context(), l) }()
	c, _ := tcpPair(t)
	for range maxForwards {
		l.conns <- c
	}
	select {
	case l.conns <- c:
		t.Errorf("more than %d connections at once", maxForwards)
	case <-time.After(20 * time.Millisecond):
	}
	close(release)
	l.conns <- c
	l.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// The meter shows long transfers only, and nothing at all where nobody looks.
func TestMeter(t *testing.T) {
	var none *meter
	none.add(1)
	none.finish()
	for _, total := range []int64{-1, 5000} {
		var w strings.Builder
		m := &meter{w: &w, total: total, from: time.Now().Add(time.Hour)}
		m.add(500)
		if w.Len() > 0 {
			t.Errorf("a short transfer shows %q", w.String())
		}
		m.from = time.Now()
		m.add(800)
		m.add(8000) // more than the total
		m.finish()
		if !strings.Contains(w.String(), "1.3") {
			t.Errorf("total %d: a long transfer shows %q", total, w.String())
		}
	}
	p := &program{in: os.Stdin, out: &output{w: io.Discard}, err: &output{w: io.Discard}}
	if p.newMeter() != nil {
		t.Error("there is a meter without a terminal")
	}
}
