package config

// The certificate of the API.

import (
	"crypto/tls"
	"strings"
)

// TLS is a certificate chain with its key, for tls.X509KeyPair: they are checked as a pair.
type TLS struct {
	CertPEM []byte
	KeyPEM  Secret
}

// tls reads the section; nil where it is left out.
func (o *object) tls() *TLS {
	defer o.end()
	o.require("cert_file")
	cert, v := o.contents("cert_file")
	key, _ := o.secret("key")
	if cert == nil || key == "" {
		return nil
	}
	if _, err := tls.X509KeyPair(cert, []byte(key)); err != nil {
		v.fail("is no pair with its key: %s", strings.TrimPrefix(err.Error(), "tls: "))
		return nil
	}
	return &TLS{CertPEM: cert, KeyPEM: key}
}
