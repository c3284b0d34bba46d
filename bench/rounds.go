package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"time"

	"github.com/Blockchain-CN/pheromones/bench/harness"
)

// plan says how much is measured.
type plan struct {
	Rounds int           `json:"rounds"`
	Time   time.Duration `json:"time_ns"`
	Short  bool          `json:"short"`
}

// program is an executable that measures, and what it can measure.
type program struct {
	path     string
	measures []harness.Measure
}

// programs returns this program and the other one; done removes what was built.
func programs(ctx context.Context, with string, log io.Writer) (list []program, done func(), err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, nil, err
	}
	done = func() {}
	paths := []string{self}
	if with == "" {
		if _, err := os.Stat(filepath.Join("libp2p", "go.mod")); err == nil {
			dir, err := os.MkdirTemp("", "bench")
			if err != nil {
				return nil, nil, err
			}
			done = func() { os.RemoveAll(dir) }
			with = filepath.Join(dir, "libp2p")
			build := exec.CommandContext(ctx, "go", "build", "-o", with, ".")
			build.Dir = "libp2p"
			if out, err := build.CombinedOutput(); err != nil {
				fmt.Fprintf(log, "go-libp2p is left out, since it cannot be built: %v\n%s", err, out)
				with = ""
			}
		}
	}
	if with != "" {
		paths = append(paths, with)
	}
	for _, path := range paths {
		p := program{path: path}
		out, err := exec.CommandContext(ctx, path, "-list").Output()
		if err == nil {
			err = json.Unmarshal(out, &p.measures)
		}
		if err != nil {
			done()
			return nil, nil, fmt.Errorf("%s -list: %w", path, err)
		}
		list = append(list, p)
	}
	return list, done, nil
}

// row is one thing that is measured, with what came of it.
type row struct {
	harness.Measure
	program string
	Rounds  []harness.Figures // one of each round; those that failed are missing from none, since a failure ends the row
	Skip    string            `json:",omitempty"`
	Error   string            `json:",omitempty"`
}

// results are what a run has measured.
type results struct {
	Machine machine `json:"machine"`
	Plan    plan    `json:"plan"`
	Rows    []*row  `json:"rows"`
}

// measure runs the rounds: in each, everything that matches is measured once, the peers of one scenario one after the other.
func (p plan) measure(ctx context.Context, programs []program, only *regexp.Regexp, log io.Writer) (*results, error) {
	r := &results{Machine: thisMachine(), Plan: p}
	for _, scenario := range scenarioOrder(programs) {
		for _, prog := range programs {
			for _, m := range prog.measures {
				if m.Scenario == scenario && only.MatchString(m.Key()) && !(p.Short && m.Long) {
					r.Rows = append(r.Rows, &row{Measure: m, program: prog.path})
				}
			}
		}
	}
	if len(r.Rows) == 0 {
		return nil, errors.New("-run leaves nothing to measure; see -list")
	}
	for round := range p.Rounds {
		began := time.Now()
		for _, row := range r.Rows {
			if row.Skip != "" || row.Error != "" {
				continue
			}
			report, err := child(ctx, row.program, row.Key(), p.Time)
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			if err != nil {
				report.Error = err.Error()
			}
			row.Skip, row.Error = report.Skip, report.Error
			if row.Error != "" {
				fmt.Fprintf(log, "%s: %s\n", row.Key(), row.Error)
			}
			if row.Skip == "" && row.Error == "" {
				row.Rounds = append(row.Rounds, report.Figures)
			}
		}
		fmt.Fprintf(log, "round %d of %d: %v\n", round+1, p.Rounds, time.Since(began).Round(time.Second))
	}
	return r, nil
}

func scenarioOrder(programs []program) (names []string) {
	seen := make(map[string]bool)
	for _, p := range programs {
		for _, m := range p.measures {
			if !seen[m.Scenario] {
				seen[m.Scenario] = true
				names = append(names, m.Scenario)
			}
		}
	}
	return names
}

// child measures one thing in a process of its own.
func child(ctx context.Context, path, key string, d time.Duration) (r harness.Report, err error) {
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, path, "-child", key, "-time", d.String())
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err == nil {
		err = json.Unmarshal(out, &r)
	}
	if err != nil {
		return r, fmt.Errorf("%w: %.2000s", err, stderr.Bytes())
	}
	return r, nil
}
