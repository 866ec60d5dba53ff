package auth

// NTLM: a user name, and a password that is never sent. NTLM signs in a connection, not a request (MS-NTHT). So this file keeps the
// connections, with one request at a time on each.

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/Azure/go-ntlmssp"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/internal/hostname"
	"github.com/mailbell/mailbell/internal/webpage"
	"github.com/mailbell/mailbell/proxy"
)

// maxTries bounds the new connections for one request: a server that restarts needs a second, and a load balancer that closes connections
// during the sign-in closes each one.
const maxTries = 3

// The codes of errors of a server's NTLM, in fault.Error.Code.
const (
	CodeNoNTLM = "NTLM not offered"
	CodeNTLM   = "NTLM" // offered, and not gone through with
)

// ExtendedProtection is the other cause of an answer 401: the server answers the same to a wrong password.
const ExtendedProtection = "Extended Protection, which Exchange requires since 2019 CU14, refuses the right password too where a proxy or load balancer before the " +
	"server ends TLS: the certificate that is shown to mailbell must be the very one that IIS has, or TLS must be passed through"

// NTLM is a user name and a password for NTLMv2 over HTTP (MS-NLMP, MS-NTHT), with the channel binding of Extended Protection.
type NTLM struct {
	Username string // CONTOSO\svc-bell or svc-bell@contoso.com
	Password Secret

	tries *lockout // nil: not limited
}

// NewNTLM returns the credential of an account, whose failed sign-ins are limited.
func NewNTLM(username string, password Secret) Credential {
	return NTLM{Username: username, Password: password, tries: &lockout{}}
}

// RoundTripper implements Credential. At most maxConns connections are open, those to all hosts taken together; a request waits
// for one until its context ends. It has its connection until the body of the answer is read to the end or closed, so maxConns
// has to include open streams.
//
// If a server does not offer NTLM, the error is a *fault.Error with CodeNoNTLM; no weaker method is tried. If the server refuses the
// sign-in, the answer is a 401, as with Basic; ExtendedProtection says why that happens with a right password. The first message of a
// sign-in has nothing of the credential. If the configuration does not name the host and its answer does not look like Exchange, the
// error is a *fault.Error with CodeUntrusted.
func (n NTLM) RoundTripper(to Hosts, s proxy.Settings, maxConns int) http.RoundTripper {
	t := s.Transport()
	if maxConns <= 0 {
		maxConns = t.MaxIdleConnsPerHost
	}
	return &ntlm{NTLM: n, gate: newGate(to), transport: t, slots: make(chan struct{}, maxConns)}
}

// Prepare implements Credential: nothing is needed.
func (NTLM) Prepare(context.Context) error { return nil }

// Close implements Credential: there is nothing to end.
func (NTLM) Close() {}

// hasWorked implements askedFor.
func (n NTLM) hasWorked() bool { return n.tries.hasWorked() }

// ntlm is a round tripper and its connections.
type ntlm struct {
	NTLM
	gate      *gate
	transport *http.Transport // makes the connections, and keeps none
	slots     chan struct{}   // one is taken by each request that has a connection, or gets one

	mu     sync.Mutex
	busy   int         // the connections that requests have
	idle   []*ntlmConn // signed in; the longest unused first
	closed bool        // by CloseIdleConnections: what comes back is closed, until the next request
}

// ntlmConn is a connection. One request has it, or it is idle.
type ntlmConn struct {
	*http.ClientConn
	route    route
	signedIn bool
	expiry   *time.Timer // of an idle one
}

// route is the server of a connection, and the proxy: after a change of the proxy older connections are not used any more.
type route struct {
	address string // host:port
	via     string // the proxy's URL; empty: none
}

// RoundTrip implements http.RoundTripper. If a connection breaks, a request that net/http would repeat is sent again on a new one.
func (n *ntlm) RoundTrip(req *http.Request) (*http.Response, error) {
	destination, err := n.gate.admit(req)
	if err != nil {
		return nil, err
	}
	call := &ntlmCall{Request: req, to: destination}
	defer call.close()
	to, err := n.route(req)
	if err != nil {
		return nil, err
	}
	select {
	case n.slots <- struct{}{}:
	case <-req.Context().Done():
		return nil, waited(req.Context(), opSignIn, fmt.Sprintf("all %d connections are in use", cap(n.slots)))
	}
	c, resp, err := n.send(req.Context(), to, call)
	if err != nil {
		n.release(nil)
		return nil, err
	}
	resp.Request = req
	resp.Body = &ntlmBody{ReadCloser: resp.Body, done: sync.OnceFunc(func() { n.release(c) })}
	return resp, nil
}

