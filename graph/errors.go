package graph

// The table of errors: what each means, whom it concerns and what to do about it.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/mailbell/mailbell/internal/backoff"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/proxy"
)

// Row is the row of an error in the table: what it means, and what to do about it. Its first fields say when it applies: all that are set
// have to fit.
type Row struct {
	about  about  // what the operation was about
	Status int    // of HTTP
	Code   string // of Graph, or one of our own below
	Text   string // that Graph's text contains, without case

	As     string // the code of the error, where Graph's own says less; empty: Graph's own
	Scope  fault.Scope
	Remedy fault.Remedy
	After  time.Duration // how long to wait if Graph says nothing

	// What follows from the error: the fields of fault.Error with these names.
	Elsewhere, Moved, Gone, Missed, Unsubscribed, Untold, Unsupported bool

	Meaning string // for the administrator
}

// Codes of this package, for errors that Graph has no code of its own for.
const (
	CodeHandshake   = "handshake"              // Graph did not get back the token that it sent to a callback
	CodeExpiration  = "expiration"             // a subscription for longer than Graph allows
	CodeExists      = "subscription exists"    // the same is subscribed to already: fault.Error.Subscriptions has it
	CodeFull        = "too many subscriptions" // of the mailbox, by all apps
	CodeDenied      = "subscribing denied"     // the app may not subscribe to this mailbox
	CodeSending     = "sending denied"         // the app may not send as this mailbox
	CodePolicy      = "access policy"          // an application access policy keeps the app from this mailbox
	CodeThrottled   = "throttled"              // whatever Graph calls it
	CodeCrowded     = "crowded"                // the same, because of how much is asked for of one mailbox at once
	CodeBehind      = "mailbox server"         // that of one mailbox, behind Graph, does not take a subscription now
	CodeHeld        = "held back"              // nothing was asked for, as Graph has refused other requests for now
	CodeHangs       = "hangs"                  // a mailbox whose calls were given up, as others waited for their places
	CodeUnparseable = "unparseable answer"     // of Graph
	CodeForeign     = "not Graph"              // something that is no answer of Graph at all
	CodeRedirect    = "redirect"               // HTTP 3xx
	CodeLeft        = "not in the Inbox"       // a message that has left it
	CodeAway        = "link leads away"        // the next page would be on another host
	CodeURL         = "URL"                    // of Graph, not valid
	codeUnknown     = ""                       // the row of everything that has none
)

const (
	shortly = 5 * time.Second // a hiccup of the server
	soon    = time.Minute     // throttling without a word of how long
	later   = 4 * time.Minute // with the caller's jitter it is tried again within five minutes
	hourly  = time.Hour       // what needs a person

	// maxBackOff bounds the pause that Graph may ask for. A wrong number must not stop a mailbox for days.
	maxBackOff = time.Hour
	// maxServerText bounds Graph's own text in an error.
	maxServerText = 300
)

const needsRead = "the app needs the application permission Mail.Read with the consent of an administrator, " +
	"or the role Application Mail.Read of RBAC for Applications in a scope that has this mailbox"

