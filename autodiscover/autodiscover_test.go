package autodiscover

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/beevik/etree"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/mailbell/mailbell/auth"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/proxy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// page is what a server of the test answers.
type page struct {
	status   int
	body     string
	location string
	header   http.Header
	err      error
}

// internet is a network of the test: answers by URL, and for one address by "URL address" where that is there. A host that has any
// page answers 404 at its others. It notes what was asked.
type internet struct {
	t   *testing.T
	web map[string]page
	srv []*net.SRV

	mu    sync.Mutex
	asked []string
}

var notFoundErr = &net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", IsNotFound: true}}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func (n *internet) answer(r *http.Request, note, key string) (*http.Response, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.asked = append(n.asked, note)
	p, ok := n.web[key]
	if !ok {
		p, ok = n.web[r.URL.String()]
	}
	if !ok {
		p.err = notFoundErr
		for u := range n.web {
			if strings.HasPrefix(u, r.URL.Scheme+"://"+r.URL.Host+"/") {
				p = page{status: 404}
			}
		}
	}
	if p.err != nil {
		return nil, p.err
	}
	h := p.header.Clone()
	if h == nil {
		h = http.Header{}
	}
	if p.location != "" {
		h.Set("Location", p.location)
	}
	if p.status == 0 {
		p.status = 200
	}
	return &http.Response{StatusCode: p.status, Header: h, Request: r, Body: io.NopCloser(strings.NewReader(p.body))}, nil
}

func (n *internet) LookupSRV(_ context.Context, service, proto, name string) (string, []*net.SRV, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.asked = append(n.asked, "SRV _"+service+"._"+proto+"."+name)
	if n.srv == nil {
		return "", nil, &net.DNSError{Err: "no such host", IsNotFound: true}
	}
	return "", n.srv, nil
}

// mailDomains are those of the tests' entry.
var mailDomains = []string{"contoso.com", "fabrikam.com", "contoso.co.uk", "mail.contoso.co.uk", "contoso.example"}

// RoundTrip is that of the authorised: it takes nothing but the two questions, over https, and not at a bare mail domain.
func (n *internet) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != "https" || r.Method != http.MethodPost || r.Header.Get("Authorization") != "" || slices.Contains(mailDomains, r.URL.Host) {
		n.t.Errorf("credentials go to %s %s %v", r.Method, r.URL, r.Header)
	}
	return n.question(r)
}

// question answers one of the two questions.
func (n *internet) question(r *http.Request) (*http.Response, error) {
	doc := etree.NewDocument()
	if _, err := doc.ReadFrom(r.Body); err != nil {
		n.t.Error(err)
	}
	if e := doc.FindElement("/Autodiscover/Request/EMailAddress"); e != nil {
		return n.answer(r, "POX "+r.URL.String()+" "+e.Text(), r.URL.String()+" "+e.Text())
	}
	users := usersOf(doc)
	return n.answer(r, "SOAP "+r.URL.String()+" "+users[0], r.URL.String()+" "+users[0])
}

// usersOf returns whom a GetUserSettings is about.
func usersOf(doc *etree.Document) (users []string) {
	for _, e := range doc.FindElements("/Envelope/Body/GetUserSettingsRequestMessage/Request/Users/User/Mailbox") {
		users = append(users, e.Text())
	}
	return users
}

func (n *internet) client(o Options) *Client {
	o.HTTP = n
	if o.Hosts.Domains == nil {
		o.Hosts.Domains = mailDomains
	}
	o.Hosts.URLs = []string{o.URL}
	if o.Online {
		o.Hosts.Online, o.Hosts.URLs = true, []string{o.Cloud, o.EWS}
	}
	o.Plain = roundTrip(func(r *http.Request) (*http.Response, error) {
		if r.Method == http.MethodPost && slices.Contains(mailDomains, r.URL.Host) {
			return n.question(r)
		}
		if r.Method != http.MethodGet || r.Header.Get("Authorization") != "" {
			n.t.Errorf("plain: %s %v", r.Method, r.Header)
		}
		return n.answer(r, "GET "+r.URL.String(), "")
	})
	o.Resolver, o.Entry = n, "headquarters"
	return New(o)
}

// find asks for user@contoso.com.
func (n *internet) find(o Options) (mail.Location, error) {
	return n.client(o).Find(n.t.Context(), "User@Contoso.com")
}

// settings is an answer with an EWS URL.
func settings(ews string) string {
	return pox(`<User><AutoDiscoverSMTPAddress>Primary@contoso.com</AutoDiscoverSMTPAddress></User><Account><Action>settings</Action>` +
		`<Protocol><Type>EXPR</Type><EwsUrl>` + ews + `</EwsUrl><GroupingInformation>Default-First-Site-Name</GroupingInformation></Protocol></Account>`)
}

func pox(response string) string {
	return `<?xml version="1.0" encoding="utf-8"?><Autodiscover xmlns="http://schemas.microsoft.com/exchange/autodiscover/responseschema/2006">` +
		`<Response xmlns="http://schemas.microsoft.com/exchange/autodiscover/outlook/responseschema/2006a">` + response + `</Response></Autodiscover>`
}

func redirectAddr(to string) string {
	return pox(`<Account><Action>redirectAddr</Action><RedirectAddr>` + to + `</RedirectAddr></Account>`)
}

func redirectURL(to string) string {
	return pox(`<Account><Action>redirectUrl</Action><RedirectUrl>` + to + `</RedirectUrl></Account>`)
}

func poxError(code string) string {
	return pox(`<Error Time="21:25:04" Id="1"><ErrorCode>` + code + `</ErrorCode><Message>text of
the server</Message><DebugData/></Error>`)
}

// imap is what the machine of a web hoster answers for every address, without a password.
var imap = pox(`<Account><AccountType>email</AccountType><Action>settings</Action>` +
	`<Protocol><Type>IMAP</Type><Server>mail.hoster.example</Server><Port>993</Port></Protocol></Account>`)

const (
	www     = "https://www.contoso.com/autodiscover/autodiscover.xml"
	bare    = "https://contoso.com/autodiscover/autodiscover.xml"
	named   = "https://autodiscover.contoso.com/autodiscover/autodiscover.xml"
	plain   = "http://autodiscover.contoso.com/autodiscover/autodiscover.xml"
	mailURL = "https://mail.contoso.com/EWS/Exchange.asmx"
	user    = " user@contoso.com"
	srvName = "SRV _autodiscover._tcp.contoso.com"

	bareSOAP  = "https://contoso.com/autodiscover/autodiscover.svc"
	namedSOAP = "https://autodiscover.contoso.com/autodiscover/autodiscover.svc"
)

// both is SOAP and then POX at a host.
func both(host string) []string {
	return []string{"SOAP https://" + host + "/autodiscover/autodiscover.svc" + user, "POX https://" + host + "/autodiscover/autodiscover.xml" + user}
}

