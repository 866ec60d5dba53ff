package api

import (
	"bytes"
	stdcmp "cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/mailbell/mailbell/check"
	"github.com/mailbell/mailbell/internal/expiry"
	"github.com/mailbell/mailbell/internal/outcome"
	"github.com/mailbell/mailbell/internal/pattern"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/receipts"
	"github.com/mailbell/mailbell/subscriptions"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	enrolToken = "enrol-0123456789abcdef"
	readToken  = "read-0123456789abcdef"
	testToken  = "test-0123456789abcdef"
	adminToken = "admin-0123456789abcdef"

	deviceHex = "9c1d2e3f4a5b6c7d8e9f00112233445566778899aabbccddeeff001122334455"
	enrolment = `{"mailbox": "ann@contoso.com", "token": "` + deviceHex + `", "topic": "com.contoso.mail", "environment": "sandbox"}`
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// book holds enrolments in memory: what the portal needs of the other rooms.
type book struct {
	mu      sync.Mutex
	devices map[string]subscriptions.Device
	refuse  error // of the next changes
	panics  bool
	pair    chan struct{} // two enrolments meet before they go on; nil: none waits
	away    error         // the state
	shownAt time.Time     // by a receipt about the second decision
}

func (b *book) Enrol(ctx context.Context, e subscriptions.Enrolment, only subscriptions.Precondition) (subscriptions.Device, bool, error) {
	if b.pair != nil {
		select {
		case b.pair <- struct{}{}:
		case <-b.pair:
		case <-ctx.Done():
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.panics {
		panic("the book fell over " + e.Token)
	}
	if err := stdcmp.Or(b.refuse, ctx.Err()); err != nil {
		return subscriptions.Device{}, false, err
	}
	old, known := b.devices[e.ID]
	if only != nil {
		if err := only(old, known); err != nil {
			return subscriptions.Device{}, false, err
		}
	}
	d := subscriptions.Device{
		ID: e.ID, Mailbox: e.Mailbox, Token: e.Token, Topic: stdcmp.Or(e.Topic, "com.contoso.mail"), Environment: stdcmp.Or(e.Environment, "production"),
		Exchange: e.Exchange, Label: e.Label, ReceiptKey: e.ReceiptKey, Created: noon.In(time.FixedZone("", 3600)), Enrolled: noon,
	}
	b.devices[e.ID] = d
	return d, !known, nil
}

func (b *book) Remove(_ context.Context, id string, only subscriptions.Precondition) (bool, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	old, was := b.devices[id]
	if was && only != nil {
		if err := only(old, true); err != nil {
			return false, err
		}
	}
	delete(b.devices, id)
	return was, b.refuse
}

func (b *book) Device(id string) (subscriptions.Device, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	d, ok := b.devices[id]
	return d, ok
}

func (b *book) Devices(mailbox, after string, limit int) (list []subscriptions.Device, next string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.panics && after != "" {
		panic("the book fell over " + after)
	}
	for _, id := range slices.Sorted(maps.Keys(b.devices)) {
		d := b.devices[id]
		if id <= after || mailbox != "" && d.Mailbox != mailbox {
			continue
		}
		if len(list) == limit {
			return list, list[limit-1].ID
		}
		list = append(list, d)
	}
	return list, ""
}

func (b *book) Standing(id string) subscriptions.Standing {
	switch id {
	case "quiet":
		return subscriptions.Standing{State: "behind", Reason: "throttled", Next: noon.Add(time.Minute)}
	case "leaving": // it is removed after it was found
		return subscriptions.Standing{}
	}
	return subscriptions.Standing{State: "listening"}
}

func (b *book) Mailbox(_ context.Context, address string) (subscriptions.Status, []subscriptions.Device, bool) {
	devices, _ := b.Devices(address, "", 1000)
	if len(devices) == 0 {
		return subscriptions.Status{}, nil, false
	}
	return subscriptions.Status{
		Unread:     b.away,
		Standing:   subscriptions.Standing{State: subscriptions.Failing, Reason: "HTTP 401: the password is wrong", Next: noon.Add(time.Hour), Account: "listener-01"},
		Location:   mail.Location{Entry: "headquarters", URL: "https://ex.contoso.com/EWS/Exchange.asmx", Group: "g1", Primary: "ann@contoso.com", How: "ews_url", Found: noon},
		Subscribed: noon, LastHeartbeat: noon, LastHint: noon, LastListing: noon, LastMessage: noon,
		Decisions: []subscriptions.Decision{
			{Key: mail.Key{2}, Outcome: outcome.NotSent, Reason: outcome.BeforeEnrolment, Came: noon, At: noon},
			{Key: mail.Key{1}, Device: devices[0].ID, Outcome: outcome.Accepted, Came: noon, At: noon, PushID: mail.PushID{0x0c, 0x5f}, Status: 200, Shown: b.shownAt},
		},
	}, devices, true
}

func (b *book) List(state subscriptions.State, after string, limit int) (list []MailboxLine, next string) {
	for _, l := range []MailboxLine{
		{Address: "ann@contoso.com", State: subscriptions.Listening, Account: "listener-01", Devices: 2},
		{Address: "bob@contoso.com", State: subscriptions.Failing, Reason: "ErrorMailboxMoveInProgress", NextTry: noon, Devices: 1},
		{Address: "eve@contoso.com", State: subscriptions.Failing, Devices: 1},
	} {
		if l.Address <= after || state != "" && l.State != state {
			continue
		}
		if len(list) == limit {
			return list, list[limit-1].Address
		}
		list = append(list, l)
	}
	return list, ""
}

func (b *book) Count() map[subscriptions.State]int {
	return map[subscriptions.State]int{subscriptions.Listening: 1, subscriptions.Failing: 2}
}

// backend is an API on a book that it keeps itself, with its log, and what it is told about readiness.
type backend struct {
	*book
	handler *API
	log     *observer.ObservedLogs
	ready   error
	ping    error
	tested  []string // devices
	shown   []receipts.Shown
	moves   []Move
	unmoved error
}

func newBackend(t testing.TB) *backend {
	t.Helper()
	core, log := observer.New(zap.DebugLevel)
	d := &backend{book: &book{devices: map[string]subscriptions.Device{}}, log: log}
	registry := prometheus.NewRegistry()
	registry.MustRegister(prometheus.NewCounter(prometheus.CounterOpts{Name: "mailbell_resent_total", Help: "."}))
	d.handler = New(Options{
		Clients:    clientsOfTest(),
		Enrolments: d.book, Mailboxes: d.book, Gatherer: registry, Metrics: registry, Log: zap.New(core), Version: "1.2.3",
		Ready: func() error { return d.ready },
		Ping:  func(context.Context) error { return d.ping },
		Test: func(_ context.Context, device string, _ func(check.Step)) check.Report {
			d.tested = append(d.tested, device)
			return check.Report{Steps: []check.Step{{Name: "enrolment", OK: true}, {Name: "location", MS: 7, Error: "Autodiscover: nowhere", Advice: "look"}}}
		},
		Advise: func(s subscriptions.Standing) check.Breakage {
			if s.Reason == "" {
				return check.Breakage{}
			}
			return check.Breakage{Name: "it is " + s.Reason, Do: "mend " + s.Reason}
		},
		Receipts: receipts.New(receipts.Options{Device: d.Device, Metrics: registry, Note: func(_ context.Context, _ subscriptions.Device, s receipts.Shown) (subscriptions.Decision, bool, bool, error) {
			if d.away != nil {
				return subscriptions.Decision{}, false, false, d.away
			}
			d.shown = append(d.shown, s)
			return subscriptions.Decision{Shown: s.At}, true, true, nil
		}}),
		Move: func(_ context.Context, m Move) (int, error) {
			d.moves = append(d.moves, m)
			return 7, d.unmoved
		},
		Overview: func() Overview {
			return Overview{Conditions: []check.Condition{{Kind: check.KindExchange, Name: "headquarters", Level: check.LevelError, Since: noon, Count: 2, Reason: "connect", Cause: "c", Advice: "a"}},
				Accounts:    []Account{{Exchange: "headquarters", Name: "listener-01", Kind: "basic", Mailboxes: 3, Capacity: 1250, Streams: 1, Reason: "HTTP 401: no", NextTry: noon}},
				Credentials: []expiry.Entry{{Kind: "server", Name: "ex.contoso.com", At: noon}},
				Webhooks:    []Webhook{{Name: "mdm", Waiting: 1, Lost: 2, LastFailure: noon.In(time.FixedZone("", 3600)), Error: "HTTP 503"}},
				Canaries:    []Canary{{Mailbox: "canary@contoso.com", State: "late", Began: noon.In(time.FixedZone("", 3600)), LastSuccess: noon, Took: 800, Lost: 1, Reason: "canary late", Advice: "a"}},
				Exchange:    []ExchangeEntry{{Name: "headquarters", Version: "Exchange2016", Capacity: 1250, Waiting: 1, Skew: -20, EWS: "streaming"}},
				Topics:      []Topic{{Topic: "com.contoso.mail", Environment: "production", Reason: outcome.TopicAway, Since: noon.In(time.FixedZone("", 3600)), Refused: map[string]int{"BadTopic": 2}}},
			}
		},
	})
	t.Cleanup(d.handler.Close)
	return d
}

func clientsOfTest() []Client {
	return []Client{
		{Name: "mdm", Role: RoleEnrol, Token: enrolToken}, {Name: "grafana", Role: RoleRead, Token: readToken},
		{Name: "helpdesk", Role: RoleTest, Token: testToken}, {Name: "operator", Role: RoleAdmin, Token: adminToken},
	}
}

// ask sends a request with a token and holds every answer to what is promised of all of them.
func (d *backend) ask(t testing.TB, token, method, target, body string, headers ...string) *http.Response {
	t.Helper()
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	d.handler.ServeHTTP(w, r)
	a := w.Result()
	for name, want := range map[string]string{
		"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
	} {
		if got := a.Header.Get(name); got != want {
			t.Errorf("%s %s: %s: %q, want %q", method, target, name, got, want)
		}
	}
	all := w.Body.Bytes()
	if bytes.Contains(all, []byte(deviceHex[:9])) {
		t.Errorf("%s %s: more than 8 characters of a device token in %s", method, target, all)
	}
	if strings.HasPrefix(target, "/v1") && a.StatusCode >= 400 {
		var p Problem
		if err := json.Unmarshal(all, &p); err != nil || a.Header.Get("Content-Type") != "application/problem+json" ||
			p.Status != a.StatusCode || p.Detail == "" {
			t.Errorf("%s %s: not a problem: %d %s %s", method, target, a.StatusCode, a.Header, all)
		}
		inTable(t, &p)
	}
	documented(t, method, target, a, all)
	return a
}

// is checks status and, as JSON, the body; an empty want leaves it out.
func is(t testing.TB, a *http.Response, status int, want string) {
	t.Helper()
	got, err := io.ReadAll(a.Body)
	if err != nil {
		t.Fatal(err)
	}
	if a.StatusCode != status {
		t.Errorf("status %d, want %d: %s", a.StatusCode, status, got)
	}
	if want == "" {
		return
	}
	var g, w any
	if err := errors.Join(json.Unmarshal([]byte(want), &w), json.Unmarshal(got, &g)); err != nil {
		t.Fatalf("%v: %s", err, got)
	}
	if diff := cmp.Diff(w, g); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

const phone = `{"id": "phone", "mailbox": "ann@contoso.com", "token": "9c1d2e3f", "topic": "com.contoso.mail", "environment": "sandbox",
	"created": "2026-03-01T12:00:00Z", "enrolled": "2026-03-01T12:00:00Z", "state": "listening"}`

func TestAnEnrolmentIsNewThenSameThenReadThenRemovedThenGone(t *testing.T) {
	d := newBackend(t)
	is(t, d.ask(t, enrolToken, "GET", "/v1/devices/phone", ""), 404, "")
	is(t, d.ask(t, enrolToken, "PUT", "/v1/devices/phone", enrolment), 201, phone)
	is(t, d.ask(t, enrolToken, "PUT", "/v1/devices/phone", enrolment), 200, phone)
	is(t, d.ask(t, enrolToken, "GET", "/v1/devices/phone", ""), 200, phone)
	is(t, d.ask(t, enrolToken, "HEAD", "/v1/devices/phone", ""), 200, "")
	is(t, d.ask(t, enrolToken, "DELETE", "/v1/devices/phone", ""), 204, "")
	is(t, d.ask(t, enrolToken, "DELETE", "/v1/devices/phone", ""), 404, "")
	is(t, d.ask(t, enrolToken, "GET", "/v1/devices/phone", ""), 404, "")

	var lines []map[string]any
	for _, l := range d.log.All() {
		m := l.ContextMap()
		m["message"] = l.Message
		delete(m, "request_id") // of each another
		lines = append(lines, m)
	}
	want := []map[string]any{
		{"message": "device enrolled", "stream": "audit", "action": "device_enrolled", "outcome": "done", "client": "mdm", "address": "192.0.2.1", "device": "phone", "mailbox": "ann@contoso.com"},
		{"message": "device changed", "stream": "audit", "action": "device_changed", "outcome": "done", "client": "mdm", "address": "192.0.2.1", "device": "phone", "mailbox": "ann@contoso.com"},
		{"message": "device removed", "stream": "audit", "action": "device_removed", "outcome": "done", "client": "mdm", "address": "192.0.2.1", "device": "phone", "mailbox": "ann@contoso.com"},
		{"message": "device removed", "stream": "audit", "action": "device_removed", "outcome": "refused", "code": "no_device", "client": "mdm", "address": "192.0.2.1", "device": "phone"},
	}
	if diff := cmp.Diff(want, lines); diff != "" {
		t.Errorf("who enrolled and removed what is not in the log as it should (-want +got):\n%s", diff)
	}
}

func TestTokensAndAddressesAreKeptInOneForm(t *testing.T) {
	d := newBackend(t)
	body := strings.NewReplacer(deviceHex, strings.ToUpper(deviceHex), "ann@contoso.com", " Ann@CONTOSO.com").Replace(enrolment)
	is(t, d.ask(t, enrolToken, "PUT", "/v1/devices/phone", body, "Content-Type", "application/json; charset=utf-8"), 201, phone)
	if got, _ := d.Device("phone"); got.Token != deviceHex {
		t.Errorf("the token became %s", got.Token)
	}
}

func TestWhatMayBeLeftOutIsForTheConfigurationToDecide(t *testing.T) {
	d := newBackend(t)
	for _, body := range []string{
		`{"mailbox": "ann@contoso.com", "token": "` + deviceHex + `"}`,
		`{"mailbox": "ann@contoso.com", "token": "` + deviceHex + `", "topic": null, "environment": "", "exchange": null, "badge": null}`,
	} {
		d.ask(t, enrolToken, "DELETE", "/v1/devices/phone", "")
		is(t, d.ask(t, enrolToken, "PUT", "/v1/devices/phone", body), 201, strings.Replace(phone, "sandbox", "production", 1))
	}
	d.refuse = &subscriptions.FieldError{Field: "topic", Code: "ambiguous", Detail: "several fit"}
	is(t, d.ask(t, enrolToken, "PUT", "/v1/devices/phone", enrolment), 422,
		`{"type": "/docs/problems#wrong_fields", "code": "wrong_fields", "status": 422, "title": "Fields are wrong", "detail": "one field is wrong: errors says which", "errors": [{"field": "topic", "code": "ambiguous", "detail": "several fit"}]}`)
}

func TestADeviceThatIsBehindSaysWhyAndUntilWhen(t *testing.T) {
	d := newBackend(t)
	is(t, d.ask(t, adminToken, "PUT", "/v1/devices/quiet", enrolment), 201,
		strings.NewReplacer(`"phone"`, `"quiet"`, `"listening"`, `"behind", "reason": "throttled", "advice": "mend throttled", "next_try": "2026-03-01T12:01:00Z"`).Replace(phone))
}

func TestALabelIsShownAndGoesWithAnEnrolmentWithoutIt(t *testing.T) {
	d := newBackend(t)
	label := "Ann\u2019s phone \U0001f469\u200d\U0001f4bb " + strings.Repeat("é", maxLabel-16)
	body := strings.Replace(enrolment, "{", fmt.Sprintf(`{"label": %q, `, label), 1)
	is(t, d.ask(t, enrolToken, "PUT", "/v1/devices/phone", body), 201, strings.Replace(phone, "{", fmt.Sprintf(`{"label": %q, `, label), 1))
	var m Mailbox
	if err := json.NewDecoder(d.ask(t, readToken, "GET", "/v1/mailboxes/ann@contoso.com", "").Body).Decode(&m); err != nil || m.DeviceStates[0].Label != label {
		t.Errorf("%v: %+v", err, m.DeviceStates)
	}
	is(t, d.ask(t, enrolToken, "PUT", "/v1/devices/phone", enrolment), 200, phone)
}

func TestAWrongEnrolmentIsRefusedWithAllThatIsWrong(t *testing.T) {
	const id = "/v1/devices/phone"
	with := func(old, replacement string) string { return strings.Replace(enrolment, old, replacement, 1) }
	tests := map[string]struct {
		path, body string
		status     int
		errs       string // field code, in order
	}{
		"not JSON":             {id, "mailbox=ann", 400, ""},
		"nothing":              {id, "", 400, ""},
		"cut off":              {id, enrolment[:40], 400, ""},
		"something behind it":  {id, enrolment + "x", 400, ""},
		"two objects":          {id, enrolment + enrolment, 400, ""},
		"not UTF-8":            {id, with("ann", "ann\xff"), 400, ""},
		"a field twice":        {id, with("{", `{"mailbox": "bob@contoso.com", `), 400, ""},
		"twice, once escaped":  {id, with("{", `{"m\u0061ilbox": "bob@contoso.com", `), 400, ""},
		"twice within a field": {id, with("{", `{"x": {"a": 1, "a": [{"a": 2}]}, `), 422, "x unknown"},
		"brackets in a text":   {id, with("{", `{"x": "\":}{[\\", `), 422, "x unknown"},
		"too large":            {id, with("{", "{"+strings.Repeat(" ", maxBody)), 413, ""},
		"a list":               {id, "[" + enrolment + "]", 422, "body wrong_type"},
		"null":                 {id, "null", 422, "body wrong_type"},
		"an empty object":      {id, "{}", 422, "mailbox required, token required"},
		"empty texts":          {id, `{"mailbox": "", "token": null}`, 422, "mailbox required, token required"},
		"unknown fields":       {id, with("{", `{"b": 1, "a": null, `), 422, "a unknown, b unknown"},
		"a field in capitals":  {id, with(`"topic"`, `"Topic"`), 422, "Topic unknown"},
		"later fields":         {id, with("{", `{"badge": true, "content": "sender", "vip": "x", `), 422, "content not_available, badge not_available, vip not_available"},
		"wrong types":          {id, `{"mailbox": 1, "token": [], "topic": {}, "environment": true, "exchange": 1.5, "label": 1, "receipt_key": {}}`, 422, "mailbox wrong_type, token wrong_type, topic wrong_type, environment wrong_type, exchange wrong_type, label wrong_type, receipt_key wrong_type"},
		"a bad mailbox":        {id, with("ann@contoso.com", "ann"), 422, "mailbox invalid"},
		"a mailbox with name":  {id, with("ann@contoso.com", "Ann <ann@contoso.com>"), 422, "mailbox invalid"},
		"a token not in hex":   {id, with("9c1d", "9c1g"), 422, "token invalid"},
		"a token too short":    {id, with("9c1d", "9c"), 422, "token invalid"},
		"a token too long":     {id, with(deviceHex, strings.Repeat("ab", 101)), 422, "token invalid"},
		"a token of odd":       {id, with("9c1d", "9c1dd"), 422, "token invalid"},
		"a bad topic":          {id, with("com.contoso.mail", "com contoso"), 422, "topic invalid"},
		"a bad environment":    {id, with("sandbox", "development"), 422, "environment invalid"},
		"a bad exchange":       {id, with("{", `{"exchange": "head quarters", `), 422, "exchange invalid"},
		"a bad receipt key":    {id, with("{", `{"receipt_key": "AAAA", `), 422, "receipt_key invalid"},
		"a label too long":     {id, with("{", `{"label": "`+strings.Repeat("é", maxLabel+1)+`", `), 422, "label invalid"},
		"a label of two lines": {id, with("{", `{"label": "a\nb", `), 422, "label invalid"},
		"a label that turns":   {id, with("{", `{"label": "a\u202eb", `), 422, "label invalid"},
		"a bad id":             {"/v1/devices/my%20phone", enrolment, 422, "id invalid"},
		"an id with a slash":   {"/v1/devices/my%2Fphone", enrolment, 422, "id invalid"},
		"an id of a dot":       {"/v1/devices/%2e", enrolment, 422, "id invalid"},
		"an id of two":         {"/v1/devices/%2E%2E", enrolment, 422, "id invalid"},
		"an id too long":       {"/v1/devices/" + strings.Repeat("a", 129), enrolment, 422, "id invalid"},
		"everything":           {"/v1/devices/$", `{"mailbox": "x", "token": "x", "topic": "", "vip": [], "z": 1}`, 422, "id invalid, mailbox invalid, token invalid, vip not_available, z unknown"},
		"a field of long name": {id, with("{", `{"`+strings.Repeat("é", 100)+`": 1, `), 422, strings.Repeat("é", 64) + "… unknown"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			d := newBackend(t)
			want := strings.TrimSpace(fmt.Sprint(test.status, " ", test.errs))
			if got := told(t, d.ask(t, enrolToken, "PUT", test.path, test.body)); got != want {
				t.Errorf("%s, want %s", got, want)
			}
			if len(d.devices) != 0 {
				t.Error("it was enrolled")
			}
		})
	}
}

// told returns the status of a problem, and the fields and codes of its errors.
func told(t testing.TB, a *http.Response) string {
	t.Helper()
	var p Problem
	if err := json.NewDecoder(a.Body).Decode(&p); err != nil {
		t.Fatal(err)
	}
	var errs []string
	for _, e := range p.Errors {
		errs = append(errs, e.Field+" "+e.Code)
		if e.Detail == "" {
			t.Errorf("%s has no detail", e.Field)
		}
	}
	return strings.TrimSpace(fmt.Sprint(a.StatusCode, " ", strings.Join(errs, ", ")))
}

func TestABodyOfWrongFieldsDoesNotComeBackLarger(t *testing.T) {
	var body strings.Builder
	for i := range 2000 {
		fmt.Fprintf(&body, `, "x%d": 1`, i)
	}
	d := newBackend(t)
	a := d.ask(t, enrolToken, "PUT", "/v1/devices/phone", "{"+body.String()[1:]+"}")
	var p Problem
	if err := json.NewDecoder(a.Body).Decode(&p); err != nil || len(p.Errors) != maxErrors {
		t.Errorf("%v: %d errors, want %d", err, len(p.Errors), maxErrors)
	}
}

func TestABodyIsJSONUnderEveryTypeThatClientsGiveIt(t *testing.T) {
	for kind, want := range map[string]int{
		"": 201, "application/json": 201, "Application/JSON; charset=utf-8": 201, "application/x-www-form-urlencoded": 201,
		"application/vnd.contoso.enrolment+json": 201, "application/merge-patch+json; charset=utf-8": 201,
		"text/plain": 415, "multipart/form-data; boundary=x": 415, "application/jsonx": 415, "application/json+xml": 415, "json/": 415,
	} {
		d := newBackend(t)
		is(t, d.ask(t, enrolToken, "PUT", "/v1/devices/phone", enrolment, "Content-Type", kind), want, "")
		if enrolled := len(d.devices) == 1; enrolled != (want == 201) {
			t.Errorf("%s: enrolled %t", kind, enrolled)
		}
	}
	d := newBackend(t)
	is(t, d.ask(t, enrolToken, "PUT", "/v1/devices/phone", "mailbox=ann%40contoso.com&token="+deviceHex, "Content-Type", "application/x-www-form-urlencoded"), 400, "")
}

func TestEachRoleMayWhatItMayAndNothingElse(t *testing.T) {
	calls := []struct {
		method, target           string
		enrol, read, test, admin int
	}{
		{"PUT", "/v1/devices/new", 201, 403, 403, 201},
		{"GET", "/v1/devices/phone", 200, 200, 200, 200},
		{"GET", "/v1/devices", 200, 200, 200, 200},
		{"GET", "/v1/mailboxes/ann@contoso.com", 403, 200, 200, 200},
		{"GET", "/v1/mailboxes", 403, 200, 200, 200},
		{"GET", "/v1/status", 403, 200, 200, 200},
		{"GET", "/metrics", 403, 200, 200, 200},
		{"POST", "/v1/test-notifications", 403, 403, 422, 422},
		{"PUT", "/v1/exchange/online/listen_by", 403, 403, 403, 422},
		{"POST", "/v1/devices:import", 200, 403, 403, 200},
		{"GET", "/v1/devices:export", 200, 200, 200, 200},
		{"GET", "/v1/state:backup", 403, 403, 403, 404},
		{"DELETE", "/v1/devices/phone", 204, 403, 403, 204},
	}
	for _, c := range calls {
		for token, want := range map[string]int{enrolToken: c.enrol, readToken: c.read, testToken: c.test, adminToken: c.admin, "": 401, "wrong-0123456789abcdef": 401} {
			d := newBackend(t)
			d.devices["phone"] = subscriptions.Device{ID: "phone", Mailbox: "ann@contoso.com", Token: deviceHex, Topic: "com.contoso.mail", Environment: "sandbox"}
			a := d.ask(t, token, c.method, c.target, enrolment)
			if a.StatusCode != want {
				t.Errorf("%s %s as %q: %d, want %d", c.method, c.target, token, a.StatusCode, want)
			}
			challenge := map[int]string{401: `Bearer realm="mailbell"`, 403: `Bearer realm="mailbell", error="insufficient_scope"`}[want]
			if got := a.Header.Get("WWW-Authenticate"); got != challenge {
				t.Errorf("%s %s as %q: WWW-Authenticate: %s, want %s", c.method, c.target, token, got, challenge)
			}
			if changed := len(d.devices) != 1; changed != (want == 201 || want == 204) {
				t.Errorf("%s %s as %q changed the devices, or did not", c.method, c.target, token)
			}
		}
	}
}

func TestOnlyABearerTokenOpens(t *testing.T) {
	d := newBackend(t)
	for _, header := range []string{"", "Bearer", "Bearer ", "Basic " + readToken, readToken, "Bearer " + readToken + "x", "Bearer " + readToken[:len(readToken)-1]} {
		is(t, d.ask(t, "", "GET", "/v1/status", "", "Authorization", header), 401, "")
	}
	is(t, d.ask(t, "", "GET", "/v1/status", "", "Authorization", "bearer "+readToken), 200, "")
	r := httptest.NewRequest("GET", "/v1/status", nil)
	r.Header["Authorization"] = []string{"Bearer " + readToken, "Bearer " + adminToken}
	w := httptest.NewRecorder()
	d.handler.ServeHTTP(w, r)
	is(t, w.Result(), 401, "")
}

func TestPathsAndMethodsThatAreNotThereAreProblemsToo(t *testing.T) {
	d := newBackend(t)
	for _, target := range []string{"/v1", "/v1/", "/v1/devices/", "/v1/devices/a/b", "/v1/nothing", "/v1//devices", "/v1/devices/../status", "/v2", "/", "/healthz/"} {
		is(t, d.ask(t, adminToken, "GET", target, ""), 404, "")
	}
	is(t, d.ask(t, "", "GET", "/v1/nothing", ""), 401, "")
	for target, allow := range map[string]string{
		"/v1/devices/phone": "DELETE, GET, HEAD, PUT", "/v1/devices": "GET, HEAD", "/v1/mailboxes": "GET, HEAD", "/v1/mailboxes/a@b.c": "GET, HEAD",
		"/v1/exchange/online/listen_by": "PUT", "/v1/status": "GET, HEAD", "/v1/test-notifications": "POST", "/healthz": "GET, HEAD", "/readyz": "GET, HEAD", "/metrics": "GET, HEAD", "/openapi.yaml": "GET, HEAD",
	} {
		a := d.ask(t, adminToken, "PATCH", target, "{}")
		is(t, a, 405, "")
		if got := a.Header.Get("Allow"); got != allow {
			t.Errorf("%s: Allow: %s, want %s", target, got, allow)
		}
	}
}

func TestThePagesAreThereOnlyWhereThereAreSome(t *testing.T) {
	d := newBackend(t)
	for _, target := range []string{"/admin", "/admin/", "/admin/mailboxes"} {
		is(t, d.ask(t, "", "POST", target, ""), 404, "")
	}
	d.handler.ServePages(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }))
	for target, want := range map[string]int{"/admin": 418, "/admin/": 418, "/admin/mailboxes": 418, "/admin//": 404, "/admin/../v1": 404, "/administrator": 404} {
		is(t, d.ask(t, "", "POST", target, ""), want, "")
	}
}

func TestCallbacksNeedNoTokenAndAreThereOnlyWhereSomebodyTakesThem(t *testing.T) {
	for _, takes := range []bool{true, false} {
		var got []string
		o := Options{Metrics: prometheus.NewRegistry(), Log: zap.NewNop()}
		if takes {
			o.Callbacks = http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = append(got, r.Method+" "+r.URL.Path) })
		}
		a := New(o)
		for target, want := range map[string]int{"/callbacks/ews/secret": 200, "/callbacks/": 200, "/callbacks": 404, "/callbacks/../v1": 404, "/callbacksandmore": 404} {
			w := httptest.NewRecorder()
			a.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodPost, target, strings.NewReader("<Envelope/>")))
			if !takes {
				want = 404
			}
			if w.Code != want {
				t.Errorf("takes %v: %s: %d, want %d", takes, target, w.Code, want)
			}
		}
		if takes != (len(got) == 2) {
			t.Errorf("takes %v: got %q", takes, got)
		}
		a.Close()
	}
}

