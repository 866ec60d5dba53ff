package ews

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
	"unicode/utf8"
)

// textOf returns the text of the document's element, and the attribute a.
func textOf(doc string) (text, attr string, err error) {
	s := &scanner{doc: []byte(doc)}
	if s.child(0) {
		attr = string(s.attr("a"))
		text = string(s.text())
	}
	for s.child(0) {
	}
	return text, attr, s.err
}

func TestCharactersThatXMLForbidsHarmNothing(t *testing.T) {
	for in, want := range map[string]string{
		`plain`:                          "plain",
		`a &amp; b &lt;&gt;&quot;&apos;`: `a & b <>"'`,
		`&#65;&#x42;&#X43;`:              "ABC",
		`a&#x1F;b&#x0;c&#0;d`:            "abcd",
		"a\x00b\x1fc\x0bd":               "abcd",
		`&#9;&#10;&#13;`:                 "\t\n\r",
		`&#xD83D;&#xDE00;`:               "😀",
		`&#xD83D;x`:                      "\uFFFDx",
		`&#xDE00;`:                       "\uFFFD",
		`&#xD83D;`:                       "\uFFFD",
		`&#xD83D;&#xD83D;&#xDE00;`:       "\uFFFD😀",
		`&#xFFFE;&#xFFFF;`:               "",
		"\uFFFEx\uFFFF":                  "x",
		`&#x110000;&#xFFFFFFFF;`:         "",
		"\xff\xfe caf\xc3":               "\uFFFD\uFFFD caf\uFFFD",
		"Zürich 日本":                      "Zürich 日本",
		`<![CDATA[a <b> &amp; ]] >]]>`:   "a <b> &amp; ]] >",
		"<![CDATA[a\x01b]]>":             "ab",
		`a<!-- not <this> -->b`:          "ab",
		`a<?pi not this?>b`:              "ab",
		`a<c>not this</c>b`:              "ab",
		`a<c/>b<c/>c`:                    "abc",
		`&amp;<![CDATA[&]]>&amp;`:        "&&&",
		``:                               "",
	} {
		if got, _, err := textOf("<x>" + in + "</x>"); err != nil || got != want {
			t.Errorf("text %q: got %q, %v; want %q", in, got, err, want)
		}
		if strings.ContainsAny(in, "<") {
			continue
		}
		for _, quote := range []string{`"`, `'`} {
			if strings.Contains(in, quote) {
				continue
			}
			if _, got, err := textOf(`<x b="1" a = ` + quote + in + quote + ` />`); err != nil || got != want {
				t.Errorf("attribute %q: got %q, %v; want %q", in, got, err, want)
			}
		}
	}
}

func TestElementsAndAttributesAreFoundByTheirLocalNames(t *testing.T) {
	for _, doc := range []string{
		`<x a="1">t</x>`, `<m:x xmlns:m="u" m:a='1'>t</m:x>`, "<x\n\ta=\"1\"\r\n>t</x\n>", `<x xmlns:a="no" b="a=3" a="1">t</x>`,
		`<x b=">" c='/>' a="1">t</x>`, `<?xml version="1.0"?><!-- <x> --><x a="1">t</x><!-- end -->`,
	} {
		if text, attr, err := textOf(doc); err != nil || text != "t" || attr != "1" {
			t.Errorf("%s: text %q, a %q, %v", doc, text, attr, err)
		}
	}
	if _, attr, err := textOf(`<x ab="1" b:aa="2">t</x>`); err != nil || attr != "" {
		t.Errorf("a is not there: %q, %v", attr, err)
	}
}

func TestWhatIsNotWellFormedIsRefused(t *testing.T) {
	deep := strings.Repeat("<d>", 65) + strings.Repeat("</d>", 65)
	for doc, want := range map[string]string{
		`<x><y></x></y>`: "does not match",
		`<x>`:            "too early",
		`<x><y>`:         "too early",
		`<x>t`:           "too early",
		`<x></y>`:        "does not match",
		`</x>`:           "without a start tag",
		`<>t</>`:         "without a name",
		`<x a=1>t</x>`:   "without quotes",
		`<!DOCTYPE x [<!ENTITY lol "lol">]><x>&lol;</x>`: "DTD",
		`<x><!DOCTYPE y>t</x>`:                           "DTD",
		deep:                                             "too deep",
	} {
		_, _, err := textOf(doc)
		if _, ok := errors.AsType[malformed](err); !ok || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60s: got %v, want %q", doc, err, want)
		}
	}
}

func TestEscapedTextComesBack(t *testing.T) {
	for _, s := range []string{"", "plain", `<a b="c">&amp;'`, "tab\tline\nend", "Zürich 😀"} {
		var b bytes.Buffer
		b.WriteString("<x a=\"")
		escape(&b, s)
		b.WriteString("\">")
		escape(&b, s)
		b.WriteString("</x>")
		if text, attr, err := textOf(b.String()); err != nil || text != s || attr != s {
			t.Errorf("%q: %q %q %v", s, text, attr, err)
		}
	}
}

