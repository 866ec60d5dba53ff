package graph

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/mailbell/mailbell/internal/fault"
)

// errorBody is the body of an error as Graph writes it.
func errorBody(code, message string) string {
	return fmt.Sprintf(`{"error":{"code":%q,"message":%q,"innerError":{"date":"2026-11-28T14:00:00","request-id":"1","client-request-id":"2"}}}`, code, message)
}

func TestEachErrorIsTypedByWhatToDo(t *testing.T) {
	look := func(c *Client) error { _, err := c.Look(t.Context(), mara); return err }
	list := func(c *Client) error { _, err := c.Messages(t.Context(), mara, time.Now(), 50); return err }
	more := func(c *Client) error { _, err := c.More(t.Context(), mara, base+"/v1.0/next?$skiptoken=1"); return err }
	read := func(c *Client) error {
		items, _, err := c.Read(t.Context(), mara, []string{"1"})
		if err == nil {
			err = items[0].Err
		}
		return err
	}
	readTwo := func(c *Client) error {
		items, _, err := c.Read(t.Context(), mara, []string{"1", "2"})
		if err == nil {
			err = items[0].Err
		}
		return err
	}
	subscribe := func(c *Client) error {
		_, err := c.Subscribe(t.Context(), mara, Subscription{Until: time.Now().Add(Longest), NotificationURL: "https://bell.contoso.com/callbacks/graph/s3cret"})
		return err
	}
	renew := func(c *Client) error { _, err := c.Renew(t.Context(), "1", time.Now().Add(Longest)); return err }
	type flags struct{ elsewhere, moved, gone, missed, unsubscribed, untold, unsupported bool }
	const denied = "Access is denied. Check credentials and try again."
	for _, c := range []struct {
		name          string
		call          func(*Client) error
		status        int
		code, message string
		want          string
		scope         fault.Scope
		remedy        fault.Remedy
		follows       flags
	}{
		{"no token", look, 401, "InvalidAuthenticationToken", "Access token validation failure. Invalid audience.", "InvalidAuthenticationToken", fault.Account, fault.Fix, flags{}},
		{"another tenant", look, 401, "OrganizationFromTenantGuidNotFound", "The tenant for tenant guid does not exist.", "OrganizationFromTenantGuidNotFound", fault.Account, fault.Fix, flags{}},
		{"no permission", list, 403, "ErrorAccessDenied", denied, "ErrorAccessDenied", fault.Account, fault.Fix, flags{}},
		{"no permission to read", read, 403, "ErrorAccessDenied", denied, "ErrorAccessDenied", fault.Account, fault.Fix, flags{}},
		{"a link that has run out", more, 410, "syncStateNotFound", "The sync state generation is not found", "syncStateNotFound", fault.Mailbox, fault.Retry, flags{}},
		{"an access policy", list, 403, "ErrorAccessDenied", "Access to OData is disabled: [RAOP] : Blocked by tenant configured AppOnly AccessPolicy settings.", CodePolicy, fault.Mailbox, fault.Fix, flags{untold: true}},
		{"a bare 403", list, 403, "", "", "HTTP 403", fault.Account, fault.Fix, flags{}},
		{"no permission to subscribe", subscribe, 403, "ErrorAccessDenied", denied, CodeDenied, fault.Mailbox, fault.Fix, flags{untold: true, unsupported: true}},
		{"the same, as the subscription service says it", subscribe, 403, "ExtensionError", "Operation: Create; Exception: [Status Code: Forbidden; Reason: Access denied]", CodeDenied, fault.Mailbox, fault.Fix, flags{untold: true, unsupported: true}},
		{"the same with another status", subscribe, 400, "ExtensionError", "Operation: Create; Exception: [Status Code: Forbidden; Reason: Forbidden]", CodeDenied, fault.Mailbox, fault.Fix, flags{untold: true, unsupported: true}},
		{"on premises", look, 404, "MailboxNotEnabledForRESTAPI", "The mailbox is either inactive, soft-deleted, or is hosted on-premise.", "MailboxNotEnabledForRESTAPI", fault.Mailbox, fault.Fix, flags{elsewhere: true, moved: true}},
		{"on premises, a message", read, 404, "MailboxNotEnabledForRESTAPI", "", "MailboxNotEnabledForRESTAPI", fault.Mailbox, fault.Fix, flags{elsewhere: true, moved: true}},
		{"on premises, subscribing", subscribe, 404, "MailboxNotEnabledForRESTAPI", "", "MailboxNotEnabledForRESTAPI", fault.Mailbox, fault.Fix, flags{elsewhere: true, moved: true}},
		{"no such user", list, 404, "ErrorInvalidUser", "The requested user 'x' is invalid.", "ErrorInvalidUser", fault.Mailbox, fault.Fix, flags{elsewhere: true, moved: true}},
		{"no such resource", list, 404, "Request_ResourceNotFound", "", "Request_ResourceNotFound", fault.Mailbox, fault.Wait, flags{elsewhere: true, moved: true}},
		{"a bare 404", list, 404, "", "", "HTTP 404", fault.Mailbox, fault.Wait, flags{elsewhere: true, moved: true}},
		{"a message that is gone", read, 404, "ErrorItemNotFound", "The specified object was not found in the store.", "ErrorItemNotFound", fault.Message, fault.Retry, flags{gone: true}},
		{"a message that is gone, of several", readTwo, 404, "ErrorItemNotFound", "The specified object was not found in the store.", "ErrorItemNotFound", fault.Message, fault.Retry, flags{gone: true}},
		{"a licence, of several", readTwo, 404, "MailboxNotEnabledForRESTAPI", "", "MailboxNotEnabledForRESTAPI", fault.Mailbox, fault.Fix, flags{elsewhere: true, moved: true}},
		{"a damaged message", read, 500, "ErrorItemCorrupt", "", "ErrorItemCorrupt", fault.Message, fault.Retry, flags{}},
		{"an overloaded Graph", list, 503, "serviceNotAvailable", "", "serviceNotAvailable", fault.Server, fault.Wait, flags{}},
		{"an overloaded Graph, of several", readTwo, 503, "serviceNotAvailable", "", "serviceNotAvailable", fault.Mailbox, fault.Wait, flags{}},
		{"a bare 504", list, 504, "", "", "HTTP 504", fault.Server, fault.Wait, flags{}},
		{"an error within", list, 500, "ErrorInternalServerError", "", "ErrorInternalServerError", fault.Mailbox, fault.Retry, flags{}},
		{"throttled", list, 429, "TooManyRequests", "", CodeThrottled, fault.Mailbox, fault.Wait, flags{}},
		{"too many at once", list, 429, "ApplicationThrottled", "Application is over its MailboxConcurrency limit.", CodeCrowded, fault.Mailbox, fault.Wait, flags{}},
		{"over its quota", list, 403, "ErrorQuotaExceeded", "", "ErrorQuotaExceeded", fault.Mailbox, fault.Fix, flags{untold: true}},
		{"over its quota, by status", list, 507, "", "", "HTTP 507", fault.Mailbox, fault.Fix, flags{untold: true}},
		{"an inefficient filter", list, 400, "InefficientFilter", "The restriction or sort order is too complex for this operation.", "InefficientFilter", fault.Mailbox, fault.Fix, flags{}},
		{"an id that is none", read, 400, "BadRequest", "Resource not found for the segment", "BadRequest", fault.Message, fault.Retry, flags{}},
		{"a bad request", list, 400, "BadRequest", "", "BadRequest", fault.Mailbox, fault.Wait, flags{}},
		{"the handshake", subscribe, 400, "ValidationError", "Subscription validation request timed out.", CodeHandshake, fault.Mailbox, fault.Fix, flags{untold: true}},
		{"the handshake, as it was", subscribe, 400, "InvalidRequest", "Subscription validation request failed. Must respond with 200 OK to this request.", CodeHandshake, fault.Mailbox, fault.Fix, flags{untold: true}},
		{"too long a life", subscribe, 400, "ExtensionError", "Subscription expiration can only be 4230 minutes in the future.", CodeExpiration, fault.Mailbox, fault.Retry, flags{untold: true}},
		{"a subscription like that", subscribe, 409, "ObjectIdentifierInUse", "Subscription Id 6f1c5a4e-0f0e-4bd7-9df1-0f0d6a8f3c55 already exists for the requested combination", CodeExists, fault.Mailbox, fault.Retry, flags{untold: true}},
		{"a server of mailboxes that fails over, as the subscription service says it", subscribe, 503, "ExtensionError", "Operation: Create; Exception: [Status Code: ServiceUnavailable; Reason: Target resource 'x' hosted on database 'y' is currently on backend 'Unknown']", CodeBehind, fault.Mailbox, fault.Wait, flags{}},
		{"the same with another status", subscribe, 403, "ExtensionError", "Operation: Create; Exception: [Status Code: ServiceUnavailable; Reason: ]", CodeBehind, fault.Mailbox, fault.Wait, flags{}},
		{"a server of mailboxes that does not answer", subscribe, 400, "ExtensionError", "Operation: Create; Exception: [Status Code: GatewayTimeout; Reason: ]", CodeBehind, fault.Mailbox, fault.Wait, flags{}},
		{"the same of another gateway", subscribe, 502, "ExtensionError", "Operation: Create; Exception: [Status Code: BadGateway; Reason: ]", CodeBehind, fault.Mailbox, fault.Wait, flags{}},
		{"a server of mailboxes with a fault", subscribe, 400, "ExtensionError", "Operation: Create; Exception: [Status Code: InternalServerError; Reason: ]", CodeBehind, fault.Mailbox, fault.Wait, flags{}},
		{"a server of mailboxes that throttles", subscribe, 403, "ExtensionError", "Operation: Create; Exception: [Status Code: TooManyRequests; Reason: ]", CodeBehind, fault.Mailbox, fault.Wait, flags{}},
		{"a renewal that a server of mailboxes does not take now", renew, 503, "ExtensionError", "Operation: Update; Exception: [Status Code: ServiceUnavailable; Reason: ]", CodeBehind, fault.Mailbox, fault.Wait, flags{}},
		{"the same with another status", renew, 400, "ExtensionError", "Operation: Update; Exception: [Status Code: ServiceUnavailable; Reason: ]", CodeBehind, fault.Mailbox, fault.Wait, flags{}},
		{"the handshake of a renewal", renew, 400, "ValidationError", "Subscription validation request timed out.", CodeHandshake, fault.Mailbox, fault.Fix, flags{}},
		{"as many subscriptions as the mailbox can have", subscribe, 429, "ExtensionError", "Operation: Create; Exception: [Status Code: 429; Reason: Resource 'SubscriptionCountReached' has reached limit of '1000'. Please retry after '12/31/9999 11:59:59 PM'].", CodeFull, fault.Mailbox, fault.Fix, flags{untold: true}},
		{"a mailbox in quarantine", list, 500, "ErrorApiQuarantined", "Request has been quarantined by condition.", "ErrorApiQuarantined", fault.Mailbox, fault.Wait, flags{}},
		{"a bad subscription", subscribe, 400, "InvalidRequest", "Some properties are not valid.", "InvalidRequest", fault.Mailbox, fault.Fix, flags{untold: true, unsupported: true}},
		{"a subscription that a cloud does not have", subscribe, 501, "NotImplemented", "", "NotImplemented", fault.Mailbox, fault.Wait, flags{untold: true, unsupported: true}},
		{"a subscription that is gone", renew, 404, "ResourceNotFound", "The object was not found.", "ResourceNotFound", fault.Mailbox, fault.Retry, flags{unsubscribed: true, missed: true}},
		{"a subscription that cannot be renewed", renew, 400, "ErrorInvalidParameter", "", "ErrorInvalidParameter", fault.Mailbox, fault.Retry, flags{unsubscribed: true, missed: true}},
		{"a renewal that is throttled", renew, 429, "TooManyRequests", "", CodeThrottled, fault.Mailbox, fault.Wait, flags{}},
		{"a status that nobody knows", list, 418, "", "", "HTTP 418", fault.Mailbox, fault.Wait, flags{}},
		{"a code that is none", list, 500, "<script>", "x", "HTTP 500", fault.Mailbox, fault.Retry, flags{}},
	} {
		body := ""
		if c.code != "" {
			body = errorBody(c.code, c.message)
		}
		err := c.call(client(func(r *http.Request, sent string) *http.Response {
			if strings.HasSuffix(r.URL.Path, "/$batch") {
				return reply(r, 200, fmt.Sprintf(`{"responses":[{"id":"1","status":200,"body":{"id":"2"}},{"id":"0","status":%d,"body":%s}]}`, c.status, body))
			}
			return reply(r, c.status, body)
		}))
		f := fault.Of(err)
		got := flags{f.Elsewhere, f.Moved, f.Gone, f.Missed, f.Unsubscribed, f.Untold, f.Unsupported}
		if f.Code != c.want || f.Scope != c.scope || f.Remedy != c.remedy || got != c.follows || f.Peer != fault.Graph {
			t.Errorf("%s: %v: %v %v %+v", c.name, err, f.Scope, f.Remedy, got)
		}
		if c.message != "" && !strings.Contains(err.Error(), fmt.Sprintf("Graph says: %q", c.message)) && c.code != "<script>" {
			t.Errorf("%s: %v does not tell what Graph says", c.name, err)
		}
		if f.Status != c.status && !strings.HasPrefix(f.Code, "unpars") {
			t.Errorf("%s: status %d", c.name, f.Status)
		}
	}
}