func TestDevicesArePagedThroughByID(t *testing.T) {
	d := newBackend(t)
	for i := range 205 {
		mailbox := fmt.Sprintf("m%d@contoso.com", i%2)
		d.devices[fmt.Sprintf("d%03d", i)] = subscriptions.Device{ID: fmt.Sprintf("d%03d", i), Mailbox: mailbox, Token: deviceHex, Environment: "sandbox"}
	}
	for query, want := range map[string][]int{"": {100, 100, 5}, "limit=1000": {205}, "limit=205": {205}, "limit=204": {204, 1}, "mailbox=M1@Contoso.com&limit=100": {100, 2}, "mailbox=x@contoso.com": {0}} {
		var sizes []int
		var ids []string
		for after := ""; ; {
			a := d.ask(t, enrolToken, "GET", "/v1/devices?"+query+"&after="+after, "")
			var page DevicePage
			if err := json.NewDecoder(a.Body).Decode(&page); err != nil || page.Devices == nil {
				t.Fatal(err, "or no list")
			}
			sizes = append(sizes, len(page.Devices))
			for _, device := range page.Devices {
				ids = append(ids, device.ID)
			}
			if after = page.Next; after == "" {
				break
			}
		}
		if diff := cmp.Diff(want, sizes); diff != "" || !slices.IsSorted(ids) || len(slices.Compact(ids)) != len(ids) {
			t.Errorf("%s: in order and once each? (-want +got):\n%s", query, diff)
		}
	}
}

