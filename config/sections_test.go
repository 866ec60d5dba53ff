package config

// The sections as they arrive: clouds, credentials and the proxy.

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mailbell/mailbell/internal/credential"
)

const (
	basicLine    = `basic: {username: 'CONTOSO\svc-bell', password_file: secrets/svc-bell}`
	registration = `tenant_id: Contoso.onmicrosoft.com, client_id: 11111111-2222-3333-4444-555555555555`
)

func TestEachCredentialArrives(t *testing.T) {
	files := map[string][]byte{"secrets/app": []byte("bell-pass")} // the certificates of an app have RSA keys
	for name, from := range map[string]string{"app.pfx": "openssl3.pfx", "app.pem": "pkcs8.pem"} {
		data, err := os.ReadFile(filepath.Join("../internal/certificate/testdata", from))
		if err != nil {
			t.Fatal(err)
		}
		files[name] = data
	}
	folder(t)
	for name, data := range files {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const tenant, client = "contoso.onmicrosoft.com", "11111111-2222-3333-4444-555555555555"
	for _, test := range []struct {
		entry, line string
		want        credential.Description
	}{
		{"exchange", basicLine, credential.Description{Method: "basic", Username: `CONTOSO\svc-bell`, Secret: "pass word"}},
		{"exchange", `ntlm: {username: svc-bell@contoso.com, password_file: secrets/svc-bell}`,
			credential.Description{Method: "ntlm", Username: "svc-bell@contoso.com", Secret: "pass word"}},
		{"online", `client_secret: {` + registration + `, secret_file: secrets/svc-bell}`,
			credential.Description{Method: "client_secret", Tenant: tenant, ClientID: client, Secret: "pass word"}},
		{"online", `client_secret: {` + registration + `, secret_file: secrets/svc-bell, expires: 2027-05-01}`,
			credential.Description{Method: "client_secret", Tenant: tenant, ClientID: client, Secret: "pass word", Expires: time.Date(2027, 5, 1, 0, 0, 0, 0, time.UTC)}},
		{"online", `certificate: {` + registration + `, file: app.pfx, password_file: secrets/app}`,
			credential.Description{Method: "certificate", Tenant: tenant, ClientID: client}},
		{"online", `certificate: {` + registration + `, file: app.pem, password_file: "", password_env: ""}`, credential.Description{Method: "certificate", Tenant: tenant, ClientID: client}},
		{"online", `listener_account: {` + registration + `, username: svc-bell@contoso.com, password_file: secrets/svc-bell}`,
			credential.Description{Method: "listener_account", Tenant: tenant, ClientID: client, Username: "svc-bell@contoso.com", Secret: "pass word"}},
	} {
		c, err := load(t, strings.NewReplacer("[contoso.com]", "[contoso.com]\n    type: "+test.entry, basicLine, test.line).Replace(good))
		if err != nil {
			t.Errorf("%s: %v", test.line, err)
			continue
		}
		account := c.Exchange[0].Accounts[0]
		got := account.Credential
		if test.want.Method == "certificate" {
			if got.Certificate == nil || got.Certificate.Leaf == nil || !got.Expires.Equal(got.Certificate.Leaf.NotAfter) {
				t.Errorf("%s: its certificate is not there, or nobody says when it expires", test.line)
				continue
			}
			got.Certificate, got.Expires = nil, time.Time{}
		}
		if account.Name != "listener-01" {
			t.Errorf("%s: the account's name is %q", test.line, account.Name)
		}
		if diff := cmp.Diff(test.want, got, cmp.Transformer("value", func(s Secret) []byte { return []byte(s) })); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.line, diff)
		}
	}
}

func TestAChangeOfAnyFileIsSeen(t *testing.T) {
	folder(t)
	c, err := load(t, good+"tls: {cert_file: cert.pem, key_file: key.pem}\n")
	if err != nil || c.Changed() {
		t.Fatalf("%v, or changed at once", err)
	}
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{c.File, "cert.pem", "key.pem", "secrets/svc-bell", "secrets/mdm", "secrets/apns.p8"} {
		held, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		put := func(what string, want bool, do error) {
			t.Helper()
			if do != nil || c.Changed() != want {
				t.Errorf("%s %s: %v, changed %t, want %t", name, what, do, !want, want)
			}
		}
		put("holds more", true, os.WriteFile(name, append(slices.Clone(held), '\n'), 0o600))
		put("is as it was", false, os.WriteFile(name, held, 0o600))
		put("is gone", true, os.Rename(name, "away"))
		put("is a link to what it held", false, os.Symlink(filepath.Join(dir, "away"), name))
		put("is a link to another", true, errors.Join(os.WriteFile("next", []byte("next"), 0o600), os.Symlink(filepath.Join(dir, "next"), "link"), os.Rename("link", name)))
		put("is back", false, errors.Join(os.Remove(name), os.Rename("away", name)))
	}
}

func TestTwoFilesThatChangePlacesAreAChange(t *testing.T) {
	folder(t)
	c, err := load(t, strings.Replace(good, "clients:\n", "clients:\n    - {name: helpdesk, role: test, token_file: secrets/helpdesk}\n", 1))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Rename("secrets/mdm", "secrets/x"), os.Rename("secrets/helpdesk", "secrets/mdm"), os.Rename("secrets/x", "secrets/helpdesk")); err != nil || !c.Changed() {
		t.Errorf("%v, or not seen", err)
	}
}

