// Package entra is the simulator's Microsoft Entra ID, like login.microsoftonline.com: one tenant with one app registration and its
// users, and the resources for which it issues access tokens.
//
//   - token.go: the token endpoint
//   - assertion.go: how an app proves its identity by a certificate
//   - bearer.go: how Exchange Online checks a token
//   - errors.go: the error codes
package entra

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"maps"
	"math/big"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/mailbell/mailbell/simulator/faults"
	"github.com/mailbell/mailbell/simulator/internal/answer"
	"github.com/mailbell/mailbell/simulator/internal/guid"
)

// Resources that the tenant knows, and what they grant.
const (
	exchangeAppID = "00000002-0000-0ff1-ce00-000000000000" // Office 365 Exchange Online
	graphAppID    = "00000003-0000-0000-c000-000000000000" // Microsoft Graph

	exchangeName = "https://outlook.office365.com"
	graphName    = "https://graph.microsoft.com"

	roleFullAccess = "full_access_as_app"   // an app's: every mailbox
	scopeEWS       = "EWS.AccessAsUser.All" // a user's: what the user may do
)

// MaxSecrets of the app, and as many certificates: Entra ID has a limit of that order too.
const MaxSecrets = 100

// User is an account of the tenant.
type User struct {
	Address  string `json:"address"` // user principal name and mail address
	Password string `json:"password"`
	MFA      bool   `json:"mfa"` // a second factor is asked for, which a password alone does not bring
	Disabled bool   `json:"disabled"`
	Locked   bool   `json:"locked"` // until it is set otherwise; too many wrong passwords lock for lockTime
}

// Secret is a client secret of the app.
type Secret struct {
	Value   string    `json:"secret"`
	Expires time.Time `json:"expires,omitzero"` // the zero time: never
}

// Options is what an Entra ID holds at first.
type Options struct {
	Tenant       string   // its GUID; empty: made up
	Domains      []string // verified ones, which name the tenant too
	ClientID     string   // of the app; empty: made up
	Secrets      []Secret
	Certificates []*x509.Certificate // the app's, with RSA keys
	GraphRoles   []string            // of the app at Microsoft Graph, by an administrator's consent
	FullAccess   bool                // the app has the role full_access_as_app, by an administrator's consent
	PublicClient bool                // "Allow public client flows"
	Consent      bool                // an administrator has consented to EWS.AccessAsUser.All, for everyone
	Users        []User

	RefreshIn time.Duration    // token answers tell refresh_in; 0: they do not
	Key       *rsa.PrivateKey  // signs the tokens; nil: made up, which takes its time
	Faults    *faults.Registry // nil: none
	Stop      <-chan struct{}  // ends what token_slow holds; may be nil
}

// Tenant is the token service. It starts nothing, and is safe for concurrent use.
type Tenant struct {
	tenant, clientID    string
	domains             []string
	fullAccess, public  bool
	graphRoles          []string
	consent             bool
	refreshIn           time.Duration
	key                 *rsa.PrivateKey
	keyID               string
	faults              *faults.Registry
	clock               faults.Clock
	stop                <-chan struct{}
	mu                  sync.Mutex
	secrets             []Secret
	certificates        []*x509.Certificate
	accounts            map[string]*account // by address
	resources           []resource
	assertions          map[string]time.Time // the ids of those seen, until they expire
	refreshTokens       map[string]refreshGrant
	generation          uint32 // of access tokens; those of earlier ones are revoked
	issued, refused     int
	requests, discovery map[string]int
}

// account is a user, and what the tenant remembers of failed sign-ins.
type account struct {
	User
	id          guid.GUID
	wrong       int // passwords in a row
	lockedUntil time.Time
}

// resource is an API that tokens are asked for, and the names that it goes by, without a slash at the end.
type resource struct {
	appID string
	names []string
}

// Counts is what was asked of a token service so far.
type Counts struct {
	Requests  map[string]int `json:"requests"`  // for tokens, by grant_type; those that a fault left without an answer too
	Issued    int            `json:"issued"`    // token requests that were answered with a token
	Refused   int            `json:"refused"`   // and with an error
	Discovery map[string]int `json:"discovery"` // the rest: instance, configuration, keys, realm
}

