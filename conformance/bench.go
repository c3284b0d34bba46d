package conformance

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/transport"
)

// BenchmarkTransport measures connections of a transport to itself over h.Listen, in one process. The sub-benchmarks are
//
//   - bulk-1, bulk-8: bytes sent one way on one stream, and on eight at once;
//   - exchange: requests of 128 bytes and replies as long, one after the other, on one stream;
//   - fresh-64: the same, each on a stream of its own, 64 at once;
//   - set-up: Dial and the first reply, one connection after the other;
//   - idle: what a connection that rests after an exchange holds, both of its ends together.
//
// What a transport with OneStream cannot do on one connection it does on several.
//
// One iteration is one round of 50 ms. If h has a Baseline, each iteration is a round of the transport and one of the
// baseline, by turns first, and "ratio" is the median over all iterations of how the two compare: above one the transport
// does better than its baseline, in whatever unit. Thus a machine with other work to do slows both. Forty iterations
// (-benchtime 40x) make a good measurement. With -v a row of a table, in Markdown, ends the output; the ratios are in
// parentheses.
func BenchmarkTransport(b *testing.B, h Transport) {
	if _, err := h.probe(); err != nil {
		b.Fatal(err)
	}
	head, line, row := []string{"transport"}, []string{"---"}, []string{h.Listen.Scheme}
	if h.Baseline != nil {
		row[0] += " (× " + h.BaselineName + ")"
	}
	for _, s := range scenarios {
		b.Run(s.name, func(b *testing.B) {
			r := s.compare(b, &h)
			for i, unit := range s.units {
				head, line, row = append(head, s.name+", "+unit), append(line, "---:"), append(row, r[i].String())
			}
		})
	}
	b.Logf("\n| %s |\n| %s |\n| %s |", strings.Join(head, " | "), strings.Join(line, " | "), strings.Join(row, " | "))
}

// roundTime is how long one side of a benchmark runs before it is the other's turn.
const roundTime = 50 * time.Millisecond

// A scenario is one thing that is measured.
type scenario struct {
	name  string
	units []string // of the figures that measure returns
	less  bool     // whether less is better
	keep  int      // how many connections are made beforehand
	once  bool     // the server's streams are for one exchange, after which the connection rests

	// measure does the work of one round, which takes about d.
	measure func(s *side, d time.Duration) ([]float64, error)
}

var scenarios = []scenario{
	{name: "bulk-1", units: []string{"MB/s"}, keep: 1, measure: bulk(1)},
	{name: "bulk-8", units: []string{"MB/s"}, keep: 1, measure: bulk(8)},
	{name: "exchange", units: []string{"exchanges/s"}, keep: 1, measure: (*side).pingPong},
	{name: "fresh-64", units: []string{"exchanges/s"}, keep: 1, measure: (*side).freshStreams},
	{name: "set-up", units: []string{"ms/connection"}, less: true, measure: (*side).setUp},
	{name: "idle", units: []string{"KiB/connection", "goroutines/connection"}, less: true, once: true, measure: (*side).idle},
}

// result is what the rounds of a scenario say about one of its figures: the medians.
type result struct{ own, baseline, ratio float64 }

func (r result) String() string {
	digits := 0
	switch {
	case r.own < 10:
		digits = 2
	case r.own < 100:
		digits = 1
	}
	s := strconv.FormatFloat(r.own, 'f', digits, 64)
	if r.ratio != 0 {
		s += fmt.Sprintf(" (%.2f)", r.ratio)
	}
	return s
}

