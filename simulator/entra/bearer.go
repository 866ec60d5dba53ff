package entra

// What a resource sees in an access token, and what Exchange Online says to it: the checks of [MS-XOAUTH], with headers as real servers
// send them.

import (
	"encoding/json"
	"maps"
	"net/http"
	"strings"
	"time"
)

// Bearer is what a valid access token says.
type Bearer struct {
	App       string   // its client id
	Delegated bool     // for a user, not app-only
	User      string   // the address, of a delegated one
	Roles     []string // of an app-only one
	Audience  string
	Until     time.Time // it is valid
}

// Refusal is the answer of Exchange Online to a request whose token is missing or invalid. It has no body.
type Refusal struct {
	Status int // 401; 403 if the token is valid, but grants nothing here
	Header http.Header
}

// Write sends the refusal.
func (b *Refusal) Write(w http.ResponseWriter) {
	maps.Copy(w.Header(), b.Header)
	w.WriteHeader(b.Status)
}

// diagnostics is the header x-ms-diagnostics, which says why a token is refused.
type diagnostics struct {
	code             string
	reason, category string
}

// Reasons of Exchange. Those for a bad signature, audience and form are as public captures have them.
var (
	badSignature  = diagnostics{"2000000", "The token has an invalid signature.", "invalid_signature"}
	unreadable    = diagnostics{"2000001", "OAuth token submitted with the request cannot be parsed.", "invalid_token"}
	tokenRevoked  = diagnostics{"2000001", "The token has been revoked.", "invalid_token"}
	tokenTooOld   = diagnostics{"2000002", "The token has expired.", "token_expired"}
	tokenTooYoung = diagnostics{"2000002", "The token is not yet valid.", "token_expired"}
	nothingHere   = diagnostics{"2000008", "The token contains not enough scope to make this call.", "invalid_grant"}
)

func wrongAudience(audience string) diagnostics {
	return diagnostics{"2000003", "The audience claim value is invalid '" + audience + "'.", "invalid_resource"}
}

// challenge is the WWW-Authenticate header. Like Exchange Online it names Basic, which is refused: a client must not try it.
const challenge = `Bearer client_id="` + exchangeAppID + `", trusted_issuers="00000001-0000-0000-c000-000000000000@*", ` +
	`token_types="app_asserted_user_v1 service_asserted_app_v1", authorization_uri="https://login.microsoftonline.com/common/oauth2/authorize"`

// refuseBearer is an answer 401 because of a token.
func refuseBearer(d diagnostics) *Refusal {
	return &Refusal{http.StatusUnauthorized, http.Header{
		"Www-Authenticate": {challenge + `, error="invalid_token"`, `Basic Realm=""`},
		"X-Ms-Diagnostics": {d.String()},
	}}
}

func (d diagnostics) String() string {
	return d.code + `;reason="` + d.reason + `";error_category="` + d.category + `"`
}

// Verdict is what is wrong with an access token.
type Verdict int

// Verdicts. Every resource has its own words for them.
const (
	Valid Verdict = iota
	Missing
	Unreadable
	BadSignature
	TooOld
	TooYoung
	WrongAudience
	Revoked
)

// Inspect looks at the access token of a request to the resource that goes by the name audience; any other name of that resource does
// as well.
func (e *Tenant) Inspect(r *http.Request, audience string, now time.Time) (Bearer, Verdict) {
	scheme, token, _ := strings.Cut(strings.TrimSpace(r.Header.Get("Authorization")), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return Bearer{}, Missing
	}
	t, ok := parseJWS(strings.TrimSpace(token))
	var c accessClaims
	if !ok || json.Unmarshal(t.claims, &c) != nil {
		return Bearer{}, Unreadable
	}
	if !t.verify(&e.key.PublicKey) {
		return Bearer{}, BadSignature
	}
	generation, ok := tokenGeneration(c.ID)
	e.mu.Lock()
	current := e.generation
	e.mu.Unlock()
	b := Bearer{App: c.AppID, Delegated: c.Scopes != "", User: c.UPN, Roles: c.Roles, Audience: c.Audience, Until: time.Unix(c.Until, 0)}
	resource := e.resourceOf(c.Audience)
	switch {
	case !ok: // an ID token, which grants no access
		return b, Unreadable
	case now.Unix() >= c.Until:
		return b, TooOld
	case now.Add(clockLeeway).Unix() < c.From:
		return b, TooYoung
	case resource == "" || resource != e.resourceOf(audience):
		return b, WrongAudience
	case generation != current:
		return b, Revoked
	}
	return b, Valid
}

// Check looks at the access token of a request to Exchange, whose host goes by the name audience; any other name of Exchange
// Online does as well.
func (e *Tenant) Check(r *http.Request, audience string, now time.Time) (Bearer, *Refusal) {
	b, verdict := e.Inspect(r, audience, now)
	switch verdict {
	case Missing:
		return Bearer{}, &Refusal{http.StatusUnauthorized, http.Header{"Www-Authenticate": {challenge, `Basic Realm=""`}}}
	case Unreadable:
		return Bearer{}, refuseBearer(unreadable)
	case BadSignature:
		return Bearer{}, refuseBearer(badSignature)
	case TooOld:
		return Bearer{}, refuseBearer(tokenTooOld)
	case TooYoung:
		return Bearer{}, refuseBearer(tokenTooYoung)
	case WrongAudience:
		return Bearer{}, refuseBearer(wrongAudience(b.Audience))
	case Revoked:
		return Bearer{}, refuseBearer(tokenRevoked)
	case Valid:
	}
	if len(b.Roles) == 0 && !b.Delegated {
		return Bearer{}, &Refusal{http.StatusForbidden, http.Header{"X-Ms-Diagnostics": {nothingHere.String()}}}
	}
	return b, nil
}
