package main

// Measures what this machine can do: the real service, a process of its own, against the simulator, in this one.

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
	"runtime"
	"text/tabwriter"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/mailbell/mailbell/api"
	"github.com/mailbell/mailbell/config"
	"github.com/mailbell/mailbell/internal/pause"
	"github.com/mailbell/mailbell/internal/quantity"
	"github.com/mailbell/mailbell/simulator"
)

const (
	// portalClients is how many connections enrol at once, as an MDM portal may have.
	portalClients = 16
	// benchWait bounds each wait of a measurement: 15,000 mailboxes take well under a minute on two cores.
	benchWait = 10 * time.Minute
	// settle is the time from the last enrolment, or the last alert, until memory and CPU are looked at.
	settle = 2 * time.Second
	// look is how often the service is asked what it has reached: often enough for tenths of a second, and no load.
	look = 100 * time.Millisecond
	// bursts is how often a message is delivered to every mailbox at once: the first one meets a service that is not warm.
	bursts = 3
)

// figures are what bench measures. The names of the JSON carry the units.
type figures struct {
	Version   string `json:"version"`
	CPUs      int    `json:"cpus"`
	State     string `json:"state"`
	Mailboxes int    `json:"mailboxes"`
	Devices   int    `json:"devices"`

	EnrolmentsPerSecond float64 `json:"enrolments_per_s"`
	ListeningSeconds    float64 `json:"listening_s"` // from the first enrolment until all are listened to
	RestartSeconds      float64 `json:"restart_s"`   // from a start with everything known until all are listened to

	Rate       float64 `json:"rate_per_s"` // messages, as they were delivered
	P50        float64 `json:"p50_ms"`     // from the delivery of a message until APNs has the alert
	P99        float64 `json:"p99_ms"`
	CPUAtRate  float64 `json:"cpu_us_per_message"`
	BurstRate  float64 `json:"burst_messages_per_s"` // a message to every mailbox at once
	CPUAtBurst float64 `json:"burst_cpu_us_per_message"`
	IdleCPU    float64 `json:"idle_cpu_ms_per_s"`

	MemorySteady float64 `json:"memory_steady_mib"` // resident, with all listened to
	MemoryAfter  float64 `json:"memory_after_mib"`  // resident, after the bursts

	totals
}

// bench measures.
func bench(ctx context.Context, args []string, out, log io.Writer) error {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	mailboxes := flags.Int("mailboxes", 1000, "how many `mailboxes`; every third has two devices")
	rate := flags.Float64("rate", 50, "the `messages` a second at which the latency is measured")
	duration := flags.Duration("duration", 20*time.Second, "how long the latency is measured, a `duration`")
	state := flags.String("state", embeddedState, "the `kind` of state: "+embeddedState+", or "+redisState+", for which this machine needs a redis-server")
	asJSON := flags.Bool("json", false, "print JSON")
	if err := parse(flags, args, log); err != nil {
		return err
	}
	switch {
	case *mailboxes < 1 || *mailboxes > maxDemo:
		return usageError{fmt.Errorf("mailbell bench: want 1 to %d mailboxes: more take a second instance", maxDemo)}
	case *rate <= 0 || *duration <= 0 || *rate*duration.Seconds() > maxMessages:
		return usageError{fmt.Errorf("mailbell bench: want a rate and a duration above 0, and %d messages at most", maxMessages)}
	case *state != embeddedState && *state != redisState:
		return usageError{fmt.Errorf("mailbell bench: -state %s: want %s or %s", *state, embeddedState, redisState)}
	}
	dir, err := os.MkdirTemp("", "mailbell-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	b := &benchmark{
		dir: dir, log: log, rate: *rate, duration: *duration,
		figures: figures{Version: buildVersion(), CPUs: runtime.NumCPU(), State: *state, Mailboxes: *mailboxes},
	}
	err = b.run(ctx)
	switch {
	case err != nil:
	case *asJSON:
		err = json.NewEncoder(out).Encode(b.figures)
	default:
		err = b.print(out)
	}
	return errors.Join(err, b.totals.err())
}

