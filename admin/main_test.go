package admin

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/mailbell/mailbell/api"
	"github.com/mailbell/mailbell/check"
	"github.com/mailbell/mailbell/internal/expiry"
	"github.com/mailbell/mailbell/internal/outcome"
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
)

// rooms stand in for the rooms behind the API.
type rooms struct {
	mu       sync.Mutex
	devices  map[string]subscriptions.Device
	statuses map[string]subscriptions.Status // by address
	overview api.Overview
	away     error // of the state store
	steps    []check.Step
	stepped  chan struct{} // if it is there, each step waits for it
	tested   []string
	sources  map[string]string // by which each address of the entry cloud is read
	moves    []api.Move
	unmoved  error
	asked    int // how often for the overview
}

func (f *rooms) Enrol(context.Context, subscriptions.Enrolment, subscriptions.Precondition) (subscriptions.Device, bool, error) {
	return subscriptions.Device{}, false, nil
}

func (f *rooms) Remove(context.Context, string, subscriptions.Precondition) (bool, error) {
	return false, nil
}

func (f *rooms) Device(id string) (subscriptions.Device, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	d, ok := f.devices[id]
	return d, ok
}

func (f *rooms) Devices(mailbox, after string, limit int) (list []subscriptions.Device, next string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(f.devices)) {
		d := f.devices[id]
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

func (f *rooms) Standing(id string) subscriptions.Standing {
	if strings.HasPrefix(id, "behind") {
		return subscriptions.Standing{State: subscriptions.BehindState, Reason: string(outcome.Throttled), Next: time.Now().Add(time.Minute)}
	}
	d, _ := f.Device(id)
	s, _, _ := f.Mailbox(context.Background(), d.Mailbox)
	return s.Standing
}

func (f *rooms) Mailbox(_ context.Context, address string) (subscriptions.Status, []subscriptions.Device, bool) {
	devices, _ := f.Devices(address, "", 1000)
	f.mu.Lock()
	defer f.mu.Unlock()
	s, ok := f.statuses[address]
	if !ok {
		s.State = subscriptions.Listening
	}
	return s, devices, len(devices) > 0
}

func (f *rooms) List(state subscriptions.State, after string, limit int) (list []api.MailboxLine, next string) {
	f.mu.Lock()
	addresses := map[string]int{}
	for _, d := range f.devices {
		addresses[d.Mailbox]++
	}
	f.mu.Unlock()
	for _, address := range slices.Sorted(maps.Keys(addresses)) {
		s, _, _ := f.Mailbox(context.Background(), address)
		if address <= after || state != "" && s.State != state {
			continue
		}
		if len(list) == limit {
			return list, list[limit-1].Address
		}
		list = append(list, api.MailboxLine{Address: address, State: s.State, Reason: s.Reason, Devices: addresses[address], Account: "listener-01", Exchange: f.exchange(address), Source: f.sources[address]})
	}
	return list, ""
}

// exchange is where a mailbox lives: in the cloud where its source is known.
func (f *rooms) exchange(address string) string {
	if f.sources[address] != "" {
		return "cloud"
	}
	return "headquarters"
}

func (f *rooms) move(_ context.Context, m api.Move) (n int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.unmoved != nil {
		return 0, f.unmoved
	}
	f.moves = append(f.moves, m)
	to := "ews"
	if m.ListenBy == "graph" {
		to = "graph"
	}
	for address, source := range f.sources {
		if source != to && (m.Mailbox == "" || m.Mailbox == address) {
			f.sources[address] = to
			n++
		}
	}
	return n, nil
}

func (f *rooms) Count() map[subscriptions.State]int {
	n := map[subscriptions.State]int{}
	list, _ := f.List("", "", 1_000_000)
	for _, l := range list {
		n[l.State]++
	}
	return n
}

func (f *rooms) test(ctx context.Context, device string, after func(check.Step)) (r check.Report) {
	f.mu.Lock()
	f.tested = append(f.tested, device)
	steps := f.steps
	f.mu.Unlock()
	for _, s := range steps {
		if f.stepped != nil {
			select {
			case <-f.stepped:
			case <-ctx.Done():
				return r
			}
		}
		r.Steps = append(r.Steps, s)
		r.OK = s.OK
		if after != nil {
			after(s)
		}
	}
	return r
}

// site is a server of the pages, and a browser of a person.
type site struct {
	*rooms
	api     *api.API
	pages   *Pages
	log     *observer.ObservedLogs
	server  *httptest.Server
	browser *http.Client
}

func newRooms() *rooms {
	noon := time.Now().Add(-3 * time.Hour)
	f := &rooms{devices: map[string]subscriptions.Device{}, statuses: map[string]subscriptions.Status{}, steps: []check.Step{
		{Name: check.StepEnrolment, OK: true}, {Name: check.StepLocation, OK: true, MS: 12},
		{Name: check.StepSignIn, MS: 40, Error: "HTTP 401: the password is wrong", Advice: "Correct password_file."},
	}}
	for id, address := range map[string]string{"ann-phone": "ann@contoso.com", "behind-ann": "ann@contoso.com", "bob-phone": "bob@contoso.com", "eve": "eve@fabrikam.com"} {
		f.devices[id] = subscriptions.Device{ID: id, Mailbox: address, Token: deviceHex, Topic: "com.contoso.mail", Environment: "production", Created: noon, Enrolled: noon, Since: noon}
	}
	f.statuses["ann@contoso.com"] = subscriptions.Status{
		Standing:   subscriptions.Standing{State: subscriptions.Listening, Exchange: "headquarters", Account: "listener-01"},
		Location:   mail.Location{Entry: "headquarters", URL: "https://ex.contoso.com/EWS/Exchange.asmx", Group: "g1", Primary: "ann@contoso.com", Server: "EX01", How: "Autodiscover (SOAP)", Found: noon},
		Subscribed: noon, LastHeartbeat: time.Now().Add(-9 * time.Second), LastHint: noon, LastListing: noon, LastMessage: noon,
		Decisions: []subscriptions.Decision{
			{Key: mail.Key{1}, Device: "ann-phone", Outcome: outcome.Accepted, Came: noon, At: noon.Add(340 * time.Millisecond), PushID: mail.PushID{0x0c, 0x5f}, Status: 200},
			{Key: mail.Key{2}, Device: "behind-ann", Outcome: outcome.Behind, Reason: outcome.Throttled, Came: noon, At: noon.Add(time.Second), Status: 429},
			{Key: mail.Key{3}, Outcome: outcome.NotSent, Reason: outcome.Gone, At: noon},
		},
	}
	f.statuses["bob@contoso.com"] = subscriptions.Status{
		Standing: subscriptions.Standing{State: subscriptions.Failing, Reason: "HTTP 401: the password is wrong", Next: time.Now().Add(time.Minute), Account: "listener-01"},
	}
	f.overview = api.Overview{
		Accounts:    []api.Account{{Exchange: "headquarters", Name: "listener-01", Kind: "basic", Mailboxes: 3, Capacity: 1250, Streams: 1}},
		Credentials: []expiry.Entry{{Kind: "server", Name: "ex.contoso.com", At: time.Now().Add(9 * 24 * time.Hour)}},
		Conditions: []check.Condition{{Kind: check.KindAccount, Name: "headquarters/listener-01", Level: check.LevelError, Since: noon, Count: 2, Example: "bob@contoso.com",
			Reason: "HTTP 401: the password is wrong", Cause: "the password of a listener account is wrong", Advice: "Correct password_file."}},
	}
	return f
}

// newPages are pages without a server.
func newPages() *site {
	core, log := observer.New(zap.DebugLevel)
	s := &site{rooms: newRooms(), log: log}
	registry := prometheus.NewRegistry()
	s.api = api.New(api.Options{
		Clients:    []api.Client{{Name: "mdm", Role: api.RoleEnrol, Token: enrolToken}, {Name: "grafana", Role: api.RoleRead, Token: readToken}, {Name: "helpdesk", Role: api.RoleTest, Token: testToken}, {Name: "operator", Role: api.RoleAdmin, Token: adminToken}},
		Enrolments: s.rooms, Mailboxes: s.rooms, Gatherer: registry, Metrics: registry, Log: zap.New(core), Version: "1.2.3",
		Ready: func() error { return nil },
		Ping:  func(context.Context) error { return s.away },
		Test:  s.test,
		Move:  s.move,
		Receipts: receipts.New(receipts.Options{Device: s.rooms.Device, Metrics: registry, Note: func(context.Context, subscriptions.Device, receipts.Shown) (d subscriptions.Decision, first, known bool, err error) {
			return d, false, false, nil
		}}),
		Advise: func(st subscriptions.Standing) check.Breakage {
			if st.Reason == "" {
				return check.Breakage{}
			}
			return check.Breakage{Name: "it is " + st.Reason, Do: "Mend " + st.Reason + "."}
		},
		Overview: func() api.Overview {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.asked++
			return s.overview
		},
	})
	s.pages = New(Options{API: s.api, Gatherer: registry, Log: zap.New(core)})
	s.api.ServePages(s.pages)
	return s
}

func newSite(t testing.TB) *site {
	t.Helper()
	s := newPages()
	s.server = httptest.NewServer(s.api)
	s.browser = s.newBrowser()
	t.Cleanup(func() {
		s.pages.Close()
		s.server.CloseClientConnections()
		s.server.Close()
		s.api.Close()
		s.browser.CloseIdleConnections()
	})
	return s
}

// newBrowser is a browser that nobody has signed in with. It keeps a Secure cookie on loopback, as browsers do, and follows no redirect.
func (s *site) newBrowser() *http.Client {
	jar, err := cookiejar.New(nil)
	if err != nil {
		panic(err)
	}
	return &http.Client{Jar: trusting{jar}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, Transport: &http.Transport{}}
}

// trusting is a jar that takes this machine for as good as HTTPS.
type trusting struct{ http.CookieJar }

func (j trusting) SetCookies(u *url.URL, c []*http.Cookie) {
	j.CookieJar.SetCookies(&url.URL{Scheme: "https", Host: u.Host, Path: u.Path}, c)
}

func (j trusting) Cookies(u *url.URL) []*http.Cookie {
	return j.CookieJar.Cookies(&url.URL{Scheme: "https", Host: u.Host, Path: u.Path})
}

// answer is what a browser got.
type answer struct {
	*http.Response
	text string
}

// get asks for a page; headers are names and values.
func (s *site) get(t testing.TB, target string, headers ...string) answer {
	t.Helper()
	return s.do(t, http.MethodGet, target, "", headers...)
}

// post posts a form with the fields of a query.
func (s *site) post(t testing.TB, target, form string, headers ...string) answer {
	t.Helper()
	return s.do(t, http.MethodPost, target, form, append([]string{"Content-Type", "application/x-www-form-urlencoded"}, headers...)...)
}

// do asks, and holds every answer to what is promised of all.
func (s *site) do(t testing.TB, method, target, body string, headers ...string) answer {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, s.server.URL+target, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	a, err := s.browser.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Body.Close()
	text, err := io.ReadAll(a.Body)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), deviceHex[:9]) {
		t.Errorf("%s %s: more than 8 characters of a device token", method, target)
	}
	for name, want := range map[string]string{"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff"} {
		if got := a.Header.Get(name); got != want && strings.HasPrefix(a.Header.Get("Content-Type"), "text/html") {
			t.Errorf("%s %s: %s: %q, want %q", method, target, name, got, want)
		}
	}
	return answer{a, string(text)}
}

