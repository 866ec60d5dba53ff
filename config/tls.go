package config

// The certificate of the API.

import (
	"crypto/tls"
	"crypto/x509"
	"strings"

	"github.com/mailbell/mailbell/internal/certificate"
)

// TLS is a certificate chain with its key, for tls.X509KeyPair, which accepts them.
type TLS struct {
	CertPEM   []byte
	KeyPEM    Secret
	ClientCAs *x509.CertPool // who signs the certificates of the API's clients; nil: they have none
}

// apiTLS reads the section of the API, whose clients may have certificates.
func (o *object) apiTLS() *TLS {
	authorities := o.authorities("client_ca_file")
	t := o.tls()
	if t != nil {
		t.ClientCAs = authorities
	}
	return t
}

// tls reads the section; nil if it is left out.
func (o *object) tls() *TLS {
	defer o.end()
	o.require("cert_file")
	cert, v := o.contents("cert_file")
	key, k := o.secret("key")
	if cert == nil || key == "" {
		return nil
	}
	cert, err := certificate.PEM(cert)
	if err != nil {
		v.fail("%v", err)
		return nil
	}
	keyPEM, err := certificate.PEM([]byte(key))
	if err != nil {
		k.fail("%v", err)
		return nil
	}
	key = Secret(keyPEM)
	switch {
	case !strings.Contains(string(cert), "-----BEGIN CERTIFICATE-----"):
		v.fail("%v", certificate.ErrNoAuthority)
		return nil
	case !strings.Contains(string(key), "PRIVATE KEY-----"):
		k.fail("holds no private key in PEM form (-----BEGIN PRIVATE KEY-----)")
		return nil
	}
	if _, err := tls.X509KeyPair(cert, []byte(key)); err != nil {
		v.fail("does not match its key: %s", strings.TrimPrefix(err.Error(), "tls: "))
		return nil
	}
	return &TLS{CertPEM: cert, KeyPEM: key}
}
