package ews

// GetFolder: whether a mailbox is on this server.

import (
	"context"

	"github.com/mailbell/mailbell/internal/pace"
)

// GetFolder asks for the id of the Inbox of t.Mailbox, the smallest request that shows whether the mailbox is on this server and may be
// impersonated. The caller uses Answer.Server, which every server of Exchange 2013 and later sends if t.Affinity is set. If the mailbox
// is not on this server, the *fault.Error in the chain has Elsewhere. The error is an *Error, or that of ctx.
func (c *Client) GetFolder(ctx context.Context, t Target) (Answer, error) {
	return c.call(ctx, t, operation{
		name: "GetFolder", purpose: pace.Looking, unparseable: CodeUnparseableAnswer, read: true,
		body: fixed(getFolder), message: plainMessage,
	})
}
