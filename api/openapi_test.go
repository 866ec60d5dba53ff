package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"net/http"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"

	"github.com/mailbell/mailbell/check"
	"github.com/mailbell/mailbell/internal/webhookconfig"
	"github.com/mailbell/mailbell/subscriptions"
)

// description is what the contract tests read of openapi.yaml.
type description struct {
	Paths    map[string]map[string]any `yaml:"paths"`
	Webhooks map[string]struct {
		Post struct {
			RequestBody struct {
				Content map[string]struct {
					Schema  map[string]string `yaml:"schema"`
					Example map[string]any    `yaml:"example"`
				} `yaml:"content"`
			} `yaml:"requestBody"`
		} `yaml:"post"`
	} `yaml:"webhooks"`
	Components struct {
		Schemas map[string]schema `yaml:"schemas"`
	} `yaml:"components"`
}

type schema struct {
	Type       string         `yaml:"type"`
	Required   []string       `yaml:"required"`
	Properties map[string]any `yaml:"properties"`
	Enum       []string       `yaml:"enum"`
}

var described = sync.OnceValues(func() (d description, err error) {
	err = yaml.Unmarshal(openAPI, &d)
	return d, err
})

// whole is the description with all that it has.
var whole = sync.OnceValues(func() (d map[string]any, err error) {
	err = yaml.Unmarshal(openAPI, &d)
	return d, err
})

