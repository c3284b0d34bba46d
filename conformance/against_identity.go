package conformance

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"math/big"
	"net"
	"slices"
	"time"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/transport"
)

func rightPeer(e *env) {
	g := e.guest()
	addr := e.h.target.addr
	for _, at := range []transport.Addr{addr, {Scheme: addr.Scheme, HostPort: addr.HostPort}} {
		e.in("dialling %s", at)
		c := g.dialAt(at)
		if i := c.Info(); i.RemoteAddr.Peer != addr.Peer || i.LocalPeer != g.id {
			e.errorf("want a connection of %s with %s, got %+v", g.id.Short(), addr.Peer.Short(), i)
		}
		c.CloseWithError(transport.CodeNone, "")
	}
	e.in("")
	g.works()
}

func notAnother(e *env) {
	g := e.guest()
	addr := e.h.target.addr
	g.works() // it is there
	addr.Peer = e.key().ID()
	err := e.promptly("Dial", func() error { return dialError(g.Dial(e.ctx, addr)) })
	var wrong *identity.VerifyError
	if !errors.Is(err, identity.ErrWrongPeer) || errors.As(err, &wrong) && wrong.Got != e.h.target.addr.Peer {
		e.errorf("want identity.ErrWrongPeer that names %s, got %s", e.h.target.addr.Peer, describe(err))
	}
	g.works()
}

// resumed connects again and again with one key, by which sessions are resumed where both sides can, and has the node say
// each time whom it takes us for: it refuses who introduces itself as another.
func resumed(e *env) {
	g := e.guest()
	e.leaveAfter(g)
	for i := range 4 {
		e.in("connection %d", i+1)
		a := g.greet(connectreq, entry{id: g.id, seq: uint64(i + 1), name: "again"}.data())
		if a.operation != "connectresp" {
			e.failf("introducing ourselves by the ID that the connection proved: want a connectresp, got %s", a)
		}
		g.hangUp()
	}
	other := e.guest()
	e.leaveAfter(other)
	if a := other.greet(connectreq, entry{id: other.id, seq: 1}.data()); a.operation != "connectresp" {
		e.errorf("another key: want a connectresp, got %s", a)
	}
}

func strangersAgainst(e *env) {
	g := e.guest()
	g.works()
	e.crowd(e.h.target.addr)
	g.works()
	for range 5 {
		e.guest().works()
	}
}

