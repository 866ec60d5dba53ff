package ews

// GetFolder: the question whether a mailbox lives here.

import "context"

// GetFolder asks for the id of the Inbox of t.Mailbox: the least that says whether the mailbox lives here and may be impersonated. What is
// of use is what came along: Answer.Server, with t.Affinity from any server of Exchange 2013 and later. Where it does not live here, the
// *fault.Error in the chain says Elsewhere. Its error is an *Error, or that of ctx.
func (c *Client) GetFolder(ctx context.Context, t Target) (Answer, error) {
	return c.call(ctx, t, operation{
		name: "GetFolder", unparseable: CodeUnparseableAnswer, read: true,
		body: fixed(getFolder), message: plainMessage,
	})
}