// table has one row for each known error; the first that fits counts. It is never written to.
// Sources: "Microsoft Graph error responses", "Create subscription", "Outlook service limits" on Microsoft Learn, and answers that were
// reported to Microsoft.
var table = []Row{
	// The service of subscriptions passes on in its text what the server of a mailbox has answered to it. Its own status was seen to be the
	// same, 400 or 403.
	{Text: "[Status Code: TooManyRequests", As: CodeBehind, Scope: fault.Mailbox, Remedy: fault.Wait, After: soon,
		Meaning: "the mailbox's server throttles the app"},
	{Text: "[Status Code: ServiceUnavailable", As: CodeBehind, Scope: fault.Mailbox, Remedy: fault.Wait, After: shortly,
		Meaning: "the mailbox's database is offline, or moves to another server"},
	{Text: "[Status Code: GatewayTimeout", As: CodeBehind, Scope: fault.Mailbox, Remedy: fault.Wait, After: shortly,
		Meaning: "the mailbox's server does not answer in time"},
	{Text: "[Status Code: BadGateway", As: CodeBehind, Scope: fault.Mailbox, Remedy: fault.Wait, After: shortly,
		Meaning: "the mailbox's server does not answer"},
	{Text: "[Status Code: InternalServerError", As: CodeBehind, Scope: fault.Mailbox, Remedy: fault.Wait, After: shortly,
		Meaning: "an error within the mailbox's server"},

	// Subscribing.
	{about: aboutMaking, Text: "validation request", As: CodeHandshake, Scope: fault.Mailbox, Remedy: fault.Fix, After: later, Untold: true,
		Meaning: "Microsoft could not reach the callback, or did not get the right answer there"},
	{about: aboutMaking, Text: "expiration can only be", As: CodeExpiration,
		Scope: fault.Mailbox, Remedy: fault.Retry, After: shortly, Untold: true,
		Meaning: "a subscription cannot live for as long as it was asked for"},
	{about: aboutMaking, Status: http.StatusConflict, As: CodeExists,
		Scope: fault.Mailbox, Remedy: fault.Retry, After: shortly, Untold: true,
		Meaning: "there is a subscription to the same already"},
	{about: aboutMaking, Code: "ObjectIdentifierInUse", As: CodeExists,
		Scope: fault.Mailbox, Remedy: fault.Retry, After: shortly, Untold: true,
		Meaning: "there is a subscription to the same already"},
	{about: aboutMaking, Text: "SubscriptionCountReached", As: CodeFull, // with 429, which is no throttling here
		Scope: fault.Mailbox, Remedy: fault.Fix, After: hourly, Untold: true,
		Meaning: "the mailbox has as many subscriptions as it can have, 1,000 by all apps"},
	{about: aboutMaking, Text: "maximum number of active subscriptions", As: CodeFull,
		Scope: fault.Mailbox, Remedy: fault.Fix, After: hourly, Untold: true,
		Meaning: "the mailbox has as many subscriptions as it can have, 1,000 by all apps"},
	{about: aboutExisting, Text: "expiration can only be", As: CodeExpiration, Scope: fault.Mailbox, Remedy: fault.Retry, After: shortly,
		Meaning: "a subscription cannot be renewed for as long as was asked for"},
	{about: aboutExisting, Status: http.StatusNotFound, Scope: fault.Mailbox, Remedy: fault.Retry, Unsubscribed: true, Missed: true,
		Meaning: "the subscription has expired, or was removed"},
	{about: aboutExisting, Status: http.StatusGone, Scope: fault.Mailbox, Remedy: fault.Retry, Unsubscribed: true, Missed: true,
		Meaning: "the subscription has expired, or was removed"},
	{about: aboutExisting, Text: "validation request", As: CodeHandshake, Scope: fault.Mailbox, Remedy: fault.Fix, After: later,
		Meaning: "before it renewed the subscription, Microsoft could not reach the callback, or did not get the right answer there"},
	{about: aboutExisting, Status: http.StatusBadRequest, Scope: fault.Mailbox, Remedy: fault.Retry, Unsubscribed: true, Missed: true,
		Meaning: "the subscription cannot be renewed as it is: a new one is made"},

	// Throttling and temporary trouble.
	{Status: http.StatusTooManyRequests, Text: "MailboxConcurrency", As: CodeCrowded,
		Scope: fault.Mailbox, Remedy: fault.Wait, After: shortly,
		Meaning: "more of one mailbox was asked for at once than Graph allows"},
	{Status: http.StatusTooManyRequests, As: CodeThrottled, Scope: fault.Mailbox, Remedy: fault.Wait, After: soon,
		Meaning: "Graph throttles the app; asking again at once would prolong it"},
	{Code: "ApplicationThrottled", As: CodeThrottled, Scope: fault.Mailbox, Remedy: fault.Wait, After: soon,
		Meaning: "Graph throttles the app; asking again at once would prolong it"},
	{Code: CodeHeld, Scope: fault.Mailbox, Remedy: fault.Retry, After: shortly, Meaning: "Graph has refused other requests for now"},
	{Code: CodeHangs, Scope: fault.Mailbox, Remedy: fault.Wait, After: shortly,
		Meaning: "Graph does not answer for this mailbox while it does for others; the call was given up, so that they need not wait"},
	{Code: "ErrorServerBusy", Scope: fault.Mailbox, Remedy: fault.Wait, After: soon, Meaning: "the mailbox's server throttles the app"},
	{Code: "ErrorTooManyObjectsOpened", Scope: fault.Mailbox, Remedy: fault.Wait, After: soon,
		Meaning: "the app has too much open in the mailbox"},
	{Code: "ErrorMailboxMoveInProgress", Scope: fault.Mailbox, Remedy: fault.Wait, After: shortly, Moved: true, Missed: true,
		Meaning: "the mailbox is being moved"},
	{Code: "ErrorMailboxStoreUnavailable", Scope: fault.Mailbox, Remedy: fault.Wait, After: soon,
		Meaning: "the mailbox's database is offline"},
	{Code: "MailboxInfoStale", Scope: fault.Mailbox, Remedy: fault.Retry, After: shortly,
		Meaning: "Graph does not know yet where the mailbox is"},
	{Code: "ErrorInternalServerTransientError", Scope: fault.Mailbox, Remedy: fault.Retry, After: shortly,
		Meaning: "a passing error of the server"},
	{Code: "ErrorTimeoutExpired", Scope: fault.Mailbox, Remedy: fault.Retry, After: shortly, Meaning: "the server took too long"},
	{Code: "ErrorInternalServerError", Scope: fault.Mailbox, Remedy: fault.Retry, After: shortly, Meaning: "an error within the server"},
	{Code: "ErrorApiQuarantined", Scope: fault.Mailbox, Remedy: fault.Wait, After: later,
		Meaning: "the server lets nobody read the mailbox for a while, as reading it has failed"},
	{Code: "ErrorQuotaExceeded", Scope: fault.Mailbox, Remedy: fault.Fix, After: hourly, Untold: true,
		Meaning: "the mailbox is over its quota: it takes no new mail, and nothing more"},

	// Messages.
	{Code: CodeLeft, Scope: fault.Message, Remedy: fault.GiveUp, Gone: true, Meaning: "the message was moved to another folder"},
	{about: aboutMessage, Code: "ErrorItemNotFound", Scope: fault.Message, Remedy: fault.Retry, Gone: true, Meaning: "the message is gone"},
	{about: aboutMessage, Status: http.StatusNotFound, Text: "not found in the store", Scope: fault.Message, Remedy: fault.Retry, Gone: true,
		Meaning: "the message is gone"},
	{about: aboutMessage, Code: "ErrorMessageNotFound", Scope: fault.Message, Remedy: fault.Retry, Gone: true,
		Meaning: "the message is gone"},
	{about: aboutMessage, Code: "ErrorInvalidIdMalformed", Scope: fault.Message, Remedy: fault.Retry, After: soon,
		Meaning: "Graph does not accept the message's id"},
	{about: aboutMessage, Code: "BadRequest", Scope: fault.Message, Remedy: fault.Retry, After: soon,
		Meaning: "Graph does not accept the message's id"},
	{about: aboutMessage, Code: "ErrorInvalidMailboxItemId", Scope: fault.Message, Remedy: fault.GiveUp, Gone: true,
		Meaning: "the message's id is one of another mailbox"},
	{about: aboutMessage, Code: "ErrorItemCorrupt", Scope: fault.Message, Remedy: fault.Retry, After: soon,
		Meaning: "the message is damaged"},
	{about: aboutMessage, Code: "ErrorCorruptData", Scope: fault.Message, Remedy: fault.Retry, After: soon,
		Meaning: "the message is damaged"},
	{about: aboutMessage, Code: "ErrorContentConversionFailed", Scope: fault.Message, Remedy: fault.Retry, After: soon,
		Meaning: "the server cannot convert the message"},
	{about: aboutMessage, Code: CodeUnparseable, Scope: fault.Message, Remedy: fault.Retry, After: soon,
		Meaning: "Graph's answer about the message cannot be understood"},

	// The location of the mailbox.
	{Code: "MailboxNotEnabledForRESTAPI", Scope: fault.Mailbox, Remedy: fault.Fix, After: hourly, Moved: true, Elsewhere: true,
		Meaning: "the mailbox is not in Exchange Online: it is on premises, was deleted, or its user has no licence with a mailbox"},
	{Code: "MailboxNotSupportedForRESTAPI", Scope: fault.Mailbox, Remedy: fault.Fix, After: hourly, Moved: true, Elsewhere: true,
		Meaning: "the mailbox is on a server that Graph does not reach: on premises, or of a kind that it does not serve"},
	{Code: "MailboxNotHostedInExchangeOnline", Scope: fault.Mailbox, Remedy: fault.Fix, After: hourly, Moved: true, Elsewhere: true,
		Meaning: "the mailbox is not in Exchange Online"},
	{Code: "ErrorInvalidUser", Scope: fault.Mailbox, Remedy: fault.Fix, After: hourly, Moved: true, Elsewhere: true,
		Meaning: "the tenant has no user with this address; the mailbox may be on premises"},
	{Code: "ErrorNonExistentMailbox", Scope: fault.Mailbox, Remedy: fault.Fix, After: hourly, Moved: true, Elsewhere: true,
		Meaning: "there is no mailbox with this address in Exchange Online"},
	{Code: "ErrorAccountDisabled", Scope: fault.Mailbox, Remedy: fault.Fix, After: hourly,
		Meaning: "the account of the mailbox is disabled"},
	{Code: "OrganizationFromTenantGuidNotFound", Scope: fault.Account, Remedy: fault.Fix, After: hourly,
		Meaning: "the tenant has no Exchange Online: is tenant_id that of the mailboxes?"},
	{about: aboutMessage, Code: "ResourceNotFound", Scope: fault.Mailbox, Remedy: fault.Wait, After: later, Moved: true, Elsewhere: true,
		Meaning: "the tenant has no user with this address, or the message is gone; the mailbox may be on premises"},
	{Status: http.StatusNotFound, Code: "ErrorItemNotFound", Scope: fault.Mailbox, Remedy: fault.Wait, After: soon,
		Meaning: "the mailbox has no Inbox"},
	{Status: http.StatusNotFound, Scope: fault.Mailbox, Remedy: fault.Wait, After: later, Moved: true, Elsewhere: true,
		Meaning: "Graph does not find the mailbox, and does not say why; it may be on premises"},

	{about: aboutInbox, Status: http.StatusGone, Scope: fault.Mailbox, Remedy: fault.Retry, After: shortly,
		Meaning: "the link to the next page has run out: the Inbox is listed from its start again"},

	// Permissions.
	{Text: "AppOnly AccessPolicy", As: CodePolicy, Scope: fault.Mailbox, Remedy: fault.Fix, After: hourly, Untold: true,
		Meaning: "an application access policy of the tenant keeps the app from this mailbox: see Get-ApplicationAccessPolicy and " +
			"Test-ApplicationAccessPolicy"},
	{about: aboutSending, Status: http.StatusForbidden, As: CodeSending, Scope: fault.Mailbox, Remedy: fault.Fix, After: hourly,
		Meaning: "the app may not send as this mailbox: it needs the application permission Mail.Send with the consent of an administrator, " +
			"or the role Application Mail.Send of RBAC for Applications in a scope that has this mailbox"},
	{about: aboutMaking, Status: http.StatusForbidden, As: CodeDenied,
		Scope: fault.Mailbox, Remedy: fault.Fix, After: hourly, Untold: true, Unsupported: true,
		Meaning: "the app may not subscribe to this mailbox: Mail.ReadBasic is not enough for that, " + needsRead},
	{about: aboutMaking, Text: "Status Code: Forbidden", As: CodeDenied,
		Scope: fault.Mailbox, Remedy: fault.Fix, After: hourly, Untold: true, Unsupported: true,
		Meaning: "the app may not subscribe to this mailbox: Mail.ReadBasic is not enough for that, " + needsRead},
	{about: aboutMaking, Text: "Status Code: Unauthorized", As: CodeDenied,
		Scope: fault.Mailbox, Remedy: fault.Fix, After: hourly, Untold: true, Unsupported: true,
		Meaning: "the app may not subscribe to this mailbox: Mail.ReadBasic is not enough for that, " + needsRead},
	{about: aboutMaking, Text: "Status Code: NotFound",
		Scope: fault.Mailbox, Remedy: fault.Wait, After: later, Moved: true, Elsewhere: true, Untold: true,
		Meaning: "Graph does not find the mailbox to subscribe to; it may be on premises"},
	{about: aboutExisting, Status: http.StatusForbidden, Scope: fault.Mailbox, Remedy: fault.Retry, Unsubscribed: true, Missed: true,
		Meaning: "the subscription is not this app's"},
	{Status: http.StatusForbidden, Scope: fault.Account, Remedy: fault.Fix, After: hourly,
		Meaning: "the app may not read this mailbox: it needs the application permission Mail.ReadBasic.All or Mail.Read with the " +
			"consent of an administrator, or " +
			"such a role of RBAC for Applications in a scope that has this mailbox"},
	{Status: http.StatusUnauthorized, Scope: fault.Account, Remedy: fault.Fix, After: later, Meaning: "Graph does not accept the token"},

	// Our requests.
	{Code: "InefficientFilter", Scope: fault.Mailbox, Remedy: fault.Fix, After: hourly,
		Meaning: "the mailbox's server cannot list the Inbox in the order of received times"},
	{about: aboutMaking, Status: http.StatusBadRequest,
		Scope: fault.Mailbox, Remedy: fault.Fix, After: hourly, Untold: true, Unsupported: true,
		Meaning: "Graph does not accept the subscription"},
	{about: aboutMaking, Status: http.StatusNotImplemented,
		Scope: fault.Mailbox, Remedy: fault.Wait, After: hourly, Untold: true, Unsupported: true,
		Meaning: "Graph does not have such subscriptions in this cloud"},
	{Status: http.StatusBadRequest, Scope: fault.Mailbox, Remedy: fault.Wait, After: later, Meaning: "Graph does not accept the request"},

	// HTTP statuses without an answer of Graph.
	{Status: http.StatusProxyAuthRequired, Scope: fault.Server, Remedy: fault.Fix, After: later, Meaning: "a proxy wants a sign-in"},
	{Status: http.StatusInternalServerError, Scope: fault.Mailbox, Remedy: fault.Retry, After: shortly, Meaning: "an error within Graph"},
	{Status: http.StatusBadGateway, Scope: fault.Server, Remedy: fault.Wait, After: shortly,
		Meaning: "the server behind Graph does not answer"},
	{Status: http.StatusServiceUnavailable, Scope: fault.Server, Remedy: fault.Wait, After: shortly,
		Meaning: "Graph is overloaded, or not there at the moment"},
	{Status: http.StatusGatewayTimeout, Scope: fault.Server, Remedy: fault.Wait, After: shortly,
		Meaning: "the server behind Graph does not answer in time"},
	{Status: http.StatusInsufficientStorage, Scope: fault.Mailbox, Remedy: fault.Fix, After: hourly, Untold: true,
		Meaning: "the mailbox is over its quota"},
	{Code: CodeRedirect, Scope: fault.Server, Remedy: fault.Fix, After: later,
		Meaning: "the server redirects, which is not followed, as it would carry the token away"},
	{Code: CodeAway, Scope: fault.Mailbox, Remedy: fault.Fix, After: hourly,
		Meaning: "the answer names the next page on another host, to which the token is not sent"},
	{Code: CodeURL, Scope: fault.Mailbox, Remedy: fault.Fix, After: hourly, Meaning: "the URL of Graph is not valid"},
	{Code: CodeForeign, Scope: fault.Server, Remedy: fault.Wait, After: soon,
		Meaning: "something else than Graph answers: a login page, or a proxy"},
	{Code: CodeUnparseable, Scope: fault.Mailbox, Remedy: fault.Wait, After: soon, Meaning: "Graph's answer cannot be understood"},

	// The connection.
	{Code: proxy.CodeCertificate, Scope: fault.Server, Remedy: fault.Fix, After: later, Meaning: "Graph's certificate is not trusted"},
	{Code: proxy.CodeTLS, Scope: fault.Server, Remedy: fault.Fix, After: later, Meaning: "no TLS connection could be agreed on"},
	{Code: proxy.CodePlain, Scope: fault.Server, Remedy: fault.Retry, After: shortly,
		Meaning: "the server answers in plain text where TLS was expected"},
	{Code: proxy.CodeSecure, Scope: fault.Server, Remedy: fault.Fix, After: later,
		Meaning: "the server speaks TLS, and was asked in plain text"},
	{Code: proxy.CodeName, Scope: fault.Server, Remedy: fault.Wait, After: soon, Meaning: "Graph's name could not be looked up"},
	{Code: proxy.CodeConnect, Scope: fault.Server, Remedy: fault.Wait, After: shortly, Meaning: "Graph cannot be reached"},
	{Code: proxy.CodeTimeout, Scope: fault.Server, Remedy: fault.Wait, After: shortly, Meaning: "Graph did not answer in time"},
	{Code: proxy.CodeNetwork, Scope: fault.Server, Remedy: fault.Retry, After: shortly, Meaning: "the connection broke"},
	{Code: proxy.CodeProxy, Scope: fault.Server, Remedy: fault.Fix, After: later,
		Meaning: "the proxy refused the connection, or could not make it"},
	{Code: proxy.CodePrivate, Scope: fault.Server, Remedy: fault.Fix, After: hourly, Meaning: "Graph's name leads to a private address"},

	// Everything else. A wrong guess costs a retry and a listing.
	{Scope: fault.Mailbox, Remedy: fault.Wait, After: soon, Meaning: "an error that mailbell does not know"},
}

