package protocol

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/transport"
)

var alice, bob = identity.ID{1}, identity.ID{2}

func copyOf(id MessageID) *Frame {
	return &Frame{Kind: KindMessage, Message: Message{ID: id, Operation: "op"}}
}

func (r *Replies) try(from identity.ID, f *Frame, since time.Time) (*asker, Frame) {
	_, cancel := context.WithCancelCause(context.Background())
	return r.begin(from, f, since, cancel)
}

// runs fails unless the copy is to be executed, and executes it.
func (r *Replies) runs(t *testing.T, from identity.ID, f *Frame, answer string) {
	t.Helper()
	a, got := r.try(from, f, time.Time{})
	if a == nil || !a.runs {
		t.Fatalf("want it to be executed, got %+v", got)
	}
	r.end(a, Frame{Kind: KindMessage, Message: Message{ID: f.Message.ID, Operation: answer}})
}

func (r *Replies) refuses(t *testing.T, from identity.ID, f *Frame, since time.Time, code ErrorCode) Frame {
	t.Helper()
	a, got := r.try(from, f, since)
	if a != nil || got.Kind != KindError || got.Code != code || got.Incarnation != r.Incarnation() {
		t.Fatalf("want error %v, got an execution (%v) or %+v", code, a != nil, got)
	}
	return got
}

func (r *Replies) knows(t *testing.T, from identity.ID, f *Frame, answer string) {
	t.Helper()
	a, got := r.try(from, f, time.Time{})
	if a != nil || got.Message.Operation != answer {
		t.Fatalf("want the answer %q, got an execution (%v) or %+v", answer, a != nil, got)
	}
}

func TestRepliesRemember(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := NewReplies(RepliesConfig{})
		defer r.Close()
		f := copyOf(NewMessageID())
		r.runs(t, alice, f, "alice's")
		r.runs(t, bob, f, "bob's") // another sender's request may have the same ID
		r.knows(t, alice, f, "alice's")
		r.knows(t, bob, f, "bob's")
		f.Copy.Repeat = true
		r.knows(t, alice, f, "alice's")
		time.Sleep(5*time.Minute - 1)
		r.knows(t, alice, f, "alice's")
		time.Sleep(1)
		synctest.Wait() // for the timer's goroutine, which was woken at the same instant
		r.mu.Lock()
		entries, bytes, finished := r.entries, r.bytes, r.finished.Len()
		r.mu.Unlock()
		if entries != 0 || bytes != 0 || finished != 0 {
			t.Errorf("after Keep: want nothing kept, got %d entries", entries)
		}
		if got := r.refuses(t, alice, f, time.Time{}, CodeForgotten); got.Horizon != f.Message.ID.Time() {
			t.Errorf("the horizon is %d, want %d", got.Horizon, f.Message.ID.Time())
		}
	})
}

func TestRepliesSettled(t *testing.T) {
	r := NewReplies(RepliesConfig{})
	defer r.Close()
	id := func(n uint64) MessageID { return MessageIDFor(alice, n) }
	first, second, own := copyOf(id(10)), copyOf(id(20)), copyOf(NewMessageID())
	r.runs(t, alice, first, "10")
	r.runs(t, alice, second, "20")
	r.runs(t, alice, own, "own")
	third := copyOf(id(30))
	third.Copy.Settled = 20
	slow, _ := r.try(alice, copyOf(id(25)), time.Time{})
	r.runs(t, alice, third, "30")
	r.refuses(t, alice, first, time.Time{}, CodeForgotten)
	r.refuses(t, alice, copyOf(id(15)), time.Time{}, CodeForgotten)
	r.knows(t, alice, second, "20")
	r.knows(t, alice, own, "own")
	fourth := copyOf(id(40))
	fourth.Copy.Settled = 40
	r.runs(t, alice, fourth, "40")
	r.end(slow, Frame{Kind: KindNone}) // settled while it ran
	r.refuses(t, alice, copyOf(id(25)), time.Time{}, CodeForgotten)
	if r.entries != 2 {
		t.Errorf("want 2 entries kept, the last and the one that the program may repeat; got %d", r.entries)
	}
}

func TestRepliesNotExecuted(t *testing.T) {
	r := NewReplies(RepliesConfig{})
	defer r.Close()
	f := copyOf(NewMessageID())
	a, _ := r.try(alice, f, time.Time{})
	r.end(a, Frame{Kind: KindError, Code: CodeOverloaded})
	r.runs(t, alice, f, "done")
	r.knows(t, alice, f, "done")
}

