package simulator

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"go.uber.org/goleak"
)

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

func TestDirWithGraphHasTheServiceListenToOnlineByGraph(t *testing.T) {
	s := start(t, Options{Mailboxes: 3, Hybrid: true, Graph: true, Hosts: []string{OnPremises, OnPremises, Online}, Dir: t.TempDir()})
	for i, host := range []string{OnPremises, OnPremises, Online} {
		if m, err := s.Mailbox(s.Mailboxes()[i]); err != nil || m.Host != host {
			t.Errorf("mailbox %d: %+v, %v", i, m, err)
		}
	}
	text, err := os.ReadFile(s.ConfigFile)
	if err != nil {
		t.Fatal(err)
	}
	var c configuration
	if err := yaml.Unmarshal(text, &c); err != nil || len(c.Exchange) != 3 {
		t.Fatalf("%d entries, %v: %s", len(c.Exchange), err, text)
	}
	if here, cloud := c.Exchange[0], c.Exchange[1]; here.ListenBy != ByStreaming || cloud.ListenBy != ByGraph || cloud.CloudURLs.Graph != s.GraphURL {
		t.Errorf("%s", text)
	}
	if c.Callbacks == nil || c.PublicURL != "https://"+c.Callbacks.Listen || c.Callbacks.Listen != s.CallbackAddr || c.Callbacks.Listen == c.Listen {
		t.Fatalf("%s", text)
	}
	dir := filepath.Dir(s.ConfigFile)
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, c.Callbacks.TLS.CertFile), filepath.Join(dir, c.Callbacks.TLS.KeyFile))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: s.RootCAs(), DNSName: "127.0.0.1"}); err != nil {
		t.Errorf("Graph does not trust the certificate of the callbacks: %v", err)
	}
	line, err := json.Marshal(s.Announce())
	if err != nil || !strings.Contains(string(line), `"graph_url":"`+s.GraphURL+`"`) {
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
		"a host that is not":     {Mailboxes: 1, Hosts: []string{Online}},
		"Graph without a cloud":  {Graph: true},
		"an address twice":       {Addresses: []string{"a@b.example", "A@B.example"}},
		"a directory under file": {Dir: filepath.Join(file, "x")},
	} {
		if s, err := Start(t.Context(), o); err == nil {
			s.Close()
			t.Errorf("%s: it starts", name)
		}
	}
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start runs a simulator for one test.
func start(t *testing.T, o Options) *Server {
	t.Helper()
	s, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s
}

// ews sends a call on a mailbox.
func ews(t *testing.T, s *Server, client *http.Client, mailbox, body string) *http.Response {
	t.Helper()
	const types, messages = "http://schemas.microsoft.com/exchange/services/2006/types", "http://schemas.microsoft.com/exchange/services/2006/messages"
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.EWSURL, strings.NewReader(
		`<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/" xmlns:t="`+types+`" xmlns:m="`+messages+`"><s:Header>`+
			`<t:RequestServerVersion Version="Exchange2013_SP1"/><t:ExchangeImpersonation><t:ConnectingSID><t:PrimarySmtpAddress>`+mailbox+
			`</t:PrimarySmtpAddress></t:ConnectingSID></t:ExchangeImpersonation></s:Header><s:Body>`+body+`</s:Body></s:Envelope>`))
	if err != nil {
		t.Fatal(err)
	}
	r.SetBasicAuth(s.Username, s.Password)
	resp, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

func TestCloseEndsOpenStreams(t *testing.T) {
	s, err := Start(t.Context(), Options{Mailboxes: 1})
	if err != nil {
		t.Fatal(err)
	}
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.RootCAs()}}
	defer tr.CloseIdleConnections()
	client, mailbox := &http.Client{Transport: tr}, s.Mailboxes()[0]
	resp := ews(t, s, client, mailbox, `<m:Subscribe><m:StreamingSubscriptionRequest SubscribeToAllFolders="true"><t:EventTypes>`+
		`<t:EventType>NewMailEvent</t:EventType></t:EventTypes></m:StreamingSubscriptionRequest></m:Subscribe>`)
	answer, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(answer), "<m:SubscriptionId>")
	id, _, found := strings.Cut(rest, "</m:SubscriptionId>")
	if !found {
		t.Fatalf("no subscription: %s", answer)
	}
	resp = ews(t, s, client, mailbox, `<m:GetStreamingEvents><m:SubscriptionIds><t:SubscriptionId>`+id+
		`</t:SubscriptionId></m:SubscriptionIds><m:ConnectionTimeout>30</m:ConnectionTimeout></m:GetStreamingEvents>`)
	defer resp.Body.Close()
	if n := s.Counts().OpenStreams; resp.StatusCode != http.StatusOK || n != 1 {
		t.Fatalf("%d streams are open, status %d", n, resp.StatusCode)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if told, _ := io.ReadAll(resp.Body); strings.Contains(string(told), ">Closed<") { // cut off, or at its end
		t.Errorf("the stream ends as if its time were over: %s", told)
	}
	if c, err := net.Dial("tcp", s.SMTPAddr); err == nil {
		c.Close()
		t.Error("something still listens")
	}
}

func TestConfigurationSignsInAsTheServerAsksFor(t *testing.T) {
	s := start(t, Options{Auth: []string{AuthNTLM}})
	if e := s.exchangeEntries()[0].ListenerAccounts[0]; e.Basic != nil || e.NTLM.Username != s.Username {
		t.Errorf("the configuration has the account %+v", e)
	}
}
