package protocol_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/protocol"
)

type vector struct {
	Name, Description, Hex, Error string
	Frame                         struct {
		Kind, ID, Name, Operation, Data, Text string
		Timeout                               int64 `json:"timeout_ms"`
		Code                                  int
		Again                                 *bool // whether encoding gives the same bytes; it does if absent
	}
}

var sentinels = map[string]error{"malformed": protocol.ErrMalformed, "version": protocol.ErrVersion, "kind": protocol.ErrKind,
	"too large": protocol.ErrTooLarge}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func load(t testing.TB, file string, v any) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, v); err != nil {
		t.Fatal(err)
	}
}

func (v vector) want(t testing.TB) protocol.Frame {
	f := protocol.Frame{Timeout: time.Duration(v.Frame.Timeout) * time.Millisecond, Code: protocol.ErrorCode(v.Frame.Code), Text: v.Frame.Text}
	f.Kind = map[string]protocol.Kind{"message": protocol.KindMessage, "none": protocol.KindNone, "error": protocol.KindError}[v.Frame.Kind]
	f.Message.Name, f.Message.Operation = v.Frame.Name, v.Frame.Operation
	copy(f.Message.ID[:], unhex(t, v.Frame.ID))
	if v.Frame.Data != "" {
		f.Message.Data = unhex(t, v.Frame.Data)
	}
	return f
}

func TestFrameVectors(t *testing.T) {
	var vectors []vector
	load(t, "testdata/frames.json", &vectors)
	for _, v := range vectors {
		t.Run(v.Name, func(t *testing.T) {
			b := unhex(t, v.Hex)
			f, rest, err := protocol.ParseFrame(append(b, "rest"...), 0)
			read, readErr := protocol.ReadFrame(bytes.NewReader(b), 0)
			if v.Error != "" {
				if !errors.Is(err, sentinels[v.Error]) || !errors.Is(readErr, sentinels[v.Error]) {
					t.Fatalf("ParseFrame: %v, ReadFrame: %v; want %v", err, readErr, sentinels[v.Error])
				}
				return
			}
			if err != nil || readErr != nil {
				t.Fatalf("ParseFrame: %v, ReadFrame: %v", err, readErr)
			}
			if want := v.want(t); !reflect.DeepEqual(f, want) || !reflect.DeepEqual(read, want) {
				t.Errorf("ParseFrame: %+v\nReadFrame:  %+v\nwant:       %+v", f, read, want)
			}
			if string(rest) != "rest" {
				t.Errorf("what follows the frame is %q", rest)
			}
			again, err := f.Append([]byte("before"), 0)
			if err != nil {
				t.Fatal(err)
			}
			if got := bytes.TrimPrefix(again, []byte("before")); v.Frame.Again == nil && !bytes.Equal(got, b) {
				t.Errorf("Append gives %x, want %x", got, b)
			}
		})
	}
}

func TestFrameCutAnywhere(t *testing.T) {
	var vectors []vector
	load(t, "testdata/frames.json", &vectors)
	for _, v := range vectors {
		if v.Error != "" {
			continue
		}
		b := unhex(t, v.Hex)
		for n := range b {
			if _, _, err := protocol.ParseFrame(b[:n], 0); !errors.Is(err, protocol.ErrMalformed) || !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("%s: ParseFrame of %d bytes of %d: %v", v.Name, n, len(b), err)
			}
			_, err := protocol.ReadFrame(iotest.OneByteReader(bytes.NewReader(b[:n])), 0)
			if n == 0 {
				if err != io.EOF {
					t.Errorf("%s: ReadFrame of nothing: %v, want io.EOF", v.Name, err)
				}
			} else if !errors.Is(err, protocol.ErrMalformed) || !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("%s: ReadFrame of %d bytes of %d: %v", v.Name, n, len(b), err)
			}
		}
		// A field cut off within a frame whose length agrees.
		for n := 6; n < len(b) && v.Frame.Again == nil; n++ {
			cut := bytes.Clone(b[:n])
			binary.BigEndian.PutUint32(cut, uint32(n-4))
			if _, _, err := protocol.ParseFrame(cut, 0); !errors.Is(err, protocol.ErrMalformed) {
				t.Errorf("%s: ParseFrame of a frame of %d bytes instead of %d: %v", v.Name, n, len(b), err)
			}
		}
	}
}

