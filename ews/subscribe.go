package ews

// Subscribe and Unsubscribe.

import (
	"bytes"
	"context"
	"time"

	"github.com/mailbell/mailbell/internal/pace"
)

const (
	// subscribeWithin bounds a Subscribe: while a mailbox that may lead its group hangs, the others of the group wait.
	subscribeWithin = 15 * time.Second
	// unsubscribeWithin bounds giving a subscription back: one that is not given back expires at the server.
	unsubscribeWithin = 10 * time.Second
)

// Subscribe makes a streaming subscription to new mail in the Inbox of t.Mailbox, beginning now, and returns its id. The mailbox has to
// be impersonated: delegate rights are not enough. The subscription belongs to the account that made it. Its error is an *Error, or that
// of ctx.
func (c *Client) Subscribe(ctx context.Context, t Target) (id string, a Answer, err error) {
	a, err = c.call(ctx, t, operation{
		name: "Subscribe", purpose: pace.Subscribing, unparseable: CodeUnparseableAnswer, within: subscribeWithin,
		first: t.Affinity && t.Anchor == t.Mailbox, // the others of its group wait for the cookie
		body:  fixed(subscribe),
		message: func(s *scanner) *problem {
			p := begin(s)
			for at := s.depth; s.child(at); {
				if !p.take(s) && string(s.name) == "SubscriptionId" {
					id = string(bytes.TrimSpace(s.text()))
				}
			}
			return p.subscribed(s, id)
		},
	})
	return id, a, err
}

// maxID bounds the id of a subscription, which is kept in the record of its mailbox, and sent with each stream. Exchange's have some 150
// characters.
const maxID = 1024

// subscribed ends a response message that is to bring the id of a subscription.
func (p *problem) subscribed(s *scanner, id string) *problem {
	if p.code == "" && s.err == nil && (id == "" || len(id) > maxID) {
		s.err = malformed("a success without a subscription id, or with one that is too long")
	}
	return p.failed()
}

// Unsubscribe ends a subscription. If the server no longer knows it, the error is an *Error with the code ErrorSubscriptionNotFound.
func (c *Client) Unsubscribe(ctx context.Context, t Target, id string) error {
	_, err := c.call(ctx, t, operation{
		name: "Unsubscribe", purpose: pace.Subscribing, unparseable: CodeUnparseableAnswer, within: unsubscribeWithin,
		body: unsubscribe(id), message: plainMessage,
	})
	return err
}