// Rows returns the table, for documentation and tests.
func Rows() []Row { return slices.Clone(table) }

// fits says whether a row applies.
func (r *Row) fits(op operation, s said) bool {
	return (r.about == anything || r.about == op.about) && (r.Status == 0 || r.Status == s.status) && (r.Code == "" || r.Code == s.code) &&
		(r.Text == "" || strings.Contains(strings.ToLower(s.text), strings.ToLower(r.Text)))
}

// said is what an answer says went wrong.
type said struct {
	status     int
	code, text string
	after      time.Duration // Retry-After; 0: none
	cause      error
	evidence   fault.Evidence
}

// Error is an error of a call, or of one message. It wraps the *fault.Error.
type Error struct {
	Fault     *fault.Error
	RequestID string // client-request-id: what to look for in Microsoft's logs; "": no request was made

	asked time.Duration // Retry-After; 0: none
	app   bool          // with CodeHeld: nothing is asked for of any mailbox
}

func (e *Error) Error() string { return e.Fault.Error() }

// Unwrap lets fault.Of and errors.AsType find the typed error.
func (e *Error) Unwrap() error { return e.Fault }

// newError makes an error of the first row that fits.
func newError(op operation, s said) *Error {
	row := &table[slices.IndexFunc(table, func(r Row) bool { return r.fits(op, s) })] // the last fits everything
	code := s.code
	switch {
	case row.As != "":
		code = row.As
	case !isCode(code) && s.status != 0:
		code = fmt.Sprintf("HTTP %d", s.status)
	}
	f := &fault.Error{
		Op: op.name, Code: code, Text: row.Meaning, Scope: row.Scope, Remedy: row.Remedy, After: row.After, Err: s.cause,
		Elsewhere: row.Elsewhere, Moved: row.Moved, Gone: row.Gone, Missed: row.Missed, Unsubscribed: row.Unsubscribed,
		Untold: row.Untold, Unsupported: row.Unsupported, Evidence: s.evidence,
	}
	f.Peer = fault.Graph
	if s.after > 0 {
		f.After, f.Asked = s.after, true
	}
	if text := proxy.Printable(op.without(s.text), maxServerText); text != "" {
		f.Text += fmt.Sprintf("; Graph says: %q", text)
	}
	if row.As == CodeExists {
		f.Subscriptions = subscriptionID.FindAllString(s.text, 1)
	}
	return &Error{Fault: f, asked: s.after}
}

