package api

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// inTable holds a problem to the table.
func inTable(t testing.TB, p *Problem) {
	t.Helper()
	i := slices.IndexFunc(kinds, func(k kind) bool { return k.Code == p.Code })
	if i < 0 || kinds[i].Status != p.Status || kinds[i].Title != p.Title || p.Type != "/docs/problems#"+p.Code {
		t.Errorf("not of the table: %+v", p)
	}
	for _, e := range p.Errors {
		if !slices.ContainsFunc(fieldKinds, func(k fieldKind) bool { return k.Code == e.Code }) {
			t.Errorf("the code of a field is not in the table: %+v", e)
		}
	}
}

func codes() (problems, fields []string) {
	for _, k := range kinds {
		problems = append(problems, k.Code)
	}
	for _, k := range fieldKinds {
		fields = append(fields, k.Code)
	}
	return problems, fields
}

func TestTheDescriptionHasTheCodesOfTheTable(t *testing.T) {
	problems, fields := codes()
	for name, want := range map[string][]string{"Problem": problems, "FieldError": fields} {
		var described []string
		for _, code := range contract(t).Components.Schemas[name].Properties["code"].(map[string]any)["enum"].([]any) {
			described = append(described, code.(string))
		}
		if diff := cmp.Diff(want, described); diff != "" {
			t.Errorf("%s (-table +description):\n%s", name, diff)
		}
	}
}

func TestTheTableIsByStatusAndSaysOfEachCodeOnceWhatToDo(t *testing.T) {
	if !slices.IsSortedFunc(kinds, func(a, b kind) int { return a.Status - b.Status }) {
		t.Error("not by their status")
	}
	problems, fields := codes()
	for _, list := range [][]string{problems, fields} {
		if slices.Sort(list); len(slices.Compact(list)) != len(list) {
			t.Errorf("a code twice: %q", list)
		}
	}
	for _, k := range kinds {
		if http.StatusText(k.Status) == "" || k.Status < 400 || k.Title == "" || strings.HasSuffix(k.Title, ".") || !strings.HasSuffix(k.Do, ".") || strings.Count(k.Do, "`")%2 != 0 {
			t.Errorf("%+v", k)
		}
	}
	for _, k := range fieldKinds {
		if k.Title == "" || strings.HasSuffix(k.Title, ".") || !strings.HasSuffix(k.Do, ".") {
			t.Errorf("%+v", k)
		}
	}
}

// TestEveryCodeInTheProgramIsInTheTable reads the program: no test has to see each code in an answer.
func TestEveryCodeInTheProgramIsInTheTable(t *testing.T) {
	files, err := filepath.Glob("../*/*.go")
	if err != nil {
		t.Fatal(err)
	}
	constants, used, ofFields := map[string]string{}, map[string]bool{}, map[string]bool{}
	var parsed []*ast.File
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		parsed = append(parsed, f)
		ast.Inspect(f, func(n ast.Node) bool {
			if v, ok := n.(*ast.ValueSpec); ok && len(v.Values) == 1 && strings.HasPrefix(v.Names[0].Name, "code") {
				constants[f.Name.Name+"."+v.Names[0].Name] = literal(v.Values[0])
			}
			return true
		})
	}
	code := func(f *ast.File, e ast.Expr) string {
		if name, ok := e.(*ast.Ident); ok {
			return constants[f.Name.Name+"."+name.Name]
		}
		return literal(e)
	}
	for _, f := range parsed {
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.CallExpr:
				switch called := fmt.Sprint(n.Fun); {
				case called == "newProblem":
					used[code(f, n.Args[0])] = true
				case f.Name.Name == "api" && called == "&{f fail}": // of a form
					ofFields[code(f, n.Args[1])] = true
				}
			case *ast.CompositeLit:
				if !strings.Contains(fmt.Sprint(n.Type), "FieldError") || len(n.Elts) != 3 {
					return true
				}
				e := n.Elts[1]
				if named, ok := e.(*ast.KeyValueExpr); ok {
					e = named.Value
				}
				ofFields[code(f, e)] = true
			}
			return true
		})
	}
	delete(ofFields, "") // handed on
	problems, fields := codes()
	for what, c := range map[string]struct {
		table []string
		used  map[string]bool
	}{"problems": {problems, used}, "fields": {fields, ofFields}} {
		if len(c.used) < 5 {
			t.Fatalf("%s: only %d found: the search is wrong", what, len(c.used))
		}
		for _, one := range c.table {
			if !c.used[one] {
				t.Errorf("%s: nothing answers with %s", what, one)
			}
			delete(c.used, one)
		}
		if len(c.used) > 0 {
			t.Errorf("%s: not in the table: %v", what, c.used)
		}
	}
}

