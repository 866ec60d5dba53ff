package config

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"

	"github.com/mailbell/mailbell/internal/credential"
	"go.uber.org/goleak"

	"software.sslmate.com/src/go-pkcs12"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// folder makes a folder with every file that a good configuration names, and some that hold the wrong thing, and moves there.
func folder(t testing.TB) {
	t.Helper()
	dir := t.TempDir()
	write := func(name string, data []byte) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, data, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	key := func(curve elliptic.Curve) (*ecdsa.PrivateKey, []byte) {
		t.Helper()
		k, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		der, err := x509.MarshalPKCS8PrivateKey(k)
		if err != nil {
			t.Fatal(err)
		}
		return k, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	}
	k, p256 := key(elliptic.P256())
	_, p384 := key(elliptic.P384())
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})

	write("secrets/apns.p8", p256)
	_, other := key(elliptic.P256())
	write("secrets/other.p8", other)
	write("secrets/p384.p8", p384)
	write("secrets/broken.p8", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("no key")}))
	write("secrets/svc-bell", []byte("pass word\r\n"))
	write("secrets/two-lines", []byte("one\ntwo\n"))
	write("secrets/bell", []byte("pass\aword\n"))
	write("secrets/utf16", []byte("\xff\xfep\x00w\x00"))
	write("secrets/bom", []byte("\ufeffpassword\n"))
	write("secrets/empty", []byte("\n"))
	write("secrets/mdm", []byte("0123456789abcdef\n"))
	write("secrets/short", []byte("0123456789abcde\n"))
	write("secrets/spaced", []byte("0123456789 abcdef\n"))
	write("secrets/helpdesk", []byte("fedcba9876543210\n"))
	write("secrets/operator", []byte("0f1e2d3c4b5a6978\n"))
	write("secrets/hook", []byte("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n"))
	write("ca.pem", cert)
	write("broken.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("no certificate")}))
	write("cert.pem", cert)
	write("key.pem", p256)
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	for name, encode := range map[string]func() ([]byte, error){
		"apns.pfx":        func() ([]byte, error) { return pkcs12.Modern.Encode(k, leaf, nil, "pass word") },
		"apns-chain.pfx":  func() ([]byte, error) { return pkcs12.Modern.Encode(k, leaf, []*x509.Certificate{leaf}, "pass word") },
		"apns-legacy.pfx": func() ([]byte, error) { return pkcs12.Legacy.Encode(k, leaf, nil, "pass word") },
	} {
		data, err := encode()
		if err != nil {
			t.Fatal(err)
		}
		write(name, data)
	}
	write("apns.pem", slices.Concat(cert, p256))
	mark := []byte("\ufeff")
	write("secrets/marked.p8", slices.Concat(mark, p256))
	write("marked.pem", slices.Concat(mark, cert))
	write("marked-pair.pem", slices.Concat(mark, cert, p256))
	write("ca.der", der)
	write("damaged.pem", slices.Concat([]byte("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n"), cert, p256))
	ber, err := pkcs12.Modern.Encode(k, leaf, nil, "pass word")
	if err != nil {
		t.Fatal(err)
	}
	// Behind the first byte stands the length in three; 0x80 says that two zeros end it.
	write("ber.pfx", slices.Concat([]byte{ber[0], 0x80}, ber[4:], []byte{0, 0}))
	write("large", make([]byte, maxFile+1))
	t.Chdir(dir)
}

// tokenLine is the credential of good's topic.
const tokenLine = "    token: {key_file: secrets/apns.p8, key_id: ABCDE12345, team_id: FGHIJ67890}"

func TestACertificateForAPNsIsReadAsItIsWritten(t *testing.T) {
	folder(t)
	for _, file := range []string{"apns.pfx", "apns-chain.pfx", "apns-legacy.pfx", "apns.pem"} {
		certificate := "    certificate: {file: " + file + ", password_file: secrets/svc-bell}"
		c, err := load(t, strings.Replace(good, tokenLine, certificate, 1))
		if err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		if a := c.APNs[0]; a.Certificate == nil || a.Certificate.Leaf == nil || a.Certificate.PrivateKey == nil || a.Token.KeyPEM != "" {
			t.Errorf("%s: %+v", file, a.Certificate)
		}
	}
}

