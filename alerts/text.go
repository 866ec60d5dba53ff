package alerts

// This file makes text of a sender fit for a lock screen: it repairs it, removes characters that would affect the text around it, and
// cuts it between characters.

import (
	"strings"
	"unicode"
)

// Directional formatting characters, UAX #9 section 2.
const (
	embedLeft, embedRight       = '\u202a', '\u202b'
	popFormatting               = '\u202c'
	overrideLeft, overrideRight = '\u202d', '\u202e'
	firstIsolate, lastIsolate   = '\u2066', '\u2068'
	popIsolate                  = '\u2069'
)

// maxNesting bounds open embeddings and isolates: no real text nests deeper, and each has to be closed again.
const maxNesting = 4

// maxMarks bounds the marks on one letter: no script needs more, and a pile of accents covers the lines around it.
const maxMarks = 8

// Joiners, and the regional indicators of which two make a flag (UTS #51).
const (
	zeroWidthJoiner           = '\u200d'
	zeroWidthNonJoiner        = '\u200c'
	indicatorA, indicatorZ    = '\U0001f1e6', '\U0001f1ff'
	skinLightest, skinDarkest = '\U0001f3fb', '\U0001f3ff'
	blackFlag                 = '\U0001f3f4' // with tags behind it, the flag of a region
	tagSpace, tagCancel       = '\U000e0020', '\U000e007f'
	brailleBlank              = '\u2800' // a pattern without dots
	jamoVowel, jamoLast       = '\u1160', '\u11ff'
	saraAm, saraAmLao         = '\u0e33', '\u0eb3' // vowels of Thai and Lao that stand with the consonant before
)

// linkers join two consonants of Devanagari, Bengali, Gujarati, Oriya, Telugu or Malayalam into one character (UAX #29, GB9c).
const linkers = "\u094d\u09cd\u0acd\u0b4d\u0c4d\u0d4d"

// clean repairs invalid UTF-8, replaces white space by one space, drops control characters and those that could reverse
// the text around it, closes embeddings that were left open, and cuts after at most limit characters, with … for the rest.
// Right-to-left text reads the same.
func clean(s string, limit int) string {
	if plain(s, limit) {
		return s
	}
	return cleaned(s, limit, false)
}

// excerpt is clean for a text that its source cut by UTF-16 units, perhaps within a character. It drops the character at that cut.
func excerpt(s string, limit int) string {
	return cleaned(s, limit, true)
}

func cleaned(s string, limit int, cut bool) string {
	c := cleaner{limit: limit, cut: cut}
	for _, r := range s { // an invalid byte comes as U+FFFD
		if !c.add(r) {
			break
		}
	}
	return c.finish()
}

// plain reports whether the text needs no change: most subjects are short ASCII.
func plain(s string, limit int) bool {
	if len(s) > limit {
		return false
	}
	space := true // as if a space preceded the text: it begins with none
	for i := range len(s) {
		if b := s[i]; b < ' ' || b >= 0x7f || b == ' ' && space {
			return false
		}
		space = s[i] == ' '
	}
	return !space || s == ""
}

// cleaner builds one text.
type cleaner struct {
	out        strings.Builder
	limit      int
	count      int  // characters written, those that open an embedding among them
	space      bool // a space is due before the next character
	open       nest
	previous   rune
	indicators int  // regional indicators in a row, so far
	marks      int  // accents in a row, so far
	visible    bool // something was written that shows
	whole      fit  // the last position for … between clusters
	split      fit  // the last position for … at all
	cut        bool // something is missing: it ends with …
}

// fit is a position at which the text can end.
type fit struct {
	length int
	open   nest
}

// nest is the embeddings and isolates that are open, the innermost last. The opening character is written with the first character in it,
// so that none is empty, and the space before it stays outside.
type nest struct {
	openers [maxNesting]rune
	depth   int
	written int // of these, how many are written, or left out finally
}

// closerOf returns the character that closes what opener opens; 0: it opens nothing.
func closerOf(opener rune) rune {
	switch {
	case isOverride(opener), opener == embedLeft, opener == embedRight:
		return popFormatting
	case opener >= firstIsolate && opener <= lastIsolate:
		return popIsolate
	}
	return 0
}

// isOverride reports whether r reverses the direction of text. It and its closing character are left out.
func isOverride(r rune) bool { return r == overrideLeft || r == overrideRight }

// add appends the next character; false: the text is full.
func (c *cleaner) add(r rune) bool {
	switch {
	case unicode.IsSpace(r):
		c.space = c.count > 0
		return true
	case closerOf(r) != 0:
		c.enter(r)
		return true
	case r == popFormatting, r == popIsolate:
		c.leave(r)
		return true
	case c.drops(r):
		return true
	}
	if c.space {
		c.space = false
		if !c.write(' ') {
			return false
		}
	}
	return c.begin() && c.write(r)
}

