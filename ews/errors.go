package ews

// The table of errors: what each means, whom it concerns and what to do about it.

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/mailbell/mailbell/internal/backoff"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/proxy"
)

// Row is the row of an error in the table: what it means, and what to do about it.
type Row struct {
	Code   string // the response code of EWS, "HTTP 503", one of proxy's codes, or one of our own below
	Text   string // the row applies only if the server's text contains this; "": always
	Scope  fault.Scope
	Remedy fault.Remedy
	After  time.Duration // how long to wait if the server says nothing

	// What follows from the error: the fields of fault.Error with these names.
	Elsewhere, Moved, Gone, Missed, Unsubscribed, Misled, Superseded, Untold, Unsupported bool

	Meaning string // for the administrator
}

// Codes of this package, for errors that EWS has no code for.
const (
	CodeSilent            = "silent"             // a stream without a byte for too long
	CodeHeldBack          = "stream held back"   // a stream that does not bring its first envelope
	CodeOverdue           = "overdue"            // a stream that the server did not end in time
	CodeCut               = "cut"                // a stream that ended without the server's Closed
	CodeUnparseableStream = "unparseable stream" // an envelope of a stream
	CodeUnparseableItem   = "unparseable item"   // an answer of GetItem: ask for its items one by one
	CodeUnparseableAnswer = "unparseable answer" // any other answer
	CodeForeign           = "not EWS"            // something that is no SOAP answer at all
	CodeRedirect          = "redirect"           // HTTP 3xx
	CodeHangs             = "hangs"              // a mailbox whose calls were given up, as others waited for their places
	CodeURL               = "URL"                // of EWS, not valid
	CodeFault             = "SOAP fault"         // one without a code of EWS
	codeHeld              = "sign-in held"       // by the credential, before anything is sent
	CodeHost              = "host not allowed"   // likewise: the credential does not go there
	CodeUntrusted         = "host not trusted"   // likewise: it has asked for the credential
	codeStatus            = "HTTP"               // any other status without an answer of EWS
	codeUnknown           = ""                   // the row of everything that has none
)

const (
	shortly   = 5 * time.Second  // a hiccup of the server
	soon      = time.Minute      // a failover, a restart: also DavMail's pause when it is throttled without a word of how long
	later     = 4 * time.Minute  // what mostly takes a person: with the caller's jitter it is tried again within five minutes
	longAfter = 30 * time.Minute // unused subscriptions have to expire at the server
	hourly    = time.Hour        // what needs a person

	// maxBackOff bounds the pause that a server may ask for; five minutes are usual. A wrong number must not stop a mailbox for days.
	maxBackOff = time.Hour
	// maxServerText bounds the server's own text in an error.
	maxServerText = 300
)

