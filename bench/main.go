// Command bench compares pheromones with what programs would use in its place, on loopback: each measurement in a process of its own,
// peers by turns, round by round. README.md says what is measured and how.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"time"

	"github.com/Blockchain-CN/pheromones/bench/harness"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// measures are what this program can measure by itself.
func measures() []harness.Measure {
	peers := append(ours(), nodes()...)
	peers = append(peers, rawTCP(), plainTLS(), yamuxTLS(), smuxTLS(), quicGo(), grpcUnary(), grpcStream(), drpcUnary(), drpcStream())
	return append(harness.Cross(peers...), scale()...)
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	var o struct {
		list                       bool
		child, with, json, svg, ex string
		plan                       plan
	}
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.IntVar(&o.plan.Rounds, "rounds", 5, "how often each thing is measured")
	fs.DurationVar(&o.plan.Time, "time", time.Second, "how long one measurement takes")
	fs.BoolVar(&o.plan.Short, "short", false, "three rounds of 150ms, without the largest crowds; -rounds and -time do not count")
	fs.StringVar(&o.ex, "run", "", "measure only what matches the `regexp`, as in \"fresh-64/(mux|yamux)\"")
	fs.StringVar(&o.json, "json", "", "write all figures to this `file`")
	fs.StringVar(&o.svg, "svg", "", "write a chart to this `file`")
	fs.StringVar(&o.with, "with", "", "another `program` to measure with; by default ./libp2p is built, if it is there")
	fs.BoolVar(&o.list, "list", false, "list what there is to measure, as JSON")
	fs.StringVar(&o.child, "child", "", "measure one thing, named by its `key`, in this process, and print a line of JSON")
	if err := fs.Parse(args); err != nil {
		return err
	}
	switch {
	case fs.NArg() > 0:
		return fmt.Errorf("there is no argument %q; see -help", fs.Arg(0))
	case o.list:
		return harness.List(stdout, measures())
	case o.child != "":
		return harness.Child(stdout, measures(), o.child, o.plan.Time)
	}
	if o.plan.Short {
		o.plan.Rounds, o.plan.Time = 3, 150*time.Millisecond
	}
	if o.plan.Rounds < 1 || o.plan.Time <= 0 {
		return fmt.Errorf("%d rounds of %v: want more than none", o.plan.Rounds, o.plan.Time)
	}
	only, err := regexp.Compile(o.ex)
	if err != nil {
		return fmt.Errorf("-run: %w", err)
	}
	programs, done, err := programs(ctx, o.with, stderr)
	if err != nil {
		return err
	}
	defer done()
	r, err := o.plan.measure(ctx, programs, only, stderr)
	if err != nil {
		return err
	}
	if err := writeTable(stdout, r); err != nil {
		return err
	}
	if o.json != "" {
		if err := writeFile(o.json, r, writeJSON); err != nil {
			return err
		}
	}
	if o.svg != "" {
		return writeFile(o.svg, r, writeSVG)
	}
	return nil
}

func writeFile(name string, r *results, write func(io.Writer, *results) error) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	if err := write(f, r); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
