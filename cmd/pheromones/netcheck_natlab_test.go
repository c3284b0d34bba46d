//go:build linux && natlab

package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/Blockchain-CN/pheromones/internal/natlab"
)

// TestNetcheckInLab: netcheck behind NATs of real kernels, with two nodes on the internet to ask.
func TestNetcheckInLab(t *testing.T) {
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	binary := build(t)
	lab, err := natlab.New(nil)
	if errors.Is(err, natlab.ErrUnavailable) && os.Getenv("NATLAB") != "must" {
		fmt.Fprintf(os.Stderr, "!!! %s IS SKIPPED: %v\n", t.Name(), err)
		t.Skip(err)
	}
	must(err)
	defer lab.Close()
	args := []string{"netcheck", "--json", "--portmap=false"}
	for range 2 {
		h, err := lab.Public()
		must(err)
		cmd := exec.Command(binary, "serve", "--dir", t.TempDir(), "--portmap=false", "--listen", "quic://"+h.Addr().String()+":4001", "--listen", "mux://"+h.Addr().String()+":4001")
		out, err := cmd.StdoutPipe()
		must(err)
		must(h.Start(cmd))
		t.Cleanup(func() {
			cmd.Process.Kill()
			cmd.Wait()
		})
		lines := bufio.NewScanner(out)
		for range 2 {
			if !lines.Scan() {
				t.Fatal("a node said nothing")
			}
			args = append(args, "--join", lines.Text())
		}
	}
	for _, test := range []struct {
		name    string
		nat     *natlab.NAT // nil: public
		want    standing
		hairpin string
	}{
		{"public", nil, public, "not tried"},
		{"firewall", &natlab.NAT{}, public, "not tried"}, // which ordinary nodes cannot tell
		{"full cone", &natlab.NAT{Mapping: natlab.Independent, Filtering: natlab.Unfiltered}, portRestricted, "does not"},
		{"port-restricted", &natlab.NAT{Mapping: natlab.Independent}, portRestricted, "does not"},
		{"hairpin", &natlab.NAT{Mapping: natlab.Independent, Hairpin: true}, portRestricted, "works"},
		{"symmetric", &natlab.NAT{Mapping: natlab.Dependent}, symmetric, "not tried"},
		{"UDP blocked", &natlab.NAT{Mapping: natlab.Independent, NoUDP: true}, udpBlocked, "not tried"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var h *natlab.Host
			var err error
			if test.nat == nil {
				h, err = lab.Public()
			} else {
				var r *natlab.Router
				r, err = lab.Router(*test.nat)
				must(err)
				h, err = r.Host()
			}
			must(err)
			cmd := exec.Command(binary, args...)
			var out, errOut strings.Builder
			cmd.Stdout, cmd.Stderr = &out, &errOut
			must(h.Start(cmd))
			if err := cmd.Wait(); err != nil {
				t.Errorf("%v: %s", err, errOut.String())
			}
			var c checked
			must(json.Unmarshal([]byte(out.String()), &c))
			if c.Standing != test.want || c.Hairpin != test.hairpin {
				t.Errorf("standing %s, hairpin %s; want %s, %s: %s", c.Standing, c.Hairpin, test.want, test.hairpin, out.String())
			}
			if udp := c.UDP == "works"; udp == (test.want == udpBlocked) {
				t.Errorf("UDP: %s", c.UDP)
			}
			for _, r := range c.Joined {
				if tcp := strings.HasPrefix(r.Addr, "mux:"); (r.Error == "") != (tcp || test.want != udpBlocked) {
					t.Errorf("joined %+v", r)
				}
			}
		})
	}
}