func TestTheTableHasNoRowThatCannotBeReached(t *testing.T) {
	rows := Rows()
	for i, r := range rows {
		op := operation{name: "x", about: r.about}
		s := said{status: r.Status, code: r.Code, text: r.Text}
		first := 0
		for !rows[first].fits(op, s) {
			first++
		}
		if first != i {
			t.Errorf("row %d (%s %s) is hidden by row %d (%s %s)", i, r.Code, r.Meaning, first, rows[first].Code, rows[first].Meaning)
		}
		if r.Meaning == "" || r.Scope == 0 || r.Remedy == 0 || r.Remedy == fault.Fix && r.After == 0 {
			t.Errorf("row %d is incomplete: %+v", i, r)
		}
	}
}

func TestGraphSaysHowLongToWaitAndNoLongerThanAnHour(t *testing.T) {
	about := func(d, want time.Duration) bool {
		return want-time.Second/10 <= d && d <= want+min(want/4, time.Minute)
	} // with its jitter
	for asked, want := range map[string]time.Duration{"7": 7 * time.Second, "86400": maxBackOff, "": time.Second} {
		_, err := answers(http.StatusTooManyRequests, errorBody("TooManyRequests", ""), "Retry-After", asked).Look(t.Context(), mara)
		if !about(fault.Of(err).After, want) {
			t.Errorf("Retry-After %q: %v", asked, fault.Of(err).After)
		}
	}
	c := answers(http.StatusOK, `{"responses":[{"id":"0","status":429,"headers":{"Retry-After":"9"}},{"id":"1","status":429,"headers":{"retry-after":"9"}}]}`)
	items, _, err := c.Read(t.Context(), mara, []string{"1", "2"})
	if err != nil || !about(fault.Of(items[0].Err).After, 9*time.Second) || !about(fault.Of(items[1].Err).After, 9*time.Second) {
		t.Errorf("%v, %v", items, err)
	}
}

