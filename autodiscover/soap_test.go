package autodiscover

import (
	"slices"
	"strings"
	"testing"

	"github.com/beevik/etree"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/mail"
)

// soap is an answer with these UserResponses.
func soap(users ...string) string {
	return soapResponse("<ErrorCode>NoError</ErrorCode><ErrorMessage/><UserResponses>" + strings.Join(users, "") + "</UserResponses>")
}

func soapResponse(response string) string {
	return `<?xml version="1.0" encoding="utf-8"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body>` +
		`<GetUserSettingsResponseMessage xmlns="http://schemas.microsoft.com/exchange/2010/Autodiscover"><Response>` + response +
		`</Response></GetUserSettingsResponseMessage></s:Body></s:Envelope>`
}

// soapError is an answer that fails for all.
func soapError(code string) string {
	return soapResponse("<ErrorCode>" + code + "</ErrorCode><ErrorMessage>text of\nthe server</ErrorMessage><UserResponses/>")
}

const soapFault = `<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body><s:Fault><faultcode>s:Receiver</faultcode>` +
	`<faultstring xml:lang="en-US">The server was unable to process the request.</faultstring></s:Fault></s:Body></s:Envelope>`

func setting(name, value string) string {
	return `<UserSetting xmlns:i="http://www.w3.org/2001/XMLSchema-instance" i:type="StringSetting"><Name>` + name + `</Name><Value>` + value + `</Value></UserSetting>`
}

// userSettings is what is said of primary@contoso.com.
func userSettings(ews string) string { return settingsOf("Primary@contoso.com", ews) }

func settingsOf(primary, ews string) string {
	return `<UserResponse><ErrorCode>NoError</ErrorCode><ErrorMessage>No error.</ErrorMessage><UserSettingErrors><UserSettingError>` +
		`<ErrorCode>SettingIsNotAvailable</ErrorCode><SettingName>InternalMailboxServer</SettingName></UserSettingError></UserSettingErrors><UserSettings>` +
		setting("AutoDiscoverSMTPAddress", primary) + setting("ExternalEwsUrl", ews) + setting("GroupingInformation", "Default-First-Site-Name") +
		setting("EwsSupportedSchemas", "Exchange2007, Exchange2010_SP1, Exchange2013") + `</UserSettings></UserResponse>`
}

func userError(code string) string {
	return `<UserResponse><ErrorCode>` + code + `</ErrorCode><ErrorMessage>text of
the server</ErrorMessage><UserSettingErrors/><UserSettings/></UserResponse>`
}

func userRedirect(code, to string) string {
	return `<UserResponse><ErrorCode>` + code + `</ErrorCode><ErrorMessage/><RedirectTarget>` + to + `</RedirectTarget></UserResponse>`
}

func TestTheSOAPQuestionIsThatOfTheDocumentation(t *testing.T) {
	b, err := soapQuestion("https://autodiscover.exchange.microsoft.com/autodiscover/autodiscover.svc", []string{"mara@contoso.com"})
	if err != nil {
		t.Fatal(err)
	}
	ours, official := etree.NewDocument(), etree.NewDocument()
	if err := ours.ReadFromBytes(b); err != nil {
		t.Fatal(err)
	}
	if err := official.ReadFromBytes(sample(t, "40")); err != nil {
		t.Fatal(err)
	}
	// Only which settings are asked for is ours.
	for _, doc := range []*etree.Document{ours, official} {
		settings := doc.FindElement("/Envelope/Body/GetUserSettingsRequestMessage/Request/RequestedSettings")
		for _, s := range settings.ChildElements() {
			if s.Tag != "Setting" || s.NamespaceURI() != nsSettings || s.Text() == "" {
				t.Errorf("%s %s", s.FullTag(), s.Text())
			}
			settings.RemoveChild(s)
		}
	}
	got, want := outline(ours.Root()), outline(official.Root())
	if !slices.Equal(got, want) {
		t.Errorf("%q\nwant\n%q", got, want)
	}
}

// outline lists the elements of a document with their namespaces and texts.
func outline(e *etree.Element) (list []string) {
	list = append(list, e.NamespaceURI()+" "+e.Tag+" "+strings.TrimSpace(e.Text()))
	for _, c := range e.ChildElements() {
		list = append(list, outline(c)...)
	}
	return list
}

