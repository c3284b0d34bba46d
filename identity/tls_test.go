package identity_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/Blockchain-CN/pheromones/identity"
)

const alpn = "test/1"

func serverTLS(t testing.TB, k identity.Key) *tls.Config {
	t.Helper()
	c, err := k.ServerTLS(alpn)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func clientTLS(t testing.TB, k identity.Key, peer identity.ID) *tls.Config {
	t.Helper()
	c, err := k.ClientTLS(alpn, peer)
	if err != nil {
		t.Fatal(err)
	}
	c.ServerName = "peer" // what sessions are remembered under
	return c
}

// shake makes one connection over loopback TCP. Each side's error is that of its handshake or, since a client has done
// its part before the server has looked at its certificate, of the first byte after it.
func shake(t *testing.T, server, client *tls.Config) (s, c tls.ConnectionState, serverErr, clientErr error) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	dialled, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer dialled.Close() // not before both sides are done: a reset would overtake the alert
	accepted, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer accepted.Close()
	for _, conn := range []net.Conn{dialled, accepted} {
		conn.SetDeadline(time.Now().Add(30 * time.Second))
	}

	talk := func(conn *tls.Conn) error {
		if err := conn.Handshake(); err != nil {
			return err
		}
		if _, err := conn.Write([]byte("x")); err != nil {
			return err
		}
		_, err := io.ReadFull(conn, make([]byte, 1))
		return err
	}
	sc, cc := tls.Server(accepted, server), tls.Client(dialled, client)
	done := make(chan error, 1)
	go func() { done <- talk(sc) }()
	clientErr = talk(cc)
	serverErr = <-done
	return sc.ConnectionState(), cc.ConnectionState(), serverErr, clientErr
}

func mustShake(t *testing.T, server, client *tls.Config) (s, c tls.ConnectionState) {
	t.Helper()
	s, c, serverErr, clientErr := shake(t, server, client)
	if serverErr != nil || clientErr != nil {
		t.Fatalf("the handshake failed: server %v, client %v", serverErr, clientErr)
	}
	return s, c
}

func wantPeer(t *testing.T, side string, cs tls.ConnectionState, want identity.ID) {
	t.Helper()
	if got, err := identity.PeerID(cs); err != nil || got != want {
		t.Errorf("the %s sees %v (%v), want %v", side, got, err, want)
	}
}

// foreign is a certificate as another program might make it.
type foreign struct {
	key      crypto.Signer // nil: a new ed25519 key
	signer   crypto.Signer // nil: key
	proveBy  crypto.Signer // nil: key; the key that signs the handshake
	chain    bool          // followed by the signer's own certificate
	from, to time.Time
}

func (f foreign) certificate(t *testing.T) tls.Certificate {
	t.Helper()
	newSigner := func() crypto.Signer {
		_, private, err := ed25519.GenerateKey(nil)
		if err != nil {
			t.Fatal(err)
		}
		return private
	}
	if f.key == nil {
		f.key = newSigner()
	}
	if f.signer == nil {
		f.signer = f.key
	}
	if f.proveBy == nil {
		f.proveBy = f.key
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(7), NotBefore: f.from, NotAfter: f.to,
		BasicConstraintsValid: true, IsCA: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, f.key.Public(), f.signer)
	if err != nil {
		t.Fatal(err)
	}
	cert := tls.Certificate{Certificate: [][]byte{der}, PrivateKey: f.proveBy}
	if f.chain {
		root, err := x509.CreateCertificate(rand.Reader, template, template, f.signer.Public(), f.signer)
		if err != nil {
			t.Fatal(err)
		}
		cert.Certificate = append(cert.Certificate, root)
	}
	return cert
}

// zeroSigner signs for the all-zero public key, a point of order 4, without a private key: with R = [s]B the equation
// [S]B = R + [h]A of RFC 8032 §5.1.7 holds for S = s whenever h is a multiple of 4.
type zeroSigner struct{}

