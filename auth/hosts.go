package auth

// The hosts to which a credential may be sent. Only this file decides that: it checks every request when it is sent, whether its URL came
// from the configuration, Autodiscover, a redirect or the stored state.

import (
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/internal/hostname"
	"github.com/mailbell/mailbell/proxy"
)

// The codes in fault.Error.Code if a credential was not sent. Both concern the mailbox, whose location has to be looked up again, and an
// administrator has to fix the cause.
const (
	CodeHost      = "host not allowed" // the host is none of those that the credential may go to
	CodeUntrusted = "host not trusted" // it asks for a credential, and is neither configured nor known for an Exchange
)

const (
	// maxHostText bounds the name of a host in an error; a name of DNS has 253 characters.
	maxHostText = 260
	// maxDestinations bounds the hosts that a round tripper remembers: an entry has a handful, and a hostile server can name any number. A
	// forgotten host costs one request without a credential.
	maxDestinations = 1000
)

// Hosts are the hosts to which a credential may be sent, over https. The zero value has none.
type Hosts struct {
	URLs    []string // that the configuration names: ews_url, autodiscover_url, those of the cloud
	Trusted []string // trusted_hosts; if Online, a name may have a port
	// Domains are mail domains. A host below one of them gets a password if it looks like Exchange, and no token. The mail domain itself
	// gets nothing, because it is often a web hoster's. If Online, they have no meaning.
	Domains []string
	// Online: the credential is for Exchange Online, and may go to Microsoft's clouds. A host is then one on its port.
	Online bool
}

// microsoft are the hosts of EWS and Autodiscover in Microsoft's clouds.
var microsoft = [...]string{
	"outlook.office365.com", "autodiscover-s.outlook.com",
	"outlook.office365.us", "autodiscover-s.office365.us",
	"outlook-dod.office365.us", "autodiscover-s-dod.office365.us",
	"partner.outlook.cn", "autodiscover-s.partner.outlook.cn",
	"outlook.sovcloud.fr", "outlook.sovcloud.de",
}

// tenants are the domains below which Microsoft's clouds have those of their tenants, as contoso.mail.onmicrosoft.com, to which Exchange on
// premises redirects a mailbox that was moved: worldwide, US Government, and 21Vianet in China. Nobody else has a host there.
var tenants = [...]string{"onmicrosoft.com", "onmicrosoft.us", "onmschina.cn"}

// Refuse says why no credential may be sent to a URL; nil: it may, to a host below a mail domain if that looks like Exchange.
func (h Hosts) Refuse(u *url.URL) *fault.Error {
	_, refused := h.permit(u)
	return refused
}

// Of returns the hosts for the mailboxes of one mail domain, without those below the other domains.
func (h Hosts) Of(domain string) Hosts {
	if slices.Contains(h.Domains, domain) {
		h.Domains = []string{domain}
	} else {
		h.Domains = nil
	}
	return h
}

// permit returns whether the configuration names the host of a URL; the error says why no credential may be sent there.
func (h Hosts) permit(u *url.URL) (named bool, refused *fault.Error) {
	host := hostname.Of(u)
	shown := proxy.Printable(u.Host, maxHostText)
	switch {
	case host == "":
		return false, refusedHost("a URL without a valid host was named")
	case u.Scheme != "https":
		return false, refusedHost("credentials are sent over https only, and the URL of %q begins with %q", shown,
			proxy.Printable(u.Scheme, maxHostText))
	case h.names(host, u.Port()):
		return true, nil
	case h.Online:
		return false, refusedHost(located+"which is neither in Microsoft's clouds nor configured: "+trustIt, shown)
	case slices.Contains(h.Domains, host):
		return false, refusedHost("%q is the mail domain itself, often a web hoster's: "+
			"credentials are sent there only if autodiscover_url or trusted_hosts names it", shown)
	case slices.ContainsFunc(h.Domains, func(domain string) bool { return hostname.Below(host, domain) }):
		return false, nil
	case slices.Contains(microsoft[:], host), slices.ContainsFunc(tenants[:], func(domain string) bool { return hostname.Below(host, domain) }):
		e := refusedHost(located+"in Microsoft's cloud, to which this entry's credentials are not sent: "+
			"add an exchange entry of type online", shown)
		e.Elsewhere = true
		return false, e
	}
	return false, refusedHost(located+"which is neither in its mail domain nor configured: "+trustIt, shown)
}

// The words that refusals share.
const (
	located = "the location of the mailbox is %q, "
	trustIt = "if credentials may be sent there, add it to trusted_hosts"
)

