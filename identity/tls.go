package identity

import (
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"time"
)

// What a [*VerifyError] wraps.
var (
	// ErrWrongPeer means that the peer proved an ID other than the one that was asked for.
	ErrWrongPeer = errors.New("identity: the peer is another one")
	// ErrNoCertificate means that the peer showed no certificate.
	ErrNoCertificate = errors.New("identity: the peer showed no certificate")
	// ErrBadCertificate means that the peer showed something other than one self-signed ed25519 certificate.
	ErrBadCertificate = errors.New("identity: the peer's certificate is not one self-signed ed25519 certificate")
	// ErrProtocol means that the handshake ended with another TLS version or application protocol than ours, or with none.
	ErrProtocol = errors.New("identity: the peer speaks another protocol")
)

// VerifyError says why the other side of a TLS handshake was refused. It wraps one of [ErrWrongPeer],
// [ErrNoCertificate], [ErrBadCertificate] and [ErrProtocol].
type VerifyError struct {
	Want   ID     // the peer asked for; zero if any peer would do
	Got    ID     // the peer that answered, as far as it is known
	Detail string // what exactly is wrong; may be empty
	Err    error
}

func (e *VerifyError) Error() string {
	s := e.Err.Error()
	if e.Detail != "" {
		s += ": " + e.Detail
	}
	if !e.Want.IsZero() {
		s += "; want peer " + e.Want.String()
	}
	if !e.Got.IsZero() {
		s += ", got " + e.Got.String()
	}
	return s
}

// Unwrap returns e.Err.
func (e *VerifyError) Unwrap() error { return e.Err }

// Certificate returns a self-signed certificate that carries the key and nothing else. The same key gives the same
// certificate, byte for byte; it is made once, and what the result points to is shared and must not be changed. It fails
// only for the zero Key.
func (k Key) Certificate() (tls.Certificate, error) {
	if k.IsZero() {
		return tls.Certificate{}, errors.New("identity: certificate: the key is the zero Key")
	}
	return k.certificate()
}

func newCertificate(private ed25519.PrivateKey) (tls.Certificate, error) {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{},
		NotBefore:    time.Unix(0, 0).UTC(),
		NotAfter:     time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), // RFC 5280 §4.1.2.5: no well-defined expiry
	}
	der, err := x509.CreateCertificate(nil, template, template, private.Public(), private)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("identity: certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("identity: certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: private, Leaf: leaf}, nil
}

// ServerTLS returns the configuration of the accepting side: it shows k's certificate, demands one of the other side and
// agrees to the one application protocol alpn (RFC 7301). Any peer may come; [PeerID] says which one came. The caller
// owns the result; sharing one among many connections is what makes session resumption work.
func (k Key) ServerTLS(alpn string) (*tls.Config, error) {
	c, err := k.config(alpn, ID{})
	if err != nil {
		return nil, err
	}
	// With RequireAnyClientCert crypto/tls would refuse a missing certificate itself, by an untyped error.
	c.ClientAuth = tls.RequestClientCert
	return c, nil
}

// ClientTLS returns the configuration of the dialling side: as [Key.ServerTLS], and if peer is not zero the other side
// must prove to be it, also when a session is resumed. Sessions are resumed if the caller sets ClientSessionCache.
func (k Key) ClientTLS(alpn string, peer ID) (*tls.Config, error) {
	c, err := k.config(alpn, peer)
	if err != nil {
		return nil, err
	}
	// No authority signs these certificates: VerifyConnection below is what checks them.
	c.InsecureSkipVerify = true
	return c, nil
}

func (k Key) config(alpn string, peer ID) (*tls.Config, error) {
	cert, err := k.Certificate()
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		Certificates: []tls.Certificate{cert},
		MinVersion:   tls.VersionTLS13,
		NextProtos:   []string{alpn},
		// Small records at the start of a connection save browsers a few milliseconds; here they cost throughput.
		DynamicRecordSizingDisabled: true,
		// VerifyConnection, unlike VerifyPeerCertificate, runs on resumed sessions too.
		VerifyConnection: func(cs tls.ConnectionState) error { return verify(cs, alpn, peer) },
	}, nil
}

// PeerID returns the ID that the other side of a finished handshake proved. It fails with a [*VerifyError] on a
// connection that was not made with a configuration of this package.
func PeerID(cs tls.ConnectionState) (ID, error) {
	switch len(cs.PeerCertificates) {
	case 0:
		return ID{}, &VerifyError{Err: ErrNoCertificate}
	case 1:
	default:
		return ID{}, &VerifyError{Err: ErrBadCertificate, Detail: fmt.Sprintf("a chain of %d", len(cs.PeerCertificates))}
	}
	cert := cs.PeerCertificates[0]
	public, ok := cert.PublicKey.(ed25519.PublicKey)
	if !ok {
		return ID{}, &VerifyError{Err: ErrBadCertificate, Detail: "its key is " + cert.PublicKeyAlgorithm.String()}
	}
	id := ID(public)
	if id.IsZero() {
		// The zero key is a point of small order, for which anybody can make signatures; and the zero ID names nobody.
		return ID{}, &VerifyError{Err: ErrBadCertificate, Detail: "its key is zero"}
	}
	return id, nil
}

func verify(cs tls.ConnectionState, alpn string, want ID) error {
	got, err := PeerID(cs)
	if err != nil {
		err.(*VerifyError).Want = want
		return err
	}
	refuse := func(reason error, detail string) error {
		return &VerifyError{Want: want, Got: got, Err: reason, Detail: detail}
	}
	if cs.Version != tls.VersionTLS13 {
		return refuse(ErrProtocol, tls.VersionName(cs.Version)+", want TLS 1.3")
	}
	if cs.NegotiatedProtocol != alpn {
		return refuse(ErrProtocol, fmt.Sprintf("application protocol %q, want %q", cs.NegotiatedProtocol, alpn))
	}
	if !want.IsZero() && got != want {
		return refuse(ErrWrongPeer, "")
	}
	if cs.DidResume {
		return nil // the certificate was checked when the session began
	}
	cert := cs.PeerCertificates[0]
	if err := cert.CheckSignature(cert.SignatureAlgorithm, cert.RawTBSCertificate, cert.Signature); err != nil {
		return refuse(ErrBadCertificate, "it is not signed by its own key")
	}
	return nil
}
