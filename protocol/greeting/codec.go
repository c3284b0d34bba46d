package greeting

import (
	"encoding/binary"
	"fmt"
	"unicode/utf8"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/internal/wire"
	"github.com/Blockchain-CN/pheromones/protocol"
	"github.com/Blockchain-CN/pheromones/transport"
)

// Bounds of what one message carries (GR3, GR4).
const (
	MaxPeers = 64 // peers in one message
	MaxAddrs = 16 // addresses of one peer

	version   = 1
	pageBytes = 32 << 10 // after so many bytes a message gets no further peer
)

// open checks the version that begins every payload.
func open(data []byte) (*wire.Reader, error) {
	r := wire.NewReader(data)
	if v := r.Uint8("version"); r.Err() == nil && v != version {
		return r, fmt.Errorf("%w: greeting: %d, want %d", protocol.ErrVersion, v, version)
	}
	return r, malformed(r.Err())
}

func malformed(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", protocol.ErrMalformed, err)
}

func appendName(b []byte, name string) ([]byte, error) {
	if len(name) > protocol.MaxName || !utf8.ValidString(name) {
		return nil, fmt.Errorf("%w: the name %.64q is not at most %d bytes of UTF-8", protocol.ErrMalformed, name, protocol.MaxName)
	}
	return append(append(b, byte(len(name))), name...), nil
}

// appendPeer appends an entry: its length, so that later versions may add to it, then its fields (GR3).
func appendPeer(b []byte, p Peer) ([]byte, error) {
	if p.ID.IsZero() {
		return nil, fmt.Errorf("%w: a peer's ID is zero", protocol.ErrMalformed)
	}
	at := len(b)
	b = append(b, 0, 0)
	b = append(b, p.ID[:]...)
	b = binary.BigEndian.AppendUint64(b, p.Seq)
	b, err := appendName(b, p.Name)
	if err != nil {
		return nil, fmt.Errorf("peer %v: %w", p.ID, err)
	}
	addrs := p.Addrs[:min(len(p.Addrs), MaxAddrs)]
	b = append(b, byte(len(addrs)))
	for _, a := range addrs {
		if !a.Peer.IsZero() && a.Peer != p.ID {
			return nil, fmt.Errorf("%w: the address %v is said to be of peer %v", protocol.ErrMalformed, a, p.ID)
		}
		a.Peer = identity.ID{}
		text := a.String()
		if parsed, err := transport.ParseAddr(text); err != nil || parsed != a {
			return nil, fmt.Errorf("%w: peer %v: the address %.300q cannot be sent", protocol.ErrMalformed, p.ID, text)
		}
		b = append(binary.BigEndian.AppendUint16(b, uint16(len(text))), text...)
	}
	binary.BigEndian.PutUint16(b[at:], uint16(len(b)-at-2))
	return b, nil
}

// readPeer takes an entry. What follows the known fields within its length is skipped.
func readPeer(outer *wire.Reader) Peer {
	r := wire.NewReader(outer.Bytes("peer", int(outer.Uint16("peer"))))
	if outer.Err() != nil {
		return Peer{}
	}
	var p Peer
	copy(p.ID[:], r.Bytes("peer ID", len(p.ID)))
	if r.Err() == nil && p.ID.IsZero() {
		r.Fail("peer ID", "it is zero")
	}
	p.Seq = r.Uint64("peer seq")
	p.Name = r.Text("peer name", int(r.Uint8("peer name")))
	n := int(r.Uint8("addresses"))
	if n > MaxAddrs {
		r.Fail("addresses", "%d, at most %d are allowed", n, MaxAddrs)
	}
	for range n {
		text := r.Text("address", int(r.Uint16("address")))
		if r.Err() != nil {
			break
		}
		a, err := transport.ParseAddr(text)
		if err != nil {
			r.Fail("address", "%w", err)
			break
		}
		if !a.Peer.IsZero() || a.String() != text {
			r.Fail("address", "%q has an ID, or another form than the shortest", text)
			break
		}
		a.Peer = p.ID
		p.Addrs = append(p.Addrs, a)
	}
	if err := r.Err(); err != nil {
		outer.Fail("peer "+p.ID.Short(), "%w", err)
		return Peer{}
	}
	return p
}

