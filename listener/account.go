package listener

// A listener account at work. Its calls are made unless it is blocked, and how they end is noted (health.go).

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/mailbell/mailbell/ews"
	"github.com/mailbell/mailbell/graph"
	"github.com/mailbell/mailbell/inbox"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/listener/callbacks"
	"github.com/mailbell/mailbell/listener/changes"
	"github.com/mailbell/mailbell/listener/streaming"
	"github.com/mailbell/mailbell/mail"
)

// account is a listener account at work. A refusal by Autodiscover holds up look-ups only, for EWS may work all the same. A refusal by EWS
// does not hold up what is done by Graph, nor the other way round.
type account struct {
	*Account
	entry   *entry
	log     *zap.Logger
	finding *health // of Autodiscover
	byEWS   *way
	byGraph *way // nil: there is no Graph
}

// way is one of the two ways in which an account reaches mailboxes and listens to them: EWS, or Graph.
type way struct {
	account   *account
	source    Source
	calls     *health
	listening kind
	links     atomic.Int64 // mailboxes that are read this way
}

// way is the one by which a location with item ids of this source is reached.
func (a *account) way(s mail.Source) *way {
	if s == mail.Graph {
		return a.byGraph
	}
	return a.byEWS
}

// lister lists the Inbox at a location from which the inbox does not read yet.
func (w *way) lister(at mail.Location) inbox.Lister {
	return func(ctx context.Context, p inbox.Part) (inbox.Page, error) {
		call, err := w.calls.begin(at.Primary)
		if err != nil {
			return inbox.Page{}, err
		}
		page, a, err := w.source.List(ctx, at, p)
		if err = call.note(err); err != nil {
			return inbox.Page{}, err
		}
		page.Clock = w.account.entry.tell(a)
		return page, nil
	}
}

// ways are all that the account has.
func (a *account) ways() []*way {
	if a.byGraph == nil {
		return []*way{a.byEWS}
	}
	return []*way{a.byEWS, a.byGraph}
}

func newAccount(l *Listener, e *entry, a *Account, metrics *streaming.Metrics) *account {
	n := &account{Account: a, entry: e, log: l.log.With(zap.String("exchange", e.Name), zap.String("account", a.Name))}
	lifted := func() { l.wake(n) }
	n.byEWS = &way{account: n, source: a.Source, calls: &health{
		log: n.log, mailboxes: func() int { return e.seats.taken(n) }, lifted: lifted,
	}}
	if e.exodus != nil {
		n.byEWS.calls.held = func(f *fault.Error, mailboxes, times int) { e.exodus.blocked(n, f, mailboxes, times) }
	}
	n.finding = &health{log: n.log.With(zap.String("of", "look-ups by Autodiscover")), mailboxes: l.following, lifted: lifted}
	byPush := func() kind {
		return posts{callbacks.NewKeeper(callbacks.Options{
			Server: guarded{n}, Receiver: l.receiver, PublicURL: l.o.PublicURL, Polls: e.polls, Log: n.log,
		})}
	}
	byStreaming := func() kind {
		return streams{streaming.New(streaming.Options{
			Server: guarded{n}, Size: e.SubscriptionsPerConnection, Sharing: &e.sharing, Polls: e.polls, Log: n.log, Metrics: metrics,
		})}
	}
	switch {
	case e.ListenBy == ByPush:
		n.byEWS.listening = byPush()
	case e.fallback != nil:
		n.byEWS.listening = &eitherKind{streams: byStreaming(), posts: byPush(), fallback: e.fallback}
	default:
		n.byEWS.listening = byStreaming()
	}
	if a.Graph != nil {
		n.byEWS.calls.mailboxes = n.byEWS.mailboxes
		n.byGraph = &way{account: n, source: a.Graph}
		n.byGraph.calls = &health{log: n.log.With(zap.String("of", "Microsoft Graph")), mailboxes: n.byGraph.mailboxes, lifted: lifted}
		n.byGraph.listening = changed{changes.NewKeeper(changes.Options{
			Server: graphGuarded{n}, Receiver: l.changes, Writes: l.writes, Polls: e.graphPolls, BusyPolls: e.busyPolls, Known: l.subscriptionsAtGraph, Content: a.Content, Log: n.log,
		})}
	}
	return n
}

// mailboxes is how many are read this way.
func (w *way) mailboxes() int { return int(w.links.Load()) }

