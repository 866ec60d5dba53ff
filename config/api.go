package config

// The clients of the API.

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/mailbell/mailbell/internal/pattern"
)

// API has the clients of the API.
type API struct {
	Clients           []Client // never empty
	RequestsPerSecond int      // of one client
	Burst             int      // requests of a client at once
}

// Client is a program or person with a bearer token.
type Client struct {
	Name      string
	Role      string // one of the Role… names
	Token     Secret // empty: it has a certificate only
	NextToken Secret // a second one that is valid too, while programs go over to it; empty: none

	Certificate string // a name of its certificate; empty: it has none
}

// The roles of the API's clients.
const (
	RoleEnrol = "enrol"
	RoleRead  = "read"
	RoleTest  = "test"
	RoleAdmin = "admin"
)

const (
	// defaultClientRequests is the pace of one client: twice what a portal that enrols all its devices reaches on a large machine, so that it
	// stops a program that has run wild and nothing else.
	defaultClientRequests = 20_000
	maxClientRequests     = 1_000_000
)

// minToken is the least length of a client's token in characters: a shorter one can be guessed.
const minToken = 16

// api reads the section. authorities: the certificates of clients can be verified.
func (o *object) api(authorities bool) API {
	o.require("clients")
	var p API
	p.RequestsPerSecond = o.integer("requests_per_second", defaultClientRequests, 1, maxClientRequests)
	p.Burst = o.integer("burst", p.RequestsPerSecond, 1, maxClientRequests)
	names, certificates, tokens := once{}, once{}, tokens{}
	for _, e := range o.objects("clients") {
		e.require("name", "role")
		c := Client{
			Name: e.text("name", "", matching(pattern.Name)),
			Role: e.choice("role", "", []string{RoleEnrol, RoleRead, RoleTest, RoleAdmin}),
		}
		var v value
		c.Certificate = e.text("certificate", "", certificateName)
		if e.has("certificate") {
			c.Token, v = e.optionalWord("token")
		} else {
			c.Token, v = e.word("token")
		}
		tokens.add(v, c.Token, c.Name)
		c.NextToken, v = e.optionalWord("next_token")
		if c.NextToken == c.Token { // at the end of a change, before the next one is taken out
			c.NextToken = ""
		}
		tokens.add(v, c.NextToken, c.Name)
		names.add(e.get("name"), c.Name)
		certificates.add(e.get("certificate"), c.Certificate)
		if c.Certificate != "" && !authorities {
			e.get("certificate").fail("needs tls.client_ca_file: the authorities that sign the certificates of clients")
		}
		p.Clients = append(p.Clients, c)
		e.end()
	}
	o.end()
	return p
}

// maxCertificateName is the most characters of a certificate's name: a URI has some hundred.
const maxCertificateName = 500

// certificateName checks a name of a certificate.
func certificateName(s string) (string, error) {
	if utf8.RuneCountInString(s) > maxCertificateName || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return "", fmt.Errorf("want a name of the client's certificate: its DNS name, mail address, URI or common name, at most %d characters", maxCertificateName)
	}
	return s, nil
}

// tokens has the client of each token, to find tokens that are given twice.
type tokens map[Secret]string

// add reports a token that cannot be one. An empty one is left out, or already reported.
func (seen tokens) add(v value, token Secret, client string) {
	other, twice := seen[token]
	switch {
	case token == "":
	case len(token) < minToken:
		v.fail("has a token of %d characters: want at least %d", len(token), minToken)
	case strings.ContainsFunc(string(token), func(r rune) bool { return r <= ' ' || r > '~' }):
		v.fail("has a token that cannot be sent in an Authorization header: want visible ASCII characters without spaces")
	case twice:
		v.fail("has the same token as the client %s", other)
	default:
		seen[token] = client
	}
}
