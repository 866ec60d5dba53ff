package graph

// The handshake: before a subscription is made, its URLs have to echo a text.

import (
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/mailbell/mailbell/simulator/internal/guid"
)

// answerTime is how long an endpoint may take, in the handshake and for a notification.
const answerTime = 10 * time.Second

// Forms of the blanks of a token in a URL: both are right, and an endpoint has to take both.
const (
	plusForBlank    = true
	percentForBlank = false
)

// validate holds the handshake with the URLs of a subscription; it answers and returns false if one fails.
func (c *call) validate(sub *subscription) bool {
	if !c.handshake(sub.url, plusForBlank) {
		return false
	}
	return sub.lifecycle == "" || c.handshake(sub.lifecycle, percentForBlank)
}

func (c *call) handshake(at string, plus bool) bool {
	token := "Validation: Testing client application reachability for subscription Request-Id: " + guid.New().String()
	escaped := url.QueryEscape(token)
	if !plus {
		escaped = strings.ReplaceAll(escaped, "+", "%20")
	}
	separator := "?"
	if strings.Contains(at, "?") {
		separator = "&"
	}
	text := c.s.shakeHands(at+separator+"validationToken="+escaped, token)
	if text != "" {
		c.fail(http.StatusBadRequest, "ValidationError", "Subscription validation request "+text)
	}
	return text == ""
}

// shakeHands posts the token, and says what is wrong with the answer.
func (s *Server) shakeHands(at, token string) string {
	if _, ok := s.faults.Hit(unreachable, "", ""); ok {
		return "timed out."
	}
	req, err := http.NewRequestWithContext(s.ctx, http.MethodPost, at, http.NoBody)
	if err != nil {
		return "failed. The URL is invalid."
	}
	req.Header.Set("Content-Type", "text/plain; charset=utf-8")
	resp, err := s.client.Do(req)
	if err != nil {
		if os.IsTimeout(err) || errors.Is(err, s.ctx.Err()) {
			return "timed out."
		}
		s.logf("graph: handshake: %v", err)
		return "failed. Notification endpoint cannot be reached."
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxEcho))
	media, _, mediaErr := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	switch {
	case err != nil:
		return "timed out."
	case resp.StatusCode != http.StatusOK:
		return fmt.Sprintf("failed. HTTP status code is '%s'. Notification endpoint must respond with 200 OK to validation request.",
			strings.ReplaceAll(http.StatusText(resp.StatusCode), " ", ""))
	case mediaErr != nil || media != "text/plain":
		return "failed. Response content type must be text/plain."
	case string(body) != token:
		return "failed. Response must exactly match validationToken query parameter."
	}
	return ""
}

// maxEcho bounds what is read of an answer.
const maxEcho = 4 << 10