func contract(t testing.TB) description {
	t.Helper()
	d, err := described()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// documented holds an answer to the description: its status is listed for its path and method, with these headers and such a body.
func documented(t testing.TB, method, target string, a *http.Response, body []byte) {
	t.Helper()
	mux := http.NewServeMux()
	paths := contract(t).Paths
	for path := range paths {
		mux.Handle(path, http.NotFoundHandler())
	}
	r, err := http.NewRequest(method, target, nil)
	if err != nil {
		t.Fatal(err)
	}
	if unclean(r.URL.EscapedPath()) {
		return
	}
	_, path := mux.Handler(r)
	if method == "HEAD" {
		method = "GET"
	}
	operation, ok := paths[path][strings.ToLower(method)].(map[string]any)
	if !ok {
		if a.StatusCode < 400 {
			t.Errorf("%s %s answers %d and is not described", method, target, a.StatusCode)
		}
		return
	}
	answer, ok := operation["responses"].(map[string]any)[strconv.Itoa(a.StatusCode)].(map[string]any)
	if !ok {
		t.Errorf("%s %s: the description lacks the answer %d", method, path, a.StatusCode)
		return
	}
	answer = referred(t, answer)
	for name := range member(answer, "headers") {
		if a.Header.Get(name) == "" {
			t.Errorf("%s %s: the answer %d lacks the header %s", method, path, a.StatusCode, name)
		}
	}
	kind, _, _ := strings.Cut(a.Header.Get("Content-Type"), ";")
	content, ok := member(answer, "content")[kind].(map[string]any)
	switch {
	case !ok && (kind != "" || len(body) > 0):
		t.Errorf("%s %s: the answer %d has the type %q, which is not described", method, path, a.StatusCode, kind)
	case !ok || !strings.HasSuffix(kind, "json"):
	default:
		for in := json.NewDecoder(bytes.NewReader(body)); in.More(); { // one, or one a line
			var value any
			if err := in.Decode(&value); err != nil {
				t.Fatalf("%s %s: %v: %s", method, path, err, body)
			}
			for _, wrong := range misfits(t, member(content, "schema"), value, "the body") {
				t.Errorf("%s %s: the answer %d is not as described: %s", method, path, a.StatusCode, wrong)
			}
		}
	}
}

func member(of map[string]any, name string) map[string]any {
	m, _ := of[name].(map[string]any)
	return m
}

// referred is a part of the description, or the one that it refers to.
func referred(t testing.TB, part map[string]any) map[string]any {
	t.Helper()
	ref, ok := part["$ref"].(string)
	if !ok {
		return part
	}
	whole, err := whole()
	if err != nil {
		t.Fatal(err)
	}
	for name := range strings.SplitSeq(strings.TrimPrefix(ref, "#/"), "/") {
		whole = member(whole, name)
	}
	return whole
}

// misfits are what in a value is not as a schema has it. It knows the words that the description uses, and takes no member that is not described.
func misfits(t testing.TB, s map[string]any, value any, where string) (list []string) {
	t.Helper()
	s = referred(t, s)
	if of, ok := s["oneOf"].([]any); ok {
		for _, one := range of {
			some := misfits(t, one.(map[string]any), value, where)
			if len(some) == 0 {
				return nil
			}
			list = append(list, some...)
		}
		return list
	}
	fail := func(text string) { list = append(list, fmt.Sprintf("%s: %v %s", where, value, text)) }
	if values, ok := s["enum"].([]any); ok && !slices.Contains(values, value) {
		fail(fmt.Sprintf("is none of %v", values))
	}
	switch v := value.(type) {
	case string:
		if pattern, ok := s["pattern"].(string); s["type"] != "string" || ok && !regexp.MustCompile(pattern).MatchString(v) {
			fail("is not such a text")
		}
		if _, err := time.Parse(time.RFC3339, v); s["format"] == "date-time" && (err != nil || !strings.HasSuffix(v, "Z")) {
			fail("is no time in UTC")
		}
	case bool:
		if s["type"] != "boolean" {
			fail("is a boolean")
		}
	case float64:
		if s["type"] != "integer" || v != math.Trunc(v) {
			fail("is no integer, or should be none")
		}
	case []any:
		most, bounded := s["maxItems"].(uint64)
		if s["type"] != "array" || bounded && uint64(len(v)) > most {
			fail("is not such a list")
		}
		for i, one := range v {
			list = append(list, misfits(t, member(s, "items"), one, fmt.Sprintf("%s[%d]", where, i))...)
		}
	case map[string]any:
		if s["type"] != "object" {
			fail("is an object")
		}
		required, _ := s["required"].([]any)
		for _, name := range required {
			if _, has := v[name.(string)]; !has {
				fail(fmt.Sprintf("lacks %s", name))
			}
		}
		for name, one := range v {
			of := member(member(s, "properties"), name)
			if of == nil {
				of = member(s, "additionalProperties")
			}
			if of == nil {
				fail("has " + name)
				continue
			}
			list = append(list, misfits(t, of, one, where+"."+name)...)
		}
	default:
		fail("should be left out")
	}
	return list
}

func TestEveryCallIsDescribedAndEveryDescriptionIsACall(t *testing.T) {
	var calls []string
	for path, methods := range (&API{}).routes() {
		for method := range methods {
			calls = append(calls, method+" "+path)
		}
	}
	calls = append(calls, "GET /metrics", "GET /healthz", "GET /readyz", "GET /openapi.yaml")
	var descriptions []string
	names := map[any]string{} // generators name functions by them
	for path, methods := range contract(t).Paths {
		for method, does := range methods {
			if method == "parameters" {
				continue
			}
			call := strings.ToUpper(method) + " " + path
			descriptions = append(descriptions, call)
			name := does.(map[string]any)["operationId"]
			if name == nil || names[name] != "" {
				t.Errorf("%s has the operationId %v, as %q", call, name, names[name])
			}
			names[name] = call
		}
	}
	slices.Sort(calls)
	slices.Sort(descriptions)
	if diff := cmp.Diff(calls, descriptions); diff != "" {
		t.Errorf("(-calls +descriptions):\n%s", diff)
	}
}

func TestEveryFieldOfAnAnswerIsDescribedAndNoOther(t *testing.T) {
	schemas := contract(t).Components.Schemas
	for name, answer := range map[string]any{
		"Device": Device{}, "DevicePage": DevicePage{}, "Mailbox": Mailbox{}, "Location": Location{}, "Decision": Decision{},
		"MailboxPage": MailboxPage{}, "MailboxLine": MailboxLine{}, "Status": Status{}, "StateStore": StateStore{}, "DeviceState": DeviceState{}, "Condition": check.Condition{},
		"Account": Account{}, "ExchangeEntry": ExchangeEntry{}, "Topic": Topic{}, "Credential": Credential{}, "ClientStatus": ClientStatus{}, "SignIn": SignIn{}, "Moved": Moved{}, "Report": check.Report{}, "Step": check.Step{},
		"Problem": Problem{}, "FieldError": FieldError{},
		"DeviceReceipts": DeviceReceipts{}, "SelfCheck": SelfCheck{}, "Webhook": Webhook{}, "ImportLine": ImportLine{}, "ImportEnd": ImportEnd{}, "ExportLine": ExportLine{},
	} {
		var fields, required, properties []string
		for _, f := range reflect.VisibleFields(reflect.TypeOf(answer)) {
			tag := f.Tag.Get("json")
			field, options, _ := strings.Cut(tag, ",")
			if field == "" {
				continue
			}
			fields = append(fields, field)
			if options == "" {
				required = append(required, field)
			}
		}
		for property := range schemas[name].Properties {
			properties = append(properties, property)
		}
		slices.Sort(fields)
		slices.Sort(properties)
		if diff := cmp.Diff(fields, properties); diff != "" {
			t.Errorf("%s (-answer +description):\n%s", name, diff)
		}
		if diff := cmp.Diff(required, schemas[name].Required); diff != "" {
			t.Errorf("%s: what is always there (-answer +description):\n%s", name, diff)
		}
	}
}

// capital is one within a name.
var capital = regexp.MustCompile(`([a-z])([A-Z])`)

func TestEveryFieldOfAnEnrolmentIsDescribedAndNoOther(t *testing.T) {
	s := contract(t).Components.Schemas["Enrolment"]
	var fields, properties []string
	for _, f := range reflect.VisibleFields(reflect.TypeFor[subscriptions.Enrolment]()) {
		if f.Name != "ID" {
			fields = append(fields, strings.ToLower(capital.ReplaceAllString(f.Name, "${1}_$2")))
		}
	}
	for property := range s.Properties {
		properties = append(properties, property)
		_, err := readEnrolment("phone", []byte(`{"`+property+`": 1}`))
		if p, ok := err.(*Problem); !ok || !slices.ContainsFunc(p.Errors, func(e FieldError) bool { return e.Field == property && e.Code == codeWrongType }) {
			t.Errorf("%s is described and not read: %v", property, err)
		}
	}
	slices.Sort(fields)
	slices.Sort(properties)
	if diff := cmp.Diff(fields, properties); diff != "" {
		t.Errorf("(-enrolment +description):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"mailbox", "token"}, s.Required); diff != "" {
		t.Errorf("required:\n%s", diff)
	}
	line := maps.Clone(contract(t).Components.Schemas["EnrolmentLine"].Properties)
	delete(line, "id")
	if diff := cmp.Diff(s.Properties, line); diff != "" {
		t.Errorf("a line of an import (-enrolment +line):\n%s", diff)
	}
}

func TestEveryStateIsDescribed(t *testing.T) {
	var want []string
	for _, s := range subscriptions.States() {
		want = append(want, string(s))
	}
	if diff := cmp.Diff(want, contract(t).Components.Schemas["State"].Enum); diff != "" {
		t.Errorf("(-states +description):\n%s", diff)
	}
}

func TestEveryStepOfATestIsDescribed(t *testing.T) {
	name := contract(t).Components.Schemas["Step"].Properties["name"].(map[string]any)
	var described []string
	for _, step := range name["enum"].([]any) {
		described = append(described, step.(string))
	}
	if diff := cmp.Diff(check.Steps(), described); diff != "" {
		t.Errorf("(-steps +description):\n%s", diff)
	}
}

func TestEveryEventOfAWebhookIsDescribedAndNoOther(t *testing.T) {
	d := contract(t)
	if diff := cmp.Diff(slices.Sorted(slices.Values(append(webhookconfig.Events(), webhookconfig.Check))), slices.Sorted(maps.Keys(d.Webhooks))); diff != "" {
		t.Errorf("(-events +description):\n%s", diff)
	}
	named := func(ref string) schema { return d.Components.Schemas[strings.TrimPrefix(ref, "#/components/schemas/")] }
	for event, w := range d.Webhooks {
		body := w.Post.RequestBody.Content["application/json"]
		whole := named(body.Schema["$ref"])
		if kinds := whole.Properties["type"].(map[string]any)["enum"].([]any); !slices.Contains(kinds, any(event)) {
			t.Errorf("%s is not among the types of its body: %v", event, kinds)
		}
		data := named(whole.Properties["data"].(map[string]any)["$ref"].(string))
		example := body.Example["data"].(map[string]any)
		for _, name := range data.Required {
			if _, has := example[name]; !has {
				t.Errorf("the example of %s lacks %s", event, name)
			}
		}
		for name := range example {
			if data.Properties[name] == nil {
				t.Errorf("the example of %s has %s, which is not described", event, name)
			}
		}
	}
}

func TestEachExampleIsAsItIsDescribed(t *testing.T) {
	d, err := whole()
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, part := range []string{"paths", "webhooks"} {
		for name, methods := range member(d, part) {
			for method := range methods.(map[string]any) {
				for kind, c := range member(member(member(methods.(map[string]any), method), "requestBody"), "content") {
					content := c.(map[string]any)
					text, ok := content["example"].(string) // of lines
					if !ok {
						all, err := json.Marshal(content["example"])
						if err != nil {
							t.Fatal(err)
						}
						text = string(all)
					}
					for in := json.NewDecoder(strings.NewReader(text)); in.More(); seen++ {
						var value any
						if err := in.Decode(&value); err != nil {
							t.Fatalf("%s %s: %v", method, name, err)
						}
						for _, wrong := range misfits(t, member(content, "schema"), value, "the example") {
							t.Errorf("%s %s %s: %s", method, name, kind, wrong)
						}
					}
				}
			}
		}
	}
	if seen == 0 {
		t.Error("no example found: the walk is wrong")
	}
}

// aside is a text without quotes within braces that has a colon in it: the parser of these tests takes it, and others refuse the whole file.
var aside = regexp.MustCompile(`[{,] ?[A-Za-z_$]+: [^'"\[{>|&*,}][^,}]*: `)

func TestADescriptionIsReadByEveryParser(t *testing.T) {
	for i, line := range strings.Split(string(openAPI), "\n") {
		if aside.MatchString(line) {
			t.Errorf("line %d: a text with a colon that has no quotes: %s", i+1, line)
		}
	}
}

func TestTheDescriptionIsWholeAndItsReferencesLeadSomewhere(t *testing.T) {
	var all any
	if err := yaml.Unmarshal(openAPI, &all); err != nil {
		t.Fatal(err)
	}
	used := map[string]bool{}
	var walk func(node any)
	walk = func(node any) {
		switch n := node.(type) {
		case map[string]any:
			for key, value := range n {
				if key == "$ref" {
					used[value.(string)] = true
				}
				if value == nil {
					t.Errorf("nothing stands under %q: a text with a comma that has no quotes?", key)
				}
				walk(value)
			}
		case []any:
			for _, value := range n {
				walk(value)
			}
		}
	}
	walk(all)
	if len(used) == 0 {
		t.Fatal("no reference found: the walk is wrong")
	}
	for ref := range used {
		node := all
		for part := range strings.SplitSeq(strings.TrimPrefix(ref, "#/"), "/") {
			m, _ := node.(map[string]any)
			node = m[part]
		}
		if node == nil {
			t.Errorf("%s leads nowhere", ref)
		}
	}
	for name := range contract(t).Components.Schemas {
		if ref := "#/components/schemas/" + name; !used[ref] {
			t.Errorf("nothing uses %s", ref)
		}
	}
}
