package autodiscover

// Reading XML that others wrote: without DTD, within bounds, by local names.

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
)

const maxDepth = 32 // of elements; a real answer nests 9

// document parses b within bounds, and returns the root element.
func document(b []byte) (*etree.Element, error) {
	if len(b) > maxAnswer {
		return nil, fmt.Errorf("larger than %d bytes", maxAnswer)
	}
	doc := etree.NewDocument()
	doc.ReadSettings = etree.ReadSettings{
		MaxDepth: maxDepth,
		CharsetReader: func(string, io.Reader) (io.Reader, error) {
			return nil, errors.New("an encoding other than UTF-8")
		},
	}
	if err := doc.ReadFromBytes(sanitised(b)); err != nil {
		return nil, err
	}
	for _, t := range doc.Child {
		if _, ok := t.(*etree.Directive); ok {
			return nil, errors.New("a document type (DTD), which is refused with all that it declares")
		}
	}
	if doc.Root() == nil {
		return nil, errors.New("empty")
	}
	return doc.Root(), nil
}

var references = regexp.MustCompile(`&#(x[0-9a-fA-F]+|[0-9]+);`)

// sanitised drops the characters that XML forbids, and that servers send nevertheless in display names.
func sanitised(b []byte) []byte {
	b = bytes.ToValidUTF8(bytes.TrimPrefix(b, []byte("\xef\xbb\xbf")), []byte("\uFFFD"))
	b = bytes.Map(func(r rune) rune {
		if !legal(r) {
			return -1
		}
		return r
	}, b)
	return references.ReplaceAllFunc(b, func(ref []byte) []byte {
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