func TestCandidatesAreAskedInTheirOrderUntilOneAnswers(t *testing.T) {
	good := page{body: settings(mailURL)}
	soapGood := page{body: soap(userSettings(mailURL))}
	one, other := both("contoso.com"), both("autodiscover.contoso.com")
	for name, c := range map[string]struct {
		web   map[string]page
		srv   []*net.SRV
		asked []string
		how   string
	}{
		"autodiscover.":         {map[string]page{namedSOAP: soapGood, named: good}, nil, slices.Concat(one[:1], other[:1]), "Autodiscover (SOAP) at autodiscover.contoso.com (EWS up to Exchange2013)"},
		"autodiscover., POX":    {map[string]page{named: good}, nil, slices.Concat(one[:1], other), "Autodiscover (POX) at autodiscover.contoso.com"},
		"SOAP not allowed":      {map[string]page{namedSOAP: {status: 405}, named: good}, nil, slices.Concat(one[:1], other), "Autodiscover (POX) at autodiscover.contoso.com"},
		"SOAP not published":    {map[string]page{namedSOAP: {status: 403}, named: good}, nil, slices.Concat(one[:1], other), "Autodiscover (POX) at autodiscover.contoso.com"},
		"SOAP fails":            {map[string]page{namedSOAP: {status: 500}, named: good}, nil, slices.Concat(one[:1], other), "Autodiscover (POX) at autodiscover.contoso.com"},
		"SOAP is a web site":    {map[string]page{namedSOAP: {body: "<html></html>"}, named: good}, nil, slices.Concat(one[:1], other), "Autodiscover (POX) at autodiscover.contoso.com"},
		"SOAP is cut":           {map[string]page{namedSOAP: {body: "<Envelope>"}, named: good}, nil, slices.Concat(one[:1], other), "Autodiscover (POX) at autodiscover.contoso.com"},
		"SOAP knows fewer":      {map[string]page{namedSOAP: {body: soap(userError("InvalidSetting"))}, named: good}, nil, slices.Concat(one[:1], other), "Autodiscover (POX) at autodiscover.contoso.com"},
		"SOAP is too old":       {map[string]page{namedSOAP: {body: soapError("InvalidRequest")}, named: good}, nil, slices.Concat(one[:1], other), "Autodiscover (POX) at autodiscover.contoso.com"},
		"a web site before":     {map[string]page{bareSOAP: {body: "<!DOCTYPE html><html>"}, bare: {body: "<!DOCTYPE html><html>"}, named: good}, nil, slices.Concat(one, other), "Autodiscover (POX) at autodiscover.contoso.com"},
		"404 before":            {map[string]page{bare: {status: 404}, named: good}, nil, slices.Concat(one, other), "Autodiscover (POX) at autodiscover.contoso.com"},
		"401 before":            {map[string]page{bareSOAP: {status: 401}, bare: good, namedSOAP: soapGood}, nil, slices.Concat(one[:1], other[:1]), "Autodiscover (SOAP) at autodiscover.contoso.com (EWS up to Exchange2013)"},
		"401 before, POX":       {map[string]page{bare: {status: 401}, named: good}, nil, slices.Concat(one, other), "Autodiscover (POX) at autodiscover.contoso.com"},
		"503 before":            {map[string]page{bareSOAP: {status: 503}, bare: good, named: good}, nil, slices.Concat(one[:1], other), "Autodiscover (POX) at autodiscover.contoso.com"},
		"an unreachable before": {map[string]page{bareSOAP: {err: context.DeadlineExceeded}, bare: good, named: good}, nil, slices.Concat(one[:1], other), "Autodiscover (POX) at autodiscover.contoso.com"},
		"a bad certificate before": {map[string]page{bareSOAP: {err: &tls.CertificateVerificationError{Err: x509.HostnameError{Certificate: &x509.Certificate{}, Host: "contoso.com"}}}, bare: good, named: good}, nil,
			slices.Concat(one[:1], other), "Autodiscover (POX) at autodiscover.contoso.com"},
		"an unknown address before":      {map[string]page{bareSOAP: {body: soap(userError("InvalidUser"))}, bare: good, namedSOAP: soapGood}, nil, slices.Concat(one[:1], other[:1]), "Autodiscover (SOAP) at autodiscover.contoso.com (EWS up to Exchange2013)"},
		"an unknown address before, POX": {map[string]page{bare: {body: poxError("500")}, named: good}, nil, slices.Concat(one, other), "Autodiscover (POX) at autodiscover.contoso.com"},
		"the plain redirect": {map[string]page{plain: {status: 302, location: "https://mail.contoso.com/autodiscover/autodiscover.xml"}, "https://mail.contoso.com/autodiscover/autodiscover.svc": soapGood}, nil,
			slices.Concat(one[:1], other[:1], []string{"GET " + plain}, both("mail.contoso.com")[:1]), "Autodiscover (SOAP) at mail.contoso.com (EWS up to Exchange2013)"},
		"SRV, the lowest priority first": {map[string]page{"https://b.contoso.com/autodiscover/autodiscover.xml": good},
			[]*net.SRV{{Target: "c.contoso.com.", Port: 443, Priority: 20}, {Target: "d.contoso.com.", Port: 8443, Priority: 0}, {Target: "a.contoso.com.", Port: 443, Priority: 5}, {Target: "b.contoso.com.", Port: 443, Priority: 10}},
			slices.Concat(one[:1], other[:1], []string{"GET " + plain, srvName}, both("a.contoso.com")[:1], both("b.contoso.com")), "Autodiscover (POX) at b.contoso.com"},
	} {
		n := &internet{t: t, web: c.web, srv: c.srv}
		p, err := n.find(Options{})
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(c.asked, n.asked); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		want := mail.Location{Entry: "headquarters", URL: mailURL, Group: "Default-First-Site-Name", Primary: "primary@contoso.com", How: c.how, Found: p.Found}
		if diff := cmp.Diff(want, p); diff != "" || time.Since(p.Found) > time.Minute {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestRedirectsAreFollowed(t *testing.T) {
	other := "https://ad.partner.example/autodiscover/autodiscover.xml"
	for name, web := range map[string]map[string]page{
		"HTTP 302 of a candidate":     {bare: {status: 302, location: "https://mail.contoso.com/x"}, "https://mail.contoso.com/x": {body: settings(mailURL)}},
		"HTTP 307, a relative URL":    {named: {status: 307, location: "/x"}, "https://autodiscover.contoso.com/x": {body: settings(mailURL)}},
		"redirectUrl":                 {bare: {body: redirectURL("https://mail.contoso.com/x?a=1&amp;b=2")}, "https://mail.contoso.com/x?a=1&b=2": {body: settings(mailURL)}},
		"redirectAddr, same domain":   {named + user: {body: redirectAddr("Other@contoso.com")}, named + " other@contoso.com": {body: settings(mailURL)}},
		"HTTP 302 of SOAP":            {bareSOAP: {status: 302, location: "https://mail.contoso.com/x"}, "https://mail.contoso.com/x": {body: soap(userSettings(mailURL))}},
		"HTTP 302 of SOAP to POX":     {bareSOAP: {status: 302, location: named}, named: {body: settings(mailURL)}},
		"RedirectUrl":                 {bareSOAP: {body: soap(userRedirect("RedirectUrl", "https://mail.contoso.com/autodiscover/Autodiscover.svc"))}, "https://mail.contoso.com/autodiscover/Autodiscover.svc": {body: soap(userSettings(mailURL))}},
		"RedirectAddress":             {namedSOAP + user: {body: soap(userRedirect("RedirectAddress", "Other@contoso.com"))}, namedSOAP + " other@contoso.com": {body: soap(userSettings(mailURL))}},
		"redirectAddr to a subdomain": {named: {body: redirectAddr("other@eu.contoso.com")}, "https://autodiscover.eu.contoso.com/autodiscover/autodiscover.xml": {body: settings(mailURL)}},
		"redirectAddr to another":     {named: {body: redirectAddr("user@partner.example")}, "http://autodiscover.partner.example/autodiscover/autodiscover.xml": {status: 302, location: other}, other: {body: settings("https://mail.partner.example/EWS/Exchange.asmx")}},
	} {
		n := &internet{t: t, web: web}
		p, err := n.find(Options{Hosts: auth.Hosts{Trusted: []string{"ad.partner.example", "mail.partner.example"}}})
		if err != nil || p.URL == "" || p.Primary != "primary@contoso.com" {
			t.Errorf("%s: %+v, %v\n%q", name, p, err, n.asked)
		}
	}
}

func TestARedirectToNowhereIsNoAnswer(t *testing.T) {
	n := &internet{t: t, web: map[string]page{bare: {body: redirectURL("")}, named: {body: settings(mailURL)}}}
	if p, err := n.find(Options{}); err != nil || p.URL != mailURL {
		t.Errorf("%+v, %v", p, err)
	}
}

func TestAConfiguredURLIsTheOnlyCandidateOfItsDomain(t *testing.T) {
	const configured = "https://exchange.corp.example/autodiscover/autodiscover.xml"
	n := &internet{t: t, web: map[string]page{configured: {body: settings("https://exchange.corp.example/EWS/Exchange.asmx")}}}
	if p, err := n.find(Options{URL: configured}); err != nil || p.URL != "https://exchange.corp.example/EWS/Exchange.asmx" || !slices.Equal(n.asked, both("exchange.corp.example")) {
		t.Errorf("%+v, %v, %q", p, err, n.asked)
	}
	n = &internet{t: t, web: map[string]page{configured: {status: 404}, bare: {body: settings(mailURL)}}}
	if _, err := n.find(Options{URL: configured}); fault.Of(err).Code != CodeNowhere || !slices.Equal(n.asked, both("exchange.corp.example")) ||
		!strings.Contains(err.Error(), "nothing at autodiscover_url is Autodiscover") {
		t.Errorf("%v, %q", err, n.asked)
	}
	n = &internet{t: t, web: map[string]page{"https://exchange.corp.example/x": {body: settings("https://exchange.corp.example/EWS/Exchange.asmx")}}}
	if p, err := n.find(Options{URL: "https://exchange.corp.example/x"}); err != nil || p.URL == "" || len(n.asked) != 1 {
		t.Errorf("a name of its own: %+v, %v, %q", p, err, n.asked)
	}
	n = &internet{t: t, web: map[string]page{configured + user: {body: redirectAddr("user@eu.contoso.com")}, configured + " user@eu.contoso.com": {body: poxError("500")},
		"https://eu.contoso.com/autodiscover/autodiscover.xml": {body: settings(mailURL)}}}
	if p, err := n.find(Options{URL: configured}); err != nil || p.URL != mailURL {
		t.Errorf("redirected to another domain: %+v, %v, %q", p, err, n.asked)
	}
}

func TestCredentialsGoNowhereElse(t *testing.T) {
	evil := "https://autodiscover.evil.example/autodiscover/autodiscover.xml"
	answered := page{body: settings(mailURL)}
	for name, web := range map[string]map[string]page{
		"HTTP 302":                        {bare: {status: 302, location: evil}, evil: answered},
		"HTTP 302 to http":                {bare: {status: 302, location: "http://mail.contoso.com/x"}, "http://mail.contoso.com/x": answered},
		"the plain redirect":              {plain: {status: 302, location: evil}, evil: answered},
		"the plain redirect to http":      {plain: {status: 302, location: "http://mail.contoso.com/x"}, "http://mail.contoso.com/x": answered},
		"redirectUrl":                     {bare: {body: redirectURL(evil)}, evil: answered},
		"redirectUrl with a user":         {bare: {body: redirectURL("https://contoso.com@evil.example/")}, "https://evil.example/": answered},
		"a name that only ends alike":     {bare: {body: redirectURL("https://evilcontoso.com/")}, "https://evilcontoso.com/": answered},
		"redirectAddr":                    {named: {body: redirectAddr("user@evil.example")}, "https://evil.example/autodiscover/autodiscover.xml": answered, evil: answered},
		"redirectAddr, its plain":         {named: {body: redirectAddr("user@evil.example")}, "http://autodiscover.evil.example/autodiscover/autodiscover.xml": {status: 302, location: evil}, evil: answered},
		"HTTP 302 of SOAP":                {bareSOAP: {status: 302, location: evil}, evil: answered},
		"RedirectUrl":                     {bareSOAP: {body: soap(userRedirect("RedirectUrl", evil))}, evil: answered},
		"RedirectUrl to http":             {bareSOAP: {body: soap(userRedirect("RedirectUrl", "http://contoso.com/x"))}, "http://contoso.com/x": answered},
		"RedirectAddress":                 {namedSOAP: {body: soap(userRedirect("RedirectAddress", "user@evil.example"))}, evil: answered},
		"an EWS URL elsewhere, SOAP":      {namedSOAP: {body: soap(userSettings("https://mail.evil.example/EWS/Exchange.asmx"))}},
		"an EWS URL over http, SOAP":      {namedSOAP: {body: soap(userSettings("http://mail.contoso.com/EWS/Exchange.asmx"))}},
		"a private address":               {bare: {body: redirectURL("https://10.0.0.1/autodiscover/autodiscover.xml")}, "https://10.0.0.1/autodiscover/autodiscover.xml": answered},
		"the domain above":                {named: {body: redirectAddr("user@example")}, evil: answered},
		"an EWS URL elsewhere":            {named: {body: settings("https://mail.evil.example/EWS/Exchange.asmx")}},
		"an EWS URL over http":            {named: {body: settings("http://mail.contoso.com/EWS/Exchange.asmx")}},
		"an EWS URL with a user":          {named: {body: settings("https://a:b@mail.contoso.com/EWS/Exchange.asmx")}},
		"an EWS URL that is none":         {named: {body: settings("https://%zz/")}},
		"a cloud's name within a longer":  {named: {body: settings("https://outlook.office365.com.evil.example/")}},
		"an address that is none":         {named: {body: redirectAddr("evil.example")}, evil: answered},
		"a URL that names no host at all": {bare: {body: redirectURL("https:///x")}},
	} {
		n := &internet{t: t, web: web}
		p, err := n.find(Options{})
		for _, a := range n.asked {
			if _, to, ok := strings.Cut(a, "https://"); ok && !strings.HasPrefix(to, "contoso.com/") && !strings.HasPrefix(to, "autodiscover.contoso.com/") {
				t.Errorf("%s: %s", name, a)
			}
		}
		if e := fault.Of(err); err == nil || p.URL != "" || e.Code == "unknown" {
			t.Errorf("%s: %+v, %v", name, p, err)
		} else if strings.Contains(name, "evil") && !strings.Contains(e.Error(), "trusted_hosts") {
			t.Errorf("%s: %v", name, err)
		}
	}
	n := &internet{t: t, srv: []*net.SRV{{Target: "autodiscover.evil.example.", Port: 443}}, web: map[string]page{evil: answered}}
	_, err := n.find(Options{})
	if e := fault.Of(err); e.Code != CodeHost || e.Remedy != fault.Fix || e.Scope != fault.Mailbox || !strings.Contains(e.Text, `"autodiscover.evil.example"`) || !strings.Contains(e.Text, "trusted_hosts") {
		t.Errorf("SRV: %v", err)
	}
	n = &internet{t: t, srv: n.srv, web: map[string]page{evil: {body: settings("https://EWS.partner.example/x")}}}
	if p, err := n.find(Options{Hosts: auth.Hosts{Trusted: []string{"Autodiscover.evil.example", "ews.partner.example"}}}); err != nil || p.URL != "https://EWS.partner.example/x" {
		t.Errorf("trusted: %+v, %v", p, err)
	}
}

func TestThePasswordOfAnEntryOnPremisesGoesToNoCloud(t *testing.T) {
	online := page{body: settings("https://outlook.office365.com/EWS/Exchange.asmx")}
	for name, web := range map[string]map[string]page{
		"HTTP 302":     {bare: {status: 302, location: cloud + "/x"}, cloud + "/x": online},
		"redirectAddr": {named: {body: redirectAddr("user@t.mail.onmicrosoft.com")}}, // a firewall lets no http out
		"its redirect": {named: {body: redirectAddr("user@partner.example")}, "http://autodiscover.partner.example/autodiscover/autodiscover.xml": {status: 302, location: cloud + "/x"}, cloud + "/x": online},
		"a URL of EWS": {named: online},
	} {
		n := &internet{t: t, web: web}
		_, err := n.find(Options{})
		if e := fault.Of(err); e.Code != CodeHost || !e.Elsewhere || !strings.Contains(e.Text, "type online") {
			t.Errorf("%s: %v", name, err)
		}
		if slices.ContainsFunc(n.asked, func(a string) bool { return strings.Contains(a, cloud) || strings.Contains(a, "onmicrosoft") }) {
			t.Errorf("%s: asked %q", name, n.asked)
		}
	}
}

func TestTheBareMailDomainIsAskedWithoutThePassword(t *testing.T) {
	asks := page{status: 401, header: http.Header{"Www-Authenticate": {`Basic realm="x"`}, "X-Feserver": {"EX01"}}}
	n := &internet{t: t, web: map[string]page{bareSOAP: asks, bare: asks}} // which sees to it that no credential goes there
	_, err := n.find(Options{})
	if e := fault.Of(err); e.Code != auth.CodeUntrusted || e.Scope != fault.Mailbox || !strings.Contains(e.Text, "contoso.com") ||
		!strings.Contains(e.Text, "autodiscover_url") || !strings.Contains(e.Text, "trusted_hosts") {
		t.Errorf("%v", err)
	}
	n.web[namedSOAP] = page{body: soap(userSettings(mailURL))}
	if p, err := n.find(Options{}); err != nil || p.URL != mailURL {
		t.Errorf("%+v, %v", p, err)
	}
	n.web = map[string]page{namedSOAP: {body: soap(userSettings("https://contoso.com/EWS/Exchange.asmx"))}}
	if _, err := n.find(Options{}); fault.Of(err).Code != CodeHost || !strings.Contains(err.Error(), "trusted_hosts") {
		t.Errorf("EWS there: %v", err)
	}
	for _, status := range []int{403, 404} {
		n.web = map[string]page{bareSOAP: {status: status}, bare: {status: status}}
		if _, err := n.find(Options{}); fault.Of(err).Scope != fault.Server {
			t.Errorf("a web site's %d: %v", status, err)
		}
	}
}

func TestWhoIsAskedWithoutThePasswordDecidesNotWhoseMailIsRead(t *testing.T) {
	ceo := func(answer string) string { return strings.ReplaceAll(answer, "Primary@", "ceo@") }
	const below = "https://mail.contoso.co.uk/autodiscover/autodiscover"
	for name, c := range map[string]struct {
		web map[string]page
		at  string // who answers, with the password
	}{
		"settings by SOAP":        {map[string]page{bareSOAP: {body: ceo(soap(userSettings(mailURL)))}}, "contoso.com"},
		"settings by POX":         {map[string]page{bare: {body: ceo(settings(mailURL))}}, "contoso.com"},
		"another address by SOAP": {map[string]page{bareSOAP + user: {body: soap(userRedirect("RedirectAddress", "ceo@contoso.com"))}}, "contoso.com"},
		"another address by POX":  {map[string]page{bare + user: {body: redirectAddr("ceo@contoso.com")}}, "contoso.com"},
		"another mail domain below this one": {map[string]page{
			"https://autodiscover.contoso.co.uk/autodiscover/autodiscover.xml": {body: redirectAddr("user@mail.contoso.co.uk")},
			below + ".svc": {body: ceo(soap(userSettings("https://ews.contoso.co.uk/EWS")))}, below + ".xml": {body: ceo(settings("https://ews.contoso.co.uk/EWS"))},
		}, "mail.contoso.co.uk"},
	} {
		n := &internet{t: t, web: c.web}
		address := "user@" + strings.TrimPrefix(c.at, "mail.")
		_, err := n.client(Options{}).Find(t.Context(), address)
		if e := fault.Of(err); e.Code != CodeNowhere || !strings.Contains(e.Text, "//"+c.at+"/autodiscover/autodiscover.") || !strings.Contains(e.Text, codeOpen) {
			t.Errorf("%s: %v", name, err)
		}
		c.web["https://autodiscover."+c.at+"/autodiscover/autodiscover.svc"] = page{body: soap(userSettings("https://autodiscover." + c.at + "/EWS"))}
		client := n.client(Options{})
		for range 2 {
			if p, err := client.Find(t.Context(), address); err != nil || p.Primary != "primary@contoso.com" || p.URL != "https://autodiscover."+c.at+"/EWS" {
				t.Errorf("%s: %+v, %v", name, p, err)
			}
		}
		if last := n.asked[len(n.asked)-1]; strings.Contains(last, "//"+c.at+"/") || slices.ContainsFunc(n.asked, func(a string) bool { return strings.Contains(a, "ceo@") }) {
			t.Errorf("%s: asked %q", name, n.asked)
		}
	}
}

func TestABareMailDomainThatIsConfiguredGetsThePassword(t *testing.T) {
	for name, o := range map[string]Options{
		"autodiscover_url": {URL: bare, Hosts: auth.Hosts{Domains: []string{"contoso.com"}}},
		"trusted_hosts":    {Hosts: auth.Hosts{Domains: []string{"contoso.com"}, Trusted: []string{"contoso.com"}}},
	} {
		asked := 0
		o.HTTP = roundTrip(func(r *http.Request) (*http.Response, error) {
			asked++
			return &http.Response{StatusCode: 200, Request: r, Body: io.NopCloser(strings.NewReader(soap(userSettings(mailURL))))}, nil
		})
		o.Hosts.URLs = []string{o.URL}
		if _, err := New(o).Find(t.Context(), "user@contoso.com"); err != nil || asked != 1 {
			t.Errorf("%s: %v, asked %d times", name, err, asked)
		}
	}
}

func TestARedirectInACircleEnds(t *testing.T) {
	many := map[string]page{bare: {status: 302, location: "https://contoso.com/0"}}
	addresses := map[string]page{named + user: {body: redirectAddr("a0@contoso.com")}}
	for i := range 30 {
		a, b := strconv.Itoa(i), strconv.Itoa(i+1)
		many["https://contoso.com/"+a] = page{status: 302, location: "https://contoso.com/" + b}
		addresses[named+" a"+a+"@contoso.com"] = page{body: redirectAddr("a" + b + "@contoso.com")}
	}
	for name, web := range map[string]map[string]page{
		"URL to itself":       {bare: {status: 302, location: bare}},
		"two URLs":            {bare: {status: 302, location: named}, named: {body: redirectURL(bare)}},
		"SOAP to itself":      {bareSOAP: {body: soap(userRedirect("RedirectUrl", bareSOAP))}},
		"SOAP and POX":        {bareSOAP: {body: soap(userRedirect("RedirectUrl", bare))}, bare: {body: redirectURL(bareSOAP)}},
		"SOAP's addresses":    {namedSOAP + user: {body: soap(userRedirect("RedirectAddress", "b@contoso.com"))}, namedSOAP + " b@contoso.com": {body: soap(userRedirect("RedirectAddress", "user@contoso.com"))}},
		"address to itself":   {named: {body: redirectAddr("USER@contoso.com")}},
		"two addresses":       {named + user: {body: redirectAddr("b@contoso.com")}, named + " b@contoso.com": {body: redirectAddr("user@contoso.com")}},
		"ever new URLs":       many,
		"ever new addresses":  addresses,
		"plain, then circles": {plain: {status: 301, location: "https://contoso.com/x"}, "https://contoso.com/x": {status: 302, location: "https://contoso.com/x"}},
	} {
		n := &internet{t: t, web: web}
		_, err := n.find(Options{})
		if e := fault.Of(err); e.Code != CodeLoop || e.Scope != fault.Mailbox || e.Remedy != fault.Fix || len(n.asked) > 25 {
			t.Errorf("%s: %v, %d questions", name, err, len(n.asked))
		}
	}
}

func TestTheFailureThatSaysMostIsReported(t *testing.T) {
	cert := page{err: &tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}, UnverifiedCertificates: []*x509.Certificate{{DNSNames: []string{"mail.contoso.com"}}}}}
	timeout := page{err: context.DeadlineExceeded}
	moved := page{status: 301, location: "https://www.group.example/"}
	for name, c := range map[string]struct {
		web    map[string]page
		code   string
		scope  fault.Scope
		remedy fault.Remedy
	}{
		"unknown mailbox":            {map[string]page{bare: {status: 401}, named: {body: poxError("500")}}, "ErrorCode 500", fault.Mailbox, fault.Fix},
		"unknown to a web hoster":    {map[string]page{bare: {body: poxError("500")}, named: {status: 401}}, "HTTP 401", fault.Account, fault.Fix},
		"a site that moved":          {map[string]page{bareSOAP: moved, named: {status: 503}}, "HTTP 503", fault.Server, fault.Wait},
		"a site that moved, and 401": {map[string]page{plain: moved, named: {status: 401}}, "HTTP 401", fault.Account, fault.Fix},
		"a web hoster's password":    {map[string]page{bare: {status: 401}, named: {status: 503}}, "HTTP 503", fault.Server, fault.Wait},
		"mail of a web hoster":       {map[string]page{bare: {body: imap}, named: {status: 503}}, "HTTP 503", fault.Server, fault.Wait},
		"mail below the mail domain": {map[string]page{bare: {status: 301, location: www}, www: {body: imap}, named: {status: 401}}, "HTTP 401", fault.Account, fault.Fix},
		"unknown user, in words":     {map[string]page{bare: {body: poxError("InvalidUser")}}, "ErrorCode InvalidUser", fault.Mailbox, fault.Fix},
		"no settings":                {map[string]page{named: {body: poxError("602")}}, "ErrorCode 602", fault.Mailbox, fault.Fix},
		"a bad request":              {map[string]page{named: {body: poxError("600")}}, "ErrorCode 600", fault.Server, fault.Fix},
		"an error of the server":     {map[string]page{named: {body: poxError("603")}}, "ErrorCode 603", fault.Server, fault.Wait},
		"401 everywhere":             {map[string]page{bare: {status: 401}, named: {status: 401}}, "HTTP 401", fault.Account, fault.Fix},
		"401 and a web site":         {map[string]page{bare: {status: 404}, named: {status: 401}}, "HTTP 401", fault.Account, fault.Fix},
		"503":                        {map[string]page{named: {status: 503}}, "HTTP 503", fault.Server, fault.Wait},
		"403":                        {map[string]page{named: {status: 403}}, "HTTP 403", fault.Account, fault.Fix},
		"unknown mailbox, SOAP":      {map[string]page{bareSOAP: {body: soap(userError("InvalidUser"))}}, "ErrorCode InvalidUser", fault.Mailbox, fault.Fix},
		"unknown domain, SOAP":       {map[string]page{bareSOAP: {body: soap(userError("InvalidDomain"))}}, "ErrorCode InvalidDomain", fault.Mailbox, fault.Fix},
		"busy, SOAP":                 {map[string]page{bareSOAP: {body: soapError("ServerBusy")}}, "ErrorCode ServerBusy", fault.Server, fault.Wait},
		"busy for the user, SOAP":    {map[string]page{bareSOAP: {body: soap(userError("ServerBusy"))}}, "ErrorCode ServerBusy", fault.Server, fault.Wait},
		"an error of SOAP's server":  {map[string]page{bareSOAP: {body: soap(userError("InternalServerError"))}}, "ErrorCode InternalServerError", fault.Server, fault.Wait},
		"a SOAP fault":               {map[string]page{bareSOAP: {status: 500, body: soapFault}}, CodeFault, fault.Server, fault.Wait},
		"no EWS, SOAP":               {map[string]page{bareSOAP: {body: soap(userSettings(""))}}, CodeNoURL, fault.Mailbox, fault.Fix},
		"nobody answered for":        {map[string]page{bareSOAP: {body: soap()}}, CodeUnread, fault.Server, fault.Wait},
		"two answered for":           {map[string]page{bareSOAP: {body: soap(userSettings(mailURL), userSettings(mailURL))}}, CodeUnread, fault.Server, fault.Wait},
		"a bad certificate":          {map[string]page{bareSOAP: timeout, namedSOAP: cert}, "certificate", fault.Server, fault.Fix},
		"no answer":                  {map[string]page{bareSOAP: cert, namedSOAP: timeout}, "timeout", fault.Server, fault.Wait},
		"nothing":                    {nil, CodeNowhere, fault.Server, fault.Wait},
		"web sites":                  {map[string]page{bare: {body: "<html></html>"}, named: {body: "hello"}, plain: {body: "x"}}, CodeNowhere, fault.Server, fault.Wait},
		"a broken answer":            {map[string]page{named: {body: "<Autodiscover>"}}, CodeUnread, fault.Server, fault.Wait},
		"an answer beyond the bound": {map[string]page{named: {body: "<Autodiscover>" + strings.Repeat(" ", 1<<20)}}, CodeUnread, fault.Server, fault.Wait},
		"no EWS":                     {map[string]page{named: {body: pox(`<Account><Action>settings</Action></Account>`)}}, CodeNoURL, fault.Mailbox, fault.Fix},
		"an unknown action":          {map[string]page{named: {body: pox(`<Account><Action>dance</Action></Account>`)}}, CodeUnread, fault.Server, fault.Wait},
	} {
		n := &internet{t: t, web: c.web}
		_, err := n.find(Options{})
		e, ok := errors.AsType[*fault.Error](err)
		if !ok || e.Code != c.code || e.Scope != c.scope || e.Remedy != c.remedy || e.Text == "" || strings.ContainsAny(err.Error(), "\n") {
			t.Errorf("%s: %v", name, err)
		}
		if unknown := c.scope == fault.Mailbox && c.code != CodeNoURL && c.code != "ErrorCode 602"; ok && e.Elsewhere != unknown {
			t.Errorf("%s: elsewhere is %v", name, e.Elsewhere)
		}
		if !strings.Contains(err.Error(), srvName[4:]) {
			t.Errorf("%s: what was asked is not told: %v", name, err)
		}
	}
}

func TestThePauseThatAServerAsksForIsKept(t *testing.T) {
	asking := func(status int, pause string) page {
		return page{status: status, header: http.Header{"Retry-After": {pause}}}
	}
	for name, c := range map[string]struct {
		web  map[string]page
		want time.Duration
	}{
		"503":                   {map[string]page{namedSOAP: asking(503, "120")}, 2 * time.Minute},
		"429":                   {map[string]page{namedSOAP: asking(404, "7"), named: asking(429, "120")}, 2 * time.Minute},
		"a web site for days":   {map[string]page{bareSOAP: asking(503, "172800")}, 10 * time.Minute},
		"none":                  {map[string]page{namedSOAP: {status: 503}}, 0},
		"a refusal is no pause": {map[string]page{namedSOAP: asking(401, "120")}, 0},
	} {
		n := &internet{t: t, web: c.web}
		if _, err := n.find(Options{}); err == nil || fault.Of(err).After != c.want {
			t.Errorf("%s: %v, after %v", name, err, fault.Of(err).After)
		}
	}
	n := &internet{t: t, web: map[string]page{cloudV2: asking(429, "120")}}
	if _, err := n.findOnline(Options{}); fault.Of(err).After != 2*time.Minute {
		t.Errorf("in the cloud: %v, after %v", err, fault.Of(err).After)
	}
}

func TestAWebSiteHidesNoExchange(t *testing.T) {
	good := page{body: soap(userSettings(mailURL))}
	endless := map[string]page{bareSOAP: {status: 302, location: "https://contoso.com/login?0"}, namedSOAP: good}
	for i := range 30 {
		endless[fmt.Sprintf("https://contoso.com/login?%d", i)] = page{status: 302, location: fmt.Sprintf("https://contoso.com/login?%d", i+1)}
	}
	for name, web := range map[string]map[string]page{
		"at the mail domain": {bare: {body: imap}, namedSOAP: good},
		"redirects for ever": endless,
		"below it":           {bare: {status: 301, location: www}, www: {body: imap}, namedSOAP: good},
	} {
		n := &internet{t: t, web: web}
		c := n.client(Options{})
		for range 2 {
			if p, err := c.Find(t.Context(), "user@contoso.com"); err != nil || p.URL != mailURL {
				t.Errorf("%s: %+v, %v", name, p, err)
			}
		}
		if last := n.asked[len(n.asked)-2:]; last[0] != last[1] {
			t.Errorf("%s: the hoster is asked again: %q", name, n.asked)
		}
	}
	n := &internet{t: t, web: map[string]page{bare: {body: imap}}}
	if _, err := n.find(Options{}); fault.Of(err).Code != CodeNoURL || !fault.Of(err).Unproven {
		t.Errorf("nobody but the hoster: %v", err)
	}
}

func TestAWrongPasswordIsNotTriedOnAndOn(t *testing.T) {
	for _, name := range []string{"autodiscover.svc", "autodiscover.xml"} { // where SOAP is there, POX is not tried after it
		var records []*net.SRV
		web := map[string]page{}
		for _, h := range []string{"", "autodiscover.", "a.", "b.", "c.", "d.", "e."} {
			records = append(records, &net.SRV{Target: h + "contoso.com.", Port: 443})
			web["https://"+h+"contoso.com/autodiscover/"+name] = page{status: 401, header: http.Header{"Www-Authenticate": {`Basic realm="x"`, "NTLM", "Negotiate"}}}
		}
		n := &internet{t: t, web: web, srv: records} // and it sees to it that nothing is signed in by other means
		_, err := n.find(Options{})
		n.asked = slices.DeleteFunc(n.asked, func(a string) bool { return !strings.Contains(a, name+" ") || strings.Contains(a, "//contoso.com/") }) // which gets no password
		if e := fault.Of(err); e.Code != codeRefused || e.Scope != fault.Account || len(n.asked) != 3 {
			t.Errorf("%v, %q", err, n.asked)
		}
	}
}

func TestNothingAboveTheMailDomainIsAsked(t *testing.T) {
	for _, domain := range []string{"contoso.co.uk", "mail.contoso.co.uk", "contoso.example"} {
		n := &internet{t: t}
		_, err := n.client(Options{}).Find(t.Context(), "user@"+domain)
		if fault.Of(err).Code != CodeNowhere || len(n.asked) == 0 {
			t.Errorf("%s: %v, %q", domain, err, n.asked)
		}
		for _, a := range n.asked {
			host := strings.TrimPrefix(a, "SRV _autodiscover._tcp.")
			if _, rest, ok := strings.Cut(a, "://"); ok {
				host, _, _ = strings.Cut(rest, "/")
			}
			if host != domain && host != "autodiscover."+domain {
				t.Errorf("%s: %s is asked", domain, a)
			}
		}
	}
}

func TestARedirectToAnotherEntrysDomainIsThatEntrys(t *testing.T) {
	for name, web := range map[string]map[string]page{
		"POX":  {named: {body: redirectAddr("user@t.mail.onmicrosoft.com")}},
		"SOAP": {namedSOAP: {body: soap(userRedirect("RedirectAddress", "user@t.mail.onmicrosoft.com"))}},
	} {
		n := &internet{t: t, web: web}
		_, err := n.find(Options{Elsewhere: func(domain string) bool { return domain == "t.mail.onmicrosoft.com" || domain == "contoso.com" }})
		e := fault.Of(err)
		if e.Code != CodeElsewhere || !e.Elsewhere || e.Scope != fault.Mailbox || !strings.Contains(e.Text, `"t.mail.onmicrosoft.com"`) {
			t.Errorf("%s: %v", name, err)
		}
		if strings.Contains(e.Error(), "user@") || len(n.asked) > 3 {
			t.Errorf("%s: %v, %q", name, err, n.asked)
		}
	}
	// Several entries share the mail domain: a redirect within it is no reason to go elsewhere.
	n := &internet{t: t, web: map[string]page{namedSOAP + user: {body: soap(userRedirect("RedirectAddress", "other@contoso.com"))}, namedSOAP + " other@contoso.com": {body: soap(userSettings(mailURL))}}}
	if p, err := n.find(Options{Elsewhere: func(string) bool { return true }}); err != nil || p.URL != mailURL {
		t.Errorf("%+v, %v", p, err)
	}
}

func TestAnAddressThatIsNoneIsNotAskedFor(t *testing.T) {
	_, err := New(Options{}).Find(t.Context(), "not an address")
	if e := fault.Of(err); e.Code != CodeAddress || e.Scope != fault.Mailbox || e.Remedy != fault.Fix || !errors.Is(err, mail.ErrAddress) {
		t.Errorf("%v", err)
	}
}

func TestAQuestionMayBeAskedAgain(t *testing.T) {
	asked := false
	o := Options{URL: "https://contoso.com/autodiscover/autodiscover.xml", HTTP: roundTrip(func(r *http.Request) (*http.Response, error) {
		asked = true
		if _, sign := r.Header["X-Idempotency-Key"]; !sign { // net/http's
			t.Errorf("%s %s may not", r.Method, r.URL)
		}
		return nil, io.ErrUnexpectedEOF
	})}
	o.Hosts.URLs = []string{o.URL}
	if _, err := New(o).Find(t.Context(), "user@contoso.com"); err == nil || !asked {
		t.Errorf("%v, asked %t", err, asked)
	}
}

func TestASearchEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	n := &internet{t: t}
	c := New(Options{Resolver: n, Hosts: auth.Hosts{Trusted: []string{"contoso.com"}}, HTTP: roundTrip(func(r *http.Request) (*http.Response, error) {
		cancel()
		<-r.Context().Done() // who asked has gone: nobody waits for the answer
		return nil, r.Context().Err()
	})})
	if _, err := c.Find(ctx, "user@contoso.com"); !errors.Is(err, context.Canceled) || len(n.asked) != 0 {
		t.Errorf("%v, %q", err, n.asked)
	}
}

