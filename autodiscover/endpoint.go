package autodiscover

// Endpoints, and which of them answers for a mail domain: so that thousands of searches do not ask all candidates each.

import (
	"context"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/mail"
)

const (
	soapPath = "/autodiscover/autodiscover.svc"
	poxPath  = "/autodiscover/autodiscover.xml"
)

// maxKnown bounds the endpoints that are remembered: an entry has a handful of domains, and a hostile server can name any number.
const maxKnown = 1000

// learntFor is how long what was learnt of a server counts. After a passing failure all users would otherwise be asked for by POX, or in
// smaller batches, for good; and by then another server may answer for the domain.
const learntFor = time.Hour

// maxWalks bounds the searches that ask the candidates of a domain at the same time after one of them did not find its own user. One after
// the other, thousands of unknown users would delay everybody for hours; all at once they would be a load.
const maxWalks = 8

// endpoint is a URL and its protocol.
type endpoint struct {
	url  string
	soap bool // else POX
}

// learnt is an endpoint that has answered.
type learnt struct {
	endpoint
	until time.Time
}

// candidate is the endpoint to ask first for a candidate u: SOAP, whose sibling is POX. A URL with a name of its own is POX.
func candidate(u string) endpoint {
	if base, ok := cutName(u); ok {
		return endpoint{base + ".svc", true}
	}
	return endpoint{url: u}
}

// pox returns the sibling of a SOAP endpoint.
func (e endpoint) pox() (endpoint, bool) {
	base, ok := cutName(e.url)
	return endpoint{url: base + ".xml"}, ok && e.soap
}

// to returns the endpoint to which a redirect from e leads. Its name says its protocol; else it is that of e.
func (e endpoint) to(u string) endpoint {
	if _, ok := cutName(u); ok {
		return endpoint{u, strings.EqualFold(u[len(u)-len(".svc"):], ".svc")}
	}
	return endpoint{u, e.soap}
}

// cutName cuts the extension off the URL of an autodiscover.svc or autodiscover.xml.
func cutName(u string) (base string, ok bool) {
	lower := strings.ToLower(u)
	if !strings.HasSuffix(lower, "/autodiscover.svc") && !strings.HasSuffix(lower, "/autodiscover.xml") {
		return "", false
	}
	return u[:len(u)-len(".svc")], true
}

// String names the host and the protocol.
func (e endpoint) String() string {
	how := "Autodiscover (POX) at "
	if e.soap {
		how = "Autodiscover (SOAP) at "
	}
	return how + hostOf(e.url)
}

// hostOf returns the host of a URL, for error texts.
func hostOf(u string) string {
	parsed, err := url.Parse(u)
	if err != nil {
		return ""
	}
	return printable(parsed.Host)
}

// walk is a search that asks the candidates of a domain, one after the other. Others of that domain wait for what it finds.
type walk struct {
	done chan struct{}
	err  *fault.Error // when done: why no user can be found there; nil: the others search themselves
}

// domain is the key under which an endpoint for address is known. Another mail domain may not be allowed to use the same endpoint.
func (s *search) domain(address string) string { return s.enrolled + " " + mail.Domain(address) }

// look asks the endpoint that is known to answer for the domain of address; where there is none, it asks the candidates, or waits for
// the search that does. Where the known endpoint fails, the candidates are asked.
func (s *search) look(ctx context.Context, address string) (answer, *fault.Error) {
	domain, failed, waited := s.domain(address), false, false
	for {
		known, w, mine := s.turn(domain, waited)
		switch {
		case known.url != "":
			clear(s.asked) // an endpoint that answered others meanwhile is worth another try
			a, _, err := s.try(ctx, known, address)
			switch {
			case err == nil:
				return a, nil
			case ctx.Err() != nil:
				return answer{}, cancelled(ctx.Err())
			// It failed for this user only, or again after it answered others: that is the answer. So is a refusal of credentials that it
			// accepted before: other candidates would only add to the failed sign-ins.
			case ofOneUser(err), failed, err.Scope == fault.Account, s.exhausted():
				return answer{}, s.verdict()
			}
			failed = true
		case mine:
			a, at, err := s.candidates(ctx, address)
			s.walked(domain, w, at, err)
			return a, err
		default:
			select {
			case <-w.done:
				if w.err != nil {
					err := *w.err
					return answer{}, &err
				}
				waited = true
			case <-ctx.Done():
				return answer{}, cancelled(ctx.Err())
			}
		}
	}
}

// turn returns the endpoint that is known for the domain; else a walk of another search; else a new walk, which the caller makes. A
// search that has waited in vain makes its own walk beside others.
func (c *Client) turn(domain string, waited bool) (known endpoint, w *walk, mine bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if known, ok := c.known[domain]; ok && time.Now().Before(known.until) {
		return known.endpoint, nil, false
	}
	if under := c.walks[domain]; len(under) > 0 && !(waited && len(under) < maxWalks) {
		return endpoint{}, under[0], false
	}
	w = &walk{done: make(chan struct{})}
	c.walks[domain] = append(c.walks[domain], w)
	return endpoint{}, w, true
}

// walked ends a walk: at answered, or err says why none did.
func (c *Client) walked(domain string, w *walk, at endpoint, err *fault.Error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil {
		if len(c.known) >= maxKnown {
			clear(c.known)
		}
		c.known[domain] = learnt{at, time.Now().Add(learntFor)}
	} else if !ofOneUser(err) {
		w.err = err
	}
	c.walks[domain] = slices.DeleteFunc(c.walks[domain], func(other *walk) bool { return other == w })
	if len(c.walks[domain]) == 0 {
		delete(c.walks, domain)
	}
	close(w.done)
}

// forget drops an endpoint that failed, unless another one has replaced it.
func (c *Client) forget(domain string, e endpoint) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.known[domain].endpoint == e {
		delete(c.known, domain)
	}
}
