package listener

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/subscriptions"
)

const (
	// half is how long after the first acceptance the outcome is written at the latest (rule 6): what APNs had answered a second
	// before a kill is never sent again.
	half = 500 * time.Millisecond
	// patience is how long a batch waits for a first answer. A device that has none by then is behind, and the mailbox goes on.
	patience = 5 * time.Second
	// unsignalled is when a device is tried again whose sender tells by itself when it is ready, should that word not come: rarely,
	// for each try lists the mailbox, and an APNs that is away keeps thousands of devices behind.
	unsignalled = 15 * time.Minute
)

// round is the ringing of one batch of messages to the devices in step. Answers that come once it is closed are late: they enter
// the record by themselves.
type round struct {
	first chan struct{} // closed with the first acceptance
	all   chan struct{} // closed with the last answer

	mu       sync.Mutex
	closed   bool // no bell begins any more
	written  bool // an answer is late from now on
	accepted bool
	left     int
	done     map[mail.Key]map[string]struct{}
	held     map[string]subscriptions.Answer // of devices that cannot be rung now
	fresh    []answered                      // what came since the write was last tried
}

// answered is a bell with its answer.
type answered struct {
	bell
	subscriptions.Answer
}

// begin says whether a bell may still begin: after the write the device is behind, and its catch-up rings it.
func (r *round) begin() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.closed
}

// answer takes an answer in; false: it is late.
func (r *round) answer(b bell, a subscriptions.Answer) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.written {
		return false
	}
	r.fresh = append(r.fresh, answered{b, a})
	if a.Result == subscriptions.NotBefore {
		r.held[b.device.ID] = a
	} else {
		r.settle(b.device.ID, b.Keys)
	}
	if a.Result == subscriptions.Accepted && !r.accepted {
		r.accepted = true
		close(r.first)
	}
	return true
}

// settle notes an acceptance, or a reason why not. It is called with mu held, or before the round has begun.
func (r *round) settle(device string, keys []mail.Key) {
	for _, k := range keys {
		if r.done[k] == nil {
			r.done[k] = map[string]struct{}{}
		}
		r.done[k][device] = struct{}{}
	}
}

func (r *round) leave() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.left--; r.left == 0 {
		close(r.all)
	}
}

// bell is one alert of a round.
type bell struct {
	device *subscriptions.Device
	subscriptions.Bell
	came time.Time
}

// ring rings the devices in step for messages, each by itself or all in one summary, and enters the outcome: one call and one
// write (rules 2, 5, 6, 8). Reading never waits for APNs: another mailbox's worker goes on meanwhile.
func (m *mailbox) ring(ctx context.Context, dues []due, summary bool) error {
	record := m.box.Record()
	dues = slices.DeleteFunc(dues, func(u due) bool { return record.Has(u.key) }) // live mail is read while a listing is dealt with
	if len(dues) == 0 {
		return nil
	}
	if err := m.writable(ctx); err != nil {
		return err
	}
	slices.SortStableFunc(dues, func(a, b due) int { return b.received.Compare(a.received) })
	rd := &round{first: make(chan struct{}), all: make(chan struct{}), done: map[mail.Key]map[string]struct{}{}, held: map[string]subscriptions.Answer{}}
	var bells []bell
	for _, d := range m.box.Devices() {
		if record.BehindOf(d.ID) != nil {
			continue // live mail passes it by
		}
		var keys []mail.Key
		for _, u := range dues {
			if before(u.received, d) {
				rd.settle(d.ID, []mail.Key{u.key})
				m.decide(subscriptions.Decision{Key: u.key, Device: d.ID, Outcome: "settled", Reason: "before_enrolment", Came: u.received, At: time.Now()})
				continue
			}
			keys = append(keys, u.key)
			if !summary {
				bells = append(bells, bell{d, subscriptions.Bell{Record: record.ID, Keys: []mail.Key{u.key}, Message: u.message}, u.received})
			}
		}
		if summary && len(keys) > 0 {
			bells = append(bells, bell{d, subscriptions.Bell{Record: record.ID, Keys: keys, Summary: true}, dues[0].received})
		}
	}
	m.send(ctx, rd, bells)

	err := m.write(ctx, func(d *subscriptions.Draft) {
		rd.mu.Lock()
		defer rd.mu.Unlock()
		rd.fresh = nil
		outcomes := make([]subscriptions.Outcome, len(dues))
		for i, u := range dues {
			outcomes[i] = subscriptions.Outcome{Key: u.key, Received: u.received, Done: rd.done[u.key]}
		}
		d.Enter(outcomes, d.Devices, func(id string) (string, time.Time) { return m.why(rd, id) })
	})
	m.mu.Lock()
	m.message = time.Now()
	m.mu.Unlock()
	if err != nil {
		return err
	}
	rd.mu.Lock()
	rd.written = true
	fresh := rd.fresh
	rd.mu.Unlock()
	for _, a := range fresh { // they came between the last look at them and the end of the write
		m.late(ctx, a.bell, a.Answer)
	}
	for id, a := range rd.held {
		m.await(id, a)
	}
	m.catchUpSoon()
	return nil
}

// writable says whether what is rung now could be written down; else it could ring again.
func (m *mailbox) writable(ctx context.Context) error {
	err := m.box.Writable(ctx)
	if err == nil || errors.Is(err, subscriptions.ErrNoMailbox) {
		return err
	}
	return &fault.Error{Op: "state", Code: "state_away", Text: "the state cannot be written", Scope: fault.Mailbox, Remedy: fault.Retry, Err: err}
}

