package push

// This file is one APNs host with one credential, and whether anything can be sent through it.
//
// While it answers, notifications go through. When it does not, those under way are held and tried again (delivery.go), for seconds, and
// a probe asks: what fails may be about one phone alone. When nothing was answered for some seconds, or it refuses the credential, it is
// shut: what comes then is turned away at once, so that a day without APNs costs no memory, and the probe goes on asking. It opens with
// the first answer, and says so.

import (
	"context"
	"errors"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mailbell/mailbell/internal/backoff"
	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/internal/outcome"
	"github.com/mailbell/mailbell/subscriptions"
	"go.uber.org/zap"
)

const (
	// awayAfter is how long nothing may be answered before further notifications are turned away.
	awayAfter = 5 * time.Second
	// doubtAfter is how long nothing may be answered before a probe asks: in time for its answer to keep the others' way open.
	doubtAfter = awayAfter / 2
	// outage is the least time without an answer after which the next answer wakes all that is held. What fails now and then,
	// while others go through, keeps its own pace: seconds, for a quiet installation has few others.
	outage = 2 * time.Second
	// probeRefused is the pause between probes of a credential that was refused: it takes a person to mend it.
	probeRefused = time.Minute
)

// probing is the pause between probes of an APNs that answers with faults; where it cannot be reached at all, the back-off of the
// connections sets the pace.
var probing = backoff.Policy{First: time.Second, Max: time.Minute}

// probeToken names no device: every token has 64 digits or more. APNs looks at the credential first and then refuses this one,
// which tells all that a probe wants to know and shows up nowhere.
const probeToken = "00"

// app is a topic in an environment, as phones are enrolled for it.
type app struct{ topic, environment string }

func appOf(p subscriptions.Phone) app { return app{p.Topic, p.Environment} }

// elsewhere is the same topic in the other environment.
func (a app) elsewhere() app {
	if a.environment == production {
		return app{a.topic, sandbox}
	}
	return app{a.topic, production}
}

// gateway is one APNs host with one credential.
type gateway struct {
	url     *url.URL
	access  atomic.Pointer[access] // by which notifications go out
	apps    []app
	ready   Readiness
	log     *zap.Logger
	metrics *metrics
	guard   guard
	life    context.Context             // of the sender
	run     func(func(context.Context)) // runs a goroutine that the sender owns

	mu          sync.Mutex
	offered     *access        // a new one that has to prove itself; nil: none
	refused     *fault.Error   // why it does not work; nil: that is not known
	under       int            // notifications that were let in and are under way
	failing     time.Time      // since when nothing was answered, while something was tried; zero: it answers
	excused     bool           // since then a probe was answered, so what failed before that is about its phone
	probed      bool           // a probe asks
	last        *fault.Error   // what came back last that was no answer of an APNs that works; nil: nothing
	unreachable bool           // there is no connection: the last dial failed, or its connection ended before anything was answered on it
	shut        outcome.Reason // why nothing is let in, TopicAway or Credentials; empty: open
	recovered   chan struct{}  // closed when it answers again
	toldForeign time.Time      // when the log was last told of an answer that was not of APNs
}

// enter lets a notification in, or says why not. One that was let in calls leave.
func (g *gateway) enter() (shut outcome.Reason) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shutIfAwayLocked()
	if g.shut == "" {
		g.under++
	}
	return g.shut
}

func (g *gateway) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.under--
	if g.under == 0 && g.shut == "" && !g.unreachable {
		g.failing = time.Time{} // nobody tries any more, so there is no telling whether it is away still: the next one finds out
	}
}

// failed notes that an attempt came to nothing.
func (g *gateway) failed(r response) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.cameBackLocked(r.fault())
	g.failsLocked()
	g.askLocked()
}

// failsLocked notes that nothing is answered from now on, unless that was noted before.
func (g *gateway) failsLocked() {
	if g.failing.IsZero() || g.excused {
		g.failing, g.excused = time.Now(), false
	}
}

// cameBackLocked notes what came back instead of an answer that shows that APNs does its work.
func (g *gateway) cameBackLocked(err error) {
	if f, ok := errors.AsType[*fault.Error](err); ok {
		g.last = f
	}
}

// shutIfAway shuts a gateway that has not answered for long enough, and returns why it is shut, if it is.
func (g *gateway) shutIfAway() (shut outcome.Reason) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shutIfAwayLocked()
	return g.shut
}

func (g *gateway) shutIfAwayLocked() {
	if g.isAwayLocked() {
		var more []zap.Field
		if g.last != nil {
			more = append(more, zap.NamedError("answer", g.last))
		}
		g.shutLocked(outcome.TopicAway, outcome.TopicAway.Sentence(), more...)
	}
}

// isAwayLocked says whether nothing was answered for long enough, not even a probe.
func (g *gateway) isAwayLocked() bool {
	return !g.failing.IsZero() && !g.excused && time.Since(g.failing) > awayAfter
}

// foreignAgain is how often the log is told of answers that are not of APNs.
const foreignAgain = time.Minute

// tellForeign tells the log that something else answers. Others may get through all the while, so nothing else would tell.
func (g *gateway) tellForeign(r response) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if now := time.Now(); now.Sub(g.toldForeign) >= foreignAgain {
		g.toldForeign = now
		g.log.Warn("something answers in the place of APNs", zap.Int("status", r.status), zap.Error(r.fault()))
	}
}

// credentialRefused shuts the gateway because its credential was refused. It reports whether it did: what was refused may have been
// replaced meanwhile.
func (g *gateway) credentialRefused(refused response) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !refused.access.serves() {
		return false
	}
	g.cameBackLocked(refused.fault())
	g.shutLocked(outcome.Credentials, refused.why().Sentence(), zap.Int("status", refused.status), zap.String("answer", string(refused.why())))
	return true
}

