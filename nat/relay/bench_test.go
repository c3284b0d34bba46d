package relay

import (
	"runtime"
	"testing"
)

// BenchmarkRelay measures what a relay holds for each of 1,000 idle reservations and each of 100 circuits, links not counted, and
// what it takes to carry a packet.
func BenchmarkRelay(b *testing.B) {
	const reservations, circuits = 1000, 100
	w := newWorld(b, true)
	relay := w.node(&Config{Rate: -1, PeerRate: -1, MaxCircuitsPerPeer: circuits}, nil)
	callers := []*node{w.node(nil, nil), w.node(nil, nil)} // one may not call so often at once
	for _, c := range callers {
		w.link(c, relay)
	}
	targets := make([]*node, reservations)
	for i := range targets {
		targets[i] = w.node(nil, echo)
		w.link(targets[i], relay)
	}
	measure := func() (memory uint64, goroutines int) {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc + m.StackInuse, runtime.NumGoroutine()
	}
	m0, g0 := measure()
	for _, t := range targets {
		if _, err := t.Reserve(b.Context(), relay.id); err != nil {
			b.Fatal(err)
		}
	}
	m1, g1 := measure()
	var calls []*Circuit
	var backs []chan []byte
	for i, t := range targets[:circuits] {
		c, back, _ := callers[i%2].call(relay.id, t.id)
		c.Send([]byte("x"))
		<-back
		calls, backs = append(calls, c), append(backs, back)
	}
	m2, g2 := measure()
	p := make([]byte, 1200)
	b.SetBytes(int64(len(p)))
	for i := 0; b.Loop(); i++ {
		calls[i%circuits].Send(p)
		<-backs[i%circuits]
	}
	// A reservation counts at both of its ends, and a circuit at all three nodes, since they are in one process: the relay's part is less.
	b.ReportMetric(float64(int64(m1-m0))/reservations, "B/reservation")
	b.ReportMetric(float64(g1-g0)/reservations, "goroutines/reservation")
	b.ReportMetric(float64(int64(m2-m1))/circuits/1024, "KiB/circuit(3nodes)")
	b.ReportMetric(float64(g2-g1)/circuits, "goroutines/circuit(3nodes)")
}
