// Package punch opens a direct path between two peers behind NATs: both send to each other's addresses at once, so that each NAT
// takes the other's packets for answers.
//
// # Usage
//
// The peers have a connection already, through a relay, and exchange [Message]s over it: one offers a session, with its key and its
// addresses, and the other answers with its own. Each then drives a [Machine] over the port of QUIC: Poll says what to send and
// when to come again, Receive takes what has come, and Works tells the path that works in both directions. SPEC.md, section
// "punch", describes it; PN numbers in comments are its clauses.
//
// # Guessing ports
//
// A NAT that gives a socket another port for each address it sends to, before a peer whose NAT lets in only addresses that it has
// sent to, needs more: when a machine is [Machine.Stuck] and the caller permits it to [Machine.Guess], one side opens up to
// [MaxSockets] further sockets, and the other guesses up to [MaxGuesses] ports. [Machine.Peer] says what must be known for it, and
// whoever permits bounds it over all peers, as any of them may name any address. A packet's Path says which socket it is for; one
// that is not open yet is to be opened then. When a path works the caller keeps its socket, and those by which QUIC's packets come
// from where the machine has [Machine.Met] the peer.
//
// # Safety
//
// Packets are authenticated with the session's key, numbered, and marked with their direction, so they cannot be forged, replayed
// or reflected. A machine sends to addresses that the peer has told over the authenticated connection, or from which an authentic
// packet has come, and to guessed ports of an address that the peer has told, if that is permitted: to nobody else; an answer is as
// long as what it answers.
package punch
