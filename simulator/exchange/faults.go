package exchange

// The faults of Exchange: the table, and the acts of those that happen at once.

import (
	"net"
	"net/http"
	"slices"
	"time"

	"github.com/mailbell/mailbell/simulator/faults"
)

// Names of the faults as the code uses them.
const (
	streamFIN            = "stream_fin"
	streamRST            = "stream_rst"
	streamHalf           = "stream_half"
	streamSilent         = "stream_silent"
	eventsDropped        = "events_dropped"
	eventsDoubled        = "events_doubled"
	eventsReordered      = "events_reordered"
	subscriptionsLost    = "subscriptions_lost"
	wrongPassword        = "wrong_password"
	mailboxUnknown       = "mailbox_unknown"
	impersonationRefused = "impersonation_refused"
	serverBusy           = "server_busy"
	serverRestart        = "server_restart"
	connectionsFull      = "connections_full"
	mailboxMove          = "mailbox_move"
	moveSilent           = "move_silent"
	ewsBlocked           = "ews_blocked"
	subscriptionsNone    = "subscriptions_none"
	streamingRefused     = "streaming_refused"
	pushUnreachable      = "push_unreachable"
	pushGap              = "push_gap"
	pushSilent           = "push_silent"
	autodiscoverAway     = "autodiscover_away"
	autodiscoverRefused  = "autodiscover_refused"
	autodiscoverLimit    = "autodiscover_limit"
	exchangeAnswer       = "exchange_answer"
	exchangeDelay        = "exchange_delay"
	itemUnreadable       = "item_unreadable"
	receivedAsSent       = "received_as_sent"
	answerGarbage        = "answer_garbage"
	answerHuge           = "answer_huge"
	answerEntities       = "answer_entities"
	answerControlChars   = "answer_control_chars"
	answerUnescaped      = "answer_unescaped"
	answerPage           = "answer_page"
)

// Shapes of server_busy, by its reason.
const (
	busyFault   = "fault"
	busyMessage = "message"
	busyInner   = "inner"
	busyHTTP    = "http"
)

// answerClosed is the reason with which autodiscover_away closes connections.
const answerClosed = "closed"

const often = "mailbox host share count seconds"

// Faults is the table of Exchange. "At once": the fault happens when it is set, and is then over.
func Faults() []faults.Kind {
	list := []faults.Kind{
		{Name: streamFIN, Fields: "mailbox host share count",
			Text: "At once: open streams end with a FIN, without ConnectionStatus Closed."},
		{Name: streamRST, Fields: "mailbox host share count", Text: "At once: open streams end with a TCP reset."},
		{Name: streamHalf, Fields: often,
			Text: "The next envelope of a stream is cut off in the middle and its connection closed; the events in it are lost."},
		{Name: streamSilent, Fields: "mailbox host seconds",
			Text: "Streams write nothing, not even heartbeats, while their connections stay open; what they would have written comes when" +
				" the fault is cleared, or is gone with the connection."},
		{Name: eventsDropped, Fields: often, Text: "A new message causes no events."},
		{Name: eventsDoubled, Fields: often, Text: "A new message causes its events twice."},
		{Name: eventsReordered, Fields: "mailbox host seconds",
			Text: "The events of a new message come behind those of the next one for its mailbox, or when the fault is cleared."},
		{Name: subscriptionsLost, Fields: "mailbox host share count",
			Text: "At once: subscriptions are forgotten; their streams get ErrorSubscriptionNotFound."},
		{Name: wrongPassword, Fields: often,
			Text: "HTTP 401 to every request of EWS and Autodiscover; with a mailbox, to those that act on it."},
		{Name: mailboxUnknown, Fields: often, Text: "EWS answers ErrorNonExistentMailbox, Autodiscover its error 500."},
		{Name: impersonationRefused, Fields: often, Text: "EWS answers ErrorImpersonateUserDenied to requests that impersonate."},
		{Name: serverBusy, Fields: often + " reason",
			Text: "EWS throttles, and asks for a back-off of the time left of `seconds`, or 10 s. `reason` is the shape: fault (that is " +
				"also the default), a SOAP fault with BackOffMilliseconds; message, ErrorServerBusy in the response messages; inner, " +
				"ErrorInternalServerError there, with ErrorServerBusy inside and no back-off; http, a bare HTTP 503 with Retry-After."},
		{Name: serverRestart, Fields: "host seconds", Valued: true,
			Text: "At once: all subscriptions are forgotten and all connections to Exchange cut; it accepts none for `seconds`."},
		{Name: connectionsFull, Fields: "host share count seconds",
			Text: "The server is at its limit: it answers each new connection with HTTP 503 in plain text, before TLS, and closes it."},
		{Name: mailboxMove, Fields: "mailbox host seconds",
			Text: "Mailboxes move: their subscriptions end with ErrorInvalidSubscription and the text of a move, and EWS answers " +
				"ErrorMailboxMoveInProgress to requests for them, until the fault is cleared. Autodiscover gives the same location as " +
				"before."},
		{Name: moveSilent, Fields: often,
			Text: "A mailbox that moves to another host or mailbox server ends its subscriptions silently: its streams send heartbeats, " +
				"and no more events of it. Otherwise they get ErrorInvalidSubscription and the text of a move."},
		{Name: ewsBlocked, Fields: "host share count seconds",
			Text: "EWS answers every call with HTTP 403 and no body, as Exchange Online does where the tenant has switched it off " +
				"(EWSEnabled) or the app is not on its list (EwsAllowedAppIDs)."},
		{Name: subscriptionsNone, Fields: often,
			Text: "Subscribe answers ErrorExceededSubscriptionCount, whatever there is: EWSMaxSubscriptions is 0 for the mailbox, which " +
				"turns off every kind of notification."},
		{Name: streamingRefused, Fields: often,
			Text: "Subscribe answers ErrorSchemaValidation to streaming subscriptions, as a server that has none; push works."},
		{Name: pushUnreachable, Fields: often, Text: "A post of a push subscription does not reach its URL; it is repeated as any other."},
		{Name: pushGap, Fields: often, Text: "A post with events is lost, and not repeated; the watermark of the next one shows it."},
		{Name: pushSilent, Fields: "mailbox host seconds",
			Text: "Push subscriptions post nothing, not even a status; what they would have posted is lost."},
		{Name: autodiscoverAway, Fields: "host seconds reason",
			Text: "Autodiscover is not there, V2 included: HTTP 404, or with the reason closed the connection ends without an answer."},
		{Name: autodiscoverRefused, Fields: "host share count seconds status",
			Text: "Autodiscover answers HTTP `status` (403), or 401, to requests with a token, as to an app that has its rights by RBAC " +
				"for Applications; V2 needs no token and answers."},
		{Name: autodiscoverLimit, Fields: "host seconds limit",
			Text: "Autodiscover as SOAP takes `limit` (10) addresses of a request, not 100, and answers InvalidRequest to more."},
		{Name: exchangeAnswer, Fields: often + " status reason",
			Text: "EWS answers every operation with the response code `reason` (ErrorInternalServerTransientError), or with the bare HTTP" +
				" `status`."},
		{Name: exchangeDelay, Fields: "mailbox host seconds", Valued: true,
			Text: "EWS answers `seconds` later; streams are not delayed."},
		{Name: itemUnreadable, Fields: often + " reason",
			Text: "GetItem answers the response code `reason` (ErrorItemCorrupt) for an item; listings still show it."},
		{Name: receivedAsSent, Fields: "mailbox host",
			Text: "GetItem tells the sender's Date as DateTimeReceived, as some servers do; listings tell it right."},
		faults.ClockSkew,
		{Name: answerGarbage, Fields: often, Text: "An answer of EWS that is not XML."},
		{Name: answerHuge, Fields: often, Text: "An answer of EWS of 256 MiB: no client should read it to its end."},
		{Name: answerEntities, Fields: often, Text: "An answer of EWS with a DTD and entities that unfold without end."},
		{Name: answerControlChars, Fields: often,
			Text: "Subjects in answers of EWS hold characters that XML does not allow, as references such as &#x1F; and as raw bytes."},
		{Name: answerUnescaped, Fields: often, Text: "Subjects in answers of EWS hold an & and a < that are not escaped."},
		{Name: answerPage, Fields: often,
			Text: "An answer of EWS that is a web page with a document type, with HTTP status 200 and as text/xml: the sign-in page of a gateway."},
	}
	for i, k := range list {
		list[i].Check = func(f faults.Fault) (field, text string) { return checkFault(k.Name, f) }
	}
	return list
}