// table has one row for each known error; the first that matches counts. It is never written to.
// Sources: "Handling notification-related errors in EWS" and "ResponseCode" on Microsoft Learn, and texts that Microsoft's support
// recorded (David-Barrett-MS/EWSStreamingNotificationSample).
var table = []Row{
	// The subscription is gone.
	{Code: "ErrorSubscriptionNotFound", Scope: fault.Mailbox, Remedy: fault.Retry, Unsubscribed: true, Missed: true,
		Meaning: "the subscription expired, or the server restarted, or another server answered than the one that holds it"},
	{Code: "ErrorInvalidSubscription", Text: "MailboxMove", Scope: fault.Mailbox, Remedy: fault.Wait,
		After: soon, Unsubscribed: true, Moved: true, Missed: true,
		Meaning: "the mailbox is being moved, which ends its subscription"},
	{Code: "ErrorInvalidSubscription", Scope: fault.Mailbox, Remedy: fault.Retry, Unsubscribed: true, Missed: true,
		Meaning: "the subscription expired, or the server is restarting"},
	{Code: "ErrorExpiredSubscription", Scope: fault.Mailbox, Remedy: fault.Retry, Unsubscribed: true, Missed: true,
		Meaning: "the subscription expired at the server"},
	{Code: "ErrorSubscriptionUnsubscribed", Scope: fault.Mailbox, Remedy: fault.Retry, Unsubscribed: true, Missed: true,
		Meaning: "the subscription was given back"},
	{Code: "ErrorEventNotFound", Scope: fault.Mailbox, Remedy: fault.Retry, Unsubscribed: true, Missed: true,
		Meaning: "the events of the subscription were deleted at the server"},
	{Code: "ErrorInvalidWatermark", Scope: fault.Mailbox, Remedy: fault.Retry, Unsubscribed: true, Missed: true,
		Meaning: "the server no longer knows where the subscription stands"},
	{Code: "ErrorReadEventsFailed", Scope: fault.Mailbox, Remedy: fault.Retry, Unsubscribed: true, Moved: true, Missed: true,
		Meaning: "the events of the subscription cannot be read"},
	{Code: "ErrorSubscriptionAccessDenied", Scope: fault.Mailbox, Remedy: fault.Retry, Unsubscribed: true, Missed: true,
		Meaning: "the subscription belongs to another account"},
	{Code: "ErrorMissedNotificationEvents", Scope: fault.Mailbox, Remedy: fault.Retry, Missed: true,
		Meaning: "events were lost; the subscription goes on"},

	// The stream.
	{Code: "ErrorNewEventStreamConnectionOpened", Scope: fault.Group, Remedy: fault.Wait, After: soon, Missed: true, Superseded: true,
		Meaning: "another connection reads the same subscriptions: does a second mailbell use this account?"},
	{Code: "ErrorExceededConnectionCount", Scope: fault.Group, Remedy: fault.Wait, After: soon, Missed: true,
		Meaning: "too many streams are open for the mailbox or account that they are charged to (HangingConnectionLimit)"},
	{Code: CodeSilent, Scope: fault.Group, Remedy: fault.Retry, Missed: true,
		Meaning: "the stream brought neither events nor heartbeats: the connection is dead"},
	{Code: CodeHeldBack, Scope: fault.Group, Remedy: fault.Wait, After: shortly, Misled: true, Missed: true,
		Meaning: "the stream brings nothing, not even its first envelope: something before the server buffers it (with nginx: set proxy_buffering off), or the server hangs"},
	{Code: CodeOverdue, Scope: fault.Group, Remedy: fault.Retry, Missed: true,
		Meaning: "the server did not end the stream when its time was over"},
	{Code: CodeCut, Scope: fault.Group, Remedy: fault.Retry, Missed: true,
		Meaning: "the stream ended in the middle: a restart, or something between here and the server cut it"},
	{Code: CodeUnparseableStream, Scope: fault.Group, Remedy: fault.Retry, After: shortly, Missed: true,
		Meaning: "the stream brought something that cannot be understood"},

	// Subscribing.
	{Code: "ErrorExceededSubscriptionCount", Scope: fault.Mailbox, Remedy: fault.Wait, After: longAfter, Untold: true,
		Meaning: "the mailbox has too many subscriptions, or the throttling policy allows none (EWSMaxSubscriptions)"},
	{Code: "ErrorSubscriptionDelegateAccessNotSupported", Scope: fault.Mailbox, Remedy: fault.Fix, After: hourly,
		Meaning: "delegate rights are not enough: the account needs the role ApplicationImpersonation for this mailbox"},
	{Code: "ErrorInvalidPushSubscriptionUrl", Scope: fault.Mailbox, Remedy: fault.Fix, After: hourly, Untold: true,
		Meaning: "the server does not accept the URL at which it is to call back (public_url)"},
	{Code: "ErrorInvalidSubscriptionRequest", Scope: fault.Mailbox, Remedy: fault.Fix, After: hourly, Untold: true, Unsupported: true,
		Meaning: "the server does not accept the subscription"},

	// Throttling and temporary trouble.
	{Code: "ErrorServerBusy", Scope: fault.Mailbox, Remedy: fault.Wait, After: soon,
		Meaning: "the server throttles the account on this mailbox; asking again at once would prolong it"},
	{Code: "ErrorInternalServerTransientError", Scope: fault.Mailbox, Remedy: fault.Retry, After: shortly,
		Meaning: "a passing error of the server"},
	{Code: "ErrorADUnavailable", Scope: fault.Mailbox, Remedy: fault.Retry, After: shortly,
		Meaning: "the server cannot reach Active Directory"},
	{Code: "ErrorADOperation", Scope: fault.Mailbox, Remedy: fault.Retry, After: shortly,
		Meaning: "the server's question to Active Directory failed"},
	{Code: "ErrorTimeoutExpired", Scope: fault.Mailbox, Remedy: fault.Retry, After: shortly, Meaning: "the server took too long"},
	{Code: "ErrorInsufficientResources", Scope: fault.Mailbox, Remedy: fault.Retry, After: shortly,
		Meaning: "the server is short of resources"},
	{Code: "ErrorTooManyObjectsOpened", Scope: fault.Mailbox, Remedy: fault.Retry, After: shortly,
		Meaning: "the account has too much open in the mailbox"},
	{Code: "ErrorBatchProcessingStopped", Scope: fault.Mailbox, Remedy: fault.Retry, After: shortly,
		Meaning: "the server stopped within a batch"},
	{Code: "ErrorInternalServerError", Scope: fault.Mailbox, Remedy: fault.Retry, After: shortly, Meaning: "an error within the server"},

	// The location of the mailbox.
	{Code: "ErrorProxyRequestNotAllowed", Scope: fault.Mailbox, Remedy: fault.Retry, Unsubscribed: true, Moved: true, Misled: true, Missed: true,
		Meaning: "the mailbox moved to another site"},
	// Its end takes seconds to minutes: the tries follow each other soon, and then more slowly.
	{Code: "ErrorMailboxMoveInProgress", Scope: fault.Mailbox, Remedy: fault.Wait, After: shortly, Unsubscribed: true, Moved: true, Missed: true,
		Meaning: "the mailbox is being moved, or was moved already"},
	{Code: "ErrorMailboxStoreUnavailable", Scope: fault.Mailbox, Remedy: fault.Wait,
		After: soon, Unsubscribed: true, Moved: true, Missed: true,
		Meaning: "the mailbox database is offline"},
	{Code: "ErrorMailboxFailover", Scope: fault.Mailbox, Remedy: fault.Wait, After: soon, Unsubscribed: true, Moved: true, Missed: true,
		Meaning: "the mailbox database is failing over to another server"},
	{Code: "ErrorConnectionFailed", Scope: fault.Mailbox, Remedy: fault.Wait, After: soon, Unsubscribed: true, Moved: true, Missed: true,
		Meaning: "the server cannot reach the mailbox database"},
	{Code: "ErrorNoRespondingCASInDestinationSite", Scope: fault.Mailbox, Remedy: fault.Wait,
		After: soon, Moved: true, Misled: true, Missed: true,
		Meaning: "no server answers in the site of the mailbox"},
	{Code: "ErrorProxiedSubscriptionCallFailure", Scope: fault.Mailbox, Remedy: fault.Wait,
		After: soon, Unsubscribed: true, Moved: true, Misled: true, Missed: true,
		Meaning: "the server could not pass the call on to the one that holds the subscription"},
	{Code: "ErrorCrossSiteRequest", Scope: fault.Mailbox, Remedy: fault.Wait, After: soon, Moved: true, Misled: true, Missed: true,
		Meaning: "the mailbox is in another site, which has its own URL"},
	{Code: "ErrorNonExistentMailbox", Scope: fault.Mailbox, Remedy: fault.Fix, After: hourly, Moved: true, Elsewhere: true,
		Meaning: "the server knows no mailbox with this address; it may have moved to another Exchange"},
	{Code: "ErrorCannotFindUser", Scope: fault.Mailbox, Remedy: fault.Fix, After: hourly, Moved: true, Elsewhere: true, // gromox's code for it
		Meaning: "the server knows no user with this address; the mailbox may have moved to another Exchange"},

	// Permissions.
	{Code: "ErrorImpersonateUserDenied", Scope: fault.Mailbox, Remedy: fault.Fix, After: hourly,
		Meaning: "the account may not impersonate this mailbox: its role ApplicationImpersonation does not cover it"},
	{Code: "ErrorImpersonationDenied", Scope: fault.Account, Remedy: fault.Fix, After: hourly,
		Meaning: "the account may not impersonate on this server"},
	{Code: "ErrorImpersonationFailed", Scope: fault.Mailbox, Remedy: fault.Wait, After: later,
		Meaning: "impersonation failed within the server or its directory"},
	{Code: "ErrorSendAsDenied", Scope: fault.Mailbox, Remedy: fault.Fix, After: hourly, Meaning: "the account may not send as this mailbox"},
	{Code: "ErrorAccountDisabled", Scope: fault.Mailbox, Remedy: fault.Fix, After: hourly, Meaning: "the account of the mailbox is disabled"},
	{Code: "ErrorInvalidUserPrincipalName", Scope: fault.Mailbox, Remedy: fault.Fix, After: hourly,
		Meaning: "the mailbox's user principal name is not valid"},
	{Code: "ErrorInvalidUserSid", Scope: fault.Mailbox, Remedy: fault.Fix, After: hourly,
		Meaning: "the mailbox's security identifier is not valid"},
	{Code: "ErrorMissingEmailAddress", Scope: fault.Mailbox, Remedy: fault.Fix, After: hourly, Meaning: "the user has no mail address"},
	{Code: "ErrorAccessDenied", Scope: fault.Account, Remedy: fault.Fix, After: hourly,
		Meaning: "the account has no right to do this, or a policy blocks EWS"},
	{Code: "ErrorOrganizationAccessBlocked", Scope: fault.Account, Remedy: fault.Fix, After: hourly,
		Meaning: "the organisation is blocked: its tenant is to be removed"},

	// Our requests.
	{Code: codeVersion, Scope: fault.Server, Remedy: fault.Fix, After: hourly, // to Exchange2010_SP1, which is requested last: see Dialect
		Meaning: "the server is older than Exchange 2010 SP1: it has no streaming notifications, without which mailbell cannot listen"},
	{Code: "ErrorIncorrectSchemaVersion", Scope: fault.Server, Remedy: fault.Fix, After: hourly,
		Meaning: "the server does not know what was asked for in this RequestServerVersion"},
	{Code: "ErrorSchemaValidation", Scope: fault.Mailbox, Remedy: fault.Fix, After: hourly, Untold: true, Unsupported: true,
		Meaning: "the server does not understand the request: it may be older than the RequestServerVersion"},
	{Code: "ErrorInvalidRequest", Scope: fault.Mailbox, Remedy: fault.Fix, After: hourly, Untold: true, Unsupported: true, Meaning: "the server does not accept the request"},

	// Items.
	{Code: "ErrorItemNotFound", Scope: fault.Message, Remedy: fault.Retry, Gone: true,
		Meaning: "the message is gone, or was moved to another folder"},
	{Code: "ErrorItemCorrupt", Scope: fault.Message, Remedy: fault.Retry, After: soon, Meaning: "the message is damaged"},
	{Code: "ErrorCorruptData", Scope: fault.Message, Remedy: fault.Retry, After: soon, Meaning: "the message is damaged"},
	{Code: "ErrorContentConversionFailed", Scope: fault.Message, Remedy: fault.Retry, After: soon,
		Meaning: "the server cannot convert the message"},
	{Code: "ErrorMimeContentConversionFailed", Scope: fault.Message, Remedy: fault.Retry, After: soon,
		Meaning: "the server cannot convert the message"},
	{Code: "ErrorMessageSizeExceeded", Scope: fault.Message, Remedy: fault.Retry, After: soon,
		Meaning: "the message is too large for the server to hand out"},
	{Code: "ErrorPropertyValidationFailure", Scope: fault.Message, Remedy: fault.Retry, After: soon,
		Meaning: "a property of the message is not valid"},
	{Code: "ErrorItemPropertyRequestFailed", Scope: fault.Message, Remedy: fault.Retry, After: soon,
		Meaning: "a property of the message cannot be read"},
	{Code: "ErrorUnsupportedMimeConversion", Scope: fault.Message, Remedy: fault.Retry, After: soon,
		Meaning: "the server cannot convert the message"},
	{Code: "ErrorDataSizeLimitExceeded", Scope: fault.Message, Remedy: fault.Retry, After: soon,
		Meaning: "the message is too large for the server to hand out"},
	{Code: "ErrorVirusDetected", Scope: fault.Message, Remedy: fault.Retry, After: soon,
		Meaning: "the server does not hand the message out, as a virus was found in it"},
	{Code: "ErrorVirusMessageDeleted", Scope: fault.Message, Remedy: fault.GiveUp, Gone: true,
		Meaning: "the message was deleted, as a virus was found in it"},
	{Code: "ErrorInvalidId", Scope: fault.Message, Remedy: fault.Retry, After: soon, Meaning: "the server does not accept the item's id"},
	{Code: "ErrorInvalidIdMalformed", Scope: fault.Message, Remedy: fault.Retry, After: soon,
		Meaning: "the server does not accept the item's id"},
	{Code: "ErrorInvalidIdEmpty", Scope: fault.Message, Remedy: fault.Retry, After: soon, Meaning: "the item has no id"},
	{Code: CodeUnparseableItem, Scope: fault.Message, Remedy: fault.Retry, After: soon,
		Meaning: "the server's answer about the message cannot be understood"},

	// HTTP statuses without an answer of EWS.
	{Code: "HTTP 401", Scope: fault.Account, Remedy: fault.Fix, After: later, Meaning: "the server does not accept the user name or password"},
	{Code: "HTTP 403", Scope: fault.Account, Remedy: fault.Fix, After: hourly,
		Meaning: "a policy blocks EWS: look at EWSEnabled of the organisation and of the mailbox, at EwsAllowedAppIDs (is the app's id on it?), and at " +
			"EwsApplicationAccessPolicy with EwsAllowList or EwsBlockList (which know mailbell by its user agent)"},
	{Code: "HTTP 404", Scope: fault.Server, Remedy: fault.Fix, After: later, Moved: true, Misled: true, Meaning: "there is no EWS at this URL"},
	{Code: "HTTP 429", Scope: fault.Account, Remedy: fault.Wait, After: soon, Meaning: "the server throttles the account"},
	{Code: "HTTP 500", Scope: fault.Server, Remedy: fault.Wait, After: shortly, Moved: true, Misled: true,
		Meaning: "the server failed, or X-AnchorMailbox led to the wrong one"},
	{Code: "HTTP 502", Scope: fault.Server, Remedy: fault.Wait, After: shortly, Moved: true, Misled: true,
		Meaning: "the server behind the load balancer does not answer"},
	{Code: "HTTP 503", Scope: fault.Server, Remedy: fault.Wait, After: shortly, Moved: true, Misled: true, Meaning: "the server is restarting or overloaded"},
	{Code: "HTTP 504", Scope: fault.Server, Remedy: fault.Wait, After: shortly, Moved: true, Misled: true,
		Meaning: "the server behind the load balancer does not answer in time"},
	{Code: codeStatus, Scope: fault.Server, Remedy: fault.Wait, After: shortly, Missed: true,
		Meaning: "the server, or something before it, answers with a status that EWS does not use"},
	{Code: CodeRedirect, Scope: fault.Server, Remedy: fault.Fix, After: later, Moved: true, // it may be a page of maintenance
		Meaning: "the server redirects, which is not followed, as it would carry credentials away"},
	{Code: CodeHangs, Scope: fault.Mailbox, Remedy: fault.Wait, After: shortly, Missed: true,
		Meaning: "the server does not answer for this mailbox while it does for others; the call was given up, so that they need not wait"},
	{Code: CodeURL, Scope: fault.Mailbox, Remedy: fault.Fix, After: hourly, Moved: true, Meaning: "the URL of EWS is not valid"},
	{Code: CodeForeign, Scope: fault.Server, Remedy: fault.Wait, After: soon, Missed: true,
		Meaning: "something else than EWS answers at this URL: a login page, a proxy or a load balancer"},
	{Code: CodeUnparseableAnswer, Scope: fault.Mailbox, Remedy: fault.Wait, After: soon, Meaning: "the server's answer cannot be understood"},
	{Code: CodeFault, Scope: fault.Mailbox, Remedy: fault.Wait, After: soon, Meaning: "the server refused the request without a code of EWS"},

	// The connection. One that broke while a stream was being opened may have taken events out of their queues.
	{Code: proxy.CodeCertificate, Scope: fault.Server, Remedy: fault.Fix, After: later, Meaning: "the server's certificate is not trusted"},
	{Code: proxy.CodeTLS, Scope: fault.Server, Remedy: fault.Fix, After: later, Meaning: "no TLS connection could be agreed on"},
	{Code: proxy.CodePlain, Scope: fault.Server, Remedy: fault.Retry, After: shortly,
		Meaning: "the server answers in plain text where TLS was expected: it may have too many connections"},
	{Code: proxy.CodeSecure, Scope: fault.Server, Remedy: fault.Fix, After: later,
		Meaning: "the server speaks TLS, and was asked in plain text"},
	{Code: proxy.CodeName, Scope: fault.Server, Remedy: fault.Wait, After: soon, Moved: true,
		Meaning: "the server's name could not be looked up"},
	{Code: proxy.CodeConnect, Scope: fault.Server, Remedy: fault.Wait, After: shortly, Moved: true, Meaning: "the server cannot be reached"},
	{Code: proxy.CodeTimeout, Scope: fault.Server, Remedy: fault.Wait, After: shortly, Missed: true,
		Meaning: "the server did not answer in time"},
	{Code: proxy.CodeNetwork, Scope: fault.Server, Remedy: fault.Retry, After: shortly, Missed: true, Meaning: "the connection broke"},
	{Code: proxy.CodeProxy, Scope: fault.Server, Remedy: fault.Fix, After: later,
		Meaning: "the proxy refused the connection, or could not make it"},
	{Code: proxy.CodePrivate, Scope: fault.Server, Remedy: fault.Fix, After: hourly,
		Meaning: "the server's name leads to a private address, where an entry of the cloud is never led"},

	// Signing in.
	{Code: codeHeld, Scope: fault.Account, Remedy: fault.Wait, After: later,
		Meaning: "sign-ins failed, and the next is held back so that the account is not locked out"},
	{Code: CodeHost, Scope: fault.Mailbox, Remedy: fault.Fix, After: hourly, Moved: true, Meaning: "credentials do not go to this host"},
	{Code: CodeUntrusted, Scope: fault.Mailbox, Remedy: fault.Fix, After: hourly, Moved: true,
		Meaning: "credentials go to this host only where it is configured, since it has not shown to be an Exchange"},

	// Everything else. A wrong guess costs a retry and a listing.
	{Code: codeUnknown, Scope: fault.Mailbox, Remedy: fault.Wait, After: soon, Unsubscribed: true, Missed: true,
		Meaning: "an error that mailbell does not know"},
}

