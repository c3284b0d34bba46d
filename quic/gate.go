package quic

import (
	"context"
	"errors"
	"sync"
	"time"

	quicgo "github.com/quic-go/quic-go"
)

// gate counts the handshakes that peers began, to bound them.
type gate struct {
	max int

	mu sync.Mutex
	n  int            // under way
	wg sync.WaitGroup // the functions that await their end
}

var errTooManyHandshakes = errors.New("quic: too many handshakes under way")

type gateKey struct{}

// enter is a quicgo.Transport.ConnContext. ctx ends with the connection or its handshake.
func (g *gate) enter(ctx context.Context, _ *quicgo.ClientInfo) (context.Context, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.n >= g.max {
		return nil, errTooManyHandshakes
	}
	g.n++
	g.wg.Add(1)
	leave := sync.OnceFunc(func() {
		g.mu.Lock()
		g.n--
		g.mu.Unlock()
		g.wg.Done()
	})
	stop := context.AfterFunc(ctx, leave)
	return context.WithValue(ctx, gateKey{}, func() {
		stop()
		leave()
	}), nil
}

// done takes a connection whose handshake is done out of the count.
func (g *gate) done(q *quicgo.Conn) { q.Context().Value(gateKey{}).(func())() }

// full reports whether the share 1/part of the gate is taken.
func (g *gate) full(part int) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.n >= (g.max+part-1)/part
}

// hurried returns a GetConfigForClient that lets silent peers go sooner while half of the gate is taken.
func (g *gate) hurried(conf *quicgo.Config) func(*quicgo.ClientInfo) (*quicgo.Config, error) {
	hurry := conf.Clone()
	hurry.HandshakeIdleTimeout = max(conf.HandshakeIdleTimeout/5, time.Millisecond)
	return func(*quicgo.ClientInfo) (*quicgo.Config, error) {
		if g.full(2) {
			return hurry, nil
		}
		return conf, nil
	}
}
