package service

// Since when something is wrong (wrong.go), for who asks; and what begins, goes on and ends, for the log, every few seconds.

import (
	"context"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/mailbell/mailbell/check"
	"github.com/mailbell/mailbell/subscriptions"
)

const (
	// compareEvery is the time between two comparisons: seconds, so that a condition is in the log well within a minute. A comparison of
	// 15,000 mailboxes takes milliseconds.
	compareEvery = 10 * time.Second
	// overAfter is how long a condition has to be absent before it is over: a mailbox that is tried again has no error for a moment.
	overAfter = 15 * time.Second
	// A condition that lasts is logged again after firstReminder, then after twice the time, up to lastReminder. One that comes and goes is
	// logged once in firstReminder.
	firstReminder = time.Minute
	lastReminder  = time.Hour
)

// conditions remembers since when something is wrong, and when it was logged. Their number is bounded by exchange entries, accounts,
// topics and canaries times the lines of the table of breakages.
type conditions struct {
	log *zap.Logger

	mu    sync.Mutex
	known map[conditionKey]*knownCondition
}

// conditionKey identifies a condition.
type conditionKey struct{ kind, name, cause string }

type knownCondition struct {
	check.Condition
	seen     time.Time     // when it was found last
	over     bool          // it is over, and kept for when the log was told
	told     time.Time     // zero: the log was not
	reminder time.Duration // after which it is logged again
}

func newConditions(log *zap.Logger) *conditions {
	return &conditions{log: log, known: map[conditionKey]*knownCondition{}}
}

func sinceOr(since, now time.Time) time.Time {
	if since.IsZero() {
		return now
	}
	return since
}

func keyOf(c check.Condition) conditionKey { return conditionKey{c.Kind, c.Name, c.Cause} }

// now returns what is wrong and since when, the worst first.
func (l *conditions) now(wrong []check.Condition) []check.Condition {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	list := make([]check.Condition, 0, len(wrong))
	for _, c := range wrong {
		k := l.known[keyOf(c)]
		if k != nil && !k.over {
			c.Since = k.Since
		}
		c.Since = sinceOr(c.Since, now)
		list = append(list, c)
	}
	check.SortConditions(list)
	return list
}

// compare updates the conditions by what is wrong now, and logs which are new, go on, or are over.
func (l *conditions) compare(wrong []check.Condition) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	check.SortConditions(wrong)
	for _, c := range wrong {
		k := l.known[keyOf(c)]
		switch {
		case k == nil:
			k = &knownCondition{reminder: firstReminder}
			l.known[keyOf(c)] = k
			c.Since = sinceOr(c.Since, now)
		case k.over:
			k.over, k.reminder = false, firstReminder
			c.Since = sinceOr(c.Since, now)
		default:
			c.Since = k.Since
		}
		k.Condition, k.seen = c, now
		if c.Level != check.LevelInfo && (k.told.IsZero() || now.Sub(k.told) >= k.reminder) {
			l.begins(k, now)
		}
	}
	for key, k := range l.known {
		switch {
		case k.seen.Equal(now) || now.Sub(k.seen) < overAfter:
		case !k.over:
			l.ends(k)
		case now.Sub(k.told) >= firstReminder:
			delete(l.known, key)
		}
	}
}

// begins logs a condition that is new, or goes on.
func (l *conditions) begins(k *knownCondition, now time.Time) {
	if !k.told.IsZero() {
		k.reminder = min(2*k.reminder, lastReminder)
	}
	k.told = now
	fields := append(about(k.Condition), zap.String("cause", k.Cause), zap.String("reason", k.Reason), zap.String("advice", k.Advice))
	if since := now.Sub(k.Since); since >= compareEvery {
		fields = append(fields, zap.Duration("for", since.Round(time.Second)))
	}
	if !k.NextTry.IsZero() {
		fields = append(fields, zap.Time("next_try", k.NextTry))
	}
	l.log.Warn(said[k.Kind].begins, fields...)
}

// ends logs that a condition is over, if it was logged before.
func (l *conditions) ends(k *knownCondition) {
	k.over = true
	if k.told.Before(k.Since) { // not this time
		return
	}
	l.log.Info(said[k.Kind].ends, append(about(k.Condition), zap.String("cause", k.Cause), zap.Duration("lasted", k.seen.Sub(k.Since).Round(time.Second)))...)
}

// said has the log message of each kind.
var said = map[string]struct{ begins, ends string }{
	check.KindState:         {"the state cannot be written", "the state can be written again"},
	check.KindAPNs:          {"no alerts reach the devices of a topic", "alerts reach the devices of a topic again"},
	check.KindAccount:       {"mailboxes cannot be listened to, for their account cannot work", "a listener account works again"},
	check.KindExchange:      {"mailboxes cannot be listened to", "mailboxes are listened to again"},
	check.KindCanary:        {"a canary does not come through", "the canary comes through again"},
	check.KindCapacity:      {"there is little or no room for mailboxes", "there is room for mailboxes again"},
	check.KindConfiguration: {"a changed configuration is not taken up", "a changed configuration is taken up"},
	check.KindAudit:         {"the audit log cannot be written to its file", "the audit log is written to its file again"},
	check.KindWebhook:       {"a webhook does not deliver", "a webhook delivers again"},
	check.KindClock:         {"a server's clock and this machine's differ", "a server's clock and this machine's agree again"},
}

// about returns the fields of what a condition concerns.
func about(c check.Condition) (fields []zap.Field) {
	switch c.Kind {
	case check.KindAPNs:
		fields = append(fields, zap.String("topic", c.Name), zap.Int("devices", c.Count))
	case check.KindAccount:
		exchange, account, _ := strings.Cut(c.Name, "/")
		fields = append(fields, zap.String("exchange", exchange), zap.String("account", account), zap.Int("mailboxes", c.Count))
	case check.KindExchange, check.KindCapacity:
		fields = append(fields, zap.String("exchange", c.Name), zap.Int("mailboxes", c.Count))
	case check.KindCanary:
		fields = append(fields, zap.String("mailbox", c.Name))
	case check.KindClock:
		fields = append(fields, zap.String("exchange", c.Name))
	case check.KindWebhook:
		fields = append(fields, zap.String("webhook", c.Name))
	case check.KindConfiguration:
		if c.Name != "" {
			fields = append(fields, zap.String("credential", c.Name))
		}
	}
	if c.Example != "" {
		fields = append(fields, zap.String("example", c.Example))
	}
	return fields
}

// tell compares again and again until ctx ends.
func (r *rooms) tell(ctx context.Context) {
	tick := time.NewTicker(compareEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		r.conditions.compare(r.wrong()) //nolint:contextcheck // the check of the state has a bound of its own
		r.watchMailboxes()
	}
}

// watchMailboxes notes which mailboxes get no alerts, and tells the webhooks where that lasts.
func (r *rooms) watchMailboxes() {
	for _, c := range r.outages.compare(time.Now(), r.listener.Faulty(), func(address string) (subscriptions.Standing, bool) {
		m := r.book.Mailbox(address)
		if m == nil {
			return subscriptions.Standing{}, false
		}
		return r.listener.Standing(m, ""), true
	}) {
		r.mailboxChanged(c)
	}
}
