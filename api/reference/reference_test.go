package reference

import (
	"fmt"
	"io"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"golang.org/x/net/html"
)

// parsed is a page: its words, the anchors that it has, and the links within it.
type parsed struct {
	text    string
	anchors map[string]bool
	links   []string
}

// parse reads a page, and holds it to what is promised of all of them.
func parse(t *testing.T, page string) parsed {
	t.Helper()
	p := parsed{anchors: map[string]bool{}}
	var text strings.Builder
	var open []string
	z := html.NewTokenizer(strings.NewReader(page))
	for {
		kind := z.Next()
		token := z.Token()
		switch kind {
		case html.ErrorToken:
			if z.Err() != io.EOF || len(open) > 0 {
				t.Fatalf("%v, open are %q", z.Err(), open)
			}
			p.text = text.String()
			return p
		case html.TextToken:
			text.WriteString(token.Data)
		case html.StartTagToken:
			for _, a := range token.Attr {
				switch {
				case a.Key == "id" && p.anchors[a.Val]:
					t.Errorf("the id %s stands twice", a.Val)
				case a.Key == "id":
					p.anchors[a.Val] = true
				case a.Key == "href" && strings.HasPrefix(a.Val, "#"):
					p.links = append(p.links, a.Val[1:])
				case (a.Key == "href" || a.Key == "src") && !strings.HasPrefix(a.Val, "/"):
					t.Errorf("it leads elsewhere: %s", a.Val)
				case strings.HasPrefix(a.Key, "on"), a.Key == "style":
					t.Errorf("there is a %s", a.Key)
				}
			}
			switch token.Data {
			case "script", "style", "iframe", "form":
				t.Errorf("there is a <%s>", token.Data)
			case "meta", "link", "br":
			default:
				open = append(open, token.Data)
			}
		case html.EndTagToken:
			if len(open) == 0 || open[len(open)-1] != token.Data {
				t.Fatalf("</%s> ends %q", token.Data, open)
			}
			open = open[:len(open)-1]
		}
	}
}

func TestThePageSaysAllThatTheDescriptionSays(t *testing.T) {
	document, err := os.ReadFile("../openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	Calls(document).ServeHTTP(w, nil)
	p := parse(t, w.Body.String())
	for _, link := range p.links {
		if !p.anchors[link] {
			t.Errorf("#%s leads nowhere", link)
		}
	}
	flat := func(s string) string { return strings.Join(strings.Fields(strings.ReplaceAll(s, "`", "")), " ") }
	page := flat(p.text)
	var all any
	if err := yaml.Unmarshal(document, &all); err != nil {
		t.Fatal(err)
	}
	root := all.(map[string]any)
	checked := 0
	says := func(what, text string) {
		checked++
		if !strings.Contains(page, flat(text)) {
			t.Errorf("%s is not on the page: %q", what, text)
		}
	}
	// walk visits every text of the description, wherever it is.
	var walk func(at string, n any)
	walk = func(at string, n any) {
		switch n := n.(type) {
		case map[string]any:
			for key, value := range n {
				text, isText := value.(string)
				switch {
				case isText && (key == "summary" || key == "description" || key == "pattern"):
					says(at+"/"+key, text)
				case key == "properties":
					for name := range value.(map[string]any) {
						says(at, name+" ")
					}
				case key == "enum":
					for _, v := range value.([]any) {
						says(at, fmt.Sprint(v))
					}
				}
				walk(at+"/"+key, value)
			}
		case []any:
			for i, value := range n {
				walk(fmt.Sprint(at, "/", i), value)
			}
		}
	}
	walk("", map[string]any{"info": root["info"], "paths": root["paths"], "webhooks": root["webhooks"], "components": root["components"]})
	for path, operations := range root["paths"].(map[string]any) {
		for method, operation := range operations.(map[string]any) {
			if method == "parameters" {
				continue
			}
			says("a call", strings.ToUpper(method)+" "+path)
			if anchor := (call{Method: method, Path: path}).Anchor(); !p.anchors[anchor] {
				t.Errorf("%s %s has no anchor", method, path)
			}
			for status := range operation.(map[string]any)["responses"].(map[string]any) {
				says(method+" "+path, status)
			}
		}
	}
	for event := range root["webhooks"].(map[string]any) {
		says("an event", "Webhook "+event)
		if anchor := (call{Method: "post", Path: event}).Anchor(); !p.anchors[anchor] {
			t.Errorf("%s has no anchor", event)
		}
	}
	for name := range root["components"].(map[string]any)["schemas"].(map[string]any) {
		if !p.anchors["schema-"+name] {
			t.Errorf("the schema %s is not on the page", name)
		}
	}
	if checked < 300 {
		t.Errorf("only %d texts were compared: the walk is wrong", checked)
	}
}

func TestThePageOfProblemsIsWellFormedAndShowsWhatItIsGivenAsText(t *testing.T) {
	w := httptest.NewRecorder()
	Problems([]Problem{{"a_code", 404, "<b>Title", "Do `<i>this</i>`, & that."}}, []Field{{"a_field", "<b>", "`x"}}).ServeHTTP(w, nil)
	p := parse(t, w.Body.String())
	if !p.anchors["a_code"] || !p.anchors["field-a_field"] || !strings.Contains(p.text, "<b>Title. Do <i>this</i>, & that.") {
		t.Error(p.text)
	}
	if got := w.Header().Get("Content-Security-Policy"); got != policy || strings.Contains(policy, "unsafe") {
		t.Error(got)
	}
}
