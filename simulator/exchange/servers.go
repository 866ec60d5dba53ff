package exchange

// The mailbox servers behind a host: which one gets a call, and how it names itself. A subscription is on the server that got its
// Subscribe, and is not found on another: affinity is the client's job.

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/mailbell/mailbell/simulator/internal/guid"
)

// maxServers is more than any test needs.
const maxServers = 99

// The mailbox server of Exchange Online and its site. There is only one, because clients cannot see on which server a mailbox is.
const (
	onlineForest = "simprd01.prod.outlook.example"
	onlineServer = "sim01mb0001." + onlineForest
)

// mailboxServer is the first mailbox server on premises, and the name of the host.
const mailboxServer = "exch01." + Domain

// ErrNoServer is returned for a mailbox server that a host does not have.
var ErrNoServer = errors.New("no such mailbox server")

// serversOf names the mailbox servers of a host; none where it does not tell.
func serversOf(host string, n int) []string {
	switch host {
	case Online:
		return []string{onlineServer}
	case Other:
		return nil
	}
	list := make([]string, 0, max(1, n))
	for i := range max(1, n) {
		list = append(list, fmt.Sprintf("exch%02d.%s", i+1, Domain))
	}
	return list
}

// nextServer spreads the mailboxes over the servers; x.mu is held.
func (x *Host) nextServer() string {
	if len(x.servers) == 0 {
		return ""
	}
	x.placed++
	return x.servers[(x.placed-1)%len(x.servers)]
}

// server finds a mailbox server by its short or full name; empty if there is none.
func (x *Host) server(name string) string {
	for _, s := range x.servers {
		if strings.EqualFold(s, name) || strings.EqualFold(shortName(s), name) {
			return s
		}
	}
	return ""
}

// shortName is the name of a server without its domain, as X-FEServer and X-BEServer have it.
func shortName(server string) string {
	name, _, _ := strings.Cut(server, ".")
	return strings.ToUpper(name)
}

// MoveServer moves a mailbox to another mailbox server of its host, by the server's short or full name. Its subscriptions end, and its
// item ids stay. The error is ErrNoMailbox or wraps ErrNoServer.
func (o *Organisation) MoveServer(address, server string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	x, primary := o.hostOf(address)
	if x == nil {
		return ErrNoMailbox
	}
	to := x.server(server)
	if to == "" {
		return fmt.Errorf("%q: %w", server, ErrNoServer)
	}
	_, silent := x.faults.Hit(moveSilent, primary, "")
	why := streamError{code: "ErrorInvalidSubscription", text: x.moveText()}
	x.mu.Lock()
	defer x.mu.Unlock()
	b := x.boxes[primary]
	if b.server != to {
		x.endSubscriptions(b, why, silent)
		b.server = to
	}
	return nil
}

// overrideCookie ties a group of subscriptions to a mailbox server.
const overrideCookie = "X-BackEndOverrideCookie"

// affine reports whether the host has several servers to choose from by cookie.
func (x *Host) affine() bool { return x.release.modern && !x.gromox }

// route finds the mailbox server that gets a call: that of the override cookie where the client prefers affinity,
// else that of the anchor mailbox, else that of the mailbox that is acted on. x.mu is held.
func (c *call) route() {
	x := c.x
	if len(x.servers) == 0 {
		return
	}
	c.server = x.servers[0]
	if c.box != nil {
		c.server = c.box.server
	}
	if !x.affine() {
		return
	}
	if anchor := x.find(normal(c.r.Header.Get("X-AnchorMailbox"))); anchor != nil {
		c.server = anchor.server
	}
	if cookie, err := c.r.Cookie(overrideCookie); err == nil && c.prefersAffinity() {
		name, _, _ := strings.Cut(cookie.Value, "~")
		if s := x.server(name); s != "" {
			c.server = s
		}
	}
}

func (c *call) prefersAffinity() bool {
	return strings.EqualFold(c.r.Header.Get("X-PreferServerAffinity"), "true")
}

// tellServer names the mailbox server in the headers of an answer, as Exchange 2013 and later do.
func (c *call) tellServer() {
	if !c.x.affine() {
		return
	}
	c.w.Header().Set("X-BEServer", shortName(c.server))
	c.w.Header().Set("X-CalculatedBETarget", c.server)
}

// bind sends the cookie that ties a group to this server: to the anchor's own request only.
func (c *call) bind() {
	if _, err := c.r.Cookie(overrideCookie); err == nil || !c.x.affine() || !c.prefersAffinity() || normal(c.r.Header.Get("X-AnchorMailbox")) != c.address() {
		return
	}
	c.w.Header().Add("Set-Cookie", overrideCookie+"="+c.server+"~1941996295; path=/; secure; HttpOnly")
}

// stick sends the cookie of a load balancer, with which a 2010 kept a client at one of its Client Access servers. A client of
// later servers ignores it.
func (x *Host) stick(w http.ResponseWriter, r *http.Request) {
	const name = "exchangecookie"
	if _, err := r.Cookie(name); err == nil || x.release.modern || x.gromox || x.name != OnPremises {
		return
	}
	id := strings.ReplaceAll(guid.New().String(), "-", "")
	w.Header().Add("Set-Cookie", name+"="+id+"; path=/; HttpOnly")
}
