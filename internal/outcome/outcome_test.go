package outcome

import (
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
