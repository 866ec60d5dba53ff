package auth

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/mailbell/mailbell/internal/fault"
)

// entraSays is an answer as Entra ID gives it.
func entraSays(code int, oauth, text string) string {
	return fmt.Sprintf(`{"error":%q,"error_description":"AADSTS%d: %s Trace ID: 0000aaaa-11bb-cccc-dd22-eeeeee333300 Correlation ID: aaaa0000-bb11-2222-33cc-444444dddddd Timestamp: 2026-11-20 10:00:00Z","error_codes":[%d],"timestamp":"2026-11-20 10:00:00Z","trace_id":"0000aaaa-11bb-cccc-dd22-eeeeee333300"}`, oauth, code, text, code)
}

func TestWhatATokenServiceRefusesIsSaidInWords(t *testing.T) {
	for _, c := range []struct {
		name   string
		status int
		header http.Header
		body   string
		code   string
		remedy fault.Remedy
		text   string
		after  time.Duration
	}{
		{"a wrong secret", 401, nil, entraSays(7000215, "invalid_client", "Invalid client secret provided."), "AADSTS7000215", fault.Fix, "copy the secret's value, not its id", 0},
		{"an expired secret", 401, nil, entraSays(7000222, "invalid_client", "The provided client secret keys are expired."), "AADSTS7000222", fault.Fix, "has expired: make a new one", 0},
		{"an app of another tenant", 400, nil, entraSays(700016, "unauthorized_client", "Application not found."), "AADSTS700016", fault.Fix, "check client_id and tenant_id", 0},
		{"an unknown tenant", 400, nil, entraSays(90002, "invalid_request", "Tenant not found."), "AADSTS90002", fault.Fix, "does not exist in this cloud", 0},
		{"a certificate that is not uploaded", 401, nil, entraSays(700027, "invalid_client", "The certificate is not registered."), "AADSTS700027", fault.Fix, "upload the certificate", 0},
		{"a wrong password", 400, nil, entraSays(50126, "invalid_grant", "Error validating credentials."), "AADSTS50126", fault.Fix, "user name or password is wrong", 0},
		{"MFA", 400, nil, entraSays(50076, "interaction_required", "You must use multi-factor authentication."), "AADSTS50076", fault.Fix, "multi-factor", 0},
		{"no consent", 400, nil, entraSays(65001, "invalid_grant", "Consent."), "AADSTS65001", fault.Fix, "grant admin consent", 0},
		{"no public clients", 401, nil, entraSays(7000218, "invalid_client", "The request body must contain client_secret."), "AADSTS7000218", fault.Fix, "public client flows", 0},
		{"an unknown resource", 400, nil, entraSays(500011, "invalid_resource", "The resource principal was not found."), "AADSTS500011", fault.Fix, "Exchange is not known", 0},
		{"a code without words", 400, nil, entraSays(123456, "invalid_request", "Something new."), "AADSTS123456", fault.Fix, "the token service says: Something new.", 0},
		{"a hiccup of Entra ID", 400, nil, entraSays(90033, "temporarily_unavailable", "Try again."), "AADSTS90033", fault.Wait, "away for a moment", 0},
		{"throttling", 429, http.Header{"Retry-After": {"30"}}, "", "HTTP 429", fault.Wait, "away", 30 * time.Second},
		{"throttling for years", 429, http.Header{"Retry-After": {"99999999"}}, "", "HTTP 429", fault.Wait, "away", 10 * time.Minute},
		{"a server that is down", 503, http.Header{"Retry-After": {"soon"}}, "<html>down</html>", "HTTP 503", fault.Wait, "Service Unavailable", 0},
		{"another service", 404, nil, "<html>not here</html>", "HTTP 404", fault.Fix, "no token service", 0},
		{"a redirect", 302, nil, "", "HTTP 302", fault.Fix, "no token service", 0},
		{"another OAuth server", 401, nil, `{"error":"invalid_client","error_description":"client authentication failed"}`, "invalid_client", fault.Fix, "client authentication failed", 0},
		{"types that are wrong", 400, nil, `{"error":7,"error_description":["x"]}`, "HTTP 400", fault.Fix, "without a reason", 0},
		{"an echo of the secret", 400, nil, `{"error":"hunter2","error_description":"hunter2 is wrong"}`, "***", fault.Fix, "*** is wrong", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := tokenRefusal(c.status, c.header, []byte(c.body), "hunter2")
			if e.Code != c.code || e.Remedy != c.remedy || e.Scope != fault.Account || !strings.Contains(e.Text, c.text) || e.After != c.after {
				t.Errorf("%+v", e)
			}
			if strings.Contains(e.Error(), "Trace") {
				t.Error(e)
			}
		})
	}
}

func FuzzTokenRefusal(f *testing.F) {
	f.Add(400, []byte(entraSays(7000215, "invalid_client", "Invalid client secret provided.")))
	f.Add(400, []byte(`{"error":"invalid_client","error_description":"AADSTS99999999999999999999999999999999999999999999: x"}`))
	f.Add(503, []byte("<html>"))
	f.Add(200, []byte(`{"error":"\u0000\u001b[31m"}`))
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		e := tokenRefusal(status, http.Header{}, body, "hunter2")
		text := e.Error()
		if e.Code == "" || e.Text == "" || e.Scope != fault.Account || e.Remedy != fault.Fix && e.Remedy != fault.Wait {
			t.Errorf("%+v", e)
		}
		if len(text) > 1000 || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' }) || strings.Contains(text, "hunter2") {
			t.Errorf("%q", text)
		}
	})
}

func TestACodeOfTheTokenServiceIsShort(t *testing.T) {
	if code, _ := parseRefusal([]byte(`{"error":"invalid_client","error_description":"AADSTS` + strings.Repeat("7", 34) + `: x"}`)); code != "AADSTS"+strings.Repeat("7", 34) {
		t.Errorf("as long as it may be: %s", code)
	}
	if code, _ := parseRefusal([]byte(`{"error":"invalid_client","error_description":"AADSTS` + strings.Repeat("7", 35) + `: x"}`)); code != "invalid_client" {
		t.Errorf("longer than any: %s", code)
	}
	if code, said := parseRefusal([]byte(`{"error":"invalid_client","error_description":"AADSTS: x"}`)); code != "invalid_client" || said != "AADSTS: x" {
		t.Errorf("without a number: %s, %s", code, said)
	}
	if e := tokenRefusal(400, nil, []byte(`{"error":"`+strings.Repeat("x", 1000)+`"}`)); len(e.Code) > 50 {
		t.Errorf("a code of %d bytes", len(e.Code))
	}
}
