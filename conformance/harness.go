package conformance

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/Blockchain-CN/pheromones"
	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/transport"
)

// Transport is the harness: how to make transports of one kind, and what they are able to do. Rules about abilities that
// are absent are skipped. The suite only reads it.
type Transport struct {
	// New makes a transport with the given key. The suite makes many, some with the same key, and closes each. Required.
	New func(key identity.Key) (transport.Transport, error)
	// Listen is where the transports listen, with port 0 for any free port. Required.
	Listen transport.Addr

	// Network says what carries the transport: "tcp" or "udp" if a HostPort names a port of that kind, to which the suite
	// may then talk itself. Empty means neither; garbage, silent peers and cut cables are not tried then.
	Network string
	// Refuses says that dialling a closed port is answered, so that Dial can fail before its context ends.
	Refuses bool
	// HandshakeTimeout is how long the transports that New makes give a handshake. Zero means unknown: whether silent
	// connections are shed is not checked then. A second or two makes the suite fast.
	HandshakeTimeout time.Duration
	// IdleTimeout is how long the transports that New makes take to give up on a peer that has gone silent. Zero means
	// unknown or never: whether silence ends a connection is not checked then.
	IdleTimeout time.Duration

	// Names makes a transport as New does that looks up DNS names by the given resolver. Nil means that there is no way to: what
	// names with several addresses come to is not checked then.
	Names func(key identity.Key, names *net.Resolver) (transport.Transport, error)
	// ALPN is the application protocol (RFC 7301) of a transport that speaks TLS over TCP, as SPEC.md's section "tls" has it.
	// Empty means that it does not, or that strangers who speak TLS are not to be tried.
	ALPN string
	// Thorough has rules about bad networks try every byte of a connection's life instead of some: minutes, not seconds.
	Thorough bool

	// Baseline makes a transport that [BenchmarkTransport] measures beside the one of New, such as the bare engine under
	// it. It listens at Listen, too. Nil means none.
	Baseline func(key identity.Key) (transport.Transport, error)
	// BaselineName is what the measurements call it, one word.
	BaselineName string

	// Select says which rules to run; nil means all.
	Select func(Rule) bool
	// Watchdog is how long one rule may take before it counts as hung. Zero means 30 seconds; rules that move much data
	// get twice as long, and a program built with the race detector three times as long again.
	Watchdog time.Duration

	name     string        // of the test that runs the suite, if one does
	patience time.Duration // replaces soon, for the suite's own tests; zero means soon
	target   *target       // of RunAgainst: the node; else nil
	// node makes the nodes of the stack's rules, for the suite's own tests; nil means pheromones.New.
	node func(pheromones.Config) (participant, error)
}

// Rule is one promise that the suite checks.
type Rule struct {
	Name     string // unique, lower case with hyphens
	Clause   string // of SPEC.md, such as "ST8"
	Sentence string // what must hold

	needs need
	heavy bool // moves much data or opens many connections
	check func(*env)
}

// Result says how one rule ended.
type Result struct {
	Rule    Rule
	Err     error  // a *Finding; nil if the rule holds or was skipped
	Skipped string // why the rule was skipped; empty if it ran
	Elapsed time.Duration
}

// Finding says that a transport breaks a rule.
type Finding struct {
	Rule Rule
	Seen string // what was expected and what was seen instead; several lines if there was more than one thing
}

func (f *Finding) Error() string {
	return fmt.Sprintf("%s/%s: %s\n\t%s", f.Rule.Clause, f.Rule.Name, f.Rule.Sentence, strings.ReplaceAll(f.Seen, "\n", "\n\t"))
}

// Rules returns the table of rules, in the order they run.
func Rules() []Rule { return table() }

// TestTransport runs every rule as a subtest named by clause and rule, and logs at its end which rules were skipped and
// why. It must not run beside parallel tests.
func TestTransport(t *testing.T, h Transport) {
	t.Helper()
	h.serveIfChild(t)
	traits, err := h.probe()
	if err != nil {
		t.Fatal(err)
	}
	h.test(t, table(), traits)
}

// test runs rules as subtests.
func (h *Transport) test(t *testing.T, rules []Rule, traits transport.Traits) {
	t.Helper()
	var skips []string
	for _, r := range rules {
		if h.Select != nil && !h.Select(r) {
			continue
		}
		t.Run(r.Clause+"/"+r.Name, func(t *testing.T) {
			res := h.run(t.Context(), t, r, traits)
			if res.Err != nil {
				t.Error(res.Err)
			}
			if res.Skipped != "" {
				skips = append(skips, fmt.Sprintf("%s/%s: %s", r.Clause, r.Name, res.Skipped))
				t.Skip(res.Skipped)
			}
		})
	}
	if len(skips) > 0 {
		t.Logf("%d rules were skipped:\n%s", len(skips), strings.Join(skips, "\n"))
	}
}

