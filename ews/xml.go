package ews

// The pull parser: elements of one envelope, by their local names. Every message is read with it.

import (
	"bytes"
	"strconv"
	"unicode/utf8"
)

// maxDepth bounds the nesting of elements. EWS nests a dozen; what is deeper is an attack or a mistake.
const maxDepth = 64

// malformed says what is wrong with a document. It never quotes any of its text.
type malformed string

func (m malformed) Error() string { return "not well-formed: " + string(m) }

const (
	errEOF   = malformed("it ends too early")
	errDepth = malformed("elements are nested too deep")
	errDTD   = malformed("a document type (DTD), which is refused with all that it declares")
)

// scanner pulls elements out of one XML document by their local names, because servers put the same element into the messages or
// the types namespace. It is strict about structure (tags that do not match, document types) and lenient about characters, so that
// a wrong character in one subject harms no other message of the same answer: what XML forbids, and Exchange sends nevertheless, is
// dropped; an & that begins no reference, a name that is no entity of XML's own, and a < that begins no tag stand for themselves.
//
// It is used as a walk over children:
//
//	for at := s.depth; s.child(at); {
//		switch string(s.name) {
//		case "Subject":
//			m.Subject = string(s.text())
//		}
//	}
//
// Elements that the caller does not enter are skipped. The first error ends every walk and stays in err.
type scanner struct {
	doc   []byte
	pos   int
	depth int
	err   error
	name  []byte // local name of the element that was entered last
	attrs []byte // its attributes, as they are in the document
	empty bool   // it was <name/>: its end is still to be reported
	stack [maxDepth]struct{ from, to int32 }
	buf   []byte // text that had to be decoded
}

// reset begins with another document; s.buf is used again.
func (s *scanner) reset(doc []byte) {
	buf := s.buf
	if cap(buf) > keptBuffer {
		buf = nil
	}
	s.doc, s.pos, s.depth, s.err = doc, 0, 0, nil
	s.name, s.attrs, s.empty, s.buf = nil, nil, false, buf
}

// token is what next found.
type token uint8

const (
	tokenEnd   token = iota // of an element
	tokenStart              // of an element
	tokenText               // character data, still to be decoded
	tokenCDATA              // character data as it is
	tokenNone               // the end of the document, or an error
)

// child enters the next child of the element at depth, and skips what is between. It returns false at the end of that element.
func (s *scanner) child(depth int) bool {
	for {
		switch k, _ := s.next(); {
		case k == tokenStart && s.depth == depth+1:
			return true
		case k == tokenEnd && s.depth < depth, k == tokenNone:
			return false
		}
	}
}

// text returns the character data of the element that was just entered, up to its end, without that of its children. It is valid until
// the next call of text or attr.
func (s *scanner) text() []byte {
	s.buf = s.buf[:0]
	var only []byte // usually the text is one piece that needs no decoding and no copy
	for depth := s.depth; ; {
		k, raw := s.next()
		switch {
		case k == tokenNone:
			return nil
		case k == tokenEnd && s.depth < depth:
			if only != nil {
				return only
			}
			return s.buf
		case s.depth != depth || k == tokenStart || k == tokenEnd:
			continue
		case only == nil && len(s.buf) == 0 && plain(raw):
			only = raw
			continue
		}
		s.buf = append(s.buf, only...)
		only = nil
		s.buf = decode(s.buf, raw, k == tokenText)
	}
}

// attr returns the value of the attribute with this local name of the element that was just entered; nil: it has none. It is valid
// until the next call of text or attr.
func (s *scanner) attr(name string) []byte {
	a := s.attrs
	for {
		a = bytes.TrimLeft(a, space)
		eq := bytes.IndexByte(a, '=')
		if eq < 0 {
			return nil
		}
		key := bytes.TrimRight(a[:eq], space)
		a = bytes.TrimLeft(a[eq+1:], space)
		if len(a) == 0 || a[0] != '"' && a[0] != '\'' {
			s.fail("an attribute without quotes")
			return nil
		}
		end := bytes.IndexByte(a[1:], a[0])
		if end < 0 {
			s.fail("an attribute without its closing quote")
			return nil
		}
		value := a[1 : 1+end]
		a = a[2+end:]
		if string(local(key)) != name || bytes.HasPrefix(key, []byte("xmlns:")) {
			continue
		}
		if plain(value) {
			return value
		}
		s.buf = decode(s.buf[:0], value, true)
		return s.buf
	}
}

