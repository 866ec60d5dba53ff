package graph

// The faults of Graph: the table, and the acts of those that happen at once.

import (
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/mailbell/mailbell/simulator/faults"
)

// Names of the faults as the code uses them.
const (
	answered         = "graph_answer"
	away             = "graph_away"
	delayed          = "graph_delay"
	garbageAnswer    = "graph_garbage"
	throttledFault   = "graph_throttled"
	limitLowered     = "graph_limit"
	denied           = "graph_denied"
	basicRights      = "graph_basic_only"
	noMailbox        = "graph_no_mailbox"
	unreadable       = "graph_item_unreadable"
	pagesShort       = "graph_pages_short"
	pagesEmpty       = "graph_pages_empty"
	pagesDrift       = "graph_pages_drift"
	linkElsewhere    = "graph_link_elsewhere"
	dropped          = "graph_dropped"
	missedFault      = "graph_missed"
	late             = "graph_late"
	doubled          = "graph_doubled"
	reordered        = "graph_reordered"
	foreign          = "graph_foreign"
	unreachable      = "graph_unreachable"
	contentWrong     = "graph_content"
	lifecycleDropped = "graph_lifecycle_dropped"
	tokenEnds        = "graph_token_ends"
	reauthorise      = "graph_reauthorize"
	removedFault     = "graph_removed"
	forgotten        = "graph_forgotten"
	subscribeRefused = "graph_subscribe_refused"
	contentRefused   = "graph_content_refused"
	renewalRefused   = "graph_renewal_refused"
	duplicates       = "graph_duplicates"
	expiryLimit      = "graph_expiry"
)

// reasonBare is the reason with which graph_no_mailbox answers without a body.
const reasonBare = "bare"

const often = "mailbox share count seconds"

// Faults is the table of Graph. "At once": the fault happens when it is set, and is then over.
func Faults() []faults.Kind {
	list := []faults.Kind{
		{Name: answered, Fields: "share count seconds status reason",
			Text: "Graph answers every request with HTTP `status` (503) and the code `reason` (ServiceUnavailable)."},
		{Name: away, Fields: "share count seconds", Text: "Graph closes connections without an answer."},
		{Name: delayed, Fields: "mailbox seconds", Valued: true, Text: "Graph answers requests for mailboxes and subscriptions `seconds` later."},
		{Name: garbageAnswer, Fields: "share count seconds", Text: "Graph answers with a web page, HTTP status 200: the sign-in page of a gateway."},
		{Name: throttledFault, Fields: often,
			Text: "Graph answers 429 to requests for a mailbox, with Retry-After: the time left of `seconds`, at least 1 s."},
		{Name: limitLowered, Fields: "limit reason",
			Text: "A limit of throttling is `limit`. `reason` is which: mailbox (10,000 requests in 10 minutes), concurrency (4 at a time " +
				"to a mailbox), app (130,000 in 10 s), subscriptions (1,000 writes in 20 s)."},
		{Name: denied, Fields: often, Text: "Graph answers 403 ErrorAccessDenied: the app has no right to the mailbox."},
		{Name: basicRights, Fields: "seconds",
			Text: "The app has only Mail.ReadBasic.All: subscribing is refused with 403, and so are previews, bodies and extended properties."},
		{Name: noMailbox, Fields: often + " reason",
			Text: "Graph answers 404 for a mailbox, as while it moves: with the code `reason` (MailboxNotEnabledForRESTAPI), or with the " +
				"reason bare without a body."},
		{Name: unreadable, Fields: often + " reason", Text: "Graph answers 500 with the code `reason` (ErrorItemCorrupt) for a message; lists still show it."},
		{Name: pagesShort, Fields: often, Text: "Pages have fewer messages than $top, and a nextLink; of subscriptions, one."},
		{Name: pagesEmpty, Fields: often, Text: "A page has no message, and a nextLink."},
		{Name: pagesDrift, Fields: "mailbox seconds",
			Text: "A nextLink counts messages ($skip): mail that comes or goes meanwhile has a page repeat messages or miss some."},
		{Name: linkElsewhere, Fields: "share count seconds", Text: "A nextLink leads to a host that is not Graph's."},
		{Name: dropped, Fields: often, Text: "A new message causes no notification."},
		{Name: missedFault, Fields: often, Text: "A new message causes no notification, and the lifecycle notification missed instead."},
		{Name: late, Fields: "mailbox seconds", Valued: true, Text: "Notifications come `seconds` later."},
		{Name: doubled, Fields: often, Text: "A new message causes its notification twice."},
		{Name: reordered, Fields: "mailbox seconds",
			Text: "The notification of a new message comes behind that of the next one for its mailbox, or when the fault is cleared."},
		{Name: foreign, Fields: often,
			Text: "A post has items of others too: of unknown subscriptions, with no clientState, a strange one, and that of the receiver."},
		{Name: unreachable, Fields: often, Text: "A post does not reach its URL: a notification is repeated, a handshake fails."},
		{Name: contentWrong, Fields: "mailbox seconds reason",
			Text: "Content in notifications is not right. `reason` is what: signature, data, key, certificate (an unknown id), or of the " +
				"validation token: token (forged), audience, expired, missing."},
		{Name: lifecycleDropped, Fields: often, Text: "Lifecycle notifications are lost."},
		{Name: tokenEnds, Fields: "mailbox share count",
			Text: "At once: the access tokens of subscriptions run out: their notifications are held until PATCH or reauthorize."},
		{Name: reauthorise, Fields: "mailbox share count", Text: "At once: subscriptions tell reauthorizationRequired."},
		{Name: removedFault, Fields: "mailbox share count", Text: "At once: subscriptions end, and tell subscriptionRemoved."},
		{Name: forgotten, Fields: "mailbox share count", Text: "At once: subscriptions end without a word."},
		{Name: subscribeRefused, Fields: "share count seconds status reason",
			Text: "POST /subscriptions is refused with HTTP `status` (400) and the code `reason` (InvalidRequest)."},
		{Name: contentRefused, Fields: often + " status reason",
			Text: "POST /subscriptions with includeResourceData is refused with HTTP `status` (400) and the code `reason` (ExtensionError)."},
		{Name: renewalRefused, Fields: often + " status reason",
			Text: "PATCH and reauthorize are refused with HTTP `status` (400) and the code `reason` (ErrorInvalidParameter, with 404 " +
				"ResourceNotFound)."},
		{Name: duplicates, Fields: "seconds", Text: "A second subscription for the same resource and changeType is accepted, and not refused with 409."},
		{Name: expiryLimit, Fields: "seconds limit", Text: "Subscriptions last at most `limit` minutes, as 4,230, and not 10,070."},
	}
	for i, k := range list {
		list[i].Check = func(f faults.Fault) (field, text string) { return checkFault(k.Name, f) }
	}
	return list
}

