package identity_test

import (
	"bytes"
	"encoding/gob"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/Blockchain-CN/pheromones/identity"
)

func newKey(t testing.TB) identity.Key {
	t.Helper()
	k, err := identity.Generate()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestIDText(t *testing.T) {
	for range 100 {
		id := newKey(t).ID()
		s := id.String()
		if len(s) != 52 || strings.Trim(s, "abcdefghijklmnopqrstuvwxyz234567") != "" {
			t.Fatalf("String() = %q, want 52 characters of a-z and 2-7", s)
		}
		if got, err := identity.ParseID(s); err != nil || got != id {
			t.Fatalf("ParseID(%q) = %v, %v", s, got, err)
		}
		if got := id.Short(); got != s[:8] {
			t.Fatalf("Short() = %q, want %q", got, s[:8])
		}
	}
}

// TestIDVector holds the text form to the alphabet and bit order of RFC 4648 §6, whatever this package does both ways.
func TestIDVector(t *testing.T) {
	raw, _ := hex.DecodeString("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a") // RFC 8032 §7.1, test 1
	const text = "25njqamcweflpvkl73j4szahhihoc4xt3ktcgjnpaingr5yhkena"
	if got := identity.ID(raw).String(); got != text {
		t.Errorf("String() = %q, want %q", got, text)
	}
	if got, err := identity.ParseID(text); err != nil || got != identity.ID(raw) {
		t.Errorf("ParseID = %v, %v", got, err)
	}
}

func TestParseIDRefuses(t *testing.T) {
	good := newKey(t).ID().String()
	for name, s := range map[string]string{
		"empty":            "",
		"short":            good[:51],
		"long":             good + "a",
		"upper case":       strings.ToUpper(good),
		"one upper case":   "A" + good[1:],
		"foreign digit":    "1" + good[1:],
		"padding":          good[:51] + "=",
		"padded":           good + "====",
		"space":            " " + good[1:],
		"line break":       good[:20] + "\n" + good[21:],
		"line breaks":      good[:50] + "\r\n",
		"all line breaks":  strings.Repeat("\n", 52),
		"unused bits":      good[:51] + "b", // 52 characters hold 260 bits; the last 4 must be zero
		"not ASCII":        good[:50] + "é",
		"NUL":              good[:51] + "\x00",
		"enormous":         strings.Repeat("a", 1<<20),
		"hexadecimal":      strings.Repeat("ab", 32),
		"space in the end": good + " ",
	} {
		id, err := identity.ParseID(s)
		if !errors.Is(err, identity.ErrBadID) {
			t.Errorf("%s: got %v, want ErrBadID", name, err)
			continue
		}
		if !id.IsZero() {
			t.Errorf("%s: an error came with the ID %v", name, id)
		}
		if len(err.Error()) > 500 {
			t.Errorf("%s: the error has %d bytes", name, len(err.Error()))
		}
	}
}

func FuzzParseID(f *testing.F) {
	f.Add(newKey(f).ID().String())
	f.Add(identity.ID{}.String())
	f.Add(strings.Repeat("a", 50) + "\r\n")
	f.Fuzz(func(t *testing.T, s string) {
		id, err := identity.ParseID(s)
		if err != nil {
			if !errors.Is(err, identity.ErrBadID) {
				t.Fatalf("ParseID(%q): %v is not ErrBadID", s, err)
			}
			return
		}
		if id.String() != s {
			t.Fatalf("ParseID(%q) was read, but is written %q", s, id)
		}
	})
}

func TestIDMarshal(t *testing.T) {
	type doc struct {
		ID    identity.ID
		Names map[identity.ID]string
	}
	id := newKey(t).ID()
	in := doc{id, map[identity.ID]string{id: "a"}}
	text, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf(`{"ID":"%v","Names":{"%v":"a"}}`, id, id); string(text) != want {
		t.Errorf("got %s, want %s", text, want)
	}
	var out doc
	if err := json.Unmarshal(text, &out); err != nil || out.ID != id || out.Names[id] != "a" {
		t.Errorf("read back %+v, %v", out, err)
	}

	if text, err := (identity.ID{}).MarshalText(); err != nil || len(text) != 0 {
		t.Errorf("the zero ID is %q, %v; want no text", text, err)
	}
	zeroed := id
	if err := zeroed.UnmarshalText(nil); err != nil || !zeroed.IsZero() {
		t.Errorf("empty text gave %v, %v; want the zero ID", zeroed, err)
	}
	kept := id
	if err := kept.UnmarshalText([]byte("x")); !errors.Is(err, identity.ErrBadID) || kept != id {
		t.Errorf("bad text gave %v, %v; want ErrBadID and the old value", kept, err)
	}
	if b, err := id.AppendText([]byte("to ")); err != nil || string(b) != "to "+id.String() {
		t.Errorf("AppendText = %q, %v", b, err)
	}
}

func TestSign(t *testing.T) {
	k, other := newKey(t), newKey(t)
	message := []byte("a message")
	sig := k.Sign(message)
	if !k.ID().Verify(message, sig) {
		t.Error("a signature does not verify")
	}
	changed := bytes.Clone(sig)
	changed[10] ^= 1
	for name, ok := range map[string]bool{
		"another message": k.ID().Verify([]byte("A message"), sig),
		"another key":     other.ID().Verify(message, sig),
		"changed":         k.ID().Verify(message, changed),
		"short":           k.ID().Verify(message, sig[:63]),
		"long":            k.ID().Verify(message, append(sig[:64:64], 0)),
		"empty":           k.ID().Verify(message, nil),
	} {
		if ok {
			t.Errorf("%s: it verifies", name)
		}
	}
}

func TestZeroKey(t *testing.T) {
	var k identity.Key
	if !k.IsZero() || !k.ID().IsZero() || newKey(t).IsZero() {
		t.Error("IsZero is wrong")
	}
	if got, want := k.String(), "identity.Key("+strings.Repeat("a", 52)+")"; got != want {
		t.Errorf("String() = %q, want %q", got, want)
	}
	if _, err := k.Certificate(); err == nil {
		t.Error("it has a certificate")
	}
	if _, err := k.ServerTLS("x"); err == nil {
		t.Error("it has a ServerTLS")
	}
	if _, err := k.ClientTLS("x", identity.ID{}); err == nil {
		t.Error("it has a ClientTLS")
	}
	if err := k.Save(t.TempDir() + "/key"); err == nil {
		t.Error("it was saved")
	}
	defer func() {
		if recover() == nil {
			t.Error("it signs")
		}
	}()
	k.Sign(nil)
}

// TestKeyIsSecret prints a key in every way it could think of and looks for its private half in every form.
func TestKeyIsSecret(t *testing.T) {
	k := newKey(t)
	cert, err := k.Certificate()
	if err != nil {
		t.Fatal(err)
	}
	seed := cert.PrivateKey.(interface{ Seed() []byte }).Seed()[4:12]

	type hidden struct{ key identity.Key }
	type hiddenPointer struct{ key *identity.Key }
	type shown struct{ Key identity.Key }
	type embedded struct{ identity.Key }
	type deep struct{ a []map[string]hidden }
	values := map[string]any{
		"key":                           k,
		"pointer":                       &k,
		"field":                         shown{k},
		"field, by pointer":             &shown{k},
		"unexported field":              hidden{k},
		"unexported field, by pointer":  &hidden{k},
		"unexported pointer":            hiddenPointer{&k},
		"unexported pointer by pointer": &hiddenPointer{&k},
		"embedded":                      embedded{k},
		"embedded, by pointer":          &embedded{k},
		"slice":                         []identity.Key{k},
		"array":                         [1]identity.Key{k},
		"map":                           map[string]identity.Key{"k": k},
		"slice of any":                  []any{hidden{k}, &hidden{k}},
		"deep":                          deep{[]map[string]hidden{{"k": {k}}}},
		"method":                        k.String,
	}

	// What the private half looks like in print: in the form of every verb, without the brackets around it.
	var verbs, forms []string
	for _, flags := range []string{"", "+", "#", "-", " ", "0", "# ", "200", ".3"} {
		for verb := rune('A'); verb <= 'z'; verb++ {
			verbs = append(verbs, "%"+flags+string(verb))
		}
	}
	verbs = append(verbs, "%!", "%é", "%", "none", "%[2]v", "%*d")
	for _, verb := range []string{"%v", "%#v", "%s", "%q", "%x", "%X", "% x", "%# x", "%b", "%o", "%#o", "%O", "%c", "%U"} {
		s := fmt.Sprintf(verb, seed)
		forms = append(forms, strings.Trim(strings.TrimPrefix(s, "[]byte"), `[]{}"`))
	}
	for _, sep := range []string{", ", ","} {
		forms = append(forms, strings.ReplaceAll(fmt.Sprint(seed)[1:], " ", sep))
	}
	for i := range 3 { // base64, wherever its groups of three begin
		text, _ := json.Marshal(seed[i : i+3])
		forms = append(forms, strings.Trim(string(text), `"`))
	}
	check := func(t *testing.T, how, out string) {
		t.Helper()
		for _, form := range forms {
			if strings.Contains(out, form) {
				t.Errorf("%s shows the private half: %.300s", how, out)
				return
			}
		}
	}

	for name, v := range values {
		t.Run(name, func(t *testing.T) {
			for _, verb := range verbs {
				check(t, verb, fmt.Sprintf(verb, v))
			}
			wrap := "%w %v" // in a variable, since vet knows better
			check(t, "Errorf", fmt.Errorf(wrap, v, v).Error())
			check(t, "Sprintln", fmt.Sprintln(v))
			if text, err := json.Marshal(v); err == nil {
				check(t, "json", string(text))
			}
			var buf bytes.Buffer
			if err := gob.NewEncoder(&buf).Encode(v); err == nil {
				check(t, "gob", buf.String())
			}
			buf.Reset()
			slog.New(slog.NewTextHandler(&buf, nil)).Info("m", "v", v, slog.Group("g", "v", v))
			slog.New(slog.NewJSONHandler(&buf, nil)).Info("m", "v", v, slog.Group("g", "v", v))
			check(t, "slog", buf.String())
		})
	}

	want := k.String()
	if !strings.Contains(want, k.ID().String()) {
		t.Errorf("String() = %q does not name the ID", want)
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		if got := fmt.Sprintf(verb, k); got != want {
			t.Errorf("%s gives %q, want %q", verb, got, want)
		}
	}
	var buf bytes.Buffer
	slog.New(slog.NewTextHandler(&buf, nil)).Info("m", "key", k)
	if !strings.Contains(buf.String(), "key="+want) {
		t.Errorf("slog gives %q, want key=%s", buf.String(), want)
	}
}
