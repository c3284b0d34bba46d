package conformance

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/Blockchain-CN/pheromones/conformance/internal/broken"
	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/transport"
	"github.com/Blockchain-CN/pheromones/transport/mem"
)

func TestUnusableHarness(t *testing.T) {
	good := sound(broken.Any)
	for _, c := range []struct {
		want string
		h    Transport
	}{
		{"has no New", Transport{Listen: good.Listen}},
		{"no transport and no error", Transport{Listen: good.Listen, New: func(identity.Key) (transport.Transport, error) { return nil, nil }}},
		{"something is wrong", Transport{Listen: good.Listen, New: func(identity.Key) (transport.Transport, error) { return nil, errPlain }}},
		{"the transport's scheme is", Transport{New: good.New}},
		{"the harness's Network is", Transport{New: good.New, Listen: good.Listen, Network: "ipx"}},
	} {
		if err := CheckTransport(t.Context(), c.h); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("want an error with %q, got %v", c.want, err)
		}
	}
}

func TestRunReportsEveryRule(t *testing.T) {
	h := sound(broken.Any)
	h.Select = func(r Rule) bool {
		return r.Clause == "AD1" || r.Name == "nettest" || r.Name == "dial-silent" || r.Name == "datagram-ends"
	}
	var got []string
	err := Run(t.Context(), h, func(res Result) {
		switch {
		case res.Err != nil:
			t.Error(res.Err)
		case res.Skipped == "" && res.Elapsed <= 0:
			t.Errorf("%s: want the time it took, got %v", res.Rule.Name, res.Elapsed)
		}
		got = append(got, res.Rule.Name+": "+res.Skipped)
	})
	if err != nil {
		t.Error(err)
	}
	want := []string{"address-round-trip: ", "dial-silent: the harness names no network to which the suite could talk itself",
		"nettest: it needs package testing: run TestTransport", "datagram-ends: its connections carry no datagrams"}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("want\n%s\ngot\n%s", strings.Join(want, "\n"), strings.Join(got, "\n"))
	}
}

func TestRunJoinsFindings(t *testing.T) {
	h := over(func(c *conn) { c.info = new(transport.Info) })
	h.Select = func(r Rule) bool { return r.Clause == "ID1" || r.Clause == "ID5" }
	err := CheckTransport(t.Context(), h)
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok || len(joined.Unwrap()) != 2 {
		t.Fatalf("want two findings, got %v", err)
	}
	for i, clause := range []string{"ID1", "ID5"} {
		var f *Finding
		if !errors.As(joined.Unwrap()[i], &f) || f.Rule.Clause != clause {
			t.Errorf("want a finding of %s, got %v", clause, joined.Unwrap()[i])
		}
	}
}

func TestRunStops(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	ran := 0
	err := Run(ctx, sound(broken.Any), func(Result) {
		ran++
		cancel()
	})
	if ran != 1 || !errors.Is(err, context.Canceled) {
		t.Errorf("want one rule and context.Canceled, got %d and %v", ran, err)
	}
}

func TestPanicIsAFinding(t *testing.T) {
	h := over(func(c *conn) { c.panics = true })
	h.Select = func(r Rule) bool { return r.Name == "both-know" || r.Name == "open-both-sides" }
	err := CheckTransport(t.Context(), h)
	if err == nil || strings.Count(err.Error(), "panic: no stream") != 2 {
		t.Errorf("want two rules to find a panic, got %v", err)
	}
}

func TestSuiteClosesWhatFails(t *testing.T) {
	// A transport that cannot even listen leaves the suite nothing to work with.
	h := sound(broken.Any)
	h.New = func(key identity.Key) (transport.Transport, error) {
		tr, err := mem.New(key, nil)
		return mute{tr}, err
	}
	h.Select = func(r Rule) bool { return strings.HasPrefix(r.Clause, "ID") }
	var n int
	Run(t.Context(), h, func(res Result) {
		if n++; res.Err == nil && res.Skipped == "" {
			t.Errorf("%s: want a finding, got none", res.Rule.Name)
		}
	})
	want := 0
	for _, r := range Rules() {
		if h.Select(r) {
			want++
		}
	}
	if n != want || n == 0 {
		t.Errorf("want the %d rules about identity, got %d", want, n)
	}
}

// mute is a transport that cannot listen.
type mute struct{ transport.Transport }

func (mute) Listen(context.Context, transport.Addr) (transport.Listener, error) { return nil, errPlain }

// over is the harness of transports whose connections are spoilt.
func over(spoil func(c *conn)) Transport {
	h := sound(broken.Any)
	h.New = func(key identity.Key) (transport.Transport, error) {
		tr, err := mem.New(key, nil)
		return spoiler{tr, spoil}, err
	}
	return h
}

type spoiler struct {
	transport.Transport
	spoil func(c *conn)
}

func (s spoiler) Dial(ctx context.Context, addr transport.Addr) (transport.Conn, error) {
	c, err := s.Transport.Dial(ctx, addr)
	if err != nil {
		return nil, err
	}
	spoilt := &conn{Conn: c}
	s.spoil(spoilt)
	return spoilt, nil
}

// conn is a connection that says something else, or panics.
type conn struct {
	transport.Conn
	info   *transport.Info
	panics bool
}

func (c *conn) Info() transport.Info {
	if c.info != nil {
		return *c.info
	}
	return c.Conn.Info()
}

func (c *conn) OpenStream(ctx context.Context) (transport.Stream, error) {
	if c.panics {
		panic("no stream")
	}
	return c.Conn.OpenStream(ctx)
}
