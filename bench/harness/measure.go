package harness

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"
)

// Measure is one thing that can be measured, in a process of its own.
type Measure struct {
	Scenario, Peer string
	Unit           string // of Value
	Less           bool   // whether less is better
	Long           bool   // whether it is left out of the short form
	// Run measures for about d and returns the figures. What cannot be measured fails with an error that wraps errors.ErrUnsupported.
	Run func(ctx context.Context, d time.Duration) (Figures, error) `json:"-"`
}

// Key names the measure: "scenario/peer".
func (m Measure) Key() string { return m.Scenario + "/" + m.Peer }

// Figures are what one run of a measure gave.
type Figures struct {
	Value float64            `json:"value"`
	Extra map[string]float64 `json:"extra,omitempty"` // further figures, by name and unit
}

// scenario is one thing that is measured of many peers.
type scenario struct {
	name, unit string
	less       bool
	sessions   Sessions
	calls      bool // whether it needs Call, else streams
	setup      bool // whether it is about Dial
	run        func(ctx context.Context, s *session, d time.Duration) (Figures, error)
}

func scenarios() []scenario {
	return []scenario{
		{name: "bulk-1", unit: "MB/s", run: bulk(1)},
		{name: "bulk-8", unit: "MB/s", run: bulk(8)},
		{name: "exchange", unit: "/s", run: exchange},
		{name: "fresh-64", unit: "/s", run: fresh},
		{name: "call-64", unit: "/s", calls: true, run: call},
		{name: "set-up", unit: "/s", setup: true, sessions: Never, run: setUp},
		{name: "set-up-resumed", unit: "/s", setup: true, sessions: Always, run: setUp},
		{name: "idle", unit: "KiB/pair", less: true, setup: true, run: idle},
		{name: "tail", unit: "µs", less: true, run: tail},
	}
}

// Cross returns the measures of all scenarios for the peers, as far as they apply.
func Cross(peers ...Peer) (list []Measure) {
	for _, s := range scenarios() {
		for _, p := range peers {
			if s.setup && p.DialsOnce || !s.setup && s.calls != p.Calls || s.sessions == Always && !p.Resumes {
				continue
			}
			list = append(list, Measure{
				Scenario: s.name, Peer: p.Name, Unit: s.unit, Less: s.less,
				Run: func(ctx context.Context, d time.Duration) (Figures, error) { return runScenario(ctx, s, p, d) },
			})
		}
	}
	return list
}

// session is a run of a scenario: a peer's network, and what serves it.
type session struct {
	peer     Peer
	sessions Sessions
	net      Network
	server   *server
	pattern  *pattern
}

func runScenario(ctx context.Context, sc scenario, p Peer, d time.Duration) (f Figures, err error) {
	s := &session{peer: p, pattern: newPattern(), sessions: sc.sessions}
	s.server = &server{pattern: s.pattern}
	if s.net, err = p.New(Options{sc.sessions}, s.server.serve); err != nil {
		return f, fmt.Errorf("%s: %w", p.Name, err)
	}
	f, err = sc.run(ctx, s, d)
	if err != nil {
		err = fmt.Errorf("%s: %s: %w", sc.name, p.Name, err)
	}
	err = errors.Join(err, s.net.Close(), s.server.err())
	return f, err
}

// open opens a stream on c, or on a connection of its own if one carries no more. The function ends both.
func (s *session) open(ctx context.Context, c Conn) (st Stream, end func(), err error) {
	if !s.peer.OneStream {
		st, err = c.Open(ctx)
		return st, func() { st.Close() }, err
	}
	if c, err = s.net.Dial(ctx); err != nil {
		return nil, nil, err
	}
	if st, err = c.Open(ctx); err != nil {
		c.Close()
		return nil, nil, err
	}
	return st, func() { st.Close(); c.Close() }, nil
}

// dial makes the connection that streams are opened on; none if one carries only one.
func (s *session) dial(ctx context.Context) (Conn, error) {
	if s.peer.OneStream {
		return noConn{}, nil
	}
	return s.net.Dial(ctx)
}

// noConn stands for the connection of a peer that makes one for each stream.
type noConn struct {
	NoCalls
	NoStreams
}

func (noConn) Close() error { return nil }

// meter counts what happens between its start and end.
type meter struct {
	began   time.Time
	mallocs uint64
}

func startMeter() meter {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return meter{time.Now(), m.Mallocs}
}

// rate returns how often a second something has happened n times, and the allocations of each.
func (m meter) rate(n int64) Figures {
	took := time.Since(m.began)
	var now runtime.MemStats
	runtime.ReadMemStats(&now)
	return Figures{
		Value: float64(n) / took.Seconds(),
		Extra: map[string]float64{"allocs": float64(now.Mallocs-m.mallocs) / float64(max(n, 1))},
	}
}
