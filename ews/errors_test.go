package ews

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/proxy"
)

// What follows from an error, as the table of the test writes it.
const (
	sub = 1 << iota // Unsubscribed
	loc             // Moved
	ck              // Misled
	cat             // Missed
	els             // Elsewhere
	gon             // Gone
	sup             // Superseded
)

func flags(f *fault.Error) (flags int) {
	for bit, set := range map[int]bool{
		sub: f.Unsubscribed, loc: f.Moved, ck: f.Misled, cat: f.Missed, els: f.Elsewhere, gon: f.Gone, sup: f.Superseded,
	} {
		if set {
			flags |= bit
		}
	}
	return flags
}

// reactions is what the documentation says of each error: whom it concerns, what to do, what else follows.
var reactions = []struct {
	code   string
	text   string
	scope  fault.Scope
	remedy fault.Remedy
	flags  int
}{
	{"ErrorSubscriptionNotFound", "The specified subscription was not found.", fault.Mailbox, fault.Retry, sub | cat},
	{"ErrorInvalidSubscription", "Subscription is invalid.", fault.Mailbox, fault.Retry, sub | cat},
	{"ErrorInvalidSubscription", "Subscription is invalid., This message indicates no more events. Event type = MailboxMoveStarted, Object Type = None", fault.Mailbox, fault.Wait, sub | loc | cat},
	{"ErrorExpiredSubscription", "", fault.Mailbox, fault.Retry, sub | cat},
	{"ErrorSubscriptionUnsubscribed", "", fault.Mailbox, fault.Retry, sub | cat},
	{"ErrorEventNotFound", "", fault.Mailbox, fault.Retry, sub | cat},
	{"ErrorInvalidWatermark", "", fault.Mailbox, fault.Retry, sub | cat},
	{"ErrorReadEventsFailed", "", fault.Mailbox, fault.Retry, sub | loc | cat},
	{"ErrorSubscriptionAccessDenied", "", fault.Mailbox, fault.Retry, sub | cat},
	{"ErrorMissedNotificationEvents", "", fault.Mailbox, fault.Retry, cat},
	{"ErrorNewEventStreamConnectionOpened", "", fault.Group, fault.Wait, cat | sup},
	{"ErrorExceededConnectionCount", "", fault.Group, fault.Wait, cat},
	{"ErrorExceededSubscriptionCount", "", fault.Mailbox, fault.Wait, 0},
	{"ErrorSubscriptionDelegateAccessNotSupported", "", fault.Mailbox, fault.Fix, 0},
	{"ErrorInvalidPushSubscriptionUrl", "", fault.Mailbox, fault.Fix, 0},
	{"ErrorInvalidSubscriptionRequest", "", fault.Mailbox, fault.Fix, 0},
	{"ErrorServerBusy", "", fault.Mailbox, fault.Wait, 0},
	{"ErrorInternalServerTransientError", "", fault.Mailbox, fault.Retry, 0},
	{"ErrorADUnavailable", "", fault.Mailbox, fault.Retry, 0},
	{"ErrorADOperation", "", fault.Mailbox, fault.Retry, 0},
	{"ErrorTimeoutExpired", "", fault.Mailbox, fault.Retry, 0},
	{"ErrorInsufficientResources", "", fault.Mailbox, fault.Retry, 0},
	{"ErrorTooManyObjectsOpened", "", fault.Mailbox, fault.Retry, 0},
	{"ErrorBatchProcessingStopped", "", fault.Mailbox, fault.Retry, 0},
	{"ErrorInternalServerError", "", fault.Mailbox, fault.Retry, 0},
	{"ErrorProxyRequestNotAllowed", "", fault.Mailbox, fault.Retry, sub | loc | ck | cat},
	{"ErrorMailboxMoveInProgress", "", fault.Mailbox, fault.Wait, sub | loc | cat},
	{"ErrorMailboxStoreUnavailable", "", fault.Mailbox, fault.Wait, sub | loc | cat},
	{"ErrorMailboxFailover", "", fault.Mailbox, fault.Wait, sub | loc | cat},
	{"ErrorConnectionFailed", "", fault.Mailbox, fault.Wait, sub | loc | cat},
	{"ErrorNoRespondingCASInDestinationSite", "", fault.Mailbox, fault.Wait, loc | ck | cat},
	{"ErrorProxiedSubscriptionCallFailure", "", fault.Mailbox, fault.Wait, sub | loc | ck | cat},
	{"ErrorCrossSiteRequest", "", fault.Mailbox, fault.Wait, loc | ck | cat},
	{"ErrorNonExistentMailbox", "", fault.Mailbox, fault.Fix, loc | els},
	{"ErrorCannotFindUser", "", fault.Mailbox, fault.Fix, loc | els},
	{"ErrorImpersonateUserDenied", "", fault.Mailbox, fault.Fix, 0},
	{"ErrorImpersonationDenied", "", fault.Account, fault.Fix, 0},
	{"ErrorImpersonationFailed", "", fault.Mailbox, fault.Wait, 0},
	{"ErrorSendAsDenied", "", fault.Mailbox, fault.Fix, 0},
	{"ErrorAccountDisabled", "", fault.Mailbox, fault.Fix, 0},
	{"ErrorInvalidUserPrincipalName", "", fault.Mailbox, fault.Fix, 0},
	{"ErrorInvalidUserSid", "", fault.Mailbox, fault.Fix, 0},
	{"ErrorMissingEmailAddress", "", fault.Mailbox, fault.Fix, 0},
	{"ErrorAccessDenied", "", fault.Account, fault.Fix, 0},
	{"ErrorOrganizationAccessBlocked", "", fault.Account, fault.Fix, 0},
	{"ErrorInvalidServerVersion", "", fault.Server, fault.Fix, 0},
	{"ErrorIncorrectSchemaVersion", "", fault.Server, fault.Fix, 0},
	{"ErrorSchemaValidation", "", fault.Mailbox, fault.Fix, 0},
	{"ErrorInvalidRequest", "", fault.Mailbox, fault.Fix, 0},
	{"ErrorItemNotFound", "", fault.Message, fault.Retry, gon},
	{"ErrorUnsupportedMimeConversion", "", fault.Message, fault.Retry, 0},
	{"ErrorDataSizeLimitExceeded", "", fault.Message, fault.Retry, 0},
	{"ErrorVirusDetected", "", fault.Message, fault.Retry, 0},
	{"ErrorVirusMessageDeleted", "", fault.Message, fault.GiveUp, gon},
	{"ErrorItemCorrupt", "", fault.Message, fault.Retry, 0},
	{"ErrorCorruptData", "", fault.Message, fault.Retry, 0},
	{"ErrorContentConversionFailed", "", fault.Message, fault.Retry, 0},
	{"ErrorMimeContentConversionFailed", "", fault.Message, fault.Retry, 0},
	{"ErrorMessageSizeExceeded", "", fault.Message, fault.Retry, 0},
	{"ErrorPropertyValidationFailure", "", fault.Message, fault.Retry, 0},
	{"ErrorItemPropertyRequestFailed", "", fault.Message, fault.Retry, 0},
	{"ErrorInvalidId", "", fault.Message, fault.Retry, 0},
	{"ErrorInvalidIdMalformed", "", fault.Message, fault.Retry, 0},
	{"ErrorInvalidIdEmpty", "", fault.Message, fault.Retry, 0},
	{"ErrorFromTheYear2030", "", fault.Mailbox, fault.Wait, sub | cat}, // unknown
}

