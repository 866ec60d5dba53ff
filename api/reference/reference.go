// Package reference makes the pages about the API that a browser shows without JavaScript: /docs, from openapi.yaml, and /docs/problems, from
// the table of problems. They are made of what the program has in it, so that they are there without the internet and describe this version.
package reference

import (
	"bytes"
	"embed"
	"html/template"
	"net/http"
	"strings"
)

//go:embed pages
var files embed.FS

// policy is the Content-Security-Policy of the pages: our own style, and nothing else.
const policy = "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// Problem is a kind of problem.
type Problem struct {
	Code   string
	Status int
	Title  string
	Do     string // what a client does about it; `…` is code
}

// Field is a kind of what is wrong with a field.
type Field struct {
	Code, Title, Do string
}

// page is what the layout gets.
type page struct {
	Title string
	Body  any
}

// Problems is the page of the table of problems.
func Problems(problems []Problem, fields []Field) http.Handler {
	return ofHTML(execute("problems", page{"Problems", struct {
		Problems []Problem
		Fields   []Field
	}{problems, fields}}))
}

// Style is the style of the pages; its path is /docs/style.css.
func Style() http.Handler {
	data, err := files.ReadFile("pages/style.css")
	if err != nil {
		panic(err) // the file is part of the program
	}
	return document("text/css; charset=utf-8", data)
}

// execute makes a page. What it is made of is part of the program, so an error is a defect that the first start shows.
func execute(name string, p page) []byte {
	t := template.Must(template.New("layout.html").Funcs(template.FuncMap{"text": text}).ParseFS(files, "pages/layout.html", "pages/"+name+".html"))
	var b bytes.Buffer
	if err := t.Execute(&b, p); err != nil {
		panic(err)
	}
	return b.Bytes()
}

// text is a text in which `…` is code, and an empty line ends a paragraph.
func text(s string) template.HTML {
	var b strings.Builder
	s = strings.ReplaceAll(s, "\n\n", "\u2029")
	for i, part := range strings.Split(s, "`") {
		part = strings.ReplaceAll(template.HTMLEscapeString(part), "\u2029", "<br><br>\n")
		if i%2 == 1 {
			part = "<code>" + part + "</code>"
		}
		b.WriteString(part)
	}
	return template.HTML(b.String()) //nolint:gosec // every part is escaped
}

func ofHTML(page []byte) http.Handler { return document("text/html; charset=utf-8", page) }

func document(kind string, data []byte) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Security-Policy", policy)
		w.Header().Set("Content-Type", kind)
		_, _ = w.Write(data)
	})
}
