package mux_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/mux"
	"github.com/Blockchain-CN/pheromones/transport"
)

// wire is a proxy to one listener, which counts what passes and can fall silent.
type wire struct {
	net.Listener
	silent atomic.Bool
	passed atomic.Int64 // writes
}

func newWire(t *testing.T, to string) *wire {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{Listener: l}
	var all sync.WaitGroup
	t.Cleanup(all.Wait)
	t.Cleanup(func() { l.Close() })
	all.Go(func() {
		near, err := l.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", to)
		if err != nil {
			t.Error(err)
			near.Close()
			return
		}
		pass := func(to, from net.Conn) {
			defer to.Close()
			buf := make([]byte, 4<<10)
			for {
				n, err := from.Read(buf)
				if err != nil {
					return
				}
				if w.silent.Load() {
					continue
				}
				w.passed.Add(1)
				if _, err := to.Write(buf[:n]); err != nil {
					return
				}
			}
		}
		all.Go(func() { pass(near, far) })
		pass(far, near)
	})
	return w
}

// TestKeepAlive has a connection rest behind a proxy: it is tried again and again, and lost when the proxy falls silent.
func TestKeepAlive(t *testing.T) {
	t.Parallel() // a silent peer has two seconds
	var ends [2]*mux.Transport
	for i, keepAlive := range []time.Duration{20 * time.Millisecond, -1} {
		key, err := identity.Generate()
		if err != nil {
			t.Fatal(err)
		}
		if ends[i], err = mux.New(key, &mux.Config{KeepAlive: keepAlive}); err != nil {
			t.Fatal(err)
		}
		defer ends[i].Close()
	}
	l, err := ends[1].Listen(t.Context(), transport.Addr{Scheme: mux.Scheme, HostPort: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	w := newWire(t, l.Addr().HostPort)
	at := l.Addr()
	at.HostPort = w.Addr().String()
	c, err := ends[0].Dial(t.Context(), at)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Accept(t.Context()); err != nil {
		t.Fatal(err)
	}
	for before := w.passed.Load(); w.passed.Load() < before+10; { // five pings and their answers
		select {
		case <-c.Context().Done():
			t.Fatalf("an idle connection has ended: %v", context.Cause(c.Context()))
		case <-time.After(time.Millisecond):
		}
	}
	w.silent.Store(true)
	s, err := c.OpenStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Read(make([]byte, 1))
	var lost *transport.LostError
	if !errors.As(err, &lost) || !errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, io.EOF) {
		t.Errorf("Read: got %v, want a lost connection, because of the time", err)
	}
	if err := context.Cause(c.Context()); !errors.As(err, &lost) {
		t.Errorf("the cause: got %v, want a lost connection", err)
	}
}
