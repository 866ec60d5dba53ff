package graph

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/mailbell/mailbell/simulator/entra"
	"github.com/mailbell/mailbell/simulator/exchange"
	"github.com/mailbell/mailbell/simulator/faults"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// signing signs the tokens of all tests, because a key takes its time.
var signing = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

const (
	graphURL  = "https://graph.test"
	callback  = "https://bell.test/callbacks/graph/x"
	lifecycle = "https://bell.test/lifecycle/x"
	secret    = "app-secret"
	user      = "user@" + exchange.Domain
	other     = "other@" + exchange.Domain
	resident  = "resident@" + exchange.Domain // on premises
)

// world is a Graph with its Exchange Online, its Entra ID and an endpoint for notifications, all in the fake time of synctest.
type world struct {
	*testing.T
	org    *exchange.Organisation
	tenant *entra.Tenant
	faults *faults.Registry
	graph  *Server
	token  string

	mu      sync.Mutex
	posts   []post
	asked   []*url.URL                               // of handshakes
	answer  func(post) (status int, d time.Duration) // of the endpoint; nil: 202 at once
	echo    func(token string) *http.Response        // nil: as it should
	echoIn  time.Duration                            // so late is the answer of a handshake
	problem error                                    // of the endpoint
}

// post is a post of notifications.
type post struct {
	at    string
	time  time.Time
	items []change
	raw   []byte
	body  struct {
		Value  []change `json:"value"`
		Tokens []string `json:"validationTokens"`
	}
}

// run runs a test in fake time, for an app with Mail.Read.
func run(t *testing.T, test func(*world)) {
	t.Helper()
	runAs(t, []string{"Mail.Read"}, test)
}

// runAs runs a test in fake time, for an app with these permissions.
func runAs(t *testing.T, roles []string, test func(*world)) {
	t.Helper()
	signing()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, roles)
		defer func() {
			w.graph.Close()
			w.faults.Close()
			for _, x := range w.org.Hosts() {
				x.Close()
			}
		}()
		test(w)
	})
}

func newWorld(t *testing.T, roles []string) *world {
	w := &world{T: t, faults: faults.New(append(append(exchange.Faults(), Faults()...), entra.Faults()...)...)}
	var err error
	w.tenant, err = entra.New(entra.Options{
		Domains: []string{exchange.Domain}, FullAccess: true, GraphRoles: roles, Key: signing(),
		Secrets: []entra.Secret{{Value: secret}}, Faults: w.faults,
	})
	if err != nil {
		t.Fatal(err)
	}
	w.org, err = exchange.New(exchange.Options{Hybrid: true, Password: "p", Tokens: w.tenant, Faults: w.faults})
	if err != nil {
		t.Fatal(err)
	}
	w.graph = New(Options{Mail: w.org, Tokens: w.tenant, Faults: w.faults, Post: w})
	w.graph.Locate(graphURL)
	for address, host := range map[string]string{user: exchange.Online, other: exchange.Online, resident: exchange.OnPremises} {
		if err := w.org.AddMailbox(address, host); err != nil {
			t.Fatal(err)
		}
	}
	w.token = w.newToken(graphURL + "/.default")
	return w
}

// newToken gets an access token.
func (w *world) newToken(scope string) string {
	w.Helper()
	form := url.Values{"grant_type": {"client_credentials"}, "client_id": {w.tenant.ClientID()}, "client_secret": {secret}, "scope": {scope}}
	r := httptest.NewRequest(http.MethodPost, "https://login.test/"+w.tenant.ID()+"/oauth2/v2.0/token", strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	rec := httptest.NewRecorder()
	w.tenant.ServeHTTP(rec, r)
	var a struct {
		Token string `json:"access_token"`
	}
	if err := json.Unmarshal(rec.Body.Bytes(), &a); err != nil || a.Token == "" {
		w.Fatalf("no token: %s", rec.Body)
	}
	return a.Token
}

// got is an answer of Graph.
type got struct {
	status int
	header http.Header
	body   map[string]any
	raw    string
}

// value is that of an answer with a list.
func (g got) value() (list []map[string]any) {
	values, _ := g.body["value"].([]any)
	for _, v := range values {
		m, _ := v.(map[string]any)
		list = append(list, m)
	}
	return list
}

// code is that of an error.
func (g got) code() string {
	e, _ := g.body["error"].(map[string]any)
	code, _ := e["code"].(string)
	return code
}

func (g got) text(name string) string {
	s, _ := g.body[name].(string)
	return s
}

// call asks Graph. A path begins behind the version, or is a whole URL.
func (w *world) call(method, path string, body any, header ...string) got {
	w.Helper()
	if !strings.HasPrefix(path, "https://") {
		path = graphURL + version + path
	}
	var in io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			w.Fatal(err)
		}
		in = bytes.NewReader(b)
	}
	r := httptest.NewRequestWithContext(w.Context(), method, strings.ReplaceAll(path, " ", "%20"), in)
	r.Header.Set("Authorization", "Bearer "+w.token)
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	rec := httptest.NewRecorder()
	w.graph.ServeHTTP(rec, r)
	g := got{status: rec.Code, header: rec.Header(), raw: rec.Body.String()}
	if rec.Body.Len() > 0 {
		if err := json.Unmarshal(rec.Body.Bytes(), &g.body); err != nil {
			w.Fatalf("%s %s: %v: %s", method, path, err, rec.Body)
		}
	}
	return g
}

