package exchange

// XML as the simulator reads and writes it: a small tree of a request, and an append-only writer of answers.

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// The namespaces.
const (
	nsSOAP     = "http://schemas.xmlsoap.org/soap/envelope/"
	nsMessages = "http://schemas.microsoft.com/exchange/services/2006/messages"
	nsTypes    = "http://schemas.microsoft.com/exchange/services/2006/types"
	nsErrors   = "http://schemas.microsoft.com/exchange/services/2006/errors"
	nsXSI      = "http://www.w3.org/2001/XMLSchema-instance"
	nsXSD      = "http://www.w3.org/2001/XMLSchema"
)

// Bounds of a request. 200 subscription ids are 30 KB; 1,000 item ids 160 KB.
const (
	maxRequest = 4 << 20
	maxDepth   = 64
	maxNodes   = 100_000
)

// node is an element of a request.
type node struct {
	space, name string
	attrs       []xml.Attr
	kids        []*node
	text        string
}

var errXML = errors.New("not a document that this server reads")

// parseXML reads one document. Document types are refused, so there are no entities but the five of XML.
func parseXML(r io.Reader) (*node, error) {
	d := xml.NewDecoder(r)
	var (
		root  *node
		stack []*node
		count int
	)
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errXML, err)
		}
		switch t := token.(type) {
		case xml.StartElement:
			n := &node{space: t.Name.Space, name: t.Name.Local, attrs: t.Attr}
			if count++; count > maxNodes || len(stack) == maxDepth {
				return nil, fmt.Errorf("%w: too many elements", errXML)
			}
			switch {
			case len(stack) > 0:
				top := stack[len(stack)-1]
				top.kids = append(top.kids, n)
			case root != nil:
				return nil, fmt.Errorf("%w: more than one root", errXML)
			default:
				root = n
			}
			stack = append(stack, n)
		case xml.EndElement:
			stack = stack[:len(stack)-1]
		case xml.CharData:
			if len(stack) > 0 {
				stack[len(stack)-1].text += string(t)
			}
		case xml.Directive:
			return nil, fmt.Errorf("%w: it has a document type", errXML)
		}
	}
	if root == nil {
		return nil, fmt.Errorf("%w: it is empty", errXML)
	}
	return root, nil
}

// kid returns the first child of that name; nil if there is none. A nil node has no children.
func (n *node) kid(space, name string) *node {
	if n == nil {
		return nil
	}
	for _, k := range n.kids {
		if k.name == name && k.space == space {
			return k
		}
	}
	return nil
}

// at walks down children in the types namespace.
func (n *node) at(names ...string) *node {
	for _, name := range names {
		n = n.kid(nsTypes, name)
	}
	return n
}

// value is the text of a node without the white space around it.
func (n *node) value() string {
	if n == nil {
		return ""
	}
	return strings.TrimSpace(n.text)
}

func (n *node) attr(name string) string {
	if n == nil {
		return ""
	}
	for _, a := range n.attrs {
		if a.Name.Local == name {
			return a.Value
		}
	}
	return ""
}

// markup is XML that is being written.
type markup []byte

func (b *markup) raw(parts ...string) {
	for _, s := range parts {
		*b = append(*b, s...)
	}
}

// text writes s with the characters escaped that mean something in XML, and without those that XML does not allow.
func (b *markup) text(s string) {
	last := 0
	for i := 0; i < len(s); {
		c := s[i]
		var esc string
		size := 1
		switch {
		case c == '&':
			esc = "&amp;"
		case c == '<':
			esc = "&lt;"
		case c == '>':
			esc = "&gt;"
		case c == '"':
			esc = "&quot;"
		case c == '\r':
			esc = "&#xD;"
		case c == '\t' || c == '\n' || c >= ' ' && c < utf8.RuneSelf:
			i++
			continue
		case c < ' ': // not allowed: left out
		default:
			r, n := utf8.DecodeRuneInString(s[i:])
			if r != utf8.RuneError && r != 0xFFFE && r != 0xFFFF {
				i += n
				continue
			}
			if size = n; r == utf8.RuneError {
				esc = "\uFFFD"
			}
		}
		b.raw(s[last:i], esc)
		i += size
		last = i
	}
	b.raw(s[last:])
}

// element writes <name>text</name>.
func (b *markup) element(name, text string) {
	b.raw("<", name, ">")
	b.text(text)
	b.raw("</", name, ">")
}

// children of a node; none of nil.
func (n *node) children() []*node {
	if n == nil {
		return nil
	}
	return n.kids
}
