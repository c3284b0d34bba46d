package conformance

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/transport"
)

// AgainstRules returns the table of rules by which [RunAgainst] judges a running node, in the order they run.
func AgainstRules() []Rule { return againstTable() }

// RunAgainst judges a running node from outside: one of another process, machine, build or implementation that listens at addr.
// Each rule is a peer with a fresh key, made by h.New, that speaks the bytes of SPEC.md rather than those of this
// implementation's codecs. It calls report with the result of each rule when it has ended, skipped ones included, from the
// calling goroutine, and returns all findings, joined; each is a [*Finding].
//
// If addr has an ID the node must prove it; else whoever answers at first is the node, and must be it to the end. Besides New and
// Listen, of which only the scheme is used, the harness says what carries the node's connections: Network, ALPN, and
// HandshakeTimeout, here how long the node gives a handshake. Select and Watchdog are as ever.
//
// Every rule ends within the watchdog, whatever the node does. RunAgainst fails at once if the node cannot be reached, and
// ends early with an [*UnreachableError] among the findings when three rules in a row could not reach it, or with ctx's error
// when ctx ends. It does not load the node much, and is no test of its endurance: some hundred connections, and messages up to
// the limit of 16 MiB. Meanwhile the node tells its peers of a few peers that come and go. Unlike the other suites it may run
// beside anything.
func RunAgainst(ctx context.Context, h Transport, addr transport.Addr, report func(Result)) error {
	if _, err := h.probe(); err != nil {
		return err
	}
	if err := addr.Check(h.Listen.Scheme); err != nil {
		return fmt.Errorf("conformance: against %s: %w", addr, err)
	}
	peer, err := h.meet(ctx, addr)
	if err != nil {
		return fmt.Errorf("conformance: against %s: %w", addr, err)
	}
	addr.Peer = peer
	h.target = &target{addr: addr}
	return h.check(ctx, againstTable(), report)
}

// meet returns the ID of whoever is at addr.
func (h *Transport) meet(ctx context.Context, addr transport.Addr) (identity.ID, error) {
	key, err := identity.Generate()
	if err != nil {
		return identity.ID{}, err
	}
	tr, err := h.New(key)
	if err != nil {
		return identity.ID{}, err
	}
	defer tr.Close()
	ctx, cancel := context.WithTimeout(ctx, dialBound)
	defer cancel()
	c, err := tr.Dial(ctx, addr)
	if err != nil {
		return identity.ID{}, err
	}
	defer c.CloseWithError(transport.CodeNone, "")
	return c.Info().RemotePeer, nil
}

// dialBound is how long reaching the node may take.
const dialBound = 10 * time.Second * slowdown

// maxUnreached is how many rules in a row may fail to reach the node before the run is given up.
const maxUnreached = 3

// target is the node that RunAgainst judges.
type target struct {
	addr transport.Addr // with its ID

	unreached atomic.Pointer[error] // why the rule under way could not reach it
	row       int                   // how many rules in a row could not; of the goroutine that runs them
}

// UnreachableError says that a node that was there at first could not be reached any more.
type UnreachableError struct {
	Addr transport.Addr
	Rule Rule  // the last rule that ran
	Err  error // of its last dial
}

func (e *UnreachableError) Error() string {
	return fmt.Sprintf("conformance: stopped after %s/%s: the node at %s could not be reached in %d rules in a row: %v", e.Rule.Clause,
		e.Rule.Name, e.Addr, maxUnreached, e.Err)
}

// Unwrap returns e.Err.
func (e *UnreachableError) Unwrap() error { return e.Err }

// lost takes note of how a rule ended, and returns an error if the node is to be given up.
func (t *target) lost(res Result) error {
	if t == nil || res.Skipped != "" {
		return nil
	}
	why := t.unreached.Swap(nil)
	if res.Err == nil || why == nil {
		t.row = 0
		return nil
	}
	if t.row++; t.row < maxUnreached {
		return nil
	}
	return &UnreachableError{Addr: t.addr, Rule: res.Rule, Err: *why}
}

// unreached ends the check because the node could not be reached. Only what is no fault of the check's own counts.
func (e *env) unreached(err error) {
	if e.ctx.Err() == nil || errors.Is(e.ctx.Err(), context.DeadlineExceeded) {
		e.h.target.unreached.Store(&err)
	}
	e.failf("want the node to be reached, got %s", describe(err))
}

