package relay

import (
	"slices"
	"time"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/transport"
)

// ledger is what a relay has promised to whom, and decides whether it promises more. It does no I/O, is told the time, and is
// guarded by its user.
type ledger struct {
	cfg      Config
	places   map[identity.ID]place
	accounts map[identity.ID]*account
	circuits int
	swept    time.Time

	reserved, connected uint64
	refusals            [reasons]uint64
}

// place is a reservation.
type place struct {
	link  transport.Conn // over which it was made, and with which it ends
	until time.Time
	early bool // calls may bring their first packets along
}

// account is what is kept of a peer that is, or was a moment ago, an end of circuits.
type account struct {
	circuits int
	sent     *bucket // bytes
	calls    *bucket // attempts at circuits
}

const (
	callRate   = 10 // attempts at circuits that a peer may make a second
	callBurst  = 50 * time.Second / callRate
	sweepEvery = time.Minute
)

func newLedger(cfg Config) *ledger {
	cfg.Allow = slices.Clone(cfg.Allow)
	return &ledger{cfg: cfg, places: make(map[identity.ID]place), accounts: make(map[identity.ID]*account)}
}

// refuse counts a refusal.
func (l *ledger) refuse(r Reason) Reason {
	if r < reasons {
		l.refusals[r]++
	}
	return r
}

// reserve makes or renews a peer's reservation. It returns 0, or why not.
func (l *ledger) reserve(peer identity.ID, link transport.Conn, early bool, now time.Time) Reason {
	if l.cfg.Allow != nil && !slices.Contains(l.cfg.Allow, peer) {
		return l.refuse(NotAllowed)
	}
	_, has := l.places[peer]
	if !has && len(l.places) >= l.cfg.maxReservations() {
		l.sweep(now)
		if len(l.places) >= l.cfg.maxReservations() {
			return l.refuse(Full)
		}
	}
	if !has {
		l.reserved++
	}
	l.places[peer] = place{link, now.Add(l.cfg.lifetime()), early}
	return 0
}

// ended notes the end of a link.
func (l *ledger) ended(peer identity.ID, link transport.Conn) {
	if l.places[peer].link == link {
		delete(l.places, peer)
	}
}

// connect admits a circuit, which the user must give back by disconnect. It returns 0, or why not.
func (l *ledger) connect(caller, target identity.ID, now time.Time) Reason {
	if now.Sub(l.swept) >= sweepEvery {
		l.sweep(now)
	}
	from := l.account(caller)
	p, ok := l.places[target]
	switch {
	case !from.calls.try(1, now):
		return l.refuse(Full)
	case !ok || now.After(p.until):
		delete(l.places, target)
		return l.refuse(NoReservation)
	case caller == target:
		return l.refuse(Malformed)
	}
	to := l.account(target)
	if most := l.cfg.maxCircuitsPerPeer(); l.circuits >= l.cfg.maxCircuits() || from.circuits >= most || to.circuits >= most {
		return l.refuse(Full)
	}
	l.circuits++
	from.circuits++
	to.circuits++
	l.connected++
	return 0
}

// disconnect ends a circuit.
func (l *ledger) disconnect(caller, target identity.ID) {
	l.circuits--
	l.account(caller).circuits--
	l.account(target).circuits--
}

// account returns the account of a peer, made if need be.
func (l *ledger) account(peer identity.ID) *account {
	a := l.accounts[peer]
	if a == nil {
		a = &account{sent: newBucket(l.cfg.peerRate()), calls: &bucket{rate: callRate, depth: callBurst}}
		l.accounts[peer] = a
	}
	return a
}

// sweep forgets what is over.
func (l *ledger) sweep(now time.Time) {
	l.swept = now
	for peer, p := range l.places {
		if now.After(p.until) {
			delete(l.places, peer)
		}
	}
	for peer, a := range l.accounts {
		if a.circuits == 0 && a.sent.full(now) && a.calls.full(now) {
			delete(l.accounts, peer)
		}
	}
}
