package conformance

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// clauses returns the numbers of the clauses of SPEC.md's section about transports.
func clauses(t *testing.T) map[string]bool {
	t.Helper()
	text, err := os.ReadFile("../SPEC.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(text), "\n## transport")
	if !ok {
		t.Fatal("SPEC.md has no section about transports")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	found := make(map[string]bool)
	for _, m := range regexp.MustCompile(`(?m)^- \*\*([A-Z]+[0-9]+)\.\*\*`).FindAllStringSubmatch(section, -1) {
		if found[m[1]] {
			t.Errorf("SPEC.md gives the number %s twice", m[1])
		}
		found[m[1]] = true
	}
	if len(found) < 50 {
		t.Errorf("SPEC.md: want at least 50 clauses about transports, found %d", len(found))
	}
	return found
}

func TestEveryClauseHasARule(t *testing.T) {
	missing := clauses(t)
	for _, r := range Rules() {
		delete(missing, r.Clause)
	}
	for clause := range missing {
		t.Errorf("SPEC.md's clause %s has no rule", clause)
	}
}

func TestEveryRuleCitesAClause(t *testing.T) {
	known, names := clauses(t), make(map[string]bool)
	for _, r := range Rules() {
		if !known[r.Clause] {
			t.Errorf("rule %s cites %q, which SPEC.md does not have", r.Name, r.Clause)
		}
		if names[r.Name] {
			t.Errorf("two rules are called %s", r.Name)
		}
		names[r.Name] = true
		if !regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`).MatchString(r.Name) {
			t.Errorf("rule %q: want a name of lower-case words with hyphens", r.Name)
		}
		if !strings.HasSuffix(r.Sentence, ".") || r.check == nil {
			t.Errorf("rule %s: want a sentence and a check", r.Name)
		}
	}
}