// againstTable is the suite for a running node: every rule, in the order of SPEC.md.
func againstTable() []Rule {
	return []Rule{
		{"right-peer", "ID1", "The node proves one ID, whether it is asked for by it or not.", 0, false, rightPeer},
		{"not-another", "ID2", "Whoever asks for another ID does not get the node, and the node goes on.", 0, false, notAnother},
		{"resumed", "ID4", "Later connections of one key prove the same two peers as the first.", 0, false, resumed},
		{"strangers", "LI5", "Connections that are silent, send garbage or stop half-way do not keep honest ones out.", needNetwork, false, strangersAgainst},
		{"strangers-shed", "LI5", "Connections without a handshake are closed within the handshake time-out.", needTCP | needHandshake, true, strangersShedAgainst},

		{"old-tls", "TL1", "Who speaks TLS 1.2 is not served.", needTCP | needALPN, false, oldTLS},
		{"certificate", "TL2", "The node shows one certificate, self-signed by its ed25519 key, and serves one of any names and dates.", needTCP | needALPN, false, certificate},
		{"bad-certificates", "TL2", "Who shows no certificate, or another than one self-signed by an ed25519 key, is not served.", needTCP | needALPN, false, badCertificates},
		{"other-alpn", "TL3", "Who offers no application protocol, or another, is not served.", needTCP | needALPN, false, otherALPN},

		{"short-frames", "TC2", "Frames of every size and unknown types make a stream; its end in both directions ends the connection.", needTCP | needShort, false, shortFrames},
		{"short-credit", "TC3", "The node sends within its credit, and gives credit for what it has read.", needTCP | needShort, false, shortCredit},
		{"short-breach", "TC4", "A frame that is too long is answered by CLOSE with code 2.", needTCP | needShort, false, shortBreach},
		{"short-reset", "TC5", "A connection whose stream is reset, or that is closed, ends.", needTCP | needShort, false, shortReset},

		{"yamux", "MU1", "The node speaks yamux: pings, streams, half-closes.", needTCP | needYamux, false, yamuxSpoken},
		{"yamux-reset", "MU2", "A reset carries its code, and one of ours is taken.", needTCP | needYamux, false, yamuxReset},
		{"yamux-unknown", "MU3", "An unknown kind of message to the connection is skipped.", needTCP | needYamux, false, yamuxUnknown},
		{"yamux-breach", "MU5", "A breach of yamux is answered by CLOSE with code 2.", needTCP | needYamux, false, yamuxBreach},

		{"half-close", "ST3", "A request whose direction has ended is answered all the same.", 0, false, halfClose},
		{"resets-give-back", "OP6", "Streams that are opened and reset give their places back.", 0, true, resetsGiveBack},
		{"unread", "FL2", "Answers that nobody reads hold nobody else up.", 0, false, unreadAnswers},

		{"bad-service", "PR1", "A stream that begins with what is no service's name is ended.", 0, false, badService},
		{"unknown-service", "PR2", "A stream of an unknown service is reset with code 10.", 0, false, unknownServiceAgainst},
		{"vectors", "PR3", "The frames of SPEC.md are understood as they stand there.", 0, false, vectors},
		{"pieces", "PR3", "A frame may come byte by byte.", 0, false, pieces},
		{"too-large", "PR4", "A frame above any limit is answered with code 6, whether its bytes come or not.", 0, false, tooLarge},
		{"sizes", "PR4", "Frames up to 16 MiB are answered.", 0, true, sizesAgainst},
		{"other-versions", "PR5", "Frames of other versions and kinds are answered with code 8.", 0, false, otherVersions},
		{"later-fields", "PR6", "Bytes behind the known fields are skipped.", 0, false, laterFields},
		{"malformed", "PR10", "Malformed frames are answered with code 7.", 0, false, malformedFrames},
		{"cut-frames", "PR11", "A stream that ends within a frame is answered with code 7, one that ends between frames in order.", 0, false, cutFrames},
		{"half-frames", "PR11", "Streams that stop within a frame, and stay, disturb nobody.", 0, false, halfFrames},
		{"undisturbed", "PR13", "What is wrong with one stream disturbs no other.", 0, false, undisturbed},
		{"many-at-once", "PR14", "A hundred exchanges at once are each answered with their own.", 0, false, manyAtOnce},
		{"turns", "PR14", "A stream carries one exchange after another until a side says none or an error, or ends it.", 0, false, turns},
		{"reply-id", "PR17", "A reply bears the ID of the message it answers, on a stream that is used again too.", 0, false, replyID},
		{"time-out", "PR19", "A message that is not waited for long is answered, or given up with code 5.", 0, false, shortTimeout},
		{"early", "PR21", "Messages that come before their turn are handled in their turn.", 0, false, early},
		{"unknown-operation", "PR23", "An operation that nobody handles is answered with unknownop, and unknownop with none.", 0, false, unknownOperationAgainst},

		{"bad-greetings", "GR2", "Greetings of another version, or malformed, are answered with code 7.", 0, false, badGreetings},
		{"later-greetings", "GR2", "Bytes behind the known fields of a greeting are skipped.", 0, false, laterGreetings},
		{"introduction", "GR5", "Who introduces itself is answered with the node's own entry.", 0, false, introduction},
		{"impostor", "GR5", "Who introduces another as itself is refused with code 3, and nothing is learned.", 0, false, impostorAgainst},
		{"pages", "GR6", "The table is given page by page, in order.", 0, false, pages},
		{"get", "GR7", "The node answers for itself by ID and by name, and has nothing to say of those it does not know.", 0, false, get},
		{"notices", "GR10", "What a peer tells of itself is known to others, until it leaves.", 0, false, notices},

		{"one-control", "LK1", "A link has one control stream; a second one is reset with code 2.", needMany, false, oneControl},
		{"control", "LK2", "On the control stream hellos are exchanged, pings are answered, and what is unknown is skipped.", needMany, false, linkSpoken},

		{"dial-again", "RO8", "After a connection was closed, in whatever way, the next one works.", 0, false, dialAgain},
		{"ping", "PR24", "After all of this the node answers a ping, and soon.", 0, false, stillThere},
	}
}
