package simulator

// EWS over HTTP: who calls, on whose mailbox, which operation; SOAP envelopes and faults.

import (
	"bytes"
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Version of the server that answers claim: Exchange Server SE.
const (
	serverVersion = `MajorVersion="15" MinorVersion="2" MajorBuildNumber="2562" MinorBuildNumber="17" Version="V2017_07_11"`
	versionHex    = "73C28A02" // the same in Autodiscover's form
)

const (
	xmlDeclaration = `<?xml version="1.0" encoding="utf-8"?>`
	envelopeStart  = `<s:Envelope xmlns:s="` + nsSOAP + `"><s:Header><h:ServerVersionInfo ` + serverVersion +
		` xmlns:h="` + nsTypes + `" xmlns="` + nsTypes + `" xmlns:xsd="http://www.w3.org/2001/XMLSchema"` +
		` xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"/></s:Header>` +
		`<s:Body xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xmlns:xsd="http://www.w3.org/2001/XMLSchema">`
	envelopeEnd = `</s:Body></s:Envelope>`
)

// call is one EWS request.
type call struct {
	x            *exchange
	w            http.ResponseWriter
	r            *http.Request
	operation    string
	account      string   // who signed in: the listener account, or a mailbox address
	box          *mailbox // acted on; nil: the listener account without impersonation, which has none
	impersonated bool
	body         *node
	number       int // of all calls
}

// operations write the ResponseMessages of their answer. GetStreamingEvents answers by itself.
var operations = map[string]func(*call, *markup) *soapFault{
	"Subscribe":    (*call).subscribe,
	"Unsubscribe":  (*call).unsubscribe,
	"GetItem":      (*call).getItem,
	"FindItem":     (*call).findItem,
	"GetFolder":    (*call).getFolder,
	"FindFolder":   (*call).findFolder,
	"ResolveNames": (*call).resolveNames,
	"ConvertId":    (*call).convertID,
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
func (x *exchange) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Date", x.clock.httpDate())
	h.Set("Server", "Microsoft-IIS/10.0")
	h.Set("request-id", newGUID().String())
	h.Set("X-FEServer", mailboxServer)
	h.Set("X-BEServer", mailboxServer)
	h.Set("X-CalculatedBETarget", mailboxServer)
	if id := r.Header.Get("client-request-id"); id != "" && len(id) <= 100 && strings.EqualFold(r.Header.Get("return-client-request-id"), "true") {
		h.Set("client-request-id", id)
	}
	path := strings.ToLower(r.URL.Path)
	if path != "/ews/exchange.asmx" && path != "/autodiscover/autodiscover.xml" {
		http.NotFound(w, r)
		return
	}
	account, ok := x.signIn(r)
	if !ok {
		x.unauthorized(w)
		return
	}
	if r.Method != http.MethodPost && path == "/ews/exchange.asmx" {
		w.Header().Set("Allow", http.MethodPost)
		http.Error(w, "EWS takes POST.", http.StatusMethodNotAllowed)
		return
	}
	if x.gromox && r.ContentLength < 0 {
		w.WriteHeader(http.StatusLengthRequired)
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxRequest)
	if path == "/ews/exchange.asmx" {
		x.serveEWS(w, r, account)
		return
	}
	x.serveAutodiscover(w, r)
}

func (x *exchange) unauthorized(w http.ResponseWriter) {
	x.mu.Lock()
	x.refused++
	x.mu.Unlock()
	w.Header().Set("WWW-Authenticate", `Basic realm="`+x.host+`"`)
	w.Header().Set("X-Powered-By", "ASP.NET")
	w.WriteHeader(http.StatusUnauthorized)
}

// signIn checks Basic credentials: those of the listener account, or a mailbox's address with the same password.
func (x *exchange) signIn(r *http.Request) (account string, ok bool) {
	user, password, given := r.BasicAuth()
	if !given || subtle.ConstantTimeCompare([]byte(password), []byte(x.password)) != 1 {
		return "", false
	}
	account = normal(user)
	_, name, _ := strings.Cut(x.user, `\`)
	if strings.EqualFold(user, x.user) || account == strings.ToLower(name)+"@"+Domain {
		account = x.user
	} else {
		x.mu.Lock()
		b := x.find(account)
		x.mu.Unlock()
		if b == nil {
			return "", false
		}
		account = b.address
	}
	if f, on := x.faults.on(wrongPassword, "", ""); on && f.Mailbox == "" {
		if _, hit := x.faults.hit(wrongPassword, "", ""); hit {
			return "", false
		}
	}
	return account, true
}

func (x *exchange) serveEWS(w http.ResponseWriter, r *http.Request, account string) {
	data, err := io.ReadAll(r.Body)
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	c := &call{x: x, w: w, r: r, account: account}
	if f := c.parse(data); f != nil {
		c.fault(f)
		return
	}
	if x.onMessage != nil {
		x.onMessage("request", c.operation, data)
	}
	x.mu.Lock()
	x.requests[c.operation]++
	x.calls++
	c.number = x.calls
	x.mu.Unlock()
	if c.faulty() {
		return
	}
	if c.operation == "GetStreamingEvents" {
		c.getStreamingEvents()
		return
	}
	op, ok := operations[c.operation]
	if !ok {
		c.fault(&soapFault{code: "ErrorInvalidRequest", text: "The request is invalid."})
		return
	}
	b := make(markup, 0, 4096)
	b.raw(xmlDeclaration, envelopeStart, `<m:`, c.operation, `Response xmlns:m="`, nsMessages, `" xmlns:t="`, nsTypes, `"><m:ResponseMessages>`)
	if f := op(c, &b); f != nil {
		c.fault(f)
		return
	}
	b.raw(`</m:ResponseMessages></m:`, c.operation, `Response>`, envelopeEnd)
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
	if sid == nil {
		c.box = c.x.boxes[c.account] // nil for the listener account
		return nil
	}
	c.impersonated = true
	if c.account != c.x.user {
		return &soapFault{code: "ErrorImpersonateUserDenied", text: "The account does not have permission to impersonate the requested user."}
	}
	var address string
	for _, k := range sid.kids {
		switch k.name {
		case "PrimarySmtpAddress":
			address = normal(k.value())
			c.box = c.x.boxes[address]
		case "SmtpAddress", "PrincipalName":
			address = normal(k.value())
			c.box = c.x.find(address)
		default:
			return badRequest(fmt.Sprintf("The element '%s' is not supported in ConnectingSID.", k.name))
		}
	}
	if c.box == nil {
		return noMailbox()
	}
	return nil
}

func noMailbox() *soapFault {
	return &soapFault{code: "ErrorNonExistentMailbox", text: "The SMTP address has no mailbox associated with it."}
}

// address of the mailbox that is acted on; empty without one.
func (c *call) address() string {
	if c.box == nil {
		return ""
	}
	return c.box.address
}

// mailboxServer is what this server calls itself in headers, cookies and subscription ids.
const mailboxServer = "ex01." + Domain

// faulty answers in place of the operation where a fault says so.
func (c *call) faulty() bool {
	fs := c.x.faults
	if fs.set.Load() == 0 {
		return false
	}
	at := c.address()
	if f, ok := fs.on(exchangeDelay, at, ""); ok && !c.wait(seconds(f.Seconds)) {
		return true
	}
	if f, ok := fs.on(wrongPassword, at, ""); ok && f.Mailbox != "" {
		if _, hit := fs.hit(wrongPassword, at, ""); hit {
			c.x.unauthorized(c.w)
			return true
		}
	}
	if f, ok := fs.hit(serverBusy, at, ""); ok {
		c.busy(f)
		return true
	}
	if c.box != nil {
		if _, ok := fs.hit(mailboxMove, at, ""); ok {
			c.answerCode(responseError{code: "ErrorMailboxMoveInProgress", text: "Mailbox move in progress. Try again later., Cannot open mailbox."})
			return true
		}
	}
	if c.box != nil {
		if _, ok := fs.hit(mailboxUnknown, at, ""); ok {
			c.fault(noMailbox())
			return true
		}
	}
	if c.impersonated {
		if _, ok := fs.hit(impersonationRefused, at, ""); ok {
			c.fault(&soapFault{code: "ErrorImpersonateUserDenied", text: "The account does not have permission to impersonate the requested user."})
			return true
		}
	}
	if f, ok := fs.hit(exchangeAnswer, at, ""); ok {
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
func (c *call) busy(f Fault) {
	const (
		code = "ErrorServerBusy"
		text = "The server cannot service this request right now. Try again later."
	)
	d := 10 * time.Second
	if f.Seconds > 0 {
		d = seconds(f.Seconds)
	}
	switch f.Reason {
	case busyMessage:
		c.answerCode(responseError{code: code, text: text, values: [][2]string{{"BackOffMilliseconds", strconv.FormatInt(d.Milliseconds(), 10)}}})
	case busyInner:
		c.answerCode(responseError{code: "ErrorInternalServerError", text: "An internal server error occurred. The operation failed., " + text,
			values: [][2]string{{"InnerErrorMessageText", text}, {"InnerErrorResponseCode", code}, {"InnerErrorDescriptiveLinkKey", "0"}}})
	case busyHTTP:
		c.w.Header().Set("Retry-After", wholeSeconds(d))
		c.w.WriteHeader(http.StatusServiceUnavailable)
	default:
		c.fault(&soapFault{code: code, text: text, backOff: d})
	}
}

// wholeSeconds is the form of Retry-After: rounded up, so that nobody comes early.
func wholeSeconds(d time.Duration) string {
	return strconv.FormatInt(int64((d+time.Second-1)/time.Second), 10)
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
	b.raw(xmlDeclaration, envelopeStart, `<m:`, c.operation, `Response xmlns:m="`, nsMessages, `" xmlns:t="`, nsTypes, `"><m:ResponseMessages>`)
	n := 1
	if ids := c.body.kid(nsMessages, "ItemIds"); ids != nil {
		n = max(1, len(ids.kids))
	}
	for range n {
		b.failure(c.operation+"ResponseMessage", e)
	}
	b.raw(`</m:ResponseMessages></m:`, c.operation, `Response>`, envelopeEnd)
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
	case "GetItemResponseMessage":
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

// Answers of a server that means harm, or is broken.
const (
	garbage  = "\x00\x01\xff<<html>&&&; this is no XML ]]> \xc3\x28"
	entities = `<?xml version="1.0"?><!DOCTYPE s [<!ENTITY a0 "ha"><!ENTITY a1 "&a0;&a0;&a0;&a0;&a0;&a0;&a0;&a0;&a0;&a0;">` +
		`<!ENTITY a2 "&a1;&a1;&a1;&a1;&a1;&a1;&a1;&a1;&a1;&a1;"><!ENTITY a3 "&a2;&a2;&a2;&a2;&a2;&a2;&a2;&a2;&a2;&a2;">` +
		`<!ENTITY a4 "&a3;&a3;&a3;&a3;&a3;&a3;&a3;&a3;&a3;&a3;"><!ENTITY a5 "&a4;&a4;&a4;&a4;&a4;&a4;&a4;&a4;&a4;&a4;">` +
		`<!ENTITY a6 "&a5;&a5;&a5;&a5;&a5;&a5;&a5;&a5;&a5;&a5;"><!ENTITY x SYSTEM "file:///etc/hostname">]>` +
		`<s:Envelope xmlns:s="` + nsSOAP + `"><s:Body><m:GetItemResponse xmlns:m="` + nsMessages + `" xmlns:t="` + nsTypes + `"><m:ResponseMessages>` +
		`<m:GetItemResponseMessage ResponseClass="Success"><m:ResponseCode>NoError</m:ResponseCode><m:Items><t:Message>` +
		`<t:Subject>&a6;&x;</t:Subject></t:Message></m:Items></m:GetItemResponseMessage></m:ResponseMessages></m:GetItemResponse></s:Body></s:Envelope>`
	hugeAnswer = 256 << 20
)

// hostile answers with what no client should believe.
func (c *call) hostile() bool {
	at := c.address()
	h := c.w.Header()
	if _, ok := c.x.faults.hit(answerGarbage, at, ""); ok {
		h.Set("Content-Type", "text/xml; charset=utf-8")
		io.WriteString(c.w, garbage)
		return true
	}
	if _, ok := c.x.faults.hit(answerEntities, at, ""); ok {
		h.Set("Content-Type", "text/xml; charset=utf-8")
		io.WriteString(c.w, entities)
		return true
	}
	if _, ok := c.x.faults.hit(answerHuge, at, ""); ok {
		h.Set("Content-Type", "text/xml; charset=utf-8")
		c.writeHuge()
		return true
	}
	return false
}

func (c *call) writeHuge() {
	chunk := bytes.Repeat([]byte("A"), 64<<10)
	if _, err := io.WriteString(c.w, xmlDeclaration+envelopeStart); err != nil {
		return
	}
	for range hugeAnswer / len(chunk) {
		if _, err := c.w.Write(chunk); err != nil { // the client had enough
			return
		}
	}
	io.WriteString(c.w, envelopeEnd)
}

// connKey finds the connection of a request, so that a fault can cut it.
type connKey struct{}

func withConn(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c)
}

func connOf(r *http.Request) net.Conn {
	c, _ := r.Context().Value(connKey{}).(net.Conn)
	return c
}

// track keeps the open connections, for a restart to cut. It is the server's ConnState hook.
func (x *exchange) track(c net.Conn, state http.ConnState) {
	x.mu.Lock()
	defer x.mu.Unlock()
	switch state {
	case http.StateNew:
		x.conns[c] = struct{}{}
	case http.StateClosed, http.StateHijacked:
		delete(x.conns, c)
	}
}

// awayListener closes what it accepts while the server is away.
type awayListener struct {
	net.Listener
	x *exchange
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
		if !away {
			return c, nil
		}
		cut(c, true)
	}
}

// cut ends a connection: with a TCP reset, or with a FIN and no farewell of TLS.
func cut(c net.Conn, reset bool) {
	for {
		inner, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		c = inner.NetConn()
	}
	if tcp, ok := c.(*net.TCPConn); ok && reset {
		if err := tcp.SetLinger(0); err != nil && !errors.Is(err, net.ErrClosed) {
			return
		}
	}
	c.Close()
}

// restart forgets all subscriptions and cuts all connections.
func (x *exchange) restart(away time.Duration) {
	x.mu.Lock()
	x.away = time.Now().Add(away)
	for _, s := range x.subs {
		s.gone = true
		s.box.subs = nil
	}
	clear(x.subs)
	x.lastSub = 0
	conns := make([]net.Conn, 0, len(x.conns))
	for c := range x.conns {
		conns = append(conns, c)
	}
	x.mu.Unlock()
	for _, c := range conns {
		cut(c, true)
	}
}
