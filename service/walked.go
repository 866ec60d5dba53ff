package service

// What check uses in the place of the service's own calls: each call as an error that it understands, and no second refused sign-in.

import (
	"context"
	"net/http"
	"sync"

	"github.com/mailbell/mailbell/auth"
	"github.com/mailbell/mailbell/check"
	"github.com/mailbell/mailbell/inbox"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/listener"
	"github.com/mailbell/mailbell/listener/streaming"
	"github.com/mailbell/mailbell/mail"
)

// reads are the calls of a check by which a mailbox is read, by EWS or by Graph.
type reads struct{ from listener.Source }

// Look looks at the Inbox.
func (r reads) Look(ctx context.Context, at mail.Location) error {
	_, err := r.from.Look(ctx, at)
	return err
}

// Newest is the item id of the newest message.
func (r reads) Newest(ctx context.Context, at mail.Location) (string, error) {
	page, _, err := r.from.List(ctx, at, inbox.Part{Limit: 1})
	if err != nil || len(page.Messages) == 0 {
		return "", err
	}
	return page.Messages[0].ItemID, nil
}

// Read reads a message.
func (r reads) Read(ctx context.Context, at mail.Location, item string) error {
	items, _, err := r.from.Read(ctx, at, []string{item})
	if err != nil {
		return err
	}
	return items[0].Err
}

// walked makes the calls of a check with a listener account, which are those of the service.
type walked struct {
	reads
	ews listener.EWS
}

func newWalked(by listener.EWS) walked { return walked{reads{by}, by} }

// Subscribe makes a subscription.
func (w walked) Subscribe(ctx context.Context, at mail.Location, a *check.Affinity) (string, error) {
	id, cookie, err := w.ews.Subscribe(ctx, at, streaming.Affinity(*a))
	if a.Cookie == "" {
		a.Cookie = cookie
	}
	return id, err
}

// Unsubscribe gives it back.
func (w walked) Unsubscribe(ctx context.Context, at mail.Location, a check.Affinity, id string) error {
	return w.ews.Unsubscribe(ctx, at, streaming.Affinity(a), id)
}

// Stream opens a stream and waits for its first envelope.
func (w walked) Stream(ctx context.Context, at mail.Location, a check.Affinity, ids []string) error {
	s, err := w.ews.Stream(ctx, at, streaming.Affinity(a), ids)
	if err != nil {
		return err
	}
	defer s.Close()
	_, err = s.Next()
	return err
}

// once lets an account be refused once: whoever checks an installation is not to lock the account out.
type once struct {
	http.RoundTripper

	mu sync.Mutex
	by string // the host that has refused it; empty: none has
}

// RoundTrip implements http.RoundTripper.
func (o *once) RoundTrip(req *http.Request) (*http.Response, error) {
	o.mu.Lock()
	by := o.by
	o.mu.Unlock()
	if by != "" {
		if req.Body != nil {
			req.Body.Close()
		}
		return nil, &fault.Error{Op: "sign in", Code: auth.CodeHeld, Scope: fault.Account, Remedy: fault.Fix,
			Text: by + " has refused the account in this check, and one refusal is enough: more could lock it"}
	}
	resp, err := o.RoundTripper.RoundTrip(req)
	if err == nil && resp.StatusCode == http.StatusUnauthorized {
		o.mu.Lock()
		o.by = req.URL.Host
		o.mu.Unlock()
	}
	return resp, err
}

// CloseIdleConnections closes the connections that are not in use.
func (o *once) CloseIdleConnections() {
	if c, ok := o.RoundTripper.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}
