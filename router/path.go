package router

import (
	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/transport"
)

// The path of a link is the way its packets take. It may change while the link lives, between a relay and the direct way for
// instance. The router does not move it; whoever does tells it here.

// PathChanged notes that the path of a connection, which is a link's, is no longer from. Watchers are told, with the reason. It
// does nothing if the connection is no link any more, or if the path is what it was.
func (r *Router) PathChanged(c transport.Conn, from transport.Addr, reason string) {
	to := c.Info().RemoteAddr
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.linkOf(c)
	if l == nil || from == to {
		return
	}
	l.why = reason
	rt := r.routes[to.Peer]
	r.emit(Event{Kind: PathChanged, Route: r.snapshot(rt), Link: rt.linkSnapshot(l), From: from, To: to, Reason: reason})
}

// linkOf returns the link of a connection, or nil, with mu held.
func (r *Router) linkOf(c transport.Conn) *link {
	rt := r.routes[c.Info().RemotePeer]
	if rt == nil {
		return nil
	}
	for _, l := range rt.links {
		if l.conn == c {
			return l
		}
	}
	return nil
}

// Busy reports whether streams other than those set aside run on a connection that is a link's.
func (r *Router) Busy(c transport.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.linkOf(c)
	return l != nil && l.active > 0
}

// Aside takes a stream that Config.Serve was given out of the count of its link, as one that serves the link itself: it does not
// keep the link from being closed when it is idle, and ends with it. The stream that it returns is the one to use from then on. The
// side that opened it must have done so on the connection itself.
func (r *Router) Aside(s transport.Stream) transport.Stream {
	ls, ok := s.(*linkStream)
	if !ok || ls.ours {
		return s
	}
	ls.once.Do(func() { ls.link.release(false, false) })
	return ls.Stream
}

// Addresses returns where a peer may be reached, the most promising first; none if it is not known.
func (r *Router) Addresses(id identity.ID) []transport.Addr {
	r.mu.Lock()
	defer r.mu.Unlock()
	if rt := r.routes[id]; rt != nil {
		return r.addresses(rt)
	}
	return nil
}

// Poke asks the peers of direct links for a sign of life, those which among names: so NATs on the way, and those who follow packets to where they come
// from, learn where this node is now. A link on which it does not come ends after a while. among must not call the router.
func (r *Router) Poke(among func(identity.ID) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, rt := range r.routes {
		for _, l := range rt.links {
			if !r.indirect(l.conn) && among(id) {
				l.probe()
			}
		}
	}
}
