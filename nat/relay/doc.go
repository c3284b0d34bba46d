// Package relay carries what two peers say to each other through a third node, which both have a link with and neither trusts.
//
// # Circuits
//
// A circuit is a way between two peers through a relay. It carries packets, for QUIC within, or a stream of bytes, for TLS within:
// what passes is encrypted between the two peers, so the relay sees IDs and sizes. A peer that wants to be called reserves a place
// at the relay; whoever wants to call it asks the relay to connect. Both use streams of [Service] on ordinary links, and packets go
// as the links' datagrams where links have any. SPEC.md, section "relay", describes it; RL numbers in comments are its clauses.
//
// # Usage
//
// An [Endpoint] is one node's part: it calls, is called, and relays for others if it was given a [Config]. It has no connection of
// its own: the node opens streams for it (Options.Open) and hands it those that peers open ([Endpoint.Serve]).
//
// # Limits
//
// A relay bounds reservations, circuits, bytes and rates. What decides is [ledger] and [bucket], which do no I/O and are told the
// time. Packets beyond a rate wait in a short queue and are dropped when it is full; streams of bytes are made to wait. Where
// several circuits share a link they take turns, packet by packet.
//
// # Limitations
//
// A relay is not asked over a relayed link, so there is one relay between two peers, never two.
package relay