// names reports whether the configuration names a host, or it is one of the cloud. On premises that holds for all ports of the host, in a
// cloud only for the port of the URL.
func (h Hosts) names(host, port string) bool {
	if h.Online && port != "" && port != "443" {
		host = net.JoinHostPort(host, port)
	}
	if h.Online && slices.Contains(microsoft[:], host) {
		return true
	}
	return slices.ContainsFunc(h.Trusted, func(trusted string) bool {
		if name, ok := hostname.Parse(trusted); ok {
			return name == host
		}
		return h.sameHost("https://"+trusted, host)
	}) || slices.ContainsFunc(h.URLs, func(u string) bool { return h.sameHost(u, host) })
}

// sameHost reports whether the host of a configured URL is this one.
func (h Hosts) sameHost(configured, host string) bool {
	u, err := url.Parse(configured)
	if err != nil || hostname.Of(u) == "" {
		return false
	}
	name := hostname.Of(u)
	if port := u.Port(); h.Online && port != "" && port != "443" {
		name = net.JoinHostPort(name, port)
	}
	return name == host
}

func refusedHost(format string, args ...any) *fault.Error {
	return &fault.Error{Op: opSignIn, Code: CodeHost, Scope: fault.Mailbox, Remedy: fault.Fix, Moved: true, Text: fmt.Sprintf(format, args...)}
}

// opSignIn is the Op of errors of signing in.
const opSignIn = "sign in"

// gate checks the requests of a round tripper, and remembers which hosts have asked for a credential.
type gate struct {
	hosts Hosts

	mu    sync.RWMutex
	known map[origin]*destination // at most maxDestinations
}

// origin is a scheme and host:port as a URL has them.
type origin struct{ scheme, host string }

// destination is a host.
type destination struct {
	named   bool         // by the configuration
	refused *fault.Error // why no credential is sent there; nil: it may be
	asked   atomic.Bool  // it has asked for a credential of the right kind: the next goes with the request, and no round trip is lost
}

func newGate(h Hosts) *gate { return &gate{hosts: h, known: map[origin]*destination{}} }

// admit returns the destination of a request. It refuses a request whose credential may not be sent there, and closes its body.
func (g *gate) admit(req *http.Request) (*destination, error) {
	to := g.destination(req.URL)
	if to.refused != nil {
		closeBody(req)
		refused := *to.refused
		return nil, &refused
	}
	return to, nil
}

func (g *gate) destination(u *url.URL) *destination {
	key := origin{u.Scheme, u.Host}
	g.mu.RLock()
	to := g.known[key]
	g.mu.RUnlock()
	if to != nil {
		return to
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if to := g.known[key]; to != nil {
		return to
	}
	if len(g.known) >= maxDestinations {
		clear(g.known)
	}
	to = &destination{}
	to.named, to.refused = g.hosts.permit(u)
	g.known[key] = to
	return to
}

// trusts says why a host that asks for a password does not get it; nil: it gets it.
func (d *destination) trusts(resp *http.Response, host string) error {
	if d.named || IsExchange(resp.Header) {
		return nil
	}
	return &fault.Error{Op: opSignIn, Code: CodeUntrusted, Scope: fault.Mailbox, Remedy: fault.Fix, Moved: true,
		Text: fmt.Sprintf("%q asks for a password, and does not look like Exchange: "+
			"if it is the mailboxes' server, add it to trusted_hosts, or set autodiscover_url to its Autodiscover",
			proxy.Printable(host, maxHostText))}
}

// exchangeHeaders are headers that Exchange sends, also with an answer 401, and web hosters do not.
var exchangeHeaders = [...]string{
	"X-Feserver", "X-Beserver", "X-Calculatedbetarget", "X-Diaginfo", "X-Soap-Enabled", "X-Wssecurity-Enabled", "X-Oauth-Enabled",
	"X-Owa-Version", "Ms-Server-Activesync",
}

// exchangeApp is Exchange's own application id, which its challenges for a token name.
const exchangeApp = "00000002-0000-0ff1-ce00-000000000000"

// IsExchange reports whether an answer 401 looks like Exchange: by its headers, or as an IIS with Windows authentication, which is all that
// Exchange 2010 shows. That is no proof, but keeps the password from a host that is clearly something else.
func IsExchange(h http.Header) bool {
	if slices.ContainsFunc(exchangeHeaders[:], func(name string) bool { return h.Get(name) != "" }) {
		return true
	}
	if slices.ContainsFunc(h.Values("WWW-Authenticate"), func(line string) bool { return strings.Contains(line, exchangeApp) }) {
		return true
	}
	has := readOffers(h)
	return strings.HasPrefix(h.Get("Server"), "Microsoft-IIS/") && (has.scheme("NTLM") || has.scheme("Negotiate"))
}
