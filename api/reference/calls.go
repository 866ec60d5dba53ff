package reference

// The page of all calls: what openapi.yaml says, for people.

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
)

// description is what the page has of openapi.yaml, in its order.
type description struct {
	Title, Version, Text string
	Calls                []call
	Events               []call // that mailbell makes: webhooks
	Schemas              []schema
}

type call struct {
	Method, Path  string // of a webhook the path is the name of its event
	Summary, Text string
	Open          bool // it needs no token
	Parameters    []field
	Body          *content
	Answers       []answer
}

// Anchor is the id of a call on the page.
func (c call) Anchor() string {
	return strings.ToLower(c.Method) + strings.NewReplacer("/", "-", "{", "", "}", "", ":", "-", ".", "-").Replace(c.Path)
}

type answer struct {
	Status, Text string
	Headers      []field
	Body         *content
}

// content is a body.
type content struct {
	Kind    string // media type
	Type    kind
	Text    string
	Example string
}

type schema struct {
	Name, Text string
	Type       kind
	Fields     []field
}

// field is a field of a schema, a parameter or a header.
type field struct {
	Name, In, Text string
	Required       bool
	Type           kind
}

// kind is a type of JSON: words, and the schemas that they lead to.
type kind struct {
	Words   string
	Schemas []string
	Values  []string // the only ones
}

// Calls is the page of all calls. document is an OpenAPI description in YAML, which is part of the program.
func Calls(document []byte) http.Handler {
	d, err := read(document)
	if err != nil {
		panic(err) // it is part of the program
	}
	return ofHTML(execute("calls", page{"API", d}))
}

// read reads a description.
func read(document []byte) (description, error) {
	var all yaml.MapSlice
	if err := yaml.NewDecoder(bytes.NewReader(document), yaml.UseOrderedMap()).Decode(&all); err != nil {
		return description{}, err
	}
	root := node{all, all}
	info := root.at("info")
	d := description{Title: info.text("title"), Version: info.text("version"), Text: info.text("description")}
	for _, path := range root.at("paths").members() {
		shared := path.node.at("parameters").items()
		for _, operation := range path.node.members() {
			if operation.name != "parameters" {
				d.Calls = append(d.Calls, readCall(path.name, operation.name, operation.node, shared))
			}
		}
	}
	for _, event := range root.at("webhooks").members() {
		for _, operation := range event.node.members() {
			d.Events = append(d.Events, readCall(event.name, operation.name, operation.node, nil))
		}
	}
	for _, m := range root.at("components").at("schemas").members() {
		d.Schemas = append(d.Schemas, schema{Name: m.name, Text: m.node.text("description"), Type: m.node.kind(), Fields: m.node.fields()})
	}
	return d, nil
}

func readCall(path, method string, n node, shared []node) call {
	c := call{Method: strings.ToUpper(method), Path: path, Summary: n.text("summary"), Text: n.text("description"), Body: n.at("requestBody").content()}
	if security, ok := n.value("security").([]any); ok {
		c.Open = len(security) == 0
	}
	for _, p := range append(shared, n.at("parameters").items()...) {
		c.Parameters = append(c.Parameters, p.field(p.text("name"), p.yes("required")))
	}
	for _, m := range n.at("responses").members() {
		a := answer{Status: m.name, Text: m.node.text("description"), Body: m.node.content()}
		for _, h := range m.node.at("headers").members() {
			a.Headers = append(a.Headers, h.node.field(h.name, false))
		}
		if same := slices.IndexFunc(c.Answers, func(b answer) bool { return b.Text == a.Text && reflect.DeepEqual(b.Body, a.Body) }); same >= 0 {
			c.Answers[same].Status += ", " + a.Status
			continue
		}
		c.Answers = append(c.Answers, a)
	}
	return c
}

// node is a value of the document, and the document.
type node struct {
	of   any
	root yaml.MapSlice
}

type member struct {
	name string
	node node
}

// value is the value of a key; nil where there is none.
func (n node) value(key string) any {
	m, _ := n.of.(yaml.MapSlice)
	for _, item := range m {
		if fmt.Sprint(item.Key) == key {
			return item.Value
		}
	}
	return nil
}

// at is the value of a key, where a reference leads to.
func (n node) at(key string) node { return node{n.value(key), n.root}.resolved() }

