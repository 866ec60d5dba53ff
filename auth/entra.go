package auth

// Tokens of Entra ID, through MSAL: for an app by its client secret or certificate, and for a listener account by its password.

import (
	"bytes"
	"context"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/AzureAD/microsoft-authentication-library-for-go/apps/cache"
	"github.com/AzureAD/microsoft-authentication-library-for-go/apps/confidential"
	"github.com/AzureAD/microsoft-authentication-library-for-go/apps/public"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/internal/hostname"
	"github.com/mailbell/mailbell/internal/pattern"
	"github.com/mailbell/mailbell/proxy"
)

const (
	// maxTokenAnswer bounds an answer of the token service; a token has a few KiB, the discovery document less.
	maxTokenAnswer = 1 << 20
	// allScopes asks for all permissions of the app at a resource (OAuth 2.0 client credentials at Entra ID).
	allScopes = "/.default"
	// userScope is the permission that a user signs in to EWS with.
	userScope = "/EWS.AccessAsUser.All"
)

// App is an app registration that signs in as itself (app-only), by the client credentials grant (RFC 6749 section 4.4), with either a
// client secret or a certificate (RFC 7523).
type App struct {
	Authority   string // of the cloud, as in https://login.microsoftonline.com
	Tenant      string // a GUID or a domain
	ClientID    string // the application id
	Scope       string // the resource's name and /.default, as in https://outlook.office365.com/.default
	Secret      Secret
	Certificate *tls.Certificate // with its RSA key, as internal/certificate reads it
	Outbound    proxy.Settings   // to the authority
}

// ListenerAccount is a user who signs in with only a password (RFC 6749 section 4.3) through an app that allows public client flows. Its
// failed sign-ins are limited. It cannot do multi-factor authentication. A user of a federated domain is refused, because the
// password would go to the federation's server.
type ListenerAccount struct {
	Authority string
	Tenant    string
	ClientID  string
	Scope     string // as in App; what is asked for is EWS.AccessAsUser.All of the resource
	Username  string // the user principal name
	Password  Secret
	Outbound  proxy.Settings
}

// NewApp returns the credential of an app. It makes no request. Its errors are about o itself.
func NewApp(o App) (Credential, error) {
	service, authority, err := newTokenService(o.Authority, o.Tenant, o.Outbound, o.Secret)
	if err != nil {
		return nil, err
	}
	if err := checkScope(o.Scope); err != nil {
		return nil, err
	}
	secret, err := o.credential()
	if err != nil {
		return nil, err
	}
	client, err := confidential.New(authority, o.ClientID, secret,
		confidential.WithHTTPClient(service),
		confidential.WithInstanceDiscovery(false),              // the authority is the configured one; nobody is asked whether it is one
		confidential.WithAzureRegion("DisableMsalForceRegion"), // nor from the environment
		confidential.WithCache(noCache{}),
	)
	if err != nil {
		return nil, fmt.Errorf("client_id or authority: %w", err)
	}
	fetch := func(ctx context.Context) (token, error) {
		got, err := client.AcquireTokenByCredential(ctx, []string{o.Scope})
		if err != nil {
			return token{}, expiredCertificate(service.explain(ctx, err), o.Certificate)
		}
		return token{got.AccessToken, got.ExpiresOn, got.Metadata.RefreshOn}, nil
	}
	return &oauth{tokens: newTokens(fetch), service: service}, nil
}

// credential makes MSAL's credential of a secret or a certificate.
func (o App) credential() (confidential.Credential, error) {
	switch {
	case (o.Secret == "") == (o.Certificate == nil):
		return confidential.Credential{}, errors.New("an app signs in with either a client secret or a certificate")
	case o.Certificate == nil:
		return confidential.NewCredFromSecret(string(o.Secret))
	}
	if _, ok := o.Certificate.PrivateKey.(*rsa.PrivateKey); !ok {
		return confidential.Credential{}, errors.New("the certificate's key is not RSA, and Entra ID accepts RSA only")
	}
	return confidential.NewCredFromCert([]*x509.Certificate{o.Certificate.Leaf}, o.Certificate.PrivateKey)
}

// NewListenerAccount returns the credential of a listener account. It makes no request. Its errors are about o itself.
func NewListenerAccount(o ListenerAccount) (Credential, error) {
	service, authority, err := newTokenService(o.Authority, o.Tenant, o.Outbound, o.Password)
	if err != nil {
		return nil, err
	}
	if err := checkScope(o.Scope); err != nil {
		return nil, err
	}
	if o.Username == "" || o.Password == "" {
		return nil, errors.New("a listener account needs a user name and a password")
	}
	scope := strings.TrimSuffix(o.Scope, allScopes) + userScope
	client, err := public.New(o.ClientID, public.WithAuthority(authority), public.WithHTTPClient(service), public.WithInstanceDiscovery(false), public.WithCache(noCache{}))
	if err != nil {
		return nil, fmt.Errorf("client_id or authority: %w", err)
	}
	tries := &lockout{}
	fetch := func(ctx context.Context) (token, error) {
		done, err := tries.enter(ctx)
		if err != nil {
			return token{}, err
		}
		//nolint:staticcheck // deprecated, as the whole grant is; some installations have nothing better
		got, err := client.AcquireTokenByUsernamePassword(ctx, []string{scope}, o.Username, string(o.Password))
		if err != nil {
			e := service.explain(ctx, err)
			switch e.Code {
			case "AADSTS50126", "AADSTS50053":
				done(refused)
			default:
				done(unanswered)
			}
			return token{}, e
		}
		done(accepted)
		return token{got.AccessToken, got.ExpiresOn, got.Metadata.RefreshOn}, nil
	}
	return &oauth{tokens: newTokens(fetch), service: service}, nil
}

