// Package gossip brings every broadcast once to every node, whatever the graph, without a storm. It is two state machines in
// one: an overlay that keeps a few neighbours (HyParView: Leitão, Pereira, Rodrigues, DSN 2007), and trees upon it along which
// broadcasts travel (Plumtree: "Epidemic Broadcast Trees", by the same, SRDS 2007). Neither does any I/O: no goroutines, no
// locks, no clock, and no randomness but what it is given.
//
// # Usage
//
// The driver of a [Machine] holds one lock around its methods and runs one timer. Every input (a batch that came, a link that
// broke, the timer, a broadcast of its own) is a call with the time at which it happened, and returns an [Output] that says
// what to do:
//
//   - Send each frame to its peer. What goes to one peer keeps its order, may be gathered in one batch ([AppendBatch]), and is
//     one message of the operation [Operation], answered with none. A neighbour should have a bounded queue and a goroutine of
//     its own. If the queue overflows, or a message fails, the driver calls [Machine.Down]. Sending to a peer that is no
//     neighbour is tried once; addresses of the contact are hints for the router.
//   - Keep links with the peers in Up until they are in Gone.
//   - Deliver the messages to the handler, in this order, outside the lock.
//   - Call [Machine.Tick] at Wake, unless another call moved it.
//   - If Isolated, call [Machine.Join] with contacts, such as a sample of the routing table.
//
// The sender of a batch is the peer that the link proved. A batch that [ParseBatch] refuses is told by [Machine.Misbehaved].
//
// # What is promised
//
// A broadcast reaches every node that stays connected with its origin, though messages between nodes are lost, as long as the
// nodes in between keep it ([Config.KeepTime] and its neighbours). A node gets no broadcast twice in one life, and none that is
// older than [Config.MaxAge], so that after a restart it may get again what is younger than that. Nobody can broadcast
// in another's name. This rests on clocks that agree within MaxAge: a node whose clock is further off is not heard, and does not hear.
//
// # Limitations
//
// Overload costs broadcasts, which are then counted in [Figures]: beyond the rates, and when more origins than MaxOrigins speak
// within MaxAge. A neighbour can withhold what it should pass on, which costs time (others tell of it) but no broadcast as long as
// one honest path is there; it can tell of peers that do not exist. Two halves of a network that were parted, and are each
// whole again, do not find each other unless somebody in one joins somebody in the other.
package gossip

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
	"unicode/utf8"

	"github.com/Blockchain-CN/pheromones/identity"
)

// Config says who a [Machine] is and how it behaves. Self, Sign and Random are required; zero (for numbers and times: or less)
// stands for the default of everything else.
type Config struct {
	// Self is this node, with the addresses that others should try.
	Self Contact
	// Sign signs bytes with the node's key: [identity.Key.Sign].
	Sign func([]byte) []byte
	// Verify reports whether a message is of its origin. It is called once for every new message. Nil is [Message.Verify]; a
	// simulation may have a cheaper one.
	Verify func(*Message) bool
	// Random is where the machine's choices come from. It must not be used by others.
	Random *rand.Rand
	// Incarnation is which life of this node this is. It must be larger than that of the life before. Zero is the time of New
	// in microseconds.
	Incarnation uint64

	// Active is how many neighbours are wanted: 6 by default, at most 16.
	Active int
	// Passive is how many other peers are remembered, to replace neighbours by: 30 by default, at most 1024.
	Passive int
	// ShuffleInterval is how often views are mixed and missing neighbours looked for: 10 s by default.
	ShuffleInterval time.Duration

	// LazyDelay is how long announcements are gathered: 100 ms by default.
	LazyDelay time.Duration
	// GraftTimeout is how long an announced message may take to come by the tree: 1 s by default. It should exceed the time that a
	// broadcast takes through the network.
	GraftTimeout time.Duration
	// RetryTimeout is how long a peer that was asked for a message may take before another is asked: 500 ms by default.
	RetryTimeout time.Duration
	// DigestInterval is how often one neighbour, each in turn, is told what it may have missed: 2 s by default.
	DigestInterval time.Duration
	// OptimizeHops is by how many hops another neighbour must be closer to an origin to become the parent in its tree: 2 by default.
	OptimizeHops int

	// MaxData bounds the data of a broadcast: 1 MiB by default, at most 8 MiB.
	MaxData int
	// MaxAge is how old a broadcast may be, and how far ahead of this node's clock it may be born: 10 minutes by default.
	MaxAge time.Duration
	// MaxOrigins bounds the origins that are remembered, and so the trees: 16384 by default.
	MaxOrigins int
	// Window is how far behind an origin's latest broadcast an earlier one may come: 1024 by default, in steps of 64.
	Window int
	// KeepTime, KeepMessages and KeepBytes bound the broadcasts that are kept for those who missed them: 2 minutes, 4096 and
	// 16 MiB by default. The time cannot exceed MaxAge.
	KeepTime     time.Duration
	KeepMessages int
	KeepBytes    int
	// MaxMissing bounds the announced messages that are waited for: 4096 by default, a quarter of them on the word of one neighbour.
	MaxMissing int

	// OriginRate bounds the broadcasts of one origin: 100 a second by default, 500 at once.
	OriginRate Rate
	// NewOriginRate bounds the origins, unknown before, that one neighbour may bring: 50 a second by default, 1000 at once.
	NewOriginRate Rate
	// PayloadRate bounds the payloads that one neighbour may send: 2000 a second by default, 8000 at once.
	PayloadRate Rate
	// ControlRate bounds the other frames that one neighbour may send, and all strangers together: 1000 a second by default, 4000 at once.
	ControlRate Rate
	// ServeRate bounds the bytes sent to one neighbour because it asked: 1 MiB a second by default, KeepBytes at once.
	ServeRate Rate
	// DisplaceRate bounds how often peers that join may cost this node a neighbour: 2 a second by default, 20 at once.
	DisplaceRate Rate
}