// left says whether all mailboxes of the account have gone over from this way to the other.
func (w *way) left() bool {
	if w.links.Load() > 0 {
		return false
	}
	for _, other := range w.account.ways() {
		if other.links.Load() > 0 {
			return true
		}
	}
	return false
}

// blocked says why no call for a mailbox can be made by EWS, or by Graph; nil: it can.
func (a *account) blocked(by mail.Source) *fault.Error {
	if by == mail.Graph {
		f, _ := a.byGraph.calls.state()
		return f
	}
	if a.entry.URL == "" {
		if f, _ := a.finding.state(); f != nil {
			return f
		}
	}
	f, _ := a.byEWS.calls.state()
	return f
}

// guarded is the account as a streaming.Server, and a callbacks.Server.
type guarded struct{ *account }

// Subscribe makes a subscription, unless the account is blocked.
func (g guarded) Subscribe(ctx context.Context, at mail.Location, a streaming.Affinity) (id, cookie string, err error) {
	call, err := g.byEWS.calls.begin(at.Primary)
	if err != nil {
		return "", "", err
	}
	id, cookie, err = g.Streams.Subscribe(ctx, at, a)
	g.entry.fallback.failed(at.Primary, err)
	return id, cookie, call.note(err)
}

// SubscribePush makes a push subscription, unless the account is blocked.
func (g guarded) SubscribePush(ctx context.Context, at mail.Location, a callbacks.Affinity, p ews.Push) (callbacks.Subscribed, error) {
	call, err := g.byEWS.calls.begin(at.Primary)
	if err != nil {
		return callbacks.Subscribed{}, err
	}
	s, err := g.Pushes.SubscribePush(ctx, at, a, p)
	return s, call.note(err)
}

// Unsubscribe gives a subscription back, unless the account is blocked.
func (g guarded) Unsubscribe(ctx context.Context, at mail.Location, a streaming.Affinity, id string) error {
	call, err := g.byEWS.calls.begin(at.Primary)
	if err != nil {
		return err
	}
	return call.note(g.Streams.Unsubscribe(ctx, at, a, id))
}

// Stream opens a stream, unless the account is blocked.
func (g guarded) Stream(ctx context.Context, at mail.Location, a streaming.Affinity, ids []string) (streaming.Stream, error) {
	call, err := g.byEWS.calls.begin(at.Primary)
	if err != nil {
		return nil, err
	}
	s, err := g.Streams.Stream(ctx, at, a, ids)
	g.entry.fallback.failed(at.Primary, err)
	if err = call.note(err); err != nil {
		return nil, err
	}
	return noted{s, g.account, call}, nil
}

// graphGuarded is the account as a changes.Server.
type graphGuarded struct{ *account }

// Subscribe makes a subscription, unless the account is blocked.
func (g graphGuarded) Subscribe(ctx context.Context, at mail.Location, s graph.Subscription) (graph.Subscribed, error) {
	call, err := g.byGraph.calls.begin(at.Primary)
	if err != nil {
		return graph.Subscribed{}, err
	}
	made, err := g.Changes.Subscribe(ctx, at, s)
	return made, call.note(err)
}

// Renew renews a subscription, unless the account is blocked.
func (g graphGuarded) Renew(ctx context.Context, at mail.Location, id string, until time.Time) (time.Time, error) {
	call, err := g.byGraph.calls.begin(at.Primary)
	if err != nil {
		return time.Time{}, err
	}
	expires, err := g.Changes.Renew(ctx, at, id, until)
	return expires, call.note(err)
}

// Delete removes a subscription. It is of no mailbox, and says nothing about the account.
func (g graphGuarded) Delete(ctx context.Context, id string) error { return g.Changes.Delete(ctx, id) }

// Subscriptions lists those of the app.
func (g graphGuarded) Subscriptions(ctx context.Context) ([]graph.Listed, error) {
	return g.Changes.Subscriptions(ctx)
}

// noted is a stream whose errors are noted where they concern the account. Its other errors do not say that the account is let in.
type noted struct {
	streaming.Stream
	account *account
	opened  call // by which it was opened
}

// Next is the next envelope.
func (n noted) Next() (streaming.Envelope, error) {
	e, err := n.Stream.Next()
	if err == nil {
		n.account.entry.fallback.streamed()
	}
	n.account.entry.fallback.failed(n.opened.mailbox, err)
	if f, ok := errors.AsType[*fault.Error](err); ok && f.Scope == fault.Account {
		return e, n.opened.note(err)
	}
	return e, err
}
