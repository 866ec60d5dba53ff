package autodiscover

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/mail"
)

const (
	cloud     = "https://autodiscover-s.outlook.com"
	cloudEWS  = "https://outlook.office365.com/EWS/Exchange.asmx"
	cloudV2   = cloud + "/autodiscover/autodiscover.json/v1.0/user@contoso.com?Protocol=EWS"
	cloudSOAP = cloud + "/autodiscover/autodiscover.svc"
)

func v2(ews string) page {
	return page{body: `{"Protocol":"EWS","Url":"` + ews + `"}`}
}

func (n *internet) findOnline(o Options) (mail.Location, error) {
	o.Online, o.Cloud, o.EWS = true, cloud, cloudEWS
	return n.find(o)
}

func TestInTheCloudV2TellsWhereAndSOAPTheGroup(t *testing.T) {
	for name, c := range map[string]struct {
		web  map[string]page
		want mail.Location
	}{
		"both": {map[string]page{cloudV2: v2("https://outlook.office365.com/ews/exchange.asmx"), cloudSOAP: {body: soap(userSettings("https://mail.contoso.com/EWS/Exchange.asmx"))}},
			mail.Location{URL: cloudEWS, Group: "Default-First-Site-Name", Primary: "primary@contoso.com", How: "Autodiscover (SOAP) at autodiscover-s.outlook.com (EWS up to Exchange2013)"}},
		"SOAP refuses the token": {map[string]page{cloudV2: v2(cloudEWS), cloudSOAP: {status: 401}},
			mail.Location{URL: cloudEWS, Primary: "user@contoso.com", How: "Autodiscover V2 at autodiscover-s.outlook.com"}},
		"SOAP forbids": {map[string]page{cloudV2: v2(cloudEWS), cloudSOAP: {status: 403}},
			mail.Location{URL: cloudEWS, Primary: "user@contoso.com", How: "Autodiscover V2 at autodiscover-s.outlook.com"}},
		"SOAP is gone": {map[string]page{cloudV2: v2(cloudEWS), cloudSOAP: {status: 404}},
			mail.Location{URL: cloudEWS, Primary: "user@contoso.com", How: "Autodiscover V2 at autodiscover-s.outlook.com"}},
		"SOAP fails for the user": {map[string]page{cloudV2: v2(cloudEWS), cloudSOAP: {body: soap(userError("InternalServerError"))}},
			mail.Location{URL: cloudEWS, Primary: "user@contoso.com", How: "Autodiscover V2 at autodiscover-s.outlook.com"}},
		"SOAP leads astray": {map[string]page{cloudV2: v2(cloudEWS), cloudSOAP: {body: soap(userRedirect("RedirectUrl", "https://autodiscover.contoso.com/autodiscover/autodiscover.svc"))}, namedSOAP: {body: soap(userSettings(mailURL))}},
			mail.Location{URL: cloudEWS, Primary: "user@contoso.com", How: "Autodiscover V2 at autodiscover-s.outlook.com"}},
		"redirected within the clouds": {map[string]page{cloudV2: {status: 302, location: "https://outlook.office365.us/autodiscover/autodiscover.json?Email=x"}, "https://outlook.office365.us/autodiscover/autodiscover.json?Email=x": v2("https://outlook.office365.us/EWS/Exchange.asmx")},
			mail.Location{URL: "https://outlook.office365.us/EWS/Exchange.asmx", Primary: "user@contoso.com", How: "Autodiscover V2 at outlook.office365.us"}},
		"another address in the cloud": {map[string]page{cloudV2: v2(cloudEWS), cloudSOAP + user: {body: soap(userRedirect("RedirectAddress", "user@t.onmicrosoft.com"))},
			strings.Replace(cloudV2, "contoso.com", "t.onmicrosoft.com", 1): v2(cloudEWS), cloudSOAP: {body: soap(userSettings(cloudEWS))}},
			mail.Location{URL: cloudEWS, Group: "Default-First-Site-Name", Primary: "primary@contoso.com", How: "Autodiscover (SOAP) at autodiscover-s.outlook.com (EWS up to Exchange2013)"}},
	} {
		n := &internet{t: t, web: c.web}
		p, err := n.findOnline(Options{})
		c.want.Entry, c.want.Found = "headquarters", p.Found
		if diff := cmp.Diff(c.want, p); err != nil || diff != "" {
			t.Errorf("%s: %v (-want +got):\n%s", name, err, diff)
		}
	}
}

