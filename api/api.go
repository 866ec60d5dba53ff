// Package api is the HTTP API for programs: enrolments, test notifications, the question why a phone did not ring, status, health and
// metrics. openapi.yaml describes it; every error under /v1 is a problem of RFC 9457.
package api

import (
	"context"
	_ "embed"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.uber.org/zap"

	"github.com/mailbell/mailbell/api/reference"
	"github.com/mailbell/mailbell/check"
	"github.com/mailbell/mailbell/internal/audit"
	"github.com/mailbell/mailbell/internal/expiry"
	"github.com/mailbell/mailbell/receipts"
	"github.com/mailbell/mailbell/subscriptions"
)

// Enrolments are the enrolled devices.
type Enrolments interface {
	// Enrol has stored the enrolment when it returns. Topic and environment may be empty if only one apns entry fits.
	// A *subscriptions.FieldError is answered with 422, what the precondition returns as it is, any other error with 503. only may be nil.
	Enrol(ctx context.Context, e subscriptions.Enrolment, only subscriptions.Precondition) (d subscriptions.Device, created bool, err error)
	// Remove ends an enrolment: no alert begins after it returned. false: there was none.
	Remove(ctx context.Context, id string, only subscriptions.Precondition) (bool, error)
	Device(id string) (subscriptions.Device, bool)
	// Devices pages by id; mailbox is a parsed address, empty for all. next is empty at the end.
	Devices(mailbox, after string, limit int) (list []subscriptions.Device, next string)
	// Standing returns the state of a device: its mailbox's, or behind; none if there is no such device.
	Standing(id string) subscriptions.Standing
}

// Mailboxes returns the states of mailboxes.
type Mailboxes interface {
	// Mailbox of a parsed address. false: no device is enrolled for it.
	Mailbox(ctx context.Context, address string) (s subscriptions.Status, devices []subscriptions.Device, ok bool)
	// List pages by address; state empty for all. next is empty at the end.
	List(state subscriptions.State, after string, limit int) (list []MailboxLine, next string)
	// Count returns the number of mailboxes in each state.
	Count() map[subscriptions.State]int
}

// Overview is the status of the rooms behind the API.
type Overview struct {
	Exchange    []ExchangeEntry
	Accounts    []Account
	Topics      []Topic
	Credentials []expiry.Entry    // the first to expire first
	Webhooks    []Webhook         // in the order of the configuration
	Canaries    []Canary          // likewise
	Conditions  []check.Condition // what is wrong now, the worst first
}

// Options of New; all but Backup, Callbacks and Audit are required.
type Options struct {
	Clients    []Client
	Enrolments Enrolments
	Mailboxes  Mailboxes
	Ready      func() error                // nil once the state is reachable and the first placement is made
	Ping       func(context.Context) error // asks the state store
	// Test tries all steps of an alert for a device. after, if it is not nil, is called with each step when it was tried.
	Test      func(ctx context.Context, device string, after func(check.Step)) check.Report
	SendOff   bool // no alerts are sent: alerts.send is false
	Receipts  *receipts.Receipts
	Overview  func() Overview
	Move      func(ctx context.Context, m Move) (mailboxes int, err error) // a *subscriptions.FieldError, ErrNoExchange and NotMoved are answered as such
	Backup    func(to io.Writer) error                                     // copies the state file; nil: the state is in none
	Callbacks http.Handler                                                 // what is posted from outside; it needs no token. nil: nothing is posted here
	Advise    func(subscriptions.Standing) check.Breakage                  // what is wrong with a mailbox or a device; the zero value: nothing
	Gatherer  prometheus.Gatherer
	Metrics   prometheus.Registerer // of the API's own metrics
	Log       *zap.Logger
	Audit     *audit.Log // who did what; nil: in Log
	Version   string
}

//go:embed openapi.yaml
var openAPI []byte

// routes are the calls of the API: path, method, the right that the caller needs, and the handler.
type routes map[string]map[string]route

type route struct {
	needs  permission
	query  []string // the parameters that it takes, each once
	answer func(r *http.Request, who caller) (answer, error)
	stream func(w http.ResponseWriter, r *http.Request, who caller) error // instead of answer; an error before it has begun to answer
	signed func(r *http.Request) (answer, error)                          // instead of answer, and without a token: the phone has signed it
}

// answer is the answer of a successful call. A nil body is none.
type answer struct {
	status int
	body   any
	etag   string // of what the body shows; empty: it has none
}