func (zeroSigner) Public() crypto.PublicKey { return make(ed25519.PublicKey, ed25519.PublicKeySize) }

func (z zeroSigner) Sign(random io.Reader, message []byte, _ crypto.SignerOpts) ([]byte, error) {
	order, _ := new(big.Int).SetString("7237005577332262213973186563042994240857116359379907606001950938285454250989", 10)
	for range 1000 {
		public, private, err := ed25519.GenerateKey(random)
		if err != nil {
			return nil, err
		}
		h := sha512.Sum512(private.Seed()) // how ed25519 makes s of a seed
		s := h[:32]
		s[0] &= 248
		s[31] = s[31]&63 | 64
		slices.Reverse(s)
		n := new(big.Int).SetBytes(s)
		s = n.Mod(n, order).FillBytes(make([]byte, 32))
		slices.Reverse(s)
		if sig := slices.Concat(public, s); ed25519.Verify(z.Public().(ed25519.PublicKey), message, sig) {
			return sig, nil
		}
	}
	return nil, errors.New("no signature")
}

// errTLS stands in tables for an error of crypto/tls itself: its own refusal, or the other side's alert.
var errTLS = errors.New("an error of crypto/tls")

func wantError(t *testing.T, side string, got, want error) *identity.VerifyError {
	t.Helper()
	var ve *identity.VerifyError
	isVerify := errors.As(got, &ve)
	var ne net.Error
	switch {
	case want == nil:
		if got != nil {
			t.Errorf("%s: %v", side, got)
		}
	case errors.As(got, &ne) && ne.Timeout():
		t.Errorf("%s: got %v: it was not refused but hung", side, got)
	case want == errTLS:
		if got == nil || isVerify || errors.Is(got, io.EOF) {
			t.Errorf("%s: got %v, want %v", side, got, want)
		}
	case !errors.Is(got, want) || !isVerify:
		t.Errorf("%s: got %T %v, want a *VerifyError of %v", side, got, got, want)
	}
	return ve
}

