package main

import (
	"strings"
	"testing"

	"github.com/Blockchain-CN/pheromones/router/gossip/simulate"
)

func TestSimulate(t *testing.T) {
	args := []string{"simulate", "--peers", "120", "--churn", "0.2", "--warmup", "3", "--messages", "2", "--seed", "5"}
	first := mustTry(t, "", append(args, "--json")...)
	if again := mustTry(t, "", append(args, "--json")...); again != first {
		t.Errorf("the same seed gave\n%s and then\n%s", first, again)
	}
	r := object[simulate.Report](t, first)
	if r.Peers != 120 || r.Seed != 5 || r.Graph.Connected != 120 || r.Healed == nil || r.Healed.Nodes != 96 || len(r.Steady) != 3 || len(r.Crashed) != 3 {
		t.Errorf("got %+v", r)
	}
	for _, row := range append(r.Steady[:1:1], r.Crashed[0]) {
		if row.Protocol != "pheromones" || row.Coverage != 1 || row.Repeated != 0 {
			t.Errorf("got %+v", row)
		}
	}
	text := mustTry(t, "", args...)
	for _, want := range []string{"overlay: 120 of 120 nodes connected", "after the warm-up", "from the crash on", "pheromones", "flooding", "gossipsub", "100 %"} {
		if !strings.Contains(text, want) {
			t.Errorf("there is no %q in\n%s", want, text)
		}
	}
}

func TestSimulateUsage(t *testing.T) {
	for _, bad := range [][]string{
		{"--peers", "0"}, {"--peers", "1"}, {"--peers", "-3"}, {"--degree", "99"}, {"--senders", "2000"}, {"--loss", "0.9"}, {"--churn", "1"},
		{"--loss", "NaN"}, {"--senders", "900", "--churn", "0.2"}, {"here"},
	} {
		if code, _, errOut := try(t, "", append([]string{"simulate"}, bad...)...); code != exitUsage || errOut == "" {
			t.Errorf("%q: exit code %d, %q", bad, code, errOut)
		}
	}
}
