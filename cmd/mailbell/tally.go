package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"iter"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/mailbell/mailbell/internal/quantity"
	"github.com/mailbell/mailbell/simulator"
)

// tally is a simulator with its mailboxes, which keeps account of the messages that were delivered there and of the alerts that APNs accepted
// for them.
type tally struct {
	sim   *simulator.Server
	boxes []*tallyBox
	each  func(a alertLine, title, subject string) // sees every alert as it is accepted
	more  chan struct{}                            // a signal: an alert was accepted

	mu        sync.Mutex
	delivered map[string]*delivery // by subject
	latencies []float64            // of each alert, in ms
	totals    totals
}

type tallyBox struct {
	address string
	devices []string
}

type delivery struct {
	item     string
	box      *tallyBox
	at       time.Time
	accepted map[string]bool // by device; true: the answer was cut off
}

// totals of a tally.
type totals struct {
	Messages   int `json:"messages"`
	Alerts     int `json:"alerts"`
	Lost       int `json:"lost"` // not accepted yet
	Duplicates int `json:"duplicates"`
	Resent     int `json:"resent"`
}

func (t totals) err() error {
	if t.Lost+t.Duplicates == 0 {
		return nil
	}
	return fmt.Errorf("%s lost and %d sent twice", quantity.Of(t.Lost, "alert was", "alerts were"), t.Duplicates)
}

// startTally starts a simulator. Every third of its mailboxes gets two devices, the others one.
func startTally(ctx context.Context, o simulator.Options, each func(a alertLine, title, subject string)) (*tally, error) {
	t := &tally{each: each, more: make(chan struct{}, 1), delivered: map[string]*delivery{}}
	o.OnAlert = t.alert
	var err error
	t.sim, err = simulator.Start(ctx, o)
	if err != nil {
		return nil, err
	}
	for i, address := range t.sim.Mailboxes() {
		b := &tallyBox{address: address}
		for n := range 1 + (i%3)/2 {
			b.devices = append(b.devices, fmt.Sprintf("demo-%04d-%c", i+1, 'a'+n))
		}
		t.boxes = append(t.boxes, b)
	}
	return t, nil
}

// devices are the ids of all devices with the addresses of their mailboxes.
func (t *tally) devices() iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for _, b := range t.boxes {
			for _, id := range b.devices {
				if !yield(id, b.address) {
					return
				}
			}
		}
	}
}

// enrolmentOf is what a portal sends for a device.
func enrolmentOf(id, address string) map[string]string {
	token := sha256.Sum256([]byte(id))
	return map[string]string{"mailbox": address, "token": hex.EncodeToString(token[:])}
}

var demoMail = []struct{ from, subject string }{
	{"Travel desk <travel@fabrikam.example>", "Your train leaves from platform 9"},
	{"Board office <board@fabrikam.example>", "Minutes of the last meeting"},
	{"Facilities <facilities@fabrikam.example>", "The coffee machine is back"},
	{"Service desk <desk@fabrikam.example>", "Ticket 4711 was answered"},
	{"Payroll <payroll@fabrikam.example>", "Your statement is ready"},
}

// deliver delivers the message with this number: round robin.
func (t *tally) deliver(i int) error {
	b := t.boxes[i%len(t.boxes)]
	text := demoMail[i%len(demoMail)]
	subject := fmt.Sprintf("%s (%d)", text.subject, i+1)
	now := time.Now()
	message := fmt.Sprintf("From: %s\r\nTo: <%s>\r\nSubject: %s\r\nDate: %s\r\nMessage-ID: <demo-%d@fabrikam.example>\r\n\r\nHello,\r\nthis is message %d of the demo.\r\n",
		text.from, b.address, subject, now.Format(time.RFC1123Z), i+1, i+1)
	t.mu.Lock() // over the delivery: an alert can be quicker than the item's id
	defer t.mu.Unlock()
	d := &delivery{box: b, at: now, accepted: make(map[string]bool, len(b.devices))}
	t.delivered[subject] = d
	t.totals.Messages++
	t.totals.Lost += len(b.devices)
	var err error
	d.item, err = t.sim.Deliver(b.address, time.Time{}, []byte(message))
	return err
}

// alertLine is what the demo prints of an alert that APNs accepted.
type alertLine struct {
	Device     string  `json:"device"`
	Mailbox    string  `json:"mailbox"`
	Message    string  `json:"message"`
	CollapseID string  `json:"collapse_id"`
	PushID     string  `json:"apns_id"`
	Topic      string  `json:"topic"`
	Latency    float64 `json:"latency_ms"`
}

// alert notes an alert that APNs accepts.
func (t *tally) alert(a simulator.Alert) {
	var p struct {
		APS struct {
			Alert struct{ Title, Body string } `json:"alert"`
		} `json:"aps"`
		Mailbell struct {
			Device string `json:"d"`
		} `json:"mailbell"`
	}
	if json.Unmarshal(a.Payload, &p) != nil || !a.Accepted() {
		return
	}
	device, subject := p.Mailbell.Device, p.APS.Alert.Body
	t.mu.Lock()
	defer t.mu.Unlock()
	d := t.delivered[subject]
	if d == nil {
		return
	}
	latency := float64(a.At.Sub(d.at).Microseconds()) / 1000
	switch cut, again := d.accepted[device]; {
	case again && cut:
		t.totals.Resent++
	case again:
		t.totals.Duplicates++
	default:
		t.totals.Alerts++
		t.totals.Lost--
		t.latencies = append(t.latencies, latency)
	}
	d.accepted[device] = a.Cut
	t.each(alertLine{device, d.box.address, d.item, a.Headers["apns-collapse-id"], a.Headers["apns-id"], a.Headers["apns-topic"], latency},
		p.APS.Alert.Title, subject)
	select {
	case t.more <- struct{}{}:
	default:
	}
}

// total returns the totals.
func (t *tally) total() totals {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.totals
}

// latenciesAfter returns how long the alerts after the first n took from the delivery of their messages, in ms and in order.
func (t *tally) latenciesAfter(n int) []float64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Sorted(slices.Values(t.latencies[n:]))
}

// await waits until the alerts of every message were accepted for every device of its mailbox.
func (t *tally) await(ctx context.Context, most time.Duration) {
	end := time.NewTimer(most)
	defer end.Stop()
	for t.total().Lost > 0 {
		select {
		case <-t.more:
		case <-end.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// percentile of sorted values, by the nearest rank; 0 of none.
func percentile(sorted []float64, p float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[int(math.Ceil(p/100*float64(len(sorted))))-1]
}