func TestAPEMFileMayBeginWithAByteOrderMark(t *testing.T) {
	folder(t)
	for name, c := range map[string]struct{ old, with string }{
		"a key for APNs":         {"secrets/apns.p8", "secrets/marked.p8"},
		"trust roots":            {"[contoso.com]", "[contoso.com]\n    ca_file: marked.pem"},
		"trust roots in DER":     {"[contoso.com]", "[contoso.com]\n    ca_file: ca.der"},
		"a certificate for APNs": {tokenLine, "    certificate: {file: marked-pair.pem}"},
		"the API's certificate":  {"", "tls: {cert_file: marked.pem, key_file: secrets/marked.p8}\n"},
	} {
		got, err := load(t, strings.Replace(good, c.old, c.with, 1))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if key := got.APNs[0].Token.KeyPEM; strings.Contains(string(key), "\ufeff") || key != "" && !strings.HasPrefix(string(key), "-----BEGIN") {
			t.Errorf("%s: the key is handed on with its mark", name)
		}
		if got.TLS != nil {
			if _, err := tls.X509KeyPair(got.TLS.CertPEM, []byte(got.TLS.KeyPEM)); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

// good is a configuration with nothing left out that must be given.
const good = `exchange:
  - name: headquarters
    domains: [contoso.com]
    listener_accounts:
      - name: listener-01
        basic: {username: 'CONTOSO\svc-bell', password_file: secrets/svc-bell}
apns:
  - topic: com.contoso.mail
    token: {key_file: secrets/apns.p8, key_id: ABCDE12345, team_id: FGHIJ67890}
api:
  clients:
    - {name: mdm, role: enrol, token_file: secrets/mdm}
`

// signIn is an OpenID provider that is all right.
const signIn = "{issuer: https://id.contoso.com, client_id: x, client_secret_file: secrets/svc-bell, groups: {g: admin}}"

func load(t testing.TB, text string) (*Config, error) {
	t.Helper()
	if err := os.WriteFile("mailbell.yaml", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return Load("mailbell.yaml")
}

func TestEveryMistakeIsOneLineWithFileLineAndKey(t *testing.T) {
	folder(t)
	t.Setenv("MAILBELL_TEST_EMPTY", "")
	t.Setenv("MAILBELL_TEST_LONG", strings.Repeat("x", 256))
	exchange, rest := good[:strings.Index(good, "apns:")], good[strings.Index(good, "apns:"):]
	apns, apiPart := rest[:strings.Index(rest, "api:")], rest[strings.Index(rest, "api:"):]
	account := good[strings.Index(good, "[contoso.com]"):strings.Index(good, "apns:")]
	byApp := "\n    listener_accounts: [{name: app-01, client_secret: {" + registration + ", secret_file: secrets/svc-bell}}]\n"
	many := ""
	for n := range 1001 {
		many += fmt.Sprintf("x%d,", n)
	}
	// In `good`, old is replaced by new; with old empty, new is put before it. Of wanted lines, only what follows the file is here.
	tests := map[string]struct{ old, new, want string }{
		"unknown key":                        {"", "lisen: x", "1: lisen: unknown key; did you mean listen?"},
		"the former name of api":             {"api:", "portal:", "1: api.clients: is required\n10: portal: unknown key; did you mean api?"},
		"unknown key like no other":          {"", "wibble: x", "1: wibble: unknown key"},
		"unknown key that would break lines": {"", "a\u2028b: x", `1: "a\u2028b": unknown key`},
		"unknown key deep inside":            {"password_file", "password", "6: exchange[0].listener_accounts[0].basic.password_file: is required (or password_env)\n6: exchange[0].listener_accounts[0].basic.password: unknown key; did you mean password_file?"},
		"duplicate key":                      {"    domains: [contoso.com]", "    domains: [contoso.com]\n    domains: [contoso.com]", "4: exchange[0].domains: given twice; first in line 3"},
		"duplicate key at the top":           {"", "listen: 127.0.0.1:1\nlisten: 127.0.0.1:1", "2: listen: given twice; first in line 1"},

		"text instead of a list":         {"[contoso.com]", "contoso.com", "3: exchange[0].domains: wrong type: want a list, got a text"},
		"list instead of a text":         {"name: headquarters", "name: [headquarters]", "2: exchange[0].name: wrong type: want a text, got a list"},
		"number instead of a text":       {"ABCDE12345", "1234567890", "9: apns[0].token.key_id: wrong type: want a text, got a number; put it in quotes"},
		"text instead of keys":           {"", "alerts: loud", "1: alerts: wrong type: want keys with values, got a text"},
		"text instead of keys in a list": {"- {name: mdm, role: enrol, token_file: secrets/mdm}", "- mdm", "12: api.clients[0]: wrong type: want keys with values, got a text"},
		"text instead of a number":       {"[contoso.com]", "[contoso.com]\n    requests_per_second: many", "4: exchange[0].requests_per_second: wrong type: want a whole number, got a text"},
		"fraction":                       {"[contoso.com]", "[contoso.com]\n    requests_per_second: 1.5", "4: exchange[0].requests_per_second: wrong type: want a whole number, got a number"},
		"text instead of a switch":       {"", "alerts: {send: yes}", "1: alerts.send: wrong type: want true or false, got a text"},
		"empty entry of a list":          {"[contoso.com]", "[contoso.com, '']", "3: exchange[0].domains[1]: is empty"},

		"too many mailboxes":     {"[contoso.com]", "[contoso.com]\n    mailboxes_per_account: 1251", "4: exchange[0].mailboxes_per_account: out of bounds: want 1 to 1250, got 1251"},
		"no mailboxes":           {"[contoso.com]", "[contoso.com]\n    mailboxes_per_account: 0", "4: exchange[0].mailboxes_per_account: out of bounds: want 1 to 1250, got 0"},
		"negative":               {"[contoso.com]", "[contoso.com]\n    mailboxes_per_account: -1", "4: exchange[0].mailboxes_per_account: out of bounds: want 1 to 1250, got -1"},
		"too many subscriptions": {"[contoso.com]", "[contoso.com]\n    subscriptions_per_connection: 201", "4: exchange[0].subscriptions_per_connection: out of bounds: want 1 to 200, got 201"},
		"stream too long":        {"[contoso.com]", "[contoso.com]\n    connection_timeout: 31m", "4: exchange[0].connection_timeout: out of bounds: want 1m to 30m, got 31m"},
		"stream too short":       {"[contoso.com]", "[contoso.com]\n    connection_timeout: 59s", "4: exchange[0].connection_timeout: out of bounds: want 1m to 30m, got 59s"},
		"poll too rare":          {"[contoso.com]", "[contoso.com]\n    safety_poll: 25h", "4: exchange[0].safety_poll: out of bounds: want 1m to 24h, got 25h"},
		"too many requests":      {"[contoso.com]", "[contoso.com]\n    requests_per_second: 100001", "4: exchange[0].requests_per_second: out of bounds: want 1 to 100000, got 100001"},
		"certificate, no CA":     {"token_file: secrets/mdm", "certificate: mdm.contoso.com", "12: api.clients[0].certificate: needs tls.client_ca_file: the authorities that sign the certificates of clients"},
		"certificate twice":      {"    - {name: mdm,", "    - {name: helpdesk, role: test, certificate: a}\n    - {name: b, role: test, certificate: a}\n    - {name: mdm,", "12: api.clients[0].certificate: needs tls.client_ca_file: the authorities that sign the certificates of clients\n13: api.clients[1].certificate: a is given twice; first in line 12\n13: api.clients[1].certificate: needs tls.client_ca_file: the authorities that sign the certificates of clients"},
		"certificate unprinted":  {"token_file: secrets/mdm", "certificate: a\u2028b", "12: api.clients[0].certificate: want a name of the client's certificate: its DNS name, mail address, URI or common name, at most 500 characters"},
		"client CA behind proxy": {"", "behind_tls_proxy: true\ntls: {cert_file: cert.pem, key_file: key.pem, client_ca_file: ca.pem}", "2: tls.client_ca_file: is of no use with behind_tls_proxy: the proxy ends TLS, so no certificate of a client gets to mailbell"},
		"client CA of callbacks": {"", "public_url: https://mailbell.contoso.com\ncallbacks: {listen: '127.0.0.1:0', tls: {cert_file: cert.pem, key_file: key.pem, client_ca_file: ca.pem}}", "2: callbacks.tls.client_ca_file: unknown key"},
		"audit without a folder": {"api:", "audit: {file: nowhere/audit.ndjson}\napi:", "10: audit.file: the folder nowhere does not exist"},
		"audit into a folder":    {"api:", "audit: {file: secrets}\napi:", "10: audit.file: secrets is not a regular file"},
		"no requests of clients": {"api:", "api:\n  requests_per_second: 0", "11: api.requests_per_second: out of bounds: want 1 to 1000000, got 0"},
		"too large a burst":      {"api:", "api:\n  burst: 1000001", "11: api.burst: out of bounds: want 1 to 1000000, got 1000001"},
		"too many in flight":     {"[contoso.com]", "[contoso.com]\n    requests_in_flight: 10001", "4: exchange[0].requests_in_flight: out of bounds: want 1 to 10000, got 10001"},
		"max_age too long":       {"", "alerts: {max_age: 1000h}", "1: alerts.max_age: out of bounds: want 1m to 24h, got 1000h"},
		"duration without unit":  {"", "alerts: {max_age: 60}", "1: alerts.max_age: a duration needs its unit, as in 90s, 30m or 1h30m; got 60"},
		"bad duration":           {"", "alerts: {max_age: 1 hour}", `1: alerts.max_age: not a duration: want one as in 90s, 30m or 1h30m, got "1 hour"`},
		"unknown content":        {"", "alerts: {content: everything}", "1: alerts.content: want one of generic, sender, sender_subject, sender_subject_preview, got everything"},
		"unknown level":          {"", "log: {level: loud}", "1: log.level: want one of debug, info, warn, error, got loud"},
		"unknown format":         {"", "log: {format: xml}", "1: log.format: want one of json, console, got xml"},
		"unknown role":           {"role: enrol", "role: enroll", "12: api.clients[0].role: want one of enrol, read, test, admin, got enroll"},
		"unknown environment":    {"topic: com.contoso.mail", "topic: com.contoso.mail\n    environment: staging", "9: apns[0].environment: want one of production, sandbox, got staging"},
		"bad name":               {"headquarters", "head quarters", `2: exchange[0].name: want a name of 1 to 64 characters of A-Z a-z 0-9 . _ : @ -, got "head quarters"`},
		"bad topic":              {"com.contoso.mail", "com/contoso", `8: apns[0].topic: want the app's bundle id, as in com.contoso.mail, got com/contoso`},
		"bad key id":             {"ABCDE12345", "ABCDE", "9: apns[0].token.key_id: want 10 capital letters and digits, as Apple's developer portal shows it, got ABCDE"},
		"bad team id":            {"FGHIJ67890", "fghij67890", "9: apns[0].token.team_id: want 10 capital letters and digits, as Apple's developer portal shows it, got fghij67890"},
		"bad domain":             {"contoso.com", "contoso", "3: exchange[0].domains[0]: not a mail domain: want one as in contoso.com, got contoso"},
		"address as domain":      {"contoso.com", "ann@contoso.com", `3: exchange[0].domains[0]: not a mail domain: want one as in contoso.com, got "ann@contoso.com"`},
		"bad trusted host":       {"[contoso.com]", "[contoso.com]\n    trusted_hosts: ['https://x']", `4: exchange[0].trusted_hosts[0]: not a host name: want one as in mail.contoso.com, without scheme or port, got "https://x"`},
		"user name with colon":   {`'CONTOSO\svc-bell'`, "'a:b'", "6: exchange[0].listener_accounts[0].basic.username: a user name for Basic must not have a colon or a control character"},
		"bad address":            {"", "listen: 8080x", "1: listen: not an address: want host:port, as in 127.0.0.1:8080, got 8080x"},
		"bad port":               {"", "listen: 127.0.0.1:65536", "1: listen: not a port: want 0 to 65535, got 65536"},
		"bad host":               {"", "listen: 'a b:80'", `1: listen: not a host name: want one as in mail.contoso.com, without scheme or port, got "a b"`},
		"open to the network":    {"", "listen: 0.0.0.0:8080", "1: listen: not loopback: tokens and addresses would cross the network in clear text; set tls, or behind_tls_proxy: true"},
		"open on all interfaces": {"", "listen: ':8080'\ntls: {cert_file: '', key_file: ''}", "1: listen: not loopback: tokens and addresses would cross the network in clear text; set tls, or behind_tls_proxy: true"},
		"no URL":                 {"[contoso.com]", "[contoso.com]\n    ews_url: ex.contoso.com", "4: exchange[0].ews_url: want a URL that begins with https://"},
		"plain http":             {"[contoso.com]", "[contoso.com]\n    ews_url: http://ex.contoso.com/EWS/Exchange.asmx", "4: exchange[0].ews_url: want a URL that begins with https://"},
		"URL without host":       {"[contoso.com]", "[contoso.com]\n    ews_url: https:///EWS", "4: exchange[0].ews_url: want a URL with a host name: https://host/path"},
		"URL with a bad port":    {"[contoso.com]", "[contoso.com]\n    ews_url: https://ex.contoso.com:70000/", "4: exchange[0].ews_url: a port of a URL is 1 to 65535"},
		"URL with a query":       {"[contoso.com]", "[contoso.com]\n    ews_url: https://ex.contoso.com/?a=b", "4: exchange[0].ews_url: want a URL without ? and #"},
		"URL that is broken":     {"[contoso.com]", "[contoso.com]\n    ews_url: 'https://u:hunter2@%zz/'", "4: exchange[0].ews_url: not a URL: want https://host/path"},
		"secret in a URL":        {"[contoso.com]", "[contoso.com]\n    autodiscover_url: https://svc:hunter2@ex.contoso.com/", "4: exchange[0].autodiscover_url: a URL must not have a user name or password in it"},
		"path in the APNs URL":   {"topic: com.contoso.mail", "topic: com.contoso.mail\n    url: https://apns.contoso.com/3/device", "9: apns[0].url: want a URL without a path: https://host"},
		"secret in the APNs URL": {"topic: com.contoso.mail", "topic: com.contoso.mail\n    url: https://u@apns", "9: apns[0].url: a URL must not have a user name or password in it"},

		"no exchange":                {exchange, "", "1: exchange: is required"},
		"empty exchange":             {exchange, "exchange: []\n", "1: exchange: is required"},
		"no apns":                    {apns, "", "1: apns: is required"},
		"no api":                     {apiPart, "", "1: api.clients: is required"},
		"no clients":                 {"    - {name: mdm, role: enrol, token_file: secrets/mdm}", "", "11: api.clients: is required"},
		"no name":                    {"  - name: headquarters\n    domains", "  - domains", "2: exchange[0].name: is required"},
		"no domains":                 {"    domains: [contoso.com]\n", "", "2: exchange[0].domains: is required"},
		"null is missing":            {"[contoso.com]", "~", "3: exchange[0].domains: is required"},
		"no authentication method":   {"        basic: {username: 'CONTOSO\\svc-bell', password_file: secrets/svc-bell}\n", "", "5: exchange[0].listener_accounts[0].basic: is required: an account needs an authentication method (basic, ntlm, client_secret, certificate, listener_account)"},
		"two authentication methods": {"- name: listener-01", "- name: listener-01\n        ntlm: {username: x, password_file: y}", "5: exchange[0].listener_accounts[0]: several authentication methods: want one"},
		"no user name":               {`username: 'CONTOSO\svc-bell', `, "", "6: exchange[0].listener_accounts[0].basic.username: is required"},
		"no password":                {`, password_file: secrets/svc-bell`, "", "6: exchange[0].listener_accounts[0].basic.password_file: is required (or password_env)"},
		"no topic":                   {"topic: com.contoso.mail\n    token", "token", "8: apns[0].topic: is required"},
		"no key for APNs":            {"    token: {key_file: secrets/apns.p8, key_id: ABCDE12345, team_id: FGHIJ67890}\n", "", "8: apns[0].token: is required (or certificate)"},
		"no team":                    {", team_id: FGHIJ67890", "", "9: apns[0].token.team_id: is required"},
		"no role":                    {"role: enrol, ", "", "12: api.clients[0].role: is required"},
		"no client's token":          {", token_file: secrets/mdm", "", "12: api.clients[0].token_file: is required (or token_env)"},
		"no certificate":             {"", "tls: {key_file: key.pem}", "1: tls.cert_file: is required"},
		"no key for TLS":             {"", "tls: {cert_file: cert.pem}", "1: tls.key_file: is required (or key_env)"},

		"exchange name twice": {"apns:\n", "  - {name: headquarters, domains: [b.com], listener_accounts: [{name: l2, basic: {username: u, password_file: secrets/svc-bell}}]}\napns:\n", "7: exchange[1].name: headquarters is given twice; first in line 2"},
		"account name twice":  {"apns:\n", "  - {name: branch, domains: [b.com], listener_accounts: [{name: listener-01, basic: {username: u, password_file: secrets/svc-bell}}]}\napns:\n", "7: exchange[1].listener_accounts[0].name: listener-01 is given twice; first in line 5"},
		"domain twice":        {"[contoso.com]", "[contoso.com, CONTOSO.com]", "3: exchange[0].domains[1]: contoso.com is given twice"},
		"topic twice":         {"api:", "  - {topic: com.contoso.mail, environment: production, token: {key_file: secrets/apns.p8, key_id: ABCDE12345, team_id: FGHIJ67890}}\napi:", "10: apns[1].topic: com.contoso.mail (production) is given twice; first in line 8"},
		"key id of two keys":  {"api:", "  - {topic: com.contoso.calendar, token: {key_file: secrets/other.p8, key_id: ABCDE12345, team_id: FGHIJ67890}}\napi:", "10: apns[1].token.key_id: ABCDE12345 has another key file with a topic before it: one of the two is not the key of this id"},
		"client name twice":   {"    - {name: mdm,", "    - {name: mdm, role: test, token_file: secrets/helpdesk}\n    - {name: mdm,", "13: api.clients[1].name: mdm is given twice; first in line 12"},
		"token twice":         {"    - {name: mdm,", "    - {name: helpdesk, role: test, token_file: secrets/mdm}\n    - {name: mdm,", "13: api.clients[1].token_file: has the same token as the client helpdesk"},
		"next token twice":    {"    - {name: mdm,", "    - {name: helpdesk, role: test, token_file: secrets/helpdesk, next_token_file: secrets/mdm}\n    - {name: mdm,", "13: api.clients[1].token_file: has the same token as the client helpdesk"},

		"webhook name twice":  {"", "webhooks: [{name: a, url: 'https://a.example/', secret_file: secrets/hook}, {name: a, url: 'https://b.example/', secret_file: secrets/hook}]", "1: webhooks[1].name: a is given twice; first in line 1"},
		"webhook over http":   {"", "webhooks: [{name: a, url: 'http://mdm.contoso.com/', secret_file: secrets/hook}]", "1: webhooks[0].url: want a URL that begins with https://; http:// is for a receiver on this machine only"},
		"secret in a webhook": {"", "webhooks: [{name: a, url: 'http://u:hunter2@127.0.0.1/', secret_file: secrets/hook}]", "1: webhooks[0].url: a URL must not have a user name or password in it"},
		"key in a webhook":    {"", "webhooks: [{name: a, url: 'https://mdm.contoso.com/?key=hunter2', secret_file: secrets/hook}]", "1: webhooks[0].url: want a URL without ? and #; http:// is for a receiver on this machine only"},
		"webhook's secret":    {"", "webhooks: [{name: a, url: 'https://mdm.contoso.com/', secret_file: secrets/mdm}]", "1: webhooks[0].secret_file: want whsec_ and 24 to 64 random bytes in base64: printf whsec_; openssl rand -base64 32"},
		"webhook's next one":  {"", "webhooks: [{name: a, url: 'https://mdm.contoso.com/', secret_file: secrets/hook, next_secret_file: secrets/mdm}]", "1: webhooks[0].next_secret_file: want whsec_ and 24 to 64 random bytes in base64: printf whsec_; openssl rand -base64 32"},
		"no webhook's secret": {"", "webhooks: [{name: a, url: 'https://mdm.contoso.com/'}]", "1: webhooks[0].secret_file: is required (or secret_env)"},
		"webhook's event":     {"", "webhooks: [{name: a, url: 'https://mdm.contoso.com/', secret_file: secrets/hook, events: [device.lost]}]", "1: webhooks[0].events[0]: want service.started, device.gone, device.alert_lost, mailbox.failing, mailbox.out_of_scope, mailbox.listening; got device.lost"},
		"canary twice":        {"", "canary: {mailboxes: [Canary@contoso.com, canary@CONTOSO.com]}", "1: canary.mailboxes[1]: canary@contoso.com is given twice"},
		"no canary address":   {"", "canary: {mailboxes: [canary]}", "1: canary.mailboxes[0]: not a mail address: want one as in ann@contoso.com"},
		"canary elsewhere":    {"", "canary: {mailboxes: [canary@Contoso.com, canary@fabrikam.com]}", `1: canary.mailboxes[1]: no exchange entry has its mail domain under domains, so no device can be enrolled for it: "canary@fabrikam.com"`},
		"too many canaries":   {"", "canary: {mailboxes: [" + numbered(maxCanaries+1, numberedCanary) + "]}", "1: canary.mailboxes: has 11 mailboxes: want at most 10"},
		"canary too often":    {"", "canary: {every: 30s}", "1: canary.every: out of bounds: want 1m to 24h, got 30s"},
		"canary too seldom":   {"", "canary: {every: 25h}", "1: canary.every: out of bounds: want 1m to 24h, got 25h"},
		"canary too hasty":    {"", "canary: {within: 9s}", "1: canary.within: out of bounds: want 10s to 1h, got 9s"},
		"canary lost first":   {"", "canary: {every: 2m}", "1: canary.within: want less than every, which is 2m: else a message is lost before it is late"},
		"too many webhooks":   {"", "webhooks: [" + numbered(maxWebhooks+1, numberedWebhook) + "]", "1: webhooks: has 17 receivers: want at most 16"},

		"file missing":              {"secrets/svc-bell", "secrets/nobody", "6: exchange[0].listener_accounts[0].basic.password_file: secrets/nobody does not exist"},
		"file is a folder":          {"secrets/svc-bell", "secrets", "6: exchange[0].listener_accounts[0].basic.password_file: secrets is a folder"},
		"file empty":                {"secrets/svc-bell", "secrets/empty", "6: exchange[0].listener_accounts[0].basic.password_file: secrets/empty is empty"},
		"file is a device":          {"secrets/svc-bell", "/dev/null", "6: exchange[0].listener_accounts[0].basic.password_file: /dev/null is not a regular file"},
		"file too large":            {"secrets/svc-bell", "large", "6: exchange[0].listener_accounts[0].basic.password_file: large is larger than 1 MiB"},
		"file name with a line end": {"secrets/svc-bell", "a\u2028b", `6: exchange[0].listener_accounts[0].basic.password_file: "a\u2028b" does not exist`},
		"password of two lines":     {"secrets/svc-bell", "secrets/two-lines", "6: exchange[0].listener_accounts[0].basic.password_file: has more than one line: want the secret alone"},
		"password that rings":       {"secrets/svc-bell", "secrets/bell", "6: exchange[0].listener_accounts[0].basic.password_file: has a control character"},
		"password in UTF-16":        {"secrets/svc-bell", "secrets/utf16", "6: exchange[0].listener_accounts[0].basic.password_file: its text is not UTF-8: save it as UTF-8"},
		"password with a mark":      {"secrets/svc-bell", "secrets/bom", "6: exchange[0].listener_accounts[0].basic.password_file: begins with a byte order mark: save it as UTF-8 without one"},
		"variable unset":            {"password_file: secrets/svc-bell", "password_env: MAILBELL_TEST_UNSET", "6: exchange[0].listener_accounts[0].basic.password_env: the environment variable MAILBELL_TEST_UNSET is not set"},
		"variable empty":            {"password_file: secrets/svc-bell", "password_env: MAILBELL_TEST_EMPTY", "6: exchange[0].listener_accounts[0].basic.password_env: the environment variable MAILBELL_TEST_EMPTY is empty"},
		"a secret as variable":      {"password_file: secrets/svc-bell", "password_env: hunter2!", "6: exchange[0].listener_accounts[0].basic.password_env: not the name of an environment variable: want one as in BELL_PASSWORD, and never the secret itself"},
		"file and variable":         {"password_file: secrets/svc-bell", "password_file: secrets/svc-bell, password_env: HOME", "6: exchange[0].listener_accounts[0].basic.password_env: password_file and password_env are both given: want one"},
		"token too short":           {"secrets/mdm", "secrets/short", "12: api.clients[0].token_file: has a token of 15 characters: want at least 16"},
		"next token too short":      {"token_file: secrets/mdm", "token_file: secrets/mdm, next_token_file: secrets/short", "12: api.clients[0].next_token_file: has a token of 15 characters: want at least 16"},
		"next token in both":        {"token_file: secrets/mdm", "token_file: secrets/mdm, next_token_file: secrets/mdm, next_token_env: HOME", "12: api.clients[0].next_token_env: next_token_file and next_token_env are both given: want one"},
		"token with a space":        {"secrets/mdm", "secrets/spaced", "12: api.clients[0].token_file: has a token that cannot be sent in an Authorization header: want visible ASCII characters without spaces"},
		"p8 without PEM":            {"secrets/apns.p8", "secrets/svc-bell", "9: apns[0].token.key_file: has no private key in PEM form (-----BEGIN PRIVATE KEY-----): want the .p8 file from Apple"},
		"p8 is a certificate":       {"secrets/apns.p8", "cert.pem", "9: apns[0].token.key_file: has no private key in PEM form (-----BEGIN PRIVATE KEY-----): want the .p8 file from Apple"},
		"p8 broken":                 {"secrets/apns.p8", "secrets/broken.p8", "9: apns[0].token.key_file: has a private key that cannot be read: want the .p8 file from Apple"},
		"p8 on another curve":       {"secrets/apns.p8", "secrets/p384.p8", "9: apns[0].token.key_file: has another kind of private key: want an elliptic curve key on P-256, as in the .p8 files from Apple"},
		"neither key nor cert":      {tokenLine, "", "8: apns[0].token: is required (or certificate)"},
		"key and certificate":       {tokenLine, tokenLine + "\n    certificate: {file: apns.pem}", "10: apns[0].certificate: token and certificate are both given: want one"},
		"PFX with another password": {tokenLine, "    certificate: {file: apns.pfx, password_file: secrets/helpdesk}", "9: apns[0].certificate.file: cannot be opened with this password: check password_file"},
		"PFX without its password":  {tokenLine, "    certificate: {file: apns.pfx}", "9: apns[0].certificate.file: is protected by a password: set password_file (or password_env)"},
		"PFX that is none":          {tokenLine, "    certificate: {file: secrets/svc-bell}", "9: apns[0].certificate.file: is neither a PFX file nor PEM, or is damaged"},
		"PFX in BER":                {tokenLine, "    certificate: {file: ber.pfx, password_file: secrets/svc-bell}", "9: apns[0].certificate.file: is a PFX in BER, which is not read: convert it with: openssl pkcs12 -in ber.pfx -aes256 -out client.pem (and -legacy where that says that an algorithm is unsupported), and name client.pem here"},
		"PEM that is damaged":       {tokenLine, "    certificate: {file: damaged.pem}", `9: apns[0].certificate.file: the block that begins in line 1 ("CERTIFICATE") is damaged: copy it anew, from its BEGIN line to its END line`},
		"CA that is damaged":        {"[contoso.com]", "[contoso.com]\n    ca_file: damaged.pem", `4: exchange[0].ca_file: the block that begins in line 1 ("CERTIFICATE") is damaged: copy it anew, from its BEGIN line to its END line`},
		"TLS that is damaged":       {"", "tls: {cert_file: damaged.pem, key_file: key.pem}", `1: tls.cert_file: the block that begins in line 1 ("CERTIFICATE") is damaged: copy it anew, from its BEGIN line to its END line`},
		"p8 that is damaged":        {"secrets/apns.p8", "damaged.pem", `9: apns[0].token.key_file: the block that begins in line 1 ("CERTIFICATE") is damaged: copy it anew, from its BEGIN line to its END line`},
		"PEM without a key":         {tokenLine, "    certificate: {file: cert.pem}", "9: apns[0].certificate.file: holds no private key: it is needed beside the certificate"},
		"certificate without file":  {tokenLine, "    certificate: {password_file: secrets/svc-bell}", "9: apns[0].certificate.file: is required"},
		"CA without certificate":    {"[contoso.com]", "[contoso.com]\n    ca_file: key.pem", "4: exchange[0].ca_file: holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)"},
		"CA broken":                 {"[contoso.com]", "[contoso.com]\n    ca_file: broken.pem", "4: exchange[0].ca_file: holds a certificate that cannot be read: x509: malformed certificate"},
		"TLS without a certificate": {"", "tls: {cert_file: secrets/svc-bell, key_file: key.pem}", "1: tls.cert_file: holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)"},
		"TLS without a key":         {"", "tls: {cert_file: cert.pem, key_file: cert.pem}", "1: tls.key_file: holds no private key in PEM form (-----BEGIN PRIVATE KEY-----)"},
		"TLS key of another":        {"", "tls: {cert_file: cert.pem, key_file: secrets/p384.p8}", "1: tls.cert_file: does not match its key: private key does not match public key"},
		"state in no folder":        {"", "state: {path: var/mailbell.db}", "1: state.path: the folder var does not exist"},
		"state is a folder":         {"", "state: {path: secrets}", "1: state.path: secrets is not a regular file"},

		"Redis with a typo":            {"", "state: {redis: {adresses: [redis1:6379]}}", "1: state.redis.addresses: is required\n1: state.redis.adresses: unknown key; did you mean addresses?"},
		"Redis and a file":             {"", "state: {path: mailbell.db, redis: {addresses: [redis1:6379]}}", "1: state.path: the state is either in a file or in Redis: leave out path or redis"},
		"Redis without a port":         {"", "state: {redis: {addresses: [redis1]}}", `1: state.redis.addresses[0]: not an address: want host:port, as in 127.0.0.1:8080, got redis1`},
		"two single Redis":             {"", "state: {redis: {addresses: [redis1:6379, redis2:6379]}}", "1: state.redis.addresses: has 2 addresses: a single Redis has one"},
		"Redis by sentinel":            {"", "state: {redis: {addresses: [redis1:26379], mode: sentinel}}", "1: state.redis.mode: not available in this version of mailbell: sentinel; want single"},
		"Redis CA without TLS":         {"", "state: {redis: {addresses: [redis1:6379], ca_file: ca.pem}}", "1: state.redis.ca_file: is only for tls: true"},
		"Redis user, no secret":        {"", "state: {redis: {addresses: [redis1:6379], username: bell}}", "1: state.redis.username: has no password: set password_file or password_env"},
		"Redis prefix":                 {"", `state: {redis: {addresses: [redis1:6379], prefix: "a b"}}`, `1: state.redis.prefix: want 1 to 64 characters of A-Z a-z 0-9 . _ : -, got "a b"`},
		"Exchange Online by password":  {"[contoso.com]", "[contoso.com]\n    type: online", "7: exchange[0].listener_accounts[0].basic: Exchange Online accepts tokens only: use client_secret or certificate"},
		"push to nowhere":              {"[contoso.com]", "[contoso.com]\n    listen_by: push", "4: exchange[0].listen_by: push needs public_url: the URL at which Exchange reaches mailbell"},
		"push to itself":               {"exchange:\n  - name: headquarters", "public_url: https://localhost:8443\nexchange:\n  - name: headquarters\n    listen_by: push", "1: public_url: leads to this machine only, where the Exchange of the entry headquarters is not: want a name that its mailbox servers reach"},
		"push to 127.0.0.1":            {"exchange:\n  - name: headquarters", "public_url: http://127.0.0.1:8080\nexchange:\n  - name: headquarters\n    listen_by: push\n    ews_url: https://ex.contoso.com/EWS/Exchange.asmx", "1: public_url: leads to this machine only, where the Exchange of the entry headquarters is not: want a name that its mailbox servers reach"},
		"push in clear over the net":   {"exchange:\n  - name: headquarters\n    domains: " + account, "public_url: http://mailbell.contoso.com\nexchange:\n  - name: headquarters\n    domains: [contoso.com]\n    type: online\n    listen_by: push" + byApp, "1: public_url: must begin with https:// for the exchange entry headquarters: Exchange Online calls back over the internet"},
		"Graph":                        {"[contoso.com]", "[contoso.com]\n    listen_by: graph", "4: exchange[0].listen_by: graph is for type: online: an Exchange on premises has no Microsoft Graph; want streaming or push"},
		"Graph to itself":              {"exchange:\n  - name: headquarters\n    domains: " + account, "public_url: https://localhost:8443\nexchange:\n  - name: headquarters\n    domains: [contoso.com]\n    type: online\n    listen_by: graph" + byApp, "1: public_url: leads to this machine only, where the Microsoft Graph of the entry headquarters is not: want a name that the internet reaches"},
		"Graph in clear":               {"exchange:\n  - name: headquarters\n    domains: " + account, "public_url: http://mailbell.contoso.com\nexchange:\n  - name: headquarters\n    domains: [contoso.com]\n    type: online\n    listen_by: graph" + byApp, "1: public_url: must begin with https:// for the exchange entry headquarters: Microsoft Graph calls back over the internet"},
		"Graph of no cloud":            {account, "[contoso.com]\n    type: online\n    listen_by: graph\n    cloud: custom\n    cloud_urls: {ews: https://x, autodiscover: https://y, authority: https://z}" + byApp, "7: exchange[0].cloud_urls.graph: is required"},
		"Graph by server":              {account, "[contoso.com]\n    type: online\n    listen_by: graph\n    mailbox_servers: [ex1]" + byApp, "6: exchange[0].mailbox_servers: is not for listen_by: graph: Microsoft Graph does not say on which server a mailbox is"},
		"Graph as a user":              {account, "[contoso.com]\n    type: online\n    listen_by: graph\n    listener_accounts:\n      - name: a\n        listener_account: {" + registration + ", username: svc-bell@contoso.com, password_file: secrets/svc-bell}\n", "8: exchange[0].listener_accounts[0].listener_account: Microsoft Graph gives one user no other's mailbox: use client_secret or certificate"},
		"too many by Graph":            {account, "[contoso.com]\n    type: online\n    listen_by: graph\n    mailboxes_per_account: 15001" + byApp, "6: exchange[0].mailboxes_per_account: out of bounds: want 1 to 15000, got 15001"},
		"rich notifications":           {account, "[contoso.com]\n    type: online\n    listen_by: graph\n    graph: {rich: true}" + byApp, "1: public_url: is required with graph.rich of the exchange entry headquarters: without it Microsoft Graph posts nothing"},
		"rich on premises":             {"[contoso.com]", "[contoso.com]\n    graph: {rich: true}", "4: exchange[0].graph: is for type: online: an Exchange on premises has no Microsoft Graph"},
		"no way to listen":             {"[contoso.com]", "[contoso.com]\n    listen_by: pull", "4: exchange[0].listen_by: want one of streaming, push, graph, got pull"},
		"no such type":                 {"[contoso.com]", "[contoso.com]\n    type: notes", "4: exchange[0].type: want one of exchange, online, got notes"},
		"no such cloud":                {"[contoso.com]", "[contoso.com]\n    cloud: mars", "4: exchange[0].cloud: want one of china, dod, gcc, gcc-high, global, custom, got mars"},
		"cloud misspelt":               {"[contoso.com]", "[contoso.com]\n    cloud: costum\n    cloud_urls: {ews: https://x, autodiscover: https://y, authority: https://z}", "4: exchange[0].cloud: want one of china, dod, gcc, gcc-high, global, custom, got costum"},
		"type misspelt":                {account, "[contoso.com]\n    type: Online" + byApp, "4: exchange[0].type: want one of exchange, online, got Online"},
		"token for a URL in clear":     {account, "[contoso.com]\n    ews_url: http://ex.contoso.com/" + byApp, "4: exchange[0].ews_url: want a URL that begins with https://"},
		"Autodiscover of a cloud":      {account, "[contoso.com]\n    type: online\n    autodiscover_url: https://autodiscover.contoso.com/" + byApp, "5: exchange[0].autodiscover_url: is not for type: online, whose cloud has its own Autodiscover"},
		"cloud URLs":                   {"[contoso.com]", "[contoso.com]\n    cloud_urls: {ews: https://x}", "4: exchange[0].cloud_urls: is only for cloud: custom"},
		"custom cloud":                 {"[contoso.com]", "[contoso.com]\n    cloud: custom", "2: exchange[0].cloud_urls: is required with cloud: custom"},
		"half a cloud":                 {"[contoso.com]", "[contoso.com]\n    cloud: custom\n    cloud_urls: {ews: https://x, authority: https://y/tenant, graf: z}", "5: exchange[0].cloud_urls.autodiscover: is required\n5: exchange[0].cloud_urls.authority: want a URL without a path: https://host\n5: exchange[0].cloud_urls.graf: unknown key; did you mean graph?"},
		"mailbox servers":              {"[contoso.com]", "[contoso.com]\n    mailbox_servers: ['ex 1']", "4: exchange[0].mailbox_servers[0]: not a host name: want one as in mail.contoso.com, without scheme or port, got \"ex 1\""},
		"NTLM without a domain":        {"basic: {username: 'CONTOSO\\svc-bell'", "ntlm: {username: svc-bell", "6: exchange[0].listener_accounts[0].ntlm.username: want a user as DOMAIN\\name or name@domain, got svc-bell"},
		"client secret":                {"basic: {username: 'CONTOSO\\svc-bell', password_file: secrets/svc-bell}", "client_secret: {tenant_id: common, client_id: b, secret_file: c, expires: May}", "6: exchange[0].listener_accounts[0].client_secret.tenant_id: want the tenant's GUID or one of its domains, as in contoso.onmicrosoft.com, got common\n6: exchange[0].listener_accounts[0].client_secret.client_id: want a GUID, as Entra ID shows it as the application (client) id, got b\n6: exchange[0].listener_accounts[0].client_secret.secret_file: c does not exist\n6: exchange[0].listener_accounts[0].client_secret.expires: want a day as in 2027-05-01, got May\n6: exchange[0].listener_accounts[0].client_secret: tokens for Exchange on premises (hybrid modern authentication) are for one host: set ews_url, or type: online for Exchange Online"},
		"account's key for Entra ID":   {account, "[contoso.com]\n    type: online\n    listener_accounts: [{name: app-01, certificate: {" + registration + ", file: apns.pem}}]\n", "5: exchange[0].listener_accounts[0].certificate.file: has another kind of key: want an RSA key, as Entra ID takes no other from an app"},
		"account's certificate":        {"basic: {username: 'CONTOSO\\svc-bell', password_file: secrets/svc-bell}", "certificate: {file: apns.pfx, password_file: secrets/helpdesk}", "6: exchange[0].listener_accounts[0].certificate.tenant_id: is required\n6: exchange[0].listener_accounts[0].certificate.client_id: is required\n6: exchange[0].listener_accounts[0].certificate.file: cannot be opened with this password: check password_file\n6: exchange[0].listener_accounts[0].certificate: tokens for Exchange on premises (hybrid modern authentication) are for one host: set ews_url, or type: online for Exchange Online"},
		"listener account":             {"basic: {username: 'CONTOSO\\svc-bell', password_file: secrets/svc-bell}", "listener_account: {tenant_id: contoso.com, client_id: 11111111-2222-3333-4444-555555555555, username: svc-bell, password_file: secrets/svc-bell}", "6: exchange[0].listener_accounts[0].listener_account.username: want a user principal name, as in svc-bell@contoso.com, got svc-bell\n6: exchange[0].listener_accounts[0].listener_account: tokens for Exchange on premises (hybrid modern authentication) are for one host: set ews_url, or type: online for Exchange Online"},
		"proxy with a secret":          {"", "proxy: {url: 'http://u:hunter2@proxy:3128'}", "1: proxy.url: a URL must not have a user name or password in it: they are username and password_file"},
		"proxy without a URL":          {"", "proxy: {username: u}", "1: proxy.url: is required\n1: proxy.password_file: is required (or password_env)"},
		"proxy without a port":         {"", "proxy: {url: http://proxy}", "1: proxy.url: want a URL with a port: a proxy has no usual one"},
		"proxy of another kind":        {"", "proxy: {url: ftp://proxy:21}", "1: proxy.url: want a URL that begins with http://, https://, socks5:// or socks5h://"},
		"proxy of a long name":         {"", "proxy: {url: http://proxy:3128, username: " + strings.Repeat("u", 256) + ", password_file: secrets/svc-bell}", "1: proxy.username: want at most 255 bytes: the most that SOCKS5 allows"},
		"proxy with a long password":   {"", "proxy: {url: http://proxy:3128, username: u, password_env: MAILBELL_TEST_LONG}", "1: proxy.password_env: has a password of 256 bytes: want at most 255, the most that SOCKS5 allows"},
		"proxy with many exceptions":   {"", "proxy: {url: http://proxy:3128, bypass: [" + many + "]}", "1: proxy.bypass: has 1001 entries: want at most 1000, use networks and .suffixes"},
		"proxy of nobody":              {"", "proxy: {url: http://proxy:3128, password_file: secrets/svc-bell}", "1: proxy.username: is required with a password"},
		"proxy's bypass":               {"", "proxy: {url: http://proxy:3128, bypass: ['a b']}", "1: proxy.bypass[0]: want a host name, .contoso.com for all hosts below it, an IP address or a network as in 10.0.0.0/8, with :port or without, got \"a b\""},
		"callbacks to nowhere":         {"", "callbacks: {listen: 127.0.0.1:8443}", "1: callbacks.listen: needs public_url: the URL at which Exchange reaches it"},
		"callbacks without an address": {"", "callbacks: {tls: {cert_file: cert.pem, key_file: key.pem}}", "1: callbacks.tls: goes with callbacks.listen, which is empty: callbacks are served on listen, with its tls"},
		"callbacks without a port":     {"", "public_url: https://mailbell.contoso.com\ncallbacks: {listen: mailbell}", "2: callbacks.listen: not an address: want host:port, as in 127.0.0.1:8080, got mailbell"},
		"callbacks with a typo":        {"", "callbacks: {lisen: ''}", "1: callbacks.lisen: unknown key; did you mean listen?"},
		"public URL with a path":       {"", "public_url: https://mailbell.contoso.com/bell/", "1: public_url: want a URL without a path, ? and #: mailbell appends /callbacks/…"},
		"public URL with a query":      {"", "public_url: 'https://mailbell.contoso.com/?'", "1: public_url: want a URL without a path, ? and #: mailbell appends /callbacks/…"},
		"public URL with a fragment":   {"", "public_url: 'https://mailbell.contoso.com/#'", "1: public_url: want a URL without a path, ? and #: mailbell appends /callbacks/…"},
		"public URL with a secret":     {"", "public_url: 'https://u:hunter2@mailbell.contoso.com'", "1: public_url: a URL must not have a user name or password in it"},
		"public URL without a scheme":  {"", "public_url: mailbell.contoso.com", "1: public_url: want a URL that begins with https:// or http://"},
		"public URL without a host":    {"", "public_url: 'https://:8443'", "1: public_url: want a URL with a host name: https://host"},
		"public URL with a port":       {"", "public_url: 'https://mailbell.contoso.com:99999'", "1: public_url: a port of a URL is 1 to 65535"},

		"sign-in to nowhere":        {"", "admin: {oidc: " + signIn + "}", "1: admin.url: is required with oidc (or public_url): the provider sends people back to it"},
		"sign-in to callbacks":      {"", "public_url: https://mailbell.contoso.com\ncallbacks: {listen: 127.0.0.1:8443}\nadmin: {oidc: " + signIn + "}", "3: admin.url: is required with oidc and callbacks.listen: public_url leads to the callbacks alone"},
		"sign-in in clear":          {"", "public_url: http://mailbell.contoso.com\nadmin: {oidc: " + signIn + "}", "2: admin.url: is required with oidc: public_url is not https, and browsers keep the cookie of a session over https only"},
		"pages in clear":            {"", "admin: {url: http://mailbell.contoso.com}", "1: admin.url: want a URL that begins with https://: browsers keep the cookie of a session over https only"},
		"pages with a path":         {"", "admin: {url: https://mailbell.contoso.com/admin}", "1: admin.url: want a URL without a path, ? and #: mailbell appends /admin/…"},
		"sign-in of nobody":         {"", "admin: {url: https://mailbell.contoso.com, oidc: {issuer: https://id.contoso.com, client_id: x, client_secret_file: secrets/svc-bell}}", "1: admin.oidc: names neither groups nor addresses: nobody could sign in"},
		"sign-in without a secret":  {"", "admin: {url: https://mailbell.contoso.com, oidc: {issuer: https://id.contoso.com, client_id: x, groups: {g: admin}}}", "1: admin.oidc.client_secret_file: is required (or client_secret_env)"},
		"sign-in without an issuer": {"", "admin: {url: https://mailbell.contoso.com, oidc: {client_id: x, client_secret_file: secrets/svc-bell, groups: {g: admin}}}", "1: admin.oidc.issuer: is required"},
		"sign-in in clear there":    {"", "admin: {url: https://mailbell.contoso.com, oidc: {issuer: http://id.contoso.com, client_id: x, client_secret_file: secrets/svc-bell, groups: {g: admin}}}", "1: admin.oidc.issuer: want a URL that begins with https://"},
		"sign-in with a role":       {"", "admin: {url: https://mailbell.contoso.com, oidc: {issuer: https://id.contoso.com, client_id: x, client_secret_file: secrets/svc-bell, groups: {g: enrol}}}", "1: admin.oidc.groups.g: want one of read, test, admin, got enrol"},
		"sign-in without a role":    {"", "admin: {url: https://mailbell.contoso.com, oidc: {issuer: https://id.contoso.com, client_id: x, client_secret_file: secrets/svc-bell, groups: {g: ''}}}", "1: admin.oidc.groups.g: is empty: want one of read, test, admin"},
		"sign-in of no address":     {"", "admin: {url: https://mailbell.contoso.com, oidc: {issuer: https://id.contoso.com, client_id: x, client_secret_file: secrets/svc-bell, addresses: {ann: read}}}", "1: admin.oidc.addresses.ann: not a mail address: want one as in ann@contoso.com"},
		"sign-in of one twice":      {"", "admin: {url: https://mailbell.contoso.com, oidc: {issuer: https://id.contoso.com, client_id: x, client_secret_file: secrets/svc-bell, addresses: {ann@contoso.com: read, Ann@contoso.com: read}}}", "1: admin.oidc.addresses.\"ann@contoso.com\": is given twice, in upper and lower case"},
		"sign-in with a typo":       {"", "admin: {oidc: {isuer: ''}}", "1: admin.oidc.isuer: unknown key; did you mean issuer?"},

		"a list as the file":     {good, "- a\n", "1: yaml: want keys with values, as in listen: 127.0.0.1:8080"},
		"a text as the file":     {good, "hello\n", "1: yaml: want keys with values, as in listen: 127.0.0.1:8080"},
		"empty file":             {good, "", "1: exchange: is required\n1: apns: is required\n1: api.clients: is required"},
		"comments alone":         {good, "# nothing\n", "1: exchange: is required\n1: apns: is required\n1: api.clients: is required"},
		"tab":                    {"\n    domains", "\n\tdomains", "3: yaml: is indented by a tab: want spaces"},
		"quote left open":        {"'CONTOSO\\svc-bell'", "'CONTOSO\\svc-bell", "6: yaml: could not find end character of single-quoted text: want KEY: value, indented by spaces as its neighbours are, and quotes around a text with [ ] { } : or #; the mistake may be in a line beside this one"},
		"bracket left open":      {"[contoso.com]", "[contoso.com", "4: yaml: ',' or ']' must be specified: want KEY: value, indented by spaces as its neighbours are, and quotes around a text with [ ] { } : or #; the mistake may be in a line beside this one"},
		"quote left open before": {"headquarters\n    domains: [contoso.com]", "\"headquarters\n    domains: [\"contoso.com\"]", "2: yaml: the quote that begins here ends in another line: is it left open?"},
		"quote over lines":       {"headquarters", "'head\n\n    quarters'", "2: yaml: the quote that begins here ends in another line: is it left open?"},
		"one more space":         {"    domains", "     domains", "2: yaml: mapping value is not allowed in this context: want KEY: value, indented by spaces as its neighbours are, and quotes around a text with [ ] { } : or #; the mistake may be in a line beside this one"},
		"address in brackets":    {"", "listen: [::1]:8080", "1: yaml: value is not allowed in this context: want KEY: value, indented by spaces as its neighbours are, and quotes around a text with [ ] { } : or #; the mistake may be in a line beside this one"},
		"user in double quotes":  {`'CONTOSO\svc-bell'`, `"CONTOSO\svc-bell"`, "6: yaml: found unknown escape character 's': in double quotes a backslash begins another character; want single quotes, as in 'CONTOSO\\svc-bell'"},
		"user loses letters":     {`'CONTOSO\svc-bell'`, `"CONTOSO\Listener"`, "6: yaml: in double quotes a backslash begins another character; want single quotes, as in 'CONTOSO\\svc-bell'"},
		"path loses letters":     {"secrets/apns.p8", `"C:\apns.p8"`, "9: yaml: in double quotes a backslash begins another character; want single quotes, as in 'CONTOSO\\svc-bell'"},
		"two documents":          {"apns:", "---\napns:", "7: yaml: a second document begins here (---): want one"},
		"a document's end":       {"apns:", "...\napns:", "8: yaml: a second document begins here (---): want one"},
		"not UTF-8":              {"headquarters", "caf\xe9", "2: file: is not UTF-8"},
		"too large":              {good, strings.Repeat("# filled\n", maxFile/8), "1: file: is larger than 1 MiB"},
		"anchor":                 {"[contoso.com]", "&d [contoso.com]", "3: yaml: anchors, aliases and merge keys are not allowed in this file; a text that begins so needs quotes"},
		"alias":                  {"headquarters", "*d", "2: yaml: anchors, aliases and merge keys are not allowed in this file; a text that begins so needs quotes"},
		"tag":                    {"headquarters", "!!str 1", "2: yaml: tags (!) are not allowed in this file; a text that begins so needs quotes"},
		"directive":              {"", "%YAML 1.2\n---", "1: yaml: directives (%) are not allowed in this file; a text that begins so needs quotes"},
		"explicit key":           {"", "? listen\n: x", "1: yaml: explicit keys (?) are not allowed in this file; a text that begins so needs quotes"},
		"brackets without end":   {good, strings.Repeat("[", 100_000), "1: yaml: nested too deeply"},
		"list in list in list …": {good, strings.Repeat("- ", 100_000), "1: yaml: nested too deeply"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			text := test.new + "\n" + good
			if test.old != "" {
				if !strings.Contains(good, test.old) {
					t.Fatalf("the good configuration does not hold %q", test.old)
				}
				text = strings.Replace(good, test.old, test.new, 1)
			}
			c, err := load(t, text)
			if err == nil {
				t.Fatalf("loaded: %+v", c)
			}
			want := "mailbell.yaml:" + strings.ReplaceAll(test.want, "\n", "\nmailbell.yaml:")
			if diff := cmp.Diff(want, err.Error()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if c != nil {
				t.Error("a configuration came with its errors")
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Error("the error shows a secret")
			}
		})
	}
}

func TestAllMistakesAreReportedAtOnceInTheOrderOfTheirLines(t *testing.T) {
	folder(t)
	_, err := load(t, `listen: 0.0.0.0:80
exchange:
  - name: headquarters
    safety_pol: 1m
    requests_per_second: 0
    listener_accounts:
      - name: listener-01
        basic: {username: bell, password_file: secrets/nobody}
state: {redis: {addresses: [redis1]}}
api:
  clients:
    - {name: mdm, role: enrol, token_file: secrets/short}
log: {levl: info}
`)
	want := `mailbell.yaml:1: apns: is required
mailbell.yaml:1: listen: not loopback: tokens and addresses would cross the network in clear text; set tls, or behind_tls_proxy: true
mailbell.yaml:3: exchange[0].domains: is required
mailbell.yaml:4: exchange[0].safety_pol: unknown key; did you mean safety_poll?
mailbell.yaml:5: exchange[0].requests_per_second: out of bounds: want 1 to 100000, got 0
mailbell.yaml:8: exchange[0].listener_accounts[0].basic.password_file: secrets/nobody does not exist
mailbell.yaml:9: state.redis.addresses[0]: not an address: want host:port, as in 127.0.0.1:8080, got redis1
mailbell.yaml:12: api.clients[0].token_file: has a token of 15 characters: want at least 16
mailbell.yaml:13: log.levl: unknown key; did you mean level?`
	if diff := cmp.Diff(want, fmt.Sprint(err)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestAFileThatCannotBeReadIsAnErrorWithItsName(t *testing.T) {
	t.Chdir(t.TempDir())
	for file, want := range map[string]string{
		"mailbell.yaml": "mailbell.yaml:1: file: does not exist: --config names another file, and mailbell init makes one",
		".":             ".:1: file: is a folder",
		"/dev/null":     "/dev/null:1: file: is not a regular file",
	} {
		if _, err := Load(file); err == nil || err.Error() != want {
			t.Errorf("want %s, got %v", want, err)
		}
	}
}

func TestDefaultsAreInPlaceWhereKeysAreMissingNullOrEmpty(t *testing.T) {
	folder(t)
	missing, err := load(t, good)
	if err != nil {
		t.Fatal(err)
	}
	empty, err := load(t, strings.NewReplacer(
		"    domains:", `    type:
    listen_by: ""
    ews_url: ""
    autodiscover_url: ~
    trusted_hosts: []
    ca_file: ''
    mailbox_servers: []
    mailboxes_per_account: null
    subscriptions_per_connection: ""
    connection_timeout:
    safety_poll: ""
    requests_per_second:
    requests_in_flight:
    cloud: global
    cloud_urls: {}
    domains:`,
		"    token: {", "    environment:\n    url: ''\n    ca_file:\n    certificate: {file: '', password_file: ''}\n    token: {",
	).Replace(good)+`
listen: ""
public_url:
behind_tls_proxy:
tls: {cert_file: "", key_file: ""}
callbacks: {listen: "", tls: {cert_file: "", key_file: ""}}
state: {path: "", redis: {addresses: [], mode: "", tls: false}}
proxy: {url: "", username: "", password_file: "", bypass: []}
alerts: {content: , max_age: "", send: }
log: {}
`)
	if err != nil {
		t.Fatal(err)
	}
	missing.Sum, empty.Sum = Sum{}, Sum{}
	if diff := cmp.Diff(missing, empty); diff != "" {
		t.Errorf("missing and empty differ (-missing +empty):\n%s", diff)
	}
	want := &Config{
		File:   "mailbell.yaml",
		Listen: "127.0.0.1:8080",
		State:  State{Path: "mailbell.db"},
		Exchange: []Exchange{{
			Name: "headquarters", Type: OnPremises, ListenBy: ByStreaming, Domains: []string{"contoso.com"}, Cloud: worldwide,
			MailboxesPerAccount: 1250, SubscriptionsPerConnection: 200, ConnectionTimeout: 30 * time.Minute, SafetyPoll: 30 * time.Minute,
			RequestsInFlight: 512,
			Accounts:         []Account{{Name: "listener-01", Credential: credential.Description{Method: "basic", Username: `CONTOSO\svc-bell`, Secret: "pass word"}}},
		}},
		APNs: []APNs{{
			Topic: "com.contoso.mail", Environment: "production",
			Token: Token{KeyPEM: missing.APNs[0].Token.KeyPEM, KeyID: "ABCDE12345", TeamID: "FGHIJ67890"},
		}},
		Alerts: Alerts{Content: "sender_subject", MaxAge: time.Hour, Send: true},
		API:    API{Clients: []Client{{Name: "mdm", Role: "enrol", Token: "0123456789abcdef"}}, RequestsPerSecond: 20000, Burst: 20000},
		Canary: Canary{Every: 15 * time.Minute, Within: 2 * time.Minute},
		Log:    Log{Level: "info", Format: "json"},
		Files: []File{
			{"api.clients[0].token_file", "secrets/mdm", true}, {"exchange[0].listener_accounts[0].basic.password_file", "secrets/svc-bell", true},
			{"apns[0].token.key_file", "secrets/apns.p8", true},
		},
	}
	if diff := cmp.Diff(want, missing, cmp.Transformer("value", func(s Secret) []byte { return []byte(s) })); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if !strings.HasPrefix(string(missing.APNs[0].Token.KeyPEM), "-----BEGIN PRIVATE KEY-----") {
		t.Error("the APNs key is not in PEM form")
	}
}

func TestEverythingThatIsGivenArrives(t *testing.T) {
	folder(t)
	t.Setenv("MAILBELL_TEST_TOKEN", "from-the-environment")
	c, err := load(t, strings.NewReplacer(
		"[contoso.com]", `[Contoso.COM, bücher.example]
    type: exchange
    listen_by: push
    ews_url: https://ex.contoso.com/EWS/Exchange.asmx
    autodiscover_url: https://ex.contoso.com:8443/autodiscover/autodiscover.xml
    trusted_hosts: [EX2.contoso.com, 10.0.0.7]
    ca_file: ca.pem
    mailboxes_per_account: 1
    subscriptions_per_connection: 1
    connection_timeout: 1m
    safety_poll: 24h
    requests_per_second: 100000
    requests_in_flight: 1`,
		"    token: {", "    environment: sandbox\n    url: https://127.0.0.1:2197\n    ca_file: ca.pem\n    token: {",
		"token_file: secrets/mdm", "token_env: MAILBELL_TEST_TOKEN",
		"api:\n", "audit: {file: secrets/../audit.ndjson}\napi:\n  requests_per_second: 50\n",
	).Replace(good)+`
listen: "[::]:8443"
tls: {cert_file: cert.pem, key_file: key.pem}
behind_tls_proxy: true
public_url: https://mailbell.contoso.com/
callbacks: {listen: "[::]:8444", tls: {cert_file: cert.pem, key_file: key.pem}}
state: {path: secrets/state.db}
alerts: {content: generic, max_age: 10m, send: false}
log: {level: debug, format: console}
`)
	if err != nil {
		t.Fatal(err)
	}
	if c.Exchange[0].CA == nil || c.APNs[0].CA == nil || c.TLS == nil || len(c.TLS.CertPEM) == 0 || c.TLS.KeyPEM == "" {
		t.Fatalf("a file was not loaded: %+v", c)
	}
	if c.Callbacks.TLS == nil || len(c.Callbacks.TLS.CertPEM) == 0 || c.Callbacks.TLS.KeyPEM == "" {
		t.Fatalf("the certificate of the callbacks was not loaded: %+v", c.Callbacks)
	}
	c.Callbacks.TLS = nil
	c.Exchange[0].CA, c.APNs[0].CA, c.TLS, c.APNs[0].Token.KeyPEM, c.Sum = nil, nil, nil, "", Sum{}
	want := &Config{
		File:   "mailbell.yaml",
		Listen: "[::]:8443", BehindTLSProxy: true, PublicURL: "https://mailbell.contoso.com", Callbacks: Callbacks{Listen: "[::]:8444"}, State: State{Path: "secrets/state.db"},
		Exchange: []Exchange{{
			Name: "headquarters", Type: OnPremises, ListenBy: ByPush, Domains: []string{"contoso.com", "xn--bcher-kva.example"}, Cloud: worldwide,
			EWSURL: "https://ex.contoso.com/EWS/Exchange.asmx", AutodiscoverURL: "https://ex.contoso.com:8443/autodiscover/autodiscover.xml",
			TrustedHosts:        []string{"ex2.contoso.com", "10.0.0.7"},
			MailboxesPerAccount: 1, SubscriptionsPerConnection: 1, ConnectionTimeout: time.Minute, SafetyPoll: 24 * time.Hour,
			RequestsPerSecond: 100_000, RequestsInFlight: 1,
			Accounts: []Account{{Name: "listener-01", Credential: credential.Description{Method: "basic", Username: `CONTOSO\svc-bell`, Secret: "pass word"}}},
		}},
		APNs:   []APNs{{Topic: "com.contoso.mail", Environment: "sandbox", URL: "https://127.0.0.1:2197", Token: Token{KeyID: "ABCDE12345", TeamID: "FGHIJ67890"}}},
		Alerts: Alerts{Content: "generic", MaxAge: 10 * time.Minute},
		API:    API{Clients: []Client{{Name: "mdm", Role: "enrol", Token: "from-the-environment"}}, RequestsPerSecond: 50, Burst: 50},
		Audit:  Audit{File: "audit.ndjson"},
		Canary: Canary{Every: 15 * time.Minute, Within: 2 * time.Minute},
		Log:    Log{Level: "debug", Format: "console"},
		Files: []File{
			{"tls.cert_file", "cert.pem", false}, {"tls.key_file", "key.pem", true}, {"exchange[0].ca_file", "ca.pem", false},
			{"exchange[0].listener_accounts[0].basic.password_file", "secrets/svc-bell", true}, {"apns[0].ca_file", "ca.pem", false},
			{"apns[0].token.key_file", "secrets/apns.p8", true}, {"callbacks.tls.cert_file", "cert.pem", false}, {"callbacks.tls.key_file", "key.pem", true},
		},
	}
	if diff := cmp.Diff(want, c, cmp.Transformer("value", func(s Secret) []byte { return []byte(s) })); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestPathsAreRelativeToTheConfigurationFile(t *testing.T) {
	folder(t)
	if _, err := load(t, good); err != nil {
		t.Fatal(err)
	}
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	c, err := Load(filepath.Join(dir, "mailbell.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if want := filepath.Join(dir, "mailbell.db"); c.State.Path != want {
		t.Errorf("the state is at %s, want %s", c.State.Path, want)
	}
}

func TestOnlyLoopbackNeedsNoTLS(t *testing.T) {
	folder(t)
	for _, listen := range []string{"127.0.0.1:0", "127.1.2.3:80", "'[::1]:80'", "localhost:80"} {
		if _, err := load(t, good+"listen: "+listen+"\n"); err != nil {
			t.Errorf("%s: %v", listen, err)
		}
	}
	if _, err := load(t, good+"listen: ':80'\nbehind_tls_proxy: true\n"); err != nil {
		t.Error(err)
	}
}

func TestWhereTheServiceListensIsReadWhateverElseIsWrong(t *testing.T) {
	folder(t)
	const at = "listen: 127.0.0.1:8081 # of the API\n"
	for name, test := range map[string]struct{ text, want string }{
		"all is right":           {good + at, "127.0.0.1:8081"},
		"nothing is there":       {"", defaultListen},
		"it is left out":         {good, defaultListen},
		"an unknown key":         {at + "lissten: x\ntls: {cert_file: nowhere}\ncallbacks: {listen: 127.0.0.1:8082}\n", "127.0.0.1:8081"},
		"another key twice":      {at + "apns: []\napns: []\n", "127.0.0.1:8081"},
		"a key without colon":    {"tls:\n  cert_file\n  key_file: x\n" + at, "127.0.0.1:8081"},
		"a bracket left open":    {"callbacks: {\n  listen: 127.0.0.1:8082\n" + at, "127.0.0.1:8081"},
		"a tab":                  {"alerts:\n\tsend: false\n" + strings.ReplaceAll(at, "\n", "\r\n"), "127.0.0.1:8081"},
		"not UTF-8":              {at + "public_url: \xff\n", "127.0.0.1:8081"},
		"it is wrong":            {good + "listen: 8081\n", ""},
		"it is wrong, and a tab": {"alerts:\n\tsend: false\nlisten: {}}\n", ""},
	} {
		if err := os.WriteFile("mailbell.yaml", []byte(test.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := Listen("mailbell.yaml"); got != test.want || (err == nil) != (test.want != "") {
			t.Errorf("%s: %q, %v; want %q", name, got, err, test.want)
		}
	}
	if _, err := Listen("nowhere.yaml"); err == nil {
		t.Error("a file that is missing says where")
	}
}

func TestLineEndsAndByteOrderMarkOfWindows(t *testing.T) {
	folder(t)
	if _, err := load(t, "\ufeff"+strings.ReplaceAll(good, "\n", "\r\n")); err != nil {
		t.Error(err)
	}
	_, err := load(t, "\ufeff"+strings.ReplaceAll(good+"lisen: x\n", "\n", "\r\n"))
	if want := "mailbell.yaml:13: lisen: unknown key; did you mean listen?"; err == nil || err.Error() != want {
		t.Errorf("want %s, got %v", want, err)
	}
}

func TestTheExampleLoadsOnceItsFilesExist(t *testing.T) {
	example, err := os.ReadFile("../mailbell.example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	folder(t)
	if _, err := load(t, string(example)); err != nil {
		t.Error(err)
	}
}

func TestAClientMayHaveACertificateInsteadOfATokenOrBesideIt(t *testing.T) {
	folder(t)
	for keys, token := range map[string]Secret{"certificate: mdm.contoso.com": "", "certificate: mdm.contoso.com, token_file: secrets/mdm": "0123456789abcdef"} {
		c, err := load(t, "tls: {cert_file: cert.pem, key_file: key.pem, client_ca_file: ca.pem}\n"+strings.Replace(good, "token_file: secrets/mdm", keys, 1))
		if err != nil {
			t.Errorf("%s: %v", keys, err)
			continue
		}
		if got := c.API.Clients[0]; got.Certificate != "mdm.contoso.com" || got.Token != token || c.TLS.ClientCAs == nil {
			t.Errorf("%s: %+v", keys, got)
		}
	}
}

func TestANextTokenIsReadAndMayBeTheTokenAtTheEndOfAChange(t *testing.T) {
	folder(t)
	t.Setenv("MAILBELL_TEST_NEXT", "the-token-of-next-month")
	for key, want := range map[string]Secret{"": "", ", next_token_env: MAILBELL_TEST_NEXT": "the-token-of-next-month", ", next_token_file: secrets/mdm": ""} {
		c, err := load(t, strings.Replace(good, "token_file: secrets/mdm", "token_file: secrets/mdm"+key, 1))
		if err != nil {
			t.Errorf("%s: %v", key, err)
			continue
		}
		if got := c.API.Clients[0].NextToken; got != want {
			t.Errorf("%s: %q, want %q", key, string(got), string(want))
		}
	}
}

// numbered are so many elements of a list, each with its number.
func numbered(n int, element string) string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprintf(element, i)
	}
	return strings.Join(list, ", ")
}

const (
	numberedCanary  = "canary-%d@contoso.com"
	numberedWebhook = "{name: hook-%d, url: 'https://mdm.contoso.com/', secret_file: secrets/hook}"
)

func TestACanaryArrives(t *testing.T) {
	folder(t)
	for given, want := range map[string]Canary{
		"": {Every: 15 * time.Minute, Within: 2 * time.Minute},
		"canary: {mailboxes: [Canary@Contoso.com], every: 1h, within: 10s}": {Mailboxes: []string{"canary@contoso.com"}, Every: time.Hour, Within: 10 * time.Second},
		"canary: {mailboxes: [Canary@Contoso.com., ann@bücher.example]}":    {Mailboxes: []string{"canary@contoso.com", "ann@xn--bcher-kva.example"}, Every: 15 * time.Minute, Within: 2 * time.Minute},
	} {
		c, err := load(t, strings.Replace(good, "[contoso.com]", "[contoso.com, bücher.example]", 1)+given+"\n")
		if err != nil {
			t.Errorf("%s: %v", given, err)
			continue
		}
		if diff := cmp.Diff(want, c.Canary); diff != "" {
			t.Errorf("%s (-want +got):\n%s", given, diff)
		}
	}
	if c, err := load(t, good+"canary: {mailboxes: ["+numbered(maxCanaries, numberedCanary)+"]}\n"); err != nil || len(c.Canary.Mailboxes) != maxCanaries {
		t.Errorf("as many as may be: %v", err)
	}
}

func TestAWebhookArrives(t *testing.T) {
	folder(t)
	for given, want := range map[string]Webhook{
		"{name: mdm, url: 'https://mdm.contoso.com:8443/hooks/mailbell', secret_file: secrets/hook}":                                   {Name: "mdm", URL: "https://mdm.contoso.com:8443/hooks/mailbell"},
		"{name: mdm, url: 'http://127.0.0.1:9000/', secret_file: secrets/hook, events: [device.gone], next_secret_file: secrets/hook}": {Name: "mdm", URL: "http://127.0.0.1:9000/", Events: []string{"device.gone"}},
	} {
		c, err := load(t, good+"webhooks: ["+given+"]\n")
		if err != nil {
			t.Errorf("%s: %v", given, err)
			continue
		}
		want.Secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
		if diff := cmp.Diff([]Webhook{want}, c.Webhooks); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
	if c, err := load(t, good+"webhooks: [{name: mdm, url: 'https://mdm.contoso.com/', secret_file: secrets/hook, ca_file: ca.pem}]\n"); err != nil || c.Webhooks[0].CA == nil {
		t.Errorf("%v: its roots are not there", err)
	}
	if c, err := load(t, good+"webhooks: ["+numbered(maxWebhooks, numberedWebhook)+"]\n"); err != nil || len(c.Webhooks) != maxWebhooks {
		t.Errorf("as many as may be: %v", err)
	}
}

// contract is every key that the schema has, those of later versions too.
const contract = `listen: 127.0.0.1:8080
public_url: https://mailbell.contoso.com
behind_tls_proxy: false
tls: {cert_file: a, key_file: b, key_env: C, client_ca_file: d}
callbacks: {listen: "", tls: {cert_file: "", key_file: ""}}
state:
  path: mailbell.db
  redis: {addresses: [redis1:6379], mode: single, master: "", username: "", password_file: "", sentinel_password_file: "", tls: false, ca_file: "", prefix: mailbell}
exchange:
  - name: headquarters
    type: exchange
    listen_by: streaming
    domains: [contoso.com]
    ews_url: ""
    autodiscover_url: ""
    trusted_hosts: []
    ca_file: ""
    mailbox_servers: []
    mailboxes_per_account: 1250
    subscriptions_per_connection: 200
    connection_timeout: 30m
    safety_poll: 30m
    requests_per_second: 100
    requests_in_flight: 256
    cloud: global
    cloud_urls: {ews: a, autodiscover: b, authority: c, graph: d}
    graph: {rich: false}
    listener_accounts:
      - {name: a, basic: {username: a, password_file: b, password_env: C}}
      - {name: b, ntlm: {username: a, password_file: b}}
      - {name: c, client_secret: {tenant_id: a, client_id: b, secret_file: c, expires: 2027-05-01}}
      - {name: d, certificate: {tenant_id: a, client_id: b, file: c, password_file: d}}
      - {name: e, listener_account: {tenant_id: a, client_id: b, username: c, password_file: d}}
proxy: {url: "http://proxy.contoso.com:3128", username: "", password_file: "", bypass: []}
apns:
  - topic: com.contoso.mail
    environment: production
    url: ""
    ca_file: ""
    token: {key_file: secrets/apns.p8, key_env: A, key_id: ABCDE12345, team_id: FGHIJ67890}
    certificate: {file: a, password_file: b}
alerts: {content: sender_subject, max_age: 1h, send: true}
api:
  requests_per_second: 20000
  burst: 20000
  clients:
    - {name: mdm, role: enrol, token_file: secrets/mdm, token_env: A, next_token_file: b, next_token_env: B, certificate: mdm.contoso.com}
admin:
  url: https://mailbell.contoso.com
  oidc: {issuer: https://id.contoso.com, client_id: a, client_secret_file: a, client_secret_env: A, ca_file: a, groups_claim: roles, groups: {mailbell-admins: admin}, addresses: {"ann@contoso.com": read}}
audit: {file: ""}
webhooks:
  - {name: mdm, url: "https://mdm.contoso.com/hooks", ca_file: "", secret_file: a, secret_env: A, next_secret_file: b, next_secret_env: B, events: [device.gone]}
canary: {mailboxes: [canary@contoso.com], every: 15m, within: 2m}
log: {level: info, format: json}
`

func TestEveryKeyOfTheContractIsKnownAndExplained(t *testing.T) {
	example, err := os.ReadFile("../mailbell.example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range regexp.MustCompile(`[a-z0-9_]+: `).FindAllString(strings.ReplaceAll(contract, ":\n", ": \n"), -1) {
		if !regexp.MustCompile(`\b` + strings.TrimSpace(key)).Match(example) {
			t.Errorf("the example does not explain %s", key)
		}
	}
	folder(t)
	if _, err := load(t, contract); strings.Contains(fmt.Sprint(err), "unknown key") {
		t.Error(err)
	}
}

func TestASecretIsNeverPrinted(t *testing.T) {
	secret := struct{ Token Secret }{"hunter2"}
	asJSON, err := json.Marshal(secret)
	if err != nil {
		t.Fatal(err)
	}
	asYAML, err := yaml.Marshal(secret)
	if err != nil {
		t.Fatal(err)
	}
	printed := []string{string(asJSON), string(asYAML), secret.Token.String()}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%10.3s"} {
		printed = append(printed, fmt.Sprintf(verb, secret), fmt.Sprintf(verb, secret.Token), fmt.Sprintf(verb, &secret))
	}
	for _, s := range printed {
		if strings.Contains(s, "hunter2") || strings.Contains(strings.ToLower(s), "68756e74657232") || !strings.Contains(s, "***") {
			t.Errorf("printed as %s", s)
		}
	}
	if string(secret.Token) != "hunter2" {
		t.Error("its value is lost")
	}
}

func FuzzLoad(f *testing.F) {
	folder(f)
	f.Add([]byte(good))
	f.Add([]byte("exchange: [{name: a, domains: [b.c], listener_accounts: [{}]}]\napns: 1\nlisten: ':'\n"))
	f.Add([]byte("a: |\n  x\n\tb: 'c\n---\n? [\n"))
	f.Add([]byte("alerts: {max_age: 1e9h, send: 0x1}\n\"\\n\": ''\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		r := &reader{file: "mailbell.yaml"}
		_, err := r.load(text)
		if err == nil {
			return
		}
		mistakes, ok := errors.AsType[Errors](err)
		if !ok || len(mistakes) == 0 {
			t.Fatalf("not a list of mistakes: %#v", err)
		}
		lines := strings.Count(string(text), "\n") + strings.Count(string(text), "\r") + 1
		for _, m := range mistakes {
			if m.Line < 1 || m.Line > lines || m.File != "mailbell.yaml" || m.Key == "" || m.Text == "" || strings.ContainsAny(m.Error(), "\r\n\t") {
				t.Errorf("%d lines: %q", lines, m.Error())
			}
		}
	})
}
