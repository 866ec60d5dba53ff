package entra

// The token endpoint of Entra ID: who asks, for what, and the tokens. Grants are client_credentials (RFC 6749, 4.4), password
// (4.3) and refresh_token (6).

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/mailbell/mailbell/simulator/internal/answer"
)

// Bounds and defaults of tokens.
const (
	accessLife       = 3599 * time.Second  // of an access token; Entra ID draws 60 to 90 minutes, and tells mostly this
	shortLife        = time.Minute         // with token_short, without seconds
	refreshLife      = 90 * 24 * time.Hour // of a refresh token that nobody uses
	maxRefreshTokens = 10_000              // a test runs a few accounts
	maxTokenForm     = 64 << 10            // an assertion with its chain is a few KiB

	// Entra ID's smart lockout: after that many wrong passwords for a minute. It does not count one and the same wrong
	// password again; here each counts, so that a test notices a client that tries again and again.
	lockAfter = 10
	lockTime  = time.Minute
)

// Grant types.
const (
	grantClient   = "client_credentials"
	grantPassword = "password"
	grantRefresh  = "refresh_token"
)

// tokenRequest is one request to the token service.
type tokenRequest struct {
	e                  *Tenant
	w                  http.ResponseWriter
	r                  *http.Request
	form               url.Values
	trace, correlation string

	// What errors name.
	tenant, client, grant, scope string
	resource                     string // that the scope is of
	parameter                    string // that is missing, or there twice
	proof                        proof  // the client assertion

	audience string   // the resource as it was asked for
	names    []string // of permissions of the resource
	strong   bool     // the app has proven itself by a certificate
}

// refreshGrant is what a refresh token stands for.
type refreshGrant struct {
	user    string
	expires time.Time
}

// readForm reads the form of a request; what is not one is an empty one.
func (q *tokenRequest) readForm() {
	q.form = url.Values{}
	if q.r.Method != http.MethodPost {
		return
	}
	q.r.Body = http.MaxBytesReader(q.w, q.r.Body, maxTokenForm)
	if q.r.ParseForm() != nil {
		return
	}
	q.form = q.r.PostForm
	q.client, q.grant, q.scope = q.form.Get("client_id"), q.form.Get("grant_type"), q.form.Get("scope")
}

// countedGrant is the grant type as it is counted; clients do not name the counters.
func (q *tokenRequest) countedGrant() string {
	if q.grantKnown() {
		return q.grant
	}
	return "other"
}

func (q *tokenRequest) grantKnown() bool {
	return q.grant == grantClient || q.grant == grantPassword || q.grant == grantRefresh
}

// tokenAnswer is the body of an answer with a token (RFC 6749, 5.1).
type tokenAnswer struct {
	Type         string `json:"token_type"`
	Scope        string `json:"scope,omitempty"`
	ExpiresIn    int    `json:"expires_in"`
	ExtExpiresIn int    `json:"ext_expires_in"`
	RefreshIn    int    `json:"refresh_in,omitempty"`
	AccessToken  string `json:"access_token"`
	RefreshToken string `json:"refresh_token,omitempty"`
	IDToken      string `json:"id_token,omitempty"`
	ClientInfo   string `json:"client_info,omitempty"`
}

// serve answers a request to the token endpoint.
func (q *tokenRequest) serve() {
	token, code := q.answer()
	q.e.mu.Lock()
	if code == 0 {
		q.e.issued++
	} else {
		q.e.refused++
	}
	q.e.mu.Unlock()
	if code != 0 {
		q.refuse(code)
		return
	}
	answer.JSON(q.w, http.StatusOK, token)
}

// answer is a token, or the code of the error.
func (q *tokenRequest) answer() (*tokenAnswer, int) {
	if code := q.wellFormed(); code != 0 {
		return nil, code
	}
	if f, ok := q.e.faults.Hit(tokenRefused, "", ""); ok {
		row, known := findAADSTS(f.Reason)
		if !known {
			return nil, aadstsTransient
		}
		return nil, row.code
	}
	if q.client != q.e.clientID {
		return nil, aadstsAppNotFound
	}
	if code := q.authenticateApp(); code != 0 {
		return nil, code
	}
	if code := q.readScope(); code != 0 {
		return nil, code
	}
	switch q.grant {
	case grantPassword:
		return q.byPassword()
	case grantRefresh:
		return q.byRefreshToken()
	}
	return q.forApp(), 0
}

