package main

import (
	"encoding/xml"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/Blockchain-CN/pheromones/conformance"
)

// readJUnit reads a report back, and sees that its sums are right.
func readJUnit(t *testing.T, file string) junitReport {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var report junitReport
	if err := xml.Unmarshal(text, &report); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	tests, failures, skipped := 0, 0, 0
	for _, s := range report.Suites {
		if s.Tests != len(s.Cases) || s.Timestamp == "" || s.Time == "" {
			t.Errorf("suite %s: %d tests, %d cases, timestamp %q, time %q", s.Name, s.Tests, len(s.Cases), s.Timestamp, s.Time)
		}
		for _, c := range s.Cases {
			tests++
			if c.Failure != nil {
				failures++
			}
			if c.Skipped != nil {
				skipped++
			}
			if c.Name == "" || c.Class == "" || c.Time == "" {
				t.Errorf("suite %s: got the case %+v", s.Name, c)
			}
		}
	}
	if report.Tests != tests || report.Failures != failures || report.Skipped != skipped {
		t.Errorf("the report says %d tests, %d failures, %d skipped; it has %d, %d, %d", report.Tests, report.Failures, report.Skipped, tests, failures, skipped)
	}
	if others, err := filepath.Glob(filepath.Join(filepath.Dir(file), ".*")); err != nil || len(others) > 0 {
		t.Errorf("beside the report there are %q, %v", others, err)
	}
	return report
}

// Nodes in processes of their own, judged from others: one that is sound, and one that is killed in the middle.
func TestAgainst(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("processes cannot send each other signals")
	}
	binary := build(t)
	for _, scheme := range []string{"tcp", "mux", "quic"} {
		t.Run(scheme, func(t *testing.T) {
			t.Parallel()
			node := launch(t, binary, "serve", "--dir", t.TempDir(), "--listen", scheme+"://127.0.0.1:0", "--echo=false")
			addr := node.line()
			file := filepath.Join(t.TempDir(), "report.xml")

			out, err := exec.CommandContext(t.Context(), binary, "conformance", "--against", addr, "--json", "--junit", file).Output()
			if err != nil {
				t.Errorf("%v", err)
			}
			lines := strings.SplitAfter(strings.TrimSuffix(string(out), "\n"), "\n")
			outcomes := objects[outcome](t, strings.Join(lines[:len(lines)-1], ""))
			for _, o := range outcomes {
				// Some rules are about the bytes of another transport.
				others := scheme == "quic" || strings.Contains(o.Skipped, "has TLS carry") || strings.Contains(o.Skipped, "one stream only")
				if o.Transport != scheme || o.Suite != againstSuite || o.Result != "ok" && !(o.Result == "skipped" && others) {
					t.Errorf("got %+v", o)
				}
			}
			sum := object[tally](t, lines[len(lines)-1])
			if len(outcomes) != len(conformance.AgainstRules()) || sum.OK < 33 || sum.OK+sum.Skipped != len(outcomes) || sum.Stopped != "" {
				t.Errorf("%d rules, %+v", len(outcomes), sum)
			}
			report := readJUnit(t, file)
			if len(report.Suites) != 1 || report.Suites[0].Name != scheme+"/against" || report.Tests != len(outcomes) || report.Failures+report.Errors > 0 {
				t.Errorf("the report has %d suites and %d tests of %d", len(report.Suites), report.Tests, len(outcomes))
			}

			// Some rules only.
			out, err = exec.CommandContext(t.Context(), binary, "conformance", "--against", anybody(addr), "--rule", "PR2[0-9]", "--json").Output()
			if err != nil || strings.Count(string(out), "\n") < 3 {
				t.Errorf("PR2[0-9]: %v, %q", err, out)
			}
			for line := range strings.Lines(string(out)) {
				if !strings.Contains(line, `"clause":"PR2`) && !strings.Contains(line, `"failed":0`) {
					t.Errorf("PR2[0-9]: got %s", line)
				}
			}

			// Another than the one asked for, and nobody.
			for _, addr := range []string{somebodyElse(t, addr), scheme + "://127.0.0.1:1"} {
				cmd := exec.CommandContext(t.Context(), binary, "conformance", "--against", addr)
				if out, _ := cmd.CombinedOutput(); cmd.ProcessState.ExitCode() != exitUnreachable || !strings.Contains(string(out), "cannot reach") {
					t.Errorf("%s: exit code %d, %q", addr, cmd.ProcessState.ExitCode(), out)
				}
			}

			againstKilled(t, binary, scheme, addr, node)
		})
	}
}

