package graph

// Subscriptions to the Inboxes of mailboxes: made, renewed, deleted, listed.

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"path"
	"regexp"
	"strconv"
	"time"

	"github.com/mailbell/mailbell/internal/fault"
)

const (
	// Longest is for how long a subscription is asked for: below the 10,070 minutes that the service allows.
	Longest = 156 * time.Hour
	// LongestRich is the same of one with content, of which the service allows 1,440 minutes.
	LongestRich = 23 * time.Hour
	// shortest is the shortest life that a subscription has: Graph makes 45 minutes of less.
	shortest = 45 * time.Minute
	// margin is by how much less than the limit is asked for that Graph names, as its clock and ours differ.
	margin = 10 * time.Minute
	// fallback is what is asked for where Graph refuses a life and names no limit: below the oldest limit that was seen.
	fallback = 4200 * time.Minute
	// maxSubscriptionPages bounds the list of an app's subscriptions: 15,000 by 100, and as many again that were left behind.
	maxSubscriptionPages = 400
	// maxSubscriptionID bounds the id of a subscription, which is kept in the record of its mailbox. Graph's are GUIDs.
	maxSubscriptionID = 128
)

// Subscription is what a subscription is to be.
type Subscription struct {
	NotificationURL string // https
	LifecycleURL    string // https; it can be set only now
	ClientState     string // comes back with each notification; a secret, at most 128 characters
	Until           time.Time
	Rich            *Rich // the notifications have the messages in them, encrypted; nil: they have not
}

// Rich is the certificate for which the messages in notifications are encrypted.
type Rich struct {
	Certificate   string // DER, in base64
	CertificateID string // comes back with each notification, at most 128 characters
}

// Subscribed is a subscription that was made.
type Subscribed struct {
	ID      string
	Expires time.Time // as Graph has it, whatever was asked for
}

// subscription is the resource.
type subscription struct {
	ID              string `json:"id,omitempty"`
	ChangeType      string `json:"changeType,omitempty"`
	NotificationURL string `json:"notificationUrl,omitempty"`
	LifecycleURL    string `json:"lifecycleNotificationUrl,omitempty"`
	Resource        string `json:"resource,omitempty"`
	Expires         string `json:"expirationDateTime,omitempty"`
	ClientState     string `json:"clientState,omitempty"`
	LeastTLS        string `json:"latestSupportedTlsVersion,omitempty"`
	WithContent     bool   `json:"includeResourceData,omitempty"`
	Certificate     string `json:"encryptionCertificate,omitempty"`
	CertificateID   string `json:"encryptionCertificateId,omitempty"`
}

// Subscribe makes a subscription to new mail in the Inbox of a mailbox. While it does, Graph asks both URLs for an answer (the handshake).
// Where Graph does not allow the life that is asked for, the longest that it allows is asked for. Its error is an *Error, or that of ctx;
// with CodeExists its Subscriptions has the one that stands in the way.
func (c *Client) Subscribe(ctx context.Context, mailbox string, s Subscription) (Subscribed, error) {
	want := subscription{
		ChangeType: "created", NotificationURL: s.NotificationURL, LifecycleURL: s.LifecycleURL, ClientState: s.ClientState, LeastTLS: "v1_2",
		Resource: "/users/" + escaped(mailbox) + "/mailFolders('inbox')/messages",
	}
	if s.Rich != nil {
		want.Resource += "?$select=" + c.richFields() + extended // no other $expand is allowed here
		want.WithContent, want.Certificate, want.CertificateID = true, s.Rich.Certificate, s.Rich.CertificateID
	}
	var made subscription
	op := operation{
		name: "POST subscriptions", about: aboutMaking, mailbox: mailbox, method: http.MethodPost, url: c.root + "/subscriptions", answer: &made,
		secrets: []string{s.ClientState, secretOf(s.NotificationURL), secretOf(s.LifecycleURL)},
	}
	expires, err := forAsLong(ctx, s.Until, func(expires string) error {
		want.Expires = expires
		op.body = want
		_, err := c.call(ctx, op)
		return naming(err, s.NotificationURL)
	}, &made)
	switch {
	case err != nil:
		return Subscribed{}, err
	case made.ID == "" || len(made.ID) > maxSubscriptionID:
		return Subscribed{}, unparseable(op, "a subscription without an id, or with one that is too long")
	}
	return Subscribed{made.ID, expires}, nil
}