func TestAWrongQueryIsRefusedByName(t *testing.T) {
	d := newBackend(t)
	for target, want := range map[string]string{
		"/v1/devices?limit=0":             "limit invalid",
		"/v1/devices?limit=1001":          "limit invalid",
		"/v1/devices?limit=ten":           "limit invalid",
		"/v1/devices?limit=1&limit=2":     "limit invalid",
		"/v1/devices?mailbx=a@b.c":        "mailbx unknown",
		"/v1/devices?mailbox=a&limit=-1":  "mailbox invalid, limit invalid",
		"/v1/mailboxes?state=unknown":     "state invalid",
		"/v1/mailboxes?state=x&limit=1e3": "state invalid, limit invalid",
		"/v1/mailboxes?mailbox=a@b.c":     "mailbox unknown",
		"/v1/status?verbose=1":            "verbose unknown",
	} {
		if got := told(t, d.ask(t, adminToken, "GET", target, "")); got != "422 "+want {
			t.Errorf("%s: %s, want 422 %s", target, got, want)
		}
	}
	is(t, d.ask(t, adminToken, "GET", "/v1/devices?mailbox=%zz", ""), 400, "")
	paths := strings.NewReplacer("{id}", "phone", "{address}", "ann@contoso.com", "{name}", "headquarters")
	for pattern, methods := range d.handler.routes() {
		for method := range methods {
			if got := told(t, d.ask(t, adminToken, method, paths.Replace(pattern)+"?dry_run=true", "")); got != "422 dry_run unknown" {
				t.Errorf("%s %s: %s, want that it has no dry_run", method, pattern, got)
			}
		}
	}
}