func TestFrameAppendRefuses(t *testing.T) {
	id := protocol.NewMessageID()
	message := func(m protocol.Message) protocol.Frame {
		return protocol.Frame{Kind: protocol.KindMessage, Message: m}
	}
	long := strings.Repeat("x", 256)
	for _, test := range []struct {
		name  string
		frame protocol.Frame
		limit int
		want  error
	}{
		{"no kind", protocol.Frame{}, 0, protocol.ErrMalformed},
		{"unknown kind", protocol.Frame{Kind: 9}, 0, protocol.ErrKind},
		{"no ID", message(protocol.Message{Operation: "x"}), 0, protocol.ErrMalformed},
		{"no operation", message(protocol.Message{ID: id}), 0, protocol.ErrMalformed},
		{"long operation", message(protocol.Message{ID: id, Operation: long}), 0, protocol.ErrMalformed},
		{"long name", message(protocol.Message{ID: id, Operation: "x", Name: long}), 0, protocol.ErrMalformed},
		{"name not UTF-8", message(protocol.Message{ID: id, Operation: "x", Name: "\xff"}), 0, protocol.ErrMalformed},
		{"operation not UTF-8", message(protocol.Message{ID: id, Operation: "\xff"}), 0, protocol.ErrMalformed},
		{"text not UTF-8", protocol.Frame{Kind: protocol.KindError, Text: "\xff"}, 0, protocol.ErrMalformed},
		{"long text", protocol.Frame{Kind: protocol.KindError, Text: strings.Repeat("x", 1025)}, 0, protocol.ErrMalformed},
		{"over the limit", message(protocol.Message{ID: id, Operation: "x", Data: make([]byte, 71)}), 99, protocol.ErrTooLarge},
		{"over 16 MiB", message(protocol.Message{ID: id, Operation: "x", Data: make([]byte, 16<<20)}), 0, protocol.ErrTooLarge},
	} {
		b, err := test.frame.Append([]byte("before"), test.limit)
		if !errors.Is(err, test.want) || string(b) != "before" {
			t.Errorf("%s: Append gives %.20q, %v; want %v and nothing appended", test.name, b, err, test.want)
		}
	}
	// At the limit to the byte.
	f := message(protocol.Message{ID: id, Operation: "x", Data: make([]byte, 70)})
	b, err := f.Append(nil, 99)
	if err != nil || len(b) != 4+99 {
		t.Fatalf("Append at the limit: %d bytes, %v; want 103", len(b), err)
	}
	if _, _, err := protocol.ParseFrame(b, 99); err != nil {
		t.Errorf("ParseFrame at the limit: %v", err)
	}
	if _, _, err := protocol.ParseFrame(b, 98); !errors.Is(err, protocol.ErrTooLarge) {
		t.Errorf("ParseFrame beyond the limit: %v, want ErrTooLarge", err)
	}
}

