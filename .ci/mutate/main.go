// Mutate holds the tests of a room: go-gremlins changes one operator after the other in the lines that they cover, and the tests
// of the package have to fail each time. What lives all the same is named in live/ROOM, with a sentence why that is right; a
// mutant that lives and is not named there, and a share of killed ones below minKilled, is an error. A room is one package: what is
// in a folder of it is another (listener/streaming, whose list is live/listener-streaming).
//
//	go run . ROOM [FILE…]
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

const (
	// minKilled is the share of the mutants in covered lines that the tests have to kill, in percent.
	minKilled = 85
	// workers at once: the tests of a room are to meet their bounds of time beside another build.
	workers = 2
	// coefficient bounds the run of a mutant by a multiple of the first run (shim/go), which takes 10 s at least.
	coefficient = 4
)

// more are the mutations that gremlins leaves out by itself.
var more = []string{
	"--invert-logical", "--invert-loopctrl", "--invert-bitwise", "--invert-assignments", "--invert-bwassign", "--remove-self-assignments",
}

func main() {
	if len(os.Args) == 3 && os.Args[1] == "complete" { // shim/go calls it
		if err := complete(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: make mutate ROOM=subscriptions [FILES='book.go lease.go']")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// run mutates a room, or only some of its files.
func run(room string, only []string) error {
	here, err := os.Getwd()
	if err != nil {
		return err
	}
	list, err := read(filepath.Join(here, "live", strings.ReplaceAll(room, "/", "-")))
	if err != nil {
		return err
	}
	if len(only) > 0 {
		list.only = only
	}
	dir, err := os.MkdirTemp("", "mutate-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	module := filepath.Join(dir, "module")
	if err := snapshot(filepath.Dir(filepath.Dir(here)), module); err != nil {
		return fmt.Errorf("copying the module: %w", err)
	}
	sources, err := parse(filepath.Join(module, room))
	if err != nil {
		return err
	}
	files, err := results(here, dir, module, room, others(sources, list.only))
	if err != nil {
		return err
	}
	return list.judge(sources, files)
}

// snapshot copies what belongs to the module: gremlins reads a file when its turn has come, and somebody may work on it meanwhile.
func snapshot(root, to string) error {
	listing := exec.Command("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	listing.Dir = root
	names, err := listing.Output()
	if err != nil {
		return err
	}
	for name := range strings.SplitSeq(strings.Trim(string(names), "\x00"), "\x00") {
		data, err := os.ReadFile(filepath.Join(root, name))
		if errors.Is(err, os.ErrNotExist) {
			continue // removed, and not yet in a commit
		}
		copied := filepath.Join(to, name)
		if err = errors.Join(err, os.MkdirAll(filepath.Dir(copied), 0o755)); err != nil {
			return err
		}
		if err := os.WriteFile(copied, data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// list is a file live/ROOM: lines that are not indented name a mutant, those below say why it lives; "only:" names the files that
// are a sample of a room which would take too long.
type list struct {
	room string
	only []string
	why  map[string]string // by what source.mutant calls it
}

func read(file string) (*list, error) {
	l := &list{room: filepath.Base(file), why: map[string]string{}}
	data, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return l, nil
	}
	name := ""
	for line := range strings.Lines(string(data)) {
		text := strings.TrimSpace(line)
		switch only, found := strings.CutPrefix(text, "only:"); {
		case text == "" || strings.HasPrefix(line, "#"):
		case found:
			l.only = strings.Fields(only)
		case line[0] == '\t' || line[0] == ' ':
			l.why[name] = strings.TrimSpace(l.why[name] + " " + text)
		default:
			name = text
			l.why[name] = ""
		}
	}
	return l, err
}

// file is what gremlins says of one.
type file struct {
	Name      string `json:"file_name"`
	Mutations []struct {
		Type   string `json:"type"`
		Status string `json:"status"`
		Line   int    `json:"line"`
		Column int    `json:"column"`
	} `json:"mutations"`
}

// results runs gremlins in a room, but for some of its files. What it needs beside them goes into dir.
func results(here, dir, module, room string, without []string) ([]file, error) {
	gremlins := filepath.Join(dir, "gremlins")
	if err := command(here, "go", "build", "-o", gremlins, "github.com/go-gremlins/gremlins/cmd/gremlins").Run(); err != nil {
		return nil, fmt.Errorf("building gremlins: %w", err)
	}
	goes, err := exec.LookPath("go")
	if err != nil {
		return nil, err
	}
	answer := filepath.Join(dir, "answer.json")
	args := []string{"unleash", "--output", answer, fmt.Sprint("--workers=", workers), fmt.Sprint("--timeout-coefficient=", coefficient)}
	args = append(args, more...)
	args = append(args, "--exclude-files", "/") // the packages in it
	for _, name := range without {
		args = append(args, "--exclude-files", "^"+regexp.QuoteMeta(name)+"$")
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	run := command(module, gremlins, append(args, "./"+room)...)
	path := filepath.Join(here, "shim") + string(filepath.ListSeparator) + os.Getenv("PATH")
	run.Env = append(os.Environ(), "REAL_GO="+goes, "MUTATE="+self, "PATH="+path)
	if err := run.Run(); err != nil {
		return nil, fmt.Errorf("gremlins: %w", err)
	}
	data, err := os.ReadFile(answer)
	if err != nil {
		return nil, fmt.Errorf("the answer of gremlins: %w", err)
	}
	var said struct{ Files []file }
	return said.Files, json.Unmarshal(data, &said)
}

func command(dir, name string, args ...string) *exec.Cmd {
	c := exec.Command(name, args...)
	c.Dir, c.Stdout, c.Stderr = dir, os.Stdout, os.Stderr
	return c
}

// others are the files of a room that are not in its sample; none where it has no sample.
func others(sources map[string]*source, sample []string) (names []string) {
	for name := range sources {
		if len(sample) > 0 && !slices.Contains(sample, name) {
			names = append(names, name)
		}
	}
	return names
}

// judge compares what lives with the list.
func (l *list) judge(sources map[string]*source, files []file) error {
	count := map[string]int{}
	seen := map[string]string{} // the status of each mutant: gremlins makes some of them twice, under two names
	for _, f := range files {
		for _, m := range f.Mutations {
			text, err := sources[f.Name].mutant(m.Type, m.Line, m.Column)
			if err != nil {
				return err
			}
			at := fmt.Sprintf("%s:%d:%d %s", f.Name, m.Line, m.Column, text)
			if _, again := seen[at]; again {
				continue
			}
			seen[at] = m.Status
			count[m.Status]++
		}
	}
	return l.report(count, seen)
}

func (l *list) report(count map[string]int, seen map[string]string) error {
	unlisted := 0
	here := map[string]bool{}
	for _, at := range slices.Sorted(maps.Keys(seen)) {
		_, text, _ := strings.Cut(at, " ")
		here[text] = true
		why, listed := l.why[text]
		switch status := seen[at]; {
		case status == "LIVED" && why == "":
			unlisted++
			place, _, _ := strings.Cut(at, " ")
			fmt.Printf("lives, and is not listed (%s):\n%s\n", place, text)
		case listed && status != "LIVED":
			fmt.Printf("listed, and does not live this time (%s):\n%s\n", strings.ToLower(status), text)
		}
	}
	gone := 0
	for text := range l.why {
		name, _, _ := strings.Cut(text, " ")
		if !here[text] && (len(l.only) == 0 || slices.Contains(l.only, name)) {
			gone++
			fmt.Printf("listed, and there is no such mutant any more:\n%s\n", text)
		}
	}
	killed, lived := count["KILLED"], count["LIVED"]
	share := 100 * float64(killed) / float64(max(killed+lived, 1))
	fmt.Printf("%s: of the mutants in covered lines %d are killed and %d live: %.1f %%. Not counted: %d ran out of time, %d do not compile, "+
		"%d in lines that no test covers.\n", l.room, killed, lived, share, count["TIMED OUT"], count["NOT VIABLE"], count["NOT COVERED"])
	switch {
	case unlisted > 0 || gone > 0:
		return fmt.Errorf("%d mutants live that .ci/mutate/live/%s does not list, and %d are listed that are gone", unlisted, l.room, gone)
	case share < minKilled:
		return fmt.Errorf("%.1f %% of the mutants are killed; %d %% have to be", share, minKilled)
	}
	return nil
}

// source is a file to find mutants in.
type source struct {
	name  string
	lines []string
	set   *token.FileSet
	tree  *ast.File
}

// parse reads the files of a room, by their names in it.
func parse(room string) (map[string]*source, error) {
	names, err := filepath.Glob(filepath.Join(room, "*.go"))
	if err != nil {
		return nil, err
	}
	sources := map[string]*source{}
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		data, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		s := &source{name: filepath.Base(name), lines: strings.Split(string(data), "\n"), set: token.NewFileSet()}
		if s.tree, err = parser.ParseFile(s.set, s.name, data, parser.SkipObjectResolution); err != nil {
			return nil, err
		}
		sources[s.name] = s
	}
	return sources, nil
}

// mutations are those of gremlins: what stands in the place of a token.
var mutations = map[string]map[string]string{
	"ARITHMETIC_BASE":       {"+": "-", "-": "+", "*": "/", "/": "*", "%": "*"},
	"CONDITIONALS_BOUNDARY": {">=": ">", "<=": "<", ">": ">=", "<": "<="},
	"CONDITIONALS_NEGATION": {"==": "!=", "!=": "==", ">=": "<", "<=": ">", ">": "<=", "<": ">="},
	"INCREMENT_DECREMENT":   {"++": "--", "--": "++"},
	"INVERT_ASSIGNMENTS":    {"+=": "-=", "-=": "+=", "*=": "/=", "/=": "*=", "%=": "*="},
	"INVERT_BITWISE":        {"&": "|", "|": "&", "^": "&", "&^": "&", "<<": ">>", ">>": "<<"},
	"INVERT_BWASSIGN":       {"&=": "|=", "|=": "&=", "^=": "&=", "&^=": "&=", "<<=": ">>=", ">>=": "<<="},
	"INVERT_LOGICAL":        {"&&": "||", "||": "&&"},
	"INVERT_LOOPCTRL":       {"break": "continue", "continue": "break"},
	"INVERT_NEGATIVES":      {"-": "+"},
	"REMOVE_SELF_ASSIGNMENTS": {"+=": "=", "&=": "=", "&^=": "=", "*=": "=", "|=": "=", "/=": "=", "%=": "=", "<<=": "=", ">>=": "=",
		"-=": "=", "^=": "="},
}

// mutant names one by its file, its function and its line as it is mutated: that stays when other lines move.
func (s *source) mutant(kind string, line, column int) (string, error) {
	text := s.lines[line-1]
	before, rest := text[:column-1], text[column-1:]
	was := ""
	for token := range mutations[kind] {
		if strings.HasPrefix(rest, token) && len(token) > len(was) {
			was = token
		}
	}
	if was == "" {
		return "", fmt.Errorf("%s:%d:%d: no token of %s", s.name, line, column, kind)
	}
	return fmt.Sprintf("%s %s: %s", s.name, s.function(line), strings.TrimSpace(before+mutations[kind][was]+rest[len(was):])), nil
}

func (s *source) function(line int) string {
	for _, d := range s.tree.Decls {
		f, ok := d.(*ast.FuncDecl)
		if ok && s.set.Position(f.Pos()).Line <= line && line <= s.set.Position(f.End()).Line {
			return f.Name.Name
		}
	}
	return "-"
}
