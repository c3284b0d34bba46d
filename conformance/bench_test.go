package conformance

import (
	"context"
	"flag"
	"strings"
	"testing"
	"time"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/transport"
	"github.com/Blockchain-CN/pheromones/transport/mem"
)

func newMem(key identity.Key) (transport.Transport, error) { return mem.New(key, nil) }

// TestBenchmarks runs each benchmark once, so that none can rot.
func TestBenchmarks(t *testing.T) {
	h := Transport{New: newMem, Listen: transport.Addr{Scheme: "mem", HostPort: "127.0.0.1:0"}}
	for _, sc := range scenarios {
		t.Run(sc.name, func(t *testing.T) {
			s, err := newSide(&h, h.New, &sc)
			if err != nil {
				t.Fatal(err)
			}
			defer s.close()
			var got []float64
			for d := 2 * time.Millisecond; ; d *= 8 { // a busy machine may get nothing done in a moment
				if got, err = sc.measure(s, d); err != nil {
					t.Fatal(err)
				}
				if got[0] > 0 || d > time.Second {
					break
				}
			}
			if len(got) != len(sc.units) {
				t.Fatalf("%d figures, want %d", len(got), len(sc.units))
			}
			if sc.name != "idle" && got[0] <= 0 {
				t.Errorf("%v %s", got[0], sc.units[0])
			}
		})
	}
}

// TestBenchmarkTransport runs all of them as go test does, against a baseline.
func TestBenchmarkTransport(t *testing.T) {
	benchtime := flag.Lookup("test.benchtime").Value
	before := benchtime.String()
	benchtime.Set("1x")
	defer benchtime.Set(before)
	ran := false
	r := testing.Benchmark(func(b *testing.B) {
		BenchmarkTransport(b, Transport{
			New: newMem, Listen: transport.Addr{Scheme: "mem", HostPort: "127.0.0.1:0"},
			Baseline: newMem, BaselineName: "itself",
		})
		ran = !b.Failed()
	})
	if !ran || r.N == 0 {
		t.Error("it failed")
	}
}

// garbler dials connections whose streams alter the last byte of each Write of at least so many bytes.
type garbler struct {
	transport.Transport
	from int
}

func (g garbler) Dial(ctx context.Context, addr transport.Addr) (transport.Conn, error) {
	c, err := g.Transport.Dial(ctx, addr)
	return garbledConn{c, g.from}, err
}

type garbledConn struct {
	transport.Conn
	from int
}

func (c garbledConn) OpenStream(ctx context.Context) (transport.Stream, error) {
	s, err := c.Conn.OpenStream(ctx)
	return garbledStream{s, c.from}, err
}

type garbledStream struct {
	transport.Stream
	from int
}

func (s garbledStream) Write(b []byte) (int, error) {
	if len(b) >= s.from {
		b = append([]byte(nil), b...)
		b[len(b)-1]++
	}
	return s.Stream.Write(b)
}

// TestBenchmarksNotice runs the benchmarks on a transport that alters what it carries.
func TestBenchmarksNotice(t *testing.T) {
	for _, sc := range scenarios {
		h := Transport{Listen: transport.Addr{Scheme: "mem", HostPort: "127.0.0.1:0"}}
		h.New = func(key identity.Key) (transport.Transport, error) {
			tr, err := newMem(key)
			from := 0
			if strings.HasPrefix(sc.name, "bulk") {
				from = messageLen + 1
			}
			return garbler{tr, from}, err
		}
		t.Run(sc.name, func(t *testing.T) {
			s, err := newSide(&h, h.New, &sc)
			if err != nil {
				t.Fatal(err)
			}
			defer s.close()
			if _, err := sc.measure(s, 2*time.Millisecond); err == nil || !strings.HasPrefix(err.Error(), "conformance: ") {
				t.Errorf("got %v, want it to be noticed that bytes were altered", err)
			}
		})
	}
}