func TestWhatTheCloudDoesNotHaveIsElsewhere(t *testing.T) {
	onPremises := "https://mail.contoso.com/EWS/Exchange.asmx"
	for name, c := range map[string]struct {
		web       map[string]page
		code      string
		elsewhere bool
	}{
		"404":                      {map[string]page{cloudV2: {status: 404}}, "HTTP 404", true},
		"UserNotFound":             {map[string]page{cloudV2: {status: 404, body: `{"ErrorCode":"UserNotFound","ErrorMessage":"The given user is not found"}`}}, "HTTP 404", true},
		"UserNotFound, 200":        {map[string]page{cloudV2: {body: `{"ErrorCode":"UserNotFound","ErrorMessage":"x"}`}}, "ErrorCode UserNotFound", true},
		"a redirect on premises":   {map[string]page{cloudV2: {status: 302, location: "https://autodiscover.contoso.com/autodiscover/autodiscover.json?Email=x"}}, CodeElsewhere, true},
		"a redirect over http":     {map[string]page{cloudV2: {status: 302, location: "http://autodiscover.contoso.com/x"}}, CodeElsewhere, true},
		"a private address":        {map[string]page{cloudV2: {status: 302, location: "https://10.0.0.1/x"}}, CodeElsewhere, true},
		"loopback":                 {map[string]page{cloudV2: {status: 302, location: "https://[::1]/x"}}, CodeElsewhere, true},
		"another port":             {map[string]page{cloudV2: {status: 302, location: "https://outlook.office365.com:8443/x"}}, CodeElsewhere, true},
		"an EWS URL on premises":   {map[string]page{cloudV2: v2(onPremises)}, CodeElsewhere, true},
		"an EWS URL in private":    {map[string]page{cloudV2: v2("https://192.168.1.1/EWS/Exchange.asmx")}, CodeElsewhere, true},
		"an EWS URL alike":         {map[string]page{cloudV2: v2("https://outlook.office365.com.evil.example/EWS/Exchange.asmx")}, CodeElsewhere, true},
		"SOAP knows nobody":        {map[string]page{cloudV2: v2(cloudEWS), cloudSOAP: {body: soap(userError("InvalidUser"))}}, "ErrorCode InvalidUser", true},
		"a redirect to http":       {map[string]page{cloudV2: {status: 302, location: "http://outlook.office365.com/x"}}, CodeHost, false},
		"an EWS URL over http":     {map[string]page{cloudV2: v2("http://outlook.office365.com/EWS/Exchange.asmx")}, CodeHost, false},
		"a URL with a user":        {map[string]page{cloudV2: v2("https://outlook.office365.com@evil.example/")}, CodeUnread, false},
		"a URL that is none":       {map[string]page{cloudV2: v2("x")}, CodeUnread, false},
		"a circle":                 {map[string]page{cloudV2: {status: 302, location: cloudV2}}, CodeLoop, false},
		"not JSON":                 {map[string]page{cloudV2: {body: "<html/>"}}, CodeUnread, false},
		"no URL":                   {map[string]page{cloudV2: {body: "{}"}}, CodeUnread, false},
		"401, which is nobody's":   {map[string]page{cloudV2: {status: 401, header: http.Header{"Www-Authenticate": {"Basic"}}}}, "HTTP 401", false},
		"429":                      {map[string]page{cloudV2: {status: 429}}, "HTTP 429", false},
		"503":                      {map[string]page{cloudV2: {status: 503}}, "HTTP 503", false},
		"another error":            {map[string]page{cloudV2: {status: 400, body: `{"ErrorCode":"InvalidProtocol","ErrorMessage":"a\nb"}`}}, "ErrorCode InvalidProtocol", false},
		"no answer":                {map[string]page{cloudV2: {err: context.DeadlineExceeded}}, "timeout", false},
		"a redirect without where": {map[string]page{cloudV2: {status: 302}}, CodeUnread, false},
	} {
		n := &internet{t: t, web: c.web}
		p, err := n.findOnline(Options{})
		e := fault.Of(err)
		if e.Code != c.code || e.Elsewhere != c.elsewhere || p != (mail.Location{}) || strings.ContainsAny(err.Error(), "\n") || strings.Contains(err.Error(), "user@") {
			t.Errorf("%s: %+v, %v", name, p, err)
		}
		if c.elsewhere != (e.Scope == fault.Mailbox) && c.code != CodeHost && c.code != CodeLoop || e.Scope == fault.Account {
			t.Errorf("%s: it concerns the %s", name, e.Scope)
		}
		for _, a := range n.asked {
			if !strings.Contains(a, cloud) {
				t.Errorf("%s: %s is asked", name, a)
			}
		}
	}
}

