package autodiscover

// One request, in its turn, and what its HTTP status means.

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/mailbell/mailbell/auth"
	"github.com/mailbell/mailbell/internal/backoff"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/proxy"
)

const (
	// askTimeout bounds one request: the server asks its directory, which may take seconds after a start.
	askTimeout = 20 * time.Second
	maxAnswer  = 1 << 20 // bytes; a real answer of POX has up to 30 KiB, one of SOAP for 50 users up to 100 KiB
	maxWords   = 200     // bytes of a server's own words in an error
	// maxInFlight bounds the open requests: enough to hide the delay of the network, too few to be a load for a server whose users are at
	// work.
	maxInFlight = 16
	// maxRetryAfter bounds the pause that a server may ask for. The company's web site is asked too, and may be away for days.
	maxRetryAfter = 10 * time.Minute
)

// result is the part of an answer that matters here.
type result struct {
	status   int
	location string // of a redirect, absolute; empty: none, or an invalid one
	body     []byte // not of a redirect; longer than maxAnswer if it is too long
	shows    fault.Evidence
	exchange bool          // it looks like an Exchange, by the headers of a challenge
	after    time.Duration // that the server asks to wait; 0: it does not
}

// request sends a request when its turn has come, and reads the answer. It follows no redirect.
func (c *Client) request(ctx context.Context, by http.RoundTripper, method, u string, header http.Header, body []byte) (result, *fault.Error) {
	select {
	case c.turns <- struct{}{}:
		defer func() { <-c.turns }()
	case <-ctx.Done():
		return result{}, cancelled(ctx.Err())
	}
	if c.o.Limit != nil {
		if err := c.o.Limit.Wait(ctx); err != nil {
			return result{}, cancelled(err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, u, bytes.NewReader(body))
	if err != nil {
		return result{}, &fault.Error{Op: op, Code: CodeHost, Scope: fault.Mailbox, Remedy: fault.Fix, Text: "the answer has an invalid URL"}
	}
	req.Header = header
	req.Header.Set("User-Agent", c.o.UserAgent)
	req.Header["X-Idempotency-Key"] = []string{} // it changes nothing, and may be sent again: net/http's sign for that, which it does not send
	resp, err := by.RoundTrip(req)
	if err != nil {
		return result{}, proxy.Explain(op, err)
	}
	defer resp.Body.Close()
	shows := proxy.EvidenceOf(resp, fault.Autodiscover)
	if redirects(resp.StatusCode) {
		r := result{status: resp.StatusCode, shows: shows}
		if to, err := resp.Location(); err == nil {
			r.location = to.String()
		}
		return r, nil
	}
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return result{}, proxy.Explain(op, err)
	}
	return result{status: resp.StatusCode, body: answer, shows: shows, exchange: auth.IsExchange(resp.Header),
		after: backoff.RetryAfter(resp.Header, maxRetryAfter)}, nil
}

// post sends an XML request: with credentials if they are allowed at u, and without to the mail domain itself; u is one of these.
func (c *Client) post(ctx context.Context, u, anchor, action string, question []byte) (result, *fault.Error) {
	header := http.Header{}
	header.Set("Content-Type", "text/xml; charset=utf-8")
	header.Set("X-AnchorMailbox", anchor)
	if action != "" {
		header.Set("SOAPAction", `"`+action+`"`)
	}
	parsed, err := url.Parse(u)
	if err != nil || c.o.Hosts.Refuse(parsed) == nil {
		return c.request(ctx, c.o.HTTP, http.MethodPost, u, header, question)
	}
	r, refused := c.request(ctx, c.o.Plain, http.MethodPost, u, header, question)
	switch {
	case refused != nil:
		return result{}, refused
	case r.status == http.StatusUnauthorized:
		return result{}, &fault.Error{Op: op, Code: auth.CodeUntrusted, Scope: fault.Mailbox, Remedy: fault.Fix,
			Text: printable(parsed.Host) + ", the mail domain itself, asks for a password, which mailbell sends only if " +
				"autodiscover_url or trusted_hosts names it"}
	case r.status == http.StatusForbidden: // the request had no credentials
		return result{}, &fault.Error{Op: op, Code: codeNotAuto, Scope: fault.Server, Remedy: fault.Wait, Text: "HTTP 403"}
	}
	return r, nil
}

// refusal types a status without an answer to an XML request; nil: there is one, or a redirect.
func (r result) refusal() *fault.Error {
	code := r.status
	e := &fault.Error{Op: op, Code: codeNotAuto, Scope: fault.Server, Remedy: fault.Wait, Text: fmt.Sprintf("HTTP %d", code)}
	switch {
	case code == http.StatusOK, redirects(code):
		return nil
	case code == http.StatusUnauthorized, code == http.StatusForbidden:
		e = status(code, fault.Account, fault.Fix)
	case code >= 500, code == http.StatusTooManyRequests:
		e = status(code, fault.Server, fault.Wait)
		e.After, e.Asked = r.after, r.after > 0
	}
	e.Evidence = r.shows
	return e
}

// status types an answer by its HTTP status.
func status(code int, scope fault.Scope, remedy fault.Remedy) *fault.Error {
	return &fault.Error{Op: op, Code: fmt.Sprintf("HTTP %d", code), Scope: scope, Remedy: remedy, Text: http.StatusText(code)}
}

func redirects(code int) bool {
	switch code {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		return true
	}
	return false
}

// moved is the answer of a server that redirects every request.
func (r result) moved() (answer, *fault.Error) {
	if r.location == "" {
		return answer{}, status(r.status, fault.Server, fault.Wait)
	}
	return answer{redirectURL: r.location, moved: true}, nil
}

func printable(s string) string { return proxy.Printable(s, maxWords) }
