package changes

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/mailbell/mailbell/graph"
	"github.com/mailbell/mailbell/internal/backoff"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/mail"
)

// openTimeout bounds opening a message: the keys of the token service may have to be asked for, and the notifications behind it wait meanwhile.
// After that it is read.
const openTimeout = 3 * time.Second

// Content opens the messages that come encrypted in notifications.
type Content interface {
	// Rich returns the certificate for which new subscriptions have their messages encrypted.
	Rich() (graph.Rich, error)
	// Present says whether a subscription that was made for a certificate can go on as it is.
	Present(certificateID string) bool
	// Open decrypts a message that came in a post with these validation tokens.
	Open(ctx context.Context, e *graph.Encrypted, tokens []string) (mail.Message, error)
}

// CodeContent is the fault.Error.Code of notifications that come without their messages, though these are configured.
const CodeContent = "no content"

// contentAgain is how long a mailbox is subscribed without content that Graph has refused, and up to a minute more, until it is asked for again: a
// right that the app is given, or a cloud that learns it, is found within a day.
const contentAgain = 24 * time.Hour

// withoutContent says that Graph has refused notifications with content, and has taken the same without.
type withoutContent struct {
	why       *fault.Error // the last time; nil: it has not
	mailboxes int          // in a row: where it refuses it to as many as witnesses, and takes it from nobody, nobody asks for it
	until     time.Time    // before that
	took      time.Time    // when it made or renewed a subscription with content last
	said      bool         // it was logged
}

// isRefused says whether nobody is to ask for content. It is called with mu held.
func (c *withoutContent) isRefused(now time.Time) bool {
	return c.mailboxes >= witnesses && now.Before(c.until) && !c.takes(now)
}

// takes says whether Graph takes content from somebody: then those to whom it is refused are refused it for themselves only.
func (c *withoutContent) takes(now time.Time) bool { return now.Sub(c.took) < contentAgain }

// rich returns the certificate for which a new subscription has its messages encrypted; nil: they do not come.
func (k *Keeper) rich() (*graph.Rich, error) {
	k.mu.Lock()
	refused := k.plain.isRefused(time.Now())
	k.mu.Unlock()
	if k.o.Content == nil || refused {
		return nil, nil
	}
	r, err := k.o.Content.Rich()
	return &r, err
}

// tookContent notes whether Graph took a subscription with content, or why it took it without only.
func (k *Keeper) tookContent(why *fault.Error) {
	now := time.Now()
	k.mu.Lock()
	was := k.plain
	if why == nil {
		k.plain = withoutContent{took: now}
	} else {
		told := &fault.Error{Op: why.Op, Code: CodeContent, Scope: fault.Mailbox, Remedy: fault.Fix, Evidence: why.Evidence,
			Text: "Microsoft Graph refuses notifications with content (graph.rich) and takes them without, so that each message is read; it is asked " +
				"again after a day: " + why.Code + ": " + why.Text}
		k.plain = withoutContent{told, was.mailboxes + 1, now.Add(contentAgain), was.took, was.said || !was.takes(now)}
	}
	said := k.plain.said
	k.mu.Unlock()
	switch {
	case said && !was.said:
		k.o.Log.Warn("Microsoft Graph refuses notifications with content, and takes them without", zap.Error(why))
	case was.said && !said:
		k.o.Log.Info("Microsoft Graph takes notifications with content again")
	}
}

// isPlain says whether the messages of a subscription do not come though they are configured.
func (k *Keeper) isPlain(s *subscription) bool { return k.o.Content != nil && s.certificate == "" }

// keepPlain notes when a subscription without content is replaced by one with it. It is called with mu held.
func (k *Keeper) keepPlain(s *subscription, now time.Time) {
	if k.isPlain(s) && !now.Before(s.replaceAt) {
		s.replaceAt = now.Add(backoff.Jitter(contentAgain))
	}
}

// outdated says whether a subscription is to be replaced when it would be renewed: it was made with content that cannot be decrypted any more, or
// not as it is configured now. It is called with mu held.
func (k *Keeper) outdated(s *subscription, now time.Time) bool {
	switch {
	case k.o.Content == nil:
		return s.certificate != ""
	case k.isPlain(s):
		return !now.Before(s.replaceAt) && !k.plain.isRefused(now)
	}
	return !k.o.Content.Present(s.certificate)
}

// WithoutContent says why the notifications of a mailbox that is listened to come without their messages, though these are configured; nil: they
// do not.
func (m *Member) WithoutContent() *fault.Error {
	k := m.keeper
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case !m.in || m.since.IsZero() || m.now == nil || !k.isPlain(m.now):
		return nil
	case k.plain.why != nil:
		return k.plain.why
	}
	return &fault.Error{Op: "POST subscriptions", Code: CodeContent, Scope: fault.Mailbox, Remedy: fault.Fix,
		Text: "the subscription was made without content, and is replaced when it would be renewed; until then each message is read"}
}

// open returns the message in a notification; nil: there is none that could be believed, and the message is read.
func (k *Keeper) open(n *graph.Notification, tokens []string) *mail.Message {
	if n.Content == nil || k.o.Content == nil {
		return nil
	}
	short, cancel := context.WithTimeout(k.ctx, openTimeout)
	defer cancel()
	m, err := k.o.Content.Open(short, n.Content, tokens)
	switch {
	case err == nil && m.ItemID == n.Item:
		k.o.Receiver.contents.WithLabelValues("ok").Inc()
		return &m
	case errors.Is(err, graph.ErrNoKey): // of a subscription from before the start
		k.o.Receiver.contents.WithLabelValues("no_key").Inc()
	default:
		k.o.Receiver.contents.WithLabelValues("refused").Inc()
		k.o.Log.Debug("the content of a notification of Microsoft Graph is not believed; the message is read", zap.Error(err))
	}
	return nil
}