func TestRepliesLives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := NewReplies(RepliesConfig{Incarnation: 7})
		defer r.Close()
		time.Sleep(time.Minute)
		for _, test := range []struct {
			name        string
			incarnation uint64
			age         time.Duration
			since       time.Time
			runs        bool
		}{
			{"of this life", 7, time.Hour, time.Time{}, true},
			{"of another life", 8, time.Second, time.Now(), false},
			{"of nobody knows which, young", 0, 44 * time.Second, time.Now(), true},
			{"of nobody knows which, as old as this life", 0, 45 * time.Second, time.Now(), false},
			{"over a connection of nobody knows when", 0, time.Second, time.Time{}, false},
			{"over an old connection", 0, time.Second, time.Now().Add(-45 * time.Second), false},
			{"of unknown age", 0, MaxAge, time.Now().Add(100 * 24 * time.Hour), false},
		} {
			f := copyOf(NewMessageID())
			f.Copy.Repeat, f.Copy.Age, f.Incarnation = true, test.age, test.incarnation
			if a, got := r.try(alice, f, test.since); test.runs != (a != nil) || a == nil && got.Code != CodeRestarted {
				t.Errorf("a repeat %s: runs: %v, answer %+v", test.name, a != nil, got)
			}
		}
	})
}

func TestRepliesGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := NewReplies(RepliesConfig{})
		defer r.Close()
		f := copyOf(NewMessageID())
		ctx, cancel := context.WithCancelCause(context.Background())
		a, _ := r.begin(alice, f, time.Time{}, cancel)
		lost := &transport.LostError{}
		r.leave(a, lost)
		time.Sleep(10*time.Second - 1)
		second, _ := r.try(alice, f, time.Time{})
		if second == nil || second.runs {
			t.Fatal("a copy while the handler runs: want it to wait")
		}
		time.Sleep(time.Hour)
		r.leave(second, lost)
		time.Sleep(10*time.Second - 1)
		if ctx.Err() != nil {
			t.Fatal("within its time of grace the handler's context ended")
		}
		time.Sleep(1)
		synctest.Wait()
		if context.Cause(ctx) != lost {
			t.Errorf("after the time of grace: the handler's context ended by %v", context.Cause(ctx))
		}
		r.end(a, Frame{Kind: KindNone})

		f = copyOf(NewMessageID())
		ctx, cancel = context.WithCancelCause(context.Background())
		a, _ = r.begin(alice, f, time.Time{}, cancel)
		second, _ = r.try(alice, f, time.Time{})
		unwanted := &transport.ResetError{Code: transport.CodeCancelled, Remote: true}
		if r.leave(a, unwanted); ctx.Err() != nil {
			t.Error("one of two askers has cancelled: want the handler's context to live")
		}
		if r.leave(second, unwanted); ctx.Err() == nil {
			t.Error("both askers have cancelled: want the handler's context to end")
		}
	})
}

func TestRepliesBounds(t *testing.T) {
	r := NewReplies(RepliesConfig{SenderEntries: 8, SenderBytes: 1000, Entries: 20, Bytes: 3000})
	defer r.Close()
	kept := copyOf(NewMessageID())
	r.runs(t, bob, kept, "bob's")
	for i := range 10 {
		mallory := identity.ID{100, byte(i)}
		for range 50 {
			r.runs(t, mallory, copyOf(NewMessageID()), "x")
		}
		if s := r.senders[mallory]; len(s.entries) > 8 {
			t.Fatalf("one sender has %d entries", len(s.entries))
		}
	}
	if r.entries > 20 || r.bytes > 3000 {
		t.Errorf("%d entries and %d bytes are kept", r.entries, r.bytes)
	}
	r.knows(t, bob, kept, "bob's")

	large := copyOf(NewMessageID())
	a, _ := r.try(alice, large, time.Time{})
	waits, _ := r.try(alice, large, time.Time{})
	r.end(a, Frame{Kind: KindMessage, Message: Message{Operation: "large", Data: make([]byte, 2000)}})
	if got := <-waits.answer; got.Message.Operation != "large" {
		t.Errorf("who waited for a large reply got %+v", got)
	}
	r.refuses(t, alice, large, time.Time{}, CodeReplyLost)

	for i := range 4 {
		if a, got := r.try(alice, copyOf(NewMessageID()), time.Time{}); a == nil {
			t.Fatalf("request %d that runs: %+v", i, got)
		}
	}
	r.refuses(t, alice, copyOf(NewMessageID()), time.Time{}, CodeOverloaded)
}

