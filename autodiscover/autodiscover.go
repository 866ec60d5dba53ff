// Package autodiscover finds the place where a mailbox lives from its mail address: on premises by SOAP Autodiscover, in batches, and by POX where
// that is all there is; in Exchange Online by Autodiscover V2. Of what it learns it keeps hints only, in memory, which cost a few requests when they
// are lost: the endpoint that answers for a mail domain, how many users go into one request, and that a cloud's SOAP is refused.
//
// Sources: MS-OXDSCLI, MS-OXWSADISC, and "Autodiscover for Exchange" with "Handling Autodiscover error messages" on Microsoft Learn.
// What is stricter here than there: careless clients have handed whole companies' passwords to whoever owned autodiscover.TLD, so nothing
// above the mail domain is asked, the bare mail domain is asked without credentials, and they go over https only, to hosts that are allowed and
// whose certificate holds. What a server says about how it would like to be signed in to is not listened to.
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

	"golang.org/x/time/rate"

	"github.com/mailbell/mailbell/auth"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/internal/hostname"
	"github.com/mailbell/mailbell/mail"
)

const (
	maxHops     = 10 // redirects of all kinds in one search: the documentation's number, and Microsoft's own client's
	maxRefusals = 3  // HTTP 401 in one search: a wrong password must not lock the account by asking on and on
	maxSRV      = 4  // SRV records tried: one is usual, two are for failover
)

// op names the operation in errors.
const op = "Autodiscover"

// The codes of errors that are ours; the others are proxy's, "HTTP 401" and "ErrorCode InvalidUser".
const (
	CodeAddress   = "address"     // not a mail address: Mailbox, Fix
	CodeHost      = auth.CodeHost // credentials may not go where this leads: Mailbox, Fix
	CodeLoop      = "loop"        // redirected in a circle, or too often: Mailbox, Fix
	CodeNoURL     = "no EWS"      // the mailbox is known, and has no URL of EWS: Mailbox, Fix
	CodeElsewhere = "elsewhere"   // the mailbox is said to live outside this entry: Mailbox, Fix, Elsewhere
	CodeNowhere   = "nowhere"     // nothing at any candidate is Autodiscover: Server, Wait
	CodeUnread    = "unparseable" // an answer that cannot be understood: Server, Wait
	CodeFault     = "SOAP fault"  // the server failed over a request: Server, Wait
	codeRefused   = "HTTP 401"
	codeNotAuto   = "not Autodiscover" // one candidate is something else; the next is asked
	codeNoRecord  = "no SRV record"    // likewise
	codeAsked     = "asked before"     // likewise
)

// Resolver looks up SRV records; *net.Resolver is one.
type Resolver interface {
	LookupSRV(ctx context.Context, service, proto, name string) (string, []*net.SRV, error)
}

// Options of a Client.
type Options struct {
	HTTP      http.RoundTripper // authorised
	Plain     http.RoundTripper // without credentials: for the bare mail domain, the one question that is asked over http, and Autodiscover V2
	Hosts     auth.Hosts        // those that the credential of HTTP may go to
	URL       string            // the whole URL of autodiscover.xml or .svc; the other of the two is asked too. Empty: found from the mail domain
	Resolver  Resolver          // nil: the system's
	Entry     string            // the exchange entry of the configuration: Location.Entry
	UserAgent string
	Limit     *rate.Limiter // of all requests; nil: none

	// Elsewhere reports whether mailboxes of a domain are another entry's: a redirect to an address there ends the search. Nil: none are.
	Elsewhere func(domain string) bool

	// Online: the entry is Exchange Online. Nothing is asked but the cloud, whose hosts are Hosts; what is said to live anywhere else is
	// elsewhere. URL and Resolver are not used.
	Online bool
	Cloud  string // the base URL of the cloud's Autodiscover: https://autodiscover-s.outlook.com
	EWS    string // the URL of the cloud's EWS: a mailbox on its host has exactly this URL
}

// Client asks Autodiscover. It is safe for concurrent use, and made for thousands of searches at once.
type Client struct {
	o     Options
	turns chan struct{} // one for each request under way

	mu        sync.Mutex
	known     map[string]endpoint // by domain, of at most maxKnown
	walks     map[string][]*walk  // by domain: those under way, the first first
	queues    map[string]*queue   // by URL: those that are not empty
	perBatch  int                 // users in one request
	soapAgain time.Time           // not before this is the cloud's SOAP asked
}

