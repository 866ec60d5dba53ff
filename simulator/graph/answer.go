package graph

// Answers and errors of Graph. The texts are those of the real service, as its documentation and public captures have them.

import (
	"net/http"
	"strings"

	"github.com/mailbell/mailbell/simulator/internal/answer"
	"github.com/mailbell/mailbell/simulator/internal/guid"
)

// errorBody is the body of an answer that refuses.
type errorBody struct {
	Error errorText `json:"error"`
}

type errorText struct {
	Code    string     `json:"code"`
	Message string     `json:"message"`
	Inner   innerError `json:"innerError"`
}

type innerError struct {
	Date            string `json:"date"`
	RequestID       string `json:"request-id"`
	ClientRequestID string `json:"client-request-id"`
}

// newCall begins the answer to a request.
func (s *Server) newCall(w http.ResponseWriter, r *http.Request) *call {
	c := &call{s: s, w: w, r: r, requestID: guid.New().String()}
	c.clientID = strings.ToLower(r.Header.Get("client-request-id"))
	if !guid.Valid(c.clientID) {
		c.clientID = c.requestID
	}
	for _, prefer := range r.Header.Values("Prefer") {
		for p := range strings.SplitSeq(prefer, ",") {
			name, value, _ := strings.Cut(strings.TrimSpace(p), "=")
			if strings.EqualFold(name, "IdType") && strings.EqualFold(strings.Trim(value, `"`), "ImmutableId") {
				c.immutable = true
				w.Header().Add("Preference-Applied", `IdType="ImmutableId"`)
			}
		}
	}
	h := w.Header()
	h.Set("Date", s.clock.HTTPDate())
	h.Set("Cache-Control", "private")
	h.Set("request-id", c.requestID)
	h.Set("client-request-id", c.clientID)
	h.Set("x-ms-ags-diagnostic", `{"ServerInfo":{"DataCenter":"Germany West Central","Slice":"E","Ring":"4","ScaleUnit":"002","RoleInstance":"FR3PEPF00000481"}}`)
	return c
}

// innerTime is the form of a date in an error.
const innerTime = "2006-01-02T15:04:05"

// fail answers an error.
func (c *call) fail(status int, code, message string) {
	answer.JSON(c.w, status, errorBody{errorText{code, message, innerError{c.s.clock.Now().Format(innerTime), c.requestID, c.clientID}}})
}

// ok answers an object, with the context that says what it is.
func (c *call) ok(status int, context string, v map[string]any) {
	v["@odata.context"] = c.s.base() + version + "/$metadata#" + context
	c.w.Header().Set("OData-Version", "4.0")
	c.w.Header().Set("Content-Type", contentType)
	answer.JSON(typed{c.w}, status, v)
}

const contentType = "application/json;odata.metadata=minimal;odata.streaming=true;IEEE754Compatible=false;charset=utf-8"

// typed leaves the content type as Graph writes it.
type typed struct{ http.ResponseWriter }

func (t typed) WriteHeader(status int) {
	t.Header().Set("Content-Type", contentType)
	t.ResponseWriter.WriteHeader(status)
}

// base is the URL of Graph.
func (s *Server) base() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.url
}

// A mailbox that is not at Online, or not there at all.
const (
	codeElsewhere = "MailboxNotEnabledForRESTAPI"
	textElsewhere = "The mailbox is either inactive, soft-deleted, or is hosted on-premise."
	textDenied    = "Access is denied. Check credentials and try again."
)
