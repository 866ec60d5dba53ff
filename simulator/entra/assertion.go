package entra

// How an app proves who it is by a certificate: a client assertion (RFC 7523), as Microsoft's "application authentication
// certificate credentials" has it.

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // the thumbprint x5t (RFC 7515, 4.1.7) is no proof
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"math"
	"slices"
	"strings"
	"time"
)

// Bounds of assertions.
const (
	assertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
	clockLeeway   = 5 * time.Minute // Entra ID allows for clocks that differ by that much
	maxAssertion  = 24 * time.Hour  // the longest life that it takes; clients ask for 5 to 10 minutes
	maxAssertions = 100_000         // that are remembered: no test asks for so many within their life
)

// proof is what an assertion says of itself, for errors.
type proof struct {
	thumbprint  string // hexadecimal, as the Azure portal shows it
	certificate *x509.Certificate
	expired     bool
	from, until time.Time
}

// refusal is the start of the text of AADSTS700027.
func (p proof) refusal() string {
	switch {
	case p.certificate == nil:
		return "The certificate with identifier used to sign the client assertion is not registered on application. [Reason - The key was not found."
	case p.expired:
		return "Client assertion contains an invalid signature. [Reason - The key used is expired."
	}
	return "Client assertion contains an invalid signature. [Reason - The key was found, but use of the key to verify the signature failed."
}

// found tells when the certificate that was found is valid.
func (p proof) found() string {
	if p.certificate == nil {
		return ""
	}
	return ", Found key 'Start=" + p.certificate.NotBefore.UTC().Format(aadstsKeyTime) + ", End=" + p.certificate.NotAfter.UTC().Format(aadstsKeyTime) + "'"
}

// jws is a JSON Web Signature in its compact form (RFC 7515).
type jws struct {
	Algorithm  string `json:"alg"`
	KeyID      string `json:"kid"`
	Thumb      string `json:"x5t"`
	Thumb256   string `json:"x5t#S256"`
	claims     []byte // JSON
	signed     string
	signature  []byte
	Extensions json.RawMessage `json:"crit"` // none are understood
}

// parseJWS takes a token apart and verifies nothing.
func parseJWS(token string) (jws, bool) {
	var t jws
	head, rest, _ := strings.Cut(token, ".")
	body, signature, three := strings.Cut(rest, ".")
	if !three || strings.ContainsAny(token, "\r\n") { // which the decoder skips
		return t, false
	}
	b64 := base64.RawURLEncoding.Strict()
	h, err1 := b64.DecodeString(head)
	c, err2 := b64.DecodeString(body)
	s, err3 := b64.DecodeString(signature)
	if err1 != nil || err2 != nil || err3 != nil || json.Unmarshal(h, &t) != nil || t.Extensions != nil {
		return jws{}, false
	}
	t.claims, t.signature, t.signed = c, s, token[:len(head)+1+len(body)]
	return t, true
}

// verify checks the signature, by the algorithms that Entra ID uses and takes.
func (t jws) verify(key *rsa.PublicKey) bool {
	sum := sha256.Sum256([]byte(t.signed))
	switch t.Algorithm {
	case "RS256":
		return rsa.VerifyPKCS1v15(key, crypto.SHA256, sum[:], t.signature) == nil
	case "PS256":
		return rsa.VerifyPSS(key, crypto.SHA256, sum[:], t.signature, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}) == nil
	}
	return false
}

// numericDate is a time in a token (RFC 7519, 2). The zero time: there is none, or none that a clock could show.
func numericDate(v *float64) time.Time {
	const year10000 = 253_402_300_800
	if v == nil || math.IsNaN(*v) || *v <= 0 || *v >= year10000 {
		return time.Time{}
	}
	return time.Unix(int64(*v), 0)
}

// assertionClaims of a client assertion.
type assertionClaims struct {
	Audience string   `json:"aud"`
	Issuer   string   `json:"iss"`
	Subject  string   `json:"sub"`
	ID       string   `json:"jti"`
	From     *float64 `json:"nbf"`
	Until    *float64 `json:"exp"`
}