func TestEachErrorOfTheServerHasItsReaction(t *testing.T) {
	for _, want := range reactions {
		for how, c := range map[string]*Client{
			"message":         answers(200, response("Unsubscribe", failure("Unsubscribe", want.code, want.text, ""))),
			"fault, HTTP 500": answers(500, soapFaultOf("a:"+want.code, want.text, "<e:ResponseCode xmlns:e=\"u\"> "+want.code+"\n</e:ResponseCode>")),
			"fault, HTTP 200": answers(200, soapFaultOf("soap:Client", want.text, "<e:ResponseCode xmlns:e=\"u\">"+want.code+"</e:ResponseCode>")),
			"no detail":       answers(500, soapFaultOf("a:"+want.code, want.text, "")),
		} {
			err := c.Unsubscribe(t.Context(), target, "x")
			e, ok := errors.AsType[*Error](err)
			if !ok || e.Fault.Code != want.code || e.Fault.Scope != want.scope || e.Fault.Remedy != want.remedy || flags(e.Fault) != want.flags || e.Fault.Op != "Unsubscribe" {
				t.Errorf("%s, %s: %v (%v, %v, %04b); want %v, %v, %04b", want.code, how, err, e.Fault.Scope, e.Fault.Remedy, flags(e.Fault), want.scope, want.remedy, want.flags)
				continue
			}
			if e.Fault.Text == "" || want.text != "" && !strings.Contains(e.Error(), want.text[:20]) {
				t.Errorf("%s, %s: %q", want.code, how, e.Error())
			}
			if fault.Of(err) != e.Fault {
				t.Errorf("%s: fault.Of does not find it", want.code)
			}
		}
	}
}

