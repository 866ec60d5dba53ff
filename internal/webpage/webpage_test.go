package webpage

import (
	"net/http"
	"testing"
)

func TestAPageIsToldFromAnAnswer(t *testing.T) {
	for kind, want := range map[string]bool{
		"text/html": true, "text/html; charset=utf-8": true, "Text/HTML ;charset=x": true, "application/xhtml+xml": true,
		"": false, "text/xml; charset=utf-8": false, "application/json": false, "text/html5": false, "multipart/mixed; boundary=text/html": false,
	} {
		h := http.Header{"Content-Type": {kind}}
		if got := Is(h); got != want {
			t.Errorf("%q: %t", kind, got)
		}
		if n := testing.AllocsPerRun(10, func() { Is(h) }); n != 0 {
			t.Errorf("%q takes %v allocations", kind, n)
		}
	}
}
