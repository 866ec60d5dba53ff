package exchange

// EWS over HTTP: who calls, on whose mailbox, which operation; SOAP envelopes and faults.

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/mailbell/mailbell/simulator/faults"
	"github.com/mailbell/mailbell/simulator/internal/guid"
)

const xmlDeclaration = `<?xml version="1.0" encoding="utf-8"?>`

// call is one EWS request.
type call struct {
	x            *Host
	w            http.ResponseWriter
	r            *http.Request
	operation    string
	caller                // who signed in
	box          *mailbox // acted on; nil: the listener account without impersonation, which has none
	mailbox      string   // its address; of one that is not here, what was asked for
	impersonated bool
	server       string // the mailbox server that serves it
	body         *node
	number       int // of all calls
}

// streamingOperation answers by itself.
const streamingOperation = "GetStreamingEvents"

// operations write the ResponseMessages of their answer.
var operations = map[string]func(*call, *markup) *soapFault{
	"Subscribe":    (*call).subscribe,
	"Unsubscribe":  (*call).unsubscribe,
	"GetItem":      (*call).getItem,
	"FindItem":     (*call).findItem,
	"GetFolder":    (*call).getFolder,
	"FindFolder":   (*call).findFolder,
	"ResolveNames": (*call).resolveNames,
	"ConvertId":    (*call).convertID,
	"CreateItem":   (*call).createItem,
}

// soapFault is an answer with HTTP status 500, or 200 of a server that is not Microsoft's.
type soapFault struct {
	code, text string
	backOff    time.Duration
	line       int // of a schema violation
	violation  string
}

func badRequest(violation string) *soapFault {
	return &soapFault{code: "ErrorSchemaValidation", text: "The request failed schema validation.", line: 1, violation: violation}
}

func (f *soapFault) envelope() []byte {
	b := make(markup, 0, 1024)
	b.raw(xmlDeclaration, `<s:Envelope xmlns:s="`, nsSOAP, `"><s:Body><s:Fault><faultcode xmlns:a="`, nsTypes, `">a:`, f.code,
		`</faultcode><faultstring xml:lang="en-US">`)
	b.text(f.text)
	b.raw(`</faultstring><detail><e:ResponseCode xmlns:e="`, nsErrors, `">`, f.code, `</e:ResponseCode><e:Message xmlns:e="`, nsErrors, `">`)
	b.text(f.text)
	b.raw(`</e:Message>`)
	switch {
	case f.backOff > 0:
		b.raw(`<t:MessageXml xmlns:t="`, nsTypes, `"><t:Value Name="BackOffMilliseconds">`, strconv.FormatInt(f.backOff.Milliseconds(), 10), `</t:Value></t:MessageXml>`)
	case f.violation != "":
		b.raw(`<t:MessageXml xmlns:t="`, nsTypes, `"><t:LineNumber>`, strconv.Itoa(f.line), `</t:LineNumber><t:LinePosition>1</t:LinePosition><t:Violation>`)
		b.text(f.violation)
		b.raw(`</t:Violation></t:MessageXml>`)
	}
	b.raw(`</detail></s:Fault></s:Body></s:Envelope>`)
	return b
}

// ServeHTTP answers everything on the listener of Exchange.
func (x *Host) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Date", x.clock.HTTPDate())
	h.Set("Server", "Microsoft-IIS/10.0")
	h.Set("request-id", guid.New().String())
	if x.affine() {
		h.Set("X-FEServer", shortName(x.servers[0]))
	}
	x.stick(w, r)
	if id := r.Header.Get("client-request-id"); id != "" && len(id) <= 100 && strings.EqualFold(r.Header.Get("return-client-request-id"), "true") {
		h.Set("client-request-id", id)
	}
	path := strings.ToLower(r.URL.Path)
	switch {
	case path == ewsPath:
		x.serveEWS(w, r)
	case strings.HasPrefix(path, "/autodiscover/"):
		x.serveAutodiscover(w, r, path)
	default:
		http.NotFound(w, r)
	}
}

// ewsPath is compared in lower case, as IIS does.
const ewsPath = "/ews/exchange.asmx"

