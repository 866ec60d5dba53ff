package service

// What the MDM portal is told of by webhooks, and what it is told.

import (
	"context"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/mailbell/mailbell/api"
	"github.com/mailbell/mailbell/check"
	"github.com/mailbell/mailbell/config"
	"github.com/mailbell/mailbell/internal/outcome"
	"github.com/mailbell/mailbell/internal/webhookconfig"
	"github.com/mailbell/mailbell/proxy"
	"github.com/mailbell/mailbell/subscriptions"
	"github.com/mailbell/mailbell/webhooks"
)

// newWebhooks makes the receivers of c. They are reached as everything is: through the proxy.
func (s *Service) newWebhooks(c *config.Config, metrics prometheus.Registerer) *webhooks.Sender {
	o := webhooks.Options{Agent: s.webhookAgent(), Log: s.log.Named("webhooks"), Metrics: metrics}
	for _, w := range c.Webhooks {
		o.Hooks = append(o.Hooks, s.hook(w))
	}
	return webhooks.New(o)
}

func (s *Service) webhookAgent() string { return "mailbell/" + s.version }

func (s *Service) hook(w config.Webhook) webhooks.Hook {
	out := proxy.Settings{Roots: w.CA, Proxy: s.proxy, Seen: s.seen}
	return webhooks.Hook{Name: w.Name, URL: w.URL, Secrets: webhookSecrets(w), Events: w.Events, Transport: out.Transport()}
}

// hookForCheck describes a webhook for check.
func (s *Service) hookForCheck(w config.Webhook) check.Webhook {
	return check.Webhook{Name: w.Name, Event: webhookconfig.Check, Try: func(ctx context.Context) error {
		return webhooks.Try(ctx, s.hook(w), s.webhookAgent(), webhooks.Event{Type: webhookconfig.Check, At: time.Now(), Data: versionData{s.version}})
	}}
}

// webhookSecrets are what a webhook signs with; the configuration has checked them.
func webhookSecrets(w config.Webhook) (list [][]byte) {
	for _, s := range []config.Secret{w.Secret, w.NextSecret} {
		if key, err := webhookconfig.ParseSecret(string(s)); err == nil {
			list = append(list, key)
		}
	}
	return list
}

// sameWebhook compares all but the secrets, which are taken up while mailbell runs.
func sameWebhook(a, b config.Webhook) bool {
	return a.Name == b.Name && a.URL == b.URL && samePool(a.CA, b.CA) && slices.Equal(a.Events, b.Events)
}

// The data of events: ids and reasons, never a token or anything of a message.
type (
	versionData struct {
		Version string `json:"version"`
	}
	deviceData struct {
		Device  string         `json:"device"`
		Mailbox string         `json:"mailbox"`
		Topic   string         `json:"topic"`
		Reason  outcome.Reason `json:"reason"`
	}
	alertData struct {
		Device  string         `json:"device"`
		Mailbox string         `json:"mailbox"`
		Message string         `json:"message"` // its key
		Reason  outcome.Reason `json:"reason"`
		Status  int            `json:"apns_status,omitempty"`
	}
	mailboxData struct {
		Mailbox string              `json:"mailbox"`
		State   subscriptions.State `json:"state"`
		Since   time.Time           `json:"since"`
		Reason  string              `json:"reason,omitempty"`
		Cause   string              `json:"cause,omitempty"`
		Advice  string              `json:"advice,omitempty"`
		NextTry time.Time           `json:"next_try,omitzero"`
	}
)

// tellStarted tells that this instance works, so that a receiver compares what it knows with what there is.
func (r *rooms) tellStarted() {
	r.webhooks.Send(webhooks.Event{Type: webhookconfig.Started, At: time.Now(), Data: versionData{r.service.version}})
}

// unenrol passes the inbox's call, after APNs declared a phone gone, on to the listener, which is made after the inbox.
func (r *rooms) unenrol(ctx context.Context, d subscriptions.Device, reason outcome.Reason) error {
	removed, err := r.listener.RemoveGone(ctx, d)
	if removed {
		r.webhooks.Send(webhooks.Event{Type: webhookconfig.DeviceGone, At: time.Now(), Data: deviceData{d.ID, d.Mailbox, d.Topic, reason}})
	}
	return err
}

// alertLost tells of an alert that APNs refused for good.
func (r *rooms) alertLost(d subscriptions.Device, of subscriptions.Decision) {
	r.webhooks.Send(webhooks.Event{Type: webhookconfig.AlertLost, At: of.At, Often: true,
		Data: alertData{d.ID, d.Mailbox, of.Key.String(), of.Reason, of.Status}})
}

// mailboxChanged tells of a mailbox that gets no alerts, or gets them again.
func (r *rooms) mailboxChanged(c change) {
	kind := webhookconfig.ListensAgain
	switch {
	case c.State == subscriptions.OutOfScope:
		kind = webhookconfig.OutOfScope
	case silent(c.State):
		kind = webhookconfig.Failing
	}
	b := r.Advise(c.Standing)
	r.webhooks.Send(webhooks.Event{Type: kind, At: time.Now(),
		Data: mailboxData{c.Address, c.State, c.Since.UTC(), c.Reason, b.Name, b.Do, c.Next.UTC()}})
}

// hooks tells how the webhooks stand.
func (r *rooms) hooks() (list []api.Webhook) {
	for _, s := range r.webhooks.Standing() {
		h := api.Webhook{Name: s.Name, Waiting: s.Waiting, Delivered: s.Delivered, Lost: s.Lost, Gone: s.Gone,
			LastSuccess: s.LastSuccess, LastFailure: s.LastFailure, NextTry: s.Next}
		if s.Err != nil {
			h.Error = s.Err.Error()
		}
		list = append(list, h)
	}
	return list
}

// updateWebhooks takes up changed secrets.
func (r *rooms) updateWebhooks(c *config.Config) {
	for _, w := range c.Webhooks {
		i := slices.IndexFunc(r.hooksOf, func(had config.Webhook) bool { return sameWebhook(had, w) })
		if i < 0 || r.hooksOf[i].Secret == w.Secret && r.hooksOf[i].NextSecret == w.NextSecret {
			continue // the other changes wait for the restart
		}
		r.hooksOf[i].Secret, r.hooksOf[i].NextSecret = w.Secret, w.NextSecret
		r.webhooks.SetSecrets(w.Name, webhookSecrets(w))
		r.service.log.Info("changed secret of a webhook is in use", zap.String("webhook", w.Name))
	}
}