func literal(e ast.Expr) string {
	l, ok := e.(*ast.BasicLit)
	if !ok {
		return ""
	}
	s, err := strconv.Unquote(l.Value)
	if err != nil {
		return ""
	}
	return s
}

func TestThePagesAboutTheAPINeedNoTokenAndNothingFromElsewhere(t *testing.T) {
	for name, h := range map[string]http.Handler{"holds the state": newBackend(t).handler, "standby": Standby("standby")} {
		for target, want := range map[string]string{
			"/docs": "200 text/html; charset=utf-8", "/docs/problems": "200 text/html; charset=utf-8", "/docs/style.css": "200 text/css; charset=utf-8",
		} {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, target, nil))
			if got := fmt.Sprint(w.Code, " ", w.Header().Get("Content-Type")); got != want {
				t.Errorf("%s: %s: %s", name, target, got)
			}
			if got := w.Header().Get("Content-Security-Policy"); got != "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'" {
				t.Errorf("%s: %s: Content-Security-Policy: %s", name, target, got)
			}
		}
	}
	d := newBackend(t)
	for _, target := range []string{"/docs/", "/docs/nothing", "/docs/pages/style.css", "/docs/..%2fapi.go", "/docs/../api.go", "/docs//style.css", "/docs/%2e%2e/openapi.yaml", "/docs/style.css/"} {
		is(t, d.ask(t, "", "GET", target, ""), 404, "")
	}
	is(t, d.ask(t, "", "POST", "/docs", ""), 405, "")
}

func TestThePageAndTheDocumentHaveTheTable(t *testing.T) {
	var md strings.Builder
	for _, k := range kinds {
		fmt.Fprintf(&md, "### %s\n\n**%d** %s. %s\n\n", k.Code, k.Status, k.Title, k.Do)
	}
	md.WriteString("## Codes of fields\n\nA problem with the code `wrong_fields` has `errors`: each names a `field`, and one of these codes.\n\n| code | what is wrong | what to do |\n| --- | --- | --- |\n")
	for _, k := range fieldKinds {
		fmt.Fprintf(&md, "| `%s` | %s. | %s |\n", k.Code, k.Title, k.Do)
	}
	data, err := fs.ReadFile(os.DirFS("../docs"), "problems.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(data), "## Codes of problems\n\n")
	if diff := cmp.Diff(md.String(), table); diff != "" {
		t.Errorf("docs/problems.md (-table +document):\n%s\nwant:\n%s", diff, md.String())
	}
	handlers := map[string]http.Handler{"holds the state": newBackend(t).handler, "standby": Standby("standby")}
	for name, h := range handlers {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, problemsPath, nil))
		for _, k := range kinds {
			if !strings.Contains(w.Body.String(), `id="`+k.Code+`"`) {
				t.Errorf("%s: the page has no anchor for %s", name, k.Code)
			}
		}
		if got := w.Header().Get("Content-Security-Policy"); !strings.HasPrefix(got, "default-src 'none'; style-src 'self';") {
			t.Errorf("%s: Content-Security-Policy: %s", name, got)
		}
	}
}
