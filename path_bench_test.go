package pheromones_test

import (
	"context"
	"errors"
	"io"
	"slices"
	"testing"
	"time"

	"github.com/Blockchain-CN/pheromones"
	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/nat/relay"
	"github.com/Blockchain-CN/pheromones/quic"
	"github.com/Blockchain-CN/pheromones/router"
	"github.com/Blockchain-CN/pheromones/transport"
)

// fencedQUIC is a QUIC transport behind a NAT of sorts: Dial reaches one address only, and punching the others.
type fencedQUIC struct {
	*quic.Transport
	to transport.Addr
}

func (f fencedQUIC) Dial(ctx context.Context, a transport.Addr) (transport.Conn, error) {
	if a.HostPort != f.to.HostPort {
		return nil, &transport.OpError{Op: "dial", Addr: a, Err: errors.New("a NAT is in the way")}
	}
	return f.Transport.Dial(ctx, a)
}

// BenchmarkPath measures bulk on one stream of a service, by turns over a link that was dialled directly, one that began at a relay and
// moved to a direct path, and one that stays with the relay, all on QUIC. One iteration is 64 MiB on each, 16 on the last.
// The relay is in the same process and works for both directions, so that the relayed figure is what three nodes share.
func BenchmarkPath(b *testing.B) {
	const size = 64 << 20
	r := pathNode(b, pheromones.Config{Relay: &relay.Config{Rate: -1, PeerRate: -1}}, nil)
	serve := func(path pheromones.Path, join, fence *pheromones.Node) *pheromones.Node {
		cfg := pheromones.Config{Path: path}
		if join != nil {
			cfg.Join = join.Addrs()[:1]
		}
		n := pathNode(b, cfg, fence)
		l, err := n.Listen("sink")
		if err != nil {
			b.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				io.Copy(io.Discard, c)
				c.Close()
			}
		}()
		b.Cleanup(func() { l.Close(); <-done })
		return n
	}
	type pair struct {
		name     string
		from, to *pheromones.Node
		size     int64
		speeds   []float64 // MB/s
	}
	direct := &pair{name: "direct", from: pathNode(b, pheromones.Config{}, nil), to: serve(pheromones.PathRelayAllowed, nil, nil), size: size}
	if _, err := direct.from.Add(b.Context(), direct.to.Addrs()[0].String()); err != nil {
		b.Fatal(err)
	}
	join := r.Addrs()[:1]
	moved := &pair{name: "moved", from: pathNode(b, pheromones.Config{Join: join}, r), to: serve(pheromones.PathRelayAllowed, r, r), size: size}
	relayed := &pair{name: "relayed", from: pathNode(b, pheromones.Config{Path: pheromones.PathRelayOnly, Join: join}, nil),
		to: serve(pheromones.PathRelayOnly, r, nil), size: size / 4}
	pairs := []*pair{direct, moved, relayed}

	block := make([]byte, 64<<10)
	transfer := func(p *pair, size int64) time.Duration {
		c, err := p.from.Dial(b.Context(), p.to.ID().String(), "sink")
		if err != nil {
			b.Fatal(err)
		}
		defer c.Close()
		began := time.Now()
		for n := int64(0); n < size; n += int64(len(block)) {
			if _, err := c.Write(block); err != nil {
				b.Fatal(err)
			}
		}
		if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
			b.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, c); err != nil { // the sink closes when it has all
			b.Fatal(err)
		}
		return time.Since(began)
	}
	at := func(p *pair) transport.Addr {
		for _, route := range p.from.Routes() {
			if i := slices.IndexFunc(route.Links, func(l router.Link) bool { return l.Preferred }); route.ID == p.to.ID() && i >= 0 {
				return route.Links[i].Addr
			}
		}
		return transport.Addr{}
	}
	for _, p := range pairs {
		transfer(p, size/16)
	}
	for deadline := time.Now().Add(30 * time.Second); at(moved).Scheme != "quic"; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			b.Fatalf("the link stays with the relay: %+v", moved.from.Routes())
		}
	}
	if at(relayed).Scheme != relay.Scheme {
		b.Fatalf("the relayed link is at %v", at(relayed))
	}
	b.ResetTimer()
	for range b.N {
		for _, p := range pairs {
			p.speeds = append(p.speeds, float64(p.size)/1e6/transfer(p, p.size).Seconds())
		}
	}
	b.StopTimer()
	for _, p := range pairs {
		b.ReportMetric(median(p.speeds), p.name+"-MB/s")
		if p == direct {
			continue
		}
		ratios := slices.Clone(p.speeds)
		for i := range ratios {
			ratios[i] /= direct.speeds[i]
		}
		b.ReportMetric(median(ratios), p.name+"/direct")
	}
}

// pathNode returns a node with QUIC that listens on loopback. It can dial nobody but to, unless to is nil.
func pathNode(b *testing.B, cfg pheromones.Config, to *pheromones.Node) *pheromones.Node {
	b.Helper()
	key, err := identity.Generate()
	if err != nil {
		b.Fatal(err)
	}
	tr, err := quic.New(key, nil)
	if err != nil {
		b.Fatal(err)
	}
	cfg.Transports = []transport.Transport{tr}
	if to != nil {
		cfg.Transports[0] = fencedQUIC{tr, to.Addrs()[0]}
	}
	n, err := pheromones.New(cfg)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { n.Close() })
	if err := n.Start(b.Context(), "quic://127.0.0.1:0"); err != nil {
		b.Fatal(err)
	}
	if err := n.Joined(b.Context()); err != nil {
		b.Fatal(err)
	}
	return n
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}
