package pheromones

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/Blockchain-CN/pheromones/nat/punch"
	"github.com/Blockchain-CN/pheromones/transport"
)

const (
	// maxSeen bounds what is kept of how others see a port, and how many are asked.
	maxSeen = 4
	// maxPunching bounds the attempts under way at a port.
	maxPunching = 256
	// askTimeout bounds asking others how a port looks.
	askTimeout = 5 * time.Second
)

// portOf returns the port of this node that a connection runs over, or nil if its packets cannot be read.
func (n *Node) portOf(local transport.Addr) *outside {
	at, err := netip.ParseAddrPort(local.HostPort)
	if err != nil {
		return nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, o := range n.outside {
		if o.listener.Addr().Scheme == local.Scheme && o.local.Port() == at.Port() && o.local.Addr().Is4() == at.Addr().Unmap().Is4() {
			return o
		}
	}
	return nil
}

// view is how a server sees a port.
type view struct {
	server, mapped netip.AddrPort
	round          int // of asking
}

// ask asks servers how they see the port, those given and the last ones that were, and returns when they have answered or not.
func (o *outside) ask(ctx context.Context, servers ...netip.AddrPort) {
	o.mu.Lock()
	for _, s := range servers {
		o.servers = slices.DeleteFunc(o.servers, func(b netip.AddrPort) bool { return b == s })
		o.servers = slices.Insert(o.servers, 0, s)
		o.servers = o.servers[:min(len(o.servers), maxSeen)]
	}
	servers = slices.Clone(o.servers)
	o.round++
	round := o.round
	o.mu.Unlock()
	if len(servers) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	var asked sync.WaitGroup
	for _, s := range servers {
		asked.Go(func() {
			results, _ := o.prober.Ask(ctx, s)
			for _, r := range results {
				if r.Err == nil && r.Mapped.IsValid() {
					o.see(view{s, r.Mapped, round})
				}
			}
		})
	}
	asked.Wait()
}

// see notes a view, in place of the last one of the same server. The others that saw something else then may still be right.
func (o *outside) see(v view) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.views = slices.DeleteFunc(o.views, func(w view) bool { return w == v || w.server == v.server && w.mapped == v.mapped })
	o.views = slices.Insert(o.views, 0, v)
	o.views = o.views[:min(len(o.views), maxSeen)]
}

