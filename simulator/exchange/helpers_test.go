package exchange

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mailbell/mailbell/simulator/entra"
	"github.com/mailbell/mailbell/simulator/faults"
	"github.com/mailbell/mailbell/simulator/internal/authority"
)

// soon bounds every wait of a test for something that comes at once.
const soon = 20 * time.Second

// service is an organisation that runs for one test.
type service struct {
	*Organisation
	faults *faults.Registry
	stop   context.CancelFunc // ends the streams
	roots  *x509.CertPool

	EWSURL, AutodiscoverURL          string
	OnlineURL, OnlineAutodiscoverURL string
	OtherURL, OtherUsername          string
	TokenURL, ClientID, ClientSecret string
	SMTPAddr                         string
	Username, Password               string
}

// SetFault is for the tests that look at its error.
func (s *service) SetFault(name string, f faults.Fault) error { return s.faults.Set(name, f) }

// ClearFault ends a fault.
func (s *service) ClearFault(name string) error { return s.faults.Clear(name) }

// Faults lists what can be set.
func (s *service) Faults() []faults.Info { return s.faults.List() }

// start runs an organisation for one test, with mailboxes dealt to its hosts in turn. Every EWS message that it sends is
// validated against the schema, when all tests are through: xmllint takes longer to read the schema than most tests.
func start(t *testing.T, mailboxes int, o Options) *service {
	t.Helper()
	if o.OnMessage == nil {
		o.OnMessage = collect(t)
	}
	ctx, stop := context.WithCancel(t.Context())
	s := &service{faults: faults.New(slices.Concat(Faults(), entra.Faults())...), stop: stop, Username: ListenerName, Password: "the-right-password", ClientSecret: "the-right-secret"}
	tenant, err := entra.New(entra.Options{
		Domains: []string{Domain, RoutingDomain}, FullAccess: true, PublicClient: true, Consent: true, Key: tenantKey(), Faults: s.faults, Stop: ctx.Done(),
		Secrets: []entra.Secret{{Value: s.ClientSecret}}, Users: []entra.User{{Address: ListenerAddress, Password: s.Password}},
	})
	if err != nil {
		t.Fatal(err)
	}
	o.Password, o.Tokens, o.Faults, o.Closing = s.Password, tenant, s.faults, ctx.Done()
	if s.Organisation, err = New(o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.faults.Close)
	t.Cleanup(stop)
	t.Cleanup(func() {
		for _, x := range s.hosts {
			x.Close()
		}
	})
	s.serve(t, tenant)
	for i := range mailboxes {
		address := fmt.Sprintf("user%04d@%s", i+1, Domain)
		if err := s.AddMailbox(address, s.hosts[i%len(s.hosts)].name); err != nil {
			t.Fatal(err)
		}
		tenant.SetUser(entra.User{Address: address, Password: s.Password})
	}
	return s
}

// tenantKey is made once: an RSA key takes longer than most tests.
var tenantKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

// serve listens for the hosts, the token service and SMTP.
func (s *service) serve(t *testing.T, tenant *entra.Tenant) {
	t.Helper()
	ca, err := authority.New()
	if err != nil {
		t.Fatal(err)
	}
	s.roots = ca.Pool()
	for _, host := range s.hosts {
		certificate, err := ca.Issue()
		if err != nil {
			t.Fatal(err)
		}
		server, l, err := host.Listen(listen(t), certificate)
		if err != nil {
			t.Fatal(err)
		}
		run(t, server, l)
		switch host.Name() {
		case OnPremises:
			s.EWSURL, s.AutodiscoverURL = host.EWSURL(), host.AutodiscoverURL()
		case Online:
			s.OnlineURL, s.OnlineAutodiscoverURL = host.EWSURL(), host.URL()
			tenant.AddResource(host.URL())
		case Other:
			s.OtherURL, s.OtherUsername = host.EWSURL(), ListenerAddress
		}
	}
	certificate, err := ca.Issue()
	if err != nil {
		t.Fatal(err)
	}
	l := listen(t)
	run(t, &http.Server{Handler: tenant}, tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{certificate}}))
	s.ClientID, s.TokenURL = tenant.ClientID(), "https://"+l.Addr().String()+"/"+tenant.ID()+"/oauth2/v2.0/token"
	l = listen(t)
	s.SMTPAddr = l.Addr().String()
	run(t, s.SMTP(), l)
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// run serves until the test is over.
func run(t *testing.T, server interface {
	Serve(l net.Listener) error
	Close() error
}, l net.Listener) {
	if h, ok := server.(*http.Server); ok {
		h.ErrorLog = log.New(io.Discard, "", 0)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		server.Serve(l)
	}()
	t.Cleanup(func() {
		server.Close()
		l.Close() // Close of SMTP misses a listener that Serve has not seen yet
		<-served
	})
}

