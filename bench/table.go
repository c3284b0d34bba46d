package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// baseline is the peer that the others' ratios are to.
const baseline = "yamux"

// number writes a figure with about three digits.
func number(v float64) string {
	digits := 0
	switch {
	case v < 1:
		digits = 3
	case v < 10:
		digits = 2
	case v < 100:
		digits = 1
	}
	return strconv.FormatFloat(v, 'f', digits, 64)
}

// writeTable writes the tables, in Markdown: peers by scenarios, how costs grow, goals, and what is missing.
func writeTable(w io.Writer, r *results) error {
	var b strings.Builder
	m := r.Machine
	fmt.Fprintf(&b, "%s, %s, %s/%s, %s, %d cores; %d rounds of %v\n\n", m.Date, m.Go, m.OS, m.Arch, m.CPU, m.Cores, r.Plan.Rounds, r.Plan.Time)
	r.peers(&b)
	r.growth(&b)
	r.goals(&b)
	for _, row := range r.Rows {
		switch {
		case row.Error != "":
			fmt.Fprintf(&b, "- %s failed: %s\n", row.Key(), strings.ReplaceAll(row.Error, "\n", "; "))
		case row.Skip != "":
			fmt.Fprintf(&b, "- %s was skipped: %s\n", row.Key(), row.Skip)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// isScale reports whether the row's "peer" is a number of something.
func (r *row) isScale() bool {
	_, err := strconv.Atoi(r.Peer)
	return err == nil
}

func (r *results) peers(b *strings.Builder) {
	var scenarios, peers []string
	for _, row := range r.Rows {
		if row.isScale() {
			continue
		}
		if !slices.Contains(scenarios, row.Scenario) {
			scenarios = append(scenarios, row.Scenario)
		}
		if !slices.Contains(peers, row.Peer) {
			peers = append(peers, row.Peer)
		}
	}
	if len(peers) == 0 {
		return
	}
	fmt.Fprintf(b, "| (× %s) |", baseline)
	for _, s := range scenarios {
		i := slices.IndexFunc(r.Rows, func(row *row) bool { return row.Scenario == s })
		fmt.Fprintf(b, " %s %s |", s, r.Rows[i].Unit)
	}
	b.WriteString("\n|---|" + strings.Repeat("---:|", len(scenarios)) + "\n")
	for _, p := range peers {
		fmt.Fprintf(b, "| %s |", p)
		for _, s := range scenarios {
			row := r.find(s + "/" + p)
			if row == nil || len(row.Rounds) == 0 {
				b.WriteString(" |")
				continue
			}
			b.WriteString(" " + number(row.value("")))
			if x := ratio(row, r.find(s+"/"+baseline), ""); x > 0 && p != baseline {
				b.WriteString(" (" + number(x) + ")")
			}
			b.WriteString(" |")
		}
		b.WriteString("\n")
	}
	b.WriteString("\nBeside these:\n\n")
	for _, s := range scenarios {
		for _, p := range peers {
			if row := r.find(s + "/" + p); row != nil && len(row.Rounds) > 0 {
				row.extras(b)
			}
		}
	}
	b.WriteString("\n")
}

// extras writes the further figures of a row, if it has any.
func (r *row) extras(b *strings.Builder) {
	names := slices.Sorted(maps.Keys(r.Rounds[0].Extra))
	if len(names) == 0 {
		return
	}
	fmt.Fprintf(b, "- %s:", r.Key())
	for i, name := range names {
		if i > 0 {
			b.WriteString(",")
		}
		fmt.Fprintf(b, " %s %s", name, number(r.value(name)))
	}
	b.WriteString("\n")
}

func (r *results) growth(b *strings.Builder) {
	head := false
	for _, row := range r.Rows {
		if !row.isScale() || len(row.Rounds) == 0 {
			continue
		}
		if !head {
			head = true
			b.WriteString("| how costs grow | of | µs each | besides |\n|---|---:|---:|---|\n")
		}
		var extra strings.Builder
		for i, name := range slices.Sorted(maps.Keys(row.Rounds[0].Extra)) {
			if i > 0 {
				extra.WriteString(", ")
			}
			extra.WriteString(name + " " + number(row.value(name)))
		}
		fmt.Fprintf(b, "| %s | %s | %s | %s |\n", row.Scenario, row.Peer, number(row.value("")), extra.String())
	}
	if head {
		b.WriteString("\n")
	}
}

func (r *results) goals(b *strings.Builder) {
	head := false
	for _, bar := range bars() {
		got, met, ok := r.reached(bar)
		if !ok {
			continue
		}
		if !head {
			head = true
			b.WriteString("| goal | wanted | reached | |\n|---|---:|---:|---|\n")
		}
		want, verdict := "≥ "+number(bar.least), "missed"
		if bar.most > 0 {
			want = "≤ " + number(bar.most)
		}
		if met {
			verdict = "met"
		}
		fmt.Fprintf(b, "| %s | %s | %s | %s |\n", bar.what, want, number(got), verdict)
	}
	if head {
		b.WriteString("\n")
	}
}

func writeJSON(w io.Writer, r *results) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "\t")
	return e.Encode(r)
}