// enter signs the browser in.
func (s *site) enter(t testing.TB, token string) {
	t.Helper()
	if a := s.post(t, signInPath, "token="+token); a.StatusCode != http.StatusSeeOther {
		t.Fatalf("sign-in: %d %s", a.StatusCode, a.text)
	}
}

// csrf is what a form of the session has to have.
func (s *site) csrf(t testing.TB) string {
	t.Helper()
	_, rest, ok := strings.Cut(s.get(t, root).text, `name="csrf" value="`)
	token, _, _ := strings.Cut(rest, `"`)
	if !ok || token == "" {
		t.Fatal("the page has no token in its forms")
	}
	return token
}

// shows checks an answer's status and that its text has each of these.
func (a answer) shows(t testing.TB, status int, wants ...string) {
	t.Helper()
	if a.StatusCode != status {
		t.Errorf("%s: %d, want %d: %s", a.Request.URL, a.StatusCode, status, a.text)
	}
	for _, want := range wants {
		if !strings.Contains(a.text, want) {
			t.Errorf("%s does not show %q: %s", a.Request.URL, want, a.text)
		}
	}
}

// leads checks that an answer leads somewhere.
func (a answer) leads(t testing.TB, where string) {
	t.Helper()
	if got := a.Header.Get("Location"); a.StatusCode != http.StatusSeeOther || got != where {
		t.Errorf("%s: %d to %q, want %q", a.Request.URL, a.StatusCode, got, cmp.Or(where, fmt.Sprint(http.StatusSeeOther)))
	}
}