func soapFaultOf(faultcode, text, detail string) string {
	if detail != "" {
		detail = "<detail>" + detail + "</detail>"
	}
	return soap(`<s:Fault><faultcode xmlns:a="http://schemas.microsoft.com/exchange/services/2006/types">` + faultcode + `</faultcode><faultstring xml:lang="en-US">` + text + `</faultstring>` + detail + `</s:Fault>`)
}

func TestTheTableIsCompleteAndItsCodesExist(t *testing.T) {
	tested := map[string]bool{}
	for _, r := range reactions {
		tested[r.code] = true
	}
	var schema []byte
	dir := os.Getenv("EWS_SCHEMA")
	if dir == "" {
		dir = filepath.Join("..", "..", "shared", "ews-schema")
	}
	schema, err := os.ReadFile(filepath.Join(dir, "messages.xsd"))
	if err != nil {
		t.Logf("the official schema is not at %s (set EWS_SCHEMA): the codes are not compared with it", dir)
	}
	for i, r := range table {
		if r.Scope == 0 || r.Remedy == 0 || r.Meaning == "" || r.After < 0 || r.After > maxBackOff {
			t.Errorf("%s: %+v", r.Code, r)
		}
		if (r.Code == codeUnknown) != (i == len(table)-1) {
			t.Errorf("entry %d: the unknown comes last", i)
		}
		if !strings.HasPrefix(r.Code, "Error") {
			continue
		}
		if !tested[r.Code] {
			t.Errorf("%s has no reaction in the test", r.Code)
		}
		if schema != nil && !strings.Contains(string(schema), `"`+r.Code+`"`) {
			t.Errorf("%s is not in the schema", r.Code)
		}
	}
}

func TestWhatMicrosoftsSupportObservedIsUnderstood(t *testing.T) {
	b, err := os.ReadFile(filepath.Join("..", "testdata", "ews", "37-errors-observed-by-microsoft-support.txt"))
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	relocate := false
	for line := range strings.SplitSeq(string(b), "\n") {
		relocate = relocate || strings.Contains(line, "rebuild with Autodiscover")
		m := regexp.MustCompile(`^\s+(Error\w+)\s+"(.*)"`).FindStringSubmatch(line)
		if m == nil {
			continue
		}
		found++
		row := lookup(m[1], m[2])
		if !row.Unsubscribed || !row.Missed || relocate && !row.Moved {
			t.Errorf("%s %q: %+v", m[1], m[2], row)
		}
	}
	if found != 6 {
		t.Errorf("%d errors in the sample", found)
	}
}