func appendPeers(b []byte, peers []Peer) (_ []byte, err error) {
	if len(peers) > MaxPeers {
		return nil, fmt.Errorf("%w: %d peers, at most %d are allowed", protocol.ErrMalformed, len(peers), MaxPeers)
	}
	b = append(b, byte(len(peers)))
	for _, p := range peers {
		if b, err = appendPeer(b, p); err != nil {
			return nil, err
		}
	}
	return b, nil
}

func readPeers(r *wire.Reader) []Peer {
	n := int(r.Uint8("peers"))
	if n > MaxPeers {
		r.Fail("peers", "%d, at most %d are allowed", n, MaxPeers)
	}
	var peers []Peer
	for i := 0; i < n && r.Err() == nil; i++ {
		peers = append(peers, readPeer(r))
	}
	if r.Err() != nil {
		return nil
	}
	return peers
}

func parsePeers(data []byte) ([]Peer, error) {
	r, err := open(data)
	if err != nil {
		return nil, err
	}
	peers := readPeers(r)
	return peers, malformed(r.Err())
}

func parseGet(data []byte) (id identity.ID, name string, err error) {
	r, err := open(data)
	if err != nil {
		return id, "", err
	}
	copy(id[:], r.Bytes("peer ID", len(id)))
	name = r.Text("name", int(r.Uint8("name")))
	if r.Err() == nil && id.IsZero() && name == "" {
		r.Fail("request", "neither an ID nor a name")
	}
	if err := malformed(r.Err()); err != nil {
		return identity.ID{}, "", err
	}
	return id, name, nil
}

func appendNotices(b []byte, notices []Notice) (_ []byte, err error) {
	if len(notices) == 0 || len(notices) > MaxPeers {
		return nil, fmt.Errorf("%w: %d notices, want 1 to %d", protocol.ErrMalformed, len(notices), MaxPeers)
	}
	b = append(b, byte(len(notices)))
	for _, n := range notices {
		if n.Change < Arrived || n.Change > Left {
			return nil, fmt.Errorf("%w: %v of peer %v", protocol.ErrMalformed, n.Change, n.Peer.ID)
		}
		if b, err = appendPeer(append(b, byte(n.Change)), n.Peer); err != nil {
			return nil, err
		}
	}
	return b, nil
}

func parseNotices(data []byte) ([]Notice, error) {
	r, err := open(data)
	if err != nil {
		return nil, err
	}
	count := int(r.Uint8("notices"))
	if r.Err() == nil && (count == 0 || count > MaxPeers) {
		r.Fail("notices", "%d, want 1 to %d", count, MaxPeers)
	}
	var notices []Notice
	for i := 0; i < count && r.Err() == nil; i++ {
		n := Notice{Change: Change(r.Uint8("change"))}
		if r.Err() == nil && (n.Change < Arrived || n.Change > Left) {
			r.Fail("change", "%d, want 1 to 3", n.Change)
		}
		n.Peer = readPeer(r)
		notices = append(notices, n)
	}
	if err := malformed(r.Err()); err != nil {
		return nil, err
	}
	return notices, nil
}

// peerSize returns how many bytes appendPeer appends, or more.
func peerSize(p Peer) int {
	n := 2 + len(p.ID) + 8 + 1 + len(p.Name) + 1
	for _, a := range p.Addrs[:min(len(p.Addrs), MaxAddrs)] {
		n += 2 + len(a.Scheme) + len("://") + len(a.HostPort)
	}
	return n
}

// fit returns how many of the peers at the beginning go into one message, at least one, and whether that is all.
func fit(peers []Peer) (first []Peer, all bool) {
	size := 0
	for i, p := range peers {
		size += peerSize(p)
		if i > 0 && size > pageBytes || i == MaxPeers {
			return peers[:i], false
		}
	}
	return peers, true
}
