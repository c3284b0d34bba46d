package protocol

import (
	"container/heap"
	"container/list"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/transport"
)

// RepliesConfig bounds what a [Replies] keeps. The zero value works; of every field, zero or less is the default.
type RepliesConfig struct {
	// Incarnation tells this life of the receiver from its others: random, not zero. Zero: one is chosen.
	Incarnation uint64
	// SenderEntries and SenderBytes bound the requests of one sender that are remembered, and the bytes of their replies.
	// Half of the entries at most may be running; further requests are answered with CodeOverloaded. Default: 16384, 16 MiB.
	SenderEntries, SenderBytes int
	// Entries and Bytes bound the same for all senders together. Beyond them, the sender that has most loses its oldest.
	// Default: 65536, 256 MiB.
	Entries, Bytes int
	// Senders bounds of how many senders anything is known. Beyond it, the one that has been idle for longest is forgotten,
	// once that is for longer than Keep; a further sender is answered with CodeOverloaded until then. Default: 65536.
	Senders int
	// Keep is how long a reply is kept after its handler has ended, if no bound cuts it short. Default: 5 min.
	Keep time.Duration
	// Grace is how long a handler runs on after the links have been lost over which its reply was awaited, before its
	// context ends: for so long the sender may come back for it. Default: 10 s.
	Grace time.Duration
}

func (c RepliesConfig) orDefault() RepliesConfig {
	set := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	set(&c.SenderEntries, 16384)
	set(&c.SenderBytes, 16<<20)
	set(&c.Entries, 65536)
	set(&c.Bytes, 256<<20)
	set(&c.Senders, 65536)
	if c.Keep <= 0 {
		c.Keep = 5 * time.Minute
	}
	if c.Grace <= 0 {
		c.Grace = 10 * time.Second
	}
	for c.Incarnation == 0 {
		var b [8]byte
		rand.Read(b[:]) // never fails
		c.Incarnation = binary.BigEndian.Uint64(b[:])
	}
	return c
}

// Replies remembers what was answered to whom, so that a request that is sent again is not executed again: [Serve] gives a
// handler each ID of a sender at most once, and answers repeats from here. What is promised, by clause (PR26 to PR31):
//
//   - A repeat gets the reply of the one execution. One that comes while the handler still runs waits for it.
//   - What is no longer remembered is answered with an error that says so and is not executed: CodeForgotten, CodeRestarted
//     or CodeReplyLost.
//   - An ID of [NewMessageID] or [MessageIDFor] is needed for that. Others are known as long as they are remembered; after
//     that they may be taken for forgotten when they are new.
//   - A handler that says that it did nothing (CodeRefused, CodeOverloaded and so on) has not executed the request: the next
//     copy is given to it again.
//
// All methods may be called at once. One Replies serves all of a node's connections.
type Replies struct {
	cfg   RepliesConfig
	start time.Time

	mu       sync.Mutex // guards all below, and senders and entries
	closed   bool
	senders  map[identity.ID]*sender
	idle     list.List // of the *senders without entries, by when they became so
	heaviest senders   // those that have finished entries
	finished list.List // of *entry: those of all senders, by when they finished
	entries  int
	running  int
	bytes    int
	floor    time.Time   // a sender that is met for the first time may have been forgotten until then
	timer    *time.Timer // calls sweep when the first finished entry has had its time; nil if there is none
}

// sender is what is remembered of one sender.
type sender struct {
	id       identity.ID
	entries  map[MessageID]*entry
	running  int
	bytes    int
	finished list.List // of *entry, by when they finished
	marked   byTime    // finished entries whose IDs the sender has marked
	horizon  [2]uint64 // by class: the largest time of an ID that is not remembered any more
	floor    time.Time // what came before is not known
	renewed  bool      // has come again after it was forgotten
	weight   int       // of what has finished
	index    int       // in Replies.heaviest; -1 if not there
	idle     *list.Element
	since    time.Time // when it became idle
}