// await has a device wait for the word that its topic is ready, which may have come since. The process that is started next need
// not wait: it does not know.
func (m *mailbox) await(device string, a subscriptions.Answer) {
	d, ok := m.box.Device(device)
	if !ok || a.Result != subscriptions.NotBefore || !a.Next.IsZero() {
		return
	}
	m.mu.Lock()
	if m.awaiting == nil {
		m.awaiting = map[string]time.Time{}
	}
	m.awaiting[device] = time.Now().Add(unsignalled)
	m.mu.Unlock()
	if m.l.o.Ringer.Ready(d.Topic, d.Environment) {
		m.topicReady(d.Topic, d.Environment)
	}
}

// send begins the bells and waits: for all answers, half a second from the first acceptance, or until patience is at an end.
// Then the round is closed.
func (m *mailbox) send(ctx context.Context, rd *round, bells []bell) {
	rd.left = len(bells)
	for _, b := range bells {
		if !m.l.begin() { // the device is behind, and the next start goes on there
			rd.held[b.device.ID] = subscriptions.Answer{Reason: "stopping", Next: time.Now()}
			rd.leave()
			continue
		}
		go func() {
			defer m.l.tasks.Done()
			m.sound(ctx, rd, b)
		}()
	}
	if len(bells) > 0 {
		wait := time.NewTimer(patience)
		defer wait.Stop()
		first := rd.first
		for waiting := true; waiting; {
			select {
			case <-rd.all:
				waiting = false
			case <-first:
				first = nil
				wait.Reset(half)
			case <-wait.C:
				waiting = false
			}
		}
	}
	rd.mu.Lock()
	rd.closed = true
	rd.mu.Unlock()
}

// why says why a device is behind: as the sender answered, or because no answer had come when the outcome was written.
func (m *mailbox) why(rd *round, device string) (string, time.Time) {
	if a, ok := rd.held[device]; ok {
		return a.Reason, again(a)
	}
	if m.pushing(device) {
		return "unanswered", time.Time{}
	}
	return "enrolled", time.Time{} // it came, or got level, while the batch was rung
}

// again is when a device that cannot be rung now is tried again; zero: when the sender says that it is ready.
func again(a subscriptions.Answer) time.Time {
	if soon := time.Now().Add(firstRetry); !a.Next.IsZero() && a.Next.Before(soon) {
		return soon
	}
	return a.Next
}

// sound rings one bell and takes its answer in, however late it comes.
func (m *mailbox) sound(ctx context.Context, rd *round, b bell) {
	defer rd.leave()
	e := m.entry()
	select {
	case e.ringing <- struct{}{}:
	case <-ctx.Done():
		return
	}
	defer func() { <-e.ringing }()
	m.push(b, rd.begin, func(a subscriptions.Answer) {
		if !rd.answer(b, a) {
			m.late(ctx, b, a)
		}
	})
}

// push rings a bell, if its device is still enrolled, and has its answer entered before another may ring the device.
// begin is asked once the bell is counted: whoever looks then either sees it, or has kept it from beginning.
func (m *mailbox) push(b bell, begin func() bool, enter func(a subscriptions.Answer)) {
	l := m.dial(b.device.ID)
	if l == nil {
		return
	}
	if !begin() {
		m.hungUp(b.device.ID, l)
		m.catchUpSoon()
		return
	}
	a := m.l.o.Ringer.Ring(l.ctx, *b.device, b.Bell)
	m.note(b, a)
	enter(a)
	m.hungUp(b.device.ID, l)
	if a.Environment != "" {
		m.environment(*b.device, a.Environment)
	}
	if a.Result == subscriptions.Gone {
		if _, err := m.l.Remove(m.l.working, b.device.ID); err != nil {
			m.l.log.Error("a device that APNs declared gone could not be removed", zap.String("mailbox", m.address()), zap.Error(err))
		}
	}
	m.catchUpSoon()
}

// environment moves an enrolment to where APNs knows its token, unless it was changed meanwhile. It is tried again with the next
// alert where it could not be written.
func (m *mailbox) environment(was subscriptions.Device, environment string) {
	err := m.box.Update(m.l.working, func(d *subscriptions.Draft) {
		for _, device := range d.Devices {
			if device.ID == was.ID && device.Token == was.Token && device.Environment == was.Environment {
				device.Environment = environment
				d.Put(device)
			}
		}
	})
	if err == nil {
		m.l.log.Info("a device was enrolled for the wrong environment of APNs", zap.String("device", was.ID), zap.String("moved_to", environment))
	}
}

// late enters an answer that came after the write that its message entered with, or one of a catch-up: one key more.
func (m *mailbox) late(ctx context.Context, b bell, a subscriptions.Answer) {
	err := m.write(ctx, func(d *subscriptions.Draft) {
		if a.Result == subscriptions.NotBefore {
			d.Hold(b.device.ID, a.Reason, again(a))
		} else {
			d.Rung(b.device.ID, b.Keys...)
		}
	})
	if err != nil && !errors.Is(err, subscriptions.ErrNoMailbox) {
		m.l.log.Error("an answer of APNs could not be recorded", zap.String("mailbox", m.address()), zap.Error(err))
	}
	m.await(b.device.ID, a)
}

// note keeps the decision that an answer is.
func (m *mailbox) note(b bell, a subscriptions.Answer) {
	d := subscriptions.Decision{Key: b.Keys[0], Device: b.device.ID, Reason: a.Reason, Came: b.came, At: a.At, PushID: a.PushID, Status: a.Status}
	if d.At.IsZero() {
		d.At = time.Now()
	}
	switch a.Result {
	case subscriptions.Accepted:
		if d.Outcome = "rung"; b.Summary {
			d.Outcome = "summed_up"
		}
	case subscriptions.Refused:
		d.Outcome = "settled"
	case subscriptions.Gone:
		d.Outcome = "removed"
	case subscriptions.NotBefore:
		d.Outcome = "behind"
	}
	m.decide(d)
}
