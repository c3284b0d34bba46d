package stun

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// fakeSocket gives what is sent to a function.
type fakeSocket func(b []byte, to netip.AddrPort) error

func (s fakeSocket) WritePacket(b []byte, to netip.AddrPort) error { return s(b, to) }

// TestProberTimes: a server that is silent is asked at the RFC's times, though a send fails.
func TestProberTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var at []time.Duration
		p := NewProber(fakeSocket(func([]byte, netip.AddrPort) error {
			at = append(at, time.Since(start))
			return errors.New("the network is away")
		}), nil)
		results, err := p.Ask(t.Context(), v4)
		var silent *NoAnswerError
		if err != nil || len(results) != 1 || !errors.As(results[0].Err, &silent) || time.Since(start) != 39500*time.Millisecond {
			t.Errorf("%+v, %v after %v", results, err, time.Since(start))
		}
		const ms = time.Millisecond
		if want := []time.Duration{0, 500 * ms, 1500 * ms, 3500 * ms, 7500 * ms, 15500 * ms, 31500 * ms}; !slices.Equal(at, want) {
			t.Errorf("sent at %v, want %v", at, want)
		}
	})
}

// TestProberShared: many ask at once over one socket; each server loses the first request and answers the second twice.
func TestProberShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		seen := make(map[transactionID]bool)
		var p *Prober
		var answers sync.WaitGroup
		p = NewProber(fakeSocket(func(b []byte, to netip.AddrPort) error {
			mu.Lock()
			defer mu.Unlock()
			m, ok := parse(b)
			if !ok {
				t.Errorf("sent %x", b)
			} else if seen[m.TransactionID] {
				answers.Go(func() {
					answer := success(t, m.TransactionID, to)
					p.Receive(answer, to)
					p.Receive(answer, to)
				})
			}
			seen[m.TransactionID] = true
			return nil
		}), nil)
		var calls sync.WaitGroup
		for i := range 20 {
			calls.Go(func() {
				var servers []netip.AddrPort
				for j := range 10 {
					servers = append(servers, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i), byte(j)}), 4001))
				}
				start := time.Now()
				results, err := p.Ask(t.Context(), servers...)
				if err != nil || len(results) != len(servers) || time.Since(start) != 500*time.Millisecond {
					t.Errorf("%d results, %v after %v", len(results), err, time.Since(start))
				}
				for _, r := range results {
					if r.Err != nil || r.Mapped != r.Request.Server {
						t.Errorf("result %+v", r)
					}
				}
			})
		}
		calls.Wait()
		answers.Wait()
		if p.Receive(success(t, transactionID{}, v4), v4) {
			t.Error("took a packet while nobody asks")
		}
	})
}

func TestProberContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewProber(fakeSocket(func([]byte, netip.AddrPort) error { return nil }), nil)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		if _, err := p.Discover(ctx, v4); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		if len(p.calls) != 0 {
			t.Error("the call is still there")
		}
		var server *ServerError
		if _, err := p.Discover(t.Context(), v4); !errors.As(err, &server) || server.Server != v4 {
			t.Errorf("nobody answers: %v", err)
		}
		if _, err := p.Ask(t.Context(), v4, netip.AddrPort{}); !errors.Is(err, ErrBadServer) {
			t.Errorf("no server: %v", err)
		}
	})
}
