package conformance

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/Blockchain-CN/pheromones/conformance/internal/broken"
)

// BREAKAGES.md shows which rules catch which breakages. TestTable sees to it that it is current as far as it says what must be;
// what is caught besides is found by running every rule over every breakage, which "make breakages" does.

const (
	tableFile = "BREAKAGES.md"
	// matrixEnv names the file in which TestMatrix keeps what it has seen, so that it can be stopped and go on. It is not run
	// without.
	matrixEnv = "PHEROMONES_CONFORMANCE_MATRIX"
	// rowEnv names the breakage that a process runs rules over, and columnsEnv those rules.
	rowEnv, columnsEnv = "PHEROMONES_CONFORMANCE_ROW", "PHEROMONES_CONFORMANCE_COLUMNS"
	rowPrefix          = "conformance: row: "
	// tableEnv has TestTable write what must be, and keep of the rest what it can.
	tableEnv = "PHEROMONES_CONFORMANCE_TABLE"
	notRun   = "not run yet"
)

// suite is a table of rules and what proves it.
type suite struct {
	name      string
	rules     []Rule
	breakages []broken.Breakage
	sound     []broken.Ability // what it must find nothing wrong with
}

func suites() []suite {
	return []suite{
		{"transports", table(), broken.All(), []broken.Ability{broken.Any, broken.OverTCP, broken.OverUDP}},
		{"nodes", stackTable(), broken.Stack(), []broken.Ability{broken.Any, broken.OverTCP}},
	}
}

// soundRow names the row of a transport in which nothing is wrong.
func soundRow(suite string, a broken.Ability) string { return "sound " + suite + ": " + string(a) }

// results is what was seen: by breakage and rule, whether the rule caught it.
type results map[string]map[string]bool

// caughtBy returns the rules that caught a breakage, in the order of the table.
func (r results) caughtBy(rules []Rule, b *broken.Breakage) []string {
	var names []string
	for _, rule := range rules {
		if r[b.Name][rule.Name] {
			names = append(names, rule.Name)
		}
	}
	return names
}

// render returns the text of BREAKAGES.md. A row that has no results says so in its last column.
func render(r results) string {
	var b strings.Builder
	b.WriteString("# What proves the suite\n\n" +
		"Package `internal/broken` holds transports and nodes that are broken on purpose: each is sound but for one thing. Every rule was run over\n" +
		"every one of them; those that move much data only over memory, and where they are the ones that must catch it. `make breakages` makes this\n" +
		"file anew, which takes long, and fails if a breakage is not caught by its rule, if a sound transport is caught by any, or if two rules catch the\n" +
		"very same breakages. What must be caught is tested by `TestBroken`, always; what is caught besides may differ from run to run.\n")
	for _, s := range suites() {
		fmt.Fprintf(&b, "\n## Broken %s\n\n%d breakages.\n\n| what is wrong | over | must be caught by | is caught also by |\n| --- | --- | --- | --- |\n", s.name, len(s.breakages))
		for _, br := range s.breakages {
			also := slices.DeleteFunc(r.caughtBy(s.rules, &br), func(name string) bool { return name == br.Rule })
			text := strings.Join(also, ", ")
			switch n := len(also); {
			case r[br.Name] == nil:
				text = notRun
			case n > 8:
				text = fmt.Sprintf("%s and %d more", strings.Join(also[:6], ", "), n-6)
			}
			fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", br.Name, br.Needs, br.Rule, text)
		}
		fmt.Fprintf(&b, "\n## Rules about %s\n\n%d rules.\n\n| rule | is proved by | and catches |\n| --- | --- | --- |\n", s.name, len(s.rules))
		for _, rule := range s.rules {
			var must []string
			others, ran := 0, false
			for _, br := range s.breakages {
				if br.Rule == rule.Name {
					must = append(must, br.Name)
				} else if caught, there := r[br.Name][rule.Name]; there {
					ran = true
					if caught {
						others++
					}
				}
			}
			text := notRun
			if ran {
				text = fmt.Sprint(others, " more")
			}
			fmt.Fprintf(&b, "| %s/%s | %s | %s |\n", rule.Clause, rule.Name, strings.Join(must, "; "), text)
		}
	}
	return b.String()
}