func TestACloudIsKnownByNameOrDescribed(t *testing.T) {
	folder(t)
	for line, want := range map[string]Cloud{
		"cloud: ''":       worldwide,
		"cloud: gcc":      worldwide,
		"cloud: gcc-high": clouds["gcc-high"],
		"cloud: dod":      clouds["dod"],
		"cloud: china":    clouds["china"],
		"cloud: custom\n    cloud_urls: {ews: https://ews.example/, autodiscover: https://ad.example, authority: https://login.example:8443/}": {
			"https://ews.example/EWS/Exchange.asmx", "https://ad.example", "https://login.example:8443", "", true},
		"cloud: custom\n    cloud_urls: {ews: https://ews.example/x.asmx, autodiscover: https://ad.example, authority: https://l.example, graph: https://g.example}": {
			"https://ews.example/x.asmx", "https://ad.example", "https://l.example", "https://g.example", true},
	} {
		c, err := load(t, strings.Replace(good, "[contoso.com]", "[contoso.com]\n    "+line, 1))
		if err != nil {
			t.Errorf("%s: %v", line, err)
			continue
		}
		if got := c.Exchange[0].Cloud; got != want {
			t.Errorf("%s: %+v", line, got)
		}
	}
}

func TestTheProxyArrives(t *testing.T) {
	folder(t)
	for line, want := range map[string]*Proxy{
		"proxy: {url: '', username: '', bypass: []}":     nil,
		"proxy: {url: 'http://proxy.contoso.com:3128/'}": {URL: "http://proxy.contoso.com:3128"},
		"proxy: {url: 'socks5://[::1]:1080', username: bell, password_file: secrets/svc-bell, bypass: [EX1.contoso.com, .Fabrikam.com, '*.example', '10.0.0.0/8', '192.0.2.1', 'ex2:8443', '[::1]:443']}": {
			URL: "socks5://[::1]:1080", Username: "bell", Password: "pass word",
			Bypass: []string{"ex1.contoso.com", ".fabrikam.com", ".example", "10.0.0.0/8", "192.0.2.1", "ex2:8443", "[::1]:443"}},
	} {
		c, err := load(t, good+line+"\n")
		if err != nil {
			t.Errorf("%s: %v", line, err)
			continue
		}
		if diff := cmp.Diff(want, c.Proxy, cmp.Transformer("value", func(s Secret) []byte { return []byte(s) })); diff != "" {
			t.Errorf("%s (-want +got):\n%s", line, diff)
		}
	}
}

func TestWhatIsAllowedAndDoubtfulIsQuestioned(t *testing.T) {
	folder(t)
	far := time.Now().AddDate(0, maxSecretMonths+1, 0).Format(time.DateOnly)
	near := time.Now().AddDate(0, maxSecretMonths, 0).Format(time.DateOnly)
	for line, want := range map[string]string{
		`client_secret: {` + registration + `, secret_file: secrets/svc-bell, expires: ` + far + `}`:                "mailbell.yaml:7: exchange[0].listener_accounts[0].client_secret.expires: is more than 24 months ahead, and no client secret of Entra ID lasts that long: check the day",
		`client_secret: {` + registration + `, secret_file: secrets/svc-bell, expires: ` + near + `}`:               "",
		`listener_account: {` + registration + `, username: svc-bell@contoso.com, password_file: secrets/svc-bell}`: "mailbell.yaml:7: exchange[0].listener_accounts[0].listener_account: Exchange Online has refused impersonation by a listener account since February 2025: use client_secret or certificate",
	} {
		c, err := load(t, strings.NewReplacer("[contoso.com]", "[contoso.com]\n    type: online", basicLine, line).Replace(good))
		if err != nil {
			t.Errorf("%s: %v", line, err)
			continue
		}
		if got := c.Warnings.Error(); len(c.Warnings) == 0 && want != "" || len(c.Warnings) > 0 && got != want {
			t.Errorf("%s: questioned with %q", line, got)
		}
	}
}

func TestASecretWithASpaceAtAnEndIsQuestioned(t *testing.T) {
	for secret, questioned := range map[string]bool{"pass word\r\n": false, "password \n": true, " password": true, "password\u00a0": true} {
		folder(t)
		if err := os.WriteFile("secrets/svc-bell", []byte(secret), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := load(t, good)
		if err != nil || (len(c.Warnings) > 0) != questioned || string(c.Exchange[0].Accounts[0].Credential.Secret) != strings.TrimRight(secret, "\r\n") {
			t.Errorf("%q: %v, %v", secret, c, err)
		}
		if want := "mailbell.yaml:6: exchange[0].listener_accounts[0].basic.password_file: begins or ends with a space, which is taken as a part of it"; questioned && c.Warnings.Error() != want {
			t.Errorf("%q: %v", secret, c.Warnings)
		}
	}
}

func TestARedisThatIsAskedInClearOverANetworkIsQuestioned(t *testing.T) {
	folder(t)
	for address, questioned := range map[string]bool{"redis1:6379": true, "192.0.2.1:6379": true, "127.0.0.1:6379": false, "localhost:6379": false, "'[::1]:6379'": false} {
		for _, overTLS := range []string{"false", "true"} {
			c, err := load(t, good+"state: {redis: {addresses: ["+address+"], tls: "+overTLS+"}}\n")
			if err != nil {
				t.Errorf("%s: %v", address, err)
				continue
			}
			if want := questioned && overTLS == "false"; (len(c.Warnings) > 0) != want {
				t.Errorf("%s, tls %s: %v", address, overTLS, c.Warnings)
			} else if want && (c.Warnings[0].Key != "state.redis.tls" || !strings.Contains(c.Warnings[0].Text, "device tokens")) {
				t.Errorf("%s: %v", address, c.Warnings[0])
			}
		}
	}
}
