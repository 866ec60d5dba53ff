package service

// The canary: how a mailbox sends mail to itself, and how that stands.

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mailbell/mailbell/api"
	"github.com/mailbell/mailbell/canary"
	"github.com/mailbell/mailbell/check"
	"github.com/mailbell/mailbell/config"
	"github.com/mailbell/mailbell/inbox"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/subscriptions"
)

// canaryText is the body of a message, for a person who finds it.
const canaryText = "mailbell has sent this message to try the way that mail takes to an alert. It may be deleted at any time."

// newCanary makes the canary of c; nil: there is none.
func (r *rooms) newCanary(c config.Canary, metrics prometheus.Registerer) *canary.Canary {
	if len(c.Mailboxes) == 0 {
		return nil
	}
	return canary.New(canary.Options{Mailboxes: c.Mailboxes, Every: c.Every, Within: c.Within, Send: r.sendCanary, Metrics: metrics})
}

// observer is who sees the messages of the inbox go by; nil: nobody does.
func (r *rooms) observer() inbox.Observer {
	if r.canary == nil {
		return nil // and not a nil *canary.Canary
	}
	return r.canary
}

// runCanary sends and follows messages until ctx ends.
func (r *rooms) runCanary(ctx context.Context) {
	if r.canary != nil {
		r.canary.Run(ctx)
	}
}

// mailer has a mailbox send a message to itself.
type mailer interface {
	Send(ctx context.Context, at mail.Location, subject, text string) error
}

// sendCanary has a mailbox send a message to itself, by what it is read by.
func (r *rooms) sendCanary(ctx context.Context, mailbox, subject string) error {
	box := r.book.Known(mailbox)
	if box == nil {
		return &fault.Error{Op: "canary", Code: canary.CodeNoDevice, Text: "no device is enrolled for the mailbox", Scope: fault.Mailbox, Remedy: fault.Fix}
	}
	standing, record := r.listener.Standing(box, ""), box.Record()
	a := r.links.find(record.Location().Entry, record.Account)
	switch {
	case standing.State == subscriptions.Resolving:
		return canary.ErrNotYet
	case a == nil && standing.Fault != nil:
		return standing.Fault
	case a == nil:
		return canary.ErrNotYet
	}
	return a.mailer(record.Location().Source).Send(ctx, record.Location(), subject, canaryText)
}

// canaries tells how the canary of each mailbox stands.
func (r *rooms) canaries() (list []api.Canary) {
	for _, s := range r.canaryStandings() {
		c := api.Canary{Mailbox: s.Mailbox, State: string(s.State), Began: s.Began, LastSuccess: s.LastSuccess, Took: s.Took.Milliseconds(), Lost: s.Lost, Next: s.Next}
		if s.Fault != nil {
			c.Reason, c.Advice = s.Fault.Error(), r.adviseCanary(s).Do
		}
		list = append(list, c)
	}
	return list
}

func (r *rooms) canaryStandings() []canary.Standing {
	if r.canary == nil {
		return nil
	}
	return r.canary.Standing()
}

func (r *rooms) adviseCanary(s canary.Standing) check.Breakage {
	c := check.Circumstances{}
	if box := r.book.Known(s.Mailbox); box != nil {
		c = r.links.circumstances(box.Record().Location().Entry, box.Record().Account)
	}
	return check.Advise(s.Fault, c)
}

// canaries checks whether the canaries come through.
func (g *gathering) canaries() {
	for _, s := range g.canaryStandings() {
		if s.Fault == nil {
			continue
		}
		level := levelOf(s.Fault)
		if s.State == canary.Late {
			level = check.LevelWarn
		}
		g.add(finding{kind: check.KindCanary, name: s.Mailbox, level: level, fault: s.Fault, advice: g.adviseCanary(s), next: s.Next}).Count = 1
	}
}
