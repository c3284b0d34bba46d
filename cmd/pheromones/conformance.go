package main

import (
	"context"
	"net"
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

// The suites by name.
const (
	transportSuite = "transport"
	stackSuite     = "stack"
	againstSuite   = "against"
	all            = "all" // of suites, and of transports
)

// conformanceFlags say what to check.
type conformanceFlags struct{ scheme, suite, rule, against, junit string }

func (p *program) conformanceCommand() *cobra.Command {
	var flags conformanceFlags
	cmd := &cobra.Command{
		Use:   "conformance",
		Short: "Check transports, nodes over them, or a running node against the rules of SPEC.md",
		Long: `Runs the conformance suites on transports of this command, on loopback: "transport" on the transport itself, "stack" on
whole nodes over it. Some rules cut cables and wait, or move much data: all of them take a minute or two for each transport.
Rules that need Go's package testing are skipped.

With --against it judges a running node instead, of whatever build and on whatever machine, by what can be seen from
outside: some forty rules, each a peer with a fresh key. That takes half a minute, most of it to see that silent
connections are shed. The node's work goes on meanwhile, and its peers hear of a few peers that come and go. If the node
cannot be reached any more the run ends early and says so.

Each rule is shown as it ends. What was skipped and why, a table, and what was found in full follow at the end; on a
terminal a line shows which rule runs. A file of --junit has what ran, also when the run was interrupted.`,
		Example: `  pheromones conformance --transport quic
  pheromones conformance --transport all --suite stack      whole nodes over every transport
  pheromones conformance --rule 'ST*'                       the clauses ST1 to ST15
  pheromones conformance --rule 'reset-*'                   by the names of rules
  pheromones conformance --against quic://<id>@192.0.2.7:4001
  pheromones conformance --junit report.xml                 for CI systems
  pheromones conformance --json                             {"transport", "suite", "clause", "rule", "result", "ms", …}, then a summary`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, name := range []string{"transport", "suite"} {
				if flags.against != "" && cmd.Flags().Changed(name) {
					return usagef("--against judges the node over its address's transport: it goes without --%s", name)
				}
			}
			if cmd.Flags().Changed("against") && flags.against == "" {
				return usagef("--against wants the address of a node")
			}
			suites, err := flags.suites()
			if err != nil {
				return err
			}
			return p.check(cmd.Context(), suites, flags.junit)
		},
	}
	cmd.Flags().StringVar(&flags.scheme, "transport", quicScheme, "the `scheme` of the transport: "+strings.Join(schemes(), ", ")+", or all")
	cmd.Flags().StringVar(&flags.suite, "suite", all, "which `suite` of rules: transport, stack, or all")
	cmd.Flags().StringVar(&flags.against, "against", "", "judge the running node at this `address`")
	cmd.Flags().StringVar(&flags.rule, "rule", "*", "only the rules whose name or clause matches this `pattern`")
	cmd.Flags().StringVar(&flags.junit, "junit", "", "write a report in JUnit's XML to this `file`")
	p.jsonFlag(cmd, "one object for each rule, and one for the summary")
	return cmd
}

// suite is a table of rules, to be run on one transport or node.
type suite struct {
	transport, name string
	rules           []conformance.Rule // those that run, in their order
	run             func(ctx context.Context, report func(conformance.Result)) error
}

