package pheromones_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// What holds of the whole tree, whatever a package is about: who may import whom, and manners.

const module = "github.com/Blockchain-CN/pheromones"

// arrows says who may import whom, in code that is not a test. What stands left of a "<" may be imported by all that
// stands to the right of it; of our own packages, also by all that may import those. "nothing" marks what imports none
// of ours. Every package must be here. Modules of others are named by their path and their permission is not handed on;
// the standard library needs none. "x/..." is x and all below it.
const arrows = `
	# Leaves.
	nothing < identity
	nothing < internal/leak, internal/netbuf, internal/outq, internal/pipe, internal/wire

	# The contract and the transports, which know nothing of each other.
	identity < transport
	transport, internal/pipe < transport/mem
	transport, internal/pipe, internal/outq < internal/tlsnet
	internal/tlsnet < tcp, mux
	transport, internal/pipe, internal/netbuf < quic

	# What is said, to whom, and how to get there, whatever the transport.
	transport, internal/wire, internal/outq < protocol < protocol/greeting < router < nat < pheromones
	transport, internal/wire < router/store < router
	identity, internal/wire < router/gossip < pheromones, router/gossip/simulate
	transport < nat/stun < nat, pheromones, cmd/..., examples/...
	internal/wire < nat/punch < pheromones
	transport, internal/wire < nat/relay < pheromones, cmd/...
	nothing < nat/portmap < cmd/...
	nothing < internal/natlab

	# Those who put it together, or to the test.
	pheromones, internal/leak < conformance
	pheromones < conformance/internal/broken
	pheromones < conformance/nats
	pheromones, conformance, tcp, mux, quic, transport/mem, nat < cmd/..., examples/...
	router/gossip/simulate < cmd/...

	# Others' modules.
	github.com/hashicorp/yamux < mux
	github.com/quic-go/quic-go, golang.org/x/net, golang.org/x/sys < quic
	golang.org/x/sys < internal/tlsnet
	golang.org/x/net < conformance
	github.com/pion/transport/v4, github.com/pion/logging < conformance/nats
	go.etcd.io/bbolt < router/store
	github.com/pion/stun/v3 < nat/stun
	golang.org/x/net, golang.org/x/sys < nat
	github.com/huin/goupnp, golang.org/x/net, golang.org/x/sys < nat/portmap
	golang.org/x/sys < internal/natlab
	github.com/spf13/cobra, github.com/schollz/progressbar/v3, github.com/prometheus/client_golang, golang.org/x/term < cmd/...
`

// apart are pairs that no edit of arrows may bring together.
const apart = `
	identity | transport tcp mux quic protocol router nat pheromones
	tcp | mux quic protocol router nat pheromones
	mux | tcp quic protocol router nat pheromones
	quic | tcp mux protocol router nat nat/stun nat/punch pheromones
	transport | tcp mux quic protocol router nat pheromones
	protocol | tcp mux quic router nat pheromones
	router | tcp mux quic nat pheromones
	router/store | tcp mux quic protocol router nat pheromones
	nat/stun | tcp mux quic protocol router nat pheromones
	nat/punch | tcp mux quic transport protocol router nat pheromones
	nat/relay | tcp mux quic protocol router nat pheromones
	pheromones | tcp mux quic nat/portmap
	conformance | tcp mux quic
`

// allowed are the breaches of manners that have a reason. One that is no longer there must go from here, too.
var allowed = map[string]string{
	"conformance: import log":  "rule RE3 takes the standard logger's output to see whether a transport prints",
	"conformance: os.Stdout":   "the same",
	"conformance: os.Stderr":   "the same",
	"conformance: fmt.Println": "the child process of rule EN5 tells its address to the one that started it",
	"conformance: var pattern": "the bytes that bulk transfers send: a constant too long to write down",
	"conformance: time.Sleep":  "a rule paces real networks; no sleep decides whether it passes",

	"conformance/internal/broken: os.Stderr": "a transport that prints is one of those that are broken on purpose",

	"internal/leak: os.Stderr":  "it speaks for TestMain, which has no testing.T",
	"internal/leak: time.Sleep": "goroutines end without telling: it looks again",

	"quic: time.Sleep": "a socket that fails every read, because its network is away, is tried again at a pace",

	"transport/mem: var process": "the network of the process: transports find each other only if they share it",
}

