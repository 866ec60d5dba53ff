package graph

// The life of a subscription: POST, GET, PATCH and DELETE of /subscriptions, and /subscriptions/{id}/reauthorize.

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mailbell/mailbell/simulator/exchange"
	"github.com/mailbell/mailbell/simulator/faults"
	"github.com/mailbell/mailbell/simulator/internal/guid"
)

// Bounds of subscriptions.
const (
	maxMinutes     = 10_070 // the documentation says 10,080; the live service refuses above this
	maxRichMinutes = 1_440  // with resource data
	minMinutes     = 45     // a shorter time is raised to it

	maxState         = 128 // of clientState
	maxBody          = 64 << 10
	maxPerMailbox    = 1000 // active subscriptions
	subscriptionPage = 100  // of a list
)

// subscription is one to the messages of a mailbox. What changes is guarded by Server.mu.
type subscription struct {
	id        string
	app       string
	box       exchange.Box
	inbox     bool   // the messages of the Inbox, not those of all folders
	resource  string // as it was asked for
	changes   string // changeType
	url       string // notificationUrl
	lifecycle string // lifecycleNotificationUrl; may be empty
	state     string // clientState
	immutable bool
	rich      *encryption // nil: notifications without content

	expires time.Time
	token   time.Time // when the access token runs out that it was made or refreshed with
	ends    *time.Timer
	warns   *time.Timer // of the next reauthorizationRequired
	warned  bool        // of this token
	held    []notification
	later   []notification // held back by a fault, to come behind the next one
	removed bool
}

func (s *subscription) stopTimers() {
	for _, t := range []*time.Timer{s.ends, s.warns} {
		if t != nil {
			t.Stop()
		}
	}
}

// subscriptions answers a request below /subscriptions.
func (c *call) subscriptions(rest []string) {
	method, operation := c.r.Method, opUnknown
	switch {
	case len(rest) == 0 && method == http.MethodPost:
		operation = opSubscribe
	case len(rest) == 0 && method == http.MethodGet:
		operation = opList
	case len(rest) == 1 && method == http.MethodGet:
		operation = opRead
	case len(rest) == 1 && method == http.MethodPatch:
		operation = opRenew
	case len(rest) == 1 && method == http.MethodDelete:
		operation = opDelete
	case len(rest) == 2 && strings.EqualFold(rest[1], "reauthorize") && method == http.MethodPost:
		operation = opReauthorise
	}
	c.count(operation)
	if !c.enterSubscriptions(method != http.MethodGet) {
		return
	}
	switch operation {
	case opSubscribe:
		c.subscribe()
	case opList:
		c.listSubscriptions()
	case opRead:
		c.readSubscription(rest[0])
	case opRenew:
		c.renew(rest[0])
	case opDelete:
		c.deleteSubscription(rest[0])
	case opReauthorise:
		c.reauthorise(rest[0])
	default:
		c.fail(http.StatusMethodNotAllowed, "BadRequest", "Specified HTTP method is not allowed for the request target.")
	}
}

// subscriptionBody is a subscription on the wire. What is not there in a request is nil.
type subscriptionBody struct {
	ChangeType            *string `json:"changeType"`
	NotificationURL       *string `json:"notificationUrl"`
	LifecycleURL          *string `json:"lifecycleNotificationUrl"`
	Resource              *string `json:"resource"`
	Expires               *string `json:"expirationDateTime"`
	ClientState           *string `json:"clientState"`
	IncludeResourceData   *bool   `json:"includeResourceData"`
	EncryptionCertificate *string `json:"encryptionCertificate"`
	EncryptionID          *string `json:"encryptionCertificateId"`
}

func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// readBody reads the body of a request; it answers and returns false if it is none.
func (c *call) readBody(into any) bool {
	if err := json.NewDecoder(http.MaxBytesReader(c.w, c.r.Body, maxBody)).Decode(into); err != nil {
		c.fail(http.StatusBadRequest, "BadRequest", "Unable to read JSON request payload. Please ensure Content-Type header is set and payload is of valid JSON format.")
		return false
	}
	return true
}

func (c *call) invalid(text string) { c.fail(http.StatusBadRequest, "InvalidRequest", text) }

// extension answers an error that the mail service gave to Graph: the status is in the text too.
func (c *call) extension(status int, reason string) {
	c.fail(status, "ExtensionError", fmt.Sprintf("Operation: Create; Exception: [Status Code: %s; Reason: %s]",
		strings.ReplaceAll(http.StatusText(status), " ", ""), reason))
}

