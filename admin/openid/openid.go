// Package openid signs people in by OpenID Connect: the authorization code flow with PKCE, state and nonce (OpenID Connect Core 1.0, RFC 7636,
// RFC 9207). It knows nothing of pages: it begins a sign-in, and says who came back from it.
package openid

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/coreos/go-oidc/v3/oidc"
	"go.uber.org/zap"
	"golang.org/x/oauth2"

	"github.com/mailbell/mailbell/internal/pause"
)

const (
	// maxFlow is how long a person may take to sign in at the provider, second factor and all.
	maxFlow = 15 * time.Minute
	// answerTimeout bounds a request to the provider: a person waits for it.
	answerTimeout = 10 * time.Second
	// maxAnswer bounds an answer of the provider: its keys, or a token with the groups of a person.
	maxAnswer = 1 << 20
	// discoverAgain is the time between two tries to find a provider that cannot be reached.
	discoverAgain = 30 * time.Second
	// maxName bounds the name of a person, as it is shown and logged.
	maxName = 320
)

// Options of New.
type Options struct {
	Issuer       string
	ClientID     string
	ClientSecret string
	RedirectURL  string // where the provider sends people back to
	GroupsClaim  string
	Transport    http.RoundTripper // to the provider
	Log          *zap.Logger
}

// Provider is one that people sign in at. Run has to run for it to be found.
type Provider struct {
	o      Options
	client *http.Client

	mu    sync.Mutex
	found *found
	why   error // it is not found
}

// found is what discovery told.
type found struct {
	oauth2   oauth2.Config
	verifier *oidc.IDTokenVerifier
	answers  bool // with iss in each answer (RFC 9207)
}

var errNotTried = errors.New("it was not asked yet")

