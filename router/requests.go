package router

import (
	"sync"
	"time"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/protocol"
)

// requests is what a router knows of the requests that it sends, by peer.
type requests struct {
	self   identity.ID
	most   int    // bounds peers
	start  uint64 // nanoseconds since 1970
	mu     sync.Mutex
	peers  map[identity.ID]*correspondent
	forgot bool // one of them was dropped
}

// correspondent is what is known of one peer as a receiver of requests.
type correspondent struct {
	users     int      // requests under way; one without may be dropped
	last      uint64   // the time of the last ID made for it
	floor     uint64   // the peer has forgotten IDs up to this time
	open      *request // the oldest request whose ID was made here and that is not settled, with its successors
	newest    *request
	contacted bool      // something was sent to it
	life      uint64    // the peer's incarnation; 0 is not known
	begun     uint64    // a time at which that had begun, nanoseconds since 1970
	heard     time.Time // when it last answered
}

// request is a request from before its first copy until its outcome is known. Its fields are its goroutine's but for the list.
type request struct {
	to     *correspondent
	peer   identity.ID
	m      protocol.Message
	own    bool // the caller has set the ID
	copies int  // how many were perhaps sent

	repeat bool      // the caller may have sent copies before
	since  time.Time // no copy was sent before
	life   uint64    // the peer's incarnation then; 0 is not known

	prev, next *request // in correspondent.open; guarded by requests.mu
}

func (rs *requests) init(r *Router) {
	rs.self, rs.most, rs.start = r.self, r.cfg.maxRoutes(), now()
	rs.peers = make(map[identity.ID]*correspondent)
}

// now is the time as IDs have it.
func now() uint64 { return uint64(time.Now().UnixNano()) }

// begin registers a request; end must be called for it.
func (rs *requests) begin(peer identity.ID, m protocol.Message) *request {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	to := rs.peers[peer]
	if to == nil {
		for id, other := range rs.peers {
			if len(rs.peers) < rs.most {
				break
			}
			if other.users == 0 {
				delete(rs.peers, id)
				rs.forgot = true
				break
			}
		}
		to = &correspondent{contacted: rs.forgot}
		rs.peers[peer] = to
	}
	to.users++
	q := &request{to: to, peer: peer, m: m, own: !m.ID.IsZero()}
	if !q.own {
		rs.name(q)
	}
	return q
}

// name gives a request an ID, later than all before.
func (rs *requests) name(q *request) {
	to := q.to
	to.last = max(now(), to.last+1, to.floor+1)
	q.m.ID = protocol.MessageIDFor(rs.self, to.last)
	if q.prev = to.newest; q.prev != nil {
		q.prev.next = q
	} else {
		to.open = q
	}
	to.newest = q
}

// settle takes a request from the list of its peer's.
func (rs *requests) settle(q *request) {
	to := q.to
	if q.prev != nil {
		q.prev.next = q.next
	} else if to.open == q {
		to.open = q.next
	}
	if q.next != nil {
		q.next.prev = q.prev
	} else if to.newest == q {
		to.newest = q.prev
	}
	q.prev, q.next = nil, nil
}

// end says that a request will not be sent again.
func (rs *requests) end(q *request) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if !q.own {
		rs.settle(q)
	}
	q.to.users--
}

// renew gives another ID to a request of which nothing was executed, above those that the peer has forgotten. It reports
// false if there is none.
func (rs *requests) renew(q *request, horizon uint64) bool {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if horizon+2 < horizon {
		return false
	}
	rs.settle(q)
	q.to.floor = max(q.to.floor, horizon)
	rs.name(q)
	q.copies = 0
	return true
}

const (
	// skew is how far in the future the time of an ID may lie that was made by NewMessageID on another machine.
	skew = uint64(time.Hour)
	// epoch is the beginning of 2020. An ID of an earlier time is not one of NewMessageID, or the clock is not set.
	epoch = uint64(1577836800 * time.Second)
)

// frame returns the next copy of a request. life is what a link's hello said of the peer's incarnation, and begun a time at which
// that had begun; 0 is not known.
func (rs *requests) frame(q *request, life, begun uint64) protocol.Frame {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	to := q.to
	to.learn(life, begun)
	if q.copies == 0 {
		q.since, q.life = time.Now(), to.life
		if t := q.m.ID.Time(); q.own && t >= epoch && t <= now()+skew && (t < rs.start || to.contacted) {
			// The caller may have sent it before, at the earliest when the ID was made.
			q.repeat, q.since, q.life = true, time.Unix(0, int64(t)), 0
		}
	}
	if to.life != 0 && to.begun <= uint64(q.since.UnixNano()) {
		q.life = to.life
	}
	to.contacted = true
	f := protocol.Frame{Kind: protocol.KindMessage, Message: q.m}
	if to.open != nil {
		f.Copy.Settled = to.open.m.ID.Time()
	} else if to.last > 0 {
		f.Copy.Settled = to.last + 1
	}
	if f.Copy.Repeat = q.repeat || q.copies > 0; f.Copy.Repeat {
		f.Incarnation, f.Copy.Age = q.life, elapsed(q.since)
	}
	q.copies++
	return f
}

// elapsed is how long ago t was, by whichever clock says longer: one stands still while the machine sleeps, the other may be set.
func elapsed(t time.Time) time.Duration {
	return max(time.Since(t), time.Now().Round(0).Sub(t.Round(0)), 1)
}

// learn takes in that the peer was in a life at the time begun.
func (to *correspondent) learn(life, begun uint64) {
	switch {
	case life == 0:
	case life != to.life:
		to.life, to.begun = life, begun
	default:
		to.begun = min(to.begun, begun)
	}
}

// answered notes that the peer has answered on a stream that was opened at the time opened, and in which life.
func (rs *requests) answered(q *request, life, opened uint64) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	q.to.heard = time.Now()
	q.to.learn(life, opened)
}

// heardWithin reports whether the peer has answered in the time d.
func (rs *requests) heardWithin(q *request, d time.Duration) bool {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	return !q.to.heard.IsZero() && time.Since(q.to.heard) < d
}
