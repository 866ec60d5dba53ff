package exchange

import (
	"bytes"
	"encoding/xml"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/mailbell/mailbell/simulator/faults"
)

func TestAutodiscover(t *testing.T) {
	s, a, _ := pair(t)
	if err := s.AddAlias("alias@contoso.example", a.mailbox); err != nil {
		t.Fatal(err)
	}
	s.SetRedirect("moved@contoso.example", Redirect{Address: "moved@tenant.example"})
	s.SetRedirect("far@contoso.example", Redirect{URL: "https://far.example/autodiscover/autodiscover.xml"})
	ask := func(c *ewsClient, address string) (int, string) {
		t.Helper()
		resp, err := c.send(s.AutodiscoverURL, xmlDeclaration+`<Autodiscover xmlns="`+nsAutodiscoverRequest+`"><Request><EMailAddress>`+address+
			`</EMailAddress><AcceptableResponseSchema>`+nsAutodiscoverResponse+`</AcceptableResponseSchema></Request></Autodiscover>`)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(text)
	}
	for address, want := range map[string]string{
		"alias@contoso.example":  "<AutoDiscoverSMTPAddress>" + a.mailbox + "</AutoDiscoverSMTPAddress>",
		" " + a.mailbox:          "<GroupingInformation>",
		"nobody@contoso.example": "<ErrorCode>500</ErrorCode>",
		"":                       "<ErrorCode>600</ErrorCode>",
		"moved@contoso.example":  "<RedirectAddr>moved@tenant.example</RedirectAddr>",
		"far@contoso.example":    "<RedirectUrl>https://far.example/autodiscover/autodiscover.xml</RedirectUrl>",
	} {
		if status, text := ask(a, address); status != 200 || !strings.Contains(text, want) {
			t.Errorf("%q: %d %s", address, status, text)
		}
	}
	_, text := ask(a, a.mailbox)
	if _, expr, _ := strings.Cut(text, "<Type>EXPR</Type>"); !strings.Contains(expr, "<EwsUrl>"+s.EWSURL+"</EwsUrl>") || !strings.Contains(expr, "<GroupingInformation>") {
		t.Errorf("the EXPR protocol: %s", text)
	}
	set(t, s, mailboxUnknown, faults.Fault{Mailbox: a.mailbox, Count: 1})
	if _, text := ask(a, a.mailbox); !strings.Contains(text, "<ErrorCode>500<") {
		t.Errorf("an unknown mailbox: %s", text)
	}
	s.SetRedirect("moved@contoso.example", Redirect{})
	if _, text := ask(a, "moved@contoso.example"); !strings.Contains(text, "<ErrorCode>500<") {
		t.Errorf("after the redirect: %s", text)
	}
	a.password = "wrong"
	if status, _ := ask(a, a.mailbox); status != 401 {
		t.Errorf("a wrong password: %d", status)
	}
}

// settingsOf is a GetUserSettings request.
func settingsOf(addresses, settings []string) string {
	var b strings.Builder
	b.WriteString(xmlDeclaration + `<soap:Envelope xmlns:soap="` + nsSOAP + `" xmlns:a="` + nsAutodiscoverSOAP + `"><soap:Header><a:RequestedServerVersion>Exchange2013</a:RequestedServerVersion></soap:Header>` +
		`<soap:Body><a:GetUserSettingsRequestMessage><a:Request><a:Users>`)
	for _, address := range addresses {
		b.WriteString(`<a:User><a:Mailbox>` + address + `</a:Mailbox></a:User>`)
	}
	b.WriteString(`</a:Users><a:RequestedSettings>`)
	for _, s := range settings {
		b.WriteString(`<a:Setting>` + s + `</a:Setting>`)
	}
	b.WriteString(`</a:RequestedSettings></a:Request></a:GetUserSettingsRequestMessage></soap:Body></soap:Envelope>`)
	return b.String()
}

// soapAnswer is what GetUserSettings answers.
type soapAnswer struct {
	Response struct {
		ErrorCode string
		Users     []struct {
			ErrorCode      string
			RedirectTarget string
			Errors         []struct{ ErrorCode, SettingName string } `xml:"UserSettingErrors>UserSettingError"`
			Settings       []struct{ Name, Value string }            `xml:"UserSettings>UserSetting"`
		} `xml:"UserResponses>UserResponse"`
	} `xml:"Body>GetUserSettingsResponseMessage>Response"`
}

