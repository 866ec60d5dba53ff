package proxy

// The connection to a proxy: what net/http asks it, and what it answers.
//
// net/http sends the proxy CONNECT, a plain request, or SOCKS5. It waits a minute for the answer to CONNECT, and without end for the answer of
// a SOCKS5 proxy; here the proxy has proxyTimeout.

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mailbell/mailbell/internal/challenge"
	"github.com/mailbell/mailbell/internal/credential"
	"github.com/mailbell/mailbell/internal/fault"
)

const (
	// proxyTimeout bounds the time from the dial of a proxy to its answer: the proxy looks a name up and connects to the server. It is
	// less than the ten seconds after which callers give up, so that the error names the proxy.
	proxyTimeout = 8 * time.Second
	// refusedPause is how long mailbell waits after a proxy has refused: an administrator has to act, and with each wrong password the
	// directory may lock the account.
	refusedPause = credential.FirstPause
	// shortly is how long mailbell waits after a proxy could not be reached, or could not reach the server: a restart of the proxy must not
	// make mail late.
	shortly = 5 * time.Second
	// asksWithin bounds the question whether a proxy wants a password: to answer that it does, it asks nobody.
	asksWithin = time.Second
)

// The requests to a proxy, by their first byte. What is written after one of them is for the server.
const (
	askConnect   = 'C'  // CONNECT (RFC 9110 section 9.3.6)
	askSOCKS     = 0x05 // the greeting and the request of SOCKS5 (RFC 1928)
	askSOCKSAuth = 0x01 // its user name and password (RFC 1929)
)

const (
	// askPlain is a request by plain http, which an HTTP proxy gets as it is (RFC 9112 section 3.2.2), with the password. It is what is
	// written where none of the others was: it can begin with any method.
	askPlain = 'p'
	// toldConnect stands for CONNECT once it is answered.
	toldConnect = 'c'
)

// notHTTP completes the error of a proxy whose answer is not HTTP.
const notHTTP = "does not answer CONNECT in HTTP: is it a proxy of another kind?"

// hop is a connection to a proxy. Its errors are the proxy's until the proxy has connected it to the server.
type hop struct {
	net.Conn
	proxy   string // host:port
	giveUp  *time.Timer
	expired atomic.Bool
	beyond  atomic.Bool                             // the proxy has connected: what is written is for the server
	plain   atomic.Bool                             // it is for plain requests, one after the other
	asked   atomic.Uint32                           // the last question to the proxy; 0: none, or a plain request that it has answered
	answer  []byte                                  // to CONNECT or a plain request, until its header has come whole
	tries   *tries                                  // of the password
	target  string                                  // that the proxy is asked to connect to
	trying  atomic.Pointer[string]                  // the target for which it is tried; nil: it is not
	again   func(context.Context) (net.Conn, error) // makes another connection to the proxy
	closed  chan struct{}
	close   sync.Once
}

// newHop returns the hop for a connection to the proxy at host:port. It fails if the proxy does not connect in time.
func newHop(conn net.Conn, proxy string, within time.Duration, of *tries) *hop {
	h := &hop{Conn: conn, proxy: proxy, tries: of, closed: make(chan struct{})}
	h.giveUp = time.AfterFunc(within, func() {
		h.expired.Store(true)
		_ = h.end()
	})
	return h
}

// Write implements net.Conn, and notices when the proxy has connected.
func (h *hop) Write(b []byte) (int, error) {
	if !h.beyond.Load() && len(b) > 0 {
		if err := h.ask(b); err != nil {
			return 0, err
		}
	}
	n, err := h.Conn.Write(b)
	return n, h.explain(err)
}

// ask notices whether what is about to be written asks the proxy for something, and waits until it may.
func (h *hop) ask(b []byte) error {
	asked := h.asked.Load()
	switch first := b[0]; {
	case asked == askPlain: // more of the same request
		return nil
	case first == askConnect, first == askSOCKS, first == askSOCKSAuth:
		h.asked.Store(uint32(first))
		return h.enter(b)
	case asked == 0:
		h.plain.Store(true)
		h.asked.Store(askPlain)
		err := h.enter(b)
		if err != nil || h.trying.Load() != nil {
			h.giveUp.Stop() // how long the answer takes is the server's matter
			return err
		}
	}
	h.giveUp.Stop()
	h.beyond.Store(true)
	h.letThrough()
	return nil
}

// Read implements net.Conn.
func (h *hop) Read(b []byte) (int, error) {
	n, err := h.Conn.Read(b)
	if n > 0 && !h.beyond.Load() {
		switch h.asked.Load() {
		case askConnect, askPlain:
			if err := h.answered(b[:n]); err != nil {
				return 0, err
			}
		case askSOCKSAuth: // RFC 1929 section 2
			if reply := b[:n]; len(reply) > 1 {
				o := refused
				if reply[1] == 0 {
					o = accepted
				}
				h.tell(o)
			}
		}
	}
	return n, h.explain(err)
}

// Close implements net.Conn.
func (h *hop) Close() error {
	h.giveUp.Stop()
	return h.end()
}

func (h *hop) end() error {
	h.close.Do(func() { close(h.closed) })
	h.tell(unanswered)
	return h.Conn.Close()
}