// suites returns what the flags ask for: at least one suite, each of at least one rule.
func (f *conformanceFlags) suites() ([]suite, error) {
	if _, err := path.Match(f.rule, ""); err != nil {
		return nil, usagef("--rule %q: %w", f.rule, err)
	}
	wanted := []string{f.scheme}
	if f.scheme == all {
		wanted = schemes()
	} else if !slices.Contains(schemes(), f.scheme) {
		return nil, usagef("--transport %q: want all or one of %s", f.scheme, strings.Join(schemes(), ", "))
	}
	if f.suite != all && f.suite != transportSuite && f.suite != stackSuite {
		return nil, usagef("--suite %q: want transport, stack or all", f.suite)
	}
	var list []suite
	add := func(scheme, name string, rules []conformance.Rule, run func(context.Context, func(conformance.Result)) error) {
		if rules = slices.DeleteFunc(rules, func(r conformance.Rule) bool { return !selects(f.rule)(r) }); len(rules) > 0 {
			list = append(list, suite{scheme, name, rules, run})
		}
	}
	if f.against != "" {
		addr, err := parseAddr(f.against)
		if err != nil {
			return nil, err
		}
		if addr.Scheme == mem.Scheme {
			return nil, usagef("--against %s: nobody outside this process is reached by mem", addr)
		}
		h := harnessAgainst(addr.Scheme)
		h.Select = selects(f.rule)
		add(addr.Scheme, againstSuite, conformance.AgainstRules(), func(ctx context.Context, report func(conformance.Result)) error {
			return conformance.RunAgainst(ctx, h, addr, report)
		})
		wanted = nil
	}
	for _, scheme := range wanted {
		h := harness(scheme)
		h.Select = selects(f.rule)
		if f.suite != stackSuite {
			add(scheme, transportSuite, conformance.Rules(), func(ctx context.Context, report func(conformance.Result)) error {
				return conformance.Run(ctx, h, report)
			})
		}
		if f.suite != transportSuite {
			add(scheme, stackSuite, conformance.StackRules(), func(ctx context.Context, report func(conformance.Result)) error {
				return conformance.RunStack(ctx, h, report)
			})
		}
	}
	if len(list) == 0 {
		return nil, usagef("--rule %q: no rule has such a name or clause", f.rule)
	}
	return list, nil
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

// harness returns what the suites need to know of a transport. Short time-outs make them fast.
func harness(scheme string) conformance.Transport {
	const handshake, idle = 2 * time.Second, 2 * time.Second
	h := conformance.Transport{
		Listen:  transport.Addr{Scheme: scheme, HostPort: "127.0.0.1:0"},
		Refuses: true,
	}
	switch scheme {
	case tcp.Scheme:
		h.Network, h.HandshakeTimeout, h.ALPN = "tcp", handshake, tcp.ALPN
		h.Names = func(key identity.Key, names *net.Resolver) (transport.Transport, error) {
			return tcp.New(key, &tcp.Config{HandshakeTimeout: handshake, Resolver: names})
		}
	case mux.Scheme:
		h.Network, h.HandshakeTimeout, h.ALPN = "tcp", handshake, mux.ALPN
		h.IdleTimeout = 6 * time.Second // two seconds, and four for the answer
		h.Names = func(key identity.Key, names *net.Resolver) (transport.Transport, error) {
			return mux.New(key, &mux.Config{HandshakeTimeout: handshake, KeepAlive: 2 * time.Second, Resolver: names})
		}
	case quicScheme:
		h.Network, h.HandshakeTimeout, h.IdleTimeout = "udp", handshake, idle
		h.Names = func(key identity.Key, names *net.Resolver) (transport.Transport, error) {
			return quic.New(key, &quic.Config{HandshakeTimeout: handshake, IdleTimeout: idle, Resolver: names})
		}
	case mem.Scheme:
		h.New = func(key identity.Key) (transport.Transport, error) { return mem.New(key, nil) }
	}
	if h.New == nil {
		h.New = func(key identity.Key) (transport.Transport, error) { return h.Names(key, nil) }
	}
	return h
}

// harnessAgainst returns what is needed to judge a running node, which may be far away and has time-outs of its own.
func harnessAgainst(scheme string) conformance.Transport {
	h := harness(scheme)
	h.HandshakeTimeout = 10 * time.Second // every transport's default
	h.New = func(key identity.Key) (transport.Transport, error) {
		if scheme == quicScheme { // a node that is killed is missed sooner
			return quic.New(key, &quic.Config{IdleTimeout: 5 * time.Second})
		}
		return newTransport(scheme, key)
	}
	return h
}