func orInt(v, def, most int) int {
	if v <= 0 {
		v = def
	}
	return min(v, most)
}

func orTime(v, def time.Duration) time.Duration {
	if v <= 0 {
		return def
	}
	return v
}

// filled returns the configuration with its defaults in place.
func (c Config) filled() Config {
	const many = 1 << 30
	c.Active, c.Passive = orInt(c.Active, 6, maxSlots), orInt(c.Passive, 30, 1024)
	c.ShuffleInterval = orTime(c.ShuffleInterval, 10*time.Second)
	c.LazyDelay, c.GraftTimeout = orTime(c.LazyDelay, 100*time.Millisecond), orTime(c.GraftTimeout, time.Second)
	c.RetryTimeout, c.DigestInterval = orTime(c.RetryTimeout, 500*time.Millisecond), orTime(c.DigestInterval, 2*time.Second)
	c.OptimizeHops = orInt(c.OptimizeHops, 2, 255)
	c.MaxData, c.MaxAge = orInt(c.MaxData, 1<<20, 8<<20), orTime(c.MaxAge, 10*time.Minute)
	c.MaxOrigins, c.Window = orInt(c.MaxOrigins, 16384, many), (orInt(c.Window, 1024, 1<<20)+63)/64*64
	c.KeepTime = min(orTime(c.KeepTime, 2*time.Minute), c.MaxAge)
	c.KeepMessages, c.KeepBytes = orInt(c.KeepMessages, 4096, many), orInt(c.KeepBytes, 16<<20, many)
	c.MaxMissing = orInt(c.MaxMissing, 4096, many)
	c.OriginRate, c.NewOriginRate = c.OriginRate.or(100, 500), c.NewOriginRate.or(50, 1000)
	c.PayloadRate, c.ControlRate = c.PayloadRate.or(2000, 8000), c.ControlRate.or(1000, 4000)
	c.ServeRate, c.DisplaceRate = c.ServeRate.or(1<<20, float64(c.KeepBytes)), c.DisplaceRate.or(2, 20)
	if c.Verify == nil {
		c.Verify = (*Message).Verify
	}
	return c
}

// Errors of New and Broadcast.
var (
	ErrConfig    = errors.New("gossip: bad configuration")
	ErrOperation = errors.New("gossip: the operation of a broadcast must be 1 to 255 bytes of UTF-8")
	ErrTooLarge  = errors.New("gossip: the data of a broadcast is too large")
	ErrRate      = errors.New("gossip: too many broadcasts in a short time")
)

// Send is a frame for a peer, who need not be a neighbour: To.Addrs, if any, say where it may be reached.
type Send struct {
	To    Contact
	Frame Frame
}