// subscriptionID finds the id of the subscription that exists already in Graph's text: a GUID.
var subscriptionID = regexp.MustCompile(`[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}`)

// without is a text without the operation's secrets.
func (op operation) without(text string) string {
	for _, secret := range op.secrets {
		if secret != "" {
			text = strings.ReplaceAll(text, secret, "…")
		}
	}
	return text
}

// isCode reports whether s looks like a code of Graph: it is a label of metrics and states.
func isCode(s string) bool {
	const longest = 80
	return s != "" && len(s) <= longest && !strings.ContainsFunc(s, func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '_' || r == '.' || r == ' ')
	})
}

// graphError is the body of an answer that is an error.
type graphError struct {
	Error struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	} `json:"error"`
}

// refused types an answer with another status than 2xx.
func refused(ctx context.Context, op operation, resp *http.Response) error {
	s := said{status: resp.StatusCode, after: backoff.RetryAfter(resp.Header, maxBackOff), evidence: proxy.EvidenceOf(resp, fault.Graph)}
	if resp.StatusCode >= 300 && resp.StatusCode < 400 {
		s.code = CodeRedirect
		if s.evidence.Leads != "" {
			s.text = "Location: " + s.evidence.Leads
		}
		return newError(op, s)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxErrorAnswer))
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w", op.name, ctx.Err())
	}
	if err == nil && s.read(body) {
		s.evidence.Detail = fault.None // it is Graph that refuses
	}
	return newError(op, s)
}

