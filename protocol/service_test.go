package protocol_test

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/Blockchain-CN/pheromones/protocol"
)

func TestServiceVectors(t *testing.T) {
	var vectors []struct{ Name, Description, Hex, Error string }
	load(t, "testdata/services.json", &vectors)
	for _, v := range vectors {
		b := unhex(t, v.Hex)
		in := bytes.NewReader(append(b, "frame"...))
		if v.Error != "" {
			in = bytes.NewReader(b)
		}
		name, err := protocol.ReadService(iotest.OneByteReader(in))
		if v.Error != "" {
			if !errors.Is(err, sentinels[v.Error]) {
				t.Errorf("%s: ReadService: %q, %v; want %v", v.Description, name, err, sentinels[v.Error])
			}
			continue
		}
		if err != nil || name != v.Name || in.Len() != len("frame") {
			t.Errorf("%s: ReadService: %q, %v, %d bytes left; want %q, 5 bytes left", v.Description, name, err, in.Len(), v.Name)
		}
		if got, err := protocol.AppendService(nil, v.Name); err != nil || !bytes.Equal(got, b) {
			t.Errorf("%s: AppendService: %x, %v; want %x", v.Description, got, err, b)
		}
	}
}

func TestServiceNames(t *testing.T) {
	longest := strings.Repeat("x", 255)
	b, err := protocol.AppendService(nil, longest)
	if err != nil {
		t.Fatal(err)
	}
	if name, err := protocol.ReadService(bytes.NewReader(b)); err != nil || name != longest {
		t.Errorf("a name of 255 bytes comes back as %d, %v", len(name), err)
	}
	for _, name := range []string{"", longest + "x", "a\x00", "tab\t", "\x7f", "\u0085", "\xff"} {
		if b, err := protocol.AppendService([]byte("before"), name); !errors.Is(err, protocol.ErrMalformed) || string(b) != "before" {
			t.Errorf("AppendService(%.10q) = %q, %v; want ErrMalformed", name, b, err)
		}
	}
}

func TestReadServiceEnds(t *testing.T) {
	if _, err := protocol.ReadService(strings.NewReader("")); err != io.EOF {
		t.Errorf("ReadService of nothing: %v, want io.EOF", err)
	}
	for n := 1; n < 4; n++ {
		if _, err := protocol.ReadService(strings.NewReader("\x03abc"[:n])); !errors.Is(err, protocol.ErrMalformed) {
			t.Errorf("ReadService of %d bytes of 4: %v, want ErrMalformed", n, err)
		}
	}
	broken := errors.New("broken")
	if _, err := protocol.ReadService(io.MultiReader(strings.NewReader("\x03a"), iotest.ErrReader(broken))); err != broken {
		t.Errorf("ReadService of a broken stream: %v, want its error", err)
	}
}

func FuzzService(f *testing.F) {
	for _, name := range []string{"a", protocol.MessageService, "é"} {
		b, _ := protocol.AppendService(nil, name)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		name, err := protocol.ReadService(bytes.NewReader(b))
		if err != nil {
			return
		}
		again, err := protocol.AppendService(nil, name)
		if err != nil || !bytes.HasPrefix(b, again) {
			t.Fatalf("%x gives %q, which gives %x, %v", b, name, again, err)
		}
	})
}
