// Package pheromones is a peer-to-peer toolkit with pluggable transports: a node that reaches its peers by their public
// keys, over whatever transports it was given, and goes on reaching them as addresses and links change.
//
// # Usage
//
// A program makes or loads a key (package identity), makes one or more transports with it (packages tcp, mux and quic, or
// its own) and passes them to the node in order of preference. This package imports none of them: a program links what
// it uses. What a transport must do is written in package transport and checked by package conformance.
package pheromones
