package api

// Who did what: every act of a client, and of a person on the admin page, goes through record to the audit log.

import (
	"net"
	"net/http"
	"net/netip"
	"strings"

	"github.com/mailbell/mailbell/internal/audit"
	"github.com/mailbell/mailbell/internal/pattern"
	"github.com/mailbell/mailbell/internal/requestid"
)

// requestID is the header by which a request is found again: a proxy's, or ours. The answer has it too.
const requestID = "X-Request-Id"

// known is an id of a request that another program may give it.
var known = pattern.New(`^[A-Za-z0-9._:@/+=-]{1,128}$`, "an id")

// identify gives a request an id, unless it has one.
func identify(w http.ResponseWriter, r *http.Request) {
	id := r.Header.Get(requestID)
	if !known.Matches(id) {
		id = requestid.New()
		r.Header.Set(requestID, id)
	}
	w.Header().Set(requestID, id)
}

// Record writes to the audit log what a request was about, and with which error it ended.
func (a *API) Record(r *http.Request, e audit.Event, err error) {
	e.Request, e.Address, e.Forwarded = r.Header.Get(requestID), peer(r), forwardedFor(r)
	e.Page = strings.HasPrefix(r.URL.Path, "/admin")
	if !pattern.Device.Matches(e.Device) { // it was refused for that, and could be anything
		e.Device = ""
	}
	if e.Outcome == "" {
		e.Outcome = audit.Done
	}
	if err != nil {
		p := problemOf(err)
		e.Code, e.Outcome = p.Code, audit.Refused
		if p.Status >= http.StatusInternalServerError {
			e.Outcome = audit.Failed
		}
	}
	a.Audit.Record(e)
}

// peer is the address that the connection of a request comes from; empty where it has none.
func peer(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return ""
	}
	address, err := netip.ParseAddr(host)
	if err != nil {
		return ""
	}
	return address.Unmap().WithZone("").String()
}