func strangersShedAgainst(e *env) {
	var all []net.Conn
	hello := clientHello()
	for _, words := range [][]byte{nil, hello[:len(hello)/2], hello} {
		c := e.rawTCP()
		c.Write(words)
		all = append(all, c)
	}
	bound := e.h.HandshakeTimeout + e.soon
	for i, c := range all {
		c.SetReadDeadline(time.Now().Add(bound))
		if _, err := io.Copy(io.Discard, c); isTimeout(err) {
			e.errorf("%s: want the connection to be closed within %v, and at most %v later", [...]string{"a silent peer", "half a ClientHello",
				"a ClientHello and silence"}[i], e.h.HandshakeTimeout, e.soon)
		}
	}
	e.guest().works()
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// rawTCP connects to the node's port.
func (e *env) rawTCP() net.Conn {
	d := net.Dialer{Timeout: dialBound}
	c, err := d.DialContext(e.ctx, "tcp", e.h.target.addr.HostPort)
	if err != nil {
		e.unreached(err)
	}
	e.cleanup(func() { c.Close() })
	return c
}

func oldTLS(e *env) {
	e.wantStrangersRefused(func(s stranger) bool { return s.max != 0 })
}

func badCertificates(e *env) {
	e.wantStrangersRefused(func(s stranger) bool { return s.max == 0 && slices.Equal(s.alpn, []string{e.h.ALPN}) })
}

func otherALPN(e *env) {
	e.wantStrangersRefused(func(s stranger) bool { return !slices.Equal(s.alpn, []string{e.h.ALPN}) })
}

// wantStrangersRefused has strangers ask for an answer, which they must not get.
func (e *env) wantStrangersRefused(which func(stranger) bool) {
	for _, s := range e.tlsStrangers() {
		if !which(s) {
			continue
		}
		e.in("a peer with %s", s.name)
		raw := e.rawTCP()
		raw.SetDeadline(time.Now().Add(e.soon))
		c := tls.Client(raw, s.config())
		err := c.HandshakeContext(e.ctx)
		if err == nil {
			// The other side's refusal comes after this side's handshake has ended.
			c.Write(e.firstFlight())
			var n int
			if n, err = c.Read(make([]byte, 1<<10)); n > 0 {
				e.errorf("want it to be refused, got %d bytes of service", n)
			}
		}
		if isTimeout(err) {
			e.errorf("want it to be refused, got silence for %v", e.soon)
		}
		raw.Close()
		e.guest().works()
	}
}

// firstFlight returns what an honest peer says first on TLS: a ping.
func (e *env) firstFlight() []byte {
	b := append([]byte(messageService), message("ping", nil)...)
	if e.h.ALPN == alpnShort {
		return shortFrame(shortData, b)
	}
	return yamuxFrame(yamuxData, yamuxSYN, 1, b)
}

// oddCertificate makes a certificate with names, long expired: all of that means nothing (TL2).
func (e *env) oddCertificate() tls.Certificate {
	_, key, err := ed25519.GenerateKey(nil)
	e.must(err, "making a key")
	template := &x509.Certificate{
		SerialNumber: big.NewInt(99), Subject: pkix.Name{CommonName: "nobody", Organization: []string{"none"}},
		NotBefore: time.Unix(1, 0), NotAfter: time.Unix(2, 0), DNSNames: []string{"nowhere.example"}, KeyUsage: x509.KeyUsageCRLSign,
		ExtraExtensions: []pkix.Extension{{Id: []int{1, 3, 6, 1, 4, 1, 32473, 1}, Value: []byte{5, 0}}},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	e.must(err, "making a certificate")
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// dialTLS does a handshake as SPEC.md's section "tls" has it, by nothing but crypto/tls. The connection's deadline is soon.
func (e *env) dialTLS() *tls.Conn {
	raw := e.rawTCP()
	raw.SetDeadline(time.Now().Add(e.soon))
	c := tls.Client(raw, &tls.Config{
		InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, NextProtos: []string{e.h.ALPN}, Certificates: []tls.Certificate{e.oddCertificate()},
	})
	e.must(c.HandshakeContext(e.ctx), "TLS handshake")
	return c
}

func certificate(e *env) {
	c := e.dialTLS()
	cs := c.ConnectionState()
	if cs.Version != tls.VersionTLS13 || cs.NegotiatedProtocol != e.h.ALPN {
		e.errorf("want TLS 1.3 that carries %s, got %s that carries %q", e.h.ALPN, tls.VersionName(cs.Version), cs.NegotiatedProtocol)
	}
	if len(cs.PeerCertificates) != 1 {
		e.failf("want the node to show one certificate, got %d", len(cs.PeerCertificates))
	}
	cert := cs.PeerCertificates[0]
	key, ok := cert.PublicKey.(ed25519.PublicKey)
	if !ok || identity.ID(key) != e.h.target.addr.Peer {
		e.errorf("want the certificate of the key that is the ID %s, got one of %T %x", e.h.target.addr.Peer, cert.PublicKey, cert.PublicKey)
	}
	if err := cert.CheckSignature(cert.SignatureAlgorithm, cert.RawTBSCertificate, cert.Signature); err != nil {
		e.errorf("want the certificate to be signed by its own key, got %v", err)
	}
	// The odd certificate is served.
	if e.h.ALPN == alpnShort {
		s := &shortConn{Conn: c, e: e}
		s.ask()
	} else if e.h.ALPN == alpnMux {
		y := &yamuxConn{Conn: c, e: e}
		y.ask(1)
	}
}
