package pheromones

import (
	"context"
	"net/netip"
	"time"

	"github.com/Blockchain-CN/pheromones/nat/punch"
	"github.com/Blockchain-CN/pheromones/transport"
)

const (
	// maxOffers bounds the attempts at a direct path that a peer may begin on one link in a row; after that, one is allowed in every offerPause.
	maxOffers  = 8
	offerPause = time.Second
	// tellTimeout bounds writing an answer.
	tellTimeout = 10 * time.Second
)

// servePunch answers a peer that looks for a direct path for a link that it has dialled.
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

	var attempt *punching
	defer func() {
		if attempt != nil {
			attempt.end()
		}
	}()
	path := info.RemoteAddr
	allowed, last := maxOffers, time.Now()
	for {
		msg, err := punch.Read(s)
		if err != nil {
			return
		}
		var answer punch.Message
		switch {
		case msg.Type == punch.Offer && attempt != nil && attempt.session == msg.Session:
			attempt.add(msg.Addrs)
			continue
		case msg.Type == punch.Offer:
			earned := int(time.Since(last) / offerPause)
			allowed, last = min(maxOffers, allowed+earned), last.Add(time.Duration(earned)*offerPause)
			if allowed == 0 {
				continue
			}
			allowed--
			if attempt != nil {
				attempt.end()
			}
			attempt = o.punch(ctx, punch.Config{
				Key: msg.Key, Session: msg.Session, Controlled: true, Remote: punch.Usable(msg.Addrs, o.local.Addr()),
			})
			answer = punch.Message{Type: punch.Answer, Session: msg.Session, Addrs: o.candidates()}
		case msg.Type == punch.Moved || msg.Type == punch.Ping:
			answer = punch.Message{Type: punch.Follows}
			if at := m.Path(); at.IsValid() {
				answer.Addrs = []netip.AddrPort{at}
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
		s.SetWriteDeadline(time.Now().Add(tellTimeout))
		if _, err := s.Write(answer.Append(nil)); err != nil {
			return
		}
	}
}
