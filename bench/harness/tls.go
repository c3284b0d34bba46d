package harness

import (
	"bytes"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"time"
)

// TLS returns the configurations of both ends, which authenticate each other: TLS 1.3, self-signed certificates of ed25519 keys, which
// are compared with what is expected, on resumed sessions too. Usual means what crypto/tls does, which is Never.
func TLS(o Options, alpn string) (client, server *tls.Config, err error) {
	clientCert, err := certificate()
	if err != nil {
		return nil, nil, err
	}
	serverCert, err := certificate()
	if err != nil {
		return nil, nil, err
	}
	client = &tls.Config{
		Certificates: []tls.Certificate{clientCert}, MinVersion: tls.VersionTLS13, NextProtos: []string{alpn},
		ServerName: "localhost", InsecureSkipVerify: true, // no authority signs the certificate: the next line checks it
		VerifyConnection: expect(serverCert),
	}
	if o.Sessions == Always {
		client.ClientSessionCache = tls.NewLRUClientSessionCache(0)
	}
	server = &tls.Config{
		Certificates: []tls.Certificate{serverCert}, MinVersion: tls.VersionTLS13, NextProtos: []string{alpn},
		ClientAuth: tls.RequireAnyClientCert, VerifyConnection: expect(clientCert),
	}
	return client, server, nil
}

func certificate() (tls.Certificate, error) {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bench"},
		NotBefore: time.Unix(0, 0), NotAfter: time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
	}
	der, err := x509.CreateCertificate(nil, template, template, public, private)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("harness: certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("harness: certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: private, Leaf: leaf}, nil
}

func expect(want tls.Certificate) func(tls.ConnectionState) error {
	return func(cs tls.ConnectionState) error {
		if len(cs.PeerCertificates) != 1 || !bytes.Equal(cs.PeerCertificates[0].Raw, want.Leaf.Raw) {
			return errors.New("harness: the other end is not who it should be")
		}
		return nil
	}
}
