// Command pheromones runs nodes and talks to them from a shell: see "pheromones --help".
package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	ignored := func() { signal.Reset(os.Interrupt, syscall.SIGTERM) }
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr, signals, ignored))
}
