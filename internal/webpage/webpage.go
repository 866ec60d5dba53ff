// Package webpage tells a page for people from the answer of a service. A login, a load balancer or a company's web site sends one, with
// status 200, in the place of the server that was asked.
package webpage

import (
	"net/http"
	"strings"
)

// Is says whether an answer with these header fields is a page. It is asked about every answer, so it allocates nothing.
func Is(h http.Header) bool {
	media, _, _ := strings.Cut(h.Get("Content-Type"), ";")
	media = strings.TrimSpace(media)
	return strings.EqualFold(media, "text/html") || strings.EqualFold(media, "application/xhtml+xml")
}
