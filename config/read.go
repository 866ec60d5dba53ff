package config

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"
)

// reader collects the mistakes of one file while its mappings are read.
type reader struct {
	file string // as given
	dir  string // what its paths are relative to
	errs Errors

	warnings Errors // values that are allowed, but probably wrong
	files    []File // all that were read
	sum      Sum    // of what they and the configuration file hold
}

// read returns the contents of a file, and adds them to the sum.
func (r *reader) read(path string) ([]byte, error) {
	data, err := readFile(path)
	own := sha256.Sum256(data)
	r.sum = sha256.Sum256(append(r.sum[:], own[:]...))
	return data, err
}

func (r *reader) fail(line int, key, format string, args ...any) {
	r.errs = append(r.errs, Error{File: r.file, Line: line, Key: key, Text: fmt.Sprintf(format, args...)})
}

// value is the value of a key, or an item of a list.
type value struct {
	r    *reader
	path string
	line int
	node ast.Node // nil: nothing, null or empty: the default
}

// warn reports a value that is allowed, but probably wrong.
func (v value) warn(format string, args ...any) {
	v.r.warnings = append(v.r.warnings, Error{File: v.r.file, Line: v.line, Key: v.path, Text: fmt.Sprintf(format, args...)})
}

func (v value) fail(format string, args ...any) { v.r.fail(v.line, v.path, format, args...) }

// object is a mapping. Every key that is read is a key of the schema; end reports the other keys.
type object struct {
	value
	values map[string]value
	asked  []string
	wrong  bool // not a mapping, which is reported already
	absent bool // a section that is left out: nothing in it is required
}

func (r *reader) object(v value) *object {
	o := &object{value: v, values: map[string]value{}}
	if v.node == nil {
		return o
	}
	mapping, ok := v.node.(*ast.MappingNode)
	if !ok {
		v.fail("wrong type: want keys with values, got %s", kind(v.node))
		o.wrong = true
		return o
	}
	for _, kv := range mapping.Values {
		key := kv.Key.GetToken().Value
		path := quoted(key)
		if v.path != "" {
			path = v.path + "." + path
		}
		e := value{r: r, path: path, line: line(kv.Key.GetToken()), node: filled(kv.Value)}
		if before, twice := o.values[key]; twice {
			e.fail("given twice; first in line %d", before.line)
			continue
		}
		o.values[key] = e
	}
	return o
}

// filled returns nil for values that are the same as missing: null, and an empty text, list or mapping.
func filled(n ast.Node) ast.Node {
	switch n := n.(type) {
	case nil, *ast.NullNode:
		return nil
	case *ast.StringNode:
		if n.Value == "" {
			return nil
		}
	case *ast.SequenceNode:
		if len(n.Values) == 0 {
			return nil
		}
	case *ast.MappingNode:
		if len(n.Values) == 0 {
			return nil
		}
	}
	return n
}

// kind of a node, for errors.
func kind(n ast.Node) string {
	switch n.(type) {
	case *ast.StringNode, *ast.LiteralNode:
		return "a text"
	case *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		return "a number"
	case *ast.BoolNode:
		return "true or false"
	case *ast.SequenceNode:
		return "a list"
	case *ast.MappingNode:
		return "keys with values"
	}
	return "something else"
}

// maxName is how many characters of a word of the file an error shows.
const maxName = 64

// plain matches keys and choices that errors show unquoted.
var plain = regexp.MustCompile(`^[A-Za-z0-9_./-]{1,64}$`)

// quoted makes a text of the file fit for one line of an error.
func quoted(word string) string {
	if plain.MatchString(word) {
		return word
	}
	if utf8.RuneCountInString(word) > maxName {
		word = string([]rune(word)[:maxName]) + "…"
	}
	return strconv.Quote(word)
}

// get returns the value of a key. If there is none, line and path are those for an error about it.
func (o *object) get(key string) value {
	o.asked = append(o.asked, key)
	if v, ok := o.values[key]; ok {
		return v
	}
	path := key
	if o.path != "" {
		path = o.path + "." + key
	}
	return value{r: o.r, path: path, line: o.line}
}

// has reports whether a key is given and not empty.
func (o *object) has(key string) bool { return o.values[key].node != nil }

// require reports each of the keys that is missing or empty.
func (o *object) require(keys ...string) {
	for _, key := range keys {
		if v := o.get(key); v.node == nil && !o.wrong && !o.absent {
			v.fail("is required")
		}
	}
}

// renamed are the keys that had another name before the first release.
var renamed = map[string]string{"portal": "api"}

// end reports the keys that were not read.
func (o *object) end() {
	for _, key := range slices.Sorted(maps.Keys(o.values)) {
		if slices.Contains(o.asked, key) {
			continue
		}
		free := slices.DeleteFunc(slices.Clone(o.asked), o.has)
		if near := cmp.Or(renamed[key], similar(key, free)); near != "" {
			o.values[key].fail("unknown key; did you mean %s?", near)
		} else {
			o.values[key].fail("unknown key")
		}
	}
}

// unavailable refuses a key that only a later version has. It allows empty keys, and options that are off.
func (o *object) unavailable(key string, under ...string) {
	v := o.get(key)
	if _, ok := v.node.(*ast.MappingNode); ok && len(under) > 0 {
		inner := o.r.object(v)
		inner.asked = under
		inner.end()
		if !slices.ContainsFunc(under, func(k string) bool { return isSet(inner.values[k].node) }) {
			return
		}
	}
	if isSet(v.node) {
		v.fail("not available in this version of mailbell: leave it out")
	}
}

