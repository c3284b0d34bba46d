package pheromones

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/nat/relay"
	"github.com/Blockchain-CN/pheromones/protocol/greeting"
	"github.com/Blockchain-CN/pheromones/router"
	"github.com/Blockchain-CN/pheromones/transport"
)

const (
	// wantedPlaces is at how many relays a node makes reservations, if it has the choice: when one dies, peers that know it take the other.
	wantedPlaces = 2
	// reserveTimeout bounds asking for one.
	reserveTimeout = 5 * time.Second
	joinFirst      = 500 * time.Millisecond // how soon a node that was not reached is tried again; it doubles
	joinMax        = 30 * time.Second
)

// joining is what a node has of the nodes of Config.Join: goroutines that reach each of them for the first time, after which the
// router keeps the links, and one that makes reservations.
type joining struct {
	n     *Node
	nodes []*joinedNode // does not change
	kick  chan struct{} // capacity 1: look after the reservations

	mu      sync.Mutex
	begun   bool
	places  map[identity.ID]relay.Reservation
	refused map[identity.ID]time.Time // until when a peer is not asked again
	settled chan struct{}             // closed when the reservations were looked after for the first time since a node was reached
}

// joinedNode is one of them.
type joinedNode struct {
	addr    transport.Addr
	reached chan struct{} // closed when id is known and there was a link
	id      identity.ID
	err     error // why not, the last time; guarded by joining.mu
}

func newJoining(n *Node) *joining {
	j := &joining{
		n: n, kick: make(chan struct{}, 1), settled: make(chan struct{}),
		places: make(map[identity.ID]relay.Reservation), refused: make(map[identity.ID]time.Time),
	}
	for _, a := range n.cfg.Join {
		j.nodes = append(j.nodes, &joinedNode{addr: a, reached: make(chan struct{})})
	}
	return j
}

// begin starts what was not started, with Node.mu held.
func (j *joining) begin() {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.nodes) == 0 || j.n.closing {
		return
	}
	listens := len(j.n.bound) > 0
	if !j.begun {
		j.begun = true
		j.introduce()
		for _, node := range j.nodes {
			j.n.running.Add(1)
			go j.reach(node)
		}
		j.n.running.Add(1)
		go j.reserve()
	}
	if listens {
		j.wake()
	}
}

// introduce makes several addresses of one node known before any of them is dialled: they are raced, the preferred first, rather
// than one link each made of which the last wins.
func (j *joining) introduce() {
	for _, node := range j.nodes {
		if id := node.addr.Peer; !id.IsZero() && slices.ContainsFunc(j.nodes, func(other *joinedNode) bool { return other != node && other.addr.Peer == id }) {
			j.n.router.Introduce(node.addr) // what is wrong with it, reach finds out, too
		}
	}
}

func (j *joining) wake() {
	select {
	case j.kick <- struct{}{}:
	default:
	}
}

// joined reports whether a peer is one of the nodes that were joined.
func (j *joining) joined(id identity.ID) bool {
	return slices.ContainsFunc(j.nodes, func(node *joinedNode) bool {
		if node.addr.Peer == id {
			return true
		}
		select {
		case <-node.reached:
			return node.id == id
		default:
			return false
		}
	})
}

// reach is the goroutine that reaches one node.
func (j *joining) reach(node *joinedNode) {
	n := j.n
	defer n.running.Done()
	for pause := joinFirst; ; pause = min(2*pause, joinMax) {
		id, err := n.router.Reach(n.ctx, node.addr)
		if err == nil {
			_, err = n.router.Connect(n.ctx, id)
		}
		if err == nil {
			node.id = id
			close(node.reached)
			j.wake()
			if len(n.Addrs()) > 0 {
				n.greetJoined(id)
			}
			return
		}
		j.mu.Lock()
		node.err = err
		j.mu.Unlock()
		n.log.Debug("pheromones: a node that is to be joined was not reached", "addr", node.addr, "err", err)
		select {
		case <-time.After(pause):
		case <-n.ctx.Done():
			return
		}
	}
}

// greetJoined greets a node that was joined.
func (n *Node) greetJoined(id identity.ID) {
	ctx, cancel := context.WithTimeout(n.ctx, headerTimeout)
	defer cancel()
	first, err := greeting.ConnectMessage(n.router.Self())
	if err == nil {
		err = n.router.Converse(ctx, id, first, n.handler)
	}
	if err != nil {
		n.log.Debug("pheromones: a node that was joined was not greeted", "peer", id, "err", err)
	}
}