// API answers calls.
type API struct {
	Options
	callers atomic.Pointer[[]caller]

	verifier atomic.Pointer[verifier] // of the certificates of clients; nil: there are none
	origin   *http.CrossOriginProtection

	failed  *failedSignIns
	limited *prometheus.CounterVec // requests above their limit, by client
	tests   tests
	imports chan struct{} // one for each under way
	started time.Time
	handler http.Handler
	pages   http.Handler // for people; nil: there are none
}

// ServeHTTP implements http.Handler.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) { a.handler.ServeHTTP(w, r) }

// Close ends the API's background work.
func (a *API) Close() { a.failed.close() }

// New returns an API. The caller closes it.
func New(o Options) *API {
	if o.Audit == nil {
		o.Audit = audit.New(o.Log)
	}
	a := &API{Options: o, origin: http.NewCrossOriginProtection(), failed: newFailedSignIns(o.Audit, o.Metrics), tests: newTests(), imports: make(chan struct{}, maxImports), started: time.Now()}
	a.limited = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "mailbell_api_requests_limited_total", Help: "Requests that were refused with 429, because their client sends more than its limit.",
	}, []string{"client"})
	o.Metrics.MustRegister(a.limited, standby(0))
	a.SetClients(o.Clients)
	mux := http.NewServeMux()
	for path, methods := range a.routes() {
		mux.Handle(path, a.api(methods))
	}
	mux.Handle("/v1/", a.api(nil))
	mux.Handle("/v1", a.api(nil))
	mux.Handle("/metrics", a.metrics())
	mux.Handle("/healthz", text("ok\n"))
	mux.Handle("/readyz", a.ready())
	aboutAPI(mux)
	for _, path := range []string{"/admin", "/admin/"} {
		mux.HandleFunc(path, a.people)
	}
	mux.Handle("/callbacks", refusal(errNoPath)) // and no redirect
	if o.Callbacks != nil {
		mux.Handle("/callbacks/", o.Callbacks)
	}
	mux.Handle("/", refusal(errNoPath))
	a.handler = framed(a.guarded(mux))
	return a
}

func (a *API) routes() routes {
	return routes{
		"/v1/devices/{id}": {
			http.MethodPut:    {needs: changeDevices, answer: a.enrol},
			http.MethodGet:    {needs: readDevices, answer: a.device},
			http.MethodDelete: {needs: changeDevices, answer: a.remove},
		},
		"/v1/devices:import":      {http.MethodPost: {needs: changeDevices, stream: a.importDevices}},
		"/v1/state:backup":        {http.MethodGet: {needs: readTokens, stream: a.backup}},
		"/v1/devices:export":      {http.MethodGet: {needs: readDevices, query: []string{"tokens"}, stream: a.exportDevices}},
		"/v1/devices":             {http.MethodGet: {needs: readDevices, query: []string{"mailbox", "after", "limit"}, answer: a.devices}},
		"/v1/mailboxes/{address}": {http.MethodGet: {needs: readAll, answer: a.mailbox}},
		"/v1/mailboxes":           {http.MethodGet: {needs: readAll, query: []string{"state", "after", "limit"}, answer: a.mailboxes}},
		"/v1/status":              {http.MethodGet: {needs: readAll, answer: a.status}},
		"/v1/receipts":            {http.MethodPost: {signed: a.receive}},
		"/v1/self-check":          {http.MethodPost: {signed: a.selfCheck}},
		"/v1/test-notifications":  {http.MethodPost: {needs: testDevices, answer: a.test}},

		"/v1/exchange/{name}/listen_by": {http.MethodPut: {needs: changeListening, answer: a.listenBy}},
	}
}

// api answers one path of the API.
func (a *API) api(methods map[string]route) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if to := methods[r.Method]; to.signed != nil {
			done, err := answer{}, checkQuery(r, to.query)
			if err == nil {
				done, err = to.signed(r)
			}
			a.finish(w, r, done, err)
			return
		}
		who, err := a.signIn(r)
		if err != nil {
			a.fail(w, r, err)
			return
		}
		if methods == nil {
			a.fail(w, r, errNoPath)
			return
		}
		method := r.Method
		if method == http.MethodHead {
			method = http.MethodGet
		}
		to, ok := methods[method]
		if !ok {
			w.Header().Set("Allow", allowed(methods))
			a.fail(w, r, errMethod)
			return
		}
		if err := a.permit(r, who, to.needs); err != nil {
			a.fail(w, r, err)
			return
		}
		if err := checkQuery(r, to.query); err != nil {
			a.fail(w, r, err)
			return
		}
		if to.stream != nil {
			if err := to.stream(w, r, who); err != nil {
				a.fail(w, r, err)
			}
			return
		}
		done, err := to.answer(r, who)
		a.finish(w, r, done, err)
	})
}

