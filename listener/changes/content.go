package changes

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/mailbell/mailbell/graph"
	"github.com/mailbell/mailbell/mail"
)

// openTimeout bounds opening a message: the keys of the token service may have to be asked for, and the notifications behind it wait meanwhile.
// After that it is read.
const openTimeout = 3 * time.Second

// Content opens the messages that come encrypted in notifications.
type Content interface {
	// Rich is for whom new subscriptions have their messages encrypted.
	Rich() (graph.Rich, error)
	// Present says whether a subscription that was made for a certificate can go on as it is.
	Present(certificateID string) bool
	// Open decrypts a message that came in a post with these validation tokens.
	Open(ctx context.Context, e *graph.Encrypted, tokens []string) (mail.Message, error)
}

// rich is for whom a new subscription has its messages encrypted; nil: they do not come.
func (k *Keeper) rich() (*graph.Rich, error) {
	if k.o.Content == nil {
		return nil, nil
	}
	r, err := k.o.Content.Rich()
	return &r, err
}

// outdated says whether a subscription is to be replaced when it would be renewed: it was made with content that cannot be decrypted any more, or
// not as it is configured now.
func (k *Keeper) outdated(s *subscription) bool {
	if k.o.Content == nil {
		return s.certificate != ""
	}
	return !k.o.Content.Present(s.certificate)
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
