// Package autodiscover finds the location of a mailbox by its mail address: on premises by SOAP Autodiscover, in batches, or by POX if
// there is no SOAP; in Exchange Online by Autodiscover V2. It keeps only a few facts in memory, which cost some requests if they are
// lost: the endpoint that answers for a mail domain, how many users one request may have, and that a cloud refuses SOAP.
//
// Sources: MS-OXDSCLI, MS-OXWSADISC, and "Autodiscover for Exchange" with "Handling Autodiscover error messages" on Microsoft Learn. This
// package is stricter than these: careless clients have sent the passwords of whole companies to the owner of autodiscover.TLD. So it
// asks nothing above the mail domain, asks the mail domain itself without credentials, and sends credentials over https only, to allowed
// hosts with a valid certificate. Of who was asked without, only a redirect to another URL counts. It ignores the authentication methods
// that an answer recommends.
package autodiscover

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mailbell/mailbell/auth"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/internal/hostname"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/proxy"
)

const (
	maxHops     = 10 // redirects of all kinds from one candidate: the documentation's number, and Microsoft's own client's
	maxRefusals = 3  // HTTP 401 in one search: a wrong password must not lock the account by asking on and on
	maxSRV      = 4  // SRV records tried: one is usual, two are for failover
	// maxURL bounds a URL in an answer: that of EWS is kept with each mailbox, and sent with each request. Windows' own clients of HTTP take
	// no longer one (INTERNET_MAX_URL_LENGTH), nor does Exchange for a callback (ErrorInvalidPushSubscriptionUrl).
	maxURL = 2083
)

// op names the operation in errors.
const op = "Autodiscover"

// The codes of this package's own errors; the others are proxy's, "HTTP 401" and "ErrorCode InvalidUser".
const (
	CodeAddress   = "address"     // not a mail address: Mailbox, Fix
	CodeHost      = auth.CodeHost // credentials may not be sent to the location: Mailbox, Fix
	CodeLoop      = "loop"        // redirected in a circle, or too often: Mailbox, Fix
	CodeNoURL     = "no EWS"      // the mailbox is known, and has no URL of EWS: Mailbox, Fix
	CodeElsewhere = "elsewhere"   // the mailbox is said to live outside this entry: Mailbox, Fix, Elsewhere
	CodeNowhere   = "nowhere"     // nothing at any candidate is Autodiscover: Server, Wait
	CodeUnread    = "unparseable" // an answer that cannot be understood: Server, Wait
	CodeFault     = "SOAP fault"  // the server failed over a request: Server, Wait
	codeRefused   = "HTTP 401"
	codeNotAuto   = "not Autodiscover"  // one candidate is something else; the next is asked
	codeNoRecord  = "no SRV record"     // likewise
	codeAsked     = "asked before"      // likewise
	codeOpen      = "no password asked" // likewise
)

// Resolver looks up SRV records; *net.Resolver is one.
type Resolver interface {
	LookupSRV(ctx context.Context, service, proto, name string) (string, []*net.SRV, error)
}

// Limiter spreads requests over time; *rate.Limiter of golang.org/x/time is one.
type Limiter interface {
	Wait(ctx context.Context) error
}

// Options of a Client.
type Options struct {
	HTTP      http.RoundTripper // authorised
	Plain     http.RoundTripper // without credentials: for the mail domain itself, the one request over http, and Autodiscover V2
	Hosts     auth.Hosts        // those that the credential of HTTP may go to
	URL       string            // the whole URL of autodiscover.xml or .svc; the other of the two is asked too. Empty: found from the mail domain
	Resolver  Resolver          // nil: the system's
	Entry     string            // the exchange entry of the configuration: Location.Entry
	UserAgent string
	Limit     Limiter // of all requests; nil: none

	// Elsewhere reports whether a domain belongs to another exchange entry: a redirect to an address there ends the search. Nil: none does.
	Elsewhere func(domain string) bool

	// Online: the entry is Exchange Online. Only the cloud is asked, whose hosts are Hosts; a mailbox with any other location is elsewhere.
	// URL and Resolver are not used.
	Online bool
	Cloud  string // the base URL of the cloud's Autodiscover: https://autodiscover-s.outlook.com
	EWS    string // the URL of the cloud's EWS: a mailbox on its host has exactly this URL
}

