package inbox

// What can happen to a mailbox and its devices, at random: go test ./inbox -run WhateverHappens -seeds 10000.

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/mailbell/mailbell/internal/sicktest"
	"github.com/mailbell/mailbell/subscriptions"
)

// walk is a scene in which dice say what happens next.
type walk struct {
	*scene
	dice     *sicktest.Dice
	sick     bool
	lag      time.Duration // of reads and listings, at most
	named    int           // devices
	enrolled map[string]time.Time
	to       map[string]string // the mailboxes of devices
	came     []arrival
}

type arrival struct {
	*message
	mailbox string
	at      time.Time
}

func TestNothingIsLostOrAlertsTwiceWhateverHappens(t *testing.T) {
	sicktest.Play(t, 60, func(t *testing.T, _ uint64, dice *sicktest.Dice) {
		playScene(t, func(s *scene) {
			w := &walk{scene: s, dice: dice, enrolled: map[string]time.Time{}, to: map[string]string{}}
			w.begin()
			for range 60 {
				w.step()
				if w.below(3) > 0 {
					s.pass(w.some(3 * time.Second))
				}
			}
			w.end()
		})
	})
}

func (w *walk) below(n int) int { return int(w.dice.Float64() * float64(n)) }

func (w *walk) some(most time.Duration) time.Duration {
	return time.Duration(w.dice.Float64() * float64(most))
}

// begin starts with servers that take their time.
func (w *walk) begin() {
	wait := func() {
		var lag time.Duration
		w.source.set(func() { lag = w.lag })
		<-time.After(w.some(lag))
	}
	w.source.onRead, w.source.onList = wait, func(int) { wait() }
	w.apns.delay = 200 * time.Millisecond
	w.apns.answer = func(context.Context, subscriptions.Notification) (a subscriptions.Answer) {
		<-time.After(w.some(200 * time.Millisecond))
		w.apns.set(func() {
			if w.sick && w.below(3) == 0 {
				a = unanswered()
				a.Next = time.Now().Add(w.some(5 * time.Second))
			}
		})
		return a
	}
	w.start()
}

func (w *walk) step() {
	devices := slices.Sorted(maps.Keys(w.enrolled))
	var device string
	if len(devices) > 0 {
		device = devices[w.below(len(devices))]
	}
	switch chance := w.below(100); {
	case chance < 45:
		w.mail()
	case chance < 50 && len(w.came) > 0:
		m := w.came[w.below(len(w.came))]
		w.source.hint(m.mailbox, m.message)
	case chance < 62:
		w.named++
		w.join(fmt.Sprint("d", w.named), []string{alice, bob}[w.below(2)])
	case chance < 66 && device != "":
		w.remove(device)
		delete(w.enrolled, device)
		if w.below(3) > 0 {
			<-time.After(w.some(2 * time.Second))
			w.join(device, w.to[device])
		}
	case chance < 76:
		w.apns.set(func() { w.sick = !w.sick })
	case chance < 82:
		w.source.set(func() { w.lag = []time.Duration{0, 400 * time.Millisecond, 5 * time.Second}[w.below(3)] })
	case chance < 87:
		w.kill()
		w.start()
	case chance < 90:
		w.stop()
		w.start()
	case chance < 94:
		for _, box := range w.book.Mailboxes() {
			w.in.Open(box).List()
		}
	default:
		w.pass(w.some(20 * time.Minute))
	}
}

// join enrols a device.
func (w *walk) join(device, mailbox string) {
	w.enrol(device, mailbox)
	w.enrolled[device], w.to[device] = time.Now(), mailbox
}

// mail comes, one message or a dozen, hinted or not. One in ten cannot be read for a while, and one in ten is not found at first.
func (w *walk) mail() {
	to, several, quiet := []string{alice, bob}[w.below(2)], 1, w.below(5) == 0
	if w.below(6) == 0 {
		several = 12
	}
	come := func() {
		for range several {
			m := w.source.come(to, func(m *message) {
				m.unreadable = w.below(10) == 0
				if w.below(10) == 0 {
					m.missing = 1
				}
			})
			w.came = append(w.came, arrival{m, to, time.Now()})
		}
	}
	if quiet {
		w.source.quietly(come)
	} else {
		come()
	}
}

// end has everything well, and looks what became of each message.
func (w *walk) end() {
	w.apns.set(func() { w.sick = false })
	w.source.set(func() { w.lag = 0 })
	for _, m := range w.came {
		w.source.mend(m.message)
	}
	w.pass(2 * w.poll)
	for device, since := range w.enrolled {
		d, _ := w.book.Device(device)
		for _, m := range w.came {
			if m.mailbox != w.to[device] || !m.at.After(since) {
				continue
			}
			alone := w.apns.pushes(device, w.key(device, m.message))
			if len(alone)+len(w.apns.pushes(device, w.book.Secret().ItemKey(d.Record, m.id))) == 0 {
				w.t.Errorf("%s, which came at %v, is lost for %s, enrolled at %v: %v", m.id, m.at, device, since, w.reasons(m.mailbox, w.key(device, m.message)))
			}
		}
		w.inStep(w.to[device])
	}
}