func TestTheServersCertificateIsVerified(t *testing.T) {
	var url string
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, ".svc") {
			http.NotFound(w, r)
			return
		}
		if r.Header.Get("Authorization") == "" {
			w.Header().Set("WWW-Authenticate", "Basic")
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		if u, p, _ := r.BasicAuth(); u != "svc" || p != "pass" || r.UserAgent() != "mailbell/test" || r.Header.Get("X-AnchorMailbox") != "user@contoso.com" || r.ContentLength <= 0 {
			t.Errorf("%v", r.Header)
		}
		io.WriteString(w, settings(url+"/EWS/Exchange.asmx"))
	}))
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.StartTLS()
	defer srv.Close()
	url = srv.URL
	roots := x509.NewCertPool()
	roots.AddCert(srv.Certificate())
	for name, s := range map[string]proxy.Settings{"trusted": {Roots: roots}, "not trusted": {}} {
		hosts := auth.Hosts{URLs: []string{url}}
		rt := auth.Basic{Username: "svc", Password: "pass"}.RoundTripper(hosts, s, 1)
		p, err := New(Options{HTTP: rt, Hosts: hosts, URL: url + "/autodiscover/autodiscover.xml", UserAgent: "mailbell/test"}).Find(t.Context(), "user@contoso.com")
		rt.(interface{ CloseIdleConnections() }).CloseIdleConnections()
		if name == "trusted" && (err != nil || p.URL != url+"/EWS/Exchange.asmx") {
			t.Errorf("%s: %+v, %v", name, p, err)
		}
		if name == "not trusted" && (fault.Of(err).Code != proxy.CodeCertificate || fault.Of(err).Remedy != fault.Fix) {
			t.Errorf("%s: %+v, %v", name, p, err)
		}
	}
}

