// Package check tries everything that the service needs, and says what is wrong and what to do about it.
//
//   - way.go: all steps of an alert, for the command line and the API
//   - check.go: everything else that an installation (installation.go) needs, one check after the other; hosts.go: its hosts and their clocks;
//     accounts.go: its listener accounts; graph.go: what Microsoft Graph lets it read
//   - breakages.go: the one table of what goes wrong in practice, how it shows, and what to do about it; advice.go looks up in it
//   - plan.go: what a number of mailboxes needs, and how to set up Exchange for it
package check

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/mailbell/mailbell/auth"
	"github.com/mailbell/mailbell/internal/expiry"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/internal/permissions"
	"github.com/mailbell/mailbell/internal/quantity"
)

// State is the result of a check.
type State string

// The states.
const (
	OK      State = "ok"
	Warning State = "warning" // it works, and somebody should look at it
	Failed  State = "failed"
	Skipped State = "skipped" // not tried, and why
)

// Result is what one check found: one line.
type Result struct {
	Name   string // "exchange headquarters: TLS"
	Step   string // of an alert, or the name of a check, where it has one
	State  State
	Took   time.Duration // 0: there was no wait
	Tried  string        // what was tried
	Found  string        // what is worth knowing where all is well: where a mailbox is
	Error  string        // what came back; for a check that was skipped, why; empty where all is well
	Advice string        // what to do about it
}

const (
	// checkTimeout bounds one check: longer than a connection and an answer take, short enough for a person who waits.
	checkTimeout = 30 * time.Second
	// MaxSkew is how far a server's clock may differ from ours. Above it Kerberos refuses tickets in Exchange's own domain, and Entra ID refuses
	// signed requests.
	MaxSkew = 5 * time.Minute
	// stranger is the address for which Autodiscover is asked if no mailbox is given: it is enough if Autodiscover answers that it is unknown.
	stranger = "mailbell-check"
)

// CodeAudit is the fault.Error.Code of an audit log that cannot be written to its file.
const CodeAudit = "audit_not_written"

// CodeConfiguration is the fault.Error.Code of a changed configuration with mistakes.
const CodeConfiguration = "configuration_invalid"

// CodeRestart is the fault.Error.Code of a changed configuration that waits for a restart.
const CodeRestart = "restart_needed"

// codeClock is the code for a clock that is wrong.
const codeClock = "clock"

// Run tries everything, also for a mailbox and a device if they are given, and reports each result as it comes. It returns whether nothing
// failed.
func (in Installation) Run(ctx context.Context, mailbox, device string, tell func(Result)) bool {
	r := &runner{Installation: in, tellAll: tell, advised: map[string]string{}, mailbox: mailbox, signedIn: map[string]firstSignIn{}}
	if in.Config != "" {
		r.configuration()
	}
	if in.Proxy != "" {
		r.reachProxy(ctx)
	}
	for _, e := range in.Entries {
		r.reach(ctx, "exchange "+e.Name, e)
	}
	r.clocks()
	for _, e := range in.Entries {
		r.guess(ctx, e)
	}
	if mailbox != "" {
		r.locate(ctx)
	}
	for _, e := range in.Entries {
		r.entry(ctx, e)
		r.beyond(ctx, "exchange "+e.Name, e)
	}
	r.notBeyond()
	r.callbacks(ctx)
	r.state()
	r.ports(ctx)
	for _, t := range in.Topics {
		r.topic(ctx, t)
	}
	for _, w := range in.Webhooks {
		r.try(ctx, "webhook "+w.Name, "posting the event "+w.Event+" to its url", Circumstances{Step: StepWebhook}, w.Try)
	}
	r.expiries()
	if device != "" {
		r.testDevice(ctx, device)
	}
	return !r.failed
}

// runner is one run.
type runner struct {
	Installation
	tellAll  func(Result)
	failed   bool
	advised  map[string]string // the name of the result that gave an advice first
	mailbox  string
	at       Route // of the mailbox; without an account: not found, or no mailbox is given
	skews    []skew
	signedIn map[string]firstSignIn // by "entry/account"
}

// doubt is an error for a warning: the thing works, and somebody should look at it.
type doubt struct{ error }

func (d doubt) Unwrap() error { return d.error }

// omitted says why something was not tried.
type omitted string

func (o omitted) Error() string { return string(o) }

// try makes one check, and reports its result.
func (r *runner) try(ctx context.Context, name, tried string, c Circumstances, check func(context.Context) error) bool {
	return r.find(ctx, name, tried, c, func(ctx context.Context) (string, error) { return "", check(ctx) })
}

// find makes one check that also reports what it found if all is well.
func (r *runner) find(ctx context.Context, name, tried string, c Circumstances, check func(context.Context) (found string, err error)) bool {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	began := time.Now()
	found, err := check(ctx)
	return r.complete(Result{Name: name, Took: time.Since(began), Tried: tried, Found: found}, c, err)
}

