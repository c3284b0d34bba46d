package conformance

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// clauses returns the numbers of the clauses of sections of SPEC.md.
func clauses(t *testing.T, sections ...string) map[string]bool {
	t.Helper()
	text, err := os.ReadFile("../SPEC.md")
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[string]bool)
	for _, name := range sections {
		_, section, ok := strings.Cut(string(text), "\n## "+name+":")
		if !ok {
			t.Fatalf("SPEC.md has no section %q", name)
		}
		section, _, _ = strings.Cut(section, "\n## ")
		for _, m := range regexp.MustCompile(`(?m)^- \*\*([A-Z]+[0-9]+)\.\*\*`).FindAllStringSubmatch(section, -1) {
			if found[m[1]] {
				t.Errorf("SPEC.md gives the number %s twice", m[1])
			}
			found[m[1]] = true
		}
	}
	if len(found) < 20 {
		t.Errorf("SPEC.md: want at least 20 clauses in the sections %q, found %d", sections, len(found))
	}
	return found
}

// tables are the suites, with the sections whose every clause must have a rule and those that rules may cite besides.
func tables() map[string]struct {
	rules     []Rule
	all, some []string
} {
	return map[string]struct {
		rules     []Rule
		all, some []string
	}{
		"transport": {Rules(), []string{"transport"}, nil},
		"stack":     {StackRules(), []string{"link", "router", "node"}, []string{"protocol", "greeting", "broadcast"}},
		"against":   {AgainstRules(), nil, []string{"transport", "tls", "tcp", "mux", "protocol", "greeting", "link", "router", "node"}},
	}
}

func TestEveryClauseHasARule(t *testing.T) {
	for name, table := range tables() {
		if len(table.all) == 0 {
			continue
		}
		missing := clauses(t, table.all...)
		for _, r := range table.rules {
			delete(missing, r.Clause)
		}
		for clause := range missing {
			t.Errorf("%s: SPEC.md's clause %s has no rule", name, clause)
		}
	}
}

func TestEveryRuleCitesAClause(t *testing.T) {
	for name, table := range tables() {
		known, names := clauses(t, append(table.all, table.some...)...), make(map[string]bool)
		for _, r := range table.rules {
			if !known[r.Clause] {
				t.Errorf("%s: rule %s cites %q, which SPEC.md does not have there", name, r.Name, r.Clause)
			}
			if names[r.Name] {
				t.Errorf("%s: two rules are called %s", name, r.Name)
			}
			names[r.Name] = true
			if !regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`).MatchString(r.Name) {
				t.Errorf("%s: rule %q: want a name of lower-case words with hyphens", name, r.Name)
			}
			if !strings.HasSuffix(r.Sentence, ".") || r.check == nil {
				t.Errorf("%s: rule %s: want a sentence and a check", name, r.Name)
			}
		}
	}
}