// compare runs the rounds of b and reports them.
func (s *scenario) compare(b *testing.B, h *Transport) []result {
	makers := []func(identity.Key) (transport.Transport, error){h.New}
	if h.Baseline != nil {
		makers = append(makers, h.Baseline)
	}
	var sides []*side
	for _, make := range makers {
		side, err := newSide(h, make, s)
		if err != nil {
			b.Fatal(err)
		}
		defer side.close()
		sides = append(sides, side)
		if _, err := s.measure(side, roundTime/10); err != nil { // what happens once has happened then
			b.Fatal(err)
		}
	}
	figures := make([][3][]float64, len(s.units)) // own, baseline, ratio: one of each round
	for round := 0; b.Loop(); round++ {
		var got [2][]float64
		for i := range sides {
			turn := (round + i) % len(sides)
			runtime.GC() // the garbage of the one is not the other's to sweep
			var err error
			if got[turn], err = s.measure(sides[turn], roundTime); err != nil {
				b.Fatal(err)
			}
		}
		for i := range s.units {
			f := &figures[i]
			f[0] = append(f[0], got[0][i])
			if len(sides) == 1 {
				continue
			}
			f[1] = append(f[1], got[1][i])
			if s.less {
				f[2] = append(f[2], got[1][i]/got[0][i])
			} else {
				f[2] = append(f[2], got[0][i]/got[1][i])
			}
		}
	}
	b.ReportMetric(0, "ns/op") // says nothing here
	var results []result
	for i, unit := range s.units {
		r := result{median(figures[i][0]), median(figures[i][1]), median(figures[i][2])}
		results = append(results, r)
		b.ReportMetric(r.own, unit)
		if len(sides) > 1 {
			b.ReportMetric(r.baseline, h.BaselineName+"-"+unit)
			ratio := "ratio"
			if i > 0 {
				ratio, _, _ = strings.Cut(unit, "/")
				ratio += "-ratio"
			}
			b.ReportMetric(r.ratio, ratio)
		}
	}
	return results
}

// median returns 0 if there is none.
func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	v = slices.Sorted(slices.Values(v))
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

// side is a transport under measurement: one that listens and serves, and one that dials. A goroutine of measure uses it;
// the server's run by themselves.
type side struct {
	server, client transport.Transport
	listener       transport.Listener
	oneStream      bool
	rests          bool // scenario.once
	ctx            context.Context
	cancel         context.CancelFunc
	serving        sync.WaitGroup
	kept           transport.Conn // nil with oneStream
}

func newSide(h *Transport, make func(identity.Key) (transport.Transport, error), sc *scenario) (*side, error) {
	s := &side{rests: sc.once}
	s.ctx, s.cancel = context.WithTimeout(context.Background(), 10*time.Minute)
	for _, t := range []*transport.Transport{&s.server, &s.client} {
		key, err := identity.Generate()
		if err == nil {
			*t, err = make(key)
		}
		if err != nil {
			s.close()
			return nil, err
		}
	}
	var err error
	if s.listener, err = s.server.Listen(s.ctx, h.Listen); err != nil {
		s.close()
		return nil, err
	}
	s.oneStream = s.server.Traits().OneStream
	s.serving.Go(s.accept)
	if sc.keep > 0 && !s.oneStream {
		if s.kept, err = s.client.Dial(s.ctx, s.listener.Addr()); err != nil {
			s.close()
			return nil, err
		}
	}
	return s, nil
}

func (s *side) close() {
	s.cancel()
	for _, t := range []transport.Transport{s.client, s.server} {
		if t != nil {
			t.Close()
		}
	}
	s.serving.Wait()
}

// accept serves connections until the transport is closed.
func (s *side) accept() {
	for {
		c, err := s.listener.Accept(s.ctx)
		if err != nil {
			return
		}
		s.serving.Go(func() {
			for {
				stream, err := c.AcceptStream(s.ctx)
				switch {
				case err != nil:
					return
				case s.rests:
					serveOnce(stream, s.oneStream)
					return
				case s.oneStream:
					serve(stream)
					return
				}
				s.serving.Go(func() { serve(stream) })
			}
		})
	}
}

const (
	messageLen = 128
	kindEcho   = 1 // the first byte of a message that is sent back
	kindBulk   = 2 // … after which bytes follow, to be counted
	chunkLen   = 64 << 10
)