// look says at which addresses a peer may reach the port: as others see it, so many, and then from where a router forwards to it, and
// those of the interfaces; and how the NAT before it maps.
func (o *outside) look() (addrs []netip.AddrPort, seen int, mapping punch.Mapping) {
	var own []netip.AddrPort
	for _, a := range advertised([]transport.Listener{o.listener}) {
		if at, err := netip.ParseAddrPort(a.HostPort); err == nil {
			own = append(own, at)
		}
	}
	if mapped := o.mapped(); mapped.IsValid() {
		own = append([]netip.AddrPort{mapped}, own...)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, v := range o.views {
		if !slices.Contains(addrs, v.mapped) {
			addrs = append(addrs, v.mapped)
		}
	}
	mapping = mappingOf(o.views, own)
	seen = len(addrs)
	for _, a := range own {
		if !slices.Contains(addrs, a) {
			addrs = append(addrs, a)
		}
	}
	return addrs[:min(len(addrs), punch.MaxAddrs)], seen, mapping
}

// mappingOf compares what several servers saw when they were last asked.
func mappingOf(views []view, own []netip.AddrPort) punch.Mapping {
	if len(views) == 0 {
		return punch.UnknownMapping
	}
	first, mapping := views[0], punch.UnknownMapping
	if slices.Contains(own, first.mapped) {
		return punch.IndependentMapping // there is no NAT
	}
	for _, v := range views[1:] {
		switch {
		case v.round != first.round:
		case v.mapped != first.mapped && v.server != first.server:
			return punch.DependentMapping
		case v.server.Addr() != first.server.Addr():
			mapping = punch.IndependentMapping
		}
	}
	return mapping
}

// message returns an offer, or the answer to one, of a session.
func (o *outside) message(t punch.Type, session punch.Session, key punch.Key) punch.Message {
	m := punch.Message{Type: t, Session: session, Key: key}
	m.Addrs, m.Outside, m.Mapping = o.look()
	return m
}

// sameNetwork reports whether two messages come from the same place, as far as they tell.
func sameNetwork(a, b punch.Message) bool {
	return len(a.Addrs) > 0 && len(b.Addrs) > 0 && a.Addrs[0].Addr() == b.Addrs[0].Addr()
}

// sameLook reports whether two messages say the same of the port.
func sameLook(a, b punch.Message) bool {
	return slices.Equal(a.Addrs, b.Addrs) && a.Outside == b.Outside && a.Mapping == b.Mapping
}

// punching is an attempt to open a direct path from a port.
type punching struct {
	o       *outside
	session punch.Session
	guess   bool
	works   chan punch.Path // gets the path that works, and a better one, if one is found; never closed
	wake    chan struct{}
	ended   context.CancelFunc
	done    chan struct{} // closed when run has returned

	mu      sync.Mutex
	machine *punch.Machine
	burrows map[int]*burrow // the further sockets, by number
}

// punch begins an attempt of this side, which runs until it is over, ctx ends or end is called. It returns nil if too many are
// under way. guess says that ports may be guessed if need be.
func (o *outside) punch(ctx context.Context, cfg punch.Config, guess bool) *punching {
	_, seen, mapping := o.look()
	cfg.Mapping, guess = mapping, guess && seen > 0
	p := &punching{
		o: o, session: cfg.Session, machine: punch.New(time.Now(), cfg), burrows: make(map[int]*burrow), guess: guess,
		works: make(chan punch.Path, 2), wake: make(chan struct{}, 1), done: make(chan struct{}),
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.punches) >= maxPunching || o.punches[cfg.Session] != nil {
		return nil
	}
	o.punches[cfg.Session] = p
	ctx, p.ended = context.WithCancel(ctx)
	go p.run(ctx)
	return p
}

// end ends the attempt, closes its further sockets that nobody has taken, and waits for that.
func (p *punching) end() {
	p.ended()
	<-p.done
	for _, b := range p.takeBurrows(func(*burrow) bool { return true }) {
		b.close()
	}
}

// learn gives the attempt what the peer's offer or answer says.
func (p *punching) learn(m punch.Message) {
	local := p.o.local.Addr()
	p.mu.Lock()
	p.machine.Add(time.Now(), punch.Usable(m.Addrs, local)...)
	p.machine.Peer(time.Now(), punch.Usable(m.Addrs[:m.Outside], local), m.Mapping)
	p.mu.Unlock()
	p.poke()
}

func (p *punching) poke() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

func (p *punching) run(ctx context.Context) {
	defer close(p.done)
	defer func() {
		p.o.mu.Lock()
		delete(p.o.punches, p.session)
		p.o.mu.Unlock()
		for _, b := range p.takeBurrows(func(b *burrow) bool { return !b.carries() }) {
			b.close()
		}
	}()
	var told punch.Path
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		now := time.Now()
		p.mu.Lock()
		if p.guess && p.machine.Stuck(now) && p.o.mayGuess(now) {
			p.machine.Guess(now, punch.MaxSockets)
		}
		packets, next := p.machine.Poll(now)
		works, ok := p.machine.Works()
		p.mu.Unlock()
		for _, q := range packets {
			p.send(ctx, q)
		}
		if ok && works != told {
			told = works
			select {
			case p.works <- works:
			default: // nobody has asked for the last two
			}
		}
		if next.IsZero() {
			return
		}
		timer.Reset(time.Until(next))
		select {
		case <-timer.C:
		case <-p.wake:
		case <-ctx.Done():
			return
		}
	}
}

// punched takes a packet that looks like one of punching. Those of unknown sessions are dropped.
func (o *outside) punched(session punch.Session, from netip.AddrPort, b []byte) {
	o.mu.Lock()
	p := o.punches[session]
	o.mu.Unlock()
	if p == nil {
		return
	}
	p.receive(punch.Path{Remote: from}, b)
}

func (p *punching) receive(path punch.Path, b []byte) {
	p.mu.Lock()
	ours := p.machine.Receive(time.Now(), path, b)
	p.mu.Unlock()
	if ours {
		p.poke()
	}
}