// Client asks Autodiscover. It is safe for concurrent use, and designed for thousands of searches at once.
type Client struct {
	o     Options
	turns chan struct{} // one for each open request

	mu        sync.Mutex
	known     map[string]learnt  // by domain, of at most maxKnown
	walks     map[string][]*walk // by domain: those under way, the first first
	queues    map[string]*queue  // by URL: those that are not empty
	perBatch  int                // users in one request
	fewUntil  time.Time          // until then they may be fewer than maxUsers
	soapAgain time.Time          // not before this is the cloud's SOAP asked
}

// New returns a client.
func New(o Options) *Client {
	if o.Resolver == nil {
		o.Resolver = net.DefaultResolver
	}
	return &Client{
		o: o, turns: make(chan struct{}, maxInFlight),
		known: map[string]learnt{}, walks: map[string][]*walk{}, queues: map[string]*queue{}, perBatch: maxUsers,
	}
}

// Find returns the location of the mailbox with this address, after all redirects: the external URL of EWS (or the internal one if there
// is no external) and the primary address. Its error is a *fault.Error. It concerns the Mailbox if that is unknown (then with Elsewhere)
// or its location is not allowed, the Account if no candidate accepts the credentials, else the Server.
func (c *Client) Find(ctx context.Context, address string) (mail.Location, error) {
	at, err := c.find(ctx, address)
	if f, ok := errors.AsType[*fault.Error](err); ok {
		err = f.From(fault.Autodiscover)
	}
	return at, err
}

func (c *Client) find(ctx context.Context, address string) (mail.Location, error) {
	address, err := mail.ParseAddress(address)
	if err != nil {
		return mail.Location{}, &fault.Error{Op: op, Code: CodeAddress, Scope: fault.Mailbox, Remedy: fault.Fix, Err: err}
	}
	enrolled := mail.Domain(address)
	s := &search{Client: c, enrolled: enrolled, hosts: c.o.Hosts.Of(enrolled), asked: map[string]bool{}}
	look := s.look
	if c.o.Online {
		look = s.lookOnline
	}
	for seen := map[string]bool{}; !seen[address]; {
		seen[address] = true
		a, err := look(ctx, address)
		if err != nil {
			return mail.Location{}, err
		}
		if a.redirectAddr == "" {
			return s.location(a, address)
		}
		if err := s.hop(); err != nil {
			return mail.Location{}, err
		}
		address = a.redirectAddr
		if domain := mail.Domain(address); domain != s.enrolled && c.o.Elsewhere != nil && c.o.Elsewhere(domain) {
			return mail.Location{}, elsewhere(fmt.Sprintf("the mailbox is redirected to the domain %q, which belongs to another exchange entry", printable(domain)))
		}
		// A mailbox that was moved into Microsoft's cloud is redirected to a domain of its tenant: nobody there has to be asked for that.
		if err := s.allowed(autodiscoverURL("https", "autodiscover."+mail.Domain(address))); err != nil && err.Elsewhere {
			return mail.Location{}, err
		}
	}
	return mail.Location{}, loop("the mail address is redirected in a circle")
}

// search is the search for one address.
type search struct {
	*Client
	enrolled string          // the mail domain of the enrolled address: only it makes hosts trusted, not the domain of a redirect
	hosts    auth.Hosts      // those that credentials may go to, for mailboxes of that domain
	asked    map[string]bool // URL and address
	hops     int
	refusals int
	best     *fault.Error // the most informative failure
	tried    []string     // what each candidate said, for the administrator
}