// enter notes an opening character, up to a depth.
func (c *cleaner) enter(opener rune) {
	if c.open.depth < maxNesting {
		c.open.openers[c.open.depth] = opener
		c.open.depth++
	}
}

// begin writes the characters that opened since the last one; false: the text is full.
func (c *cleaner) begin() bool {
	for ; c.open.written < c.open.depth; c.open.written++ {
		opener := c.open.openers[c.open.written]
		switch {
		case isOverride(opener):
		case c.count == c.limit:
			c.cut = true
			return false
		default:
			c.out.WriteRune(opener)
			c.count++
		}
	}
	return true
}

// leave closes the innermost embedding if the closer matches it; any other closer is dropped.
func (c *cleaner) leave(closer rune) {
	if c.open.depth == 0 {
		return
	}
	innermost := c.open.openers[c.open.depth-1]
	if closerOf(innermost) != closer {
		return
	}
	if c.open.written == c.open.depth {
		c.open.written--
		if !isOverride(innermost) {
			c.out.WriteRune(closer)
		}
	}
	c.open.depth--
}

func (c *cleaner) write(r rune) bool {
	if c.count < c.limit {
		c.split = fit{c.out.Len(), c.open}
		if c.startsCluster(r) {
			c.whole = c.split
		}
	}
	if c.count == c.limit {
		c.cut = true
		return false
	}
	if r >= indicatorA && r <= indicatorZ {
		c.indicators++
	} else {
		c.indicators = 0
	}
	if unicode.Is(unicode.M, r) {
		c.marks++
	} else {
		c.marks = 0
	}
	c.out.WriteRune(r)
	c.count++
	c.previous = r
	c.visible = c.visible || shows(r)
	return true
}

// shows reports whether a character that is written can be seen by itself. A variation selector cannot: it says how the character before
// looks.
func shows(r rune) bool {
	if r == ' ' || r == brailleBlank || unicode.Is(unicode.Variation_Selector, r) {
		return false
	}
	return !unicode.Is(unicode.Cf, r) || unicode.Is(unicode.Prepended_Concatenation_Mark, r)
}

// startsCluster reports whether a reader sees a new character begin at r: close enough to UAX #29 that no accent, emoji or
// flag is split.
func (c *cleaner) startsCluster(r rune) bool {
	switch {
	case r == zeroWidthJoiner, c.previous == zeroWidthJoiner:
		return false
	case r >= skinLightest && r <= skinDarkest, r >= jamoVowel && r <= jamoLast, r == saraAm, r == saraAmLao:
		return false
	case r >= indicatorA && r <= indicatorZ:
		return c.indicators%2 == 0
	case unicode.IsLetter(r) && strings.ContainsRune(linkers, c.previous), unicode.Is(unicode.Prepended_Concatenation_Mark, c.previous):
		return false
	}
	return !unicode.In(r, unicode.M, unicode.Other_Grapheme_Extend)
}

func (c *cleaner) finish() string {
	if !c.visible {
		return ""
	}
	s := c.out.String()
	if c.cut {
		if c.whole.length == 0 { // one cluster fills the whole text: it is cut inside
			c.whole = c.split
		}
		s, c.open = strings.TrimRight(s[:c.whole.length], " ")+"…", c.whole.open
	}
	for i := c.open.written - 1; i >= 0; i-- {
		if opener := c.open.openers[i]; !isOverride(opener) {
			s += string(closerOf(opener))
		}
	}
	return s
}

// drops reports whether a character is left out: controls, invisible characters without a meaning at this position, and code points that
// are no characters.
func (c *cleaner) drops(r rune) bool {
	switch {
	case r == zeroWidthJoiner, r == zeroWidthNonJoiner: // they shape the word that they stand in; senders of newsletters fill lines with them
		return c.count == 0 || c.space
	case r == '\u200e', r == '\u200f', r == '\u061c': // directional marks shape the text around them
		return false
	case r >= tagSpace && r <= tagCancel: // the flags of England, Scotland, Wales; elsewhere hidden text
		return c.previous != blackFlag && (c.previous < tagSpace || c.previous >= tagCancel)
	case unicode.Is(unicode.M, r) && c.marks == maxMarks:
		return true
	case unicode.Is(unicode.Prepended_Concatenation_Mark, r): // of class Cf, but they show: signs around Arabic and Syriac numbers
		return false
	}
	return unicode.In(r, unicode.Cc, unicode.Cf, unicode.Other_Default_Ignorable_Code_Point, unicode.Noncharacter_Code_Point)
}