func TestAThrottlingServerIsObeyedInEveryShape(t *testing.T) {
	backOff := `<m:MessageXml><t:Value Name="BackOffMilliseconds">297749</t:Value></m:MessageXml>`
	inner := `<m:MessageXml><t:Value Name="InnerErrorMessageText">The server cannot service this request right now.</t:Value>` +
		`<t:Value Name="InnerErrorResponseCode">ErrorServerBusy</t:Value><t:Value Name="InnerErrorDescriptiveLinkKey">0</t:Value><t:Value Name="BackOffMilliseconds">297749</t:Value></m:MessageXml>`
	const told = 297749 * time.Millisecond
	for name, c := range map[string]struct {
		client *Client
		code   string
		scope  fault.Scope
		after  time.Duration
	}{
		"fault, HTTP 500":           {answers(500, sample(t, "34")), "ErrorServerBusy", fault.Mailbox, told},
		"fault, HTTP 200":           {answers(200, sample(t, "34")), "ErrorServerBusy", fault.Mailbox, told},
		"message":                   {answers(200, response("Unsubscribe", failure("Unsubscribe", "ErrorServerBusy", "x", backOff))), "ErrorServerBusy", fault.Mailbox, told},
		"message, inner":            {answers(200, response("Unsubscribe", failure("Unsubscribe", "ErrorInternalServerError", "x", inner))), "ErrorServerBusy", fault.Mailbox, told},
		"message without a number":  {answers(200, response("Unsubscribe", failure("Unsubscribe", "ErrorServerBusy", "x", ""))), "ErrorServerBusy", fault.Mailbox, time.Minute},
		"503":                       {answers(503, ""), "HTTP 503", fault.Server, 5 * time.Second},
		"503, Retry-After":          {answers(503, "<html>busy", "Retry-After", "17"), "HTTP 503", fault.Server, 17 * time.Second},
		"503, Retry-After a date":   {answers(503, "", "Date", "Sun, 22 Nov 2026 10:00:00 GMT", "Retry-After", "Sun, 22 Nov 2026 10:02:00 GMT"), "HTTP 503", fault.Server, 2 * time.Minute},
		"503, Retry-After wrong":    {answers(503, "", "Retry-After", "-3"), "HTTP 503", fault.Server, 5 * time.Second},
		"503, Retry-After for days": {answers(503, "", "Retry-After", "864000"), "HTTP 503", fault.Server, time.Hour},
		"503, a fault, Retry-After": {answers(503, soapFaultOf("a:ErrorServerBusy", "x", ""), "Retry-After", "9"), "ErrorServerBusy", fault.Mailbox, 9 * time.Second},
		"429":                       {answers(429, "", "Retry-After", "5"), "HTTP 429", fault.Account, 5 * time.Second},
		"a mistaken number":         {answers(200, response("Unsubscribe", failure("Unsubscribe", "ErrorServerBusy", "x", strings.Replace(backOff, "297749", "4000000000", 1)))), "ErrorServerBusy", fault.Mailbox, time.Hour},
		"no number":                 {answers(200, response("Unsubscribe", failure("Unsubscribe", "ErrorServerBusy", "x", strings.Replace(backOff, "297749", "soon", 1)))), "ErrorServerBusy", fault.Mailbox, time.Minute},
	} {
		err := c.client.Unsubscribe(t.Context(), target, "x")
		if e := fault.Of(err); e.Code != c.code || e.Scope != c.scope || e.Remedy != fault.Wait || e.After != c.after {
			t.Errorf("%s: %v (%v, %v, %v)", name, err, e.Scope, e.Remedy, e.After)
		}
	}
}

func TestAnAnswerWithoutEWSSpeaksByItsStatus(t *testing.T) {
	for status, want := range map[int]struct {
		scope  fault.Scope
		remedy fault.Remedy
		flags  int
	}{
		401: {fault.Account, fault.Fix, 0}, 403: {fault.Account, fault.Fix, 0}, 404: {fault.Server, fault.Fix, loc | ck}, 429: {fault.Account, fault.Wait, 0},
		500: {fault.Server, fault.Wait, loc | ck}, 502: {fault.Server, fault.Wait, loc | ck}, 503: {fault.Server, fault.Wait, loc | ck}, 504: {fault.Server, fault.Wait, loc | ck},
		418: {fault.Server, fault.Wait, cat}, 520: {fault.Server, fault.Wait, cat},
	} {
		for _, body := range []string{"", "<html><p>no</html>", soap("<other/>"), strings.Repeat("x", 100000), sample(t, "19")} {
			err := answers(status, body).Unsubscribe(t.Context(), target, "x")
			e, ok := errors.AsType[*Error](err)
			if !ok || e.Fault.Code != "HTTP "+strconv.Itoa(status) || e.Fault.Scope != want.scope || e.Fault.Remedy != want.remedy || flags(e.Fault) != want.flags {
				t.Errorf("%d %.20q: %v", status, body, err)
			}
		}
	}
	err := answers(401, "", "x-ms-diagnostics", `2000002;reason="The token has expired.";error_category="invalid_token"`).Unsubscribe(t.Context(), target, "x")
	if !strings.Contains(err.Error(), "token has expired") {
		t.Errorf("%v", err)
	}
}