// candidates asks one candidate after the other until one answers for the address, and returns that one.
func (s *search) candidates(ctx context.Context, address string) (answer, endpoint, *fault.Error) {
	domain := mail.Domain(address)
	var urls []func() []string // later ones are computed only when they are needed
	if s.o.URL != "" {
		urls = append(urls, func() []string { return []string{s.o.URL} })
	}
	// A configured URL is for the entry's own domain; after a redirect to another domain that domain is searched too. Autodiscover V2 is no
	// candidate: Exchange 2010 and 2013 do not have it, and a host that has it need not be trustworthy.
	if s.o.URL == "" || domain != s.enrolled {
		urls = append(urls,
			func() []string { return []string{autodiscoverURL("https", domain)} },
			func() []string { return []string{autodiscoverURL("https", "autodiscover."+domain)} },
			func() []string { return s.plainRedirect(ctx, autodiscoverURL("http", "autodiscover."+domain)) },
			func() []string { return s.srv(ctx, domain) },
		)
	}
	hops := s.hops
	for _, candidates := range urls {
		for _, u := range candidates() {
			s.hops = hops // a web site that redirects on and on has used up its own only
			a, at, err := s.try(ctx, candidate(u), address)
			if err == nil {
				return a, at, nil
			}
			if ctx.Err() != nil {
				return answer{}, endpoint{}, cancelled(ctx.Err())
			}
			if s.refusals >= maxRefusals {
				return answer{}, endpoint{}, s.verdict()
			}
		}
	}
	return answer{}, endpoint{}, s.verdict()
}

func autodiscoverURL(scheme, host string) string {
	return scheme + "://" + host + poxPath
}

// exhausted reports whether the search may ask no further candidate.
func (s *search) exhausted() bool { return s.hops > maxHops || s.refusals >= maxRefusals }

// try asks at e, and by POX at its sibling if there is no SOAP. It returns the endpoint that answered.
func (s *search) try(ctx context.Context, e endpoint, address string) (answer, endpoint, *fault.Error) {
	for {
		a, at, err := s.follow(ctx, e, address)
		if err == nil {
			return a, at, nil
		}
		if ctx.Err() != nil {
			return answer{}, endpoint{}, cancelled(ctx.Err())
		}
		s.failed(e.url, err)
		if !ofOneUser(err) {
			s.forget(s.domain(address), e)
		}
		sibling, ok := e.pox()
		if !ok || !withoutSOAP(err) || s.exhausted() {
			return answer{}, endpoint{}, err
		}
		e = sibling
	}
}

// withoutSOAP reports whether POX may succeed at the same host. It cannot if the host refused the credentials, cannot be reached or is
// busy, or if its answer is about the mailbox.
func withoutSOAP(e *fault.Error) bool {
	switch e.Code {
	case codeNotAuto, codeOpen, CodeUnread, CodeFault, codeInvalidRequest, codeInvalidSetting, "HTTP 403", "HTTP 500":
		return true
	}
	return false
}

// ofOneUser reports whether a failure may concern only this user.
func ofOneUser(e *fault.Error) bool {
	if e.Code == auth.CodeUntrusted {
		return false // the host answers this for every user
	}
	return e.Scope == fault.Mailbox || e.Code == CodeUnread || e.Code == CodeFault || strings.HasPrefix(e.Code, errorCode(""))
}

// follow asks at e, and follows its redirects until there is an answer for the address. It also returns the endpoint at which other users
// are asked for: behind redirects of every user, before those of this one.
func (s *search) follow(ctx context.Context, e endpoint, address string) (answer, endpoint, *fault.Error) {
	chain := map[string]bool{}
	at, personal := e, false
	var refused *fault.Error // why no credentials are sent to e; nil: they are
	for {
		open := refused != nil // who led to e was asked without credentials
		refused = s.allowed(e.url)
		if refused != nil && !s.bare(e.url, address) {
			if open && !refused.Elsewhere {
				refused = unsigned(refused)
			}
			return answer{}, endpoint{}, refused
		}
		key := e.url + " " + address
		switch {
		case chain[e.url]:
			return answer{}, endpoint{}, loop("the URL is redirected in a circle")
		case s.asked[key]:
			return answer{}, endpoint{}, &fault.Error{Op: op, Code: codeAsked, Scope: fault.Server, Remedy: fault.Wait}
		}
		s.asked[key], chain[e.url] = true, true
		a, err := s.ask(ctx, e, address, refused != nil)
		if err != nil {
			return answer{}, endpoint{}, err
		}
		if a.redirectURL == "" {
			a.how = e.String()
			if a.schema != "" {
				a.how += " (EWS up to " + a.schema + ")"
			}
			return a, at, nil
		}
		if err := s.hop(); err != nil {
			return answer{}, endpoint{}, err
		}
		e = e.to(a.redirectURL)
		personal = personal || !a.moved
		if !personal {
			at = e
		}
	}
}