// benchmark is a measurement under way.
type benchmark struct {
	dir      string
	log      io.Writer
	rate     float64 // messages a second
	duration time.Duration
	mail     *tally
	service  *child
	api      *client
	next     int // the number of the next message
	figures
}

// maxMessages bounds the messages of the measurement of latency: as many as are kept account of in well under a gigabyte.
const maxMessages = 1_000_000

func (b *benchmark) run(ctx context.Context) (err error) {
	o := simulator.Options{Dir: b.dir, Mailboxes: b.Mailboxes, AlertLog: -1}
	if b.State == redisState {
		redis, address, err := startRedis(ctx, b.dir)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, redis.stop()) }()
		o.Redis = address
	}
	b.mail, err = startTally(ctx, o, func(alertLine, string, string) {})
	if err != nil {
		return err
	}
	defer b.mail.sim.Close()
	c, err := config.Load(b.mail.sim.ConfigFile)
	if err != nil {
		return err
	}
	b.api, err = newClient(c, config.RoleAdmin)
	if err != nil {
		return err
	}
	if err := b.start(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.service.stop()) }()
	for _, measure := range []func(context.Context) error{b.enrol, b.restart, b.idle, b.latency, b.burst} {
		if err := measure(ctx); err != nil {
			return errors.Join(err, b.service.why(), ctx.Err())
		}
	}
	b.totals = b.mail.total()
	return nil
}

// say tells a person who waits what is measured.
func (b *benchmark) say(format string, a ...any) { fmt.Fprintf(b.log, format+"\n", a...) }

// start starts the service.
func (b *benchmark) start(ctx context.Context) (err error) {
	b.service, err = startSelf(ctx, b.dir, "run", "--config", b.mail.sim.ConfigFile)
	if err != nil {
		return err
	}
	if err := b.await(ctx, "the service is not ready", func(gauges) bool { return true }); err != nil {
		return errors.Join(err, b.service.stop())
	}
	return nil
}

// await waits until the service tells what is wanted.
func (b *benchmark) await(ctx context.Context, what string, wanted func(g gauges) bool) error {
	var last error
	for began := time.Now(); time.Since(began) < benchWait && b.service.running(); {
		var g gauges
		g, last = b.api.metrics(ctx)
		if last == nil && wanted(g) {
			return nil
		}
		if !pause.For(ctx, look) {
			return ctx.Err()
		}
	}
	return errors.Join(errors.New(what), last, b.service.why())
}

func (b *benchmark) awaitListening(ctx context.Context) error {
	return b.await(ctx, "not every mailbox is listened to", func(g gauges) bool { return int(g["mailbell_mailboxes listening"]) == b.Mailboxes })
}