// New makes an Entra ID. The error is of the random source.
func New(o Options) (*Tenant, error) {
	e := &Tenant{
		tenant: o.Tenant, clientID: o.ClientID, fullAccess: o.FullAccess, public: o.PublicClient, consent: o.Consent,
		graphRoles: o.GraphRoles, refreshIn: o.RefreshIn, key: o.Key, faults: o.Faults, stop: o.Stop,
		secrets: slices.Clone(o.Secrets), certificates: slices.Clone(o.Certificates), accounts: map[string]*account{},
		resources:  []resource{{exchangeAppID, []string{exchangeName, "https://outlook.office.com"}}, {graphAppID, []string{graphName}}},
		assertions: map[string]time.Time{}, refreshTokens: map[string]refreshGrant{}, requests: map[string]int{}, discovery: map[string]int{},
	}
	if e.tenant == "" {
		e.tenant = guid.New().String()
	}
	if e.clientID == "" {
		e.clientID = guid.New().String()
	}
	for _, d := range o.Domains {
		e.domains = append(e.domains, strings.ToLower(d))
	}
	if e.faults == nil {
		e.faults = faults.New(Faults()...)
	}
	e.faults.AtOnce(tokensRevoked, func(*faults.Cases) bool {
		e.revoke()
		return true
	})
	e.clock = faults.Clock{Faults: e.faults}
	for _, u := range o.Users {
		e.SetUser(u)
	}
	if e.key == nil {
		var err error
		if e.key, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
			return nil, err
		}
	}
	id := sha256.Sum256(x509.MarshalPKCS1PublicKey(&e.key.PublicKey))
	e.keyID = base64.RawURLEncoding.EncodeToString(id[:20]) // Entra's have that length
	return e, nil
}

// ID is the tenant's GUID.
func (e *Tenant) ID() string { return e.tenant }

// ClientID is the app's.
func (e *Tenant) ClientID() string { return e.clientID }

// AddResource gives Exchange Online a further name that tokens are asked for by: the URL of its host, without a path.
func (e *Tenant) AddResource(name string) {
	e.nameResource(exchangeAppID, name)
}

// AddGraph gives Microsoft Graph a further name, as AddResource does for Exchange Online.
func (e *Tenant) AddGraph(name string) { e.nameResource(graphAppID, name) }

func (e *Tenant) nameResource(appID, name string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for i := range e.resources {
		if r := &e.resources[i]; r.appID == appID {
			r.names = append(r.names, strings.TrimRight(name, "/"))
		}
	}
}

// AddSecret gives the app a further client secret, or another expiry to one that it has. It reports whether there is room.
func (e *Tenant) AddSecret(s Secret) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.secrets = slices.DeleteFunc(e.secrets, func(old Secret) bool { return old.Value == s.Value })
	if len(e.secrets) >= MaxSecrets {
		return false
	}
	e.secrets = append(e.secrets, s)
	return true
}

// RemoveSecret takes a client secret away, and reports whether the app had it.
func (e *Tenant) RemoveSecret(value string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	before := len(e.secrets)
	e.secrets = slices.DeleteFunc(e.secrets, func(s Secret) bool { return s.Value == value })
	return len(e.secrets) < before
}

// AddCertificate gives the app a further certificate. It reports whether it can: there is room, and the key is an RSA key.
func (e *Tenant) AddCertificate(c *x509.Certificate) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if _, ok := c.PublicKey.(*rsa.PublicKey); !ok || len(e.certificates) >= MaxSecrets {
		return false
	}
	e.certificates = append(e.certificates, c)
	return true
}

// RemoveCertificate takes a certificate away, and reports whether the app had it.
func (e *Tenant) RemoveCertificate(c *x509.Certificate) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	before := len(e.certificates)
	e.certificates = slices.DeleteFunc(e.certificates, c.Equal)
	return len(e.certificates) < before
}

// SetUser makes an account, or changes the one of that address. Wrong passwords are forgotten, and refresh tokens void.
func (e *Tenant) SetUser(u User) {
	u.Address = normal(u.Address)
	e.mu.Lock()
	defer e.mu.Unlock()
	id := guid.New()
	if old := e.accounts[u.Address]; old != nil {
		id = old.id
	}
	e.accounts[u.Address] = &account{User: u, id: id}
	maps.DeleteFunc(e.refreshTokens, func(_ string, g refreshGrant) bool { return g.user == u.Address })
}

// RemoveUser removes the account of that address, if there is one. Its access tokens stay valid for as long as they last.
func (e *Tenant) RemoveUser(address string) {
	address = normal(address)
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.accounts, address)
	maps.DeleteFunc(e.refreshTokens, func(_ string, g refreshGrant) bool { return g.user == address })
}

