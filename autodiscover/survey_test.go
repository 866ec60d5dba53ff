package autodiscover

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mailbell/mailbell/auth"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/simulator"
)

// survey makes a survey of user@contoso.com, and fails the test where anything but GET requests without credentials is made.
func (n *internet) survey(o Options) Survey {
	n.t.Helper()
	c := n.client(o)
	c.o.HTTP = roundTrip(func(r *http.Request) (*http.Response, error) {
		n.t.Errorf("credentials go to %s", r.URL)
		return n.answer(r, "", "")
	})
	c.o.Cloud, c.o.EWS, c.o.Hosts = cloud, cloudEWS, auth.Hosts{Online: true, URLs: []string{cloudEWS, cloud}}
	found, err := c.Survey(n.t.Context(), "User@Contoso.com")
	if err != nil {
		n.t.Fatal(err)
	}
	return found
}

func TestASurveyFindsWhereAMailboxMayBeWithoutCredentials(t *testing.T) {
	exchange := page{status: 401, header: http.Header{"X-Feserver": {"EX01"}, "Www-Authenticate": {"Negotiate", "NTLM", `Basic realm="mail"`}}}
	hoster := page{status: 401, header: http.Header{"Www-Authenticate": {`Basic realm="web"`}}}
	offers := []string{"Negotiate", "NTLM", "Basic"}
	namedV2 := "https://autodiscover.contoso.com/autodiscover/autodiscover.json/v1.0/user@contoso.com?Protocol=EWS"
	inCloud := Finding{Online: true, EWS: cloudEWS, How: "Autodiscover V2 at autodiscover-s.outlook.com"}
	here := Finding{URL: named, Offers: offers, How: "Autodiscover at autodiscover.contoso.com"}
	withEWS := here
	withEWS.EWS = mailURL
	for name, c := range map[string]struct {
		web  map[string]page
		srv  []*net.SRV
		url  string
		want []Finding
	}{
		"on premises":                      {map[string]page{named: exchange}, nil, "", []Finding{here}},
		"on premises, with V2":             {map[string]page{named: exchange, namedV2: v2(mailURL)}, nil, "", []Finding{withEWS}},
		"in the cloud":                     {map[string]page{cloudV2: v2(cloudEWS)}, nil, "", []Finding{inCloud}},
		"the cloud does not know it":       {map[string]page{cloudV2: {status: 404, body: `{"ErrorCode":"UserNotFound"}`}, named: exchange}, nil, "", []Finding{here}},
		"the cloud says yes to all":        {map[string]page{cloudV2: v2(cloudEWS), named: exchange}, nil, "", []Finding{here, inCloud}},
		"moved to the cloud":               {map[string]page{cloudV2: v2(cloudEWS), named: exchange, namedV2: {status: 302, location: cloudV2}}, nil, "", []Finding{{Online: true, EWS: cloudEWS, How: "Autodiscover V2 at autodiscover.contoso.com, which leads to autodiscover-s.outlook.com"}, here}},
		"the domain leads to the cloud":    {map[string]page{cloudV2: v2(cloudEWS), plain: {status: 302, location: cloud + poxPath}}, nil, "", []Finding{{Online: true, EWS: cloudEWS, How: "the Autodiscover of contoso.com, which leads to autodiscover-s.outlook.com"}}},
		"by HTTP redirect":                 {map[string]page{plain: {status: 302, location: "https://mail.fabrikam.net" + poxPath}, "https://mail.fabrikam.net" + poxPath: exchange}, nil, "", []Finding{{URL: "https://mail.fabrikam.net" + poxPath, Offers: offers, How: "Autodiscover at mail.fabrikam.net"}}},
		"by SRV":                           {map[string]page{"https://srv.contoso.com" + poxPath: exchange}, []*net.SRV{{Target: "srv.contoso.com.", Port: 443}}, "", []Finding{{URL: "https://srv.contoso.com" + poxPath, Offers: offers, How: "Autodiscover at srv.contoso.com"}}},
		"a web hoster asks for a password": {map[string]page{bare: hoster, named: hoster}, nil, "", nil},
		"a redirect away from https":       {map[string]page{named: {status: 302, location: plain}}, nil, "", nil},
		"a redirect in a circle":           {map[string]page{named: {status: 302, location: named}}, nil, "", nil},
		"nothing":                          {nil, nil, "", nil},
		"a URL is given":                   {map[string]page{named: exchange, bare: hoster}, nil, bare, []Finding{{URL: bare, Offers: []string{"Basic"}, How: "Autodiscover at contoso.com"}}},
	} {
		n := &internet{t: t, web: c.web, srv: c.srv}
		if diff := cmp.Diff(c.want, n.survey(Options{URL: c.url}).Findings); diff != "" {
			t.Errorf("%s: -want +got\n%s", name, diff)
		}
		for _, a := range n.asked {
			if !strings.HasPrefix(a, "GET ") && !strings.HasPrefix(a, "SRV ") {
				t.Errorf("%s: %s", name, a)
			}
		}
	}
}

