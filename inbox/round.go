package inbox

// Sending the alerts of some messages to the devices that are not behind, and the one write of what became of them (rules 2, 5, 6, 8).

import (
	"bytes"
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/mailbell/mailbell/internal/outcome"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/subscriptions"
)

const (
	// writeAfter is how long after the first acceptance the outcome is written at the latest (rule 6): what APNs had answered a
	// second before a kill is never sent again.
	writeAfter = 500 * time.Millisecond
	// firstAnswer is how long a round waits for a first answer. A device that has none by then is behind, and the mailbox goes on.
	firstAnswer = 5 * time.Second
)

// send decides about messages for the devices that are not behind, sends the alerts, and enters the outcomes in one write.
func (m *Mailbox) send(ctx context.Context, link *attachment, dues []due, clock time.Time) error {
	record := m.box.Record()
	dues = m.once(dues, record)
	if len(dues) == 0 {
		return nil
	}
	if err := m.writable(ctx); err != nil {
		return err
	}
	newestFirst(dues)
	r := newRound(m.in.accepting)
	m.last.message.Store(time.Now().UnixNano()) // before a decision about it can be seen
	devices := slices.DeleteFunc(slices.Clone(m.box.Devices()), func(d *subscriptions.Device) bool {
		return record.BehindOf(d.ID) != nil // live mail passes it by
	})
	sending, ok := link.lane.send(ctx, len(devices)*len(dues))
	if !ok {
		return ctx.Err()
	}
	defer sending.end()
	list := make([]alert, 0, len(devices)*len(dues))
	for _, device := range devices {
		list = m.alertsFor(list, device, link.Source(), dues, clock, r.skip)
	}
	m.pushAll(ctx, r, list)
	err := m.enter(ctx, r, dues)
	m.debug("outcomes recorded", dues[0].correlation, func() []zap.Field {
		return []zap.Field{zap.Int("messages", len(dues)), zap.Int("alerts", len(list)), zap.Error(err)}
	})
	return err
}

// once leaves the messages that have no outcome yet, and of several copies one. One that was listed may have its outcome by now: live mail
// is read while a listing is dealt with.
func (m *Mailbox) once(dues []due, record *subscriptions.Record) []due {
	keys := map[mail.Key]bool{}
	return slices.DeleteFunc(dues, func(d due) bool {
		if record.Has(d.key) || keys[d.key] {
			m.duplicate(d)
			return true
		}
		keys[d.key] = true
		m.seen.add(m.in.hash(d.item))
		if m.in.o.Observer != nil && d.message != nil {
			m.in.o.Observer.Read(d.key, d.message)
		}
		return false
	})
}

// round is the sending of the alerts of some messages. Answers that come after its outcome was drafted are late: they have a write of their
// own (late.go).
type round struct {
	accepting *alarm        // after writeAfter
	over      chan struct{} // closed with the round

	mu       sync.Mutex
	stage    stage
	accepted bool                                        // a push was
	left     int                                         // pushes without an answer
	write    uint64                                      // the number of the call of accepting, once a push was accepted
	sent     []answered                                  // what was answered before the draft
	late     []answered                                  // what was answered after the draft, while it was being written
	none     map[unsent]struct{}                         // which devices get no alert of which messages; nil: every device gets one of each
	held     map[subscriptions.Line]subscriptions.Answer // of phones that cannot be reached now; nil: there are none
}

// stage is how far a round has come. Each follows the one before.
type stage uint8

const (
	pushing stage = iota // pushes begin, and are waited for
	closed               // no push begins any more, and none is waited for
	drafted              // the outcome is being written: what is answered now is late
	written              // its write has ended, well or not
)

// answered is an alert with the answer to it.
type answered struct {
	*alert
	answer subscriptions.Answer
}

// unsent is a message of which a device with its phone gets no alert. Another device that takes over the phone meanwhile may get one: the
// message may be from before the enrolment of the first, and not from before that of the other.
type unsent struct {
	device string
	line   subscriptions.Line
	key    mail.Key
}

func unsentTo(d *subscriptions.Device, k mail.Key) unsent { return unsent{d.ID, d.Phone().Line(), k} }

func newRound(accepting *alarm) *round {
	return &round{accepting: accepting, over: make(chan struct{})}
}

// open says whether a push may still begin: after the write the device is behind, and its catch-up sends.
func (r *round) open() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stage == pushing
}

func (r *round) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closeLocked()
}

// closeUnanswered closes a round in which nothing is accepted yet.
func (r *round) closeUnanswered() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.accepted {
		r.closeLocked()
	}
}

func (r *round) closeLocked() {
	if r.stage == pushing {
		r.stage = closed
		close(r.over)
	}
}

// skip notes that there is no alert of a message for a device.
func (r *round) skip(d *subscriptions.Device, k mail.Key) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.none == nil {
		r.none = map[unsent]struct{}{}
	}
	r.none[unsentTo(d, k)] = struct{}{}
}

// final is an answer that APNs does not change: a phone has an acceptance of a message, or a refusal for good.
type final struct {
	line subscriptions.Line
	key  mail.Key
}

func (f final) compare(other final) int {
	return cmp.Or(cmp.Compare(f.line.Token, other.line.Token), cmp.Compare(f.line.Topic, other.line.Topic), bytes.Compare(f.key[:], other.key[:]))
}

// finals are the final answers to what was sent, sorted. It is called with mu held.
func (r *round) finals() []final {
	list := make([]final, 0, len(r.sent))
	for _, s := range r.sent {
		if s.answer.Result == subscriptions.NotBefore {
			continue
		}
		for _, k := range s.keys {
			list = append(list, final{s.line(), k})
		}
	}
	slices.SortFunc(list, final.compare)
	return list
}

