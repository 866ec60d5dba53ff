package config

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

const (
	// maxFile bounds the configuration file and each file that it names: enough for thousands of listener accounts, or
	// all public roots three times. A larger one is a wrong file.
	maxFile = 1 << 20
	// maxDepth bounds nesting: the schema needs 5, and the parser's stack and time grow with it.
	maxDepth = 32
)

// readFile returns the contents of a regular file of at most maxFile bytes. A pipe or device is refused: it could block
// the start. Its errors leave out the path.
func readFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, withoutPath(err)
	}
	switch {
	case info.IsDir():
		return nil, errors.New("is a folder")
	case !info.Mode().IsRegular():
		return nil, errors.New("is not a regular file")
	case info.Size() > maxFile:
		return nil, errors.New("is larger than 1 MiB")
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, withoutPath(err)
	}
	return data, nil
}

var errMissing = errors.New("does not exist")

// another says what to do about a configuration that is not there.
func another(err error) string {
	if errors.Is(err, errMissing) {
		return ": --config names another file, and mailbell init makes one"
	}
	return ""
}

func withoutPath(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return errMissing
	case errors.Is(err, fs.ErrPermission):
		return errors.New("may not be read by this user")
	}
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		err = e.Err
	}
	return errors.New("cannot be read: " + err.Error())
}

// parse returns the one mapping that a configuration file holds; nil for an empty file. Its errors lack only the file name.
func parse(data []byte) (*ast.MappingNode, *Error) {
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	if !utf8.Valid(data) {
		return nil, &Error{Line: invalidLine(data), Key: "file", Text: "is not UTF-8"}
	}
	tokens := lexer.Tokenize(string(data))
	if err := checkTokens(tokens); err != nil {
		return nil, err
	}
	file, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey()) // this package reports the duplicates, all of them
	if err != nil {
		return nil, syntax(data, err)
	}
	var root ast.Node
	for _, doc := range file.Docs {
		if doc.Body != nil {
			root = doc.Body
		}
	}
	switch n := root.(type) {
	case nil, *ast.NullNode:
		return nil, nil
	case *ast.MappingNode:
		return n, nil
	}
	return nil, &Error{Line: line(root.GetToken()), Key: "yaml", Text: "want keys with values, as in listen: 127.0.0.1:8080"}
}

// escaped is the mistake of a text in double quotes that should be in single ones.
const escaped = `in double quotes a backslash begins another character; want single quotes, as in 'CONTOSO\svc-bell'`

// syntax is a mistake that the parser found. Its words are for those who know YAML, and its line is sometimes the one before.
func syntax(data []byte, err error) *Error {
	at, said := 1, err.Error()
	if e, ok := errors.AsType[yaml.Error](err); ok {
		at, said = line(e.GetToken()), strings.ReplaceAll(e.GetMessage(), "\t", `\t`)
	}
	text := lineOf(data, at)
	switch {
	case strings.Contains(text[:len(text)-len(strings.TrimLeft(text, " \t"))], "\t"):
		said = "is indented by a tab: want spaces"
	case strings.Contains(text, `"`) && strings.Contains(text, `\`):
		said += ": " + escaped
	default:
		said += ": want KEY: value, indented by spaces as its neighbours are, and quotes around a text with [ ] { } : or #; " +
			"the mistake may be in a line beside this one"
	}
	return &Error{Line: at, Key: "yaml", Text: said}
}

// checkTokens refuses parts of YAML that a configuration does not need, before the parser spends stack and time on them.
func checkTokens(tokens token.Tokens) *Error {
	flow, entries, last := 0, 0, 0
	begun, ended := false, false
	for _, t := range tokens {
		if t.Type == token.CommentType {
			continue
		}
		if line(t) != last {
			entries, last = 0, line(t)
		}
		if ended || begun && t.Type == token.DocumentHeaderType {
			return &Error{Line: last, Key: "yaml", Text: "a second document begins here (---): want one"}
		}
		begun = true
		var unwanted string
		switch t.Type {
		case token.DocumentEndType:
			ended = true
		case token.DirectiveType:
			unwanted = "directives (%)"
		case token.AnchorType, token.AliasType, token.MergeKeyType:
			unwanted = "anchors, aliases and merge keys"
		case token.TagType:
			unwanted = "tags (!)"
		case token.MappingKeyType:
			unwanted = "explicit keys (?)"
		case token.SequenceStartType, token.MappingStartType:
			flow++
		case token.SequenceEndType, token.MappingEndType:
			flow--
		case token.SequenceEntryType:
			entries++
		case token.DoubleQuoteType, token.SingleQuoteType:
			if text := quotedWrongly(t); text != "" {
				return &Error{Line: last, Key: "yaml", Text: text}
			}
		}
		if unwanted != "" {
			return &Error{Line: last, Key: "yaml", Text: unwanted + " are not allowed in this file; a text that begins so needs quotes"}
		}
		if max(flow, entries) > maxDepth {
			return &Error{Line: last, Key: "yaml", Text: "nested too deeply"}
		}
	}
	return nil
}

// quotedWrongly says what is wrong with a text in quotes; empty: nothing. No value of a configuration has several lines, or characters that
// cannot be seen: \L in "CONTOSO\Listener" is one.
func quotedWrongly(t *token.Token) string {
	switch {
	case strings.ContainsAny(strings.TrimSpace(t.Origin), "\r\n"):
		return "the quote that begins here ends in another line: is it left open?"
	case t.Type == token.DoubleQuoteType && strings.Contains(t.Origin, `\`) && strings.ContainsFunc(t.Value, unseen):
		return escaped
	}
	return ""
}

func unseen(r rune) bool { return !unicode.IsPrint(r) }

// lineOf returns a line of a text, from 1; empty if there is none.
func lineOf(data []byte, n int) string {
	lines := strings.Split(strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(string(data)), "\n")
	if n > len(lines) {
		return ""
	}
	return lines[n-1]
}

// line of a token, from 1. A few tokens have no position.
func line(t *token.Token) int {
	if t == nil || t.Position == nil {
		return 1
	}
	return max(1, t.Position.Line)
}

// invalidLine is the line of the first byte that is not UTF-8.
func invalidLine(data []byte) int {
	n := 1
	for len(data) > 0 {
		r, size := utf8.DecodeRune(data)
		if r == utf8.RuneError && size == 1 {
			break
		}
		if r == '\n' {
			n++
		}
		data = data[size:]
	}
	return n
}