func TestASurveyAsksTenRedirectsAtMost(t *testing.T) {
	n := &internet{t: t, web: map[string]page{}}
	for i := range 30 {
		n.web["https://r"+string(rune('a'+i))+".contoso.com/"] = page{status: 302, location: "https://r" + string(rune('b'+i)) + ".contoso.com/"}
	}
	if found := n.survey(Options{URL: "https://ra.contoso.com/"}); found.Findings != nil || len(n.asked) > maxHops+2 {
		t.Errorf("%d requests, found %v", len(n.asked), found.Findings)
	}
}

func TestASurveyNamesTheHostsWhoseAuthorityIsNotTrusted(t *testing.T) {
	unknown := page{err: &tls.CertificateVerificationError{UnverifiedCertificates: []*x509.Certificate{{}}, Err: x509.UnknownAuthorityError{Cert: &x509.Certificate{}}}}
	found := (&internet{t: t, web: map[string]page{named: unknown}}).survey(Options{})
	if !slices.Equal(found.Distrusted, []string{"autodiscover.contoso.com"}) || !slices.Contains(found.Asked, named+": certificate") {
		t.Errorf("found %+v", found)
	}
}

func TestASurveyEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := (&internet{t: t}).client(Options{}).Survey(ctx, "user@contoso.com")
	if fault.Of(err).Code != "cancelled" {
		t.Errorf("the error is %v", err)
	}
	if _, err := (&internet{t: t}).client(Options{}).Survey(t.Context(), "nobody"); fault.Of(err).Code != CodeAddress {
		t.Errorf("the error is %v", err)
	}
}

func TestASurveyOfTheSimulatorTellsPremisesFromCloud(t *testing.T) {
	sim := start(t, simulator.Options{Hybrid: true, Mailboxes: 2, Auth: []string{simulator.AuthNTLM}})
	c := New(Options{
		Plain: plainTripper(t, sim), URL: sim.AutodiscoverURL, UserAgent: "mailbell/test", Cloud: sim.OnlineAutodiscoverURL, EWS: sim.OnlineURL,
		Hosts: auth.Hosts{Online: true, URLs: []string{sim.OnlineURL, sim.OnlineAutodiscoverURL}},
	})
	for address, online := range map[string]bool{"user0001@contoso.example": false, "user0002@contoso.example": true} {
		found, err := c.Survey(t.Context(), address)
		if err != nil || len(found.Findings) == 0 {
			t.Fatalf("%s: %+v, %v", address, found, err)
		}
		p := found.Findings[0]
		if p.Online != online || !online && (p.EWS != sim.EWSURL || !slices.Contains(p.Offers, "NTLM")) {
			t.Errorf("%s: found %+v", address, found.Findings)
		}
	}
}

func TestASurveyThatIsCutShortKeepsWhatItFound(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	n := &internet{t: t, web: map[string]page{named: {status: 401, header: http.Header{"X-Feserver": {"EX01"}}}}}
	c := n.client(Options{})
	c.o.Hosts = auth.Hosts{Online: true}
	plainly := c.o.Plain
	c.o.Plain = roundTrip(func(r *http.Request) (*http.Response, error) {
		if strings.HasSuffix(r.URL.Path, "user@contoso.com") { // V2, after the challenge
			cancel()
			return nil, ctx.Err()
		}
		return plainly.RoundTrip(r)
	})
	found, err := c.Survey(ctx, "user@contoso.com")
	if err == nil || len(found.Findings) != 1 {
		t.Errorf("found %+v, %v", found, err)
	}
}