// ask asks once at e; open: without credentials.
func (s *search) ask(ctx context.Context, e endpoint, address string, open bool) (answer, *fault.Error) {
	ask := s.askPOX
	if e.soap {
		ask = s.askSOAP
	}
	a, err := ask(ctx, e.url, address)
	if err == nil && a.ewsURL == "" && a.redirectAddr == "" && a.redirectURL == "" && !s.o.Online { // in the cloud V2 has it
		err = &fault.Error{Op: op, Code: CodeNoURL, Scope: fault.Mailbox, Remedy: fault.Fix,
			Text: "the server knows the mailbox, but gives no URL of EWS for it"}
	}
	if err != nil && err.Code == codeRefused {
		s.refusals++
	}
	switch {
	case err != nil && open:
		return answer{}, unsigned(err)
	case err != nil:
		return answer{}, err
	case open && a.redirectURL == "": // else a host that got no credentials would decide whose mail is read
		return answer{}, &fault.Error{Op: op, Code: codeOpen, Scope: fault.Server, Remedy: fault.Wait}
	}
	return a, nil
}

// unsigned is an error of a host that was asked without credentials. What it says of a mailbox it says to anybody: the machines of web
// hosters have IMAP settings for every address, and no Exchange answers without a password. One that asks for a password may be such a
// machine too, and the web site of a company redirects to that of its group. So it is not the last word.
func unsigned(e *fault.Error) *fault.Error {
	told := *e
	told.Unproven = e.Scope == fault.Mailbox
	return &told
}

// srv returns the candidates that DNS names, the lowest priority first (RFC 2782).
func (s *search) srv(ctx context.Context, domain string) (urls []string) {
	_, records, err := s.o.Resolver.LookupSRV(ctx, "autodiscover", "tcp", domain)
	if err != nil || len(records) == 0 {
		s.failed("_autodiscover._tcp."+domain, &fault.Error{Op: op, Code: codeNoRecord})
		return nil
	}
	records = slices.Clone(records)
	slices.SortStableFunc(records, func(a, b *net.SRV) int { return cmp.Compare(a.Priority, b.Priority) })
	for _, r := range records {
		host, ok := hostname.Parse(r.Target)
		if r.Port != 443 || !ok {
			s.failed("_autodiscover._tcp."+domain, &fault.Error{Op: op, Code: codeNoRecord, Text: "only port 443 is asked"})
			continue
		}
		urls = append(urls, autodiscoverURL("https", host))
	}
	return urls[:min(len(urls), maxSRV)]
}

// allowed reports why credentials may not be sent to u; nil: they may.
func (s *search) allowed(u string) *fault.Error {
	parsed, ok := valid(u)
	if !ok {
		return &fault.Error{Op: op, Code: CodeHost, Scope: fault.Mailbox, Remedy: fault.Fix, Text: "the answer has an invalid URL"}
	}
	e := s.hosts.Refuse(parsed)
	if e == nil {
		e = s.o.Hosts.Refuse(parsed) // another mail domain itself, below this one
	}
	if e != nil {
		e.Op = op
	}
	return e
}

// bare reports whether the host of u is the mail domain itself, of the address or of the enrolled one: it is asked without credentials.
func (s *search) bare(u, address string) bool {
	parsed, ok := valid(u)
	if !ok || parsed.Scheme != "https" {
		return false
	}
	host := hostname.Of(parsed)
	return host == s.enrolled || host == mail.Domain(address) && hostname.Within(host, s.enrolled)
}

