// Package broken holds transports and nodes that are broken on purpose, to prove that the rules of package conformance catch
// what they are for. Each is sound, and wrapped so that one thing goes wrong. To add one, add a row: to All for the rules about
// transports, to Stack for those about nodes. The row's functions take the place of methods, and call those that they replace.
package broken

import (
	"net"
	"slices"

	"github.com/Blockchain-CN/pheromones/transport"
)

// Breakage is one way for a transport to be broken.
type Breakage struct {
	Name  string // what is wrong, in a few words; unique
	Rule  string // the name of the rule that must catch it
	Needs Ability
	f     faults     // of a transport
	n     nodeFaults // of a node
}

// All returns the breakages that the rules about transports must catch, in the order of the rules but for the later ones.
func All() []Breakage {
	var all []Breakage
	for _, r := range slices.Concat(plain(), hostile(), subtle(), paths()) {
		all = append(all, Breakage{Name: r.name, Rule: r.rule, Needs: r.needs, f: r.faults})
	}
	return all
}

// Stack returns the breakages that the rules about nodes must catch, in the order of the rules.
func Stack() []Breakage {
	var all []Breakage
	for _, r := range stack() {
		all = append(all, Breakage{Name: r.name, Rule: r.rule, Needs: r.needs, n: r.faults})
	}
	return all
}

// row is a Breakage as the lists have it.
type row[F faults | nodeFaults] struct {
	name, rule string
	needs      Ability
	faults     F
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
	Paths     Ability = "paths"      // a listener makes tunnels, and a connection moves to them
	FromPort  Ability = "from port"  // a listener dials from its port
)

// Breaker breaks transports in one way.
type Breaker struct {
	f    faults
	n    nodeFaults
	done chan struct{}
}

// Breaker returns what breaks transports in the way of b. Close it after the last of them.
func (b *Breakage) Breaker() *Breaker {
	r := &Breaker{f: b.f, n: b.n, done: make(chan struct{})}
	r.f.done = r.done
	return r
}

// Break returns a transport that is t but for what is wrong.
func (r *Breaker) Break(t transport.Transport) transport.Transport {
	return &badTransport{Transport: t, f: &r.f}
}

// BreakNamed is Break for a transport that looks up names by r.
func (r *Breaker) BreakNamed(t transport.Transport, names *net.Resolver) transport.Transport {
	return &badTransport{Transport: t, f: &r.f, names: names}
}

// Close ends what the broken transports have left behind on purpose.
func (r *Breaker) Close() { close(r.done) }
