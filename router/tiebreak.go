package router

import (
	"cmp"
	"slices"

	"github.com/Blockchain-CN/pheromones/transport"
)

// A pair of nodes may come to have several links: both dial at once, one has moved, one has restarted. tiebreak is how they
// agree on one of them without asking anybody: each link has a rank, which both sides know from the hello of the side that
// dialled it, and the highest rank that has proved to work wins. It is a state machine that waits for nothing and looks at no
// clock: what happens is told to it, and it answers with orders. Everything here is called with Router.mu held.
type tiebreak struct {
	smaller     bool         // our ID is smaller than the peer's
	incarnation uint64       // the peer's; zero until a hello has come
	generation  uint32       // the highest of a link that was proven
	any         bool         // a link was proven, so that generation means something
	links       []*candidate // as they came up
	winner      *candidate   // the highest rank that is proven; nil if there is none
}

// candidate is a link as the tie-break sees it.
type candidate struct {
	link   *link // whose state this is
	dialed bool  // by this side
	rank   rank  // set if dialed, else with the hello

	incarnation uint64 // the peer's, from its hello on this link; zero until then
	proven      bool   // a frame has gone each way, as this side knows
	closing     bool   // it was ordered to be closed

	active   int    // streams under way, of either side
	opened   uint64 // streams that this side has opened
	finished uint64 // streams of the peer's that have come to their end here

	asking  bool // the peer was asked whether it needs the link: if it pledges, this side leaves, too
	leaving bool // this side wants no link any more, though no other has won; see retire
	consent bool // this side has promised to open no stream on it any more
	told    pledge
	peer    *pledge // the peer's latest promise; nil if there is none
}

// rank orders the links between two nodes, the same way on both sides.
type rank struct {
	generation uint32 // one more than that of all links that the dialer knew when it dialled
	smaller    bool   // the dialer has the smaller ID: decides between links that were dialled at once
	serial     uint32 // decides between several dials of one side
}

func (a rank) compare(b rank) int {
	if d := cmp.Compare(a.generation, b.generation); d != 0 {
		return d
	}
	switch {
	case a.smaller && !b.smaller:
		return 1
	case b.smaller && !a.smaller:
		return -1
	}
	return cmp.Compare(a.serial, b.serial)
}

// pledge is the promise to open no stream any more, with the counts that tell whether all have ended on both sides.
type pledge struct{ opened, finished uint64 }

// order is what the tie-break wants done with a link.
type order struct {
	c      *candidate
	kind   orderKind
	pledge pledge         // to send
	code   transport.Code // to close with
	reason string
}

type orderKind int

const (
	sendReady  orderKind = iota // tell the peer that its hello has come
	sendPledge                  // promise to open no stream
	closeLink                   // close the connection
	prefer                      // the link has won, for the reason given if there was another: who watches is told
)

// dialling returns the generation of a dial whose dialer knew of the links that were proven so far, or knew of none of them.
func (t *tiebreak) dialling(knew bool) uint32 {
	if !knew || !t.any || t.generation == 1<<32-1 {
		return t.generation
	}
	return t.generation + 1
}

// up is told of a new link.
func (t *tiebreak) up(c *candidate) []order {
	c.rank.smaller = c.dialed == t.smaller
	t.links = append(t.links, c)
	return t.settle()
}

// hello is told of the peer's hello. dialer is what it says of the rank, which counts if the peer is the dialer. The side that
// did not dial answers with a hello of its own before it carries out the orders.
func (t *tiebreak) hello(c *candidate, incarnation uint64, generation, serial uint32) []order {
	c.incarnation = incarnation
	var out []order
	if c.dialed {
		c.proven = true // our hello went, and this is the answer
		out = append(out, order{c: c, kind: sendReady})
	} else {
		c.rank.generation, c.rank.serial = generation, serial
	}
	return append(out, t.settle()...)
}

// ready is told that the dialer has this side's hello.
func (t *tiebreak) ready(c *candidate) []order {
	c.proven = true
	return t.settle()
}

// pledged is told of the peer's promise.
func (t *tiebreak) pledged(c *candidate, p pledge) []order {
	c.peer = &p
	return t.settle()
}

