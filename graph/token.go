package graph

// Validation tokens: with them Graph proves that it is Graph that posts notifications with content.

import (
	"context"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/internal/hostname"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/proxy"
)

const (
	// publisher is the app of Microsoft that posts change notifications, in every cloud.
	publisher = "0bf30f3b-4a52-48df-9a82-234910c4a086"
	// keysFor is how long the keys of the token service are believed: it replaces them every few weeks, and announces new ones before.
	keysFor = 24 * time.Hour
	// keysPause is how long they are not asked for again, whatever key a token names: anybody can name one.
	keysPause = 5 * time.Minute
	// keysTimeout bounds one question.
	keysTimeout = 10 * time.Second
	// maxKeysAnswer bounds an answer of the token service; the real ones have a few kilobytes.
	maxKeysAnswer = 256 << 10
	// maxKeys bounds its keys; it has about six.
	maxKeys = 100
	// leastKeyBits is the length of the shortest key that is believed.
	leastKeyBits = 2048
	// maxToken bounds a token; a real one has some two kilobytes.
	maxToken = 16 << 10
	// maxChecked bounds the tokens that are remembered as good: each lives for an hour or so, and Graph sends one again and again.
	maxChecked = 1000
)

// CodeToken is the code of a validation token that does not show that Graph has posted.
const CodeToken = "validation token"

const opValidate = "check the validation token"

// TokenOptions say whose validation tokens are good.
type TokenOptions struct {
	HTTP      http.RoundTripper // to the token service, without a credential
	Authority string            // of the cloud, as in https://login.microsoftonline.com
	Tenant    string            // its GUID or a domain
	ClientID  string            // of our app
}

// Tokens checks validation tokens. It is safe for concurrent use.
type Tokens struct {
	o      TokenOptions
	parser *jwt.Parser

	asking chan struct{} // one asks for the keys at a time

	mu      sync.Mutex
	keys    map[string]*rsa.PublicKey // by their kid
	issuers []string
	got     time.Time                       // when the keys were got
	asked   time.Time                       // when they were asked for
	failed  error                           // of the last question; nil: it was answered
	checked map[[sha256.Size]byte]time.Time // good tokens, until when
}

// NewTokens returns what checks validation tokens. It makes no request.
func NewTokens(o TokenOptions) *Tokens {
	return &Tokens{o: o, asking: make(chan struct{}, 1), checked: map[[sha256.Size]byte]time.Time{}, parser: jwt.NewParser(
		jwt.WithValidMethods([]string{"RS256"}), jwt.WithAudience(o.ClientID), jwt.WithExpirationRequired(), jwt.WithLeeway(mail.Tolerance),
	)}
}

// claims are those of a validation token, of version 1 or 2.
type claims struct {
	jwt.RegisteredClaims
	AppID string `json:"appid"` // of version 1
	AZP   string `json:"azp"`   // of version 2
}

// Check says whether the tokens of a post show that Graph has posted it for our app; nil: they do. One post may have notifications for several
// apps and tenants that have the same URL, and a token for each: those of others are passed over. A post without one of ours shows nothing.
// The error is a *fault.Error with CodeToken, or that of the token service where its keys cannot be had.
func (t *Tokens) Check(ctx context.Context, tokens []string) error {
	ours, others := false, error(refusedToken("the post has none"))
	for _, token := range tokens {
		anothers, err := t.check(ctx, token)
		switch {
		case anothers:
			others = err
		case err != nil:
			return err
		default:
			ours = true
		}
	}
	if ours {
		return nil
	}
	return others
}

// check says what is wrong with a token. anothers: only that it is for another app or tenant.
func (t *Tokens) check(ctx context.Context, token string) (anothers bool, err error) {
	if len(token) > maxToken {
		return false, refusedToken("it is too long")
	}
	digest := sha256.Sum256([]byte(token))
	t.mu.Lock()
	good := time.Now().Before(t.checked[digest])
	t.mu.Unlock()
	if good {
		return false, nil
	}
	var c claims
	_, err = t.parser.ParseWithClaims(token, &c, func(parsed *jwt.Token) (any, error) {
		kid, _ := parsed.Header["kid"].(string)
		return t.key(ctx, kid)
	})
	if f, ok := errors.AsType[*fault.Error](err); ok {
		return false, f
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case err != nil: // the signature is checked before the audience
		return errors.Is(err, jwt.ErrTokenInvalidAudience), refusedToken(why(err))
	case c.AppID != publisher && c.AZP != publisher:
		return false, refusedToken("it is not one of the app that posts change notifications")
	case !slices.Contains(t.issuers, c.Issuer):
		return true, refusedToken("it was issued for another tenant")
	}
	if len(t.checked) >= maxChecked {
		clear(t.checked)
	}
	t.checked[digest] = c.ExpiresAt.Time
	return false, nil
}

// why says what is wrong with a token. The errors of the parser may quote it.
func why(err error) string {
	for is, words := range map[error]string{
		jwt.ErrTokenExpired: "it has expired", jwt.ErrTokenNotValidYet: "it is not valid yet", jwt.ErrTokenInvalidAudience: "it is for another app",
		jwt.ErrTokenSignatureInvalid: "its signature is not one of the token service", jwt.ErrTokenMalformed: "it is none",
		errNoSuchKey: "it names a key that the token service does not have",
	} {
		if errors.Is(err, is) {
			return words
		}
	}
	return "it is not valid"
}