func TestErrorsOfTheConnectionAreTyped(t *testing.T) {
	for code, c := range map[string]struct {
		err    error
		remedy fault.Remedy
		scope  fault.Scope
		flags  int
	}{
		proxy.CodeCertificate: {&tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}, fault.Fix, fault.Server, 0},
		proxy.CodeTLS:         {tls.AlertError(40), fault.Fix, fault.Server, 0},
		proxy.CodeName:        {&net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", Name: "mail.contoso.com", IsNotFound: true}}, fault.Wait, fault.Server, loc},
		proxy.CodeConnect:     {&net.OpError{Op: "dial", Err: errors.New("connection refused")}, fault.Wait, fault.Server, loc},
		proxy.CodeTimeout:     {context.DeadlineExceeded, fault.Wait, fault.Server, cat},
		proxy.CodeNetwork:     {io.ErrUnexpectedEOF, fault.Retry, fault.Server, cat},
		proxy.CodeProxy:       {&fault.Error{Op: "connect", Code: proxy.CodeProxy, Scope: fault.Server, Remedy: fault.Wait}, fault.Wait, fault.Server, 0}, // its own remedy counts
		proxy.CodePrivate:     {&fault.Error{Op: "connect", Code: proxy.CodePrivate, Scope: fault.Server, Remedy: fault.Fix}, fault.Fix, fault.Server, 0},
		codeHeld:              {&fault.Error{Op: "sign in", Code: codeHeld, Scope: fault.Account, Remedy: fault.Wait, After: 17 * time.Second}, fault.Wait, fault.Account, 0},
		"AADSTS7000215":       {&fault.Error{Op: "token", Code: "AADSTS7000215", Scope: fault.Account, Remedy: fault.Fix}, fault.Fix, fault.Account, 0},
		"not https":           {&fault.Error{Op: "sign in", Code: "not https", Scope: fault.Account, Remedy: fault.Fix}, fault.Fix, fault.Account, 0},
	} {
		c2 := New(Options{HTTP: roundTrip(func(*http.Request) (*http.Response, error) { return nil, c.err })})
		err := c2.Unsubscribe(t.Context(), target, "x")
		e, ok := errors.AsType[*Error](err)
		if !ok || e.Fault.Code != code || e.Fault.Remedy != c.remedy || e.Fault.Scope != c.scope || flags(e.Fault) != c.flags {
			t.Errorf("%s: %v, %+v", code, err, e)
		}
		if !errors.Is(err, c.err) {
			t.Errorf("%s: the cause is lost", code)
		}
		if typed, ok := c.err.(*fault.Error); ok && e.Fault != typed {
			t.Errorf("%s: what was typed is no longer what it was: %+v", code, e)
		}
	}
}

func TestAPolicyThatBlocksEWSIsNamedWithItsSettings(t *testing.T) {
	err := answers(403, "").Unsubscribe(t.Context(), target, "x")
	for _, setting := range []string{"EWSEnabled", "EwsAllowedAppIDs", "EwsApplicationAccessPolicy"} {
		if !strings.Contains(err.Error(), setting) {
			t.Errorf("%s is not named: %v", setting, err)
		}
	}
}

func TestAServersWordsAreBoundedAndPrintable(t *testing.T) {
	text := "first\r\nsecond\x1b[31m\u202e " + strings.Repeat("long ", 1000)
	for name, c := range map[string]*Client{
		"message": answers(200, response("Unsubscribe", failure("Unsubscribe", "ErrorAccessDenied", text, ""))),
		"code":    answers(200, response("Unsubscribe", failure("Unsubscribe", text, "", ""))),
		"fault":   answers(500, soapFaultOf("s:Server\n"+text, text, "")),
	} {
		err := c.Unsubscribe(t.Context(), target, "x")
		e, ok := errors.AsType[*Error](err)
		if !ok || len(err.Error()) > 900 || strings.ContainsFunc(err.Error(), func(r rune) bool { return r < ' ' || r == '\u202e' }) || !strings.Contains(err.Error(), "second") {
			t.Errorf("%s: %q", name, err)
		}
		if name != "message" && e.Fault.Code != CodeFault {
			t.Errorf("%s: what is no code of EWS became one: %q", name, e.Fault.Code)
		}
	}
}

