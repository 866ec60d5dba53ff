package config

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestASignInArrives(t *testing.T) {
	folder(t)
	for what, c := range map[string]struct {
		text string
		want Admin
	}{
		"nothing":    {"", Admin{}},
		"empty":      {"admin: {url: '', oidc: {issuer: '', client_id: '', client_secret_file: '', groups: {}}}\n", Admin{}},
		"public_url": {"public_url: https://mailbell.contoso.com/\n", Admin{URL: "https://mailbell.contoso.com"}},
		"all": {
			"public_url: https://callbacks.contoso.com\ncallbacks: {listen: 127.0.0.1:8443}\nadmin:\n  url: https://mailbell.contoso.com\n  oidc:\n    issuer: https://login.microsoftonline.com/1/v2.0\n" +
				"    client_id: '7'\n    client_secret_file: secrets/svc-bell\n    groups_claim: roles\n" +
				"    groups: {'CN=Mail Admins,DC=contoso,DC=com': admin, 0123: test}\n    addresses: {Ann@Contoso.com: read}\n",
			Admin{URL: "https://mailbell.contoso.com", OIDC: &OIDC{Issuer: "https://login.microsoftonline.com/1/v2.0", ClientID: "7", ClientSecret: "pass word", GroupsClaim: "roles",
				Groups: map[string]string{"CN=Mail Admins,DC=contoso,DC=com": "admin", "0123": "test"}, Addresses: map[string]string{"ann@contoso.com": "read"}}},
		},
		"on this machine": {"admin: {url: 'http://localhost:8080', oidc: " + signIn + "}\n",
			Admin{URL: "http://localhost:8080", OIDC: &OIDC{Issuer: "https://id.contoso.com", ClientID: "x", ClientSecret: "pass word", GroupsClaim: "groups",
				Groups: map[string]string{"g": "admin"}, Addresses: map[string]string{}}}},
	} {
		got, err := load(t, c.text+good)
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		if d := cmp.Diff(c.want, got.Admin); d != "" {
			t.Errorf("%s: %s", what, strings.ReplaceAll(d, "\u00a0", " "))
		}
	}
}
