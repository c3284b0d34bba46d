package punch

import (
	"bytes"
	"encoding/hex"
	"testing"
)

func TestPacket(t *testing.T) { // PN2, PN3
	p := packet{kindPong, true, testSession, 7, 8}
	b := p.append(nil, &testKey)
	if want := "3101000080010203040506070000000700000008c2"; hex.EncodeToString(b)[:40] != want[:40] || len(b) != PacketSize {
		t.Errorf("got %x", b)
	}
	if got, ok := parse(b, &testKey); !ok || got != p {
		t.Errorf("read back %+v, %v", got, ok)
	}
	for i := range b {
		bad := bytes.Clone(b)
		bad[i] ^= 1
		if _, ok := parse(bad, &testKey); ok {
			t.Errorf("a packet changed at byte %d passes", i)
		}
	}
	if _, ok := parse(b, &Key{}); ok {
		t.Error("a packet of another key passes")
	}
}

func FuzzParse(f *testing.F) {
	f.Add(packet{kindPing, false, testSession, 1, 0}.append(nil, &testKey))
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, ok := parse(b, &testKey); ok && !bytes.Equal(p.append(nil, &testKey), b) {
			t.Errorf("%x reads as %+v", b, p)
		}
	})
}