// revoke has check refuse every access token that has been issued so far.
func (e *Tenant) revoke() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.generation++
}

// Count tells what was asked so far.
func (e *Tenant) Count() Counts {
	e.mu.Lock()
	defer e.mu.Unlock()
	return Counts{maps.Clone(e.requests), e.issued, e.refused, maps.Clone(e.discovery)}
}

// Routes of the token service, for the counts.
const (
	routeToken    = "token"
	routeInstance = "instance"
	routeConfig   = "configuration"
	routeKeys     = "keys"
	routeRealm    = "realm"
)

// route splits the path of a request. What follows the tenant is compared without case, as Entra ID does.
func route(path string) (name, tenant, rest string) {
	tenant, rest, _ = strings.Cut(strings.TrimPrefix(path, "/"), "/")
	first, user, _ := strings.Cut(rest, "/")
	switch low := strings.ToLower(rest); {
	case low == "oauth2/v2.0/token":
		return routeToken, tenant, ""
	case low == "v2.0/.well-known/openid-configuration":
		return routeConfig, tenant, ""
	case low == "discovery/v2.0/keys":
		return routeKeys, tenant, ""
	case low == "discovery/instance" && strings.EqualFold(tenant, "common"):
		return routeInstance, tenant, ""
	case strings.EqualFold(first, "userrealm") && strings.EqualFold(tenant, "common"):
		return routeRealm, tenant, user
	}
	return "", "", ""
}

// ServeHTTP answers everything on the listener of the token service.
func (e *Tenant) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name, tenant, user := route(r.URL.Path)
	q := &tokenRequest{e: e, w: w, r: r, tenant: tenant, trace: guid.New().String(), correlation: correlationID(r)}
	h := w.Header()
	h.Set("Date", e.clock.HTTPDate())
	h.Set("Cache-Control", "no-store, no-cache")
	h.Set("Pragma", "no-cache")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("x-ms-request-id", q.trace)
	if strings.EqualFold(r.Header.Get("return-client-request-id"), "true") {
		h.Set("client-request-id", q.correlation)
	}
	if name == "" {
		http.NotFound(w, r)
		return
	}
	q.readForm()
	e.mu.Lock()
	if name == routeToken {
		e.requests[q.countedGrant()]++
	} else {
		e.discovery[name]++
	}
	e.mu.Unlock()
	if !e.reachable(w, r) {
		return
	}
	switch name {
	case routeToken:
		q.serve()
	case routeInstance:
		e.serveInstance(q)
	case routeConfig:
		e.serveConfiguration(q)
	case routeKeys:
		e.serveKeys(q)
	case routeRealm:
		e.serveRealm(w, user)
	}
}

// correlationID is the client's, if it is a GUID.
func correlationID(r *http.Request) string {
	if id := strings.ToLower(r.Header.Get("client-request-id")); guid.Valid(id) && id != "" {
		return id
	}
	return guid.New().String()
}

// reachable acts on the faults of the service as a whole, and reports whether the request gets an answer.
func (e *Tenant) reachable(w http.ResponseWriter, r *http.Request) bool {
	if f, ok := e.faults.Hit(tokenSlow, "", ""); ok {
		var answer <-chan time.Time // without seconds: never
		if f.Seconds > 0 {
			timer := time.NewTimer(f.Duration())
			defer timer.Stop()
			answer = timer.C
		}
		select {
		case <-answer:
		case <-r.Context().Done():
			return false
		case <-e.stop:
			return false
		}
	}
	f, ok := e.faults.Hit(tokenAway, "", "")
	switch {
	case !ok:
		return true
	case f.Status == 0:
		panic(http.ErrAbortHandler) // the connection is closed without an answer
	case f.Status == http.StatusServiceUnavailable || f.Status == http.StatusTooManyRequests:
		w.Header().Set("Retry-After", strconv.Itoa(int(max(f.Seconds, 1))))
	}
	w.WriteHeader(f.Status)
	return false
}

// Endpoints that stand for more than one tenant.
const (
	anyTenant        = "common"
	anyOrganization  = "organizations"
	anyConsumer      = "consumers"
	cloudInstance    = "microsoftonline.com"
	federationURN    = "urn:federation:MicrosoftOnline"
	managedRealm     = "Managed"
	unknownRealm     = "Unknown"
	realmVersion     = "1.0"
	instanceVersion  = "1.1"
	tenantIDTemplate = "{tenantid}"
)