func TestOfficialSamplesAreUnderstood(t *testing.T) {
	for name, want := range map[string]answer{
		"44": {ewsURL: "https://mail.contoso.com/EWS/Exchange.asmx", primary: "mara@contoso.com"}, // its server is the mailbox itself
		"45": {redirectAddr: "elvin@mail.contoso.com"},
	} {
		got, err := parse(sample(t, name))
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	if _, err := parse(sample(t, "46")); err == nil || err.Code != "ErrorCode 600" || !strings.Contains(err.Text, "Invalid Request") {
		t.Errorf("46: %v", err)
	}
}

func sample(t testing.TB, name string) []byte {
	t.Helper()
	var found []string
	for _, folder := range []string{"testdata", filepath.Join("..", "testdata", "ews")} {
		here, err := filepath.Glob(filepath.Join(folder, name+"-*.xml"))
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, here...)
	}
	if len(found) != 1 {
		t.Fatalf("sample %s: %v", name, found)
	}
	b, err := os.ReadFile(found[0])
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// A group only has to be equal to that of others: of a hostile one nobody stores a megabyte for each mailbox.
func TestTheGroupOfAMailboxIsBounded(t *testing.T) {
	long := strings.Repeat("g", 100_000)
	p, f := parse([]byte(pox(`<Account><Action>settings</Action><Protocol><Type>EXPR</Type><EwsUrl>out</EwsUrl><GroupingInformation>` +
		long + `</GroupingInformation></Protocol></Account>`)))
	if f != nil || p.group == "" || len(p.group) > 2*maxWords {
		t.Errorf("POX: %d bytes, %v", len(p.group), f)
	}
	said := strings.Replace(soap(userSettings(mailURL)), "Default-First-Site-Name", long, 1)
	n := &internet{t: t, web: map[string]page{namedSOAP: {body: said}}}
	found, err := n.client(Options{}).Find(t.Context(), "user@contoso.com")
	if err != nil || found.Group == "" || len(found.Group) > 2*maxWords {
		t.Errorf("SOAP: %d bytes, %v", len(found.Group), err)
	}
}

func TestTheExternalURLComesFirst(t *testing.T) {
	protocol := func(kind, url, group string) string {
		return `<Protocol><Type>` + kind + `</Type><EwsUrl>` + url + `</EwsUrl><GroupingInformation>` + group + `</GroupingInformation></Protocol>`
	}
	web := `<Protocol><Type>WEB</Type><External><OWAUrl>o</OWAUrl><Protocol><Type>EXPR</Type><ASUrl>web</ASUrl></Protocol></External><Internal><Protocol><ASUrl>inside</ASUrl></Protocol></Internal></Protocol>`
	for in, want := range map[string]answer{
		`<Protocol><Type>EXCH</Type><Server>MBX-1.contoso.com</Server><EwsUrl>in</EwsUrl></Protocol>`: {ewsURL: "in", server: "MBX-1.contoso.com"},
		protocol("EXCH", "in", "g1") + protocol("EXPR", "out", "g2"):                                  {ewsURL: "out", otherURLs: [maxOtherURLs]string{"in"}, group: "g2"},
		protocol("EXCH", "in", "g1") + protocol("EXPR", "", ""):                                       {ewsURL: "in", group: "g1"},
		protocol("exch", "in", "g1") + protocol("EXPR", "", "g2"):                                     {ewsURL: "in", group: "g2"},
		protocol("EXPR", "out", "g") + protocol("EXPR", "later", "h"):                                 {ewsURL: "out", otherURLs: [maxOtherURLs]string{"later"}, group: "g"},
		protocol("EXPR", "", "") + protocol("EXPR", "out", "g"):                                       {ewsURL: "out", group: "g"},
		protocol("EXHTTP", "in", "") + protocol("EXHTTP", "out", "") + protocol("EXCH", "in", "g"):    {ewsURL: "out", otherURLs: [maxOtherURLs]string{"in"}, group: "g"},
		protocol("EXHTTP", "in", "") + protocol("EXPR", "out", "g") + protocol("EXHTTP", "", ""):      {ewsURL: "out", otherURLs: [maxOtherURLs]string{"in"}, group: "g"},
		protocol("EXCH", "a", "") + protocol("EXCH", "b", "") + protocol("EXCH", "c", "") + protocol("EXCH", "a", "") + protocol("EXCH", "d", "") + protocol("EXCH", "e", ""): {
			ewsURL: "a", otherURLs: [maxOtherURLs]string{"b", "c", "d"}},
		web:                              {ewsURL: "web", otherURLs: [maxOtherURLs]string{"inside"}},
		web + protocol("EXCH", "in", ""): {ewsURL: "in"},
		`<Protocol><Type>WEB</Type><Internal><Protocol><ASUrl>i</ASUrl></Protocol></Internal></Protocol>`: {ewsURL: "i"},
		`<Protocol><Type>EXCH</Type><ASUrl>as</ASUrl><OOFUrl>oof</OOFUrl></Protocol>`:                     {ewsURL: "as"},
		`<Protocol><Type>EXCH</Type><ASUrl>as</ASUrl></Protocol>` + protocol("EXPR", "out", ""):           {ewsURL: "out"},
		`<Protocol><Type>EXCH</Type><ASUrl>as</ASUrl></Protocol>` + web:                                   {ewsURL: "web", otherURLs: [maxOtherURLs]string{"inside"}},
	} {
		got, err := parse([]byte(pox(`<Account><Action>settings</Action>` + in + `</Account>`)))
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v; want %+v", in, got, err, want)
		}
	}
}

