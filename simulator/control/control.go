// Package control is the simulator's control API: plain HTTP on loopback, for tests in any language. Errors are
// application/problem+json (RFC 9457).
package control

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/mailbell/mailbell/simulator/apns"
	"github.com/mailbell/mailbell/simulator/entra"
	"github.com/mailbell/mailbell/simulator/exchange"
	"github.com/mailbell/mailbell/simulator/faults"
	"github.com/mailbell/mailbell/simulator/internal/answer"
)

// Bounds of the control API.
const (
	maxFaultBody = 16 << 10
	maxWait      = time.Minute // of GET /alerts?wait=
)

// Parts are the parts of the simulator that the calls act on.
type Parts struct {
	Mailboxes Mailboxes
	Alerts    Alerts
	Faults    Faults
	Counts    Counter
	Tenant    *entra.Tenant
}

// Mailboxes is the mail of an organisation, and the hosts of its mailboxes.
type Mailboxes interface {
	Deliver(to string, received time.Time, rfc5322 []byte) (itemID string, err error)
	Mailboxes() []string
	Mailbox(address string) (exchange.Mailbox, error)
	AddMailboxAt(address, host string) error
	RemoveMailbox(address string) error
	AddAlias(alias, address string) error
	Rename(address, primary string) error
	Move(address, host string) error
	MoveServer(address, server string) error
}

// Alerts are the requests that APNs got.
type Alerts interface {
	Alerts(after int) []apns.Alert
	WaitAlerts(ctx context.Context, after int) ([]apns.Alert, error)
}

// Faults are the faults that can be set.
type Faults interface {
	Faults() []faults.Info
	SetFault(name string, f faults.Fault) error
	ClearFault(name string) error
}

// Counter counts, on all hosts of Exchange or on one.
type Counter interface {
	Counts() Counts
	CountsAt(host string) (Counts, error)
}

// Counts is what has happened, and what is open.
type Counts struct {
	// Requests ever, by EWS operation, and Autodiscover, GetUserSettings, AutodiscoverV2; those of Graph begin so: GraphMessages.
	Requests      map[string]int `json:"requests"`
	Unauthorized  int            `json:"unauthorized"`  // answers 401, ever
	OpenStreams   int            `json:"open_streams"`  // GetStreamingEvents
	Subscriptions int            `json:"subscriptions"` // alive; of EWS
	// Of Microsoft Graph: alive, accepted ever, and answers 429 ever.
	GraphSubscriptions int `json:"graph_subscriptions"`
	GraphNotifications int `json:"graph_notifications"`
	GraphThrottled     int `json:"graph_throttled"`

	Tokens         int `json:"tokens"`          // issued by the token service, ever
	TokensRefused  int `json:"tokens_refused"`  // requests that it answered with an error
	APNsOpen       int `json:"apns_open"`       // connections
	APNsEver       int `json:"apns_ever"`       // connections
	RefusedStreams int `json:"refused_streams"` // of APNs, over its limit
	Accepted       int `json:"accepted"`        // alerts
	Refused        int `json:"refused"`         // alerts
}

// api answers the calls.
type api struct{ Parts }

// New makes the API.
func New(p Parts) http.Handler {
	a := &api{p}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /messages", a.postMessage)
	mux.HandleFunc("GET /alerts", a.getAlerts)
	mux.HandleFunc("GET /faults", a.getFaults)
	mux.HandleFunc("PUT /faults/{name}", a.putFault)
	mux.HandleFunc("DELETE /faults/{name}", a.deleteFault)
	mux.HandleFunc("GET /mailboxes", a.getMailboxes)
	mux.HandleFunc("GET /mailboxes/{address}", a.getMailbox)
	mux.HandleFunc("POST /mailboxes/{address}", a.postMailbox)
	mux.HandleFunc("DELETE /mailboxes/{address}", a.deleteMailbox)
	mux.HandleFunc("GET /counts", a.getCounts)
	a.entra(mux)
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		problem(w, http.StatusNotFound, "", "There is POST /messages, GET /alerts, GET /faults, PUT and DELETE /faults/{name}, "+
			"GET /mailboxes, GET, POST and DELETE /mailboxes/{address}, GET /counts, "+
			"GET /entra, POST and DELETE /entra/secrets and /entra/certificates, PUT /entra/users.")
	})
	return loopbackOnly(mux)
}

// loopbackOnly refuses requests of a web page: a browser sends another Host, or an Origin.
func loopbackOnly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, err := net.SplitHostPort(r.Host)
		if err != nil {
			host = r.Host
		}
		if ip := net.ParseIP(host); r.Header.Get("Origin") != "" || host != "localhost" && (ip == nil || !ip.IsLoopback()) {
			problem(w, http.StatusForbidden, "", "Only programs on this machine may use this.")
			return
		}
		next.ServeHTTP(w, r)
	})
}

func problem(w http.ResponseWriter, status int, field, detail string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	p := map[string]any{"title": http.StatusText(status), "status": status, "detail": detail}
	if field != "" {
		p["field"] = field
	}
	json.NewEncoder(w).Encode(p)
}