// Rows returns the table, for documentation and tests.
func Rows() []Row { return slices.Clone(table) }

// known reports whether the table has a row for the code itself.
func known(code string) bool { return lookup(code, "").Code != codeUnknown }

// lookup returns the row for a code and the text that came with it.
func lookup(code, text string) Row {
	for _, r := range table {
		if r.Code == code && strings.Contains(text, r.Text) {
			return r
		}
	}
	if strings.HasPrefix(code, codeStatus+" ") {
		return lookup(codeStatus, text)
	}
	return table[len(table)-1] // the unknown
}

// Error is an error of a call, an item or a stream. It wraps the *fault.Error.
type Error struct {
	Fault     *fault.Error
	RequestID string // client-request-id: what to look for in the server's logs; "": no request was made
}

func (e *Error) Error() string { return e.Fault.Error() }

// Unwrap lets fault.Of and errors.AsType find the typed error.
func (e *Error) Unwrap() error { return e.Fault }

// newError makes an error of its row. asked is how long the server asks to wait; 0: it does not.
func newError(op, code, text string, asked time.Duration, cause error) *Error {
	row := lookup(code, text)
	f := &fault.Error{Op: op, Code: code, Text: row.Meaning, Scope: row.Scope, Remedy: row.Remedy, After: row.After, Err: cause,
		Evidence: fault.Evidence{Peer: fault.Exchange}}
	row.follow(f)
	if asked > 0 {
		f.After, f.Asked = min(asked, maxBackOff), true
	}
	text = proxy.Printable(text, maxServerText)
	if text != "" {
		f.Text += fmt.Sprintf("; the server says: %q", text)
	}
	return &Error{Fault: f}
}