func TestFrameTimeoutRoundsUp(t *testing.T) {
	for _, test := range []struct{ in, want time.Duration }{
		{-1, 0}, {0, 0}, {1, time.Millisecond}, {time.Millisecond, time.Millisecond},
		{time.Millisecond + 1, 2 * time.Millisecond}, {1 << 62, (1<<32 - 1) * time.Millisecond},
	} {
		f := protocol.Frame{Kind: protocol.KindMessage, Timeout: test.in, Message: protocol.Message{ID: protocol.NewMessageID(), Operation: "x"}}
		b, err := f.Append(nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		if f, _, err := protocol.ParseFrame(b, 0); err != nil || f.Timeout != test.want {
			t.Errorf("timeout %v arrives as %v, %v; want %v", test.in, f.Timeout, err, test.want)
		}
	}
}

func randomFrame(r *rand.Rand) protocol.Frame {
	text := func(n int) string {
		b := make([]byte, r.IntN(n+1))
		for i := range b {
			b[i] = byte(r.IntN(128))
		}
		return string(b)
	}
	switch r.IntN(3) {
	case 0:
		return protocol.Frame{Kind: protocol.KindNone}
	case 1:
		return protocol.Frame{Kind: protocol.KindError, Code: protocol.ErrorCode(r.Uint32()), Text: text(1024)}
	}
	f := protocol.Frame{Kind: protocol.KindMessage, Timeout: time.Duration(r.Uint32()) * time.Millisecond}
	f.Message = protocol.Message{ID: protocol.NewMessageID(), Name: text(255), Operation: "o" + text(254)}
	if n := r.IntN(200_000); n > 0 {
		f.Message.Data = make([]byte, n)
		for i := range f.Message.Data {
			f.Message.Data[i] = byte(r.Uint32())
		}
	}
	return f
}

func TestFrameRoundTrip(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var b []byte
	var want []protocol.Frame
	for range 200 {
		f := randomFrame(r)
		var err error
		if b, err = f.Append(b, 0); err != nil {
			t.Fatalf("Append %+v: %v", f, err)
		}
		want = append(want, f)
	}
	in := bytes.NewReader(b)
	for i, w := range want {
		var parsed protocol.Frame
		var err error
		if parsed, b, err = protocol.ParseFrame(b, 0); err != nil || !reflect.DeepEqual(parsed, w) {
			t.Fatalf("frame %d: ParseFrame gives another frame, %v", i, err)
		}
		if read, err := protocol.ReadFrame(in, 0); err != nil || !reflect.DeepEqual(read, w) {
			t.Fatalf("frame %d: ReadFrame gives another frame, %v", i, err)
		}
		if in.Len() != len(b) {
			t.Fatalf("frame %d: ReadFrame left %d bytes, want %d", i, in.Len(), len(b))
		}
	}
}

// asked gives what it has and notes the largest slice it was to fill, relative to what it had given before.
type asked struct {
	r     io.Reader
	given int
	t     *testing.T
}

func (a *asked) Read(p []byte) (int, error) {
	if bound := 4*a.given + 8<<10; cap(p) > bound {
		a.t.Errorf("after %d bytes ReadFrame has allocated %d, at most %d are allowed", a.given, cap(p), bound)
	}
	n, err := a.r.Read(p)
	a.given += n
	return n, err
}

func TestReadFrameMemory(t *testing.T) {
	head := []byte{1, 0, 0, 0, 1, 1} // 16 MiB
	for _, n := range []int{10, 100_000, 16<<20 - 2} {
		in := &asked{r: io.MultiReader(bytes.NewReader(head), bytes.NewReader(make([]byte, n))), t: t}
		if _, err := protocol.ReadFrame(in, 0); !errors.Is(err, protocol.ErrMalformed) {
			t.Errorf("a frame of 16 MiB of which %d bytes of zeros came: %v, want ErrMalformed", n, err)
		}
	}
	const runs = 100
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range runs {
		protocol.ReadFrame(io.MultiReader(bytes.NewReader(head), bytes.NewReader(make([]byte, 10))), 0)
	}
	runtime.ReadMemStats(&after)
	perRun := (after.TotalAlloc - before.TotalAlloc) / runs
	if perRun > 16<<10 {
		t.Errorf("a claim of 16 MiB and ten bytes costs %d bytes of memory", perRun)
	}
}

func TestReadFrameKeepsReadersError(t *testing.T) {
	broken := errors.New("broken")
	b, _ := protocol.Frame{Kind: protocol.KindError, Text: "text"}.Append(nil, 0)
	for n := range b {
		_, err := protocol.ReadFrame(io.MultiReader(bytes.NewReader(b[:n]), iotest.ErrReader(broken)), 0)
		if !errors.Is(err, broken) || errors.Is(err, protocol.ErrMalformed) {
			t.Errorf("after %d bytes: %v, want the reader's error", n, err)
		}
	}
}

func FuzzFrame(f *testing.F) {
	for _, seed := range []protocol.Frame{
		{Kind: protocol.KindNone},
		{Kind: protocol.KindError, Code: protocol.CodeRefused, Text: "no"},
		{Kind: protocol.KindMessage, Timeout: time.Second,
			Message: protocol.Message{ID: protocol.MessageID{1}, Name: "alice", Operation: "ping", Data: []byte("data")}},
	} {
		b, err := seed.Append(nil, 0)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(append(b, 0))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		const limit = 1 << 10
		parsed, rest, err := protocol.ParseFrame(b, limit)
		read, readErr := protocol.ReadFrame(bytes.NewReader(b), limit)
		if (err == nil) != (readErr == nil) {
			t.Fatalf("ParseFrame: %v, ReadFrame: %v", err, readErr)
		}
		if err != nil {
			if !errors.Is(err, protocol.ErrMalformed) && !errors.Is(err, protocol.ErrTooLarge) && !errors.Is(err, protocol.ErrVersion) &&
				!errors.Is(err, protocol.ErrKind) {
				t.Fatalf("an error of no kind: %v", err)
			}
			return
		}
		if !reflect.DeepEqual(parsed, read) {
			t.Fatalf("ParseFrame: %+v, ReadFrame: %+v", parsed, read)
		}
		if !parsed.Message.From.IsZero() || parsed.Message.From != (identity.ID{}) {
			t.Fatal("From came from the wire")
		}
		again, err := parsed.Append(nil, limit)
		if err != nil {
			t.Fatalf("Append of what was parsed: %v", err)
		}
		if len(again) > len(b)-len(rest) {
			t.Fatalf("%d bytes became %d", len(b)-len(rest), len(again))
		}
		second, _, err := protocol.ParseFrame(again, limit)
		if err != nil || !reflect.DeepEqual(second, parsed) {
			t.Fatalf("the second time: %+v, %v; want %+v", second, err, parsed)
		}
	})
}