// settings asks a host for settings.
func (c *ewsClient) settings(addresses []string, settings ...string) (int, soapAnswer) {
	c.t.Helper()
	resp, err := c.send(strings.Replace(c.url, "/EWS/Exchange.asmx", soapPath, 1), settingsOf(addresses, settings))
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	var a soapAnswer
	if resp.StatusCode == http.StatusOK {
		if err := xml.NewDecoder(resp.Body).Decode(&a); err != nil {
			c.t.Fatal(err)
		}
	}
	return resp.StatusCode, a
}

func TestSettingsOfManyUsersComeAtOnce(t *testing.T) {
	s, here, cloud, other := hybrid(t)
	s.SetRedirect("far@contoso.example", Redirect{URL: "https://far.example/autodiscover/autodiscover.svc"})
	status, a := here.settings([]string{" " + strings.ToUpper(here.mailbox), cloud.mailbox, other.mailbox, "nobody@contoso.example", "far@contoso.example"},
		"ExternalEwsUrl", "InternalEwsUrl", "GroupingInformation", "AutoDiscoverSMTPAddress", "EwsSupportedSchemas", "MobileMailboxPolicy", "Colour")
	if status != 200 || a.Response.ErrorCode != "NoError" || len(a.Response.Users) != 5 {
		t.Fatalf("%d %+v", status, a)
	}
	first := a.Response.Users[0]
	got := map[string]string{}
	for _, v := range first.Settings {
		got[v.Name] = v.Value
	}
	if len(got) != 5 || got["ExternalEwsUrl"] != s.EWSURL || got["InternalEwsUrl"] != s.EWSURL || got["GroupingInformation"] == "" || got["AutoDiscoverSMTPAddress"] != here.mailbox || !strings.HasSuffix(got["EwsSupportedSchemas"], "Exchange2013_SP1") {
		t.Errorf("settings: %v", got)
	}
	if len(first.Errors) != 2 || first.Errors[0].ErrorCode != "SettingIsNotAvailable" || first.Errors[1].ErrorCode != "InvalidSetting" || first.Errors[1].SettingName != "Colour" {
		t.Errorf("errors: %+v", first.Errors)
	}
	for i, want := range []struct{ code, target string }{{"NoError", ""}, {"RedirectAddress", routing(cloud.mailbox)}, {"InvalidUser", ""}, {"InvalidUser", ""},
		{"RedirectUrl", "https://far.example/autodiscover/autodiscover.svc"}} {
		if u := a.Response.Users[i]; u.ErrorCode != want.code || u.RedirectTarget != want.target {
			t.Errorf("user %d: %+v", i, u)
		}
	}
	status, a = cloud.settings([]string{routing(cloud.mailbox), here.mailbox, other.mailbox}, "ExternalEwsUrl", "InternalEwsUrl", "GroupingInformation", "AutoDiscoverSMTPAddress")
	if u := a.Response.Users; status != 200 || len(u) != 3 || len(u[0].Settings) != 3 || u[0].Settings[0].Value != s.OnlineURL || u[0].Settings[2].Value != cloud.mailbox ||
		u[1].ErrorCode != "RedirectUrl" || u[1].RedirectTarget != strings.Replace(s.AutodiscoverURL, ".xml", ".svc", 1) || u[2].ErrorCode != "InvalidUser" {
		t.Errorf("the cloud: %d %+v", status, a)
	}
}

