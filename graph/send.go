package graph

// A message that a mailbox sends to itself.

import (
	"context"
	"net/http"
)

// outgoing is the body of sendMail.
type outgoing struct {
	Message struct {
		Subject string `json:"subject"`
		Body    struct {
			Type    string `json:"contentType"`
			Content string `json:"content"`
		} `json:"body"`
		To [1]recipient `json:"toRecipients"`
	} `json:"message"`
	Save bool `json:"saveToSentItems"`
}

// Send has a mailbox send a message of text to itself, which is delivered as all mail is; no copy is kept in Sent Items. It takes the
// permission Mail.Send. A nil error says that Graph has taken the message, not that it has arrived. The error is an *Error, or that of ctx.
func (c *Client) Send(ctx context.Context, mailbox, subject, text string) (Answer, error) {
	var body outgoing
	m := &body.Message
	m.Subject, m.Body.Type, m.Body.Content, m.To[0].EmailAddress.Address = subject, "Text", text, mailbox
	return c.call(ctx, operation{
		name: "POST sendMail", about: aboutSending, mailbox: mailbox, method: http.MethodPost, url: c.mailboxURL(mailbox, "/sendMail"), body: body,
	})
}
