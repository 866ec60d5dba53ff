package hostname

import (
	"net/url"
	"strings"
	"testing"
)

func TestAHostHasOneForm(t *testing.T) {
	long := strings.Repeat("a", longest-len(".example")) + ".example"
	for in, want := range map[string]string{
		"mail.contoso.com":       "mail.contoso.com",
		"MAIL.Contoso.COM.":      "mail.contoso.com",
		"EX1":                    "ex1",
		"old_server.contoso.com": "old_server.contoso.com",
		"münchen.example":        "xn--mnchen-3ya.example",
		"MÜNCHEN.example":        "xn--mnchen-3ya.example",
		"192.0.2.1":              "192.0.2.1",
		"::ffff:192.0.2.1":       "192.0.2.1",
		"2001:DB8:0::1":          "2001:db8::1",
		long:                     long,
		"a" + long:               "",
		"":                       "",
		".":                      "",
		"a..b":                   "",
		".contoso.com":           "",
		"*.contoso.com":          "",
		"contoso.com:443":        "",
		"[::1]":                  "",
		"ex 1":                   "",
		"https://x":              "",
		"bell@contoso.com":       "",
		"contoso.com/":           "",
		"b\u3002example":         "b.example", // a dot of another kind
		"a\u2024b.example":       "",          // and none
		"\u00ad":                 "",
	} {
		got, ok := Parse(in)
		if ok != (want != "") || ok && got != want {
			t.Errorf("Parse(%q) = %q, %t; want %q", in, got, ok, want)
		}
	}
	if got, ok := Parse("fe80::1%eth0"); ok {
		t.Errorf("an address of one machine's own network became %q", got)
	}
}

func TestADomainIsANameOfDNS(t *testing.T) {
	for in, want := range map[string]string{
		"Contoso.COM":        "contoso.com",
		"contoso.com.":       "contoso.com",
		"bücher.example":     "xn--bcher-kva.example",
		"localhost":          "localhost",
		"contoso":            "",
		"con_toso.com":       "",
		"192.0.2.1":          "",
		"a..example":         "",
		"":                   "",
		"xn--zzzzzz.example": "",
	} {
		got, ok := ParseDomain(in)
		if ok != (want != "") || ok && got != want {
			t.Errorf("ParseDomain(%q) = %q, %t; want %q", in, got, ok, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("MÜNCHEN.example.")
	f.Add("::ffff:192.0.2.1")
	f.Fuzz(func(t *testing.T, s string) {
		for name, parse := range map[string]func(string) (string, bool){"Parse": Parse, "ParseDomain": ParseDomain} {
			once, ok := parse(s)
			if !ok {
				continue
			}
			if twice, ok := parse(once); !ok || twice != once || strings.ContainsAny(once, " /@") {
				t.Errorf("%s: %q became %q, and that %q, %t", name, s, once, twice, ok)
			}
		}
	})
}

func TestTheAddressOfAURLHasItsPort(t *testing.T) {
	for in, want := range map[string]string{
		"https://Mail.Contoso.com./EWS":  "mail.contoso.com:443",
		"https://mail.contoso.com:8443/": "mail.contoso.com:8443",
		"http://mail.contoso.com":        "mail.contoso.com:80",
		"https://[2001:DB8::1]/":         "[2001:db8::1]:443",
		"https:///EWS":                   "",
		"":                               "",
	} {
		u, err := url.Parse(in)
		if err != nil {
			t.Fatal(err)
		}
		if got := Address(u); got != want {
			t.Errorf("%s: %q, want %q", in, got, want)
		}
	}
}

func TestADomainEndsAtALabel(t *testing.T) {
	for _, c := range []struct {
		host, domain  string
		within, below bool
	}{
		{"contoso.com", "contoso.com", true, false},
		{"mail.contoso.com", "contoso.com", true, true},
		{"a.b.contoso.com", "contoso.com", true, true},
		{"notcontoso.com", "contoso.com", false, false},
		{"contoso.com.evil.example", "contoso.com", false, false},
		{".contoso.com", "contoso.com", false, false},
		{"com", "contoso.com", false, false},
		{"contoso.com", "", false, false},
	} {
		if within, below := Within(c.host, c.domain), Below(c.host, c.domain); within != c.within || below != c.below {
			t.Errorf("%q and %q: within %t, below %t", c.host, c.domain, within, below)
		}
	}
}

func TestAServerIsTheSameByItsShortName(t *testing.T) {
	for _, c := range []struct {
		a, b string
		same bool
	}{
		{"EX1", "ex1.contoso.com", true},
		{"ex1.contoso.com.", "EX1.contoso.com", true},
		{"ex1", "EX1", true},
		{"ex1.contoso.com", "ex1.fabrikam.com", false},
		{"ex1", "ex2.contoso.com", false},
		{"ex1", "ex10", false},
	} {
		if SameServer(c.a, c.b) != c.same || SameServer(c.b, c.a) != c.same {
			t.Errorf("%s and %s: the same is %t", c.a, c.b, !c.same)
		}
	}
}

func TestAPortCanBeConnectedTo(t *testing.T) {
	for in, want := range map[string]bool{"1": true, "443": true, "65535": true, "0": false, "65536": false, "": false, "+1": false, "https": false} {
		if IsPort(in) != want {
			t.Errorf("%q: %t", in, !want)
		}
	}
}
