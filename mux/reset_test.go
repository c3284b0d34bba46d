package mux_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/mux"
	"github.com/Blockchain-CN/pheromones/transport"
)

// pair returns the two ends of a connection.
func pair(t *testing.T) (dialled, accepted transport.Conn) {
	t.Helper()
	var ends [2]*mux.Transport
	for i := range ends {
		key, err := identity.Generate()
		if err != nil {
			t.Fatal(err)
		}
		if ends[i], err = mux.New(key, nil); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ends[i].Close() })
	}
	l, err := ends[1].Listen(t.Context(), transport.Addr{Scheme: mux.Scheme, HostPort: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	if dialled, err = ends[0].Dial(t.Context(), l.Addr()); err != nil {
		t.Fatal(err)
	}
	if accepted, err = l.Accept(t.Context()); err != nil {
		t.Fatal(err)
	}
	return dialled, accepted
}

// A stream that was reset before it was accepted holds its place on both sides until then: a peer that opens and resets streams as
// fast as it may is never refused one.
func TestResetsBeforeAccept(t *testing.T) {
	a, b := pair(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	opened := make(chan error, 1)
	const streams = 5 * 256
	go func() {
		for range streams {
			s, err := a.OpenStream(ctx)
			if err != nil {
				opened <- err
				return
			}
			s.Reset(7)
		}
		opened <- nil
	}()
	for i := range streams {
		s, err := b.AcceptStream(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Read(make([]byte, 1)); !errors.Is(err, transport.Code(7)) {
			t.Fatalf("stream %d: Read failed with %v, want the peer's code 7", i, err)
		}
		s.Close()
	}
	if err := <-opened; err != nil {
		t.Fatal(err)
	}
}
