package listener

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/mailbell/mailbell/ews"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/internal/pause"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/subscriptions"
)

// batch is how many items are read and rung together: the most that Exchange advises for one GetItem.
const batch = 10

// due is a message whose turn has come.
type due struct {
	key      mail.Key
	item     string
	received time.Time     // as it is believed (rule 4), on the server's clock
	hinted   time.Time     // on ours; zero: it was listed only
	message  *mail.Message // nil: not read yet, or it cannot be
}

// age counts from the hint, or from the received time where there was none (rule 8).
func (d due) age(clock time.Time) time.Duration {
	if !d.hinted.IsZero() {
		return time.Since(d.hinted)
	}
	return clock.Sub(d.received)
}

// read deals with the items that hints named (rule 2). Each one that is dealt with goes out of hints; what a listing has to decide
// stays there, with the key under which it was read in doubted.
func (m *mailbox) read(ctx context.Context, hints map[string]time.Time, doubted map[string]due) error {
	order := slices.SortedFunc(maps.Keys(hints), func(a, b string) int { return cmp.Or(hints[a].Compare(hints[b]), cmp.Compare(a, b)) })
	for items := range slices.Chunk(order, batch) {
		if m.l.stopping.Load() {
			return errStopping
		}
		found, clock, err := m.fetch(ctx, items)
		if err != nil {
			return err
		}
		var dues []due
		r := m.box.Record()
		for _, item := range found {
			d := due{item: item.ID, hinted: hints[item.ID]}
			switch {
			case item.Err == nil:
				m.readable(item.ID)
				d.key, d.received, d.message = m.key(item.Message), item.Message.Received, item.Message
			case gone(item.Err):
				m.readable(item.ID)
				m.decide(subscriptions.Decision{Outcome: "gone", Reason: "gone", At: time.Now()})
				delete(hints, item.ID)
				continue
			case !m.giveUp(item, d):
				delete(hints, item.ID) // tried again by itself
				continue
			default:
				d.key, d.received = m.itemKey(item.ID), clock
			}
			switch {
			case r.Has(d.key) || r.Has(m.itemKey(item.ID)):
				delete(hints, item.ID)
			case !believed(d.received, clock, r, m.box.Devices()):
				doubted[item.ID] = d
			default:
				dues = append(dues, d)
			}
		}
		if err := m.deal(ctx, dues, clock); err != nil {
			return err
		}
		for _, d := range dues {
			delete(hints, d.item)
		}
	}
	return nil
}

// believed says whether the received time that a read told can decide (rule 4): one that would decide against a bell cannot,
// for some servers tell the sender's Date there.
func believed(received, clock time.Time, r *subscriptions.Record, devices []*subscriptions.Device) bool {
	if !r.Started() || received.Unix() < r.Since || received.After(clock.Add(subscriptions.Slack)) {
		return false
	}
	return !slices.ContainsFunc(devices, func(d *subscriptions.Device) bool { return before(received, d) })
}

// before says whether a message is from before an enrolment (rule 5); an enrolment whose time on the server's clock is not known yet is not over.
func before(received time.Time, d *subscriptions.Device) bool {
	return d.Since.IsZero() || received.Unix() < d.Since.Unix()
}

// deal rings what is fresh, sums up what grew old while it waited, and settles what is too old for a bell.
func (m *mailbox) deal(ctx context.Context, dues []due, clock time.Time) error {
	var fresh, old, late []due
	for _, d := range dues {
		switch m.class(d, clock) {
		case ring:
			fresh = append(fresh, d)
		case sum:
			old = append(old, d)
		case tooLate:
			late = append(late, d)
		}
	}
	if err := m.ring(ctx, fresh, false); err != nil {
		return err
	}
	if err := m.ring(ctx, old, true); err != nil {
		return err
	}
	return m.settle(ctx, late, "late")
}

// class is what a message's age means (rule 8).
type class uint8

const (
	ring class = iota
	sum
	tooLate
)

func (m *mailbox) class(d due, clock time.Time) class {
	switch age := d.age(clock); {
	case age > subscriptions.Window:
		return tooLate
	case age > m.l.o.MaxAge:
		return sum
	}
	return ring
}

func (m *mailbox) key(msg *mail.Message) mail.Key {
	return m.l.o.Book.Secret().Key(m.box.Record().ID, msg)
}

func (m *mailbox) itemKey(item string) mail.Key {
	return m.l.o.Book.Secret().ItemKey(m.box.Record().ID, item)
}

func gone(err error) bool {
	e, ok := errors.AsType[*ews.Error](err)
	return ok && e.Row.Code == "ErrorItemNotFound"
}

