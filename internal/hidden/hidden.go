// Package hidden knows the characters that do something instead of being seen. With them one name can look like another, and a terminal
// or a screen reader obeys what it should read.
package hidden

// Joiners make one character of several: of an emoji of a family, and of letters in Persian and in scripts of India.
const (
	zeroWidthNonJoiner = '\u200c'
	zeroWidthJoiner    = '\u200d'
)

// Is says whether a character does something instead of being seen. The end of a line and the tab are none of them.
func Is(r rune) bool {
	switch {
	case r == '\n' || r == '\t':
		return false
	case r < 0x20, r >= 0x7f && r < 0xa0: // C0, DEL, C1
		return true
	case r == 0x061c, r == 0x180e, r >= 0x200b && r <= 0x200f, r >= 0x202a && r <= 0x202e, r >= 0x2060 && r <= 0x206f, r == 0xfeff:
		return true // marks and overrides of direction, and characters without width
	case r == 0x2028, r == 0x2029, r >= 0xfff9 && r <= 0xfffb, r >= 0xe0000 && r <= 0xe007f:
		return true // separators of lines, annotations, tags
	}
	return false
}

// InLine returns the first character that has no place in a text of one line that a person typed: a hidden one, but for joiners, or the
// end of a line. false: there is none.
func InLine(s string) (rune, bool) {
	for _, r := range s {
		if r == '\n' || r == '\t' || Is(r) && r != zeroWidthJoiner && r != zeroWidthNonJoiner {
			return r, true
		}
	}
	return 0, false
}