// New returns a client.
func New(o Options) *Client {
	if o.Resolver == nil {
		o.Resolver = net.DefaultResolver
	}
	return &Client{
		o: o, turns: make(chan struct{}, maxInFlight),
		known: map[string]endpoint{}, walks: map[string][]*walk{}, queues: map[string]*queue{}, perBatch: maxUsers,
	}
}

// Find returns the place of the mailbox with this address: over all redirects, with the external URL of EWS (the internal one where there is no
// external) and the primary address as they are told. Its error is a *fault.Error: of the Mailbox where it is not known (then with Elsewhere) or
// lives where no credentials may go, of the Account where no candidate accepts the credentials, else of the Server.
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
	home := mail.Domain(address)
	s := &search{Client: c, home: home, hosts: c.o.Hosts.Of(home), asked: map[string]bool{}}
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
			return s.place(a, address)
		}
		if err := s.hop(); err != nil {
			return mail.Location{}, err
		}
		address = a.redirectAddr
		if domain := mail.Domain(address); domain != s.home && c.o.Elsewhere != nil && c.o.Elsewhere(domain) {
			return mail.Location{}, elsewhere(fmt.Sprintf("the mailbox is redirected to the domain %q, which is another exchange entry's", printable(domain)))
		}
	}
	return mail.Location{}, loop("the mail address is redirected in a circle")
}

// search is the work on one address.
type search struct {
	*Client
	home     string          // the mail domain of the enrolled address: what a redirect leads to is never trusted for itself
	hosts    auth.Hosts      // those that credentials may go to, for mailboxes of that domain
	asked    map[string]bool // URL and address
	hops     int
	refusals int
	best     *fault.Error // the failure that says most
	tried    []string     // what each candidate said, for the administrator
}

