package auth

// The errors of Entra ID: its AADSTS codes, explained.

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"

	"github.com/mailbell/mailbell/internal/backoff"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/proxy"
)

// maxCode bounds an error code of a token service; AADSTS50000000 is among the longest.
const maxCode = 40

// aadsts has the codes that administrators meet ("Microsoft Entra authentication and authorization error codes"): what is wrong, and what
// to do. It is never written to.
var aadsts = map[string]string{
	"AADSTS7000215": "the client secret is wrong: copy the secret's value, not its id; Entra ID shows it only once, so create a new one if it is lost",
	"AADSTS7000222": "the client secret has expired: make a new one in Entra ID, Certificates & secrets",
	"AADSTS7000216": "the app was asked to prove itself and did not: a client secret or certificate is needed",
	"AADSTS7000218": "the app does not allow public client flows: turn them on under Authentication, or use a client secret or certificate",
	"AADSTS7000112": "the app is disabled in the tenant: enable it under Enterprise applications",
	"AADSTS7000229": "the app has no service principal in the tenant: grant it admin consent",
	"AADSTS700016":  "the app is not in the tenant: check client_id and tenant_id",
	"AADSTS700027":  "the signature of the certificate is not accepted: upload the certificate to the app, or name the one that is uploaded",
	"AADSTS700024":  "the statement that the certificate signed is not within its time: is this machine's clock right?",
	"AADSTS700023":  "the statement that the certificate signed is for another audience: is the authority right?",
	"AADSTS70001":   "the app is not in the tenant, or is disabled: check client_id and tenant_id",
	"AADSTS70002":   "the app's credentials are wrong: check the client secret or the certificate",
	"AADSTS70011":   "the scope is not valid: is the URL of EWS or Graph, or the cloud, right?",
	"AADSTS1002012": "the scope is not valid: is the URL of EWS or Graph, or the cloud, right?",
	"AADSTS90002":   "the tenant does not exist in this cloud: check tenant_id and cloud",
	"AADSTS900023":  "the tenant is neither a GUID nor a domain of this cloud: check tenant_id",
	"AADSTS900021":  "the tenant is neither a GUID nor a domain of this cloud: check tenant_id",
	"AADSTS900382":  "the app is of another cloud than the tenant: check cloud",
	"AADSTS500011":  "Exchange is not known in the tenant under the name that the token was asked for: is the URL of EWS or Graph, or the cloud, right, and has the tenant Exchange Online or hybrid modern authentication?",
	"AADSTS50001":   "Exchange is not known in the tenant under the name that the token was asked for: is the URL of EWS or Graph, or the cloud, right?",
	"AADSTS50105":   "the account is not assigned to the app: assign it under Enterprise applications, Users and groups",
	"AADSTS501051":  "the app has no role of the one that it asks: grant it full_access_as_app for EWS, Mail.Read for Graph, or RBAC for Applications in Exchange",
	"AADSTS65001":   "an administrator has not consented to the app's permission EWS.AccessAsUser.All: grant admin consent",
	"AADSTS50126":   "the user name or password is wrong",
	"AADSTS50034":   "the user does not exist in the tenant: check username and tenant_id",
	"AADSTS50020":   "the user is of another tenant: check username and tenant_id",
	"AADSTS50053":   "the account is locked after too many sign-ins with a wrong password, or from a suspicious address: unlock it or wait",
	"AADSTS50055":   "the password has expired: set a new one",
	"AADSTS50056":   "the password is not known to Entra ID: is it a federated user, or is password hash synchronisation off?",
	"AADSTS50057":   "the account is disabled: enable it",
	"AADSTS50144":   "the password in Active Directory has expired: set a new one",
	"AADSTS50076":   "the sign-in requires multi-factor authentication, which a listener account cannot do: exclude it by a conditional access policy, or use a client secret or certificate",
	"AADSTS50079":   "the account has to register for multi-factor authentication, which a listener account cannot do: exclude it, or use a client secret or certificate",
	"AADSTS50158":   "the sign-in requires a further step, which a listener account cannot do: exclude it, or use a client secret or certificate",
	"AADSTS53000":   "conditional access demands a device that is managed: exclude the account or the app from that policy",
	"AADSTS53001":   "conditional access demands a device that is joined to a domain: exclude the account or the app from that policy",
	"AADSTS53003":   "a conditional access policy blocks the sign-in: allow the account or the app from this machine's address",
	"AADSTS530003":  "conditional access demands a device that is managed: exclude the account or the app from that policy",
	"AADSTS530004":  "conditional access demands a device that is managed: exclude the account or the app from that policy",
	"AADSTS90033":   "Entra ID is away for a moment",
	"AADSTS90024":   "Entra ID is away for a moment",
	"AADSTS50196":   "Entra ID has seen the same request too often",
	"AADSTS50097":   "a device that is known to the tenant is demanded: exclude the account or the app from that policy",
}

// temporary are the codes of errors that pass by themselves.
func temporary(code string) bool {
	switch code {
	case "AADSTS90033", "AADSTS90024", "AADSTS50196", "temporarily_unavailable", "server_error":
		return true
	}
	return false
}

// tokenRefusal types an answer of a token service with another status than 200. It shows a part of the answer, without secrets.
func tokenRefusal(status int, h http.Header, body []byte, secrets ...Secret) *fault.Error {
	code, said := parseRefusal(body)
	for _, s := range secrets {
		if s != "" {
			code, said = strings.ReplaceAll(code, string(s), s.String()), strings.ReplaceAll(said, string(s), s.String())
		}
	}
	e := &fault.Error{Op: opToken, Code: proxy.Printable(code, maxCode), Scope: fault.Account, Remedy: fault.Fix, Text: aadsts[code]}
	if code == "" {
		e.Code = "HTTP " + strconv.Itoa(status)
	}
	switch {
	case e.Text != "":
	case said != "":
		e.Text = "the token service says: " + proxy.Printable(said, maxServerText)
	default:
		e.Text = "the token service refuses without a reason"
	}
	switch {
	case status == http.StatusTooManyRequests, status >= http.StatusInternalServerError, status == http.StatusRequestTimeout, temporary(code):
		e.Remedy, e.After = fault.Wait, backoff.RetryAfter(h, maxRetryAfter)
		if code == "" {
			e.Text = "the token service is away: " + http.StatusText(status)
		}
	case status < http.StatusBadRequest, status == http.StatusNotFound && code == "":
		e.Text = "there is no token service: are cloud and tenant_id right?"
	}
	return e
}

// parseRefusal reads an error of OAuth (RFC 6749 section 5.2): Entra ID's own code, or OAuth's if there is none, and its description.
func parseRefusal(body []byte) (code, said string) {
	var answer struct {
		Error       string `json:"error"`
		Description string `json:"error_description"`
	}
	// A member of the wrong type stays empty.
	_ = json.Unmarshal(body, &answer)
	// AADSTS7000215: Invalid client secret provided. […]\r\nTrace ID: […]\r\nCorrelation ID: […]
	said, _, _ = strings.Cut(answer.Description, "Trace ID:")
	said = strings.TrimSpace(said)
	const prefix = "AADSTS"
	if rest, ok := strings.CutPrefix(said, prefix); ok {
		digits := len(rest) - len(strings.TrimLeft(rest, "0123456789"))
		if digits > 0 && digits <= maxCode-len(prefix) {
			return prefix + rest[:digits], strings.TrimSpace(strings.TrimPrefix(rest[digits:], ":"))
		}
	}
	return answer.Error, said
}
