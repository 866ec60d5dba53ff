package graph

import (
	"net/http"
	"testing"
)

// What a message of live mail costs beside the network.
func BenchmarkRead(b *testing.B) {
	c := client(func(r *http.Request, _ string) *http.Response { return reply(r, http.StatusOK, whole) })
	ids := []string{"AAkALg="}
	b.ReportAllocs()
	for b.Loop() {
		if items, _, err := c.Read(b.Context(), mara, ids); err != nil || items[0].Err != nil {
			b.Fatal(items, err)
		}
	}
}
