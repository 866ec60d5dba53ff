package proxyconfig

import (
	"strings"
	"testing"
)

func TestARuleIsWrittenInOneWay(t *testing.T) {
	for in, want := range map[string]string{
		"EX1.contoso.com.": "ex1.contoso.com",
		".Fabrikam.com":    ".fabrikam.com",
		"*.example":        ".example",
		"*.example:8443":   ".example:8443",
		"MÜNCHEN.example":  "xn--mnchen-3ya.example",
		"10.1.2.3/8":       "10.0.0.0/8",
		"192.0.2.1":        "192.0.2.1",
		"192.0.2.1/32":     "192.0.2.1",
		"::ffff:192.0.2.1": "192.0.2.1",
		"[::1]":            "::1",
		"[::1]:443":        "[::1]:443",
		"ex2:8443":         "ex2:8443",
		"":                 "",
		"*":                "",
		"*.*.example":      "",
		"..example":        "",
		".10.0.0.1":        "",
		".::1":             "",
		"ex2:0":            "",
		"10.0.0.0/33":      "",
		"10.0.0.0/8:443":   "",
		"https://ex2":      "",
	} {
		r, err := ParseRule(in)
		if (err == nil) != (want != "") || err == nil && r.String() != want {
			t.Errorf("%q: %q, %v; want %q", in, r, err, want)
		}
	}
}

func TestARuleMatchesItsHostsAndPortsOnly(t *testing.T) {
	for _, c := range []struct {
		rule, host, port string
		want             bool
	}{
		{"ex1.contoso.com", "EX1.Contoso.com.", "443", true},
		{"ex1.contoso.com", "mail.ex1.contoso.com", "443", false},
		{".contoso.com", "mail.contoso.com", "443", true},
		{".contoso.com", "contoso.com", "443", false},
		{".contoso.com", "notcontoso.com", "443", false},
		{"ex1:443", "ex1", "443", true},
		{"ex1:443", "ex1", "8443", false},
		{"10.0.0.0/8", "10.1.2.3", "443", true},
		{"10.0.0.0/8", "::ffff:10.1.2.3", "443", true},
		{"10.0.0.0/8", "11.1.2.3", "443", false},
		{"10.0.0.0/8", "10.1.2.3.nip.example", "443", false},
		{"10.0.0.0/8", "no host", "443", false},
		{"ex1", "no host", "443", false},
		{"fe80::1", "fe80::1%eth0", "443", true},
	} {
		r, err := ParseRule(c.rule)
		if err != nil || r.Matches(NewTarget(c.host, c.port)) != c.want {
			t.Errorf("%s and %s:%s: %v, match is %t", c.rule, c.host, c.port, err, !c.want)
		}
	}
}

func TestNoErrorShowsWhatWasRead(t *testing.T) {
	const secret = "hunter2"
	for _, s := range []string{"http://u:" + secret + "@proxy:3128", secret + "://proxy:3128", "http://proxy:3128/" + secret, "http://" + secret, "http://%" + secret + "@proxy", "http://" + secret + "(:3128"} {
		if u, err := ParseURL(s); u != nil || err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("%q: %v, %v", s, u, err)
		}
	}
	if _, err := ParseRule(secret + "@"); err == nil || strings.Contains(err.Error(), secret) {
		t.Errorf("%v", err)
	}
	for _, s := range []string{secret + ":", secret + "\n", secret + strings.Repeat("u", MaxCredential)} {
		if err := CheckUsername(s); err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("%q: %v", s, err)
		}
	}
	if err := CheckUsername(`CONTOSO\svc-bell`); err != nil {
		t.Error(err)
	}
}

func FuzzParseRule(f *testing.F) {
	f.Add("*.Contoso.com:443")
	f.Add("[::ffff:10.0.0.1]:443")
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseRule(s)
		if err != nil {
			return
		}
		if again, err := ParseRule(r.String()); err != nil || again != r {
			t.Errorf("%q became %q, and that %q, %v", s, r, again, err)
		}
		host := r.name
		switch {
		case r.network.IsValid():
			host = r.network.Addr().String()
		case r.below:
			host = "a." + r.name
		}
		const longest = 253
		if !r.Matches(NewTarget(host, r.port)) && len(host) <= longest {
			t.Errorf("%s:%s is listed by %q, and goes through the proxy", host, r.port, r)
		}
	})
}
