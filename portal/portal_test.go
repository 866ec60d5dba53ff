package portal

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/subscriptions"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	enrolToken = "enrol-0123456789abcdef"
	readToken  = "read-0123456789abcdef"
	testToken  = "test-0123456789abcdef"
	adminToken = "admin-0123456789abcdef"

	deviceHex = "740f4707bebcf74f9b7c25d48e3358945f6aa01da5ddb387462c7eaf61bb78ad"
	enrolment = `{"mailbox": "ann@contoso.com", "token": "` + deviceHex + `", "topic": "com.contoso.mail", "environment": "sandbox"}`
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// book holds enrolments in memory: what the portal needs of the other rooms.
type book struct {
	mu      sync.Mutex
	devices map[string]subscriptions.Device
	refuse  error // of the next changes
	panics  bool
}

func (b *book) Enrol(ctx context.Context, e subscriptions.Enrolment) (subscriptions.Device, bool, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.panics {
		panic("the book fell over " + e.Token)
	}
	if err := cmp.Or(b.refuse, ctx.Err()); err != nil {
		return subscriptions.Device{}, false, err
	}
	_, known := b.devices[e.ID]
	d := subscriptions.Device{
		ID: e.ID, Mailbox: e.Mailbox, Token: e.Token, Topic: cmp.Or(e.Topic, "com.contoso.mail"), Environment: cmp.Or(e.Environment, "production"),
		Exchange: e.Exchange, Created: noon.In(time.FixedZone("", 3600)), Enrolled: noon,
	}
	b.devices[e.ID] = d
	return d, !known, nil
}

