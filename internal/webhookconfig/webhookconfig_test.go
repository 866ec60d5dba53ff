package webhookconfig

import (
	"encoding/base64"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestASecretHasTheFormOfTheSpecification(t *testing.T) {
	of := func(n int) string { return secretPrefix + base64.StdEncoding.EncodeToString(make([]byte, n)) }
	for _, n := range []int{24, 32, 64} {
		if key, err := ParseSecret(of(n)); err != nil || len(key) != n {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
	for name, s := range map[string]string{
		"empty": "", "no prefix": of(32)[6:], "too short": of(23), "too long": of(65), "of the asymmetric scheme": "whsk_" + of(32)[6:], "without padding": strings.TrimRight(of(32), "="),
		"in base64url": secretPrefix + strings.Repeat("-_", 22), "of two lines": of(24) + "\n" + of(24), "an end of line within": of(24)[:20] + "\n" + of(24)[20:], "loose bits": of(25)[:len(of(25))-3] + "B==",
	} {
		if _, err := ParseSecret(s); err == nil || strings.Contains(err.Error(), "AAAA") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestEventsAreNamedAsTheSpecificationRecommends(t *testing.T) {
	form := regexp.MustCompile(`^[a-z0-9_]+(\.[a-z0-9_]+)+$`)
	list := Events()
	for _, e := range list {
		if !form.MatchString(e) {
			t.Errorf("%q", e)
		}
	}
	slices.Sort(list)
	if len(slices.Compact(list)) != len(list) {
		t.Error("an event twice")
	}
}

func FuzzParseSecret(f *testing.F) {
	f.Add("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	f.Add("whsec_")
	f.Fuzz(func(t *testing.T, s string) {
		key, err := ParseSecret(s)
		if err == nil && secretPrefix+base64.StdEncoding.EncodeToString(key) != s {
			t.Errorf("%q has another form", s)
		}
	})
}