// FuzzScanner holds that no document makes the scanner panic or hang, that what it returns is valid UTF-8 that XML allows, and that where the
// standard library can read a document, the scanner reads the same.
func FuzzScanner(f *testing.F) {
	for _, s := range []string{`<x a="1">t</x>`, `<a><b/>t<![CDATA[u]]>&#x1F;</a>`, `<m:a xmlns:m='u'>&#xD83D;&#xDE00;</m:a>`, `<!DOCTYPE x><x/>`, `<?xml version="1.0"?><a><!-- c --></a>`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, doc []byte) {
		s := &scanner{doc: doc}
		var texts []string
		for s.child(0) {
			for at := s.depth; s.child(at); {
				s.attr("a")
				text := s.text()
				if !utf8.Valid(text) || bytes.ContainsFunc(text, func(r rune) bool { return !legal(r) }) {
					t.Fatalf("text %q", text)
				}
				texts = append(texts, string(text))
			}
		}
		if s.depth < 0 || s.depth > 64 {
			t.Fatalf("depth %d", s.depth)
		}
		want, ok := standard(doc)
		if ok && s.err == nil && strings.Join(texts, "|") != strings.Join(want, "|") {
			t.Fatalf("got %q, the standard library %q", texts, want)
		}
	})
}

// standard returns the text of each child of the root elements, as encoding/xml reads it; false: it cannot, or reads it with a difference that is known.
func standard(doc []byte) (texts []string, ok bool) {
	if bytes.ContainsAny(doc, "\r") { // it normalises line ends
		return nil, false
	}
	d := xml.NewDecoder(bytes.NewReader(doc))
	depth := 0
	for {
		token, err := d.RawToken()
		if err == io.EOF {
			return texts, depth == 0
		}
		if err != nil {
			return nil, false
		}
		switch token := token.(type) {
		case xml.StartElement:
			if depth++; depth == 2 {
				texts = append(texts, "")
			}
		case xml.EndElement:
			depth--
		case xml.CharData:
			if depth == 2 {
				texts[len(texts)-1] += string(token)
			}
		}
	}
}

func TestAReferenceIsShort(t *testing.T) {
	for raw, want := range map[string]string{"&#x000000000041;": "A", "&#x0000000000041;": "&#x0000000000041;", "&#65;": "A", "&#X41;": "A", "&#;": "&#;", "&;": "&;", "&": "&"} {
		if got := decode(nil, []byte(raw), true); string(got) != want {
			t.Errorf("%s became %q", raw, got)
		}
	}
}

func TestWhatIsNoMarkupStandsForItself(t *testing.T) {
	for in, want := range map[string]string{
		"Tom & Jerry":           "Tom & Jerry",
		"AT&T; &amp; co":        "AT&T; & co",
		"&":                     "&",
		"&&lt;&":                "&<&",
		"a&nbsp;b":              "a&nbsp;b",
		"&lol9;":                "&lol9;", // nothing declares it, and nothing is put in its place
		"&#xZZ; &#; &#-1; &#1e": "&#xZZ; &#; &#-1; &#1e",
		"?a=1&b=2":              "?a=1&b=2",
	} {
		for _, doc := range []string{"<x a='" + in + "'>" + in + "</x>", `<x a="` + in + `">` + in + `</x>`} {
			if text, attr, err := textOf(doc); err != nil || text != want || attr != want {
				t.Errorf("%s: text %q, attribute %q, %v; want %q", in, text, attr, err, want)
			}
		}
	}
	for in, want := range map[string]string{"a < b": "a < b", "I <3 it": "I <3 it", "<= <- <": "<= <- <", "<": "<", "<<b/>": "<", "5 <\t6 &lt; 7": "5 <\t6 < 7"} {
		if text, _, err := textOf("<x>" + in + "</x>"); err != nil || text != want {
			t.Errorf("%s: %q, %v; want %q", in, text, err, want)
		}
	}
}

func TestTextThatNeedsNoDecodingIsNotCopied(t *testing.T) {
	for _, text := range []string{"plain", "with a space", "lines\r\nand\ttabs", "Zürich", "\U0010ffff"} {
		doc := []byte("<a>" + text + "</a>")
		s := &scanner{doc: doc}
		s.child(0)
		if got := s.text(); string(got) != text || &got[0] != &doc[3] {
			t.Errorf("%q is a copy: it costs every message", got)
		}
	}
}

func TestWhatXMLForbidsIsNotInATextHoweverItIsWritten(t *testing.T) {
	for raw, want := range map[string]string{
		"a\x80": "a\uFFFD", "\x80": "\uFFFD", "\xff": "\uFFFD", "a\uFFFEb": "ab", "a\uFFFFb": "ab", "&#xFFFE;": "", "a\x01b": "ab", "&#1;a": "a", "&amp;": "&",
		"&#xD800;&#xDC00;": "\U00010000", "&#xDBFF;&#xDFFF;": "\U0010FFFF", "&#xD83D;&#xDC00;": "\U0001F400", "&#xD83D;&#xDFFF;": "\U0001F7FF",
		"&#xD7FF;": "\uD7FF", "&#xE000;": "\uE000", "&#xD83D;x": "\uFFFDx", "&#xD83D;": "\uFFFD", "&#xDC00;": "\uFFFD", "&#x10FFFF;": "\U0010FFFF", "&#x110000;": "",
		"&#xD83D;&#xE000;": "\uFFFD\uE000", "&#xD83D;&#xDBFF;": "\uFFFD\uFFFD",
	} {
		s := &scanner{doc: []byte("<a>" + raw + "</a>")}
		s.child(0)
		if got := string(s.text()); got != want || s.err != nil {
			t.Errorf("%+q became %+q, want %+q: %v", raw, got, want, s.err)
		}
	}
}

func TestAnEmptyElementHasItsName(t *testing.T) {
	s := &scanner{doc: []byte(`<a><b/><p:c /><d x="1"/><e></e></a>`)}
	s.child(0)
	var names []string
	for at := s.depth; s.child(at); {
		names = append(names, string(s.name))
	}
	if got := strings.Join(names, " "); got != "b c d e" || s.err != nil {
		t.Errorf("%q, %v", got, s.err)
	}
}
