package entra

// The errors of Entra ID: its codes, AADSTS and a number, with the texts, HTTP statuses and OAuth errors (RFC 6749, 5.2) that
// they come with. The source is Microsoft's "Microsoft Entra authentication and authorization error codes", and answers of the
// real service as they are quoted in public.

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/mailbell/mailbell/simulator/internal/answer"
)

// Codes of the token service.
const (
	aadstsAssertionReplayed   = 50013
	aadstsAssertionMalformed  = 50027
	aadstsUserUnknown         = 50034
	aadstsUnknownInstance     = 50049
	aadstsUserLocked          = 50053
	aadstsUserDisabled        = 50057
	aadstsSecondFactor        = 50076
	aadstsWrongPassword       = 50126
	aadstsNoConsent           = 65001
	aadstsGrantUnsupported    = 70003
	aadstsRefreshTokenInvalid = 70000
	aadstsRefreshTokenExpired = 70008
	aadstsScopeInvalid        = 70011
	aadstsTenantNotFound      = 90002
	aadstsTransient           = 90033
	aadstsResourceNotFound    = 500011
	aadstsAppNotFound         = 700016
	aadstsAssertionApp        = 700021
	aadstsAssertionAudience   = 700023
	aadstsAssertionTime       = 700024
	aadstsAssertionSignature  = 700027
	aadstsParameterMissing    = 900144
	aadstsNotPost             = 900561
	aadstsScopeNotDefault     = 1002012
	aadstsSecretWrong         = 7000215
	aadstsCredentialMissing   = 7000216
	aadstsPublicNotAllowed    = 7000218
	aadstsSecretExpired       = 7000222
	aadstsGrantNeedsTenant    = 9001023
	aadstsParameterTwice      = 9000411
)

// aadsts is a row of the table.
type aadsts struct {
	code   int
	status int    // HTTP
	oauth  string // error
	sub    string // suberror; mostly none
	text   string // with {tenant}, {app} and so on, which are the request's
}

// aadstsTable has every error of the token service.
var aadstsTable = []aadsts{
	// Entra ID keeps no public code for an assertion that comes a second time; this one is for assertions that are invalid
	// for various reasons.
	{aadstsAssertionReplayed, http.StatusUnauthorized, "invalid_client", "", "Assertion is invalid because of various reasons: the assertion with this jti has been presented before."},
	{aadstsAssertionMalformed, http.StatusBadRequest, "invalid_request", "", "JWT token is invalid or malformed."},
	{aadstsUserUnknown, http.StatusBadRequest, "invalid_grant", "", "The user account {EmailHidden} does not exist in the {tenant} directory. To sign into this application, the account must be added to the directory."},
	{aadstsUnknownInstance, http.StatusBadRequest, "invalid_instance", "", "Unknown or invalid instance."},
	{aadstsUserLocked, http.StatusBadRequest, "invalid_grant", "", "The account is locked, you've tried to sign in too many times with an incorrect user ID or password."},
	{aadstsUserDisabled, http.StatusBadRequest, "invalid_grant", "", "The user account is disabled."},
	{aadstsSecondFactor, http.StatusBadRequest, "invalid_grant", "basic_action", "Due to a configuration change made by your administrator, or because you moved to a new location, you must use multi-factor authentication to access '{resource}'."},
	{aadstsWrongPassword, http.StatusBadRequest, "invalid_grant", "", "Error validating credentials due to invalid username or password."},
	{aadstsNoConsent, http.StatusBadRequest, "invalid_grant", "consent_required", "The user or administrator has not consented to use the application with ID '{app}' named 'mailbell'. Send an interactive authorization request for this user and resource."},
	{aadstsRefreshTokenInvalid, http.StatusBadRequest, "invalid_grant", "", "The provided value for the 'refresh_token' parameter is not valid."},
	{aadstsGrantUnsupported, http.StatusBadRequest, "unsupported_grant_type", "", "The app requested an unsupported grant type '{grant}'."},
	{aadstsRefreshTokenExpired, http.StatusBadRequest, "invalid_grant", "", "The provided authorization code or refresh token has expired due to inactivity. Send a new interactive authorization request for this user and resource."},
	{aadstsScopeInvalid, http.StatusBadRequest, "invalid_scope", "", "The provided request must include a 'scope' input parameter. The provided value for the input parameter 'scope' is not valid. The scope {scope} is not valid."},
	{aadstsTenantNotFound, http.StatusBadRequest, "invalid_request", "", "Tenant '{tenant}' not found. Check to make sure you have the correct tenant ID and are signing into the correct cloud. Check with your subscription administrator, this may happen if there are no active subscriptions for the tenant."},
	{aadstsTransient, http.StatusServiceUnavailable, "temporarily_unavailable", "", "A transient error has occurred. Please try again."},
	{aadstsResourceNotFound, http.StatusBadRequest, "invalid_resource", "", "The resource principal named {resource} was not found in the tenant named {tenant}. This can happen if the application has not been installed by the administrator of the tenant or consented to by any user in the tenant. You might have sent your authentication request to the wrong tenant."},
	{aadstsAppNotFound, http.StatusBadRequest, "unauthorized_client", "", "Application with identifier '{app}' was not found in the directory '{tenant}'. This can happen if the application has not been installed by the administrator of the tenant or consented to by any user in the tenant. You may have sent your authentication request to the wrong tenant."},
	{aadstsAssertionApp, http.StatusUnauthorized, "invalid_client", "", "Client assertion application identifier doesn't match 'client_id' parameter. Review the documentation at https://learn.microsoft.com/entra/identity-platform/certificate-credentials ."},
	{aadstsAssertionAudience, http.StatusUnauthorized, "invalid_client", "", "Client assertion audience claim does not match Realm issuer. Review the documentation at https://learn.microsoft.com/entra/identity-platform/certificate-credentials ."},
	{aadstsAssertionTime, http.StatusUnauthorized, "invalid_client", "", "Client assertion is not within its valid time range. Current time: {now}, assertion valid from {from}, expiry time of assertion {until}. Review the documentation at https://learn.microsoft.com/entra/identity-platform/certificate-credentials ."},
	{aadstsAssertionSignature, http.StatusUnauthorized, "invalid_client", "", "{why}, Thumbprint of key used by client: '{thumbprint}'{found}, Please visit the Azure Portal, Graph Explorer or directly use MS Graph to see configured keys for app Id '{app}'. Review the documentation at https://docs.microsoft.com/en-us/graph/deployments to determine the corresponding service endpoint and https://docs.microsoft.com/en-us/graph/api/application-get?view=graph-rest-1.0&tabs=http to build a query request URL, such as 'https://graph.microsoft.com/beta/applications/{app}']."},
	{aadstsParameterMissing, http.StatusBadRequest, "invalid_request", "", "The request body must contain the following parameter: '{parameter}'."},
	{aadstsNotPost, http.StatusBadRequest, "invalid_request", "", "The endpoint only accepts POST requests. Received a {method} request."},
	{aadstsScopeNotDefault, http.StatusBadRequest, "invalid_scope", "", "The provided value for scope {scope} is not valid. Client credential flows must have a scope value with /.default suffixed to the resource identifier (application ID URI)."},
	{aadstsSecretWrong, http.StatusUnauthorized, "invalid_client", "", "Invalid client secret provided. Ensure the secret being sent in the request is the client secret value, not the client secret ID, for a secret added to app '{app}'."},
	{aadstsCredentialMissing, http.StatusUnauthorized, "invalid_client", "", "'client_assertion', 'client_secret' or 'request' is required for the '{grant}' grant type."},
	{aadstsPublicNotAllowed, http.StatusUnauthorized, "invalid_client", "", "The request body must contain the following parameter: 'client_assertion' or 'client_secret'."},
	{aadstsSecretExpired, http.StatusUnauthorized, "invalid_client", "", "The provided client secret keys for app '{app}' are expired. Visit the Azure portal to create new keys for your app: https://aka.ms/NewClientSecret, or consider using certificate credentials for added security: https://aka.ms/certCreds."},
	{aadstsGrantNeedsTenant, http.StatusBadRequest, "invalid_request", "", "The grant type is not supported over the /common or /consumers endpoints. Please use the /organizations or tenant-specific endpoint."},
	{aadstsParameterTwice, http.StatusBadRequest, "invalid_request", "", "The request is not properly formatted. The parameter '{parameter}' is duplicated."},
}

