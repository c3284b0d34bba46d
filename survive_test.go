package pheromones_test

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Blockchain-CN/pheromones"
	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/mux"
	"github.com/Blockchain-CN/pheromones/protocol"
	"github.com/Blockchain-CN/pheromones/quic"
	"github.com/Blockchain-CN/pheromones/router"
	"github.com/Blockchain-CN/pheromones/tcp"
	"github.com/Blockchain-CN/pheromones/transport"
)

// How many requests the tests of survival send. PHEROMONES_SURVIVE=100000 go test -run Survive -timeout 1h . sends so many.
func surviveCount(t *testing.T, otherwise int) int {
	s := os.Getenv("PHEROMONES_SURVIVE")
	if s == "" && brief() {
		return otherwise / 4
	}
	if s == "" {
		return otherwise
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatalf("PHEROMONES_SURVIVE=%q: %v", s, err)
	}
	return n
}

// survivors are two nodes with a bad network between them.
type survivors struct {
	t      *testing.T
	scheme string
	net    *badNetwork
	keys   [2]identity.Key
	client *pheromones.Node
	server *pheromones.Node
	addr   string
	runs   []atomic.Int32 // by number of request: how often a handler ran, in whatever life
}

func newSurvivors(t *testing.T, scheme string, life time.Duration, count int) *survivors {
	t.Helper()
	s := &survivors{t: t, scheme: scheme, net: newBadNetwork(t, scheme == "quic", life), runs: make([]atomic.Int32, count)}
	for i := range s.keys {
		var err error
		if s.keys[i], err = identity.Generate(); err != nil {
			t.Fatal(err)
		}
	}
	s.server = s.serve(scheme + "://127.0.0.1:0")
	s.addr = s.server.Addrs()[0].String()
	var err error
	if s.client, err = pheromones.New(pheromones.Config{Name: "client", Transports: []transport.Transport{s.transport(0)}}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.client.Close() })
	// The client hears of the server's life before it asks for anything that matters.
	for {
		if _, err = s.client.Ping(t.Context(), s.addr); err == nil {
			return s
		}
		t.Logf("warming up: %v", err)
	}
}

func (s *survivors) transport(i int) (tr transport.Transport) {
	var err error
	switch s.scheme {
	case "tcp":
		tr, err = tcp.New(s.keys[i], nil)
	case "mux":
		tr, err = mux.New(s.keys[i], nil)
	case "quic":
		cfg := &quic.Config{}
		if s.net.life > 0 {
			cfg = &quic.Config{IdleTimeout: 300 * time.Millisecond, KeepAlive: 100 * time.Millisecond, HandshakeTimeout: time.Second}
		}
		tr, err = quic.New(s.keys[i], cfg)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return tr
}

// serve starts a life of the server.
func (s *survivors) serve(addr string) *pheromones.Node {
	s.t.Helper()
	n, err := pheromones.New(pheromones.Config{
		Name: "server", Transports: []transport.Transport{behind{s.transport(1), s.net}},
		Handler: protocol.HandlerFunc(func(ctx context.Context, m protocol.Message) (protocol.Message, error) {
			if len(m.Data) == 8 {
				i := binary.BigEndian.Uint64(m.Data)
				s.runs[i].Add(1)
				if i%16 == 0 { // so that requests are cut in the middle, too
					time.Sleep(time.Duration(i%7) * time.Millisecond)
				}
			}
			return protocol.Message{Operation: "ran", Data: m.Data}, nil
		}),
	})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { n.Close() })
	if err := n.Start(s.t.Context(), addr); err != nil {
		s.t.Fatal(err)
	}
	return n
}

