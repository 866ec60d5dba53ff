package config

// The entries of apns: a topic each, in one of Apple's environments.

import (
	"crypto/tls"
	"crypto/x509"

	"github.com/mailbell/mailbell/internal/pattern"
)

// APNs is a topic in one of Apple's environments, with the credential to send to it.
type APNs struct {
	Topic       string
	Environment string           // Production or Sandbox
	URL         string           // empty: Apple's of that environment
	CA          *x509.CertPool   // nil: the system's roots
	Token       Token            // or
	Certificate *tls.Certificate // with its leaf parsed; nil: Token is set
}

// Token is the credential of token-based authentication with APNs.
type Token struct {
	KeyPEM Secret // the .p8 file: PKCS #8, an elliptic curve key on P-256
	KeyID  string
	TeamID string
}

// The environments of APNs.
const (
	Production = "production"
	Sandbox    = "sandbox"
)

// appleID is the id of a key or a team.
var appleID = matching(pattern.New(`^[A-Z0-9]{10}$`, "10 capital letters and digits, as Apple's developer portal shows it"))

func (o *object) apns() APNs {
	o.require("topic")
	a := APNs{
		Topic:       o.text("topic", "", matching(pattern.Topic)),
		Environment: o.choice("environment", Production, []string{Production, Sandbox}),
		URL:         o.text("url", "", httpsURL),
		CA:          o.authorities("ca_file"),
	}
	t, byToken := o.optional("token")
	c, byCertificate := o.optional("certificate")
	switch {
	case byToken && byCertificate:
		c.fail("token and certificate are both given: want one")
	case !byToken && !byCertificate && !t.wrong && !c.wrong && !o.wrong:
		o.get("token").fail("is required (or certificate)")
	}
	a.Token = t.token()
	a.Certificate = c.certificate()
	c.end()
	o.end()
	return a
}

func (o *object) token() Token {
	defer o.end()
	o.require("key_id", "team_id")
	return Token{
		KeyPEM: o.signingKey("key"),
		KeyID:  o.text("key_id", "", appleID),
		TeamID: o.text("team_id", "", appleID),
	}
}