// The classes of IDs: those that the sender makes in order and says to be settled, and others.
const (
	marked = iota
	unmarked
)

func (s *sender) class(id MessageID) int {
	if id.MarkedBy(s.id) {
		return marked
	}
	return unmarked
}

// entry is one request.
type entry struct {
	s       *sender
	id      MessageID
	class   int
	askers  []*asker  // those who wait for its handler
	runner  asker     // the one that runs it
	ran     [1]*asker // where askers begins
	over    bool      // it has ended
	cancel  context.CancelCauseFunc
	grace   *time.Timer // runs while a handler runs for nobody
	answer  Frame       // of one that has finished, as are those below
	bytes   int
	ended   time.Time
	inAll   *list.Element
	inOwn   *list.Element
	inOrder int // index in sender.marked; -1 if not there
}

// asker is a copy of a request that waits for the reply.
type asker struct {
	e      *entry
	runs   bool       // it is the one that runs the handler
	answer chan Frame // has room for one, which comes when the handler has ended; nil for the one that runs it
}

// NewReplies returns a Replies whose life begins now. Whoever makes one closes it.
func NewReplies(cfg RepliesConfig) *Replies {
	now := time.Now()
	return &Replies{cfg: cfg.orDefault(), start: now, floor: now, senders: make(map[identity.ID]*sender)}
}

// Incarnation returns what tells this life from others, which answers carry.
func (r *Replies) Incarnation() uint64 { return r.cfg.Incarnation }

// Close forgets everything. Requests that run run on, and every new one is answered with CodeRestarted.
func (r *Replies) Close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	if r.timer != nil {
		r.timer.Stop()
		r.timer = nil
	}
	r.senders, r.heaviest = make(map[identity.ID]*sender), nil
	r.finished.Init()
	r.idle.Init()
}

// begin says what is to be done about a copy of a request, f, that came over a connection which exists since then: if it
// returns an asker who runs, its handler is to be run, to be cancelled by cancel, and then end to be called; if one who does
// not, its answer is to be waited for; if none, the frame is to be sent.
func (r *Replies) begin(peer identity.ID, f *Frame, since time.Time, cancel context.CancelCauseFunc) (*asker, Frame) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	if r.closed {
		return nil, r.refusal(CodeRestarted, "the node closes")
	}
	r.sweepLocked(now)
	s := r.sender(peer, now)
	if s == nil {
		return nil, r.refusal(CodeOverloaded, "too many senders")
	}
	id := f.Message.ID
	if e := s.entries[id]; e != nil {
		if e.over {
			return nil, e.answer
		}
		a := &asker{e: e, answer: make(chan Frame, 1)}
		e.askers = append(e.askers, a)
		if e.grace != nil {
			e.grace.Stop()
			e.grace = nil
		}
		return a, Frame{}
	}
	r.settle(s, f.Copy.Settled)
	defer r.rest(s, now)
	class := s.class(id)
	if id.Time() <= s.horizon[class] {
		answer := r.refusal(CodeForgotten, "")
		answer.Horizon = s.horizon[class]
		return nil, answer
	}
	if f.Copy.Repeat && !r.firstSeenHere(s, f, since) {
		return nil, r.refusal(CodeRestarted, "")
	}
	if !f.Copy.Repeat && s.floor != r.start && !s.renewed && !since.After(s.floor) {
		// It may have been on its way since before the sender was forgotten, and its repeat been executed. If it has not, the
		// sender has no other copy out, and makes a new request of it.
		s.renewed = true
		s.horizon[class] = id.Time()
		answer := r.refusal(CodeForgotten, "")
		answer.Horizon = id.Time()
		return nil, answer
	}
	if s.running >= max(1, r.cfg.SenderEntries/2) || r.running >= max(1, r.cfg.Entries/2) {
		return nil, r.refusal(CodeOverloaded, "too many requests are running")
	}
	e := &entry{s: s, id: id, class: class, cancel: cancel, inOrder: -1}
	a := &e.runner
	a.e, a.runs, e.ran[0] = e, true, a
	e.askers = e.ran[:]
	s.entries[id] = e
	r.wake(s)
	s.running++
	r.running++
	r.entries++
	r.shed(s)
	return a, Frame{}
}