// tell reports a result, and returns whether it is good.
func (r *runner) tell(name, tried string, took time.Duration, c Circumstances, err error) bool {
	return r.complete(Result{Name: name, Took: took, Tried: tried}, c, err)
}

// complete completes a result by its error, and reports it.
func (r *runner) complete(result Result, c Circumstances, err error) bool {
	result.State, result.Step = OK, c.Step
	if err != nil {
		result.State, result.Error, result.Advice = Failed, err.Error(), Advise(err, c).Do
		if _, ok := errors.AsType[doubt](err); ok {
			result.State = Warning
		}
		if fault.Of(err).Code == auth.CodeHeld { // the refusal before it is told
			err = omitted(err.Error())
		}
		if why, ok := errors.AsType[omitted](err); ok {
			result.State, result.Error, result.Advice = Skipped, "", string(why)
		}
	}
	r.say(result)
	return result.State == OK || result.State == Warning
}

// say reports a result. It does not repeat an advice that was given before.
func (r *runner) say(result Result) {
	r.failed = r.failed || result.State == Failed
	if first, given := r.advised[result.Advice]; given {
		result.Advice = "As above: " + first + "."
	} else if result.Advice != "" {
		r.advised[result.Advice] = result.Name
	}
	r.tellAll(result)
}

// configuration reports the warnings of the configuration, and checks its files.
func (r *runner) configuration() {
	r.tell("configuration", "reading "+r.Config, 0, Circumstances{}, nil)
	for _, d := range r.Doubts {
		r.say(Result{Name: "configuration", State: Warning, Tried: "reading " + r.Config, Error: d, Advice: "Look at the key that is named."})
	}
	wrong := false
	for _, f := range r.Files {
		began := time.Now()
		if err := readable(f); err != nil {
			wrong = true
			r.say(Result{Name: "file " + f.Key, State: Failed, Took: time.Since(began), Tried: "reading " + f.Path, Error: err.Error(),
				Advice: "Have the file readable for the user that mailbell runs as."})
		}
		for _, d := range permissions.File(f.Path, f.Secret) {
			wrong = true
			r.say(Result{Name: "file " + f.Key, State: Warning, Tried: "looking at the permissions of " + f.Path, Error: d.Text, Advice: d.Advice})
		}
	}
	if !wrong {
		r.tell("files", "reading the "+quantity.Of(len(r.Files), "file", "files")+" that the configuration names", 0, Circumstances{}, nil)
	}
}

// readable reports why a file cannot be read.
func readable(f File) error {
	file, err := os.Open(f.Path)
	if err != nil {
		return err
	}
	defer file.Close()
	i, err := file.Stat()
	switch {
	case err != nil:
		return err
	case i.IsDir():
		return errors.New("it is a folder")
	}
	return nil
}

// locate finds the mailbox.
func (r *runner) locate(ctx context.Context) {
	r.find(ctx, "mailbox "+r.mailbox+": location", tries[StepLocation], Circumstances{Step: StepLocation}, func(ctx context.Context) (string, error) {
		var err error
		r.at, err = r.Way.Locate(ctx, r.mailbox, "")
		if err != nil {
			return "", err
		}
		p := r.at.Location
		found := fmt.Sprintf("it is in the exchange entry %s, at %s, by %s", p.Entry, p.URL, p.How)
		if p.Server != "" {
			found += "; its server is " + p.Server
		}
		if p.Primary != "" && !strings.EqualFold(p.Primary, r.mailbox) {
			found += "; its primary address is " + p.Primary
		}
		return found, nil
	})
}

// CodeElsewhere is the fault.Error.Code of a public_url that leads to something else.
const CodeElsewhere = "not mailbell"

// stepCallbacks is the check of public_url.
const stepCallbacks = "callbacks"

// callbacks calls public_url from here. That it fails is no proof: another way may lead there from the Exchange servers.
func (r *runner) callbacks(ctx context.Context) {
	if r.Callbacks == nil {
		return
	}
	r.try(ctx, "callbacks", "calling "+r.Callbacks.URL+"… from this machine", Circumstances{Step: stepCallbacks}, func(ctx context.Context) error {
		if r.Callbacks.Reach == nil {
			return omitted(r.Callbacks.Not)
		}
		if err := r.Callbacks.Reach(ctx); err != nil {
			return doubt{err}
		}
		return nil
	})
}

