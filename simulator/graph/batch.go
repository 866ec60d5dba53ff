package graph

// POST /$batch: up to 20 requests in one, each with a status of its own.

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"

	"github.com/mailbell/mailbell/simulator/internal/answer"
)

// Bounds of a batch.
const (
	maxBatch     = 20
	maxBatchBody = 4 << 20
	perMailbox   = 4 // requests of one batch that run at a time against a mailbox
)

type batchRequest struct {
	ID        string            `json:"id"`
	Method    string            `json:"method"`
	URL       string            `json:"url"`
	Headers   map[string]string `json:"headers"`
	Body      json.RawMessage   `json:"body"`
	DependsOn []string          `json:"dependsOn"`
}

type batchResponse struct {
	ID      string            `json:"id"`
	Status  int               `json:"status"`
	Headers map[string]string `json:"headers"`
	Body    any               `json:"body"`
}

func (c *call) batch() {
	c.count(opBatch)
	if c.r.Method != http.MethodPost {
		c.fail(http.StatusMethodNotAllowed, "BadRequest", "Only POST is allowed for $batch.")
		return
	}
	var body struct {
		Requests []batchRequest `json:"requests"`
	}
	if err := json.NewDecoder(http.MaxBytesReader(c.w, c.r.Body, maxBatchBody)).Decode(&body); err != nil {
		c.fail(http.StatusBadRequest, "BadRequest", "Invalid batch payload format.")
		return
	}
	if text := wrongBatch(body.Requests); text != "" {
		c.fail(http.StatusBadRequest, "BadRequest", text)
		return
	}
	answer.JSON(typed{c.w}, http.StatusOK, map[string]any{"responses": c.runBatch(body.Requests)})
}

// wrongBatch says why a batch as a whole is refused.
func wrongBatch(requests []batchRequest) string {
	if len(requests) > maxBatch {
		return fmt.Sprintf("Number of batch request steps exceeds the maximum value of %d.", maxBatch)
	}
	if len(requests) == 0 {
		return "Invalid batch payload format."
	}
	seen := map[string]bool{}
	for _, r := range requests {
		switch {
		case r.ID == "" || r.Method == "" || r.URL == "":
			return "A request of the batch lacks id, method or url."
		case seen[r.ID]:
			return "The request ids of a batch must be unique: '" + r.ID + "'."
		case slices.ContainsFunc(r.DependsOn, func(id string) bool { return !seen[id] }):
			return "The request '" + r.ID + "' depends on a request that is not before it."
		}
		seen[r.ID] = true
	}
	return ""
}

// runBatch runs the requests: each after those that it depends on, and four at a time against a mailbox. The answers come in another
// order than the requests.
func (c *call) runBatch(requests []batchRequest) []batchResponse {
	done := make(map[string]chan struct{}, len(requests))
	places := map[string]chan struct{}{}
	for _, r := range requests {
		done[r.ID] = make(chan struct{})
		if at := mailboxOf(r.URL); places[at] == nil {
			places[at] = make(chan struct{}, perMailbox)
		}
	}
	responses := make([]batchResponse, len(requests))
	status := map[string]*batchResponse{}
	for i, r := range requests {
		status[r.ID] = &responses[i]
	}
	var all sync.WaitGroup
	for i, r := range requests {
		all.Go(func() {
			defer close(done[r.ID])
			for _, id := range r.DependsOn {
				<-done[id]
				if status[id].Status >= http.StatusBadRequest {
					responses[i] = batchResponse{r.ID, http.StatusFailedDependency, map[string]string{"Content-Type": "application/json"},
						errorBody{errorText{Code: "FailedDependency", Message: "The request depends on one that has failed.",
							Inner: innerError{c.s.clock.Now().Format(innerTime), c.requestID, c.clientID}}}}
					return
				}
			}
			place := places[mailboxOf(r.URL)]
			place <- struct{}{}
			defer func() { <-place }()
			responses[i] = c.runOne(r)
		})
	}
	all.Wait()
	slices.Reverse(responses)
	return responses
}

// mailboxOf is the user that a URL is about, or its whole path.
func mailboxOf(text string) string {
	parts := segments(text)
	if len(parts) >= 2 && parts[0] == "users" {
		return strings.ToLower(parts[1])
	}
	return text
}

// runOne runs a request of a batch as if it had come alone, with the batch's token.
func (c *call) runOne(r batchRequest) batchResponse {
	path, query, _ := strings.Cut(r.URL, "?")
	path, err := url.PathUnescape(path)
	if err != nil || strings.Contains(r.URL, "://") {
		return batchResponse{r.ID, http.StatusBadRequest, nil, errorBody{errorText{Code: "BadRequest", Message: "Invalid request url of a batch."}}}
	}
	header := http.Header{}
	for name, value := range r.Headers {
		header.Set(name, value)
	}
	inner := (&http.Request{
		Method: strings.ToUpper(r.Method), URL: &url.URL{Path: version + "/" + strings.TrimPrefix(path, "/"), RawQuery: query},
		Header: header, Body: io.NopCloser(bytes.NewReader(r.Body)), Host: c.r.Host,
	}).WithContext(c.r.Context())
	w := &recorder{header: http.Header{}, status: http.StatusOK}
	one := c.s.newCall(w, inner)
	one.bearer, one.batched = c.bearer, true
	if one.reachable() {
		one.route()
	}
	return w.response(r.ID)
}

// recorder keeps an answer.
type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (w *recorder) Header() http.Header         { return w.header }
func (w *recorder) WriteHeader(status int)      { w.status = status }
func (w *recorder) Write(b []byte) (int, error) { return w.body.Write(b) }

func (w *recorder) response(id string) batchResponse {
	headers := map[string]string{}
	for _, name := range []string{"Cache-Control", "Content-Type", "OData-Version", "Retry-After", "Preference-Applied"} {
		if v := w.header.Get(name); v != "" {
			headers[name] = v
		}
	}
	var body any
	switch {
	case w.body.Len() == 0:
	case strings.HasPrefix(headers["Content-Type"], "application/json") && json.Valid(w.body.Bytes()):
		body = json.RawMessage(bytes.TrimSpace(w.body.Bytes()))
	default: // what is not JSON comes as base64
		body = base64.StdEncoding.EncodeToString(w.body.Bytes())
	}
	return batchResponse{id, w.status, headers, body}
}