// margin is how much later this side may have taken notice of a connection than the other side had it: the last flight of a
// handshake can take as long as a handshake may.
const margin = 15 * time.Second

// firstSeenHere reports whether all copies of a request of which this is a repeat were sent since there is something to know of
// the sender. It is so if the sender knew of this life when it sent the first, or if the first is younger than that.
func (r *Replies) firstSeenHere(s *sender, f *Frame, since time.Time) bool {
	switch {
	case f.Incarnation != 0 && f.Incarnation != r.cfg.Incarnation:
		return false
	case f.Incarnation != 0 && s.floor == r.start:
		return true
	}
	return !since.IsZero() && f.Copy.Age < MaxAge && since.Add(-margin-f.Copy.Age).After(s.floor)
}

func (r *Replies) refusal(code ErrorCode, text string) Frame {
	return Frame{Kind: KindError, Code: code, Text: text, Incarnation: r.cfg.Incarnation}
}

// end says what came of the request that a runs, and hands it to all who wait.
func (r *Replies) end(a *asker, answer Frame) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e, s := a.e, a.e.s
	for _, other := range e.askers {
		if !other.runs {
			other.answer <- answer
		}
	}
	e.askers, e.ran[0], e.cancel, e.over = nil, nil, nil, true
	if e.grace != nil {
		e.grace.Stop()
		e.grace = nil
	}
	s.running--
	r.running--
	if r.closed {
		return
	}
	now := time.Now()
	defer r.rest(s, now)
	switch {
	case notExecuted(answer):
		delete(s.entries, e.id) // the next copy is as good as the first
		r.entries--
		return
	case e.class == marked && e.id.Time() <= s.horizon[marked]:
		delete(s.entries, e.id) // settled already
		r.entries--
		return
	}
	e.answer, e.ended = answer, now
	e.bytes = len(answer.Message.Data) + len(answer.Message.Operation) + len(answer.Message.Name) + len(answer.Text)
	if e.bytes > min(r.cfg.SenderBytes, r.cfg.Bytes) {
		e.answer, e.bytes = r.refusal(CodeReplyLost, "it was too large to keep"), 0
	}
	e.inAll, e.inOwn = r.finished.PushBack(e), s.finished.PushBack(e)
	s.bytes += e.bytes
	r.bytes += e.bytes
	if e.class == marked {
		heap.Push(&s.marked, e)
	}
	r.weigh(s, r.weightOf(e))
	r.shed(s)
	r.schedule(now)
}

func notExecuted(f Frame) bool { return f.Kind == KindError && f.Code.notExecuted() }

// leave says that whoever sent this copy does not wait any more, and why. If nobody else does, the handler's context ends: at once
// if the sender does not want the reply, after Grace if it may come back for it.
func (r *Replies) leave(a *asker, why error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := a.e
	if e.over {
		return
	}
	e.askers = slices.DeleteFunc(e.askers, func(other *asker) bool { return other == a })
	switch {
	case len(e.askers) > 0:
	case unwanted(why):
		e.cancel(why)
	case e.grace == nil:
		e.grace = time.AfterFunc(r.cfg.Grace, func() {
			r.mu.Lock()
			defer r.mu.Unlock()
			if !e.over && len(e.askers) == 0 {
				e.cancel(why)
			}
		})
	}
}

// unwanted reports whether somebody's leaving means that he will not come back.
func unwanted(why error) bool {
	var reset *transport.ResetError
	if errors.As(why, &reset) {
		return reset.Remote && reset.Code == transport.CodeCancelled
	}
	var closed *transport.CloseError
	return errors.As(why, &closed) && closed.Remote && closed.Code == transport.CodeShutdown || isContextError(why)
}
