package setup

// What is right as an answer to each question.

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/mailbell/mailbell/config"
)

const aGUID = "11111111-2222-3333-4444-555555555555"

// sitting is a session in which nothing is answered yet.
func sitting(t *testing.T) *session {
	t.Helper()
	made, err := generate()
	if err != nil {
		t.Fatal(err)
	}
	s := &session{
		Options: Options{Given: Given{}, Answers: Lines(strings.NewReader("")), Talk: io.Discard, Out: io.Discard, Show: nil},
		answers: answers{value: map[string]string{addressQuestion: "ann@contoso.com"}, data: map[string][]byte{}, generated: made},
	}
	if s.stage, err = open(filepath.Join(t.TempDir(), "new")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.stage.discard)
	if err := s.stage.make(); err != nil {
		t.Fatal(err)
	}
	return s
}

// answerAll answers questions, in the order of the parts.
func (s *session) answerAll(t *testing.T, all map[string]string) {
	t.Helper()
	for _, p := range parts() {
		for _, q := range p.questions {
			if v, ok := all[q.name]; ok {
				if wrong := s.accept(q, v); wrong != nil {
					t.Fatalf("%s: %q is wrong: %v", q.name, v, wrong)
				}
			}
		}
	}
}

// appCertificate is a certificate with an RSA key, and the same without its key, as PEM.
func appCertificate(t *testing.T) (both, public []byte) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "mailbell"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	public = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return slices.Concat(public, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})), public
}