func TestAnErrorTellsTheRequestIDAndNoMoreOfTheServerThanASentence(t *testing.T) {
	_, err := answers(http.StatusBadRequest, errorBody("BadRequest", strings.Repeat("x", 5000)+"\r\n")).Look(t.Context(), mara)
	e, ok := err.(*Error)
	if !ok || len(e.RequestID) != 36 || len(err.Error()) > 600 || strings.ContainsAny(err.Error(), "\r\n") {
		t.Errorf("%v", err)
	}
	_, err = answers(http.StatusBadRequest, strings.Repeat("x", 10<<20)).Look(t.Context(), mara)
	if fault.Of(err).Code != "HTTP 400" {
		t.Error(err)
	}
}

func FuzzAnErrorIsTypedWhateverTheAnswerIs(f *testing.F) {
	f.Add(403, errorBody("ErrorAccessDenied", "Access is denied."), "1")
	f.Add(429, `{"error":{"code":"","message":""}}`, "x")
	f.Add(302, `{}`, "")
	f.Fuzz(func(t *testing.T, status int, body, after string) {
		if status < 300 || status > 999 {
			return
		}
		_, err := answers(status, body, "Retry-After", after, "Location", after).Look(t.Context(), mara)
		if f := fault.Of(err); f.Scope == 0 || f.Remedy == 0 || f.Code == "" || f.After > maxBackOff || f.Peer != fault.Graph {
			t.Errorf("%+v", f)
		}
	})
}
