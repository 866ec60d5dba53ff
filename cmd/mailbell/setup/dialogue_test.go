package setup

// Dialogues about other installations, against the simulator.

import (
	"bytes"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/mailbell/mailbell/config"
	"github.com/mailbell/mailbell/internal/credential"
	"github.com/mailbell/mailbell/proxy/proxytest"
	"github.com/mailbell/mailbell/simulator"
)

// further are the answers about the app and this machine.
func (s *stand) further() []string {
	return []string{s.Topic, "", s.file("apns.p8"), s.KeyID, s.TeamID, "", "", s.listen}
}

func TestInADialogueNTLMIsTheDefaultWhereExchangeOffersIt(t *testing.T) {
	s := newStand(t, simulator.Options{Auth: []string{simulator.AuthBasic, simulator.AuthNTLM}, ExtendedProtection: true})
	o := s.run(Options{Given: s.known()}, slices.Concat([]string{"", s.CAFile, "", "", "", s.Username, s.Password, "", ""}, s.further())...)
	if c := s.loaded(o); c.Exchange[0].Accounts[0].Credential.Method != credential.NTLM {
		t.Errorf("the account is %+v", c.Exchange[0].Accounts[0].Credential)
	}
	if !strings.Contains(o.out, "one signs in there by ") || !strings.Contains(o.talk, "How does the listener account sign in (basic, ntlm) [ntlm]") {
		t.Errorf("%s\n%s", o.out, o.talk)
	}
}

func TestInADialogueAnAppSignsInToTheCloud(t *testing.T) {
	s := newStand(t, simulator.Options{Hybrid: true})
	known := with(s.known(), s.cloud())
	delete(known, "autodiscover-url")
	inCloud := Options{Address: "user0002@contoso.example"}

	inCloud.Given = with(known, nil)
	o := s.run(inCloud, slices.Concat([]string{"", "", "", "", "", s.TenantID, s.ClientID, s.ClientSecret, "", "", ""}, s.further())...)
	if d := s.loaded(o).Exchange[0].Accounts[0].Credential; d.Method != credential.ClientSecret || string(d.Secret) != s.ClientSecret {
		t.Errorf("the account is %+v", d)
	}
	for _, want := range []string{"found: Exchange Online, by Autodiscover V2", "ok exchange cloud: account listener-01: read"} {
		if !strings.Contains(o.out, want) {
			t.Errorf("%q is not in\n%s", want, o.out)
		}
	}
	if !strings.Contains(o.talk, "Application Mail.Read") {
		t.Errorf("what to set up is not in\n%s", o.talk)
	}

	both, public := appCertificate(t)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.ControlURL+"/entra/certificates", bytes.NewReader(public))
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if resp.Body.Close(); resp.StatusCode != http.StatusCreated {
		t.Fatalf("registering the certificate: %s", resp.Status)
	}
	if err := os.RemoveAll(s.dir); err != nil {
		t.Fatal(err)
	}
	inCloud.Given = with(known, nil)
	file := s.write("app.pem", string(both))
	o = s.run(inCloud, slices.Concat([]string{"", "", "", "", "certificate", s.TenantID, s.ClientID, file, "", "", ""}, s.further())...)
	if d := s.loaded(o).Exchange[0].Accounts[0].Credential; d.Method != credential.Certificate || d.Certificate == nil {
		t.Errorf("the account is %+v", d)
	}
	if !strings.Contains(o.out, "ok exchange cloud: account listener-01: token") {
		t.Errorf("the certificate is not tried:\n%s", o.out)
	}
}

func TestEverythingGoesThroughTheProxyFromTheFirstQuestionOn(t *testing.T) {
	s := newStand(t, simulator.Options{})
	socks := proxytest.StartSOCKS(t)
	o := s.run(Options{Given: with(s.onPremises(), Given{
		"proxy": "socks5://" + socks.Address, "proxy-username": proxytest.Username, "proxy-password-file": s.write("proxy", proxytest.Password+"\n"),
	}), Yes: true})
	if c := s.loaded(o); c.Proxy == nil || c.Proxy.URL != "socks5://"+socks.Address || string(c.Proxy.Password) != proxytest.Password {
		t.Errorf("proxy is %+v", c.Proxy)
	}
	first, _, _ := strings.Cut(strings.TrimPrefix(s.AutodiscoverURL, "https://"), "/")
	asked := socks.Asked()
	if len(asked) == 0 || !strings.Contains(asked[0], first) || !slices.ContainsFunc(asked, func(a string) bool { return strings.Contains(a, strings.TrimPrefix(s.APNsURL, "https://")) }) {
		t.Errorf("the proxy was asked for %v", asked)
	}
}

func TestAStateThatCannotBeReachedIsSaidAndAskedAgain(t *testing.T) {
	s := newStand(t, simulator.Options{})
	given := without(with(s.onPremises(), Given{"method": "basic", "mailboxes": "10", "apns-environment": "production", "type": "exchange", "domains": "contoso.example", "proxy": ""}), "listen")
	o := s.run(Options{Given: given},
		"",                                       // the plan
		"redis", "127.0.0.1:1", "", "", s.listen, // nobody listens at port 1
		"", "file", "", "", // answer again
	)
	if c := s.loaded(o); c.State.Redis != nil || c.Listen != s.listen {
		t.Errorf("the state is %+v", c.State)
	}
	if !strings.Contains(o.out, "failed state ") || !strings.Contains(o.talk, "answer again: this machine") {
		t.Errorf("%s\n%s", o.out, o.talk)
	}
}

func TestAnAnswerThatAnotherOneMakesUselessIsForgotten(t *testing.T) {
	s := sitting(t)
	s.answerAll(t, map[string]string{"type": "exchange", "method": "basic", "username": "bell", "password": "word"})
	s.answerAll(t, map[string]string{"type": "online", "method": "client_secret"})
	s.Answers = Lines(strings.NewReader(strings.Repeat("\n", 10)))
	for _, name := range []string{"username", "password", "autodiscover-url"} {
		if err := s.ask(t.Context(), named(t, name), true); err != nil {
			t.Fatal(err)
		}
		if v, there := s.answers.value[name]; there {
			t.Errorf("%s is still %q", name, v)
		}
	}
	if text := s.answers.yaml(); strings.Contains(text, "username") || strings.Contains(text, config.OnPremises+"\n") {
		t.Errorf("the configuration is\n%s", text)
	}
}

func TestAFlagThatDoesNotGoWithTheAnswersIsSaid(t *testing.T) {
	s := sitting(t)
	var talk bytes.Buffer
	s.Talk, s.Given = &talk, Given{"redis": "redis1:6379"}
	s.answerAll(t, map[string]string{"state": "file"})
	if err := s.ask(t.Context(), named(t, "redis"), false); err != nil || !strings.Contains(talk.String(), "--redis does not go with the other answers, and is not used") {
		t.Errorf("%v, %q", err, talk.String())
	}
}