// ended is told that a stream has ended; ours is whether this side had opened it.
func (t *tiebreak) ended(c *candidate, ours bool) []order {
	c.active--
	if !ours {
		c.finished++
	}
	return t.settle()
}

// down is told that a connection has ended.
func (t *tiebreak) down(c *candidate) []order {
	c.closing = true
	t.links = slices.DeleteFunc(t.links, func(other *candidate) bool { return other == c })
	return t.settle()
}

// retire makes this side want a link no longer: it is given up when nothing runs on it and the peer agrees.
func (t *tiebreak) retire(c *candidate) []order {
	c.leaving = true
	return t.settle()
}

// best returns the link that a new stream takes, or nil if there is none: the winner, or while there is none the newest.
func (t *tiebreak) best() *candidate {
	if w := t.winner; w != nil && !w.consent && !w.leaving && !w.closing {
		return w
	}
	var best *candidate
	for _, c := range t.links {
		// A loser whose winner has died is as good as any, if nothing was promised.
		if !c.consent && !c.leaving && !c.closing && !t.former(c) && (best == nil || c.proven == best.proven || c.proven) {
			best = c
		}
	}
	return best
}

// former reports whether a link leads to an earlier life of the peer.
func (t *tiebreak) former(c *candidate) bool {
	return c.incarnation != 0 && c.incarnation != t.incarnation
}

// settle decides anew.
func (t *tiebreak) settle() []order {
	if life := t.newestLife(); life != t.incarnation {
		t.incarnation, t.generation, t.any = life, 0, false
	}
	was := t.winner
	var second *candidate
	t.winner = nil
	for _, c := range t.links {
		if !c.proven || c.closing || t.former(c) {
			continue
		}
		t.generation, t.any = max(t.generation, c.rank.generation), true
		switch {
		case t.winner == nil:
			t.winner = c
		case c.rank.compare(t.winner.rank) > 0:
			t.winner, second = c, t.winner
		case second == nil || c.rank.compare(second.rank) > 0:
			second = c
		}
	}
	var out []order
	if t.winner != nil && t.winner != was {
		out = append(out, order{c: t.winner, kind: prefer, reason: t.winner.rank.over(second)})
	}
	for _, c := range t.links {
		out = append(out, t.settleLink(c)...)
	}
	return out
}

// settleLink decides whether a link is to be given up.
func (t *tiebreak) settleLink(c *candidate) (out []order) {
	closing := func(code transport.Code, reason string) []order {
		c.closing = true
		return append(out, order{c: c, kind: closeLink, code: code, reason: reason})
	}
	switch {
	case c.closing || c.incarnation == 0:
		return nil
	case t.former(c):
		return closing(transport.CodeSuperseded, "the peer was started anew")
	case c.active > 0:
		return nil
	}
	c.leaving = c.leaving || c.asking && c.peer != nil
	loses := t.winner != nil && c.rank.compare(t.winner.rank) < 0
	if now := (pledge{c.opened, c.finished}); (loses || c.leaving) && (!c.consent || c.told != now) {
		c.consent, c.told = true, now
		out = append(out, order{c: c, kind: sendPledge, pledge: now})
	}
	// Nothing runs here, nothing runs there, and nothing is under way between.
	if c.consent && c.peer != nil && c.peer.opened == c.finished && c.peer.finished == c.opened {
		if c.leaving {
			return closing(transport.CodeIdle, "nobody needs it")
		}
		return closing(transport.CodeSuperseded, "another connection has taken over")
	}
	return out
}

// over says why a link has won over the second best: nothing if there is none.
func (a rank) over(second *candidate) string {
	switch {
	case second == nil:
		return ""
	case a.generation != second.rank.generation:
		return "it was dialled later, by a side that knew of the other"
	case a.smaller != second.rank.smaller:
		return "of two that were dialled at once, it was dialled by the smaller ID"
	}
	return "it was dialled later, by the same side"
}

// newestLife returns the incarnation that the latest link leads to, of those that have told theirs.
func (t *tiebreak) newestLife() uint64 {
	for _, c := range slices.Backward(t.links) {
		if c.incarnation != 0 {
			return c.incarnation
		}
	}
	return t.incarnation
}