// send sends a request on a kept connection, else on a new one.
func (n *ntlm) send(ctx context.Context, to route, call *ntlmCall) (*ntlmConn, *http.Response, error) {
	if c := n.pick(to); c != nil {
		resp, err := call.send(c, "")
		switch {
		case err == nil && resp.StatusCode == http.StatusUnauthorized && call.repeatable():
			resp.Body.Close()
			call.sent = false // the server has forgotten the sign-in, and has done nothing
		case err == nil:
			c.signedIn = resp.StatusCode != http.StatusUnauthorized
			return c, resp, nil
		case ctx.Err() != nil || !call.again():
			c.Close()
			return nil, nil, err
		}
		c.Close()
	}
	for try := 1; ; try++ {
		// The connection comes first: nobody waits for others, or speaks of a sign-in, where the server cannot be reached.
		made, err := proxy.ClientConn(ctx, n.transport, "https", to.address)
		if err != nil {
			return nil, nil, err
		}
		done, err := n.tries.enterAt(ctx, placeOf(call.Request))
		if err != nil {
			made.Close()
			return nil, nil, err
		}
		c := &ntlmConn{ClientConn: made, route: to}
		resp, err := n.signIn(c, call)
		ended := signInOf(resp)
		if ended == accepted && !c.signedIn {
			ended = unanswered // the answer is to the first message, which has nothing of the password
		}
		done(ended)
		if err == nil {
			return c, resp, nil
		}
		c.Close()
		_, decided := errors.AsType[*fault.Error](err)
		counted := call.sent && !n.tries.hasWorked() // the directory may have counted a failed sign-in that nobody told of
		if decided || counted || ctx.Err() != nil || !call.again() || try == maxTries {
			return nil, nil, err
		}
	}
}

var errNoHost = errors.New("the URL of the request has no host")

// route returns the route of a request, with the present proxy.
func (n *ntlm) route(req *http.Request) (route, error) {
	to := route{address: hostname.Address(req.URL)}
	if to.address == "" {
		return route{}, errNoHost
	}
	if n.transport.Proxy == nil {
		return to, nil
	}
	via, err := n.transport.Proxy(req)
	if via != nil {
		to.via = via.String()
	}
	return to, err
}

// signIn opens a connection, signs it in, and sends a call with the last message of the sign-in.
func (n *ntlm) signIn(c *ntlmConn, call *ntlmCall) (*http.Response, error) {
	authorization, other, err := n.handshake(c, call)
	if err != nil || other != nil {
		return other, err
	}
	resp, err := call.send(c, authorization)
	if err != nil {
		return nil, err
	}
	c.signedIn = resp.StatusCode != http.StatusUnauthorized
	return resp, nil
}

// handshake exchanges the first two messages, and returns the header of the third, which is the call itself. The first has no body, for it
// would be sent in vain. An answer that has nothing to do with signing in, such as a load balancer's 503 or its page with status 200, is
// returned.
func (n *ntlm) handshake(c *ntlmConn, call *ntlmCall) (authorization string, other *http.Response, err error) {
	req := call.Request
	negotiate, err := ntlmssp.NewNegotiateMessage("", "")
	if err != nil {
		return "", nil, err
	}
	wrong := &fault.Error{Op: opSignIn, Scope: fault.Account, Remedy: fault.Fix}
	for _, scheme := range []string{"NTLM", "Negotiate"} { // IIS accepts the same messages with both
		first := *req
		first.Body, first.GetBody, first.ContentLength, first.TransferEncoding = http.NoBody, nil, 0, nil
		first.Header = req.Header.Clone()
		first.Header.Del("Content-Type")
		first.Header.Set("Authorization", scheme+" "+base64.StdEncoding.EncodeToString(negotiate))
		resp, err := c.RoundTrip(&first)
		switch {
		case err != nil:
			return "", nil, err
		case resp.StatusCode != http.StatusUnauthorized && (resp.StatusCode >= http.StatusMultipleChoices || webpage.Is(resp.Header)):
			return "", resp, nil
		}
		if err := call.to.trusts(resp, req.URL.Host); err != nil {
			resp.Body.Close()
			return "", nil, err
		}
		has := readOffers(resp.Header)
		if challenge := has.challenge(scheme); challenge != nil {
			if err := c.drain(resp); err != nil {
				return "", nil, err
			}
			message, err := n.authenticate(negotiate, challenge, req.URL.Hostname(), resp.TLS.PeerCertificates[0])
			if err != nil {
				wrong.Code, wrong.Text, wrong.Err = CodeNTLM, "the challenge of "+req.URL.Host+" cannot be answered", err
				return "", nil, wrong
			}
			return scheme + " " + base64.StdEncoding.EncodeToString(message), nil, nil
		}
		wrong.Evidence = has.evidence(req.URL.Host)
		wrong.Code, wrong.Text = CodeNoNTLM, req.URL.Host+" does not offer NTLM but "+has.String()+"; nothing weaker is tried"
		if has.scheme("NTLM") {
			wrong.Code, wrong.Text = CodeNTLM, req.URL.Host+" offers NTLM, and has no challenge for its first message"
		}
		if scheme == "Negotiate" || !has.scheme("Negotiate") {
			resp.Body.Close()
			break
		}
		if err := c.drain(resp); err != nil {
			return "", nil, err
		}
	}
	return "", nil, wrong
}

