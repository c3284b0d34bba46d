// Package identity says who a peer is: an ed25519 key, the ID that is its public half, and the TLS configuration by
// which two peers prove their IDs to each other.
//
// # Usage
//
// A program makes a [Key] once with [Generate], keeps it with [Key.Save] and reads it back with [Load]. Its ID is what
// other peers call it by. There is no authority: whoever holds the private key is the peer.
//
// # TLS
//
// [Key.ServerTLS] and [Key.ClientTLS] make configurations that refuse anything but TLS 1.3 with one self-signed ed25519
// certificate on either side. A peer that they refuse they report as a [*VerifyError]. Two sides that have no TLS version or
// application protocol in common part before either has shown a certificate; crypto/tls then reports, on the side that
// noticed, what the other offered, and a [crypto/tls.AlertError] on the other. Certificates carry a key and nothing else:
// no name, and dates that RFC 5280 §4.1.2.5 reserves for "no expiry", so that the clock cannot break a link. The dates of
// the peer's certificate are not looked at.
package identity

import (
	"crypto/ed25519"
	"crypto/tls"
	"encoding/base32"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
)

// ID names a peer: it is the peer's ed25519 public key. IDs are comparable, so they serve as map keys. The zero ID means
// that the peer is unknown.
type ID [ed25519.PublicKeySize]byte

// idLen is the length of an ID in text: 256 bits at 5 bits a character, rounded up.
const idLen = 52

var idEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// String returns the ID as 52 characters of lower-case base32 (RFC 4648 §6) without padding.
func (id ID) String() string { return idEncoding.EncodeToString(id[:]) }

// Short returns the first eight characters of the ID, for messages to people. It does not identify a peer.
func (id ID) Short() string { return id.String()[:8] }

// IsZero reports whether the ID is the zero ID, which means an unknown peer.
func (id ID) IsZero() bool { return id == ID{} }

// ErrBadID is wrapped by every error of [ParseID].
var ErrBadID = errors.New("identity: not an ID")

// ParseID reads what [ID.String] wrote. It accepts nothing else: neither upper case, nor padding, nor an encoding whose
// unused bits are set, so that an ID has one text only.
func ParseID(s string) (ID, error) {
	var id ID
	if len(s) != idLen {
		return id, fmt.Errorf("%w: %d characters, want %d of a-z and 2-7", ErrBadID, len(s), idLen)
	}
	// The decoder skips line breaks, so an input with them decodes short.
	var text [idLen]byte
	copy(text[:], s)
	n, err := idEncoding.Decode(id[:], text[:])
	if err != nil || n != len(id) {
		return ID{}, fmt.Errorf("%w: %.60q has characters other than a-z and 2-7", ErrBadID, s)
	}
	if idEncoding.Encode(text[:], id[:]); string(text[:]) != s {
		return ID{}, fmt.Errorf("%w: %q is not in its one canonical form", ErrBadID, s)
	}
	return id, nil
}

// AppendText implements [encoding.TextAppender] as [ID.MarshalText] does.
func (id ID) AppendText(b []byte) ([]byte, error) {
	if id.IsZero() {
		return b, nil
	}
	return idEncoding.AppendEncode(b, id[:]), nil
}

// MarshalText implements [encoding.TextMarshaler]; the zero ID is the empty text.
func (id ID) MarshalText() ([]byte, error) { return id.AppendText(nil) }

// UnmarshalText implements [encoding.TextUnmarshaler]; the empty text is the zero ID.
func (id *ID) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*id = ID{}
		return nil
	}
	v, err := ParseID(string(text))
	if err != nil {
		return err
	}
	*id = v
	return nil
}

// Key is the private key of a peer. Copies share the same key. It is safe for concurrent use, and no way of printing it
// shows the private half. The zero Key is no key: its ID is zero and nothing accepts it.
type Key struct {
	// A function, because fmt calls no method on an unexported field, nor for the verbs %p and %w, and would print any
	// other kind of value that holds the bytes. Nil in the zero Key.
	private func() ed25519.PrivateKey
	// Makes the certificate when it is first wanted: signing it costs a good part of what a handshake does.
	certificate func() (tls.Certificate, error)
}

func newKey(private ed25519.PrivateKey) Key {
	return Key{
		private:     func() ed25519.PrivateKey { return private },
		certificate: sync.OnceValues(func() (tls.Certificate, error) { return newCertificate(private) }),
	}
}

// Generate makes a new key from the system's source of randomness.
func Generate() (Key, error) {
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		return Key{}, fmt.Errorf("identity: generate a key: %w", err)
	}
	return newKey(private), nil
}

// IsZero reports whether k is the zero Key.
func (k Key) IsZero() bool { return k.private == nil }

// ID returns the public half of the key.
func (k Key) ID() ID {
	var id ID
	if !k.IsZero() {
		copy(id[:], k.private().Public().(ed25519.PublicKey))
	}
	return id
}

// Sign returns the ed25519 signature (RFC 8032) of message, 64 bytes. It panics on the zero Key.
func (k Key) Sign(message []byte) []byte { return ed25519.Sign(k.private(), message) }

// Verify reports whether signature is one that the peer with this ID made of message.
func (id ID) Verify(message, signature []byte) bool {
	return len(signature) == ed25519.SignatureSize && ed25519.Verify(id[:], message, signature)
}

// String names the key by its ID.
func (k Key) String() string { return "identity.Key(" + k.ID().String() + ")" }

// Format writes what [Key.String] returns, whatever the verb.
func (k Key) Format(s fmt.State, _ rune) { io.WriteString(s, k.String()) }

// LogValue implements [slog.LogValuer].
func (k Key) LogValue() slog.Value { return slog.StringValue(k.String()) }