// enter accepts a request if its sender is signed in and its body can be read.
func (x *Host) enter(w http.ResponseWriter, r *http.Request) (caller, bool) {
	who, ok := x.signIn(w, r)
	if !ok {
		return caller{}, false
	}
	if x.gromox && r.ContentLength < 0 {
		w.WriteHeader(http.StatusLengthRequired)
		return caller{}, false
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxRequest)
	return who, true
}

func (x *Host) serveEWS(w http.ResponseWriter, r *http.Request) {
	who, ok := x.enter(w, r)
	if !ok {
		return
	}
	if _, blocked := x.faults.Hit(ewsBlocked, "", ""); blocked {
		w.WriteHeader(http.StatusForbidden)
		return
	}
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		http.Error(w, "EWS takes POST.", http.StatusMethodNotAllowed)
		return
	}
	data, err := io.ReadAll(r.Body)
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	c := &call{x: x, w: w, r: r, caller: who}
	fault := c.parse(data)
	if status := c.misrouted(); status != 0 {
		w.WriteHeader(status)
		return
	}
	c.tellServer()
	if fault != nil {
		c.fault(fault)
		return
	}
	if x.onMessage != nil {
		x.onMessage("request", c.operation, data)
	}
	op, known := operations[c.operation]
	counted := c.operation
	if !known && c.operation != streamingOperation {
		counted = "other" // clients do not name the counters
	}
	x.mu.Lock()
	x.requests[counted]++
	x.calls++
	c.number = x.calls
	x.mu.Unlock()
	if c.faulty() {
		return
	}
	if c.operation == streamingOperation {
		c.getStreamingEvents()
		return
	}
	if !known {
		c.fault(&soapFault{code: "ErrorInvalidRequest", text: "The request is invalid."})
		return
	}
	b := make(markup, 0, 4096)
	b.raw(xmlDeclaration, x.answers.open, `<m:`, c.operation, `Response xmlns:m="`, nsMessages, `" xmlns:t="`, nsTypes, `"><m:ResponseMessages>`)
	if f := op(c, &b); f != nil {
		c.fault(f)
		return
	}
	b.raw(`</m:ResponseMessages></m:`, c.operation, `Response>`, x.answers.end)
	c.answer(http.StatusOK, b)
}

// parse reads the envelope: the operation, and the mailbox that it acts on.
func (c *call) parse(data []byte) *soapFault {
	env, err := parseXML(bytes.NewReader(data))
	if err != nil {
		return badRequest(err.Error())
	}
	body := env.kid(nsSOAP, "Body")
	if env.space != nsSOAP || env.name != "Envelope" || body == nil || len(body.kids) == 0 {
		return badRequest("The root element is not a SOAP 1.1 envelope with a body.")
	}
	c.body = body.kids[0]
	if c.operation = c.body.name; c.body.space != nsMessages {
		return badRequest(fmt.Sprintf("The element '%s' in namespace '%s' is not an operation.", c.body.name, c.body.space))
	}
	header := env.kid(nsSOAP, "Header")
	sid := header.at("ExchangeImpersonation", "ConnectingSID")
	c.x.mu.Lock()
	defer c.x.mu.Unlock()
	fault := c.target(sid)
	if c.box != nil {
		c.mailbox = c.box.address
	}
	c.route()
	version := header.at("RequestServerVersion").attr("Version")
	if !c.x.release.takes(version) {
		return &soapFault{code: "ErrorInvalidServerVersion", text: "The specified server version is invalid."}
	}
	if fault == nil && !streams(version) && (c.operation == streamingOperation || c.body.kid(nsMessages, "StreamingSubscriptionRequest") != nil) {
		return badRequest("The element 'StreamingSubscriptionRequest' is not in the schema of " + version + ".")
	}
	return fault
}

// target finds the mailbox that a call acts on; x.mu is held.
func (c *call) target(sid *node) *soapFault {
	if sid == nil {
		c.mailbox = c.account
		c.box = c.x.boxes[c.account] // nil for the listener account
		if c.app {
			return &soapFault{code: "ErrorInvalidExchangeImpersonationHeaderData", text: "ExchangeImpersonation SOAP header must be present for this type of OAuth token."}
		}
		return nil
	}
	c.impersonated = true
	if !c.impersonates {
		return impersonationDenied()
	}
	for _, k := range sid.kids {
		c.mailbox = normal(k.value())
		switch k.name {
		case "PrimarySmtpAddress":
			c.box = c.x.boxes[c.mailbox]
		case "SmtpAddress", "PrincipalName":
			c.box = c.x.find(c.mailbox)
		default:
			return badRequest(fmt.Sprintf("The element '%s' is not supported in ConnectingSID.", k.name))
		}
	}
	if c.box == nil {
		return c.x.unknownUser()
	}
	return nil
}

