package router

import (
	"context"
	"fmt"
	"slices"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/transport"
)

// OpenDirect opens a stream on a link with a peer that goes through nobody else ([transport.Traits].Indirect), and returns the
// link's connection, too. If there is no such link it dials one, if it may, at the peer's direct addresses. It returns as
// [Router.Open] does; without a link, and with none to be had, it fails with [ErrNoAddress], [ErrUnknownPeer] or a [*DialError].
func (r *Router) OpenDirect(ctx context.Context, id identity.ID, dial bool) (transport.Stream, transport.Conn, error) {
	var err error
	for range 3 { // a link may end between being found and being used
		l := r.direct(id)
		if l == nil {
			if !dial {
				return nil, nil, fmt.Errorf("%w: %s: there is no direct link", ErrNoAddress, id)
			}
			if l, err = r.dialDirect(ctx, id); err != nil {
				return nil, nil, err
			}
		}
		var s transport.Stream
		if s, err = l.open(ctx); err == nil || !ended(err) {
			return s, l.conn, err
		}
	}
	return nil, nil, err
}

// indirect reports whether a connection goes through a third node at the moment.
func (r *Router) indirect(c transport.Conn) bool {
	t := r.transports[c.Info().RemoteAddr.Scheme]
	return t != nil && t.Traits().Indirect
}

// direct returns a direct link with the peer that takes streams, the one in use if it is one, or nil.
func (r *Router) direct(id identity.ID) *link {
	r.mu.Lock()
	defer r.mu.Unlock()
	rt := r.routes[id]
	if rt == nil {
		return nil
	}
	if l := rt.best(); l != nil && !r.indirect(l.conn) {
		return l
	}
	for _, l := range slices.Backward(rt.links) {
		if l.takes() && l.conn.Context().Err() == nil && !r.indirect(l.conn) {
			return l
		}
	}
	return nil
}

// dialDirect dials the peer's direct addresses for a link.
func (r *Router) dialDirect(ctx context.Context, id identity.ID) (*link, error) {
	if id == r.self {
		return nil, ErrSelf
	}
	r.mu.Lock()
	rt := r.routes[id]
	if rt == nil || !rt.known() {
		r.mu.Unlock()
		return nil, fmt.Errorf("%w: %s", ErrUnknownPeer, id)
	}
	addrs := slices.DeleteFunc(r.addresses(rt), func(a transport.Addr) bool {
		t := r.transports[a.Scheme]
		return t == nil || t.Traits().OneStream || t.Traits().Indirect
	})
	r.mu.Unlock()
	if len(addrs) == 0 {
		return nil, fmt.Errorf("%w: %s: no direct one", ErrNoAddress, id)
	}
	o := r.dialLong(ctx, id, addrs)
	switch {
	case o.err != nil:
		return nil, o.err
	case r.indirect(o.link.conn):
		return nil, fmt.Errorf("%w: %s: the link with it is relayed", ErrNoAddress, id)
	}
	return o.link, nil
}

// Knows reports whether there is a link with the peer, or a route that has an address to dial.
func (r *Router) Knows(id identity.ID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	rt := r.routes[id]
	return rt != nil && !rt.deleted && (rt.best() != nil || rt.known() && len(r.candidates(rt)) > 0)
}

// Direct reports whether there is a direct link with the peer.
func (r *Router) Direct(id identity.ID) bool { return r.direct(id) != nil }

// Linked returns the peers that there is a direct link with, in no order.
func (r *Router) Linked() []identity.ID {
	r.mu.Lock()
	defer r.mu.Unlock()
	var ids []identity.ID
	for id, rt := range r.routes {
		if l := rt.best(); l != nil && !r.indirect(l.conn) {
			ids = append(ids, id)
		}
	}
	return ids
}

// Connect makes sure that there is a link with a peer, as [Router.Open] does, and opens no stream. It reports whether there is one:
// at peers that are reached by connections of one stream there is none, and nothing is dialled.
func (r *Router) Connect(ctx context.Context, id identity.ID) (linked bool, err error) {
	r.mu.Lock()
	rt := r.routes[id]
	var long []transport.Addr
	if rt != nil {
		if rt.best() != nil {
			r.mu.Unlock()
			return true, nil
		}
		long = slices.DeleteFunc(r.candidates(rt), func(a transport.Addr) bool { return r.transports[a.Scheme].Traits().OneStream })
	}
	r.mu.Unlock()
	if len(long) == 0 {
		return false, nil
	}
	o := r.dialLong(ctx, id, long)
	return o.err == nil, o.err
}