// checkFault says what is wrong with a fault, beyond what the registry knows.
func checkFault(name string, f faults.Fault) (field, text string) {
	switch {
	case name == limitLowered && !slices.Contains([]string{limitApp, limitMailbox, limitConcurrency, limitWrites}, f.Reason):
		return "reason", "must be app, mailbox, concurrency or subscriptions"
	case name == contentWrong && !slices.Contains(wrongs, f.Reason):
		return "reason", "must be " + strings.Join(wrongs, ", ")
	case name == limitLowered && f.Limit < 1, name == expiryLimit && f.Limit < 1:
		return "limit", "must be above 0"
	case name == renewalRefused && f.Status != 0 && (f.Status < 400 || f.Status > 499):
		return "status", "must be 400 to 499"
	}
	return "", ""
}

// actOut registers what happens when a fault is set or cleared.
func (s *Server) actOut(fs *faults.Registry) {
	acts := map[string]func(*subscription){
		tokenEnds: func(sub *subscription) {
			sub.token = s.clock.Now()
			sub.warned = false
		},
		reauthorise:  func(sub *subscription) { s.tell(sub, reauthorizationRequired) },
		removedFault: func(sub *subscription) { s.remove(sub, false) },
		forgotten:    func(sub *subscription) { s.remove(sub, true) },
	}
	for name, act := range acts {
		fs.AtOnce(name, func(f *faults.Cases) bool {
			s.mu.Lock()
			defer s.mu.Unlock()
			for _, sub := range s.inOrder() {
				if f.Concerns("", sub.box.Address, "") && f.Met() {
					act(sub)
				}
			}
			return true
		})
	}
	fs.OnChange(reordered, func(faults.Fault, bool) {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, sub := range s.subs {
			s.releaseLater(sub)
		}
	})
}

// inOrder lists the subscriptions by their mailboxes, so that a share of them can be repeated. s.mu is held.
func (s *Server) inOrder() []*subscription {
	list := make([]*subscription, 0, len(s.subs))
	for _, sub := range s.subs {
		list = append(list, sub)
	}
	slices.SortFunc(list, func(a, b *subscription) int { return strings.Compare(a.box.Address+a.id, b.box.Address+b.id) })
	return list
}

// basicOnly reports whether the app has only Mail.ReadBasic.All, or less.
func (c *call) basicOnly() bool {
	_, ok := c.s.faults.On(basicRights, "", "")
	return ok || !c.granted(readAll)
}

const signInPage = `<!DOCTYPE html><html lang="en"><head><title>Sign in</title></head><body><form method="post" action="/sign-in"><input name="user"></form></body></html>`

// reachable acts on the faults of Graph as a whole and on the limit of the app, and reports whether the request gets on.
func (c *call) reachable() bool {
	if !c.batched {
		if _, ok := c.s.faults.Hit(away, "", ""); ok {
			panic(http.ErrAbortHandler) // the connection is closed without an answer
		}
		if _, ok := c.s.faults.Hit(garbageAnswer, "", ""); ok {
			c.w.Header().Set("Content-Type", "text/html")
			io.WriteString(c.w, signInPage)
			return false
		}
	}
	if f, ok := c.s.faults.Hit(answered, "", ""); ok {
		status := orStatus(f.Status, http.StatusServiceUnavailable)
		if status == http.StatusServiceUnavailable || status == http.StatusTooManyRequests {
			c.w.Header().Set("Retry-After", faults.RetryAfter(max(f.Duration(), time.Second)))
		}
		c.fail(status, orElse(f.Reason, "ServiceUnavailable"), "The service is temporarily unavailable.")
		return false
	}
	return c.enterApp()
}