// naming adds to an error of the handshake which URL Microsoft tried, without the secret in it.
func naming(err error, callback string) error {
	if err == nil || fault.Of(err).Code != CodeHandshake {
		return err
	}
	shown := "the callback"
	if u, err := url.Parse(callback); err == nil {
		shown = u.Scheme + "://" + u.Host + path.Dir(u.Path) + "/…"
	}
	e := &Error{}
	if was, ok := errors.AsType[*Error](err); ok {
		e.RequestID = was.RequestID
	}
	f := *fault.Of(err)
	f.Text = shown + ": " + f.Text
	e.Fault = &f
	return e
}

// secretOf is the last part of the path of a callback.
func secretOf(callback string) string {
	u, err := url.Parse(callback)
	if err != nil || u.Path == "" || u.Path == "/" {
		return ""
	}
	return path.Base(u.Path)
}

// forAsLong has a subscription made or renewed until a time, or for the longest that Graph allows where it does not allow that, and returns
// until when it lives.
func forAsLong(ctx context.Context, until time.Time, send func(expires string) error, got *subscription) (time.Time, error) {
	err := send(formatTime(until))
	if f := fault.Of(err); err != nil && f.Code == CodeExpiration && ctx.Err() == nil {
		asked := time.Until(until)
		allowed := min(limitIn(f.Text), asked/2+asked/4)
		until = time.Now().Add(max(allowed, shortest))
		err = send(formatTime(until))
	}
	if err != nil {
		return time.Time{}, err
	}
	if told := parseTime(got.Expires); !told.IsZero() {
		return told, nil
	}
	return until, nil
}

// minutesOf finds the limit in Graph's text: it can only be so many minutes in the future.
var minutesOf = regexp.MustCompile(`can only be (\d{1,6}) minutes`)

// limitIn is the longest life that Graph's text allows, less the margin.
func limitIn(text string) time.Duration {
	if found := minutesOf.FindStringSubmatch(text); found != nil {
		if n, err := strconv.Atoi(found[1]); err == nil && n > 0 {
			return time.Duration(n)*time.Minute - margin
		}
	}
	return fallback
}

// formatTime writes a time as Graph has it.
func formatTime(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }

// Renew lets a subscription live until a time, or for the longest that Graph allows where it does not allow that, and gives it a new access
// token. Where the subscription is not there any more its error has Unsubscribed.
func (c *Client) Renew(ctx context.Context, id string, until time.Time) (expires time.Time, err error) {
	var got subscription
	op := operation{name: "PATCH subscriptions", about: aboutExisting, method: http.MethodPatch, url: c.subscriptionURL(id), answer: &got}
	return forAsLong(ctx, until, func(expires string) error {
		op.body = subscription{Expires: expires}
		_, err := c.call(ctx, op)
		return err
	}, &got)
}

// Delete removes a subscription. One that is not there is removed.
func (c *Client) Delete(ctx context.Context, id string) error {
	_, err := c.call(ctx, operation{name: "DELETE subscriptions", about: aboutExisting, method: http.MethodDelete, url: c.subscriptionURL(id)})
	if err != nil && fault.Of(err).Status == http.StatusNotFound {
		return nil
	}
	return err
}

func (c *Client) subscriptionURL(id string) string { return c.root + "/subscriptions/" + escaped(id) }

// Listed is a subscription of the app, as Graph lists it: without its client state.
type Listed struct {
	ID              string
	Resource        string
	NotificationURL string
	Expires         time.Time
}

// Subscriptions lists the subscriptions of the app in the tenant, those of other programs with the same app registration among them.
func (c *Client) Subscriptions(ctx context.Context) ([]Listed, error) {
	op := operation{name: "GET subscriptions", about: aboutAll, method: http.MethodGet, url: c.root + "/subscriptions", repeats: true}
	var all []Listed
	for range maxSubscriptionPages {
		var page struct {
			Value []subscription `json:"value"`
			Next  string         `json:"@odata.nextLink"`
		}
		op.answer = &page
		if _, err := c.call(ctx, op); err != nil {
			return nil, err
		}
		for _, s := range page.Value {
			all = append(all, Listed{ID: s.ID, Resource: s.Resource, NotificationURL: s.NotificationURL, Expires: parseTime(s.Expires)})
		}
		switch {
		case page.Next == "":
			return all, nil
		case !c.here(page.Next):
			return nil, newError(op, said{code: CodeAway})
		}
		op.url = page.Next
	}
	return nil, unparseable(op, "the list of subscriptions does not end")
}

// richFields are the fields of the messages that come in notifications: they have to be named, and the body may not be.
func (c *Client) richFields() string {
	if c.o.Preview {
		return shownFields + ",bodyPreview"
	}
	return shownFields
}