func TestAMailboxSaysHowItIsListenedToAndWhatWasDecided(t *testing.T) {
	d := newBackend(t)
	is(t, d.ask(t, readToken, "GET", "/v1/mailboxes/ann@contoso.com", ""), 404, "")
	d.devices["phone"] = subscriptions.Device{ID: "phone", Mailbox: "ann@contoso.com", Token: deviceHex, Environment: "sandbox"}
	const at = `"2026-03-01T12:00:00Z"`
	accepted := `{"message": "AQAAAAAAAAAAAAAAAAAAAA", "device": "phone", "outcome": "accepted", "received": ` + at + `, "decided": ` + at + `, "apns_id": "0c5f0000-0000-0000-0000-000000000000", "apns_status": 200}`
	want := `{"address": "ann@contoso.com", "state": "failing", "reason": "HTTP 401: the password is wrong", "advice": "mend HTTP 401: the password is wrong", "next_try": "2026-03-01T13:00:00Z", "account": "listener-01",
		"location": {"exchange": "headquarters", "url": "https://ex.contoso.com/EWS/Exchange.asmx", "group": "g1", "primary": "ann@contoso.com",
			"server": "unknown", "source": "ews", "how": "ews_url", "found": ` + at + `},
		"subscribed": ` + at + `, "last_heartbeat": ` + at + `, "last_hint": ` + at + `, "last_listing": ` + at + `, "last_message": ` + at + `, "last_alert": ` + accepted + `,
		"devices": ["phone"], "device_states": [{"id": "phone", "state": "listening"}],
		"decisions": [{"message": "AgAAAAAAAAAAAAAAAAAAAA", "outcome": "not_sent", "reason": "before_enrolment", "explanation": "The message was received before the device was enrolled.", "received": ` + at + `, "decided": ` + at + `}, ` + accepted + `]}`
	is(t, d.ask(t, readToken, "GET", "/v1/mailboxes/ann@contoso.com", ""), 200, want)
	is(t, d.ask(t, readToken, "GET", "/v1/mailboxes/ANN%40Contoso.COM", ""), 200, want)
	is(t, d.ask(t, readToken, "GET", "/v1/mailboxes/ann", ""), 404, "")
}