// fetch reads items. An error of one item is with that item; an answer that cannot be read as a whole is asked for one by one, so
// that one sick message does not hide the others.
func (m *mailbox) fetch(ctx context.Context, items []string) (found []ews.Item, clock time.Time, err error) {
	found, clock, err = m.call(ctx, items)
	if err == nil || fault.Of(err).Scope != fault.Message {
		return found, clock, err
	}
	if len(items) == 1 {
		return []ews.Item{{ID: items[0], Err: err}}, m.entry().now(), nil
	}
	for _, item := range items {
		one, at, err := m.fetch(ctx, []string{item})
		if err != nil {
			return nil, at, err
		}
		found, clock = append(found, one...), at
	}
	return found, clock, nil
}

func (m *mailbox) call(ctx context.Context, items []string) ([]ews.Item, time.Time, error) {
	a, p := m.where()
	if a == nil {
		return nil, time.Time{}, errStopping
	}
	if err := a.allowed(); err != nil {
		return nil, time.Time{}, err
	}
	found, c, err := a.Source.Read(ctx, p, items)
	if err := a.note(err); err != nil {
		return nil, time.Time{}, err
	}
	for _, item := range found { // what concerns more than the item concerns the whole turn
		if item.Err != nil && fault.Of(item.Err).Scope > fault.Message {
			return nil, time.Time{}, a.note(item.Err)
		}
	}
	return found, m.answered(a, c), nil
}

// where is who reads the mailbox, and where; nil: it has no place.
func (m *mailbox) where() (*account, mail.Location) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.place.URL == "" {
		return nil, mail.Location{}
	}
	return m.account, m.place
}

// answered takes in what an answer tells of its server, and returns that server's clock.
func (m *mailbox) answered(a *account, c Clock) time.Time {
	m.mu.Lock()
	if c.Backend != "" && m.account == a && m.place.URL != "" {
		m.place.Server = c.Backend
	}
	m.mu.Unlock()
	return a.e.tell(c)
}

// tries of an item that cannot be read while its mailbox can (rule 9).
type tries struct {
	n     int
	next  time.Time // a read before does not count
	again *time.Timer
}

// A message is tried three times within ten minutes.
var readAgain = [...]time.Duration{time.Minute, 5 * time.Minute}

// giveUp counts a failed read of an item and says whether it was the last: then it rings generically. Until then the item is
// hinted again by itself, and the mailbox listed, for no listing is complete without it.
func (m *mailbox) giveUp(item ews.Item, d due) bool {
	last, counted := m.try(item.ID, d.hinted)
	if counted {
		f := fault.Of(item.Err)
		m.decide(subscriptions.Decision{Key: d.key, Outcome: "waiting", Reason: f.Code, Came: d.received, At: time.Now()})
		m.l.log.Warn("a message cannot be read", zap.String("mailbox", m.address()), zap.Bool("rings_generically", last), zap.Error(f))
	}
	return last
}

// readable forgets the tries of an item that could be read in the end, or is gone.
func (m *mailbox) readable(item string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if t := m.tries[item]; t != nil {
		if t.again != nil {
			t.again.Stop()
		}
		delete(m.tries, item)
	}
}

// try counts a try, unless it came before its time.
func (m *mailbox) try(item string, hinted time.Time) (last, counted bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	t := m.tries[item]
	if t == nil {
		if len(m.tries) >= maxHints {
			return true, true
		}
		if m.tries == nil {
			m.tries = map[string]*tries{}
		}
		t = &tries{}
		m.tries[item] = t
	} else if time.Now().Before(t.next) {
		return false, false
	}
	if t.n >= len(readAgain) {
		delete(m.tries, item)
		return true, true
	}
	t.next = time.Now().Add(readAgain[t.n])
	if !m.closed {
		t.again = time.AfterFunc(readAgain[t.n], func() {
			m.hint(item, hinted)
			m.markListing()
		})
	}
	t.n++
	return false, true
}

// writeAgain is between two tries of a write. It does not grow: what was accepted is to be written as soon as it can be, and
// all that waits is tried in one commit.
const writeAgain = 300 * time.Millisecond

// write makes a change durable that alerts were accepted for: it is tried until it is written, or the process is told to end.
func (m *mailbox) write(ctx context.Context, change func(d *subscriptions.Draft)) error {
	for said := false; ; said = true {
		err := m.box.Update(ctx, change)
		if err == nil || errors.Is(err, subscriptions.ErrNoMailbox) || ctx.Err() != nil {
			return err
		}
		if !said {
			m.l.log.Error("the state could not be written; it is tried until it is", zap.String("mailbox", m.address()), zap.Error(err))
		}
		pause.For(ctx, writeAgain)
	}
}
