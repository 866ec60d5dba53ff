// Package autodiscover finds the place where a mailbox lives from its mail address, by POX Autodiscover. It keeps nothing.
//
// Sources: MS-OXDSCLI, and "Autodiscover for Exchange" with "Handling Autodiscover error messages" on Microsoft Learn.
// What is stricter here than there: careless clients have handed whole companies' passwords to whoever owned autodiscover.TLD, so nothing
// above the mail domain is asked, and credentials go over https only, to hosts that are allowed and whose certificate holds.
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
	"time"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/mail"
)

const (
	maxHops     = 10 // redirects of all kinds in one search: the documentation's number, and Microsoft's own client's
	maxRefusals = 3  // HTTP 401 in one search: a wrong password must not lock the account by asking on and on
	maxSRV      = 4  // SRV records tried: one is usual, two are for failover
)

// op names the operation in errors.
const op = "Autodiscover"

// The codes of errors that are ours; the others are proxy's, "HTTP 401" and "ErrorCode 500".
const (
	CodeAddress  = "address"          // not a mail address: Mailbox, Fix
	CodeHost     = "host not allowed" // credentials may not go where this leads: Mailbox, Fix
	CodeLoop     = "loop"             // redirected in a circle, or too often: Mailbox, Fix
	CodeNoURL    = "no EWS"           // the mailbox is known, and has no URL of EWS: Mailbox, Fix
	CodeNowhere  = "nowhere"          // nothing at any candidate is Autodiscover: Server, Wait
	CodeUnread   = "unparseable"      // an answer that cannot be understood: Server, Wait
	codeNotAuto  = "not Autodiscover" // one candidate is something else; the next is asked
	codeNoRecord = "no SRV record"    // likewise
	codeAsked    = "asked before"     // likewise
)

// Resolver looks up SRV records; *net.Resolver is one.
type Resolver interface {
	LookupSRV(ctx context.Context, service, proto, name string) (string, []*net.SRV, error)
}

// Options of a Client.
type Options struct {
	HTTP         http.RoundTripper // authorised
	Plain        http.RoundTripper // without credentials: for the one question that is asked over http
	URL          string            // the whole URL of autodiscover.xml; empty: found from the mail domain
	TrustedHosts []string          // credentials may go here, beside the mail domain, the host of URL and Microsoft's clouds
	Resolver     Resolver          // nil: the system's
	Entry        string            // the exchange entry of the configuration: Place.Entry
	UserAgent    string
}

// Client asks Autodiscover. It is safe for concurrent use.
type Client struct {
	o       Options
	trusted map[string]bool // hosts, beside those of the mail domain
}

// New returns a client.
func New(o Options) *Client {
	if o.Resolver == nil {
		o.Resolver = net.DefaultResolver
	}
	c := &Client{o: o, trusted: map[string]bool{}}
	for _, h := range slices.Concat(cloudHosts[:], o.TrustedHosts) {
		c.trusted[strings.ToLower(h)] = true
	}
	if u, err := url.Parse(o.URL); err == nil && o.URL != "" {
		c.trusted[strings.ToLower(u.Hostname())] = true
	}
	return c
}

// cloudHosts are those of EWS and Autodiscover in Microsoft's clouds.
var cloudHosts = [...]string{
	"outlook.office365.com", "autodiscover-s.outlook.com",
	"outlook.office365.us", "autodiscover-s.office365.us",
	"outlook-dod.office365.us", "autodiscover-s-dod.office365.us",
	"partner.outlook.cn", "autodiscover-s.partner.outlook.cn",
	"outlook.sovcloud.fr", "outlook.sovcloud.de",
}

// Find returns the place of the mailbox with this address: over all redirects, with the external URL of EWS and the primary address as they are told.
// Its error is a *fault.Error: of the Mailbox where it is not known or lives where no credentials may go, of the Account where no candidate accepts the
// credentials, else of the Server.
func (c *Client) Find(ctx context.Context, address string) (mail.Place, error) {
	address, err := mail.ParseAddress(address)
	if err != nil {
		return mail.Place{}, &fault.Error{Op: op, Code: CodeAddress, Scope: fault.Mailbox, Remedy: fault.Fix, Err: err}
	}
	s := &search{Client: c, home: mail.Domain(address), asked: map[string]bool{}}
	for seen := map[string]bool{}; !seen[address]; {
		seen[address] = true
		a, err := s.candidates(ctx, address)
		if err != nil {
			return mail.Place{}, err
		}
		if a.redirectAddr == "" {
			return s.place(a, address)
		}
		if err := s.hop(); err != nil {
			return mail.Place{}, err
		}
		address = a.redirectAddr
	}
	return mail.Place{}, loop("the mail address is redirected in a circle")
}

// search is the work on one address.
type search struct {
	*Client
	home     string          // the mail domain of the enrolled address: what a redirect leads to is never trusted for itself
	asked    map[string]bool // URL and address
	hops     int
	refusals int
	best     *fault.Error // the failure that says most
	tried    []string     // what each candidate said, for the administrator
}

