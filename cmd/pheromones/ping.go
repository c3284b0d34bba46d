package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/spf13/cobra"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/nat/relay"
	"github.com/Blockchain-CN/pheromones/router"
	"github.com/Blockchain-CN/pheromones/transport"
)

func (p *program) pingCommand() *cobra.Command {
	var count int
	var interval time.Duration
	flags := clientFlags{}
	cmd := &cobra.Command{
		Use:   "ping [flags] ADDR",
		Short: "See whether a node is there, and how far away",
		Long: `Sends an empty message after another and shows how long each reply takes, until -c of them were sent or Ctrl-C; then
minimum, average, maximum and standard deviation. A time that includes setting up the connection is marked: that is the
first one, and over tcp, where each message has a connection of its own, every one. Every node answers, whatever its
program does.

With --join the node may be given by its ID: it is then reached through the nodes that were joined, and directly as soon as that works. Each line says whether
its path is direct or relayed, and a line of its own tells when it changes.

The exit code is 0 if there was a reply, 1 if there was none, and 3 if somebody else than the ID in ADDR has answered.`,
		Example: `  pheromones ping quic://<id>@192.0.2.7:4001
  pheromones ping -c 5 -i 100ms mux://192.0.2.7:4002     whoever it is; five times, ten a second
  pheromones ping --join quic://<id>@192.0.2.7:4001 <id of another>
  pheromones ping -c 1 --json tcp://192.0.2.7:4003       {"seq", "ms", "setup", "path", "transport", "from", "addr"}, then a summary`,
		Args: wantArgs("ADDR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if count < 0 || interval < 0 {
				return usagef("-c and -i must not be negative")
			}
			return p.ping(cmd.Context(), &flags, args[0], count, interval)
		},
	}
	cmd.Flags().IntVarP(&count, "count", "c", 0, "how `many` to send; 0 is until interrupted")
	cmd.Flags().DurationVarP(&interval, "interval", "i", time.Second, "how long from one to the next")
	flags.add(cmd, "each of them")
	p.jsonFlag(cmd, "one object for each, and one for the summary")
	return cmd
}

// pong is one line of ping as --json shows it.
type pong struct {
	Seq       int         `json:"seq"`
	MS        float64     `json:"ms"`
	Setup     bool        `json:"setup"` // the time includes setting up a connection
	Path      string      `json:"path"`  // "direct" or "relayed"
	Transport string      `json:"transport"`
	From      identity.ID `json:"from"`
	Addr      string      `json:"addr"`
}

// noPong is the line of a ping without a reply.
type noPong struct {
	Seq   int    `json:"seq"`
	Error string `json:"error"`
}

// pings is the summary.
type pings struct {
	Addr     string  `json:"addr"`
	Sent     int     `json:"sent"`
	Received int     `json:"received"`
	Loss     float64 `json:"loss"` // 0 to 1
	Min      float64 `json:"min_ms"`
	Avg      float64 `json:"avg_ms"`
	Max      float64 `json:"max_ms"`
	Mdev     float64 `json:"mdev_ms"`

	sum, squares float64
}

// add takes a reply into account.
func (s *pings) add(ms float64) {
	s.Min = min(s.Min, ms)
	if s.Received == 0 {
		s.Min = ms
	}
	s.Received++
	s.Max = max(s.Max, ms)
	s.sum += ms
	s.squares += ms * ms
}

// finish computes what depends on all of them.
func (s *pings) finish() {
	if s.Sent > 0 {
		s.Loss = 1 - float64(s.Received)/float64(s.Sent)
	}
	if s.Received > 0 {
		n := float64(s.Received)
		s.Avg = round3(s.sum / n)
		s.Mdev = round3(math.Sqrt(max(0, s.squares/n-(s.sum/n)*(s.sum/n))))
	}
}

func round3(x float64) float64 { return math.Round(x*1000) / 1000 }