// resolved follows a reference.
func (n node) resolved() node {
	ref := n.text("$ref")
	if ref == "" {
		return n
	}
	to := node{n.root, n.root}
	for part := range strings.SplitSeq(strings.TrimPrefix(ref, "#/"), "/") {
		to = node{to.value(part), n.root}
	}
	return to
}

func (n node) text(key string) string {
	s, _ := n.value(key).(string)
	return strings.TrimSpace(s)
}

func (n node) yes(key string) bool {
	yes, _ := n.value(key).(bool)
	return yes
}

func (n node) members() (list []member) {
	m, _ := n.of.(yaml.MapSlice)
	for _, item := range m {
		list = append(list, member{fmt.Sprint(item.Key), node{item.Value, n.root}.resolved()})
	}
	return list
}

func (n node) items() (list []node) {
	all, _ := n.of.([]any)
	for _, item := range all {
		list = append(list, node{item, n.root}.resolved())
	}
	return list
}

// content is the body of a request or an answer; nil: it has none.
func (n node) content() *content {
	for _, m := range n.at("content").members() {
		c := &content{Kind: m.name, Text: n.text("description"), Type: node{m.node.value("schema"), n.root}.kind()}
		switch example := m.node.value("example").(type) {
		case nil:
		case string:
			c.Example = example
		default:
			c.Example = pretty(example)
		}
		return c // each has one
	}
	return nil
}

// fields are the properties of a schema.
func (n node) fields() (list []field) {
	required, _ := n.value("required").([]any)
	properties, _ := n.value("properties").(yaml.MapSlice)
	for _, item := range properties {
		name := fmt.Sprint(item.Key)
		property := node{item.Value, n.root}
		list = append(list, property.field(name, slices.Contains(required, any(name))))
		for _, inner := range (node{property.value("items"), n.root}).fields() { // of objects that have no name of their own
			inner.Name = name + "[]." + inner.Name
			list = append(list, inner)
		}
	}
	return list
}

// field reads a parameter, a header or a property, which has its type under schema or is one.
func (n node) field(name string, required bool) field {
	of := n
	if s := n.value("schema"); s != nil {
		of = node{s, n.root}
	}
	return field{Name: name, In: n.text("in"), Text: n.text("description"), Required: required, Type: of.kind()}
}

// kind says what type a schema is.
func (n node) kind() kind {
	if ref := n.text("$ref"); ref != "" {
		return kind{Schemas: []string{ref[strings.LastIndex(ref, "/")+1:]}}
	}
	if one := n.value("oneOf"); one != nil {
		var k kind
		all, _ := one.([]any)
		for _, item := range all {
			k.Schemas = append(k.Schemas, node{item, n.root}.kind().Schemas...)
		}
		return k
	}
	k := kind{Words: n.text("type")}
	if values, ok := n.value("enum").([]any); ok {
		for _, v := range values {
			k.Values = append(k.Values, fmt.Sprint(v))
		}
	}
	switch k.Words {
	case "array":
		of := node{n.value("items"), n.root}.kind()
		of.Words = strings.TrimSpace("list of " + of.Words)
		return of
	case "object":
		if _, isSchema := n.value("additionalProperties").(yaml.MapSlice); isSchema {
			of := node{n.value("additionalProperties"), n.root}.kind()
			of.Words = strings.TrimSpace("object, each member " + of.Words)
			return of
		}
	}
	if format := n.text("format"); format != "" {
		k.Words += ", " + format
	}
	for _, bound := range []struct{ key, words string }{{"minimum", "at least"}, {"maximum", "at most"}, {"minLength", "characters: at least"}, {"maxLength", "characters: at most"}, {"default", "default"}} {
		if v := n.value(bound.key); v != nil {
			k.Words += fmt.Sprintf(", %s %v", bound.words, v)
		}
	}
	if pattern := n.text("pattern"); pattern != "" {
		k.Words += ", " + pattern
	}
	return k
}

// pretty is an example as JSON, in the order of the document.
func pretty(v any) string {
	data, err := yaml.MarshalWithOptions(v, yaml.JSON())
	if err != nil {
		return fmt.Sprint(v)
	}
	var b bytes.Buffer
	if err := json.Indent(&b, bytes.TrimSpace(data), "", "  "); err != nil {
		return string(data)
	}
	return b.String()
}