// New returns a provider that is not found yet.
func New(o Options) *Provider {
	return &Provider{o: o, why: errNotTried, client: &http.Client{
		Transport: bounded{o.Transport}, Timeout: answerTimeout,
		// No redirect: it could lead the secret, or a code, elsewhere.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Host is the provider's, to show to people.
func (p *Provider) Host() string {
	u, err := url.Parse(p.o.Issuer)
	if err != nil {
		return p.o.Issuer
	}
	return u.Host
}

// Issuer of the provider.
func (p *Provider) Issuer() string { return p.o.Issuer }

// Problem says why nobody can sign in now; nil: everybody can.
func (p *Provider) Problem() error {
	_, err := p.ready()
	return err
}

func (p *Provider) ready() (*found, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.found == nil {
		return nil, &Refusal{Text: "The sign-in provider " + p.Host() + " cannot be reached. It is tried again every half minute.", Cause: p.why}
	}
	return p.found, nil
}

// Run finds the provider, and tries until it does. When ctx ends, so do the connections to it.
func (p *Provider) Run(ctx context.Context) {
	defer p.client.CloseIdleConnections()
	p.find(ctx)
	<-ctx.Done()
}

func (p *Provider) find(ctx context.Context) {
	for said := false; ; said = true {
		f, err := p.discover(ctx)
		p.mu.Lock()
		p.found, p.why = f, err
		p.mu.Unlock()
		if err == nil {
			if said {
				p.o.Log.Info("the sign-in provider is found", zap.String("issuer", p.o.Issuer))
			}
			return
		}
		if ctx.Err() != nil {
			return
		}
		if !said {
			p.o.Log.Warn("the sign-in provider cannot be used; people sign in with tokens meanwhile", zap.String("issuer", p.o.Issuer), zap.Error(err),
				zap.Duration("retry_in", discoverAgain))
		}
		if !pause.For(ctx, discoverAgain) {
			return
		}
	}
}

// discover reads the provider's description (OpenID Connect Discovery 1.0).
func (p *Provider) discover(ctx context.Context) (*found, error) {
	provider, err := oidc.NewProvider(oidc.ClientContext(ctx, p.client), p.o.Issuer)
	if err != nil {
		return nil, fmt.Errorf("ask for the description of the provider: %.300s", err.Error()) // it may have the whole answer in it
	}
	var told struct {
		JWKS    string   `json:"jwks_uri"`
		Methods []string `json:"token_endpoint_auth_methods_supported"`
		Iss     bool     `json:"authorization_response_iss_parameter_supported"`
	}
	if err := provider.Claims(&told); err != nil {
		return nil, err
	}
	endpoint := provider.Endpoint()
	for name, address := range map[string]string{"authorization_endpoint": endpoint.AuthURL, "token_endpoint": endpoint.TokenURL, "jwks_uri": told.JWKS} {
		if u, err := url.Parse(address); err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil {
			return nil, fmt.Errorf("the description of the provider has a %s that is no https URL", name)
		}
	}
	// By default a client signs in with the Authorization header. Where the form is allowed too, it is taken: not all decode the header alike.
	endpoint.AuthStyle = oauth2.AuthStyleInHeader
	if slices.Contains(told.Methods, "client_secret_post") {
		endpoint.AuthStyle = oauth2.AuthStyleInParams
	}
	return &found{
		oauth2: oauth2.Config{ClientID: p.o.ClientID, ClientSecret: p.o.ClientSecret, Endpoint: endpoint, RedirectURL: p.o.RedirectURL,
			Scopes: []string{oidc.ScopeOpenID, "profile", "email"}},
		verifier: provider.Verifier(&oidc.Config{ClientID: p.o.ClientID}), answers: told.Iss,
	}, nil
}

// Flow is a sign-in under way. It belongs to one browser.
type Flow struct {
	State    string    `json:"s"`
	Nonce    string    `json:"n"`
	Verifier string    `json:"v"` // of PKCE
	Issuer   string    `json:"i"`
	Began    time.Time `json:"b"`
	Next     string    `json:"x"` // where the person wants to go; it is the caller's
}

// Answered says whether a query that the provider gave along is about this sign-in.
func (f Flow) Answered(query url.Values) bool {
	return f.State != "" && subtle.ConstantTimeCompare([]byte(f.State), []byte(query.Get("state"))) == 1 && len(query["state"]) == 1
}

// Begin begins a sign-in: the person is sent to a URL of the provider.
func (p *Provider) Begin(next string) (Flow, string, error) {
	found, err := p.ready()
	if err != nil {
		return Flow{}, "", err
	}
	f := Flow{State: rand.Text(), Nonce: rand.Text(), Verifier: oauth2.GenerateVerifier(), Issuer: p.o.Issuer, Began: time.Now(), Next: next}
	return f, found.oauth2.AuthCodeURL(f.State, oidc.Nonce(f.Nonce), oauth2.S256ChallengeOption(f.Verifier)), nil
}

// Identity is who a provider says that somebody is.
type Identity struct {
	Issuer  string
	Subject string // the provider's id of the person, which never changes
	Name    string // to show; the person may have chosen it
	Address string // verified by the provider, in lower case; empty: none is
	Groups  []string
	Hidden  bool // there are more groups than the provider puts into a token
}

// Refusal is why somebody is not signed in.
type Refusal struct {
	Text  string // for the person
	Cause error  // for the log; nil: Text says it all
}

func (r *Refusal) Error() string {
	if r.Cause == nil {
		return r.Text
	}
	return r.Text + " " + r.Cause.Error()
}

func (r *Refusal) Unwrap() error { return r.Cause }

// Finish says who comes back from a sign-in, with the query that the provider gave along. The error is a *Refusal.
func (p *Provider) Finish(ctx context.Context, flow Flow, query url.Values) (Identity, error) {
	found, err := p.ready()
	if err != nil {
		return Identity{}, err
	}
	const again = "This sign-in was not begun in this browser, or is too old. Sign in again."
	switch age := time.Since(flow.Began); {
	case flow.State == "" || flow.Issuer != p.o.Issuer:
		return Identity{}, &Refusal{Text: again, Cause: errors.New("no sign-in is under way in this browser")}
	case age > maxFlow || age < 0:
		return Identity{}, &Refusal{Text: again, Cause: errors.New("the sign-in took too long")}
	case !flow.Answered(query):
		return Identity{}, &Refusal{Text: again, Cause: errors.New("the answer has another state")}
	}
	if iss := query["iss"]; len(iss) > 1 || len(iss) == 1 && iss[0] != p.o.Issuer || len(iss) == 0 && found.answers {
		return Identity{}, &Refusal{Text: "The answer is not of the sign-in provider " + p.Host() + ". Sign in again.", Cause: errors.New("the answer names another issuer, or none")}
	}
	if code := query.Get("error"); code != "" {
		return Identity{}, &Refusal{Text: "The sign-in provider " + p.Host() + " did not sign you in.", Cause: fmt.Errorf("it answered %.60q: %.300q", code, query.Get("error_description"))}
	}
	if query.Get("code") == "" || len(query["code"]) != 1 {
		return Identity{}, &Refusal{Text: again, Cause: errors.New("the answer has no code")}
	}
	return p.redeem(oidc.ClientContext(ctx, p.client), found, flow, query.Get("code"))
}

// redeem exchanges a code for an ID token, and checks that.
func (p *Provider) redeem(ctx context.Context, found *found, flow Flow, code string) (Identity, error) {
	token, err := found.oauth2.Exchange(ctx, code, oauth2.VerifierOption(flow.Verifier))
	if err != nil {
		return Identity{}, &Refusal{Text: "The sign-in provider " + p.Host() + " did not accept the sign-in. Sign in again.", Cause: explain(err)}
	}
	raw, ok := token.Extra("id_token").(string)
	if !ok {
		return Identity{}, p.invalid(errors.New("the answer has no ID token"))
	}
	id, err := found.verifier.Verify(ctx, raw)
	if err != nil {
		return Identity{}, p.invalid(err)
	}
	if subtle.ConstantTimeCompare([]byte(id.Nonce), []byte(flow.Nonce)) != 1 {
		return Identity{}, p.invalid(errors.New("the ID token has another nonce"))
	}
	var of claims
	if err := id.Claims(&of); err != nil {
		return Identity{}, p.invalid(err)
	}
	if len(id.Audience) > 1 && of.Party != p.o.ClientID {
		return Identity{}, p.invalid(errors.New("the ID token is for another client (azp)"))
	}
	var all map[string]any
	if err := id.Claims(&all); err != nil {
		return Identity{}, p.invalid(err)
	}
	who := Identity{Issuer: id.Issuer, Subject: id.Subject, Address: of.address(), Groups: texts(all[p.o.GroupsClaim])}
	who.Name = shown(who.Address, of.Username, of.Email, of.Name, id.Subject)
	elsewhere, _ := all["_claim_names"].(map[string]any)
	_, who.Hidden = elsewhere[p.o.GroupsClaim]
	return who, nil
}

func (p *Provider) invalid(err error) error {
	return &Refusal{Text: "The answer of the sign-in provider " + p.Host() + " is not valid. Sign in again.", Cause: err}
}

// explain is what the token endpoint answered, without its body.
func explain(err error) error {
	if answer, ok := errors.AsType[*oauth2.RetrieveError](err); ok {
		return fmt.Errorf("the token endpoint answered HTTP %d, %.60q: %.300q", answer.Response.StatusCode, answer.ErrorCode, answer.ErrorDescription)
	}
	return err
}

// claims of an ID token that name a person.
type claims struct {
	Email    string `json:"email"`
	Verified any    `json:"email_verified"`
	// Entra ID does not say email_verified. It says whether the organisation owns the domain of the address, where the app asks for it.
	Owned    any    `json:"xms_edov"`
	Username string `json:"preferred_username"`
	Name     string `json:"name"`
	Party    string `json:"azp"`
}

// address is the address, if it is verified: else anybody could claim any.
func (c claims) address() string {
	if !yes(c.Verified) && !yes(c.Owned) {
		return ""
	}
	return lower(c.Email)
}

// lower is a text in lower case, as addresses are compared. A letter of another script does not become one of ASCII, as the Kelvin sign
// becomes k: the address would be that of somebody else.
func lower(s string) string {
	return strings.Map(func(r rune) rune {
		small := unicode.ToLower(r)
		if r >= utf8.RuneSelf && small < utf8.RuneSelf {
			return r
		}
		return small
	}, s)
}

// yes reads a claim that is true or false: some providers write it as a text or a number.
func yes(claim any) bool {
	if b, ok := claim.(bool); ok {
		return b
	}
	return claim == "true" || claim == "1" || claim == 1.0
}

// texts reads a claim that is a text, or a list of them.
func texts(claim any) (list []string) {
	switch c := claim.(type) {
	case string:
		return []string{c}
	case []any:
		for _, one := range c {
			if s, ok := one.(string); ok {
				list = append(list, s)
			}
		}
	}
	return list
}

// shown is the first name that can be shown in a line.
func shown(names ...string) string {
	for _, name := range names {
		name = strings.Map(func(r rune) rune {
			if r < ' ' || r == 0x7f {
				return -1
			}
			return r
		}, name)
		if name != "" && len(name) <= maxName {
			return name
		}
	}
	return "somebody"
}

// bounded bounds what is read of an answer.
type bounded struct{ http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := b.RoundTripper.RoundTrip(r)
	if err == nil {
		resp.Body = body{io.LimitReader(resp.Body, maxAnswer), resp.Body}
	}
	return resp, err
}

// CloseIdleConnections closes those of the transport, if it has any.
func (b bounded) CloseIdleConnections() {
	if t, ok := b.RoundTripper.(interface{ CloseIdleConnections() }); ok {
		t.CloseIdleConnections()
	}
}

type body struct {
	io.Reader
	io.Closer
}
