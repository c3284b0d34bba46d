package pheromones

// PathPolicy says which paths links may take.
type PathPolicy int

const (
	// PathRelayAllowed, the default: a peer that cannot be dialled is reached through a relay, and the link moves to a direct path as soon as there is one.
	PathRelayAllowed PathPolicy = iota
	// PathDirectOnly: no relay is used.
	PathDirectOnly
	// PathRelayOnly: links that began through a relay stay there, and peers that ask for a direct path get none. Peers do not learn this node's addresses that way.
	PathRelayOnly
)

// String returns "relay allowed", "direct only" or "relay only".
func (p PathPolicy) String() string {
	switch p {
	case PathDirectOnly:
		return "direct only"
	case PathRelayOnly:
		return "relay only"
	}
	return "relay allowed"
}
