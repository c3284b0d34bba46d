// Package protocol is what is said on a stream: which service it is for, what a message looks like, and how two peers
// exchange one message or many. It knows streams and peers, and neither links nor routes. SPEC.md, section "protocol",
// describes the wire so that another implementation can be written; PR numbers in comments are its clauses.
//
// # Usage
//
// A program writes a [Handler], or puts several into a [Table]. The accepting side reads the stream's service with
// [ReadService] and, if it is [MessageService], hands the stream to [Serve]. The opening side calls [Exchange] for one
// request and one reply, or [Converse] for a conversation: the two handlers answer each other on one stream until one of
// them has nothing more to say. Where a stream carries one exchange only, [ConverseBy] holds the same conversation with
// the same handlers, each step an exchange of its own. The accepting side need not know which of these it serves.
//
// All of these own the stream they are given: when they return it is closed or reset.
//
// # Cancellation
//
// The context given to [Exchange] and [Converse] bounds everything, reads and writes under way included: when it ends the stream is
// reset with transport.CodeCancelled. On the other side that reset ends the context of the handler that is running; the loss of the
// connection does, too, after a time of grace if there is a [Replies], since the request may be sent again. The time that is left
// travels with each message, and bounds the other side's handler too.
//
// # Errors
//
// A peer that does not reply says why: that is a [*RemoteError]. When it says nothing an [*ExchangeError] tells what
// happened, and [NotExecuted] whether the request may be sent again without a second thought. Otherwise send it again
// with the same ID: a receiver that has a [Replies] executes it at most once.
//
// # Limitations
//
// A message is held in memory whole, on both sides. Who wants to move more than Config.Limit opens a stream of a service
// of his own.
package protocol
