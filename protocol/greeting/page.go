package greeting

import (
	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/protocol"
)

// page is what fetchreq and fetchresp carry: a part of the sender's table, and where both sides stand (GR6). A cursor is
// an ID: what is greater is still to be given. A request says from where the answerer's table is wanted and up to where the
// asker's was given; the answer says up to where its own was given, and repeats what the request said of the asker's. So
// neither side remembers anything between two pages.
type page struct {
	flags           uint8
	answerer, asker identity.ID // the cursors into their tables
	peers           []Peer
}

const (
	answererMore uint8 = 1 << iota // the answerer's table goes on behind its cursor
	askerMore                      // the asker's table goes on behind its cursor
)

// give fills the page with what b has after the cursor and to has not told itself, and sets cursor and flag.
func (p *page) give(b Book, to, after identity.ID, more uint8, cursor *identity.ID) {
	known := b.Batch(after, MaxPeers+1)
	given, all := fit(known)
	*cursor = after
	if len(given) > 0 {
		*cursor = given[len(given)-1].ID
	}
	if !all {
		p.flags |= more
	} else {
		p.flags &^= more
	}
	for _, q := range given {
		if q.ID != to {
			p.peers = append(p.peers, q)
		}
	}
}

func (p *page) message(operation string) (protocol.Message, error) {
	b := append([]byte{version, p.flags}, p.answerer[:]...)
	b, err := appendPeers(append(b, p.asker[:]...), p.peers)
	return message(operation, b, err)
}

func parsePage(data []byte) (page, error) {
	r, err := open(data)
	if err != nil {
		return page{}, err
	}
	p := page{flags: r.Uint8("flags")}
	if r.Err() == nil && p.flags&^(answererMore|askerMore) != 0 {
		r.Fail("flags", "%#x has unknown bits", p.flags)
	}
	copy(p.answerer[:], r.Bytes("cursor", len(p.answerer)))
	copy(p.asker[:], r.Bytes("cursor", len(p.asker)))
	p.peers = readPeers(r)
	if err := malformed(r.Err()); err != nil {
		return page{}, err
	}
	return p, nil
}

// FitNotices splits notices into parts that go into one [NoticeMessage] each.
func FitNotices(notices []Notice) [][]Notice {
	var parts [][]Notice
	for len(notices) > 0 {
		n, size := 0, 0
		for n < len(notices) && n < MaxPeers {
			if size += 1 + peerSize(notices[n].Peer); n > 0 && size > pageBytes {
				break
			}
			n++
		}
		parts = append(parts, notices[:n:n])
		notices = notices[n:]
	}
	return parts
}