// collect has the messages of a test validated.
func collect(t *testing.T) func(direction, operation string, envelope []byte) {
	name := strings.NewReplacer("/", "-", " ", "-").Replace(t.Name())
	return func(direction, operation string, envelope []byte) {
		if direction == "response" || operation == "SendNotification" { // else it is of a client
			sent.add(name, envelope)
		}
	}
}

// messages collects the envelopes that the simulator sends, by the test that they came in.
type messages struct {
	mu   sync.Mutex
	list map[string]map[string]bool
}

// sent has those of all tests.
var sent = &messages{list: map[string]map[string]bool{}}

// maxValidated messages of a test.
const maxValidated = 300

func (m *messages) add(test string, envelope []byte) {
	if bytes.Contains(envelope, []byte(":Fault>")) {
		return // outside the schema
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.list[test] == nil {
		m.list[test] = map[string]bool{}
	}
	if len(m.list[test]) < maxValidated {
		m.list[test][string(envelope)] = true
	}
}

var (
	mNotification   = regexp.MustCompile(`<(/?)m:Notification>`)
	mSubscriptionID = regexp.MustCompile(`<(/?)m:SubscriptionId>`)
)

// invalid maps exactly the two elements in which real servers differ from the schema, and returns what xmllint objects to.
func (m *messages) invalid(schemaDir string) (string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	dir, err := os.MkdirTemp("", "ews-messages")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	args := []string{"--noout", "--schema", filepath.Join(schemaDir, "soap.xsd")}
	for test, envelopes := range m.list {
		i := 0
		for e := range envelopes {
			if strings.Contains(e, "<m:GetStreamingEventsResponse ") {
				e = mNotification.ReplaceAllString(e, "<${1}t:Notification>")
				e = mSubscriptionID.ReplaceAllString(e, "<${1}t:SubscriptionId>")
			}
			name := filepath.Join(dir, fmt.Sprintf("%s-%04d.xml", test, i))
			i++
			if err := os.WriteFile(name, []byte(e), 0o600); err != nil {
				return "", err
			}
			args = append(args, name)
		}
	}
	if len(m.list) == 0 {
		return "", nil
	}
	out, err := exec.Command("xmllint", args...).CombinedOutput()
	if err == nil {
		return "", nil
	}
	lines := strings.Split(string(out), "\n")
	lines = slices.DeleteFunc(lines, func(l string) bool { return strings.HasSuffix(l, " validates") })
	return strings.Join(lines[:min(len(lines), 10)], "\n"), nil
}

// soapSchema validates the whole envelope, so that namespaces declared on it hold in the body.
const soapSchema = `<?xml version="1.0"?>
<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema" targetNamespace="` + nsSOAP + `" elementFormDefault="qualified">
<xs:import namespace="http://www.w3.org/XML/1998/namespace" schemaLocation="xml.xsd"/><xs:import namespace="` + nsMessages + `" schemaLocation="messages.xsd"/><xs:import namespace="` + nsTypes + `" schemaLocation="types.xsd"/>
<xs:element name="Envelope"><xs:complexType><xs:sequence>
<xs:element name="Header" minOccurs="0"><xs:complexType><xs:sequence><xs:any processContents="strict" minOccurs="0" maxOccurs="unbounded"/></xs:sequence></xs:complexType></xs:element>
<xs:element name="Body"><xs:complexType><xs:sequence><xs:any processContents="strict"/></xs:sequence></xs:complexType></xs:element>
</xs:sequence></xs:complexType></xs:element></xs:schema>`

// schema returns a directory with the official schema made ready for xmllint, or what is missing for that. The schema is
// looked for where EWS_SCHEMA says.
var schema = sync.OnceValues(func() (dir, missing string) {
	if _, err := exec.LookPath("xmllint"); err != nil {
		return "", "xmllint is not installed (Debian: libxml2-utils)"
	}
	from := os.Getenv("EWS_SCHEMA")
	if from == "" {
		from = filepath.Join("..", "..", "..", "shared", "ews-schema")
	}
	dir, err := os.MkdirTemp("", "ews-schema")
	if err != nil {
		return "", err.Error()
	}
	for _, name := range []string{"messages.xsd", "types.xsd", "xml.xsd"} {
		text, err := os.ReadFile(filepath.Join(from, name))
		if err != nil {
			return "", "the EWS schema is not there (set EWS_SCHEMA): " + err.Error()
		}
		text = bytes.ReplaceAll(text, []byte(`<xs:import namespace="http://www.w3.org/XML/1998/namespace" />`),
			[]byte(`<xs:import namespace="http://www.w3.org/XML/1998/namespace" schemaLocation="xml.xsd"/>`))
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			return "", err.Error()
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "soap.xsd"), []byte(soapSchema), 0o600); err != nil {
		return "", err.Error()
	}
	return dir, ""
})

