package challenge

import (
	"slices"
	"strings"
	"testing"
)

func TestSchemesAreReadFromOneLineEachAndFromAList(t *testing.T) {
	for _, c := range []struct {
		lines []string
		want  string
	}{
		{nil, ""},
		{[]string{"Negotiate", "NTLM", `Basic realm="mail.contoso.com"`}, "Negotiate NTLM Basic"},
		{[]string{`Negotiate, NTLM, Basic realm="proxy, of Contoso", charset="UTF-8"`}, "Negotiate NTLM Basic"},
		{[]string{`Digest realm="a\", Basic realm=x", nonce = "1", qop="auth, Basic "`}, "Digest"},
		{[]string{`Basic realm="x"`, "basic"}, "Basic"},
		{[]string{`,, "Basic" , =x`}, ""},
	} {
		if got := strings.Join(Schemes(c.lines), " "); got != c.want {
			t.Errorf("%q: %q, want %q", c.lines, got, c.want)
		}
	}
}

// FuzzSchemes holds that what is kept of a challenge is short, and nothing but tokens.
func FuzzSchemes(f *testing.F) {
	f.Add(`Negotiate, Basic realm="a\", b"`)
	f.Add(`,,"`)
	f.Fuzz(func(t *testing.T, line string) {
		got := Schemes([]string{line, line})
		if len(got) > maxSchemes || slices.ContainsFunc(got, func(s string) bool { return s == "" || strings.ContainsFunc(s, notOfToken) }) {
			t.Fatalf("%q", got)
		}
	})
}

func TestACommaWithinQuotesEndsNoElement(t *testing.T) {
	for line, want := range map[string][]string{
		"":                {""},
		"a, b":            {"a", " b"},
		`x="a, b", c`:     {`x="a, b"`, " c"},
		`x="a", b`:        {`x="a"`, " b"},
		`x="ab", c`:       {`x="ab"`, " c"},
		`x="a\", b", c`:   {`x="a\", b"`, " c"},
		`x="a\\", b`:      {`x="a\\"`, " b"},
		`a\, b`:           {`a\`, " b"},
		`x="is not, over`: {`x="is not, over`},
	} {
		if got := slices.Collect(Elements(line)); !slices.Equal(got, want) {
			t.Errorf("%s: %q", line, got)
		}
	}
}
