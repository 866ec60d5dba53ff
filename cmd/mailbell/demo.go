package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/mailbell/mailbell/api"
	"github.com/mailbell/mailbell/config"
	"github.com/mailbell/mailbell/internal/pause"
	"github.com/mailbell/mailbell/service"
	"github.com/mailbell/mailbell/simulator"
)

const (
	// pace is the time between two messages of the demo: short, but no burst.
	pace = 4 * time.Millisecond
	// alertWait is how long the last alert of the demo may take.
	alertWait = 30 * time.Second
	// listenWait is how long the mailboxes of the demo may take until they are listening.
	listenWait = 2 * time.Minute
	// nowAndThen is the time between two messages of a demo without --exit.
	nowAndThen = 8 * time.Second
	maxDemo    = 15_000 // mailboxes: the most that one instance listens to
)

// demo runs the real service against the simulator.
func demo(ctx context.Context, args []string, out, log io.Writer) error {
	flags := flag.NewFlagSet("demo", flag.ContinueOnError)
	mailboxes := flags.Int("mailboxes", 5, "how many `mailboxes`; every third has two devices")
	messages := flags.Int("messages", 10, "how many `messages` in all")
	exit := flags.Bool("exit", false, "print JSON, and end with the last alert")
	if err := parse(flags, args, log); err != nil {
		return err
	}
	if *mailboxes < 1 || *mailboxes > maxDemo || *messages < 0 {
		return usageError{fmt.Errorf("mailbell demo: want 1 to %d mailboxes and no fewer than 0 messages", maxDemo)}
	}
	dir, err := os.MkdirTemp("", "mailbell-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	d := &demonstration{out: out, json: *exit, sent: map[string]*sent{}, more: make(chan struct{}, 1)}
	if d.sim, err = simulator.Start(ctx, simulator.Options{Dir: dir, Mailboxes: *mailboxes, OnAlert: d.accepted}); err != nil {
		return err
	}
	defer d.sim.Close()

	// As `run` does, but the log goes to a file, because the demo prints the alerts.
	c, err := config.Load(d.sim.ConfigFile)
	if err != nil {
		return err
	}
	if d.api, err = newClient(c, config.RoleAdmin); err != nil {
		return err
	}
	logFile, err := os.Create(filepath.Join(dir, "mailbell.log"))
	if err != nil {
		return err
	}
	defer logFile.Close()
	running, stop := context.WithCancel(ctx)
	defer stop()
	s, err := service.Open(running, c, newLog(c.Log, logFile), buildVersion())
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Run(running) }()

	err = d.play(ctx, *messages, logFile.Name())
	stop()
	return errors.Join(err, <-ended)
}

// demonstration records which messages were delivered, and which alerts APNs accepted.
type demonstration struct {
	sim   *simulator.Server
	api   *client // a client of the service that enrols, as an MDM portal does
	out   io.Writer
	json  bool
	boxes []*demoBox
	more  chan struct{} // a signal: an alert was accepted

	mu         sync.Mutex
	sent       map[string]*sent // by subject
	alerts     int
	duplicates int
	resent     int
	latencies  []float64
}

type demoBox struct {
	address string
	devices []string
}

type sent struct {
	item     string
	box      *demoBox
	at       time.Time
	accepted map[string]bool // by device; true: the answer was cut off
}

// play enrols devices, delivers messages and prints alerts.
func (d *demonstration) play(ctx context.Context, messages int, logName string) error {
	for i, address := range d.sim.Mailboxes() {
		b := &demoBox{address: address}
		for n := range 1 + (i%3)/2 { // every third has two
			id := fmt.Sprintf("demo-%04d-%c", i+1, 'a'+n)
			body := map[string]string{"mailbox": address, "token": fmt.Sprintf("%062x%02x", i+1, n)}
			if err := d.api.call(ctx, http.MethodPut, "/v1/devices/"+id, body, &api.Device{}); err != nil {
				return err
			}
			b.devices = append(b.devices, id)
		}
		d.boxes = append(d.boxes, b)
	}
	if err := d.awaitListening(ctx); err != nil {
		return err
	}
	d.say("%d mailboxes are listening. Delivering %d messages.\n\n", len(d.boxes), messages)
	for i := range messages {
		if err := d.deliver(i); err != nil {
			return err
		}
		if !pause.For(ctx, pace) {
			return nil
		}
	}
	d.await(ctx, alertWait)
	if d.json {
		return d.sum()
	}
	d.say("\nIt goes on: a message now and then, until Ctrl-C. Try it yourself:\n\n"+
		"  a message by SMTP:   %s (any mail client, to %s)\n"+
		"  the API:             curl -H \"Authorization: Bearer $(cat %s)\" %s/v1/mailboxes/%s\n"+
		"  enrol a device:      curl -X PUT -H \"Authorization: Bearer $(cat %s)\" %s/v1/devices/my-phone -d '{\"mailbox\":\"%s\",\"token\":\"%064x\"}'\n"+
		"  what APNs accepted:  curl %s/alerts\n"+
		"  break something:     curl %s/faults\n"+
		"  metrics:             curl -H \"Authorization: Bearer $(cat %s)\" %s/metrics\n"+
		"  the service's log:   %s\n\n",
		d.sim.SMTPAddr, d.boxes[0].address, d.sim.APITokenFile, d.sim.APIURL, d.boxes[0].address,
		d.sim.APITokenFile, d.sim.APIURL, d.boxes[0].address, 42, d.sim.ControlURL, d.sim.ControlURL, d.sim.APITokenFile, d.sim.APIURL, logName)
	for i := messages; pause.For(ctx, nowAndThen); i++ {
		if err := d.deliver(i); err != nil {
			return err
		}
	}
	return nil
}

