package conformance

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math/big"
	"net"
	"time"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/transport"
)

// stranger is somebody who speaks TLS, but not as SPEC.md's section "tls" has it.
type stranger struct {
	name  string
	certs []tls.Certificate
	alpn  []string
	max   uint16 // version; 0 means the newest
}

// strangers returns one of each kind.
func (e *env) tlsStrangers() []stranger {
	certificate := func(key, signer crypto.Signer, more ...[]byte) []tls.Certificate {
		if signer == nil {
			signer = key
		}
		template := &x509.Certificate{SerialNumber: big.NewInt(7), NotAfter: time.Now().Add(time.Hour), BasicConstraintsValid: true, IsCA: true}
		der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), signer)
		e.must(err, "making a certificate")
		return []tls.Certificate{{Certificate: append([][]byte{der}, more...), PrivateKey: key}}
	}
	_, edKey, err := ed25519.GenerateKey(nil)
	e.must(err, "making a key")
	_, authority, err := ed25519.GenerateKey(nil)
	e.must(err, "making a key")
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	e.must(err, "making a key")
	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	e.must(err, "making a key")
	good, ours := certificate(edKey, nil), []string{e.h.ALPN}
	return []stranger{
		{"no certificate", nil, ours, 0},
		{"an RSA key", certificate(rsaKey, nil), ours, 0},
		{"an ECDSA key", certificate(ecKey, nil), ours, 0},
		{"a certificate and that of an authority which signed it", certificate(edKey, authority, certificate(authority, nil)[0].Certificate[0]), ours, 0},
		{"the certificate of another key", []tls.Certificate{{Certificate: good[0].Certificate, PrivateKey: authority}}, ours, 0},
		{"another application protocol", good, []string{"h2"}, 0},
		{"no application protocol", good, nil, 0},
		{"TLS 1.2", good, ours, tls.VersionTLS12},
	}
}

func (s *stranger) config() *tls.Config {
	c := &tls.Config{InsecureSkipVerify: true, NextProtos: s.alpn, MaxVersion: s.max, ClientAuth: tls.RequestClientCert, Certificates: s.certs}
	if len(s.certs) > 0 {
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &s.certs[0], nil }
	}
	return c
}

// tlsStrangersDial has strangers dial a listener, which must hand none of them out.
func tlsStrangersDial(e *env) {
	client, server := e.node(), e.node()
	ln := e.listen(server)
	for _, s := range e.tlsStrangers() {
		e.in("a peer with %s dials", s.name)
		raw, err := net.Dial("tcp", ln.Addr().HostPort)
		e.must(err, "connecting to the listener by TCP")
		e.cleanup(func() { raw.Close() })
		e.start("the stranger's handshake", func() error {
			c := tls.Client(raw, s.config())
			if err := c.Handshake(); err != nil {
				return err
			}
			_, err := c.Read(make([]byte, 1)) // the other side's refusal comes after its own handshake has ended
			return err
		}).within(e.soon)
		raw.Close()
		e.dial(client, ln.Addr())
		if got := e.accept(ln).Info().RemotePeer; got != client.id {
			e.errorf("want Accept to return the honest connection after it, got one of %s", got.Short())
		}
	}
}

// tlsStrangersListen dials where strangers listen.
func tlsStrangersListen(e *env) {
	n := e.node()
	for _, s := range e.tlsStrangers() {
		e.in("a peer with %s listens", s.name)
		addr := e.listenRaw(func(c net.Conn) {
			defer c.Close()
			if tls.Server(c, s.config()).HandshakeContext(e.ctx) == nil {
				c.Read(make([]byte, 1))
			}
		}, nil)
		err := e.promptly("Dial", func() error { return dialError(n.Dial(e.ctx, addr)) })
		e.wantOp("Dial", err, "dial", addr)
	}
}

// tlsOtherKeyResumed resumes the session that one key began with the certificate of another.
func tlsOtherKeyResumed(e *env) {
	server := e.node()
	ln := e.listen(server)
	cache := tls.NewLRUClientSessionCache(8)
	first := e.key()
	for i, key := range []identity.Key{first, first, e.key()} {
		cfg, err := key.ClientTLS(e.h.ALPN, server.id)
		e.must(err, "ClientTLS")
		cfg.ClientSessionCache, cfg.ServerName = cache, "session"
		raw, err := net.Dial("tcp", ln.Addr().HostPort)
		e.must(err, "connecting to the listener by TCP")
		e.cleanup(func() { raw.Close() })
		c := tls.Client(raw, cfg)
		ctx, cancel := context.WithTimeout(e.ctx, e.soon)
		err = c.HandshakeContext(ctx)
		cancel()
		if err != nil {
			if i == 2 {
				return // refused: all the better
			}
			e.must(err, "handshake of a peer that the suite plays")
		}
		// The session's ticket comes behind the handshake.
		c.SetReadDeadline(time.Now().Add(4 * moment))
		c.Read(make([]byte, 1))
		want := key.ID()
		if c.ConnectionState().DidResume {
			want = first.ID()
		}
		var got transport.Conn
		ctx, cancel = context.WithTimeout(e.ctx, e.soon)
		err = e.promptly("Accept", func() error { got, err = ln.Accept(ctx); return err })
		cancel()
		if errors.Is(err, context.DeadlineExceeded) && i == 2 {
			return
		}
		e.must(err, "Accept")
		if id := got.Info().RemotePeer; id != want {
			e.errorf("handshake %d (resumed: %v): want the peer that proved its key when the session began, %s, got %s", i+1,
				c.ConnectionState().DidResume, want.Short(), id.Short())
		}
		raw.Close()
	}
}
