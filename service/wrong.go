package service

// What is wrong now, collected from the rooms: many mailboxes with one cause are one condition.

import (
	"cmp"
	"context"
	"maps"
	"strings"
	"time"

	"github.com/mailbell/mailbell/check"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/internal/outcome"
	"github.com/mailbell/mailbell/listener/changes"
	"github.com/mailbell/mailbell/push"
	"github.com/mailbell/mailbell/subscriptions"
)

// wrong returns all that is wrong now.
func (r *rooms) wrong() []check.Condition {
	g := gathering{rooms: r, list: map[conditionKey]*check.Condition{}}
	g.state()
	g.apns()
	g.accounts()
	g.capacity()
	g.mailboxes()
	g.contents()
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

// finding is one thing that a check has found wrong.
type finding struct {
	kind, name string
	level      check.Level
	fault      *fault.Error
	advice     check.Breakage
	whom       string    // the mailbox that it concerns, where the condition counts them; empty: it concerns one
	next       time.Time // the next try; zero: none is waited for
}

// add adds a finding to its condition.
func (g *gathering) add(f finding) *check.Condition {
	key := conditionKey{f.kind, f.name, f.advice.Name}
	c := g.list[key]
	if c == nil {
		c = &check.Condition{Kind: f.kind, Name: f.name, Level: f.level, Reason: f.fault.Error(), Cause: f.advice.Name, Advice: f.advice.Do, Example: f.whom,
			NextTry: f.next}
		g.list[key] = c
	}
	if f.whom != "" {
		c.Count++
		c.Example = min(cmp.Or(c.Example, f.whom), f.whom) // the first by name, so that it stays the same
	}
	if c.NextTry.IsZero() || !f.next.IsZero() && f.next.Before(c.NextTry) {
		c.NextTry = f.next
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
	c := g.add(finding{kind: check.KindState, level: check.LevelError, fault: fault.Of(err), advice: check.Advise(err, check.Circumstances{Step: check.StepState})})
	c.Reason, c.Count = err.Error(), len(g.book.Mailboxes())
}

// devices counts the devices by topic and environment. Most have the same as the one before: nothing is looked up for them.
func (r *rooms) devices() map[string]int {
	count := map[string]int{}
	topic, environment, n := "", "", 0
	for _, m := range r.book.Mailboxes() {
		for _, d := range m.Devices() {
			if d.Topic != topic || d.Environment != environment {
				count[topic+" "+environment] += n
				topic, environment, n = d.Topic, d.Environment, 0
			}
			n++
		}
	}
	count[topic+" "+environment] += n
	maps.DeleteFunc(count, func(_ string, n int) bool { return n == 0 })
	return count
}

// apns checks the topics, and whether there are devices for other topics.
func (g *gathering) apns() {
	devices := g.devices()
	add := func(topic string, level check.Level, f *fault.Error, count int) *check.Condition {
		c := g.add(finding{kind: check.KindAPNs, name: topic, level: level, fault: f, advice: adviseAPNs(f)})
		c.Count = count
		return c
	}
	for _, t := range g.sender.Topics() {
		name := t.Topic + " " + t.Environment
		if t.Reason != "" {
			f := topicFault(t)
			add(name, levelOf(f), f, devices[name]).Since = t.Since
		}
		delete(devices, name)
		for reason, phones := range t.Refused {
			level := check.LevelWarn
			if phones < 2 {
				level = check.LevelInfo
			}
			add(name, level, reasonFault(string(reason)), phones)
		}
	}
	for name, count := range devices { // of no topic of the configuration
		add(name, check.LevelError, reasonFault(string(outcome.NoTopic)), count)
	}
}

// topicFault is why nothing goes out for a topic.
func topicFault(t push.TopicStanding) *fault.Error {
	return cmp.Or(t.Fault, reasonFault(string(t.Reason)))
}

// adviseAPNs names what APNs says, and what to do about it.
func adviseAPNs(f *fault.Error) check.Breakage {
	return check.Advise(f, check.Circumstances{Step: check.StepAPNs})
}

// clocks compares the clock of each exchange entry's servers with ours.
func (g *gathering) clocks() {
	for _, e := range g.listener.Load() {
		if e.Skew.Abs() > check.MaxSkew {
			f := check.ClocksDiffer("the exchange entry "+e.Exchange, e.Skew)
			g.add(finding{kind: check.KindClock, name: e.Exchange, level: check.LevelWarn, fault: f, advice: check.Advise(f, check.Circumstances{})})
		}
	}
}

// configuration checks whether a changed configuration, proxy or credential is refused, or waits for a restart. The one before serves on, until it ends.
func (g *gathering) configuration() {
	refused := func(credential string, f *fault.Error, advice check.Breakage) {
		g.add(finding{kind: check.KindConfiguration, name: credential, level: check.LevelWarn, fault: f, advice: advice})
	}
	for _, a := range g.links.accounts {
		if f := a.refused.Load(); f != nil {
			refused(a.entry.Name+"/"+a.name, f, check.Advise(f, g.links.circumstances(a.entry.Name, a.name)))
		}
	}
	for _, t := range g.sender.Topics() {
		if f := t.NotTakenUp; f != nil {
			refused(t.Topic+" "+t.Environment, f, adviseAPNs(f))
		}
	}
	if err := g.service.notTakenUp.Load(); err != nil {
		f := fault.Of(*err)
		g.add(finding{kind: check.KindConfiguration, level: check.LevelWarn, fault: f, advice: check.Advise(f, check.Circumstances{})}).Reason = (*err).Error()
	}
	now := g.service.current()
	if waiting := append(processDiffers(g.service.startedWith, now), roomsDiffer(g.built, now)...); len(waiting) > 0 { // the log was told of each
		f := &fault.Error{Op: "take up the configuration", Code: check.CodeRestart, Scope: fault.Server, Remedy: fault.Fix, Text: strings.Join(waiting, ", ")}
		g.add(finding{kind: check.KindConfiguration, level: check.LevelInfo, fault: f, advice: check.Advise(f, check.Circumstances{})})
	}
}

// auditing checks whether the audit log takes its lines.
func (g *gathering) auditing() {
	if err := g.service.audit.Failure(); err != nil {
		f := &fault.Error{Op: "audit", Code: check.CodeAudit, Scope: fault.Server, Remedy: fault.Fix, Text: err.Error()}
		g.add(finding{kind: check.KindAudit, level: check.LevelWarn, fault: f, advice: check.Advise(f, check.Circumstances{})}).Reason = err.Error()
	}
}

// hooks checks whether the receivers of events take them.
func (g *gathering) hooks() {
	for _, s := range g.webhooks.Standing() {
		if s.Err == nil {
			continue
		}
		b := check.Advise(s.Err, check.Circumstances{Step: check.StepWebhook})
		g.add(finding{kind: check.KindWebhook, name: s.Name, level: check.LevelWarn, fault: fault.Of(s.Err), advice: b, next: s.Next}).Reason = s.Err.Error()
	}
}

// capacity checks whether there is room for more mailboxes.
func (g *gathering) capacity() {
	for _, e := range g.listener.Load() {
		if f := e.Scarce(); f != nil {
			g.add(finding{kind: check.KindCapacity, name: e.Exchange, level: check.LevelWarn, fault: f, advice: check.Advise(f, check.Circumstances{})})
		}
	}
}

// accounts checks the listener accounts.
func (g *gathering) accounts() {
	for _, e := range g.listener.Load() {
		for _, a := range e.Accounts {
			name, c := e.Exchange+"/"+a.Name, g.links.circumstances(e.Exchange, a.Name)
			if f := a.Blocked; f != nil {
				g.add(finding{kind: check.KindAccount, name: name, level: levelOf(f), fault: f, advice: check.Advise(f, c), next: a.Next})
			}
			if f := a.Finding; f != nil {
				g.add(finding{kind: check.KindAccount, name: name + " (Autodiscover)", level: levelOf(f), fault: f, advice: check.Advise(f, c)})
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
		f := finding{name: cmp.Or(s.Exchange, "none"), fault: s.Fault, advice: g.Advise(s), whom: address, next: s.Next}
		account := g.accountCondition(s, f.advice.Name)
		switch {
		case s.Fault.Peer == fault.StateStore:
			if g.stateIsWrong() { // that condition already counts all mailboxes
				continue
			}
			f.kind, f.name, f.level = check.KindState, "", check.LevelError
			g.add(f)
		case s.State == subscriptions.WaitingForCapacity:
			f.kind, f.level = check.KindCapacity, check.LevelWarn
			g.add(f)
		case s.Fault.Scope == fault.Account && account != "":
			f.kind, f.name = check.KindAccount, account // which is there, with its level
			g.add(f)
		default:
			f.kind, f.level = check.KindExchange, check.LevelInfo
			c := g.add(f)
			polledByChoice := s.Fault.Code == changes.CodeNowhere
			if !polledByChoice && (c.Count > 1 || s.Fault.Scope >= fault.Account) {
				c.Level = levelOf(s.Fault)
			}
		}
	}
}

// contents checks whether notifications of Graph come with their messages, where these are configured. Without them the messages are read.
func (g *gathering) contents() {
	for address, s := range g.listener.WithoutContent() {
		g.add(finding{kind: check.KindExchange, name: s.Exchange, level: check.LevelInfo, fault: s.Fault, advice: g.Advise(s), whom: address})
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