func (p *program) ping(ctx context.Context, flags *clientFlags, addr string, count int, interval time.Duration) error {
	c, err := p.newClient(ctx, flags, addr)
	if err != nil {
		return err
	}
	defer c.Close()
	if !p.json {
		p.line("PING %s", c.to)
	}
	all := pings{Addr: c.to}
	var last error
	for seq := 1; count == 0 || seq <= count; seq++ {
		next := time.NewTimer(interval)
		err := p.pingOnce(ctx, flags, c, seq, &all)
		if ctx.Err() == nil || err == nil {
			all.Sent++
		}
		if err != nil && ctx.Err() == nil {
			last = err
			p.unanswered(seq, err)
		}
		if errors.Is(err, identity.ErrWrongPeer) || seq == count {
			break
		}
		select {
		case <-next.C:
			continue
		case <-ctx.Done():
		}
		break
	}
	all.finish()
	p.summary(&all)
	switch {
	case all.Received > 0:
		return nil
	case errors.Is(last, identity.ErrWrongPeer):
		return last
	case last == nil:
		return &exitError{exitFailed, errors.New("interrupted before a reply came")}
	}
	return &exitError{exitFailed, fmt.Errorf("no reply from %s", c.to)}
}

// pingOnce sends one and shows the reply.
func (p *program) pingOnce(ctx context.Context, flags *clientFlags, c *client, seq int, all *pings) error {
	ctx, cancel := flags.bound(ctx)
	defer cancel()
	before := linkOf(c)
	elapsed, err := c.Ping(ctx, c.to)
	if err != nil {
		return err
	}
	all.add(ms(elapsed))
	at := c.addr
	r, known := c.route()
	if known {
		at.Peer = r.ID
	}
	after := linkOf(c)
	if (c.joined || at.HostPort == "") && !after.Addr.IsZero() {
		at = after.Addr
	}
	setup := after.Since.IsZero() || before.Since != after.Since
	if c.path != "" && !after.Addr.IsZero() && after.Addr.String() != c.path {
		p.moved(c.path, after.Addr.String())
	}
	if !after.Addr.IsZero() {
		c.path = after.Addr.String()
	}
	if p.json {
		p.object(pong{seq, ms(elapsed), setup, pathOf(at), at.Scheme, at.Peer, at.String()})
		return nil
	}
	remark := ""
	if setup {
		remark = " (with set-up)"
	}
	p.line("reply from %s: seq=%d time=%.3f ms path=%s transport=%s addr=%s%s", at.Peer, seq, ms(elapsed), pathOf(at), at.Scheme, at.HostPort, remark)
	return nil
}

// pathOf says in a word how an address leads to a peer.
func pathOf(at transport.Addr) string {
	if at.Scheme == relay.Scheme {
		return "relayed"
	}
	return "direct"
}

// moved tells that what is said to the peer takes another way from now on.
func (p *program) moved(from, to string) {
	if p.json {
		p.object(pathEvent{"path", from, to})
		return
	}
	p.line("path: %s -> %s", from, to)
}

// pathEvent is the line of a change of path.
type pathEvent struct {
	Event string `json:"event"` // "path"
	From  string `json:"from"`
	To    string `json:"to"`
}

// linkOf returns the link with the peer that is in use, or the newest; zero if there is none.
func linkOf(c *client) router.Link {
	r, ok := c.route()
	if !ok || len(r.Links) == 0 {
		return router.Link{}
	}
	for _, l := range r.Links {
		if l.Preferred {
			return l
		}
	}
	return r.Links[len(r.Links)-1]
}

func (p *program) unanswered(seq int, err error) {
	if p.json {
		p.object(noPong{seq, oneLine(err)})
		return
	}
	p.line("no reply: seq=%d: %s", seq, oneLine(err))
}

func (p *program) summary(s *pings) {
	if p.json {
		p.object(s)
		return
	}
	p.line("--- %s ---", s.Addr)
	text := fmt.Sprintf("%d sent, %d received, %.0f%% lost", s.Sent, s.Received, 100*s.Loss)
	if s.Received > 0 {
		text += fmt.Sprintf(", min/avg/max/mdev = %.3f/%.3f/%.3f/%.3f ms", s.Min, s.Avg, s.Max, s.Mdev)
	}
	p.line("%s", text)
}
