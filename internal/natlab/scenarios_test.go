//go:build linux && natlab

package natlab

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"
)

var (
	runs  = flag.Int("natlab.runs", 1, "how often each scenario is tried; medians are shown")
	cells = flag.String("natlab.cells", "", "try only pairs whose name contains this")
)

// What theory says of a pair.
const (
	direct  = "direct"
	sprayed = "sprayed" // direct, but only by guessing ports
	relayed = "relayed"
)

// theory says what can be had between two kinds, whoever of them begins.
func theory(a, b string) string {
	pair := func(x, y string) bool { return a == x && b == y || a == y && b == x }
	switch {
	case pair("symmetric", "symmetric"), pair("symmetric", "UDP blocked"):
		return relayed // who keeps its ports for UDP but not for TCP is not there
	case pair("symmetric", "port-restricted"), pair("symmetric", "firewall"):
		return sprayed
	}
	return direct
}

// pair is one scenario.
type pair struct {
	name  string
	want  string
	hosts func(*world) (a, b *Host)
}

// behind makes a host behind a NAT of its own.
func behind(n NAT) func(*world) *Host {
	return func(w *world) *Host { return must(must(w.Router(n)).Host()) }
}

// pairs returns the matrix and, beside it, what cannot be said in two words.
func pairs() []pair {
	both := func(a, b func(*world) *Host) func(*world) (a, b *Host) {
		return func(w *world) (*Host, *Host) { return a(w), b(w) }
	}
	kinds := []struct {
		name string
		make func(*world) *Host
	}{
		{"public", func(w *world) *Host { return must(w.Public()) }},
		{"firewall", behind(firewall)},
		{"full cone", behind(fullCone)},
		{"restricted", behind(restricted)},
		{"port-restricted", behind(portRestricted)},
		{"symmetric", behind(symmetric)},
		{"UDP blocked", behind(noUDP)},
	}
	var pairs []pair
	for _, a := range kinds {
		for _, b := range kinds {
			pairs = append(pairs, pair{a.name + " → " + b.name, theory(a.name, b.name), both(a.make, b.make)})
		}
	}

	hairpin, newPorts, noUDPNewPorts := portRestricted, portRestricted, noUDP
	hairpin.Hairpin, newPorts.NewPorts, noUDPNewPorts.NewPorts = true, true, true
	double := func(outer, inner NAT) func(*world) *Host {
		return func(w *world) *Host { return must(must(must(w.Carrier(outer)).Router(inner)).Host()) }
	}
	oneNAT := func(n NAT) func(*world) (a, b *Host) {
		return func(w *world) (*Host, *Host) {
			r := must(w.Router(n))
			return must(r.Host()), must(r.Host())
		}
	}
	oneCarrier := func(n NAT) func(*world) (a, b *Host) {
		return func(w *world) (*Host, *Host) {
			c := must(w.Carrier(n))
			return must(must(c.Router(portRestricted)).Host()), must(must(c.Router(portRestricted)).Host())
		}
	}
	return append(pairs, []pair{
		{"two NATs → two NATs", direct, both(double(portRestricted, portRestricted), double(fullCone, portRestricted))},
		{"two NATs → port-restricted", direct, both(double(portRestricted, portRestricted), behind(portRestricted))},
		{"two NATs, one symmetric → restricted", direct, both(double(symmetric, fullCone), behind(restricted))},
		{"one NAT with hairpin", direct, oneNAT(hairpin)},
		{"one NAT without hairpin", direct, oneNAT(portRestricted)},
		{"one symmetric NAT", direct, oneNAT(symmetric)},
		{"one carrier with hairpin", direct, oneCarrier(hairpin)},
		{"one carrier without hairpin", relayed, oneCarrier(portRestricted)},
		{"new ports → new ports", direct, both(behind(newPorts), behind(newPorts))},
		{"new ports → symmetric", sprayed, both(behind(newPorts), behind(symmetric))},
		{"UDP blocked → UDP blocked, new ports", direct, both(behind(noUDP), behind(noUDPNewPorts))},
	}...)
}

// What is aimed at: the first reply by the relay, the first direct one, and the same where ports must be guessed.
const (
	aimRelayed = 260 * time.Millisecond
	aimDirect  = 400 * time.Millisecond
	aimSprayed = 5 * time.Second
	// patience is how long a pair that cannot be direct, or should long be, is looked at.
	patience = 3 * time.Second
)

// TestScenarios tries what two nodes behind NATs reach who know one relay: whether they are connected at all, and whether directly.
// The table is printed.
func TestScenarios(t *testing.T) {
	binary := build(t)
	var text strings.Builder
	table := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "pair\ttheory\tfound\tfirst reply\tdirect\t\n")
	for _, p := range pairs() {
		if !strings.Contains(p.name, *cells) {
			continue
		}
		w := newWorld(t, binary)
		var found []string
		var first, later []time.Duration
		for range *runs {
			wait := patience
			if p.want == sprayed {
				wait = time.Duration(*slack * float64(aimSprayed))
			}
			a, b := p.hosts(w)
			node, id := w.serve(b)
			o := w.ping(a, id, wait)
			node.kill()
			found = append(found, o.path())
			if o.relayed > 0 {
				first = append(first, o.relayed)
			}
			if o.direct > 0 {
				later = append(later, o.direct)
			}
			want := p.want
			if want == sprayed {
				want = direct
			}
			if o.path() != want {
				t.Errorf("%s: %s, theory says %s; the last line was %s", p.name, o.path(), p.want, o.last)
			}
		}
		w.close()
		slices.Sort(found)
		aim := aimDirect
		if p.want == sprayed {
			aim = aimSprayed
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t\n", p.name, p.want, strings.Join(slices.Compact(found), ", "),
			verdict(t, p.name+": the first reply", first, aimRelayed), verdict(t, p.name+": the first direct reply", later, aim))
	}
	table.Flush()
	fmt.Fprintf(os.Stdout, "\nMedians of %d, from the start of the program; links to the internet take 10 ms each way. ! is more than the aim of %v, %v directly, %v by guessing ports.\n%s\n",
		*runs, aimRelayed, aimDirect, aimSprayed, text.String())
}

// verdict shows the median of times and compares it with an aim.
func verdict(t *testing.T, what string, times []time.Duration, aim time.Duration) string {
	if len(times) == 0 {
		return "-"
	}
	slices.Sort(times)
	median := times[len(times)/2]
	s := fmt.Sprintf("%d ms", median.Milliseconds())
	if median > aim {
		s += " !"
	}
	if float64(median) > *slack*float64(aim) {
		t.Errorf("%s took %v, aim %v", what, median, aim)
	}
	return s
}
