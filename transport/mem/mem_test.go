package mem_test

import (
	"context"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/transport"
	"github.com/Blockchain-CN/pheromones/transport/mem"
)

func newTransport(t *testing.T, cfg *mem.Config) *mem.Transport {
	t.Helper()
	key, err := identity.Generate()
	if err != nil {
		t.Fatal(err)
	}
	tr, err := mem.New(key, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tr.Close() })
	return tr
}

// The transport takes no time of its own, so an hour's deadline passes in no time within a bubble.
func TestSynctest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		network := new(mem.Network)
		a, b := newTransport(t, &mem.Config{Network: network}), newTransport(t, &mem.Config{Network: network})
		l, err := b.Listen(ctx, transport.Addr{Scheme: mem.Scheme, HostPort: "b:0"})
		if err != nil {
			t.Fatal(err)
		}
		dialled, err := a.Dial(ctx, l.Addr())
		if err != nil {
			t.Fatal(err)
		}
		accepted, err := l.Accept(ctx)
		if err != nil {
			t.Fatal(err)
		}
		s, err := dialled.OpenStream(ctx)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			s.Write([]byte("hello"))
			s.CloseWrite()
		}()
		r, err := accepted.AcceptStream(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(r); err != nil || string(got) != "hello" {
			t.Fatalf("read %q, %v", got, err)
		}
		start := time.Now()
		s.SetReadDeadline(start.Add(time.Hour))
		if _, err := s.Read(make([]byte, 1)); time.Since(start) != time.Hour {
			t.Fatalf("Read returned %v after %v, want a deadline after an hour", err, time.Since(start))
		}
		waiting, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		if _, err := dialled.AcceptStream(waiting); err != context.DeadlineExceeded {
			t.Fatalf("AcceptStream: %v", err)
		}
	})
}

func TestNetworksAreApart(t *testing.T) {
	a, b := newTransport(t, &mem.Config{Network: new(mem.Network)}), newTransport(t, nil)
	l, err := b.Listen(t.Context(), transport.Addr{Scheme: mem.Scheme, HostPort: "b:0"})
	if err != nil {
		t.Fatal(err)
	}
	if c, err := a.Dial(t.Context(), l.Addr()); err == nil {
		t.Fatalf("dialled %v across networks", c.Info().RemoteAddr)
	}
}
