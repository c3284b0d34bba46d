// Command libp2p measures go-libp2p for the benchmark above it. It is a module and a program of its own because go-libp2p does not
// build beside the quic-go that pheromones uses.
package main

import (
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/Blockchain-CN/pheromones/bench/harness"
)

func main() {
	list := flag.Bool("list", false, "print what there is to measure")
	child := flag.String("child", "", "measure one thing, named by its `key`")
	d := flag.Duration("time", time.Second, "how long to measure")
	flag.Parse()
	measures := harness.Cross(overTCP(), overQUIC())
	var err error
	if *list {
		err = harness.List(os.Stdout, measures)
	} else {
		err = harness.Child(os.Stdout, measures, *child, *d)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "libp2p:", err)
		os.Exit(1)
	}
}