// checkAssertion verifies a client assertion. It returns the code of the error, or 0.
func (q *tokenRequest) checkAssertion(assertion string) int {
	if q.parameter = "client_assertion_type"; q.form.Get(q.parameter) != assertionType {
		return aadstsParameterMissing
	}
	token, ok := parseJWS(assertion)
	var claims assertionClaims
	if !ok || json.Unmarshal(token.claims, &claims) != nil || claims.ID == "" {
		return aadstsAssertionMalformed
	}
	now := q.e.clock.Now()
	q.proof.from, q.proof.until = numericDate(claims.From), numericDate(claims.Until)
	q.findKey(token)
	switch c := q.proof.certificate; {
	case c == nil:
		return aadstsAssertionSignature
	case now.After(c.NotAfter):
		q.proof.expired = true
		return aadstsAssertionSignature
	case !verifiedBy(token, c):
		return aadstsAssertionSignature
	case claims.Issuer != q.client || claims.Subject != q.client:
		return aadstsAssertionApp
	case !q.isAudience(claims.Audience):
		return aadstsAssertionAudience
	case q.proof.until.IsZero() || now.After(q.proof.until.Add(clockLeeway)) || q.proof.until.Sub(now) > maxAssertion ||
		q.proof.from.Sub(now) > clockLeeway:
		return aadstsAssertionTime
	}
	return q.e.rememberAssertion(claims.ID, q.proof.until.Add(clockLeeway), now)
}

func verifiedBy(token jws, c *x509.Certificate) bool {
	key, ok := c.PublicKey.(*rsa.PublicKey)
	return ok && token.verify(key)
}

// findKey finds the certificate that an assertion names by its thumbprint, of SHA-256 or SHA-1.
func (q *tokenRequest) findKey(t jws) {
	named, of256 := t.Thumb256, true
	if named == "" {
		named, of256 = t.Thumb, false
	}
	want := decodeThumbprint(named)
	q.proof.thumbprint = strings.ToUpper(hex.EncodeToString(want))
	q.e.mu.Lock()
	defer q.e.mu.Unlock()
	i := slices.IndexFunc(q.e.certificates, func(c *x509.Certificate) bool {
		if of256 {
			sum := sha256.Sum256(c.Raw)
			return string(sum[:]) == string(want)
		}
		sum := sha1.Sum(c.Raw) //nolint:gosec // as above
		return string(sum[:]) == string(want)
	})
	if i >= 0 {
		q.proof.certificate = q.e.certificates[i]
	}
}

// decodeThumbprint reads base64url, as RFC 7515 has it, or base64 with its padding, as Microsoft's library writes it.
func decodeThumbprint(s string) []byte {
	s = strings.NewReplacer("+", "-", "/", "_").Replace(strings.TrimRight(s, "="))
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		return nil
	}
	return b
}

// isAudience reports whether an assertion is meant for this tenant: by the token endpoint, or the issuer.
func (q *tokenRequest) isAudience(audience string) bool {
	rest, ours := strings.CutPrefix(strings.ToLower(audience), "https://"+strings.ToLower(q.r.Host)+"/")
	tenant, path, _ := strings.Cut(rest, "/")
	return ours && q.e.knows(tenant) && (path == "oauth2/v2.0/token" || path == "v2.0")
}

// rememberAssertion keeps the id of an assertion for as long as that could be used again. The result is the code of the
// error, or 0.
func (e *Tenant) rememberAssertion(id string, until, now time.Time) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	if _, seen := e.assertions[id]; seen {
		return aadstsAssertionReplayed
	}
	if len(e.assertions) >= maxAssertions {
		for old, expires := range e.assertions {
			if now.After(expires) {
				delete(e.assertions, old)
			}
		}
		if len(e.assertions) >= maxAssertions {
			return aadstsTransient
		}
	}
	e.assertions[id] = until
	return 0
}