func TestADeviceThatIsRemovedMeanwhileHasAStateThatIsDescribed(t *testing.T) {
	d := newBackend(t)
	is(t, d.ask(t, adminToken, "PUT", "/v1/devices/leaving", enrolment), 201, "")
	is(t, d.ask(t, adminToken, "GET", "/v1/devices/leaving", ""), 200, "")
	is(t, d.ask(t, adminToken, "GET", "/v1/devices", ""), 200, "")
	is(t, d.ask(t, adminToken, "GET", "/v1/mailboxes/ann@contoso.com", ""), 200, "")
}

func TestMailboxesAreListedByState(t *testing.T) {
	d := newBackend(t)
	is(t, d.ask(t, readToken, "GET", "/v1/mailboxes?limit=1", ""), 200,
		`{"mailboxes": [{"address": "ann@contoso.com", "state": "listening", "account": "listener-01", "devices": 2}], "next": "ann@contoso.com"}`)
	is(t, d.ask(t, readToken, "GET", "/v1/mailboxes?state=failing&after=ann@contoso.com", ""), 200,
		`{"mailboxes": [{"address": "bob@contoso.com", "state": "failing", "reason": "ErrorMailboxMoveInProgress", "next_try": "2026-03-01T12:00:00Z", "devices": 1},
			{"address": "eve@contoso.com", "state": "failing", "devices": 1}]}`)
	is(t, d.ask(t, readToken, "GET", "/v1/mailboxes?state=polling", ""), 200, `{"mailboxes": []}`)
}

