package main

import (
	"reflect"
	"strings"
	"testing"

	"github.com/Blockchain-CN/pheromones/transport"
)

// What happens in the demo is the same over every transport, but for addresses and times.
func TestDemo(t *testing.T) {
	const (
		lunch = "answer"
		lh    = "luda"
		yo    = "yoghurt"
		di    = "diudiu"
	)
	want := []event{
		{Event: "start", Node: lh}, {Event: "start", Node: yo}, {Event: "start", Node: di},
		{Event: "add", Node: lh, Peer: yo}, {Event: "add", Node: di, Peer: yo},
		{Event: "knows", Node: lh, Peers: []string{di, yo}},
		{Event: "knows", Node: yo, Peers: []string{di, lh}},
		{Event: "knows", Node: di, Peers: []string{lh, yo}},
		{Event: "say", Node: lh, Peer: yo, Operation: "hello", Text: "I am luda"},
		{Event: "say", Node: yo, Peer: lh, Operation: "howareyou", Text: "how are you, says yoghurt"},
		{Event: "say", Node: lh, Peer: yo, Operation: "fine", Text: "fine, thank you"},
		{Event: "say", Node: yo, Peer: lh, Operation: "bye", Text: "see you"},
		{Event: "end", Node: lh, Peer: yo},
		{Event: "reply", Node: lh, Peer: di, Operation: lunch, Text: "rice"},
		{Event: "reply", Node: lh, Peer: di, Operation: lunch, Text: "rice"},
		{Event: "reply", Node: lh, Peer: yo, Operation: lunch, Text: "dumplings"},
		{Event: "delete", Node: lh, Peer: yo},
		{Event: "knows", Node: lh, Peers: []string{di}},
		{Event: "reply", Node: lh, Peer: di, Operation: lunch, Text: "rice"},
		{Event: "shutdown", Node: lh}, {Event: "shutdown", Node: yo}, {Event: "shutdown", Node: di},
	}
	eachTransport(t, func(t *testing.T, scheme string) {
		got := objects[event](t, mustTry(t, "", "demo", "--transport", scheme, "--json"))
		for i := range got {
			e := &got[i]
			if a, err := transport.ParseAddr(e.Addr); e.Event == "start" && (err != nil || a.Scheme != scheme || a.Peer.IsZero()) {
				t.Errorf("%s starts at %q: %v", e.Node, e.Addr, err)
			}
			e.Addr, e.MS = "", nil
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("got\n%+v\nwant\n%+v", got, want)
		}
		text := mustTry(t, "", "demo", "--transport", scheme)
		for _, e := range want {
			if !strings.Contains(text, e.Text) || !strings.Contains(text, "  "+e.Node) {
				t.Errorf("the text says nothing of %+v:\n%s", e, text)
			}
		}
	})
}