// checkFault says what is wrong with a fault, beyond what the registry knows.
func checkFault(name string, f faults.Fault) (field, text string) {
	switch {
	case f.Host != "" && !slices.Contains([]string{OnPremises, Online, Other}, f.Host):
		return "host", "must be onpremises, online or other"
	case name == serverBusy && !slices.Contains([]string{"", busyFault, busyMessage, busyInner, busyHTTP}, f.Reason):
		return "reason", "must be fault, message, inner or http"
	case name == autodiscoverAway && f.Reason != "" && f.Reason != answerClosed:
		return "reason", "must be closed"
	case name == autodiscoverRefused && f.Status != 0 && f.Status != http.StatusUnauthorized && f.Status != http.StatusForbidden:
		return "status", "must be 401 or 403"
	case name == exchangeAnswer && f.Reason != "" && f.Status != 0:
		return "status", "goes without reason"
	}
	return "", ""
}

// actOut registers what happens when a fault is set or cleared.
func (o *Organisation) actOut(fs *faults.Registry) {
	for _, name := range []string{serverRestart, subscriptionsLost, streamFIN, streamRST} {
		fs.AtOnce(name, func(f *faults.Cases) bool {
			for _, x := range o.hosts {
				x.breakOnce(name, f)
			}
			return true
		})
	}
	fs.OnChange(mailboxMove, func(f faults.Fault, set bool) {
		for _, x := range o.hosts {
			if set {
				x.endMoved(f)
			}
		}
	})
	fs.OnChange(streamSilent, func(faults.Fault, bool) {
		for _, x := range o.hosts {
			x.wakeStreams()
		}
	})
	fs.OnChange(eventsReordered, func(faults.Fault, bool) {
		for _, x := range o.hosts {
			x.releaseEvents()
		}
	})
}

// breakOnce performs a fault that happens at once.
func (x *Host) breakOnce(name string, f *faults.Cases) {
	switch {
	case !f.At(x.name):
	case name == serverRestart:
		x.restart(f.Duration())
	case name == subscriptionsLost:
		x.loseSubscriptions(f)
	default:
		x.cutStreams(f, name == streamRST)
	}
}

// restart forgets all subscriptions and cuts all connections.
func (x *Host) restart(away time.Duration) {
	x.mu.Lock()
	x.away = time.Now().Add(away)
	for _, s := range x.subs {
		s.box.subs = nil
		s.end()
	}
	clear(x.subs)
	x.lastSub = 0
	conns := make([]net.Conn, 0, len(x.conns))
	for c := range x.conns {
		conns = append(conns, c)
	}
	x.mu.Unlock()
	for _, c := range conns {
		faults.Cut(c, true)
	}
}
