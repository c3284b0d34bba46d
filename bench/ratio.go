package main

import (
	"slices"

	"github.com/Blockchain-CN/pheromones/bench/harness"
)

// median returns the middle of list, which it leaves alone; zero if that is empty.
func median(list []float64) float64 {
	if len(list) == 0 {
		return 0
	}
	list = slices.Sorted(slices.Values(list))
	if n := len(list); n%2 == 0 {
		return (list[n/2-1] + list[n/2]) / 2
	}
	return list[len(list)/2]
}

// find returns the row of a key, or nil.
func (r *results) find(key string) *row {
	for _, row := range r.Rows {
		if row.Key() == key {
			return row
		}
	}
	return nil
}

// value returns the median of the rounds of one figure; "" is the one that the measure is about.
func (r *row) value(figure string) float64 {
	list := make([]float64, 0, len(r.Rounds))
	for _, f := range r.Rounds {
		list = append(list, pick(f, figure))
	}
	return median(list)
}

func pick(f harness.Figures, figure string) float64 {
	if figure == "" {
		return f.Value
	}
	return f.Extra[figure]
}

// ratio returns the median over the rounds of how a compares with b in the same round; zero if either has none.
func ratio(a, b *row, figure string) float64 {
	if a == nil || b == nil {
		return 0
	}
	var list []float64
	for i := range min(len(a.Rounds), len(b.Rounds)) {
		if over := pick(b.Rounds[i], figure); over > 0 {
			list = append(list, pick(a.Rounds[i], figure)/over)
		}
	}
	return median(list)
}

// bar is a goal: how one measure should compare with another, or, if there is no other, the figure itself.
type bar struct {
	what   string
	a, b   string // keys
	least  float64
	most   float64 // one of both is zero
	figure string  // one of those in Extra; empty is the first
}

func bars() []bar {
	return []bar{
		{what: "mux, bulk 1, to TLS", a: "bulk-1/mux", b: "bulk-1/tls", least: 0.92},
		{what: "mux, bulk 1, to yamux", a: "bulk-1/mux", b: "bulk-1/yamux", least: 1},
		{what: "mux, bulk 1, to smux", a: "bulk-1/mux", b: "bulk-1/smux", least: 1},
		{what: "mux, bulk 1, to go-libp2p TCP", a: "bulk-1/mux", b: "bulk-1/libp2p-tcp", least: 1},
		{what: "mux, bulk 1, to grpc streaming", a: "bulk-1/mux", b: "bulk-1/grpc-stream", least: 1},
		{what: "mux, one stream, to yamux", a: "exchange/mux", b: "exchange/yamux", least: 1.8},
		{what: "mux, fresh streams, to yamux", a: "fresh-64/mux", b: "fresh-64/yamux", least: 3},
		{what: "mux, fresh streams, to grpc unary", a: "fresh-64/mux", b: "call-64/grpc-unary", least: 1.5},
		{what: "mux, fresh streams, to quic-go", a: "fresh-64/mux", b: "fresh-64/quic-go", least: 1.15},
		{what: "mux, p99 under bulk, to yamux", a: "tail/mux", b: "tail/yamux", most: 0.8},
		{what: "mux, idle, to go-libp2p TCP", a: "idle/mux", b: "idle/libp2p-tcp", most: 0.8},
		{what: "mux, set-up, to go-libp2p TCP", a: "set-up/mux", b: "set-up/libp2p-tcp", least: 1.5},
		{what: "quic, bulk 1, to quic-go", a: "bulk-1/quic", b: "bulk-1/quic-go", least: 0.97},
		{what: "quic, bulk 8, to quic-go", a: "bulk-8/quic", b: "bulk-8/quic-go", least: 0.97},
		{what: "quic, one stream, to quic-go", a: "exchange/quic", b: "exchange/quic-go", least: 0.97},
		{what: "quic, fresh streams, to quic-go", a: "fresh-64/quic", b: "fresh-64/quic-go", least: 0.97},
		{what: "quic, fresh streams, to go-libp2p QUIC", a: "fresh-64/quic", b: "fresh-64/libp2p-quic", least: 1.2},
		{what: "quic, set-up, to go-libp2p QUIC", a: "set-up/quic", b: "set-up/libp2p-quic", least: 1.5},
		{what: "quic, idle, to go-libp2p QUIC", a: "idle/quic", b: "idle/libp2p-quic", most: 0.75},
		{what: "tcp, an exchange a connection, to TLS with full handshakes", a: "fresh-64/tcp", b: "fresh-64/tls", least: 2.5},
		{what: "Dispatch over mux, to grpc unary", a: "call-64/node-mux", b: "call-64/grpc-unary", least: 1.5},
		{what: "Dispatch over quic, to grpc unary", a: "call-64/node-quic", b: "call-64/grpc-unary", least: 1.5},
		{what: "Dispatch over mux, allocations, both ends", a: "call-64/node-mux", figure: "allocs", most: 25},
		{what: "Dispatch over quic, allocations, both ends", a: "call-64/node-quic", figure: "allocs", most: 25},
		{what: "DispatchAll, a peer of 100, to one of 10", a: "dispatch-all/100", b: "dispatch-all/10", most: 1},
		{what: "DispatchAll, a peer of 1,000, to one of 10", a: "dispatch-all/1000", b: "dispatch-all/10", most: 1},
		{what: "Broadcast, a peer of 100, to one of 10", a: "broadcast/100", b: "broadcast/10", most: 1},
		{what: "Broadcast, a peer of 300, to one of 10", a: "broadcast/300", b: "broadcast/10", most: 1},
		{what: "dispatch with 100,000 routes, to 10", a: "routes/100000", b: "routes/10", most: 1},
		{what: "a name among 100,000 routes, to 10", a: "routes/100000", b: "routes/10", figure: "by name µs", most: 1},
		{what: "dispatch with 1,000 links, to 1", a: "links/1000", b: "links/1", most: 1},
		{what: "dispatch with 5,000 links, to 1", a: "links/5000", b: "links/1", most: 1},
	}
}

// reached returns what came of a bar, and whether it is met; ok is false if it was not measured.
func (r *results) reached(b bar) (got float64, met, ok bool) {
	a := r.find(b.a)
	if a == nil || len(a.Rounds) == 0 {
		return 0, false, false
	}
	if b.b == "" {
		got = a.value(b.figure)
	} else if got = ratio(a, r.find(b.b), b.figure); got == 0 {
		return 0, false, false
	}
	return got, b.least > 0 && got >= b.least || b.most > 0 && got <= b.most, true
}
