package harness

import (
	"context"
	"fmt"
	"runtime"
	"time"
)

// first makes a connection's first exchange.
func (s *session) first(ctx context.Context, c Conn) error {
	if s.peer.Calls {
		reply, err := c.Call(ctx, newRequest(opOnce))
		if err != nil {
			return err
		}
		return check("a reply", reply, s.pattern.reply)
	}
	st, err := c.Open(ctx)
	if err != nil {
		return err
	}
	defer st.Close()
	return s.once(st, newRequest(opOnce))
}

// setUp measures connections with their first reply, one after the other.
func setUp(ctx context.Context, s *session, d time.Duration) (Figures, error) {
	var n, resumed int
	var tells bool
	one := func() error {
		c, err := s.net.Dial(ctx)
		if err != nil {
			return err
		}
		defer c.Close()
		if err := s.first(ctx, c); err != nil {
			return err
		}
		n++
		var r Resumer
		if r, tells = c.(Resumer); tells && r.Resumed() {
			resumed++
		}
		return nil
	}
	for range 10 { // which also gather sessions to resume
		if err := one(); err != nil {
			return Figures{}, err
		}
	}
	n, resumed = 0, 0
	m := startMeter()
	for n < 3 || time.Since(m.began) < d {
		if err := one(); err != nil {
			return Figures{}, err
		}
	}
	want := 0
	if s.sessions == Always {
		want = n
	}
	if tells && resumed != want {
		return Figures{}, fmt.Errorf("%d of %d connections have resumed a session, want %d", resumed, n, want)
	}
	return m.rate(int64(n)), nil
}

// idle weighs connections that rest after an exchange; of a peer with one stream a connection, with that stream.
func idle(ctx context.Context, s *session, d time.Duration) (Figures, error) {
	n := min(max(int(d/(5*time.Millisecond)), 4), 200)
	ends := make([]func(), 0, n+1)
	defer func() {
		for _, end := range ends {
			end()
		}
	}()
	open := func() error {
		if s.peer.OneStream {
			e, err := newEchoes(ctx, s, noConn{})
			if err != nil {
				return err
			}
			ends = append(ends, e.end)
			return e.one()
		}
		c, err := s.net.Dial(ctx)
		if err != nil {
			return err
		}
		ends = append(ends, func() { c.Close() })
		return s.first(ctx, c)
	}
	if err := open(); err != nil { // what is made once is there then
		return Figures{}, err
	}
	bytes, goroutines := Settle()
	for range n {
		if err := open(); err != nil {
			return Figures{}, err
		}
	}
	bytesAfter, goroutinesAfter := Settle()
	per := func(before, after int64) float64 { return float64(after-before) / float64(n) }
	return Figures{per(bytes, bytesAfter) / 1024, map[string]float64{"goroutines": per(goroutines, goroutinesAfter)}}, nil
}

// Settle waits until the number of goroutines rests, and returns it with the bytes of heap and stacks.
func Settle() (bytes, goroutines int64) {
	for same, last := 0, -1; same < 20; {
		time.Sleep(5 * time.Millisecond)
		if now := runtime.NumGoroutine(); now != last {
			same, last = 0, now
		}
		same++
	}
	runtime.GC()
	runtime.GC() // what pools held goes with the second
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse), int64(runtime.NumGoroutine())
}
