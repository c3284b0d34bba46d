package portmap

import (
	"context"
	"net/netip"
	"sync"
)

// Found is what became of asking the router whether it speaks a protocol.
type Found struct {
	Protocol Protocol
	Gateway  netip.Addr
	// Outside is the router's own outside address; zero if it has none, or did not say, as with PCP, which tells with a mapping
	// only. It may be private.
	Outside netip.Addr
	// Err is an [*Error], or nil if the router speaks the protocol.
	Err error
}

// Probe asks the default gateway whether it speaks each of the protocols, at once, and maps nothing. It returns what was found of
// each, in their order, when all have answered, after 5 s, or soon after ctx has ended. It fails with [ErrNoGateway].
func Probe(ctx context.Context) ([]Found, error) {
	at, err := here()
	if err != nil {
		return nil, err
	}
	m := New(nil)
	found := make([]Found, protocols)
	var asking sync.WaitGroup
	for p := range found {
		asking.Go(func() {
			o := m.do(ctx, task{op: opProbe, protocol: Protocol(p), at: at})
			found[p] = Found{Protocol(p), at.gateway, o.grant.outside.Addr(), o.err}
		})
	}
	asking.Wait()
	return found, nil
}
