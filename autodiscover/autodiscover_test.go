package autodiscover

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
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

// reply is what a server of the test answers.
type reply struct {
	status   int
	body     string
	location string
	err      error
}

// internet is a network of the test: answers by URL, and for POX by "URL address" where that is there. It notes what was asked.
type internet struct {
	t     *testing.T
	web   map[string]reply
	srv   []*net.SRV
	asked []string
}

var notFoundErr = &net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", IsNotFound: true}}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func (n *internet) answer(r *http.Request, note, key string) (*http.Response, error) {
	n.asked = append(n.asked, note)
	re, ok := n.web[key]
	if !ok {
		re, ok = n.web[r.URL.String()]
	}
	if !ok {
		re.err = notFoundErr
	}
	if re.err != nil {
		return nil, re.err
	}
	h := http.Header{}
	if re.location != "" {
		h.Set("Location", re.location)
	}
	if re.status == 0 {
		re.status = 200
	}
	return &http.Response{StatusCode: re.status, Header: h, Request: r, Body: io.NopCloser(strings.NewReader(re.body))}, nil
}

func (n *internet) LookupSRV(_ context.Context, service, proto, name string) (string, []*net.SRV, error) {
	n.asked = append(n.asked, "SRV _"+service+"._"+proto+"."+name)
	if n.srv == nil {
		return "", nil, &net.DNSError{Err: "no such host", IsNotFound: true}
	}
	return "", n.srv, nil
}