// read takes in the body of an error, and reports whether it is one of Graph.
func (s *said) read(body []byte) bool {
	var e graphError
	if json.Unmarshal(body, &e) != nil || e.Error.Code == "" && e.Error.Message == "" {
		return false
	}
	s.code, s.text = e.Error.Code, e.Error.Message
	if !isCode(s.code) {
		s.code, s.text = "", strings.TrimSpace(s.code+" "+s.text)
	}
	return true
}

// refused types the answer to one request of a batch. The batch itself was let in, so neither the account nor Graph is at fault.
func (r *batchResponse) refused(op operation) *Error {
	s := said{status: r.Status, evidence: fault.Evidence{Status: r.Status}}
	h := http.Header{}
	for name, value := range r.Headers {
		h.Set(name, value)
	}
	s.after = backoff.RetryAfter(h, maxBackOff)
	s.read(r.Body)
	e := newError(op, s)
	if s.status != http.StatusForbidden && s.status != http.StatusUnauthorized {
		e.Fault.Scope = min(e.Fault.Scope, fault.Mailbox)
	}
	return e
}

// unparseable types an answer that cannot be understood.
func unparseable(op operation, why string) *Error {
	return newError(op, said{code: CodeUnparseable, cause: errors.New(why)})
}

// pageError types a web page where an answer of Graph belongs.
func pageError(op operation, resp *http.Response) *Error {
	s := said{code: CodeForeign, cause: errors.New("it is a web page (text/html)"), evidence: proxy.EvidenceOf(resp, fault.Graph)}
	s.evidence.Detail = fault.SignInPage
	return newError(op, s)
}

// connError types an error of the connection. An error because the caller ended the context stays as it is, and so does one that is typed
// already, such as the refusal of a credential or a proxy.
func connError(ctx context.Context, op operation, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w", op.name, ctx.Err())
	}
	f := proxy.Explain(op.name, err)
	if _, typed := errors.AsType[*fault.Error](err); !typed {
		f.Peer = fault.Graph
		if f.After == 0 {
			f.After = newError(op, said{code: f.Code}).Fault.After
		}
	}
	return &Error{Fault: f.From(fault.Graph)}
}
