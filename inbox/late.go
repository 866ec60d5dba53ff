package inbox

// Answers that have a write of their own: they came after the outcome of their message was drafted, or belong to a catch-up (rule 6).

import (
	"context"
	"errors"
	"sync"

	"go.uber.org/zap"

	"github.com/mailbell/mailbell/subscriptions"
)

// late is the answers of a mailbox that are to be entered. What waits together is entered together, so that a thousand answers and a
// slow store take a few writes.
type late struct {
	mu      sync.Mutex
	waiting []lateAnswer
	writing bool
}

type lateAnswer struct {
	answered
	entered func() // is told that the write that holds it has ended
}

// add has an answer wait to be entered. first: nobody enters what waits yet, so the caller does.
func (l *late) add(a lateAnswer) (first bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiting = append(l.waiting, a)
	first = !l.writing
	l.writing = true
	return first
}

// take takes all that waits. With none the caller is done, and the next to add is first.
func (l *late) take() []lateAnswer {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := l.waiting
	l.waiting = nil
	l.writing = len(all) > 0
	return all
}

// enterLate has an answer entered, and calls entered when that is written.
func (m *Mailbox) enterLate(ctx context.Context, a *alert, answer subscriptions.Answer, entered func()) {
	if m.late.add(lateAnswer{answered{a, answer}, entered}) {
		m.in.crew.run(func() { // the caller has to go on with the next push
			for all := m.late.take(); len(all) > 0; all = m.late.take() {
				m.enterAll(ctx, all)
			}
		})
	}
}

func (m *Mailbox) enterAll(ctx context.Context, all []lateAnswer) {
	err := m.write(ctx, func(d *subscriptions.Draft) {
		for _, l := range all {
			for _, device := range d.Devices { // whoever has the phone now
				switch {
				case device.Phone().Line() != l.line():
				case l.answer.Result == subscriptions.NotBefore:
					d.Hold(device.ID, l.answer.Reason, nextTry(l.answer))
				default:
					d.Deal(device.ID, l.keys...)
				}
			}
		}
	})
	if err != nil && !errors.Is(err, subscriptions.ErrNoMailbox) {
		m.in.log.Error("answers of APNs could not be recorded", zap.String("mailbox", m.address()), zap.Int("answers", len(all)), zap.Error(err))
	}
	list := make([]answered, len(all))
	for i, l := range all {
		list[i] = l.answered
		m.await(l.line(), l.answer)
	}
	m.follow(list)
	for _, l := range all {
		l.entered()
	}
}
