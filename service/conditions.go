package service

// What is wrong now. It is collected from the rooms on request, and every few seconds for the log, which gets the differences.

import (
	"cmp"
	"context"
	"maps"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/mailbell/mailbell/check"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/internal/outcome"
	"github.com/mailbell/mailbell/listener/changes"
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

// wrong returns all that is wrong now.
func (r *rooms) wrong() []check.Condition {
	g := gathering{rooms: r, list: map[conditionKey]*check.Condition{}}
	g.state()
	g.apns()
	g.accounts()
	g.capacity()
	g.mailboxes()
	g.canaries()
	g.clocks()
	g.configuration()
	g.auditing()
	g.hooks()
	list := make([]check.Condition, 0, len(g.list))
	for _, c := range g.list {
		list = append(list, *c)
	}
	return list
}

// gathering collects the conditions of one comparison.
type gathering struct {
	*rooms
	list map[conditionKey]*check.Condition
}

// add adds one more that a condition concerns; whom is empty if it concerns only one.
func (g *gathering) add(kind, name string, level check.Level, f *fault.Error, b check.Breakage, whom string, next time.Time) *check.Condition {
	key := conditionKey{kind, name, b.Name}
	c := g.list[key]
	if c == nil {
		c = &check.Condition{Kind: kind, Name: name, Level: level, Reason: f.Error(), Cause: b.Name, Advice: b.Do, Example: whom, NextTry: next}
		g.list[key] = c
	}
	if whom != "" {
		c.Count++
		c.Example = min(cmp.Or(c.Example, whom), whom) // the first by name, so that it stays the same
	}
	if c.NextTry.IsZero() || !next.IsZero() && next.Before(c.NextTry) {
		c.NextTry = next
	}
	return c
}

// state checks the state.
func (g *gathering) state() {
	ctx, cancel := context.WithTimeout(context.Background(), pingTimeout)
	defer cancel()
	err := g.book.Ping(ctx)
	if err == nil {
		return
	}
	f := fault.Of(err)
	b := check.Advise(err, check.Circumstances{Step: check.StepState})
	c := g.add(check.KindState, "", check.LevelError, f, b, "", time.Time{})
	c.Reason, c.Count = err.Error(), len(g.book.Mailboxes())
}

// devices counts the devices by topic and environment. Most have the same as the one before: nothing is looked up for them.
func (g *gathering) devices() map[string]int {
	of := map[string]int{}
	topic, environment, n := "", "", 0
	for _, m := range g.book.Mailboxes() {
		for _, d := range m.Devices() {
			if d.Topic != topic || d.Environment != environment {
				of[topic+" "+environment] += n
				topic, environment, n = d.Topic, d.Environment, 0
			}
			n++
		}
	}
	of[topic+" "+environment] += n
	maps.DeleteFunc(of, func(_ string, n int) bool { return n == 0 })
	return of
}

// apns checks the topics, and whether there are devices for other topics.
func (g *gathering) apns() {
	of := g.devices()
	for _, t := range g.sender.Topics() {
		name := t.Topic + " " + t.Environment
		devices := of[name]
		delete(of, name)
		if t.Reason != "" {
			f := t.Fault
			if f == nil {
				f = reasonFault(string(t.Reason))
			}
			c := g.add(check.KindAPNs, name, levelOf(f), f, check.Advise(f, check.Circumstances{Step: check.StepAPNs}), "", time.Time{})
			c.Since, c.Count = t.Since, devices
		}
		for reason, phones := range t.Refused {
			f := reasonFault(string(reason))
			level := check.LevelWarn
			if phones < 2 {
				level = check.LevelInfo
			}
			g.add(check.KindAPNs, name, level, f, check.Advise(f, check.Circumstances{Step: check.StepAPNs}), "", time.Time{}).Count = phones
		}
	}
	for name, devices := range of {
		f := reasonFault(string(outcome.NoTopic))
		g.add(check.KindAPNs, name, check.LevelError, f, check.Advise(f, check.Circumstances{Step: check.StepAPNs}), "", time.Time{}).Count = devices
	}
}

// clocks compares the clock of each exchange entry's servers with ours.
func (g *gathering) clocks() {
	for _, e := range g.listener.Load() {
		if e.Skew.Abs() > check.MaxSkew {
			f := check.ClocksDiffer("the exchange entry "+e.Exchange, e.Skew)
			g.add(check.KindClock, e.Exchange, check.LevelWarn, f, check.Advise(f, check.Circumstances{}), "", time.Time{})
		}
	}
}

// configuration checks whether a changed configuration, or a changed proxy, is refused.
func (g *gathering) configuration() {
	if err := g.service.notTakenUp.Load(); err != nil {
		f := fault.Of(*err)
		g.add(check.KindConfiguration, "", check.LevelWarn, f, check.Advise(f, check.Circumstances{}), "", time.Time{}).Reason = (*err).Error()
	}
}

// auditing checks whether the audit log takes its lines.
func (g *gathering) auditing() {
	if err := g.service.audit.Failure(); err != nil {
		f := &fault.Error{Op: "audit", Code: check.CodeAudit, Scope: fault.Server, Remedy: fault.Fix, Text: err.Error()}
		g.add(check.KindAudit, "", check.LevelWarn, f, check.Advise(f, check.Circumstances{}), "", time.Time{}).Reason = err.Error()
	}
}

// hooks checks whether the receivers of events take them.
func (g *gathering) hooks() {
	for _, s := range g.webhooks.Standing() {
		if s.Err == nil {
			continue
		}
		b := check.Advise(s.Err, check.Circumstances{Step: check.StepWebhook})
		g.add(check.KindWebhook, s.Name, check.LevelWarn, fault.Of(s.Err), b, "", s.Next).Reason = s.Err.Error()
	}
}

// capacity checks whether there is room for more mailboxes.
func (g *gathering) capacity() {
	for _, e := range g.listener.Load() {
		if f := e.Scarce(); f != nil {
			g.add(check.KindCapacity, e.Exchange, check.LevelWarn, f, check.Advise(f, check.Circumstances{}), "", time.Time{})
		}
	}
}

// accounts checks the listener accounts.
func (g *gathering) accounts() {
	for _, e := range g.listener.Load() {
		for _, a := range e.Accounts {
			if a.Blocked != nil {
				b := check.Advise(a.Blocked, g.links.circumstances(e.Exchange, a.Name))
				g.add(check.KindAccount, e.Exchange+"/"+a.Name, levelOf(a.Blocked), a.Blocked, b, "", a.Next)
			}
			if a.Finding != nil {
				b := check.Advise(a.Finding, g.links.circumstances(e.Exchange, a.Name))
				g.add(check.KindAccount, e.Exchange+"/"+a.Name+" (Autodiscover)", levelOf(a.Finding), a.Finding, b, "", time.Time{})
			}
		}
	}
}

// mailboxes checks the mailboxes that are not listened to, by the account or exchange entry that causes it.
func (g *gathering) mailboxes() {
	for address, s := range g.listener.Faulty() {
		if s.State == subscriptions.OutOfScope {
			continue
		}
		b := g.Advise(s)
		name := cmp.Or(s.Exchange, "none")
		account := g.accountCondition(s, b.Name)
		switch {
		case s.Fault.Peer == fault.StateStore:
			if g.stateIsWrong() { // that condition already counts all mailboxes
				continue
			}
			g.add(check.KindState, "", check.LevelError, s.Fault, b, address, s.Next)
		case s.State == subscriptions.WaitingForCapacity:
			g.add(check.KindCapacity, name, check.LevelWarn, s.Fault, b, address, s.Next)
		case s.Fault.Scope == fault.Account && account != "":
			g.add(check.KindAccount, account, "", s.Fault, b, address, s.Next)
		default:
			c := g.add(check.KindExchange, name, check.LevelInfo, s.Fault, b, address, s.Next)
			polledByChoice := s.Fault.Code == changes.CodeNowhere
			if !polledByChoice && (c.Count > 1 || s.Fault.Scope >= fault.Account) {
				c.Level = levelOf(s.Fault)
			}
		}
	}
}

// accountCondition is the account that causes the state of a mailbox: its own or, while it has none, one of its entry with the same error.
func (g *gathering) accountCondition(s subscriptions.Standing, cause string) string {
	own := s.Exchange + "/" + s.Account
	if g.list[conditionKey{check.KindAccount, own, cause}] != nil {
		return own
	}
	for key := range g.list {
		if s.Account == "" && key.kind == check.KindAccount && key.cause == cause && strings.HasPrefix(key.name, own) {
			return key.name
		}
	}
	return ""
}

// stateIsWrong reports whether the check of the state found it already.
func (g *gathering) stateIsWrong() bool {
	for key, c := range g.list {
		if key.kind == check.KindState && c.Example == "" {
			return true
		}
	}
	return false
}

// levelOf is the level of an error that several meet.
func levelOf(f *fault.Error) check.Level {
	if f.Remedy == fault.Fix {
		return check.LevelError
	}
	return check.LevelWarn
}