// CheckTransport runs the rules and returns all findings, joined; each is a [*Finding]. It returns nil if the transport
// keeps every rule that it has the abilities for. It ends early, with ctx's error among the findings, when ctx ends.
// Rules that need package testing are skipped. It must not run beside other users of the process.
func CheckTransport(ctx context.Context, h Transport) error {
	return Run(ctx, h, func(Result) {})
}

// Run is [CheckTransport] for programs that show progress: it calls report with the result of each rule when it has
// ended, skipped ones included, from the calling goroutine.
func Run(ctx context.Context, h Transport, report func(Result)) error {
	return h.check(ctx, table(), report)
}

// check runs rules and returns the findings, joined.
func (h *Transport) check(ctx context.Context, rules []Rule, report func(Result)) error {
	traits, err := h.probe()
	if err != nil {
		return err
	}
	var found []error
	for _, r := range rules {
		if h.Select != nil && !h.Select(r) {
			continue
		}
		if err := ctx.Err(); err != nil {
			found = append(found, fmt.Errorf("conformance: stopped before %s/%s: %w", r.Clause, r.Name, err))
			break
		}
		res := h.run(ctx, nil, r, traits)
		if res.Err != nil {
			found = append(found, res.Err)
		}
		report(res)
		if err := h.target.lost(res); err != nil {
			found = append(found, err)
			break
		}
	}
	return errors.Join(found...)
}

// probe makes one transport to see that the harness is usable and to learn the traits.
func (h *Transport) probe() (transport.Traits, error) {
	var none transport.Traits
	if h.New == nil {
		return none, errors.New("conformance: the harness has no New")
	}
	switch h.Network {
	case "", "tcp", "udp":
	default:
		return none, fmt.Errorf(`conformance: the harness's Network is %q, want "tcp", "udp" or nothing`, h.Network)
	}
	key, err := identity.Generate()
	if err != nil {
		return none, err
	}
	tr, err := h.New(key)
	if err != nil {
		return none, fmt.Errorf("conformance: the harness's New: %w", err)
	}
	if tr == nil {
		return none, errors.New("conformance: the harness's New returned no transport and no error")
	}
	traits := tr.Traits()
	if err := tr.Close(); err != nil {
		return none, fmt.Errorf("conformance: closing an unused transport: %w", err)
	}
	if h.Listen.Scheme != traits.Scheme {
		return none, fmt.Errorf("conformance: the harness listens at %q, but the transport's scheme is %q", h.Listen, traits.Scheme)
	}
	return traits, nil
}

// need is a set of abilities that a rule presupposes.
type need uint

const (
	needMany      need = 1 << iota // a connection carries many streams
	needOne                        // a connection carries one stream
	needNetwork                    // the suite can talk to a HostPort itself
	needTCP                        // … by TCP
	needUDP                        // … by UDP
	needRefuses                    // a closed port answers
	needHandshake                  // the handshake time-out is known
	needIdle                       // the idle time-out is known
	needALPN                       // it speaks TLS over TCP
	needShort                      // … and in it, what SPEC.md's section "tcp" says
	needYamux                      // … and in it, what SPEC.md's section "mux" says
	needNames                      // names are looked up by a resolver of the suite's
	needTesting                    // there is a *testing.T
)

// The application protocols over TCP that SPEC.md describes (TL3).
const (
	alpnShort = "pheromones-short/1"
	alpnMux   = "pheromones/1"
)

// missing returns why a rule with these needs cannot run, or the empty string.
func (h *Transport) missing(n need, traits transport.Traits, t *testing.T) string {
	for _, x := range []struct {
		need   need
		absent bool
		reason string
	}{
		{needMany, traits.OneStream, "a connection carries one stream only"},
		{needOne, !traits.OneStream, "a connection carries many streams"},
		{needNetwork, h.Network == "", "the harness names no network to which the suite could talk itself"},
		{needTCP, h.Network != "tcp", "the transport does not run over TCP"},
		{needUDP, h.Network != "udp", "the transport does not run over UDP"},
		{needRefuses, !h.Refuses, "a closed port does not answer"},
		{needHandshake, h.HandshakeTimeout <= 0, "the harness does not say what the handshake time-out is"},
		{needIdle, h.IdleTimeout <= 0, "the harness does not say what the idle time-out is"},
		{needALPN, h.ALPN == "", "the harness does not say which application protocol it has TLS carry"},
		{needShort, h.ALPN != alpnShort, "the harness does not say that it has TLS carry " + alpnShort},
		{needYamux, h.ALPN != alpnMux, "the harness does not say that it has TLS carry " + alpnMux},
		{needNames, h.Names == nil, "the harness gives no way to look up names"},
		{needTesting, t == nil, "it needs package testing: run TestTransport"},
	} {
		if n&x.need != 0 && x.absent {
			return x.reason
		}
	}
	return ""
}