// candidates asks one candidate after the other until one answers for the address, and returns which that was.
func (s *search) candidates(ctx context.Context, address string) (answer, endpoint, *fault.Error) {
	domain := mail.Domain(address)
	var urls []func() []string // later ones are only made when they are needed
	if s.o.URL != "" {
		urls = append(urls, func() []string { return []string{s.o.URL} })
	}
	// A configured URL speaks for the entry's own domain; a mailbox that was sent elsewhere is looked for there too. Autodiscover V2 is no
	// candidate: Exchange 2010 and 2013 have none, and that a host has it is no reason to trust it with credentials.
	if s.o.URL == "" || domain != s.home {
		urls = append(urls,
			func() []string { return []string{autodiscoverURL("https", domain)} },
			func() []string { return []string{autodiscoverURL("https", "autodiscover."+domain)} },
			func() []string { return s.plainRedirect(ctx, autodiscoverURL("http", "autodiscover."+domain)) },
			func() []string { return s.srv(ctx, domain) },
		)
	}
	for _, candidates := range urls {
		for _, u := range candidates() {
			a, at, err := s.try(ctx, candidate(u), address)
			if err == nil {
				return a, at, nil
			}
			if ctx.Err() != nil {
				return answer{}, endpoint{}, cancelled(ctx.Err())
			}
			if s.exhausted() {
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

// try asks at e, and by POX at its sibling where SOAP is not to be had. It returns the endpoint that answered.
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

// withoutSOAP reports whether POX may do better at the same host. A refusal of the credentials is none of that, nor a host that is away or
// busy, nor an answer that speaks of the mailbox.
func withoutSOAP(e *fault.Error) bool {
	switch e.Code {
	case codeNotAuto, CodeUnread, CodeFault, codeInvalidRequest, "HTTP 403", "HTTP 500":
		return true
	}
	return false
}

// ofOneUser reports whether a failure may be this user's alone, and so says nothing about the others.
func ofOneUser(e *fault.Error) bool {
	if e.Code == auth.CodeUntrusted {
		return false // the host treats everybody so
	}
	return e.Scope == fault.Mailbox || e.Code == CodeUnread || e.Code == CodeFault || strings.HasPrefix(e.Code, errorCode(""))
}

// follow asks at e, and where that sends it, until there is an answer for the address. It returns the endpoint that answered, before it sent this
// user elsewhere.
func (s *search) follow(ctx context.Context, e endpoint, address string) (answer, endpoint, *fault.Error) {
	chain := map[string]bool{}
	at, personal := e, false
	for {
		if err := s.allowed(e.url); err != nil && !s.bare(e.url, address) {
			return answer{}, endpoint{}, err
		}
		key := e.url + " " + address
		switch {
		case chain[e.url]:
			return answer{}, endpoint{}, loop("the URL is redirected in a circle")
		case s.asked[key]:
			return answer{}, endpoint{}, &fault.Error{Op: op, Code: codeAsked, Scope: fault.Server, Remedy: fault.Wait}
		}
		s.asked[key], chain[e.url] = true, true
		ask := s.askPOX
		if e.soap {
			ask = s.askSOAP
		}
		a, err := ask(ctx, e.url, address)
		if err != nil {
			if err.Code == codeRefused {
				s.refusals++
			}
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
		if personal = personal || !a.moved; !personal {
			at = e
		}
	}
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

// allowed reports why credentials may not go to u; nil: they may.
func (s *search) allowed(u string) *fault.Error {
	parsed, err := url.Parse(u)
	if err != nil || hostname.Of(parsed) == "" || parsed.User != nil {
		return &fault.Error{Op: op, Code: CodeHost, Scope: fault.Mailbox, Remedy: fault.Fix, Text: "a URL that is not valid was named"}
	}
	e := s.hosts.Refuse(parsed)
	if e != nil {
		e.Op = op
	}
	return e
}

// bare reports whether u is at the bare domain of the address, or of the enrolled one: it is asked, and gets no credentials.
func (s *search) bare(u, address string) bool {
	parsed, err := url.Parse(u)
	if err != nil || parsed.Scheme != "https" || parsed.User != nil {
		return false
	}
	host := hostname.Of(parsed)
	return host != "" && (host == s.home || host == mail.Domain(address) && hostname.Within(host, s.home))
}

// hop counts a redirect.
func (s *search) hop() *fault.Error {
	if s.hops++; s.hops > maxHops {
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

// failed notes why a candidate did not help.
func (s *search) failed(candidate string, err *fault.Error) {
	s.tried = append(s.tried, printable(candidate)+": "+err.Code)
	// Among equals the later speaks: it is the more special candidate, as a company's web site has the mail domain's bare name.
	if s.best == nil || weight(err) >= weight(s.best) {
		s.best = err
	}
}

// weight says how much a failure tells of what is wrong with this mailbox.
func weight(e *fault.Error) int {
	switch {
	case e.Elsewhere, e.Scope == fault.Mailbox && e.Code != CodeHost && e.Code != CodeLoop && e.Code != auth.CodeUntrusted: // it is not known
		return 4
	case e.Code == CodeHost:
		return 3
	case e.Code == codeRefused, e.Code == auth.CodeUntrusted:
		return 2
	case e.Code == codeNotAuto, e.Code == codeNoRecord, e.Code == codeAsked, notFound(e):
		return 0
	}
	return 1
}

// notFound reports whether a host does not exist: most candidates of most domains do not.
func notFound(e *fault.Error) bool {
	dns, ok := errors.AsType[*net.DNSError](e)
	return ok && dns.IsNotFound
}

// verdict is the error of a search in which no candidate helped.
func (s *search) verdict() *fault.Error {
	e := *s.best
	tried := " (asked: " + strings.Join(s.tried, "; ") + ")"
	if weight(s.best) == 0 {
		return &fault.Error{Op: op, Code: CodeNowhere, Scope: fault.Server, Remedy: fault.Wait,
			Text: "no Autodiscover was found for this mail domain" + tried}
	}
	e.Text += tried
	return &e
}

// place makes the place out of the settings that were told for address.
func (s *search) place(a answer, address string) (mail.Location, error) {
	if a.ewsURL == "" {
		return mail.Location{}, &fault.Error{Op: op, Code: CodeNoURL, Scope: fault.Mailbox, Remedy: fault.Fix,
			Text: "the server knows the mailbox, and names no URL of EWS for it"}
	}
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