func TestTheCloudsRedirectsEnd(t *testing.T) {
	web := map[string]page{cloudV2: {status: 302, location: cloud + "/0"}}
	for i := range 30 {
		web[fmt.Sprintf("%s/%d", cloud, i)] = page{status: 302, location: fmt.Sprintf("%s/%d", cloud, i+1)}
	}
	n := &internet{t: t, web: web}
	if _, err := n.findOnline(Options{}); fault.Of(err).Code != CodeLoop || len(n.asked) != 11 {
		t.Errorf("%v, %q", err, n.asked)
	}
}

func TestACloudOfItsOwnIsTrustedAsConfigured(t *testing.T) {
	n := &internet{t: t, web: map[string]page{"https://127.0.0.1:4443/autodiscover/autodiscover.json/v1.0/user@contoso.com?Protocol=EWS": v2("https://127.0.0.1:4444/EWS/Exchange.asmx")}}
	o := Options{Online: true, Cloud: "https://127.0.0.1:4443/", EWS: "https://127.0.0.1:4444/EWS/Exchange.asmx"}
	if p, err := n.find(o); err != nil || p.URL != o.EWS {
		t.Errorf("%+v, %v, %q", p, err, n.asked)
	}
	o.EWS = "" // then what is on that port is another's
	if _, err := n.find(o); !fault.Of(err).Elsewhere {
		t.Errorf("%v", err)
	}
	o.Hosts.Trusted = []string{"127.0.0.1:4444"}
	if p, err := n.find(o); err != nil || p.URL != "https://127.0.0.1:4444/EWS/Exchange.asmx" {
		t.Errorf("%+v, %v", p, err)
	}
}

func TestARedirectOutOfTheCloudIsAnotherEntrys(t *testing.T) {
	n := &internet{t: t, web: map[string]page{cloudV2: v2(cloudEWS), cloudSOAP: {body: soap(userRedirect("RedirectAddress", "user@legacy.contoso.com"))}}}
	_, err := n.findOnline(Options{Elsewhere: func(d string) bool { return d == "legacy.contoso.com" }})
	if e := fault.Of(err); e.Code != CodeElsewhere || !e.Elsewhere {
		t.Errorf("%v", err)
	}
}

func TestACloudThatRefusesSOAPIsNotAskedAgainForAnHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &internet{t: t, web: map[string]page{cloudV2: v2(cloudEWS), cloudSOAP: {status: 401}}}
		c := n.client(Options{Online: true, Cloud: cloud, EWS: cloudEWS})
		find := func(name, group string, soap bool) {
			t.Helper()
			n.asked = nil
			p, err := c.Find(t.Context(), "user@contoso.com")
			if err != nil || p.Group != group || slices.Contains(n.asked, "SOAP "+cloudSOAP+user) != soap {
				t.Errorf("%s: %+v, %v, %q", name, p, err, n.asked)
			}
		}
		find("first", "", true)
		n.web[cloudSOAP] = page{body: soap(userSettings(cloudEWS))}
		find("then", "", false)
		<-time.After(soapPause - time.Second)
		find("within the hour", "", false)
		<-time.After(time.Second)
		find("after it", "Default-First-Site-Name", true)
		n.web[cloudSOAP] = page{body: soap(userError("ServerBusy"))}
		find("where it fails for one", "", true)
		find("it is asked for the next", "", true)
	})
}

// FuzzParseV2 holds that no answer makes the parser panic, and that what it returns is a URL or a typed error.
func FuzzParseV2(f *testing.F) {
	f.Add(200, []byte(`{"Protocol":"EWS","Url":"https://outlook.office365.com/EWS/Exchange.asmx"}`))
	f.Add(200, []byte("\xef\xbb\xbf{\"ErrorCode\":\"UserNotFound\",\"ErrorMessage\":\"\\u0000\"}"))
	f.Add(404, []byte(`[]`))
	f.Add(500, []byte(``))
	f.Fuzz(func(t *testing.T, code int, b []byte) {
		u, err := parseV2(code, b)
		if (err == nil) == (u == "") || err != nil && (err.Code == "" || err.Scope == 0 || err.Remedy == 0) {
			t.Fatalf("%q, %#v", u, err)
		}
		if err != nil && strings.ContainsAny(err.Error(), "\n\x00") {
			t.Fatalf("%q", err.Error())
		}
	})
}
