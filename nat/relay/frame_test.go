package relay

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/Blockchain-CN/pheromones/identity"
)

func samples() map[string]frame {
	peer := identity.ID(bytes.Repeat([]byte{0x11}, 32))
	return map[string]frame{
		"reserve":          {typ: typeReserve},
		"reserve early":    {typ: typeReserve, early: true},
		"reserved":         {typ: typeReserved, seconds: 1800, rate: 4 << 20, bytes: 0},
		"refused":          {typ: typeRefused, reason: Declined, text: "not now"},
		"connect packets":  {typ: typeConnect, kind: Packets, peer: peer},
		"connect bytes":    {typ: typeConnect, kind: Bytes, peer: peer},
		"incoming packets": {typ: typeIncoming, kind: Packets, circuit: 0x0102030405060708, peer: peer},
		"accepted":         {typ: typeAccepted, circuit: 0x0102030405060708},
		"packet":           {typ: typePacket, packet: []byte("abc")},
	}
}

// vector is an encoding with what it means, or why it is refused.
type vector struct {
	Name  string `json:"name"`
	Hex   string `json:"hex"`
	Error string `json:"error,omitempty"`
}

func TestVectors(t *testing.T) {
	text, err := os.ReadFile("testdata/frames.json")
	if err != nil {
		t.Fatal(err)
	}
	var vectors []vector
	if err := json.Unmarshal(text, &vectors); err != nil {
		t.Fatal(err)
	}
	good := samples()
	for _, v := range vectors {
		b, err := hex.DecodeString(v.Hex)
		if err != nil {
			t.Fatal(err)
		}
		got, err := readFrame(bytes.NewReader(b), nil)
		if v.Error != "" {
			if !errors.Is(err, errMalformed) || !strings.Contains(err.Error(), v.Error) {
				t.Errorf("%s: %v, want an error with %q", v.Name, err, v.Error)
			}
			continue
		}
		name, longer := strings.CutSuffix(v.Name, ", longer")
		want := samples()[name]
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, %v, want %+v", v.Name, got, err, want)
		}
		if !longer {
			if !bytes.Equal(appendFrame(nil, want), b) {
				t.Errorf("%s: written as %x, want %x", name, appendFrame(nil, want), b)
			}
			delete(good, name)
		}
	}
	if len(good) > 0 {
		t.Errorf("without a vector: %v", good)
	}
}

func FuzzFrame(f *testing.F) {
	for _, s := range samples() {
		f.Add(appendFrame(nil, s)[2:])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := parseFrame(b)
		if err != nil {
			if !errors.Is(err, errMalformed) {
				t.Errorf("error %v", err)
			}
			return
		}
		again, err := parseFrame(appendFrame(nil, got)[2:])
		if err != nil || !reflect.DeepEqual(got, again) {
			t.Errorf("%+v became %+v, %v", got, again, err)
		}
	})
}

func FuzzDatagram(f *testing.F) {
	f.Add(append(appendHeader(nil, toRelay, 7), 'x'))
	f.Add(append(appendHeader(nil, fromRelay, 1<<63), 'x'))
	f.Fuzz(func(t *testing.T, b []byte) {
		way, id, packet, ok := parseDatagram(b)
		if ok && !bytes.Equal(append(appendHeader(nil, way, id), packet...), b) {
			t.Errorf("%x is not what it was parsed as", b)
		}
	})
}

func TestCutText(t *testing.T) {
	long := strings.Repeat("é", 300)
	if got := cutText(long); got != long[:512] {
		t.Errorf("%d bytes", len(got))
	}
	if got := cutText("x" + long); len(got) != 511 {
		t.Errorf("%d bytes: a letter was cut in two", len(got))
	}
}