// enter waits until what is about to be written may be, where it has the password in it.
func (h *hop) enter(b []byte) error {
	target := h.target
	switch {
	case h.plain.Load():
		_, rest, _ := strings.Cut(string(b), "://")
		target, _, _ = strings.Cut(rest, "/")
	case b[0] == askSOCKS:
		return nil
	case b[0] == askConnect:
		_, rest, _ := strings.Cut(string(b), " ")
		h.target, _, _ = strings.Cut(rest, " ")
		target = h.target
	}
	mine, err := h.tries.enter(h.closed, h.proxy, target)
	if mine {
		h.trying.Store(&target)
	}
	select {
	case <-h.closed: // meanwhile, and nobody closes it again
		h.tell(unanswered)
	default:
	}
	return err
}

// tell tells what the proxy says of the password, if it is tried here.
func (h *hop) tell(o outcome) {
	if target := h.trying.Swap(nil); target != nil {
		h.tries.leave(*target, o)
	}
}

// answered looks at the answer to CONNECT or to a plain request, once its header has come whole. net/http does not say that a malformed one
// to CONNECT is the proxy's, and drops what comes with it.
func (h *hop) answered(b []byte) error {
	plain := h.plain.Load()
	if len(h.answer) == 0 && !plain { // only the first byte tells
		switch b[0] {
		case 'H':
		case recordAlert, recordHandshake:
			return proxyError(h.proxy, fault.Fix, fault.ProxyKind, inTLS, nil)
		default:
			return proxyError(h.proxy, fault.Fix, fault.ProxyKind, notHTTP, nil)
		}
	}
	h.answer = append(h.answer, b...)
	if !bytes.Contains(h.answer, []byte("\n\r\n")) && !bytes.Contains(h.answer, []byte("\n\n")) && len(h.answer) < maxResponseHeader {
		return nil
	}
	answer := h.answer
	h.answer = nil
	resp, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(answer)), nil)
	if err == nil {
		resp.Body.Close()
	}
	if plain {
		h.asked.Store(0)
		if err == nil && resp.StatusCode == http.StatusProxyAuthRequired {
			h.tell(said(resp))
		}
		h.tell(unanswered) // any other answer can be the server's
		return nil
	}
	h.asked.Store(toldConnect)
	if err != nil {
		return proxyError(h.proxy, fault.Fix, fault.ProxyKind, notHTTP, err)
	}
	switch o := said(resp); o {
	case unanswered:
	case passed:
		h.letThrough()
	default:
		h.tell(o)
	}
	_, more, _ := bytes.Cut(answer, []byte("\r\n\r\n"))
	more = bytes.TrimSpace(more)
	if resp.StatusCode == http.StatusOK && len(more) > 0 { // no server speaks before it is spoken to in TLS
		return proxyError(h.proxy, fault.Fix, fault.ProxyDenies, fmt.Sprintf("does not let mailbell through to %s: it answers with a page, %q",
			h.target, Printable(string(more), maxText/3)), nil)
	}
	return nil
}

// letThrough tells that the proxy has let mailbell through to the target. Whether it has looked at the password for that is found out by
// asking without one: squid and others let everybody through to some targets, and look at nothing.
func (h *hop) letThrough() {
	if h.trying.Load() == nil {
		return
	}
	o := passed
	if h.asks() {
		o = accepted
	}
	h.tell(o)
}

// asks reports whether the proxy asks for a password before it connects to the target.
func (h *hop) asks() bool {
	ctx, cancel := context.WithTimeout(context.Background(), asksWithin)
	defer cancel()
	conn, err := h.again(ctx)
	if err != nil {
		return false
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if _, err := fmt.Fprintf(conn, "CONNECT %[1]s HTTP/1.1\r\nHost: %[1]s\r\n\r\n", h.target); err != nil {
		return false
	}
	resp, err := http.ReadResponse(bufio.NewReader(io.LimitReader(conn, maxResponseHeader)), nil)
	if err != nil {
		return false
	}
	resp.Body.Close()
	return asksForPassword(resp)
}

// said is what a refusal says of the password that was sent with the request. A proxy that asked a server for it has let mailbell in.
func said(resp *http.Response) outcome {
	detail, _ := wanted(true, offersOf(resp))
	switch {
	case asksForPassword(resp) && detail == fault.ProxySignIn:
		return refused
	case resp.StatusCode == http.StatusBadGateway, resp.StatusCode == http.StatusGatewayTimeout:
		return passed
	}
	return unanswered
}

// asksForPassword reports whether a proxy wants a sign-in. Older versions of tinyproxy ask for it with 401, a status of servers.
func asksForPassword(resp *http.Response) bool {
	return resp.StatusCode == http.StatusProxyAuthRequired || resp.StatusCode == http.StatusUnauthorized
}

func offersOf(resp *http.Response) []string {
	return challenge.Schemes(slices.Concat(resp.Header.Values("Proxy-Authenticate"), resp.Header.Values("Www-Authenticate")))
}

func (h *hop) explain(err error) error {
	switch {
	case err == nil || h.beyond.Load() || h.plain.Load():
		return err
	case h.expired.Load(), errors.Is(err, os.ErrDeadlineExceeded): // net/http sets deadlines for SOCKS5
		return proxyError(h.proxy, fault.Wait, fault.ProxyAway, "did not answer in time", err)
	}
	return proxyError(h.proxy, fault.Wait, fault.ProxyAway, "closed the connection without an answer", err)
}