func refusedToken(why string) *fault.Error {
	return &fault.Error{Op: opValidate, Code: CodeToken, Text: why, Scope: fault.Mailbox, Remedy: fault.GiveUp, Evidence: fault.Evidence{Peer: fault.Graph}}
}

var errNoSuchKey = errors.New("no such key")

// key returns a key of the token service. Its error is errNoSuchKey, or a *fault.Error.
func (t *Tokens) key(ctx context.Context, kid string) (*rsa.PublicKey, error) {
	if k, current := t.known(kid); k != nil && current {
		return k, nil
	}
	select {
	case t.asking <- struct{}{}:
		defer func() { <-t.asking }()
	case <-ctx.Done():
		return nil, fetchError(proxy.CodeTimeout, ctx.Err())
	}
	k, current := t.known(kid) // meanwhile
	t.mu.Lock()
	due := time.Since(t.asked) >= keysPause
	t.mu.Unlock()
	if due && (k == nil || !current) {
		err := t.fetch(ctx)
		t.mu.Lock()
		t.failed = err
		t.mu.Unlock()
		k, _ = t.known(kid)
	}
	if k != nil { // it may be old, and there is no better
		return k, nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.failed != nil {
		return nil, t.failed
	}
	return nil, errNoSuchKey
}

// known returns a key that was got, and whether that was not long ago.
func (t *Tokens) known(kid string) (k *rsa.PublicKey, current bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.keys[kid], time.Since(t.got) < keysFor
}

// fetch gets the keys and the issuer of the tenant.
func (t *Tokens) fetch(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, keysTimeout)
	defer cancel()
	t.mu.Lock()
	t.asked = time.Now()
	t.mu.Unlock()
	var about struct {
		Issuer string `json:"issuer"`
		Keys   string `json:"jwks_uri"`
	}
	at := strings.TrimSuffix(t.o.Authority, "/") + "/" + escaped(t.o.Tenant) + "/v2.0/.well-known/openid-configuration"
	if err := t.get(ctx, at, &about); err != nil {
		return err
	}
	if !sameServer(about.Keys, t.o.Authority) {
		return fetchError("other host", errors.New("its keys would be on another host"))
	}
	var set keySet
	if err := t.get(ctx, about.Keys, &set); err != nil {
		return err
	}
	keys := set.keys()
	if len(keys) == 0 {
		return fetchError(CodeUnparseable, errors.New("it has no keys"))
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.keys, t.issuers, t.got = keys, issuers(about.Issuer), time.Now()
	return nil
}

// get asks the token service for some JSON.
func (t *Tokens) get(ctx context.Context, at string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return fetchError(CodeURL, errors.New("the authority is not a URL"))
	}
	req.Header.Set("Accept", "application/json")
	resp, err := t.o.HTTP.RoundTrip(req)
	if err != nil {
		return proxy.Explain(opValidate, err).From(fault.TokenService)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxKeysAnswer))
	switch {
	case err != nil:
		return proxy.Explain(opValidate, err).From(fault.TokenService)
	case resp.StatusCode != http.StatusOK:
		return fetchError(fmt.Sprintf("HTTP %d", resp.StatusCode), nil)
	case json.Unmarshal(body, into) != nil:
		return fetchError(CodeUnparseable, nil)
	}
	return nil
}

func fetchError(code string, err error) *fault.Error {
	return &fault.Error{Op: opValidate, Code: code, Text: "the keys of the token service cannot be had", Scope: fault.Account, Remedy: fault.Wait, Err: err,
		Evidence: fault.Evidence{Peer: fault.TokenService}}
}

// sameServer says whether two URLs are of one server over https.
func sameServer(a, b string) bool {
	one, err1 := url.Parse(a)
	other, err2 := url.Parse(b)
	return err1 == nil && err2 == nil && one.Scheme == "https" && other.Scheme == "https" && hostname.Of(one) != "" &&
		hostname.Address(one) == hostname.Address(other)
}

// issuers are the issuers of a tenant's tokens: that of version 2, which the token service names, and those of version 1.
func issuers(v2 string) []string {
	list := []string{v2}
	if u, err := url.Parse(v2); err == nil {
		tenant, _, _ := strings.Cut(strings.TrimPrefix(u.Path, "/"), "/")
		list = append(list, "https://sts.windows.net/"+tenant+"/", "https://sts.chinacloudapi.cn/"+tenant+"/")
	}
	return list
}

// keySet is a JSON Web Key Set (RFC 7517).
type keySet struct {
	Keys []struct {
		Type     string `json:"kty"`
		ID       string `json:"kid"`
		Use      string `json:"use"`
		Modulus  string `json:"n"`
		Exponent string `json:"e"`
	} `json:"keys"`
}

// keys are those that can sign.
func (s *keySet) keys() map[string]*rsa.PublicKey {
	keys := map[string]*rsa.PublicKey{}
	for _, k := range s.Keys[:min(len(s.Keys), maxKeys)] {
		n, err1 := base64.RawURLEncoding.DecodeString(strings.TrimRight(k.Modulus, "="))
		e, err2 := base64.RawURLEncoding.DecodeString(strings.TrimRight(k.Exponent, "="))
		if err1 != nil || err2 != nil || k.Type != "RSA" || k.Use != "" && k.Use != "sig" || k.ID == "" || len(e) == 0 || len(e) > 4 {
			continue
		}
		public := &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(new(big.Int).SetBytes(e).Int64())}
		if public.N.BitLen() >= leastKeyBits && public.E > 1 {
			keys[k.ID] = public
		}
	}
	return keys
}
