package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/mailbell/mailbell/api"
	"github.com/mailbell/mailbell/config"
	"github.com/mailbell/mailbell/internal/pause"
	"github.com/mailbell/mailbell/internal/quantity"
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
	d := &demonstration{out: out, json: *exit}
	d.phones, err = newPhones()
	if err != nil {
		return err
	}
	d.tally, err = startTally(ctx, demoOrganisation(dir, *mailboxes), d.show)
	if err != nil {
		return err
	}
	defer d.sim.Close()

	// As `run` does, but the log goes to a file, because the demo prints the alerts.
	c, err := config.Load(d.sim.ConfigFile)
	if err != nil {
		return err
	}
	d.api, err = newClient(c, config.RoleAdmin)
	if err != nil {
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

	confirmed := make(chan struct{})
	go func() {
		d.phones.run(running, d.api)
		close(confirmed)
	}()
	err = d.play(ctx, *messages, logFile.Name())
	stop()
	<-confirmed
	return errors.Join(err, <-ended)
}

// demoOrganisation has all mailboxes on premises but the last of several, which is at Exchange Online and listened to by Microsoft Graph.
func demoOrganisation(dir string, mailboxes int) simulator.Options {
	o := simulator.Options{Dir: dir, Mailboxes: mailboxes}
	if mailboxes > 1 {
		o.Hybrid, o.Graph = true, true
		o.Hosts = append(slices.Repeat([]string{simulator.OnPremises}, mailboxes-1), simulator.Online)
	}
	return o
}

// demonstration is a demo that runs.
type demonstration struct {
	*tally
	api    *client // a client of the service that enrols, as an MDM portal does
	phones *phones
	out    io.Writer
	json   bool
}

// play enrols devices, delivers messages and prints alerts.
func (d *demonstration) play(ctx context.Context, messages int, logName string) error {
	for id, address := range d.devices() {
		enrolment := enrolmentOf(id, address)
		enrolment["receipt_key"], enrolment["label"] = d.phones.key.Public(), "Demo iPhone "+id[len("demo-"):]
		if err := d.api.call(ctx, http.MethodPut, "/v1/devices/"+id, enrolment, &api.Device{}); err != nil {
			return err
		}
	}
	if err := d.awaitListening(ctx); err != nil {
		return err
	}
	d.say("%s listened to%s. Delivering %s.\n\n", quantity.Of(len(d.boxes), "mailbox is", "mailboxes are"), d.byGraph(), quantity.Of(messages, "message", "messages"))
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
		"  the admin page:      %s/admin/ (sign in with the token in %s)\n"+
		"  the API:             curl -H \"Authorization: Bearer $(cat %s)\" %s/v1/mailboxes/%s\n"+
		"  enrol a device:      curl -X PUT -H \"Authorization: Bearer $(cat %s)\" %s/v1/devices/my-phone -d '{\"mailbox\":\"%s\",\"token\":\"%064x\"}'\n"+
		"  what APNs accepted:  curl %s/alerts\n"+
		"  break something:     curl %s/faults\n"+
		"  metrics:             curl -H \"Authorization: Bearer $(cat %s)\" %s/metrics\n"+
		"  the service's log:   %s\n\n",
		d.sim.SMTPAddr, d.boxes[0].address, d.sim.APIURL, d.sim.APITokenFile, d.sim.APITokenFile, d.sim.APIURL, d.boxes[0].address,
		d.sim.APITokenFile, d.sim.APIURL, d.boxes[0].address, 42, d.sim.ControlURL, d.sim.ControlURL, d.sim.APITokenFile, d.sim.APIURL, logName)
	for i := messages; pause.For(ctx, nowAndThen); i++ {
		if err := d.deliver(i); err != nil {
			return err
		}
	}
	return nil
}

// byGraph says which mailbox is listened to by Microsoft Graph.
func (d *demonstration) byGraph() string {
	if len(d.boxes) == 1 {
		return ""
	}
	return ", the last one, " + d.boxes[len(d.boxes)-1].address + ", at Exchange Online by Microsoft Graph"
}

func (d *demonstration) say(format string, a ...any) {
	if !d.json {
		fmt.Fprintf(d.out, format, a...)
	}
}

// awaitListening waits until every mailbox is listening.
func (d *demonstration) awaitListening(ctx context.Context) error {
	for began := time.Now(); time.Since(began) < listenWait; {
		n, err := d.api.listening(ctx)
		if err != nil {
			return err
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

// show prints an alert that APNs accepted.
func (d *demonstration) show(a alertLine, title, subject string) {
	if d.json {
		_ = json.NewEncoder(d.out).Encode(a)
		return
	}
	d.phones.show(a)
	fmt.Fprintf(d.out, "  alert  %-14s  %-16s  %-44s  %6.1f ms\n", a.Device, title, subject, a.Latency)
}

// sum prints the summary. Its error says that alerts were lost or sent twice.
func (d *demonstration) sum() error {
	t, took := d.total(), d.latenciesAfter(0)
	err := json.NewEncoder(d.out).Encode(struct {
		Mailboxes int `json:"mailboxes"`
		totals
		P50 float64 `json:"p50_ms"`
		P99 float64 `json:"p99_ms"`
	}{len(d.boxes), t, percentile(took, 50), percentile(took, 99)})
	if err == nil {
		err = t.err()
	}
	return err
}