// candidates asks one candidate after the other until one answers for the address.
func (s *search) candidates(ctx context.Context, address string) (answer, error) {
	domain := mail.Domain(address)
	var urls []func() []string // later ones are only made when they are needed
	if s.o.URL != "" {
		urls = append(urls, func() []string { return []string{s.o.URL} })
	}
	// A configured URL speaks for the entry's own domain; a mailbox that was sent elsewhere is looked for there too.
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
			a, err := s.follow(ctx, u, address)
			if err == nil {
				return a, nil
			}
			if ctx.Err() != nil {
				return answer{}, &fault.Error{Op: op, Code: "cancelled", Scope: fault.Mailbox, Remedy: fault.Retry, Err: ctx.Err()}
			}
			s.failed(u, err)
			if s.hops > maxHops || s.refusals >= maxRefusals {
				return answer{}, s.verdict()
			}
		}
	}
	return answer{}, s.verdict()
}

func autodiscoverURL(scheme, host string) string {
	return scheme + "://" + host + "/autodiscover/autodiscover.xml"
}

// follow asks at u, and where that sends it, until there is an answer for the address.
func (s *search) follow(ctx context.Context, u, address string) (answer, *fault.Error) {
	chain := map[string]bool{}
	for {
		if err := s.allowed(u); err != nil {
			return answer{}, err
		}
		key := u + " " + address
		switch {
		case chain[u]:
			return answer{}, loop("the URL is redirected in a circle")
		case s.asked[key]:
			return answer{}, &fault.Error{Op: op, Code: codeAsked, Scope: fault.Server, Remedy: fault.Wait}
		}
		s.asked[key], chain[u] = true, true
		a, err := s.ask(ctx, u, address)
		if err != nil {
			if err.Code == "HTTP 401" {
				s.refusals++
			}
			return answer{}, err
		}
		if a.redirectURL == "" {
			return a, nil
		}
		if err := s.hop(); err != nil {
			return answer{}, err
		}
		u = a.redirectURL
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
		host := strings.TrimSuffix(r.Target, ".")
		if r.Port != 443 || host == "" {
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
	switch {
	case err != nil || parsed.Hostname() == "" || parsed.User != nil:
		return &fault.Error{Op: op, Code: CodeHost, Scope: fault.Mailbox, Remedy: fault.Fix, Text: "a URL that is not valid was named"}
	case parsed.Scheme != "https":
		return &fault.Error{Op: op, Code: CodeHost, Scope: fault.Mailbox, Remedy: fault.Fix,
			Text: fmt.Sprintf("credentials are sent over https only, and %q is not", printable(parsed.Scheme+"://"+parsed.Host))}
	}
	host := strings.TrimSuffix(strings.ToLower(parsed.Hostname()), ".")
	if host == s.home || strings.HasSuffix(host, "."+s.home) || s.trusted[host] {
		return nil
	}
	return &fault.Error{Op: op, Code: CodeHost, Scope: fault.Mailbox, Remedy: fault.Fix,
		Text: fmt.Sprintf("the mailbox is said to be served by %q, which is neither in its mail domain nor configured: "+
			"if credentials may go there, add it to trusted_hosts", printable(host))}
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

// failed notes why a candidate did not help.
func (s *search) failed(candidate string, err *fault.Error) {
	s.tried = append(s.tried, candidate+": "+err.Code)
	// Among equals the later speaks: it is the more special candidate, as a company's web site has the mail domain's bare name.
	if s.best == nil || weight(err) >= weight(s.best) {
		s.best = err
	}
}

// weight says how much a failure tells of what is wrong with this mailbox.
func weight(e *fault.Error) int {
	switch {
	case e.Scope == fault.Mailbox && e.Code != CodeHost && e.Code != CodeLoop: // it is not known
		return 4
	case e.Code == CodeHost:
		return 3
	case e.Code == "HTTP 401":
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
		return &fault.Error{Op: op, Code: CodeNowhere, Scope: fault.Server, Remedy: fault.Wait, Text: "no Autodiscover was found for this mail domain" + tried}
	}
	e.Text += tried
	return &e
}

// place makes the place out of the settings that were told for address.
func (s *search) place(a answer, address string) (mail.Place, error) {
	if a.ewsURL == "" {
		return mail.Place{}, &fault.Error{Op: op, Code: CodeNoURL, Scope: fault.Mailbox, Remedy: fault.Fix, Text: "the server knows the mailbox, and names no URL of EWS for it"}
	}
	if err := s.allowed(a.ewsURL); err != nil {
		return mail.Place{}, err
	}
	p := mail.Place{Entry: s.o.Entry, URL: a.ewsURL, Group: a.group, Primary: address, Found: time.Now()}
	if primary, err := mail.ParseAddress(a.primary); err == nil {
		p.Primary = primary
	}
	return p, nil
}