// misrouted is the status that the front end of Exchange Online answers if the anchor mailbox of an app's call does not exist there;
// 0 if it does.
func (c *call) misrouted() int {
	anchor := normal(c.r.Header.Get("X-AnchorMailbox"))
	switch {
	case !c.app:
		return 0
	case anchor == "":
		return http.StatusInternalServerError
	case anchor == c.mailbox:
		return 0
	}
	if x, _ := c.x.org.lookUp(anchor); x == nil {
		return http.StatusServiceUnavailable
	}
	return 0
}

func impersonationDenied() *soapFault {
	return &soapFault{code: "ErrorImpersonateUserDenied", text: "The account does not have permission to impersonate the requested user."}
}

func noMailbox() *soapFault {
	return &soapFault{code: "ErrorNonExistentMailbox", text: "The SMTP address has no mailbox associated with it."}
}

// address of the mailbox that is acted on; empty without one.
func (c *call) address() string {
	if c.box == nil {
		return ""
	}
	return c.mailbox
}

// faulty answers instead of the operation if a fault says so.
func (c *call) faulty() bool {
	fs := c.x.faults
	if fs.None() {
		return false
	}
	at := c.address()
	if f, ok := fs.On(exchangeDelay, at, ""); ok && !c.wait(f.Duration()) {
		return true
	}
	if f, ok := fs.On(wrongPassword, at, ""); ok && f.Mailbox != "" {
		if _, hit := fs.Hit(wrongPassword, at, ""); hit {
			c.x.unauthorized(c.w)
			return true
		}
	}
	if f, ok := fs.Hit(serverBusy, at, ""); ok {
		c.busy(f)
		return true
	}
	if c.box != nil {
		if _, ok := fs.Hit(mailboxMove, at, ""); ok {
			c.answerCode(responseError{code: "ErrorMailboxMoveInProgress", text: "Mailbox move in progress. Try again later., Cannot open mailbox."})
			return true
		}
	}
	if c.box != nil {
		if _, ok := fs.Hit(mailboxUnknown, at, ""); ok {
			c.fault(c.x.unknownUser())
			return true
		}
	}
	if c.impersonated {
		if _, ok := fs.Hit(impersonationRefused, at, ""); ok {
			c.fault(impersonationDenied())
			return true
		}
	}
	if f, ok := fs.Hit(exchangeAnswer, at, ""); ok {
		if f.Status != 0 {
			c.w.WriteHeader(f.Status)
			return true
		}
		e := responseError{code: f.Reason, text: "An internal server error occurred. Try again later."}
		if e.code == "" {
			e.code = "ErrorInternalServerTransientError"
		}
		c.answerCode(e)
		return true
	}
	return c.hostile()
}

// busy throttles, in one of the shapes that servers have for it.
func (c *call) busy(f faults.Fault) {
	const (
		code = "ErrorServerBusy"
		text = "The server cannot service this request right now. Try again later."
	)
	d := 10 * time.Second
	if f.Seconds > 0 {
		d = f.Duration()
	}
	switch f.Reason {
	case busyMessage:
		c.answerCode(responseError{code: code, text: text, values: [][2]string{{"BackOffMilliseconds", strconv.FormatInt(d.Milliseconds(), 10)}}})
	case busyInner:
		c.answerCode(responseError{code: "ErrorInternalServerError", text: "An internal server error occurred. The operation failed., " + text,
			values: [][2]string{{"InnerErrorMessageText", text}, {"InnerErrorResponseCode", code}, {"InnerErrorDescriptiveLinkKey", "0"}}})
	case busyHTTP:
		c.w.Header().Set("Retry-After", faults.RetryAfter(d))
		c.w.WriteHeader(http.StatusServiceUnavailable)
	default:
		c.fault(&soapFault{code: code, text: text, backOff: d})
	}
}