func TestRequestForSettingsIsRefusedAsAWhole(t *testing.T) {
	s, a, b := pair(t)
	for what, tc := range map[string]struct {
		addresses, settings []string
		code                string
	}{
		"as many users as allowed": {slices.Repeat([]string{a.mailbox}, maxSOAPUsers), []string{"ExternalEwsUrl"}, "NoError"},
		"a user too many":          {slices.Repeat([]string{a.mailbox}, maxSOAPUsers+1), []string{"ExternalEwsUrl"}, "InvalidRequest"},
		"no users":                 {nil, []string{"ExternalEwsUrl"}, "InvalidRequest"},
		"no settings":              {[]string{a.mailbox}, nil, "InvalidRequest"},
	} {
		if _, got := a.settings(tc.addresses, tc.settings...); got.Response.ErrorCode != tc.code {
			t.Errorf("%s: %s", what, got.Response.ErrorCode)
		}
	}
	set(t, s, autodiscoverLimit, faults.Fault{Limit: 1})
	if _, got := a.settings([]string{a.mailbox, b.mailbox}, "ExternalEwsUrl"); got.Response.ErrorCode != "InvalidRequest" {
		t.Errorf("over the limit: %+v", got)
	}
	resp, err := a.send(strings.Replace(s.AutodiscoverURL, ".xml", ".svc", 1), "<x/>")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if text, _ := io.ReadAll(resp.Body); resp.StatusCode != 500 || !strings.Contains(string(text), "<faultcode>") {
		t.Errorf("no request: %d %s", resp.StatusCode, text)
	}
	set(t, s, wrongPassword, faults.Fault{Mailbox: b.mailbox})
	if status, _ := a.settings([]string{b.mailbox}, "ExternalEwsUrl"); status != 401 {
		t.Errorf("a wrong password: %d", status)
	}
	if n := s.Counts().Requests["GetUserSettings"]; n != 7 {
		t.Errorf("%d requests are counted", n)
	}
}

// v2 asks without credentials, and does not follow.
func v2(t *testing.T, c *ewsClient, target string) (status int, location, body string) {
	t.Helper()
	resp, err := c.http.Transport.RoundTrip(httptest.NewRequestWithContext(t.Context(), http.MethodGet, target, nil))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header.Get("Location"), strings.TrimSpace(string(text))
}

func TestV2TellsWithoutCredentialsWhereAMailboxIs(t *testing.T) {
	s, here, cloud, other := hybrid(t)
	local := strings.TrimSuffix(s.AutodiscoverURL, poxPath)
	for what, tc := range map[string]struct {
		base, path, query string
		status            int
		location, body    string
	}{
		"the cloud's own":            {s.OnlineAutodiscoverURL, "/v1.0/" + cloud.mailbox, "Protocol=EWS", 200, "", `{"Protocol":"EWS","Url":"` + s.OnlineURL + `"}`},
		"the cloud's own, location":  {s.OnlineAutodiscoverURL, "/v1.0/" + routing(cloud.mailbox), "Protocol=ews&ServerLocation=true", 200, "", `"ServerLocation":"` + onlineForest},
		"the cloud, on premises":     {s.OnlineAutodiscoverURL, "/v1.0/" + here.mailbox, "Protocol=EWS", 302, local + jsonPath + "?Email=" + url.QueryEscape(here.mailbox) + "&Protocol=EWS&RedirectCount=1", ""},
		"the cloud, other":           {s.OnlineAutodiscoverURL, "/v1.0/" + other.mailbox, "Protocol=EWS", 302, local + jsonPath + "?Email=" + url.QueryEscape(other.mailbox) + "&Protocol=EWS&RedirectCount=1", ""},
		"the cloud, nobody":          {s.OnlineAutodiscoverURL, "/v1.0/nobody@contoso.example", "Protocol=EWS", 404, "", `"ErrorCode":"UserNotFound"`},
		"on premises":                {local, "", "Email=" + here.mailbox + "&Protocol=AutodiscoverV1", 200, "", `{"Protocol":"AutodiscoverV1","Url":"` + s.AutodiscoverURL + `"}`},
		"on premises, cloud":         {local, "", "Email=" + cloud.mailbox + "&Protocol=EWS", 302, s.OnlineAutodiscoverURL + jsonPath + "?Email=" + url.QueryEscape(routing(cloud.mailbox)) + "&Protocol=EWS&RedirectCount=1", ""},
		"on premises, other":         {local, "", "Email=" + other.mailbox + "&Protocol=EWS", 404, "", `"ErrorCode":"UserNotFound"`},
		"sent round and round":       {local, "", "Email=" + cloud.mailbox + "&Protocol=EWS&RedirectCount=10", 404, "", "UserNotFound"},
		"no protocol":                {local, "", "Email=" + here.mailbox, 400, "", "MandatoryParameterMissing"},
		"an unknown protocol":        {local, "", "Email=" + here.mailbox + "&Protocol=POP", 400, "", "InvalidProtocol"},
		"no address":                 {local, "", "Protocol=EWS", 400, "", "InvalidUserId"},
		"a path that is none of its": {local, "/v2.0/" + here.mailbox, "Protocol=EWS", 404, "", "404 page not found"},
	} {
		status, location, body := v2(t, here, tc.base+"/autodiscover/autodiscover.json"+tc.path+"?"+tc.query)
		if status != tc.status || location != tc.location || !strings.Contains(body, tc.body) {
			t.Errorf("%s: %d %q %s", what, status, location, body)
		}
	}
}

