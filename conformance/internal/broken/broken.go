// Package broken holds transports that are broken on purpose, to prove that the rules of package conformance catch what they
// are for. Each is a sound transport, any, wrapped so that one thing goes wrong.
package broken

import "github.com/Blockchain-CN/pheromones/transport"

// Breakage is one way for a transport to be broken.
type Breakage struct {
	Name  string // what is wrong, in a few words; unique
	Rule  string // the name of the rule that must catch it
	Needs Ability
	f     faults
}

// Ability is what the wrapped transport must have for a breakage to show.
type Ability string

// The abilities.
const (
	Any       Ability = "any"        // every transport will do
	OverTCP   Ability = "tcp"        // it runs over TCP
	OverUDP   Ability = "udp"        // it runs over UDP
	OneStream Ability = "one stream" // a connection carries one stream
	Datagrams Ability = "datagrams"  // a connection carries datagrams
)

// Breaker breaks transports in one way.
type Breaker struct {
	f    faults
	done chan struct{}
}

// Breaker returns what breaks transports in the way of b. Close it after the last of them.
func (b *Breakage) Breaker() *Breaker {
	r := &Breaker{f: b.f, done: make(chan struct{})}
	r.f.done = r.done
	return r
}

// Break returns a transport that is t but for what is wrong.
func (r *Breaker) Break(t transport.Transport) transport.Transport {
	return &badTransport{Transport: t, f: &r.f}
}

// Close ends what the broken transports have left behind on purpose.
func (r *Breaker) Close() { close(r.done) }