func TestWhatIsNoMarkupStandsForItself(t *testing.T) {
	for in, want := range map[string]string{
		"Tom & Jerry": "Tom & Jerry", "&amp;&lt;&#65;&#x42;": "&<AB", "a &nbsp; b": "a &nbsp; b", "1 < 2 <3": "1 < 2 <3",
		"<![CDATA[a & b &amp; <]]> & c": "a & b &amp; < & c", "a<!-- & < -->b": "ab", "&": "&",
	} {
		root, err := document([]byte("<x a='&'>" + in + "</x>"))
		if err != nil || root.Text() != want || root.SelectAttrValue("a", "") != "&" {
			t.Errorf("%s: %v, %v; want %q", in, root, err, want)
		}
	}
	for _, in := range []string{"<x>" + strings.Repeat("<![CDATA[", 1<<16), "<x>" + strings.Repeat("<!--", 1<<17)} {
		if _, err := document([]byte(in)); err == nil {
			t.Error("what is not closed is taken")
		}
	}
}

func TestAPageThatSpeaksOfAutodiscoverIsNone(t *testing.T) {
	for _, page := range []string{
		"<!DOCTYPE html><html><p>/Autodiscover/Autodiscover.xml Envelope was not found<br></html>",
		"\xef\xbb\xbf\r\n<?xml version='1.0' standalone='no'?>\n<!-- Autodiscover --><!doctype HTML PUBLIC '-//W3C//DTD HTML 4.01//EN'><html>Autodiscover Envelope",
		`<!DOCTYPE Autodiscover [<!ENTITY a "b">]>` + pox(""),
	} {
		if _, err := parse([]byte(page)); err == nil || err.Code != codeNotAuto {
			t.Errorf("%.40q, POX: %v", page, err)
		}
		if _, err := parseSOAP([]byte(page), []string{"a@contoso.com"}); err == nil || err.Code != codeNotAuto {
			t.Errorf("%.40q, SOAP: %v", page, err)
		}
	}
}

