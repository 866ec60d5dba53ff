package alerts

// This file makes a stranger's text fit for a locked screen: it repairs, takes out what would disturb the text around it,
// and cuts where a reader would.

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

// maxNesting of embeddings and isolates: no text that is meant to be read nests deeper, and each has to be closed again.
const maxNesting = 4

// Joiners, and the regional indicators of which two make a flag (UTS #51).
const (
	zeroWidthJoiner           = '\u200d'
	zeroWidthNonJoiner        = '\u200c'
	indicatorA, indicatorZ    = '\U0001f1e6', '\U0001f1ff'
	skinLightest, skinDarkest = '\U0001f3fb', '\U0001f3ff'
	tagSpace, tagCancel       = '\U000e0020', '\U000e007f'
	jamoVowel, jamoLast       = '\u1160', '\u11ff'
)

// clean repairs invalid UTF-8, turns every run of white space into one space, drops control characters and whatever could turn
// the text around it, closes embeddings that were left open, and cuts after at most limit characters, with … for the rest.
// Right-to-left text stays as it reads.
func clean(s string, limit int) string {
	if plain(s, limit) {
		return s
	}
	c := cleaner{limit: limit}
	for _, r := range s { // an invalid byte comes as U+FFFD
		if !c.add(r) {
			break
		}
	}
	return c.finish()
}

// plain reports whether there is nothing to do: most subjects are short ASCII.
func plain(s string, limit int) bool {
	if len(s) > limit {
		return false
	}
	space := true // as if before the text: no space may stand there
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
	visible    bool // something was written that shows
	whole      fit  // the last place for … between clusters
	torn       fit  // the last place for … at all
	cut        bool
}

// fit is a place where the text can end.
type fit struct {
	length int
	open   nest
}

// nest is what closes the embeddings and isolates that are open, the innermost last; 0: its opening was dropped.
type nest struct {
	closers [maxNesting]rune
	depth   int
}

// add takes the next character; false: the text is full.
func (c *cleaner) add(r rune) bool {
	switch {
	case unicode.IsSpace(r):
		c.space = c.count > 0
		return true
	case r == overrideLeft, r == overrideRight:
		c.enter(0)
		return true
	case r == embedLeft, r == embedRight:
		if c.enter(popFormatting) {
			c.out.WriteRune(r)
		}
		return true
	case r >= firstIsolate && r <= lastIsolate:
		if c.enter(popIsolate) {
			c.out.WriteRune(r)
		}
		return true
	case r == popFormatting, r == popIsolate:
		c.leave(r)
		return true
	case dropped(r):
		return true
	}
	if c.space {
		c.space = false
		if !c.write(' ') {
			return false
		}
	}
	return c.write(r)
}

// enter notes an opened embedding and reports whether it may be written.
func (c *cleaner) enter(closer rune) bool {
	if c.open.depth == maxNesting || c.count == c.limit {
		return false
	}
	c.open.closers[c.open.depth] = closer
	c.open.depth++
	c.count++
	return closer != 0
}

// leave closes the innermost embedding where the closer fits it; any other closer is dropped.
func (c *cleaner) leave(closer rune) {
	if c.open.depth == 0 {
		return
	}
	switch innermost := c.open.closers[c.open.depth-1]; {
	case innermost == closer:
		c.out.WriteRune(closer)
		c.open.depth--
	case innermost == 0 && closer == popFormatting:
		c.open.depth--
	}
}

func (c *cleaner) write(r rune) bool {
	if c.count < c.limit {
		c.torn = fit{c.out.Len(), c.open}
		if c.startsCluster(r) {
			c.whole = c.torn
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
	c.out.WriteRune(r)
	c.count++
	c.previous = r
	c.visible = c.visible || !unicode.Is(unicode.Cf, r)
	return true
}

// startsCluster reports whether a reader sees a new character begin at r: close enough to UAX #29 that no accent, emoji or
// flag is torn.
func (c *cleaner) startsCluster(r rune) bool {
	switch {
	case r == zeroWidthJoiner, r == zeroWidthNonJoiner, c.previous == zeroWidthJoiner:
		return false
	case r >= skinLightest && r <= skinDarkest, r >= tagSpace && r <= tagCancel, r >= jamoVowel && r <= jamoLast:
		return false
	case r >= indicatorA && r <= indicatorZ:
		return c.indicators%2 == 0
	}
	return !unicode.IsMark(r)
}

func (c *cleaner) finish() string {
	if !c.visible {
		return ""
	}
	s := c.out.String()
	if c.cut {
		if c.whole.length == 0 { // one cluster fills it all: no accents are worth that
			c.whole = c.torn
		}
		s, c.open = strings.TrimRight(s[:c.whole.length], " ")+"…", c.whole.open
	}
	for i := c.open.depth - 1; i >= 0; i-- {
		if closer := c.open.closers[i]; closer != 0 {
			s += string(closer)
		}
	}
	return s
}

// dropped reports whether a character is left out: controls, characters that show nothing and carry no meaning in a line of
// text, and what is no character at all.
func dropped(r rune) bool {
	switch r {
	case zeroWidthJoiner, zeroWidthNonJoiner, '\u200e', '\u200f', '\u061c': // joiners and directional marks shape the text that they stand in
		return false
	}
	if r >= tagSpace && r <= tagCancel { // the flags of England, Scotland, Wales
		return false
	}
	return unicode.In(r, unicode.Cc, unicode.Cf, unicode.Noncharacter_Code_Point)
}