// noQuery refuses parameters other than those named.
func noQuery(w http.ResponseWriter, r *http.Request, known ...string) bool {
	for name := range r.URL.Query() {
		ok := false
		for _, k := range known {
			ok = ok || k == name
		}
		if !ok {
			problem(w, http.StatusBadRequest, name, "This call takes no such parameter.")
			return false
		}
	}
	return true
}

func (a *api) postMessage(w http.ResponseWriter, r *http.Request) {
	if !noQuery(w, r, "to", "received") {
		return
	}
	var received time.Time
	if v := r.URL.Query().Get("received"); v != "" {
		var err error
		if received, err = time.Parse(time.RFC3339, v); err != nil {
			problem(w, http.StatusBadRequest, "received", "Must be a time as in 2026-11-22T18:07:00Z (RFC 3339).")
			return
		}
	}
	raw, err := io.ReadAll(http.MaxBytesReader(w, r.Body, exchange.MaxMessage))
	if err != nil {
		problem(w, http.StatusRequestEntityTooLarge, "", "The message cannot be read: "+err.Error())
		return
	}
	id, err := a.Mailboxes.Deliver(r.URL.Query().Get("to"), received, raw)
	switch {
	case errors.Is(err, exchange.ErrNoMailbox):
		problem(w, http.StatusNotFound, "to", "No mailbox has that address.")
	case err != nil:
		problem(w, http.StatusBadRequest, "", err.Error())
	default:
		answer.JSON(w, http.StatusOK, map[string]string{"item_id": id})
	}
}

// getAlerts answers what is there; with wait=SECONDS it waits that long for the first one.
func (a *api) getAlerts(w http.ResponseWriter, r *http.Request) {
	if !noQuery(w, r, "after", "wait") {
		return
	}
	after, wait := 0, 0.0
	var err error
	if v := r.URL.Query().Get("after"); v != "" {
		if after, err = strconv.Atoi(v); err != nil || after < 0 {
			problem(w, http.StatusBadRequest, "after", "Must be a number of an alert, or 0.")
			return
		}
	}
	if v := r.URL.Query().Get("wait"); v != "" {
		if wait, err = strconv.ParseFloat(v, 64); err != nil || !(wait >= 0 && wait <= maxWait.Seconds()) {
			problem(w, http.StatusBadRequest, "wait", "Must be seconds, at most 60.")
			return
		}
	}
	list := a.Alerts.Alerts(after)
	if len(list) == 0 && wait > 0 {
		ctx, cancel := context.WithTimeout(r.Context(), time.Duration(wait*float64(time.Second)))
		defer cancel()
		list, _ = a.Alerts.WaitAlerts(ctx, after) // none in time: an empty answer
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	for _, alert := range list {
		if e.Encode(alert) != nil {
			return // the client has gone
		}
	}
}

func (a *api) getFaults(w http.ResponseWriter, _ *http.Request) {
	answer.JSON(w, http.StatusOK, a.Faults.Faults())
}

func (a *api) putFault(w http.ResponseWriter, r *http.Request) {
	var f faults.Fault
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxFaultBody))
	if err != nil {
		problem(w, http.StatusRequestEntityTooLarge, "", "The body cannot be read.")
		return
	}
	if len(strings.TrimSpace(string(body))) > 0 {
		d := json.NewDecoder(strings.NewReader(string(body)))
		d.DisallowUnknownFields()
		if err := d.Decode(&f); err != nil {
			problem(w, http.StatusBadRequest, "", "The body must be an object of "+
				"mailbox, host, token, share, count, status, reason, seconds, limit: "+err.Error())
			return
		}
		if _, err := d.Token(); err != io.EOF {
			problem(w, http.StatusBadRequest, "", "There is something behind the JSON object.")
			return
		}
	}
	a.faultAnswer(w, a.Faults.SetFault(r.PathValue("name"), f))
}

func (a *api) deleteFault(w http.ResponseWriter, r *http.Request) {
	a.faultAnswer(w, a.Faults.ClearFault(r.PathValue("name")))
}

func (a *api) faultAnswer(w http.ResponseWriter, err error) {
	fe, wrong := errors.AsType[*faults.Error](err)
	switch {
	case wrong && fe.Field == "":
		problem(w, http.StatusNotFound, "", fe.Error()+"; there are "+strings.Join(a.faultNames(), ", "))
	case wrong:
		problem(w, http.StatusUnprocessableEntity, fe.Field, fe.Error())
	default:
		w.WriteHeader(http.StatusNoContent)
	}
}

func (a *api) faultNames() []string {
	all := a.Faults.Faults()
	names := make([]string, 0, len(all))
	for _, f := range all {
		names = append(names, f.Name)
	}
	return names
}

// getCounts counts; with host= of the hosts of Exchange only that one.
func (a *api) getCounts(w http.ResponseWriter, r *http.Request) {
	if !noQuery(w, r, "host") {
		return
	}
	if !r.URL.Query().Has("host") {
		answer.JSON(w, http.StatusOK, a.Counts.Counts())
		return
	}
	c, err := a.Counts.CountsAt(r.URL.Query().Get("host"))
	if err != nil {
		problem(w, http.StatusUnprocessableEntity, "host", err.Error())
		return
	}
	answer.JSON(w, http.StatusOK, c)
}
