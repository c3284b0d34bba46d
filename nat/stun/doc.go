// Package stun tells a node how it looks from outside: at which address peers see it, and how the NAT before it maps and filters
// (RFC 8489, RFC 5780, in the names of RFC 4787). It owns no socket and starts no goroutine: STUN shares the UDP port of the QUIC
// transport, whose mapping is the one of interest.
//
// # Usage
//
// One loop reads the packets that are not QUIC. Those that answer a question of ours go to a [Prober], the others to a [Responder]:
//
//	if !prober.Receive(packet, from) {
//		if answer := responder.Respond(packet, from, time.Now()); answer != nil {
//			socket.WritePacket(answer, from)
//		}
//	}
//
// Anybody else may then call
//
//	report, err := prober.Discover(ctx, servers...)
//
// pheromones.Node has this loop. Any public node serves as a server, so that small swarms need no other.
//
// # State machines
//
// [Client] and [Discovery] are what Prober drives. They do no I/O and look at no clock, so that tests and simulations can run them
// in virtual time.
//
// # Limitations
//
// Nothing here is authenticated: a server, or whoever is on the way to it, can lie about what it sees. An address from here is a
// candidate to be tried, never a fact. Who is not on the way can do nothing, since transactions have random IDs and answers are
// taken from the address that was asked only.
//
// Hairpinning is not looked into, and neither are ALTERNATE-SERVER and authentication: a server that wants them counts as one that refuses.
package stun
