package listener

import (
	"context"
	"time"

	"github.com/mailbell/mailbell/ews"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/subscriptions"
)

// Source is one listener account's way to the mailboxes of an Exchange: EWS here.
type Source interface {
	// Look looks whether the mailbox lives at a place, and names its server as far as the answer does. Where it lives elsewhere, the
	// *fault.Error says so.
	Look(ctx context.Context, p mail.Location) (server string, err error)
	Read(ctx context.Context, p mail.Location, items []string) ([]ews.Item, Clock, error)
	List(ctx context.Context, p mail.Location, offset, limit int) (Page, error)
	Subscribe(ctx context.Context, p mail.Location, a Affinity) (id string, cookie string, err error)
	Unsubscribe(ctx context.Context, p mail.Location, id string) error
	Stream(ctx context.Context, p mail.Location, a Affinity, ids []string) (Stream, error)
}

// Stream is an open stream of hints; *ews.Stream is one.
type Stream interface {
	Next() (ews.Notifications, error)
	Close() error
}

// Affinity keeps the subscriptions of a group on one mailbox server (protocol: "maintain affinity").
type Affinity struct {
	Anchor string // the mailbox that leads the group there
	Cookie string // X-BackEndOverrideCookie
}

// Clock is what an answer tells about its server: the time above all.
type Clock struct {
	Server  time.Time // its Date; zero: it told none
	Ours    time.Time // the middle of the call
	Backend string    // the name of the mailbox server; empty: it told none
}

// Page is a part of the Inbox, newest first by received time.
type Page struct {
	Clock
	Messages []mail.Message // without sender and preview
	Last     bool
}

// Finder finds where a mailbox lives; *autodiscover.Client is one. Nil where the address of EWS is configured.
type Finder interface {
	Find(ctx context.Context, address string) (mail.Location, error)
}

// Ringer rings devices; *push.Sender is one. Ring blocks until the answer, and begins nothing once ctx has ended. Ready says
// whether a topic can be rung; where it could not, and can again, the Ringer calls Listener.TopicReady.
type Ringer interface {
	Ring(ctx context.Context, d subscriptions.Device, b subscriptions.Bell) subscriptions.Answer
	Ready(topic, environment string) bool
}

// EWS is the Source of an account at an Exchange server.
type EWS struct {
	Client            *ews.Client
	ConnectionTimeout time.Duration // of a stream
}

// A call for a mailbox goes with its own anchor and without the group's cookie: it is to reach the server of the mailbox.
func target(p mail.Location) ews.Target { return ews.Target{URL: p.URL, Mailbox: p.Primary} }

func grouped(p mail.Location, a Affinity) ews.Target {
	return ews.Target{URL: p.URL, Mailbox: p.Primary, Anchor: a.Anchor, Affinity: true, Cookie: a.Cookie}
}

func clock(a ews.Answer) Clock {
	return Clock{Server: a.ServerTime, Ours: a.Began.Add(a.Ended.Sub(a.Began) / 2), Backend: a.Server()}
}

// Look is GetFolder of the Inbox, with affinity: then the override cookie names the server where nothing else does.
func (e EWS) Look(ctx context.Context, p mail.Location) (string, error) {
	a, err := e.Client.GetFolder(ctx, ews.Target{URL: p.URL, Mailbox: p.Primary, Affinity: true})
	return a.Server(), err
}

// Read is GetItem.
func (e EWS) Read(ctx context.Context, p mail.Location, items []string) ([]ews.Item, Clock, error) {
	list, a, err := e.Client.GetItem(ctx, target(p), items)
	return list, clock(a), err
}

// List is FindItem.
func (e EWS) List(ctx context.Context, p mail.Location, offset, limit int) (Page, error) {
	l, err := e.Client.FindItem(ctx, target(p), offset, limit)
	return Page{Clock: clock(l.Answer), Messages: l.Messages, Last: l.Last}, err
}

// Subscribe makes a streaming subscription; only the anchor's answer brings the cookie.
func (e EWS) Subscribe(ctx context.Context, p mail.Location, a Affinity) (string, string, error) {
	id, answer, err := e.Client.Subscribe(ctx, grouped(p, a))
	return id, answer.Cookie, err
}

// Unsubscribe gives a subscription back.
func (e EWS) Unsubscribe(ctx context.Context, p mail.Location, id string) error {
	return e.Client.Unsubscribe(ctx, target(p), id)
}

// Stream opens GetStreamingEvents as the mailbox p, the group's anchor: that charges a copy of its budget and not the account's.
func (e EWS) Stream(ctx context.Context, p mail.Location, a Affinity, ids []string) (Stream, error) {
	s, err := e.Client.GetStreamingEvents(ctx, grouped(p, a), ids, e.ConnectionTimeout)
	if err != nil {
		return nil, err // a nil *ews.Stream is not a nil Stream
	}
	return s, nil
}