func TestOfficialSOAPSamplesAreUnderstood(t *testing.T) {
	for name, want := range map[string]answer{
		"41": {ewsURL: "https://mail.contoso.com/EWS/Exchange.asmx", group: "CONTOSO-1", server: "mail.contoso.com", schema: "Exchange2013"},
		"42": {redirectAddr: "elvin@mail.contoso.com"},
	} {
		got, err := parseSOAP(sample(t, name), []string{"mara@contoso.com"})
		if err != nil || len(got) != 1 || got[0].err != nil || got[0].answer != want {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

func TestSettingsOfSOAP(t *testing.T) {
	for in, want := range map[string]answer{
		setting("ExternalEwsUrl", "out") + setting("InternalEwsUrl", "in"):       {ewsURL: "out", otherURLs: [maxOtherURLs]string{"in"}},
		setting("InternalEwsUrl", "in") + setting("ExternalEwsUrl", ""):          {ewsURL: "in"},
		setting("InternalMailboxServer", "5f76be3c-9138@contoso.com"):            {}, // 2013 and later: the mailbox itself
		setting("InternalMailboxServer", "MBX-1"):                                {server: "MBX-1"},
		setting("AutoDiscoverSMTPAddress", "not an address"):                     {},
		setting("ExternalEwsUrl", "first") + setting("ExternalEwsUrl", "second"): {ewsURL: "first"},
		setting("EwsSupportedSchemas", ""):                                       {},
		`<UserSetting/><x/>`:                                                     {},
	} {
		got, err := parseSOAP([]byte(soap("<UserResponse><UserSettings>"+in+"</UserSettings></UserResponse>")), []string{"a@contoso.com"})
		if err != nil || got[0].err != nil || got[0].answer != want {
			t.Errorf("%s: %+v, %v; want %+v", in, got, err, want)
		}
	}
}

func TestAnAnswerForOthersThanWereAskedIsNotBelieved(t *testing.T) {
	alice, bob := settingsOf("alice@contoso.com", mailURL), settingsOf("bob@contoso.com", mailURL)
	for name, c := range map[string]struct {
		answers []string
		code    string
	}{
		"in order":                {[]string{alice, bob}, ""},
		"an alias":                {[]string{settingsOf("other@contoso.com", mailURL), bob}, ""},
		"one is unknown":          {[]string{userError("InvalidUser"), bob}, ""},
		"in another order":        {[]string{bob, alice}, codeOrder},
		"bob's for alice":         {[]string{bob, userError("InvalidUser")}, codeOrder},
		"one only":                {[]string{bob}, CodeUnread},
		"none":                    {nil, CodeUnread},
		"one too many":            {[]string{alice, bob, bob}, CodeUnread},
		"somebody else before it": {[]string{settingsOf("eve@contoso.com", mailURL), alice}, codeOrder},
	} {
		got, err := parseSOAP([]byte(soap(c.answers...)), []string{"alice@contoso.com", "bob@contoso.com"})
		if (c.code == "") != (err == nil) || err != nil && (err.Code != c.code || got != nil) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

// FuzzParseSOAP holds that no answer makes the parser panic, that there is a reply for each user or a typed error, and that nobody gets
// what is another's by name.
func FuzzParseSOAP(f *testing.F) {
	for _, name := range []string{"41", "42"} {
		f.Add(sample(f, name))
	}
	users := []string{"mara@contoso.com", "bob@contoso.com"}
	f.Add([]byte(soap(userSettings(mailURL), userError("InvalidUser"))))
	f.Add([]byte(soap(settingsOf(users[1], mailURL), settingsOf(users[0], mailURL))))
	f.Add([]byte(soap(userRedirect("RedirectUrl", "https://x"), userRedirect("RedirectAddress", "a@b.example"))))
	f.Add([]byte(soapError("ServerBusy")))
	f.Add([]byte(soapFault))
	f.Fuzz(func(t *testing.T, b []byte) {
		for n := 1; n <= len(users); n++ {
			replies, err := parseSOAP(b, users[:n])
			if err != nil {
				if err.Code == "" || err.Scope == 0 || err.Remedy == 0 || replies != nil {
					t.Fatalf("%+v, %#v", replies, err)
				}
				continue
			}
			if len(replies) != n {
				t.Fatalf("%d replies for %d users", len(replies), n)
			}
			for i, r := range replies {
				if r.err != nil && (r.err.Scope == 0 || r.err.Remedy == 0 || r.answer != answer{}) {
					t.Fatalf("%+v", r)
				}
				if n == 2 && r.primary == users[1-i] {
					t.Fatalf("%s gets what is said of %s", users[i], r.primary)
				}
				if a := r.redirectAddr; a != "" {
					if again, err := mail.ParseAddress(a); err != nil || again != a {
						t.Fatalf("%q", a)
					}
				}
			}
		}
	})
}

func TestAHostileSOAPAnswerHarmsNothing(t *testing.T) {
	for in, want := range map[string]string{
		`<!DOCTYPE Envelope [<!ENTITY a "b">]>` + soap(userSettings(mailURL)): "DTD",
		soap(strings.Repeat("<a>", 32) + strings.Repeat("</a>", 32)):          "depth",
		soap(strings.Repeat(" ", 1<<20)):                                      "larger",
		"<Envelope/>":                                                         "no response",
		"<html/>":                                                             "not one of Autodiscover",
	} {
		if _, err := parseSOAP([]byte(in), []string{"a@contoso.com"}); err == nil || !strings.Contains(err.Error(), want) || err.Scope != fault.Server {
			t.Errorf("%.40q: %v, want %q", in, err, want)
		}
	}
}