func isSet(n ast.Node) bool {
	switch n := n.(type) {
	case nil:
		return false
	case *ast.BoolNode:
		return n.Value
	case *ast.MappingNode:
		return slices.ContainsFunc(n.Values, func(kv *ast.MappingValueNode) bool { return isSet(filled(kv.Value)) })
	}
	return true
}

// object returns the mapping of a key; an empty one if there is none.
func (o *object) object(key string) *object { return o.r.object(o.get(key)) }

// optional returns a section that may be left out, and whether it is given. If it is left out it is read nevertheless, because its keys
// may be there and empty.
func (o *object) optional(key string) (section *object, given bool) {
	section = o.object(key)
	section.absent = !isSet(section.node)
	return section, !section.absent && !section.wrong
}

// list returns the items of a list, empty ones too.
func (o *object) list(key string) []value {
	v := o.get(key)
	if v.node == nil {
		return nil
	}
	sequence, ok := v.node.(*ast.SequenceNode)
	if !ok {
		v.fail("wrong type: want a list, got %s", kind(v.node))
		return nil
	}
	entries := make([]value, len(sequence.Values))
	for i, n := range sequence.Values {
		entries[i] = value{r: o.r, path: fmt.Sprintf("%s[%d]", v.path, i), line: v.line, node: filled(n)}
		if n != nil {
			entries[i].line = line(n.GetToken())
		}
	}
	return entries
}

// objects returns the mappings of a list.
func (o *object) objects(key string) []*object {
	var list []*object
	for _, v := range o.list(key) {
		list = append(list, o.r.object(v))
	}
	return list
}

// texts returns the texts of a list, each after check. No two may be the same.
func (o *object) texts(key string, check func(string) (string, error)) []string {
	var list []string
	for _, v := range o.list(key) {
		s, ok := v.text()
		if !ok {
			if v.node == nil {
				v.fail("is empty")
			}
			continue
		}
		s, err := check(s)
		switch {
		case err != nil:
			v.fail("%v", err)
		case slices.Contains(list, s):
			v.fail("%s is given twice", s)
		default:
			list = append(list, s)
		}
	}
	return list
}

// addresses returns a list of host:port. The parser reads a plain host:port in brackets as a key with its value, unlike YAML (1.2, section
// 7.3.3).
func (o *object) addresses(key string) []string {
	v := o.get(key)
	if sequence, ok := v.node.(*ast.SequenceNode); ok {
		for i, n := range sequence.Values {
			if mapping, ok := n.(*ast.MappingNode); ok && len(mapping.Values) == 1 {
				n = mapping.Values[0]
			}
			if pair, ok := n.(*ast.MappingValueNode); ok {
				text := token.String(pair.Key.String()+":"+pair.Value.String(), "", pair.GetToken().Position)
				sequence.Values[i] = ast.String(text)
			}
		}
	}
	return o.texts(key, address)
}

// text returns a value that is a text. A wrong type is reported.
func (v value) text() (string, bool) {
	switch n := v.node.(type) {
	case nil:
		return "", false
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		return strings.TrimRight(n.Value.Value, "\n"), true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		v.fail("wrong type: want a text, got %s; put it in quotes", kind(n))
	default:
		v.fail("wrong type: want a text, got %s", kind(n))
	}
	return "", false
}

// text returns the text of a key after check; def if there is none.
func (o *object) text(key, def string, check func(string) (string, error)) string {
	v := o.get(key)
	s, ok := v.text()
	if !ok {
		return def
	}
	s, err := check(s)
	if err != nil {
		v.fail("%v", err)
		return def
	}
	return s
}

// choice returns one of the allowed words. later are the words that only a later version has.
func (o *object) choice(key, def string, allowed []string, later ...string) string {
	v := o.get(key)
	s, ok := v.text()
	switch {
	case !ok:
		return def
	case slices.Contains(allowed, s):
		return s
	case slices.Contains(later, s):
		v.fail("not available in this version of mailbell: %s; want %s", s, strings.Join(allowed, ", "))
	default:
		v.fail("want one of %s, got %s", strings.Join(allowed, ", "), quoted(s))
	}
	return def
}

func (o *object) boolean(key string, def bool) bool {
	v := o.get(key)
	switch n := v.node.(type) {
	case nil:
		return def
	case *ast.BoolNode:
		return n.Value
	default:
		v.fail("wrong type: want true or false, got %s", kind(n))
		return def
	}
}

func (o *object) integer(key string, def, low, high int) int {
	v := o.get(key)
	if v.node == nil {
		return def
	}
	n, ok := v.node.(*ast.IntegerNode)
	if !ok {
		v.fail("wrong type: want a whole number, got %s", kind(v.node))
		return def
	}
	// The parser has an int64 for negative numbers and a uint64 for the others.
	i, err := strconv.Atoi(fmt.Sprint(n.Value))
	if err != nil || i < low || i > high {
		v.fail("out of bounds: want %d to %d, got %v", low, high, n.Value)
		return def
	}
	return i
}

func (o *object) duration(key string, def, low, high time.Duration) time.Duration {
	v := o.get(key)
	if n, ok := v.node.(*ast.IntegerNode); ok {
		v.fail("a duration needs its unit, as in 90s, 30m or 1h30m; got %v", n.Value)
		return def
	}
	s, ok := v.text()
	if !ok {
		return def
	}
	d, err := time.ParseDuration(s)
	switch {
	case err != nil:
		v.fail("not a duration: want one as in 90s, 30m or 1h30m, got %s", quoted(s))
	case d < low || d > high:
		v.fail("out of bounds: want %s to %s, got %s", short(low), short(high), short(d))
	default:
		return d
	}
	return def
}

// short formats a duration as 30m, not 30m0s.
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return s
}
