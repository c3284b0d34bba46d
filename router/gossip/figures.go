package gossip

// Figures are counts since the machine was made, but for the sizes, which are those of the moment.
type Figures struct {
	Broadcasts       uint64 `json:"broadcasts"`        // of this node
	Delivered        uint64 `json:"delivered"`         // broadcasts of others
	PayloadSent      uint64 `json:"payload_sent"`      // payload frames
	PayloadReceived  uint64 `json:"payload_received"`  // from neighbours, within their rates
	Duplicates       uint64 `json:"duplicates"`        // of those received: what was there already
	PayloadBytes     uint64 `json:"payload_bytes"`     // sent
	ControlSent      uint64 `json:"control_sent"`      // all other frames
	ControlBytes     uint64 `json:"control_bytes"`     // sent
	Grafts           uint64 `json:"grafts"`            // sent because a message was late
	Optimizations    uint64 `json:"optimizations"`     // a parent was exchanged for a closer one
	LastHops         uint8  `json:"last_hops"`         // of the latest delivery: edges from its origin
	Active           int    `json:"active"`            // neighbours
	Passive          int    `json:"passive"`           // other peers remembered
	Origins          int    `json:"origins"`           // remembered
	Trees            int    `json:"trees"`             // for single origins
	Kept             int    `json:"kept"`              // broadcasts kept for those who missed them
	KeptBytes        int    `json:"kept_bytes"`        // of their data
	Missing          int    `json:"missing"`           // announced and waited for
	NeighboursLost   uint64 `json:"neighbours_lost"`   // told by Down
	NeighboursJoined uint64 `json:"neighbours_joined"` // since the start
	Dropped          Drops  `json:"dropped"`
}

// Drops counts what was dropped, by reason.
type Drops struct {
	Forged        uint64 `json:"forged"`          // broadcasts with a bad signature; the neighbour was dropped, too
	Malformed     uint64 `json:"malformed"`       // batches told by Misbehaved
	TooLarge      uint64 `json:"too_large"`       // broadcasts above MaxData
	Stale         uint64 `json:"stale"`           // broadcasts older than MaxAge, behind the window, or of an earlier life
	Future        uint64 `json:"future"`          // broadcasts born ahead of our clock by more than MaxAge
	Forgotten     uint64 `json:"forgotten"`       // broadcasts of origins that may have been forgotten (MaxOrigins)
	OriginRate    uint64 `json:"origin_rate"`     // broadcasts beyond OriginRate
	NewOriginRate uint64 `json:"new_origin_rate"` // broadcasts beyond NewOriginRate
	NeighbourRate uint64 `json:"neighbour_rate"`  // frames of neighbours beyond PayloadRate or ControlRate
	StrangerRate  uint64 `json:"stranger_rate"`   // frames of others beyond ControlRate
	Stranger      uint64 `json:"stranger"`        // frames of peers that are no neighbours
	Missing       uint64 `json:"missing"`         // announcements beyond MaxMissing
	ServeRate     uint64 `json:"serve_rate"`      // asked for beyond ServeRate
	Displace      uint64 `json:"displace"`        // joins refused because of DisplaceRate
}

// RMR returns the relative message redundancy of this node's deliveries: how many payloads it got in vain for each that was
// new. Over all nodes together it is payloads sent / (receivers − 1) − 1, lost ones aside.
func (f Figures) RMR() float64 {
	if f.Delivered == 0 {
		return 0
	}
	return float64(f.Duplicates) / float64(f.Delivered)
}

// Figures returns the counts.
func (m *Machine) Figures() Figures {
	f := m.fig
	f.Active, f.Passive = m.views.live.count(), len(m.views.passive)
	f.Origins, f.Trees = len(m.seen.origins), m.trees.own
	f.Kept, f.KeptBytes, f.Missing = m.store.count, m.store.bytes, len(m.trees.missing)
	return f
}
