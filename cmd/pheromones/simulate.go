package main

import (
	"errors"
	"fmt"
	"runtime/debug"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/Blockchain-CN/pheromones/router/gossip/simulate"
)

func (p *program) simulateCommand() *cobra.Command {
	var cfg simulate.Config
	cmd := &cobra.Command{
		Use:   "simulate",
		Short: "Simulate broadcasts in a large network",
		Long: `Runs the broadcast of this program at many peers in virtual time, in this process: the peers join one after the other, some
of them broadcast, and if --churn says so many crash at once. Beside it, over the same graph and latencies (10 to 100 ms an
edge), plain flooding and the rules of gossipsub. Frames that are lost are not told to anybody; a crash is noticed by the
neighbours after 1 to 2 s. Signatures are replaced by checksums. The same flags print the same figures.

  coverage   deliveries of those due: to every node connected with the sender at the end
  RMR        relative message redundancy: payloads sent / (receivers - 1) - 1
  depth      edges from the sender to the last node (and on average)
  last       time until the last node had it: on average and at worst (and to a node, on average)
  control    other frames for each broadcast and node, and their bytes; with timers' share, so they depend on how often is broadcast
  healing    after the crash: until every survivor had what was broadcast in that moment`,
		Example: `  pheromones simulate --peers 10000
  pheromones simulate --peers 10000 --senders 100 --warmup 4
  pheromones simulate --peers 1000 --churn 0.3 --loss 0.05 --seed 7
  pheromones simulate --json                               one object`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return p.simulate(cmd, cfg) },
	}
	f := cmd.Flags()
	f.IntVar(&cfg.Peers, "peers", 1000, "how many peers there are")
	f.IntVar(&cfg.Degree, "degree", 6, "how many neighbours each of them wants")
	f.IntVar(&cfg.Senders, "senders", 1, "how many of them broadcast, all at once")
	f.IntVar(&cfg.WarmUp, "warmup", 6, "broadcasts of each sender before those that are measured")
	f.IntVar(&cfg.Messages, "messages", 4, "broadcasts of each sender that are measured, and as many again after the crash")
	f.IntVar(&cfg.Size, "size", 1024, "bytes of each broadcast")
	f.Float64Var(&cfg.Loss, "loss", 0, "the share of frames that are lost, of every kind and from the start")
	f.Float64Var(&cfg.Churn, "churn", 0, "the share of peers that crash at once; senders do not")
	f.Uint64Var(&cfg.Seed, "seed", 1, "of all randomness")
	p.jsonFlag(cmd, "one object")
	return cmd
}

func (p *program) simulate(cmd *cobra.Command, cfg simulate.Config) error {
	for _, flag := range []string{"peers", "degree", "senders", "warmup", "messages", "size"} {
		if cmd.Flag(flag).Value.String() == "0" {
			return usagef("--%s 0: want at least 1", flag)
		}
	}
	// The state of all nodes is live, so collecting garbage often finds little.
	defer debug.SetGCPercent(debug.SetGCPercent(200))
	start := time.Now()
	progress := func(what string) {
		if p.verbose {
			p.note("%6.1f s: %s", time.Since(start).Seconds(), what)
		}
	}
	r, err := simulate.Run(cmd.Context(), cfg, progress)
	switch {
	case errors.Is(err, simulate.ErrConfig):
		return &exitError{exitUsage, err}
	case interrupted(cmd.Context()):
		return errInterrupted
	case err != nil:
		return err
	case p.json:
		p.object(r)
	default:
		p.showSimulation(r)
		p.note("%d events in %.1f s", r.Events, time.Since(start).Seconds())
	}
	return nil
}

func (p *program) showSimulation(r *simulate.Report) {
	p.line("%d peers, %d senders, %d bytes, loss %g, churn %g, seed %d", r.Peers, r.Senders, r.Size, r.Loss, r.Churn, r.Seed)
	p.showGraph("overlay", r.Graph)
	p.showRows("after the warm-up", r.Steady)
	if r.Healed != nil {
		p.line("")
		p.showGraph("survivors, at the end", *r.Healed)
		p.showRows("from the crash on", r.Crashed)
	}
}

func (p *program) showGraph(name string, g simulate.Graph) {
	p.line("%s: %d of %d nodes connected, degree %d to %d (%.2f on average), diameter %d (exact)", name, g.Connected, g.Nodes,
		g.MinDegree, g.MaxDegree, g.Degree, g.Diameter)
}

func (p *program) showRows(title string, rows []simulate.Row) {
	t := tabwriter.NewWriter(p.out, 0, 0, 2, ' ', 0)
	defer t.Flush()
	fmt.Fprintf(t, "%s\tbroadcasts\tcoverage\tRMR\tdepth\tlast\tcontrol\thealing\n", title)
	for _, r := range rows {
		healing := "-"
		switch {
		case r.Healing > 0:
			healing = fmt.Sprintf("%.0f ms", r.Healing)
		case r.Healing < 0:
			healing = "never"
		}
		coverage := fmt.Sprintf("%.4f %%", 100*r.Coverage)
		if r.Missed == 0 {
			coverage = "100 %"
		}
		fmt.Fprintf(t, "%s\t%d\t%s\t%.4f\t%d (%.1f)\t%.0f, %.0f (%.0f) ms\t%.1f, %.0f B\t%s\n", r.Protocol, r.Broadcasts, coverage, r.RMR,
			r.MaxHops, r.MeanHops, r.MeanLast, r.MaxLast, r.MeanLatency, r.Control, r.ControlBytes, healing)
	}
}