func (c *call) subscribe() {
	var body subscriptionBody
	if !c.readBody(&body) {
		return
	}
	if f, ok := c.s.faults.Hit(subscribeRefused, "", ""); ok {
		c.fail(orStatus(f.Status, http.StatusBadRequest), orElse(f.Reason, "InvalidRequest"), "The subscription cannot be created.")
		return
	}
	sub, ok := c.readSubscribe(&body)
	if !ok || !c.validate(sub) {
		return
	}
	user, ok := c.readResource(sub)
	if !ok {
		return
	}
	box, status, code, reason := c.s.find(user)
	switch {
	case status != 0:
		c.extension(status, orElse(reason, orElse(code, http.StatusText(status))))
		return
	case c.basicOnly():
		c.extension(http.StatusForbidden, textDenied)
		return
	}
	sub.box = box
	if f, ok := c.refusesContent(sub); ok {
		c.fail(orStatus(f.Status, http.StatusBadRequest), orElse(f.Reason, "ExtensionError"), "Operation: Create; Exception: [Status Code: BadRequest; Reason: encryptionCertificate]")
		return
	}
	_, twice := c.s.faults.On(duplicates, "", "")
	if other := c.s.add(sub, twice); other == errTooMany {
		c.fail(http.StatusTooManyRequests, "ExtensionError", "Operation: Create; Exception: [Status Code: 429; Reason: Resource 'SubscriptionCountReached' has reached limit of '1000'. Please retry after '12/31/9999 11:59:59 PM'].")
		return
	} else if other != "" {
		c.fail(http.StatusConflict, "ObjectIdentifierInUse", "Subscription Id "+other+" already exists for the requested combination.")
		return
	}
	if now, err := c.s.mail.AtOnline(box.Address); err != nil || now.GUID != box.GUID { // it moved away before the subscription was there
		c.s.mu.Lock()
		c.s.drop(sub)
		c.s.mu.Unlock()
		c.extension(http.StatusNotFound, textElsewhere)
		return
	}
	c.s.logf("graph: %s: subscription %s", box.Address, sub.id)
	c.ok(http.StatusCreated, "subscriptions/$entity", c.s.wire(sub))
}

// refusesContent says whether a fault refuses a subscription for its content.
func (c *call) refusesContent(sub *subscription) (faults.Fault, bool) {
	if sub.rich == nil {
		return faults.Fault{}, false
	}
	return c.s.faults.Hit(contentRefused, sub.box.Address, "")
}

func orStatus(status, other int) int {
	if status == 0 {
		return other
	}
	return status
}

// readSubscribe reads the body of a POST, but for the resource.
func (c *call) readSubscribe(body *subscriptionBody) (*subscription, bool) {
	sub := &subscription{
		id: guid.New().String(), app: c.bearer.App, resource: text(body.Resource), changes: strings.ToLower(text(body.ChangeType)), url: text(body.NotificationURL),
		lifecycle: text(body.LifecycleURL), state: text(body.ClientState), immutable: c.immutable, token: c.bearer.Until,
	}
	for name, value := range map[string]*string{
		"changeType": body.ChangeType, "notificationUrl": body.NotificationURL, "resource": body.Resource, "expirationDateTime": body.Expires,
	} {
		if text(value) == "" {
			c.invalid("Property '" + name + "' is required.")
			return nil, false
		}
	}
	for change := range strings.SplitSeq(sub.changes, ",") {
		if !slices.Contains([]string{"created", "updated", "deleted"}, strings.TrimSpace(change)) {
			c.invalid("The value of 'changeType' is invalid: '" + change + "'.")
			return nil, false
		}
	}
	if len(sub.state) > maxState {
		c.invalid(fmt.Sprintf("The length of 'clientState' exceeds %d characters.", maxState))
		return nil, false
	}
	for _, at := range []string{sub.url, sub.lifecycle} {
		if u, err := url.Parse(at); at != "" && (err != nil || u.Scheme != "https" || u.Host == "") {
			c.invalid("Notification URL must be an absolute https URL: '" + at + "'.")
			return nil, false
		}
	}
	if body.IncludeResourceData != nil && *body.IncludeResourceData {
		rich, text := readEncryption(text(body.EncryptionCertificate), text(body.EncryptionID), sub.resource)
		if text != "" {
			c.invalid(text)
			return nil, false
		}
		sub.rich = rich
	}
	var ok bool
	sub.expires, ok = c.readExpiry(text(body.Expires), sub.rich != nil)
	return sub, ok
}

// readExpiry reads an expirationDateTime: too short a time is raised, too long a one refused.
func (c *call) readExpiry(value string, rich bool) (time.Time, bool) {
	t, err := time.Parse(time.RFC3339Nano, value)
	if err != nil {
		c.invalid("The value of 'expirationDateTime' is not a date and time: '" + value + "'.")
		return t, false
	}
	now, most := c.s.clock.Now(), maxMinutes
	if rich {
		most = maxRichMinutes
	}
	if f, ok := c.s.faults.On(expiryLimit, "", ""); ok && f.Limit > 0 {
		most = min(most, f.Limit)
	}
	switch {
	case !t.After(now):
		c.invalid("Subscription expiration can only be in the future.")
		return t, false
	case t.Sub(now) > time.Duration(most)*time.Minute:
		c.fail(http.StatusBadRequest, "ExtensionError", "Subscription expiration can only be "+strconv.Itoa(most)+" minutes in the future.")
		return t, false
	case t.Sub(now) < minMinutes*time.Minute:
		t = now.Add(minMinutes * time.Minute)
	}
	return t.UTC(), true
}