const space = " \t\r\n"

// next returns the next token, and its characters where it is text.
func (s *scanner) next() (token, []byte) {
	if s.err != nil {
		return tokenNone, nil
	}
	if s.empty {
		s.empty = false
		s.depth--
		return tokenEnd, nil
	}
	for s.pos < len(s.doc) {
		rest := s.doc[s.pos:]
		if rest[0] != '<' {
			n := bytes.IndexByte(rest, '<')
			if n < 0 {
				n = len(rest)
			}
			s.pos += n
			if s.depth > 0 {
				return tokenText, rest[:n]
			}
			continue // white space around the document; the framer lets nothing else through
		}
		switch k, n := markup(rest, &look{}); k {
		case markupPart:
			s.err = errEOF
			return tokenNone, nil
		case markupDTD:
			return s.fail(errDTD)
		case markupSkip:
			s.pos += n
		case markupText:
			s.pos += n
			if s.depth > 0 {
				return tokenText, rest[:n]
			}
		case markupCDATA:
			s.pos += n
			if s.depth > 0 {
				return tokenCDATA, rest[len("<![CDATA[") : n-len("]]>")]
			}
		case markupEnd:
			s.pos += n
			return s.end(rest[2 : n-1])
		default:
			s.pos += n
			return s.start(rest[1 : n-1])
		}
	}
	if s.depth > 0 {
		s.err = errEOF
	}
	return tokenNone, nil
}

func (s *scanner) start(tag []byte) (token, []byte) {
	s.empty = len(tag) > 0 && tag[len(tag)-1] == '/'
	if s.empty {
		tag = tag[:len(tag)-1]
	}
	n := 0
	for n < len(tag) && tag[n] > ' ' {
		n++
	}
	if n == 0 {
		return s.fail("a tag without a name")
	}
	if s.depth == maxDepth {
		return s.fail(errDepth)
	}
	// The position of the name is kept, to compare it with the end tag.
	from := s.pos - 1 - len(tag)
	if s.empty {
		from--
	}
	s.stack[s.depth] = struct{ from, to int32 }{int32(from), int32(from + n)}
	s.depth++
	s.name, s.attrs = local(tag[:n]), tag[n:]
	return tokenStart, nil
}

func (s *scanner) end(name []byte) (token, []byte) {
	if s.depth == 0 {
		return s.fail("an end tag without a start tag")
	}
	s.depth--
	open := s.stack[s.depth]
	if begun := s.doc[open.from:open.to]; !bytes.Equal(begun, name) && !bytes.Equal(begun, bytes.TrimRight(name, space)) {
		return s.fail("an end tag that does not match its start tag")
	}
	return tokenEnd, nil
}

func (s *scanner) fail(why malformed) (token, []byte) {
	s.err = why
	return tokenNone, nil
}

// local cuts the prefix off a name.
func local(name []byte) []byte { return name[bytes.LastIndexByte(name, ':')+1:] }

// plain reports whether raw needs no decoding: no reference, nothing that XML forbids, valid UTF-8.
func plain(raw []byte) bool {
	ascii := true
	for _, c := range raw {
		if c == '&' || c < ' ' && c != '\t' && c != '\n' && c != '\r' {
			return false
		}
		ascii = ascii && c < utf8.RuneSelf
	}
	return ascii || !bytes.Contains(raw, []byte("\uFFFE")) && !bytes.Contains(raw, []byte("\uFFFF")) && utf8.Valid(raw)
}

// decode appends the characters of raw to dst: it resolves references if refs says so, drops what XML forbids, replaces bytes that are
// not UTF-8 by U+FFFD, and joins surrogate pairs.
func decode(dst, raw []byte, refs bool) []byte {
	var high rune // the high surrogate of a pair whose low surrogate may follow
	for len(raw) > 0 {
		r, n := utf8.DecodeRune(raw)
		if refs && r == '&' {
			if named, length := reference(raw); length > 0 {
				r, n = named, length
			}
		}
		raw = raw[n:]
		if high != 0 {
			if isLow := 0xDC00 <= r && r <= 0xDFFF; isLow {
				r = (high-0xD800)<<10 | (r - 0xDC00) + 0x10000
			} else {
				dst = utf8.AppendRune(dst, utf8.RuneError)
			}
			high = 0
		}
		if 0xD800 <= r && r <= 0xDBFF {
			high = r
			continue
		}
		if legal(r) {
			dst = utf8.AppendRune(dst, r) // a low surrogate alone becomes U+FFFD here
		}
	}
	if high != 0 {
		dst = utf8.AppendRune(dst, utf8.RuneError)
	}
	return dst
}