func TestArrows(t *testing.T) {
	rules, err := parseArrows(arrows)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(strings.TrimSpace(apart)) {
		who, whom, _ := strings.Cut(strings.TrimSpace(line), " | ")
		if !rules.knows(who) {
			t.Errorf("apart names %s, which arrows does not", who)
		}
		for w := range strings.FieldsSeq(whom) {
			if rules.may(who, w) {
				t.Errorf("arrows lets %s import %s; they must stay apart", who, w)
			}
		}
	}

	tree := load(t)
	for dir, files := range tree {
		name := dirName(dir)
		if !rules.knows(name) {
			t.Errorf("package %s is not in arrows: put it where it belongs", name)
			continue
		}
		for _, f := range files {
			for _, spec := range f.ast.Imports {
				target, err := strconv.Unquote(spec.Path.Value)
				if err != nil {
					t.Fatal(err)
				}
				if first, _, _ := strings.Cut(target, "/"); !strings.Contains(first, ".") {
					continue // the standard library
				}
				if target == module {
					target = "pheromones"
				}
				if target = strings.TrimPrefix(target, module+"/"); !f.test && !rules.may(name, target) {
					t.Errorf("%s: %s may not import %s: see arrows", f.path, name, target)
				}
			}
		}
	}
}

func dirName(dir string) string {
	if dir == "." {
		return "pheromones"
	}
	return dir
}

// arrowRules holds, for every importer, what it may import directly.
type arrowRules map[string]map[string]bool

func parseArrows(text string) (arrowRules, error) {
	rules := make(arrowRules)
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(strings.TrimSpace(line), "#")
		if line == "" {
			continue
		}
		var left []string
		for i, side := range strings.Split(line, "<") {
			var right []string
			for name := range strings.SplitSeq(side, ",") {
				name = strings.TrimSpace(name)
				if name == "" || strings.ContainsAny(name, " \t") || name == "nothing" && i > 0 {
					return nil, fmt.Errorf("arrows: cannot read %q", line)
				}
				right = append(right, name)
			}
			for _, r := range right {
				if i > 0 && rules[r] == nil {
					rules[r] = make(map[string]bool)
				}
				for _, l := range left {
					if l != "nothing" {
						rules[r][l] = true
					}
				}
			}
			left = right
		}
		if !strings.Contains(line, "<") {
			return nil, fmt.Errorf("arrows: %q has no arrow", line)
		}
	}
	for r, imports := range rules {
		for l := range imports {
			if rules[l] == nil && !isForeign(l) {
				return nil, fmt.Errorf("arrows: %s may import %s, of which nothing is said", r, l)
			}
		}
		if rules.may(r, r) && !strings.HasSuffix(r, "/...") {
			return nil, fmt.Errorf("arrows: %s comes before itself", r)
		}
	}
	return rules, nil
}

func isForeign(name string) bool {
	first, _, _ := strings.Cut(name, "/")
	return strings.Contains(first, ".")
}

// entry returns the name under which rules speaks of a package: its own, or that of a "/..." above it.
func (rules arrowRules) entry(name string) string {
	if _, ok := rules[name]; ok {
		return name
	}
	for dir := name; dir != "."; dir = path.Dir(dir) {
		if _, ok := rules[dir+"/..."]; ok {
			return dir + "/..."
		}
	}
	return name
}

func (rules arrowRules) knows(name string) bool {
	_, ok := rules[rules.entry(name)]
	return ok
}

// may reports whether who may import what.
func (rules arrowRules) may(who, what string) bool {
	who = rules.entry(who)
	if isForeign(what) {
		for dir := what; dir != "."; dir = path.Dir(dir) {
			if rules[who][dir] {
				return true
			}
		}
		return false
	}
	what = rules.entry(what)
	if who == what && strings.HasSuffix(who, "/...") {
		return true
	}
	seen := make(map[string]bool)
	var reach func(string) bool
	reach = func(name string) bool {
		if seen[name] {
			return false
		}
		seen[name] = true
		for l := range rules[name] {
			if l == what || reach(l) {
				return true
			}
		}
		return false
	}
	return reach(who)
}

