package main_test

// The alerting rules and the dashboard of docs/monitoring, and the table of metrics in docs/operations.md, against what there is.

import (
	"encoding/json"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const (
	monitoring = "../../docs/monitoring"
	operations = "../../docs/operations.md"
)

var (
	metricNamed = regexp.MustCompile(`\bmailbell_[a-z0-9_]+`)
	metricMade  = regexp.MustCompile(`"(mailbell_[a-z0-9_]+)"`)
)

// metricsOf are the metrics that a file names, without what a histogram adds to its name.
func metricsOf(t *testing.T, file string) (list []string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range metricNamed.FindAllString(string(text), -1) {
		for _, suffix := range []string{"_bucket", "_count", "_sum"} {
			name = strings.TrimSuffix(name, suffix)
		}
		list = append(list, name)
	}
	slices.Sort(list)
	return slices.Compact(list)
}

func TestRulesDashboardAndDocumentNameTheMetricsThatThereAre(t *testing.T) {
	t.Parallel()
	var made []string
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, m := range metricMade.FindAllStringSubmatch(string(text), -1) {
			made = append(made, m[1])
		}
		return err
	})
	if err != nil || len(made) < 20 {
		t.Fatalf("%d metrics, %v", len(made), err)
	}
	for _, file := range []string{monitoring + "/alerts.yaml", monitoring + "/alerts_test.yaml", monitoring + "/grafana.json", operations} {
		for _, name := range metricsOf(t, file) {
			if !slices.Contains(made, name) {
				t.Errorf("%s names %s, which does not exist", file, name)
			}
		}
	}
	explained := metricsOf(t, operations)
	for _, name := range made {
		if !slices.Contains(explained, name) {
			t.Errorf("docs/operations.md does not explain %s", name)
		}
	}
}

func TestTheAlertingRulesAreGoodAndFireWhereTheyShould(t *testing.T) {
	t.Parallel()
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("promtool is not here (Debian: prometheus)")
	}
	for _, args := range [][]string{{"check", "rules", "alerts.yaml"}, {"test", "rules", "alerts_test.yaml"}} {
		cmd := exec.CommandContext(t.Context(), promtool, args...)
		cmd.Dir = monitoring
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	text, err := os.ReadFile(monitoring + "/alerts_test.yaml")
	if err != nil {
		t.Fatal(err)
	}
	rules, err := os.ReadFile(monitoring + "/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`alert: (\S+)`).FindAllStringSubmatch(string(rules), -1) {
		if !strings.Contains(string(text), "alertname: "+m[1]+"\n        exp_alerts:") && m[1] != "MailbellCredentialExpires" {
			t.Errorf("no test has %s fire", m[1])
		}
	}
}

// promtool reads each query of the dashboard as the rule of a file that is made of them.
func TestTheQueriesOfTheDashboardAreQueries(t *testing.T) {
	t.Parallel()
	var board struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	text, err := os.ReadFile(monitoring + "/grafana.json")
	if err == nil {
		err = json.Unmarshal(text, &board)
	}
	if err != nil || len(board.Panels) < 10 {
		t.Fatalf("%d panels, %v", len(board.Panels), err)
	}
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("promtool is not here (Debian: prometheus)")
	}
	var rules strings.Builder
	rules.WriteString("groups:\n  - name: dashboard\n    rules:\n")
	for _, p := range board.Panels {
		for _, target := range p.Targets {
			query, err := json.Marshal(strings.ReplaceAll(target.Expr, "$instance", ".*"))
			if err != nil {
				t.Fatal(err)
			}
			rules.WriteString("      - {record: 'a:b:c', labels: {panel: " + strings.ReplaceAll(p.Title, ",", "") + string(rune('a'+len(query)%26)) + "}, expr: " + string(query) + "}\n")
		}
	}
	file := filepath.Join(t.TempDir(), "rules.yaml")
	if err := os.WriteFile(file, []byte(rules.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), promtool, "check", "rules", "--lint=none", file).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s\n%s", err, out, rules.String())
	}
}