// outcomes are those of messages: which devices have an acceptance of each, or a reason why not. An answer counts for the device that has
// its phone now. It is called with mu held.
func (r *round) outcomes(dues []due, devices []*subscriptions.Device) []subscriptions.Outcome {
	finals := r.finals()
	list := make([]subscriptions.Outcome, len(dues))
	for i, due := range dues {
		done := func(d *subscriptions.Device) bool {
			_, answered := slices.BinarySearchFunc(finals, final{d.Phone().Line(), due.key}, final.compare)
			_, none := r.none[unsentTo(d, due.key)]
			return answered || none
		}
		missing := slices.ContainsFunc(devices, func(d *subscriptions.Device) bool { return !done(d) })
		list[i] = subscriptions.Outcome{Key: due.key, Received: due.received, ForAll: !missing}
		if missing {
			list[i].Done = map[string]struct{}{}
			for _, d := range devices {
				if done(d) {
					list[i].Done[d.ID] = struct{}{}
				}
			}
		}
	}
	return list
}

// answer takes an answer in; false: it is late.
func (r *round) answer(a *alert, answer subscriptions.Answer) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stage >= drafted {
		return false
	}
	r.sent = append(r.sent, answered{a, answer})
	r.note(a, answer)
	return true
}

// keepLate keeps an answer that came after the draft until the round's write has ended, and is entered then. false: it has ended.
func (r *round) keepLate(a *alert, answer subscriptions.Answer) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stage == written {
		return false
	}
	r.late = append(r.late, answered{a, answer})
	return true
}

// note takes in what an answer means for the round: a phone that cannot be reached now, or the first acceptance. It is called with mu held.
func (r *round) note(a *alert, answer subscriptions.Answer) {
	switch answer.Result {
	case subscriptions.NotBefore:
		if r.held == nil {
			r.held = map[subscriptions.Line]subscriptions.Answer{}
		}
		r.held[a.line()] = answer
	case subscriptions.Accepted:
		if !r.accepted && r.stage == pushing && r.left > 1 { // the last answer ends the round by itself
			r.write = r.accepting.set(r.close)
		}
		r.accepted = true
	case subscriptions.Refused, subscriptions.Gone:
	}
}

// leave counts a push out, with its answer or without.
func (r *round) leave() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.left--
	if r.left == 0 {
		r.closeLocked()
	}
}

// stopped notes that a push does not begin because mailbell is stopping: the device is behind, and catches up after the next start.
func (r *round) stopped(a *alert) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stage < drafted {
		r.note(a, subscriptions.Answer{Result: subscriptions.NotBefore, Reason: outcome.Stopping, Next: time.Now()})
	}
}

// pushAll begins the pushes of a round and waits: for all answers, half a second from the first acceptance, or for as long as a first
// answer may take. Then the round is closed.
func (m *Mailbox) pushAll(ctx context.Context, r *round, list []alert) {
	defer r.close()
	if len(list) == 0 {
		return
	}
	r.left = len(list)
	r.sent = make([]answered, 0, len(list))
	unanswered := m.in.answering.set(r.closeUnanswered)
	for i := range list {
		a := &list[i]
		m.in.pushersOf(a.app()).push(true, func() { m.pushInRound(ctx, r, a) })
	}
	<-r.over
	m.in.answering.callOff(unanswered)
	r.accepting.callOff(r.write)
}

// pushInRound pushes one alert and takes its answer in, however late it comes. The write of the round holds what comes in time.
func (m *Mailbox) pushInRound(ctx context.Context, r *round, a *alert) {
	defer r.leave()
	answer, begun := m.push(a, r.open)
	switch {
	case !begun && m.in.stopping.Load():
		r.stopped(a)
	case begun && !r.answer(a, answer) && !r.keepLate(a, answer):
		m.enterLate(ctx, a, answer, func() {})
	}
}

// enter is the one write of what became of the messages of a round. Who is behind is decided in it.
func (m *Mailbox) enter(ctx context.Context, r *round, dues []due) error {
	err := m.write(ctx, func(d *subscriptions.Draft) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.stage = drafted
		var lines map[string]subscriptions.Line
		d.Enter(r.outcomes(dues, d.Devices), d.Devices, func(id string) (outcome.Reason, time.Time) {
			if lines == nil { // made where a device is behind, and once: a thousand may be
				lines = linesOf(d.Devices)
			}
			return m.why(r, lines[id])
		})
	})
	r.mu.Lock()
	r.stage = written
	held, sent, late := r.held, r.sent, r.late
	r.mu.Unlock()
	if err == nil {
		for line, answer := range held { // nothing is added to it any more
			m.await(line, answer)
		}
	}
	m.follow(sent)
	for _, l := range late {
		m.enterLate(ctx, l.alert, l.answer, func() {})
	}
	return err
}

// linesOf devices, by their ids.
func linesOf(devices []*subscriptions.Device) map[string]subscriptions.Line {
	lines := make(map[string]subscriptions.Line, len(devices))
	for _, d := range devices {
		lines[d.ID] = d.Phone().Line()
	}
	return lines
}

// why says why a device is behind: as the sender answered, or because no answer had come when the outcome was written.
func (m *Mailbox) why(r *round, l subscriptions.Line) (outcome.Reason, time.Time) {
	if answer, ok := r.held[l]; ok {
		return answer.Reason, nextTry(answer)
	}
	if m.flight.has(l) {
		return outcome.Unanswered, time.Time{}
	}
	return outcome.Enrolled, time.Time{} // it came, or caught up, while the alerts were sent
}