func (b *book) Remove(_ context.Context, id string) (bool, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, was := b.devices[id]
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

func (b *book) Standing(id string) (state, reason string, next time.Time) {
	if id == "quiet" {
		return "behind", "throttled", noon.Add(time.Minute)
	}
	return "heard", "", time.Time{}
}

func (b *book) Mailbox(address string) (subscriptions.Hearing, []subscriptions.Device, bool) {
	devices, _ := b.Devices(address, "", 1000)
	if len(devices) == 0 {
		return subscriptions.Hearing{}, nil, false
	}
	return subscriptions.Hearing{
		State: subscriptions.Parked, Reason: "HTTP 401: the password is wrong", Next: noon.Add(time.Hour), Account: "listener-01",
		Place:      mail.Place{Entry: "headquarters", URL: "https://ex.contoso.com/EWS/Exchange.asmx", Group: "g1", Primary: "ann@contoso.com", Found: noon},
		Subscribed: noon, LastHeartbeat: noon, LastHint: noon, LastListing: noon, LastMessage: noon,
		Decisions: []subscriptions.Decision{
			{Key: mail.Key{2}, Outcome: "settled", Reason: "before_enrolment", Came: noon, At: noon},
			{Key: mail.Key{1}, Device: devices[0].ID, Outcome: "rung", Came: noon, At: noon, PushID: "0c5f", Status: 200},
		},
	}, devices, true
}

func (b *book) List(state subscriptions.State, after string, limit int) (list []MailboxLine, next string) {
	for _, l := range []MailboxLine{
		{Address: "ann@contoso.com", State: subscriptions.Heard, Account: "listener-01", Devices: 2},
		{Address: "bob@contoso.com", State: subscriptions.Parked, Reason: "ErrorMailboxMoveInProgress", Next: noon, Devices: 1},
		{Address: "eve@contoso.com", State: subscriptions.Parked, Devices: 1},
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
	return map[subscriptions.State]int{subscriptions.Heard: 1, subscriptions.Parked: 2}
}

// desk is a portal with its book, its log, and what it is told about readiness.
type desk struct {
	*book
	handler http.Handler
	log     *observer.ObservedLogs
	ready   error
	ping    error
}

func newDesk(t testing.TB) *desk {
	t.Helper()
	core, log := observer.New(zap.DebugLevel)
	d := &desk{book: &book{devices: map[string]subscriptions.Device{}}, log: log}
	registry := prometheus.NewRegistry()
	registry.MustRegister(prometheus.NewCounter(prometheus.CounterOpts{Name: "mailbell_resent_total", Help: "."}))
	d.handler = New(Options{
		Clients: []Client{{"mdm", RoleEnrol, enrolToken}, {"grafana", RoleRead, readToken}, {"helpdesk", RoleTest, testToken}, {"operator", RoleAdmin, adminToken}},
		Enrolments: d.book, Mailboxes: d.book, Gatherer: registry, Log: zap.New(core), Version: "1.2.3",
		Ready: func() error { return d.ready },
		Ping:  func(context.Context) error { return d.ping },
	})
	return d
}

// ask sends a request with a token and holds every answer to what is promised of all of them.
func (d *desk) ask(t testing.TB, token, method, target, body string, headers ...string) *http.Response {
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
		var p problem
		if err := json.Unmarshal(all, &p); err != nil || a.Header.Get("Content-Type") != "application/problem+json" ||
			p.Status != a.StatusCode || p.Title != http.StatusText(p.Status) || p.Detail == "" {
			t.Errorf("%s %s: not a problem: %d %s %s", method, target, a.StatusCode, a.Header, all)
		}
	}
	documented(t, method, target, a.StatusCode)
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

const phone = `{"id": "phone", "mailbox": "ann@contoso.com", "token": "740f4707", "topic": "com.contoso.mail", "environment": "sandbox",
	"created": "2026-03-01T12:00:00Z", "enrolled": "2026-03-01T12:00:00Z", "state": "heard"}`

func TestAnEnrolmentIsNewThenSameThenReadThenRemovedThenGone(t *testing.T) {
	d := newDesk(t)
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
		lines = append(lines, m)
	}
	want := []map[string]any{
		{"message": "device enrolled", "client": "mdm", "device": "phone", "new": true},
		{"message": "device enrolled", "client": "mdm", "device": "phone", "new": false},
		{"message": "device removed", "client": "mdm", "device": "phone"},
	}
	if diff := cmp.Diff(want, lines); diff != "" {
		t.Errorf("who enrolled and removed what is not in the log as it should (-want +got):\n%s", diff)
	}
}

func TestTokensAndAddressesAreKeptInOneForm(t *testing.T) {
	d := newDesk(t)
	body := strings.NewReplacer(deviceHex, strings.ToUpper(deviceHex), "ann@contoso.com", " Ann@CONTOSO.com").Replace(enrolment)
	is(t, d.ask(t, enrolToken, "PUT", "/v1/devices/phone", body, "Content-Type", "application/json; charset=utf-8"), 201, phone)
	if got, _ := d.Device("phone"); got.Token != deviceHex {
		t.Errorf("the token became %s", got.Token)
	}
}

func TestWhatMayBeLeftOutIsForTheConfigurationToDecide(t *testing.T) {
	d := newDesk(t)
	for _, body := range []string{
		`{"mailbox": "ann@contoso.com", "token": "` + deviceHex + `"}`,
		`{"mailbox": "ann@contoso.com", "token": "` + deviceHex + `", "topic": null, "environment": "", "exchange": null, "badge": null}`,
	} {
		d.ask(t, enrolToken, "DELETE", "/v1/devices/phone", "")
		is(t, d.ask(t, enrolToken, "PUT", "/v1/devices/phone", body), 201, strings.Replace(phone, "sandbox", "production", 1))
	}
	d.refuse = &subscriptions.FieldError{Field: "topic", Code: "ambiguous", Detail: "several fit"}
	is(t, d.ask(t, enrolToken, "PUT", "/v1/devices/phone", enrolment), 422,
		`{"status": 422, "title": "Unprocessable Entity", "detail": "one field is wrong: errors says which", "errors": [{"field": "topic", "code": "ambiguous", "detail": "several fit"}]}`)
}

func TestADeviceThatIsBehindSaysWhyAndUntilWhen(t *testing.T) {
	d := newDesk(t)
	is(t, d.ask(t, adminToken, "PUT", "/v1/devices/quiet", enrolment), 201,
		strings.NewReplacer(`"phone"`, `"quiet"`, `"heard"`, `"behind", "reason": "throttled", "next_try": "2026-03-01T12:01:00Z"`).Replace(phone))
}

func TestAWrongEnrolmentIsRefusedWithAllThatIsWrong(t *testing.T) {
	const id = "/v1/devices/phone"
	with := func(old, new string) string { return strings.Replace(enrolment, old, new, 1) }
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
		"too large":            {id, with("{", "{"+strings.Repeat(" ", maxBody)), 413, ""},
		"a list":               {id, "[" + enrolment + "]", 422, "body wrong_type"},
		"null":                 {id, "null", 422, "body wrong_type"},
		"an empty object":      {id, "{}", 422, "mailbox required, token required"},
		"empty texts":          {id, `{"mailbox": "", "token": null}`, 422, "mailbox required, token required"},
		"unknown fields":       {id, with("{", `{"b": 1, "a": null, `), 422, "a unknown, b unknown"},
		"a field in capitals":  {id, with(`"topic"`, `"Topic"`), 422, "Topic unknown"},
		"later fields":         {id, with("{", `{"badge": true, "content": "sender", "label": "x", `), 422, "content not_available, badge not_available, label not_available"},
		"wrong types":          {id, `{"mailbox": 1, "token": [], "topic": {}, "environment": true, "exchange": 1.5}`, 422, "mailbox wrong_type, token wrong_type, topic wrong_type, environment wrong_type, exchange wrong_type"},
		"a bad mailbox":        {id, with("ann@contoso.com", "ann"), 422, "mailbox invalid"},
		"a mailbox with name":  {id, with("ann@contoso.com", "Ann <ann@contoso.com>"), 422, "mailbox invalid"},
		"a token not in hex":   {id, with("740f", "740g"), 422, "token invalid"},
		"a token too short":    {id, with("740f", "74"), 422, "token invalid"},
		"a token too long":     {id, with(deviceHex, strings.Repeat("ab", 101)), 422, "token invalid"},
		"a token of odd":       {id, with("740f", "740"+"0ff"+"aaaa"), 422, "token invalid"},
		"a bad topic":          {id, with("com.contoso.mail", "com contoso"), 422, "topic invalid"},
		"a bad environment":    {id, with("sandbox", "development"), 422, "environment invalid"},
		"a bad exchange":       {id, with("{", `{"exchange": "head quarters", `), 422, "exchange invalid"},
		"a bad id":             {"/v1/devices/my%20phone", enrolment, 422, "id invalid"},
		"an id with a slash":   {"/v1/devices/my%2Fphone", enrolment, 422, "id invalid"},
		"an id too long":       {"/v1/devices/" + strings.Repeat("a", 129), enrolment, 422, "id invalid"},
		"everything":           {"/v1/devices/$", `{"mailbox": "x", "token": "x", "topic": "", "vip": [], "z": 1}`, 422, "id invalid, mailbox invalid, token invalid, vip not_available, z unknown"},
		"very many fields":     {id, `{"x` + strings.Join(slices.Collect(numbers(200)), `": 1, "x`) + `": 1}`, 422, "mailbox required, token required" + strings.Repeat(", ", 0)},
		"a field of long name": {id, with("{", `{"`+strings.Repeat("é", 100)+`": 1, `), 422, strings.Repeat("é", 64) + "… unknown"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			d := newDesk(t)
			a := d.ask(t, enrolToken, "PUT", test.path, test.body)
			var p problem
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
			got := strings.Join(errs, ", ")
			if name == "very many fields" {
				if len(errs) != maxErrors {
					t.Errorf("%d errors, want %d", len(errs), maxErrors)
				}
				got = strings.Join(errs[:2], ", ")
			}
			if a.StatusCode != test.status || got != test.errs {
				t.Errorf("%d %s, want %d %s", a.StatusCode, got, test.status, test.errs)
			}
			if len(d.devices) != 0 {
				t.Error("it was enrolled")
			}
		})
	}
}