// offer gives a new credential the chance to prove itself. One that was offered before, and has not proved itself yet, is forgotten.
func (g *gateway) offer(a *access) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.offered != nil {
		g.offered.stop()
	}
	g.offered, g.refused = a, nil
	if a != nil {
		a.start()
		g.run(func(context.Context) { a.prove() })
	}
}

// take has notifications go out by a credential that has worked, unless another was offered meanwhile, and reports whether they do.
func (g *gateway) take(a *access) (taken bool) {
	g.mu.Lock()
	if g.offered != a {
		g.mu.Unlock()
		return false
	}
	old := g.access.Swap(a)
	g.offered, g.refused, g.unreachable = nil, nil, false
	g.mu.Unlock()
	old.leave()
	g.log.Info("alerts go out with a new credential", a.credential.name())
	g.worked(true)
	return true
}

// offerFailed notes why a credential that was offered does not work.
func (g *gateway) offerFailed(a *access, why error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.offered == a {
		g.refused = fault.Of(why)
	}
}

func (g *gateway) notTakenUp() *fault.Error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.refused
}

func (g *gateway) shutLocked(reason outcome.Reason, because string, more ...zap.Field) {
	if g.shut == reason || g.shut != "" && reason == outcome.TopicAway {
		return // whoever refuses the credential is not away
	}
	g.shut = reason
	fields := []zap.Field{g.access.Load().credential.name(), zap.String("reason", string(reason)), zap.String("because", because)}
	g.log.Error("nothing can be sent", append(fields, more...)...)
	g.askLocked()
}

// worked notes an answer that shows that APNs does its work. hadFailed: it is about a notification that had failed before. Where a probe
// was answered since the failures began, only such an answer wakes what is held: what that waits for may be about its phones.
func (g *gateway) worked(hadFailed bool) {
	g.mu.Lock()
	if g.failing.IsZero() && g.shut == "" {
		g.mu.Unlock()
		return
	}
	opened := g.shut != ""
	if opened || time.Since(g.failing) >= outage && (hadFailed || !g.excused) {
		close(g.recovered)
		g.recovered = make(chan struct{})
	}
	g.failing, g.excused, g.shut, g.last = time.Time{}, false, "", nil
	g.mu.Unlock()
	if opened {
		g.log.Info("alerts are sent again")
		for _, a := range g.apps {
			g.ready.TopicReady(a.topic, a.environment)
		}
	}
}

// state returns why the gateway is shut, and what is closed when it answers again.
func (g *gateway) state() (shut outcome.Reason, recovered <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.shut, g.recovered
}

// admitted is asked directly before a notification goes out: none is sent with a credential that was refused.
func (g *gateway) admitted() error {
	shut, _ := g.state()
	if shut == outcome.Credentials {
		return errShut
	}
	return nil
}

var errShut = errors.New("the credential is refused")

func always() error { return nil }

// askLocked has a probe ask, unless one does.
func (g *gateway) askLocked() {
	if !g.probed {
		g.probed = true
		g.run(g.probe)
	}
}

// keepsAsking says whether the probe has to ask yet; else it ends.
func (g *gateway) keepsAsking() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.probed = g.shut != "" || !g.failing.IsZero() && !g.excused
	return g.probed
}

// probe asks until APNs answers. Where the gateway is not shut it begins after a while, in which another answer may make it needless.
func (g *gateway) probe(ctx context.Context) {
	for failures := 0; ; failures++ {
		shut, recovered := g.state()
		select {
		case <-time.After(probeAfter(failures, shut)):
		case <-recovered:
		case <-ctx.Done():
			return
		}
		if !g.keepsAsking() {
			return
		}
		r := g.attempt(ctx, time.Time{}, probeOf(g.apps[0].topic), always)
		g.noteProbe(r)
		if r.isUnanswered() {
			continue
		}
		does := r.rule().reaction
		switch {
		case does.works():
			g.probeWorked()
			return
		case does == hold:
			g.credentialRefused(r)
		case does == renew:
			r.access.credential.renew(r.bearer)
		case does == keepToken:
			r.access.credential.keep()
		}
	}
}

// probeWorked notes that a probe was answered. What is held is woken only where the gateway was shut: what failed by itself keeps its own
// pace.
func (g *gateway) probeWorked() {
	g.mu.Lock()
	isShut := g.shut != ""
	g.excused, g.probed = !isShut, false
	g.mu.Unlock()
	if isShut {
		g.worked(false)
	}
}

// noteProbe notes what came back for a probe.
func (g *gateway) noteProbe(r response) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if r.refusal() != nil {
		g.cameBackLocked(r.fault())
	}
}

// probeAfter is the pause before a probe.
func probeAfter(failures int, shut outcome.Reason) time.Duration {
	if shut == outcome.Credentials {
		return backoff.Jitter(probeRefused)
	}
	if shut == "" && failures == 0 {
		return doubtAfter
	}
	return probing.Wait(failures, 0)
}

// reached notes that there is a connection.
func (g *gateway) reached() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.unreachable = false
	if g.under == 0 && g.shut == "" {
		g.failing = time.Time{}
	}
}

// cutOff notes that there is no connection, or none that answers. With a certificate that has expired there will be none: that shuts the
// gateway.
func (g *gateway) cutOff(c *credential, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.cameBackLocked(err)
	g.unreachable = true
	if expired := c.expires(); !expired.IsZero() && expired.Before(time.Now()) {
		g.shutLocked(outcome.Credentials, "The certificate has expired.", zap.Time("expired", expired.UTC()))
	}
	g.failsLocked()
}