// find asks for user@contoso.com.
func (n *internet) find(o Options) (mail.Place, error) {
	o.HTTP = roundTrip(func(r *http.Request) (*http.Response, error) {
		if r.URL.Scheme != "https" || r.Method != http.MethodPost {
			n.t.Errorf("credentials go to %s %s", r.Method, r.URL)
		}
		doc := etree.NewDocument()
		if _, err := doc.ReadFrom(r.Body); err != nil {
			n.t.Error(err)
		}
		address := doc.FindElement("/Autodiscover/Request/EMailAddress").Text()
		return n.answer(r, "POST "+r.URL.String()+" "+address, r.URL.String()+" "+address)
	})
	o.Plain = roundTrip(func(r *http.Request) (*http.Response, error) {
		if r.Method != http.MethodGet || r.Header.Get("Authorization") != "" {
			n.t.Errorf("plain: %s %v", r.Method, r.Header)
		}
		return n.answer(r, "GET "+r.URL.String(), "")
	})
	o.Resolver, o.Entry = n, "headquarters"
	return New(o).Find(n.t.Context(), "User@Contoso.com")
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

func errorCode(code string) string {
	return pox(`<Error Time="21:25:04" Id="1"><ErrorCode>` + code + `</ErrorCode><Message>text of
the server</Message><DebugData/></Error>`)
}

const (
	bare    = "https://contoso.com/autodiscover/autodiscover.xml"
	named   = "https://autodiscover.contoso.com/autodiscover/autodiscover.xml"
	plain   = "http://autodiscover.contoso.com/autodiscover/autodiscover.xml"
	mailURL = "https://mail.contoso.com/EWS/Exchange.asmx"
	user    = " user@contoso.com"
	srvName = "SRV _autodiscover._tcp.contoso.com"
)

func TestCandidatesAreAskedInTheirOrderUntilOneAnswers(t *testing.T) {
	good := reply{body: settings(mailURL)}
	for name, c := range map[string]struct {
		web   map[string]reply
		srv   []*net.SRV
		asked []string
	}{
		"the mail domain":   {map[string]reply{bare: good}, nil, []string{"POST " + bare + user}},
		"autodiscover.":     {map[string]reply{named: good}, nil, []string{"POST " + bare + user, "POST " + named + user}},
		"a web site before": {map[string]reply{bare: {body: "<!DOCTYPE html><html>"}, named: good}, nil, []string{"POST " + bare + user, "POST " + named + user}},
		"404 before":        {map[string]reply{bare: {status: 404}, named: good}, nil, []string{"POST " + bare + user, "POST " + named + user}},
		"401 before":        {map[string]reply{bare: {status: 401}, named: good}, nil, []string{"POST " + bare + user, "POST " + named + user}},
		"a bad certificate before": {map[string]reply{bare: {err: &tls.CertificateVerificationError{Err: x509.HostnameError{Certificate: &x509.Certificate{}, Host: "contoso.com"}}}, named: good}, nil,
			[]string{"POST " + bare + user, "POST " + named + user}},
		"an unknown address before": {map[string]reply{bare: {body: errorCode("500")}, named: good}, nil, []string{"POST " + bare + user, "POST " + named + user}},
		"the plain redirect": {map[string]reply{plain: {status: 302, location: "https://mail.contoso.com/autodiscover/autodiscover.xml"}, "https://mail.contoso.com/autodiscover/autodiscover.xml": good}, nil,
			[]string{"POST " + bare + user, "POST " + named + user, "GET " + plain, "POST https://mail.contoso.com/autodiscover/autodiscover.xml" + user}},
		"SRV, the lowest priority first": {map[string]reply{"https://b.contoso.com/autodiscover/autodiscover.xml": good},
			[]*net.SRV{{Target: "c.contoso.com.", Port: 443, Priority: 20}, {Target: "d.contoso.com.", Port: 8443, Priority: 0}, {Target: "a.contoso.com.", Port: 443, Priority: 5}, {Target: "b.contoso.com.", Port: 443, Priority: 10}},
			[]string{"POST " + bare + user, "POST " + named + user, "GET " + plain, srvName, "POST https://a.contoso.com/autodiscover/autodiscover.xml" + user, "POST https://b.contoso.com/autodiscover/autodiscover.xml" + user}},
	} {
		n := &internet{t: t, web: c.web, srv: c.srv}
		p, err := n.find(Options{})
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(c.asked, n.asked); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		want := mail.Place{Entry: "headquarters", URL: mailURL, Group: "Default-First-Site-Name", Primary: "primary@contoso.com", Found: p.Found}
		if diff := cmp.Diff(want, p); diff != "" || time.Since(p.Found) > time.Minute {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestRedirectsAreFollowed(t *testing.T) {
	cloud := "https://autodiscover-s.outlook.com/autodiscover/autodiscover.xml"
	for name, web := range map[string]map[string]reply{
		"HTTP 302 of a candidate":     {bare: {status: 302, location: "https://mail.contoso.com/x"}, "https://mail.contoso.com/x": {body: settings(mailURL)}},
		"HTTP 307, a relative URL":    {bare: {status: 307, location: "/x"}, "https://contoso.com/x": {body: settings(mailURL)}},
		"redirectUrl":                 {bare: {body: redirectURL("https://mail.contoso.com/x?a=1&amp;b=2")}, "https://mail.contoso.com/x?a=1&b=2": {body: settings(mailURL)}},
		"redirectAddr, same domain":   {bare + user: {body: redirectAddr("Other@contoso.com")}, bare + " other@contoso.com": {body: settings(mailURL)}},
		"redirectAddr to a subdomain": {bare: {body: redirectAddr("other@eu.contoso.com")}, "https://autodiscover.eu.contoso.com/autodiscover/autodiscover.xml": {body: settings(mailURL)}},
		"redirectAddr to the cloud":   {bare: {body: redirectAddr("user@t.mail.onmicrosoft.com")}, "http://autodiscover.t.mail.onmicrosoft.com/autodiscover/autodiscover.xml": {status: 302, location: cloud}, cloud: {body: settings("https://outlook.office365.com/EWS/Exchange.asmx")}},
	} {
		n := &internet{t: t, web: web}
		p, err := n.find(Options{})
		if err != nil || p.URL == "" || p.Primary != "primary@contoso.com" {
			t.Errorf("%s: %+v, %v\n%q", name, p, err, n.asked)
		}
	}
}

func TestAConfiguredURLIsTheOnlyCandidateOfItsDomain(t *testing.T) {
	const configured = "https://exchange.corp.example/autodiscover/autodiscover.xml"
	n := &internet{t: t, web: map[string]reply{configured: {body: settings("https://exchange.corp.example/EWS/Exchange.asmx")}}}
	if p, err := n.find(Options{URL: configured}); err != nil || p.URL != "https://exchange.corp.example/EWS/Exchange.asmx" || len(n.asked) != 1 {
		t.Errorf("%+v, %v, %q", p, err, n.asked)
	}
	n = &internet{t: t, web: map[string]reply{configured: {status: 404}, bare: {body: settings(mailURL)}}}
	if _, err := n.find(Options{URL: configured}); fault.Of(err).Code != CodeNowhere || len(n.asked) != 1 {
		t.Errorf("%v, %q", err, n.asked)
	}
	n = &internet{t: t, web: map[string]reply{configured + user: {body: redirectAddr("user@eu.contoso.com")}, configured + " user@eu.contoso.com": {body: errorCode("500")},
		"https://eu.contoso.com/autodiscover/autodiscover.xml": {body: settings(mailURL)}}}
	if p, err := n.find(Options{URL: configured}); err != nil || p.URL != mailURL {
		t.Errorf("redirected to another domain: %+v, %v, %q", p, err, n.asked)
	}
}

func TestCredentialsGoNowhereElse(t *testing.T) {
	evil := "https://autodiscover.evil.example/autodiscover/autodiscover.xml"
	answered := reply{body: settings(mailURL)}
	for name, web := range map[string]map[string]reply{
		"HTTP 302":                        {bare: {status: 302, location: evil}, evil: answered},
		"HTTP 302 to http":                {bare: {status: 302, location: "http://mail.contoso.com/x"}, "http://mail.contoso.com/x": answered},
		"the plain redirect":              {plain: {status: 302, location: evil}, evil: answered},
		"the plain redirect to http":      {plain: {status: 302, location: "http://mail.contoso.com/x"}, "http://mail.contoso.com/x": answered},
		"redirectUrl":                     {bare: {body: redirectURL(evil)}, evil: answered},
		"redirectUrl with a user":         {bare: {body: redirectURL("https://contoso.com@evil.example/")}, "https://evil.example/": answered},
		"a name that only ends alike":     {bare: {body: redirectURL("https://evilcontoso.com/")}, "https://evilcontoso.com/": answered},
		"redirectAddr":                    {bare: {body: redirectAddr("user@evil.example")}, "https://evil.example/autodiscover/autodiscover.xml": answered, evil: answered},
		"redirectAddr, its plain":         {bare: {body: redirectAddr("user@evil.example")}, "http://autodiscover.evil.example/autodiscover/autodiscover.xml": {status: 302, location: evil}, evil: answered},
		"the domain above":                {bare: {body: redirectAddr("user@example")}, evil: answered},
		"an EWS URL elsewhere":            {bare: {body: settings("https://mail.evil.example/EWS/Exchange.asmx")}},
		"an EWS URL over http":            {bare: {body: settings("http://mail.contoso.com/EWS/Exchange.asmx")}},
		"an EWS URL with a user":          {bare: {body: settings("https://a:b@mail.contoso.com/EWS/Exchange.asmx")}},
		"an EWS URL that is none":         {bare: {body: settings("https://%zz/")}},
		"a cloud's name within a longer":  {bare: {body: settings("https://outlook.office365.com.evil.example/")}},
		"an address that is none":         {bare: {body: redirectAddr("evil.example")}, evil: answered},
		"a URL that names no host at all": {bare: {body: redirectURL("https:///x")}},
	} {
		n := &internet{t: t, web: web}
		p, err := n.find(Options{})
		for _, a := range n.asked {
			if strings.HasPrefix(a, "POST") && !strings.HasPrefix(a, "POST https://contoso.com/") && !strings.HasPrefix(a, "POST https://autodiscover.contoso.com/") {
				t.Errorf("%s: %s", name, a)
			}
		}
		if e := fault.Of(err); err == nil || p.URL != "" || e.Code == "unknown" {
			t.Errorf("%s: %+v, %v", name, p, err)
		} else if strings.Contains(name, "evil") && !strings.Contains(e.Error(), "trusted_hosts") {
			t.Errorf("%s: %v", name, err)
		}
	}
	n := &internet{t: t, srv: []*net.SRV{{Target: "autodiscover.evil.example.", Port: 443}}, web: map[string]reply{evil: answered}}
	_, err := n.find(Options{})
	if e := fault.Of(err); e.Code != CodeHost || e.Remedy != fault.Fix || e.Scope != fault.Mailbox || !strings.Contains(e.Text, `"autodiscover.evil.example"`) || !strings.Contains(e.Text, "trusted_hosts") {
		t.Errorf("SRV: %v", err)
	}
	n = &internet{t: t, srv: n.srv, web: map[string]reply{evil: {body: settings("https://EWS.partner.example/x")}}}
	if p, err := n.find(Options{TrustedHosts: []string{"Autodiscover.evil.example", "ews.partner.example"}}); err != nil || p.URL != "https://EWS.partner.example/x" {
		t.Errorf("trusted: %+v, %v", p, err)
	}
}

func TestARedirectInACircleEnds(t *testing.T) {
	many := map[string]reply{bare: {status: 302, location: "https://contoso.com/0"}}
	addresses := map[string]reply{bare + user: {body: redirectAddr("a0@contoso.com")}}
	for i := range 30 {
		a, b := strconv.Itoa(i), strconv.Itoa(i+1)
		many["https://contoso.com/"+a] = reply{status: 302, location: "https://contoso.com/" + b}
		addresses[bare+" a"+a+"@contoso.com"] = reply{body: redirectAddr("a" + b + "@contoso.com")}
	}
	for name, web := range map[string]map[string]reply{
		"URL to itself":       {bare: {status: 302, location: bare}},
		"two URLs":            {bare: {status: 302, location: named}, named: {body: redirectURL(bare)}},
		"address to itself":   {bare: {body: redirectAddr("USER@contoso.com")}},
		"two addresses":       {bare + user: {body: redirectAddr("b@contoso.com")}, bare + " b@contoso.com": {body: redirectAddr("user@contoso.com")}},
		"ever new URLs":       many,
		"ever new addresses":  addresses,
		"plain, then circles": {plain: {status: 301, location: "https://contoso.com/x"}, "https://contoso.com/x": {status: 302, location: "https://contoso.com/x"}},
	} {
		n := &internet{t: t, web: web}
		_, err := n.find(Options{})
		if e := fault.Of(err); e.Code != CodeLoop || e.Scope != fault.Mailbox || e.Remedy != fault.Fix || len(n.asked) > maxHops+5 {
			t.Errorf("%s: %v, %d questions", name, err, len(n.asked))
		}
	}
}

func TestTheFailureThatSaysMostIsReported(t *testing.T) {
	cert := reply{err: &tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}, UnverifiedCertificates: []*x509.Certificate{{DNSNames: []string{"mail.contoso.com"}}}}}
	timeout := reply{err: context.DeadlineExceeded}
	for name, c := range map[string]struct {
		web    map[string]reply
		code   string
		scope  fault.Scope
		remedy fault.Remedy
	}{
		"unknown mailbox":            {map[string]reply{bare: {body: errorCode("500")}, named: {status: 401}}, "ErrorCode 500", fault.Mailbox, fault.Fix},
		"unknown user, in words":     {map[string]reply{bare: {body: errorCode("InvalidUser")}}, "ErrorCode InvalidUser", fault.Mailbox, fault.Fix},
		"no settings":                {map[string]reply{named: {body: errorCode("602")}}, "ErrorCode 602", fault.Mailbox, fault.Fix},
		"a bad request":              {map[string]reply{named: {body: errorCode("600")}}, "ErrorCode 600", fault.Server, fault.Fix},
		"an error of the server":     {map[string]reply{named: {body: errorCode("603")}}, "ErrorCode 603", fault.Server, fault.Wait},
		"401 everywhere":             {map[string]reply{bare: {status: 401}, named: {status: 401}}, "HTTP 401", fault.Account, fault.Fix},
		"401 and a web site":         {map[string]reply{bare: {status: 404}, named: {status: 401}}, "HTTP 401", fault.Account, fault.Fix},
		"503":                        {map[string]reply{named: {status: 503}}, "HTTP 503", fault.Server, fault.Wait},
		"403":                        {map[string]reply{named: {status: 403}}, "HTTP 403", fault.Account, fault.Fix},
		"a bad certificate":          {map[string]reply{bare: timeout, named: cert}, "certificate", fault.Server, fault.Fix},
		"no answer":                  {map[string]reply{bare: cert, named: timeout}, "timeout", fault.Server, fault.Wait},
		"nothing":                    {nil, CodeNowhere, fault.Server, fault.Wait},
		"web sites":                  {map[string]reply{bare: {body: "<html></html>"}, named: {body: "hello"}, plain: {body: "x"}}, CodeNowhere, fault.Server, fault.Wait},
		"a broken answer":            {map[string]reply{named: {body: "<Autodiscover>"}}, CodeUnread, fault.Server, fault.Wait},
		"an answer beyond the bound": {map[string]reply{named: {body: "<Autodiscover>" + strings.Repeat(" ", maxAnswer)}}, CodeUnread, fault.Server, fault.Wait},
		"no EWS":                     {map[string]reply{named: {body: pox(`<Account><Action>settings</Action></Account>`)}}, CodeNoURL, fault.Mailbox, fault.Fix},
		"an unknown action":          {map[string]reply{named: {body: pox(`<Account><Action>dance</Action></Account>`)}}, CodeUnread, fault.Server, fault.Wait},
	} {
		n := &internet{t: t, web: c.web}
		_, err := n.find(Options{})
		e, ok := errors.AsType[*fault.Error](err)
		if !ok || e.Code != c.code || e.Scope != c.scope || e.Remedy != c.remedy || e.Text == "" || strings.ContainsAny(err.Error(), "\n") {
			t.Errorf("%s: %v", name, err)
		}
		if c.code != CodeNoURL && !strings.Contains(err.Error(), srvName[4:]) {
			t.Errorf("%s: what was asked is not told: %v", name, err)
		}
	}
}

func TestAWrongPasswordIsNotTriedOnAndOn(t *testing.T) {
	var records []*net.SRV
	web := map[string]reply{bare: {status: 401}, named: {status: 401}}
	for _, h := range []string{"a", "b", "c", "d", "e", "f"} {
		records = append(records, &net.SRV{Target: h + ".contoso.com.", Port: 443})
		web["https://"+h+".contoso.com/autodiscover/autodiscover.xml"] = reply{status: 401}
	}
	n := &internet{t: t, web: web, srv: records}
	_, err := n.find(Options{})
	n.asked = slices.DeleteFunc(n.asked, func(a string) bool { return !strings.HasPrefix(a, "POST") })
	if e := fault.Of(err); e.Code != "HTTP 401" || len(n.asked) != maxRefusals {
		t.Errorf("%v, %q", err, n.asked)
	}
}

func TestAnAddressThatIsNoneIsNotAskedFor(t *testing.T) {
	_, err := New(Options{}).Find(t.Context(), "not an address")
	if e := fault.Of(err); e.Code != CodeAddress || e.Scope != fault.Mailbox || e.Remedy != fault.Fix || !errors.Is(err, mail.ErrAddress) {
		t.Errorf("%v", err)
	}
}

func TestASearchEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	n := &internet{t: t}
	c := New(Options{Resolver: n, HTTP: roundTrip(func(r *http.Request) (*http.Response, error) {
		cancel()
		return nil, r.Context().Err()
	})})
	if _, err := c.Find(ctx, "user@contoso.com"); !errors.Is(err, context.Canceled) || len(n.asked) != 0 {
		t.Errorf("%v, %q", err, n.asked)
	}
}

func TestTheServersCertificateIsVerified(t *testing.T) {
	var url string
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
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
		rt := auth.Basic{Username: "svc", Password: "pass"}.RoundTripper(s, 1)
		p, err := New(Options{HTTP: rt, URL: url + "/autodiscover/autodiscover.xml", UserAgent: "mailbell/test"}).Find(t.Context(), "user@contoso.com")
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
		"44": {ewsURL: "https://mail.contoso.com/EWS/Exchange.asmx", primary: "mara@contoso.com"},
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
	found, err := filepath.Glob(filepath.Join("..", "testdata", "ews", name+"-*.xml"))
	if err != nil || len(found) != 1 {
		t.Fatalf("sample %s: %v %v", name, found, err)
	}
	b, err := os.ReadFile(found[0])
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestTheExternalURLComesFirst(t *testing.T) {
	protocol := func(kind, url, group string) string {
		return `<Protocol><Type>` + kind + `</Type><EwsUrl>` + url + `</EwsUrl><GroupingInformation>` + group + `</GroupingInformation></Protocol>`
	}
	web := `<Protocol><Type>WEB</Type><External><OWAUrl>o</OWAUrl><Protocol><Type>EXPR</Type><ASUrl>web</ASUrl></Protocol></External><Internal><Protocol><ASUrl>inside</ASUrl></Protocol></Internal></Protocol>`
	for in, want := range map[string]answer{
		protocol("EXCH", "in", "g1") + protocol("EXPR", "out", "g2"):  {ewsURL: "out", group: "g2"},
		protocol("EXCH", "in", "g1") + protocol("EXPR", "", ""):       {ewsURL: "in", group: "g1"},
		protocol("exch", "in", "g1") + protocol("EXPR", "", "g2"):     {ewsURL: "in", group: "g2"},
		protocol("EXPR", "out", "g") + protocol("EXPR", "later", "h"): {ewsURL: "out", group: "g"},
		web:                              {ewsURL: "web"},
		web + protocol("EXCH", "in", ""): {ewsURL: "in"},
		`<Protocol><Type>WEB</Type><Internal><Protocol><ASUrl>i</ASUrl></Protocol></Internal></Protocol>`: {ewsURL: "i"},
	} {
		got, err := parse([]byte(pox(`<Account><Action>settings</Action>` + in + `</Account>`)))
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v; want %+v", in, got, err, want)
		}
	}
}

func TestAHostileAnswerHarmsNothing(t *testing.T) {
	named := func(name string) []byte {
		return []byte("\xef\xbb\xbf" + pox(`<User><DisplayName>`+name+`</DisplayName></User><Account><Action>settings</Action><Protocol><Type>EXCH</Type><EwsUrl>u</EwsUrl></Protocol></Account>`))
	}
	for _, name := range []string{"&#x1F;&#x0;&#0;&#xFFFF;&#xD83D;&#99999999999;", "a\x00\x1fb", "\xff\xfe", "<![CDATA[<x>]]>", "<!-- -->"} {
		if a, err := parse(named(name)); err != nil || a.ewsURL != "u" {
			t.Errorf("%q: %+v, %v", name, a, err)
		}
	}
	for in, want := range map[string]string{
		`<!DOCTYPE Autodiscover [<!ENTITY a "b">]>` + pox(""): "DTD",
		string(named("&lol;")):                                "entity",
		"<Autodiscover>" + strings.Repeat("<a>", maxDepth) + strings.Repeat("</a>", maxDepth) + "</Autodiscover>": "depth",
		`<?xml version="1.0" encoding="utf-16"?><Autodiscover/>`:                                                  "encoding",
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
