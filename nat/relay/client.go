package relay

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/transport"
)

// Reservation is a place at a relay, by which this node can be called.
type Reservation struct {
	Relay identity.ID
	Link  transport.Conn // the reservation ends with it
	Until time.Time      // and then, if it is not renewed
	Rate  uint64         // what the relay carries in each direction of a circuit, in bytes a second; zero: it says no bound
	Bytes uint64         // what it carries by a circuit in all; zero: it says no bound

	lifetime time.Duration
}

// Lifetime returns how long the relay said that the reservation holds.
func (r Reservation) Lifetime() time.Duration { return r.lifetime }

// Reserve makes a reservation at a relay, or renews it. It takes a round trip over the link with the relay, and that to dial if
// there is none. From then on until it ends the relay may offer circuits. It fails with a [*RefusedError], ctx's error, or that of
// the link.
func (e *Endpoint) Reserve(ctx context.Context, relay identity.ID) (Reservation, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	link, s, err := e.options.Open(ctx, relay, true, appendFrame(nil, frame{typ: typeReserve, early: true}))
	if err != nil {
		return Reservation{}, fmt.Errorf("relay: reserve at %s: %w", relay.Short(), err)
	}
	// A call may overtake the answer.
	e.trust(relay, time.Now().Add(answerTimeout))
	f, err := readAnswer(ctx, s)
	switch {
	case err != nil:
		s.Reset(transport.CodeCancelled)
		return Reservation{}, fmt.Errorf("relay: reserve at %s: %w", relay.Short(), err)
	case f.typ == typeReserved:
		s.Close()
		lifetime := time.Duration(f.seconds) * time.Second
		until := time.Now().Add(lifetime)
		e.trust(relay, until)
		return Reservation{Relay: relay, Link: link, Until: until, Rate: f.rate, Bytes: f.bytes, lifetime: lifetime}, nil
	}
	s.Close()
	return Reservation{}, refused(f, relay, identity.ID{})
}

// trust lets a relay offer circuits until then.
func (e *Endpoint) trust(relay identity.ID, until time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Now()
	for id, t := range e.trusted {
		if now.After(t) {
			delete(e.trusted, id)
		}
	}
	if until.After(e.trusted[relay]) {
		e.trusted[relay] = until
	}
}

// readAnswer reads one frame within ctx.
func readAnswer(ctx context.Context, s transport.Stream) (frame, error) {
	stop := context.AfterFunc(ctx, func() { s.SetReadDeadline(time.Unix(1, 0)) })
	f, err := readFrame(s, nil)
	if !stop() && err != nil {
		err = ctx.Err()
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return f, err
}

// refused makes an error of an answer that is none of those hoped for.
func refused(f frame, relay, peer identity.ID) error {
	if f.typ != typeRefused {
		return fmt.Errorf("%w: type %d for an answer", errMalformed, f.typ)
	}
	return &RefusedError{Relay: relay, Peer: peer, Reason: f.reason, Text: f.text}
}

// Connect calls a peer through a relay. It returns as soon as the call is on its way; what is sent follows it at once. That the
// call was refused shows, as a [*RefusedError], in [Circuit.Run] or, for a circuit of bytes, when its stream is read. ctx bounds
// the call only; whoever has the circuit closes it.
func (e *Endpoint) Connect(ctx context.Context, relay, peer identity.ID, kind Kind) (*Circuit, error) {
	link, s, err := e.options.Open(ctx, relay, true, appendFrame(nil, frame{typ: typeConnect, kind: kind, peer: peer}))
	if err != nil {
		return nil, fmt.Errorf("relay: call %s through %s: %w", peer.Short(), relay.Short(), err)
	}
	return e.newCircuit(link, s, peer, kind, true), nil
}

// incoming answers a call through a relay.
func (e *Endpoint) incoming(ctx context.Context, link transport.Conn, s transport.Stream, f frame) {
	e.mu.Lock()
	trusted := time.Now().Before(e.trusted[link.Info().RemotePeer])
	e.mu.Unlock()
	if !trusted || link.Info().RemoteAddr.Scheme == Scheme {
		answer(s, frame{typ: typeRefused, reason: NotAllowed, text: errNotOurs.Error()})
		return
	}
	if e.options.Incoming == nil {
		answer(s, frame{typ: typeRefused, reason: Declined})
		return
	}
	c := e.newCircuit(link, s, f.peer, f.kind, false)
	c.id = f.circuit
	e.options.Incoming(ctx, c)
	switch {
	case !c.accepted:
		answer(s, frame{typ: typeRefused, reason: Declined})
	case c.kind == Packets:
		c.Close()
	}
}