// pattern is what bulk transfers send, again and again, twice: so any chunkLen bytes of the flow are in one piece.
var pattern = sync.OnceValue(func() []byte {
	p := make([]byte, chunkLen, 2*chunkLen)
	x := uint32(1)
	for i := range p {
		x = x*1664525 + 1013904223
		p[i] = byte(x >> 24)
	}
	return append(p, p...)
})

// serve answers the messages of a stream until it ends.
func serve(stream transport.Stream) {
	defer stream.Close()
	message := make([]byte, messageLen)
	for {
		if _, err := io.ReadFull(stream, message); err != nil {
			return
		}
		if message[0] == kindBulk {
			n := count(stream)
			stream.Write(binary.BigEndian.AppendUint64(nil, uint64(n)))
			return
		}
		if _, err := stream.Write(message); err != nil {
			return
		}
	}
}

// serveOnce answers one message. With keep the stream stays as it is.
func serveOnce(stream transport.Stream, keep bool) {
	message := make([]byte, messageLen)
	if _, err := io.ReadFull(stream, message); err == nil {
		stream.Write(message)
	}
	if !keep {
		stream.Close()
	}
}

// count returns how many bytes come before the first that is wrong.
func count(r io.Reader) (n int) {
	buf := make([]byte, chunkLen)
	for good := true; ; {
		m, err := r.Read(buf)
		at := n % chunkLen
		if good = good && bytes.Equal(buf[:m], pattern()[at:at+m]); good {
			n += m
		}
		if err != nil {
			return n
		}
	}
}

// stream opens a stream on the connection that is kept, or on a new one. The returned function ends what was made.
func (s *side) stream() (transport.Stream, func(), error) {
	c, end := s.kept, func() {}
	if c == nil {
		var err error
		if c, err = s.client.Dial(s.ctx, s.listener.Addr()); err != nil {
			return nil, nil, err
		}
		end = func() { c.CloseWithError(transport.CodeNone, "") }
	}
	stream, err := c.OpenStream(s.ctx)
	if err != nil {
		end()
		return nil, nil, err
	}
	if deadline, ok := s.ctx.Deadline(); ok {
		stream.SetDeadline(deadline)
	}
	return stream, func() {
		stream.Close()
		end()
	}, nil
}

// echo makes one exchange on a stream.
func echo(stream transport.Stream, number uint64) error {
	var out, in [messageLen]byte
	out[0] = kindEcho
	binary.BigEndian.PutUint64(out[messageLen-8:], number)
	if _, err := stream.Write(out[:]); err != nil {
		return err
	}
	if _, err := io.ReadFull(stream, in[:]); err != nil {
		return err
	}
	if in != out {
		return errors.New("conformance: the reply is not the request")
	}
	return nil
}

// bulk sends on n streams at once and waits until the server has counted all.
func bulk(n int) func(*side, time.Duration) ([]float64, error) {
	return func(s *side, d time.Duration) ([]float64, error) {
		streams := make([]transport.Stream, n)
		for i := range streams {
			stream, end, err := s.stream()
			if err != nil {
				return nil, err
			}
			defer end()
			streams[i] = stream
			if err := echo(stream, 0); err != nil { // so that dials and windows are as they are between old friends
				return nil, err
			}
		}
		var total atomic.Int64
		began := time.Now()
		err := together(n, func(i int) error {
			sent, err := sendBulk(streams[i], began.Add(d))
			total.Add(int64(sent))
			return err
		})
		return []float64{float64(total.Load()) / 1e6 / time.Since(began).Seconds()}, err
	}
}

// sendBulk writes the pattern until the time has come, and returns how many bytes the other side has got.
func sendBulk(stream transport.Stream, until time.Time) (int, error) {
	start := make([]byte, messageLen)
	start[0] = kindBulk
	if _, err := stream.Write(start); err != nil {
		return 0, err
	}
	sent := 0
	for time.Now().Before(until) {
		if _, err := stream.Write(pattern()[:chunkLen]); err != nil {
			return 0, err
		}
		sent += chunkLen
	}
	if err := stream.CloseWrite(); err != nil {
		return 0, err
	}
	var reply [8]byte
	if _, err := io.ReadFull(stream, reply[:]); err != nil {
		return 0, err
	}
	if got := int(binary.BigEndian.Uint64(reply[:])); got != sent {
		return 0, fmt.Errorf("conformance: of %d bytes %d arrived as they were sent", sent, got)
	}
	return sent, nil
}

