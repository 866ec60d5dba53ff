package simulator

// The control API: plain HTTP on loopback, for tests in any language. Errors are application/problem+json (RFC 9457).

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
)

// Bounds of the control API.
const (
	maxFaultBody = 16 << 10
	maxWait      = time.Minute // of GET /alerts?wait=
)

func (s *Server) control() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /messages", s.postMessage)
	mux.HandleFunc("GET /alerts", s.getAlerts)
	mux.HandleFunc("GET /faults", s.getFaults)
	mux.HandleFunc("PUT /faults/{name}", s.putFault)
	mux.HandleFunc("DELETE /faults/{name}", s.deleteFault)
	mux.HandleFunc("GET /mailboxes", s.getMailboxes)
	mux.HandleFunc("GET /mailboxes/{address}", s.getMailbox)
	mux.HandleFunc("POST /mailboxes/{address}", s.postMailbox)
	mux.HandleFunc("DELETE /mailboxes/{address}", s.deleteMailbox)
	mux.HandleFunc("GET /counts", s.getCounts)
	s.entra.control(mux)
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		problem(w, http.StatusNotFound, "", "There is POST /messages, GET /alerts, GET /faults, PUT and DELETE /faults/{name}, GET /mailboxes, GET, POST and DELETE /mailboxes/{address}, GET /counts, GET /entra, POST and DELETE /entra/secrets and /entra/certificates, PUT /entra/users.")
	})
	return loopbackOnly(mux)
}

// loopbackOnly refuses what a web page could send here: a browser names another host, or an origin.
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

func reply(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.Encode(v)
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

func (s *Server) postMessage(w http.ResponseWriter, r *http.Request) {
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
	raw, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxMessage))
	if err != nil {
		problem(w, http.StatusRequestEntityTooLarge, "", "The message cannot be read: "+err.Error())
		return
	}
	id, err := s.Deliver(r.URL.Query().Get("to"), received, raw)
	switch {
	case errors.Is(err, ErrNoMailbox):
		problem(w, http.StatusNotFound, "to", "No mailbox has that address.")
	case err != nil:
		problem(w, http.StatusBadRequest, "", err.Error())
	default:
		reply(w, http.StatusOK, map[string]string{"item_id": id})
	}
}

// getAlerts answers what is there; with wait=SECONDS it waits that long for the first one.
func (s *Server) getAlerts(w http.ResponseWriter, r *http.Request) {
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
	list := s.Alerts(after)
	if len(list) == 0 && wait > 0 {
		ctx, cancel := context.WithTimeout(r.Context(), seconds(wait))
		defer cancel()
		list, _ = s.WaitAlerts(ctx, after) // none in time: an empty answer
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	for _, a := range list {
		if e.Encode(a) != nil {
			return // the client has gone
		}
	}
}

func (s *Server) getFaults(w http.ResponseWriter, _ *http.Request) {
	reply(w, http.StatusOK, s.Faults())
}

func (s *Server) putFault(w http.ResponseWriter, r *http.Request) {
	var f Fault
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxFaultBody))
	if err != nil {
		problem(w, http.StatusRequestEntityTooLarge, "", "The body cannot be read.")
		return
	}
	if len(strings.TrimSpace(string(body))) > 0 {
		d := json.NewDecoder(strings.NewReader(string(body)))
		d.DisallowUnknownFields()
		if err := d.Decode(&f); err != nil {
			problem(w, http.StatusBadRequest, "", "The body must be an object of mailbox, host, token, share, count, status, reason, seconds, limit: "+err.Error())
			return
		}
		if _, err := d.Token(); err != io.EOF {
			problem(w, http.StatusBadRequest, "", "There is something behind the JSON object.")
			return
		}
	}
	s.faultAnswer(w, s.SetFault(r.PathValue("name"), f))
}

func (s *Server) deleteFault(w http.ResponseWriter, r *http.Request) {
	s.faultAnswer(w, s.ClearFault(r.PathValue("name")))
}

func (s *Server) faultAnswer(w http.ResponseWriter, err error) {
	fe, wrong := errors.AsType[*FaultError](err)
	switch {
	case wrong && fe.Field == "":
		problem(w, http.StatusNotFound, "", fe.Error()+"; there are "+strings.Join(faultNames(), ", "))
	case wrong:
		problem(w, http.StatusUnprocessableEntity, fe.Field, fe.Error())
	default:
		w.WriteHeader(http.StatusNoContent)
	}
}

// getCounts counts; with host= of the hosts of Exchange only that one.
func (s *Server) getCounts(w http.ResponseWriter, r *http.Request) {
	if !noQuery(w, r, "host") {
		return
	}
	if !r.URL.Query().Has("host") {
		reply(w, http.StatusOK, s.Counts())
		return
	}
	c, err := s.CountsAt(r.URL.Query().Get("host"))
	if err != nil {
		problem(w, http.StatusUnprocessableEntity, "host", err.Error())
		return
	}
	reply(w, http.StatusOK, c)
}
