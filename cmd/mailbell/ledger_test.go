package main_test

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/mailbell/mailbell/simulator"
)

// ledger keeps account of what was delivered, and compares it with what APNs accepted.
type ledger struct {
	sim *simulator.Server

	mu       sync.Mutex
	from     int // the number of the last alert that was settled before
	messages int
	owed     map[alert]struct{} // every alert that APNs has to accept
	kills    []span
}

// alert is one message on one device.
type alert struct{ subject, device string }

type span struct{ from, to time.Time }

func newLedger(sim *simulator.Server) *ledger {
	return &ledger{sim: sim, owed: map[alert]struct{}{}}
}

// expect enters a message that is about to be delivered, and returns its subject.
func (l *ledger) expect(devices []string) (subject string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.messages++
	subject = fmt.Sprintf("Ticket %04d was answered", l.messages)
	for _, d := range devices {
		l.owed[alert{subject, d}] = struct{}{}
	}
	return subject
}

func (l *ledger) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.messages
}

// killed notes when the process was killed: from before the signal until it was seen to have ended.
func (l *ledger) killed(from, to time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.kills = append(l.kills, span{from, to})
}

func (l *ledger) anyKill() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.kills) > 0
}

// payload is a part of the contract with the app.
type payload struct {
	APS struct {
		Alert struct {
			Title, Body string
			Key         string `json:"loc-key"`
		}
	}
	Mailbell struct{ K, M, D string }
}

func read(a simulator.Alert) (p payload, err error) {
	err = json.Unmarshal(a.Payload, &p)
	return p, err
}

// await waits until nothing is owed any more, and returns what still is.
func (l *ledger) await(ctx context.Context, within time.Duration) (lost []alert) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	accepted := map[alert]struct{}{}
	l.mu.Lock()
	n := l.from
	l.mu.Unlock()
	for {
		alerts, err := l.sim.WaitAlerts(ctx, n)
		for _, a := range alerts {
			n = a.N
			if p, err := read(a); err == nil && a.Accepted() {
				accepted[alert{p.APS.Alert.Body, p.Mailbell.D}] = struct{}{}
			}
		}
		lost = lost[:0]
		l.mu.Lock()
		for b := range l.owed {
			if _, ok := accepted[b]; !ok {
				lost = append(lost, b)
			}
		}
		l.mu.Unlock()
		if err != nil || len(lost) == 0 {
			return lost
		}
	}
}

// sums of a ledger.
type sums struct {
	alerts     int // accepted, without repeats
	resent     int
	duplicates []string
	strays     []string // accepted, and owed to nobody
}

// sum tells repeats from duplicates as rule 10 of the log does: a push with the same apns-id and collapse id is a repeat where
// the answer to the one before was cut off, or came within a second before a kill.
func (l *ledger) sum() (s sums) {
	l.mu.Lock()
	defer l.mu.Unlock()
	before := map[alert]simulator.Alert{}
	for _, a := range l.sim.Alerts(l.from) {
		if !a.Accepted() {
			continue
		}
		p, err := read(a)
		b := alert{p.APS.Alert.Body, p.Mailbell.D}
		first, again := before[b]
		before[b] = a
		_, owed := l.owed[b]
		switch {
		case err != nil || !owed:
			s.strays = append(s.strays, fmt.Sprintf("%s %s", a.At.Format(time.StampMilli), a.Payload))
		case !again:
			s.alerts++
		case a.Headers["apns-id"] == first.Headers["apns-id"] && a.Headers["apns-collapse-id"] == first.Headers["apns-collapse-id"] && l.excused(first):
			s.resent++
		default:
			s.duplicates = append(s.duplicates, fmt.Sprintf("%v at %s (%s) and %s (%s)", b,
				first.At.Format(time.StampMilli), first.Headers["apns-id"], a.At.Format(time.StampMilli), a.Headers["apns-id"]))
		}
	}
	return s
}

// settle forgets what was delivered and alerted until now. An alert of it that comes later is a stray.
func (l *ledger) settle() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if all := l.sim.Alerts(l.from); len(all) > 0 {
		l.from = all[len(all)-1].N
	}
	clear(l.owed)
	l.kills = nil
}

func (l *ledger) excused(a simulator.Alert) bool {
	if a.Cut {
		return true
	}
	for _, k := range l.kills {
		if a.At.After(k.from.Add(-time.Second)) && a.At.Before(k.to) {
			return true
		}
	}
	return false
}