// Output is what the driver is to do after a call. Its slices belong to the machine and are valid until the next call; what
// they hold may be kept.
type Output struct {
	Sends    []Send
	Deliver  []*Message    // new broadcasts of others
	Up       []Contact     // new neighbours
	Gone     []identity.ID // neighbours no more; sends to them in the same Output are a farewell and come first
	Isolated bool          // there is no neighbour and nobody is being asked: contacts are wanted
	Wake     time.Time     // when to call Tick
}

// Machine is the state of one node. It is not safe for concurrent use: the driver's lock holds it together.
type Machine struct {
	cfg   Config
	self  identity.ID
	start time.Time
	now   int64 // when the call under way happens, in nanoseconds since start, by the monotonic clock if there is one
	wall  int64 // the same in nanoseconds since 1970, by the clock on the wall
	out   Output
	fig   Figures
	left  bool
	views views
	trees trees
	seen  seen
	store store
}

// New returns the machine of a node that has no neighbours yet: [Machine.Join] makes it look for some. It fails with
// [ErrConfig] if Self, Sign or Random is missing, or Self is beyond the bounds of a [Contact].
func New(cfg Config, now time.Time) (*Machine, error) {
	switch {
	case !cfg.Self.valid():
		return nil, fmt.Errorf("%w: Self needs an ID, and at most %d addresses of at most %d bytes of UTF-8", ErrConfig, MaxAddrs, MaxAddr)
	case cfg.Sign == nil || cfg.Random == nil:
		return nil, fmt.Errorf("%w: Sign and Random are required", ErrConfig)
	}
	m := &Machine{cfg: cfg.filled(), self: cfg.Self.ID, start: now}
	if m.cfg.Incarnation == 0 {
		m.cfg.Incarnation = uint64(now.UnixMicro())
	}
	m.initViews()
	m.initTrees()
	m.seen.origins = make(map[identity.ID]*origin)
	return m, nil
}

// begin starts a call, done ends it.
func (m *Machine) begin(now time.Time) {
	m.now, m.wall = max(m.now, int64(now.Sub(m.start))), now.UnixNano() // timers do not go back
	o := &m.out
	clear(o.Deliver)
	clear(o.Sends)
	*o = Output{Sends: o.Sends[:0], Deliver: o.Deliver[:0], Up: o.Up[:0], Gone: o.Gone[:0]}
}

func (m *Machine) done() Output {
	at := min(m.views.wake(), m.trees.wake())
	if m.left {
		at = never
	}
	m.out.Wake = m.start.Add(time.Duration(at))
	m.out.Isolated = !m.left && m.views.live == 0 && len(m.views.pending) == 0
	return m.out
}

// send puts a frame for a peer into the output and counts it.
func (m *Machine) send(to Contact, f Frame) {
	m.out.Sends = append(m.out.Sends, Send{to, f})
	size := uint64(f.Size())
	if f.kind() == kindPayload {
		m.fig.PayloadSent++
		m.fig.PayloadBytes += size
	} else {
		m.fig.ControlSent++
		m.fig.ControlBytes += size
	}
}

// sendSlot is send to a neighbour.
func (m *Machine) sendSlot(slot int, f Frame) { m.send(Contact{ID: m.views.slots[slot].ID}, f) }

// SetAddrs changes the addresses that others are told of this node from now on; those beyond the bounds of a [Contact] are left out.
func (m *Machine) SetAddrs(addrs []string) {
	var fit []string
	for _, a := range addrs {
		if len(fit) < MaxAddrs && validAddrs([]string{a}) {
			fit = append(fit, a)
		}
	}
	m.cfg.Self.Addrs = fit
}

// Join gives the machine contacts, of which up to 64 are kept; if it has no neighbours it asks one of them for some. The
// driver calls it at the start and whenever an Output says Isolated.
func (m *Machine) Join(now time.Time, contacts ...Contact) Output {
	m.begin(now)
	if !m.left {
		for _, c := range contacts {
			m.addContact(c)
		}
		m.fill()
	}
	return m.done()
}

// Leave takes leave of the neighbours. The machine does nothing from then on.
func (m *Machine) Leave(now time.Time) Output {
	m.begin(now)
	for s := range m.views.live.all() {
		m.sendSlot(s, &Disconnect{Leaving: true})
		m.dropSlot(s)
	}
	m.left = true
	m.views.pending = nil
	return m.done()
}