// ports tries the addresses that mailbell listens on, where no mailbell has them.
func (r *runner) ports(ctx context.Context) {
	if r.Running != nil {
		return
	}
	var held []net.Listener // until all are tried: one may be in the way of another
	for _, a := range r.Listen {
		r.try(ctx, a.Key, "listening on "+a.Host, Circumstances{Step: StepListen}, func(ctx context.Context) error {
			if r.Callbacks != nil && r.Callbacks.At == a.Host {
				return nil
			}
			l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", a.Host)
			if err == nil {
				held = append(held, l)
			}
			return err
		})
	}
	for _, l := range held {
		l.Close()
	}
}

// state tells whether the state can be had, here or by the mailbell that runs, and what is wrong with that one. The state may be open to both.
func (r *runner) state() {
	c := Circumstances{Step: StepState}
	if r.State != nil {
		found := ""
		if r.Running != nil && r.Running.Standby != "" {
			found = "the mailbell that runs at " + r.Running.At + " does not hold it: " + r.Running.Standby
		}
		r.complete(Result{Name: "state", Took: r.State.Took, Tried: "opening the state store", Found: found}, c, r.State.Err)
	}
	if r.Running == nil {
		return
	}
	tried := "asking the mailbell that runs at " + r.Running.At
	if r.State == nil {
		r.complete(Result{Name: "state", Tried: tried, Found: "it is held by the mailbell that runs at " + r.Running.At}, c, nil)
	}
	for _, wrong := range r.Running.Conditions {
		r.say(wrong.result(tried))
	}
}

// topic asks APNs whether it accepts the credential of a topic.
func (r *runner) topic(ctx context.Context, t Topic) {
	name := "apns " + t.Topic + " " + t.Environment
	if t.Host != "" && !r.lookUp(ctx, name, t.Host, fault.APNs, t.Outbound) {
		return
	}
	r.try(ctx, name, "showing APNs the credential", Circumstances{Step: StepAPNs}, func(ctx context.Context) error { return r.APNs.Probe(ctx, t.Topic, t.Environment) })
}

// expiries reports what expires soon, or has expired.
func (r *runner) expiries() {
	if r.Expiry == nil {
		return
	}
	list, now := r.Expiry(), time.Now()
	soon := false
	for _, e := range list {
		left := e.At.Sub(now)
		if left > expiry.Soon {
			continue
		}
		soon = true
		result := Result{Name: "expiry " + e.Kind + " " + e.Name, State: Warning, Tried: "checking what expires",
			Error: "expires on " + e.At.UTC().Format(time.DateOnly), Advice: expiry.Advice}
		if left <= 0 {
			result.State, result.Error, result.Advice = Failed, "expired on "+e.At.UTC().Format(time.DateOnly), "Renew it."
		}
		r.say(result)
	}
	if !soon {
		first := "nothing that expires is known"
		if len(list) > 0 {
			which := "what expires"
			if len(list) > 1 {
				which = fmt.Sprintf("the first of %d to expire", len(list))
			}
			first = fmt.Sprintf("%s is %s %s, on %s", which, list[0].Kind, list[0].Name, list[0].At.UTC().Format(time.DateOnly))
		}
		r.complete(Result{Name: "expiry", Tried: "checking what expires", Found: first}, Circumstances{}, nil)
	}
}

// testDevice tries all steps to a test alert, or has the mailbell that runs do it.
func (r *runner) testDevice(ctx context.Context, device string) {
	name, by := "device "+device, ""
	var report Report
	switch {
	case r.Running != nil:
		by = ", by the mailbell that runs at " + r.Running.At
		began := time.Now()
		tested, err := r.Running.Test(ctx, device)
		if err != nil {
			r.tell(name, "a test notification"+by, time.Since(began), Circumstances{}, err)
			return
		}
		report = tested
	case r.NoEnrolments != nil:
		r.tell(name+": "+StepEnrolment, tries[StepEnrolment], 0, Circumstances{Step: StepState}, r.NoEnrolments)
		return
	default:
		report = r.Way.Walk(ctx, device)
	}
	for _, s := range report.Steps {
		took := max(time.Duration(s.MS)*time.Millisecond, time.Nanosecond) // 0 is less than a millisecond
		result := Result{Name: name + ": " + s.Name, State: OK, Took: took, Tried: tries[s.Name] + by, Error: s.Error, Advice: s.Advice}
		if !s.OK {
			result.State = Failed
		}
		r.say(result)
	}
}

// tries says what each step does.
var tries = map[string]string{
	StepEnrolment: "looking the device up", StepLocation: "locating the mailbox", StepCredential: "getting what signing in needs",
	StepSignIn: "signing in", StepImpersonation: "opening the Inbox as the mailbox", StepSubscription: "subscribing to new mail",
	StepStream:   "opening a stream and waiting for its first envelope",
	StepCallback: "waiting for the first callback",
	StepRead:     "listing one message and reading it", StepDecide: "making the alert", StepAPNs: "sending it to APNs",
}
