package main

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/Blockchain-CN/pheromones/conformance"
	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/transport"
)

func TestConformance(t *testing.T) {
	out := mustTry(t, "", "conformance", "--transport", "all", "--suite", "transport", "--rule", "AD[13]", "--json")
	lines := strings.SplitAfter(strings.TrimSuffix(out, "\n"), "\n")
	seen := make(map[string]bool)
	for _, o := range objects[outcome](t, strings.Join(lines[:len(lines)-1], "")) {
		seen[o.Transport] = true
		if !strings.HasPrefix(o.Clause, "AD") || o.Result != "ok" && o.Result != "skipped" || (o.Result == "skipped") != (o.Skipped != "") {
			t.Errorf("got %+v", o)
		}
	}
	sum := object[tally](t, lines[len(lines)-1])
	if len(seen) != len(schemes()) || sum.OK+sum.Skipped != len(lines)-1 || sum.OK == 0 || sum.Failed != 0 {
		t.Errorf("of %v: %+v", seen, sum)
	}
	text := mustTry(t, "", "conformance", "--transport", "mem", "--rule", "both-know")
	if !strings.Contains(text, "mem   ID1   both-know") || !strings.Contains(text, "1 rules hold, 0 are broken, 0 were skipped") {
		t.Errorf("got %q", text)
	}
}

// forgetful is a transport whose connections do not know who dialled.
type forgetful struct{ transport.Transport }

type forgetfulConn struct{ transport.Conn }

func (f forgetful) Dial(ctx context.Context, a transport.Addr) (transport.Conn, error) {
	c, err := f.Transport.Dial(ctx, a)
	if err != nil {
		return nil, err
	}
	return forgetfulConn{c}, nil
}

func (c forgetfulConn) Info() transport.Info {
	i := c.Conn.Info()
	i.Dialer = false
	return i
}

// A broken rule is told in full, and the exit code says so.
func TestConformanceBroken(t *testing.T) {
	h := harness("mem")
	h.New = func(key identity.Key) (transport.Transport, error) {
		tr, err := newTransport("mem", key)
		return forgetful{tr}, err
	}
	h.Select = selects("info")
	run := func(ctx context.Context, report func(conformance.Result)) error {
		return conformance.Run(ctx, h, report)
	}
	suites := []suite{{"mem", transportSuite, slices.DeleteFunc(conformance.Rules(), func(r conformance.Rule) bool { return !h.Select(r) }), run}}
	for _, json := range []bool{false, true} {
		var out, errOut strings.Builder
		p := &program{out: &output{w: &out}, err: &output{w: &errOut}, json: json}
		file := filepath.Join(t.TempDir(), "report.xml")
		err := p.check(t.Context(), suites, file)
		if c := readJUnit(t, file).Suites[0].Cases[0]; c.Failure == nil || c.Class != "ID5" || !strings.Contains(c.Failure.Text, "ID5/info: ") {
			t.Errorf("the report has %+v", c)
		}
		if code := exitCode(t.Context(), err); code != exitBroken || !strings.Contains(out.String(), "ID5") || !strings.Contains(out.String(), "FAIL") {
			t.Errorf("%v, %q", err, out.String())
		}
		if !json && !strings.Contains(out.String(), "mem: ID5/info: ") {
			t.Errorf("the finding is missing in %q", out.String())
		}
	}
}

func TestConformanceInterrupted(t *testing.T) {
	file := filepath.Join(t.TempDir(), "report.xml")
	b := start(t, "conformance", "--transport", "mem", "--junit", file)
	b.line()
	b.signal()
	go func() { // whatever it has printed until the signal
		for {
			if _, err := b.lines.ReadString('\n'); err != nil {
				return
			}
		}
	}()
	if code := b.wait(); code != exitInterrupted {
		t.Errorf("exit code %d, %q", code, b.errors())
	}
	if r := readJUnit(t, file); r.Tests == 0 || r.Failures > 0 || r.Errors != 1 || r.Suites[0].SystemErr != "interrupted" {
		t.Errorf("the report has %d tests, %d failures, %d errors, and says %q", r.Tests, r.Failures, r.Errors, r.Suites[0].SystemErr)
	}
}

// A report that cannot be written is told, before or after the rules have run.
func TestJUnitUnwritable(t *testing.T) {
	file := filepath.Join(t.TempDir(), "report.xml")
	if err := writeJUnit(filepath.Join(file, "none"), nil, 0); err == nil || !strings.Contains(err.Error(), "--junit") {
		t.Errorf("got %v", err)
	}
	if err := os.WriteFile(file, []byte("what was there before"), 0o600); err != nil {
		t.Fatal(err)
	}
	mustTry(t, "", "conformance", "--transport", "mem", "--rule", "both-know", "--junit", file)
	if r := readJUnit(t, file); r.Tests != 1 || r.Suites[0].Name != "mem/transport" || r.Suites[0].Cases[0].Name != "both-know" {
		t.Errorf("got %+v", r)
	}
}

func TestExitCodes(t *testing.T) {
	ctx, interrupt := context.WithCancelCause(t.Context())
	interrupt(errInterrupted)
	dial := &transport.OpError{Op: "dial", Err: errors.New("no")}
	for _, test := range []struct {
		ctx  context.Context
		err  error
		want int
	}{
		{t.Context(), nil, exitOK},
		{t.Context(), os.ErrNotExist, exitFailed},
		{t.Context(), usagef("no"), exitUsage},
		{t.Context(), dial, exitUnreachable},
		{t.Context(), &transport.OpError{Op: "listen", Err: errors.New("no")}, exitFailed},
		{t.Context(), identity.ErrWrongPeer, exitUnreachable},
		{t.Context(), context.Canceled, exitFailed},
		{ctx, context.Canceled, exitInterrupted},
		{ctx, errors.Join(errInterrupted, net.ErrClosed), exitInterrupted},
		{ctx, os.ErrNotExist, exitFailed},
	} {
		if got := exitCode(test.ctx, test.err); got != test.want {
			t.Errorf("%v: exit code %d, want %d", test.err, got, test.want)
		}
	}
	if got := oneLine(errors.New("pheromones: a\n\n\tpheromones: b\n")); got != "a; b" {
		t.Errorf("got %q", got)
	}
}