// Broadcast starts a broadcast to all other nodes, and returns what it is called. It takes m.Data over. It fails, and does nothing, with
// [ErrOperation], [ErrTooLarge], or, beyond [Config.OriginRate], [ErrRate].
func (m *Machine) Broadcast(now time.Time, operation string, data []byte) (MessageID, Output, error) {
	m.begin(now)
	switch {
	case operation == "" || len(operation) > MaxOperation || !utf8.ValidString(operation):
		return MessageID{}, m.done(), fmt.Errorf("%w: %.40q is %d bytes", ErrOperation, operation, len(operation))
	case len(data) > m.cfg.MaxData:
		return MessageID{}, m.done(), fmt.Errorf("%w: %d bytes, at most %d are allowed", ErrTooLarge, len(data), m.cfg.MaxData)
	case !m.seen.own.take(m.now, m.cfg.OriginRate, 1):
		return MessageID{}, m.done(), fmt.Errorf("%w: neighbours drop more than %g a second, or %g at once", ErrRate,
			m.cfg.OriginRate.PerSecond, m.cfg.OriginRate.Burst)
	}
	m.seen.seq++
	msg := &Message{
		ID: MessageID{m.self, m.cfg.Incarnation, m.seen.seq}, Born: time.UnixMicro(m.wall / 1000), Operation: operation, Data: data,
	}
	copy(msg.Signature[:], m.cfg.Sign(msg.AppendSigned(nil)))
	m.accept(msg, m.origin(m.self), -1, 0)
	return msg.ID, m.done(), nil
}

// Receive handles the frames of one batch of a peer, in their order.
func (m *Machine) Receive(now time.Time, from identity.ID, frames ...Frame) Output {
	m.begin(now)
	if from == m.self || from.IsZero() || m.left {
		return m.done()
	}
	for _, f := range frames {
		// A frame may end being neighbours.
		slot := m.views.slot(from)
		if slot >= 0 {
			m.fromNeighbour(slot, f)
		} else {
			m.fromStranger(from, f)
		}
	}
	return m.done()
}

// fromNeighbour handles a frame of a neighbour, within its rate.
func (m *Machine) fromNeighbour(slot int, f Frame) {
	n := &m.views.slots[slot]
	if p, ok := f.(*Payload); ok {
		if !n.payloads.take(m.now, m.cfg.PayloadRate, 1) {
			m.fig.Dropped.NeighbourRate++
			return
		}
		m.payload(slot, p)
		return
	}
	if !n.control.take(m.now, m.cfg.ControlRate, 1) {
		m.fig.Dropped.NeighbourRate++
		return
	}
	switch f := f.(type) {
	case *Have:
		m.have(slot, f)
	case *Graft:
		m.graft(slot, f)
	case *Prune:
		m.prune(slot, f)
	default:
		m.membership(n.ID, f)
	}
}

// fromStranger handles a frame of a peer that is no neighbour, or not in this node's eyes: then it must be told.
func (m *Machine) fromStranger(from identity.ID, f Frame) {
	if !m.views.strangers.take(m.now, m.cfg.ControlRate, 1) {
		m.fig.Dropped.StrangerRate++
		return
	}
	switch f.(type) {
	case *Payload, *Have, *Graft, *Prune:
		m.fig.Dropped.Stranger++
		if !m.views.isAsked(from) { // else its answer is on the way
			m.send(Contact{ID: from}, &Disconnect{})
		}
	default:
		m.membership(from, f)
	}
}

// Neighbours returns who the neighbours are. The result is the caller's.
func (m *Machine) Neighbours() []identity.ID {
	var ids []identity.ID
	for s := range m.views.live.all() {
		ids = append(ids, m.views.slots[s].ID)
	}
	return ids
}

// Down tells that a peer cannot be reached: a send failed, or its link broke. It is replaced, if it was a neighbour.
func (m *Machine) Down(now time.Time, peer identity.ID) Output {
	m.begin(now)
	m.lost(peer)
	return m.done()
}

// Misbehaved tells that a peer sent what no honest one sends, such as a malformed batch. It is dropped as a neighbour.
func (m *Machine) Misbehaved(now time.Time, peer identity.ID) Output {
	m.begin(now)
	m.fig.Dropped.Malformed++
	m.expel(peer)
	return m.done()
}

// Tick does what is due at the time now. It may be called at any time.
func (m *Machine) Tick(now time.Time) Output {
	m.begin(now)
	if !m.left {
		m.tickTrees()
		m.tickViews()
	}
	return m.done()
}
