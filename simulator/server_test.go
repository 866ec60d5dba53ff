package simulator

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/smtp"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
)

func TestSMTPDeliversToKnownMailboxesOnly(t *testing.T) {
	s, a, b := pair(t)
	if err := smtp.SendMail(s.SMTPAddr, nil, "x@partner.example", []string{a.mailbox, strings.ToUpper(b.mailbox)}, testMail("by SMTP")); err != nil {
		t.Fatal(err)
	}
	a.must(findItem(0, 1, "Descending"), "<t:Subject>by SMTP</t:Subject>")
	b.must(findItem(0, 1, "Descending"), "<t:Subject>by SMTP</t:Subject>")
	if err := smtp.SendMail(s.SMTPAddr, nil, "x@partner.example", []string{"nobody@contoso.example"}, testMail("x")); err == nil || !strings.HasPrefix(err.Error(), "550") {
		t.Errorf("an unknown mailbox: %v", err)
	}
}

// control calls the control API.
func control(t *testing.T, s *Server, method, path, body string, header ...string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, s.ControlURL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		if r.Header.Set(header[i], header[i+1]); header[i] == "Host" {
			r.Host = header[i+1]
		}
	}
	tr := &http.Transport{}
	defer tr.CloseIdleConnections()
	resp, err := tr.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if kind := resp.Header.Get("Content-Type"); resp.StatusCode >= 400 && kind != "application/problem+json" {
		t.Errorf("%s %s: %d as %q", method, path, resp.StatusCode, kind)
	}
	return resp.StatusCode, string(text)
}

func TestControlAPI(t *testing.T) {
	s, a, _ := pair(t)
	for _, step := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"POST", "/messages?to=" + a.mailbox + "&received=2026-11-22T09:00:00Z", "Subject: x\r\n\r\n", 200, `{"item_id":"AAMk`},
		{"POST", "/messages?to=nobody@contoso.example", "Subject: x\r\n\r\n", 404, `"field":"to"`},
		{"POST", "/messages", "", 404, `"field":"to"`},
		{"POST", "/messages?to=" + a.mailbox + "&received=now", "", 400, `"field":"received"`},
		{"POST", "/messages?to=" + a.mailbox + "&recieved=x", "", 400, `"field":"recieved"`},
		{"GET", "/alerts", "", 200, ""},
		{"GET", "/alerts?after=-1", "", 400, `"field":"after"`},
		{"GET", "/alerts?wait=61", "", 400, `"field":"wait"`},
		{"GET", "/alerts?wait=NaN", "", 400, `"field":"wait"`},
		{"GET", "/alerts?after=0&wait=0.01", "", 200, ""},
		{"GET", "/faults", "", 200, `"name":"stream_fin","text":"`},
		{"PUT", "/faults/events_dropped", `{"mailbox":"` + a.mailbox + `","share":0.5,"count":3}`, 204, ""},
		{"GET", "/faults", "", 200, `"set":{"mailbox":"` + a.mailbox + `","share":0.5,"count":3}`},
		{"DELETE", "/faults/events_dropped", "", 204, ""},
		{"DELETE", "/faults/events_dropped", "", 204, ""},
		{"PUT", "/faults/stream_rst", "", 204, ""},
		{"PUT", "/faults/stream_rst", `{"share":2}`, 422, `"field":"share"`},
		{"PUT", "/faults/stream_rst", `{"token":"a"}`, 422, `"field":"token"`},
		{"PUT", "/faults/stream_rst", `{"mailboxes":1}`, 400, "unknown field"},
		{"PUT", "/faults/stream_rst", `{} {}`, 400, "behind"},
		{"PUT", "/faults/stream_rst", `[]`, 400, "object"},
		{"PUT", "/faults/nope", "", 404, "stream_fin"},
		{"DELETE", "/faults/nope", "", 404, "stream_fin"},
		{"POST", "/mailboxes/new@contoso.example", "", 201, ""},
		{"POST", "/mailboxes/new@contoso.example", "", 409, "already"},
		{"POST", "/mailboxes/new@contoso.example?alias=also@contoso.example", "", 200, `"aliases":["also@contoso.example"]`},
		{"POST", "/mailboxes/new@contoso.example?alias=also@contoso.example", "", 409, `"field":"alias"`},
		{"POST", "/mailboxes/new@contoso.example?alias=also", "", 422, `"field":"alias"`},
		{"POST", "/mailboxes/nobody@contoso.example?alias=x@contoso.example", "", 404, `"field":"address"`},
		{"POST", "/mailboxes/nobody@contoso.example?host=onpremises", "", 201, `"host":"onpremises","server":"exch01.contoso.example"`},
		{"POST", "/mailboxes/nobody@contoso.example?host=onpremises", "", 200, `"host":"onpremises"`},
		{"POST", "/mailboxes/nobody@contoso.example?host=online", "", 422, `"field":"host"`},
		{"POST", "/mailboxes/nobody@contoso.example?host=online&server=x", "", 400, "one of"},
		{"POST", "/mailboxes/nobody@contoso.example?hosts=online", "", 400, `"field":"hosts"`},
		{"POST", "/mailboxes/nobody@contoso.example?server=exch01", "", 200, `"server":"exch01.contoso.example"`},
		{"POST", "/mailboxes/nobody@contoso.example?server=exch02", "", 422, `"field":"server"`},
		{"POST", "/mailboxes/nobody@contoso.example?primary=somebody@contoso.example", "", 200, `{"address":"somebody@contoso.example","aliases":["nobody@contoso.example"]`},
		{"GET", "/mailboxes/nobody@contoso.example", "", 200, `{"address":"somebody@contoso.example"`},
		{"DELETE", "/mailboxes/somebody@contoso.example", "", 204, ""},
		{"GET", "/mailboxes/nobody@contoso.example", "", 404, `"field":"address"`},
		{"POST", "/mailboxes/new", "", 422, "not a mail address"},
		{"GET", "/mailboxes", "", 200, "new@contoso.example"},
		{"DELETE", "/mailboxes/new@contoso.example", "", 204, ""},
		{"DELETE", "/mailboxes/new@contoso.example", "", 404, "address"},
		{"GET", "/counts", "", 200, `"open_streams":0`},
		{"GET", "/counts?host=onpremises", "", 200, `"open_streams":0`},
		{"GET", "/counts?host=online", "", 422, `"field":"host"`},
		{"GET", "/entra", "", 200, s.ClientID},
		{"GET", "/nope", "", 404, "POST /messages"},
	} {
		if status, text := control(t, s, step.method, step.path, step.body); status != step.status || !strings.Contains(text, step.want) {
			t.Errorf("%s %s %s: %d %s", step.method, step.path, step.body, status, text)
		}
	}
	goodPush(t, s).send(t, s, pushClient(t, s))
	_, text := control(t, s, "GET", "/alerts?after=0", "")
	var a1 map[string]any
	if err := json.Unmarshal([]byte(text), &a1); err != nil || a1["n"] != 1.0 || a1["token"] != deviceToken || a1["status"] != 200.0 || a1["payload"] == nil || a1["headers"] == nil || a1["at"] == nil {
		t.Errorf("an alert is told as %s, %v", text, err)
	}
	if _, text := control(t, s, "GET", "/alerts?after=1", ""); text != "" {
		t.Errorf("after the last: %s", text)
	}
	for _, header := range [][]string{{"Origin", "https://evil.example"}, {"Host", "evil.example"}} {
		if status, _ := control(t, s, "GET", "/alerts", "", header...); status != 403 {
			t.Errorf("%v: %d", header, status)
		}
	}
}

