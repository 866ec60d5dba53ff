package ews

// CreateItem: a message that a mailbox sends to itself.

import (
	"bytes"
	"context"
	"time"

	"github.com/mailbell/mailbell/internal/pace"
)

// sendWithin bounds sending a message: a server that is well takes a second.
const sendWithin = 30 * time.Second

// Send has t.Mailbox send a message of text to itself, which is delivered as all mail is; no copy is kept in Sent Items. The mailbox has to be
// impersonated. A nil error says that the server has taken the message, not that it has arrived. The error is an *Error, or that of ctx.
func (c *Client) Send(ctx context.Context, t Target, subject, text string) (Answer, error) {
	return c.call(ctx, t, operation{
		name: "CreateItem", purpose: pace.Subscribing, unparseable: CodeUnparseableAnswer, within: sendWithin, // live mail has places of its own
		body: createItem(t.Mailbox, subject, text), message: plainMessage,
	})
}

// createItem has the elements of a message in the order of the schema. SendOnly delivers it without a copy.
func createItem(mailbox, subject, text string) func(*bytes.Buffer, string) {
	return func(b *bytes.Buffer, _ string) {
		b.WriteString(`<m:CreateItem MessageDisposition="SendOnly"><m:Items><t:Message><t:Subject>`)
		escape(b, subject)
		b.WriteString(`</t:Subject><t:Body BodyType="Text">`)
		escape(b, text)
		b.WriteString(`</t:Body><t:ToRecipients><t:Mailbox><t:EmailAddress>`)
		escape(b, mailbox)
		b.WriteString(`</t:EmailAddress></t:Mailbox></t:ToRecipients></t:Message></m:Items></m:CreateItem>`)
	}
}