// aadstsPrefix stands before the number in descriptions.
const aadstsPrefix = "AADSTS"

// findAADSTS is the row of a code as an error description begins with it, "AADSTS7000215", or of its number alone.
func findAADSTS(reason string) (aadsts, bool) {
	code, err := strconv.Atoi(strings.TrimPrefix(reason, aadstsPrefix))
	if err != nil {
		return aadsts{}, false
	}
	return aadstsOf(code)
}

func aadstsOf(code int) (aadsts, bool) {
	for _, row := range aadstsTable {
		if row.code == code {
			return row, true
		}
	}
	return aadsts{}, false
}

// Forms of times in errors.
const (
	aadstsTime    = "2006-01-02 15:04:05Z"
	aadstsInstant = "2006-01-02T15:04:05.0000000Z"
	aadstsKeyTime = "01/02/2006 15:04:05"
)

// refusal is the body of an answer that refuses.
type refusal struct {
	Error         string `json:"error"`
	Description   string `json:"error_description"`
	Codes         []int  `json:"error_codes"`
	Timestamp     string `json:"timestamp"`
	TraceID       string `json:"trace_id"`
	CorrelationID string `json:"correlation_id"`
	URI           string `json:"error_uri"`
	Suberror      string `json:"suberror,omitempty"`
}

// refuse answers an error.
func (q *tokenRequest) refuse(code int) { q.refuseAs(code, "") }

// refuseAs answers an error under another OAuth name than the token endpoint's.
func (q *tokenRequest) refuseAs(code int, oauth string) {
	row, _ := aadstsOf(code)
	if oauth == "" {
		oauth = row.oauth
	}
	now := q.e.clock.Now()
	text := strings.NewReplacer("{tenant}", q.tenant, "{app}", q.client, "{grant}", q.grant, "{scope}", q.scope, "{resource}", q.resource,
		"{parameter}", q.parameter, "{method}", q.r.Method, "{thumbprint}", q.proof.thumbprint, "{why}", q.proof.refusal(), "{found}", q.proof.found(),
		"{now}", now.Format(aadstsInstant), "{from}", assertionTime(q.proof.from), "{until}", assertionTime(q.proof.until)).Replace(row.text)
	at := now.Format(aadstsTime)
	answer.JSON(q.w, row.status, refusal{
		Error: oauth,
		Description: aadstsPrefix + strconv.Itoa(code) + ": " + text +
			" Trace ID: " + q.trace + " Correlation ID: " + q.correlation + " Timestamp: " + at,
		Codes: []int{code}, Timestamp: at, TraceID: q.trace, CorrelationID: q.correlation,
		URI: "https://" + q.r.Host + "/error?code=" + strconv.Itoa(code), Suberror: row.sub,
	})
}

func assertionTime(t time.Time) string { return t.UTC().Format(aadstsInstant) }
