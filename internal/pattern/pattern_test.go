package pattern

import (
	"strings"
	"testing"
)

func TestEachPatternTakesWhatItNamesAndNothingElse(t *testing.T) {
	for name, c := range map[string]struct {
		pattern Pattern
		takes   []string
		leaves  []string
	}{
		"name":   {Name, []string{"a", "listener-01", "ann@contoso.com", "x:y_z.1", strings.Repeat("n", 64)}, []string{"a b", "ä", "a/b", "a\n", strings.Repeat("n", 65)}},
		"device": {Device, []string{"ann-phone", strings.Repeat("d", 128)}, []string{"a/b", "a%2fb", "a\n", strings.Repeat("d", 129)}},
		"topic":  {Topic, []string{"com.contoso.mail", strings.Repeat("t", 255)}, []string{"com.contoso:mail", "com contoso", strings.Repeat("t", 256)}},
		"GUID": {GUID, []string{"11111111-2222-3333-4444-555555555555", "ABCDEFab-cdef-0000-0000-000000000000"},
			[]string{"11111111222233334444555555555555", "{11111111-2222-3333-4444-555555555555}", "11111111-2222-3333-4444-55555555555g"}},
	} {
		for _, s := range c.takes {
			if got, err := c.pattern.Check(s); err != nil || got != s {
				t.Errorf("%s: %q is not taken: %q, %v", name, s, got, err)
			}
		}
		for _, s := range append(c.leaves, "") {
			if _, err := c.pattern.Check(s); err == nil || err.Error() != "want "+c.pattern.Words {
				t.Errorf("%s: %q: %v", name, s, err)
			}
		}
	}
}