// wellFormed checks what does not depend on the app.
func (q *tokenRequest) wellFormed() int {
	if q.r.Method != http.MethodPost {
		return aadstsNotPost
	}
	for _, name := range slices.Sorted(maps.Keys(q.form)) {
		if q.parameter = name; len(q.form[name]) > 1 {
			return aadstsParameterTwice
		}
	}
	needed := []string{"grant_type", "client_id", "scope"}
	switch q.grant {
	case grantPassword:
		needed = append(needed, "username", "password")
	case grantRefresh:
		needed = append(needed, "refresh_token")
	}
	for _, name := range needed {
		if q.parameter = name; q.form.Get(name) == "" {
			return aadstsParameterMissing
		}
	}
	switch low := strings.ToLower(q.tenant); {
	case !q.grantKnown():
		return aadstsGrantUnsupported
	case low == anyTenant || low == anyConsumer || low == anyOrganization && q.grant == grantClient:
		return aadstsGrantNeedsTenant
	case low != anyOrganization && !q.e.knows(q.tenant):
		return aadstsTenantNotFound
	}
	return 0
}

// authenticateApp checks the secret or the assertion, which a public client may leave out.
func (q *tokenRequest) authenticateApp() int {
	secret, assertion := q.form.Get("client_secret"), q.form.Get("client_assertion")
	switch {
	case assertion != "":
		q.strong = true
		return q.checkAssertion(assertion)
	case secret != "":
		return q.checkSecret(secret)
	case q.grant == grantClient:
		return aadstsCredentialMissing
	case !q.e.public:
		return aadstsPublicNotAllowed
	}
	return 0
}

func (q *tokenRequest) checkSecret(secret string) int {
	now := q.e.clock.Now()
	q.e.mu.Lock()
	defer q.e.mu.Unlock()
	code := aadstsSecretWrong
	for _, s := range q.e.secrets {
		if subtle.ConstantTimeCompare([]byte(s.Value), []byte(secret)) != 1 {
			continue
		}
		if s.Expires.IsZero() || now.Before(s.Expires) {
			return 0
		}
		code = aadstsSecretExpired
	}
	return code
}

// sessionScopes are about the user and the session, not about a resource.
var sessionScopes = []string{"openid", "profile", "email", "offline_access"}

// readScope takes the resource and the names of its permissions from the scope. A name without a resource is Microsoft
// Graph's.
func (q *tokenRequest) readScope() int {
	for s := range strings.FieldsSeq(q.scope) {
		if slices.Contains(sessionScopes, strings.ToLower(s)) {
			continue
		}
		audience, name := graphName, s
		if i := strings.LastIndexByte(s, '/'); i >= 0 {
			audience, name = s[:i], s[i+1:]
		}
		if q.audience != "" && audience != q.audience {
			return aadstsScopeInvalid // of two resources
		}
		q.audience, q.names = audience, append(q.names, name)
	}
	q.resource = q.audience
	onlyDefault := len(q.names) == 1 && q.names[0] == ".default"
	switch resource := q.e.resourceOf(q.audience); {
	case q.grant == grantClient && !onlyDefault:
		return aadstsScopeNotDefault
	case q.audience == "":
		return aadstsScopeInvalid
	case resource == "":
		return aadstsResourceNotFound
	case onlyDefault:
		return 0
	case resource != exchangeAppID || slices.ContainsFunc(q.names, func(n string) bool { return n != scopeEWS }):
		return aadstsScopeInvalid
	}
	return 0
}

// resourceOf is the app id of the resource that goes by a name; empty: there is none. A scope that ends in //.default names
// the resource with a slash, and its token has that in aud.
func (e *Tenant) resourceOf(name string) string {
	name = strings.TrimSuffix(name, "/")
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, r := range e.resources {
		if strings.EqualFold(r.appID, name) || slices.ContainsFunc(r.names, func(n string) bool { return strings.EqualFold(n, name) }) {
			return r.appID
		}
	}
	return ""
}

