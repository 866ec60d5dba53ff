package marks

import (
	"testing"
	"time"
)

func TestAnAllowanceIsFullAtFirstAndFillsAgainUpToThat(t *testing.T) {
	now := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	var a Allowance
	if got := a.Take(Most+10, now); got != Most {
		t.Errorf("%d marks at first", got)
	}
	if got := a.Take(1, now); got != 0 {
		t.Errorf("%d marks beyond the most", got)
	}
	if got := a.Take(10, now.Add(3*time.Second)); got != 3*ASecond {
		t.Errorf("%d marks after three seconds", got)
	}
	if got := a.Take(2*Most, now.Add(24*time.Hour)); got != Most {
		t.Errorf("%d marks after a day", got)
	}
	if got := a.Take(1, now); got != 0 {
		t.Errorf("%d marks on a clock that went back", got)
	}
}