// pick takes the kept connection of a route that was used last; nil if there is none, and then there is room for another.
func (n *ntlm) pick(to route) *ntlmConn {
	picked, dropped := n.take(to)
	closeAll(dropped)
	return picked
}

func (n *ntlm) take(to route) (picked *ntlmConn, dropped []*ntlmConn) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.busy++
	n.closed = false
	for i := len(n.idle) - 1; picked == nil && i >= 0; i-- {
		if n.idle[i].route != to {
			continue
		}
		if c := n.remove(i); c.Reserve() == nil {
			picked = c
		} else {
			dropped = append(dropped, c) // the server has closed it
		}
	}
	for len(n.idle)+n.busy > cap(n.slots) { // no more are busy than there are slots
		dropped = append(dropped, n.remove(0))
	}
	return picked, dropped
}

// release ends a request. Its connection, nil if it got none, is kept if it is signed in and can take another.
func (n *ntlm) release(c *ntlmConn) {
	defer func() { <-n.slots }()
	if kept := n.keep(c); c != nil && !kept {
		c.Close()
	}
}

func (n *ntlm) keep(c *ntlmConn) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.busy--
	if c == nil || !c.signedIn || n.closed || c.Available() == 0 {
		return false
	}
	c.expiry = time.AfterFunc(n.transport.IdleConnTimeout, func() { n.expire(c) })
	n.idle = append(n.idle, c)
	return true
}

// expire closes a connection that was idle for too long.
func (n *ntlm) expire(c *ntlmConn) {
	if n.forget(c) {
		c.Close()
	}
}

// forget takes a connection out if it is idle still.
func (n *ntlm) forget(c *ntlmConn) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	i := slices.Index(n.idle, c)
	if i >= 0 {
		n.remove(i)
	}
	return i >= 0
}

// remove takes an idle connection out. The caller holds mu.
func (n *ntlm) remove(i int) *ntlmConn {
	c := n.idle[i]
	c.expiry.Stop()
	n.idle = slices.Delete(n.idle, i, i+1)
	return c
}

// CloseIdleConnections closes the connections that no request has; the others are closed as they come back, until the next request.
func (n *ntlm) CloseIdleConnections() {
	n.mu.Lock()
	n.closed = true
	var idle []*ntlmConn
	for len(n.idle) > 0 {
		idle = append(idle, n.remove(0))
	}
	n.mu.Unlock()
	closeAll(idle)
}

func closeAll(conns []*ntlmConn) {
	for _, c := range conns {
		c.Close()
	}
}

// errHungUp is the error if the connection was closed during the sign-in.
var errHungUp = errors.New("the server, or a load balancer in front of it, closed the connection during the NTLM sign-in")

// drain drops an answer 401, so that the connection can be used again.
func (c *ntlmConn) drain(resp *http.Response) error {
	discard(resp)
	if c.Available() == 0 {
		return errHungUp
	}
	return nil
}

// ntlmCall is a request that may have to be sent more than once.
type ntlmCall struct {
	*http.Request
	to   *destination
	used bool // its body was
	sent bool // the server may have acted on it
}

// send sends the request itself.
func (c *ntlmCall) send(on *ntlmConn, authorization string) (*http.Response, error) {
	r := c.Request
	if c.used {
		repeated, err := repeat(r)
		if err != nil {
			return nil, err
		}
		r = repeated
	}
	if authorization != "" {
		// RoundTrip must not change the request that it was given.
		signed := *r
		signed.Header = r.Header.Clone()
		signed.Header.Set("Authorization", authorization)
		r = &signed
	}
	c.used, c.sent = true, true
	return on.RoundTrip(r)
}

// repeatable reports whether the call can be sent, again if it was sent before.
func (c *ntlmCall) repeatable() bool { return !c.used || canRepeat(c.Request) }

// again reports whether the call may be sent on another connection.
func (c *ntlmCall) again() bool {
	return c.repeatable() && (!c.sent || idempotent(c.Request))
}

// close closes the body of a request that was never sent; the others are closed by net/http.
func (c *ntlmCall) close() {
	if !c.used {
		closeBody(c.Request)
	}
}

// ntlmBody is the body of an answer, which releases the connection at its end.
type ntlmBody struct {
	io.ReadCloser
	done func()
}

func (b *ntlmBody) Read(p []byte) (int, error) {
	got, err := b.ReadCloser.Read(p)
	if err != nil {
		b.done()
	}
	return got, err
}

func (b *ntlmBody) Close() error {
	err := b.ReadCloser.Close()
	b.done()
	return err
}
