package quic

import (
	"errors"
	"testing"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/transport"
)

func TestFigures(t *testing.T) {
	key, err := identity.Generate()
	if err != nil {
		t.Fatal(err)
	}
	tr, err := New(key, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer tr.Close()
	l, err := tr.Listen(t.Context(), transport.Addr{Scheme: "quic", HostPort: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	f, err := l.(*Listener).Figures()
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skip(err)
	}
	if err != nil || f.ReadBuffer < 2048 || f.ReadBuffer > socketBuffer || f.WriteBuffer < 2048 || f.WriteBuffer > socketBuffer {
		t.Errorf("%+v, %v; want up to %d bytes", f, err, socketBuffer)
	}
}
