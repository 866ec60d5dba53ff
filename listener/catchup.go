package listener

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/subscriptions"
)

// catchUpSoon sees to it that the devices behind catch up when their reasons have ended (rule 6). It is called whenever that may
// have changed.
func (m *mailbox) catchUpSoon() {
	behind := m.box.Record().Behind
	if len(behind) == 0 {
		return
	}
	var at time.Time
	now := time.Now()
	m.mu.Lock()
	for _, b := range behind {
		if l := m.lines[b.Device]; l == nil || l.pushing == 0 { // else its answer comes first
			at = sooner(at, m.due(b, now))
		}
	}
	begin := !at.IsZero() && !m.catching && !m.closed && m.group != nil
	wait := at.Sub(now)
	if m.catchup != nil {
		m.catchup.Stop()
		m.catchup = nil
	}
	if begin && wait > 0 {
		m.catchup = time.AfterFunc(wait, m.catchUpSoon)
		begin = false
	}
	m.catching = m.catching || begin
	m.mu.Unlock()
	if !begin {
		return
	}
	if !m.l.begin() {
		return
	}
	go func() {
		defer m.l.tasks.Done()
		m.catchUp(m.l.working)
	}()
}

// due is when a device behind is to catch up: now, at the earliest. It is called with mu held.
func (m *mailbox) due(b subscriptions.Behind, now time.Time) time.Time {
	at, waits := m.awaiting[b.Device]
	if !waits {
		at = b.Next
	}
	if at.Before(now) {
		return now
	}
	return at
}

// topicReady ends the waiting of the devices of a topic (rule 12).
func (m *mailbox) topicReady(topic, environment string) {
	ready := false
	m.mu.Lock()
	for id := range m.awaiting {
		if d, ok := m.box.Device(id); !ok || d.Topic == topic && d.Environment == environment {
			delete(m.awaiting, id)
			ready = true
		}
	}
	m.mu.Unlock()
	if ready {
		m.catchUpSoon()
	}
}

// catchUp catches up the devices whose time has come, outside the mailbox's own worker, until there are none.
func (m *mailbox) catchUp(ctx context.Context) {
	var err error
	e := m.entry()
	select {
	case e.catching <- struct{}{}:
		for {
			ready := m.readyDevices()
			if len(ready) == 0 || m.l.stopping.Load() {
				break
			}
			_, there := m.where()
			if err = m.catchUpOnce(ctx, ready); err != nil {
				if _, now := m.where(); now.Entry != there.Entry || now.URL != there.URL { // it has moved meanwhile
					err = soon(err)
				} else {
					err = m.doubted(ctx, err)
				}
				m.postpone(ctx, ready, err)
				break
			}
		}
		<-e.catching
	case <-m.l.hearing.Done():
	}
	m.mu.Lock()
	m.catching = false
	m.mu.Unlock()
	m.catchUpSoon()
}

func (m *mailbox) readyDevices() (ready []subscriptions.Behind) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	for _, b := range m.box.Record().Behind {
		if l := m.lines[b.Device]; (l == nil || l.pushing == 0) && !m.due(b, now).After(now) {
			delete(m.awaiting, b.Device)
			ready = append(ready, b)
		}
	}
	return ready
}

// postpone holds devices whose mailbox could not be read.
func (m *mailbox) postpone(ctx context.Context, ready []subscriptions.Behind, err error) {
	if errors.Is(err, errStopping) || errors.Is(err, subscriptions.ErrNoMailbox) || ctx.Err() != nil {
		return
	}
	f := fault.Of(err)
	next := time.Now().Add(max(backOff(f, 1), firstWait))
	m.l.log.Info("devices could not catch up", zap.String("mailbox", m.address()), zap.Int("devices", len(ready)), zap.Error(err))
	_ = m.write(ctx, func(d *subscriptions.Draft) { // ctx ended: the next start goes on there
		for _, b := range ready {
			d.Hold(b.Device, f.Code, next)
		}
	})
}

// owed is what one device behind is to be rung for.
type owed struct {
	device  *subscriptions.Device
	old     []mail.Key // to be summed up, newest first
	newest  time.Time
	stopped atomic.Bool // it cannot be rung now
}

