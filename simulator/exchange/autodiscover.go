package exchange

// Autodiscover: which of its forms a request is for, and the location of an address. The answers are in autodiscover_pox.go,
// autodiscover_soap.go and autodiscover_json.go.

import (
	"net/http"
	"strings"
)

// Redirect is an answer of Autodiscover that leads to another address, or to another URL.
type Redirect struct {
	Address, URL string
}

// SetRedirect makes Autodiscover on premises answer for an address with a redirect; the zero Redirect ends that. The address needs no
// mailbox here.
func (o *Organisation) SetRedirect(address string, to Redirect) {
	x := o.hosts[0]
	x.mu.Lock()
	defer x.mu.Unlock()
	if to == (Redirect{}) {
		delete(x.redirects, normal(address))
		return
	}
	x.redirects[normal(address)] = to
}

// Paths of Autodiscover, in lower case. V2 has the address behind the first form, or in its query.
const (
	poxPath  = "/autodiscover/autodiscover.xml"
	soapPath = "/autodiscover/autodiscover.svc"
	jsonPath = "/autodiscover/autodiscover.json"
)

func (x *Host) serveAutodiscover(w http.ResponseWriter, r *http.Request, path string) {
	if f, away := x.faults.On(autodiscoverAway, "", ""); away {
		if f.Reason == answerClosed {
			panic(http.ErrAbortHandler)
		}
		http.NotFound(w, r)
		return
	}
	v2 := path == jsonPath || strings.HasPrefix(path, jsonPath+"/v1.0/")
	switch {
	case x.name == Other, v2 && (!x.release.json || x.gromox), path == soapPath && (!x.release.soap || x.gromox),
		!v2 && path != soapPath && path != poxPath:
		http.NotFound(w, r)
		return
	case v2:
		x.serveV2(w, r)
		return
	}
	who, ok := x.enter(w, r)
	if !ok {
		return
	}
	if who.byToken {
		if f, refused := x.faults.Hit(autodiscoverRefused, "", ""); refused {
			if f.Status == http.StatusUnauthorized {
				x.unauthorized(w)
				return
			}
			w.WriteHeader(http.StatusForbidden)
			return
		}
	}
	if path == soapPath {
		x.serveSOAP(w, r)
		return
	}
	x.servePOX(w, r)
}

// location is what Autodiscover answers for an address.
type location struct {
	box      Mailbox  // here; zero: nowhere
	redirect Redirect // elsewhere
}

func (p location) unknown() bool { return p.box.Address == "" && p.redirect == (Redirect{}) }

// resolve finds the answer for an address. On premises redirects a mailbox of the cloud to its address there; the cloud redirects a
// mailbox on premises to Autodiscover there, at the path form. Neither knows the mailboxes of the other provider.
func (x *Host) resolve(address, form string) location {
	if _, unknown := x.faults.Hit(mailboxUnknown, address, ""); unknown {
		return location{}
	}
	x.mu.Lock()
	redirect, redirected := x.redirects[address]
	x.mu.Unlock()
	if redirected {
		return location{redirect: redirect}
	}
	box, err := x.org.Mailbox(address)
	switch {
	case err != nil:
		return location{}
	case box.Host == x.name:
		return location{box: box}
	case x.name == OnPremises && box.Host == Online && routing(box.Address) != address:
		return location{redirect: Redirect{Address: routing(box.Address)}}
	case x.name == Online && box.Host == OnPremises:
		return location{redirect: Redirect{URL: x.org.hosts[0].url + form}}
	}
	return location{}
}

// denied reports whether the fault wrong_password applies to a request about a mailbox, and answers the request then.
func (x *Host) denied(w http.ResponseWriter, address string) bool {
	f, on := x.faults.On(wrongPassword, address, "")
	if !on || f.Mailbox == "" {
		return false
	}
	_, hit := x.faults.Hit(wrongPassword, address, "")
	if hit {
		x.unauthorized(w)
	}
	return hit
}

// count counts a request.
func (x *Host) count(operation string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.requests[operation]++
}

// The value that all mailboxes of a host share: one site on premises, one unit in the cloud.
const (
	grouping       = "Default-First-Site-Name"
	onlineGrouping = "SIMPR01-001"
)

func (x *Host) grouping() string {
	switch {
	case x.name == Online:
		return onlineGrouping
	case !x.release.modern, x.gromox:
		return ""
	}
	return grouping
}
