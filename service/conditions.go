package service

// What is wrong now: it is read from the rooms when it is asked for, and once some seconds compared with what was wrong before, for the log.

import (
	"cmp"
	"context"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/mailbell/mailbell/check"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/internal/outcome"
	"github.com/mailbell/mailbell/subscriptions"
)

const (
	// compareEvery is between two looks at what is wrong: seconds, so that it is in the log well within a minute; 15,000 mailboxes are gone
	// through in milliseconds.
	compareEvery = 5 * time.Second
	// settleAfter is how long a condition has to be gone before it is over: a mailbox that is tried again looks well for a moment.
	settleAfter = 15 * time.Second
	// A condition that lasts is told again after firstReminder, then after twice as long each time, up to lastReminder. One that comes
	// and goes is told once in firstReminder.
	firstReminder = time.Minute
	lastReminder  = time.Hour
)

// conditions remembers since when something is wrong, and when the log was told. There are at most as many as exchange entries, accounts and
// topics times what the table of breakages has.
type conditions struct {
	log *zap.Logger

	mu    sync.Mutex
	known map[conditionKey]*knownCondition
}

// conditionKey is what makes two conditions the same one.
type conditionKey struct{ kind, name, cause string }

type knownCondition struct {
	check.Condition
	seen     time.Time     // when it was found last
	over     bool          // it is over, and kept for when the log was told
	told     time.Time     // zero: the log was not
	reminder time.Duration // after which it is told again
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

// now returns what is wrong, the worst first, with since when.
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

// compare takes in what is wrong now, and tells the log what is new, what goes on, and what is over.
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
		case k.seen.Equal(now) || now.Sub(k.seen) < settleAfter:
		case !k.over:
			l.ends(k)
		case now.Sub(k.told) >= firstReminder:
			delete(l.known, key)
		}
	}
}

// begins tells of a condition that is new, or goes on.
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

// ends tells that a condition is over, if the log was told of it.
func (l *conditions) ends(k *knownCondition) {
	k.over = true
	if k.told.Before(k.Since) { // this time it was not
		return
	}
	l.log.Info(said[k.Kind].ends, append(about(k.Condition), zap.String("cause", k.Cause), zap.Duration("lasted", k.seen.Sub(k.Since).Round(time.Second)))...)
}

// said is how the log tells of each kind.
var said = map[string]struct{ begins, ends string }{
	check.KindState:         {"the state cannot be written", "the state can be written again"},
	check.KindAPNs:          {"no alerts reach the devices of a topic", "alerts reach the devices of a topic again"},
	check.KindAccount:       {"mailboxes cannot be listened to, for their account cannot work", "a listener account works again"},
	check.KindExchange:      {"mailboxes cannot be listened to", "mailboxes are listened to again"},
	check.KindConfiguration: {"a changed configuration is not taken up", "a changed configuration is taken up"},
}

// about says in fields whom a condition concerns.
func about(c check.Condition) (fields []zap.Field) {
	switch c.Kind {
	case check.KindAPNs:
		fields = append(fields, zap.String("topic", c.Name), zap.Int("devices", c.Count))
	case check.KindAccount:
		exchange, account, _ := strings.Cut(c.Name, "/")
		fields = append(fields, zap.String("exchange", exchange), zap.String("account", account), zap.Int("mailboxes", c.Count))
	case check.KindExchange:
		fields = append(fields, zap.String("exchange", c.Name), zap.Int("mailboxes", c.Count))
	}
	if c.Example != "" {
		fields = append(fields, zap.String("example", c.Example))
	}
	return fields
}

// tell compares until ctx ends.
func (r *rooms) tell(ctx context.Context) {
	tick := time.NewTicker(compareEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		r.conditions.compare(r.wrong()) //nolint:contextcheck // asking the state has a bound of its own
	}
}

// wrong is all that is wrong now.
func (r *rooms) wrong() []check.Condition {
	g := gathering{rooms: r, list: map[conditionKey]*check.Condition{}}
	g.state()
	g.apns()
	g.accounts()
	g.mailboxes()
	list := make([]check.Condition, 0, len(g.list))
	for _, c := range g.list {
		list = append(list, *c)
	}
	return list
}

// gathering is one look.
type gathering struct {
	*rooms
	list map[conditionKey]*check.Condition
}

// add takes in one more whom a condition concerns; whom is empty where it is not one of many.
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

// state asks the state.
func (g *gathering) state() {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
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

// apns asks the topics, and whether there are devices for others.
func (g *gathering) apns() {
	of := map[string]int{}
	for _, m := range g.book.Mailboxes() {
		for _, d := range m.Devices() {
			of[d.Topic+" "+d.Environment]++
		}
	}
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

// accounts asks the listener accounts.
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

// mailboxes asks those that are not listened to, each by the account or the exchange entry that it suffers from.
func (g *gathering) mailboxes() {
	for address, s := range g.listener.Standings() {
		if s.Fault == nil || s.State == subscriptions.OutOfScope {
			continue
		}
		b := g.Advise(s)
		name := cmp.Or(s.Exchange, "none")
		account := g.accountCondition(s, b.Name)
		switch {
		case s.Fault.Peer == fault.StateStore:
			if g.stateIsWrong() { // that counts all mailboxes already
				continue
			}
			g.add(check.KindState, "", check.LevelError, s.Fault, b, address, s.Next)
		case s.Fault.Scope == fault.Account && account != "":
			g.add(check.KindAccount, account, "", s.Fault, b, address, s.Next)
		default:
			c := g.add(check.KindExchange, name, check.LevelInfo, s.Fault, b, address, s.Next)
			if c.Count > 1 || s.Fault.Scope >= fault.Account {
				c.Level = levelOf(s.Fault)
			}
		}
	}
}

// accountCondition is the account that a mailbox suffers from: its own, or while it has none the one of its entry that has the same trouble.
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

// stateIsWrong says whether asking the state has found that already.
func (g *gathering) stateIsWrong() bool {
	for key, c := range g.list {
		if key.kind == check.KindState && c.Example == "" {
			return true
		}
	}
	return false
}

// levelOf is how bad it is that many meet an error.
func levelOf(f *fault.Error) check.Level {
	if f.Remedy == fault.Fix {
		return check.LevelError
	}
	return check.LevelWarn
}