// send sends all requests, 32 at a time, and returns how each ended. between is called when half of them were begun.
func (s *survivors) send(between func()) []error {
	ends := make([]error, len(s.runs))
	var next atomic.Int64
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			for {
				i := int(next.Add(1) - 1)
				if i >= len(ends) {
					return
				}
				if i == len(ends)/2 {
					between()
				}
				data := binary.BigEndian.AppendUint64(nil, uint64(i))
				ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
				reply, err := s.client.Dispatch(ctx, s.addr, protocol.Message{Operation: "run", Data: data})
				cancel()
				if err == nil && string(reply.Data) != string(data) {
					err = errors.New("the reply is that of another request")
				}
				ends[i] = err
			}
		})
	}
	wg.Wait()
	return ends
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// Every request is answered, and its handler has run exactly once, though every connection is cut after 50 ms on average.
func TestSurviveLosses(t *testing.T) {
	for _, scheme := range []string{"tcp", "mux", "quic"} {
		t.Run(scheme, func(t *testing.T) {
			count := surviveCount(t, map[string]int{"tcp": 1000, "mux": 20_000, "quic": 6000}[scheme])
			s := newSurvivors(t, scheme, 50*time.Millisecond, count)
			var before uint64
			began := time.Now()
			ends := s.send(func() { before = heap() })
			after := heap()
			failed := 0
			for i, err := range ends {
				if n := s.runs[i].Load(); n != 1 {
					t.Errorf("request %d: its handler ran %d times, want 1; it ended with %v", i, n, err)
				}
				if err != nil {
					if failed++; failed < 10 {
						t.Errorf("request %d: %v", i, err)
					}
				}
			}
			t.Logf("%d requests, %d answered, in %v; the network cut %d times; the heap went from %d to %d KiB",
				count, count-failed, time.Since(began).Round(time.Millisecond), s.net.cutCount(), before>>10, after>>10)
			if s.net.cutCount() < 3 {
				t.Errorf("the network cut %d times, want many", s.net.cutCount())
			}
			if after > before+32<<20 {
				t.Errorf("the heap went from %d to %d KiB, want it to stay", before>>10, after>>10)
			}
		})
	}
}

// The server is started again in the middle: no handler runs twice across its lives, and whatever was perhaps executed says so.
func TestSurviveRestart(t *testing.T) {
	for _, scheme := range []string{"tcp", "mux", "quic"} {
		t.Run(scheme, func(t *testing.T) {
			count := surviveCount(t, map[string]int{"tcp": 1000, "mux": 20_000, "quic": 2000}[scheme])
			s := newSurvivors(t, scheme, 50*time.Millisecond, count)
			ends := s.send(func() {
				target := s.net.to()
				s.server.Close()
				s.server = s.serve(scheme + "://" + target)
			})
			answered, perhaps, unsent := 0, 0, 0
			for i, err := range ends {
				n := s.runs[i].Load()
				var exchange *protocol.ExchangeError
				var remote *protocol.RemoteError
				var dial *router.DialError
				switch {
				case err == nil:
					if answered++; n != 1 {
						t.Errorf("request %d was answered, and its handler ran %d times", i, n)
					}
				case protocol.NotExecuted(err), !errors.As(err, &exchange) && !errors.As(err, &remote) && errors.As(err, &dial):
					if unsent++; n != 0 {
						t.Errorf("request %d was not sent, and its handler ran %d times: %v", i, n, err)
					}
				case errors.As(err, &exchange), errors.As(err, &remote):
					if perhaps++; n > 1 {
						t.Errorf("request %d: its handler ran %d times: %v", i, n, err)
					}
				default:
					t.Errorf("request %d: want a typed error, got %v", i, err)
				}
			}
			t.Logf("%d requests: %d answered, %d perhaps executed, %d not sent; the network cut %d times", count, answered, perhaps, unsent, s.net.cutCount())
			if answered < count/2 {
				t.Errorf("%d of %d requests were answered, want most", answered, count)
			}
		})
	}
}

// A request whose link falls silent is sent again long before the connection's own time-out.
func TestSurviveSilence(t *testing.T) {
	for _, scheme := range []string{"tcp", "mux", "quic"} {
		t.Run(scheme, func(t *testing.T) {
			t.Parallel()
			s := newSurvivors(t, scheme, 0, 1)
			s.net.mute()
			began := time.Now()
			for _, err := range s.send(func() {}) {
				if err != nil {
					t.Error(err)
				}
			}
			// The connection's own time-outs are 10 s and 30 s.
			if took := time.Since(began); took > 25*time.Second {
				t.Errorf("answered after %v", took)
			} else {
				t.Logf("answered after %v", took)
			}
		})
	}
}
