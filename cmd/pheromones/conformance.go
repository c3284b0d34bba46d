package main

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/Blockchain-CN/pheromones/conformance"
	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/mux"
	"github.com/Blockchain-CN/pheromones/quic"
	"github.com/Blockchain-CN/pheromones/tcp"
	"github.com/Blockchain-CN/pheromones/transport"
	"github.com/Blockchain-CN/pheromones/transport/mem"
)

func (p *program) conformanceCommand() *cobra.Command {
	var scheme, rule string
	cmd := &cobra.Command{
		Use:   "conformance",
		Short: "Check transports against the rules of SPEC.md",
		Long: `Runs the conformance suite on transports of this command, on loopback, and shows each rule as it ends. Some rules cut
cables and wait, or move much data: all of them take a minute or two for each transport. What was found is told in full at
the end. Rules that need Go's package testing are skipped.`,
		Example: `  pheromones conformance --transport quic
  pheromones conformance --transport all --rule 'ST*'       the clauses ST1 to ST15
  pheromones conformance --rule 'reset-*'                   by the names of rules
  pheromones conformance --json                             {"transport", "clause", "rule", "result", "ms", …}, then a summary`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			wanted := []string{scheme}
			if scheme == "all" {
				wanted = schemes()
			} else if !slices.Contains(schemes(), scheme) {
				return usagef("--transport %q: want all or one of %s", scheme, strings.Join(schemes(), ", "))
			}
			if _, err := path.Match(rule, ""); err != nil {
				return usagef("--rule %q: %w", rule, err)
			}
			if !slices.ContainsFunc(conformance.Rules(), selects(rule)) {
				return usagef("--rule %q: no rule has such a name or clause", rule)
			}
			var harnesses []conformance.Transport
			for _, scheme := range wanted {
				h := harness(scheme)
				h.Select = selects(rule)
				harnesses = append(harnesses, h)
			}
			return p.check(cmd.Context(), harnesses)
		},
	}
	cmd.Flags().StringVar(&scheme, "transport", quicScheme, "the `scheme` of the transport: "+strings.Join(schemes(), ", ")+", or all")
	cmd.Flags().StringVar(&rule, "rule", "*", "only the rules whose name or clause matches this `pattern`")
	p.jsonFlag(cmd, "one object for each rule, and one for the summary")
	return cmd
}

// selects returns what says whether a rule's name or clause matches the pattern.
func selects(pattern string) func(conformance.Rule) bool {
	return func(r conformance.Rule) bool {
		for _, text := range []string{r.Name, r.Clause, r.Clause + "/" + r.Name} {
			if ok, err := path.Match(pattern, text); ok && err == nil {
				return true
			}
		}
		return pattern == "*"
	}
}

// harness returns what the suite needs to know of a transport. Short time-outs make it fast.
func harness(scheme string) conformance.Transport {
	const handshake, idle = 2 * time.Second, 2 * time.Second
	h := conformance.Transport{
		Listen:  transport.Addr{Scheme: scheme, HostPort: "127.0.0.1:0"},
		Refuses: true,
	}
	switch scheme {
	case tcp.Scheme:
		h.Network, h.HandshakeTimeout = "tcp", handshake
		h.New = func(key identity.Key) (transport.Transport, error) {
			return tcp.New(key, &tcp.Config{HandshakeTimeout: handshake})
		}
	case mux.Scheme:
		h.Network, h.HandshakeTimeout = "tcp", handshake
		h.IdleTimeout = 12 * time.Second // a peer has 10 s to answer a keepalive
		h.New = func(key identity.Key) (transport.Transport, error) {
			return mux.New(key, &mux.Config{HandshakeTimeout: handshake, KeepAlive: time.Second})
		}
	case quicScheme:
		h.Network, h.HandshakeTimeout, h.IdleTimeout = "udp", handshake, idle
		h.New = func(key identity.Key) (transport.Transport, error) {
			return quic.New(key, &quic.Config{HandshakeTimeout: handshake, IdleTimeout: idle})
		}
	case mem.Scheme:
		h.New = func(key identity.Key) (transport.Transport, error) { return mem.New(key, nil) }
	}
	return h
}

// outcome is how a rule ended, as --json shows it.
type outcome struct {
	Transport string  `json:"transport"`
	Clause    string  `json:"clause"`
	Rule      string  `json:"rule"`
	Result    string  `json:"result"` // "ok", "FAIL" or "skipped"
	MS        float64 `json:"ms"`
	Finding   string  `json:"finding,omitempty"`
	Skipped   string  `json:"skipped,omitempty"` // why
}

// tally is the summary.
type tally struct {
	OK      int     `json:"ok"`
	Failed  int     `json:"failed"`
	Skipped int     `json:"skipped"`
	MS      float64 `json:"ms"`
}

// check runs the suite on each transport.
func (p *program) check(ctx context.Context, harnesses []conformance.Transport) error {
	var sum tally
	var found []string
	began := time.Now()
	for _, h := range harnesses {
		scheme := h.Listen.Scheme
		err := conformance.Run(ctx, h, func(r conformance.Result) {
			if ctx.Err() == nil {
				o := p.outcome(scheme, r, &sum)
				if o.Finding != "" {
					found = append(found, scheme+": "+o.Finding)
				}
			}
		})
		if ctx.Err() != nil {
			break
		}
		var finding *conformance.Finding
		if err != nil && !errors.As(err, &finding) {
			return err // the suite did not even begin
		}
	}
	sum.MS = ms(time.Since(began))
	if p.json {
		p.object(sum)
	} else {
		for _, f := range found {
			p.line("\n%s", f)
		}
		p.line("\n%d rules hold, %d are broken, %d were skipped, in %v", sum.OK, sum.Failed, sum.Skipped,
			time.Since(began).Round(time.Millisecond))
	}
	switch {
	case interrupted(ctx):
		return errInterrupted
	case sum.Failed > 0:
		return &exitError{exitBroken, fmt.Errorf("%d rules are broken", sum.Failed)}
	}
	return nil
}

// outcome shows how a rule ended, and counts it.
func (p *program) outcome(scheme string, r conformance.Result, sum *tally) outcome {
	o := outcome{Transport: scheme, Clause: r.Rule.Clause, Rule: r.Rule.Name, Result: "ok", MS: ms(r.Elapsed), Skipped: r.Skipped}
	remark := ""
	switch {
	case r.Err != nil:
		o.Result, o.Finding = "FAIL", r.Err.Error()
		sum.Failed++
	case r.Skipped != "":
		o.Result, remark = "skipped", "  ("+r.Skipped+")"
		sum.Skipped++
	default:
		sum.OK++
	}
	if p.json {
		p.object(o)
	} else {
		p.line("%-4s  %-4s  %-28s  %-7s %9.1f ms%s", scheme, o.Clause, o.Rule, o.Result, o.MS, remark)
	}
	return o
}
