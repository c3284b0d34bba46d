package conformance

import (
	"context"
	"testing"
)

// StackRules returns the table of rules about what stands above a transport, in the order they run: nodes, their routers, and
// what they say to each other.
func StackRules() []Rule { return stackTable() }

// TestStack runs every rule of [StackRules] as a subtest, on fresh nodes over the transport. Besides New and Listen it uses
// Network, if it is given, to lose connections. It says what [TestTransport] says, and like it must not run beside parallel
// tests. A transport that keeps the rules of [Rules] keeps these too, or the fault is in the layers above it.
func TestStack(t *testing.T, h Transport) {
	t.Helper()
	traits, err := h.probe()
	if err != nil {
		t.Fatal(err)
	}
	h.test(t, stackTable(), traits)
}

// CheckStack is [CheckTransport] for the rules of [StackRules].
func CheckStack(ctx context.Context, h Transport) error {
	return RunStack(ctx, h, func(Result) {})
}

// RunStack is [Run] for the rules of [StackRules].
func RunStack(ctx context.Context, h Transport, report func(Result)) error {
	return h.check(ctx, stackTable(), report)
}

// stackTable is the suite of the stack: every rule, in the order of SPEC.md.
func stackTable() []Rule {
	return []Rule{
		{"unknown-service", "PR2", "A stream of a service that the node does not have is reset with CodeUnknownService.", 0, false, unknownService},
		{"bad-streams", "PR13", "What is no frame is answered with an error, and what is no stream of ours is shed; others notice nothing.", 0, false, badStreams},
		{"half-streams", "PR11", "Streams that stop half-way, and stay, disturb nobody.", 0, false, halfStreams},
		{"handler-error", "PR12", "The asking side gets the code and the words of the handler's error.", 0, false, handlerError},
		{"exchange", "PR14", "A request reaches the handler as it was sent, and its reply comes back.", 0, false, exchangeRoundTrip},
		{"conversation", "PR15", "A conversation is the same messages in the same order for both handlers, whichever side ends it.", 0, false, conversation},
		{"sender-proved", "PR16", "A handler is told the sender that the connection proved.", 0, false, senderProved},
		{"endless-conversation", "PR18", "Two handlers that always answer are stopped.", 0, true, endlessConversation},
		{"deadline", "PR19", "The asking side's deadline ends the handler's context.", 0, false, deadlineReaches},
		{"cancellation", "PR20", "When the asking side gives up the handler's context ends.", 0, false, cancellationReaches},
		{"early-message", "PR21", "A message that comes before its turn is handled in its turn.", 0, false, earlyMessage},
		{"unknown-operation", "PR23", "An operation that nobody handles is answered with unknownop.", 0, false, unknownOperation},

		{"repeat-answered", "PR26", "A request that comes again is answered as the first time, and not executed again.", 0, false, repeatAnswered},
		{"repeat-waits", "PR27", "A request that comes again while its handler runs waits for the reply.", 0, false, repeatWaits},
		{"forgotten", "PR28", "A request that the peer has forgotten is not executed again, and says so.", 0, false, forgotten},
		{"restarted", "PR29", "A request that a former life of the peer has executed is not executed again, and says so.", 0, false, restartedInBetween},
		{"loss-survived", "PR30", "A handler runs on while the request is sent again after losses, and its reply arrives.", 0, false, lossSurvived},
		{"loss-cancelled", "PR20", "Who gives up while his request is sent again ends the handler's context.", 0, false, lossCancelled},

		{"at-once", "PR32", "Of many requests at once each has its own reply, and those that take long hold up no others.", 0, false, atOnce},

		{"impostor", "GR5", "A peer that introduces another as itself is refused.", 0, false, impostor},
		{"many-pages", "GR6", "Tables of several pages are swapped whole, both ways.", 0, true, manyPages},
		{"get-one", "GR7", "A peer is asked for one route, by ID and by name.", 0, false, getOne},
		{"add-one-know-all", "GR9", "Who adds one peer comes to know all, and all come to know it.", 0, false, addOneKnowAll},
		{"hints-do-not-replace", "GR11", "What one peer says of another does not replace what that one has said itself.", 0, false, hintsDoNotReplace},
		{"no-storm", "GR12", "News are passed on once, and what is no news is not.", 0, false, noStorm},

		{"link-without-control", "LK1", "A link works without a control stream, and with frames that nobody knows.", needMany, false, linkWithoutControl},
		{"link-hello", "LK2", "A hello is answered with one, which bears the node's incarnation and makes no route.", needMany, false, linkHello},
		{"link-rank", "LK3", "Of several links the highest rank takes new streams.", needMany, false, linkRank},
		{"link-new-life", "LK4", "Links with a former life of the peer are closed at once.", needMany, false, linkNewLife},
		{"link-pledge", "LK5", "A link that has lost ends when nothing runs on it on either side, and not before.", needMany, false, linkPledge},
		{"added-at-once", "LK6", "Nodes that add each other at once come to have one link.", needMany, false, linkAddedAtOnce},
		{"link-ping", "LK7", "A ping is answered with its bytes.", needMany, false, linkProbed},
		{"link-idle", "LK8", "A link that neither side needs is closed, if both agree.", needMany, false, linkIdle},
		{"link-kept", "LK9", "A peer that was added and is back is linked and greeted again, unasked.", needMany, false, linkKept},
		{"links-bounded", "LK10", "Of too many links the one that has been idle for the longest gives way, and those that are needed do not.", needMany, false, linkBound},

		{"named-by", "RO1", "A peer is named by its ID, its name or its address.", 0, false, namedBy},
		{"unknown-peer", "RO1", "An ID or a name that nobody has is ErrUnknownPeer.", 0, false, unknownPeer},
		{"ambiguous-name", "RO2", "A name that several peers bear fails with an error that lists them.", 0, false, ambiguousName},
		{"wrong-id", "RO3", "An address with the ID of another peer than answers there is identity.ErrWrongPeer, and is forgotten.", 0, false, wrongID},
		{"nobody-there", "RO3", "An address that nobody answers at is forgotten.", 0, false, nobodyThere},
		{"self-refused", "RO4", "A node is not its own peer.", 0, false, selfRefused},
		{"one-link", "RO5", "Calls at once share one dial and one link.", needMany, false, oneLink},
		{"impatient-caller", "RO5", "A caller that gives up a shared dial does not take the others' with it.", 0, false, impatientCaller},
		{"one-dial-each", "RO5", "Without links each exchange has a connection, which ends with it.", needOne, false, oneDialEach},
		{"dead-address", "RO6", "A dead address does not keep a call from another that works; if none does, the error lists all.", 0, false, deadAddress},
		{"closed-in-exchange", "RO7", "A connection that closes in the middle of an exchange gives a typed error and no second execution.", 0, false, closedInExchange},
		{"lost-in-exchange", "RO7", "A connection that is lost in the middle of an exchange gives a typed error and no second execution.", needTCP, false, lostInExchange},
		{"loss-given-up", "RO7", "A request that cannot be sent again ends with a typed error.", 0, false, lossGivenUp},
		{"redial", "RO8", "When a link has ended the next call dials again.", 0, false, redial},
		{"delete", "RO9", "A deleted peer is unknown; hints do not bring it back, adding it does.", 0, false, deletePeer},
		{"delete-drains", "RO9", "Delete lets what runs on a link end, and then the link ends.", needMany, false, deleteDrains},
		{"restarted-peer", "RO10", "A peer that restarts elsewhere is found when it is added again, even before its old link is known to be dead.", 0, false, restartedPeer},
		{"dispatch-all", "RO11", "DispatchAll returns a result for each peer: a reply, or what went wrong.", 0, false, dispatchAll},
		{"dispatch-all-slow", "RO11", "A slow peer delays no other's reply.", 0, false, dispatchAllSlow},
		{"dispatch-all-bounded", "RO11", "No more peers are talked to at once than configured.", 0, false, dispatchAllBounded},
		{"routes-copied", "RO12", "Routes are a snapshot that is the caller's.", 0, false, routesCopied},
		{"watch", "RO13", "Events come in order, those that a slow watcher misses are counted, and the channel is closed at the end.", 0, false, watch},
		{"table-bound", "RO14", "The table is bounded, and hostile hints do not keep a caller from adding peers.", 0, false, tableBound},

		{"start", "NO1", "Start binds all addresses or none, and Addrs says where.", 0, false, start},
		{"add", "NO2", "Add makes two nodes each other's route.", 0, false, addBoth},
		{"moved", "NO3", "Peers are told when a node listens elsewhere.", 0, false, moved},
		{"farewell", "NO3", "Peers are told when a node shuts down.", 0, false, farewell},
		{"sizes", "NO4", "Messages up to the limit pass; larger ones are refused, with an error that says so, before they are sent.", 0, false, sizes},
		{"sizes-differ", "NO4", "What is above the receiver's limit alone is refused by it.", 0, false, sizesDiffer},
		{"default-limit", "NO4", "Frames of 16 MiB pass unless configured otherwise.", 0, true, defaultLimit},
		{"panic", "NO5", "A handler's panic costs the exchange and nothing else.", 0, false, handlerPanic},
		{"service-echo", "NO6", "A service's connections carry 8 MiB each way, and can be half-closed.", 0, false, serviceEcho},
		{"service-http", "NO6", "net/http runs over a service: connections are kept, and 64 requests run at once.", 0, false, serviceHTTP},
		{"service-backlog", "NO7", "Of connections that nobody accepts a bounded number waits.", 0, false, serviceBacklog},
		{"service-closed", "NO7", "A service has one listener; when it is closed the service is unknown.", 0, false, serviceClosed},
		{"shutdown", "NO8", "Shutdown lets handlers answer, and refuses what is new.", 0, false, shutdown},
		{"shutdown-bounded", "NO8", "Shutdown cuts what runs when its context ends.", 0, false, shutdownBounded},
		{"close", "NO9", "Close cuts what runs, and later calls fail with net.ErrClosed.", 0, false, closeNode},
		{"nothing-left", "NO10", "A node that was closed or shut down leaves no goroutine and no socket, with links, streams and dials of all kinds open.", 0, false, nothingLeft},
		{"broadcast-once", "BR4", "A broadcast comes once to every other node, with the name of who sent it.", 0, false, broadcastOnce},
		{"hammer", "NO11", "All of it works from many goroutines at once.", 0, true, hammer},
	}
}
