package guid

import "testing"

func TestOnlyTheCanonicalFormIsValid(t *testing.T) {
	g := New().String()
	if !Valid(g) || g[14] != '4' || g == New().String() {
		t.Errorf("%s is not a random GUID", g)
	}
	for _, s := range []string{"", g[:35], g + "0", "{" + g[1:35] + "}", g[:35] + "g", g[:8] + "0" + g[9:]} {
		if Valid(s) {
			t.Errorf("%q is taken", s)
		}
	}
}
