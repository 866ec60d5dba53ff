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

// apns reads an entry. keys are those of the entries before it.
func (o *object) apns(keys signingKeys) APNs {
	o.require("topic")
	a := APNs{
		Topic:       o.text("topic", "", matching(pattern.Topic)),
		Environment: o.choice("environment", Production, []string{Production, Sandbox}),
		URL:         o.text("url", "", httpsHost),
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
	a.Token = t.token(keys)
	a.Certificate = c.certificate()
	c.end()
	o.end()
	return a
}

func (o *object) token(keys signingKeys) Token {
	defer o.end()
	o.require("key_id", "team_id")
	t := Token{
		KeyPEM: o.signingKey("key"),
		KeyID:  o.text("key_id", "", appleID),
		TeamID: o.text("team_id", "", appleID),
	}
	keys.add(o.get("key_id"), t)
	return t
}

// signingKeys has the first key of each team and key id.
type signingKeys map[[2]string]Secret

// add reports an id that another key has. A token that is not complete is left out, or already reported.
func (seen signingKeys) add(v value, t Token) {
	if t.KeyPEM == "" || t.KeyID == "" || t.TeamID == "" {
		return
	}
	id := [2]string{t.TeamID, t.KeyID}
	first, known := seen[id]
	if !known {
		seen[id] = t.KeyPEM
	} else if first != t.KeyPEM {
		v.fail("%s has another key file with a topic before it: one of the two is not the key of this id", t.KeyID)
	}
}