// valid parses a URL that an answer names: of a host, without a password, and not longer than maxURL.
func valid(u string) (parsed *url.URL, ok bool) {
	parsed, err := url.Parse(u)
	return parsed, err == nil && len(u) <= maxURL && hostname.Of(parsed) != "" && parsed.User == nil
}

// hop counts a redirect.
func (s *search) hop() *fault.Error {
	s.hops++
	if s.hops > maxHops {
		return loop(fmt.Sprintf("redirected more than %d times", maxHops))
	}
	return nil
}

func loop(text string) *fault.Error {
	return &fault.Error{Op: op, Code: CodeLoop, Scope: fault.Mailbox, Remedy: fault.Fix, Text: text}
}

func elsewhere(text string) *fault.Error {
	return &fault.Error{Op: op, Code: CodeElsewhere, Scope: fault.Mailbox, Remedy: fault.Fix, Text: text, Elsewhere: true}
}

func cancelled(err error) *fault.Error {
	return &fault.Error{Op: op, Code: "cancelled", Scope: fault.Mailbox, Remedy: fault.Retry, Err: err}
}

// failed notes why a candidate gave no location.
func (s *search) failed(candidate string, err *fault.Error) {
	said := err.Code
	if notFound(err) {
		said = "not in DNS"
	}
	s.tried = append(s.tried, printable(candidate)+": "+said)
	// Of two equal failures the later one counts, because the later candidate is more specific: the first is often the company's web site.
	if s.best == nil || weight(err) >= weight(s.best) {
		s.best = err
	}
}

// weight says how informative a failure is about this mailbox.
func weight(e *fault.Error) int {
	switch {
	case e.Unproven:
		return 1
	case e.Code == CodeNoURL: // perhaps of a machine that has another kind of mail
		return 2
	case e.Elsewhere, e.Scope == fault.Mailbox && e.Code != CodeHost && e.Code != CodeLoop && e.Code != auth.CodeUntrusted: // it is not known
		return 4
	case e.Code == codeRefused:
		return 3
	case e.Code == CodeHost, e.Code == auth.CodeUntrusted:
		return 2
	case e.Code == codeNotAuto, e.Code == codeNoRecord, e.Code == codeAsked, e.Code == codeOpen, notFound(e):
		return 0
	}
	return 1
}

// notFound reports whether a host does not exist: most candidates of most domains do not. The host of a proxy is none of them.
func notFound(e *fault.Error) bool {
	dns, ok := errors.AsType[*net.DNSError](e)
	return ok && dns.IsNotFound && e.Code != proxy.CodeProxy
}

// verdict is the error of a search in which no candidate gave a location.
func (s *search) verdict() *fault.Error {
	e := *s.best
	tried := " (asked: " + strings.Join(s.tried, "; ") + ")"
	if weight(s.best) == 0 {
		none := "no Autodiscover was found for this mail domain"
		if s.o.URL != "" {
			none = "nothing at autodiscover_url is Autodiscover"
		}
		return &fault.Error{Op: op, Code: CodeNowhere, Scope: fault.Server, Remedy: fault.Wait, Text: none + tried}
	}
	e.Text += tried
	return &e
}

// location makes the location from the settings for address.
func (s *search) location(a answer, address string) (mail.Location, error) {
	at := a.ewsURL
	if err := s.allowed(at); err != nil {
		i := slices.IndexFunc(a.otherURLs[:], func(u string) bool { return u != "" && s.allowed(u) == nil })
		if i < 0 {
			return mail.Location{}, err
		}
		at = a.otherURLs[i]
	}
	p := mail.Location{Entry: s.o.Entry, URL: at, Group: a.group, Primary: address, Server: a.server, How: a.how, Found: time.Now()}
	if primary, err := mail.ParseAddress(a.primary); err == nil {
		p.Primary = primary
	}
	return p, nil
}