func TestArrowRules(t *testing.T) {
	rules, err := parseArrows("nothing < a\n a < b < c, d\n example.com/m < b # why\n c < e/...")
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		who, what string
		want      bool
	}{
		{"b", "a", true}, {"c", "b", true}, {"c", "a", true}, {"e", "a", true}, {"e/f/g", "c", true}, {"e/f", "e/g", true},
		{"a", "b", false}, {"c", "d", false}, {"d", "c", false}, {"a", "c", false}, {"d", "e/f", false}, {"x", "a", false},
		{"b", "example.com/m", true}, {"b", "example.com/m/sub", true}, {"c", "example.com/m", false}, {"b", "example.com/n", false},
	} {
		if got := rules.may(test.who, test.what); got != test.want {
			t.Errorf("may %s import %s: got %v, want %v", test.who, test.what, got, test.want)
		}
	}
	for _, bad := range []string{"a", "nothing < a\n a < < b", "a < b", "nothing < a\n a < b < a", "nothing < a b", "a < nothing"} {
		if _, err := parseArrows(bad); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}

// TestPackageComments: one file of every package says what the package is.
func TestPackageComments(t *testing.T) {
	for dir, files := range load(t) {
		var docs []string
		code := false
		for _, f := range files {
			if f.test {
				continue
			}
			code = true
			if f.ast.Doc == nil {
				continue
			}
			docs = append(docs, f.path)
			name := f.ast.Name.Name
			if text := f.ast.Doc.Text(); name != "main" && !strings.HasPrefix(text, "Package "+name+" ") {
				t.Errorf("%s: the package comment begins %.30q, want %q", f.path, text, "Package "+name+" …")
			}
		}
		switch {
		case code && len(docs) == 0:
			t.Errorf("package %s has no comment", dirName(dir))
		case len(docs) > 1:
			t.Errorf("package %s has %d comments, want one: %s", dirName(dir), len(docs), strings.Join(docs, ", "))
		}
	}
}

// TestManners: a library does not print, has no state of its own and nothing that runs before main, and does not sleep.
func TestManners(t *testing.T) {
	used := make(map[string]bool)
	for dir, files := range load(t) {
		var code []*ast.File
		for _, f := range files {
			if !f.test {
				code = append(code, f.ast)
			}
		}
		program := dir == "cmd" || strings.HasPrefix(dir, "cmd/") || strings.HasPrefix(dir, "examples/")
		for _, o := range offences(files[0].fset, code) {
			if program && o.prints {
				continue
			}
			key := dirName(dir) + ": " + o.what
			if allowed[key] != "" {
				used[key] = true
				continue
			}
			t.Errorf("%s: %s", files[0].fset.Position(o.pos), key)
		}
	}
	for key := range allowed {
		if !used[key] {
			t.Errorf("allowed lists %q, but nothing does that", key)
		}
	}
}

// offence is one breach of manners.
type offence struct {
	pos    token.Pos
	what   string
	prints bool // it is about printing, which programs may do
}

// offences looks at the files of one package, which are for all systems at once and so need not fit together.
func offences(fset *token.FileSet, files []*ast.File) []offence {
	var list []offence
	add := func(n ast.Node, prints bool, format string, args ...any) {
		list = append(list, offence{n.Pos(), fmt.Sprintf(format, args...), prints})
	}
	// Types are known as far as the package itself tells; names are resolved all the same.
	info := &types.Info{Uses: make(map[*ast.Ident]types.Object), Defs: make(map[*ast.Ident]types.Object)}
	conf := types.Config{Importer: noImporter{}, Error: func(error) {}}
	pkg, _ := conf.Check("p", fset, files, info)

	imported := func(e ast.Expr) string {
		if id, ok := e.(*ast.Ident); ok {
			if name, ok := info.Uses[id].(*types.PkgName); ok {
				return name.Imported().Path()
			}
		}
		return ""
	}
	assigned := func(e ast.Expr) {
		for {
			switch x := e.(type) {
			case *ast.IndexExpr:
				e = x.X
			case *ast.SelectorExpr:
				e = x.X
			case *ast.StarExpr:
				e = x.X
			case *ast.ParenExpr:
				e = x.X
			case *ast.Ident:
				if v, ok := info.Uses[x].(*types.Var); ok && v.Parent() == pkg.Scope() {
					add(x, false, "assignment to var %s", x.Name)
				}
				return
			default:
				return
			}
		}
	}
	for _, f := range files {
		for _, spec := range f.Imports {
			if spec.Path.Value == `"log"` {
				add(spec, true, "import log")
			}
		}
		for _, decl := range f.Decls {
			switch d := decl.(type) {
			case *ast.FuncDecl:
				if d.Recv == nil && d.Name.Name == "init" {
					add(d, false, "func init")
				}
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					vs, ok := spec.(*ast.ValueSpec)
					if !ok || d.Tok != token.VAR {
						continue
					}
					held := holdsState(vs, info, imported)
					for _, name := range vs.Names {
						if obj := info.Defs[name]; name.Name != "_" && (held || obj != nil && isState(obj.Type(), nil)) {
							add(name, false, "var %s", name.Name)
						}
					}
				}
			}
		}
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.SelectorExpr:
				name := n.Sel.Name
				switch from := imported(n.X); {
				case from == "os" && (name == "Stdout" || name == "Stderr"), from == "fmt" && strings.HasPrefix(name, "Print"):
					add(n, true, "%s.%s", from, name)
				case from == "time" && name == "Sleep":
					add(n, false, "time.Sleep")
				}
			case *ast.Ident:
				if b, ok := info.Uses[n].(*types.Builtin); ok && strings.HasPrefix(b.Name(), "print") {
					add(n, true, "%s", b.Name())
				}
			case *ast.AssignStmt:
				if n.Tok != token.DEFINE {
					for _, e := range n.Lhs {
						assigned(e)
					}
				}
			case *ast.IncDecStmt:
				assigned(n.X)
			}
			return true
		})
	}
	return list
}