func TestAutodiscoverOfAMailboxFollowsItsMoves(t *testing.T) {
	s, here, cloud, _ := hybrid(t)
	ask := func(c *ewsClient) string {
		t.Helper()
		_, a := c.settings([]string{here.mailbox}, "ExternalEwsUrl")
		return a.Response.Users[0].ErrorCode
	}
	for _, step := range []struct{ host, here, cloud string }{
		{OnPremises, "NoError", "RedirectUrl"}, {Online, "RedirectAddress", "NoError"}, {Other, "InvalidUser", "InvalidUser"}, {OnPremises, "NoError", "RedirectUrl"},
	} {
		if err := s.Move(here.mailbox, step.host); err != nil {
			t.Fatal(err)
		}
		if a, b := ask(here), ask(cloud); a != step.here || b != step.cloud {
			t.Errorf("at %s: on premises %s, the cloud %s", step.host, a, b)
		}
	}
}

func TestAutodiscoverIsAwayOrRefusesTokens(t *testing.T) {
	s, here, cloud, _ := hybrid(t)
	asked := func(c *ewsClient) int {
		t.Helper()
		status, _ := c.settings([]string{c.mailbox}, "ExternalEwsUrl")
		return status
	}
	set(t, s, autodiscoverRefused, faults.Fault{})
	if a, b := asked(here), asked(cloud); a != 200 || b != 403 {
		t.Errorf("refused: %d, %d", a, b)
	}
	set(t, s, autodiscoverRefused, faults.Fault{Status: 401})
	if b := asked(cloud); b != 401 {
		t.Errorf("refused as 401: %d", b)
	}
	if status, _, _ := v2(t, here, s.OnlineAutodiscoverURL+jsonPath+"/v1.0/"+cloud.mailbox+"?Protocol=EWS"); status != 200 {
		t.Errorf("V2, which takes no token: %d", status)
	}
	cloud.must(getInbox, "NoError")
	clearFault(t, s, autodiscoverRefused)
	set(t, s, autodiscoverAway, faults.Fault{Host: OnPremises})
	if a, b := asked(here), asked(cloud); a != 404 || b != 200 {
		t.Errorf("away: %d, %d", a, b)
	}
	set(t, s, autodiscoverAway, faults.Fault{Reason: answerClosed})
	if resp, err := here.send(s.AutodiscoverURL, ""); err == nil {
		resp.Body.Close()
		t.Error("it answers")
	}
	here.must(getInbox, "NoError")
}

func FuzzAutodiscover(f *testing.F) {
	f.Add("POST", poxPath, []byte(`<Autodiscover xmlns="`+nsAutodiscoverRequest+`"><Request><EMailAddress>user0001@contoso.example</EMailAddress></Request></Autodiscover>`))
	f.Add("POST", soapPath, []byte(settingsOf([]string{"user0001@contoso.example", "<a>"}, []string{"ExternalEwsUrl", "x"})))
	f.Add("GET", jsonPath+"/v1.0/user0001@contoso.example?Protocol=EWS", []byte(nil))
	f.Add("GET", jsonPath+"?Email=%&RedirectCount=-1&Protocol=EWS", []byte(nil))
	f.Fuzz(func(t *testing.T, method, target string, body []byte) {
		u, err := url.ParseRequestURI(target)
		if err != nil || !strings.HasPrefix(strings.ToLower(u.Path), "/autodiscover/") {
			return
		}
		x, c := bareExchange(t)
		r := httptest.NewRequest(http.MethodPost, "/", bytes.NewReader(body))
		r.Method, r.URL = method, u
		r.SetBasicAuth(c.user, c.password)
		w := httptest.NewRecorder()
		x.ServeHTTP(w, r)
		if strings.Contains(w.Header().Get("Content-Type"), "xml") {
			if err := xml.Unmarshal(w.Body.Bytes(), new(struct{})); err != nil {
				t.Errorf("%v in %s", err, w.Body)
			}
		}
	})
}