// legal reports whether XML 1.0 (section 2.2) allows this character. A surrogate passes: it is replaced, not dropped.
func legal(r rune) bool {
	return r >= ' ' && r != 0xFFFE && r != 0xFFFF && r <= utf8.MaxRune || r == '\t' || r == '\n' || r == '\r'
}

// maxReference bounds what is between & and ;.
const maxReference = 16

// reference resolves the reference at the start of raw and returns its length; 0: it is none. Entities that a document declares are not
// resolved.
func reference(raw []byte) (rune, int) {
	end := bytes.IndexByte(raw[:min(len(raw), maxReference)], ';')
	if end < 0 {
		return 0, 0
	}
	name := raw[1:end]
	switch string(name) {
	case "lt":
		return '<', end + 1
	case "gt":
		return '>', end + 1
	case "amp":
		return '&', end + 1
	case "quot":
		return '"', end + 1
	case "apos":
		return '\'', end + 1
	}
	if len(name) == 0 || name[0] != '#' {
		return 0, 0
	}
	digits, base := name[1:], 10
	if len(digits) > 0 && (digits[0] == 'x' || digits[0] == 'X') {
		digits, base = digits[1:], 16
	}
	n, err := strconv.ParseUint(string(digits), base, 32)
	if err != nil {
		return 0, 0
	}
	return rune(min(n, utf8.MaxRune+1)), end + 1
}

// kind of markup.
type kind uint8

const (
	markupPart  kind = iota // not complete yet
	markupStart             // <name …> or <name …/>
	markupEnd               // </name>
	markupSkip              // comment or processing instruction
	markupCDATA
	markupDTD
	markupText // a < that begins nothing
)

// look is how far an incomplete piece of markup was scanned, so that no byte is scanned twice, however slowly the markup arrives.
type look struct {
	n     int
	quote byte // within an attribute's value: the quote that closes it
}

// markup returns what begins at b[0], which is '<', and its length. If it is not complete, l keeps how far it was scanned.
func markup(b []byte, l *look) (kind, int) {
	if len(b) < 2 {
		return markupPart, 0
	}
	switch b[1] {
	case '?':
		return l.until(b, "<?", "?>", markupSkip)
	case '!':
		switch {
		case opens(b, "<!--"):
			return l.until(b, "<!--", "-->", markupSkip)
		case opens(b, "<![CDATA["):
			return l.until(b, "<![CDATA[", "]]>", markupCDATA)
		}
		return markupDTD, 0
	case '/':
		return l.until(b, "</", ">", markupEnd)
	}
	if !beginsTag(b[1]) {
		return markupText, 1
	}
	return l.startTag(b)
}

// beginsTag reports whether b, which follows a <, makes a tag of it: it is a name, or the > of an empty tag. In "a < b" and "<3" it is
// neither.
func beginsTag(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c == '_' || c == ':' || c >= utf8.RuneSelf || c == '>'
}

// opens reports whether b begins with open, or may do so when more has arrived.
func opens(b []byte, open string) bool {
	n := min(len(b), len(open))
	return string(b[:n]) == open[:n]
}

// until searches for the end of the markup that begins with open.
func (l *look) until(b []byte, open, closing string, found kind) (kind, int) {
	from := min(max(l.n, len(open)), len(b))
	if i := bytes.Index(b[from:], []byte(closing)); i >= 0 {
		return found, from + i + len(closing)
	}
	l.n = len(b) - len(closing) + 1
	return markupPart, 0
}

// startTag searches for the > of a start tag; a > within quotes does not count.
func (l *look) startTag(b []byte) (kind, int) {
	i, quote := max(l.n, 1), l.quote
	for ; i < len(b); i++ {
		switch c := b[i]; {
		case quote != 0:
			n := bytes.IndexByte(b[i:], quote)
			if n < 0 {
				l.n, l.quote = len(b), quote
				return markupPart, 0
			}
			i += n
			quote = 0
		case c == '>':
			return markupStart, i + 1
		case c == '"', c == '\'':
			quote = c
		}
	}
	l.n, l.quote = i, quote
	return markupPart, 0
}