func TestHandshake(t *testing.T) {
	server, client, other := newKey(t), newKey(t), newKey(t)
	type config = *tls.Config

	// What any program might run on its side, with no verification of its own.
	plain := func(c config, cert tls.Certificate) {
		c.VerifyConnection = nil
		c.InsecureSkipVerify = true
		c.Certificates = []tls.Certificate{cert}
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca := foreign{}.certificate(t).PrivateKey.(crypto.Signer)
	soon := time.Now().Add(time.Hour)
	victim, err := other.Certificate()
	if err != nil {
		t.Fatal(err)
	}
	stolen := victim
	stolen.PrivateKey = foreign{}.certificate(t).PrivateKey

	for _, test := range []struct {
		name           string
		peer           identity.ID  // whom the client asks for
		server, client func(config) // changes to the configuration of this side
		wantServer     error
		wantClient     error
	}{
		{name: "any peer"},
		{name: "right peer", peer: server.ID()},
		{name: "wrong peer", peer: other.ID(), wantClient: identity.ErrWrongPeer, wantServer: errTLS},
		{
			name:       "no client certificate",
			client:     func(c config) { c.Certificates = nil },
			wantServer: identity.ErrNoCertificate, wantClient: errTLS,
		},

		{
			name:       "client: RSA",
			client:     func(c config) { plain(c, foreign{key: rsaKey, to: soon}.certificate(t)) },
			wantServer: identity.ErrBadCertificate, wantClient: errTLS,
		},
		{
			name:       "server: RSA",
			server:     func(c config) { plain(c, foreign{key: rsaKey, to: soon}.certificate(t)) },
			wantClient: identity.ErrBadCertificate, wantServer: errTLS,
		},
		{
			name:       "client: ECDSA",
			client:     func(c config) { plain(c, foreign{key: ecKey, to: soon}.certificate(t)) },
			wantServer: identity.ErrBadCertificate, wantClient: errTLS,
		},
		{
			name:       "server: ECDSA",
			server:     func(c config) { plain(c, foreign{key: ecKey, to: soon}.certificate(t)) },
			wantClient: identity.ErrBadCertificate, wantServer: errTLS,
		},
		{
			name:       "client: signed by an authority",
			client:     func(c config) { plain(c, foreign{signer: ca, to: soon}.certificate(t)) },
			wantServer: identity.ErrBadCertificate, wantClient: errTLS,
		},
		{
			name:       "server: signed by an authority",
			server:     func(c config) { plain(c, foreign{signer: ca, to: soon}.certificate(t)) },
			wantClient: identity.ErrBadCertificate, wantServer: errTLS,
		},
		{
			name:       "client: signed by an RSA authority",
			client:     func(c config) { plain(c, foreign{signer: rsaKey, to: soon}.certificate(t)) },
			wantServer: identity.ErrBadCertificate, wantClient: errTLS,
		},
		{
			name:       "client: chain of two",
			client:     func(c config) { plain(c, foreign{signer: ca, to: soon, chain: true}.certificate(t)) },
			wantServer: identity.ErrBadCertificate, wantClient: errTLS,
		},
		{
			name:       "server: chain of two",
			server:     func(c config) { plain(c, foreign{signer: ca, to: soon, chain: true}.certificate(t)) },
			wantClient: identity.ErrBadCertificate, wantServer: errTLS,
		},
		{
			name:       "client: its own certificate twice",
			client:     func(c config) { plain(c, foreign{to: soon, chain: true}.certificate(t)) },
			wantServer: identity.ErrBadCertificate, wantClient: errTLS,
		},
		{
			name:       "client: the zero key",
			client:     func(c config) { plain(c, foreign{key: zeroSigner{}, to: soon}.certificate(t)) },
			wantServer: identity.ErrBadCertificate, wantClient: errTLS,
		},
		{
			name:       "server: the zero key",
			server:     func(c config) { plain(c, foreign{key: zeroSigner{}, to: soon}.certificate(t)) },
			wantClient: identity.ErrBadCertificate, wantServer: errTLS,
		},
		{
			name:       "client: another's certificate",
			client:     func(c config) { plain(c, stolen) },
			wantServer: errTLS, wantClient: errTLS,
		},
		{
			name:       "server: another's certificate",
			peer:       other.ID(),
			server:     func(c config) { plain(c, stolen) },
			wantServer: errTLS, wantClient: errTLS,
		},

		{
			name:       "client: TLS 1.2",
			client:     func(c config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 },
			wantServer: errTLS, wantClient: errTLS,
		},
		{
			name:       "server: TLS 1.2",
			server:     func(c config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 },
			wantServer: errTLS, wantClient: errTLS,
		},
		{
			name: "client: verifies TLS 1.2",
			server: func(c config) {
				plain(c, foreign{to: soon}.certificate(t))
				c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
			},
			client:     func(c config) { c.MinVersion = tls.VersionTLS12 }, // a caller who loosens the bolts
			wantClient: identity.ErrProtocol, wantServer: errTLS,
		},
		{
			name:       "client: another application protocol",
			client:     func(c config) { c.NextProtos = []string{"test/2"} },
			wantServer: errTLS, wantClient: errTLS,
		},
		{
			name:       "server: another application protocol",
			server:     func(c config) { c.NextProtos = []string{"test/2"} },
			wantServer: errTLS, wantClient: errTLS,
		},
		{
			name: "client: no application protocol",
			client: func(c config) {
				plain(c, foreign{to: soon}.certificate(t))
				c.NextProtos = nil
			},
			wantServer: identity.ErrProtocol, wantClient: errTLS,
		},
		{
			name: "server: no application protocol",
			server: func(c config) {
				plain(c, foreign{to: soon}.certificate(t))
				c.NextProtos = nil
			},
			wantClient: identity.ErrProtocol, wantServer: errTLS,
		},
		{
			name:   "both offer more protocols",
			server: func(c config) { c.NextProtos = []string{"test/2", alpn} },
			client: func(c config) { c.NextProtos = []string{"test/3", alpn} },
		},

		{
			name:   "expired certificates",
			server: func(c config) { c.Certificates[0] = foreign{to: time.Unix(1e9, 0)}.certificate(t) },
			client: func(c config) { c.Certificates[0] = foreign{to: time.Unix(1e9, 0)}.certificate(t) },
		},
		{
			name:   "certificates of the future",
			server: func(c config) { c.Certificates[0] = foreign{from: soon, to: soon}.certificate(t) },
			client: func(c config) { c.Certificates[0] = foreign{from: soon, to: soon}.certificate(t) },
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			sc, cc := serverTLS(t, server), clientTLS(t, client, test.peer)
			if test.server != nil {
				test.server(sc)
			}
			if test.client != nil {
				test.client(cc)
			}
			s, c, serverErr, clientErr := shake(t, sc, cc)
			wantError(t, "server", serverErr, test.wantServer)
			ve := wantError(t, "client", clientErr, test.wantClient)
			if ve != nil && (ve.Want != test.peer || test.wantClient == identity.ErrWrongPeer && ve.Got != server.ID()) {
				t.Errorf("the error says want %v, got %v", ve.Want, ve.Got)
			}
			if test.wantServer != nil || test.wantClient != nil || t.Failed() {
				return
			}
			for _, cs := range []tls.ConnectionState{s, c} {
				if cs.Version != tls.VersionTLS13 || cs.NegotiatedProtocol != alpn || cs.DidResume {
					t.Errorf("%s, %q, resumed: %v", tls.VersionName(cs.Version), cs.NegotiatedProtocol, cs.DidResume)
				}
			}
			wantPeer(t, "server", s, idOf(t, cc))
			wantPeer(t, "client", c, idOf(t, sc))
		})
	}
}