// readResource reads what a subscription is about: the user, and in sub whether the Inbox or all folders.
func (c *call) readResource(sub *subscription) (user string, ok bool) {
	path, query, _ := strings.Cut(sub.resource, "?")
	path, err := url.PathUnescape(path) // a resource is the end of a URL
	if err != nil {
		c.invalid("The resource is not a path.")
		return "", false
	}
	parts := segments(strings.TrimPrefix(path, "https://graph.microsoft.com/v1.0"))
	switch {
	case len(parts) == 3 && parts[0] == "users" && strings.EqualFold(parts[2], "messages"):
	case len(parts) == 5 && parts[0] == "users" && parts[2] == "mailfolders" && strings.EqualFold(parts[3], "inbox") && parts[4] == "messages":
		sub.inbox = true
	default:
		c.extension(http.StatusBadRequest, "The resource '"+sub.resource+"' is not supported.")
		return "", false
	}
	values, err := url.ParseQuery(query)
	if err != nil {
		c.invalid("The query of the resource is invalid.")
		return "", false
	}
	if sub.rich != nil {
		wanted, wrong := readShape(values)
		if wrong != nil {
			c.fail(http.StatusBadRequest, wrong.code, wrong.text)
			return "", false
		}
		sub.rich.wanted = wanted
	}
	return parts[1], true
}

// errTooMany is returned by add for a mailbox that has as many subscriptions as it may.
const errTooMany = "too many"

// add keeps a subscription, unless one for the same changes of the same resource is there: then it returns that one's id.
func (s *Server) add(sub *subscription, twice bool) (other string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := s.boxes[sub.box.GUID]
	if len(list) >= maxPerMailbox {
		return errTooMany
	}
	for _, o := range list {
		if !twice && o.inbox == sub.inbox && o.changes == sub.changes && (o.rich != nil) == (sub.rich != nil) {
			return o.id
		}
	}
	s.subs[sub.id] = sub
	s.boxes[sub.box.GUID] = append(list, sub)
	s.schedule(sub)
	return ""
}

// schedule sets the timers of a subscription that is new or was renewed. s.mu is held.
func (s *Server) schedule(sub *subscription) {
	if s.closed {
		return
	}
	sub.stopTimers()
	now := s.clock.Now()
	sub.ends = s.after(sub.expires.Sub(now), func() { s.drop(sub) })
	sub.warned = false
	sub.warns = s.after(warnAfter(sub.token.Sub(now)), func() {
		sub.warned = true
		s.tell(sub, reauthorizationRequired)
	})
}

// warnAfter is when reauthorizationRequired comes for a token that is valid for so long.
func warnAfter(left time.Duration) time.Duration { return left - min(warnBefore, left/4) }

// warnBefore is how long before the end of its token a subscription asks for another one.
const warnBefore = 15 * time.Minute

// drop forgets a subscription. s.mu is held.
func (s *Server) drop(sub *subscription) {
	if sub.removed {
		return
	}
	sub.removed = true
	sub.stopTimers()
	sub.held, sub.later = nil, nil
	delete(s.subs, sub.id)
	list := slices.DeleteFunc(s.boxes[sub.box.GUID], func(o *subscription) bool { return o == sub })
	if s.boxes[sub.box.GUID] = list; len(list) == 0 {
		delete(s.boxes, sub.box.GUID)
	}
}

// longTime is the form of a time of a subscription.
const longTime = "2006-01-02T15:04:05.0000000Z"

// wire is a subscription as it is shown. The secret is not.
func (s *Server) wire(sub *subscription) map[string]any {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := map[string]any{
		"id": sub.id, "resource": sub.resource, "applicationId": sub.app, "changeType": sub.changes, "clientState": nil,
		"notificationUrl": sub.url, "notificationQueryOptions": nil, "lifecycleNotificationUrl": orNull(sub.lifecycle),
		"expirationDateTime": sub.expires.Format(longTime), "creatorId": sub.app, "includeResourceData": nil,
		"latestSupportedTlsVersion": "v1_2", "encryptionCertificate": nil, "encryptionCertificateId": nil, "notificationUrlAppId": nil,
	}
	if sub.rich != nil {
		v["includeResourceData"], v["encryptionCertificateId"] = true, sub.rich.id
	}
	return v
}

