package service_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
)

// example is a block of docs/api.md for the shell.
type example struct {
	script string
	want   []string // the statuses that stand above it
}

// calls says whether an example makes a call of the API.
func (e example) calls(method, path string) bool {
	how := "GET"
	if m := regexp.MustCompile(`-X ([A-Z]+)`).FindStringSubmatch(e.script); m != nil {
		how = m[1]
	} else if strings.Contains(e.script, " -d ") || strings.Contains(e.script, " --data-binary ") {
		how = "POST"
	}
	pattern := regexp.MustCompile(`\\\{[a-z]+\\\}`).ReplaceAllString(regexp.QuoteMeta(path), `[^/"?]+`)
	return how == method && regexp.MustCompile(`"\$URL`+pattern+`["?]`).MatchString(e.script)
}

// examples reads the blocks of docs/api.md that make a call.
func examples(t *testing.T) (list []example) {
	t.Helper()
	page, err := os.ReadFile("../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, block := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(string(page), -1) {
		script := block[1]
		if strings.HasPrefix(script, "URL=") { // of the reader's service
			continue
		}
		above, _, _ := strings.Cut(script, "\n")
		e := example{script, regexp.MustCompile(`\b[1-5][0-9][0-9]\b`).FindAllString(above, -1)}
		if !strings.HasPrefix(above, "# ") || len(e.want) == 0 || strings.Count(script, "curl ") != 1 {
			t.Errorf("it has not one call, with its status above: %s", script)
		}
		list = append(list, e)
	}
	return list
}

func TestEachCallOfTheAPIHasAnExample(t *testing.T) {
	document, err := os.ReadFile("../api/openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var described struct {
		Paths map[string]map[string]any `yaml:"paths"`
	}
	if err := yaml.Unmarshal(document, &described); err != nil {
		t.Fatal(err)
	}
	list := examples(t)
	for path, methods := range described.Paths {
		for method := range methods {
			if method != "parameters" && !slices.ContainsFunc(list, func(e example) bool { return e.calls(strings.ToUpper(method), path) }) {
				t.Errorf("docs/api.md has no example of %s %s", strings.ToUpper(method), path)
			}
		}
	}
}

func TestTheExamplesOfTheDocumentationWork(t *testing.T) {
	t.Parallel()
	for _, program := range []string{"sh", "curl"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("%s is not installed: `make test` installs it", program)
		}
	}
	inst := install(t, "")
	inst.start()
	folder := t.TempDir()
	// curl says the status on standard error, and an answer that is an error is one.
	if err := os.WriteFile(filepath.Join(folder, ".curlrc"), []byte("silent\nfail-with-body\nmax-time = 120\nwrite-out = \"%{stderr}%{http_code}\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	here := strings.NewReplacer("ann@contoso.com", inst.sim.Mailboxes()[0], "headquarters", inst.config.Exchange[0].Name)
	for _, e := range examples(t) {
		run := exec.CommandContext(t.Context(), "sh", "-u", "-c", here.Replace(e.script))
		run.Dir = folder
		run.Env = append(os.Environ(), "CURL_HOME="+folder, "URL="+inst.url, "TOKEN="+inst.token, "no_proxy=*")
		var stdout, stderr bytes.Buffer
		run.Stdout, run.Stderr = &stdout, &stderr
		err := run.Run()
		code := 0
		if failed, ok := errors.AsType[*exec.ExitError](err); ok {
			code = failed.ExitCode()
		} else if err != nil {
			t.Fatal(err)
		}
		status := stderr.String()
		want := 0
		if status >= "400" {
			want = 22
		}
		if code != want || !slices.Contains(e.want, status) {
			t.Errorf("exit code %d, status %q, want %q:\n%s\n%s", code, status, e.want, e.script, stdout.String())
		}
	}
}