// wait for d; false if the client went away meanwhile.
func (c *call) wait(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-c.r.Context().Done():
	case <-c.x.closing:
	}
	return false
}

// responseError is what went wrong with one part of a request.
type responseError struct {
	code, text string
	values     [][2]string // of its MessageXml: name and text
}

// answerCode answers with the same error in every response message.
func (c *call) answerCode(e responseError) {
	b := make(markup, 0, 1024)
	b.raw(xmlDeclaration, c.x.answers.open, `<m:`, c.operation, `Response xmlns:m="`, nsMessages, `" xmlns:t="`, nsTypes, `"><m:ResponseMessages>`)
	n := 1
	if ids := c.body.kid(nsMessages, "ItemIds"); ids != nil {
		n = max(1, len(ids.kids))
	}
	for range n {
		b.failure(c.operation+"ResponseMessage", e)
	}
	b.raw(`</m:ResponseMessages></m:`, c.operation, `Response>`, c.x.answers.end)
	c.answer(http.StatusOK, b)
}

func (b *markup) responseError(message, code, text string) {
	b.failure(message, responseError{code: code, text: text})
}

// failure writes a response message with an error, as samples of the protocol have it.
func (b *markup) failure(message string, e responseError) {
	b.raw(`<m:`, message, ` ResponseClass="Error"><m:MessageText>`)
	b.text(e.text)
	b.raw(`</m:MessageText><m:ResponseCode>`, e.code, `</m:ResponseCode><m:DescriptiveLinkKey>0</m:DescriptiveLinkKey>`)
	if len(e.values) > 0 {
		b.raw(`<m:MessageXml>`)
		for _, v := range e.values {
			b.raw(`<t:Value Name="`, v[0], `">`)
			b.text(v[1])
			b.raw(`</t:Value>`)
		}
		b.raw(`</m:MessageXml>`)
	}
	switch message {
	case "GetItemResponseMessage", "CreateItemResponseMessage":
		b.raw(`<m:Items/>`)
	case "GetFolderResponseMessage":
		b.raw(`<m:Folders/>`)
	}
	b.raw(`</m:`, message, `>`)
}

// success opens a response message; the caller closes it.
func (b *markup) success(message string) {
	b.raw(`<m:`, message, ` ResponseClass="Success"><m:ResponseCode>NoError</m:ResponseCode>`)
}

func (c *call) fault(f *soapFault) {
	if c.x.gromox {
		c.answer(http.StatusOK, f.bare())
		return
	}
	c.answer(http.StatusInternalServerError, f.envelope())
}

func (c *call) answer(status int, envelope []byte) {
	if c.x.onMessage != nil {
		c.x.onMessage("response", c.operation, envelope)
	}
	h := c.w.Header()
	h.Set("Content-Type", "text/xml; charset=utf-8")
	h.Set("Cache-Control", "private")
	h.Set("Content-Length", strconv.Itoa(len(envelope)))
	c.w.WriteHeader(status)
	c.w.Write(envelope) // the client is gone where this fails
}

// connKey finds the connection of a request, so that a fault can cut it.
type connKey struct{}

func withConn(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(withNTLM(ctx), connKey{}, c)
}

func connOf(r *http.Request) net.Conn {
	c, _ := r.Context().Value(connKey{}).(net.Conn)
	return c
}

// track keeps the open connections, for a restart to cut. It is the server's ConnState hook.
func (x *Host) track(c net.Conn, state http.ConnState) {
	x.mu.Lock()
	defer x.mu.Unlock()
	switch state {
	case http.StateNew:
		x.conns[c] = struct{}{}
	case http.StateClosed, http.StateHijacked:
		delete(x.conns, c)
	}
}

// fullText is what gromox answers in plain text, on its TLS port too, to a connection above its limit.
const fullText = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

// awayListener closes what it accepts while the server is away, or has too many connections.
type awayListener struct {
	net.Listener
	x *Host
}

func (l awayListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		l.x.mu.Lock()
		away := time.Now().Before(l.x.away)
		l.x.mu.Unlock()
		if away {
			faults.Cut(c, true)
			continue
		}
		if _, full := l.x.faults.Hit(connectionsFull, "", ""); !full {
			return c, nil
		}
		_, _ = io.WriteString(c, fullText) // the client may be gone
		c.Close()
	}
}