// TestTable: BREAKAGES.md has every breakage and every rule, and says of each breakage which rule must catch it.
func TestTable(t *testing.T) {
	text, err := os.ReadFile(tableFile)
	if err != nil {
		t.Fatal(err)
	}
	got, want := strings.Split(string(text), "\n"), strings.Split(render(nil), "\n")
	if os.Getenv(tableEnv) != "" {
		old := make(map[string]string)
		for _, line := range got {
			old[mustBe(line)] = line
		}
		for i, line := range want {
			if row, there := old[mustBe(line)]; there {
				want[i] = row
			}
		}
		if err := os.WriteFile(tableFile, []byte(strings.Join(want, "\n")), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	for i := range max(len(got), len(want)) {
		if i >= len(got) || i >= len(want) || mustBe(got[i]) != mustBe(want[i]) {
			t.Fatalf("%s is not current, from line %d on; bring it up to date: make table", tableFile, i+1)
		}
	}
}

// mustBe returns a line of BREAKAGES.md without what was seen, the last column of its tables.
func mustBe(line string) string {
	cells := strings.Split(line, " | ")
	return strings.Join(cells[:max(1, len(cells)-1)], " | ")
}

// TestMatrix runs every rule over every breakage, in processes of their own, and writes BREAKAGES.md.
func TestMatrix(t *testing.T) {
	file := os.Getenv(matrixEnv)
	if file == "" {
		t.Skipf("it takes long: set %s to the file where it is to keep what it has seen, or make breakages", matrixEnv)
	}
	seen := make(results)
	if text, err := os.ReadFile(file); err == nil {
		if err := json.Unmarshal(text, &seen); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	var mu sync.Mutex // guards seen, but for the rows, which are one goroutine's each
	keep := func() {
		mu.Lock()
		defer mu.Unlock()
		text, err := json.MarshalIndent(seen, "", " ")
		if err == nil {
			err = os.WriteFile(file, text, 0o644)
		}
		if err != nil {
			t.Error(err)
		}
	}
	var all sync.WaitGroup
	places := make(chan struct{}, 4*runtime.NumCPU())
	run := func(row, over string, rules []Rule) {
		all.Go(func() {
			places <- struct{}{}
			defer func() { <-places }()
			mu.Lock()
			old := seen[row]
			mu.Unlock()
			cells := maps.Clone(old)
			if cells == nil {
				cells = make(map[string]bool)
			}
			if runRow(t, row, rules, cells) {
				mu.Lock()
				seen[row] = cells
				mu.Unlock()
				keep()
				t.Logf("%s (%s): %d rules catch it", row, over, countTrue(cells))
			}
		})
	}
	for _, s := range suites() {
		for _, a := range s.sound {
			run(soundRow(s.name, a), "", s.rules)
		}
		for _, b := range s.breakages {
			rules := slices.DeleteFunc(slices.Clone(s.rules), func(r Rule) bool { return r.heavy && b.Needs != broken.Any && r.Name != b.Rule })
			run(b.Name, string(b.Needs), rules)
		}
	}
	all.Wait()
	for _, s := range suites() {
		s.judge(t, seen)
	}
	if err := os.WriteFile(tableFile, []byte(render(seen)), 0o644); err != nil {
		t.Error(err)
	}
}

func countTrue(cells map[string]bool) (n int) {
	for _, yes := range cells {
		if yes {
			n++
		}
	}
	return n
}

// judge reports what the results say against the suite.
func (s *suite) judge(t *testing.T, seen results) {
	for _, a := range s.sound {
		for rule, yes := range seen[soundRow(s.name, a)] {
			if yes {
				t.Errorf("%s, sound, over %s: rule %s finds something wrong", s.name, a, rule)
			}
		}
	}
	catches := make(map[string][]string)
	for _, b := range s.breakages {
		if !seen[b.Name][b.Rule] {
			t.Errorf("%s: rule %s did not catch it", b.Name, b.Rule)
		}
		for _, rule := range s.rules {
			if seen[b.Name][rule.Name] {
				catches[rule.Name] = append(catches[rule.Name], b.Name)
			}
		}
	}
	for i, x := range s.rules {
		for _, y := range s.rules[:i] {
			if slices.Equal(catches[x.Name], catches[y.Name]) {
				t.Errorf("rules %s and %s catch the very same breakages, %q: either is redundant, or a breakage is missing", y.Name, x.Name, catches[x.Name])
			}
		}
	}
}

// runRow runs those of rules that cells lacks over a breakage, in other processes: one, and another whenever it breaks down,
// which counts as caught. It reports whether cells has changed.
func runRow(t *testing.T, row string, rules []Rule, cells map[string]bool) (changed bool) {
	for {
		var missing []string
		for _, r := range rules {
			if _, there := cells[r.Name]; !there {
				missing = append(missing, r.Name)
			}
		}
		if len(missing) == 0 {
			return changed
		}
		before := len(cells)
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestRow$", "-test.count=1", "-test.timeout=1h")
		cmd.Env = append(os.Environ(), rowEnv+"="+row, columnsEnv+"="+strings.Join(missing, " "))
		var errs bytes.Buffer
		cmd.Stderr = &errs
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Error(err)
			return changed
		}
		under := ""
		for lines := bufio.NewScanner(out); lines.Scan(); {
			text, ok := strings.CutPrefix(lines.Text(), rowPrefix)
			if !ok {
				continue
			}
			rule, verdict, _ := strings.Cut(text, " ")
			if under = rule; verdict != "begins" {
				under, cells[rule], changed = "", verdict == "caught", true
			}
		}
		err = cmd.Wait()
		if under != "" {
			cells[under], changed = true, true
		}
		if len(cells) == before {
			t.Errorf("%s: the process that was to run rules over it ran none: %v\n%s", row, err, errs.String())
			return changed
		}
	}
}

// TestRow is the process of a row.
func TestRow(t *testing.T) {
	row := os.Getenv(rowEnv)
	if row == "" {
		t.Skip("it is run by TestMatrix")
	}
	h, b, done := rowNamed(t, row)
	defer done()
	h.patience, h.Watchdog = 2*time.Second, 10*time.Second
	h.serveIfChild(t)
	traits, err := h.probe()
	if err != nil {
		t.Fatal(err)
	}
	for name := range strings.FieldsSeq(os.Getenv(columnsEnv)) {
		fmt.Println(rowPrefix + name + " begins")
		verdict := "passed"
		if caught(t, h, b, ruleNamed(t, name), traits) != nil {
			verdict = "caught"
		}
		fmt.Println(rowPrefix + name + " " + verdict)
	}
}

// rowNamed returns the harness of a row: of a breakage, or of what is sound.
func rowNamed(t *testing.T, row string) (h Transport, b *broken.Breakage, done func()) {
	for _, s := range suites() {
		for _, a := range s.sound {
			if soundRow(s.name, a) == row {
				b := &broken.Breakage{Name: row, Needs: a}
				h, done := breakBy(b)
				return h, b, done
			}
		}
		for _, b := range s.breakages {
			if b.Name == row {
				h, done := breakBy(&b)
				return h, &b, done
			}
		}
	}
	t.Fatalf("there is no row %q", row)
	return h, nil, nil
}