func TestADeclarationMayBeStandalone(t *testing.T) {
	for _, d := range []string{`<?xml version="1.0" encoding="utf-8" standalone="yes"?>`, `<?xml version='1.0' standalone='no'?>`, `<?xml version="1.0" encoding="US-ASCII"?>`, `<?xml version="1.0" encoding="UTF-8" standalone="yes" ?>` + "\r\n"} {
		if a, err := parse([]byte(strings.Replace(settings(mailURL), `<?xml version="1.0" encoding="utf-8"?>`, d, 1))); err != nil || a.ewsURL != mailURL {
			t.Errorf("%s: %+v, %v", d, a, err)
		}
	}
}

func TestOfSeveralURLsTheOneToWhichCredentialsMayGoIsTaken(t *testing.T) {
	protocol := func(kind, url string) string {
		return `<Protocol><Type>` + kind + `</Type><EwsUrl>` + url + `</EwsUrl></Protocol>`
	}
	const inside, away = "https://exch01.contoso.local/EWS/Exchange.asmx", "https://mail.hoster.example/EWS/Exchange.asmx"
	for in, want := range map[string]string{
		protocol("EXPR", away) + protocol("EXPR", mailURL):                                mailURL,
		protocol("EXPR", away) + protocol("EXCH", inside) + protocol("EXCH", mailURL):     mailURL,
		protocol("EXHTTP", inside) + protocol("EXHTTP", mailURL):                          mailURL,
		protocol("EXHTTP", mailURL) + protocol("EXHTTP", away) + protocol("EXCH", inside): mailURL,
		protocol("EXPR", "http://mail.contoso.com/EWS/") + protocol("EXPR", mailURL):      mailURL,
		protocol("EXPR", away) + protocol("EXCH", inside):                                 "",
	} {
		n := &internet{t: t, web: map[string]page{named: {body: pox(`<Account><Action>settings</Action>` + in + `</Account>`)}}}
		p, err := n.client(Options{}).Find(t.Context(), "user@contoso.com")
		if p.URL != want || want == "" && (fault.Of(err).Code != CodeHost || !strings.Contains(err.Error(), "mail.hoster.example")) {
			t.Errorf("%s: %q, %v; want %q", in, p.URL, err, want)
		}
	}
}

