package pheromones

import (
	"context"
	"sync"
	"time"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/nat/punch"
	"github.com/Blockchain-CN/pheromones/transport"
)

const (
	// maxOffers bounds the attempts (PA8) at a direct path that a peer may begin on one link in a row; after that, one is allowed
	// in every offerPause.
	maxOffers  = 8
	offerPause = 5 * time.Second
	// deaf is how long nothing has been heard on a link on which something should be when the other links are asked for a sign of life. That
	// has to be over when the other side turns to a relay, suspect and patience later.
	deaf = 250 * time.Millisecond
	// tellTimeout bounds writing an answer.
	tellTimeout = 10 * time.Second
)

// servePunch answers a peer that looks for a direct path for a link that it has dialled (PA1, PA2).
func (n *Node) servePunch(ctx context.Context, c transport.Conn, s transport.Stream) {
	s = n.router.Aside(s)
	m, ok := c.(migrating)
	info := c.Info()
	o := n.portOf(info.LocalAddr)
	if !ok || o == nil || info.Dialer || n.cfg.Path == PathRelayOnly {
		s.Reset(transport.CodeRefused)
		return
	}
	n.mu.Lock()
	_, again := n.punched[c]
	if !again {
		n.punched[c] = struct{}{}
	}
	n.mu.Unlock()
	if again {
		s.Reset(transport.CodeLimit)
		return
	}
	defer func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(n.punched, c)
	}()
	defer s.Reset(transport.CodeClosed)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// The stream ends with the connection, and with ctx.
	defer context.AfterFunc(ctx, func() { s.Reset(transport.CodeClosed) })()

	var writing sync.Mutex
	say := func(m punch.Message) error {
		writing.Lock()
		defer writing.Unlock()
		s.SetWriteDeadline(time.Now().Add(tellTimeout))
		_, err := s.Write(m.Append(nil))
		return err
	}
	var attempt *punching
	var last punch.Message // answer
	tries := 0             // since there was a direct path
	var burrows []*burrow  // by which the link has come
	end := func() {
		if attempt == nil {
			return
		}
		for burrows = append(burrows, attempt.takeBurrows((*burrow).carries)...); len(burrows) > maxBurrows; burrows = burrows[1:] {
			burrows[0].close()
		}
		attempt.end()
	}
	var asking sync.WaitGroup
	defer asking.Wait()
	defer func() {
		end()
		for _, b := range burrows {
			if c.Context().Err() != nil {
				b.close()
			} else {
				context.AfterFunc(c.Context(), b.close) // the link outlives the peer's interest in its path
			}
		}
		cancel()
	}()
	asking.Go(func() { n.watchServed(ctx, m) })
	path := info.RemoteAddr
	allowed, counted := maxOffers, time.Now()
	for {
		msg, err := punch.Read(s)
		if err != nil {
			return
		}
		var answer punch.Message
		switch {
		case msg.Type == punch.Offer && attempt != nil && attempt.session == msg.Session:
			attempt.learn(msg)
			continue
		case msg.Type == punch.Offer:
			earned := int(time.Since(counted) / offerPause)
			allowed, counted = min(maxOffers, allowed+earned), counted.Add(time.Duration(earned)*offerPause)
			if allowed == 0 {
				continue
			}
			allowed--
			end()
			if answer = o.message(punch.Answer, msg.Session, punch.Key{}); !sameNetwork(last, answer) {
				tries = 0
			}
			last = answer
			tries++
			attempt = o.punch(ctx, punch.Config{Key: msg.Key, Session: msg.Session, Controlled: true}, tries <= guessTries)
			if attempt != nil {
				attempt.learn(msg)
			}
			asking.Go(func() {
				o.ask(ctx)
				if now := o.message(punch.Answer, msg.Session, punch.Key{}); !sameLook(now, answer) {
					say(now) // if it fails, so does reading
				}
			})
		case msg.Type == punch.Moved || msg.Type == punch.Ping:
			if answer = (punch.Message{Type: punch.Follows, Addrs: goesTo(m)}); len(answer.Addrs) > 0 {
				tries = 0
			}
		default:
			continue
		}
		if now := c.Info().RemoteAddr; now != path {
			why := "the peer has moved the link"
			if now.Scheme == path.Scheme {
				why = "the peer is seen at another address"
			}
			n.router.PathChanged(c, path, why)
			path = now
		}
		if say(answer) != nil {
			return
		}
	}
}

// watchServed (PA6) looks whether a link that the peer moves is alive. If it is silent this node may have got another address,
// which those it has links with, relays above all, learn from its packets; the peer then gets through by them.
func (n *Node) watchServed(ctx context.Context, c migrating) {
	var sent, received uint64
	heard, unanswered, poked := time.Now(), time.Time{}, time.Time{}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		now := time.Now()
		busy := n.router.Busy(c)
		s, r := c.Packets()
		switch {
		case r != received:
			heard, unanswered = now, time.Time{}
		case s != sent && unanswered.IsZero():
			unanswered = now
		}
		sent, received = s, r
		if silence := now.Sub(heard); silence >= deaf && now.Sub(poked) >= deaf && (busy || !unanswered.IsZero() && now.Sub(unanswered) >= deaf) && silence < deadAfter {
			first := poked.Before(heard)
			poked = now
			n.router.Poke(func(peer identity.ID) bool { return first || n.joining.joined(peer) })
		}
		if busy || !unanswered.IsZero() {
			timer.Reset(deaf / 4)
		} else {
			timer.Reset(deaf)
		}
	}
}
