// Package conformance checks that a transport keeps the promises of SPEC.md, section "transport", and that what stands above
// it keeps those of the later sections.
//
// # Usage
//
// State how transports are made and what they can do, and hand it over:
//
//	func TestConformance(t *testing.T) {
//		conformance.TestTransport(t, conformance.Transport{
//			New: func(key identity.Key) (transport.Transport, error) {
//				return tcp.New(key, &tcp.Config{HandshakeTimeout: 2 * time.Second})
//			},
//			Listen:           transport.Addr{Scheme: "tcp", HostPort: "127.0.0.1:0"},
//			Network:          "tcp",
//			Refuses:          true,
//			HandshakeTimeout: 2 * time.Second,
//		})
//	}
//
// Outside of go test, [CheckTransport] runs the same table of rules and returns what it found, and [Run] reports each
// rule as it finishes.
//
// [TestStack], [CheckStack], [RunStack] and [StackRules] do the same, with the same harness, for whole nodes over the
// transport: their router, and what they say to each other.
//
// [RunAgainst] judges a node that runs elsewhere, of another build or another implementation, by the bytes it sends; its rules
// are [AgainstRules].
//
// # Rules
//
// Every rule cites a clause of SPEC.md, and every clause of the section has a rule; [Rules] lists them. Each rule gets
// fresh transports, a watchdog that shows all goroutines instead of hanging, and a look afterwards at what the transports
// left behind once closed. A rule that a transport lacks an ability for is skipped, and the skip is reported with its
// reason. The suite never asks which transport it has.
//
// # What proves it
//
// The suite is run over transports and nodes that are broken on purpose, each in one way, and every rule has one at least that
// it must catch; BREAKAGES.md lists them, and COVERAGE.md what of our own transports no rule reaches. Whoever adds a rule adds what it catches.
//
// # Limitations
//
// Rules run one after another, and nothing else in the process may start goroutines, open sockets or print meanwhile: do
// not run the suite beside parallel tests. Time-outs that decide are generous; a rule that wants to see that a call is
// blocked waits a moment, so a busy machine can hide a fault but never invent one.
package conformance
