package autodiscover

// Parsing XML of servers: without DTD, within bounds, by local names.

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/beevik/etree"

	"github.com/mailbell/mailbell/internal/fault"
)

const maxDepth = 32 // of elements; a real answer nests 9

// document parses b within bounds, and returns the root element.
func document(b []byte) (*etree.Element, error) {
	if len(b) > maxAnswer {
		return nil, fmt.Errorf("larger than %d bytes", maxAnswer)
	}
	if isPage(b) {
		return nil, errPage
	}
	doc := etree.NewDocument()
	doc.ReadSettings = etree.ReadSettings{
		MaxDepth: maxDepth,
		CharsetReader: func(name string, r io.Reader) (io.Reader, error) {
			if strings.EqualFold(name, "us-ascii") { // a part of UTF-8
				return r, nil
			}
			return nil, errors.New("an encoding other than UTF-8")
		},
	}
	if err := doc.ReadFromBytes(sanitised(b)); err != nil {
		return nil, err
	}
	for _, t := range doc.Child {
		if _, ok := t.(*etree.Directive); ok {
			return nil, errPage
		}
	}
	if doc.Root() == nil {
		return nil, errors.New("empty")
	}
	return doc.Root(), nil
}

// errPage is a document with a document type. Autodiscover has none, so it is a web page.
var errPage = errors.New("it has a document type (DTD), as web pages do, which mailbell refuses")

// isPage reports whether b begins with a document type, or after a declaration and comments. A page need not be XML further on.
func isPage(b []byte) bool {
	b = bytes.TrimPrefix(b, []byte(bom))
	for {
		b = bytes.TrimLeft(b, " \t\r\n")
		closing := ""
		switch {
		case bytes.HasPrefix(b, []byte("<?")):
			closing = "?>"
		case bytes.HasPrefix(b, []byte("<!--")):
			closing = "-->"
		default:
			const doctype = "<!DOCTYPE"
			return len(b) >= len(doctype) && strings.EqualFold(string(b[:len(doctype)]), doctype)
		}
		_, rest, closed := bytes.Cut(b, []byte(closing))
		if !closed {
			return false
		}
		b = rest
	}
}

// unread types an answer that is not XML. It is not Autodiscover if it is a web page, or lacks the name of the answer's element.
func unread(err error, b []byte, element string) *fault.Error {
	code := CodeUnread
	if errors.Is(err, errPage) || !bytes.Contains(b, []byte(element)) {
		code = codeNotAuto
	}
	return &fault.Error{Op: op, Code: code, Scope: fault.Server, Remedy: fault.Wait, Text: "the answer cannot be parsed", Err: err}
}

const bom = "\xef\xbb\xbf"

var (
	references = regexp.MustCompile(`&#(x[0-9a-fA-F]+|[0-9]+);`)
	known      = regexp.MustCompile(`^&(?:lt|gt|amp|quot|apos|#x[0-9a-fA-F]+|#[0-9]+);`) // without a declaration of its own
)

// sanitised drops characters that XML forbids, and that servers nevertheless send in display names, and escapes an & or < that begins no
// markup: an error in one name harms no other user of the same answer.
func sanitised(b []byte) []byte {
	b = bytes.ToValidUTF8(bytes.TrimPrefix(b, []byte(bom)), []byte("\uFFFD"))
	b = bytes.Map(func(r rune) rune {
		if !legal(r) {
			return -1
		}
		return r
	}, b)
	b = references.ReplaceAllFunc(b, func(ref []byte) []byte {
		digits := string(ref[2 : len(ref)-1])
		base := 10
		if digits[0] == 'x' {
			digits, base = digits[1:], 16
		}
		n, err := strconv.ParseInt(digits, base, 32)
		if err != nil || !legal(rune(n)) || !utf8.ValidRune(rune(n)) {
			return nil
		}
		return ref
	})
	return escaped(b)
}

// escaped escapes each & and < that begins no markup.
func escaped(b []byte) []byte {
	out := make([]byte, 0, len(b))
	for {
		n := bytes.IndexAny(b, "&<")
		if n < 0 {
			return append(out, b...)
		}
		out, b = append(out, b[:n]...), b[n:]
		length := 1
		switch {
		case bytes.HasPrefix(b, []byte("<![CDATA[")):
			length = through(b, "]]>")
		case bytes.HasPrefix(b, []byte("<!--")):
			length = through(b, "-->")
		case b[0] == '<' && len(b) > 1 && beginsMarkup(b[1]), b[0] == '&' && known.Match(b):
		case b[0] == '&':
			out, length = append(out, "&amp;"...), 0
		default:
			out, length = append(out, "&lt;"...), 0
		}
		out = append(out, b[:length]...)
		b = b[max(length, 1):]
	}
}

// beginsMarkup reports whether b, which follows a <, makes markup of it.
func beginsMarkup(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c >= utf8.RuneSelf || strings.IndexByte("_:/!?>", c) >= 0
}

// through returns how long b is up to the end of closing.
func through(b []byte, closing string) int {
	if i := bytes.Index(b, []byte(closing)); i >= 0 {
		return i + len(closing)
	}
	return len(b)
}

// legal reports whether XML 1.0 (section 2.2) has this character.
func legal(r rune) bool {
	return r >= ' ' && r != 0xFFFE && r != 0xFFFF || r == '\t' || r == '\n' || r == '\r'
}

// child returns the first child of e with this local name; nil: none, or no e.
func child(e *etree.Element, name string) *etree.Element {
	for _, c := range children(e, name) {
		return c
	}
	return nil
}

func children(e *etree.Element, name string) (found []*etree.Element) {
	if e == nil {
		return nil
	}
	for _, c := range e.ChildElements() {
		if c.Tag == name {
			found = append(found, c)
		}
	}
	return found
}

func text(e *etree.Element, name string) string {
	if c := child(e, name); c != nil {
		return strings.TrimSpace(c.Text())
	}
	return ""
}
