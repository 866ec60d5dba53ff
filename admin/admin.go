// Package admin has the pages for administrators, under /admin/. They show what the API tells, and nothing else: every figure comes from
// the answers of package api.
//
// The pages are made by the server and work without JavaScript. Where the browser has it, one small script keeps them up to date: it asks
// for the same address as a stream of server-sent events (live.go). Nothing is loaded from elsewhere.
package admin

import (
	"context"
	"embed"
	"html/template"
	"io/fs"
	"net/http"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"github.com/mailbell/mailbell/api"
)

// Options of New; all are required.
type Options struct {
	API      *api.API            // what the pages show and do
	Gatherer prometheus.Gatherer // the metrics, for the pictures
	Log      *zap.Logger
}

// Pages answers what is under /admin.
type Pages struct {
	api       *api.API
	log       *zap.Logger
	templates map[string]*template.Template
	sessions  *sessions
	origin    *http.CrossOriginProtection
	streams   chan struct{} // a place for each open stream
	ring      *ring
	status    latest
	oidc      atomic.Pointer[OIDC] // nil: people sign in with tokens only
	flows     flows
	refusals  rate.Sometimes     // those at the provider that are logged
	changing  sync.Mutex         // of oidc
	stopOIDC  context.CancelFunc // of the present one
	closed    chan struct{}
	close     sync.Once
	running   sync.WaitGroup
	handler   http.Handler
}

//go:embed pages static
var files embed.FS

// policy is the Content-Security-Policy: only our own script and style, nothing inline, nothing from elsewhere, no frame around a page.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// New returns the pages. The caller closes them.
func New(o Options) *Pages {
	p := &Pages{api: o.API, log: o.Log, templates: parse(), sessions: newSessions(), origin: http.NewCrossOriginProtection(),
		flows: newFlows(), refusals: rate.Sometimes{First: firstRefusals, Interval: refusalsEvery}, streams: make(chan struct{}, maxStreams), closed: make(chan struct{}), ring: &ring{log: o.Log, gather: o.Gatherer}}
	static, err := fs.Sub(files, "static")
	if err != nil {
		panic(err) // the folder is part of the program
	}
	mux := http.NewServeMux()
	mux.Handle("GET /admin/static/{file}", http.StripPrefix("/admin/static/", onlyFiles(static)))
	mux.HandleFunc("GET /admin/sign-in", p.askToken)
	mux.HandleFunc("POST /admin/sign-in", p.signIn)
	mux.HandleFunc("GET /admin/sign-in/oidc", p.beginOIDC)
	mux.HandleFunc("GET /admin/sign-in/oidc/callback", p.endOIDC)
	mux.HandleFunc("POST /admin/sign-out", p.post(p.signOut))
	mux.HandleFunc("GET /admin/{$}", p.page(p.overview))
	mux.HandleFunc("GET /admin/mailboxes", p.page(p.mailboxes))
	mux.HandleFunc("GET /admin/mailboxes/{address}", p.page(p.mailbox))
	mux.HandleFunc("GET /admin/devices/{id}", p.device)
	mux.HandleFunc("GET /admin/search", p.search)
	mux.HandleFunc("GET /admin/end-of-ews", p.page(p.endOfEWS))
	mux.HandleFunc("POST /admin/end-of-ews", p.post(p.goOver))
	mux.HandleFunc("POST /admin/test-notifications", p.post(p.test))
	mux.HandleFunc("GET /admin/", p.page(p.nothing))
	mux.HandleFunc("GET /admin", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, root, http.StatusSeeOther) })
	p.handler = mux
	p.running.Go(func() { p.ring.run(p.closed) })
	return p
}

// root is the path of the overview; all pages are below it.
const root = "/admin/"

// Close ends the open streams, which the API's server waits for, and the reading of the metrics.
func (p *Pages) Close() {
	p.close.Do(func() { close(p.closed) })
	p.SignInBy(nil)
	p.running.Wait()
}

// nothing answers where there is no page.
func (p *Pages) nothing(*http.Request, visitor) (view, bool) {
	return view{"error", page{Title: "Not found", Body: "There is nothing at this address."}}, false
}

// ServeHTTP implements http.Handler.
func (p *Pages) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	h.Set("Referrer-Policy", "same-origin") // an address is in the path
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	if err := p.origin.Check(r); err != nil {
		p.fail(w, http.StatusForbidden, "This request came from another site, so nothing was done.")
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	p.handler.ServeHTTP(w, r)
}

// onlyFiles serves the files of a folder, and no list of them.
func onlyFiles(folder fs.FS) http.Handler {
	server := http.FileServerFS(folder)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if info, err := fs.Stat(folder, r.URL.Path); err != nil || info.IsDir() {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Cache-Control", "no-cache")
		server.ServeHTTP(w, r)
	})
}
