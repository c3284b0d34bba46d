package gossip_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/Blockchain-CN/pheromones/router/gossip"
)

// examples returns a frame of each kind.
func examples(m *gossip.Message) []gossip.Frame {
	c := gossip.Contact{ID: testID(2), Addrs: []string{"quic://192.0.2.1:4001", ""}}
	entries := []gossip.Entry{
		{Origin: testID(3), Incarnation: 1, First: 1, Mask: 5, Hops: 4},
		{Origin: testID(4), Incarnation: 1 << 60, First: 1 << 63, Mask: 1 << 63, Hops: gossip.HopsUnknown, Shared: true},
	}
	return []gossip.Frame{
		&gossip.Payload{Message: m, Hops: 3, Shared: true},
		&gossip.Have{}, &gossip.Have{Entries: entries},
		&gossip.Graft{Entries: entries},
		&gossip.Prune{Origin: testID(3)}, &gossip.Prune{},
		&gossip.Join{Addrs: c.Addrs},
		&gossip.ForwardJoin{Joiner: c, TTL: 6},
		&gossip.Neighbor{Urgent: true, Addrs: c.Addrs}, &gossip.Neighbor{},
		&gossip.Reply{Accept: true}, &gossip.Reply{Addrs: c.Addrs, Contacts: []gossip.Contact{c, {ID: testID(5)}}},
		&gossip.Disconnect{}, &gossip.Disconnect{Leaving: true},
		&gossip.Shuffle{Origin: c, TTL: 2, Contacts: []gossip.Contact{c}},
		&gossip.ShuffleReply{Contacts: []gossip.Contact{c}},
		&gossip.Probe{Answer: true, Entries: entries}, &gossip.Probe{},
	}
}

func TestRoundTrip(t *testing.T) {
	all := examples(message(3, 9, time.UnixMicro(1_700_000_000_123_456)))
	b := gossip.AppendBatch(nil, all...)
	size := gossip.BatchHeader
	for _, f := range all {
		size += f.Size()
		if n := len(gossip.AppendBatch(nil, f)); n != gossip.BatchHeader+f.Size() {
			t.Errorf("%T takes %d bytes, and Size says %d", f, n-gossip.BatchHeader, f.Size())
		}
	}
	if size != len(b) {
		t.Errorf("the batch takes %d bytes, and the sizes say %d", len(b), size)
	}
	got, err := gossip.ParseBatch(b)
	if err != nil || !reflect.DeepEqual(got, all) {
		t.Fatalf("%v\ngot  %+v\nwant %+v", err, got, all)
	}
	for n := range b {
		if frames, err := gossip.ParseBatch(b[:n]); err == nil {
			if again := gossip.AppendBatch(nil, frames...); !bytes.Equal(again, b[:n]) {
				t.Errorf("%d bytes of it were read as another batch", n)
			}
		}
	}
	// What a later version adds is skipped; another version is refused.
	longer := append(gossip.AppendBatch(nil), 200, 0, 0, 0, 3, 1, 2, 3)
	longer = append(longer, 9, 0, 0, 0, 4, 1, 7, 7, 7)
	if got, err := gossip.ParseBatch(longer); err != nil || len(got) != 1 || *got[0].(*gossip.Disconnect) != (gossip.Disconnect{Leaving: true}) {
		t.Errorf("with additions: %v, %+v", err, got)
	}
	b[0]++
	if _, err := gossip.ParseBatch(b); !errors.Is(err, gossip.ErrMalformed) {
		t.Errorf("another version: %v", err)
	}
}

// vector is a batch of testdata/batches.json.
type vector struct {
	Name   string `json:"name"`
	Hex    string `json:"hex"`
	Frames string `json:"frames,omitempty"` // as describe puts it
	Error  bool   `json:"error,omitempty"`
}

func describe(frames []gossip.Frame) string {
	var parts []string
	for _, f := range frames {
		name := strings.TrimPrefix(fmt.Sprintf("%T", f), "*gossip.")
		switch f := f.(type) {
		case *gossip.Payload:
			parts = append(parts, fmt.Sprintf("%s hops=%d shared=%v origin=%s incarnation=%d seq=%d born=%d operation=%q data=%x signed=%v", name,
				f.Hops, f.Shared, f.Message.ID.Origin, f.Message.ID.Incarnation, f.Message.ID.Seq, f.Message.Born.UnixMicro(),
				f.Message.Operation, f.Message.Data, f.Message.Verify()))
		default:
			text, _ := json.Marshal(f)
			parts = append(parts, name+" "+string(text))
		}
	}
	return strings.Join(parts, "; ")
}

func TestVectors(t *testing.T) {
	text, err := os.ReadFile("testdata/batches.json")
	if err != nil {
		t.Fatal(err)
	}
	var vectors []vector
	if err := json.Unmarshal(text, &vectors); err != nil || len(vectors) < 10 {
		t.Fatalf("%d vectors: %v", len(vectors), err)
	}
	for _, v := range vectors {
		b, err := hex.DecodeString(v.Hex)
		if err != nil {
			t.Fatal(err)
		}
		frames, err := gossip.ParseBatch(b)
		if (err != nil) != v.Error || err == nil && describe(frames) != v.Frames {
			t.Errorf("%s: %v\ngot  %s\nwant %s", v.Name, err, describe(frames), v.Frames)
		}
	}
}

func FuzzParseBatch(f *testing.F) {
	for _, frame := range examples(message(3, 9, time.UnixMicro(1))) {
		f.Add(gossip.AppendBatch(nil, frame))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		frames, err := gossip.ParseBatch(b)
		if err != nil {
			if !errors.Is(err, gossip.ErrMalformed) {
				t.Fatalf("not ErrMalformed: %v", err)
			}
			return
		}
		again := gossip.AppendBatch(nil, frames...)
		if len(again) > len(b) {
			t.Fatalf("%d bytes became %d", len(b), len(again))
		}
		if frames2, err := gossip.ParseBatch(again); err != nil || !reflect.DeepEqual(frames, frames2) {
			t.Fatalf("%v: %+v became %+v", err, frames, frames2)
		}
	})
}