// holdsState reports whether a declaration of variables makes, or is of a type that is, something to keep state in.
func holdsState(spec *ast.ValueSpec, info *types.Info, imported func(ast.Expr) string) (yes bool) {
	ast.Inspect(spec, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncLit:
			return false
		case *ast.SelectorExpr:
			from := imported(n.X)
			yes = yes || from == "sync" || from == "sync/atomic"
		case *ast.CallExpr:
			if id, ok := n.Fun.(*ast.Ident); ok {
				if b, ok := info.Uses[id].(*types.Builtin); ok {
					yes = yes || b.Name() == "make" || b.Name() == "new"
				}
			}
		case *ast.UnaryExpr:
			yes = yes || n.Op == token.AND
		}
		return true
	})
	return yes
}

// isState reports whether a variable of type typ holds state by itself: a map, a channel, a lock, or a struct of such.
func isState(typ types.Type, above []types.Type) bool {
	if slices.Contains(above, typ) {
		return false
	}
	switch u := typ.Underlying().(type) {
	case *types.Map, *types.Chan:
		return true
	case *types.Array:
		return isState(u.Elem(), append(above, typ))
	case *types.Struct:
		for f := range u.Fields() {
			if isState(f.Type(), append(above, typ)) {
				return true
			}
		}
	}
	return false
}

// noImporter knows of package sync and sync/atomic that their types hold state, and nothing of any other package.
type noImporter struct{}

func (noImporter) Import(name string) (*types.Package, error) {
	if name != "sync" && name != "sync/atomic" {
		return nil, errors.New("not looked at")
	}
	pkg := types.NewPackage(name, path.Base(name))
	for _, name := range strings.Fields("Mutex RWMutex WaitGroup Once Map Pool Cond Bool Int32 Int64 Uint32 Uint64 Uintptr Value") {
		obj := types.NewTypeName(token.NoPos, pkg, name, nil)
		types.NewNamed(obj, types.NewChan(types.SendRecv, types.Typ[types.Int]), nil)
		pkg.Scope().Insert(obj)
	}
	pkg.MarkComplete()
	return pkg, nil
}

