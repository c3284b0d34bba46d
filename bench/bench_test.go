package main

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/Blockchain-CN/pheromones/bench/harness"
)

// TestMain lets the test's program be the child that it starts.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && (os.Args[1] == "-list" || os.Args[1] == "-child") {
		main()
		return
	}
	os.Exit(m.Run())
}

// TestMeasures runs all that is measured for a moment: every peer verifies its traffic, and every figure is there.
func TestMeasures(t *testing.T) {
	slow := regexp.MustCompile(`^(broadcast|routes|links)/...+`) // crowds take seconds to gather
	for _, m := range measures() {
		if m.Long || slow.MatchString(m.Key()) {
			continue
		}
		t.Run(m.Key(), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			f, err := m.Run(ctx, 5*time.Millisecond)
			if err != nil {
				t.Fatal(err)
			}
			if f.Value <= 0 && m.Scenario != "idle" { // what is idle may weigh less than what was there before
				t.Errorf("%v %s", f.Value, m.Unit)
			}
		})
	}
}

// TestRun takes a run of the whole, children and all, and looks at what it writes.
func TestRun(t *testing.T) {
	dir := t.TempDir()
	table, figures, chart := new(bytes.Buffer), filepath.Join(dir, "f.json"), filepath.Join(dir, "c.svg")
	none := filepath.Join(dir, "none")
	if err := os.WriteFile(none, []byte("#!/bin/sh\necho '[]'\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	args := []string{"-rounds", "2", "-time", "5ms", "-run", "^exchange/(mux|yamux|tls)$", "-json", figures, "-svg", chart, "-with", none}
	if err := run(t.Context(), args, table, io.Discard); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"| yamux |", "| mux |", "| mux, one stream, to yamux | ≥ 1.80 |", "allocs"} {
		if !strings.Contains(table.String(), want) {
			t.Errorf("the table lacks %q:\n%s", want, table)
		}
	}
	var r results
	text, err := os.ReadFile(figures)
	if err == nil {
		err = json.Unmarshal(text, &r)
	}
	if err != nil || len(r.Rows) != 3 || len(r.Rows[0].Rounds) != 2 {
		t.Errorf("the figures: %v, %s", err, text)
	}
	text, err = os.ReadFile(chart)
	if err == nil {
		err = xml.Unmarshal(text, new(struct{}))
	}
	if err != nil || !bytes.Contains(text, []byte("mux")) {
		t.Errorf("the chart: %v, %s", err, text)
	}
	for _, bad := range [][]string{{"word"}, {"-run", "("}, {"-run", "nothing"}, {"-rounds", "0"}, {"-child", "nothing"}, {"-with", filepath.Join(dir, "f.json")}} {
		if err := run(t.Context(), bad, io.Discard, io.Discard); err == nil {
			t.Errorf("%v: want an error", bad)
		}
	}
}

// TestRatio compares round by round: the median of ratios is not the ratio of medians.
func TestRatio(t *testing.T) {
	rounds := func(values ...float64) *row {
		r := new(row)
		for _, v := range values {
			r.Rounds = append(r.Rounds, harness.Figures{Value: v})
		}
		return r
	}
	a, b := rounds(10, 40, 30), rounds(5, 10, 30)
	if got := ratio(a, b, ""); got != 2 {
		t.Errorf("got %v, want 2", got)
	}
	if got := a.value(""); got != 30 {
		t.Errorf("the median: got %v, want 30", got)
	}
	if got := ratio(a, nil, ""); got != 0 {
		t.Errorf("without a base: got %v, want 0", got)
	}
	a.Measure = harness.Measure{Scenario: "s", Peer: "a"}
	b.Measure = harness.Measure{Scenario: "s", Peer: "b"}
	r := &results{Rows: []*row{a, b}}
	for want, goal := range map[bool]bar{true: {a: "s/a", b: "s/b", least: 2}, false: {a: "s/a", b: "s/b", most: 1.9}} {
		if got, met, ok := r.reached(goal); got != 2 || met != want || !ok {
			t.Errorf("%+v: got %v, met %v, measured %v", goal, got, met, ok)
		}
	}
	if _, _, ok := r.reached(bar{a: "s/a", b: "s/c", least: 1}); ok {
		t.Error("a goal without figures counts as measured")
	}
}
