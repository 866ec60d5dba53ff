package graph

// A JSON batch: up to MaxItems requests in one.

import (
	"encoding/json"
	"net/http"
	"strconv"
)

// batchBody, batchRequest and batchResponse are the parts of a JSON batch.
type batchBody struct {
	Requests []batchRequest `json:"requests"`
}

type batchRequest struct {
	ID      string            `json:"id"`
	Method  string            `json:"method"`
	URL     string            `json:"url"`
	Headers map[string]string `json:"headers,omitempty"`
}

type batchResponse struct {
	ID      string            `json:"id"`
	Status  int               `json:"status"`
	Headers map[string]string `json:"headers"`
	Body    json.RawMessage   `json:"body"`
}

// batchAnswer is the answer to a batch.
type batchAnswer struct {
	Responses []batchResponse `json:"responses"`
}

// find returns the answer to the ith request; nil: there is none.
func (a *batchAnswer) find(i int) *batchResponse {
	id := strconv.Itoa(i)
	for n := range a.Responses {
		if a.Responses[n].ID == id {
			return &a.Responses[n]
		}
	}
	return nil
}

// batch is the operation that makes GET requests together: op says what they are about, urls have no root.
func (c *Client) batch(op operation, urls []string, into *batchAnswer) operation {
	body := batchBody{make([]batchRequest, len(urls))}
	for i, u := range urls {
		body.Requests[i] = batchRequest{ID: strconv.Itoa(i), Method: http.MethodGet, URL: u, Headers: map[string]string{"Prefer": immutable}}
	}
	op.method, op.url, op.body, op.answer, op.repeats = http.MethodPost, c.root+"/$batch", body, into, true
	return op
}