// addrs returns the addresses through relays.
func (j *joining) addrs() []transport.Addr {
	j.mu.Lock()
	defer j.mu.Unlock()
	var addrs []transport.Addr
	for id, r := range j.places {
		if r.Link.Context().Err() == nil {
			addrs = append(addrs, relay.Addr(id, j.n.ID()))
		}
	}
	slices.SortFunc(addrs, func(a, b transport.Addr) int { return j.order(a) - j.order(b) })
	return addrs
}

// order returns the place of a relay's address among the nodes that were joined.
func (j *joining) order(a transport.Addr) int {
	return slices.IndexFunc(j.nodes, func(node *joinedNode) bool {
		select {
		case <-node.reached:
			return relay.Addr(node.id, a.Peer) == a
		default:
			return false
		}
	})
}

// reserve is the goroutine that makes reservations, renews them, and replaces those whose relay has gone.
func (j *joining) reserve() {
	n := j.n
	defer n.running.Done()
	if n.cfg.NoReserve || n.cfg.Relay != nil || n.cfg.Path == PathDirectOnly {
		close(j.settled)
		return
	}
	events := n.router.Watch()
	defer events.Close()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-j.kick:
		case e := <-events.C():
			if e.Kind != router.LinkUp && e.Kind != router.LinkDown {
				continue
			}
		case <-n.ctx.Done():
			return
		}
		timer.Reset(j.look())
	}
}

// look does what is due, and returns when to look again.
func (j *joining) look() time.Duration {
	n := j.n
	if len(n.listening()) == 0 {
		return time.Hour
	}
	now := time.Now()
	j.mu.Lock()
	changed := false
	held, reached := 0, 0
	var due []identity.ID
	for id, r := range j.places {
		switch {
		case r.Link.Context().Err() != nil || now.After(r.Until):
			delete(j.places, id)
			changed = true
		case r.Until.Sub(now) < j.renewal(r):
			due = append(due, id)
			held++
		default:
			held++
		}
	}
	candidates := func(id identity.ID) {
		_, has := j.places[id]
		if !has && held < wantedPlaces && now.After(j.refused[id]) && !slices.Contains(due, id) {
			due = append(due, id)
			held++
		}
	}
	for _, node := range j.nodes {
		select {
		case <-node.reached:
			reached++
			if n.router.Direct(node.id) {
				candidates(node.id)
			}
		default:
		}
	}
	j.mu.Unlock()
	if reached > 0 && held < wantedPlaces {
		for _, id := range n.router.Linked() {
			j.mu.Lock()
			candidates(id)
			j.mu.Unlock()
		}
	}
	var asking sync.WaitGroup
	var mu sync.Mutex
	for _, id := range due {
		asking.Go(func() {
			if j.ask(id) {
				mu.Lock()
				changed = true
				mu.Unlock()
			}
		})
	}
	asking.Wait()
	if changed {
		n.networkChanged()
	}
	if reached > 0 {
		select {
		case <-j.settled:
		default:
			close(j.settled)
		}
	}
	return j.again()
}

// renewal returns how long before its end a reservation is renewed.
func (j *joining) renewal(r relay.Reservation) time.Duration {
	return min(r.Lifetime()/2, 5*time.Minute)
}

// again returns when something is due.
func (j *joining) again() time.Duration {
	j.mu.Lock()
	defer j.mu.Unlock()
	now := time.Now()
	wait := time.Minute
	for _, r := range j.places {
		wait = min(wait, r.Until.Sub(now)-j.renewal(r))
	}
	for id, t := range j.refused {
		if now.After(t) {
			delete(j.refused, id)
			continue
		}
		if len(j.places) < wantedPlaces {
			wait = min(wait, t.Sub(now))
		}
	}
	return max(wait, 100*time.Millisecond)
}

// ask asks a peer for a reservation, and reports whether it is a new one.
func (j *joining) ask(id identity.ID) bool {
	ctx, cancel := context.WithTimeout(j.n.ctx, reserveTimeout)
	defer cancel()
	r, err := j.n.relay.Reserve(ctx, id)
	j.mu.Lock()
	defer j.mu.Unlock()
	if err != nil {
		pause := 5 * time.Second
		if errors.Is(err, relay.NotRelaying) || errors.Is(err, relay.NotAllowed) || errors.Is(err, transport.CodeUnknownService) {
			pause = 10 * time.Minute
		}
		j.refused[id] = time.Now().Add(pause)
		j.n.log.Debug("pheromones: no reservation", "relay", id, "err", err)
		return false
	}
	_, had := j.places[id]
	j.places[id] = r
	context.AfterFunc(r.Link.Context(), j.wake)
	return !had
}

// listening returns where the node listens itself.
func (n *Node) listening() []transport.Listener {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.bound)
}