func TestOffences(t *testing.T) {
	const text = `package p

import (
	"errors"
	"fmt"
	"log"
	"os"
	other "time"
	"sync"
	"sync/atomic"
)

func init() {}

type locked struct { n int; mu sync.Mutex }
type chain struct { next *chain }
type list []chain

var ErrFine = errors.New("fine")
var fine = [...]string{"a"}
var fineToo struct { a, b int }
var fineFunc = func() any { return make(map[int]int) }
var fineChain chain
var _ fmt.Stringer = (*locked)(nil)

var a map[string]int
var b = make([]byte, 10)
var c sync.Mutex
var d, e = 1, new(int)
var f locked
var g = [2]locked{}
var h = map[int]int{}
var i = &chain{}
var j atomic.Int64
var k chan int
var l = sync.OnceValue(func() int { return 1 })
var m int
var n struct { x []int }

func (chain) init() {}

func f1() {
	fmt.Println()
	fmt.Fprintln(os.Stderr)
	println()
	other.Sleep(1)
	m++
	n.x[0] = 1
	for { fineToo.a += 2; break }
	fineToo := 3
	fineToo = 4
	func(m int) { m = 5 }(fineToo)
	fmt := fine
	_ = fmt
	log.Print()
}
`
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, "p.go", text, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, o := range offences(fset, []*ast.File{f}) {
		got = append(got, o.what)
	}
	want := []string{
		"import log", "func init", "var a", "var b", "var c", "var d", "var e", "var f", "var g", "var h", "var i", "var j",
		"var k", "var l", "fmt.Println", "os.Stderr", "println", "time.Sleep", "assignment to var m", "assignment to var n",
		"assignment to var fineToo",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// goFile is a file of the tree, whatever system it is for.
type goFile struct {
	fset *token.FileSet
	ast  *ast.File
	path string // from the root, with slashes
	test bool
}

// load parses every Go file of this module, by folder.
func load(t *testing.T) map[string][]goFile {
	t.Helper()
	tree := make(map[string][]goFile)
	fset := token.NewFileSet()
	err := filepath.WalkDir(".", func(p string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil // a file that somebody has just removed
		case err != nil:
			return err
		case d.IsDir():
			if p == "." {
				return nil
			}
			if name := d.Name(); name == "testdata" || name[0] == '.' || name[0] == '_' {
				return fs.SkipDir
			}
			if _, err := os.Stat(filepath.Join(p, "go.mod")); err == nil {
				return fs.SkipDir // another module
			}
			return nil
		case !strings.HasSuffix(p, ".go"):
			return nil
		}
		f, err := parser.ParseFile(fset, p, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		p = filepath.ToSlash(p)
		tree[path.Dir(p)] = append(tree[path.Dir(p)], goFile{fset, f, p, strings.HasSuffix(p, "_test.go")})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(tree["identity"]) == 0 || len(tree["transport"]) == 0 {
		t.Fatal("this is not the tree")
	}
	return tree
}

// TestAllModules: the files allmodules, here and in bench, list every folder with a go.mod.
func TestAllModules(t *testing.T) {
	var listed, there []string
	for _, name := range []string{"allmodules", "bench/allmodules"} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		listed = append(listed, strings.Fields(string(text))...)
	}
	err := filepath.WalkDir(".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		if d.IsDir() && p != "." && (d.Name()[0] == '.' || d.Name() == "testdata") {
			return fs.SkipDir
		}
		if d.Name() == "go.mod" {
			there = append(there, path.Dir(filepath.ToSlash(p)))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(listed)
	slices.Sort(there)
	if !slices.Equal(listed, there) {
		t.Errorf("allmodules lists %q, but the tree has %q", listed, there)
	}
}

// TestReadme compiles every block of Go in README.md, so that what people copy works. A block is a whole file, if it
// begins with a package clause, or else the body of a function with a ctx that may return an error.
func TestReadme(t *testing.T) {
	text, err := os.ReadFile("README.md")
	if errors.Is(err, fs.ErrNotExist) {
		t.Skip("no README.md yet")
	}
	if err != nil {
		t.Fatal(err)
	}
	blocks := goBlocks(string(text))
	if len(blocks) == 0 {
		t.Error("README.md has no block of Go: where are its ten lines?")
	}
	for line, block := range blocks {
		t.Run(fmt.Sprintf("line %d", line), func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "main.go")
			if err := os.WriteFile(file, []byte(wholeFile(t, block)), 0o600); err != nil {
				t.Fatal(err)
			}
			if out, err := exec.Command("go", "build", "-o", os.DevNull, file).CombinedOutput(); err != nil {
				t.Errorf("it does not compile: %v\n%s", err, out)
			}
		})
	}
}

// goBlocks returns the fenced blocks of Go in a text in Markdown, by the line they begin at.
func goBlocks(text string) map[int]string {
	blocks := make(map[int]string)
	start, fence := 0, ""
	var block strings.Builder
	lines := bufio.NewScanner(strings.NewReader(text))
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		ticks := line[:len(line)-len(strings.TrimLeft(line, "`"))]
		switch {
		case fence == "" && len(ticks) >= 3:
			fence, start = ticks, 0
			if lang, _, _ := strings.Cut(strings.TrimSpace(line[len(ticks):]), " "); lang == "go" {
				start = n + 1
			}
			block.Reset()
		case fence != "" && line == ticks && len(ticks) >= len(fence):
			if start > 0 {
				blocks[start] = block.String()
			}
			fence = ""
		case fence != "":
			block.WriteString(lines.Text() + "\n")
		}
	}
	return blocks
}

// wholeFile makes a file of a block that is only a body, with the imports that its names call for.
func wholeFile(t *testing.T, block string) string {
	t.Helper()
	if regexp.MustCompile(`(?m)^package `).MatchString(block) {
		return block
	}
	const head, body = "package main\n\n", "func main() { _ = run }\n\nfunc run(ctx context.Context) error {\n%s\nreturn nil\n}\n"
	code := fmt.Sprintf(body, block)
	f, err := parser.ParseFile(token.NewFileSet(), "main.go", head+code, 0)
	if err != nil {
		t.Fatalf("it is no Go: %v", err)
	}
	known := map[string]string{"pheromones": module}
	for _, name := range strings.Fields("context errors fmt io log/slog log net net/http os time") {
		known[path.Base(name)] = name
	}
	for dir := range load(t) {
		if dir != "." && !strings.HasPrefix(dir, "cmd/") {
			known[path.Base(dir)] = module + "/" + dir
		}
	}
	imports := make(map[string]bool)
	for _, id := range f.Unresolved {
		if p, ok := known[id.Name]; ok {
			imports[p] = true
		}
	}
	var b bytes.Buffer
	b.WriteString(head)
	for _, p := range slices.Sorted(maps.Keys(imports)) {
		fmt.Fprintf(&b, "import %q\n", p)
	}
	return b.String() + code
}

func TestGoBlocks(t *testing.T) {
	const text = "a\n```go\none\n\n```\n```sh\ntwo\n```\n````\n```go\nthree\n```\n````\n  ```go title\n  four\n  ```\n```golang\nfive\n```\n"
	want := map[int]string{3: "one\n\n", 15: "  four\n"}
	if got := goBlocks(text); !maps.Equal(got, want) {
		t.Errorf("got %#v, want %#v", got, want)
	}

	file := wholeFile(t, "key, err := identity.Generate()\nif err != nil {\n\treturn err\n}\nfmt.Println(key.ID())\n")
	for _, want := range []string{`import "context"`, `import "fmt"`, `import "` + module + `/identity"`} {
		if !strings.Contains(file, want) {
			t.Errorf("there is no %s in\n%s", want, file)
		}
	}
	if strings.Contains(file, "transport") {
		t.Errorf("it imports what it does not use:\n%s", file)
	}
	main := filepath.Join(t.TempDir(), "main.go")
	for _, test := range []struct {
		text string
		ok   bool
	}{{file, true}, {strings.Replace(file, "key.ID()", "key.Name()", 1), false}} {
		if err := os.WriteFile(main, []byte(test.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("go", "build", "-o", os.DevNull, main).CombinedOutput(); (err == nil) != test.ok {
			t.Errorf("compiles: %v (%s), want %v:\n%s", err == nil, out, test.ok, test.text)
		}
	}
}

var clause = regexp.MustCompile(`(?m)^- \*\*([A-Z]+[0-9]+)\.\*\*`)

// TestSpecClauses: a clause of SPEC.md has a number of its own, or what cites it cites another.
func TestSpecClauses(t *testing.T) {
	text, err := os.ReadFile("SPEC.md")
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[string]int)
	for _, m := range clause.FindAllSubmatchIndex(text, -1) {
		number := string(text[m[2]:m[3]])
		line := 1 + bytes.Count(text[:m[0]], []byte("\n"))
		if first, again := seen[number]; again {
			t.Errorf("SPEC.md:%d: clause %s is on line %d already", line, number, first)
		}
		seen[number] = line
	}
	if len(seen) < 40 {
		t.Errorf("SPEC.md has %d clauses; the pattern must have missed some", len(seen))
	}
	// A clause that the pattern does not see would escape.
	if bold := regexp.MustCompile(`\*\*[A-Z]+[0-9]+`).FindAll(text, -1); len(bold) != len(clause.FindAll(text, -1)) {
		t.Errorf("SPEC.md has %d bold numbers, but %d clauses", len(bold), len(clause.FindAll(text, -1)))
	}
}