// accessClaims of an access token, version 1.0, as the resources of Office 365 ask for.
type accessClaims struct {
	Audience string   `json:"aud"`
	Issuer   string   `json:"iss"`
	IssuedAt int64    `json:"iat"`
	From     int64    `json:"nbf"`
	Until    int64    `json:"exp"`
	AppID    string   `json:"appid"`
	Strength string   `json:"appidacr"` // how the app proved itself: 0 not, 1 by a secret, 2 by a certificate
	Methods  []string `json:"amr,omitempty"`
	Object   string   `json:"oid"`
	Roles    []string `json:"roles,omitempty"`
	Scopes   string   `json:"scp,omitempty"`
	Subject  string   `json:"sub"`
	Tenant   string   `json:"tid"`
	UPN      string   `json:"upn,omitempty"`
	Unique   string   `json:"unique_name,omitempty"`
	ID       string   `json:"uti"`
	Version  string   `json:"ver"`
}

// forApp is a token that stands for the app alone.
func (q *tokenRequest) forApp() *tokenAnswer {
	c := accessClaims{Object: q.e.clientID, Subject: q.e.clientID}
	switch q.e.resourceOf(q.audience) {
	case exchangeAppID:
		if q.e.fullAccess {
			c.Roles = []string{roleFullAccess}
		}
	case graphAppID:
		c.Roles = q.e.graphRoles
	}
	return q.issue(c)
}

// byPassword signs a user in.
func (q *tokenRequest) byPassword() (*tokenAnswer, int) {
	account, code := q.signIn(normal(q.form.Get("username")), q.form.Get("password"))
	if code != 0 {
		return nil, code
	}
	return q.forUser(account)
}

// signIn checks a password in Entra ID's order: only a caller with the right password learns what is wrong with the account.
func (q *tokenRequest) signIn(user, password string) (account, int) {
	e, now := q.e, q.e.clock.Now()
	e.mu.Lock()
	defer e.mu.Unlock()
	_, domain, _ := strings.Cut(user, "@")
	a := e.accounts[user]
	switch {
	case a == nil || !slices.Contains(e.domains, domain):
		return account{}, aadstsUserUnknown
	case a.Locked || now.Before(a.lockedUntil):
		return account{}, aadstsUserLocked
	case subtle.ConstantTimeCompare([]byte(password), []byte(a.Password)) != 1:
		if a.wrong++; a.wrong >= lockAfter {
			a.lockedUntil = now.Add(lockTime) // and again with the next wrong one
		}
		return account{}, aadstsWrongPassword
	}
	a.wrong = 0
	return *a, 0
}

// byRefreshToken continues a session.
func (q *tokenRequest) byRefreshToken() (*tokenAnswer, int) {
	e, now := q.e, q.e.clock.Now()
	e.mu.Lock()
	grant, known := e.refreshTokens[q.form.Get("refresh_token")]
	a := e.accounts[grant.user]
	e.mu.Unlock()
	switch {
	case !known || a == nil:
		return nil, aadstsRefreshTokenInvalid
	case !now.Before(grant.expires):
		return nil, aadstsRefreshTokenExpired
	}
	return q.forUser(*a)
}

// forUser is a token that stands for a user by way of the app.
func (q *tokenRequest) forUser(a account) (*tokenAnswer, int) {
	e := q.e
	switch {
	case a.Disabled:
		return nil, aadstsUserDisabled
	case a.MFA:
		return nil, aadstsSecondFactor
	case !e.consent || e.resourceOf(q.audience) != exchangeAppID:
		return nil, aadstsNoConsent
	}
	answer := q.issue(accessClaims{
		Object: a.id.String(), Subject: a.id.String(), UPN: a.Address, Unique: a.Address, Scopes: scopeEWS, Methods: []string{"pwd"},
	})
	scopes := strings.Fields(strings.ToLower(q.scope))
	answer.Scope = strings.TrimSuffix(q.audience, "/") + "/" + scopeEWS
	for _, s := range []string{"openid", "profile"} {
		if slices.Contains(scopes, s) {
			answer.Scope += " " + s
		}
	}
	now := e.clock.Now()
	if slices.Contains(scopes, "openid") {
		answer.IDToken = e.sign(map[string]any{
			"ver": "2.0", "iss": "https://" + q.r.Host + "/" + e.tenant + "/v2.0", "sub": a.id.String(), "aud": e.clientID,
			"iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(accessLife).Unix(),
			"name": a.Address, "preferred_username": a.Address, "oid": a.id.String(), "tid": e.tenant,
		})
	}
	if q.form.Get("client_info") == "1" {
		answer.ClientInfo = encodeJSON(map[string]string{"uid": a.id.String(), "utid": e.tenant})
	}
	if slices.Contains(scopes, "offline_access") {
		answer.RefreshToken = e.newRefreshToken(refreshGrant{a.Address, now.Add(refreshLife)})
	}
	return answer, 0
}