// Joined returns when one of the nodes of Config.Join was reached and the reservations with those that were are made, or refused;
// the node's addresses through relays are then in Addrs. It fails if ctx ends before that, with the reasons why the nodes were not
// reached, and with [ErrClosed]. Without Config.Join it returns at once.
func (n *Node) Joined(ctx context.Context) error {
	if len(n.cfg.Join) == 0 {
		return nil
	}
	n.mu.Lock()
	n.joining.begin()
	listens := len(n.bound) > 0
	n.mu.Unlock()
	if _, err := n.anyJoined(ctx); err != nil || !listens {
		return err
	}
	select {
	case <-n.joining.settled:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("pheromones: join: no answer about a reservation: %w", ctx.Err())
	case <-n.closed:
		return ErrClosed
	}
}

// anyJoined returns the ID of the first node that is reached.
func (n *Node) anyJoined(ctx context.Context) (identity.ID, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	first := make(chan identity.ID, len(n.joining.nodes))
	var waiting sync.WaitGroup
	defer waiting.Wait()
	defer cancel()
	for _, node := range n.joining.nodes {
		waiting.Go(func() {
			select {
			case <-node.reached:
				first <- node.id
			case <-ctx.Done():
			}
		})
	}
	select {
	case id := <-first:
		return id, nil
	case <-ctx.Done():
		return identity.ID{}, n.joining.failure(ctx.Err())
	case <-n.closed:
		return identity.ID{}, ErrClosed
	}
}

// failure says why no node was reached.
func (j *joining) failure(err error) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	errs := []error{err}
	for _, node := range j.nodes {
		if node.err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", node.addr, node.err))
		}
	}
	return fmt.Errorf("pheromones: join: no node was reached: %w", errors.Join(errs...))
}

// find makes a peer known of which only the ID is: through each node that was joined it is called, in case that node relays and the
// peer has a reservation there, and if that comes to nothing the node is asked for the peer's addresses. It returns when one of
// them led to the peer, or none did, or ctx ends.
func (n *Node) find(ctx context.Context, id identity.ID) error {
	n.mu.Lock()
	n.joining.begin()
	n.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, n.patience())
	defer cancel()
	found := make(chan error, len(n.joining.nodes))
	var searching sync.WaitGroup
	defer searching.Wait()
	defer cancel()
	for _, node := range n.joining.nodes {
		searching.Go(func() { found <- n.findThrough(ctx, node, id) })
	}
	var errs []error
	for range n.joining.nodes {
		err := <-found
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return fmt.Errorf("%w: %s: %w", router.ErrUnknownPeer, id, errors.Join(errs...))
}

// patience bounds the search for a peer.
func (n *Node) patience() time.Duration {
	if n.cfg.DialTimeout > 0 {
		return n.cfg.DialTimeout
	}
	return 10 * time.Second
}

func (n *Node) findThrough(ctx context.Context, node *joinedNode, id identity.ID) error {
	select {
	case <-node.reached:
	case <-ctx.Done():
		return n.joining.failure(ctx.Err())
	case <-n.closed:
		return ErrClosed
	}
	if node.id == id {
		return nil
	}
	var err error
	if n.cfg.Path != PathDirectOnly {
		if _, err = n.router.Reach(ctx, relay.Addr(node.id, id)); err == nil {
			return nil
		}
	}
	if n.askOne(ctx, node.id, id, "") && n.router.Knows(id) {
		return nil
	}
	return errors.Join(err, fmt.Errorf("%s knows no way to it", node.addr))
}

// ask asks the nodes that were joined and reached for the peer of an ID or a name, and reports whether one knows it.
func (n *Node) ask(ctx context.Context, id identity.ID, name string) bool {
	ctx, cancel := context.WithTimeout(ctx, n.patience())
	defer cancel()
	n.mu.Lock()
	n.joining.begin()
	n.mu.Unlock()
	if _, err := n.anyJoined(ctx); err != nil {
		return false
	}
	known := false
	for _, node := range n.joining.nodes {
		select {
		case <-node.reached:
			known = n.askOne(ctx, node.id, id, name) || known
		default:
		}
	}
	return known
}

func (n *Node) askOne(ctx context.Context, whom, id identity.ID, name string) bool {
	m, err := greeting.GetMessage(id, name)
	if err != nil {
		return false
	}
	reply, err := n.router.Dispatch(ctx, whom, m)
	if err != nil {
		return false
	}
	peers, err := greeting.ParsePeers(reply)
	if err != nil {
		return false
	}
	for _, p := range peers {
		n.router.Learn(whom, greeting.Notice{Change: greeting.Arrived, Peer: p})
	}
	return len(peers) > 0
}