// listSubscriptions answers a page of the app's subscriptions.
func (c *call) listSubscriptions() {
	values := c.r.URL.Query()
	if values.Has("$filter") {
		c.fail(http.StatusBadRequest, "BadRequest", "The query option '$filter' is not supported.")
		return
	}
	after := ""
	if token := values.Get("$skiptoken"); token != "" {
		b, err := base64.RawURLEncoding.DecodeString(token)
		if err != nil {
			c.invalid("The value of the parameter '$skiptoken' is invalid.")
			return
		}
		after = string(b)
	}
	size := subscriptionPage
	if _, ok := c.s.faults.On(pagesShort, "", ""); ok {
		size = 1
	}
	list := c.s.subscriptionsAfter(after)
	page := list[:min(size, len(list))]
	shown := make([]map[string]any, 0, len(page))
	for _, sub := range page {
		shown = append(shown, c.s.wire(sub))
	}
	answer := map[string]any{"value": shown}
	if len(list) > len(page) {
		answer["@odata.nextLink"] = c.nextLink(base64.RawURLEncoding.EncodeToString([]byte(page[len(page)-1].id)))
	}
	c.ok(http.StatusOK, "subscriptions", answer)
}

// subscriptionsAfter lists those whose ids come after one, in order.
func (s *Server) subscriptionsAfter(id string) []*subscription {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []*subscription
	for _, sub := range s.subs {
		if sub.id > id {
			list = append(list, sub)
		}
	}
	slices.SortFunc(list, func(a, b *subscription) int { return strings.Compare(a.id, b.id) })
	return list
}

// subscription finds one, and answers if it is not there.
func (c *call) subscription(id string) (*subscription, bool) {
	c.s.mu.Lock()
	sub := c.s.subs[strings.ToLower(id)]
	c.s.mu.Unlock()
	if sub == nil {
		c.fail(http.StatusNotFound, "ResourceNotFound", "The object was not found.")
		return nil, false
	}
	return sub, true
}

func (c *call) readSubscription(id string) {
	if sub, ok := c.subscription(id); ok {
		c.ok(http.StatusOK, "subscriptions/$entity", c.s.wire(sub))
	}
}

func (c *call) deleteSubscription(id string) {
	sub, ok := c.subscription(id)
	if !ok {
		return
	}
	c.s.mu.Lock()
	c.s.drop(sub)
	c.s.mu.Unlock()
	c.w.WriteHeader(http.StatusNoContent)
}

// renew answers a PATCH, of the expiry, the notificationUrl or both. It refreshes the token.
func (c *call) renew(id string) {
	var body subscriptionBody
	if !c.readBody(&body) {
		return
	}
	sub, ok := c.subscription(id)
	if !ok || c.renewalRefused(sub) {
		return
	}
	if body.LifecycleURL != nil || body.Resource != nil || body.ChangeType != nil {
		c.invalid("Only expirationDateTime and notificationUrl can be changed.")
		return
	}
	expires := time.Time{}
	if body.Expires != nil {
		if expires, ok = c.readExpiry(*body.Expires, sub.rich != nil); !ok {
			return
		}
	}
	if at := text(body.NotificationURL); at != "" {
		if u, err := url.Parse(at); err != nil || u.Scheme != "https" || u.Host == "" {
			c.invalid("Notification URL must be an absolute https URL: '" + at + "'.")
			return
		}
		if !c.handshake(at, plusForBlank) {
			return
		}
	}
	c.s.refresh(sub, c.bearer.Until, func() {
		if !expires.IsZero() {
			sub.expires = expires
		}
		if at := text(body.NotificationURL); at != "" {
			sub.url = at
		}
	})
	c.ok(http.StatusOK, "subscriptions/$entity", c.s.wire(sub))
}

func (c *call) renewalRefused(sub *subscription) bool {
	f, ok := c.s.faults.Hit(renewalRefused, sub.box.Address, "")
	if !ok {
		return false
	}
	status := orStatus(f.Status, http.StatusBadRequest)
	code, text := "ErrorInvalidParameter", "The parameter is invalid."
	if status == http.StatusNotFound {
		code, text = "ResourceNotFound", "The object was not found."
	}
	c.fail(status, orElse(f.Reason, code), text)
	return true
}

// reauthorise refreshes the token, and leaves the expiry.
func (c *call) reauthorise(id string) {
	sub, ok := c.subscription(id)
	if !ok || c.renewalRefused(sub) {
		return
	}
	c.s.refresh(sub, c.bearer.Until, func() {})
	c.w.WriteHeader(http.StatusNoContent)
}

// refresh changes a subscription and gives it another token. What was held is posted.
func (s *Server) refresh(sub *subscription, token time.Time, change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sub.removed {
		return
	}
	change()
	sub.token = token
	s.schedule(sub)
	held := sub.held
	sub.held = nil
	for _, n := range held {
		s.enqueue(sub.url, n)
	}
}
