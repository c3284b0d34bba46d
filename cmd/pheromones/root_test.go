package main

import (
	"errors"
	"io"
	"strings"
	"testing"
)

// What makes no sense is a usage error: one line, and nothing is done.
func TestUsage(t *testing.T) {
	dir := t.TempDir()
	const addr = "quic://127.0.0.1:1"
	for _, args := range [][]string{
		{"nonsense"},
		{"--nonsense"},
		{"demo", "extra"},
		{"demo", "--transport", "pigeon"},
		{"demo", "--json=perhaps"},
		{"id", "extra"},
		{"id", "--key", dir + "/k", "--dir", dir},
		{"send"},
		{"send", addr, addr},
		{"send", "nonsense"},
		{"send", "pigeon://127.0.0.1:1"},
		{"send", "quic://127.0.0.1"},
		{"send", "--operation", "", addr},
		{"send", "--operation", strings.Repeat("x", 256), addr},
		{"send", "--timeout", "0s", addr},
		{"send", "--timeout", "soon", addr},
		{"ping"},
		{"ping", "-c", "-1", addr},
		{"ping", "-i", "-1s", addr},
		{"pipe", addr},
		{"pipe", addr, ""},
		{"pipe", addr, "a\nb"},
		{"pipe", "--listen", "nonsense", addr, "web"},
		{"routes"},
		{"serve", "extra"},
		{"serve", "--dir", dir, "--listen", "nonsense"},
		{"serve", "--dir", dir, "--listen", "pigeon://127.0.0.1:1"},
		{"serve", "--dir", dir, "--service", "web"},
		{"serve", "--dir", dir, "--service", "web=nowhere"},
		{"serve", "--dir", dir, "--service", "=127.0.0.1:1"},
		{"serve", "--dir", dir, "--service", "a=127.0.0.1:1", "--service", "a=127.0.0.1:2"},
		{"conformance", "--transport", "pigeon"},
		{"conformance", "--rule", "no-such-rule"},
		{"conformance", "--rule", "["},
		{"conformance", "--suite", "nonsense"},
		{"conformance", "--suite", "stack", "--rule", "ST*"},
		{"conformance", "--against", ""},
		{"conformance", "--against", "nonsense"},
		{"conformance", "--against", "pigeon://127.0.0.1:1"},
		{"conformance", "--against", "mem://127.0.0.1:1"},
		{"conformance", "--against", addr, "--transport", "quic"},
		{"conformance", "--against", addr, "--suite", "stack"},
		{"conformance", "--against", addr, "--rule", "RE*"},
		{"conformance", "--junit", dir},
		{"conformance", "--junit", dir + "/none/report.xml"},
	} {
		code, out, errOut := try(t, "", args...)
		if code != exitUsage || out != "" || strings.Count(errOut, "\n") != 1 || !strings.Contains(errOut, "--help") {
			t.Errorf("%q: exit code %d, standard output %q, standard error %q", args, code, out, errOut)
		}
	}
}

// Every command explains itself, by examples.
func TestHelp(t *testing.T) {
	for _, name := range []string{"", "id", "demo", "serve", "send", "ping", "pipe", "routes", "netcheck", "conformance"} {
		args := []string{"--help"}
		if name != "" {
			args = []string{name, "--help"}
		}
		if out := mustTry(t, "", args...); strings.Count(out[strings.Index(out, "Examples:\n"):], "pheromones "+name) < 2 {
			t.Errorf("%q gives no examples: %s", args, out)
		}
	}
	if out := mustTry(t, ""); !strings.Contains(out, exitCodes) {
		t.Errorf("no arguments: the exit codes are missing in %s", out)
	}
	if out := mustTry(t, "", "--version"); !strings.HasPrefix(out, "pheromones ") || !strings.Contains(out, "go1.") {
		t.Errorf("--version printed %q", out)
	}
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errors.New("the paper is out") }

// A command whose output goes nowhere has failed.
func TestOutputFails(t *testing.T) {
	for _, args := range [][]string{{"demo"}, {"demo", "--json"}, {"id", "--key", t.TempDir() + "/key"}} {
		var e strings.Builder
		if code := run(args, strings.NewReader(""), brokenWriter{}, &e, nil, nothing); code != exitFailed || !strings.Contains(e.String(), "the paper is out") {
			t.Errorf("%q: exit code %d, %q", args, code, e.String())
		}
	}
	if code := run([]string{"--help"}, strings.NewReader(""), io.Discard, io.Discard, nil, nothing); code != exitOK {
		t.Errorf("exit code %d", code)
	}
}