// permit lets a caller through whose role allows the call; what it does not is in the audit log.
func (a *API) permit(r *http.Request, who caller, needs permission) error {
	if who.role.may(needs) {
		return nil
	}
	a.Record(r, audit.Event{Action: audit.CallRefused, Client: who.name, Call: r.Method + " " + r.Pattern, Device: r.PathValue("id")}, errForbidden)
	return errForbidden
}

// finish answers a call.
func (a *API) finish(w http.ResponseWriter, r *http.Request, done answer, err error) {
	if err != nil {
		a.fail(w, r, err)
		return
	}
	if done.etag != "" {
		w.Header().Set("ETag", done.etag)
	}
	write(w, done.status, "application/json", done.body)
}

// framed sets the headers of every answer, and prevents redirects of the mux.
func framed(mux http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		identify(w, r)
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
		if unclean(r.URL.EscapedPath()) {
			errNoPath.write(w)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// guarded answers a panic with a problem, or cuts off the answer that had begun: it must not look whole.
func (a *API) guarded(h http.Handler) http.Handler {
	return http.HandlerFunc(func(to http.ResponseWriter, r *http.Request) {
		w := &noting{ResponseWriter: to}
		defer func() {
			v := recover()
			switch {
			case v == nil:
			case v == http.ErrAbortHandler: //nolint:errorlint // a panic has a value, which net/http compares in the same way
				panic(v)
			default:
				// The value could have anything of the request in it: only the stack is logged.
				a.Log.Error("panic while answering", zap.String("method", r.Method), zap.String("request_id", r.Header.Get(requestID)), zap.Stack("stack"))
				if w.begun {
					panic(http.ErrAbortHandler)
				}
				errPanic.write(w)
			}
		}()
		h.ServeHTTP(w, r)
	})
}

// noting notes that an answer has begun.
type noting struct {
	http.ResponseWriter
	begun bool
}

func (n *noting) WriteHeader(status int) {
	n.begun = true
	n.ResponseWriter.WriteHeader(status)
}

// Write implements io.Writer.
func (n *noting) Write(b []byte) (int, error) {
	n.begun = true
	return n.ResponseWriter.Write(b)
}

// Unwrap is for http.ResponseController.
func (n *noting) Unwrap() http.ResponseWriter { return n.ResponseWriter }

func (a *API) metrics() http.Handler {
	h := promhttp.HandlerFor(a.Gatherer, promhttp.HandlerOpts{})
	return reading(func(w http.ResponseWriter, r *http.Request) {
		who, err := a.signIn(r)
		if err == nil {
			err = a.permit(r, who, readAll)
		}
		if err != nil {
			a.fail(w, r, err)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// ready answers a load balancer. It needs no token, so the reason is in /v1/status and not here.
func (a *API) ready() http.Handler {
	return reading(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		if err := a.Ready(); err != nil {
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = w.Write([]byte("not ready: /v1/status says why\n"))
			return
		}
		_, _ = w.Write([]byte("ready\n"))
	})
}

// callsPage is the page of all calls.
var callsPage = sync.OnceValue(func() http.Handler { return reference.Calls(openAPI) })

// aboutAPI serves what describes the API, without a token.
func aboutAPI(mux *http.ServeMux) {
	mux.Handle("/openapi.yaml", document("application/yaml", openAPI))
	mux.Handle("/docs", reading(callsPage().ServeHTTP))
	mux.Handle(problemsPath, reading(problemsPage().ServeHTTP))
	mux.Handle("/docs/style.css", reading(reference.Style().ServeHTTP))
}

func text(s string) http.Handler { return document("text/plain; charset=utf-8", []byte(s)) }

func document(kind string, data []byte) http.Handler {
	return reading(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", kind)
		_, _ = w.Write(data)
	})
}

// reading lets GET and HEAD through.
func reading(h http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			errMethod.write(w)
			return
		}
		h(w, r)
	})
}

// people answers with the pages for people.
func (a *API) people(w http.ResponseWriter, r *http.Request) {
	if a.pages == nil {
		errNoPath.write(w)
		return
	}
	a.pages.ServeHTTP(w, r)
}

func refusal(pr *Problem) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { pr.write(w) })
}