func TestADeviceIsFoundByAPartOfItsIDOrAddressThroughAllPages(t *testing.T) {
	d := newBackend(t)
	for i := range 2*maxLimit + 10 {
		id := fmt.Sprintf("Phone-%04d", i)
		d.devices[id] = subscriptions.Device{ID: id, Mailbox: fmt.Sprintf("user%04d@contoso.com", i), Token: deviceHex, Environment: "sandbox"}
	}
	for part, want := range map[string]string{"phone-2009": "[Phone-2009]", "USER0999@": "[Phone-0999]", "-2009": "[Phone-2009]", "nobody": "[]", "user000": "[Phone-0000 Phone-0001] more", "%": "[]"} {
		list, more := d.handler.Search(part, 2)
		ids := []string{}
		for _, one := range list {
			ids = append(ids, one.ID)
			if len(one.Token) > shownToken {
				t.Errorf("the whole token of %s is shown", one.ID)
			}
		}
		got := fmt.Sprint(ids)
		if more {
			got += " more"
		}
		if got != want {
			t.Errorf("%q: %s, want %s", part, got, want)
		}
	}
}

func TestStatusSaysWhyItIsNotReady(t *testing.T) {
	d := newBackend(t)
	d.ready, d.ping = errors.New("not every mailbox was tried yet"), errors.New("disk full")
	a := d.ask(t, readToken, "GET", "/v1/status", "")
	var s Status
	if err := json.NewDecoder(a.Body).Decode(&s); err != nil {
		t.Fatal(err)
	}
	if s.Started.IsZero() || s.Uptime < 0 {
		t.Errorf("started %v, uptime %d", s.Started, s.Uptime)
	}
	s.Started, s.Uptime = time.Time{}, 0
	want := Status{
		Version: "1.2.3", Reason: "not every mailbox was tried yet", StateStore: StateStore{Error: "disk full", Advice: check.Advise(d.ping, check.Circumstances{Step: check.StepState}).Do},
		Conditions: []check.Condition{{Kind: check.KindExchange, Name: "headquarters", Level: check.LevelError, Since: noon, Count: 2, Reason: "connect", Cause: "c", Advice: "a"}},
		Mailboxes:  map[subscriptions.State]int{"resolving": 0, "listening": 1, "polling": 0, "waiting_for_capacity": 0, "out_of_scope": 0, "failing": 2},
		Accounts: []Account{{Exchange: "headquarters", Name: "listener-01", Kind: "basic", Mailboxes: 3, Capacity: 1250, Streams: 1,
			Reason: "HTTP 401: no", NextTry: noon}},
		Credentials: []Credential{{Kind: "server", Name: "ex.contoso.com", Expires: noon}},
		Exchange:    []ExchangeEntry{{Name: "headquarters", Version: "Exchange2016", Capacity: 1250, Waiting: 1, Skew: -20, EWS: "streaming"}},
		Topics:      []Topic{{Topic: "com.contoso.mail", Environment: "production", Reason: outcome.TopicAway, Since: noon, Refused: map[string]int{"BadTopic": 2}}},
		Webhooks:    []Webhook{{Name: "mdm", Waiting: 1, Lost: 2, LastFailure: noon, Error: "HTTP 503"}},
		Canaries:    []Canary{{Mailbox: "canary@contoso.com", State: "late", Began: noon, LastSuccess: noon, Took: 800, Lost: 1, Reason: "canary late", Advice: "a"}},
		Clients: []ClientStatus{
			{Name: "mdm", Role: RoleEnrol, SignIns: []SignIn{{By: "token"}}}, {Name: "grafana", Role: RoleRead, SignIns: []SignIn{{By: "token", Last: s.Clients[1].SignIns[0].Last}}},
			{Name: "helpdesk", Role: RoleTest, SignIns: []SignIn{{By: "token"}}}, {Name: "operator", Role: RoleAdmin, SignIns: []SignIn{{By: "token"}}},
		},
	}
	if s.Clients[1].SignIns[0].Last.IsZero() {
		t.Error("the client that asks has not signed in")
	}
	if diff := cmp.Diff(want, s); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestHealthNeedsNoTokenAndReadinessShowsNoReason(t *testing.T) {
	d := newBackend(t)
	body := func(target string, status int) string {
		t.Helper()
		a := d.ask(t, "", "GET", target, "")
		is(t, a, status, "")
		return d.raw(target)
	}
	if got := body("/healthz", 200); got != "ok\n" {
		t.Error(got)
	}
	if got := body("/readyz", 200); got != "ready\n" {
		t.Error(got)
	}
	d.ready = errors.New("redis1:6379 is away")
	if got := body("/readyz", 503); strings.Contains(got, "redis") {
		t.Error(got)
	}
	if got := body("/openapi.yaml", 200); got != string(openAPI) {
		t.Error("another document")
	}
	if got := body("/healthz", 200); got != "ok\n" {
		t.Error("health depends on readiness")
	}
}

func (d *backend) raw(target string) string {
	w := httptest.NewRecorder()
	d.handler.ServeHTTP(w, httptest.NewRequest("GET", target, nil))
	return w.Body.String()
}

func TestMetricsAreThoseOfTheGatherer(t *testing.T) {
	d := newBackend(t)
	a := d.ask(t, readToken, "GET", "/metrics", "")
	got, err := io.ReadAll(a.Body)
	if err != nil || !strings.Contains(string(got), "mailbell_resent_total 0") || !strings.Contains(string(got), "mailbell_standby 0") {
		t.Errorf("%v: %s", err, got)
	}
}

func TestAStateStoreThatIsAwayIsAProblemToTryAgain(t *testing.T) {
	d := newBackend(t)
	d.refuse = errors.New("no space left on device")
	for _, method := range []string{"PUT", "DELETE"} {
		a := d.ask(t, enrolToken, method, "/v1/devices/phone", enrolment)
		is(t, a, 503, `{"type": "/docs/problems#state_store_away", "code": "state_store_away", "status": 503, "title": "The state store did not take it", "detail": "the state store did not take it: try again"}`)
		if a.Header.Get("Retry-After") == "" {
			t.Error("no Retry-After")
		}
	}
	if d.log.FilterMessage("a request failed").Len() != 2 {
		t.Error("the log does not say why")
	}
}

func TestAClientThatHangsUpLeavesNoChangeHalfDone(t *testing.T) {
	d := newBackend(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r := httptest.NewRequestWithContext(ctx, "PUT", "/v1/devices/phone", strings.NewReader(enrolment))
	r.Header.Set("Authorization", "Bearer "+enrolToken)
	d.handler.ServeHTTP(httptest.NewRecorder(), r)
	if _, ok := d.Device("phone"); !ok {
		t.Error("the enrolment was given up")
	}
}

func TestAPanicHarmsOneRequestAndShowsNothingOfIt(t *testing.T) {
	d := newBackend(t)
	d.panics = true
	is(t, d.ask(t, enrolToken, "PUT", "/v1/devices/phone", enrolment), 500, "")
	d.panics = false
	is(t, d.ask(t, enrolToken, "PUT", "/v1/devices/phone", enrolment), 201, "")
	if log := fmt.Sprint(d.log.All()); strings.Contains(log, deviceHex) || d.log.FilterMessage("panic while answering").Len() != 1 {
		t.Errorf("the log: %s", log)
	}
}

func TestAnAnswerThatAPanicEndsDoesNotLookWhole(t *testing.T) {
	d := newBackend(t)
	for i := range maxLimit + 1 {
		id := fmt.Sprint("phone-", i)
		d.devices[id] = subscriptions.Device{ID: id}
	}
	d.panics = true
	for version := 1; version <= 2; version++ {
		s := httptest.NewUnstartedServer(d.handler)
		s.EnableHTTP2 = version == 2
		s.StartTLS()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+"/v1/devices:export", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+adminToken)
		a, err := s.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(a.Body)
		a.Body.Close()
		s.Close()
		if err == nil || a.ProtoMajor != version || strings.Contains(string(body), "defect") {
			t.Errorf("HTTP/%d: %v; the last of it: %s", a.ProtoMajor, err, body[max(0, len(body)-100):])
		}
	}
}

// FuzzObject has encoding/json tell the members of an object one after the other.
func FuzzObject(f *testing.F) {
	for _, body := range []string{enrolment, `{}`, `[{"a": 1}]`, `null`, `{"a": 1, "a": 2} x`, ` {"a":{"a":"\":}{[\\"},"b":[1,{"a":1}]} `, `{"\u0061":1,"a":2}`, `{"\ud800":1,"\ufffd":2}`, "\ufeff{}"} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		fields, err := readObject(body)
		body = bytes.TrimPrefix(body, []byte("\ufeff"))
		if !utf8.Valid(body) || !json.Valid(body) {
			if !errors.Is(err, errNotJSON) {
				t.Fatalf("%q: %v", body, err)
			}
			return
		}
		d := json.NewDecoder(bytes.NewReader(body))
		if first, _ := d.Token(); first != json.Delim('{') {
			if err == nil || errors.Is(err, errNotJSON) || errors.Is(err, errTwice) {
				t.Fatalf("%q: %v", body, err)
			}
			return
		}
		want := map[string]json.RawMessage{}
		for n := 1; d.More(); n++ {
			name, _ := d.Token()
			var value json.RawMessage
			if err := d.Decode(&value); err != nil {
				t.Fatal(err)
			}
			want[name.(string)] = value
			if len(want) < n {
				if !errors.Is(err, errTwice) {
					t.Fatalf("%q: %v", body, err)
				}
				return
			}
		}
		if diff := cmp.Diff(want, fields); diff != "" || err != nil {
			t.Fatalf("%q: %v %s", body, err, diff)
		}
	})
}

