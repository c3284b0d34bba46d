// Package punch opens a direct path between two peers behind NATs: both send to each other's addresses at once, so that each NAT takes the other's packets for
// answers.
//
// # Usage
//
// The peers have a connection already, through a relay, and exchange [Message]s over it: one offers a session, with its key and its addresses, and the other answers with its own. Each
// then drives a [Machine] over the port of QUIC: Poll says what to send and when to come again, Receive takes what has come, and Works tells the address that works in both directions.
// SPEC.md, section "punch", describes it; PN numbers in comments are its clauses.
//
// # Safety
//
// Packets are authenticated with the session's key, numbered, and marked with their direction, so they cannot be forged, replayed or reflected. A machine sends to addresses
// that the peer has told over the authenticated connection, or from which an authentic packet has come, and to nobody else; an answer is as long as what it answers.
package punch
