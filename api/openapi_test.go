package api

import (
	"maps"
	"net/http"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

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

func contract(t testing.TB) description {
	t.Helper()
	d, err := described()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// documented holds an answer to the description: its status is listed for its path and method.
func documented(t testing.TB, method, target string, status int) {
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
		if status < 400 {
			t.Errorf("%s %s answers %d and is not described", method, target, status)
		}
		return
	}
	if responses := operation["responses"].(map[string]any); responses[strconv.Itoa(status)] == nil {
		t.Errorf("%s %s: the description lacks the answer %d", method, path, status)
	}
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
	for path, methods := range contract(t).Paths {
		for method := range methods {
			if method != "parameters" {
				descriptions = append(descriptions, strings.ToUpper(method)+" "+path)
			}
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