// againstKilled kills the node when some rules have been reported: the run must end, say so, and report what it saw.
func againstKilled(t *testing.T, binary, scheme, addr string, node *process) {
	file := filepath.Join(t.TempDir(), "report.xml")
	judge := launch(t, binary, "conformance", "--against", addr, "--junit", file)
	for range 4 { // over TCP the next rule takes 10 s
		judge.line()
	}
	if err := node.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	node.Wait()
	killed := time.Now()
	var rest strings.Builder
	for {
		line, err := judge.lines.ReadString('\n')
		rest.WriteString(line)
		if err != nil {
			break
		}
	}
	judge.Wait()
	took := time.Since(killed)
	if took > time.Minute {
		t.Errorf("it took %v to end", took)
	}
	t.Logf("%s: it ended %v after the node", scheme, took)
	code, errs := judge.ProcessState.ExitCode(), judge.stderr.String()
	if code != exitUnreachable || !strings.Contains(errs, "stopped after") || !strings.Contains(errs, "could not be reached in 3 rules in a row") {
		t.Errorf("exit code %d, %q", code, errs)
	}
	if !strings.Contains(rest.String(), "rules did not run") || strings.Count(rest.String(), "FAIL") < 3 {
		t.Errorf("got %q", rest.String())
	}
	report := readJUnit(t, file)
	if report.Errors != 1 || report.Failures < 3 || !strings.Contains(report.Suites[0].SystemErr, "could not be reached") {
		t.Errorf("the report has %d errors, %d failures, and says %q", report.Errors, report.Failures, report.Suites[0].SystemErr)
	}
}

// A node in this process whose program answers everything is judged as well, and its one rule skipped.
func TestAgainstEcho(t *testing.T) {
	_, addr := serveAt(t, "mux")
	out := mustTry(t, "", "conformance", "--against", addr, "--rule", "unknown-operation")
	if !strings.Contains(out, "skipped, mux/against: the node's program answers every operation:\n\tunknown-operation\n") {
		t.Errorf("got %q", out)
	}
}

func TestSuites(t *testing.T) {
	for _, test := range []struct {
		flags conformanceFlags
		want  []string
	}{
		{conformanceFlags{scheme: "tcp", suite: all, rule: "*"}, []string{"tcp/transport", "tcp/stack"}},
		{conformanceFlags{scheme: "mux", suite: stackSuite, rule: "*"}, []string{"mux/stack"}},
		{conformanceFlags{scheme: all, suite: transportSuite, rule: "ST*"}, []string{"tcp/transport", "mux/transport", "quic/transport", "mem/transport"}},
		{conformanceFlags{scheme: "tcp", suite: all, rule: "RO*"}, []string{"tcp/stack"}},
		{conformanceFlags{scheme: "tcp", suite: all, rule: "GR5/impostor", against: "quic://127.0.0.1:1"}, []string{"quic/against"}},
	} {
		suites, err := test.flags.suites()
		var got []string
		for _, s := range suites {
			got = append(got, s.transport+"/"+s.name)
		}
		if err != nil || !slices.Equal(got, test.want) {
			t.Errorf("%+v: got %q, %v; want %q", test.flags, got, err, test.want)
		}
	}
}

// The line on a terminal says which rule runs and is gone at the end.
func TestProgress(t *testing.T) {
	rules := conformance.AgainstRules()[:2]
	var out strings.Builder
	w := &output{w: &out}
	suites := []suite{{"tcp", "against", rules, nil}}
	g := progressOn(w, suites)
	for i, r := range rules {
		g.next(&suites[0], r)
		g.apart(func() { w.Write([]byte("ended " + r.Name + "\n")) })
		if want := []string{"(1/2)", "(2/2)"}[i]; i == 0 && !strings.Contains(out.String(), want) {
			t.Errorf("want %s, got %q", want, out.String())
		}
	}
	g.finish()
	text := out.String()
	for _, r := range rules {
		if !strings.Contains(text, "tcp/against "+r.Clause+" "+r.Name) || !strings.Contains(text, "\rended "+r.Name+"\n") {
			t.Errorf("%s is missing in %q", r.Name, text)
		}
	}
	if last := text[strings.LastIndexByte(strings.TrimRight(text, "\r "), '\n')+1:]; strings.Trim(last, "\r ") != "" {
		t.Errorf("in the end the line is still there: %q", last)
	}
	var none *progress
	none.next(&suites[0], rules[0])
	ran := false
	none.apart(func() { ran = true })
	none.finish()
	if !ran || (&program{err: w}).newProgress(suites) != nil {
		t.Error("no terminal: want no line, and all the same what is shown apart from it")
	}
}
