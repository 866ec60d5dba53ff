package exchange

import (
	"net/http"
	"strings"
	"testing"
)

func TestExchange2010IsNotA2013(t *testing.T) {
	s := start(t, 2, Options{Personality: Exchange2010, Servers: 2})
	c := newClient(t, s, s.Mailboxes()[1])
	id := deliver(t, s, c.mailbox, "one")
	resp, body := c.call(getInbox)
	if resp.StatusCode != 500 || !strings.Contains(body, "a:ErrorInvalidServerVersion") || !strings.Contains(body, ">ErrorInvalidServerVersion</e:ResponseCode>") {
		t.Errorf("Exchange2013_SP1: %d %s", resp.StatusCode, body)
	}
	for _, version := range []string{"Exchange2007_SP1", "Exchange2010_SP1", "Exchange2010_SP2"} {
		c.version = version
		c.must(getInbox, "NoError", `MajorVersion="14" MinorVersion="3"`, "<t:TotalCount>1<")
	}
	resp, body = c.call(getItem(id))
	if resp.StatusCode != 500 || !strings.Contains(body, "a:ErrorSchemaValidation") || !strings.Contains(body, "item:Preview") {
		t.Errorf("item:Preview: %d %s", resp.StatusCode, body)
	}
	all := strings.Replace(strings.Replace(getItem(id), "IdOnly", "AllProperties", 1), `<t:FieldURI FieldURI="item:Preview"/>`, "", 1)
	if body := c.must(all, "<t:Subject>one<"); strings.Contains(body, "<t:Preview>") || strings.Contains(body, "<t:InstanceKey>") {
		t.Errorf("it has what came later: %s", body)
	}
	c.must(strings.Replace(getInbox, "</t:BaseShape>", `</t:BaseShape><t:AdditionalProperties><t:FieldURI FieldURI="folder:DistinguishedFolderId"/></t:AdditionalProperties>`, 1), "ErrorSchemaValidation")

	c.header.Set("X-PreferServerAffinity", "true")
	c.header.Set("X-AnchorMailbox", c.mailbox)
	resp, _ = c.call(subscribeNewMail)
	cookies := resp.Cookies()
	if len(cookies) != 1 || cookies[0].Name != "exchangecookie" || resp.Header.Get("X-CalculatedBETarget") != "" || resp.Header.Get("X-FEServer") != "" {
		t.Errorf("the head of an answer: %v", resp.Header)
	}
	c.header.Set("Cookie", "exchangecookie=x")
	var ids []string
	for range streams2010 {
		ids = append(ids, c.subscribe(subscribeNewMail))
		c.stream(ids[len(ids)-1])
	}
	c.must(getStreamingEvents(1, c.subscribe(subscribeNewMail)), "ErrorExceededConnectionCount")

	settings, err := c.send(s.AutodiscoverURL, xmlDeclaration+`<Autodiscover xmlns="`+nsAutodiscoverRequest+`"><Request><EMailAddress>`+c.mailbox+
		`</EMailAddress><AcceptableResponseSchema>`+nsAutodiscoverResponse+`</AcceptableResponseSchema></Request></Autodiscover>`)
	if err != nil {
		t.Fatal(err)
	}
	defer settings.Body.Close()
	pox, err := parseXML(settings.Body)
	if err != nil {
		t.Fatal(err)
	}
	exch := pox.kid(nsAutodiscoverResponse, "Response").kid(nsAutodiscoverResponse, "Account").kid(nsAutodiscoverResponse, "Protocol")
	if got := exch.kid(nsAutodiscoverResponse, "Server").value(); got != "exch02.contoso.example" {
		t.Errorf("EXCH names the server %q", got)
	}
	if got := exch.kid(nsAutodiscoverResponse, "ServerVersion").value(); got != "73838201" {
		t.Errorf("version %s", got)
	}
	if status, a := c.settings([]string{c.mailbox}, "EwsSupportedSchemas", "GroupingInformation", "InternalMailboxServer"); status != 200 ||
		!strings.HasSuffix(a.Response.Users[0].Settings[0].Value, "Exchange2010_SP2") || a.Response.Users[0].Settings[1].Value != "exch02.contoso.example" ||
		a.Response.Users[0].Errors[0].SettingName != "GroupingInformation" {
		t.Errorf("settings: %d %+v", status, a)
	}
	if status, _, _ := v2(t, c, strings.Replace(s.AutodiscoverURL, poxPath, jsonPath, 1)+"/v1.0/"+c.mailbox+"?Protocol=EWS"); status != http.StatusNotFound {
		t.Errorf("V2: %d", status)
	}
}

func TestExchange2007HasNoStreaming(t *testing.T) {
	s := start(t, 1, Options{Personality: Exchange2007})
	c := newClient(t, s, s.Mailboxes()[0])
	for _, version := range []string{"Exchange2013_SP1", "Exchange2010_SP1", "Exchange2010"} {
		c.version = version
		c.must(subscribeNewMail, "a:ErrorInvalidServerVersion")
	}
	c.version = "Exchange2007_SP1"
	c.must(subscribeNewMail, "a:ErrorSchemaValidation")
	c.must(getStreamingEvents(1, "x"), "a:ErrorSchemaValidation")
	c.must(getInbox, "NoError", `MajorVersion="8"`)
	if status, _ := c.settings([]string{c.mailbox}, "ExternalEwsUrl"); status != http.StatusNotFound {
		t.Errorf("Autodiscover as SOAP: %d", status)
	}
}

func TestVersionsAreToldInEveryForm(t *testing.T) {
	for _, tc := range []struct {
		r         release
		text, hex string
	}{{releaseSE, "15.02.2562.017", "73C28A02"}, {release2010, "14.03.0513.000", "73838201"}} {
		if tc.r.text() != tc.text || tc.r.hex() != tc.hex {
			t.Errorf("%s, %s; want %s, %s", tc.r.text(), tc.r.hex(), tc.text, tc.hex)
		}
	}
}
