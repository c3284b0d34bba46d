// Package harness is what every program of the benchmark shares: the contract by which a way of talking (a [Peer]) is measured, the
// scenarios, the verification of traffic, and the protocol between the program that runs rounds and its children. It imports
// nothing but the standard library, so that peers whose modules do not build together can be measured from different programs.
package harness
