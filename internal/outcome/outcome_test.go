package outcome

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

func TestEveryReasonStandsOnceWithItsSentence(t *testing.T) {
	seen := map[Reason]bool{}
	for _, row := range Reasons() {
		if seen[row.Reason] || row.Reason == "" {
			t.Errorf("%q stands twice, or is empty", row.Reason)
		}
		seen[row.Reason] = true
		if !strings.HasSuffix(row.Sentence, ".") {
			t.Errorf("%s: %q is no sentence", row.Reason, row.Sentence)
		}
		if row.Reason.Sentence() != row.Sentence || row.Reason.Final() != row.Final || !row.Reason.Known() {
			t.Errorf("%s is not found in the table", row.Reason)
		}
	}
	if r := Reason("what a peer makes up"); r.Known() || r.Final() || r.Sentence() != "" {
		t.Error("a reason that does not stand in the table is known")
	}
}

// The documentation shows every reason, as the program does.
func TestTheDocumentationHasTheTable(t *testing.T) {
	page, err := os.ReadFile("../../docs/why-no-alert.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(page), "<!-- reasons")
	table, _, _ = strings.Cut(table, "<!-- /reasons -->")
	want := "| reason | dealt with | |\n| --- | --- | --- |\n"
	for _, row := range Reasons() {
		dealt := "no"
		if row.Final {
			dealt = "yes"
		}
		want += fmt.Sprintf("| `%s` | %s | %s |\n", row.Reason, dealt, row.Sentence)
	}
	if _, got, _ := strings.Cut(table, "-->\n"); got != want {
		t.Errorf("docs/why-no-alert.md has another table of reasons; this is the program's:\n%s", want)
	}
}
