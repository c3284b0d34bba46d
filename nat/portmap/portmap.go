package portmap

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"time"
)

// Config says how a [Mapper] works. The zero value works. It is copied.
type Config struct {
	// Lifetime is for how long the router is asked to forward a port, again and again; it is how long a mapping stays behind if the
	// program is killed. Zero or less means 1 h.
	Lifetime time.Duration
	// Check is how often the router is asked whether it still has a mapping. Zero or less means 1 min.
	Check time.Duration
	// Logger gets what is mapped and why something is not. Nil is silent.
	Logger *slog.Logger
}

func (c *Config) withDefaults() Config {
	var d Config
	if c != nil {
		d = *c
	}
	if d.Lifetime <= 0 {
		d.Lifetime = time.Hour
	}
	if d.Check <= 0 {
		d.Check = time.Minute
	}
	if d.Logger == nil {
		d.Logger = slog.New(slog.DiscardHandler)
	}
	return d
}

const (
	placeCheck = 10 * time.Second // how often the default gateway is looked up
	askTimeout = 5 * time.Second  // for one request, with its repetitions
)

// Mapper keeps ports mapped. It is safe for concurrent use. While something is mapped it has a goroutine, and one for each request
// to the router that is under way.
type Mapper struct {
	cfg     Config
	clients [protocols]client
	here    func() (place, error)

	mu      sync.Mutex
	running bool
	orders  []func(*keeper) // for the goroutine, in their order
	wake    chan struct{}   // 1 if there are orders
}

// New returns a Mapper. A nil cfg means the defaults.
func New(cfg *Config) *Mapper {
	return &Mapper{cfg: cfg.withDefaults(), clients: newClients(), here: here, wake: make(chan struct{}, 1)}
}

// Map asks the router to forward a port to a socket of this machine, "udp" or "tcp", bound to local; an unspecified IP means every
// one, and any other but the one that the router sees is in vain. It returns at once, and keeps the mapping from then on. changed
// is called when there is a mapping, when its outside address becomes another, and with the zero AddrPort when there is none any
// more; it is called from one goroutine, must not block, and must not call release.
//
// release removes the mapping. It returns when the router has been told or ctx ends; changed is not called any more then. What was
// not removed ends with its lifetime. It is to be called once.
func (m *Mapper) Map(network string, local netip.AddrPort, changed func(outside netip.AddrPort)) (release func(ctx context.Context)) {
	mp := &mapping{wish: newWish(network, local.Port()), bound: local.Addr().Unmap(), changed: changed, gone: make(chan struct{})}
	m.order(func(k *keeper) { k.add(mp) })
	return func(ctx context.Context) {
		m.order(func(k *keeper) { k.release(mp) })
		select {
		case <-mp.gone:
			return
		case <-ctx.Done():
		}
		m.order(func(k *keeper) { k.drop(mp) })
		<-mp.gone
	}
}

// order has the goroutine do something, and starts it if there is none.
func (m *Mapper) order(f func(*keeper)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.orders = append(m.orders, f)
	if !m.running {
		m.running = true
		go m.run()
		return
	}
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// outcome is what became of a task.
type outcome struct {
	task  task
	grant grant
	err   error
}

// run drives a keeper as long as it has mappings. Releases wait for it.
func (m *Mapper) run() {
	k := &keeper{lifetime: m.cfg.Lifetime, check: m.cfg.Check}
	ctx, cancel := context.WithCancel(context.Background())
	outcomes := make(chan outcome)
	underWay := 0
	var looked time.Time
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		m.mu.Lock()
		orders := m.orders
		m.orders = nil
		m.mu.Unlock()
		for _, f := range orders {
			f(k)
		}
		now := time.Now()
		if looked.IsZero() || now.Sub(looked) >= placeCheck {
			looked = now
			at, err := m.here()
			if at != k.at {
				m.cfg.Logger.Info("portmap: the network is another", "gateway", at.gateway, "local", at.local, "err", err)
			}
			k.move(at)
		}
		tasks, next := k.poll(now)
		for _, t := range tasks {
			underWay++
			go func() { outcomes <- m.do(ctx, t) }()
		}
		m.tell(k)
		if len(k.mappings) == 0 {
			cancel()
			for ; underWay > 0; underWay-- {
				<-outcomes
			}
			if m.end(k) {
				return
			}
			ctx, cancel = context.WithCancel(context.Background())
			continue
		}
		if check := looked.Add(placeCheck); next.IsZero() || check.Before(next) {
			next = check
		}
		timer.Reset(time.Until(next))
		select {
		case <-timer.C:
		case <-m.wake:
		case o := <-outcomes:
			underWay--
			k.done(o.task, o.grant, o.err, time.Now())
			m.log(o)
		}
	}
}

// tell makes the calls that the keeper has news for.
func (m *Mapper) tell(k *keeper) {
	for _, c := range k.changes {
		if !c.mapping.released {
			c.mapping.changed(c.outside)
		}
	}
	k.changes = nil
	if len(k.mappings) > 0 {
		closeAll(k)
	}
}

// end reports whether the goroutine may end: there is nothing more to do.
func (m *Mapper) end(k *keeper) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.orders) > 0 {
		return false
	}
	m.running = false
	closeAll(k)
	return true
}

// closeAll lets those go on who wait for the end of their mappings.
func closeAll(k *keeper) {
	for _, d := range k.dropped {
		close(d.gone)
	}
	k.dropped = nil
}

// do makes one request.
func (m *Mapper) do(ctx context.Context, t task) outcome {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	c := m.clients[t.protocol]
	o := outcome{task: t}
	switch t.op {
	case opProbe:
		o.grant, o.err = c.probe(ctx, t.at)
	case opAdd:
		o.grant, o.err = c.add(ctx, t.at, t.wish)
	case opLook:
		o.grant, o.err = c.look(ctx, t.at, t.wish)
	case opRemove:
		o.err = c.remove(ctx, t.at, t.wish)
	}
	if o.err != nil {
		o.err = &Error{t.protocol, t.at.gateway, o.err}
	}
	return o
}

func (m *Mapper) log(o outcome) {
	t := o.task
	switch {
	case o.err != nil && t.mapping == nil:
		m.cfg.Logger.Debug("portmap: not spoken here", "err", o.err)
	case o.err != nil:
		m.cfg.Logger.Info("portmap: a request failed", "network", t.wish.network, "port", t.wish.inside, "err", o.err)
	case t.op == opAdd:
		m.cfg.Logger.Debug("portmap: mapped", "protocol", t.protocol, "network", t.wish.network, "port", t.wish.inside,
			"outside", o.grant.outside, "lifetime", o.grant.lifetime, "public", Public(o.grant.outside.Addr()))
	}
}