func TestDirHasEverythingThatTheServiceNeedsAndNobodyElseMayReadIt(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	for range 2 { // the second start writes over the first
		s, err := Start(t.Context(), Options{Mailboxes: 2, Addresses: []string{"Boss@Fabrikam.example"}, Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{caFile, passwordFile, pushKeyFile, enrolFile, adminFile, configFile} {
			info, err := os.Stat(filepath.Join(dir, name))
			if err != nil || info.Mode().Perm() != 0o600 || info.Size() == 0 {
				t.Errorf("%s: %v, %v", name, info, err)
			}
		}
		text, err := os.ReadFile(s.ConfigFile)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), s.Password) {
			t.Error("the configuration holds the password")
		}
		var c map[string]any
		if err := yaml.Unmarshal(text, &c); err != nil {
			t.Fatalf("%v in %s", err, text)
		}
		for _, want := range []string{"listen: " + strings.TrimPrefix(s.APIURL, "http://"), "path: mailbell.db", "type: exchange", "listen_by: streaming", "- contoso.example\n", "- fabrikam.example\n",
			"autodiscover_url: " + s.AutodiscoverURL, "ca_file: ca.pem", "requests_per_second: 10000", `username: "CONTOSO\\svc-bell"`, "password_file: password", "topic: " + s.Topic,
			"environment: production", "url: " + s.APNsURL, "key_file: apns.p8", "key_id: " + s.KeyID, "team_id: " + s.TeamID, "name: mdm", "role: enrol", "name: operator", "role: admin"} {
			if !strings.Contains(string(text), want) {
				t.Errorf("no %q in\n%s", want, text)
			}
		}
		password, _ := os.ReadFile(filepath.Join(dir, passwordFile))
		if strings.TrimSpace(string(password)) != s.Password {
			t.Error("the file has another password")
		}
		line, err := json.Marshal(s.Announce())
		if err != nil {
			t.Fatal(err)
		}
		var said map[string]any
		if err := json.Unmarshal(line, &said); err != nil {
			t.Fatal(err)
		}
		for _, key := range []string{"ews_url", "autodiscover_url", "apns_url", "smtp", "ca_file", "username", "password", "mailboxes", "config", "control_url", "api_url", "api_token_file", "topic", "token_url"} {
			if v := fmt.Sprint(said[key]); v == "" || v == "<nil>" {
				t.Errorf("%s is not announced", key)
			}
		}
		if len(said) != 14 {
			t.Errorf("announced: %s", line)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestDirOfAHybridOrganisationHasAnEntryForEachHost(t *testing.T) {
	s := start(t, Options{Mailboxes: 3, Hybrid: true, Dir: t.TempDir()})
	text, err := os.ReadFile(s.ConfigFile)
	if err != nil {
		t.Fatal(err)
	}
	var c struct {
		Exchange []exchangeEntry `yaml:"exchange"`
	}
	if err := yaml.Unmarshal(text, &c); err != nil || len(c.Exchange) != 3 {
		t.Fatalf("%d entries, %v: %s", len(c.Exchange), err, text)
	}
	here, cloud, other := c.Exchange[0], c.Exchange[1], c.Exchange[2]
	if here.Name != "onpremises" || here.Type != "exchange" || here.AutodiscoverURL != s.AutodiscoverURL || here.ListenerAccounts[0].Basic.Username != s.Username {
		t.Errorf("on premises: %+v", here)
	}
	secret := cloud.ListenerAccounts[0].ClientSecret
	if cloud.Name != "online" || cloud.Type != "online" || cloud.Cloud != "custom" || cloud.CloudURLs.EWS != s.OnlineURL || cloud.CloudURLs.Autodiscover != s.OnlineAutodiscoverURL ||
		cloud.CloudURLs.Authority != s.Authority || secret.TenantID != s.TenantID || secret.ClientID != s.ClientID || secret.Expires <= time.Now().Format(time.DateOnly) {
		t.Errorf("online: %+v", cloud)
	}
	if other.Name != "other" || other.Type != "exchange" || other.EWSURL != s.OtherURL || other.AutodiscoverURL != "" || other.ListenerAccounts[0].Basic.Username != s.OtherUsername {
		t.Errorf("other: %+v", other)
	}
	if got, err := os.ReadFile(filepath.Join(filepath.Dir(s.ConfigFile), secret.SecretFile)); err != nil || strings.TrimSpace(string(got)) != s.ClientSecret || strings.Contains(string(text), s.ClientSecret) {
		t.Errorf("the client secret: %v", err)
	}
	line, err := json.Marshal(s.Announce())
	if err != nil || !strings.Contains(string(line), `"online_url":"`+s.OnlineURL+`","other_url":"`+s.OtherURL+`"`) {
		t.Errorf("announced: %s, %v", line, err)
	}
}

func TestStartRefusesWhatItCannotDo(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, o := range map[string]Options{
		"mailboxes below 0":      {Mailboxes: -1},
		"servers below 0":        {Servers: -1},
		"a sign-in that is not":  {Auth: []string{AuthBasic, "kerberos"}},
		"an address that is not": {Addresses: []string{"nobody"}},
		"an address twice":       {Addresses: []string{"a@b.example", "A@B.example"}},
		"a directory under file": {Dir: filepath.Join(file, "x")},
	} {
		if s, err := Start(t.Context(), o); err == nil {
			s.Close()
			t.Errorf("%s: it starts", name)
		}
	}
}

func TestDeliveryNamesWhatIsWrong(t *testing.T) {
	s, a, _ := pair(t)
	if _, err := s.Deliver("nobody@contoso.example", time.Time{}, nil); !errors.Is(err, ErrNoMailbox) {
		t.Errorf("%v", err)
	}
	if _, err := s.Deliver(a.mailbox, time.Time{}, make([]byte, maxMessage+1)); err == nil {
		t.Error("a message over the limit is taken")
	}
}

func TestThousandsOfMailboxesAreHeardAtOnce(t *testing.T) {
	const mailboxes, each = 2000, 3
	s, err := Start(t.Context(), Options{Mailboxes: mailboxes}) // not validated: it is many
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var ids []string
	c := newClient(t, s, "")
	for _, address := range s.Mailboxes() {
		c.mailbox = address
		ids = append(ids, c.subscribe(subscribeNewMail))
	}
	heard := make(chan int, mailboxes)
	for at := 0; at < len(ids); at += maxIDs {
		c.mailbox = s.Mailboxes()[at]
		o := c.stream(ids[at : at+maxIDs]...)
		go func() {
			r := bufio.NewReaderSize(o.resp.Body, 1<<16)
			for n := 0; n < maxIDs*each; {
				line, err := r.ReadString('>')
				if err != nil {
					break
				}
				if line == "<t:NewMailEvent>" {
					n++
					heard <- 1
				}
			}
		}()
	}
	for range each {
		for _, address := range s.Mailboxes() {
			deliver(t, s, address, "x")
		}
	}
	deadline := time.After(soon)
	for n := range mailboxes * each {
		select {
		case <-heard:
		case <-deadline:
			t.Fatalf("%d of %d events within %v", n, mailboxes*each, soon)
		}
	}
}
