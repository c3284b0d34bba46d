package main

import (
	"fmt"
	"html"
	"io"
	"math"
	"slices"
	"strings"
)

// Sizes of the chart, in pixels.
const (
	chartWidth = 760
	labelWidth = 130
	barHeight  = 14
	groupGap   = 34
)

// writeSVG writes a chart: for each scenario, a bar for each peer, as long as its ratio to the baseline. Ratios are on a scale of
// logarithms, since they span two orders of magnitude.
func writeSVG(w io.Writer, r *results) error {
	type group struct {
		title string
		rows  []*row
	}
	var groups []group
	for _, row := range r.Rows {
		base := r.find(row.Scenario + "/" + baseline)
		if row.isScale() || base == nil || len(base.Rounds) == 0 || len(row.Rounds) == 0 {
			continue
		}
		i := slices.IndexFunc(groups, func(g group) bool { return g.title == row.Scenario })
		if i < 0 {
			i = len(groups)
			groups = append(groups, group{title: row.Scenario})
		}
		groups[i].rows = append(groups[i].rows, row)
	}
	var b strings.Builder
	y := 24
	for _, g := range groups {
		unit, better := g.rows[0].Unit, "more is better"
		if g.rows[0].Less {
			better = "less is better"
		}
		fmt.Fprintf(&b, `<text x="4" y="%d" font-weight="bold">%s, %s (%s)</text>`+"\n", y, html.EscapeString(g.title), html.EscapeString(unit), better)
		y += 8
		for _, row := range g.rows {
			x := ratio(row, r.find(row.Scenario+"/"+baseline), "")
			// A ratio of 1/16 is the left end, one of 16 the right.
			length := (math.Log2(max(x, 1e-9)) + 4) / 8 * (chartWidth - labelWidth - 150)
			fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="end">%s</text>`, labelWidth-6, y+barHeight-3, html.EscapeString(row.Peer))
			fmt.Fprintf(&b, `<rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"/>`, labelWidth, y, max(length, 1), barHeight-2, colour(row.Peer))
			fmt.Fprintf(&b, `<text x="%.1f" y="%d">%s (× %s)</text>`+"\n", labelWidth+max(length, 1)+5, y+barHeight-3, number(row.value("")), number(x))
			y += barHeight
		}
		y += groupGap
	}
	fmt.Fprintf(&b, `<text x="4" y="%d">bars: ratio to %s, logarithmic; %s, %s, %d cores, %s</text>`+"\n",
		y, baseline, html.EscapeString(r.Machine.Date), html.EscapeString(r.Machine.CPU), r.Machine.Cores, html.EscapeString(r.Machine.Go))
	_, err := fmt.Fprintf(w, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="11">
<rect width="100%%" height="100%%" fill="white"/>
%s</svg>
`, chartWidth, y+16, b.String())
	return err
}

func colour(peer string) string {
	switch peer {
	case "tcp", "mux", "quic":
		return "#2a7f62"
	case baseline:
		return "#555555"
	}
	return "#b0b8c0"
}