// follow sets in an error what follows from it.
func (r *Row) follow(f *fault.Error) {
	f.Elsewhere, f.Moved, f.Gone = r.Elsewhere, r.Moved, r.Gone
	f.Missed, f.Unsubscribed, f.Misled, f.Superseded = r.Missed, r.Unsubscribed, r.Misled, r.Superseded
	f.Untold, f.Unsupported = r.Untold, r.Unsupported
}

// problem is what an envelope says went wrong.
type problem struct {
	code, text string
	inner      string        // the code that ErrorInternalServerError wraps
	backOff    time.Duration // BackOffMilliseconds; 0: none
	ids        []string      // ErrorSubscriptionIds
}

func (p *problem) error(op string) *Error {
	code := p.code
	if p.inner != "" && known(p.inner) {
		code = p.inner
	}
	if !isCode(code) {
		// The code is a label of metrics and states: anything that is not a code stays in the text.
		code, p.text = CodeFault, p.code+" "+p.text
	}
	e := newError(op, code, p.text, p.backOff, nil)
	e.Fault.Subscriptions = p.ids
	return e
}

// isCode reports whether s looks like a response code of EWS.
func isCode(s string) bool {
	const longest = 80 // the schema's longest has 65 characters
	return strings.HasPrefix(s, "Error") && len(s) <= longest && !strings.ContainsFunc(s, func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9')
	})
}

