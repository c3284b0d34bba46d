package relay

import "sync/atomic"

// Figures are what an [Endpoint] has done as a relay: some of the moment, others since it was made.
type Figures struct {
	Reservations int               `json:"reservations"` // that hold now
	Circuits     int               `json:"circuits"`     // there are now, also such as are not accepted yet
	Reserved     uint64            `json:"reserved"`     // reservations made, renewals not counted
	Connected    uint64            `json:"connected"`    // circuits admitted
	Bytes        uint64            `json:"bytes"`        // carried, of packets and streams
	Packets      uint64            `json:"packets"`      // carried
	Dropped      uint64            `json:"dropped"`      // packets, because their circuit was too fast, or its link too slow
	Strays       uint64            `json:"strays"`       // datagrams of no circuit, or from another than its two peers: dropped
	Refusals     map[string]uint64 `json:"refusals"`     // by Reason.String
}

// counters are what is counted where no lock is held.
type counters struct{ bytes, packets, dropped, strays atomic.Uint64 }

// Figures returns what the endpoint has done as a relay. The result is the caller's.
func (e *Endpoint) Figures() Figures {
	f := Figures{
		Bytes: e.count.bytes.Load(), Packets: e.count.packets.Load(), Dropped: e.count.dropped.Load(), Strays: e.count.strays.Load(),
		Refusals: make(map[string]uint64),
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	f.Reservations, f.Circuits = len(e.ledger.places), e.ledger.circuits
	f.Reserved, f.Connected = e.ledger.reserved, e.ledger.connected
	for r, n := range e.ledger.refusals {
		if n > 0 {
			f.Refusals[Reason(r).String()] = n
		}
	}
	return f
}