// ewsClient is a plain client of EWS.
type ewsClient struct {
	t              *testing.T
	s              *service
	http           *http.Client
	user, password string
	mailbox        string // impersonated; empty: none
	sid            string // the element of ConnectingSID
	version        string // RequestServerVersion
	url            string // of EWS
	token          string // in place of user and password
	header         http.Header
}

func newClient(t *testing.T, s *service, mailbox string) *ewsClient {
	t.Helper()
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.roots}}
	t.Cleanup(tr.CloseIdleConnections)
	return &ewsClient{t: t, s: s, http: &http.Client{Transport: tr}, user: s.Username, password: s.Password, mailbox: mailbox,
		sid: "PrimarySmtpAddress", url: s.EWSURL, header: http.Header{}}
}

// onlineClient calls Exchange Online as the app.
func onlineClient(t *testing.T, s *service, mailbox string) *ewsClient {
	t.Helper()
	c := newClient(t, s, mailbox)
	c.url, c.token = s.OnlineURL, accessToken(t, c.http, s, url.Values{"grant_type": {"client_credentials"}, "client_secret": {s.ClientSecret}})
	c.header.Set("X-AnchorMailbox", mailbox)
	return c
}

// otherClient calls the other provider.
func otherClient(t *testing.T, s *service, mailbox string) *ewsClient {
	t.Helper()
	c := newClient(t, s, mailbox)
	c.url, c.user, c.version = s.OtherURL, s.OtherUsername, "Exchange2010_SP1"
	return c
}

// accessToken has Entra ID issue one for Exchange Online.
func accessToken(t *testing.T, client *http.Client, s *service, form url.Values) string {
	t.Helper()
	form.Set("client_id", s.ClientID)
	form.Set("scope", s.OnlineAutodiscoverURL+"/.default")
	resp, err := client.PostForm(s.TokenURL, form)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer struct {
		Token string `json:"access_token"`
		Error string `json:"error_description"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || answer.Token == "" {
		t.Fatalf("no token: %v, %s", err, answer.Error)
	}
	return answer.Token
}

func (c *ewsClient) envelope(body string) string {
	var who string
	if c.mailbox != "" {
		who = `<t:ExchangeImpersonation><t:ConnectingSID><t:` + c.sid + `>` + c.mailbox + `</t:` + c.sid + `></t:ConnectingSID></t:ExchangeImpersonation>`
	}
	version := c.version
	if version == "" {
		version = "Exchange2013_SP1"
	}
	return xmlDeclaration + `<soap:Envelope xmlns:soap="` + nsSOAP + `" xmlns:t="` + nsTypes + `" xmlns:m="` + nsMessages +
		`"><soap:Header><t:RequestServerVersion Version="` + version + `"/>` + who + `</soap:Header><soap:Body>` + body + `</soap:Body></soap:Envelope>`
}

func (c *ewsClient) send(url, body string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(c.t.Context(), http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	req.Header = c.header.Clone()
	req.Header.Set("Content-Type", "text/xml; charset=utf-8")
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	} else {
		req.SetBasicAuth(c.user, c.password)
	}
	return c.http.Do(req)
}

// call sends a SOAP body and returns the whole answer.
func (c *ewsClient) call(body string) (*http.Response, string) {
	c.t.Helper()
	resp, err := c.send(c.url, c.envelope(body))
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return resp, string(text)
}

// must is call for an answer that holds all of want.
func (c *ewsClient) must(body string, want ...string) string {
	c.t.Helper()
	_, text := c.call(body)
	for _, w := range want {
		if !strings.Contains(text, w) {
			c.t.Fatalf("no %q in the answer:\n%s", w, text)
		}
	}
	return text
}

const subscribeNewMail = `<m:Subscribe><m:StreamingSubscriptionRequest><t:FolderIds><t:DistinguishedFolderId Id="inbox"/></t:FolderIds>` +
	`<t:EventTypes><t:EventType>NewMailEvent</t:EventType></t:EventTypes></m:StreamingSubscriptionRequest></m:Subscribe>`

const subscribeAll = `<m:Subscribe><m:StreamingSubscriptionRequest SubscribeToAllFolders="true"><t:EventTypes><t:EventType>NewMailEvent</t:EventType>` +
	`<t:EventType>CreatedEvent</t:EventType><t:EventType>ModifiedEvent</t:EventType><t:EventType>MovedEvent</t:EventType><t:EventType>DeletedEvent</t:EventType>` +
	`</t:EventTypes></m:StreamingSubscriptionRequest></m:Subscribe>`

func (c *ewsClient) subscribe(body string) string {
	c.t.Helper()
	return between(c.t, c.must(body, `ResponseClass="Success"`), "<m:SubscriptionId>", "</m:SubscriptionId>")
}

func between(t *testing.T, s, from, to string) string {
	t.Helper()
	_, s, ok := strings.Cut(s, from)
	s, _, ok2 := strings.Cut(s, to)
	if !ok || !ok2 {
		t.Fatalf("nothing between %q and %q in %q", from, to, s)
	}
	return s
}

func getStreamingEvents(minutes int, ids ...string) string {
	var b strings.Builder
	b.WriteString(`<m:GetStreamingEvents><m:SubscriptionIds>`)
	for _, id := range ids {
		b.WriteString(`<t:SubscriptionId>` + id + `</t:SubscriptionId>`)
	}
	fmt.Fprintf(&b, `</m:SubscriptionIds><m:ConnectionTimeout>%d</m:ConnectionTimeout></m:GetStreamingEvents>`, minutes)
	return b.String()
}

// openStream is a GetStreamingEvents that is being read.
type openStream struct {
	t    *testing.T
	resp *http.Response
	r    *bufio.Reader
}

// stream opens one and reads its first envelope.
func (c *ewsClient) stream(ids ...string) *openStream {
	c.t.Helper()
	resp, err := c.send(c.url, c.envelope(getStreamingEvents(30, ids...)))
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { resp.Body.Close() })
	o := &openStream{c.t, resp, bufio.NewReader(resp.Body)}
	if first := o.next(); !strings.Contains(first, "<m:ConnectionStatus>OK</m:ConnectionStatus>") {
		c.t.Fatalf("the stream did not open: %s", first)
	}
	return o
}

