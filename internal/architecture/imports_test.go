// Package architecture holds the import table: which room of the house may import which other. A room is a folder at the top
// of the module, with all packages in it.
package architecture

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/mailbell/mailbell"

// all stands for every room.
const all = "*"

// mayImport is the table. Every room may import itself, the standard library, other modules, and, but for the simulator,
// internal/…. A room is in it from the day it exists.
var mayImport = map[string][]string{
	"cmd":           {all},
	"service":       {"admin", "alerts", "api", "auth", "autodiscover", "canary", "check", "config", "ews", "graph", "inbox", "listener", "mail", "proxy", "push", "receipts", "simulator", "subscriptions", "webhooks"},
	"config":        {},
	"mail":          {},
	"proxy":         {},
	"auth":          {"proxy"},
	"autodiscover":  {"auth", "mail", "proxy"},
	"ews":           {"auth", "mail", "proxy"},
	"graph":         {"auth", "mail", "proxy"},
	"listener":      {"autodiscover", "ews", "graph", "inbox", "mail", "subscriptions"},
	"inbox":         {"alerts", "mail", "subscriptions"},
	"subscriptions": {"mail"},
	"alerts":        {"mail"},
	"push":          {"proxy", "subscriptions"},
	"webhooks":      {"proxy"},
	"canary":        {"mail", "subscriptions"},
	"receipts":      {"mail", "subscriptions"},
	"api":           {"check", "mail", "receipts", "subscriptions"},
	"admin":         {"api", "check", "mail", "receipts", "subscriptions"},
	"check":         {"alerts", "auth", "autodiscover", "ews", "graph", "mail", "proxy", "push", "subscriptions"},
	"simulator":     {}, // it has wire code of its own, so that one mistake cannot hide on both sides
	"internal":      {},
}

// The tests of a room may run against the simulator too, but for these: they have nothing to say to it.
var withoutSimulator = []string{"config", "mail", "internal"}

// room returns the room of a package of this module; empty for any other package.
func room(path string) string {
	inside, ok := strings.CutPrefix(path, module+"/")
	if !ok {
		return ""
	}
	name, _, _ := strings.Cut(inside, "/")
	return name
}

// allowed says whether a package may import another; test: from its tests.
func allowed(from, to string, test bool) bool {
	importer, imported := room(from), room(to)
	rooms := mayImport[importer]
	switch {
	case imported == "" || imported == importer:
		return true
	case imported == "internal":
		return importer != "simulator"
	case imported == "simulator" && test:
		return !slices.Contains(withoutSimulator, importer)
	}
	return slices.Contains(rooms, all) || slices.Contains(rooms, imported)
}

func TestEveryRoomImportsOnlyWhatTheTableAllows(t *testing.T) {
	seen := map[string]bool{}
	for _, f := range files(t) {
		from := room(f.pkg)
		if _, ok := mayImport[from]; !ok {
			t.Errorf("%s is in a room that the table has not", f.name)
		}
		seen[from] = true
		for _, to := range f.imports {
			if !allowed(f.pkg, to, f.test) {
				t.Errorf("%s imports %s, which the table does not allow", f.name, to)
			}
		}
	}
	for name, rooms := range mayImport {
		if !seen[name] {
			t.Errorf("the room %s of the table does not exist", name)
		}
		for _, other := range rooms {
			if _, ok := mayImport[other]; !ok && other != all {
				t.Errorf("%s may import %s, which the table has not", name, other)
			}
		}
	}
}

func TestTheTableIsAppliedToTestsAndSubpackages(t *testing.T) {
	for _, c := range []struct {
		from, to string
		test     bool
		want     bool
	}{
		{"cmd/mailbell", "simulator", false, true},
		{"service", "cmd/mailbell", false, false},
		{"push", "subscriptions", false, true},
		{"push", "mail", false, false},
		{"inbox", "ews", false, false},
		{"listener/streaming", "inbox", false, true},
		{"alerts", "push", false, false},
		{"alerts", "push", true, false},
		{"subscriptions/storetest", "subscriptions", false, true},
		{"subscriptions/storetest", "ews", false, false},
		{"listener", "subscriptions/storetest", true, true},
		{"listener", "simulator", false, false},
		{"listener", "simulator", true, true},
		{"mail", "simulator", true, false},
		{"simulator", "ews", false, false},
		{"simulator", "push", true, false},
		{"simulator", "internal/fault", false, false},
		{"ews", "internal/fault", false, true},
		{"internal/fault", "mail", false, false},
	} {
		if got := allowed(module+"/"+c.from, module+"/"+c.to, c.test); got != c.want {
			t.Errorf("%s imports %s (in a test: %v): allowed is %v", c.from, c.to, c.test, got)
		}
	}
	if !allowed(module+"/mail", "golang.org/x/net/idna", false) || !allowed(module+"/mail", "time", false) {
		t.Error("the table is about this module only")
	}
}

// file is a Go file of the module.
type file struct {
	name    string // with its folder, from the root of the module
	pkg     string // the import path of its package
	test    bool
	imports []string
}

// files reads the imports of every Go file, whatever its build constraints are.
func files(t *testing.T) (list []file) {
	t.Helper()
	root := os.DirFS(filepath.Join("..", ".."))
	err := fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && name != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata"):
			return fs.SkipDir
		case d.IsDir() || path.Ext(name) != ".go":
			return nil
		}
		source, err := fs.ReadFile(root, name)
		if err != nil {
			return err
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), name, source, parser.ImportsOnly)
		if err != nil {
			return err
		}
		f := file{name: name, pkg: path.Join(module, path.Dir(name)), test: strings.HasSuffix(name, "_test.go")}
		for _, i := range parsed.Imports {
			to, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				return err
			}
			f.imports = append(f.imports, to)
		}
		list = append(list, f)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}
