package websocket_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/Blockchain-CN/pheromones/conformance"
	"github.com/Blockchain-CN/pheromones/examples/websocket"
	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/transport"
)

// What docs/write-your-own-transport.md says must be true of this folder.

// stub is a transport to begin with.
type stub struct{ key identity.Key }

func (s stub) Dial(ctx context.Context, addr transport.Addr) (transport.Conn, error) {
	return nil, &transport.OpError{Op: "dial", Addr: addr, Err: errors.ErrUnsupported}
}

func (s stub) Listen(ctx context.Context, addr transport.Addr) (transport.Listener, error) {
	return nil, &transport.OpError{Op: "listen", Addr: addr, Err: errors.ErrUnsupported}
}

func (s stub) Traits() transport.Traits {
	return transport.Traits{Scheme: "wss", LocalPeer: s.key.ID(), OneStream: true}
}

func (s stub) Close() error { return nil }

func guide(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../docs/write-your-own-transport.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// blocks returns the fenced blocks of one language.
func blocks(text, lang string) (list []string) {
	for _, m := range regexp.MustCompile("(?s)```"+lang+"\n(.*?)```").FindAllStringSubmatch(text, -1) {
		list = append(list, m[1])
	}
	return list
}

// TestGuideFirstRun: the stub fails with the words that the guide shows.
func TestGuideFirstRun(t *testing.T) {
	h := harness()
	h.New = func(key identity.Key) (transport.Transport, error) { return stub{key}, nil }
	h.Select = func(r conformance.Rule) bool { return r.Clause == "ID1" }
	err := conformance.CheckTransport(t.Context(), h)
	if err == nil {
		t.Fatal("the stub passes")
	}
	shown := blocks(guide(t), "text")
	if len(shown) == 0 || strings.TrimSpace(shown[0]) != err.Error() {
		t.Errorf("the first run says\n%s\nthe guide shows\n%q", err, shown)
	}
}

// TestGuideCode: every block of Go in the guide stands in a file of this folder as it is.
func TestGuideCode(t *testing.T) {
	var code strings.Builder
	err := filepath.WalkDir(".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(p) != ".go" {
			return err
		}
		text, err := os.ReadFile(p)
		code.Write(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	list := blocks(guide(t), "go")
	if len(list) < 5 {
		t.Fatalf("the guide has %d blocks of Go", len(list))
	}
	for _, block := range list {
		if !strings.Contains(code.String(), block) {
			t.Errorf("this stands in the guide, but in no file here:\n%s", block)
		}
	}
}

// TestGuideRules: every rule and clause that the guide or the code names is there, and so is every test that its commands run.
func TestGuideRules(t *testing.T) {
	clauses, rules := make(map[string]bool), make(map[string]bool)
	for _, r := range conformance.Rules() {
		clauses[r.Clause], rules[r.Clause+"/"+r.Name] = true, true
	}
	text := guide(t)
	for _, name := range regexp.MustCompile(`\b[A-Z]{2}[0-9]+/[a-z0-9-]+`).FindAllString(text, -1) {
		if !rules[name] {
			t.Errorf("the guide names the rule %s, which is not there", name)
		}
	}
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		text += string(b)
	}
	for _, clause := range regexp.MustCompile(`\b(?:AD|ID|DI|LI|OP|ST|FL|EN|RE|DG)[0-9]+\b`).FindAllString(text, -1) {
		if !clauses[clause] {
			t.Errorf("clause %s is cited, but no rule has it", clause)
		}
	}
	for _, block := range blocks(guide(t), "sh") {
		for line := range strings.Lines(block) {
			for _, word := range regexp.MustCompile(`(?:Test|Benchmark)[A-Z]\w+`).FindAllString(line, -1) {
				if b, err := os.ReadFile("websocket_test.go"); err != nil || !strings.Contains(string(b), "func "+word+"(") {
					t.Errorf("%q runs %s, which is not there (%v)", line, word, err)
				}
			}
			for _, dir := range regexp.MustCompile(`\./\w+`).FindAllString(line, -1) {
				if _, err := os.Stat(dir); err != nil {
					t.Errorf("%q: %v", line, err)
				}
			}
		}
	}
}

var _ transport.Transport = (*websocket.Transport)(nil)