// together runs f(0) to f(n-1) at once and returns their errors when all have returned.
func together(n int, f func(i int) error) error {
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { errs[i] = f(i) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// pingPong makes exchanges on one stream.
func (s *side) pingPong(d time.Duration) ([]float64, error) {
	stream, end, err := s.stream()
	if err != nil {
		return nil, err
	}
	defer end()
	if err := echo(stream, 0); err != nil {
		return nil, err
	}
	n := 0
	began := time.Now()
	for ; n == 0 || time.Since(began) < d; n++ {
		if err := echo(stream, uint64(n)); err != nil {
			return nil, err
		}
	}
	return []float64{float64(n) / time.Since(began).Seconds()}, nil
}

// freshStreams makes exchanges on a stream each, 64 at once.
func (s *side) freshStreams(d time.Duration) ([]float64, error) {
	var n atomic.Int64
	began := time.Now()
	err := together(64, func(int) error {
		for {
			if err := s.exchange(); err != nil {
				return err
			}
			n.Add(1)
			if time.Since(began) >= d {
				return nil
			}
		}
	})
	return []float64{float64(n.Load()) / time.Since(began).Seconds()}, err
}

// exchange makes one exchange on a stream of its own, which both sides end in order.
func (s *side) exchange() error {
	stream, end, err := s.stream()
	if err != nil {
		return err
	}
	defer end()
	if err := echo(stream, 0); err != nil {
		return err
	}
	if err := stream.CloseWrite(); err != nil {
		return err
	}
	if n, err := stream.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		return fmt.Errorf("conformance: after the reply: want the end of the stream, got %d bytes and %v", n, err)
	}
	return nil
}

// setUp makes connections, one after the other, of which the time until the first reply counts.
func (s *side) setUp(d time.Duration) ([]float64, error) {
	n, busy := 0, time.Duration(0)
	for began := time.Now(); n < 4 || time.Since(began) < d; n++ {
		dialled := time.Now()
		stream, end, err := s.stream()
		if err != nil {
			return nil, err
		}
		if err = echo(stream, 0); err == nil {
			busy += time.Since(dialled)
		}
		end()
		if err != nil {
			return nil, err
		}
	}
	return []float64{busy.Seconds() * 1000 / float64(n)}, nil
}

// idle makes connections and weighs them.
func (s *side) idle(d time.Duration) ([]float64, error) {
	n := max(2, int(d/time.Millisecond))
	beforeBytes, beforeGoroutines := settle()
	conns := make([]transport.Conn, n)
	for i := range conns {
		c, err := s.client.Dial(s.ctx, s.listener.Addr())
		if err != nil {
			return nil, err
		}
		conns[i] = c
		defer c.CloseWithError(transport.CodeNone, "")
		stream, err := c.OpenStream(s.ctx)
		if err != nil {
			return nil, err
		}
		if err := echo(stream, 0); err != nil {
			return nil, err
		}
		if !s.oneStream {
			stream.Close()
		}
	}
	bytes, goroutines := settle()
	runtime.KeepAlive(conns)
	return []float64{float64(bytes-beforeBytes) / 1024 / float64(n), float64(goroutines-beforeGoroutines) / float64(n)}, nil
}

// settle waits, a second at most, until nothing happens, and returns the memory in use and the number of goroutines.
func settle() (bytes int64, goroutines int) {
	for same, i := 0, 0; same < 5 && i < 100; i++ {
		time.Sleep(10 * time.Millisecond)
		if n := runtime.NumGoroutine(); n != goroutines {
			goroutines, same = n, 0
		} else {
			same++
		}
	}
	runtime.GC()
	runtime.GC() // empties the pools
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse), goroutines
}