// idOf returns the ID in the certificate that c shows.
func idOf(t *testing.T, c *tls.Config) identity.ID {
	t.Helper()
	cert, err := x509.ParseCertificate(c.Certificates[0].Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	return identity.ID(cert.PublicKey.(ed25519.PublicKey))
}

// TestResumption makes two connections by clocks that are far apart, or far from ours; the second must resume the first.
func TestResumption(t *testing.T) {
	clocks := []int{0, 1970, 2200, 9998} // years; 0 is now
	for _, serverYear := range clocks {
		for _, clientYear := range clocks {
			t.Run(fmt.Sprintf("%d-%d", serverYear, clientYear), func(t *testing.T) {
				server, client := newKey(t), newKey(t)
				sc, cc := serverTLS(t, server), clientTLS(t, client, server.ID())
				cc.ClientSessionCache = tls.NewLRUClientSessionCache(4)
				for c, year := range map[*tls.Config]int{sc: serverYear, cc: clientYear} {
					if year != 0 {
						c.Time = func() time.Time { return time.Date(year, 7, 1, 0, 0, 0, 0, time.UTC) }
					}
				}
				for i := range 3 {
					s, c := mustShake(t, sc, cc)
					if s.DidResume != (i > 0) || c.DidResume != (i > 0) {
						t.Errorf("connection %d: resumed: server %v, client %v", i, s.DidResume, c.DidResume)
					}
					wantPeer(t, "server", s, client.ID())
					wantPeer(t, "client", c, server.ID())
				}
			})
		}
	}
}

// TestResumptionProves offers a session to whom it does not belong, and asks for a peer whom it does not belong to.
func TestResumptionProves(t *testing.T) {
	a, b, client := newKey(t), newKey(t), newKey(t)
	serverA, serverB := serverTLS(t, a), serverTLS(t, b)
	cache := tls.NewLRUClientSessionCache(4)
	config := func(peer identity.ID) *tls.Config {
		c := clientTLS(t, client, peer)
		c.ClientSessionCache = cache
		return c
	}
	begin := func() { // a session with A, proven to resume
		t.Helper()
		cache.Put("peer", nil)
		mustShake(t, serverA, config(identity.ID{}))
		if _, c := mustShake(t, serverA, config(a.ID())); !c.DidResume {
			t.Fatal("the session with A was not resumed")
		}
	}

	begin()
	_, _, serverErr, clientErr := shake(t, serverB, config(a.ID()))
	wantError(t, "server B", serverErr, errTLS)
	if ve := wantError(t, "client of A at B", clientErr, identity.ErrWrongPeer); ve != nil && (ve.Want != a.ID() || ve.Got != b.ID()) {
		t.Errorf("the error says want %v, got %v; want A, B", ve.Want, ve.Got)
	}

	begin()
	s, c := mustShake(t, serverB, config(identity.ID{}))
	if c.DidResume || s.DidResume {
		t.Error("B resumed a session of A")
	}
	wantPeer(t, "client", c, b.ID())

	// A resumes, and the client wants B.
	begin()
	_, c, _, clientErr = shake(t, serverA, config(b.ID()))
	if !c.DidResume {
		t.Error("the handshake was not a resumption: the test shows nothing")
	}
	if ve := wantError(t, "client of B at A", clientErr, identity.ErrWrongPeer); ve != nil && (ve.Want != b.ID() || ve.Got != a.ID()) {
		t.Errorf("the error says want %v, got %v; want B, A", ve.Want, ve.Got)
	}

	// A session of another application protocol is not ours to resume.
	begin()
	elsewhere := config(a.ID())
	elsewhere.NextProtos = []string{"test/2"}
	_, _, serverErr, clientErr = shake(t, serverA, elsewhere)
	wantError(t, "server A", serverErr, errTLS)
	wantError(t, "client of another protocol", clientErr, errTLS)
}

func TestCertificate(t *testing.T) {
	k := newKey(t)
	one, err := k.Certificate()
	if err != nil {
		t.Fatal(err)
	}
	two, err := k.Certificate()
	if err != nil {
		t.Fatal(err)
	}
	if len(one.Certificate) != 1 || !bytes.Equal(one.Certificate[0], two.Certificate[0]) {
		t.Error("the same key gives different certificates")
	}
	leaf := one.Leaf
	if err := leaf.CheckSignature(leaf.SignatureAlgorithm, leaf.RawTBSCertificate, leaf.Signature); err != nil {
		t.Error(err)
	}
	if identity.ID(leaf.PublicKey.(ed25519.PublicKey)) != k.ID() {
		t.Error("it carries another key")
	}
	if leaf.Subject.String() != "" || len(leaf.DNSNames)+len(leaf.IPAddresses)+len(leaf.URIs) != 0 {
		t.Errorf("it carries names: %v", leaf.Subject)
	}
	if got := leaf.NotAfter.Format("20060102150405Z"); got != "99991231235959Z" {
		t.Errorf("it ends %s, want the date that RFC 5280 §4.1.2.5 reserves", got)
	}
}

func TestPeerIDOfNobody(t *testing.T) {
	_, err := identity.PeerID(tls.ConnectionState{})
	var ve *identity.VerifyError
	if !errors.As(err, &ve) || !errors.Is(err, identity.ErrNoCertificate) {
		t.Errorf("got %v, want a *VerifyError of ErrNoCertificate", err)
	}
}

func TestVerifyErrorText(t *testing.T) {
	a, b := newKey(t).ID(), newKey(t).ID()
	err := &identity.VerifyError{Want: a, Got: b, Detail: "a detail", Err: identity.ErrWrongPeer}
	want := fmt.Sprintf("identity: the peer is another one: a detail; want peer %v, got %v", a, b)
	if err.Error() != want {
		t.Errorf("got %q, want %q", err, want)
	}
	if got := (&identity.VerifyError{Err: identity.ErrNoCertificate}).Error(); got != identity.ErrNoCertificate.Error() {
		t.Errorf("got %q", got)
	}
}
