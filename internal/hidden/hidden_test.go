package hidden

import (
	"testing"
	"unicode"
)

func TestControlsAndCharactersThatTurnATextAreHidden(t *testing.T) {
	for _, r := range "\x00\x1b\x7f\u0085\u009b\u061c\u200b\u200d\u200e\u202a\u202e\u2066\u2069\ufeff\u2028\ufff9\U000e0041" {
		if !Is(r) {
			t.Errorf("%U is not hidden", r)
		}
	}
	for _, r := range "a é\n\t界אب😀\ufe0f" {
		if Is(r) {
			t.Errorf("%U is hidden", r)
		}
	}
	for r := range rune(unicode.MaxRune) {
		if unicode.Is(unicode.Cc, r) && r != '\n' && r != '\t' && !Is(r) {
			t.Errorf("%U is a control character and not hidden", r)
		}
		if unicode.Is(unicode.Bidi_Control, r) && !Is(r) {
			t.Errorf("%U turns a text and is not hidden", r)
		}
	}
}

func TestALineOfAPersonMayHaveJoinersAndNothingElseThatIsHidden(t *testing.T) {
	for _, s := range []string{"", "Ann's iPhone", "\U0001f469\u200d\U0001f4bb work", "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "אנה"} {
		if r, found := InLine(s); found {
			t.Errorf("%q: %U", s, r)
		}
	}
	for _, s := range []string{"a\nb", "a\tb", "a\x1b[2J", "\u202emoc", "a\u200b", "\u2066a\u2069", "\u200fa"} {
		if _, found := InLine(s); !found {
			t.Errorf("%q passes", s)
		}
	}
}
