package punch

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"net/netip"
	"reflect"
	"testing"
)

func messages() []Message {
	return []Message{
		{Type: Offer, Session: testSession, Key: testKey, Addrs: []netip.AddrPort{addrA, addrC}, Outside: 1, Mapping: DependentMapping},
		{Type: Answer, Session: testSession},
		{Type: Moved, Addrs: []netip.AddrPort{addrB}},
		{Type: Follows},
		{Type: Ping},
	}
}

func TestMessages(t *testing.T) { // PN1
	var b []byte
	for _, m := range messages() {
		b = m.Append(b)
	}
	const want = "010045" + "8001020304050607" + "010203" + "0000000000000000000000000000000000000000000000000000000000" +
		"02" + "04c000020103e8" + "1020010db80000000000000000000000010bb8" + "0102" +
		"02000b8001020304050607000000" + "0300080104c633640207d0" + "04000100" + "050000"
	if got := hex.EncodeToString(b); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	r := bytes.NewReader(b)
	for _, m := range messages() {
		if got, err := Read(r); err != nil || !reflect.DeepEqual(got, m) {
			t.Errorf("read %+v, %v; want %+v", got, err, m)
		}
	}
	if _, err := Read(r); err != io.EOF {
		t.Errorf("at the end: %v, want io.EOF", err)
	}
	// What is longer than we know, and of a type we do not know, is no error.
	if m, err := ParseBody(Follows, []byte{0, 1, 2, 3}); err != nil || m.Type != Follows {
		t.Errorf("a longer message: %+v, %v", m, err)
	}
	if m, err := ParseBody(200, []byte{1}); err != nil || m.Type != 200 {
		t.Errorf("an unknown type: %+v, %v", m, err)
	}
	for name, b := range map[string][]byte{
		"too many addresses":         {byte(Moved), 0, 1, MaxAddrs + 1},
		"an address of 5":            {byte(Moved), 0, 2, 1, 5},
		"cut short":                  {byte(Moved), 0, 3, 1, 4, 1},
		"a session of STUN's":        append([]byte{byte(Answer), 0, 9, 0x21, 0x12, 0xa4, 0x42}, make([]byte, 5)...),
		"too many seen from outside": append(append([]byte{byte(Answer), 0, 11}, testSession[:]...), 0, 1, 0),
		"too long":                   {byte(Offer), 0xff, 0xff},
	} {
		if _, err := Read(bytes.NewReader(b)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v, want ErrMalformed", name, err)
		}
	}
	if _, err := Read(bytes.NewReader([]byte{5, 0, 1})); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("half a message: %v", err)
	}
}

func FuzzRead(f *testing.F) {
	for _, m := range messages() {
		f.Add(m.Append(nil))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Read(bytes.NewReader(b))
		if err != nil || m.Type == 0 || m.Type > Ping {
			return
		}
		if again, err := Read(bytes.NewReader(m.Append(nil))); err != nil || !reflect.DeepEqual(m, again) {
			t.Errorf("%+v reads back as %+v, %v", m, again, err)
		}
	})
}