func TestAMailboxThatNobodyHasIsNotHere(t *testing.T) {
	// gromox says 404 with HTTP 200; other servers say with the status what stands in the answer too.
	for _, p := range []page{
		{body: poxError("404")}, {body: poxError("500")}, {body: poxError("ErrorCannotFindUser")}, {status: 404, body: poxError("404")}, {status: 400, body: poxError("500")}, {status: 500, body: poxError("500")},
	} {
		n := &internet{t: t, web: map[string]page{named: p}}
		_, err := n.client(Options{}).Find(t.Context(), "user@contoso.com")
		if f := fault.Of(err); !f.Elsewhere || f.Scope != fault.Mailbox || f.Remedy != fault.Fix {
			t.Errorf("%d %s: %v", p.status, p.body, err)
		}
	}
	// A 404 alone says that there is no Autodiscover.
	n := &internet{t: t, web: map[string]page{named: {status: 404, body: "not found"}}}
	if _, err := n.client(Options{}).Find(t.Context(), "user@contoso.com"); fault.Of(err).Code != CodeNowhere || fault.Of(err).Elsewhere {
		t.Errorf("HTTP 404: %v", err)
	}
}

func TestAHostileAnswerHarmsNothing(t *testing.T) {
	named := func(name string) []byte {
		return []byte("\xef\xbb\xbf" + pox(`<User><DisplayName>`+name+`</DisplayName></User><Account><Action>settings</Action><Protocol><Type>EXCH</Type><EwsUrl>u</EwsUrl></Protocol></Account>`))
	}
	for _, name := range []string{"&#x1F;&#x0;&#0;&#xFFFF;&#xD83D;&#99999999999;", "a\x00\x1fb", "\xff\xfe", "<![CDATA[<x> & y]]>", "<!-- & < -->",
		"&lol;", "Tom & Jerry", "&", "&&amp;&", "1 < 2", "I <3 it", "<", "&#xZZ;"} {
		if a, err := parse(named(name)); err != nil || a.ewsURL != "u" {
			t.Errorf("%q: %+v, %v", name, a, err)
		}
	}
	for in, want := range map[string]string{
		`<!DOCTYPE Autodiscover [<!ENTITY a "b">]>` + pox(""):                                         "DTD",
		"<Autodiscover>" + strings.Repeat("<a>", 32) + strings.Repeat("</a>", 32) + "</Autodiscover>": "depth",
		`<?xml version="1.0" encoding="utf-16"?><Autodiscover/>`:                                      "encoding",
		"":    "",
		"<a>": "",
	} {
		if _, err := parse([]byte(in)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: %v, want %q", in, err, want)
		}
	}
}

// FuzzParse holds that no answer makes the parser panic, and that what it returns is an answer or a typed error.
func FuzzParse(f *testing.F) {
	for _, name := range []string{"44", "45", "46"} {
		f.Add(sample(f, name))
	}
	f.Add([]byte(settings(mailURL)))
	f.Add([]byte(redirectURL("https://x")))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := parse(b)
		if err != nil && (err.Code == "" || err.Scope == 0 || err.Remedy == 0 || a != answer{}) {
			t.Fatalf("%+v, %#v", a, err)
		}
		if a.redirectAddr != "" {
			if again, err := mail.ParseAddress(a.redirectAddr); err != nil || again != a.redirectAddr {
				t.Fatalf("%q", a.redirectAddr)
			}
		}
	})
}
