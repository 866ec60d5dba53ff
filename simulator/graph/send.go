package graph

// POST /users/{id}/sendMail: a message of text to mailboxes of the organisation, delivered as SMTP delivers.

import (
	"encoding/json"
	"net/http"

	"github.com/mailbell/mailbell/simulator/exchange"
)

const (
	maxMessageBody = 1 << 20
	maxRecipients  = 500 // of a message in Exchange Online
)

// sendMail takes a message. It is accepted before it is delivered; what cannot be delivered would come back as mail.
func (c *call) sendMail(box exchange.Box) {
	var body struct {
		Message *struct {
			Subject string `json:"subject"`
			Body    struct {
				Content string `json:"content"`
			} `json:"body"`
			To []struct {
				Address struct {
					Address string `json:"address"`
				} `json:"emailAddress"`
			} `json:"toRecipients"`
		} `json:"message"`
	}
	if err := json.NewDecoder(http.MaxBytesReader(c.w, c.r.Body, maxMessageBody)).Decode(&body); err != nil || body.Message == nil {
		c.fail(http.StatusBadRequest, "BadRequest", "Unable to read JSON request payload. Please ensure Content-Type header is set and payload is of valid JSON format.")
		return
	}
	m := body.Message
	if len(m.To) == 0 || len(m.To) > maxRecipients {
		c.fail(http.StatusBadRequest, "ErrorInvalidRecipients", "At least one recipient isn't valid., A message can't be sent because it contains no recipients.")
		return
	}
	for _, to := range m.To {
		if err := c.s.mail.Submit(box.Address, to.Address.Address, m.Subject, m.Body.Content); err != nil {
			c.s.logf("graph: %s: a message is not delivered: %v", box.Address, err)
		}
	}
	c.w.WriteHeader(http.StatusAccepted)
}