func FuzzEnrolment(f *testing.F) {
	f.Add("phone", []byte(enrolment))
	f.Add("a.b_c:d@e-f", []byte(`{"mailbox": "Ann@b\u00fccher.example", "token": null, "x": [{"y": 1e9}], "vip": false}`))
	f.Add("phone", []byte(strings.Replace(enrolment, "{", `{"label": "Ann\u2019s iPhone \ud83d\udc69\u200d\ud83d\udcbb", `, 1)))
	f.Add("", []byte(`{"a": 1, "a": 2} x`))
	f.Add("\xff", []byte("{\"mailbox\": \"\xff\"}"))
	f.Fuzz(func(t *testing.T, id string, body []byte) {
		e, err := readEnrolment(id, body)
		if err != nil {
			p, ok := errors.AsType[*Problem](err)
			if !ok || p.Status != 400 && p.Status != 422 || (p.Status == 422) != (len(p.Errors) > 0) || len(p.Errors) > maxErrors {
				t.Fatalf("%#v", err)
			}
			return
		}
		if len(e.Token)%2 != 0 || len(e.Token) < minToken || len(e.Token) > maxToken || e.Token != strings.ToLower(e.Token) ||
			utf8.RuneCountInString(e.Label) > maxLabel || e.Mailbox == "" || e.ID != id || !pattern.Device.Matches(id) || !slices.Contains([]string{"", "production", "sandbox"}, e.Environment) {
			t.Fatalf("passed: %+v", e)
		}
		if again, err := mail.ParseAddress(e.Mailbox); err != nil || again != e.Mailbox {
			t.Fatalf("the mailbox %q is not in its one form: %q, %v", e.Mailbox, again, err)
		}
	})
}