func TestWhosePolicyBlocksEWSIsTold(t *testing.T) {
	resp := &http.Response{StatusCode: http.StatusForbidden, Header: http.Header{"X-Ews-Policy-Reason": {"EWS is disabled for this tenant.\r\n\x1b[31m"}}}
	e := httpError("GetFolder", resp)
	if text := e.Error(); e.Fault.Scope != fault.Account || !strings.Contains(text, "EWS is disabled for this tenant.") || strings.ContainsAny(text, "\r\n\x1b") {
		t.Errorf("%q", text)
	}
}

func TestHowLongToWaitWhereTheServerSaysNothing(t *testing.T) {
	for code, want := range map[string]time.Duration{
		"ErrorADUnavailable": 5 * time.Second, "ErrorServerBusy": time.Minute, "ErrorMailboxMoveInProgress": 5 * time.Second,
		"ErrorImpersonationFailed":       4 * time.Minute,
		"ErrorExceededSubscriptionCount": 30 * time.Minute, "ErrorImpersonateUserDenied": time.Hour, "ErrorSubscriptionNotFound": 0,
	} {
		err := answers(500, soapFaultOf("a:"+code, "x", "")).Unsubscribe(t.Context(), target, "x")
		if f := fault.Of(err); f.Code != code || f.After != want {
			t.Errorf("%s: %v, want %v", f.Code, f.After, want)
		}
	}
}

func TestWhatAServerAsksForIsBounded(t *testing.T) {
	const days = "864000"
	for name, c := range map[string]*Client{
		"HTTP":    answers(503, "", "Retry-After", days),
		"a fault": answers(503, soapFaultOf("a:ErrorServerBusy", "x", ""), "Retry-After", days),
		"a message": answers(200, response("Unsubscribe", failure("Unsubscribe", "ErrorServerBusy", "x",
			`<m:MessageXml><t:Value Name="BackOffMilliseconds">864000000</t:Value></m:MessageXml>`))),
	} {
		if got := fault.Of(c.Unsubscribe(t.Context(), target, "x")).After; got != time.Hour {
			t.Errorf("%s: %v", name, got)
		}
	}
	// The fault's own number is the closer one.
	c := answers(500, sample(t, "34"), "Retry-After", "9")
	if got := fault.Of(c.Unsubscribe(t.Context(), target, "x")).After; got != 297749*time.Millisecond {
		t.Errorf("a fault with a number and Retry-After: %v", got)
	}
}

func TestAnErrorWithinAnotherCountsWhereItIsKnown(t *testing.T) {
	for inner, want := range map[string]string{"ErrorServerBusy": "ErrorServerBusy", "ErrorFromTheYear2030": "ErrorInternalServerError", "": "ErrorInternalServerError"} {
		body := response("Unsubscribe", failure("Unsubscribe", "ErrorInternalServerError", "x",
			`<m:MessageXml><t:Value Name="InnerErrorResponseCode">`+inner+`</t:Value></m:MessageXml>`))
		if got := fault.Of(answers(200, body).Unsubscribe(t.Context(), target, "x")).Code; got != want {
			t.Errorf("%q: %s, want %s", inner, got, want)
		}
	}
}

func TestWhatACodeOfEWSLooksLike(t *testing.T) {
	for s, want := range map[string]bool{
		"ErrorItemNotFound": true, "ErrorazAZ09": true, "Error" + strings.Repeat("x", 75): true, "Error" + strings.Repeat("x", 76): false,
		"itemNotFound": false, "": false, "Error`": false, "Error{": false, "Error@": false, "Error[": false, "Error/": false, "Error:": false, "Errorä": false,
	} {
		if got := isCode(s); got != want {
			t.Errorf("%q: %v", s, got)
		}
	}
}

func TestEveryRedirectIsOne(t *testing.T) {
	for status, want := range map[int]string{299: "HTTP 299", 300: CodeRedirect, 302: CodeRedirect, 399: CodeRedirect, 400: "HTTP 400"} {
		err := answers(status, "", "Location", "https://elsewhere.example/").Unsubscribe(t.Context(), target, "x")
		f := fault.Of(err)
		if f.Code != want {
			t.Errorf("%d: %v", status, err)
		}
		if want == CodeRedirect && (!strings.Contains(f.Text, "elsewhere.example") || !strings.Contains(f.Text, "is not followed")) {
			t.Errorf("%d: %s", status, f.Text)
		}
	}
}
