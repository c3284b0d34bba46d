package router

import (
	"context"
	"errors"
	"testing"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/transport"
)

func TestAttempt(t *testing.T) {
	for _, test := range []struct {
		err   error
		phase transport.Phase
		fault Fault
	}{
		{transport.PhaseConnect.In(errRefused), transport.PhaseConnect, FaultNetwork},
		{transport.PhaseResolve.In(context.DeadlineExceeded), transport.PhaseResolve, FaultCaller},
		{transport.PhaseHandshake.In(identity.ErrWrongPeer), transport.PhaseHandshake, FaultPeer},
		{&transport.CloseError{Code: transport.CodeRefused, Remote: true}, "", FaultPeer},
		{transport.ErrBadAddr, "", FaultOurs},
		{errors.New("something"), "", FaultNetwork},
	} {
		a := Attempt{Err: &transport.OpError{Op: "dial", Err: test.err}}
		if a.Phase() != test.phase || a.Fault() != test.fault {
			t.Errorf("%v: got %q and %q, want %q and %q", test.err, a.Phase(), a.Fault(), test.phase, test.fault)
		}
	}
}
