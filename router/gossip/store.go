package gossip

// kept is a broadcast that is kept for those who missed it.
type kept struct {
	msg    *Message
	origin *origin
	at     int64 // when it came
	parent int8  // the slot it came by; -1: it is our own, or the neighbour is gone
	hops   uint8 // edges it came by
	gone   bool  // no longer kept
	moved  bool  // its tree was improved by it already
	has    set   // neighbours that are known to have it
	sent   set   // neighbours that were sent it
}

// store holds what is kept, in the order in which it came.
type store struct {
	queue []*kept // from first on; those before are nil
	first int
	count int
	bytes int
}

// push adds a broadcast.
func (s *store) push(k *kept) {
	if s.first > 64 && s.first > len(s.queue)/2 {
		n := copy(s.queue, s.queue[s.first:])
		clear(s.queue[n:])
		s.queue, s.first = s.queue[:n], 0
	}
	s.queue = append(s.queue, k)
	s.count++
	s.bytes += len(k.msg.Data)
}

// discard stops keeping a broadcast; its place in the queue is freed later.
func (s *store) discard(k *kept) {
	if !k.gone {
		k.gone = true
		s.count--
		s.bytes -= len(k.msg.Data)
	}
}

// all returns the queue; some in it may be gone.
func (s *store) all() []*kept { return s.queue[s.first:] }

// expire drops what is beyond the bounds.
func (m *Machine) expire() {
	s := &m.store
	for s.first < len(s.queue) {
		k := s.queue[s.first]
		if !k.gone {
			if s.count <= m.cfg.KeepMessages && s.bytes <= m.cfg.KeepBytes && m.now-k.at < int64(m.cfg.KeepTime) {
				return
			}
			s.discard(k)
			if l := k.origin.life(k.msg.ID.Incarnation); l != nil && !k.origin.forgot {
				l.remove(k)
			}
		}
		s.queue[s.first] = nil
		s.first++
	}
}