func (w *world) get(path string, header ...string) got {
	w.Helper()
	return w.call(http.MethodGet, path, nil, header...)
}

// subscribe makes a subscription, with some of its properties changed.
func (w *world) subscribe(changes map[string]any, header ...string) got {
	w.Helper()
	body := map[string]any{
		"changeType": "created", "notificationUrl": callback, "lifecycleNotificationUrl": lifecycle,
		"resource": "/users/" + user + "/mailFolders('inbox')/messages", "clientState": "secret",
		"expirationDateTime": time.Now().Add(6 * 24 * time.Hour).UTC().Format(longTime),
	}
	for name, v := range changes {
		if v == nil {
			delete(body, name)
			continue
		}
		body[name] = v
	}
	return w.call(http.MethodPost, "/subscriptions", body, header...)
}

// subscribed makes a subscription that has to be accepted, and returns its id.
func (w *world) subscribed(changes map[string]any, header ...string) string {
	w.Helper()
	g := w.subscribe(changes, header...)
	if g.status != http.StatusCreated {
		w.Fatalf("not subscribed: %d %s", g.status, g.raw)
	}
	return g.text("id")
}

func (w *world) set(fault string, f faults.Fault) {
	w.Helper()
	if err := w.faults.Set(fault, f); err != nil {
		w.Fatal(err)
	}
}

func (w *world) clear(fault string) {
	w.Helper()
	if err := w.faults.Clear(fault); err != nil {
		w.Fatal(err)
	}
}

// deliver delivers a message that was received some time ago.
func (w *world) deliver(to string, n int, ago time.Duration) string {
	w.Helper()
	message := fmt.Sprintf("From: Ann Example <ann@fabrikam.example>\r\nTo: <%s>\r\nSubject: message %d\r\nMessage-ID: <%d@fabrikam.example>\r\n"+
		"Date: Thu, 26 Nov 2026 10:00:00 +0100\r\n\r\nThis is message %d.\r\n", to, n, n, n)
	id, err := w.org.Deliver(to, time.Now().Add(-ago), []byte(message))
	if err != nil {
		w.Fatal(err)
	}
	return urlSafe(id)
}

// pass lets time pass.
func (w *world) pass(d time.Duration) { <-time.After(d) }

// told waits until nothing moves and returns the posts since the last call.
func (w *world) told() []post {
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	list := w.posts
	w.posts = nil
	return list
}

// items are those of the posts since the last call, with lifecycle events first as "event", and messages as their ids.
func (w *world) items() (list []string) {
	for _, p := range w.told() {
		for _, c := range p.items {
			switch {
			case c.LifecycleEvent != "":
				list = append(list, c.LifecycleEvent)
			case c.ResourceData != nil:
				list = append(list, c.ResourceData.ID)
			}
		}
	}
	return list
}

// RoundTrip is the endpoint for notifications.
func (w *world) RoundTrip(r *http.Request) (*http.Response, error) {
	raw, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	if r.URL.Query().Has("validationToken") {
		w.mu.Lock()
		w.asked = append(w.asked, r.URL)
		echo, wait := w.echo, w.echoIn
		w.mu.Unlock()
		select {
		case <-time.After(wait):
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
		token := r.URL.Query().Get("validationToken")
		if echo != nil {
			return echo(token), nil
		}
		return respond(http.StatusOK, "text/plain; charset=utf-8", token), nil
	}
	p := post{at: r.URL.String(), time: time.Now(), raw: raw}
	if err := json.Unmarshal(raw, &p.body); err != nil {
		w.Errorf("a notification is not JSON: %v: %s", err, raw)
	}
	p.items = p.body.Value
	w.mu.Lock()
	w.posts = append(w.posts, p)
	answer, problem := w.answer, w.problem
	w.mu.Unlock()
	if problem != nil {
		return nil, problem
	}
	status, wait := http.StatusAccepted, time.Duration(0)
	if answer != nil {
		status, wait = answer(p)
	}
	select {
	case <-time.After(wait):
		return respond(status, "text/plain", ""), nil
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
}

func respond(status int, media, body string) *http.Response {
	return &http.Response{
		StatusCode: status, Header: http.Header{"Content-Type": {media}}, Body: io.NopCloser(strings.NewReader(body)), ProtoMajor: 1, ProtoMinor: 1,
	}
}

func (w *world) answers(f func(post) (int, time.Duration)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.answer = f
}