// knows reports whether a name is one of the tenant's.
func (e *Tenant) knows(tenant string) bool {
	return strings.EqualFold(tenant, e.tenant) || slices.Contains(e.domains, strings.ToLower(tenant))
}

// serveConfiguration answers the OpenID Connect metadata (OpenID Connect Discovery 1.0), in which the tenant is its GUID
// whichever name was asked for.
func (e *Tenant) serveConfiguration(q *tokenRequest) {
	inPath, inIssuer := e.tenant, e.tenant
	switch strings.ToLower(q.tenant) {
	case anyTenant, anyOrganization, anyConsumer:
		inPath, inIssuer = strings.ToLower(q.tenant), tenantIDTemplate
	default:
		if !e.knows(q.tenant) {
			q.refuseAs(aadstsTenantNotFound, "invalid_tenant")
			return
		}
	}
	base := "https://" + q.r.Host + "/"
	answer.JSON(q.w, http.StatusOK, map[string]any{
		"token_endpoint":                        base + inPath + "/oauth2/v2.0/token",
		"token_endpoint_auth_methods_supported": []string{"client_secret_post", "private_key_jwt", "client_secret_basic", "self_signed_tls_client_auth"},
		"jwks_uri":                              base + inPath + "/discovery/v2.0/keys",
		"response_modes_supported":              []string{"query", "fragment", "form_post"},
		"subject_types_supported":               []string{"pairwise"},
		"id_token_signing_alg_values_supported": []string{"RS256"},
		"response_types_supported":              []string{"code", "id_token", "code id_token", "id_token token"},
		"scopes_supported":                      []string{"openid", "profile", "email", "offline_access"},
		"issuer":                                base + inIssuer + "/v2.0",
		"authorization_endpoint":                base + inPath + "/oauth2/v2.0/authorize",
		"tenant_region_scope":                   "EU",
		"cloud_instance_name":                   cloudInstance,
	})
}

// serveInstance answers which hosts are one cloud: this one is a cloud of its own.
func (e *Tenant) serveInstance(q *tokenRequest) {
	query := q.r.URL.Query()
	authorize, err := url.Parse(query.Get("authorization_endpoint"))
	if err != nil || authorize.Scheme != "https" || !strings.EqualFold(authorize.Host, q.r.Host) {
		q.refuse(aadstsUnknownInstance)
		return
	}
	tenant, _, _ := strings.Cut(strings.TrimPrefix(authorize.Path, "/"), "/")
	answer.JSON(q.w, http.StatusOK, map[string]any{
		"tenant_discovery_endpoint": "https://" + q.r.Host + "/" + url.PathEscape(tenant) + "/v2.0/.well-known/openid-configuration",
		"api-version":               instanceVersion,
		"metadata": []map[string]any{
			{"preferred_network": q.r.Host, "preferred_cache": q.r.Host, "aliases": []string{q.r.Host}},
		},
	})
}

// serveKeys answers the key that tokens are signed with (RFC 7517).
func (e *Tenant) serveKeys(q *tokenRequest) {
	exponent := big.NewInt(int64(e.key.E)).Bytes()
	answer.JSON(q.w, http.StatusOK, map[string]any{"keys": []map[string]any{{
		"kty": "RSA", "use": "sig", "kid": e.keyID, "x5t": e.keyID, "issuer": "https://" + q.r.Host + "/" + e.tenant + "/v2.0",
		"n": base64.RawURLEncoding.EncodeToString(e.key.N.Bytes()), "e": base64.RawURLEncoding.EncodeToString(exponent),
	}}})
}

// serveRealm answers who checks the passwords of a user's domain: Entra ID itself, or nobody known.
func (e *Tenant) serveRealm(w http.ResponseWriter, user string) {
	realm := map[string]any{"ver": realmVersion, "account_type": unknownRealm, "cloud_instance_name": cloudInstance, "cloud_audience_urn": federationURN}
	if _, domain, _ := strings.Cut(normal(user), "@"); slices.Contains(e.domains, domain) {
		realm["account_type"], realm["domain_name"] = managedRealm, domain
	}
	answer.JSON(w, http.StatusOK, realm)
}

// normal is the form in which addresses are compared.
func normal(address string) string { return strings.ToLower(strings.TrimSpace(address)) }