// newRefreshToken keeps a grant; empty: there is no room for it.
func (e *Tenant) newRefreshToken(g refreshGrant) string {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.refreshTokens) >= maxRefreshTokens {
		return ""
	}
	token := "0.A" + rand.Text() + rand.Text()
	e.refreshTokens[token] = g
	return token
}

// issue completes an access token and signs it.
func (q *tokenRequest) issue(c accessClaims) *tokenAnswer {
	e, life := q.e, accessLife
	if f, ok := e.faults.Hit(tokenShort, "", ""); ok {
		if life = shortLife; f.Seconds > 0 {
			life = max(f.Duration(), time.Second)
		}
	}
	now := e.clock.Now().Truncate(time.Second)
	c.Audience, c.Issuer, c.AppID, c.Tenant, c.Version = q.audience, "https://sts.windows.net/"+e.tenant+"/", e.clientID, e.tenant, "1.0"
	c.IssuedAt, c.From, c.Until = now.Unix(), now.Unix(), now.Add(life).Unix()
	switch {
	case q.strong:
		c.Strength = "2"
	case q.form.Get("client_secret") != "":
		c.Strength = "1"
	default:
		c.Strength = "0"
	}
	e.mu.Lock()
	c.ID = newTokenID(e.generation)
	e.mu.Unlock()
	whole := int(life / time.Second)
	return &tokenAnswer{Type: "Bearer", ExpiresIn: whole, ExtExpiresIn: whole, RefreshIn: int(min(e.refreshIn, life) / time.Second), AccessToken: e.sign(c)}
}

// notifierAppID is the app of Microsoft that posts change notifications.
const notifierAppID = "0bf30f3b-4a52-48df-9a82-234910c4a086"

// Validation is a validation token that was issued some time ago: with it Microsoft Graph proves to an app that it posts a notification
// with content. The token is no access token.
func (e *Tenant) Validation(app string, ago time.Duration) string {
	now := e.clock.Now().Add(-ago).Truncate(time.Second)
	return e.sign(map[string]any{
		"aud": app, "iss": "https://sts.windows.net/" + e.tenant + "/", "iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(accessLife).Unix(),
		"appid": notifierAppID, "appidacr": "2", "idp": "https://sts.windows.net/" + e.tenant + "/", "oid": notifierAppID, "sub": notifierAppID,
		"tid": e.tenant, "ver": "1.0",
	})
}

// newTokenID returns an id that has the generation of the token in it, for this service only.
func newTokenID(generation uint32) string {
	var b [16]byte
	rand.Read(b[:])
	binary.BigEndian.PutUint32(b[:], generation)
	return base64.RawURLEncoding.EncodeToString(b[:])
}

func tokenGeneration(id string) (uint32, bool) {
	b, err := base64.RawURLEncoding.DecodeString(id)
	if err != nil || len(b) != 16 {
		return 0, false
	}
	return binary.BigEndian.Uint32(b), true
}

// sign makes a JSON Web Token (RFC 7519), RS256.
func (e *Tenant) sign(claims any) string {
	signed := encodeJSON(map[string]string{"typ": "JWT", "alg": "RS256", "x5t": e.keyID, "kid": e.keyID}) + "." + encodeJSON(claims)
	sum := sha256.Sum256([]byte(signed))
	signature, err := rsa.SignPKCS1v15(nil, e.key, crypto.SHA256, sum[:])
	if err != nil {
		panic(err) // only a key that is too short or inconsistent
	}
	return signed + "." + base64.RawURLEncoding.EncodeToString(signature)
}

func encodeJSON(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // only types of this file come here
	}
	return base64.RawURLEncoding.EncodeToString(b)
}