// noCache empties MSAL's cache whenever MSAL reads it: the type tokens keeps the token, and a refused token must not come back.
type noCache struct{}

func (noCache) Replace(_ context.Context, c cache.Unmarshaler, _ cache.ReplaceHints) error {
	return c.Unmarshal([]byte("{}"))
}

func (noCache) Export(context.Context, cache.Marshaler, cache.ExportHints) error { return nil }

// expiredCertificate adds to a refusal that the certificate has expired, if it has.
func expiredCertificate(e *fault.Error, c *tls.Certificate) error {
	if c == nil || e.Remedy != fault.Fix || time.Now().Before(c.Leaf.NotAfter) {
		return e
	}
	told := *e
	told.Text = "the certificate expired on " + c.Leaf.NotAfter.UTC().Format(time.DateOnly) + ": create a new one; " + e.Text
	return &told
}

// tokenService is MSAL's HTTP client: it connects only to the authority's host, over https, bounds answers, and types errors, without any
// secret in them.
type tokenService struct {
	*http.Transport
	host    string // as the authority's URL has it, for messages
	address string // host:port
	secret  Secret
}

// newTokenService checks the authority and the tenant, and also returns their URL.
func newTokenService(authority, tenant string, out proxy.Settings, secret Secret) (*tokenService, string, error) {
	u, err := url.Parse(authority)
	if err != nil || u.Scheme != "https" || hostname.Of(u) == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" {
		return nil, "", errors.New("the authority has to be the URL of a token service without a path, as in https://login.microsoftonline.com")
	}
	// "common" and the like are for interactive sign-ins, and are neither a GUID nor a domain.
	if _, isDomain := hostname.ParseDomain(tenant); !isDomain && !pattern.GUID.Matches(tenant) {
		return nil, "", fmt.Errorf("want the tenant's GUID or one of its domains, as in contoso.onmicrosoft.com, got %q", proxy.Printable(tenant, maxServerText))
	}
	host := strings.ToLower(u.Host)
	return &tokenService{Transport: out.Transport(), host: host, address: hostname.Address(u), secret: secret}, "https://" + host + "/" + strings.ToLower(tenant), nil
}

func checkScope(scope string) error {
	u, err := url.Parse(scope)
	if err != nil || u.Host == "" || !strings.HasSuffix(u.Path, allScopes) {
		return errors.New("the scope has to be the URL of a host and " + allScopes + ", as in https://outlook.office365.com" + allScopes)
	}
	return nil
}

// Do implements MSAL's HTTPClient. It follows no redirect.
func (s *tokenService) Do(req *http.Request) (*http.Response, error) {
	if req.URL.Scheme != "https" || hostname.Address(req.URL) != s.address {
		closeBody(req)
		return nil, &fault.Error{Op: opToken, Code: "other host", Scope: fault.Account, Remedy: fault.Fix,
			Text: s.host + " names " + proxy.Printable(req.URL.Host, maxServerText) + " to sign in at, but mailbell sends credentials to the configured authority only; the user's domain is probably federated, which does not work with a listener account"}
	}
	resp, err := s.Transport.RoundTrip(req)
	if err != nil {
		return nil, &connError{err}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxTokenAnswer))
	if err != nil {
		return nil, &connError{err}
	}
	if resp.StatusCode != http.StatusOK {
		return nil, tokenRefusal(resp.StatusCode, resp.Header, body, s.secret)
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return resp, nil
}

// errUnknownRealm is MSAL's error for a user whose domain Entra ID does not know; it has no type.
const errUnknownRealm = "unknown account type"

// explain types an error of MSAL. It passes on nothing of MSAL's own errors, which may have the whole answer in them, with a token.
func (s *tokenService) explain(ctx context.Context, err error) *fault.Error {
	return s.explained(ctx, err).From(fault.TokenService)
}

func (s *tokenService) explained(ctx context.Context, err error) *fault.Error {
	if e, ok := errors.AsType[*fault.Error](err); ok {
		return account(e)
	}
	if ctx.Err() != nil {
		return &fault.Error{Op: opToken, Code: proxy.CodeTimeout, Scope: fault.Account, Remedy: fault.Wait,
			Text: "no answer of the token service " + s.host + " in time", Err: ctx.Err()}
	}
	if e, ok := errors.AsType[*connError](err); ok {
		return account(proxy.Explain(opToken, e.error))
	}
	e := &fault.Error{Op: opToken, Code: "token service", Scope: fault.Account, Remedy: fault.Wait,
		Text: "the answer of " + s.host + " cannot be parsed: is it Entra ID, and does it have the tenant?"}
	if err.Error() == errUnknownRealm {
		e.Remedy, e.Text = fault.Fix, "the domain of the user name is not known to "+s.host+": check username"
	}
	return e
}

// account returns e as an error that concerns the account only: if the token service cannot be reached, that is no fault of the Exchange
// server.
func account(e *fault.Error) *fault.Error {
	told := *e
	told.Scope = fault.Account
	return &told
}

// connError is an error of the connection to the token service, as opposed to one of MSAL's.
type connError struct{ error }

func (e *connError) Unwrap() error { return e.error }