// contentError types an answer that cannot be understood.
func contentError(op, unparseable string, cause error) *Error {
	if _, ok := errors.AsType[foreign](cause); ok {
		unparseable = CodeForeign
	}
	return newError(op, unparseable, "", 0, cause)
}

// pageError types a web page where an answer of EWS belongs.
func pageError(op string, resp *http.Response) *Error {
	e := contentError(op, CodeForeign, foreign("it is a web page (text/html)"))
	e.Fault.Evidence = proxy.EvidenceOf(resp, fault.Exchange)
	e.Fault.Detail = fault.SignInPage
	return e
}

// connError types an error of the connection. An error because the caller ended the context stays as it is, and so does one that is typed
// already, such as the refusal of a credential or a proxy.
func connError(ctx context.Context, op string, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w", op, ctx.Err())
	}
	f := proxy.Explain(op, err)
	if _, typed := errors.AsType[*fault.Error](err); !typed {
		f.Peer = fault.Exchange
		if known(f.Code) {
			row := lookup(f.Code, "")
			if f.After == 0 {
				f.After = row.After
			}
			row.follow(f)
		}
	}
	return &Error{Fault: f}
}

// httpError types an answer by its status only.
func httpError(op string, resp *http.Response) *Error {
	shows := proxy.EvidenceOf(resp, fault.Exchange)
	if resp.StatusCode >= 300 && resp.StatusCode < 400 {
		e := newError(op, CodeRedirect, "", 0, nil)
		if shows.Leads != "" {
			e.Fault.Text += fmt.Sprintf("; it leads to %q", shows.Leads)
		}
		e.Fault.Evidence = shows
		return e
	}
	code := fmt.Sprintf("HTTP %d", resp.StatusCode)
	// x-ms-diagnostics says why a token was refused, and X-EWS-Policy-Reason which policy of Exchange Online blocks EWS.
	said := cmp.Or(resp.Header.Get("X-Ms-Diagnostics"), resp.Header.Get("X-Ews-Policy-Reason"))
	e := newError(op, code, said, backoff.RetryAfter(resp.Header, maxBackOff), nil)
	e.Fault.Evidence = shows
	return e
}
