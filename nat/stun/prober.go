package stun

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"
)

// Socket sends packets from the port of interest. A *quic.Listener is one. WritePacket is called from the goroutines that ask, at
// once; it must not keep b. An error counts as a lost packet.
type Socket interface {
	WritePacket(b []byte, to netip.AddrPort) error
}

// Prober asks servers over a socket that others use, too. Whoever reads the socket hands packets to Receive. It is safe for
// concurrent use, starts no goroutine, and needs no closing.
type Prober struct {
	socket Socket
	conf   *Config

	mu    sync.Mutex // guards what follows, and the machines
	calls map[*call]struct{}
}

// call is one caller that waits.
type call struct {
	machine machine
	wake    chan struct{} // 1 if the machine has been given something
}

// machine is a Client or a Discovery.
type machine interface {
	Receive(packet []byte, from netip.AddrPort) bool
}

// NewProber returns a Prober that sends by a socket. A nil cfg means the defaults.
func NewProber(s Socket, cfg *Config) *Prober {
	c := cfg.withDefaults()
	return &Prober{socket: s, conf: &c, calls: make(map[*call]struct{})}
}

// Receive takes a packet that came from an address, and reports whether it is a STUN response, which is for nobody else. While
// nobody asks it looks at nothing and returns false. It never blocks on the network. packet stays the caller's.
func (p *Prober) Receive(packet []byte, from netip.AddrPort) (taken bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.calls {
		if c.machine.Receive(packet, from) {
			taken = true
			select {
			case c.wake <- struct{}{}:
			default:
			}
		}
	}
	return taken
}

// Ask asks servers, up to 256 at once, how they see the socket. It returns when each has answered or failed, in the order in which
// they did, or with ctx's error and the results so far when ctx ends; a server that nobody can be is [ErrBadServer], and then none
// is asked.
func (p *Prober) Ask(ctx context.Context, servers ...netip.AddrPort) ([]Result, error) {
	c := NewClient(p.conf)
	for _, s := range servers {
		if err := c.Start(Request{Server: s}, time.Now()); err != nil {
			return nil, err
		}
	}
	var results []Result
	err := p.run(ctx, c, func(now time.Time) ([]Packet, time.Time) {
		packets, ended, next := c.Poll(now)
		results = append(results, ended...)
		return packets, next
	})
	return results, err
}

// Discover finds out, as [Discovery] does, how the NAT before the socket maps and filters. It returns when that is done, at the
// latest some 83 s after the call with the defaults, or with ctx's error when ctx ends. If no server has answered, the error wraps
// those of all.
func (p *Prober) Discover(ctx context.Context, servers ...netip.AddrPort) (Report, error) {
	d, err := NewDiscovery(p.conf, time.Now(), servers...)
	if err != nil {
		return Report{}, err
	}
	err = p.run(ctx, d, d.Poll)
	r, _ := d.Report()
	if err == nil && len(r.Seen) == 0 {
		err = fmt.Errorf("stun: no server answered: %w", errors.Join(r.Errs...))
	}
	return r, err
}

// run drives a machine until it wants no more. poll is called with mu held.
func (p *Prober) run(ctx context.Context, m machine, poll func(time.Time) ([]Packet, time.Time)) error {
	c := &call{machine: m, wake: make(chan struct{}, 1)}
	p.mu.Lock()
	p.calls[c] = struct{}{}
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.calls, c)
	}()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		p.mu.Lock()
		packets, next := poll(time.Now())
		p.mu.Unlock()
		for _, packet := range packets {
			p.socket.WritePacket(packet.Data, packet.To)
		}
		if next.IsZero() {
			return nil
		}
		timer.Reset(time.Until(next))
		select {
		case <-ctx.Done():
			p.mu.Lock()
			_, next := poll(time.Now()) // an answer that is there beats the end of ctx
			p.mu.Unlock()
			if next.IsZero() {
				return nil
			}
			return fmt.Errorf("stun: asking servers: %w", ctx.Err())
		case <-c.wake:
		case <-timer.C:
		}
	}
}