func TestRepliesSenders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := NewReplies(RepliesConfig{Senders: 3})
		defer r.Close()
		delayed := copyOf(MessageIDFor(alice, 5))
		old := time.Now()
		r.runs(t, alice, delayed, "x")
		for i := range 2 {
			r.runs(t, identity.ID{50, byte(i)}, copyOf(NewMessageID()), "x")
		}
		r.refuses(t, bob, copyOf(NewMessageID()), time.Time{}, CodeOverloaded)
		time.Sleep(5 * time.Minute) // the replies are forgotten
		r.refuses(t, bob, copyOf(NewMessageID()), time.Time{}, CodeOverloaded)
		time.Sleep(5 * time.Minute) // the senders may be
		a, got := r.try(bob, copyOf(NewMessageID()), time.Now().Add(1))
		if a == nil {
			t.Fatalf("a new sender, when there is room: %+v", got)
		}
		if len(r.senders) != 3 || r.senders[alice] != nil {
			t.Fatalf("want alice, who has been silent for longest, to be forgotten; got %d senders", len(r.senders))
		}
		// A copy that was on its way all the time, and one that says what it is.
		r.refuses(t, alice, delayed, old, CodeForgotten)
		repeat := copyOf(MessageIDFor(alice, 6))
		repeat.Copy.Repeat, repeat.Copy.Age, repeat.Incarnation = true, time.Second, r.Incarnation()
		r.refuses(t, alice, repeat, old, CodeRestarted)
		r.runs(t, alice, copyOf(MessageIDFor(alice, 7)), "x") // what the sender makes of it
	})
}

// Copies are lost, late, doubled and out of order, the sender settles what it has given up or got answered, memory is small, and
// the receiver is started again: nothing is ever executed twice.
func TestRepliesNeverTwice(t *testing.T) {
	for seed := range uint64(200) {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { neverTwice(t, rand.New(rand.NewPCG(seed, 1))) })
		})
	}
}

func neverTwice(t *testing.T, rng *rand.Rand) {
	type sent struct {
		f     Frame
		since time.Time
	}
	cfg := RepliesConfig{SenderEntries: 2 + rng.IntN(8), SenderBytes: 100, Entries: 12, Senders: 2 + rng.IntN(3), Keep: time.Second}
	r := NewReplies(cfg)
	defer func() { r.Close() }()
	conn := time.Now()   // when the present connection was made
	life := uint64(0)    // the receiver's, as the sender knows it
	var way, open []sent // copies on their way; requests that are not settled, as first sent
	first := map[MessageID]time.Time{}
	executed := map[MessageID]int{}
	next := uint64(1)
	settled := func() uint64 {
		least := next
		for _, o := range open {
			if o.f.Message.ID.MarkedBy(alice) {
				least = min(least, o.f.Message.ID.Time())
			}
		}
		return least
	}
	for range 400 {
		time.Sleep(time.Duration(rng.IntN(200)) * time.Millisecond)
		switch n := rng.IntN(20); {
		case n < 7: // a new request, by a router or a program
			id := MessageIDFor(alice, next)
			if rng.IntN(3) == 0 {
				binary.BigEndian.PutUint64(id[8:], rng.Uint64()|1)
			}
			next += 1 + uint64(rng.IntN(3))
			s := sent{*copyOf(id), conn}
			s.f.Incarnation = life
			first[id] = time.Now()
			open = append(open, s)
			s.f.Copy.Settled = settled()
			s.f.Incarnation = 0
			way = append(way, s)
		case n < 11 && len(open) > 0: // a repeat
			s := open[rng.IntN(len(open))]
			s.since, s.f.Copy.Repeat, s.f.Copy.Age = conn, true, time.Since(first[s.f.Message.ID])
			s.f.Copy.Settled = settled()
			way = append(way, s)
		case n < 13 && len(open) > 0: // settled
			i := rng.IntN(len(open))
			open = append(open[:i:i], open[i+1:]...)
		case n < 14:
			conn = time.Now()
		case n < 15 && rng.IntN(4) == 0:
			r.Close()
			time.Sleep(time.Duration(rng.IntN(40)) * time.Second)
			r = NewReplies(cfg)
			way, conn = nil, time.Now() // connections end with the process
		case len(way) > 0: // a copy arrives
			i := rng.IntN(len(way))
			s := way[i]
			way = append(way[:i:i], way[i+1:]...)
			if rng.IntN(5) == 0 {
				continue // it is lost
			}
			a, got := r.try(alice, &s.f, s.since)
			if a == nil {
				life = got.Incarnation
				continue
			}
			if a.runs {
				if executed[s.f.Message.ID]++; executed[s.f.Message.ID] > 1 {
					t.Fatalf("request %v was executed twice, the second time from %+v", s.f.Message.ID, s.f)
				}
				r.end(a, Frame{Kind: KindMessage, Message: Message{Operation: "x"}, Incarnation: r.Incarnation()})
				life = r.Incarnation()
			}
		}
	}
}