func (o *openStream) read() (string, error) {
	var b strings.Builder
	for {
		part, err := o.r.ReadString('>')
		b.WriteString(part)
		if err != nil || strings.HasSuffix(part, "Envelope>") && strings.HasPrefix(part, "</") {
			return b.String(), err
		}
	}
}

// next reads one envelope.
func (o *openStream) next() string {
	o.t.Helper()
	e, err := o.read()
	if err != nil {
		o.t.Fatalf("stream: %v after %q", err, e)
	}
	return e
}

// until reads envelopes up to one that holds want, past heartbeats.
func (o *openStream) until(want string) string {
	o.t.Helper()
	for {
		if e := o.next(); strings.Contains(e, want) {
			return e
		}
	}
}

func testMail(subject string) []byte {
	return []byte("From: Anna <anna@partner.example>\r\nTo: user0001@contoso.example\r\nSubject: " + subject +
		"\r\nDate: Sun, 22 Nov 2026 10:00:00 +0100\r\nMessage-ID: <" + strings.ReplaceAll(subject, " ", "") + "@partner.example>\r\n\r\nHello there.\r\n")
}

func deliver(t *testing.T, s *service, to, subject string) string {
	t.Helper()
	id, err := s.Deliver(to, time.Time{}, testMail(subject))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func getItem(ids ...string) string {
	s := `<m:GetItem><m:ItemShape><t:BaseShape>IdOnly</t:BaseShape><t:AdditionalProperties>`
	for _, uri := range []string{"item:ParentFolderId", "item:ItemClass", "item:Subject", "item:Sensitivity", "item:DateTimeReceived", "item:DateTimeSent",
		"item:Importance", "item:Preview", "message:From", "message:IsRead", "message:InternetMessageId", "item:ConversationId"} {
		s += `<t:FieldURI FieldURI="` + uri + `"/>`
	}
	s += `</t:AdditionalProperties></m:ItemShape><m:ItemIds>`
	for _, id := range ids {
		s += `<t:ItemId Id="` + id + `"/>`
	}
	return s + `</m:ItemIds></m:GetItem>`
}

func findItem(offset, limit int, order string) string {
	return fmt.Sprintf(`<m:FindItem Traversal="Shallow"><m:ItemShape><t:BaseShape>IdOnly</t:BaseShape><t:AdditionalProperties>`+
		`<t:FieldURI FieldURI="item:Subject"/><t:FieldURI FieldURI="item:DateTimeReceived"/><t:FieldURI FieldURI="message:From"/></t:AdditionalProperties></m:ItemShape>`+
		`<m:IndexedPageItemView MaxEntriesReturned="%d" Offset="%d" BasePoint="Beginning"/><m:SortOrder><t:FieldOrder Order="%s">`+
		`<t:FieldURI FieldURI="item:DateTimeReceived"/></t:FieldOrder></m:SortOrder><m:ParentFolderIds><t:DistinguishedFolderId Id="inbox"/></m:ParentFolderIds></m:FindItem>`,
		limit, offset, order)
}

// waitFor polls a state that has no channel to wait on.
func waitFor(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(soon)
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s did not come within %v", what, soon)
		}
	}
}