// enrol enrols all devices.
func (b *benchmark) enrol(ctx context.Context) error {
	b.say("enrolling the devices of %s", quantity.Of(b.Mailboxes, "mailbox", "mailboxes"))
	began := time.Now()
	g, all := errgroup.WithContext(ctx)
	g.SetLimit(portalClients)
	for id, address := range b.mail.devices() {
		b.Devices++
		g.Go(func() error {
			return b.api.call(all, http.MethodPut, "/v1/devices/"+id, enrolmentOf(id, address), &api.Device{})
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	b.EnrolmentsPerSecond = rounded(float64(b.Devices) / time.Since(began).Seconds())
	if err := b.awaitListening(ctx); err != nil {
		return err
	}
	b.ListeningSeconds = rounded(time.Since(began).Seconds())
	return nil
}

// restart measures a start with everything known.
func (b *benchmark) restart(ctx context.Context) error {
	b.say("restarting")
	if err := b.service.stop(); err != nil {
		return err
	}
	began := time.Now()
	if err := b.start(ctx); err != nil {
		return err
	}
	if err := b.awaitListening(ctx); err != nil {
		return err
	}
	b.RestartSeconds = rounded(time.Since(began).Seconds())
	return nil
}

// idle measures what listening costs while no mail comes.
func (b *benchmark) idle(ctx context.Context) error {
	if !pause.For(ctx, settle) {
		return ctx.Err()
	}
	cpu, began, err := b.cpu(ctx)
	if err != nil {
		return err
	}
	if !pause.For(ctx, 2*settle) {
		return ctx.Err()
	}
	used, ended, err := b.cpu(ctx)
	if err != nil {
		return err
	}
	b.IdleCPU = rounded(1000 * (used - cpu) / ended.Sub(began).Seconds())
	b.MemorySteady, err = b.memory(ctx)
	return err
}

// latency delivers messages at a rate.
func (b *benchmark) latency(ctx context.Context) error {
	b.say("delivering %g messages a second for %v", b.rate, b.duration)
	before := b.mail.total()
	cpu, began, err := b.cpu(ctx)
	if err != nil {
		return err
	}
	every := time.NewTicker(time.Duration(float64(time.Second) / b.rate))
	defer every.Stop()
	n := max(1, int(b.rate*b.duration.Seconds()))
	for range n {
		select {
		case <-every.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := b.deliverNext(); err != nil {
			return err
		}
	}
	b.Rate = rounded(float64(n) / time.Since(began).Seconds())
	b.mail.await(ctx, alertWait)
	used, _, err := b.cpu(ctx)
	b.CPUAtRate = rounded(1e6 * (used - cpu) / float64(n))
	took := b.mail.latenciesAfter(before.Alerts)
	b.P50, b.P99 = rounded(percentile(took, 50)), rounded(percentile(took, 99))
	return err
}

// burst delivers a message to every mailbox at once.
func (b *benchmark) burst(ctx context.Context) error {
	b.say("delivering a message to every mailbox at once, %d times", bursts)
	for range bursts {
		cpu, began, err := b.cpu(ctx)
		if err != nil {
			return err
		}
		for range b.Mailboxes {
			if err := b.deliverNext(); err != nil {
				return err
			}
		}
		b.mail.await(ctx, benchWait)
		drained := time.Since(began)
		if !pause.For(ctx, settle) { // the last writes
			return ctx.Err()
		}
		used, _, err := b.cpu(ctx)
		if err != nil {
			return err
		}
		b.BurstRate = rounded(float64(b.Mailboxes) / drained.Seconds())
		b.CPUAtBurst = rounded(1e6 * (used - cpu) / float64(b.Mailboxes))
	}
	var err error
	b.MemoryAfter, err = b.memory(ctx)
	return err
}

func (b *benchmark) deliverNext() error {
	b.next++
	return b.mail.deliver(b.next - 1)
}

// cpu is how many seconds of CPU the service has used until now.
func (b *benchmark) cpu(ctx context.Context) (seconds float64, at time.Time, err error) {
	g, err := b.api.metrics(ctx)
	return g["process_cpu_seconds_total"], time.Now(), err
}

// memory is what the service has in memory, in MiB.
func (b *benchmark) memory(ctx context.Context) (float64, error) {
	g, err := b.api.metrics(ctx)
	return rounded(g["process_resident_memory_bytes"] / (1 << 20)), err
}

// rounded is a figure without the digits that mean nothing.
func rounded(x float64) float64 { return math.Round(x*100) / 100 }

func (b *benchmark) print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	row := func(what, format string, a ...any) { fmt.Fprintf(w, "%s\t%s\n", what, fmt.Sprintf(format, a...)) }
	row("mailbell", "%s, %d CPUs, state %s", b.Version, b.CPUs, b.State)
	row("mailboxes, devices", "%d, %d", b.Mailboxes, b.Devices)
	row("enrolments", "%.0f a second by %d connections", b.EnrolmentsPerSecond, portalClients)
	row("all listened to", "%.1f s after the first enrolment; %.1f s after a restart", b.ListeningSeconds, b.RestartSeconds)
	row("latency", "p50 %.1f ms, p99 %.1f ms at %.0f messages a second", b.P50, b.P99, b.Rate)
	row("CPU", "%.0f us a message at that rate, %.0f us in a burst; %.1f ms a second while no mail comes", b.CPUAtRate, b.CPUAtBurst, b.IdleCPU)
	row("a burst", "%.0f messages a second", b.BurstRate)
	row("memory", "%.0f MiB, %.0f MiB after the bursts", b.MemorySteady, b.MemoryAfter)
	row("messages, alerts", "%d, %d; lost %d, twice %d, sent again %d", b.Messages, b.Alerts, b.Lost, b.Duplicates, b.Resent)
	return w.Flush()
}
