package greeting

import (
	"fmt"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/protocol"
)

// ConnectMessage returns the message that opens the conversation: who this node is. It fails, with protocol.ErrMalformed,
// if self cannot be put into a message.
func ConnectMessage(self Peer) (protocol.Message, error) { return selfMessage(OpConnectReq, self) }

func selfMessage(operation string, self Peer) (protocol.Message, error) {
	data, err := appendPeer([]byte{version}, self)
	return message(operation, data, err)
}

// ParseConnect returns what the sender of a connectreq or connectresp says of itself. It does not compare that with m.From.
func ParseConnect(m protocol.Message) (Peer, error) {
	r, err := open(m.Data)
	if err != nil {
		return Peer{}, err
	}
	p := readPeer(r)
	return p, malformed(r.Err())
}

// GetMessage returns the message that asks for the peer with an ID, or, if that is zero, for those that bear a name. The
// reply is for [ParsePeers].
func GetMessage(id identity.ID, name string) (protocol.Message, error) {
	data, err := appendName(append([]byte{version}, id[:]...), name)
	if err == nil && id.IsZero() && name == "" {
		err = fmt.Errorf("%w: neither an ID nor a name to ask for", protocol.ErrMalformed)
	}
	return message(OpGetReq, data, err)
}

// ParsePeers returns the peers that a getresp names, at most MaxPeers; none if the other side knows none.
func ParsePeers(m protocol.Message) ([]Peer, error) {
	if m.Operation != OpGetResp {
		return nil, fmt.Errorf("%w: greeting: the reply is %q, want %q", protocol.ErrMalformed, m.Operation, OpGetResp)
	}
	return parsePeers(m.Data)
}

func peersMessage(operation string, peers []Peer) (protocol.Message, error) {
	data, err := appendPeers([]byte{version}, peers)
	return message(operation, data, err)
}

// FetchMessage returns the message that begins to swap routes with a peer: it gives the first page of b's and asks for the
// peer's. The handler of this package begins so itself, after a connectresp.
func FetchMessage(b Book, peer identity.ID) (protocol.Message, error) {
	p := page{flags: answererMore}
	p.give(b, peer, identity.ID{}, askerMore, &p.asker)
	return p.message(OpFetchReq)
}

// NoticeMessage returns the message that tells of changes, 1 to MaxPeers of them; [FitNotices] cuts what may be more. The
// reply is a noticeresp. A node that tells of itself awaits it before it tells that peer of the next change, since what it
// says first-hand is believed in the order in which it comes.
func NoticeMessage(notices ...Notice) (protocol.Message, error) {
	data, err := appendNotices([]byte{version}, notices)
	return message(OpNoticeReq, data, err)
}

// ParseNotice returns the facts that a noticereq tells, 1 to MaxPeers.
func ParseNotice(m protocol.Message) ([]Notice, error) { return parseNotices(m.Data) }

func message(operation string, data []byte, err error) (protocol.Message, error) {
	if err != nil {
		return protocol.Message{}, fmt.Errorf("greeting: %s: %w", operation, err)
	}
	return protocol.Message{Operation: operation, Data: data}, nil
}
