package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/Blockchain-CN/pheromones/conformance"
)

// outcome is how a rule ended, as --json shows it.
type outcome struct {
	Transport string  `json:"transport"`
	Suite     string  `json:"suite"`
	Clause    string  `json:"clause"`
	Rule      string  `json:"rule"`
	Result    string  `json:"result"` // "ok", "FAIL" or "skipped"
	MS        float64 `json:"ms"`
	Finding   string  `json:"finding,omitempty"`
	Skipped   string  `json:"skipped,omitempty"` // why
}

func outcomeOf(s *suite, r conformance.Result) outcome {
	o := outcome{Transport: s.transport, Suite: s.name, Clause: r.Rule.Clause, Rule: r.Rule.Name, Result: "ok", MS: ms(r.Elapsed), Skipped: r.Skipped}
	switch {
	case r.Err != nil:
		o.Result, o.Finding = "FAIL", r.Err.Error()
	case r.Skipped != "":
		o.Result = "skipped"
	}
	return o
}

// tally is the summary, of one suite or of all.
type tally struct {
	OK      int     `json:"ok"`
	Failed  int     `json:"failed"`
	Skipped int     `json:"skipped"`
	MS      float64 `json:"ms"`
	Stopped string  `json:"stopped,omitempty"` // why not every rule has run
}

// add counts a result.
func (t *tally) add(r conformance.Result) {
	switch {
	case r.Err != nil:
		t.Failed++
	case r.Skipped != "":
		t.Skipped++
	default:
		t.OK++
	}
}

// record is what came of a suite.
type record struct {
	*suite
	began   time.Time
	results []conformance.Result
	tally   tally
}

// check runs suites one after another, shows what comes of them, and writes it to the file junit, if that is not empty.
func (p *program) check(ctx context.Context, suites []suite, junit string) error {
	if err := canWriteTo(junit); err != nil {
		return err
	}
	began := time.Now()
	shown := p.newProgress(suites)
	var records []*record
	var broken error
	for i := range suites {
		rec := &record{suite: &suites[i], began: time.Now()}
		records = append(records, rec)
		broken = p.checkOne(ctx, rec, shown)
		rec.tally.MS = ms(time.Since(rec.began))
		if broken != nil {
			rec.tally.Stopped = oneLine(broken)
			break
		}
	}
	shown.finish()
	sum := tally{MS: ms(time.Since(began))}
	for _, rec := range records {
		sum.OK += rec.tally.OK
		sum.Failed += rec.tally.Failed
		sum.Skipped += rec.tally.Skipped
		sum.Stopped = rec.tally.Stopped
	}
	if p.json {
		p.object(sum)
	} else {
		p.conclude(records, sum)
	}
	written := writeJUnit(junit, records, time.Since(began))
	switch {
	case broken != nil:
		return errors.Join(broken, written)
	case sum.Failed > 0:
		return errors.Join(&exitError{exitBroken, fmt.Errorf("%d rules are broken", sum.Failed)}, written)
	}
	return written
}

// checkOne runs a suite. Its error says why not every rule has run.
func (p *program) checkOne(ctx context.Context, rec *record, shown *progress) error {
	shown.next(rec.suite, rec.rules[0])
	err := rec.run(ctx, func(r conformance.Result) {
		if ctx.Err() != nil {
			return // it was stopped in the middle
		}
		rec.results = append(rec.results, r)
		rec.tally.add(r)
		shown.apart(func() { p.outcome(outcomeOf(rec.suite, r)) })
		if n := len(rec.results); n < len(rec.rules) {
			shown.next(rec.suite, rec.rules[n])
		}
	})
	if ctx.Err() != nil {
		return errInterrupted
	}
	var gone *conformance.UnreachableError
	if errors.As(err, &gone) {
		return &exitError{exitUnreachable, fmt.Errorf("%v; %d rules were not tried", gone, len(rec.rules)-len(rec.results))}
	}
	var finding *conformance.Finding
	if err != nil && !errors.As(err, &finding) {
		return err // the suite did not even begin
	}
	return nil
}

// outcome shows how a rule ended.
func (p *program) outcome(o outcome) {
	if p.json {
		p.object(o)
		return
	}
	remark := ""
	if o.Skipped != "" {
		remark = "  (" + o.Skipped + ")"
	}
	p.line("%-4s  %-4s  %-28s  %-7s %9.1f ms%s", o.Transport, o.Clause, o.Rule, o.Result, o.MS, remark)
}

// conclude shows what was skipped and why, what was found, and a table.
func (p *program) conclude(records []*record, sum tally) {
	for _, rec := range records {
		var reasons []string
		rules := make(map[string][]string)
		for _, r := range rec.results {
			if r.Skipped != "" {
				if rules[r.Skipped] == nil {
					reasons = append(reasons, r.Skipped)
				}
				rules[r.Skipped] = append(rules[r.Skipped], r.Rule.Name)
			}
		}
		for _, reason := range reasons {
			p.line("\nskipped, %s/%s: %s:\n\t%s", rec.transport, rec.name, reason, strings.Join(rules[reason], ", "))
		}
	}
	for _, rec := range records {
		for _, r := range rec.results {
			if r.Err != nil {
				p.line("\n%s: %v", rec.transport, r.Err)
			}
		}
	}
	p.line("\n%-10s %-10s %6s %6s %7s %8s %10s", "transport", "suite", "rules", "hold", "broken", "skipped", "time")
	for _, rec := range records {
		t := rec.tally
		remark := ""
		if t.Stopped != "" {
			remark = fmt.Sprintf("  %d rules did not run", len(rec.rules)-len(rec.results))
		}
		p.line("%-10s %-10s %6d %6d %7d %8d %8.1f s%s", rec.transport, rec.name, len(rec.results), t.OK, t.Failed, t.Skipped, t.MS/1000, remark)
	}
	p.line("\n%d rules hold, %d are broken, %d were skipped, in %v", sum.OK, sum.Failed, sum.Skipped,
		time.Duration(sum.MS*float64(time.Millisecond)).Round(time.Millisecond))
}

// rulesOf returns how many rules suites have.
func rulesOf(suites []suite) (n int) {
	for _, s := range suites {
		n += len(s.rules)
	}
	return n
}
