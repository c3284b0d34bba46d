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

// ask asks servers how they see the port, those given and the last ones that were, and returns when they have answered or not.
func (o *outside) ask(ctx context.Context, servers ...netip.AddrPort) {
	o.mu.Lock()
	for _, s := range servers {
		o.servers = remember(o.servers, s)
	}
	servers = slices.Clone(o.servers)
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
					o.mu.Lock()
					o.seen = remember(o.seen, r.Mapped)
					o.mu.Unlock()
				}
			}
		})
	}
	asked.Wait()
}

// remember puts a in front of a list, which is kept short.
func remember(list []netip.AddrPort, a netip.AddrPort) []netip.AddrPort {
	list = slices.DeleteFunc(slices.Clone(list), func(b netip.AddrPort) bool { return a == b })
	list = slices.Insert(list, 0, a)
	return list[:min(len(list), maxSeen)]
}

// candidates returns the addresses at which a peer may reach the port: as others see it, and those of the interfaces.
func (o *outside) candidates() []netip.AddrPort {
	o.mu.Lock()
	list := slices.Clone(o.seen)
	o.mu.Unlock()
	for _, a := range advertised([]transport.Listener{o.listener}) {
		if at, err := netip.ParseAddrPort(a.HostPort); err == nil && !slices.Contains(list, at) {
			list = append(list, at)
		}
	}
	return list[:min(len(list), punch.MaxAddrs)]
}

// punching is an attempt to open a direct path from a port.
type punching struct {
	o       *outside
	session punch.Session
	works   chan netip.AddrPort // gets the address that works, once; never closed
	wake    chan struct{}
	ended   context.CancelFunc
	done    chan struct{} // closed when run has returned

	mu      sync.Mutex
	machine *punch.Machine
}

// punch begins an attempt, which runs until it is over, ctx ends or end is called. It returns nil if too many are under way.
func (o *outside) punch(ctx context.Context, cfg punch.Config) *punching {
	p := &punching{
		o: o, session: cfg.Session, machine: punch.New(time.Now(), cfg),
		works: make(chan netip.AddrPort, 1), wake: make(chan struct{}, 1), done: make(chan struct{}),
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

// end ends the attempt and waits for that.
func (p *punching) end() {
	p.ended()
	<-p.done
}

// add gives the attempt addresses that the peer has told.
func (p *punching) add(addrs []netip.AddrPort) {
	p.mu.Lock()
	p.machine.Add(time.Now(), punch.Usable(addrs, p.o.local.Addr())...)
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
		defer p.o.mu.Unlock()
		delete(p.o.punches, p.session)
	}()
	told := false
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		p.mu.Lock()
		packets, next := p.machine.Poll(time.Now())
		works, ok := p.machine.Works()
		p.mu.Unlock()
		for _, q := range packets {
			p.o.listener.WritePacket(q.Data, q.Remote) // what fails is a lost packet
		}
		if ok && !told {
			told = true
			p.works <- works.Remote
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
	p.mu.Lock()
	ours := p.machine.Receive(time.Now(), punch.Path{Remote: from}, b)
	p.mu.Unlock()
	if ours {
		p.poke()
	}
}
