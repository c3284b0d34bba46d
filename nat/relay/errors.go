package relay

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/Blockchain-CN/pheromones/identity"
)

// Reason says why a relay, or the peer that was called, refused (RL5). It is an error, so that errors.Is(err, reason) asks whether
// err is such a refusal.
type Reason uint16

// The reasons.
const (
	NotRelaying   Reason = 1 // the node relays for nobody
	NotAllowed    Reason = 2 // the relay does not serve this peer, or not over such a link
	NoReservation Reason = 3 // the peer that is called has no place at the relay, or no link with it any more
	Full          Reason = 4 // the relay, or one of the two peers, has as many reservations or circuits as it may have
	Declined      Reason = 5 // the peer that was called does not want the circuit
	Unanswered    Reason = 6 // the peer that was called did not answer in time, or broke off
	Malformed     Reason = 7 // the request was not what it should be
)

// reasons is how many there are, and one for those that are unknown.
const reasons = 8

// String names the reason.
func (r Reason) String() string {
	names := [reasons]string{1: "not relaying", "not allowed", "no reservation", "full", "declined", "unanswered", "malformed"}
	if int(r) < len(names) && names[r] != "" {
		return names[r]
	}
	return fmt.Sprintf("reason %d", uint16(r))
}

// Error makes a Reason a target for errors.Is.
func (r Reason) Error() string { return "relay: " + r.String() }

// RefusedError is what a reservation or circuit fails with that the relay, or the peer behind it, did not want.
type RefusedError struct {
	Relay  identity.ID
	Peer   identity.ID // who was called; zero for a reservation
	Reason Reason
	Text   string // the other side's words
}

func (e *RefusedError) Error() string {
	s := "relay: " + e.Relay.Short() + " refused "
	if e.Peer.IsZero() {
		s += "a reservation"
	} else {
		s += "a circuit to " + e.Peer.Short()
	}
	s += " (" + e.Reason.String() + ")"
	if e.Text != "" {
		s += ": " + e.Text
	}
	return s
}

// Is matches the reason.
func (e *RefusedError) Is(target error) bool { return target == e.Reason }

var (
	// ErrTooLarge means that a packet has more than MaxPacket bytes.
	ErrTooLarge = fmt.Errorf("relay: a packet has at most %d bytes", MaxPacket)
	// ErrNotOurs is what a peer gets that offers a circuit though this node has no reservation with it.
	errNotOurs = errors.New("this node has no reservation with you")
)

// cutText returns text as a refusal carries it.
func cutText(text string) string {
	text = strings.ToValidUTF8(text, "\uFFFD")
	if len(text) <= maxText {
		return text
	}
	n := maxText
	for !utf8.RuneStart(text[n]) {
		n--
	}
	return text[:n]
}
