package autodiscover

// What can be known of a mail address without a password: who says that its mailbox is there, and how one signs in there.

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/mail"
)

// Finding is where the mailbox may be, and who says so.
type Finding struct {
	Online bool     // in the cloud
	URL    string   // of autodiscover.xml; empty in the cloud
	EWS    string   // the URL of EWS, as Autodiscover V2 says; empty: it does not say
	Offers []string // the authentication schemes of the challenge
	How    string   // who said so
}

// Survey is what a search without credentials found.
type Survey struct {
	Findings []Finding // the likeliest first
	Asked    []string  // what each candidate said
	// Distrusted are the hosts whose certificate no authority that is trusted here has issued.
	Distrusted []string
}

// Survey asks where the mailbox with an address may be, and sends no credentials: the cloud by Autodiscover V2, and the candidates of the
// mail domain, whose challenge says how one signs in. Of Options it takes Plain, URL (empty: found from the mail domain), Resolver,
// UserAgent and Limit; Cloud and EWS are those of the cloud, if it is to be asked, and Hosts is what belongs to the cloud.
//
// Where ctx ends it returns what it has found until then. Its answer is a hint for a person. Where credentials go is decided by Find and Hosts.
func (c *Client) Survey(ctx context.Context, address string) (Survey, error) {
	address, err := mail.ParseAddress(address)
	if err != nil {
		return Survey{}, &fault.Error{Op: op, Code: CodeAddress, Scope: fault.Mailbox, Remedy: fault.Fix, Err: err}
	}
	domain := mail.Domain(address)
	s := &surveyor{search: &search{Client: c, enrolled: domain, hosts: c.o.Hosts.Of(domain), asked: map[string]bool{}}, address: address}
	inCloud := c.o.Cloud != "" && s.askCloud(ctx)
	urls := []func() []string{func() []string { return []string{c.o.URL} }}
	switch {
	case c.o.URL == "" && c.o.Online:
		urls = nil
	case c.o.URL == "":
		urls = []func() []string{
			func() []string { return []string{autodiscoverURL("https", "autodiscover."+domain)} },
			func() []string { return s.plainRedirect(ctx, autodiscoverURL("http", "autodiscover."+domain)) },
			func() []string { return s.srv(ctx, domain) },
			func() []string { return []string{autodiscoverURL("https", domain)} },
		}
	}
	for _, candidates := range urls {
		for _, u := range candidates() {
			if ctx.Err() != nil {
				return s.found, cancelled(ctx.Err())
			}
			if len(s.found.Findings) == 0 {
				s.knock(ctx, u)
			}
		}
	}
	s.weigh(inCloud)
	s.found.Asked = s.tried
	return s.found, nil
}

// surveyor is one survey.
type surveyor struct {
	*search
	address string
	found   Survey
}

// askCloud reports whether the cloud says that the mailbox is there.
func (s *surveyor) askCloud(ctx context.Context) bool {
	_, err := s.askV2(ctx, s.address)
	if err != nil {
		s.miss(s.o.Cloud, err)
	}
	return err == nil
}

// cloud is the finding that the mailbox is in the cloud.
func (s *surveyor) cloud(how string) Finding { return Finding{Online: true, EWS: s.o.EWS, How: how} }

// weigh puts the cloud where its word counts. It has been seen to answer for addresses that nobody has, so the mail domain's own
// Autodiscover counts more, unless that leads to the cloud too.
func (s *surveyor) weigh(inCloud bool) {
	cloud := slices.ContainsFunc(s.found.Findings, func(p Finding) bool { return p.Online })
	if inCloud && !cloud {
		s.found.Findings = append(s.found.Findings, s.cloud("Autodiscover V2 at "+hostOf(s.o.Cloud)))
	}
}

// knock asks at u without credentials, and follows its redirects. It notes what it finds.
func (s *surveyor) knock(ctx context.Context, u string) {
	at, seen := u, map[string]bool{}
	for !seen[at] {
		seen[at] = true
		parsed, ok := valid(at)
		if !ok || parsed.Scheme != "https" {
			s.miss(u, &fault.Error{Op: op, Code: CodeHost, Scope: fault.Mailbox, Remedy: fault.Fix})
			return
		}
		if s.hosts.Refuse(parsed) == nil {
			s.found.Findings = append(s.found.Findings, s.cloud("the Autodiscover of "+s.enrolled+", which leads to "+hostOf(at)))
			return
		}
		r, failed := s.request(ctx, s.o.Plain, http.MethodGet, at, http.Header{}, nil)
		switch {
		case failed != nil:
			s.miss(at, failed)
			return
		case redirects(r.status):
			if e := s.hop(); e != nil {
				s.miss(u, e)
				return
			}
			at = r.location
		case r.status == http.StatusUnauthorized && (r.exchange || s.o.URL != ""): // who names a server vouches for it
			s.note(ctx, Finding{URL: at, Offers: r.shows.Offers, How: "Autodiscover at " + hostOf(at)}, parsed)
			return
		default:
			s.miss(at, status(r.status, fault.Server, fault.Wait))
			return
		}
	}
	s.miss(u, loop("the URL is redirected in a circle"))
}

// note notes an Exchange, and what its Autodiscover V2 says without a password, which Exchange 2016 and later have: the URL of EWS, or that
// the mailbox was moved to the cloud.
func (s *surveyor) note(ctx context.Context, p Finding, host *url.URL) {
	defer func() { s.found.Findings = append(s.found.Findings, p) }()
	u := host.Scheme + "://" + host.Host + v2Path + url.PathEscape(s.address) + "?Protocol=EWS"
	r, failed := s.request(ctx, s.o.Plain, http.MethodGet, u, http.Header{"Accept": {"application/json"}}, nil)
	switch {
	case failed != nil:
	case redirects(r.status):
		if to, err := url.Parse(r.location); err == nil && s.hosts.Refuse(to) == nil {
			s.found.Findings = append(s.found.Findings, s.cloud("Autodiscover V2 at "+host.Host+", which leads to "+hostOf(r.location)))
		}
	case r.status == http.StatusOK:
		if named, failed := parseV2(r.status, r.body); failed == nil && strings.HasPrefix(named, "https://") {
			p.EWS = printable(named)
		}
	}
}

// miss notes why a candidate has nothing to say.
func (s *surveyor) miss(candidate string, e *fault.Error) {
	s.failed(candidate, e)
	host := hostOf(candidate)
	if e.Detail == fault.UnknownIssuer && !slices.Contains(s.found.Distrusted, host) {
		s.found.Distrusted = append(s.found.Distrusted, host)
	}
}