func (d *demonstration) say(format string, a ...any) {
	if !d.json {
		fmt.Fprintf(d.out, format, a...)
	}
}

// awaitListening waits until every mailbox is listening.
func (d *demonstration) awaitListening(ctx context.Context) error {
	for began := time.Now(); time.Since(began) < listenWait; {
		n := 0
		for after := ""; ; {
			var page api.MailboxPage
			if err := d.api.call(ctx, http.MethodGet, "/v1/mailboxes?state=listening&limit=1000&after="+after, nil, &page); err != nil {
				return err
			}
			n += len(page.Mailboxes)
			if after = page.Next; after == "" {
				break
			}
		}
		if n == len(d.boxes) {
			return nil
		}
		if !pause.For(ctx, 20*time.Millisecond) {
			return ctx.Err()
		}
	}
	return fmt.Errorf("not every mailbox was listening within %v", listenWait)
}

var demoMail = []struct{ from, subject string }{
	{"Travel desk <travel@fabrikam.example>", "Your train leaves from platform 9"},
	{"Board office <board@fabrikam.example>", "Minutes of the last meeting"},
	{"Facilities <facilities@fabrikam.example>", "The coffee machine is back"},
	{"Service desk <desk@fabrikam.example>", "Ticket 4711 was answered"},
	{"Payroll <payroll@fabrikam.example>", "Your statement is ready"},
}

// deliver delivers the message with this number: round robin.
func (d *demonstration) deliver(i int) error {
	b := d.boxes[i%len(d.boxes)]
	text := demoMail[i%len(demoMail)]
	subject := fmt.Sprintf("%s (%d)", text.subject, i+1)
	s := &sent{box: b, at: time.Now(), accepted: map[string]bool{}}
	message := fmt.Sprintf("From: %s\r\nTo: <%s>\r\nSubject: %s\r\nDate: %s\r\nMessage-ID: <demo-%d@fabrikam.example>\r\n\r\nHello,\r\nthis is message %d of the demo.\r\n",
		text.from, b.address, subject, s.at.Format(time.RFC1123Z), i+1, i+1)
	d.mu.Lock() // over the delivery: an alert can be quicker than the item's id
	defer d.mu.Unlock()
	d.sent[subject] = s
	var err error
	s.item, err = d.sim.Deliver(b.address, time.Time{}, []byte(message))
	return err
}

// alertLine is what --exit prints of an alert that APNs accepted.
type alertLine struct {
	Device     string  `json:"device"`
	Mailbox    string  `json:"mailbox"`
	Message    string  `json:"message"`
	CollapseID string  `json:"collapse_id"`
	PushID     string  `json:"apns_id"`
	Topic      string  `json:"topic"`
	Latency    float64 `json:"latency_ms"`
}

// accepted notes an alert that APNs accepts.
func (d *demonstration) accepted(a simulator.Alert) {
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
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.sent[p.APS.Alert.Body]
	if s == nil {
		return
	}
	device := p.Mailbell.Device
	latency := float64(a.At.Sub(s.at).Microseconds()) / 1000
	if cut, again := s.accepted[device]; again && cut {
		d.resent++
	} else if again {
		d.duplicates++
	} else {
		d.alerts++
		d.latencies = append(d.latencies, latency)
	}
	s.accepted[device] = a.Cut
	if d.json {
		_ = json.NewEncoder(d.out).Encode(alertLine{device, s.box.address, s.item, a.Headers["apns-collapse-id"], a.Headers["apns-id"], a.Headers["apns-topic"], latency})
	} else {
		fmt.Fprintf(d.out, "  alert  %-14s  %-16s  %-44s  %6.1f ms\n", device, p.APS.Alert.Title, p.APS.Alert.Body, latency)
	}
	select {
	case d.more <- struct{}{}:
	default:
	}
}

func (d *demonstration) lost() (n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, s := range d.sent {
		n += len(s.box.devices) - len(s.accepted)
	}
	return n
}

// await waits until the alerts of every message were accepted for every device of its mailbox.
func (d *demonstration) await(ctx context.Context, most time.Duration) {
	end := time.NewTimer(most)
	defer end.Stop()
	for d.lost() > 0 {
		select {
		case <-d.more:
		case <-end.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// sum prints the summary. Its error says that alerts were lost or sent twice.
func (d *demonstration) sum() error {
	lost := d.lost()
	d.mu.Lock()
	defer d.mu.Unlock()
	slices.Sort(d.latencies)
	err := json.NewEncoder(d.out).Encode(struct {
		Mailboxes  int     `json:"mailboxes"`
		Messages   int     `json:"messages"`
		Alerts     int     `json:"alerts"`
		Lost       int     `json:"lost"`
		Duplicates int     `json:"duplicates"`
		Resent     int     `json:"resent"`
		P50        float64 `json:"p50_ms"`
		P99        float64 `json:"p99_ms"`
	}{len(d.boxes), len(d.sent), d.alerts, lost, d.duplicates, d.resent, percentile(d.latencies, 50), percentile(d.latencies, 99)})
	if err == nil && lost+d.duplicates > 0 {
		err = fmt.Errorf("%d alerts were lost and %d sent twice", lost, d.duplicates)
	}
	return err
}

// percentile of sorted values, by the nearest rank; 0 of none.
func percentile(sorted []float64, p float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[int(math.Ceil(p/100*float64(len(sorted))))-1]
}