func TestAWrongAnswerToAQuestionIsSaidInWordsAndNotTaken(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, data []byte) string {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
		return filepath.Join(dir, name)
	}
	both, public := appCertificate(t)
	text, empty, huge := write("text", []byte("hello")), write("empty", []byte(" \n")), write("huge", bytes.Repeat([]byte("x"), maxFile+1))
	here := map[string]string{"type": "exchange", "method": "basic"}
	app := map[string]string{"type": "online", "listen-by": "graph", "cloud": "custom", "method": "client_secret"}
	byCertificate := map[string]string{"type": "online", "method": "certificate"}
	through := map[string]string{"proxy": "http://proxy:3128"}
	tested := map[string]bool{}
	inRedis := map[string]string{"state": "redis", "redis-tls": "yes"}
	for _, c := range []struct {
		name         string
		after        map[string]string
		wrong, words string
	}{
		{"proxy", nil, "ftp://proxy:3128", "want"},
		{"proxy-bypass", through, "a b", "want"},
		{"proxy-username", through, "a:b", "colon"},
		{"proxy-password", map[string]string{"proxy": "http://proxy:3128", "proxy-username": "u"}, strings.Repeat("x", 300), "want at most"},
		{addressQuestion, nil, "nobody", "address"},
		{"type", nil, "cloud", "want one of exchange, online"},
		{"domains", nil, "contoso.com, not a domain", "not a mail domain"},
		{"cloud", app, "mars", "want one of global"},
		{"cloud-ews", app, "http://ews", "https://"},
		{"cloud-autodiscover", app, "https://host/path", "without a path"},
		{"cloud-authority", app, "https://u:p@host", "must not have a user name"},
		{"cloud-graph", app, "host", "https://"},
		{"listen-by", app, "push", "want one of graph, streaming"},
		{"public-url", app, "https://127.0.0.1", "leads to this machine only"},
		{"autodiscover-url", here, "http://mail.contoso.com/autodiscover/autodiscover.xml", "https://"},
		{"ews-url", here, "mail.contoso.com", "https://"},
		{"trusted-hosts", here, "https://mail.contoso.com", "not a host name"},
		{caQuestion, here, text, "certificate"},
		{caQuestion, here, filepath.Join(dir, "none"), "no such file"},
		{caQuestion, here, dir, "directory"},
		{"method", here, "certificate", "want one of basic, ntlm, got"},
		{"method", app, "basic", "want one of client_secret, certificate, got"},
		{"username", here, "CON:TOSO", "colon"},
		{"username", map[string]string{"type": "exchange", "method": "ntlm"}, "bell", `DOMAIN\name`},
		{"username", here, "a\x00b", "control character"},
		{"username", here, "a\xffb", "not UTF-8"},
		{"password", here, "", "an answer is needed"},
		{"password", here, "\ufeffword", "byte order mark"},
		{"tenant-id", app, "common", "tenant"},
		{"client-id", app, "mailbell", "want"},
		{"client-secret", app, "", "an answer is needed"},
		{"client-secret-expires", app, "1.5.2027", "want a day as in 2027-05-01"},
		{"certificate", byCertificate, write("public.pem", public), "no private key"},
		{"certificate", byCertificate, empty, "is empty"},
		{"certificate", byCertificate, huge, "larger than"},
		{"certificate-password", map[string]string{"type": "online", "method": "certificate", "certificate": "../../../internal/certificate/testdata/openssl3.pfx"}, "wrong", "cannot be opened with this password"},
		{"mailboxes", nil, "many", "want a number from 1"},
		{"mailboxes", nil, "1000001", "want a number from 1"},
		{"apns-topic", nil, "my app", "want"},
		{"apns-environment", nil, "test", "want one of production, sandbox"},
		{"apns-key", nil, write("rsa.pem", both), "want the .p8 file"},
		{"apns-key-id", nil, "abc", "10 capital letters and digits"},
		{"apns-team-id", nil, "ABCDEFGHIJK", "10 capital letters and digits"},
		{"apns-url", map[string]string{"apns-topic": "com.contoso.mail"}, "http://apns", "https://"},
		{"apns-ca-file", map[string]string{"apns-topic": "com.contoso.mail"}, text, "certificate"},
		{"state", nil, "oracle", "want one of file, redis"},
		{"state-path", nil, "/no/such/folder/bell.db", "does not exist"},
		{"state-path", nil, "no/such/folder/bell.db", "does not exist"},
		{"redis", inRedis, "redis1", "host:port"},
		{"redis", inRedis, "redis1:6379,redis2:6379", "has 2 addresses"},
		{"redis-tls", inRedis, "perhaps", "want one of no, yes"},
		{"redis-ca-file", inRedis, text, "certificate"},
		{"redis-username", map[string]string{"state": "redis", "redis": "redis1:6379", "redis-password": "word"}, "two words", "without spaces"},
		{"redis-password", inRedis, "a\tb", "control character"},
		{"listen", nil, "8080", "want host:port"},
		{"listen", nil, "0.0.0.0:8080", "not loopback"},
		{"listen", nil, "127.0.0.1:0", "other than 0"},
	} {
		s := sitting(t)
		s.answerAll(t, c.after)
		q := named(t, c.name)
		before := s.answers.value[q.name]
		wrong := s.accept(q, c.wrong)
		if len(wrong) == 0 || !strings.Contains(strings.Join(wrong, "\n"), c.words) {
			t.Errorf("%s: of %q it says %q, want %q", c.name, c.wrong, wrong, c.words)
		}
		if s.answers.value[q.name] != before {
			t.Errorf("%s: %q is taken", c.name, c.wrong)
		}
		tested[c.name] = true
	}
	for _, p := range parts() {
		for _, q := range p.questions {
			if !tested[q.name] {
				t.Errorf("no wrong answer to %s is tried", q.name)
			}
		}
	}
}

