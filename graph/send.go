package graph

// A message that a mailbox sends to itself.

import (
	"context"
	"net/http"
)

// sent is the body of sendMail.
type sent struct {
	Message outgoing `json:"message"`
	Save    bool     `json:"saveToSentItems"`
}

type outgoing struct {
	Subject string      `json:"subject"`
	Body    itemBody    `json:"body"`
	To      []addressee `json:"toRecipients"`
}

type itemBody struct {
	Type    string `json:"contentType"`
	Content string `json:"content"`
}

type addressee struct {
	Address addressOf `json:"emailAddress"`
}

type addressOf struct {
	Address string `json:"address"`
}

// Send has a mailbox send a message of text to itself, which is delivered as all mail is; no copy is kept in Sent Items. It takes the
// permission Mail.Send. A nil error says that Graph has taken the message, not that it has arrived. The error is an *Error, or that of ctx.
func (c *Client) Send(ctx context.Context, mailbox, subject, text string) (Answer, error) {
	body := sent{Message: outgoing{Subject: subject, Body: itemBody{"Text", text}, To: []addressee{{addressOf{mailbox}}}}}
	return c.call(ctx, operation{
		name: "POST sendMail", about: aboutSending, mailbox: mailbox, method: http.MethodPost, url: c.mailboxURL(mailbox, "/sendMail"), body: body,
	})
}
