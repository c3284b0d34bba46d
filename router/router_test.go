package router

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/internal/leak"
	"github.com/Blockchain-CN/pheromones/protocol"
	"github.com/Blockchain-CN/pheromones/transport"
	"github.com/Blockchain-CN/pheromones/transport/mem"
)

func TestMain(m *testing.M) { os.Exit(leak.Main(m)) }

func newKey(t testing.TB) identity.Key {
	t.Helper()
	key, err := identity.Generate()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// scripted is a transport, of any scheme, whose dials a test answers. Its zero value refuses all of them.
type scripted struct {
	transport.Transport // of the connections that it hands out
	traits              transport.Traits
	dial                func(ctx context.Context, a transport.Addr) (transport.Conn, error)

	mu    sync.Mutex
	tried []transport.Addr
}

var errRefused = errors.New("refused")

func (s *scripted) Traits() transport.Traits { return s.traits }

func (s *scripted) Dial(ctx context.Context, a transport.Addr) (transport.Conn, error) {
	s.mu.Lock()
	s.tried = append(s.tried, a)
	s.mu.Unlock()
	if s.dial == nil {
		return nil, &transport.OpError{Op: "dial", Addr: a, Err: errRefused}
	}
	return s.dial(ctx, a)
}

func (s *scripted) dialled() []transport.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.tried)
}

// newRouter returns a router over the given transports that serves the message service with an empty table.
func newRouter(t testing.TB, change func(*Config), transports ...transport.Transport) *Router {
	t.Helper()
	var r *Router
	ready := make(chan struct{}) // closed when r is set
	cfg := Config{Transports: transports, Pipelines: true, Serve: func(ctx context.Context, c transport.Conn, s transport.Stream) {
		service, err := protocol.ReadService(s)
		if err != nil {
			s.Reset(transport.CodeProtocol)
			return
		}
		if <-ready; service == LinkService {
			r.Control(s)
			return
		}
		if service == protocol.PipelineService {
			r.ServePipeline(ctx, ctx, s, r.cfg.Handler, nil)
			return
		}
		protocol.Serve(ctx, s, c.Info().RemotePeer, r.cfg.Handler, nil)
	}}
	if change != nil {
		change(&cfg)
	}
	var err error
	if r, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	close(ready)
	t.Cleanup(func() {
		r.Close(transport.CodeShutdown, "")
		r.checkNames(t)
	})
	return r
}

// checkNames looks whether peers are found by the names that they bear, and by no others.
func (r *Router) checkNames(t testing.TB) {
	t.Helper()
	named := 0
	for id, rt := range r.routes {
		if name := rt.fact.Peer.Name; name != "" {
			if named++; !slices.Contains(r.named[name], rt) {
				t.Errorf("peer %v is not found by its name %q", id, name)
			}
		}
	}
	for _, list := range r.named {
		named -= len(list)
	}
	if named != 0 {
		t.Errorf("%d peers are found by names that they do not bear", -named)
	}
}

// newScripted returns a scripted transport and a router over it.
func newScripted(t testing.TB, change func(*Config)) (*scripted, *Router) {
	t.Helper()
	s := &scripted{traits: transport.Traits{Scheme: "s", LocalPeer: newKey(t).ID()}}
	return s, newRouter(t, change, s)
}

// newMem returns a router that listens over mem, and its address.
func newMem(t testing.TB, network *mem.Network) (*Router, transport.Addr) {
	t.Helper()
	tr, err := mem.New(newKey(t), &mem.Config{Network: network})
	if err != nil {
		t.Fatal(err)
	}
	r := newRouter(t, nil, tr)
	l, err := tr.Listen(t.Context(), transport.Addr{Scheme: "mem", HostPort: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept(context.Background())
			if err != nil {
				return
			}
			r.Accept(c)
		}
	}()
	t.Cleanup(func() { tr.Close(); <-done })
	return r, l.Addr()
}

func addr(id identity.ID, n int) transport.Addr {
	return transport.Addr{Scheme: "s", HostPort: fmt.Sprintf("192.0.2.1:%d", n), Peer: id}
}

func TestNewRefuses(t *testing.T) {
	a := &scripted{traits: transport.Traits{Scheme: "a", LocalPeer: newKey(t).ID()}}
	b := &scripted{traits: transport.Traits{Scheme: "b", LocalPeer: newKey(t).ID()}}
	nobody := &scripted{traits: transport.Traits{Scheme: "c"}}
	serve := func(context.Context, transport.Conn, transport.Stream) {}
	for what, test := range map[string]struct {
		cfg  Config
		want string
	}{
		"no transports":     {Config{Serve: serve}, "empty"},
		"a nil transport":   {Config{Serve: serve, Transports: []transport.Transport{a, nil}}, "nil"},
		"nothing to serve":  {Config{Transports: []transport.Transport{a}}, "Serve"},
		"two of one scheme": {Config{Serve: serve, Transports: []transport.Transport{a, a}}, "scheme"},
		"two keys":          {Config{Serve: serve, Transports: []transport.Transport{a, b}}, "different keys"},
		"one without an ID": {Config{Serve: serve, Transports: []transport.Transport{nobody}}, "LocalPeer"},
	} {
		if _, err := New(test.cfg); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want an error about %q", what, err, test.want)
		}
	}
}

// After Close nothing starts any more, and watchers, old and new, are at their end.
func TestClosed(t *testing.T) {
	s, r := newScripted(t, nil)
	id := newKey(t).ID()
	if err := r.Introduce(addr(id, 1)); err != nil {
		t.Fatal(err)
	}
	w := r.Watch()
	r.Close(transport.CodeShutdown, "")
	r.Close(transport.CodeShutdown, "")
	for range w.C() {
	}
	for range r.Watch().C() {
	}
	w.Close()
	m := protocol.Message{Operation: "x"}
	_, err1 := r.Dispatch(t.Context(), id, m)
	_, err2 := r.Add(t.Context(), addr(id, 1), nil)
	_, err3 := r.Reach(t.Context(), addr(newKey(t).ID(), 1))
	for i, err := range []error{err1, err2, err3, r.Introduce(addr(id, 2)), r.DispatchAll(t.Context(), m)[id].Err} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("call %d of a closed router: got %v, want ErrClosed", i, err)
		}
	}
	if n := len(s.dialled()); n != 0 {
		t.Errorf("a closed router has dialled %d times", n)
	}
	r.SetSelf("x", nil)
	r.Farewell(t.Context())
}

func TestPenalty(t *testing.T) {
	now := time.Now()
	for _, test := range []struct {
		count int
		ago   time.Duration
		want  int
	}{
		{0, time.Hour, 0}, {1, 0, 1}, {1, 2 * time.Minute, 1}, {1, 2*time.Minute + 1, 0}, {3, 8 * time.Minute, 3},
		{4, 10 * time.Minute, 4}, {4, 10*time.Minute + 1, 0}, {1 << 40, 10 * time.Minute, 1 << 40}, {1 << 40, 10*time.Minute + 1, 0},
	} {
		if got := (failures{count: test.count, last: now.Add(-test.ago)}).penalty(now); got != test.want {
			t.Errorf("%d failures, %v ago: penalty %d, want %d", test.count, test.ago, got, test.want)
		}
	}
}
