package conformance_test

import (
	"context"
	"errors"
	"testing"

	"github.com/Blockchain-CN/pheromones/conformance"
	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/transport"
)

// deaf is a transport that never reaches anybody.
type deaf struct{ transport.Transport }

func (deaf) Dial(_ context.Context, a transport.Addr) (transport.Conn, error) {
	return nil, &transport.OpError{Op: "dial", Addr: a, Err: errors.New("nobody hears")}
}

func TestRunStack(t *testing.T) {
	h := overMem()
	h.Select = func(r conformance.Rule) bool { return r.Name == "exchange" || r.Name == "one-dial-each" }
	ran, skipped := "", ""
	if err := conformance.RunStack(t.Context(), h, func(r conformance.Result) {
		if ran += r.Rule.Name + " "; r.Skipped != "" {
			skipped += r.Rule.Name + " "
		}
	}); err != nil {
		t.Error(err)
	}
	if ran != "exchange one-dial-each " || skipped != "one-dial-each " {
		t.Errorf("ran %q and skipped %q, want both rules, and the second skipped", ran, skipped)
	}

	good := h.New
	h.New = func(key identity.Key) (transport.Transport, error) {
		tr, err := good(key)
		return deaf{tr}, err
	}
	var found *conformance.Finding
	if err := conformance.CheckStack(t.Context(), h); !errors.As(err, &found) || found.Rule.Name != "exchange" {
		t.Errorf("over a transport that reaches nobody: got %v, want a finding", err)
	}
}