func TestEveryAnswerArrivesInTheConfiguration(t *testing.T) {
	dir := t.TempDir()
	both, public := appCertificate(t)
	certificate, ca := filepath.Join(dir, "app.pem"), filepath.Join(dir, "ca.pem")
	for name, data := range map[string][]byte{certificate: both, ca: public} {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := sitting(t)
	key := filepath.Join(dir, "apns.p8")
	if err := os.WriteFile(key, s.answers.standIn, 0o600); err != nil {
		t.Fatal(err)
	}
	s.answerAll(t, map[string]string{
		addressQuestion: "Ann@Contoso.com", "proxy": "http://proxy.contoso.com:3128", "proxy-bypass": ".contoso.com, 10.0.0.0/8", "proxy-username": "O'Brien # 1", "proxy-password": " spaces count ",
		"type": "online", "domains": "contoso.com, fabrikam.com", "cloud": "gcc-high", "listen-by": "graph", "public-url": "https://mailbell.contoso.com",
		"method": "certificate", "tenant-id": "contoso.onmicrosoft.com", "client-id": aGUID, "certificate": certificate, "mailboxes": "40",
		"apns-topic": "com.contoso.mail", "apns-environment": "sandbox", "apns-key": key, "apns-key-id": "1234567890", "apns-team-id": "FGHIJ67890",
		"state": "redis", "redis": "redis1:6379", "redis-tls": "yes", "redis-ca-file": ca, "redis-username": "bell", "redis-password": "yes", "listen": "localhost:9090",
	})
	if v := s.answers.value[addressQuestion]; v != "ann@contoso.com" {
		t.Errorf("the address is %s", v)
	}
	c, err := s.load()
	if err != nil {
		t.Fatalf("%v\n%s", err, s.answers.yaml())
	}
	p, x, a, r := c.Proxy, c.Exchange[0], c.APNs[0], c.State.Redis
	if p.URL != "http://proxy.contoso.com:3128" || !slices.Equal(p.Bypass, []string{".contoso.com", "10.0.0.0/8"}) || p.Username != "O'Brien # 1" || p.Password != " spaces count " {
		t.Errorf("proxy is %+v", p)
	}
	if x.Type != config.Online || x.ListenBy != config.ByGraph || !slices.Equal(x.Domains, []string{"contoso.com", "fabrikam.com"}) || x.Cloud != config.CloudOf("gcc-high") ||
		c.PublicURL != "https://mailbell.contoso.com" {
		t.Errorf("exchange is %+v", x)
	}
	if d := x.Accounts[0].Credential; d.Tenant != "contoso.onmicrosoft.com" || d.ClientID != aGUID || d.Certificate == nil {
		t.Errorf("the account is %+v", d)
	}
	if a.Topic != "com.contoso.mail" || a.Environment != config.Sandbox || a.Token.KeyID != "1234567890" || a.Token.TeamID != "FGHIJ67890" {
		t.Errorf("apns is %+v", a)
	}
	if r == nil || r.Address != "redis1:6379" || !r.TLS || r.CA == nil || r.Username != "bell" || r.Password != "yes" || c.Listen != "localhost:9090" {
		t.Errorf("redis is %+v, listen %s", r, c.Listen)
	}
	if text := s.answers.yaml(); strings.Contains(text, "spaces count") {
		t.Errorf("a secret is in\n%s", text)
	}
}

func FuzzATextIsTheSameAfterYAML(f *testing.F) {
	for _, v := range []string{"", "plain", "it's", "yes", "null", "~", "1234567890", "0x10", "1e3", "- a", "a: b", "a #b", "{", "[", "\"", `\`, "&a", "*a", "!x", "|", ">", "%", "@", "`", " space ", "ä", ".inf", "2027-05-01", "a,b", "<<", "=", "a\u2028b", "\u00a0", "\ufeff", "---", "..."} {
		f.Add(v)
	}
	f.Fuzz(func(t *testing.T, v string) {
		s := &session{answers: answers{value: map[string]string{}}}
		if len(v) > 1000 || s.accept(question{}, v) != nil { // none that has a control character is taken
			return
		}
		var read struct {
			Block string
			Flow  []string
		}
		text := "block: " + quoted(v) + "\nflow: [" + quoted(v) + ", last]\n"
		if err := yaml.Unmarshal([]byte(text), &read); err != nil || read.Block != v || len(read.Flow) != 2 || read.Flow[0] != v {
			t.Errorf("%q is read as %q, %v", text, read, err)
		}
	})
}

func TestWhatIsShownAtTheEndCanBeTypedIntoAShell(t *testing.T) {
	for in, want := range map[string]string{"/etc/mailbell/mdm": "/etc/mailbell/mdm", "/a b/$(x)": "'/a b/$(x)'", "it's": `'it'\''s'`, "": "''"} {
		if got := shellQuoted(in); got != want {
			t.Errorf("%q is %s, want %s", in, got, want)
		}
	}
	if got := jsonQuoted("o'brien@contoso.com"); got != `"o\u0027brien@contoso.com"` {
		t.Errorf("it is %s", got)
	}
	for in, want := range map[string]string{"127.0.0.1:8080": "127.0.0.1:8080", "[::]:80": "127.0.0.1:80", ":80": "127.0.0.1:80", "[::1]:80": "[::1]:80", "bell:80": "bell:80"} {
		if got := apiAddress(in); got != want {
			t.Errorf("%s is reached at %s, want %s", in, got, want)
		}
	}
}
