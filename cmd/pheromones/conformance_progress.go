package main

import (
	"fmt"

	"github.com/schollz/progressbar/v3"

	"github.com/Blockchain-CN/pheromones/conformance"
)

// progress is the line on a terminal that shows which rule runs, and how many have. A nil progress shows nothing. It is for one
// goroutine.
type progress struct {
	bar  *progressbar.ProgressBar
	done int
}

// newProgress returns the progress of suites: nil unless standard error is a terminal.
func (p *program) newProgress(suites []suite) *progress {
	if !isTerminal(p.err) {
		return nil
	}
	return progressOn(p.err, suites)
}

func progressOn(w *output, suites []suite) *progress {
	return &progress{bar: progressbar.NewOptions(rulesOf(suites), progressbar.OptionSetWriter(w), progressbar.OptionShowCount(),
		progressbar.OptionSetWidth(20), progressbar.OptionSetPredictTime(false), progressbar.OptionSetElapsedTime(true),
		progressbar.OptionClearOnFinish())}
}

// next says which rule begins.
func (g *progress) next(s *suite, r conformance.Rule) {
	if g != nil {
		g.bar.Describe(fmt.Sprintf("%s/%s %s %-28s", s.transport, s.name, r.Clause, r.Name))
	}
}

// apart calls print, which shows how a rule has ended, with the line taken away, and counts the rule.
func (g *progress) apart(print func()) {
	if g == nil {
		print()
		return
	}
	g.bar.Clear()
	print()
	g.done++
	g.bar.Set(g.done)
}

// finish takes the line from the terminal.
func (g *progress) finish() {
	if g != nil {
		g.bar.Clear()
	}
}