// catchUpOnce notes the end of the log, then lists the mailbox: what is numbered behind a device's number and up to that end is
// rung, newest first, or summed up; what the listing does not show is gone. Then the device stands at that end.
func (m *mailbox) catchUpOnce(ctx context.Context, ready []subscriptions.Behind) error {
	r := m.box.Record()
	list, clock, err := m.pages(ctx)
	if err != nil {
		return err
	}
	byKey := map[uint64]shown{}
	for _, s := range list {
		byKey[s.Key.Short()] = s
		byKey[m.itemKey(s.item).Short()] = s
	}
	var devices []*owed
	rings := map[uint64][]*owed{}
	var dues []due
	for _, b := range ready {
		d, ok := m.box.Device(b.Device)
		if !ok {
			continue
		}
		o := &owed{device: d}
		devices = append(devices, o)
		for _, e := range r.Unsettled(&b, r.End) {
			s, seen := byKey[e.Key]
			why := ""
			switch {
			case !seen:
				why = "gone"
			case s.Received.After(clock.Add(subscriptions.Slack)):
				why = "future"
			case before(s.Received, d):
				why = "before_enrolment"
			}
			if why != "" {
				m.decide(subscriptions.Decision{Key: s.Key, Device: d.ID, Outcome: "settled", Reason: why, Came: s.Received, At: time.Now()})
				continue
			}
			u := due{key: s.Key, item: s.item, received: s.Received}
			switch m.class(u, clock) {
			case ring:
				if rings[u.key.Short()] == nil {
					dues = append(dues, u)
				}
				rings[u.key.Short()] = append(rings[u.key.Short()], o)
			case sum:
				o.old = append(o.old, u.key)
				if s.Received.After(o.newest) {
					o.newest = s.Received
				}
			case tooLate:
				m.decide(subscriptions.Decision{Key: u.key, Device: d.ID, Outcome: "settled", Reason: "late", Came: u.received, At: time.Now()})
			}
		}
	}
	slices.SortStableFunc(dues, func(a, b due) int { return b.received.Compare(a.received) })
	for dues := range slices.Chunk(dues, batch) {
		if err := m.ringOwed(ctx, r.ID, dues, rings); err != nil {
			return err
		}
	}
	if err := m.writable(ctx); err != nil {
		return err
	}
	var bells sync.WaitGroup
	for _, o := range devices {
		if len(o.old) > 0 && !o.stopped.Load() {
			bells.Go(func() {
				m.soundOwed(ctx, o, bell{o.device, subscriptions.Bell{Record: r.ID, Keys: o.old, Summary: true}, o.newest})
			})
		}
	}
	bells.Wait()
	return m.write(ctx, func(d *subscriptions.Draft) {
		for _, o := range devices {
			if !o.stopped.Load() {
				d.Settle(o.device.ID, r.End)
			}
		}
	})
}

// ringOwed reads a batch and rings the devices that it is owed to.
func (m *mailbox) ringOwed(ctx context.Context, record string, dues []due, rings map[uint64][]*owed) error {
	if m.l.stopping.Load() {
		return errStopping
	}
	by := map[string]due{}
	var items []string
	for _, u := range dues {
		if slices.ContainsFunc(rings[u.key.Short()], func(o *owed) bool { return !o.stopped.Load() }) {
			by[u.item] = u
			items = append(items, u.item)
		}
	}
	if len(items) == 0 {
		return nil
	}
	if err := m.writable(ctx); err != nil {
		return err
	}
	found, _, err := m.fetch(ctx, items)
	if err != nil {
		return err
	}
	var bells sync.WaitGroup
	for _, item := range found {
		u := by[item.ID]
		for _, o := range rings[u.key.Short()] {
			switch {
			case o.stopped.Load():
			case gone(item.Err):
				m.decide(subscriptions.Decision{Key: u.key, Device: o.device.ID, Outcome: "settled", Reason: "gone", Came: u.received, At: time.Now()})
			default: // one that cannot be read rings generically: its outcome says that it was tried
				bells.Go(func() {
					m.soundOwed(ctx, o, bell{o.device, subscriptions.Bell{Record: record, Keys: []mail.Key{u.key}, Message: item.Message}, u.received})
				})
			}
		}
	}
	bells.Wait()
	return nil
}

// soundOwed rings one bell of a catch-up; its answer is written at once.
func (m *mailbox) soundOwed(ctx context.Context, o *owed, b bell) {
	e := m.entry()
	select {
	case e.ringing <- struct{}{}:
	case <-ctx.Done():
		o.stopped.Store(true)
		return
	}
	defer func() { <-e.ringing }()
	rung := false
	m.push(b, func() bool { return true }, func(a subscriptions.Answer) {
		rung = a.Result != subscriptions.NotBefore
		m.late(ctx, b, a)
	})
	if !rung {
		o.stopped.Store(true)
	}
}
